"""Offers and answers that go wrong, come late or come twice (RFC 3261 s.13, s.14; RFC 3264; RFC 3311; RFC 6337)."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, calling, hang_up, pair, picked_up, talking
from tests.scenario.test_inside import reinvite
from tests.scenario.test_targets import answer_by_hand

UNREADABLE = "Content-Type: application/x-secret\r\nContent-Length: 3\r\n\r\nabc"


def ended_by_sbc(agent: Agent) -> None:
    """The agent's 2xx is acknowledged, then the dialog is ended."""
    agent.expect("ACK")
    agent.answer(agent.expect("BYE"), 200)


def test_2xx_with_unreadable_body_is_acked_and_ended() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    answer_by_hand(bob, bob.expect("INVITE"), 200, f"Contact: <sip:agent@10.0.0.20>\r\n{UNREADABLE}")
    ended_by_sbc(bob)
    alice.expect_answer(502)
    border.at_rest()
    assert border.records[0].answered_at is None


@pytest.mark.parametrize("late", [False, True])
def test_2xx_without_sdp_is_acked_and_ended(late: bool) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="" if late else None)
    bob.answer(bob.expect("INVITE"), 200)
    ended_by_sbc(bob)
    alice.expect_answer(502)
    border.at_rest()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("sdp", ["v=0\r\nnonsense\r\n", audio("10.0.0.20").replace("RTP/AVP", "RTP/SAVP")])
def test_2xx_with_unusable_sdp_is_acked_and_ended(sdp: str, late: bool) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="" if late else None)
    bob.answer(bob.expect("INVITE"), 200, sdp=sdp)
    ended_by_sbc(bob)
    refused = alice.next()
    assert isinstance(refused, Response) and refused.status >= 400
    border.at_rest()
    assert border.records[0].answered_at is None, "a call that never stood was not answered"


def test_18x_with_unreadable_body_rings_without() -> None:
    border, alice, bob, invite = calling()
    answer_by_hand(bob, invite, 183, f"Contact: <sip:agent@10.0.0.20>\r\n{UNREADABLE}", tag=bob.tag)
    assert alice.expect_answer(183).body == b""
    answer = picked_up(alice, bob, invite)
    hang_up(border, alice, bob, answer)


def test_early_answer_of_another_fork_is_not_the_answer() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 183, tag="one", sdp=audio("10.0.0.20", 4002))
    bob.answer(invite, 180, tag="two")
    bob.answer(invite, 200, tag="two")
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    for status in (183, 180, 502):
        alice.expect_answer(status)
    border.at_rest()


def test_unusable_answer_in_the_ack_ends_both_sides() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="")
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    alice.ack(answer, "v=0\r\nnonsense\r\n")
    ended_by_sbc(bob)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


def test_unreadable_body_in_the_ack_ends_both_sides() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="")
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    alice.inside("ACK", answer, cseq=answer.cseq.number, body="abc", content_type="application/x-secret")
    ended_by_sbc(bob)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


@pytest.mark.parametrize("reply", [UNREADABLE, "Content-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_unusable_2xx_to_an_update_leaves_the_session(method: str, reply: str) -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside(method, answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = bob.expect(method)
    bob.raw(
        f"SIP/2.0 200 OK\r\nVia: {got.get('Via')}\r\nFrom: {got.get('From')}\r\nTo: {got.get('To')}\r\n"
        f"Call-ID: {got.call_id}\r\nCSeq: {got.get('CSeq')}\r\n{reply}"
    )
    if method == "INVITE":
        bob.expect("ACK")
    alice.expect_answer(502, method)
    bob.nothing()
    reinvite(
        alice, bob, answer,
        audio("203.0.113.77", direction="sendonly", version=3), audio("10.0.0.20", 4002, "recvonly", version=3),
    )  # fmt: skip
    hang_up(border, alice, bob, answer)


def test_reinvite_without_sdp_and_no_answer_in_its_ack_ends_the_call() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer)
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002, version=2))
    alice.ack(alice.expect_answer(200))
    ended_by_sbc(bob)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


def test_going_back_to_the_first_offer_crosses() -> None:
    """What is in force is the offer accepted last, so the first one again is a change."""
    border, alice, bob, answer, _ = talking()
    reinvite(
        alice, bob, answer,
        audio("203.0.113.77", direction="sendonly", version=2), audio("10.0.0.20", 4002, "recvonly", version=2),
    )  # fmt: skip
    reinvite(alice, bob, answer, audio("203.0.113.77"), audio("10.0.0.20", 4002))
    hang_up(border, alice, bob, answer)


def test_unchanged_hold_is_answered_here() -> None:
    border, alice, bob, answer, _ = talking()
    hold = audio("203.0.113.77", direction="sendonly", version=2)
    _, ok = reinvite(alice, bob, answer, hold, audio("10.0.0.20", 4002, "recvonly", version=2))
    alice.inside("INVITE", answer, body=hold)
    again = alice.expect_answer(200)
    assert again.body == ok.body
    alice.ack(again)
    bob.nothing()
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_offer_while_the_first_is_unanswered_is_500(method: str) -> None:
    """RFC 3261 s.14.2, RFC 3311 s.5.2."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 180)
    ringing = alice.expect_answer(180)
    alice.inside(method, ringing, body=audio("203.0.113.77", version=2))
    assert alice.expect_answer(500, method).get("Retry-After")
    alice.inside("UPDATE", ringing)
    alice.expect_answer(200, "UPDATE")
    bob.answer(invite, 486)
    alice.expect_answer(486)
    border.at_rest()


def test_reinvite_after_a_lost_ack_stands_for_it() -> None:
    """RFC 5407 s.3.1.5."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    bob.expect("ACK")
    alice.ack(alice.expect_answer(200))
    border.advance(40)
    hang_up(border, alice, bob, answer)


def test_late_offer_reinvite_of_the_callee() -> None:
    border, alice, bob, answer, invite = talking()
    bob.inside("INVITE", invite)
    got = alice.expect("INVITE")
    assert got.body == b""
    alice.answer(got, 200, sdp=audio("203.0.113.77", version=2))
    bob.ack(bob.expect_answer(200), audio("10.0.0.20", 4002, version=2))
    assert b"203.0.113.10" in alice.expect("ACK").body
    hang_up(border, alice, bob, answer)


def test_reinvite_with_required_extension_is_420_and_changes_nothing() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside(
        "INVITE", answer, body=audio("203.0.113.77", version=2), fields="Require: 100rel, precondition"
    )
    assert alice.expect_answer(420).get("Unsupported") == "100rel, precondition"
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_replaces_that_is_not_required_is_a_plain_call() -> None:
    """RFC 3891 s.3: who does not know Replaces takes the INVITE as it is; Require: replaces is 420."""
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Replaces: 1@h;to-tag=a;from-tag=b")
    invite = bob.expect("INVITE")
    assert invite.get("Replaces") is None
    bob.answer(invite, 486)
    alice.expect_answer(486)
    border.at_rest()


@pytest.mark.parametrize(
    ("status", "crossed"), [(401, 403), (407, 403), (420, 488), (421, 488), (423, 480), (494, 403)]
)
def test_what_is_between_the_peer_and_us_does_not_cross(status: int, crossed: int) -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", version=2))
    bob.answer(bob.expect("INVITE"), status)
    bob.expect("ACK")
    alice.expect_answer(crossed)
    alice.inside("INFO", answer)
    bob.answer(bob.expect("INFO"), status)
    alice.expect_answer(crossed)
    hang_up(border, alice, bob, answer)


def test_481_to_a_notify_leaves_the_call() -> None:
    """RFC 5057 s.5.1: it is about a subscription."""
    border, alice, bob, answer, _ = talking()
    alice.inside("NOTIFY", answer, fields="Event: talk\r\nSubscription-State: active")
    bob.answer(bob.expect("NOTIFY"), 481)
    alice.expect_answer(481)
    alice.nothing()
    hang_up(border, alice, bob, answer)


def test_requests_after_the_bye_are_481() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("BYE", answer)
    bye = bob.expect("BYE")
    alice.expect_answer(200)
    for method in ("INVITE", "UPDATE", "INFO"):
        bob.inside(method, invite)
        bob.expect_answer(481, method)
    bob.answer(bye, 200)
    for method in ("INVITE", "UPDATE", "BYE"):
        alice.inside(method, answer)
        assert isinstance(refused := alice.next(), Response) and refused.status == 481
    border.at_rest()


def test_too_many_requests_at_once_are_refused() -> None:
    border, alice, bob, answer, _ = talking()
    for _ in range(16):
        alice.inside("INFO", answer)
        assert isinstance(bob.next(), Request)
    alice.inside("INFO", answer)
    alice.expect_answer(500)
    bob.nothing()
    hang_up_with_pending(border, alice, bob, answer)


def hang_up_with_pending(border: Border, alice: Agent, bob: Agent, answer: Response) -> None:
    """A BYE answers what is still pending with 487 (RFC 3261 s.15.1.2)."""
    alice.inside("BYE", answer)
    bob.answer(bob.expect("BYE"), 200)
    statuses = [message.status for message in alice.inbox if isinstance(message, Response)]
    assert sorted(statuses) == [200] + [487] * 16
    alice.inbox.clear()
    border.at_rest()
