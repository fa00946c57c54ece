"""What kind of address an IP address is: who can reach it, and from where."""

import ipaddress
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Literal

Family = Literal[4, 6]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(Enum):
    """Scope of an address, by the IANA special-purpose registries (RFC 6890)."""

    PUBLIC = "public"
    PRIVATE = "private"  # RFC 1918, RFC 4193
    CGNAT = "cgnat"  # RFC 6598: between a carrier's NAT and its customers
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"  # RFC 3927, RFC 4291
    DOCUMENTATION = "documentation"  # RFC 5737, RFC 3849, RFC 9637
    BENCHMARK = "benchmark"  # RFC 2544, RFC 5180
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"  # 0.0.0.0 and ::, in SDP a form of hold (RFC 6337 s.5.3)
    RESERVED = "reserved"  # everything else that no host has, such as 240.0.0.0/4


_KINDS = tuple(
    (ipaddress.ip_network(prefix), kind)
    for prefix, kind in (
        ("0.0.0.0/32", Kind.UNSPECIFIED),
        ("0.0.0.0/8", Kind.RESERVED),
        ("10.0.0.0/8", Kind.PRIVATE),
        ("100.64.0.0/10", Kind.CGNAT),
        ("127.0.0.0/8", Kind.LOOPBACK),
        ("169.254.0.0/16", Kind.LINK_LOCAL),
        ("172.16.0.0/12", Kind.PRIVATE),
        ("192.0.2.0/24", Kind.DOCUMENTATION),
        ("192.168.0.0/16", Kind.PRIVATE),
        ("198.18.0.0/15", Kind.BENCHMARK),
        ("198.51.100.0/24", Kind.DOCUMENTATION),
        ("203.0.113.0/24", Kind.DOCUMENTATION),
        ("224.0.0.0/4", Kind.MULTICAST),
        ("240.0.0.0/4", Kind.RESERVED),
        ("::/128", Kind.UNSPECIFIED),
        ("::1/128", Kind.LOOPBACK),
        ("2001:2::/48", Kind.BENCHMARK),
        ("2001:db8::/32", Kind.DOCUMENTATION),
        ("3fff::/20", Kind.DOCUMENTATION),
        ("fc00::/7", Kind.PRIVATE),
        ("fe80::/10", Kind.LINK_LOCAL),
        ("fec0::/10", Kind.RESERVED),
        ("ff00::/8", Kind.MULTICAST),
    )
)
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")


def parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` is, without a zone, or None for a name; IPv4 in IPv6 (RFC 4291 s.2.5.5.2) is IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address in _MAPPED:
        return address.ipv4_mapped
    return address


def classify(text: str) -> Kind | None:
    """The kind of the address in `text`, None when it is no address but a name or nonsense."""
    address = parse(text)
    if address is None:
        return None
    for prefix, kind in _KINDS:
        if address in prefix:
            return kind
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return Kind.RESERVED
    return Kind.PUBLIC


def family(text: str) -> Family | None:
    """4 or 6 for an address, None for a name."""
    address = parse(text)
    if address is None:
        return None
    return 4 if address.version == 4 else 6


def is_behind_nat(text: str) -> bool:
    """Whether a peer that writes this address in SIP or SDP cannot be reached at it from another network."""
    return classify(text) in {Kind.PRIVATE, Kind.CGNAT, Kind.LINK_LOCAL, Kind.LOOPBACK}


def is_usable(text: str) -> bool:
    """Whether packets can be sent to the address as to one host."""
    return classify(text) not in {None, Kind.MULTICAST, Kind.UNSPECIFIED, Kind.RESERVED}


def is_credible(text: str, source: str) -> bool:
    """Whether who sends from `source` may ask for packets to be sent to the address in `text`.

    Not to where no single host is, and not to an address that means another machine here than it does there:
    loopback or link-local of our own, or a private network that `source` is not in. A name is none of these.
    """
    kind = classify(text)
    if kind in {Kind.LOOPBACK, Kind.LINK_LOCAL}:
        return classify(source) is kind
    if kind in {Kind.PRIVATE, Kind.CGNAT}:
        return is_behind_nat(source)
    return is_usable(text)


def may_be_peer(text: str, own: Collection[str] = (), refused: Sequence[Network] = ()) -> bool:
    """Whether who is not trusted may have a relay send to the address in `text`: in a permission or a candidate.

    A relay stands where its users do not: it reaches itself, its neighbours and networks behind it. So neither 0.0.0.0
    and ::, which a host takes for itself (CVE-2020-26262), nor loopback, link-local or what no single host has, nor
    any of `own`, however it is written, nor what lies in `refused`. An IPv4 address inside an IPv6 one counts too.
    """
    address = parse(text)
    if address is None:
        return False
    inner = _inside(address)
    if inner is not None and not may_be_peer(str(inner), own, refused):
        return False
    plain = str(address)
    if not is_usable(plain) or classify(plain) in {Kind.LOOPBACK, Kind.LINK_LOCAL}:
        return False
    return not any(address in prefix for prefix in refused) and not any(same(plain, one) for one in own)


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 host that an IPv6 address leads to by 6to4 (RFC 3056) or Teredo (RFC 4380)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    teredo = address.teredo
    return address.sixtofour if teredo is None else teredo[1]


def subscriber(text: str) -> str:
    """What limits for one peer count by: an IPv6 subscriber has a whole /64 to send from (RFC 6177)."""
    if ":" not in text:
        return text
    address = parse(text)
    if isinstance(address, ipaddress.IPv6Address):
        return f"{int(address) >> 64:x}::/64"
    return text if address is None else str(address)


def same(one: str, other: str) -> bool:
    """Whether two texts are the same address, however they are written."""
    address = parse(one)
    return address is not None and address == parse(other)
