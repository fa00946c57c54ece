"""A call: two legs and what passes between them (RFC 3261 s.6, RFC 7092).

The caller's leg is "a"; each target that is tried gets a leg "b1", "b2", ... and the one that answers is the other
side of the call. Who is tried, and when, is a `Hunt` (`signaling.hunt`). An event of one leg is delivered to the
other after its SDP, if any, has crossed the border: the `Cross` effect asks for that, `crossed` and `not_crossed`
answer it, at once or later. While an answer is outstanding everything else waits in order, so that events never
overtake each other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, Literal

from config.frozen import frozen
from signaling.call_effects import (
    Cross,
    Dial,
    DropLeg,
    Effect,
    Finished,
    Follow,
    Gone,
    Milestone,
    OnLeg,
    RejectOffer,
    SettleMedia,
)
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
    ReleaseAnswered,
    Released,
    UpdateAccepted,
    UpdateCancelled,
    Updated,
    UpdateRejected,
    with_sdp,
)
from signaling.exchange import OTHER_ROLE, Ended, Raise
from signaling.exchange import Effect as LegEffect
from signaling.exchange import State as LegState
from signaling.hunt import Branch, Failure, Hunt, Target
from signaling.identity import user_of
from signaling.leg import Leg
from signaling.reason import ELSEWHERE, reason_of, sip_reason

# A full port pool has room again as soon as somebody hangs up (RFC 3261 s.20.33).
RETRY_AFTER_S = 5
PARTING = (LegState.LEAVING, LegState.RELEASING)


class State(Enum):
    """Where a call stands."""

    ROUTING = "routing"
    CALLING = "calling"
    UP = "up"
    OVER = "over"


@frozen
class Crossing:
    """An event on its way over the border."""

    event: Event
    cross: Cross


class Call:
    """Two legs joined. Inputs return effects in order."""

    __slots__ = (
        "a",
        "b",
        "crossing",
        "deadline",
        "hunt",
        "id",
        "legs",
        "max_call_s",
        "offered",
        "state",
        "updating",
        "waiting",
    )

    def __init__(self, call_id: str, a: Leg, offered: Offered | None, max_call_s: float) -> None:
        self.id = call_id
        self.a = a
        self.b: Leg | None = None
        self.legs: list[Leg] = [a]
        self.offered = offered  # until it is known whom to ask
        self.state = State.ROUTING
        self.hunt: Hunt | None = None  # until somebody has answered
        self.updating: Updated | None = None
        self.crossing: Crossing | None = None
        self.waiting: deque[tuple[Leg, Event]] = deque()
        self.max_call_s = max_call_s
        self.deadline: float | None = None

    # -- inputs --------------------------------------------------------------------------------------------

    def begin(self, targets: Sequence[Target], now: float) -> list[Effect]:
        """Policy has chosen: try `targets`, in their order and groups."""
        if self.state is not State.ROUTING or self.offered is None:
            return []
        self.hunt = hunt = Hunt(targets, self.offered)
        self.offered = None
        self.state = State.CALLING
        return self._ring(hunt, hunt.next_group(now) or hunt.verdict(), now)

    def refuse(self, rejected: Rejected, now: float, by: str = "sbc") -> list[Effect]:
        """Policy refuses the call, or no target is left."""
        if self.state is State.OVER:
            return []
        effects = self._to_leg(self.a, rejected, now)
        return [*effects, *self._finish(by, rejected.rule, rejected.reason, rejected.status)]

    def followed(self, name: str, targets: Sequence[Target], now: float) -> list[Effect]:
        """Where the redirect that `Follow` asked for leads; `targets` come before those that were left."""
        hunt, branch = self.hunt, self._branch(name)
        if hunt is None or branch is None:
            return []
        branch.rest.extendleft(reversed(targets))
        if branch.rest:
            return self._ring(hunt, [hunt.again(branch, now)], now)
        return self._branch_failed(branch, Rejected(480, "Temporarily Unavailable", "redirect-unusable"), now)

    def awaits(self, name: str) -> bool:
        """Whether the leg that `Dial` asked for is still wanted."""
        return self._branch(name) is not None

    def dialled(self, leg: Leg, effects: Sequence[LegEffect], now: float) -> list[Effect]:
        """The leg that `Dial` asked for."""
        branch = self._branch(leg.name)
        if branch is None:
            return [DropLeg(leg.name), OnLeg(leg, Ended())]
        branch.leg = leg
        self.legs.append(leg)
        return self.on_leg(leg, effects, now)

    def not_dialled(self, name: str, error: PeerError, now: float) -> list[Effect]:
        """The leg that `Dial` asked for cannot be made."""
        branch = self._branch(name)
        if branch is None:
            return []
        rejected = Rejected(error.status, error.reason, error.rule, retry_after_s=retry_after_s(error))
        return self._branch_failed(branch, rejected, now, local=True)

    def crossed(self, sdp: bytes, now: float) -> list[Effect]:
        """The SDP of the outstanding `Cross`, rewritten."""
        crossing = self.crossing
        if crossing is None:
            return []
        self.crossing = None
        effects: list[Effect] = []
        answered = isinstance(crossing.event, Answered)
        if answered:
            self.a.role = OTHER_ROLE[crossing.cross.source.role]
            effects.append(Milestone("answered", crossing.cross.source.name, 200, "OK"))
        if crossing.cross.kind == "answer" and not isinstance(crossing.event, Progressed):
            effects.append(SettleMedia())
        effects.extend(self._deliver(crossing.cross.target, with_sdp(crossing.event, sdp), now))
        if answered:
            effects.extend(self._taken(now))
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
            effects = self._release_branches(Released(cause, text), now)
            return [*effects, *self.refuse(Rejected(503, "Service Unavailable", cause), now)]
        released = Released(cause, text, reason_of(cause))
        effects = [effect for leg in self._joined() for effect in self._to_leg(leg, released, now)]
        effects.extend(self._release_branches(released, now))
        return [*effects, *self._finish("sbc", cause, text, 200)]

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        times = [at for leg in self.legs if (at := leg.next_timer()) is not None]
        if self.deadline is not None:
            times.append(self.deadline)
        if self.hunt is not None and (at := self.hunt.next_timer()) is not None:
            times.append(at)
        return min(times) if times else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Do what is due, in the legs and in the call."""
        out: list[Effect] = []
        for leg in list(self.legs):
            effects = leg.handle_timer(now)
            if effects:
                out.extend(self.on_leg(leg, effects, now))
        if self.hunt is not None and self.crossing is None:
            for branch in self.hunt.overdue(now):
                out.extend(self._rung_out(branch, now))
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            out.extend(self.hang_up("max-duration", f"longer than {self.max_call_s:g} s", now))
        return out

    # -- what passes ---------------------------------------------------------------------------------------

    def _event(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        if self.state is State.OVER:
            return self._parting(leg, event, now)
        if leg is self.a:
            return self._from_a(event, now)
        if self.state is State.UP:
            return self._from_b(leg, event, now) if leg is self.b else []
        hunt = self.hunt
        branch = None if hunt is None else hunt.branch_of(leg)
        return [] if hunt is None or branch is None else self._from_branch(hunt, branch, leg, event, now)

    def _from_a(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Released):
            if self.state is State.UP:
                return self._released(self.a, event, now)
            effects = self._release_branches(event, now)
            return [*effects, *self._finish("a", event.cause, event.text, 487)]
        if isinstance(event, Confirmed):
            if event.sdp is not None and self.b is not None:
                return self._cross("answer", self.a, self.b, event, event.sdp)
            return [] if self.b is None else self._to_leg(self.b, event, now)
        if self.b is None:
            return self._unready(event, now)
        return self._inside(self.a, self.b, event, now)

    def _from_b(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Released):
            return self._released(leg, event, now)
        return self._inside(leg, self.a, event, now)

    def _from_branch(self, hunt: Hunt, branch: Branch, leg: Leg, event: Event, now: float) -> list[Effect]:
        match event:
            case Progressed():
                return self._progressed(hunt, branch, leg, event, now)
            case Answered():
                sdp = event.sdp
                if sdp is None:
                    return []  # a leg answers with SDP or not at all
                self.state, self.b = State.UP, leg
                if branch.number > 1:
                    event = replace(event, early=branch.early(event.early))
                kind: Literal["offer", "answer"] = "offer" if hunt.offered.sdp is None else "answer"
                return self._cross(kind, leg, self.a, event, sdp)
            case Rejected():
                return self._branch_failed(branch, event, now)
            case Redirected():
                return self._redirected(hunt, branch, event, now)
            case Informed():
                answer = InformAnswered(event.number, 480, "Temporarily Unavailable")
                return self._to_leg(leg, answer, now)
            case _:
                return []

    def _progressed(
        self, hunt: Hunt, branch: Branch, leg: Leg, event: Progressed, now: float
    ) -> list[Effect]:
        effects: list[Effect] = [Milestone("ringing", leg.name, event.status, event.reason)]
        if branch.number > 1:
            event = replace(event, early=branch.early(event.early))
        if event.sdp is not None:
            if hunt.plays(branch):
                return [*effects, *self._cross("answer", leg, self.a, event, event.sdp)]
            event = replace(event, sdp=None)
        return [*effects, *self._to_leg(self.a, event, now)]

    def _inside(self, source: Leg, other: Leg, event: Event, now: float) -> list[Effect]:
        """An event of an established call; the same in both directions."""
        match event:
            case Updated():
                if self.updating is not None:
                    pending = UpdateRejected(491, "Request Pending", "glare")
                    return self._to_leg(source, pending, now)
                self.updating = event
                if event.sdp is not None:
                    return self._cross("offer", source, other, event, event.sdp)
                return self._to_leg(other, event, now)
            case UpdateAccepted():
                asked, self.updating = self.updating, None
                if event.sdp is None:
                    return self._to_leg(other, event, now)
                kind: Literal["offer", "answer"] = "offer" if asked is None or asked.sdp is None else "answer"
                return self._cross(kind, source, other, event, event.sdp)
            case UpdateRejected():
                asked, self.updating = self.updating, None
                effects: list[Effect] = [RejectOffer()] if asked is not None and asked.sdp is not None else []
                return [*effects, *self._to_leg(other, event, now)]
            case Confirmed():
                if event.sdp is not None:
                    return self._cross("answer", source, other, event, event.sdp)
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
        self, kind: Literal["offer", "answer"], source: Leg, target: Leg, event: Event, sdp: bytes
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
                if self.hunt is not None:
                    self.hunt.early = ""
                return self._deliver(crossing.cross.target, replace(event, sdp=None), now)
            case Updated():
                self.updating = None
                retry_s = retry_after_s(error)
                refused = UpdateRejected(error.status, error.reason, error.rule, retry_after_s=retry_s)
                return self._to_leg(source, refused, now)
            case Answered():
                self.state, self.b = State.CALLING, None
                effects = self._to_leg(source, Released(error.rule, error.reason), now)
                hunt, branch = self.hunt, self._branch(source.name)
                if hunt is None or branch is None:
                    return effects
                rejected = Rejected(
                    error.status, error.reason, error.rule, retry_after_s=retry_after_s(error)
                )
                lacking = error.status == 503
                if lacking:
                    # Nothing is wrong with whoever answered: what we lack, the next one would ring in vain for.
                    hunt.stop(branch)
                return [*effects, *self._branch_failed(branch, rejected, now, local=lacking)]
            case UpdateAccepted() | Confirmed():
                # One side already has the new session and the other cannot: no session is left to keep.
                return self.hang_up(error.rule, error.reason, now)
            case _:
                return []

    # -- targets -------------------------------------------------------------------------------------------

    def _branch(self, name: str) -> Branch | None:
        return None if self.hunt is None else self.hunt.branches.get(name)

    def _ring(self, hunt: Hunt, outcome: list[Branch] | Failure, now: float) -> list[Effect]:
        """Who is to ring now, or what the caller is told because nobody takes the call."""
        if isinstance(outcome, list):
            return [Dial(branch.name, branch.target, hunt.offered) for branch in outcome]
        event = outcome.event
        if isinstance(event, Rejected):
            return self.refuse(event, now, outcome.by)
        users = tuple(user for contact in event.contacts if (user := user_of(contact)))
        effects = self._to_leg(self.a, replace(event, contacts=(), users=users), now)
        return [*effects, *self._finish("b", "peer-redirected", event.reason, event.status)]

    def _branch_failed(
        self, branch: Branch, event: Rejected, now: float, local: bool = False
    ) -> list[Effect]:
        hunt, name = self.hunt, branch.name
        if hunt is None:
            return []
        out: list[Effect] = [
            Milestone(
                "tried", name, event.status, event.reason, event.rule, event.retry_after_s, branch.target
            ),
            DropLeg(name),
        ]
        outcome = hunt.failed(branch, event, now, local)
        if isinstance(outcome, Failure):
            # RFC 3261 s.16.7 step 5: nobody else is to answer either.
            out.extend(self._release_branches(Released("declined", event.reason, sip_reason(event)), now))
        return [*out, *self._ring(hunt, outcome, now)]

    def _redirected(self, hunt: Hunt, branch: Branch, event: Redirected, now: float) -> list[Effect]:
        name, target = branch.name, branch.target
        follow = hunt.follows(branch)
        rule = "redirected" if follow else "peer-redirected"
        out: list[Effect] = [
            Milestone("tried", name, event.status, event.reason, rule, target=target),
            DropLeg(name),
        ]
        if follow:
            return [*out, Follow(name, target, event.contacts)]
        return [*out, *self._ring(hunt, hunt.failed(branch, event, now), now)]

    def _rung_out(self, branch: Branch, now: float) -> list[Effect]:
        """It has rung for as long as the next group lets it."""
        if self._branch(branch.name) is not branch:
            return []
        branch.ring_until = None
        branch.rest.clear()
        released = Released("no-answer", f"no answer within {branch.target.ring_s:g} s")
        out = [] if branch.leg is None else self._to_leg(branch.leg, released, now)
        rejected = Rejected(480, "Temporarily Unavailable", "no-answer")
        return [*out, *self._branch_failed(branch, rejected, now)]

    def _taken(self, now: float) -> list[Effect]:
        """Somebody has answered, and the caller has been told: the others need not ring any more."""
        hunt, self.hunt = self.hunt, None
        if self.state is not State.UP or hunt is None:
            return []
        self.deadline = now + self.max_call_s if self.max_call_s else None
        out: list[Effect] = []
        for branch in hunt.branches.values():
            if branch.leg is not self.b:
                name = branch.name
                out += [
                    Milestone("lost", name, 487, "Request Terminated", "answered-elsewhere"),
                    DropLeg(name),
                ]
                if branch.leg is not None:
                    out.extend(self._to_leg(branch.leg, ELSEWHERE, now))
        return out

    def _release_branches(self, released: Released, now: float) -> list[Effect]:
        """Nobody is to answer any more."""
        if self.hunt is None:
            return []
        legs = [branch.leg for branch in self.hunt.branches.values() if branch.leg is not None]
        self.hunt.branches.clear()
        return [effect for leg in legs if leg is not self.b for effect in self._to_leg(leg, released, now)]

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
        self.hunt = None
        return [Finished(by, cause, text, status), *([] if self.legs else [Gone()])]

    def _leg_ended(self, leg: Leg) -> list[Effect]:
        if leg in self.legs:
            self.legs.remove(leg)
        return [Gone()] if not self.legs and self.state is State.OVER else []

    def _parting(self, leg: Leg, event: Event, now: float) -> list[Effect]:
        """The call is over, but a phone and its registrar have not agreed who hangs up."""
        other = self.b if leg is self.a else self.a
        if other is None or other not in self.legs or not isinstance(event, Released | ReleaseAnswered):
            return []
        return self._to_leg(other, event, now) if other.state in PARTING else []

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
            and self.hunt is None
            and all(
                leg.state is LegState.UP and leg.asked is None and leg.served is None
                for leg in self._joined()
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
        call = cls(data["id"], a, None, data["max_call_s"])
        call.b, call.legs, call.state = b, [a, b], State.UP
        remaining = data["remaining_s"]
        call.deadline = None if remaining is None else now + remaining
        return call


def retry_after_s(error: PeerError) -> int | None:
    """What stands in Retry-After beside a failure of our own."""
    return error.retry_after_s or (RETRY_AFTER_S if error.status == 503 else None)
