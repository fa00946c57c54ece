"""Where SDP meets media: the verbs of the rtpengine ng protocol on one call (design.md s.3)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from random import getrandbits
from typing import Any

from config.model import Config
from media.ports import PoolExhausted, PortPool
from media.relay import (
    BindFailed,
    Closed,
    Layer,
    PortPair,
    Relay,
    RelayEvent,
    Side,
    SourceLocked,
    Withheld,
)
from media.session import Stream
from sbc.call_media import CallMedia, LegSdp, MediaLine, MediaReport
from sbc.decisions import Decision
from sbc.exchange import (
    Earlier,
    Exchange,
    Party,
    Plan,
    join,
    muxed,
    origin_of,
    side_of,
    written,
)
from sbc.media_policy import MediaPolicy
from sbc.media_ports import MediaPorts
from sbc.streams import ADVERTISED, Streams
from signaling.errors import ParseError, PeerError, UsageError
from signaling.sdp.offer_answer import (
    Line,
    Refusal,
    Use,
    describe,
    disabled,
)
from signaling.sdp.parser import parse
from signaling.sdp.rewrite import Section
from signaling.sdp.session import Media, normal_host

__all__ = ["ADVERTISED", "LocalAnchor", "MediaLine", "MediaReport", "Party"]


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
        self.streams = Streams(self._ports, relay)
        self._session_id = session_id
        self._ids = count(1)
        self._calls: dict[str, CallMedia] = {}
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
        self.streams.configure(policy)

    def __len__(self) -> int:
        """Calls with media, those included whose final counters are awaited."""
        return len(self._calls) + len(self.streams)

    def ports_in_use(self) -> int:
        """Port pairs that are handed out."""
        return self._ports.in_use()

    # -- the verbs -----------------------------------------------------------------------------------------

    def reserve(self, call: str, caller: Party, callee: Party) -> None:
        """Ports for the offer that `callee` makes when it answers (RFC 3261 s.13.2.1): a pair for each side.

        Whether there are any has to be known before it rings. What its offer wants beyond them is taken with that.
        """
        state = self._state(call)
        for party in (caller, callee):
            if party.leg in state.reserved or (0, side_of(party.leg)) in state.kept:
                continue
            address = state.address(party)
            if address is None:
                raise UsageError(f"no media address on network {party.network}")
            try:
                state.reserved[party.leg] = self.streams.take_ports(address.pool)
            except PoolExhausted as error:
                raise self._exhausted(state, error) from error

    def offer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """An offer from `source`, rewritten for `target`. The session in force stays until the answer.

        Offered to several targets, each that is not dropped may answer: what is in force is the latest answer.
        """
        session = parse(sdp)
        state = self._state(call)
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
        state.admit(source, lines)
        if pending is not None:
            if pending.source.leg == source.leg and pending.target.leg != target.leg:
                state.set_aside(pending)
            else:
                self._abandon(state, pending, side_of(source.leg))
        self._use_reserved(state, lines, source, target)
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
        self._leg(state, target.leg)
        return state.write(target, session, sections)

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
            return leg.told()
        try:
            session = parse(sdp)
            answers = describe(session, state.allowed)
        except ParseError as error:
            # RFC 3261 s.21.5.3: whoever offered did nothing wrong.
            raise PeerError(502, f"Bad answer: {error.reason}", error.rule) from error
        if len(answers) > len(exchange.lines):
            raise PeerError(502, "Bad answer: more m= lines than offered", "sdp-line-count")
        state.admit(source, answers)
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
        self.streams.refuse_loops(state, streams)
        self.streams.apply(state, state.limited(streams))
        exchange.answered = True
        state.holder = source.leg if side_of(source.leg) == "b" else target.leg
        state.places = [
            Media(media.kind, media.port, media.count, media.proto, media.formats)
            for media in (line.media for line in exchange.lines)
        ]
        offerer.remember(exchange.session, exchange.lines)
        answerer.remember(session, answers)
        return state.write(target, session, sections[: exchange.asked])

    def reject(self, call: str) -> None:
        """The pending offer was refused: what was in force stays, what was new is freed."""
        state = self._calls.get(call)
        if state is None:
            return
        exchange = state.exchange
        if exchange is None and len(state.branches) == 1:
            exchange = state.resume(next(iter(state.branches)))  # all others it was made to have been dropped
        if exchange is not None and not exchange.answered:
            self._ports.free(exchange.fresh)
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
        if state is not None:
            self.streams.listen_anew(state)

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
            self.streams.apply(state, session)

    def drop(self, call: str, leg: str) -> None:
        """This leg of side b will not come to be (failover, forking): free what was made for it alone."""
        state = self._calls.get(call)
        if state is None:
            return
        if leg in state.reserved:
            self._ports.free((state.reserved.pop(leg),))
        if state.legs.pop(leg, None) is None:
            return
        branch, exchange = state.branches.pop(leg, None), state.exchange
        if branch is not None:
            self._ports.free(branch.fresh)
        if exchange is not None and leg in (exchange.source.leg, exchange.target.leg):
            self._abandon(state, exchange, "a")
        if leg == state.holder and any(state.session):
            self.streams.apply(state, state.session.muted("b"))

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
        self._ports.free(state.reserved.values())
        state.exchange, state.kept, state.branches, state.reserved = None, {}, {}, {}
        return self.streams.end(state)

    def query(self, call: str) -> MediaReport:
        """The lines of the call as they are now, without counters."""
        state = self._calls.get(call)
        return MediaReport(()) if state is None else state.report()

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
        self.streams.reopen(state)

    def take_report(self, call: str) -> MediaReport:
        """The last report of a call that is over, streams included that it had left before; given once."""
        return self.streams.take_report(call)

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
                return self.streams.closed(event)
            case SourceLocked() | BindFailed() | Layer() | Withheld():
                state = self._calls.get(event.call)
                if state is not None:
                    state.told(event)
        return ()

    def reap(self, call: str, now: float) -> bool:
        """Wait no longer for the relay to close the streams of a call; returns whether any was awaited."""
        return self.streams.reap(call, now)

    # -- parts of an offer ---------------------------------------------------------------------------------

    def _plan(
        self, state: CallMedia, place: int, line: Line, source: Party, target: Party, fresh: set[PortPair]
    ) -> Plan:
        """The stream for an offered line and its ports: those in force where they fit, else new ones."""
        stream = state.session[place]
        if stream is not None and stream.kind != line.use:
            stream = None
        vacant = state.replaced(source, target)
        pairs: dict[Side, PortPair] = {}
        hosts: dict[Side, str] = {}
        for party, own in ((source, line), (target, None)):
            address = state.address(party, own)
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
                pair = self.streams.take_ports(address.pool)
                fresh.add(pair)
            pairs[side] = pair
        return Plan(next(self._ids) if stream is None else stream.id, pairs, hosts)

    def _use_reserved(self, state: CallMedia, lines: list[Line], source: Party, target: Party) -> None:
        """The first line of an offer gets what was reserved for it."""
        if not state.reserved:
            return
        place = next((place for place, line in enumerate(lines) if line.usable), 0)
        for party in (source, target):
            pair = state.reserved.pop(party.leg, None)
            if pair is not None and state.kept.setdefault((place, side_of(party.leg)), pair) is not pair:
                self._ports.free((pair,))

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

    def _state(self, call: str) -> CallMedia:
        state = self._calls.get(call)
        if state is None:
            state = self._calls[call] = CallMedia(call, self._policy, self._allowed)
        return state

    def _leg(self, state: CallMedia, name: str) -> LegSdp:
        leg = state.legs.get(name)
        if leg is None:
            leg = state.legs[name] = LegSdp(self._session_id())
        return leg
