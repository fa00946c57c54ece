"""The media of one call: the streams in force, the offers that wait for an answer, and what each leg was told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from config.frozen import frozen
from media.relay import BindFailed, Layer, PortPair, Side, SourceLocked, StreamCounters, Withheld
from media.session import Limits, MediaSession, Stream
from sbc.decisions import Decision
from sbc.exchange import Exchange, Party, Plan, origin_of, side_of
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.errors import PeerError
from signaling.flow import host_port
from signaling.sdp.offer_answer import Line, Refusal, Use, direction, session_bandwidth
from signaling.sdp.rewrite import Section, body_after_origin, complete
from signaling.sdp.session import Media, Session

# Each takes two pairs of ports; nobody needs more than audio, video, slides, text and fax.
MAX_STREAMS = 8


@frozen
class MediaLine:
    """One stream for people: kind of media, codec in use, both parties' signalled addresses and our ports."""

    stream: int
    media: str
    codec: str
    a_signalled: str
    b_signalled: str
    a_local: str
    b_local: str
    a_direction: str
    b_direction: str


@frozen
class MediaReport:
    """What the media of a call looks like; `counters` in the order of `lines`, empty until the relay answered."""

    lines: tuple[MediaLine, ...]
    counters: tuple[StreamCounters, ...] = ()


@dataclass(slots=True, eq=False)
class LegSdp:
    """What one leg was told in our o= lines (RFC 3264 s.8), and the o= line and family that it uses itself."""

    session_id: int
    version: int = 0
    host: str = ""
    body: str = ""
    origin: str | None = None
    family: int | None = None

    def remember(self, session: Session, lines: Sequence[Line]) -> None:
        """Keep what the next exchange with this leg wants to know of its SDP."""
        self.origin = origin_of(session)
        for line in lines:
            connection = line.connection
            if line.usable and connection is not None and not (connection.named or connection.unspecified):
                self.family = connection.family
                return

    def write(self, host: str, body: str) -> bytes:
        """Our SDP for it. RFC 3264 s.8: the version grows by one when anything else has changed."""
        if body != self.body:
            self.host, self.body = host, body
            self.version += 1
        return self.told()

    def told(self) -> bytes:
        """Our SDP as it was told last."""
        return complete(self.session_id, self.version, self.host, self.body)


@dataclass(slots=True, eq=False)
class CallMedia:
    """The media of one call.

    `session` has the streams in force, `places` the m= lines that they (or nothing) stand for, and `holder` is the
    leg whose answer or offer made side b of them. `branches` are the offers that wait for legs that ring beside the
    one of `exchange`. `reserved` are ports by leg for an offer that the callee has yet to make. `kept` are ports of a
    party that stays while the other is replaced (failover, or another branch answers), `retired` ports that an open
    stream has moved away from, `closing` ports of
    streams that the relay has yet to close. `past` and `final` make the last report.
    """

    id: str
    policy: MediaPolicy
    allowed: frozenset[str] | None
    session: MediaSession = field(default_factory=MediaSession)
    places: list[Media] = field(default_factory=list)
    legs: dict[str, LegSdp] = field(default_factory=dict)
    exchange: Exchange | None = None
    kept: dict[tuple[int, Side], PortPair] = field(default_factory=dict)
    reserved: dict[str, PortPair] = field(default_factory=dict)
    holder: str = ""
    branches: dict[str, Exchange] = field(default_factory=dict)
    retired: dict[int, list[PortPair]] = field(default_factory=dict)
    closing: dict[int, list[PortPair]] = field(default_factory=dict)
    past: dict[int, MediaLine] = field(default_factory=dict)
    final: dict[int, StreamCounters] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    # -- an offer and its answers --------------------------------------------------------------------------

    def admit(self, party: Party, lines: list[Line]) -> None:
        """Refuse the lines of a party that we have no room or address for; 488 when nothing is left."""
        refused: Refusal | None = None
        usable = 0
        for place, line in enumerate(lines):
            if line.removed:
                self.decisions.append(codec_decision(line, self.policy))
            if line.usable:
                if usable == MAX_STREAMS:
                    why = Refusal(f"More than {MAX_STREAMS} streams in one call", "too-many-streams")
                elif self.address(party, line) is None:
                    why = Refusal("No media address of that family here", "media-family")
                else:
                    usable += 1
                    continue
                lines[place] = replace(line, use=Use.REFUSED, refusal=why)
            reason = lines[place].refusal
            if reason is not None:
                refused = refused or reason
                what = (("line", f"{place + 1}: {line.media.kind} {line.media.proto}"), ("leg", party.leg))
                self.decisions.append(Decision("media", reason.rule, what, f"refused: {reason.reason}"))
        if refused is not None and not usable:
            raise PeerError(488, refused.reason, refused.rule)

    def address(self, party: Party, line: Line | None = None) -> MediaAddress | None:
        """Our address towards a party: of the family of its line, of what it used last, of its SIP, any."""
        policy = self.policy
        connection = None if line is None else line.connection
        if connection is not None and not (connection.unspecified or connection.named):
            return policy.address(party.network, connection.family)
        leg = self.legs.get(party.leg)
        if leg is not None and leg.family is not None:
            return policy.address(party.network, leg.family)
        family = None if party.peer is None else 6 if ":" in party.peer else 4
        return policy.address(party.network, family) or policy.address(party.network)

    def replaced(self, source: Party, target: Party) -> Side | None:
        """Side b, when what is in force there is of another leg than either of these."""
        return None if self.holder in ("", source.leg, target.leg) else "b"

    def keep(self, exchange: Exchange, side: Side) -> None:
        """What an exchange took for one side and no stream uses stays with the call."""
        for place, plan in enumerate(exchange.plans):
            if plan is not None and plan.pairs[side] in exchange.fresh:
                exchange.fresh.remove(plan.pairs[side])
                self.kept[place, side] = plan.pairs[side]

    def set_aside(self, exchange: Exchange) -> None:
        """Another leg is asked, or answers, beside the target of this offer: all of them share the offerer's ports."""
        self.keep(exchange, side_of(exchange.source.leg))
        self.branches[exchange.target.leg] = exchange
        self.exchange = None

    def resume(self, leg: str) -> Exchange | None:
        """The offer that waits for `leg` is the one in question again."""
        exchange = self.branches.pop(leg, None)
        if exchange is None:
            return self.exchange
        if self.exchange is not None:
            self.set_aside(self.exchange)
        side = side_of(exchange.source.leg)
        for place, plan in enumerate(exchange.plans):
            if plan is None:
                continue
            pair, stream = plan.pairs[side], self.session[place]
            if stream is not None and stream.end(side).local == pair:
                exchange.plans[place] = Plan(stream.id, plan.pairs, plan.hosts)
            elif self.kept.get((place, side)) == pair:
                del self.kept[place, side]
                exchange.fresh.add(pair)
            else:
                exchange.plans[place] = None  # its stream was given up with the answer of another leg
        self.exchange = exchange
        return exchange

    def limited(self, streams: list[Stream | None]) -> MediaSession:
        """The streams with their silence limits: the first one speaks for the call, since video may rest."""
        policy = self.policy
        for place, stream in enumerate(streams):
            if stream is not None:
                if stream.on_hold:
                    limits = Limits(policy.hold_s, policy.hold_s)
                else:
                    limits = Limits(policy.start_s, policy.silence_s)
                streams[place] = stream.within(limits)
                break
        return MediaSession(tuple(streams))

    def write(self, party: Party, session: Session, sections: list[Section]) -> bytes:
        """Our SDP for the leg of a party, which has been offered something before."""
        host = next((section.host for section in sections if section.port), None)
        if host is None:
            address = self.address(party)
            host = "0.0.0.0" if address is None else address.advertised
        body = body_after_origin(host, session_bandwidth(session), sections)
        return self.legs[party.leg].write(host, body)

    # -- what is in force ----------------------------------------------------------------------------------

    def told(self, event: SourceLocked | BindFailed | Layer | Withheld) -> None:
        """What the relay tells of one of its streams."""
        match event:
            case SourceLocked():
                self.session = self.session.locked(event.stream, event.side, event.source)
                return
            case BindFailed():
                rule, outcome = "media-bind-failed", "the stream is deaf"
                compared = [("stream", str(event.stream)), ("reason", event.reason)]
            case Layer():
                compared = [("stream", str(event.stream))]
                if event.reason:
                    compared.append(("reason", event.reason))
                    rule, outcome = "media-in-relay", "the relay process forwards it"
                else:
                    rule, outcome = "media-in-kernel", "the kernel forwards it"
            case Withheld():
                rule = "media-withheld"
                outcome = (
                    "nothing comes from there, and it is not where the SIP comes from: no more media to it"
                )
                compared = [("leg", event.side), ("address", host_port(event.address))]
        self.decisions.append(Decision("media", rule, tuple(compared), outcome))

    def report(self) -> MediaReport:
        """The lines as they are now, without counters."""
        return MediaReport(tuple(self.line(stream) for stream in self.session))

    def line(self, stream: Stream) -> MediaLine:
        """One stream for people."""
        a, b = stream.a, stream.b
        advertised = self.policy.advertised
        return MediaLine(
            stream.id,
            stream.media,
            stream.codec,
            *stream.signalled,
            host_port((advertised(a.local), a.local.rtp)),
            host_port((advertised(b.local), b.local.rtp)),
            direction(a.receive, b.receive),
            direction(b.receive, a.receive),
        )

    # -- written down --------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The call as plain data that JSON can carry (design.md s.4.4); what is under negotiation is left out."""
        return {
            "call": self.id,
            "streams": self.session.snapshot(),
            "places": [[media.kind, media.proto, list(media.formats)] for media in self.places],
            "legs": {
                name: [leg.session_id, leg.version, leg.host, leg.body, leg.origin, leg.family]
                for name, leg in self.legs.items()
            },
        }

    @classmethod
    def restore(cls, data: dict[str, Any], policy: MediaPolicy, number: Callable[[], int]) -> "CallMedia":
        """The call that `snapshot` wrote. Its streams get numbers of this process."""
        session = MediaSession.restore(data["streams"])
        streams = [None if stream is None else replace(stream, id=number()) for stream in session.streams]
        legs = {name: LegSdp(*values) for name, values in data["legs"].items()}
        places = [Media(kind, 0, 1, proto, tuple(formats)) for kind, proto, formats in data["places"]]
        holder = next((name for name in legs if name != "a"), "")
        session = MediaSession(tuple(streams))
        return cls(data["call"], policy, policy.allowed, session, places, legs, holder=holder)


def codec_decision(line: Line, policy: MediaPolicy) -> Decision:
    """What the list of codecs took away."""
    compared = (
        ("offered", ", ".join(dict.fromkeys((*(codec.name for codec in line.codecs), *line.removed)))),
        ("allowed", ", ".join(policy.codecs or ())),
    )
    return Decision("codec", "media.codecs", compared, "removed " + ", ".join(dict.fromkeys(line.removed)))
