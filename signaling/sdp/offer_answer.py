"""What an SDP says, m= line by m= line, as the offer/answer model reads it (RFC 3264, RFC 6337)."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.sdp.formats import encoding_crosses, parameters_that_cross
from signaling.sdp.rewrite import (
    RTPMAP,
    Section,
    Treatment,
    bandwidth_crosses,
    is_feedback,
    is_number,
    is_reports,
    is_silence,
    names_a_place,
    treatment,
)
from signaling.sdp.session import Connection, Media, Session, first, parse_connection

Address = tuple[str, int]


class Use(StrEnum):
    """What can be done with an m= line."""

    RTP = "rtp"
    UDPTL = "udptl"
    REFUSED = "refused"
    DISABLED = "disabled"  # port 0: the peer does not want it (RFC 3264 s.6, s.8.2)


@frozen
class Codec:
    """A payload type with its encoding name (as written) and RTP clock rate in Hz."""

    payload: int
    name: str
    clock: int


@frozen
class Refusal:
    """Why an m= line cannot be served: a text for people and the slug of the rule."""

    reason: str
    rule: str


@frozen
class Line:
    """One m= line as it was described by its sender.

    `connection` is its c=, None when the line is not in use. `rtcp` is where RTCP goes, None when that is not
    said or the address is not known. `sends` and `receives` are the sender's direction; c=0.0.0.0 is not
    receiving. `formats` are the formats that policy left, `codecs` their meaning, `removed` the names of those
    that it took. `kept` are the b= and a= lines that may cross. `rtcp_said` tells of an a=rtcp line.
    """

    media: Media
    use: Use
    refusal: Refusal | None = None
    connection: Connection | None = None
    rtcp: Address | None = None
    rtcp_said: bool = False
    rtcp_mux: bool = False
    sends: bool = False
    receives: bool = False
    formats: tuple[str, ...] = ()
    codecs: tuple[Codec, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether there is a stream to make of it."""
        return self.use is Use.RTP or self.use is Use.UDPTL


# RFC 3551 s.6: payload types that need no a=rtpmap.
STATIC: dict[int, tuple[str, int]] = {
    0: ("PCMU", 8000),
    3: ("GSM", 8000),
    4: ("G723", 8000),
    5: ("DVI4", 8000),
    6: ("DVI4", 16000),
    7: ("LPC", 8000),
    8: ("PCMA", 8000),
    9: ("G722", 8000),
    10: ("L16", 44100),
    11: ("L16", 44100),
    12: ("QCELP", 8000),
    13: ("CN", 8000),
    14: ("MPA", 90000),
    15: ("G728", 8000),
    16: ("DVI4", 11025),
    17: ("DVI4", 22050),
    18: ("G729", 8000),
    25: ("CelB", 90000),
    26: ("JPEG", 90000),
    28: ("nv", 90000),
    31: ("H261", 90000),
    32: ("MPV", 90000),
    33: ("MP2T", 90000),
    34: ("H263", 90000),
}

# Digits go with any codec (RFC 4733): policy never takes them, but they are no codec to talk with either.
EVENTS = "TELEPHONE-EVENT"

PLAIN_RTP = ("RTP/AVP", "RTP/AVPF")
SECURE_RTP = ("RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF")
RTP_KINDS = ("audio", "video", "text")

# What an m= line that is not served may say of itself on the other side.
KNOWN_KINDS = ("audio", "video", "text", "image", "application", "message")
KNOWN_PROTOS = frozenset(
    (
        *PLAIN_RTP,
        *SECURE_RTP,
        "UDPTL",
        "UDP",
        "TCP",
        "TCP/MSRP",
        "TCP/TLS/MSRP",
        "TCP/BFCP",
        "UDP/BFCP",
        "TCP/RTP/AVP",
        "DTLS/SCTP",
        "UDP/DTLS/SCTP",
        "TCP/DTLS/SCTP",
        "TCP/TLS/BFCP",
        "UDP/TLS/BFCP",
        "UDP/TLS/UDPTL",
        "TCP/TLS",
    )
)

DIRECTIONS = {
    (True, True): "sendrecv",
    (True, False): "sendonly",
    (False, True): "recvonly",
    (False, False): "inactive",
}


def direction(sends: bool, receives: bool) -> str:
    """The attribute for a direction (RFC 8866 s.6.7)."""
    return DIRECTIONS[sends, receives]


def describe(session: Session, allowed: frozenset[str] | None = None) -> list[Line]:
    """Every m= line of a session. `allowed` are the codec names (upper case) that policy lets pass, None for all.

    Raises ParseError for a c= line that makes no sense and for a line in use without any.
    """
    sends = receives = True
    for line in session.lines:
        if line in ("a=sendonly", "a=recvonly", "a=inactive", "a=sendrecv"):
            sends, receives = line in ("a=sendonly", "a=sendrecv"), line in ("a=recvonly", "a=sendrecv")
    value = first(session.lines, "c")
    common = None if value is None else parse_connection(value)
    return [_describe(media, common, sends, receives, allowed) for media in session.media]


def disabled(line: Line, onward: bool) -> Section:
    """An m= line with port 0, which holds its place (RFC 3264 s.6). `onward`: written for the other side, which
    learns only the registered names in it; an answer repeats what was offered."""
    media = line.media
    proto = media.proto.upper()
    if not onward:
        return Section(media.kind, 0, media.proto, media.formats)
    kind = media.kind if media.kind in KNOWN_KINDS else "application"
    if proto in PLAIN_RTP or proto in SECURE_RTP:
        formats = [text for text in media.formats if is_payload_type(text)]
        return Section(kind, 0, proto, formats or ("0",))
    if proto == "UDPTL":
        return Section(kind, 0, "udptl", ("t38",))
    return Section(kind, 0, proto if proto in KNOWN_PROTOS else "UDP", ("*",))


def session_bandwidth(session: Session) -> list[str]:
    """The b= lines of the session level that may cross."""
    return [line for line in session.lines if line.startswith("b=") and bandwidth_crosses(line)]


def _describe(
    media: Media, common: Connection | None, sends: bool, receives: bool, allowed: frozenset[str] | None
) -> Line:
    proto = media.proto.upper()
    if media.port == 0:
        return Line(media, Use.DISABLED)
    if proto in PLAIN_RTP and media.kind in RTP_KINDS:
        use = Use.RTP
    elif proto == "UDPTL" and media.kind == "image":
        use = Use.UDPTL
    else:
        return Line(media, Use.REFUSED, _refusal_of(media.kind, proto))
    if media.count != 1:
        return Line(media, Use.REFUSED, Refusal("several ports in one m= line", "sdp-port-count"))
    value = first(media.lines, "c")
    connection = common if value is None else parse_connection(value)
    if connection is None:
        raise ParseError("m= line without c= line", "sdp-no-connection")
    if not connection.unicast:
        return Line(media, Use.REFUSED, Refusal("media address is not unicast", "media-address"))
    named = _named(media) if use is Use.RTP else {}
    if use is Use.RTP:
        formats, codecs, removed = _formats(media, named, allowed)
        if all(codec.name.upper() == EVENTS for codec in codecs):
            offered = ", ".join(dict.fromkeys((*(codec.name for codec in codecs), *removed))) or "none"
            listed = ", ".join(sorted(allowed)) if allowed else "any"
            reason = f"no common codec: offered {offered}; allowed {listed}"
            return Line(media, Use.REFUSED, Refusal(reason, "no-common-codec"), removed=removed)
    else:
        formats, codecs, removed = ("t38",), (), ()
    rtcp_port: int | None = media.port + 1
    rtcp_host: str | None = None
    rtcp_said = rtcp_mux = False
    kept: list[str] = []
    for line in media.lines:
        letter = line[0]
        if letter == "b":
            if bandwidth_crosses(line):
                kept.append(line)
            continue
        if letter != "a":
            continue
        name, _, value = line[2:].partition(":")
        match treatment(name):
            case None:
                pass
            case Treatment.RTPMAP:
                # Each line by itself: of two for one payload type, one may name a host.
                found = RTPMAP.fullmatch(value)
                if found is not None and found[1] in formats and encoding_crosses(found[2], allowed):
                    kept.append(line)
            case Treatment.OF_FORMAT:
                if use is Use.RTP and _of_format(value, formats) and (said := parameters_that_cross(value)):
                    kept.append(line if said == value else f"a=fmtp:{said}")
            case Treatment.NUMBER:
                if is_number(value):
                    kept.append(line)
            case Treatment.FAX:
                if use is Use.UDPTL and not names_a_place(value):
                    kept.append(line)
            case Treatment.SENDRECV:
                sends = receives = True
            case Treatment.SENDONLY:
                sends, receives = True, False
            case Treatment.RECVONLY:
                sends, receives = False, True
            case Treatment.INACTIVE:
                sends = receives = False
            case Treatment.RTCP_MUX:
                rtcp_mux = True
            case Treatment.RTCP:
                rtcp_said = True
                rtcp_port, rtcp_host = _rtcp(value)
            case Treatment.FEEDBACK:
                if use is Use.RTP and _of_format(value, formats) and is_feedback(value):
                    kept.append(line)
            case Treatment.SILENCE:
                if is_silence(value):
                    kept.append(line)
            case Treatment.REPORTS:
                if is_reports(value):
                    kept.append(line)
    if connection.unspecified:
        receives = False
    rtcp = None
    if use is Use.RTP and rtcp_port is not None and rtcp_port <= 65535 and not connection.unspecified:
        host = rtcp_host or connection.host
        if rtcp_host is not None or not connection.named:
            rtcp = (host, rtcp_port)
    return Line(
        media,
        use,
        None,
        connection,
        rtcp,
        rtcp_said,
        rtcp_mux and use is Use.RTP,
        sends,
        receives,
        formats,
        codecs,
        removed,
        tuple(kept),
    )


def _refusal_of(kind: str, proto: str) -> Refusal:
    if proto in SECURE_RTP:
        return Refusal("SRTP is not served here, plain RTP/AVP only", "srtp-not-supported")
    if kind not in KNOWN_KINDS:
        return Refusal("unknown kind of media", "media-not-supported")
    known = proto if proto in KNOWN_PROTOS else "unknown protocol"
    return Refusal(f"{kind} over {known} is not served here", "media-not-supported")


def _named(media: Media) -> dict[str, tuple[str, int]]:
    """Encoding name and clock rate by payload type, as a=rtpmap says."""
    named: dict[str, tuple[str, int]] = {}
    for line in media.lines:
        if line.startswith("a=rtpmap:"):
            match = RTPMAP.fullmatch(line, 9)
            if match is not None:
                payload, name, clock = match.groups()
                named[payload] = (name, int(clock))
    return named


def _formats(
    media: Media, named: Mapping[str, tuple[str, int]], allowed: frozenset[str] | None
) -> tuple[tuple[str, ...], tuple[Codec, ...], tuple[str, ...]]:
    """The formats that policy leaves, what they mean, and the names of those that it takes."""
    formats: list[str] = []
    codecs: list[Codec] = []
    removed: list[str] = []
    for text in media.formats:
        if not is_payload_type(text):
            continue
        number = int(text)
        name, rate = named.get(text) or STATIC.get(number) or ("", 8000)
        if allowed is not None and (upper := name.upper()) not in allowed and upper != EVENTS:
            removed.append(name or text)
            continue
        formats.append(text)
        codecs.append(Codec(number, name, rate))
    return tuple(formats), tuple(codecs), tuple(removed)


def is_payload_type(text: str) -> bool:
    """Whether a format of RTP is a payload type (RFC 3551 s.6)."""
    return text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) < 128


def _of_format(value: str, formats: Sequence[str]) -> bool:
    """Whether rtpmap, fmtp or rtcp-fb speaks of a format that is kept ("*": of all, RFC 4585 s.4.2)."""
    payload = value.partition(" ")[0]
    return payload in formats or payload == "*"


def _rtcp(value: str) -> tuple[int | None, str | None]:
    """Port and, where given, host of a=rtcp (RFC 3605 s.2.1); nonsense counts as not said."""
    port, _, where = value.partition(" ")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
        return None, None
    if where:
        connection = parse_connection(where)
        if connection.named or connection.unspecified or not connection.unicast:
            return None, None
        return int(port), connection.host
    return int(port), None
