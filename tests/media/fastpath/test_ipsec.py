"""Which packets an IPsec policy holds for (struct xfrm_userpolicy_info of linux/xfrm.h)."""

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.fastpath.ipsec import Policy, holds, policies
from media.fastpath.netlink import attribute

US, PEER = ("203.0.113.1", 20000), ("203.0.113.21", 4000)
US6, PEER6 = ("2001:db8:a::1", 20000), ("2001:db8:a::21", 4000)
IN, OUT, FORWARD = 0, 1, 2
ALLOW, BLOCK = 0, 1
TEMPLATE = attribute(5, bytes(64))


def one(
    source: str,
    target: str,
    *,
    direction: int = OUT,
    action: int = ALLOW,
    template: bytes = TEMPLATE,
    protocol: int = 0,
    sport: tuple[int, int] = (0, 0),
    dport: tuple[int, int] = (0, 0),
) -> list[Policy]:
    """What is made of a policy as the kernel tells it."""
    prefixes = [ipaddress.ip_network(each) for each in (target, source)]
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    selector = b"".join(each.network_address.packed.ljust(16, b"\0") for each in prefixes)
    selector += struct.pack("!HHHH", *dport, *sport)
    selector += struct.pack("=HBBBxxxii", family, *(each.prefixlen for each in prefixes), protocol, 0, 0)
    info = selector + bytes(64 + 32) + struct.pack("=IIBBBBxxxx", 0, 8, direction, action, 0, 0)
    return list(policies([info + template]))


@pytest.mark.parametrize(
    ("policy", "held"),
    [
        (one("203.0.113.1", "203.0.113.21"), True),
        (one("203.0.113.0/24", "0.0.0.0/0"), True),
        (one("203.0.113.2", "203.0.113.21"), False),
        (one("203.0.113.1", "203.0.113.128/25"), False),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=17), True),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=6), False),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=17, sport=(20000, 0xFFFF)), True),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=17, sport=(20002, 0xFFFF)), False),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=17, dport=(4000, 0xFFFF)), True),
        (one("0.0.0.0/0", "0.0.0.0/0", protocol=17, dport=(4096, 0xF000)), False),
        (one("::/0", "::/0"), False),
        # What asks for nothing, and what is not for packets of ours.
        (one("0.0.0.0/0", "0.0.0.0/0", template=b""), False),
        (one("0.0.0.0/0", "0.0.0.0/0", template=b"", action=BLOCK), True),
        (one("0.0.0.0/0", "0.0.0.0/0", direction=FORWARD), False),
        # Of a socket (XFRM_POLICY_MAX and above): for that one alone.
        (one("0.0.0.0/0", "0.0.0.0/0", direction=3), False),
        (one("0.0.0.0/0", "0.0.0.0/0", direction=IN), True),
    ],
)
def test_a_policy_holds_for_what_its_selector_names(policy: list[Policy], held: bool) -> None:
    assert holds(policy, US, PEER) is held


def test_ipv6_likewise() -> None:
    assert holds(one("2001:db8:a::/64", "2001:db8:a::21"), US6, PEER6)
    assert not holds(one("2001:db8:a::/64", "2001:db8:a::22"), US6, PEER6)
    assert not holds(one("203.0.113.0/24", "0.0.0.0/0"), US6, PEER6)


@given(host=st.ip_addresses(v=4), prefix=st.ip_addresses(v=4), bits=st.integers(0, 32), near=st.booleans())
def test_prefixes_are_those_of_the_standard_library(
    host: ipaddress.IPv4Address, prefix: ipaddress.IPv4Address, bits: int, near: bool
) -> None:
    network = ipaddress.ip_network((int(host if near else prefix) >> (32 - bits) << (32 - bits), bits))
    assert holds(one(str(network), "0.0.0.0/0"), (str(host), 1), PEER) == (host in network)
