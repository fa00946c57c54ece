"""Ports for an INVITE without an offer are taken before anybody rings (issue s.6; RFC 3261 s.13.2.1)."""

from media.ports import PoolExhausted
from media.relay import PortPair
from tests.harness.border import Agent, Border, audio, established, hang_up, pair
from tests.scenario.test_inside import reinvite

VIDEO = "m=video 5000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def scarce(text: str) -> str:
    """One pair of ports on each side, two servers."""
    for old, new in (
        ("20000-20999", "20000-20001"),
        ("30000-30999", "30000-30001"),
        ("max_calls: 200", "max_calls: 1"),
        ('["sip:10.0.0.20"]', '["sip:10.0.0.20", "sip:10.0.0.21"]'),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def in_use(border: Border) -> tuple[int, int]:
    return border.pool.in_use("public"), border.pool.in_use("private")


def empty(border: Border, network: str) -> list[PortPair]:
    """Take every port of a network."""
    taken = []
    try:
        while True:
            taken.append(border.pool.allocate(network, border.now))
    except PoolExhausted:
        return taken


def refused(alice: Agent) -> None:
    answer = alice.expect_answer(503)
    assert "media-ports-exhausted" in (answer.get("Warning") or "")
    assert answer.get("Retry-After") == "5"


def test_nobody_rings_while_either_pool_is_empty() -> None:
    for network in ("public", "private"):
        border = Border(changes=scarce)
        alice, bob = pair(border)
        carol = border.agent("private", "10.0.0.21:5060")
        taken = empty(border, network)
        alice.invite(sdp="")
        refused(alice)
        bob.nothing()
        carol.nothing()
        border.advance(40)
        assert in_use(border) == ((1, 0) if network == "public" else (0, 1)), (
            "what was taken first is given back"
        )
        for ports in taken:
            border.pool.release(ports, border.now)


def test_the_offer_gets_what_was_reserved_for_it() -> None:
    border = Border(changes=scarce)
    alice, bob = pair(border)
    alice.invite(sdp="")
    invite = bob.expect("INVITE")
    assert in_use(border) == (1, 1)
    bob.answer(invite, 180)
    alice.expect_answer(180)
    bob.answer(invite, 200, sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    alice.ack(answer, sdp=audio("203.0.113.77"))
    bob.expect("ACK")
    assert in_use(border) == (1, 1)
    (stream,) = border.relay.streams.values()
    assert (stream.a.local.rtp, stream.b.local.rtp) == (20000, 30000)
    hang_up(border, alice, bob, answer)
    assert in_use(border) == (0, 0)


def test_the_next_server_has_the_ports_of_the_one_that_refused() -> None:
    border = Border(changes=scarce)
    alice, bob = pair(border)
    carol = border.agent("private", "10.0.0.21:5060")
    alice.invite(sdp="")
    bob.answer(bob.expect("INVITE"), 503, "Service Unavailable")
    invite = carol.expect("INVITE")
    assert in_use(border) == (1, 1)
    carol.answer(invite, 486, "Busy Here")
    alice.expect_answer(486)
    border.at_rest()
    assert in_use(border) == (0, 0)


def test_an_offer_of_more_than_there_are_ports_for_rings_nobody_else() -> None:
    border = Border(changes=scarce)
    alice, bob = pair(border)
    carol = border.agent("private", "10.0.0.21:5060")
    alice.invite(sdp="")
    bob.answer(bob.expect("INVITE"), 200, sdp=audio("10.0.0.20", 4002) + VIDEO)
    refused(alice)
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    carol.nothing()
    border.at_rest()
    assert in_use(border) == (0, 0)
    assert border.records[0].final_status == 503


def test_an_offer_whose_first_line_is_off_uses_the_ports_too() -> None:
    border = Border(changes=scarce)
    alice, bob = pair(border)
    alice.invite(sdp="")
    off, _, on = audio("10.0.0.20", 4002).partition("m=")
    bob.answer(bob.expect("INVITE"), 200, sdp=off + "m=video 0 RTP/AVP 96\r\nm=" + on)
    answer = alice.expect_answer(200)
    alice.ack(answer, sdp=audio("203.0.113.77").replace("m=audio", "m=video 0 RTP/AVP 96\r\nm=audio"))
    bob.expect("ACK")
    assert in_use(border) == (1, 1)
    hang_up(border, alice, bob, answer)


def test_what_is_reserved_for_a_branch_goes_with_it() -> None:
    border = Border()
    alice, bob = pair(border)
    anchor = border.anchor
    alice.invite(sdp="")
    bob.expect("INVITE")
    (live,) = border.calls.board.calls.values()
    caller, callee = live.parties["a"], live.parties["b1"]
    another = type(callee)("b2", callee.network, callee.peer, callee.nat)
    anchor.reserve(live.record.id, caller, another)
    anchor.reserve(live.record.id, caller, another)
    assert in_use(border) == (1, 2), "the caller's is for all of them"
    anchor.drop(live.record.id, "b2")
    assert in_use(border) == (1, 1)
    anchor.reserve(live.record.id, caller, another)
    anchor.delete(live.record.id)
    assert in_use(border) == (0, 0)


def test_a_renewed_offer_of_more_than_there_is_leaves_the_session() -> None:
    border = Border(changes=scarce)
    alice, bob = pair(border)
    answer, _ = established(border, alice, bob)
    alice.inside("INVITE", answer, body=audio("203.0.113.77", version=2) + VIDEO)
    refused(alice)
    bob.nothing()
    reinvite(alice, bob, answer, audio("203.0.113.77", version=3), audio("10.0.0.20", 4002, version=3))
    hang_up(border, alice, bob, answer)
