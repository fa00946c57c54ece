"""Messages that cross on the wire, and peers that stop in the middle (RFC 3261 s.9, s.14, s.15; RFC 5407; RFC 6141)."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, calling, hang_up, picked_up, talking
from tests.scenario.test_no_call import calling_two_servers

HOLD = audio("203.0.113.77", direction="sendonly", version=2)
HELD = audio("10.0.0.20", 4002, "recvonly", version=2)


def statuses(agent: Agent) -> list[tuple[str, int]]:
    """The responses that came, in order, 100 left out; requests stay."""
    found = [m for m in agent.inbox if isinstance(m, Response)]
    agent.inbox = [m for m in agent.inbox if isinstance(m, Request)]
    return [(m.cseq.method, m.status) for m in found if m.status != 100]


def test_cancel_of_a_reinvite_crosses() -> None:
    border, alice, bob, answer, _ = talking()
    offer = alice.inside("INVITE", answer, body=HOLD)
    got = bob.expect("INVITE")
    bob.answer(got, 100)
    alice.cancel(offer)
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(got, 487)
    bob.expect("ACK")
    assert statuses(alice) == [("CANCEL", 200), ("INVITE", 487)]
    assert border.records == []
    hang_up(border, alice, bob, answer)


def test_2xx_crossing_the_cancel_of_a_reinvite_stands() -> None:
    """RFC 3261 s.9.1: what the other side answered is the answer."""
    border, alice, bob, answer, _ = talking()
    offer = alice.inside("INVITE", answer, body=HOLD)
    got = bob.expect("INVITE")
    bob.answer(got, 100)
    alice.cancel(offer)
    cancel = bob.expect("CANCEL")
    bob.answer(got, 200, sdp=HELD)
    bob.answer(cancel, 200)
    bob.expect("ACK")
    message = alice.next()
    assert isinstance(message, Response) and message.cseq.method == "CANCEL"
    ok = alice.expect_answer(200, "INVITE")
    assert b"a=recvonly" in ok.body
    alice.ack(ok)
    hang_up(border, alice, bob, answer)


def test_reinvite_without_final_answer_is_cancelled_in_the_end() -> None:
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=HOLD)
    got = bob.expect("INVITE")
    bob.answer(got, 100)
    border.advance(180.1)
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(got, 487)
    bob.expect("ACK")
    assert statuses(alice) == [("INVITE", 487)]
    hang_up(border, alice, bob, answer)


def test_bye_while_a_reinvite_waits_leaves_no_transaction() -> None:
    """The peer answers the BYE but never the re-INVITE."""
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=HOLD)
    got = bob.expect("INVITE")
    bob.answer(got, 100)
    alice.inside("BYE", answer)
    assert sorted(statuses(alice)) == [("BYE", 200), ("INVITE", 487)]
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()


def test_bye_of_the_one_who_is_asked_leaves_no_transaction() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("INVITE", answer, body=HOLD)
    bob.answer(bob.expect("INVITE"), 100)
    bob.inside("BYE", invite)
    alice.answer(only(alice, "BYE"), 200)
    border.at_rest()


def only(agent: Agent, method: str) -> Request:
    """The one request with this method among what came."""
    found = [m for m in agent.inbox if isinstance(m, Request) and m.method == method]
    assert len(found) == 1
    agent.inbox.clear()
    return found[0]


def test_481_while_the_peer_waits_for_an_answer_leaves_no_transaction() -> None:
    """B's own re-INVITE is open when B says that it has no such dialog."""
    border, alice, bob, answer, invite = talking()
    alice.inside("INFO", answer)
    info = bob.expect("INFO")
    bob.inside("INVITE", invite, body=HELD)
    alice.expect("INVITE")
    bob.answer(info, 481)
    bob.expect_answer(487, "INVITE")
    border.at_rest()


def test_reinvite_that_is_never_acknowledged_ends_the_call() -> None:
    """RFC 3261 s.14.2."""
    border, alice, bob, answer, _ = talking()
    alice.inside("INVITE", answer, body=HOLD)
    bob.answer(bob.expect("INVITE"), 200, sdp=HELD)
    bob.expect("ACK")
    border.advance(32.1)
    alice.answer(only(alice, "BYE"), 200)
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()
    assert border.records[0].end_cause == "no-ack"


def test_2xx_after_failover_is_acked_and_ended() -> None:
    """The first server was too slow: its answer must not ring on, nor reach the caller."""
    border, alice, bob, second = calling_two_servers()
    slow = bob.expect("INVITE")
    border.advance(4.1)
    invite = second.expect("INVITE")
    bob.inbox.clear()
    bob.answer(slow, 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    alice.nothing()
    answer = picked_up(alice, second, invite)
    hang_up(border, alice, second, answer)


def test_reason_crosses_with_cancel_and_bye() -> None:
    """RFC 3326, also where the BYE has to wait for the ACK."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    bob.inside("BYE", invite, fields="Reason: Q.850;cause=41")
    bob.expect_answer(200)
    alice.ack(answer)
    bye = alice.expect("BYE")
    assert "cause=41" in (bye.get("Reason") or "")
    alice.answer(bye, 200)
    border.at_rest()


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_local_refresh_against_the_peers_offer_is_glare(method: str) -> None:
    border = Border(changes=lambda text: text + "\ntimers: {session_expires_s: 200, min_se_s: 90}\n")
    alice = border.agent("public", "203.0.113.77:41000", "tcp")  # so that nothing is repeated
    bob = border.agent("private", "10.0.0.20:5060")
    alice.request("INVITE", body=audio("203.0.113.77"))  # without Allow: refreshed by re-INVITE
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    border.advance(100)
    refresh = alice.expect("INVITE")
    alice.inside(method, answer, body=HOLD)
    alice.expect_answer(491, method)
    bob.nothing()
    alice.answer(refresh, 491)
    alice.expect("ACK")
    # RFC 3261 s.14.1: the Call-ID is hers, so we are back within 2 s.
    border.advance(2)
    again = alice.expect("INVITE")
    alice.answer(again, 200, sdp=audio("203.0.113.77"))
    alice.expect("ACK")
    bob.nothing()
    hang_up(border, alice, bob, answer)


def test_the_owner_of_a_call_id_waits_longer_after_glare() -> None:
    """RFC 3261 s.14.1: 2.1 to 4 s where the Call-ID is ours, so that the other one is first."""
    border = Border(changes=lambda text: text + "\ntimers: {session_expires_s: 200, min_se_s: 90}\n")
    alice = border.agent("public", "203.0.113.77:41000", "tcp")
    bob = border.agent("private", "10.0.0.20:5060")
    alice.request(
        "INVITE", body=audio("203.0.113.77"), fields="Supported: timer\r\nSession-Expires: 1800;refresher=uac"
    )
    timer = "Session-Expires: 200;refresher=uac"
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002), fields=timer)
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    border.advance(100)
    waits = []
    for _ in range(6):
        bob.answer(bob.expect("UPDATE"), 491)
        start = border.now
        while not bob.inbox and border.now < start + 5:
            border.advance(0.05)
        waits.append(border.now - start)
    assert all(2.1 <= wait <= 4.06 for wait in waits), waits
    assert len({round(wait, 1) for wait in waits}) > 1, "drawn anew each time"
    bob.answer(bob.expect("UPDATE"), 200)
    hang_up(border, alice, bob, answer)


def test_info_that_waits_is_answered_when_the_call_ends() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("INFO", answer)
    bob.expect("INFO")
    bob.inside("BYE", invite)
    alice.answer(only_request_of(alice), 200)
    border.at_rest()


def only_request_of(agent: Agent) -> Request:
    """The BYE that came; the 487 to what was pending came with it."""
    assert statuses(agent) == [("INFO", 487)]
    return only(agent, "BYE")
