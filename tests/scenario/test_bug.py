"""An error of our own ends the one call that met it (style.md s.7)."""

import gc

import pytest

from signaling.leg import Leg
from tests.harness.border import Border, established, hang_up, pair


class BugError(Exception):
    """What no code of ours raises."""


def failing(*arguments: object) -> None:
    raise BugError


@pytest.mark.source
def test_a_bug_ends_one_call_and_tells_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    border = Border()
    bugs: list[Exception] = []
    border.calls.on_bug = bugs.append
    alice, bob = pair(border)
    carol = border.agent("public", "203.0.113.78:5070")
    answer, _ = established(border, alice, bob)
    with monkeypatch.context() as patched:
        patched.setattr(Leg, "request", failing)
        alice.inside("INFO", answer, body="Signal=1\r\n", content_type="application/dtmf-relay")
    assert [type(bug) for bug in bugs] == [BugError]
    alice.expect_answer(500, "INFO")
    alice.answer(alice.expect("BYE"), 200)
    bob.answer(bob.expect("BYE"), 200)
    assert border.records[0].end_cause == "bug"
    bob.inbox.clear()
    answer, _ = established(border, carol, bob)
    border.records.clear()
    hang_up(border, carol, bob, answer)
    assert border.records[0].end_cause == "bye"


@pytest.mark.source
def test_a_call_that_cannot_even_be_hung_up_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    border = Border()
    bugs: list[Exception] = []
    border.calls.on_bug = bugs.append
    alice, bob = pair(border)
    answer, _ = established(border, alice, bob)
    with monkeypatch.context() as patched:
        patched.setattr(Leg, "request", failing)
        patched.setattr(Leg, "deliver", failing)
        alice.inside("INFO", answer, body="Signal=1\r\n", content_type="application/dtmf-relay")
    assert len(bugs) == 1
    border.at_rest()
    assert border.records[0].end_cause == "bug"


@pytest.mark.source
def test_a_bug_in_a_new_call_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    border = Border()
    bugs: list[Exception] = []
    border.calls.on_bug = bugs.append
    alice, _ = pair(border)
    with monkeypatch.context() as patched:
        patched.setattr(border.calls.router, "route", failing)
        alice.invite()
    assert len(bugs) == 1
    alice.expect_answer(500)
    border.at_rest()


def test_ended_calls_are_freed_without_the_collector() -> None:
    """Cycles would pile up until the collector's oldest generation is due: memory would not be flat under load."""
    border = Border()
    gc.collect()
    gc.disable()
    try:
        for number in range(20):
            alice = border.agent("public", f"203.0.113.77:{5070 + number}")
            bob = border.agent("private", "10.0.0.20:5060")
            answer, _ = established(border, alice, bob)
            hang_up(border, alice, bob, answer)
        border.sent.clear()
        border.agents.clear()
        del alice, bob, answer
        assert gc.collect() < 20 * 10
    finally:
        gc.enable()
