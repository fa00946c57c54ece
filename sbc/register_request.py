"""What a REGISTER asks for (RFC 3261 s.10.3, RFC 5626, RFC 5627), read once and checked; and how phones show NAT."""

from collections.abc import Collection
from functools import lru_cache

from config.frozen import frozen
from nat.address import Kind, classify, is_behind_nat, same
from sbc.binding import identity_of
from signaling.errors import ParseError, PeerError
from signaling.exchange import check_extensions
from signaling.flow import Flow, host_port
from signaling.headers import NameAddr, Via, parse_name_addr, qvalue
from signaling.message import Request
from signaling.uri import SipUri, parse_uri, unescape

MAX_CALL_ID = 256
MAX_CONTACT = 512
MAX_INSTANCE = 128
MAX_SHOWN = 256
"""Characters of what a phone says of itself that are kept."""
# RFC 3261 s.20.19: a malformed Expires is read as an hour.
MALFORMED_S = 3600
MAX_SECONDS = 2**32 - 1
KNOWN_OPTIONS = frozenset(("path", "outbound", "gruu"))
"""Option tags that a phone may require of a registrar."""


@frozen
class Wanted:
    """One Contact: `expires_s` None where neither it nor Expires says how long."""

    contact: str
    identity: str
    expires_s: int | None
    q: int
    instance: str
    reg_id: int


@frozen
class Registering:
    """A REGISTER. `wildcard`: `Contact: *`, which removes everything; without a contact it only asks what there is."""

    user: str
    user_text: str
    wanted: tuple[Wanted, ...]
    wildcard: bool
    call_id: str
    cseq: int
    outbound: bool
    gruu: bool
    path: bool
    user_agent: str
    nat: str


def read(
    request: Request, flow: Flow, domains: Collection[str], max_contacts: int, outbound: bool = True
) -> Registering:
    """The REGISTER that `request` is. PeerError for one that cannot be served.

    `domains` are hosts of addresses of record that are ours, in lower case.
    """
    check_extensions(request, KNOWN_OPTIONS)  # RFC 3261 s.10.3 step 2
    to, sender = request.to.uri, request.from_.uri
    if not isinstance(to, SipUri) or to.scheme != "sip" or not to.user:
        raise PeerError(404, "No Such Address Of Record", "not-our-domain")
    if to.host.lower() not in domains:
        raise PeerError(404, "No Such Address Of Record", "not-our-domain")
    user = unescape(to.user)
    if not user.isprintable():
        raise PeerError(404, "No Such Address Of Record", "not-our-domain")
    # RFC 3261 s.10.2: third parties that register for somebody else have no place at an edge of the network.
    if not isinstance(sender, SipUri) or unescape(sender.user) != user:
        raise PeerError(403, "Third-Party Registration Not Allowed", "third-party-registration")
    call_id = request.call_id
    if len(call_id) > MAX_CALL_ID or len(user) > 128:
        raise PeerError(400, "Call-ID or user too long", "bad-register")
    supported = [tag.lower() for name in ("Supported", "Require") for tag in request.values(name)]
    # RFC 5626 s.6: the first hop is us only when nobody else stands between.
    direct = outbound and "outbound" in supported and len(request.values("Via")) == 1
    expires = _seconds(request.get("Expires"))
    lines = request.values("Contact")
    wildcard = "*" in lines
    wanted: tuple[Wanted, ...] = ()
    if wildcard:
        if len(lines) > 1 or expires != 0:
            raise PeerError(400, "Contact: * goes alone and with Expires: 0", "bad-register")
    else:
        if len(lines) > max_contacts:
            raise PeerError(403, "Too Many Contacts", "too-many-contacts")
        wanted = tuple([_wanted(parse_name_addr(line), expires, direct) for line in lines])
        if len(wanted) > 1 and len({one.identity for one in wanted}) < len(wanted):
            raise PeerError(400, "a contact is there twice", "bad-register")
    return Registering(
        user,
        to.user,
        wanted,
        wildcard,
        call_id,
        request.cseq.number,
        direct,
        "gruu" in supported,
        "path" in supported,
        (request.get("User-Agent") or "")[:MAX_SHOWN],
        nat_of(request.via, [one.contact for one in wanted], flow),
    )


def _wanted(value: NameAddr, expires: int | None, outbound: bool) -> Wanted:
    uri = value.uri
    contact = value.uri_text
    if not isinstance(uri, SipUri) or uri.scheme != "sip" or len(contact) > MAX_CONTACT or uri.headers:
        # RFC 3261 s.10.2.1: a registrar may take other schemes; we could not call them.
        raise PeerError(400, "a contact that cannot be called", "bad-contact")
    if not value.params:
        return Wanted(contact, identity_of(contact), expires, 1000, "", 0)
    own = value.param("expires")
    instance = (value.param("+sip.instance") or "")[: MAX_INSTANCE + 1]
    if len(instance) > MAX_INSTANCE or not instance.isprintable() or '"' in instance:
        raise PeerError(400, "an instance that is none", "bad-contact")
    reg_id = _reg_id(value.param("reg-id")) if outbound and instance else 0
    return Wanted(
        contact,
        identity_of(contact, instance, reg_id),
        expires if own is None else _seconds(own),
        qvalue(value.param("q")),
        instance,
        reg_id,
    )


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return MALFORMED_S
    return min(int(text), MAX_SECONDS)


def _reg_id(text: str | None) -> int:
    # RFC 5626 s.4.2: from 1 to 2**31 - 1.
    if not text or not (text.isascii() and text.isdigit() and len(text) <= 10):
        return 0
    value = int(text)
    return value if 0 < value < 2**31 else 0


def nat_of(via: Via, contacts: Collection[str], flow: Flow) -> str:
    """How Via and Contact differ from where the request came from; "" when they do not.

    A name says nothing about that; neither does the port of a stream, whose other end is not the listener.
    """
    host, port = flow.remote
    if via.host != host:
        if _kind(via.host) is not None and not same(via.host, host):
            return f"Via says {via.host}"
    elif not flow.reliable and (via.port or 5060) != port:
        return f"Via says port {via.port or 5060}"
    for contact in contacts:
        named = contact_host(contact)
        if named is None or named[0] == host:
            continue
        if _kind(named[0]) is not None and not same(named[0], host) and is_behind_nat(named[0]):
            return f"Contact says {host_port(named)}"
    return ""


@lru_cache(maxsize=4096)  # a phone writes the same address in every REGISTER
def _kind(host: str) -> Kind | None:
    return classify(host)


def contact_host(contact: str) -> tuple[str, int] | None:
    """Host and port that a contact names."""
    try:
        uri = parse_uri(contact)
    except ParseError:
        return None
    return (uri.host, uri.port or 5060) if isinstance(uri, SipUri) else None
