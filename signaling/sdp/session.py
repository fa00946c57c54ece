"""SDP as values (RFC 8866): a session is its lines, verbatim and in order; only m= lines are taken apart.

Everything else is typed on access, by the readers below, since most lines are copied or dropped unread.
"""

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address

from config.frozen import frozen
from signaling.errors import ParseError

# A dotted quad; no leading zeros, which would be octal to some readers.
IPV4 = re.compile(
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}"
)


@frozen
class Media:
    """One m= line (RFC 8866 s.5.14) and the lines below it.

    `count` is the number of ports ("4000/2"), 1 as a rule. `lines` are whole lines without line end
    ("a=ptime:20").
    """

    kind: str
    port: int
    count: int
    proto: str
    formats: tuple[str, ...]
    lines: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """The m= line itself."""
        port = f"{self.port}/{self.count}" if self.count != 1 else str(self.port)
        return f"m={self.kind} {port} {self.proto} {' '.join(self.formats)}"


@frozen
class Session:
    """A session description: the lines before the first m= line, then the media."""

    lines: tuple[str, ...]
    media: tuple[Media, ...] = ()

    @property
    def origin(self) -> "Origin":
        """The o= line."""
        for line in self.lines:
            if line.startswith("o="):
                return parse_origin(line[2:])
        raise ParseError("SDP without o= line", "sdp-no-origin")

    def encode(self) -> bytes:
        """The bytes on the wire; lines end with CRLF (RFC 8866 s.5)."""
        parts = list(self.lines)
        for media in self.media:
            parts.append(media.head)
            parts.extend(media.lines)
        parts.append("")
        return "\r\n".join(parts).encode("utf-8", "surrogateescape")


@frozen
class Origin:
    """An o= line (RFC 8866 s.5.2). The numbers stay text: nothing but their equality counts here."""

    username: str
    session_id: str
    version: str
    nettype: str
    addrtype: str
    address: str


@frozen
class Connection:
    """The address of a c= line (RFC 8866 s.5.7) or of a=rtcp.

    `family` is 4 or 6. `host` is the literal (IPv6 in canonical form) or, with `named`, a domain name.
    `unspecified` is 0.0.0.0 or ::, the hold of RFC 2543. `unicast` is false for addresses that packets of ours
    must never go to: multicast, broadcast, and what carries a TTL.
    """

    family: int
    host: str
    named: bool = False
    unspecified: bool = False
    unicast: bool = True


def first(lines: Sequence[str], letter: str) -> str | None:
    """The value of the first line of this type ("c"), None where there is none."""
    for line in lines:
        if line[0] == letter:
            return line[2:]
    return None


def parse_origin(value: str) -> Origin:
    """An o= value. Some phones put a display name with spaces first, so it is read from the right."""
    parts = value.rsplit(" ", 5)
    if len(parts) != 6:
        raise ParseError("o= line without six fields", "sdp-bad-origin")
    return Origin(*parts)


def parse_connection(value: str) -> Connection:
    """A c= value: "IN IP4 192.0.2.1"."""
    parts = value.split()
    if len(parts) != 3 or parts[0] != "IN" or parts[1] not in ("IP4", "IP6"):
        raise ParseError("c= line that is not IN IP4 or IN IP6", "sdp-bad-connection")
    host, slash, _ = parts[2].partition("/")
    return _connection(host, 6 if parts[1] == "IP6" else 4, bool(slash))


def _connection(host: str, family: int, scoped: bool) -> Connection:
    if ":" in host:
        try:
            address = IPv6Address(host)
        except AddressValueError:
            raise ParseError("not an IPv6 address in SDP", "sdp-bad-address") from None
        if address.scope_id is not None:
            raise ParseError("IPv6 address with a zone in SDP", "sdp-bad-address")
        if address.is_unspecified:
            return Connection(6, "::", unspecified=True)
        return Connection(6, str(address), unicast=not (scoped or address.is_multicast))
    if IPV4.fullmatch(host) is not None:
        net = int(host.partition(".")[0])
        if net == 0:
            # 0.0.0.0 is hold; the rest of 0/8 is no host either (RFC 1122 s.3.2.1.3).
            return Connection(4, "0.0.0.0", unspecified=True)
        return Connection(4, host, unicast=not scoped and net < 224)
    if host.replace(".", "").isdecimal():
        raise ParseError("not an IPv4 address in SDP", "sdp-bad-address")
    if not host or not is_host_name(host):
        raise ParseError("neither an address nor a host name in SDP", "sdp-bad-address")
    return Connection(family, host, named=True)


def is_host_name(text: str) -> bool:
    """Whether this could be a domain name (RFC 1123 s.2.1)."""
    return len(text) <= 253 and text.isascii() and text.replace(".", "").replace("-", "").isalnum()


def normal_host(host: str) -> str:
    """An address literal in the form that `Connection.host` has, so that the two compare; names in lower case."""
    if ":" not in host:
        return host.lower()
    try:
        return str(IPv6Address(host))
    except AddressValueError:
        return host
