"""Session timers (RFC 4028), negotiated on each leg by itself: who refreshes, and what becomes of a failure."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, established, hang_up, pair, picked_up, talking
from tests.scenario.test_races import only

HOLD = audio("203.0.113.77", direction="sendonly", version=2)


def border_with(timers: str) -> Border:
    return Border(changes=lambda text: text + f"\ntimers: {{{timers}}}\n")


def over_tcp(border: Border) -> tuple[Agent, Agent]:
    """Agents to whom nothing is repeated."""
    return (
        border.agent("public", "203.0.113.77:41000", "tcp"),
        border.agent("private", "10.0.0.20:5060"),
    )


def answered(alice: Agent, bob: Agent, fields: str, reply: str = "") -> tuple[Response, Request]:
    """A call whose INVITE and 2xx have these fields."""
    alice.invite(fields=fields)
    invite = bob.expect("INVITE")
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002), fields=reply)
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    return answer, invite


@pytest.mark.parametrize(
    ("fields", "interval", "require"),
    [
        ("", "1800;refresher=uas", None),
        ("Session-Expires: 600", "600;refresher=uas", None),
        ("Session-Expires: 600;refresher=uac", "600;refresher=uas", None),
        ("Session-Expires: 60", "90;refresher=uas", None),
        ("Supported: timer", "1800;refresher=uac", "timer"),
        ("Supported: timer\r\nMin-SE: 3600", "3600;refresher=uac", "timer"),
        ("Supported: timer\r\nSession-Expires: 600", "600;refresher=uac", "timer"),
        ("Supported: timer\r\nSession-Expires: 600;refresher=uac", "600;refresher=uac", "timer"),
        ("Supported: timer\r\nSession-Expires: 600;refresher=uas", "600;refresher=uas", None),
        ("Supported: timer\r\nx: 9999999999", "1800;refresher=uac", "timer"),
        ("Supported: timer\r\nSession-Expires: 7200\r\nMin-SE: 5000", "5000;refresher=uac", "timer"),
        ("Require: timer\r\nSession-Expires: 600", "600;refresher=uac", "timer"),
    ],
)
def test_what_we_agree_to_as_server(fields: str, interval: str, require: str | None) -> None:
    """RFC 4028 s.9 table 2."""
    border = Border()
    alice, bob = pair(border)
    answer, _ = answered(alice, bob, fields)
    assert answer.get("Session-Expires") == interval
    assert answer.get("Require") == require
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("value", ["soon", "-1", "", "99999999999", "1800.5"])
def test_broken_interval_in_a_request_is_400(value: str) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields=f"Supported: timer\r\nSession-Expires: {value}")
    alice.expect_answer(400)
    bob.nothing()
    border.at_rest()


def test_zero_interval_is_422() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Supported: timer\r\nSession-Expires: 0")
    assert alice.expect_answer(422).get("Min-SE") == "90"
    bob.nothing()
    border.at_rest()


@pytest.mark.parametrize("value", ["soon", "0", "", "99999999999"])
def test_broken_interval_in_a_2xx_is_none(value: str) -> None:
    """A response cannot be refused; without an interval nothing expires (s.7.2)."""
    border = border_with("session_expires_s: 100, min_se_s: 90, rtp_silence_s: 0")
    alice, bob = pair(border)
    answer, _ = answered(alice, bob, "Supported: timer\r\nSession-Expires: 100000\r\nMin-SE: 100000",
                         f"Require: timer\r\nSession-Expires: {value};refresher=uas")  # fmt: skip
    border.advance(500)
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_interval_below_what_we_asked_for_does_not_make_us_flood() -> None:
    border = Border()
    alice, bob = pair(border)
    answer, _ = answered(
        alice,
        bob,
        "Supported: timer\r\nSession-Expires: 1800",
        "Require: timer\r\nSession-Expires: 1;refresher=uac",
    )
    border.advance(44)
    bob.nothing()
    border.advance(1.2)
    assert only(bob, "UPDATE").get("Session-Expires") == "90;refresher=uac"
    bob.cseq = 1
    alice.inside("BYE", answer)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()


def test_refused_update_is_no_refresh() -> None:
    """s.7.4: only a 2xx refreshes, so the old interval runs out."""
    border = Border()
    alice, bob = pair(border)
    answer, _ = answered(alice, bob, "Supported: timer\r\nSession-Expires: 120;refresher=uac")
    border.advance(70)
    alice.inside(
        "INVITE", answer, body=HOLD, fields="Supported: timer\r\nSession-Expires: 1200;refresher=uac"
    )
    bob.answer(bob.expect("INVITE"), 488)
    bob.expect("ACK")
    alice.expect_answer(488)
    border.advance(20)
    assert border.records[0].end_cause == "session-timer"
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()


def test_refused_offer_is_not_what_we_refresh_with() -> None:
    border = border_with("session_expires_s: 200, min_se_s: 90")
    alice, bob = over_tcp(border)
    alice.request("INVITE", body=audio("203.0.113.77"))
    invite = bob.expect("INVITE")
    answer = picked_up(alice, bob, invite)
    bob.inside("INVITE", invite, body=audio("10.0.0.20", 4002, "inactive", version=2))
    offered = alice.expect("INVITE")
    assert b"a=inactive" in offered.body
    alice.answer(offered, 488)
    alice.expect("ACK")
    border.advance(100)
    refresh = alice.expect("INVITE")
    assert refresh.body == answer.body
    alice.answer(refresh, 200, sdp=audio("203.0.113.77"))
    alice.expect("ACK")
    bob.inbox.clear()
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("status", [405, 501])
def test_refused_update_is_tried_as_reinvite(status: int) -> None:
    border = border_with("session_expires_s: 200, min_se_s: 90")
    alice, bob = over_tcp(border)
    answer, _ = established(border, alice, bob)
    border.advance(100)
    alice.answer(alice.expect("UPDATE"), status)
    border.advance(0.1)
    refresh = alice.expect("INVITE")
    assert refresh.body == answer.body
    alice.answer(refresh, 200, sdp=audio("203.0.113.77"))
    alice.expect("ACK")
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_refresh_that_keeps_failing_ends_the_call_before_the_interval_does() -> None:
    """s.10."""
    border = border_with("session_expires_s: 200, min_se_s: 90")
    alice, bob = over_tcp(border)
    established(border, alice, bob)
    border.advance(100)
    tried = 0
    while border.now < 1199 and not border.records:
        while alice.inbox:
            request = alice.next()
            assert isinstance(request, Request)
            tried += request.method == "UPDATE"
            alice.answer(request, 500 if request.method == "UPDATE" else 200)
        border.advance(1)
    assert 2 <= tried <= 10
    assert border.records[0].end_cause == "session-timer"
    assert 1150 <= border.now <= 1170, "200 s less 32 s"
    bob.answer(bob.expect("BYE"), 200)
    alice.inbox.clear()
    border.at_rest()


@pytest.mark.parametrize("status", [481, 408])
def test_refresh_without_dialog_ends_the_call(status: int) -> None:
    border = border_with("session_expires_s: 200, min_se_s: 90")
    alice, bob = over_tcp(border)
    established(border, alice, bob)
    border.advance(100)
    alice.answer(alice.expect("UPDATE"), status)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()
    assert border.records[0].end_cause == "session-timer"


def test_422_to_an_update_is_asked_again_with_a_longer_interval() -> None:
    """s.7.3: the two sides of the border agree on their intervals without each other."""
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=HOLD)
    first = bob.expect("INVITE")
    bob.answer(first, 422, fields="Min-SE: 4000")
    bob.expect("ACK")
    again = bob.expect("INVITE")
    assert (again.get("Session-Expires"), again.get("Min-SE")) == ("4000", "4000")
    assert again.body == first.body
    bob.answer(again, 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    bob.expect("ACK")
    alice.ack(alice.expect_answer(200))
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("fields", ["", "Min-SE: 9999999", "Min-SE: soon", "Min-SE: 10"])
def test_422_that_helps_nobody_is_not_the_callers(fields: str) -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 422, fields=fields)
    bob.expect("ACK")
    bob.nothing()
    alice.expect_answer(488)
    border.at_rest()


def test_callee_that_refreshes_is_watched() -> None:
    border = Border()
    alice, bob = pair(border)
    answered(alice, bob, "", "Require: timer\r\nSession-Expires: 120;refresher=uas")
    border.advance(79)
    assert border.records == []
    border.advance(10)
    assert border.records[0].end_cause == "session-timer"
    border.at_rest()


def test_peer_that_leaves_the_timer_out_switches_it_off() -> None:
    """s.7.2: a 2xx without Session-Expires ends an agreement in which it was to refresh."""
    border = Border()
    alice, bob = pair(border)
    theirs = "Require: timer\r\nSession-Expires: 120;refresher=uas"
    answer, _ = answered(alice, bob, "Supported: timer\r\nSession-Expires: 1800", theirs)
    alice.inside("UPDATE", answer, body=HOLD, fields="Supported: timer\r\nSession-Expires: 1800")
    bob.answer(bob.expect("UPDATE"), 200, sdp=audio("10.0.0.20", 4002, "recvonly", version=2))
    alice.expect_answer(200)
    border.advance(300)
    assert border.records == []
    hang_up(border, alice, bob, answer)


def test_phone_that_counts_its_version_at_every_refresh_changes_nothing() -> None:
    border = border_with("session_expires_s: 200, min_se_s: 90")
    alice, bob = over_tcp(border)
    alice.request("INVITE", body=audio("203.0.113.77"))
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    border.advance(100)
    alice.answer(alice.expect("INVITE"), 200, sdp=audio("203.0.113.77", version=2))
    alice.expect("ACK")
    bob.nothing()
    border.advance(100)
    alice.answer(alice.expect("INVITE"), 200, sdp=audio("203.0.113.77", 4444, version=3))
    alice.expect("ACK")
    changed = bob.expect("INVITE")
    bob.answer(changed, 200, sdp=audio("10.0.0.20", 4002, version=2))
    bob.expect("ACK")
    assert any(end.remote == ("203.0.113.77", 4444) for _, _, end in border.relay.changes)
    hang_up(border, alice, bob, answer)
