"""Where SDP meets media: the verbs of the rtpengine ng protocol on one call (design.md s.3)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from random import getrandbits
from typing import Any, Protocol, assert_never

from config.frozen import frozen
from config.model import Config
from media.ports import PoolExhausted, PortPool
from media.relay import (
    BindFailed,
    Closed,
    Counters,
    End,
    Layer,
    PortPair,
    Relay,
    RelayEvent,
    Side,
    SourceLocked,
    StreamCounters,
    Withheld,
)
from media.session import Change, Close, Limit, Limits, MediaSession, Open, Stream
from sbc.decisions import Decision
from sbc.exchange import (
    CallMedia,
    Earlier,
    Exchange,
    LegSdp,
    MediaLine,
    Party,
    Plan,
    codec_decision,
    join,
    muxed,
    origin_of,
    remember,
    side_of,
    written,
)
from sbc.media_loops import MediaLoops
from sbc.media_policy import MediaAddress, MediaPolicy
from sbc.media_ports import MediaPorts
from signaling.errors import ParseError, PeerError, UsageError
from signaling.flow import host_port
from signaling.sdp.offer_answer import (
    Line,
    Refusal,
    Use,
    describe,
    direction,
    disabled,
    session_bandwidth,
)
from signaling.sdp.parser import parse
from signaling.sdp.rewrite import Section, body_after_origin, complete
from signaling.sdp.session import Media, Session, normal_host

__all__ = ["Anchor", "LocalAnchor", "MediaLine", "MediaReport", "Party"]

ADVERTISED = "networks.advertise"
"""The rule of the decision that tells a party another address than the one that we listen on."""

# Streams that a call has left behind (T.38 after audio) stay in its report, the latest of them.
MAX_PAST = 32
# Each takes two pairs of ports; nobody needs more than audio, video, slides, text and fax.
MAX_STREAMS = 8


@frozen
class MediaReport:
    """What the media of a call looks like; `counters` in the order of `lines`, empty until the relay answered."""

    lines: tuple[MediaLine, ...]
    counters: tuple[StreamCounters, ...] = ()


class Anchor(Protocol):
    """SDP in, SDP out. Raises PeerError (488, 503, 400) with the reason; then nothing has changed."""

    def offer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """An offer from `source`, rewritten for `target`. The session in force stays until the answer."""

    def answer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """The answer of `source` to the pending offer of `target`, rewritten for `target`; now in force."""

    def reject(self, call: str) -> None:
        """The pending offer was refused: what was in force stays, what was new is freed."""

    def moved(self, call: str, leg: str, before: str, after: str) -> None:
        """The party of `leg` is at host `after` from now on, as its signalling has proven."""

    def drop(self, call: str, leg: str) -> None:
        """This leg will not come to be (failover): free what was made for it alone."""

    def delete(self, call: str) -> None:
        """The call is over. Final counters come with the relay's `Closed` events."""

    def query(self, call: str) -> MediaReport:
        """The lines of the call as they are now, without counters."""

    def take_decisions(self, call: str) -> list[Decision]:
        """The choices made since the last call of this (codec, nat, media), to be added to the record."""


class LocalAnchor:
    """The anchor whose relay is in this process.

    Ports are taken with the offer. Streams open with the first answer: before it the answerer's address is not
    known and nothing could be forwarded (design.md s.4.6).

    `clock` gives monotonic seconds, for the quarantine of ports; `session_id` the number in our o= lines.
    """

    def __init__(
        self,
        pool: PortPool,
        relay: Relay,
        policy: MediaPolicy,
        clock: Callable[[], float],
        session_id: Callable[[], int] = lambda: getrandbits(31),
    ) -> None:
        self._ports = MediaPorts(pool, clock)
        self._relay = relay
        self._session_id = session_id
        self._ids = count(1)
        self._calls: dict[str, CallMedia] = {}
        self._ending: dict[str, CallMedia] = {}
        self._closing: dict[int, CallMedia] = {}
        self._loops = MediaLoops(self._ports)
        self.configure(policy)

    @classmethod
    def of_config(
        cls, config: Config, pool: PortPool, relay: Relay, clock: Callable[[], float]
    ) -> "LocalAnchor":
        """An anchor for a configuration; `pool` has the ranges of `sbc.media_policy.media_ranges`."""
        return cls(pool, relay, MediaPolicy.of_config(config), clock)

    def configure(self, policy: MediaPolicy) -> None:
        """The policy for calls to come."""
        self._policy = policy
        self._allowed = policy.allowed
        self._loops.configure(policy)

    def __len__(self) -> int:
        """Calls with media, those included whose final counters are awaited."""
        return len(self._calls) + len(self._ending)

    def ports_in_use(self) -> int:
        """Port pairs that are handed out."""
        return self._ports.in_use()

    # -- the verbs -----------------------------------------------------------------------------------------

    def offer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """An offer from `source`, rewritten for `target`. The session in force stays until the answer.

        Offered to several targets, each that is not dropped may answer: what is in force is the latest answer.
        """
        session = parse(sdp)
        state = self._calls.get(call)
        if state is None:
            state = self._calls[call] = CallMedia(call, self._policy, self._allowed)
        pending = state.exchange
        if state.branches:
            pending = state.resume(target.leg if side_of(source.leg) == "a" else source.leg)
        if pending is not None and not pending.answered and pending.source.leg != source.leg:
            raise PeerError(491, "Request Pending", "glare")
        lines = describe(session, state.allowed)
        asked = len(lines)
        if any(state.session.streams[asked:]):
            # RFC 3264 s.8: lines are disabled, never removed.
            raise PeerError(488, "The offer leaves out an m= line that is in use", "sdp-line-count")
        # Who answered without the lines that it did not want goes on without them; the other side has them still.
        lines.extend(Line(replace(media, port=0), Use.DISABLED) for media in state.places[asked:])
        self._admit(state, source, lines)
        if pending is not None:
            if pending.source.leg == source.leg and pending.target.leg != target.leg:
                state.set_aside(pending)
            else:
                self._abandon(state, pending, side_of(source.leg))
        fresh: set[PortPair] = set()
        try:
            plans = [
                self._plan(state, place, line, source, target, fresh) if line.usable else None
                for place, line in enumerate(lines)
            ]
        except PoolExhausted as error:
            self._ports.free(fresh)
            if pending is not None:
                state.resume(pending.target.leg)  # whoever was asked before may still answer
            raise self._exhausted(state, error) from error
        # What was kept and is used again belongs to this exchange now, the rest to nobody.
        if state.kept:
            used = {pair for plan in plans if plan is not None for pair in plan.pairs.values()}
            fresh.update(pair for pair in state.kept.values() if pair in used)
            self._ports.free(pair for pair in state.kept.values() if pair not in used)
            state.kept.clear()

        side = side_of(target.leg)
        mux = [line.rtcp_mux or muxed(state.session[place], side) for place, line in enumerate(lines)]
        state.exchange = Exchange(source, target, session, asked, lines, plans, mux, fresh)
        sections = [
            disabled(line, onward=True) if plan is None else written(line, plan, side, None, use_mux)
            for line, plan, use_mux in zip(lines, plans, mux, strict=True)
        ]
        self._leg(state, source.leg)
        return self._write(state, target, session, sections)

    def answer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """The answer of `source` to the pending offer of `target`, rewritten for `target`; now in force.

        It may come again for the same offer, with other SDP too (another early dialog). SDP that answers
        nothing any more, the 200 after an early answer was followed by an UPDATE, changes nothing (RFC 6337
        s.3.1.1): `target` is told what it was told last.
        """
        state = self._calls.get(call)
        if state is None:
            raise UsageError(f"no offer in call {call}")
        exchange = state.resume(source.leg) if state.branches else state.exchange
        if exchange is None or exchange.source.leg != target.leg or exchange.target.leg != source.leg:
            leg = state.legs.get(target.leg)
            if leg is None or not leg.version:
                raise UsageError(f"no offer of {target.leg} to {source.leg} in call {call}")
            return complete(leg.session_id, leg.version, leg.host, leg.body)
        try:
            session = parse(sdp)
            answers = describe(session, state.allowed)
        except ParseError as error:
            # RFC 3261 s.21.5.3: whoever offered did nothing wrong.
            raise PeerError(502, f"Bad answer: {error.reason}", error.rule) from error
        if len(answers) > len(exchange.lines):
            raise PeerError(502, "Bad answer: more m= lines than offered", "sdp-line-count")
        self._admit(state, source, answers)
        offerer, answerer = state.legs[target.leg], self._leg(state, source.leg)
        renewed = {
            side_of(target.leg): offerer.origin not in (None, origin_of(exchange.session)),
            side_of(source.leg): answerer.origin not in (None, origin_of(session)),
        }
        vacant = state.replaced(source, target)
        streams: list[Stream | None] = []
        sections: list[Section] = []
        refusals: list[Refusal] = []
        for place, offered in enumerate(exchange.lines):
            plan = exchange.plans[place]
            joined = None
            if place < len(answers):
                earlier = Earlier(state.session[place], vacant, renewed)
                joined = join(
                    exchange, place, answers[place], earlier, state.policy.events_up, state.decisions
                )
            if isinstance(joined, Stream) and plan is not None:
                streams.append(joined)
                side = side_of(target.leg)
                sections.append(written(answers[place], plan, side, offered, offered.rtcp_mux))
                continue
            if isinstance(joined, Refusal):
                refusals.append(joined)
            streams.append(None)
            sections.append(disabled(offered, onward=False))
        if refusals and not any(streams):
            raise PeerError(488, refusals[0].reason, refusals[0].rule)
        self._refuse_loops(state, streams)
        self._apply(state, MediaSession(self._limited(state, streams)))
        exchange.answered = True
        state.holder = source.leg if side_of(source.leg) == "b" else target.leg
        state.places = [
            Media(media.kind, media.port, media.count, media.proto, media.formats)
            for media in (line.media for line in exchange.lines)
        ]
        remember(offerer, exchange.session, exchange.lines)
        remember(answerer, session, answers)
        return self._write(state, target, session, sections[: exchange.asked])

    def reject(self, call: str) -> None:
        """The pending offer was refused: what was in force stays, what was new is freed."""
        state = self._calls.get(call)
        if state is not None and state.exchange is not None and not state.exchange.answered:
            self._ports.free(state.exchange.fresh)
            state.exchange = None

    def settle(self, call: str) -> None:
        """The answer in force was the last one: what else was kept for the offer is freed.

        Without it that is done with the next offer or at the end of the call.
        """
        state = self._calls.get(call)
        if state is not None and state.exchange is not None and state.exchange.answered:
            self._ports.free(state.exchange.fresh)
            state.exchange = None

    def listen_anew(self, call: str) -> None:
        """Count silence from now on: what was quiet while the phone rang may yet speak."""
        state = self._calls.get(call)
        for stream in () if state is None else state.session:
            self._relay.limits(stream.id, stream.limits.start_s, stream.limits.silence_s)

    def moved(self, call: str, leg: str, before: str, after: str) -> None:
        """The party of `leg` is at host `after` from now on, as its signalling has proven."""
        state = self._calls.get(call)
        side = side_of(leg)
        if state is None or before == after or (side == "b" and leg != state.holder):
            return
        session = state.session.moved(side, normal_host(before), normal_host(after))
        if session != state.session:
            compared = (("before", before), ("now", after))
            state.decisions.append(Decision("nat", "moved", compared, f"leg {leg}: media is learned anew"))
            self._apply(state, session)

    def drop(self, call: str, leg: str) -> None:
        """This leg of side b will not come to be (failover, forking): free what was made for it alone."""
        state = self._calls.get(call)
        if state is None or state.legs.pop(leg, None) is None:
            return
        branch, exchange = state.branches.pop(leg, None), state.exchange
        if branch is not None:
            self._ports.free(branch.fresh)
        if exchange is not None and leg in (exchange.source.leg, exchange.target.leg):
            self._abandon(state, exchange, "a")
        if leg == state.holder and any(state.session):
            self._apply(state, state.session.muted("b"))

    def delete(self, call: str) -> bool:
        """The call is over: close its streams, free its ports.

        True when final counters are awaited: `relay_event`, at last `reap`, tells that they have come, and
        `take_report` has them. False when there is nothing to wait for.
        """
        state = self._calls.pop(call, None)
        if state is None:
            return False
        if state.exchange is not None:
            self._ports.free(state.exchange.fresh)
        for branch in state.branches.values():
            self._ports.free(branch.fresh)
        self._ports.free(state.kept.values())
        state.exchange, state.kept, state.branches = None, {}, {}
        self._apply(state, MediaSession())
        if not state.closing:
            return False
        self._ending[call] = state
        return True

    def query(self, call: str) -> MediaReport:
        """The lines of the call as they are now, without counters."""
        state = self._calls.get(call)
        if state is None:
            return MediaReport(())
        return MediaReport(tuple(self._media_line(state, stream) for stream in state.session))

    def snapshot(self, call: str) -> dict[str, Any]:
        """What is in force of a call, as plain data (design.md s.4.4). Raises UsageError when there is no such."""
        state = self._calls.get(call)
        if state is None:
            raise UsageError(f"no media of call {call}")
        return state.snapshot()

    def restore(self, data: dict[str, Any]) -> None:
        """Take over the call that `snapshot` wrote: its streams open on the same ports, their sources known."""
        state = CallMedia.restore(data, self._policy, lambda: next(self._ids))
        if state.id in self._calls:
            raise UsageError(f"call {state.id} is here already")
        self._calls[state.id] = state
        for stream in state.session:
            self._ports.claim(stream.a.local)
            self._ports.claim(stream.b.local)
            self._loops.put(stream)
            self._relay.open(stream.learned().spec(state.id, state.policy.window_s))

    def take_report(self, call: str) -> MediaReport:
        """The last report of a call that is over, streams included that it had left before; given once."""
        state = self._ending.get(call)
        if state is None:
            return MediaReport(())
        if not state.closing:
            del self._ending[call]
        lines = tuple(state.past.values())
        nothing = Counters()
        return MediaReport(
            lines,
            tuple(
                state.final.get(line.stream) or StreamCounters(line.stream, call, nothing, nothing)
                for line in lines
            ),
        )

    def take_decisions(self, call: str) -> list[Decision]:
        """The choices made since the last call of this (codec, nat, media), to be added to the record."""
        state = self._calls.get(call)
        if state is None:
            return []
        decisions, state.decisions = state.decisions, []
        return decisions

    # -- what the relay tells ------------------------------------------------------------------------------

    def relay_event(self, event: RelayEvent) -> Sequence[str]:
        """Take note of an event. Returns the calls that are over and whose counters are complete by it."""
        match event:
            case Closed():
                state = self._closing.pop(event.stream, None)
                if state is None:
                    return ()
                if event.stream in state.past:
                    state.final[event.stream] = event.counters
                self._ports.free(state.closing.pop(event.stream))
                return (state.id,) if not state.closing and state.id in self._ending else ()
            case SourceLocked():
                state = self._calls.get(event.call)
                if state is not None:
                    state.session = MediaSession(
                        tuple(
                            stream.locked(event.side, event.source)
                            if stream is not None and stream.id == event.stream
                            else stream
                            for stream in state.session.streams
                        )
                    )
            case BindFailed():
                state = self._calls.get(event.call)
                if state is not None:
                    why = (("stream", str(event.stream)), ("reason", event.reason))
                    state.decisions.append(Decision("media", "media-bind-failed", why, "the stream is deaf"))
            case Layer():
                state = self._calls.get(event.call)
                if state is not None:
                    stream_and_reason = [("stream", str(event.stream))]
                    if event.reason:
                        stream_and_reason.append(("reason", event.reason))
                    where = "the relay process forwards it" if event.reason else "the kernel forwards it"
                    rule = "media-in-relay" if event.reason else "media-in-kernel"
                    state.decisions.append(Decision("media", rule, tuple(stream_and_reason), where))
            case Withheld():
                state = self._calls.get(event.call)
                if state is not None:
                    why = (("leg", event.side), ("address", host_port(event.address)))
                    outcome = "nothing comes from there, and it is not where the SIP comes from: no more media to it"
                    state.decisions.append(Decision("media", "media-withheld", why, outcome))
        return ()

    def reap(self, call: str, now: float) -> bool:
        """Wait no longer for the relay to close the streams of a call; returns whether any was awaited."""
        state = self._ending.get(call)
        if state is None or not state.closing:
            return False
        for stream, pairs in state.closing.items():
            self._closing.pop(stream, None)
            self._ports.free(pairs, now)
        state.closing.clear()
        return True

    # -- parts of an offer ---------------------------------------------------------------------------------

    def _admit(self, state: CallMedia, party: Party, lines: list[Line]) -> None:
        """Refuse the lines that we have no room or address for; 488 when nothing is left."""
        refused: Refusal | None = None
        usable = 0
        for place, line in enumerate(lines):
            if line.removed:
                state.decisions.append(codec_decision(line, state.policy))
            if line.usable:
                if usable == MAX_STREAMS:
                    why = Refusal(f"More than {MAX_STREAMS} streams in one call", "too-many-streams")
                elif self._address(state, party, line) is None:
                    why = Refusal("No media address of that family here", "media-family")
                else:
                    usable += 1
                    continue
                lines[place] = replace(line, use=Use.REFUSED, refusal=why)
            reason = lines[place].refusal
            if reason is not None:
                refused = refused or reason
                what = (("line", f"{place + 1}: {line.media.kind} {line.media.proto}"), ("leg", party.leg))
                state.decisions.append(Decision("media", reason.rule, what, f"refused: {reason.reason}"))
        if refused is not None and not usable:
            raise PeerError(488, refused.reason, refused.rule)

    def _address(self, state: CallMedia, party: Party, line: Line | None = None) -> MediaAddress | None:
        """Our address towards a party: of the family of its line, of what it used last, of its SIP, any."""
        policy = state.policy
        connection = None if line is None else line.connection
        if connection is not None and not (connection.unspecified or connection.named):
            return policy.address(party.network, connection.family)
        leg = state.legs.get(party.leg)
        if leg is not None and leg.family is not None:
            return policy.address(party.network, leg.family)
        family = None if party.peer is None else 6 if ":" in party.peer else 4
        return policy.address(party.network, family) or policy.address(party.network)

    def _plan(
        self, state: CallMedia, place: int, line: Line, source: Party, target: Party, fresh: set[PortPair]
    ) -> Plan:
        """The stream for an offered line and its ports: those in force where they fit, else new ones."""
        stream = state.session[place]
        if stream is not None and stream.kind != line.use.value:
            stream = None
        vacant = state.replaced(source, target)
        pairs: dict[Side, PortPair] = {}
        hosts: dict[Side, str] = {}
        for party, own in ((source, line), (target, None)):
            address = self._address(state, party, own)
            if address is None:
                raise UsageError(f"no media address on network {party.network}")
            side = side_of(party.leg)
            hosts[side] = address.advertised
            pair = None
            if stream is not None and side != vacant:
                pair = stream.end(side).local
            if pair is None or pair.network != address.pool:
                pair = state.kept.get((place, side))
            if pair is None or pair.network != address.pool:
                pair = self._take(address.pool)
                fresh.add(pair)
            pairs[side] = pair
        return Plan(next(self._ids) if stream is None else stream.id, pairs, hosts)

    def _take(self, pool: str) -> PortPair:
        try:
            return self._ports.take(pool)
        except PoolExhausted:
            # A call that has just ended may hold ports until its worker says so. The stream that gets them opens
            # an answer later, a round trip from now: by then they are closed.
            for stream, state in self._closing.items():
                pairs = state.closing[stream]
                for pair in pairs:
                    if pair.network == pool:
                        pairs.remove(pair)
                        self._ports.free((pair,))
                        return self._ports.take(pool)
            raise

    def _exhausted(self, state: CallMedia, error: PoolExhausted) -> PeerError:
        compared = (("pool", error.network), ("pairs", str(self._ports.size(error.network))))
        outcome = f"no port pair is free, {error.resting} rest"
        state.decisions.append(Decision("media", "media-ports-exhausted", compared, outcome))
        return PeerError(503, "No media port is free", "media-ports-exhausted")

    def _abandon(self, state: CallMedia, exchange: Exchange, keep: Side) -> None:
        """Free what an exchange took and no stream uses; what it took for side `keep` stays with the call."""
        state.keep(exchange, keep)
        self._ports.free(exchange.fresh)
        state.exchange = None

    # -- parts of an answer --------------------------------------------------------------------------------

    def _refuse_loops(self, state: CallMedia, streams: list[Stream | None]) -> None:
        """Refuse media that would go round between our own ports (sbc/media_loops.py). What only comes back is
        vouched for: the other call that it belongs to has its own peers, and its own doubts about them."""
        loops = self._loops
        spirals = {
            place: stream
            for place, stream in enumerate(streams)
            if stream is not None and loops.lead_here(stream)
        }
        if not spirals:
            return
        fresh = [stream for stream in streams if stream is not None]
        for stream in fresh:
            loops.put(stream)
        why = next(filter(None, map(loops.objection, fresh)), None)
        for stream in fresh:
            loops.remove(stream.id)
        for stream in state.session:
            loops.put(stream)
        if why is not None:
            raise PeerError(482, f"Media loop: {why}", "media-loop")
        for place, stream in spirals.items():
            ends = [
                end if loops.ours(end.remote) is None or end.remote is None else _vouched(end, end.remote[0])
                for end in (stream.a, stream.b)
            ]
            streams[place] = replace(stream, a=ends[0], b=ends[1])

    def _limited(self, state: CallMedia, streams: list[Stream | None]) -> tuple[Stream | None, ...]:
        """The streams with their silence limits: the first one speaks for the call, since video may rest."""
        policy = state.policy
        for place, stream in enumerate(streams):
            if stream is not None:
                if stream.on_hold:
                    limits = Limits(policy.hold_s, policy.hold_s)
                else:
                    limits = Limits(policy.start_s, policy.silence_s)
                streams[place] = replace(stream, limits=limits)
                break
        return tuple(streams)

    def _apply(self, state: CallMedia, after: MediaSession) -> None:
        """Put a session in force: tell the relay what changes, and who has which ports."""
        commands = state.session.changes(after)
        before, state.session = state.session, after
        fresh = set() if state.exchange is None else state.exchange.fresh
        for command in commands:
            match command:
                case Open(stream):
                    fresh -= {stream.a.local, stream.b.local}
                    line = self._media_line(state, stream)
                    compared = (("a", line.a_signalled), ("b", line.b_signalled), ("codec", line.codec))
                    outcome = f"{line.media} relayed, {line.a_local} towards a, {line.b_local} towards b"
                    state.decisions.append(Decision("media", "RFC 3264 s.6", compared, outcome))
                    for pair, told in ((stream.a.local, line.a_local), (stream.b.local, line.b_local)):
                        if state.policy.advertised(pair) != pair.host:
                            where = (("told", told), ("bound", pair.host))
                            state.decisions.append(
                                Decision("nat", ADVERTISED, where, "another address is advertised")
                            )
                    self._loops.put(stream)
                    self._relay.open(stream.spec(state.id, state.policy.window_s))
                case Change(number, side, end, old):
                    if end.local != old.local:
                        fresh.discard(end.local)
                        retired = state.retired.setdefault(number, [])
                        if end.local in retired:
                            retired.remove(end.local)
                        retired.append(old.local)
                    self._relay.change(number, side, end)
                case Limit(number, limits):
                    self._relay.limits(number, limits.start_s, limits.silence_s)
                case Close(stream):
                    self._close(state, stream)
                case _:
                    assert_never(command)
        for changed in {command.stream for command in commands if isinstance(command, Change)}:
            self._loops.put(next(stream for stream in after if stream.id == changed))
        if state.exchange is not None and any(isinstance(command, Close) for command in commands):
            gone = {stream.id for stream in before} - {stream.id for stream in after}
            plans = state.exchange.plans
            state.exchange.plans = [None if plan is None or plan.id in gone else plan for plan in plans]

    def _close(self, state: CallMedia, stream: Stream) -> None:
        if len(state.past) >= MAX_PAST:
            oldest = next(iter(state.past))
            del state.past[oldest]
            state.final.pop(oldest, None)
        state.past[stream.id] = self._media_line(state, stream)
        state.closing[stream.id] = [stream.a.local, stream.b.local, *state.retired.pop(stream.id, ())]
        self._closing[stream.id] = state
        self._loops.remove(stream.id)
        self._relay.close(stream.id)

    # -- our SDP -------------------------------------------------------------------------------------------

    def _leg(self, state: CallMedia, name: str) -> LegSdp:
        leg = state.legs.get(name)
        if leg is None:
            leg = state.legs[name] = LegSdp(self._session_id())
        return leg

    def _write(self, state: CallMedia, party: Party, session: Session, sections: list[Section]) -> bytes:
        """Our SDP for a leg. RFC 3264 s.8: the version grows by one when anything else has changed."""
        leg = self._leg(state, party.leg)
        host = next((section.host for section in sections if section.port), None)
        if host is None:
            address = self._address(state, party)
            host = "0.0.0.0" if address is None else address.advertised
        body = body_after_origin(host, session_bandwidth(session), sections)
        if body != leg.body:
            leg.host, leg.body = host, body
            leg.version += 1
        return complete(leg.session_id, leg.version, leg.host, leg.body)

    def _media_line(self, state: CallMedia, stream: Stream) -> MediaLine:
        a, b = stream.a, stream.b
        policy = state.policy
        return MediaLine(
            stream.id,
            stream.media,
            stream.codec,
            *stream.signalled,
            host_port((policy.advertised(a.local), a.local.rtp)),
            host_port((policy.advertised(b.local), b.local.rtp)),
            direction(a.receive, b.receive),
            direction(b.receive, a.receive),
        )


def _vouched(end: End, host: str) -> End:
    return replace(end, proven=None if end.proven is None else (*end.proven, host))
