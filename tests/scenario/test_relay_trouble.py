"""What goes wrong in the relay is told by the record of every call that it happened to."""

from media.relay import BindFailed, WorkerRestarted
from tests.harness.border import Border, hang_up, talking


def rules(border: Border) -> list[str]:
    return [decision.rule for record in border.calls.live.values() for decision in record.decisions]


def test_restart_of_a_worker_is_told_by_the_calls_on_it() -> None:
    border, alice, bob, answer, _ = talking()
    (call,) = border.calls.live
    border.relay.on_event(WorkerRestarted(0, 1, ("c-another",)))
    assert "media-relay-restarted" not in rules(border)
    border.relay.on_event(WorkerRestarted(0, 1, (call,)))
    assert "media-relay-restarted" in rules(border)
    hang_up(border, alice, bob, answer)


def test_port_that_cannot_be_bound_is_told_at_once() -> None:
    border, alice, bob, answer, _ = talking()
    stream = next(iter(border.relay.streams.values()))
    border.relay.on_event(BindFailed(stream.id, stream.call, "somebody else has it"))
    assert "media-bind-failed" in rules(border)
    hang_up(border, alice, bob, answer)
