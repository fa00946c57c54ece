"""An error of our own ends the one call that met it (style.md s.7)."""

import pytest

from signaling.leg import Leg
from tests.harness.border import Border, established, hang_up
from tests.scenario.test_call import pair


class BugError(Exception):
    """What no code of ours raises."""


def failing(*arguments: object) -> None:
    raise BugError


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
    alice.answer(alice.expect("BYE"), 200)
    bob.answer(bob.expect("BYE"), 200)
    assert border.records[0].end_cause == "bug"
    bob.inbox.clear()
    answer, _ = established(border, carol, bob)
    border.records.clear()
    hang_up(border, carol, bob, answer)
    assert border.records[0].end_cause == "bye"


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
