"""Limits on calls count those in progress, not those that only wait for a last answer."""

from signaling.message import Response
from tests.harness.border import Border, established, pair


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


def test_being_asked_what_we_can_do_keeps_nothing() -> None:
    """RFC 3261 s.8.2.7: whoever asks a thousand times costs no memory, and a repeated question gets the same answer."""
    border = Border()
    alice = border.agent("public", "203.0.113.77:5070")
    question = alice.request("OPTIONS")
    first = alice.expect_answer(200, "OPTIONS")
    assert "INVITE" in (first.get("Allow") or "")
    alice.raw(question.encode())
    assert alice.expect_answer(200, "OPTIONS").to_tag == first.to_tag != ""
    assert len(border.calls.transactions) == 0
