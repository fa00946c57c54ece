"""Holds of every form from either side, and what a refused offer leaves (RFC 6337 s.5.3, RFC 3261 s.14)."""

import pytest

from media.relay import End
from signaling.message import Request
from tests.harness.border import (
    CONFIG,
    Agent,
    Border,
    audio,
    established,
    hang_up,
    pair,
    sdp_field,
    talking,
)
from tests.scenario.test_inside import reinvite

PORT = r"m=audio (\d+)"
DIRECTION = r"a=(sendrecv|sendonly|recvonly|inactive)"


def callee_offers(alice: Agent, bob: Agent, invite: Request, offer: str, reply: str) -> tuple[Request, bytes]:
    """Bob offers again: what alice got, and the answer that he got."""
    bob.inside("INVITE", invite, body=offer)
    got = alice.expect("INVITE")
    alice.answer(got, 200, "OK", sdp=reply)
    alice.expect("ACK")
    ok = bob.expect_answer(200, "INVITE")
    bob.ack(ok)
    return got, ok.body


def latest(border: Border, side: str) -> End:
    """What the relay was told last of a side."""
    return next(end for _, which, end in reversed(border.relay.changes) if which == side)


@pytest.mark.parametrize("nowhere", ["IN IP4 0.0.0.0", "IN IP6 ::"])
def test_the_callee_holds_by_an_address_that_is_none_and_resumes(nowhere: str) -> None:
    border, alice, bob, answer, invite = talking()
    held = audio("10.0.0.20", 4002, version=2).replace("c=IN IP4 10.0.0.20", f"c={nowhere}")
    got, told = callee_offers(alice, bob, invite, held, audio("203.0.113.77", 4000, "recvonly", version=2))
    assert sdp_field(got, DIRECTION) in ("sendonly", "inactive")
    assert sdp_field(got, r"c=IN IP4 (\S+)") == "203.0.113.10"
    assert not latest(border, "b").send, "nothing is sent to nowhere"
    got, told = callee_offers(
        alice, bob, invite, audio("10.0.0.20", 4002, version=3), audio("203.0.113.77", 4000, version=3)
    )
    assert b"a=sendonly" not in got.body and b"a=inactive" not in got.body
    assert b"a=recvonly" not in told and b"a=inactive" not in told
    end = latest(border, "b")
    assert (end.send, end.receive, end.remote) == (True, True, ("10.0.0.20", 4002))
    hang_up(border, alice, bob, answer)


@pytest.mark.parametrize("nowhere", ["IN IP4 0.0.0.0", "IN IP6 ::"])
def test_the_caller_holds_by_an_address_that_is_none_and_resumes(nowhere: str) -> None:
    border, alice, bob, answer, _ = talking()
    held = audio("203.0.113.77", version=2).replace("c=IN IP4 203.0.113.77", f"c={nowhere}")
    got, _ = reinvite(alice, bob, answer, held, audio("10.0.0.20", 4002, "recvonly", version=2))
    assert sdp_field(got, DIRECTION) in ("sendonly", "inactive")
    assert not latest(border, "a").send
    reinvite(alice, bob, answer, audio("203.0.113.77", version=3), audio("10.0.0.20", 4002, version=3))
    end = latest(border, "a")
    assert (end.send, end.receive, end.remote) == (True, True, ("203.0.113.77", 4000))
    hang_up(border, alice, bob, answer)


def test_after_a_refused_offer_the_other_side_may_offer() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("INVITE", answer, body=audio("203.0.113.77", direction="sendonly", version=2))
    bob.answer(bob.expect("INVITE"), 488)
    bob.expect("ACK")
    alice.expect_answer(488)
    got, _ = callee_offers(
        alice, bob, invite,
        audio("10.0.0.20", 4002, "sendonly", version=2), audio("203.0.113.77", 4000, "recvonly", version=2),
    )  # fmt: skip
    assert sdp_field(got, DIRECTION) == "sendonly"
    hang_up(border, alice, bob, answer)


def moving(host: str, port: int) -> str:
    """An offer of everything else than before: another address, another port, on hold, a second line."""
    return (
        audio(host, port, "sendonly", "8 PCMA/8000", version=2)
        + f"m=video {port + 2} RTP/AVP 34\r\na=rtpmap:34 H263/90000\r\n"
    )


@pytest.mark.parametrize("status", [415, 488, 491, 500, 603])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("offerer", ["caller", "callee"])
def test_a_refused_offer_leaves_the_old_session_on_both_legs(offerer: str, method: str, status: int) -> None:
    """RFC 3261 s.14.1, RFC 6337 s.3.4: ports and addresses stay, what was taken for the offer is given back."""
    border, alice, bob, answer, invite = talking()
    (before,) = border.relay.streams.values()
    assert (before.a.remote, before.b.remote) == (("203.0.113.77", 4000), ("10.0.0.20", 4002))
    told = list(border.relay.changes)
    ports = border.pool.in_use("public"), border.pool.in_use("private")
    asks, answers, of = (alice, bob, answer) if offerer == "caller" else (bob, alice, invite)
    asks.inside(method, of, body=moving(asks.address[0].rpartition(".")[0] + ".99", 7000))
    got = answers.expect(method)
    answers.answer(got, status)
    if method == "INVITE":
        answers.expect("ACK")
    refused = asks.expect_answer(status, method)
    assert refused.body == b"", "an answer to an offer that was refused"
    assert border.relay.changes == told
    assert list(border.relay.streams.values()) == [before]
    assert (border.pool.in_use("public"), border.pool.in_use("private")) == ports
    # What was in force is what the next offers begin with, from either side.
    got, back = reinvite(
        alice, bob, answer, audio("203.0.113.77", 4010, version=3), audio("10.0.0.20", 4002, version=1)
    )
    assert sdp_field(got, PORT) == sdp_field(invite, PORT)
    assert sdp_field(back, PORT) == sdp_field(answer, PORT)
    assert latest(border, "a").remote == ("203.0.113.77", 4010)
    got, body = callee_offers(
        alice, bob, invite, audio("10.0.0.20", 4012, version=3), audio("203.0.113.77", 4010, version=3)
    )
    assert sdp_field(got, PORT) == sdp_field(answer, PORT)
    assert b"m=audio %s " % sdp_field(invite, PORT).encode() in body
    assert latest(border, "b").remote == ("10.0.0.20", 4012)
    hang_up(border, alice, bob, answer)


def repeats(border: Border, method: str) -> list[float]:
    """When a request leaves for bob within two seconds, from its first time on."""
    at: list[float] = []
    before = len(border.sent)
    start = border.now
    while border.now < start + 2:
        border.advance(0.05)
        new = border.sent[before:]
        before = len(border.sent)
        at += [round(border.now - start, 2) for data, _ in new if data.startswith(method.encode())]
    return at


def test_t1_and_t2_are_those_of_the_file() -> None:
    """RFC 3261 s.17.1.1.2, s.17.1.2.2: INVITE by doubling, everything else up to T2."""
    border = Border(CONFIG + "timers: {t1_ms: 100, t2_ms: 200, t4_ms: 300, trying_timeout_s: 3}\n")
    alice, bob = pair(border)
    alice.invite()
    bob.expect("INVITE")
    assert repeats(border, "INVITE sip:200@10") == pytest.approx([0.1, 0.3, 0.7, 1.5], abs=0.06)
    border, alice, bob, answer, _ = talking(
        lambda text: text + "timers: {t1_ms: 100, t2_ms: 200, t4_ms: 300}\n"
    )
    alice.inside("BYE", answer)
    bob.expect("BYE")
    assert repeats(border, "BYE")[:5] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=0.06)


def test_t4_is_that_of_the_file() -> None:
    """RFC 3261 s.17.1.2.2 timer K, s.17.2.1 timer I: how long what has its answer waits for a late copy."""

    def held() -> int:
        return border.calls.leftovers()["transactions"]

    border = Border(CONFIG + "timers: {t1_ms: 100, t2_ms: 200, t4_ms: 300}\n")
    alice, bob = pair(border)
    asked = alice.invite()
    bob.answer(bob.expect("INVITE"), 486)
    bob.expect("ACK")
    busy = alice.expect_answer(486)
    alice.request(
        "ACK", uri=asked.uri, to_header=busy.get("To"), branch=asked.via.branch, cseq=asked.cseq.number
    )
    assert held() == 2
    border.advance(0.29)
    assert held() == 2, "timer I absorbs ACKs"
    border.advance(0.02)
    assert held() == 1, "timer D, which is 32 s"
    border.at_rest()
    answer, _ = established(border, alice, bob)
    border.advance(7)
    assert held() == 0
    alice.inside("INFO", answer, body="Signal=1\r\n", content_type="application/dtmf-relay")
    bob.answer(bob.expect("INFO"), 200)
    alice.expect_answer(200, "INFO")
    assert held() == 2
    border.advance(0.29)
    assert held() == 2, "timer K absorbs answers"
    border.advance(0.02)
    assert held() == 1, "timer J, which is 64 x T1"
    hang_up(border, alice, bob, answer)
