"""Calls that were written down and taken up again go on as they were (design.md s.4.4)."""

import json

from signaling.message import Request
from tests.harness.border import Agent, Border, audio, calling, hang_up, pair, talking


def taken_up(border: Border, agents: tuple[Agent, Agent]) -> tuple[Border, Agent, Agent]:
    """Another process with the calls of `border`, and the same agents."""
    later = Border()
    later.calls.restore(json.loads(json.dumps(border.calls.snapshot(border.now))), later.now)
    caller, callee = pair(later)
    for before, after in zip(agents, (caller, callee), strict=True):
        after.call_id, after.cseq = before.call_id, before.cseq
    return later, caller, callee


def test_target_and_route_set_are_kept() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), fields="Record-Route: <sip:10.0.0.20;lr>")
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    later, caller, callee = taken_up(border, (alice, bob))
    caller.inside("BYE", answer)
    bye = callee.expect("BYE")
    assert (bye.uri, bye.values("Route")) == ("sip:agent@10.0.0.20:5060", ["<sip:10.0.0.20;lr>"])
    assert bye.cseq.number == invite.cseq.number + 1
    callee.answer(bye, 200)
    later.at_rest()


def test_session_timer_runs_on() -> None:
    border, alice, bob, invite = calling()
    bob.answer(
        invite,
        200,
        sdp=audio("10.0.0.20", 4002),
        fields="Require: timer\r\nSession-Expires: 120;refresher=uas",
    )
    bob.expect("ACK")
    alice.ack(alice.expect_answer(200))
    later, caller, callee = taken_up(border, (alice, bob))
    later.advance(87)
    assert later.records == []
    later.advance(2)
    assert later.records[0].end_cause == "session-timer"
    later.at_rest()
    assert {type(message) for message in (*caller.inbox, *callee.inbox)} == {Request}


def test_min_se_that_a_422_asked_for_is_kept() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 422, fields="Min-SE: 4000")
    bob.expect("ACK")
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    later, caller, callee = taken_up(border, (alice, bob))
    caller.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = callee.expect("INVITE")
    assert (got.get("Min-SE"), got.get("Session-Expires")) == ("4000", "4000")
    callee.answer(got, 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    callee.expect("ACK")
    caller.ack(caller.expect_answer(200))
    hang_up(later, caller, callee, answer)


def test_call_in_the_middle_of_an_exchange_is_left_out() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    assert border.calls.snapshot(border.now) == []
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    alice.ack(alice.expect_answer(200))
    bob.expect("ACK")
    assert len(border.calls.snapshot(border.now)) == 1
    hang_up(border, alice, bob, answer)
