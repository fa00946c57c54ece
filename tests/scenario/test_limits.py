"""Limits on calls count those in progress, not those that only wait for a last answer."""

from signaling.message import Response
from tests.harness.border import Border, established
from tests.scenario.test_call import pair


def test_a_call_that_is_over_makes_room_at_once() -> None:
    border = Border(changes=lambda text: text.replace("max_calls: 200", "max_calls: 1"))
    alice, bob = pair(border)
    carol = border.agent("public", "203.0.113.78:5070")
    answer, _ = established(border, alice, bob)
    carol.invite()
    refused = carol.expect_answer(503)
    assert "max-calls" in (refused.get("Warning") or "")
    alice.inside("BYE", answer)
    alice.expect_answer(200)
    bye = bob.expect("BYE")  # which bob leaves unanswered for now
    carol.call_id, carol.tag = "another", "another"
    carol.invite()
    invite = bob.expect("INVITE")
    bob.answer(invite, 486, "Busy Here")
    bob.expect("ACK")
    message = carol.next()
    assert isinstance(message, Response) and message.status == 486
    bob.answer(bye, 200)
    border.at_rest()
