"""A call: two legs and what passes between them (RFC 3261 s.6, RFC 7092).

The caller's leg is "a"; each target that is tried gets a leg "b1", "b2", ... and the last one is the other
side of the call. An event of one leg is delivered to the other after its SDP, if any, has crossed the border:
the `Cross` effect asks for that, `crossed` and `not_crossed` answer it, at once or later. While an answer is
outstanding everything else waits in order, so that events never overtake each other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Literal, Protocol, assert_never

from config.frozen import frozen
from signaling.errors import PeerError
from signaling.events import (
    Answered,
    Confirmed,
    Event,
    InformAnswered,
    Informed,
    Offered,
    Progressed,
    Redirected,
    Rejected,
    Released,
    UpdateAccepted,
    UpdateCancelled,
    Updated,
    UpdateRejected,
)
from signaling.exchange import Effect as LegEffect
from signaling.exchange import Ended, Raise, crossing_status
from signaling.exchange import State as LegState
from signaling.leg import Leg
from signaling.topology import Carried, clean_user, reason_phrase
from signaling.uri import SipUri, TelUri, parse_uri

EARLY_PER_LEG = 16
# A full port pool has room again as soon as somebody hangs up (RFC 3261 s.20.33).
RETRY_AFTER_S = 5


class Target(Protocol):
    """One place to send the call to, as policy chose it."""

    @property
    def trunk(self) -> str:
        """Its name for people."""

    @property
    def failover_on(self) -> frozenset[int]:
        """Final answers that make the call go on to the next target."""

    @property
    def redirects(self) -> str:
        """ "follow" or "pass" for 3xx answers."""


class State(Enum):
    """Where a call stands."""

    ROUTING = "routing"
    CALLING = "calling"
    UP = "up"
    OVER = "over"


@frozen
class OnLeg:
    """An effect of one leg."""

    leg: Leg
    effect: LegEffect


@frozen
class Dial:
    """Make the leg `name` towards `target` with what was offered; answered by `dialled` or `not_dialled`."""

    name: str
    target: Target
    offered: Offered


@frozen
class Cross:
    """Rewrite `sdp`, an offer or an answer of `source`, for `target`."""

    kind: Literal["offer", "answer"]
    source: Leg
    target: Leg
    sdp: bytes


@frozen
class RejectOffer:
    """The offer that crossed last was refused: the media session in force stays."""


@frozen
class SettleMedia:
    """The answer that crossed last was the final one: nothing more is kept for another."""


@frozen
class DropLeg:
    """The media made for this leg is not needed."""

    name: str


@frozen
class Follow:
    """A 3xx is to be followed: turn its contacts into targets; answered by `begin` or `refuse`."""

    target: Target
    contacts: tuple[str, ...]


@frozen
class Milestone:
    """Something for the call's record: "ringing", "answered", or how a target ended ("tried")."""

    what: Literal["ringing", "answered", "tried"]
    leg: str
    status: int = 0
    reason: str = ""
    rule: str = ""
    retry_after_s: int | None = None


@frozen
class Finished:
    """The call is over; the legs may still have goodbyes to say. `by` is "a", "b" or "sbc"."""

    by: str
    cause: str
    text: str
    status: int


@frozen
class Gone:
    """No leg is left: forget the call."""


Effect = OnLeg | Dial | Cross | RejectOffer | SettleMedia | DropLeg | Follow | Milestone | Finished | Gone


@frozen
class Crossing:
    """An event on its way over the border."""

    event: Event
    cross: Cross


class Call:
    """Two legs joined. Inputs return effects in order."""

    __slots__ = (
        "a",
        "attempt",
        "b",
        "crossing",
        "deadline",
        "id",
        "late",
        "legs",
        "max_call_s",
        "offered",
        "redirected",
        "state",
        "target",
        "targets",
        "updating",
        "waiting",
    )

    def __init__(self, call_id: str, a: Leg, offered: Offered, max_call_s: float) -> None:
        self.id = call_id
        self.a = a
        self.b: Leg | None = None
        self.legs: list[Leg] = [a]
        self.offered: Offered | None = offered
        self.state = State.ROUTING
        self.targets: deque[Target] = deque()
        self.target: Target | None = None
        self.attempt = 0
        self.redirected = 0
        self.late = offered.sdp is None
        self.updating: Updated | None = None
        self.crossing: Crossing | None = None
        self.waiting: deque[tuple[Leg, Event]] = deque()
        self.max_call_s = max_call_s
        self.deadline: float | None = None

    # -- inputs --------------------------------------------------------------------------------------------

    def begin(self, targets: Sequence[Target], now: float) -> list[Effect]:
        """Policy has chosen: try `targets` in order, those of a redirect before those that were left."""
        if self.state not in (State.ROUTING, State.CALLING):
            return []
        self.targets.extendleft(reversed(targets))
        self.state = State.CALLING
        return self._next_target(now)

    def refuse(self, rejected: Rejected, now: float, by: str = "sbc") -> list[Effect]:
        """Policy refuses the call, or no target is left."""
        if self.state is State.OVER:
            return []
        effects = self._to_leg(self.a, rejected, now)
        return [*effects, *self._finish(by, rejected.rule, rejected.reason, rejected.status)]

    def not_followed(self, now: float) -> list[Effect]:
        """The redirect that `Follow` asked for leads nowhere."""
        if self.state is not State.CALLING:
            return []
        if self.targets:
            return self._next_target(now)
        return self.refuse(Rejected(480, "Temporarily Unavailable", "redirect-unusable"), now)

    def dialled(self, leg: Leg, effects: Sequence[LegEffect], now: float) -> list[Effect]:
        """The leg that `Dial` asked for."""
        if self.state is not State.CALLING:
            return []
        self.b = leg
        self.legs.append(leg)
        return self.on_leg(leg, effects, now)

    def not_dialled(self, error: PeerError, now: float) -> list[Effect]:
        """The leg that `Dial` asked for cannot be made."""
        retry_s = error.retry_after_s or (RETRY_AFTER_S if error.status == 503 else None)
        rejected = Rejected(error.status, error.reason, error.rule, retry_after_s=retry_s)
        return self._target_failed(rejected, now, local=True)

    def crossed(self, sdp: bytes, now: float) -> list[Effect]:
        """The SDP of the outstanding `Cross`, rewritten."""
        crossing = self.crossing
        if crossing is None:
            return []
        self.crossing = None
        effects: list[Effect] = []
        if isinstance(crossing.event, Answered):
            effects.append(Milestone("answered", crossing.cross.source.name, 200, "OK"))
        if crossing.cross.kind == "answer" and not isinstance(crossing.event, Progressed):
            effects.append(SettleMedia())
        effects.extend(self._deliver(crossing.cross.target, with_sdp(crossing.event, sdp), now))
        return [*effects, *self._go_on(now)]

    def not_crossed(self, error: PeerError, now: float) -> list[Effect]:
        """The SDP of the outstanding `Cross` cannot be used."""
        crossing = self.crossing
        if crossing is None:
            return []
        self.crossing = None
        return [*self._uncrossable(crossing, error, now), *self._go_on(now)]

    def on_leg(self, leg: Leg, effects: Sequence[LegEffect], now: float) -> list[Effect]:
        """What an input to `leg` caused: events go to the other leg, the rest to the wire."""
        out: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Raise):
                if self.crossing is not None:
                    self.waiting.append((leg, effect.event))
                else:
                    out.extend(self._event(leg, effect.event, now))
            else:
                out.append(OnLeg(leg, effect))
                if isinstance(effect, Ended):
                    out.extend(self._leg_ended(leg))
        return out

    def hang_up(self, cause: str, text: str, now: float) -> list[Effect]:
        """End the call from here: both sides are told."""
        if self.state is State.OVER:
            return []
        if self.state is not State.UP:
            return self._give_up(Rejected(503, "Service Unavailable", cause), text, now)
        released = Released(cause, text, reason_of(cause))
        effects = [effect for leg in self._joined() for effect in self._to_leg(leg, released, now)]
        return [*effects, *self._finish("sbc", cause, text, 200)]

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        times = [at for leg in self.legs if (at := leg.next_timer()) is not None]
        if self.deadline is not None:
            times.append(self.deadline)
        return min(times) if times else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Do what is due, in the legs and in the call."""
        out: list[Effect] = []
        for leg in list(self.legs):
            effects = leg.handle_timer(now)
            if effects:
                out.extend(self.on_leg(leg, effects, now))
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            out.extend(self.hang_up("max-duration", f"longer than {self.max_call_s:g} s", now))
        return out

    # -- what passes ---------------------------------------------------------------------------------------

    def _event(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        if self.state is State.OVER:
            return []
        if leg is self.a:
            return self._from_a(event, now)
        if leg is self.b:
            return self._from_b(leg, event, now)
        return []  # a target that was given up

    def _from_a(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Released):
            if self.state is State.UP:
                return self._released(self.a, event, now)
            effects = [] if self.b is None else self._to_leg(self.b, event, now)
            return [*effects, *self._finish("a", event.cause, event.text, 487)]
        if isinstance(event, Confirmed):
            self.offered = None
            if event.sdp is not None and self.b is not None:
                return self._cross("answer", self.a, self.b, event, event.sdp, now)
            return [] if self.b is None else self._to_leg(self.b, event, now)
        if self.b is None:
            return self._unready(event, now)
        return self._inside(self.a, self.b, event, now)

    def _from_b(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        match event:
            case Progressed():
                if self.attempt > 1:
                    event = replace(event, early=event.early + EARLY_PER_LEG * (self.attempt - 1))
                effects: list[Effect] = [Milestone("ringing", leg.name, event.status, event.reason)]
                if event.sdp is not None:
                    return [*effects, *self._cross("answer", leg, self.a, event, event.sdp, now)]
                return [*effects, *self._to_leg(self.a, event, now)]
            case Answered():
                if self.attempt > 1:
                    event = replace(event, early=event.early + EARLY_PER_LEG * (self.attempt - 1))
                self.state = State.UP
                self.targets.clear()
                self.deadline = now + self.max_call_s if self.max_call_s else None
                if event.sdp is None:
                    return []  # a leg answers with SDP or not at all
                kind: Literal["offer", "answer"] = "offer" if self.late else "answer"
                return self._cross(kind, leg, self.a, event, event.sdp, now)
            case Rejected():
                return self._target_failed(event, now)
            case Redirected():
                return self._redirected(event, now)
            case Released():
                if self.state is State.UP:
                    return self._released(leg, event, now)
                return self._target_failed(Rejected(480, "Temporarily Unavailable", event.cause), now)
            case _:
                return self._inside(leg, self.a, event, now)

    def _inside(self, source: Leg, other: Leg, event: Event, now: float) -> list[Effect]:
        """An event of an established call; the same in both directions."""
        match event:
            case Updated():
                if self.updating is not None:
                    pending = UpdateRejected(491, "Request Pending", "glare")
                    return self._to_leg(source, pending, now)
                self.updating = event
                if event.sdp is not None:
                    return self._cross("offer", source, other, event, event.sdp, now)
                return self._to_leg(other, event, now)
            case UpdateAccepted():
                asked, self.updating = self.updating, None
                if event.sdp is None:
                    return self._to_leg(other, event, now)
                kind: Literal["offer", "answer"] = "offer" if asked is None or asked.sdp is None else "answer"
                return self._cross(kind, source, other, event, event.sdp, now)
            case UpdateRejected():
                asked, self.updating = self.updating, None
                effects: list[Effect] = [RejectOffer()] if asked is not None and asked.sdp is not None else []
                return [*effects, *self._to_leg(other, event, now)]
            case Confirmed():
                if event.sdp is not None:
                    return self._cross("answer", source, other, event, event.sdp, now)
                return self._to_leg(other, event, now)
            case UpdateCancelled() | Informed() | InformAnswered():
                return self._to_leg(other, event, now)
            case _:
                return []

    def _unready(self, event: Event, now: float) -> list[Effect]:
        """The caller asks for something inside a dialog whose other side is not there yet."""
        if isinstance(event, Informed):
            answer = InformAnswered(event.number, 480, "Temporarily Unavailable")
            return self._to_leg(self.a, answer, now)
        if isinstance(event, Updated):
            return self._to_leg(self.a, UpdateRejected(491, "Request Pending", "glare"), now)
        return []

    def _cross(
        self, kind: Literal["offer", "answer"], source: Leg, target: Leg, event: Event, sdp: bytes, now: float
    ) -> list[Effect]:
        cross = Cross(kind, source, target, sdp)
        self.crossing = Crossing(event, cross)
        return [cross]

    def _go_on(self, now: float) -> list[Effect]:
        out: list[Effect] = []
        while self.waiting and self.crossing is None:
            leg, event = self.waiting.popleft()
            out.extend(self._event(leg, event, now))
        return out

    def _deliver(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        if self.state is State.OVER:
            return []
        return self._to_leg(leg, event, now)

    def _to_leg(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        return self.on_leg(leg, leg.deliver(event, now), now)

    def _uncrossable(self, crossing: Crossing, error: PeerError, now: float) -> list[Effect]:
        event, source = crossing.event, crossing.cross.source
        match event:
            case Progressed():
                # Early media that we cannot use is no reason to lose the call: ring without it.
                return self._deliver(crossing.cross.target, replace(event, sdp=None), now)
            case Updated():
                self.updating = None
                rejected = UpdateRejected(error.status, error.reason, error.rule)
                return self._to_leg(source, rejected, now)
            case Answered():
                self.state = State.CALLING
                effects = self._to_leg(source, Released(error.rule, error.reason), now)
                return [*effects, *self.refuse(Rejected(error.status, error.reason, error.rule), now)]
            case UpdateAccepted() | Confirmed():
                # One side already has the new session and the other cannot: no session is left to keep.
                return self.hang_up(error.rule, error.reason, now)
            case _:
                return []

    # -- targets -------------------------------------------------------------------------------------------

    def _next_target(self, now: float) -> list[Effect]:
        if not self.targets or self.offered is None:
            return self.refuse(Rejected(503, "Service Unavailable", "no-target"), now)
        self.target = self.targets.popleft()
        self.attempt += 1
        self.b = None
        return [Dial(f"b{self.attempt}", self.target, self.offered)]

    def _target_failed(self, event: Rejected, now: float, local: bool = False) -> list[Effect]:
        name = f"b{self.attempt}"
        tried = Milestone("tried", name, event.status, event.reason, event.rule, event.retry_after_s)
        out: list[Effect] = [tried, DropLeg(name)]
        target = self.target
        if self.targets and target is not None:
            unreachable = event.rule in ("server-timeout", "server-unreachable")
            if unreachable or event.status in target.failover_on:
                return [*out, *self._next_target(now)]
        if event.status in (401, 407):
            # The challenge is between the trunk and us; the caller has no credentials for it.
            event = Rejected(403, "Forbidden", "trunk-wants-credentials")
        elif (status := crossing_status(event.status)) != event.status:
            event = replace(event, status=status, reason=reason_phrase(status))
        if self.state is State.UP:
            self.state = State.CALLING
        return [*out, *self.refuse(event, now, "sbc" if local or event.rule != "peer-rejected" else "b")]

    def _redirected(self, event: Redirected, now: float) -> list[Effect]:
        target = self.target
        name = f"b{self.attempt}"
        if target is not None and target.redirects == "follow" and self.redirected < 5:
            self.redirected += 1
            tried = Milestone("tried", name, event.status, event.reason, "redirected")
            return [tried, DropLeg(name), Follow(target, event.contacts)]
        out: list[Effect] = [
            Milestone("tried", name, event.status, event.reason, "peer-redirected"),
            DropLeg(name),
        ]
        users = tuple(user for contact in event.contacts if (user := user_of(contact)))
        out.extend(self._to_leg(self.a, replace(event, contacts=(), users=users), now))
        return [*out, *self._finish("b", "peer-redirected", event.reason, event.status)]

    def _give_up(self, rejected: Rejected, text: str, now: float) -> list[Effect]:
        out: list[Effect] = []
        if self.b is not None:
            out.extend(self._to_leg(self.b, Released(rejected.rule, text), now))
        return [*out, *self.refuse(rejected, now)]

    # -- the end -------------------------------------------------------------------------------------------

    def _released(self, source: Leg, event: Released, now: float) -> list[Effect]:
        other = self.b if source is self.a else self.a
        if event.cause != "bye" and not event.carried.fields:
            event = replace(event, carried=reason_of(event.cause))
        out = [] if other is None else self._to_leg(other, event, now)
        by = "sbc" if event.cause != "bye" else "a" if source is self.a else "b"
        return [*out, *self._finish(by, event.cause, event.text, 200)]

    def _finish(self, by: str, cause: str, text: str, status: int) -> list[Effect]:
        if self.state is State.OVER:
            return []
        self.state = State.OVER
        self.deadline = None
        self.offered = None
        self.crossing = None
        self.waiting.clear()
        self.targets.clear()
        out: list[Effect] = [Finished(by, cause, text, status)]
        if not self.legs:
            out.append(Gone())
        return out

    def _leg_ended(self, leg: Leg) -> list[Effect]:
        if leg in self.legs:
            self.legs.remove(leg)
        return [Gone()] if not self.legs and self.state is State.OVER else []

    def _joined(self) -> list[Leg]:
        return [leg for leg in (self.a, self.b) if leg is not None]

    # -- written down --------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether the call is established and nothing is under way: it can be written down."""
        return (
            self.state is State.UP
            and self.crossing is None
            and self.updating is None
            and all(
                leg.state is LegState.UP and leg.asked is None and leg.served is None for leg in self.legs
            )
        )

    def snapshot(self, now: float) -> dict[str, Any]:
        """An established call as plain data (design.md s.4.4)."""
        return {
            "id": self.id,
            "legs": [leg.snapshot() for leg in self._joined()],
            "remaining_s": None if self.deadline is None else self.deadline - now,
            "max_call_s": self.max_call_s,
        }

    @classmethod
    def restore(cls, data: dict[str, Any], a: Leg, b: Leg, now: float) -> "Call":
        """The call that `snapshot` wrote, on legs that were restored before."""
        call = cls.__new__(cls)
        call.id = data["id"]
        call.a, call.b, call.legs = a, b, [a, b]
        call.offered, call.state, call.late = None, State.UP, False
        call.targets, call.target, call.attempt, call.redirected = deque(), None, 1, 0
        call.updating, call.crossing, call.waiting = None, None, deque()
        call.max_call_s = data["max_call_s"]
        remaining = data["remaining_s"]
        call.deadline = None if remaining is None else now + remaining
        return call


# What the peers are told of why we end a call (RFC 3326), by ITU-T Q.850 s.2.2.7: the nearest cause there is.
_Q850 = {
    "bug": (41, "Temporary failure"),
    "drain": (16, "Normal call clearing"),
    "operator": (16, "Normal call clearing"),
    "max-duration": (31, "Normal, unspecified"),
    "peer-lost": (27, "Destination out of order"),
}
_TIMER_EXPIRED = (102, "Recovery on timer expiry")


def reason_of(cause: str) -> Carried:
    """The Reason of a BYE that we send for `cause`; a timer of ours unless the table says otherwise."""
    number, text = _Q850.get(cause, _TIMER_EXPIRED)
    return Carried((("Reason", f'Q.850;cause={number};text="{text}"'),))


def user_of(text: str) -> str:
    """The user part of a URI, empty where it has none or is none."""
    try:
        uri = parse_uri(text)
    except PeerError:
        return ""
    user = uri.user if isinstance(uri, SipUri) else uri.number if isinstance(uri, TelUri) else ""
    return clean_user(user, (uri.host.lower(),) if isinstance(uri, SipUri) else ())


def with_sdp(event: Event, sdp: bytes) -> Event:
    """The event with its SDP rewritten."""
    match event:
        case Progressed() | Answered() | Confirmed() | Updated() | UpdateAccepted() | Offered():
            return replace(event, sdp=sdp)
        case Rejected() | Redirected() | UpdateRejected() | UpdateCancelled():
            return event
        case Informed() | InformAnswered() | Released():
            return event
        case _:
            assert_never(event)
