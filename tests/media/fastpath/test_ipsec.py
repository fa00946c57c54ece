"""Which packets an IPsec policy holds for (struct xfrm_userpolicy_info of linux/xfrm.h)."""

import ipaddress
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.fastpath.ipsec import IN, OUT, Policy, holds, policies
from media.fastpath.netlink import attribute

US, PEER = ("203.0.113.1", 20000), ("203.0.113.21", 4000)
US6, PEER6 = ("2001:db8:a::1", 20000), ("2001:db8:a::21", 4000)
FORWARD = 2
ALLOW, BLOCK = 0, 1
TEMPLATE = attribute(5, bytes(64))


def told(
    source: str,
    target: str,
    *,
    direction: int = OUT,
    action: int = ALLOW,
    more: bytes = TEMPLATE,
    protocol: int = 0,
    sport: tuple[int, int] = (0, 0),
    dport: tuple[int, int] = (0, 0),
    priority: int = 0,
    interface: int = 0,
    ends_s: tuple[int, int] = (0, 0),
) -> bytes:
    """A policy as the kernel tells it, with `more` attributes."""
    prefixes = [ipaddress.ip_network(each) for each in (target, source)]
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    selector = b"".join(each.network_address.packed.ljust(16, b"\0") for each in prefixes)
    selector += struct.pack("!HHHH", *dport, *sport)
    lengths = (each.prefixlen for each in prefixes)
    selector += struct.pack("=HBBBxxxii", family, *lengths, protocol, interface, 0)
    # struct xfrm_lifetime_cfg: bytes and packets, for ever; then seconds, soft and hard, since made and since used.
    limits = struct.pack("=8Q", *(2**64 - 1,) * 4, 0, ends_s[0], 0, ends_s[1])
    info = selector + limits + bytes(32) + struct.pack("=IIBBBBxxxx", priority, 8, direction, action, 0, 0)
    return info + more


def one(*where: str, **how: Any) -> tuple[Policy, ...]:
    """What is made of one policy."""
    return policies([told(*where, **how)])


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
        (one("0.0.0.0/0", "0.0.0.0/0", more=b""), False),
        (one("0.0.0.0/0", "0.0.0.0/0", more=b"", action=BLOCK), True),
        (one("0.0.0.0/0", "0.0.0.0/0", direction=FORWARD), False),
        # Of a socket (XFRM_POLICY_MAX and above): for that one alone.
        (one("0.0.0.0/0", "0.0.0.0/0", direction=3), False),
        (one("0.0.0.0/0", "0.0.0.0/0", direction=IN), False),
    ],
)
def test_a_policy_holds_for_what_its_selector_names(policy: tuple[Policy, ...], held: bool) -> None:
    assert holds(policy, OUT, US, PEER) is held


def test_what_comes_in_has_policies_of_its_own() -> None:
    policy = one("203.0.113.21", "203.0.113.1", direction=IN)
    assert holds(policy, IN, PEER, US) and not holds(policy, OUT, PEER, US)


ALL, LAN = ("0.0.0.0/0", "0.0.0.0/0"), ("203.0.113.0/24", "203.0.113.0/24")
MARK, SUB_KIND, MAIN_KIND = attribute(21, bytes(8)), attribute(16, b"\1" + bytes(5)), attribute(16, bytes(6))


@pytest.mark.parametrize(
    ("exempt", "held"),
    [
        ({"priority": 10}, False),
        ({"priority": 10, "more": MAIN_KIND}, False),
        ({"priority": 10, "direction": IN}, True),
        # Which of two with one priority was there first is not told.
        ({"priority": 20}, True),
        ({"priority": 30}, True),
        # For packets of a mark, by an interface, besides the others, or not for ever and without notice of the end.
        ({"priority": 10, "more": MARK}, True),
        ({"priority": 10, "more": attribute(31, bytes(4))}, True),
        ({"priority": 10, "more": attribute(8, bytes(8))}, True),
        ({"priority": 10, "more": SUB_KIND}, True),
        ({"priority": 10, "interface": 2}, True),
        ({"priority": 10, "ends_s": (60, 0)}, True),
        ({"priority": 10, "ends_s": (0, 60)}, True),
    ],
)
def test_the_policy_that_comes_first_may_exempt(exempt: dict[str, Any], held: bool) -> None:
    """As for a tunnel for everything that lets the local network out of it (strongSwan's `passthrough`)."""
    exemption = told(*LAN, **({"more": b""} | exempt))
    for messages in ([told(*ALL, priority=20), exemption], [exemption, told(*ALL, priority=20)]):
        found = policies(messages)
        assert holds(found, OUT, US, PEER) is held
        assert holds(found, OUT, US, ("192.0.2.1", 4000)), "the others are in the tunnel"


def test_what_asks_for_something_is_never_special() -> None:
    for more in (MARK, SUB_KIND):
        assert holds(one(*ALL, more=TEMPLATE + more, interface=2, ends_s=(60, 0)), OUT, US, PEER)


def test_policies_that_exempt_from_nothing_are_not_kept() -> None:
    assert policies([told(*LAN, more=b"", priority=number) for number in range(500)]) == ()
    assert (
        len(policies([told(*ALL, priority=5), *[told(*LAN, more=b"", priority=each) for each in (1, 9)]]))
        == 2
    )


def test_ipv6_likewise() -> None:
    assert holds(one("2001:db8:a::/64", "2001:db8:a::21"), OUT, US6, PEER6)
    assert not holds(one("2001:db8:a::/64", "2001:db8:a::22"), OUT, US6, PEER6)
    assert not holds(one("203.0.113.0/24", "0.0.0.0/0"), OUT, US6, PEER6)


@given(host=st.ip_addresses(v=4), prefix=st.ip_addresses(v=4), bits=st.integers(0, 32), near=st.booleans())
def test_prefixes_are_those_of_the_standard_library(
    host: ipaddress.IPv4Address, prefix: ipaddress.IPv4Address, bits: int, near: bool
) -> None:
    network = ipaddress.ip_network((int(host if near else prefix) >> (32 - bits) << (32 - bits), bits))
    assert holds(one(str(network), "0.0.0.0/0"), OUT, (str(host), 1), PEER) == (host in network)
