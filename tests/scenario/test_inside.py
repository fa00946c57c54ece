"""What happens inside a call: hold, re-INVITE, UPDATE, glare, INFO and friends (RFC 3261 s.14, RFC 6337)."""

import pytest

from signaling.message import Request, Response
from signaling.topology import EVENTS
from tests.harness.border import (
    Agent,
    Border,
    audio,
    calling,
    established,
    hang_up,
    pair,
    picked_up,
    sdp_field,
    talking,
)


def zero(text: str) -> str:
    return text.replace("c=IN IP4 203.0.113.77", "c=IN IP4 0.0.0.0")


def reinvite(alice: Agent, bob: Agent, answer: Response, offer: str, reply: str) -> tuple[Request, Response]:
    """Alice offers again, bob answers; returns what each got."""
    alice.inside("INVITE", answer, body=offer)
    got = bob.expect("INVITE")
    bob.answer(got, 200, "OK", sdp=reply)
    bob.expect("ACK")
    ok = alice.expect_answer(200, "INVITE")
    alice.ack(ok)
    return got, ok


@pytest.mark.parametrize(
    ("direction", "expected", "counter"),
    [("sendonly", "sendonly", "recvonly"), ("inactive", "inactive", "inactive")],
)
def test_hold_and_resume_by_direction(direction: str, expected: str, counter: str) -> None:
    border, alice, bob, answer, invite = talking()
    port = sdp_field(invite, r"m=audio (\d+)")
    got, ok = reinvite(
        alice, bob, answer,
        audio("203.0.113.77", direction=direction, version=2), audio("10.0.0.20", 4002, counter, version=2),
    )  # fmt: skip
    assert sdp_field(got, r"a=(sendrecv|sendonly|recvonly|inactive)") == expected
    assert sdp_field(got, r"m=audio (\d+)") == port, "a hold moves no ports"
    assert sdp_field(ok, r"a=(sendrecv|sendonly|recvonly|inactive)") == counter
    got, ok = reinvite(
        alice, bob, answer, audio("203.0.113.77", version=3), audio("10.0.0.20", 4002, version=3)
    )  # fmt: skip
    assert b"a=sendonly" not in got.body and b"a=inactive" not in got.body
    hang_up(border, alice, bob, answer)


def test_hold_by_zero_address() -> None:
    """RFC 6337 s.5.3: the old hold is understood, and said in the new way to the other side."""
    border, alice, bob, answer, _ = talking()
    got, _ = reinvite(
        alice, bob, answer, zero(audio("203.0.113.77", version=2)), audio("10.0.0.20", 4002, "recvonly", version=2)
    )  # fmt: skip
    assert b"0.0.0.0" not in got.body
    assert sdp_field(got, r"a=(sendonly|inactive)")
    hang_up(border, alice, bob, answer)


def test_callee_can_hold_too() -> None:
    border, alice, bob, answer, invite = talking()
    bob.inside("INVITE", invite, body=audio("10.0.0.20", 4002, "sendonly", version=2))
    got = alice.expect("INVITE")
    assert b"10.0.0" not in got.encode()
    assert b"a=sendonly" in got.body
    alice.answer(got, 200, "OK", sdp=audio("203.0.113.77", 4000, "recvonly", version=2))
    alice.expect("ACK")
    ok = bob.expect_answer(200, "INVITE")
    bob.ack(ok)
    hang_up(border, alice, bob, answer)


def test_codec_and_address_change() -> None:
    border, alice, bob, answer, _ = talking()
    got, _ = reinvite(
        alice, bob, answer,
        audio("203.0.113.99", 7000, codec="8 PCMA/8000", version=2),
        audio("10.0.0.20", 4002, codec="8 PCMA/8000", version=2),
    )  # fmt: skip
    assert b"PCMA" in got.body
    assert b"203.0.113" not in got.encode()
    assert any(end.remote == ("203.0.113.99", 7000) for _, _, end in border.relay.changes)
    hang_up(border, alice, bob, answer)


def test_reinvite_without_sdp() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer)
    got = bob.expect("INVITE")
    assert got.body == b""
    bob.answer(got, 200, "OK", sdp=audio("10.0.0.20", 4002, version=2))
    ok = alice.expect_answer(200, "INVITE")
    assert sdp_field(ok, r"c=IN IP4 (\S+)") == "203.0.113.10"
    bob.nothing()
    alice.ack(ok, audio("203.0.113.77", version=2))
    assert sdp_field(bob.expect("ACK"), r"c=IN IP4 (\S+)") == "10.0.0.1"
    hang_up(border, alice, bob, answer)


def test_failed_reinvite_leaves_the_session() -> None:
    border, alice, bob, answer, _ = talking()
    ports = border.calls.leftovers()["ports"]
    alice.inside("INVITE", answer, body=audio("203.0.113.99", 7000, version=2))
    bob.answer(bob.expect("INVITE"), 488, "Not Acceptable Here")
    bob.expect("ACK")
    refused = alice.expect_answer(488, "INVITE")
    assert border.records == []
    assert border.calls.leftovers()["ports"] == ports
    ends = [end for spec in border.relay.streams.values() for end in (spec.a, spec.b)]
    assert ("203.0.113.99", 7000) not in [end.remote for end in ends]
    assert refused.get("Warning")
    hang_up(border, alice, bob, answer)


def test_unchanged_offer_is_answered_here() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77"))
    ok = alice.expect_answer(200, "INVITE")
    assert ok.body == answer.body
    alice.ack(ok)
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_glare_is_491_on_both_sides() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = bob.expect("INVITE")
    bob.inside("INVITE", invite, body=audio("10.0.0.20", 4002, "sendonly", version=2))
    bob.expect_answer(491)
    bob.answer(got, 491, "Request Pending")
    bob.expect("ACK")
    alice.expect_answer(491)
    reinvite(
        alice, bob, answer,
        audio("203.0.113.77", direction="sendonly", version=3), audio("10.0.0.20", 4002, "recvonly", version=3),
    )  # fmt: skip
    hang_up(border, alice, bob, answer)


def test_second_reinvite_while_the_first_is_open_is_500_with_retry_after() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = bob.expect("INVITE")
    alice.inside("INVITE", answer, body=audio("203.0.113.77", version=3))
    assert alice.expect_answer(500).get("Retry-After")
    bob.answer(got, 200, "OK", sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    alice.ack(alice.expect_answer(200, "INVITE"))
    bob.expect("ACK")
    hang_up(border, alice, bob, answer)


def test_update_crosses_as_update() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("UPDATE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    got = bob.expect("UPDATE")
    assert b"a=sendonly" in got.body
    bob.answer(got, 200, "OK", sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    assert b"a=recvonly" in alice.expect_answer(200, "UPDATE").body
    hang_up(border, alice, bob, answer)


def test_update_without_sdp_refreshes_here() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("UPDATE", answer)
    alice.expect_answer(200, "UPDATE")
    bob.nothing()
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize(
    ("method", "kind", "body", "fields"),
    [
        ("INFO", "application/dtmf-relay", "Signal=5\r\nDuration=160\r\n", ""),
        ("MESSAGE", "text/plain", "hello", ""),
        ("OPTIONS", "", "", ""),
        ("NOTIFY", "", "", "Event: message-summary\r\nSubscription-State: active"),
    ],
)
def test_other_requests_cross_and_so_do_their_answers(method: str, kind: str, body: str, fields: str) -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside(method, answer, body=body, content_type=kind, fields=fields)
    got = bob.expect(method)
    assert got.body == body.encode()
    if fields:
        assert got.get("Event") == "message-summary"
    bob.answer(got, 200, "OK")
    alice.expect_answer(200, method)
    bob.inside(method, invite, body=body, content_type=kind, fields=fields)
    got = alice.expect(method)
    alice.answer(got, 415, "Unsupported Media Type")
    bob.expect_answer(415, method)
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize(
    "fields", ["", "Event: x-pbx-lan;id=1", "Event: keep-alive\r\nSubscription-State: active"]
)
def test_a_notify_whose_event_cannot_cross_is_489(fields: str) -> None:
    """RFC 6665 s.8.2.1: the other side must not get one without Event, and this one is told what crosses (s.8.2.2)."""
    border, alice, bob, answer, _ = talking()
    alice.inside("NOTIFY", answer, fields=fields)
    refused = alice.expect_answer(489)
    assert refused.values("Allow-Events") == list(EVENTS)
    assert "unknown-event" in (refused.get("Warning") or "")
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_old_cseq_is_500() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INFO", answer, cseq=1)
    alice.expect_answer(500)
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_unknown_dialog_is_481() -> None:
    border, alice, bob, answer, _ = talking()
    hang_up(border, alice, bob, answer)
    alice.inside("INFO", answer)
    alice.expect_answer(481)
    border.at_rest()


@pytest.mark.parametrize(
    ("method", "status"), [("REFER", 405), ("SUBSCRIBE", 405), ("PUBLISH", 405), ("FROB", 501)]
)
def test_unserved_methods_are_refused_with_allow(method: str, status: int) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.request(method)
    assert "INVITE" in (alice.expect_answer(status).get("Allow") or "")
    answer, _ = established(border, alice, bob)
    alice.inside(method, answer)
    assert "INVITE" in (alice.expect_answer(status).get("Allow") or "")
    hang_up(border, alice, bob, answer)


def test_options_says_what_we_do() -> None:
    border = Border()
    alice, _ = pair(border)
    alice.request("OPTIONS")
    answer = alice.expect_answer(200)
    assert "UPDATE" in (answer.get("Allow") or "")
    assert answer.get("Accept") == "application/sdp"
    border.at_rest()


def test_peer_without_dialog_ends_the_call() -> None:
    """RFC 3261 s.12.2.1.2: 481 inside a dialog means that the peer has lost it."""
    border, alice, bob, answer, _ = talking()
    alice.inside("INFO", answer, body="Signal=1\r\n", content_type="application/dtmf-relay")
    bob.answer(bob.expect("INFO"), 481, "Call/Transaction Does Not Exist")
    alice.expect_answer(481, "INFO")
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()
    assert border.records[0].end_cause == "peer-lost"


def test_peer_that_stops_answering_ends_the_call() -> None:
    border, alice, _bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    border.advance(33)
    messages = []
    while alice.inbox:
        messages.append(alice.next())
    assert {m.status for m in messages if isinstance(m, Response)} == {408}
    bye = next(m for m in messages if isinstance(m, Request))
    assert bye.method == "BYE"
    border.at_rest()
    assert border.records[0].end_cause == "peer-lost"


def test_call_over_its_maximum_is_released() -> None:
    border = Border(changes=lambda text: text + "\ntimers: {max_call_s: 100, session_expires_s: 0}\n")
    alice, bob = pair(border)
    established(border, alice, bob)
    border.advance(99)
    alice.nothing()
    border.advance(2)
    alice.answer(alice.expect("BYE"), 200)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()
    assert border.records[0].end_cause == "max-duration"


def test_session_timer_is_refreshed_by_us_for_a_peer_that_knows_none() -> None:
    border, alice, bob, answer, _ = talking(
        changes=lambda text: text + "\ntimers: {session_expires_s: 200, min_se_s: 90}\n"
    )
    assert "refresher=uas" in (answer.get("Session-Expires") or "")
    for _ in range(5):
        border.advance(100)
        refresh = alice.next()
        assert isinstance(refresh, Request) and refresh.method in ("UPDATE", "INVITE")
        alice.answer(refresh, 200, "OK", sdp=audio("203.0.113.77") if refresh.method == "INVITE" else "")
        bob.nothing()
    border.advance(101)
    assert alice.next().encode()[:6] in (b"UPDATE", b"INVITE")
    border.advance(40)
    assert border.records[0].end_cause == "session-timer"
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()


def test_session_timer_of_the_peer_runs_out() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Supported: timer\r\nSession-Expires: 120;refresher=uac")
    invite = bob.expect("INVITE")
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    assert "120;refresher=uac" in (answer.get("Session-Expires") or "")
    alice.ack(answer)
    border.advance(60)
    alice.inside("UPDATE", answer, fields="Supported: timer\r\nSession-Expires: 120;refresher=uac")
    alice.expect_answer(200, "UPDATE")
    border.advance(80)
    alice.nothing()
    border.advance(30)
    alice.answer(alice.expect("BYE"), 200)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()
    assert border.records[0].end_cause == "session-timer"


def test_too_small_session_interval_is_422() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Supported: timer\r\nSession-Expires: 60")
    assert alice.expect_answer(422).get("Min-SE") == "90"
    bob.nothing()
    border.at_rest()


def test_422_of_a_server_makes_us_ask_again() -> None:
    border, alice, bob, first = calling()
    bob.answer(first, 422, "Session Interval Too Small", fields="Min-SE: 3600")
    bob.expect("ACK")
    again = bob.expect("INVITE")
    assert (again.get("Session-Expires") or "").startswith("3600")
    assert again.cseq.number == first.cseq.number + 1
    answer = picked_up(alice, bob, again)
    hang_up(border, alice, bob, answer)


def test_dialog_check_finds_a_dead_peer() -> None:
    border = Border(changes=lambda text: text + "\ntimers: {dialog_check_s: 30, session_expires_s: 0}\n")
    alice, bob = pair(border)
    established(border, alice, bob)
    border.advance(30.1)
    alice.answer(alice.expect("OPTIONS"), 200)
    bob.expect("OPTIONS")
    border.advance(33)
    assert border.records[0].end_cause == "peer-lost"
    border.at_rest()
