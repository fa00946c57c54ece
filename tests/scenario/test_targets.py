"""Where requests inside a call go, and which dialog they are in (RFC 3261 s.12, s.13.2.2.4, s.15)."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, calling, hang_up, pair, picked_up, talking
from tests.scenario.test_no_call import calling_two_servers, following, two_servers

MALFORMED = [
    "<sip:>",
    "<sip:a b@10.0.0.20>",
    "nonsense",
    "<sip:200@10.0.0.20",
    "*",
    '"unclosed <sip:1@h>',
    "<>",
]


def answer_by_hand(
    agent: Agent, request: Request, status: int, fields: str, sdp: str = "", tag: str = "hand"
) -> None:
    """An answer without the Contact that `Agent.answer` puts in."""
    to = request.get("To") or ""
    to = to if request.to.tag else f"{to};tag={tag}"
    body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}" if sdp else "\r\n"
    agent.raw(
        f"SIP/2.0 {status} OK\r\nVia: {request.get('Via')}\r\nFrom: {request.get('From')}\r\nTo: {to}\r\n"
        f"Call-ID: {request.call_id}\r\nCSeq: {request.get('CSeq')}\r\n{fields}{body}"
    )


@pytest.mark.parametrize("contact", ["", *[f"Contact: {value}\r\n" for value in MALFORMED]])
def test_2xx_without_usable_contact_still_makes_a_call(contact: str) -> None:
    border, alice, bob, invite = calling()
    answer_by_hand(bob, invite, 200, contact, audio("10.0.0.20", 4002))
    assert bob.expect("ACK").uri == invite.uri
    answer = alice.expect_answer(200)
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("contact", MALFORMED)
def test_invite_with_unusable_contact_is_400(contact: str) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.raw(
        "INVITE sip:200@203.0.113.10 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.77:5070;branch=z9hG4bKc0;rport\r\n"
        "From: <sip:1@203.0.113.77>;tag=1\r\nTo: <sip:200@203.0.113.10>\r\nCall-ID: c0\r\nCSeq: 1 INVITE\r\n"
        f"Contact: {contact}\r\nContent-Length: 0\r\n\r\n"
    )
    alice.expect_answer(400)
    bob.nothing()
    border.at_rest()


@pytest.mark.parametrize("route", ["<sip:>", "<nonsense>", "<mailto:a@b.example>"])
def test_invite_with_unusable_record_route_is_400(route: str) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields=f"Record-Route: {route}")
    alice.expect_answer(400)
    bob.nothing()
    border.at_rest()


@pytest.mark.parametrize("route", ["<sip:>", "<nonsense", "<mailto:a@b.example>"])
def test_2xx_with_unusable_record_route_makes_a_call_without_it(route: str) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002), fields=f"Record-Route: {route}")
    assert bob.expect("ACK").get("Route") is None
    answer = alice.expect_answer(200)
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_route_sets_of_both_sides_are_followed() -> None:
    """RFC 3261 s.12.1.1, s.12.1.2: in the order of the request, and reversed from the response."""
    border = Border()
    alice, bob = pair(border)
    near, far = border.agent("public", "203.0.113.50:5060"), border.agent("private", "10.0.0.50:5060")
    alice.invite(fields="Record-Route: <sip:203.0.113.50;lr>, <sip:203.0.113.51;lr>")
    invite = bob.expect("INVITE")
    bob.answer(
        invite, 200, sdp=audio("10.0.0.20", 4002),
        fields="Record-Route: <sip:10.0.0.51;lr>\r\nRecord-Route: <sip:10.0.0.50;lr>",
    )  # fmt: skip
    ack = far.expect("ACK")
    assert ack.values("Route") == ["<sip:10.0.0.50;lr>", "<sip:10.0.0.51;lr>"]
    assert ack.uri == "sip:agent@10.0.0.20:5060"
    answer = alice.expect_answer(200)
    assert answer.values("Record-Route") == ["<sip:203.0.113.50;lr>", "<sip:203.0.113.51;lr>"]
    alice.ack(answer)
    bob.inside("BYE", invite)
    bye = near.expect("BYE")
    assert bye.values("Route") == ["<sip:203.0.113.50;lr>", "<sip:203.0.113.51;lr>"]
    assert bye.uri == "sip:agent@203.0.113.77:5070"
    near.answer(bye, 200)
    border.at_rest()


def test_strict_router_gets_the_old_form() -> None:
    """RFC 3261 s.12.2.1.1: a first route without lr becomes the Request-URI."""
    border = Border()
    alice, bob = pair(border)
    strict = border.agent("private", "10.0.0.50:5060")
    alice.invite()
    bob.answer(
        bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002), fields="Record-Route: <sip:10.0.0.50>"
    )
    ack = strict.expect("ACK")
    assert ack.uri == "sip:10.0.0.50"
    assert ack.values("Route") == ["<sip:agent@10.0.0.20:5060>"]
    answer = alice.expect_answer(200)
    alice.ack(answer)
    alice.inside("BYE", answer)
    strict.answer(strict.expect("BYE"), 200)
    border.at_rest()


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_target_refresh_moves_what_follows(method: str) -> None:
    border, alice, bob, answer, invite = talking()
    moved = border.agent("private", "10.0.0.21:5062")
    bob.host = moved.host
    bob.inside(method, invite, body=audio("10.0.0.20", 4002, "sendonly", version=2))
    bob.host = "10.0.0.20:5060"
    alice.answer(alice.expect(method), 200, sdp=audio("203.0.113.77", direction="recvonly", version=2))
    ok = bob.expect_answer(200, method)
    if method == "INVITE":
        alice.expect("ACK")
        bob.ack(ok)
    alice.inside("BYE", answer)
    bye = moved.expect("BYE")
    assert bye.uri == "sip:agent@10.0.0.21:5062"
    moved.answer(bye, 200)
    border.at_rest()


def test_2xx_to_a_reinvite_refreshes_the_target() -> None:
    border, alice, bob, answer, _ = talking()
    moved = border.agent("private", "10.0.0.21:5062")
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = bob.expect("INVITE")
    bob.host = moved.host
    bob.answer(got, 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    moved.expect("ACK")
    alice.ack(alice.expect_answer(200))
    alice.inside("BYE", answer)
    moved.answer(moved.expect("BYE"), 200)
    border.at_rest()


def test_request_with_a_foreign_tag_is_of_no_dialog() -> None:
    border, alice, bob, answer, _ = talking()
    alice.request(
        "BYE", uri=answer.contacts[0].uri_text, to_header=answer.get("To"),
        from_header="<sip:100@203.0.113.77>;tag=stranger",
    )  # fmt: skip
    alice.expect_answer(481)
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_early_dialogs_count_cseq_for_themselves() -> None:
    """RFC 3261 s.12.1.1: the remote sequence number is of one dialog; the other fork has its own."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 180, tag="one")
    bob.answer(invite, 180, tag="two")
    bob.tag = "one"
    bob.inside("INFO", invite, cseq=5000)
    bob.expect_answer(480)
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), tag="two")
    bob.expect("ACK")
    for _ in range(2):
        alice.expect_answer(180)
    answer = alice.expect_answer(200)
    alice.ack(answer)
    bob.tag = "two"
    bob.inside("BYE", invite, cseq=1)
    bob.expect_answer(200)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


def test_bye_in_one_of_two_early_dialogs_leaves_the_other() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 180, tag="one")
    bob.answer(invite, 180, tag="two")
    first, _ = alice.expect_answer(180), alice.expect_answer(180)
    alice.inside("BYE", first)
    alice.expect_answer(200, "BYE")
    bob.nothing()
    answer = picked_up(alice, bob, invite, tag="two")
    bob.tag = "two"
    hang_up(border, alice, bob, answer)


def test_early_bye_of_the_caller_cancels_the_callee() -> None:
    """RFC 3261 s.15.1.2: and the INVITE is answered 487."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 180)
    ringing = alice.expect_answer(180)
    alice.inside("BYE", ringing)
    assert {alice.next().start_line, alice.next().start_line} == {
        "SIP/2.0 200 OK",
        "SIP/2.0 487 Request Terminated",
    }
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(invite, 487)
    bob.expect("ACK")
    border.at_rest()


def test_dialog_of_a_lost_fork_is_unknown_after_the_answer() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 180, tag="one")
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), tag="two")
    bob.expect("ACK")
    ringing, answer = alice.expect_answer(180), alice.expect_answer(200)
    alice.ack(answer)
    alice.inside("BYE", ringing)
    alice.expect_answer(481)
    bob.nothing()
    bob.tag = "two"
    hang_up(border, alice, bob, answer)


def test_repeated_2xx_of_a_lost_fork_gets_one_bye_and_many_acks() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), tag="one")
    bob.expect("ACK")
    bob.answer(invite, 200, sdp=audio("10.0.0.21", 4002), tag="two")
    bob.expect("ACK")
    bye = bob.expect("BYE")
    bob.answer(invite, 200, sdp=audio("10.0.0.21", 4002), tag="two")
    assert bob.expect("ACK").to.tag == "two"
    bob.nothing()
    bob.answer(bye, 200)
    answer = alice.expect_answer(200)
    alice.ack(answer)
    bob.tag = "one"
    hang_up(border, alice, bob, answer)


def test_first_2xx_of_another_fork_after_the_call_is_acked_and_released() -> None:
    """RFC 3261 s.13.2.2.4: for 64*T1 after the first 2xx another may come, whatever became of the call."""
    border, alice, bob, invite = calling()
    answer = picked_up(alice, bob, invite, tag="one")
    alice.inside("BYE", answer)
    bob.answer(bob.expect("BYE"), 200)
    alice.expect_answer(200, "BYE")
    assert border.calls.leftovers()["calls"] == 0
    bob.answer(invite, 200, sdp=audio("10.0.0.21", 4002), tag="two")
    assert bob.expect("ACK").to.tag == "two"
    bye = bob.expect("BYE")
    assert bye.to.tag == "two"
    bob.answer(invite, 200, sdp=audio("10.0.0.21", 4002), tag="two")
    assert bob.expect("ACK").to.tag == "two"
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), tag="one")
    assert bob.expect("ACK").to.tag == "one"
    bob.nothing()
    bob.answer(bye, 200)
    border.at_rest()


def test_failover_after_ringing_gives_the_caller_a_new_early_dialog() -> None:
    border, alice, bob, second = calling_two_servers()
    first = bob.expect("INVITE")
    bob.answer(first, 183, sdp=audio("10.0.0.20", 4002))
    early = alice.expect_answer(183)
    bob.answer(first, 503)
    bob.expect("ACK")
    invite = second.expect("INVITE")
    second.answer(invite, 200, sdp=audio("10.0.0.21", 4006))
    second.expect("ACK")
    answer = alice.expect_answer(200)
    assert answer.to.tag != early.to.tag
    assert answer.body != b""
    alice.ack(answer)
    hang_up(border, alice, second, answer)


def test_answer_of_a_failed_target_is_not_that_of_the_next() -> None:
    """The second target answers without SDP: what the first said early is nothing of it."""
    border, alice, bob, second = calling_two_servers()
    first = bob.expect("INVITE")
    bob.answer(first, 183, sdp=audio("10.0.0.20", 4002))
    alice.expect_answer(183)
    bob.answer(first, 503)
    second.answer(second.expect("INVITE"), 200)
    second.expect("ACK")
    second.answer(second.expect("BYE"), 200)
    alice.expect_answer(502)
    border.at_rest()


def test_redirect_that_fails_goes_on_with_the_servers_that_were_left() -> None:
    border = Border(changes=lambda text: following(two_servers(text)).replace(
        '"sip:10.0.0.21"], from: [10.0.0.0/24]}', '"sip:10.0.0.21"], from: [10.0.0.0/24], redirects: follow}'
    ))  # fmt: skip
    alice, bob = pair(border)
    second, third = border.agent("private", "10.0.0.21:5060"), border.agent("private", "10.0.0.99:5080")
    alice.invite()
    answer_by_hand(bob, bob.expect("INVITE"), 302, "Contact: <sip:300@10.0.0.99:5080>\r\n")
    third.answer(third.expect("INVITE"), 503)
    third.expect("ACK")
    invite = second.expect("INVITE")
    answer = picked_up(alice, second, invite)
    hang_up(border, alice, second, answer)


@pytest.mark.parametrize("contact", MALFORMED)
def test_redirect_to_nowhere_ends_with_an_answer(contact: str) -> None:
    border = Border(changes=following)
    alice, bob = pair(border)
    alice.invite()
    answer_by_hand(bob, bob.expect("INVITE"), 302, f"Contact: {contact}\r\n")
    bob.expect("ACK")
    message = alice.next()
    assert isinstance(message, Response) and message.status == 480
    border.at_rest()


def test_max_forwards_is_counted_down_and_on_every_request() -> None:
    border, alice, bob, answer, invite = talking()
    assert invite.max_forwards == 69
    for method in ("INFO", "BYE"):
        alice.inside(method, answer)
        got = bob.expect(method)
        assert got.max_forwards is not None and got.max_forwards > 0
        bob.answer(got, 200)
        alice.expect_answer(200)
    border.at_rest()
