"""What the figures of a stream mean, in sentences: a table of rules over plain facts (no I/O, no SIP, no relay).

The first rule of the table that holds speaks. Every rule is a row with a name, so that a test can ask for each.
"""

from collections.abc import Callable
from dataclasses import dataclass

from media.relay import Counters
from nat.address import Kind, classify

LOSS_HEAVY = 0.03
"""Share of packets lost from which speech suffers audibly (ITU-T G.113 appendix I)."""
HEARD_AFTER = 500
"""Packets (10 s of sound) after which a phone that reports at all says that it hears them (RFC 3550 s.6.2)."""
JITTER_HEAVY_MS = 40.0
"""Above two packets of 20 ms, common jitter buffers begin to drop."""
MOS_POOR = 3.6
"""Below this, many users are dissatisfied (ITU-T G.107 annex B)."""
STOPPED_S = 3.0
"""Nobody pauses that long while talking; silence suppression may."""
REBOUND_SHARE = 1.25
"""Some more are lost in the moment of a NAT's change than those that reach us from its new port."""
STRANGERS_MANY = 10
"""A handful of packets from the old place of a peer is ordinary; more mean that somebody else is sending."""

# Loopback and the documentation networks are none of them: labs use those as public ones.
_PRIVATE = (Kind.PRIVATE, Kind.CGNAT, Kind.LINK_LOCAL)
# RFC 3551 s.6: payload types below 96 have a meaning by themselves.
STATIC_CODECS = {
    0: "PCMU", 3: "GSM", 4: "G723", 5: "DVI4", 6: "DVI4", 7: "LPC", 8: "PCMA", 9: "G722", 10: "L16",
    11: "L16", 12: "QCELP", 13: "CN", 14: "MPA", 15: "G728", 18: "G729", 26: "JPEG", 31: "H261", 32: "MPV",
    34: "H263",
}  # fmt: skip
# RFC 3389: comfort noise may come without having been negotiated, and harms nobody.
_NOISE = frozenset({"CN"})
_DIGITS = frozenset({"TELEPHONE-EVENT"})  # RFC 4733
_NO_SOUND = _NOISE | _DIGITS


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a stream. `name` "A" or "B"; `signalled` "host:port" of its SDP, "" if none.

    `sends` and `receives`: what its SDP allows. `helped`: policy expects NAT here (`nat: far-end`). `formats`: what
    its SDP says that it understands, by payload type. `origin`: the host in its o= line. `told`: "host:port" that
    our SDP gave it, `bound` the host that we really listen on where that is another one (`advertise`). `sip`: the
    host that its SIP comes from.
    """

    name: str
    network: str
    signalled: str
    counters: Counters
    sends: bool = True
    receives: bool = True
    helped: bool = False
    formats: tuple[tuple[int, str], ...] = ()
    origin: str = ""
    told: str = ""
    bound: str = ""
    sip: str = ""

    @property
    def host(self) -> str:
        """The signalled address without the port."""
        return _host(self.signalled)

    @property
    def private(self) -> bool:
        """Whether the signalled address cannot be reached from elsewhere (RFC 1918, RFC 4193, RFC 6598)."""
        return _is_private(self.host)

    @property
    def natted(self) -> bool:
        """Whether the signalled address is of a private network that is not the one where we stand ourselves."""
        return self.private and not _is_private(_host(self.told))

    @property
    def rewritten(self) -> bool:
        """Whether o= and c= of its SDP do not fit together: one of them private, the other one not.

        A phone that knows its public address writes it into both, one that does not into neither. A SIP ALG seldom
        thinks of o=.
        """
        return (
            bool(self.host)
            and _is_address(self.origin)
            and _is_address(self.host)
            and _is_private(self.origin) != self.private
        )

    @property
    def own_strangers(self) -> bool:
        """Whether what was dropped as a stranger's came from where its media is expected: then it was no RTP."""
        stranger = self.counters.stranger
        return stranger is not None and (
            stranger[0] == self.host or (self.helped and stranger[0] == self.sip)
        )

    @property
    def rebound(self) -> bool:
        """Whether most of what was lost was dropped here, as that of a stranger with the host of its source."""
        stranger, source, lost = self.counters.stranger, self.counters.source, self.counters.lost
        if stranger is None or source is None or stranger[0] != source[0]:
            return False
        return 0 < lost <= self.counters.strangers * REBOUND_SHARE

    @property
    def expected(self) -> int:
        """Packets that should have come."""
        return self.counters.packets + max(0, self.counters.lost)

    @property
    def loss(self) -> float:
        """Share of packets lost."""
        return max(0, self.counters.lost) / self.expected if self.expected else 0.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One m= line. `codec` as negotiated, `counted` false where the relay has no figures of it."""

    media: str
    codec: str
    a: Side
    b: Side
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of the verdict. `id` is stable; `side` "A", "B" or "" for the call as a whole.

    `healthy` when it reproaches nobody.
    """

    id: str
    text: str
    side: str = ""
    healthy: bool = False


@dataclass(frozen=True, slots=True)
class MediaRule:
    """A row of `MEDIA_RULES`: when it `holds` for what comes from a source to a sink, it `says` its text.

    The text is a template over `_words`. `healthy` when it reproaches nobody.
    """

    name: str
    holds: Callable[[Side, Side, Stream], bool]
    says: str
    healthy: bool = False


def _host(host_port: str) -> str:
    return host_port.rpartition(":")[0].strip("[]")


def _is_private(host: str) -> bool:
    return classify(host) in _PRIVATE


def _is_address(host: str) -> bool:
    return classify(host) not in (None, Kind.UNSPECIFIED)


def _meaning(payload_type: int, source: Side, sink: Side) -> str | None:
    """What a payload type of `source` means: what `sink` described (RFC 3264 s.5.1), else what it always means."""
    for formats in (sink.formats, source.formats):
        for number, name in formats:
            if number == payload_type:
                return name.upper()
    return STATIC_CODECS.get(payload_type)


def _only(source: Side, sink: Side, names: frozenset[str]) -> bool:
    """Whether packets came, and all of them mean one of these."""
    types = source.counters.payload_types
    return bool(types) and all(_meaning(number, source, sink) in names for number in types)


def _unexpected(source: Side, sink: Side, stream: Stream) -> list[str]:
    """The payload types of `source` if `sink` understands none that carries sound.

    One that it understands is enough: the others may be of the time before a re-INVITE.
    """
    sound = [n for n in source.counters.payload_types if _meaning(n, source, sink) not in _NO_SOUND]
    known = {number for number, _ in sink.formats}
    if known:
        wrong = sound if known.isdisjoint(sound) else []
    else:
        negotiated = {name.strip().partition("/")[0].upper() for name in stream.codec.split(",")}
        names = {number: STATIC_CODECS.get(number) for number in sound}
        unclear = any(name is None or name in negotiated for name in names.values())
        wrong = [] if unclear or not stream.codec else sound
    return [
        f"{number}" + (f" ({name})" if (name := STATIC_CODECS.get(number)) is not None else "")
        for number in wrong
    ]


def _silent(source: Side) -> bool:
    return source.counters.packets == 0


# What comes from one side. Most telling first: a rule relies on those above it not holding.
MEDIA_RULES: tuple[MediaRule, ...] = (
    MediaRule(
        "held",
        lambda source, sink, stream: not source.sends or not sink.receives,
        "{it} is silent by agreement: the session is on hold or one-way ({it} {way}, {other} {other_way})",
        healthy=True,
    ),
    MediaRule(
        "no-rtp",
        lambda source, sink, stream: _silent(source) and source.own_strangers,
        "{strangers} packets came from {it}'s own address ({stranger}), and none of them is RTP to our RTP port: it"
        " sends RTCP alone (muted), STUN or DTLS (it waits for WebRTC), or RTP to the port of RTCP",
    ),
    MediaRule(
        "sdp-rewritten",
        lambda source, sink, stream: _silent(source) and source.counters.strangers > 0 and source.rewritten,
        "{strangers} packets for {it} came from an address that is not the one it signalled ({signalled}), and were"
        " dropped: its o= line says {origin}, so that something on the way has rewritten its SDP, and wrongly; switch"
        " the SIP ALG of its router off",
    ),
    MediaRule(
        "nat-unhelped",
        lambda source, sink, stream: (
            _silent(source) and source.counters.strangers > 0 and source.natted and not source.helped
        ),
        "{strangers} packets for {it} came from an address that is not the one it signalled ({signalled}), but"
        " {stranger}, and were dropped: the signalled one is private and {it} behind"
        " NAT; set nat: far-end on network {network} to let its address be learned",
    ),
    MediaRule(
        "strangers-unhelped",
        lambda source, sink, stream: _silent(source) and source.counters.strangers > 0 and not source.helped,
        "{strangers} packets for {it} came from an address that is not the one it signalled"
        " ({signalled}), and"
        " were dropped: a SIP ALG rewrote the address, or {it} is behind a symmetric NAT; set"
        " nat: far-end on"
        " network {network} to let its address be learned",
    ),
    MediaRule(
        "strangers-only",
        lambda source, sink, stream: _silent(source) and source.counters.strangers > 0,
        "{strangers} packets for {it} came from an address that is neither the one it"
        " signalled ({signalled})"
        " nor the one its SIP comes from, and were dropped: a SIP ALG, or media and SIP of {it} leave by"
        " different ways",
    ),
    MediaRule(
        "only-rtcp",
        lambda source, sink, stream: _silent(source) and source.counters.rtcp_packets > 0,
        "{it} sends RTCP ({rtcp} packets) but no RTP: it is alive and reachable, and has"
        " muted its microphone or"
        " waits for something",
    ),
    MediaRule(
        "not-rtp",
        lambda source, sink, stream: _silent(source) and source.counters.malformed > 0,
        "{malformed} packets came from {it}, and none of them is RTP: does it send SRTP, T.38"
        " or STUN to a plain"
        " RTP port?",
    ),
    MediaRule(
        "wrong-advertise",
        lambda source, sink, stream: _silent(source) and source.bound != "",
        "nothing has come from {it} ({signalled}), which was told to send to {told} while we listen on {bound}: does"
        " networks.{network}.advertise lead here, with all media ports?",
    ),
    MediaRule(
        "no-advertise",
        lambda source, sink, stream: (
            _silent(source)
            and _is_address(source.host)
            and not source.private
            and _is_private(_host(source.told))
        ),
        "nothing has come from {it} ({signalled}), which was told to send to {told}, a private address: set"
        " networks.{network}.advertise to the one that leads here from there",
    ),
    MediaRule(
        "private-unhelped",
        lambda source, sink, stream: _silent(source) and source.natted and not source.helped,
        "nothing has come from {it}, whose address {host} is private; if {it} is behind NAT,"
        " set nat: far-end on"
        " network {network}",
    ),
    MediaRule(
        "nat-not-opened",
        lambda source, sink, stream: _silent(source) and source.natted,
        "{it}'s address {host} is private and nothing has come from it: {it} is behind NAT"
        " and has not opened"
        " its port",
    ),
    MediaRule(
        "nothing",
        lambda source, sink, stream: _silent(source),
        "nothing has come from {it} ({signalled}): it does not send, or a firewall between"
        " {it} and us stops it",
    ),
    MediaRule(
        "elsewhere",
        lambda source, sink, stream: source.counters.source is None and source.counters.strangers > 0,
        "{it} was heard before, but {strangers} packets came from an address that is not the one it signalled"
        " last ({signalled}), and were dropped: {it} has not gone where its last offer or answer said",
    ),
    MediaRule(
        "moved",
        lambda source, sink, stream: (
            (source.counters.last_s or 0.0) >= STOPPED_S and source.counters.strangers >= STRANGERS_MANY
        ),
        "nothing has come from {it} at {source} for {quiet} s, but {strangers} packets from {stranger}, which were"
        " dropped: its router has started anew or its NAT forgets within the call; a re-INVITE of {it} would mend it",
    ),
    MediaRule(
        "stopped",
        lambda source, sink, stream: (source.counters.last_s or 0.0) >= STOPPED_S,
        "{it} has stopped sending: nothing has come from it for {quiet} s, after {packets} packets; it is muted,"
        " suppresses silence, or something between {it} and us stops it now",
    ),
    MediaRule(
        "muted",
        lambda source, sink, stream: not source.counters.forwarded and source.counters.muted > 0,
        "{it} sends, but all {muted} packets came while it was not to send (hold), and were dropped",
    ),
    MediaRule(
        "withheld",
        lambda source, sink, stream: source.counters.withheld > 0 and _silent(sink),
        "{it} sends, and {withheld} of its packets were not passed on: {other} has never sent anything from"
        " {other_signalled}, which is not where its SIP comes from, so that it might be somebody who never asked"
        " for a call; its first packet, RTP or RTCP, opens the way",
    ),
    MediaRule(
        "not-forwarded",
        lambda source, sink, stream: not source.counters.forwarded,
        "{it} sends, but we do not know where {other} is, so that nothing could be forwarded",
    ),
    MediaRule(
        "only-noise",
        lambda source, sink, stream: _only(source, sink, _NOISE),
        "{it} sends comfort noise only ({packets} packets): it is muted, or its microphone is dead",
    ),
    MediaRule(
        "only-digits",
        lambda source, sink, stream: _only(source, sink, _NO_SOUND),
        "{it} sends digits (telephone-event) and no sound: its microphone is off or it has no codec that it can use",
    ),
    MediaRule(
        "wrong-codec",
        lambda source, sink, stream: bool(_unexpected(source, sink, stream)),
        "{it} sends payload type {unexpected}, which was not negotiated ({codec}): {other}"
        " will probably not"
        " play it",
    ),
    MediaRule(
        "unheard",
        lambda source, sink, stream: (
            source.counters.forwarded >= HEARD_AFTER
            and sink.counters.rtcp_packets > 2
            and sink.counters.reports == 0
        ),
        "{it} sends, we forward, but {other} never reports by RTCP that it hears anything: a firewall or a closed"
        " pinhole between us and {other} stops it, if {other} reports at all",
    ),
    MediaRule(
        "rebound",
        lambda source, sink, stream: source.loss >= LOSS_HEAVY and source.rebound,
        "{it} was heard with a gap: its NAT has given it another port in mid-call, and {strangers} packets were dropped"
        " until it was certain that {source} is {it}",
    ),
    MediaRule(
        "loss",
        lambda source, sink, stream: source.loss >= LOSS_HEAVY,
        "{it} is heard with gaps: {loss} of its packets were lost between {it} and us",
    ),
    MediaRule(
        "lost-beyond",
        lambda source, sink, stream: (sink.counters.reported_loss or 0.0) >= source.loss + LOSS_HEAVY,
        "{it} is heard with gaps: {other} reports that {reported} of its packets were lost, more than on the way to"
        " us: between us and {other}",
    ),
    MediaRule(
        "jitter",
        lambda source, sink, stream: source.counters.jitter_ms >= JITTER_HEAVY_MS,
        "{it}'s packets come unevenly: jitter of {jitter} ms, more than the buffers of most phones even out",
    ),
    MediaRule(
        "poor",
        lambda source, sink, stream: source.counters.mos is not None and source.counters.mos < MOS_POOR,
        "the sound from {it} is poor: MOS {mos}",
    ),
    MediaRule("healthy", lambda source, sink, stream: True, "{it} sends, we forward", healthy=True),
)


def _words(source: Side, sink: Side, stream: Stream) -> dict[str, object]:
    counters = source.counters
    return {
        "it": source.name,
        "other": sink.name,
        "way": _way(source),
        "other_way": _way(sink),
        "network": source.network,
        "signalled": source.signalled or "no address",
        "host": source.host,
        "codec": stream.codec,
        "packets": counters.packets,
        "quiet": f"{counters.last_s or 0.0:.0f}",
        "strangers": counters.strangers,
        "rtcp": counters.rtcp_packets,
        "malformed": counters.malformed,
        "muted": counters.muted,
        "withheld": counters.withheld,
        "other_signalled": sink.signalled or "no address",
        "unexpected": ", ".join(_unexpected(source, sink, stream)),
        "origin": source.origin,
        "stranger": _shown(counters.stranger),
        "source": _shown(counters.source),
        "reported": f"{sink.counters.reported_loss or 0.0:.1%}",
        "told": source.told,
        "bound": source.bound,
        "loss": f"{source.loss:.1%}",
        "jitter": f"{counters.jitter_ms:.0f}",
        "mos": "-" if counters.mos is None else f"{counters.mos:.1f}",
    }


def _shown(address: tuple[str, int] | None) -> str:
    if address is None:
        return "nowhere"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _way(side: Side) -> str:
    if side.sends:
        return "sendrecv" if side.receives else "sendonly"
    return "recvonly" if side.receives else "inactive"


def media_rule(source: Side, sink: Side, stream: Stream) -> MediaRule:
    """The rule that speaks for what comes from `source`."""
    return next(rule for rule in MEDIA_RULES if rule.holds(source, sink, stream))


def stream_findings(stream: Stream) -> list[Finding]:
    """What is to be said of one stream."""
    a, b = stream.a, stream.b
    if not stream.counted:
        return [Finding("no-figures", f"The relay has no figures of the {stream.media} stream.", "", True)]
    from_a, from_b = media_rule(a, b, stream), media_rule(b, a, stream)
    both = {from_a.name, from_b.name}
    if both == {"healthy"}:
        found = [Finding("healthy", f"Healthy: both directions carry {stream.media}.", "", True)]
    elif both == {"held"}:
        found = [Finding("held", f"On hold: neither side is to send {stream.media}.", "", True)]
    elif both == {"nothing"}:
        found = [
            Finding(
                "nothing-at-all",
                "No packets at all have come from either side: nobody hears anything."
                f" A signalled {a.signalled or 'no address'}, B {b.signalled or 'no address'}; check that both can"
                " reach our media ports (networks.*.media_ports) through their firewalls.",
            )
        ]
    else:
        # What works is said first: it tells which half of the path can be trusted.
        ordered = sorted(((from_a, a, b), (from_b, b, a)), key=lambda row: not row[0].healthy)
        found = [
            Finding(
                rule.name,
                _sentence(rule.says.format_map(_words(source, sink, stream))),
                source.name,
                rule.healthy,
            )
            for rule, source, sink in ordered
        ]
    accused = {one.side for one in found if one.id in ("moved", "rebound")}
    return [*found, *(one for one in _asides(stream) if one.side not in accused)]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}" + ("" if text.endswith("?") else ".")


def _asides(stream: Stream) -> list[Finding]:
    """What is worth knowing although the stream works."""
    return [
        Finding(
            "strangers",
            f"{side.counters.strangers} packets from strangers were dropped at {side.name}'s port; its source is"
            f" {side.counters.source[0]} port {side.counters.source[1]}.",
            side.name,
            True,
        )
        for side in (stream.a, stream.b)
        if side.counters.packets
        and side.counters.strangers >= STRANGERS_MANY
        and side.counters.source is not None
    ]
