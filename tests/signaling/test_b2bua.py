"""A call whose anchor takes its time: what comes while SDP is on its way over the border waits (design.md s.3)."""

import pytest

from signaling.b2bua import Call, State
from signaling.call_effects import Cross, Dial, DropLeg, Effect, Milestone
from signaling.callee import MAX_FORKS
from signaling.dialog import Dialog
from signaling.errors import PeerError
from signaling.events import Answered, Event, Offered, Progressed, Redirected, Rejected, Released
from signaling.exchange import Effect as LegEffect
from signaling.exchange import LegSettings, Raise
from signaling.exchange import State as LegState
from signaling.flow import Flow
from signaling.identity import Identity
from signaling.leg import Leg
from signaling.reason import ELSEWHERE
from signaling.site import Site
from signaling.topology import Carried
from tests.signaling.test_hunt import Place, phone

pytestmark = pytest.mark.source
"""Its legs are not real ones."""

FLOW = Flow("net", "udp", ("192.0.2.1", 5060), ("192.0.2.2", 5060))
OFFERED = Offered("200", Identity(), Identity(), b"offer", Carried(), 70)
SITE = Site("us.example", ("192.0.2.1", 5060), "udp", None)


class Told(Leg):
    """A leg that only notes what it is told."""

    def __init__(self, name: str) -> None:
        dialog = Dialog(name, "<sip:a@x>", "1", "<sip:b@x>", "2")
        super().__init__(name, LegSettings(), SITE, FLOW, dialog, LegState.CALLING, lambda: "t")
        self.told: list[Event] = []

    def deliver(self, event: Event, now: float) -> list[LegEffect]:
        self.told.append(event)
        return []


class Slow:
    """A call with two phones; its `Cross` effects are answered by hand."""

    def __init__(self) -> None:
        self.a, self.b1, self.b2 = Told("a"), Told("b1"), Told("b2")
        self.call = Call("c", self.a, OFFERED, 0.0)
        dials = self.call.begin([phone(1), phone(1)], 0.0)
        assert [type(effect) for effect in dials] == [Dial, Dial]
        for leg in (self.b1, self.b2):
            assert self.call.dialled(leg, [], 0.0) == []

    def hear(self, leg: Leg, event: Event) -> list[str]:
        return names(self.call.on_leg(leg, [Raise(event)], 0.0))


def names(effects: list[Effect]) -> list[str]:
    """What is to be done, in short."""
    return [
        f"{effect.what} {effect.leg}" if isinstance(effect, Milestone)
        else f"drop {effect.name}" if isinstance(effect, DropLeg)
        else f"{effect.kind} of {effect.source.name}" if isinstance(effect, Cross)
        else type(effect).__name__
        for effect in effects
    ]  # fmt: skip


def test_a_second_answer_waits_and_then_comes_too_late() -> None:
    slow = Slow()
    assert slow.hear(slow.b1, Answered(0, b"one")) == ["answer of b1"]
    assert slow.hear(slow.b2, Answered(0, b"two")) == []
    assert slow.b2.told == []
    assert names(slow.call.crossed(b"ours", 1.0)) == ["answered b1", "SettleMedia", "lost b2", "drop b2"]
    assert slow.a.told == [Answered(0, b"ours")]
    assert slow.b2.told == [ELSEWHERE], "which is a BYE, for it has answered"
    assert slow.call.state is State.UP and slow.call.hunt is None


def test_a_second_answer_waits_and_wins_when_the_first_cannot_be_used() -> None:
    slow = Slow()
    slow.hear(slow.b1, Answered(0, b"one"))
    slow.hear(slow.b2, Answered(3, b"two"))
    effects = names(slow.call.not_crossed(PeerError(488, "No", "media-family"), 1.0))
    assert effects == ["tried b1", "drop b1", "answer of b2"]
    assert [type(event) for event in slow.b1.told] == [Released]
    assert names(slow.call.crossed(b"ours", 2.0)) == ["answered b2", "SettleMedia"]
    assert slow.a.told == [Answered(MAX_FORKS + 3, b"ours")]


def test_a_refusal_of_all_by_one_waits_for_the_answer_of_another() -> None:
    slow = Slow()
    slow.hear(slow.b1, Answered(0, b"one"))
    assert slow.hear(slow.b2, Rejected(603, "Decline", "peer-rejected")) == []
    slow.call.crossed(b"ours", 1.0)
    assert slow.a.told == [Answered(0, b"ours")]
    assert slow.call.state is State.UP


def test_the_caller_gives_up_while_the_answer_is_on_its_way() -> None:
    slow = Slow()
    slow.hear(slow.b1, Answered(0, b"one"))
    assert slow.hear(slow.a, Released("cancel", "cancelled by the caller")) == []
    assert names(slow.call.crossed(b"ours", 1.0))[-1] == "Finished"
    assert [event.cause for event in slow.b1.told if isinstance(event, Released)] == ["cancel"]
    assert slow.b2.told == [ELSEWHERE]


def test_hanging_up_while_the_answer_is_on_its_way() -> None:
    slow = Slow()
    slow.hear(slow.b1, Answered(0, b"one"))
    slow.hear(slow.b2, Answered(0, b"two"))
    assert names(slow.call.hang_up("drain", "stopping", 1.0)) == ["Finished"]
    for leg in (slow.a, slow.b1, slow.b2):
        assert [type(event) for event in leg.told] == [Released]
    assert slow.call.crossed(b"ours", 2.0) == []


def test_early_media_that_cannot_be_used_leaves_room_for_that_of_another() -> None:
    slow = Slow()
    assert slow.hear(slow.b1, Progressed(183, "Progress", 0, b"one")) == ["ringing b1", "answer of b1"]
    slow.call.not_crossed(PeerError(488, "No", "media-family"), 1.0)
    assert slow.hear(slow.b2, Progressed(183, "Progress", 0, b"two")) == ["ringing b2", "answer of b2"]
    slow.call.crossed(b"ours", 2.0)
    assert [event.sdp for event in slow.a.told if isinstance(event, Progressed)] == [None, b"ours"]


def test_ringing_is_over_when_the_answer_on_its_way_has_crossed() -> None:
    """Nobody rings out while SDP crosses: the answer may be that of the very branch."""
    slow = Slow()
    assert slow.call.hunt is not None
    slow.call.hunt.branches["b1"].ring_until = 20.0
    slow.hear(slow.b1, Answered(0, b"one"))
    assert slow.call.handle_timer(21.0) == []
    slow.call.crossed(b"ours", 22.0)
    assert slow.b1.told == []


def test_a_leg_that_nobody_waits_for_any_more_is_not_called() -> None:
    slow = Slow()
    slow.hear(slow.a, Released("cancel"))
    assert not slow.call.awaits("b1")
    late = Told("b3")
    effects = slow.call.dialled(late, [], 1.0)
    assert names(effects) == ["drop b3", "OnLeg"]
    assert slow.call.not_dialled("b3", PeerError(503, "No", "media-ports-exhausted"), 1.0) == []
    assert slow.call.followed("b3", [phone(1)], 1.0) == []


def test_a_redirect_that_is_failed_over_on_goes_to_the_next_server() -> None:
    """`failover_on` may name a 3xx, where `redirects` is not `follow`."""
    call, leg = Call("c", Told("a"), OFFERED, 0.0), Told("b1")
    servers = [Place("pbx", "", failover_on=frozenset({302})), Place("carrier", "")]
    assert names(call.begin(servers, 0.0)) == ["Dial"]
    call.dialled(leg, [], 0.0)
    moved = Redirected(302, "Moved", ("sip:else@where",))
    assert names(call.on_leg(leg, [Raise(moved)], 1.0)) == ["tried b1", "drop b1", "Dial"]
