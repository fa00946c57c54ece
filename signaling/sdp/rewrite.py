"""What of an SDP may cross the border, and how ours is written. Whatever is not in these lists is dropped.

Lines

    v=          0
    o=          our own: user "-", a session id for each leg, a version that follows RFC 3264 s.8, our address
    s=          "-"
    i= u= e= p= k= r= z=    dropped: they name people, places and keys, or schedule what a call does not have
    c=          our media address
    b=          AS, TIAS, RR, RS, CT with a number kept, at the level where they were; others dropped
    t=          "0 0"
    m=          kind, protocol and formats kept, the port is ours or 0. A line is never dropped and never moved
    others      dropped

Attributes (of a line that is in use; a line with port 0 has none)

    rtpmap                          kept for the formats that are kept, when it is a name in `formats.ENCODINGS` or
                                    in the operator's media.codecs
    fmtp                            kept for the formats that are kept, with the parameters in `formats.PARAMETERS`
                                    and `formats.BEGINNINGS`; a value with an address in it is dropped
    rtcp-fb                         kept for them where it is one that is registered (RFC 4585, RFC 5104)
    ptime maxptime framerate        kept when they are numbers
    silenceSupp rtcp-xr             kept when they are written as RFC 3108 and RFC 3611 say
    sendrecv sendonly recvonly inactive     read at both levels, then written as negotiated; c=0.0.0.0 counts as
                                    not receiving (RFC 2543 hold, RFC 6337 s.5.3)
    rtcp                            ours, where the source had one (RFC 3605)
    rtcp-mux                        RFC 5761: an offer of it is always accepted, since RTCP ends here on both
                                    sides; it is offered onward when the source offered it or when the target
                                    uses it already
    T38FaxVersion T38MaxBitRate T38FaxRateManagement T38FaxMaxBuffer T38FaxMaxDatagram T38FaxMaxIFP
    T38FaxUdpEC T38FaxUdpECDepth T38FaxUdpFECMaxSpan T38ModemType T38FaxFillBitRemoval T38FaxTranscodingMMR
    T38FaxTranscodingJBIG           kept for udptl (ITU-T T.38 annex D; names in any case)
    T38VendorInfo                   dropped: it names the maker
    group mid bundle-only           dropped: without a=group in the answer there is no bundle (RFC 9143 s.7.3)
    candidate ice-ufrag ice-pwd ice-options ice-lite ice-mismatch remote-candidates end-of-candidates
                                    dropped: addresses of the other side; without them the peer falls back to
                                    c= and m= (RFC 8839 s.4.2.5)
    crypto fingerprint setup tls-id key-mgmt    dropped: these lines are plain RTP
    ssrc ssrc-group msid            dropped: cname and msid name hosts and users
    label extmap others             dropped

A kept attribute is dropped all the same when its value holds an address, a host name or an "@".
"""

import re
from collections.abc import Sequence
from enum import Enum

from config.frozen import frozen


class Treatment(Enum):
    """What is done with an attribute that may cross."""

    RTPMAP = "rtpmap"
    OF_FORMAT = "of a format"
    FEEDBACK = "feedback for a format"
    NUMBER = "a number"
    SILENCE = "silence suppression"
    REPORTS = "extended reports"
    FAX = "udptl only"
    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"
    RTCP = "rtcp"
    RTCP_MUX = "rtcp-mux"


ATTRIBUTES: dict[str, Treatment] = {
    "rtpmap": Treatment.RTPMAP,
    "fmtp": Treatment.OF_FORMAT,
    "rtcp-fb": Treatment.FEEDBACK,
    "ptime": Treatment.NUMBER,
    "maxptime": Treatment.NUMBER,
    "framerate": Treatment.NUMBER,
    "silenceSupp": Treatment.SILENCE,
    "rtcp-xr": Treatment.REPORTS,
    "sendrecv": Treatment.SENDRECV,
    "sendonly": Treatment.SENDONLY,
    "recvonly": Treatment.RECVONLY,
    "inactive": Treatment.INACTIVE,
    "rtcp": Treatment.RTCP,
    "rtcp-mux": Treatment.RTCP_MUX,
}

FAX_ATTRIBUTES = frozenset(
    name.lower()
    for name in (
        "T38FaxVersion",
        "T38MaxBitRate",
        "T38FaxRateManagement",
        "T38FaxMaxBuffer",
        "T38FaxMaxDatagram",
        "T38FaxMaxIFP",
        "T38FaxUdpEC",
        "T38FaxUdpECDepth",
        "T38FaxUdpFECMaxSpan",
        "T38ModemType",
        "T38FaxFillBitRemoval",
        "T38FaxTranscodingMMR",
        "T38FaxTranscodingJBIG",
    )
)

BANDWIDTHS = frozenset(("AS", "TIAS", "RR", "RS", "CT"))

# A dotted quad, something with two colons in it, a dot between letters ("host.example"), or an "@".
PLACE = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]*:[0-9A-Fa-f]*:|[A-Za-z]\.[A-Za-z]|@")

# a=rtpmap (RFC 8866 s.6.6): payload type, encoding name, clock rate. A name with a dot before a letter is refused,
# it might be a host's; "G722.1" is none.
RTPMAP = re.compile(
    r"([0-9]{1,3}) +([0-9]*[A-Za-z][A-Za-z0-9_+-]*(?:\.[0-9][A-Za-z0-9_+-]*)?)/([0-9]{1,7})(?:/[0-9]{1,3})?"
)

# RFC 4585 s.4.2, RFC 5104 s.7.1, and what browsers send (goog-remb, transport-cc).
FEEDBACK = re.compile(
    r"(?:[0-9]{1,3}|\*) (?:ack(?: (?:rpsi|app))?|nack(?: (?:pli|sli|rpsi|app|tllei|pslei))?|trr-int [0-9]{1,6}"
    r"|ccm (?:fir|tmmbr(?: smaxpr=[0-9]{1,6})?|tstr|vbcm(?: [0-9]{1,3})*|pause)|goog-remb|transport-cc)"
)
# RFC 3108 s.5.6.3.2: on or off, timer, preference, SID use, noise level.
SILENCE = re.compile(
    r"(?:on|off)(?: (?:[0-9]{1,6}|-)(?: (?:standard|custom|-)(?: (?:No SID|Fixed Noise|Sampled Noise|-)"
    r"(?: (?:[0-9]{1,4}|-))?)?)?)?"
)
# RFC 3611 s.5.1.
_REPORT = (
    r"(?:pkt-(?:loss|dup)-rle(?:=[0-9]{1,6})?|pkt-rcpt-times(?:=[0-9]{1,6})?|rcvr-rtt=(?:all|sender)(?::[0-9]{1,6})?"
    r"|stat-summary(?:=(?:loss|dup|jitt|TTL|HL)(?:,(?:loss|dup|jitt|TTL|HL)){0,4})?|voip-metrics)"
)
REPORTS = re.compile(rf"(?:{_REPORT}(?: {_REPORT}){{0,7}})?")

NUMBER = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")


def treatment(name: str) -> Treatment | None:
    """What is done with attribute `name`, None to drop it."""
    found = ATTRIBUTES.get(name)
    if found is None and name[:3] in ("T38", "t38") and name.lower() in FAX_ATTRIBUTES:
        return Treatment.FAX
    return found


def names_a_place(value: str) -> bool:
    """Whether a value that would be copied holds something that may be an address, a host or a user of one."""
    return PLACE.search(value) is not None or not value.isprintable()


def is_feedback(value: str) -> bool:
    """Whether the value of rtcp-fb is one that is registered."""
    return FEEDBACK.fullmatch(value) is not None


def is_silence(value: str) -> bool:
    """Whether the value of silenceSupp is as RFC 3108 has it."""
    return SILENCE.fullmatch(value) is not None


def is_reports(value: str) -> bool:
    """Whether the value of rtcp-xr is as RFC 3611 has it."""
    return REPORTS.fullmatch(value) is not None


def is_number(value: str) -> bool:
    """Whether the value of ptime, maxptime or framerate is what it should be."""
    return NUMBER.fullmatch(value) is not None


def bandwidth_crosses(line: str) -> bool:
    """Whether a b= line is kept (RFC 8866 s.5.8, RFC 3556, RFC 3890)."""
    kind, _, value = line[2:].partition(":")
    return kind in BANDWIDTHS and value.isascii() and value.isdecimal() and len(value) <= 12


@frozen
class Section:
    """One m= section as we write it. With port 0 only the m= line is written.

    `host` is our address; `formats` the end of the m= line; `kept` whole lines of the other side that may
    cross; `direction` an attribute name; `rtcp` our RTCP port where it is to be said.
    """

    kind: str
    port: int
    proto: str
    formats: Sequence[str]
    host: str = ""
    kept: Sequence[str] = ()
    direction: str = ""
    rtcp: int | None = None
    rtcp_mux: bool = False


def connection_line(host: str) -> str:
    """A c= line for one of our addresses."""
    return f"c=IN IP6 {host}" if ":" in host else f"c=IN IP4 {host}"


def body_after_origin(host: str, bandwidth: Sequence[str], sections: Sequence[Section]) -> str:
    """All of our SDP but v= and o=: what the version in o= is about. `host` is that of the session's c=."""
    lines = ["s=-", connection_line(host), *bandwidth, "t=0 0"]
    for section in sections:
        lines.append(f"m={section.kind} {section.port} {section.proto} {' '.join(section.formats)}")
        if section.port == 0:
            continue
        if section.host != host:
            lines.append(connection_line(section.host))
        lines.extend(section.kept)
        if section.direction:
            lines.append("a=" + section.direction)
        if section.rtcp is not None:
            lines.append(f"a=rtcp:{section.rtcp}")
        if section.rtcp_mux:
            lines.append("a=rtcp-mux")
    lines.append("")
    return "\r\n".join(lines)


def complete(session_id: int, version: int, host: str, body: str) -> bytes:
    """Our SDP as sent."""
    family = "IP6" if ":" in host else "IP4"
    text = f"v=0\r\no=- {session_id} {version} IN {family} {host}\r\n{body}"
    return text.encode("utf-8", "surrogateescape")
