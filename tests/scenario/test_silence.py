"""Media silence ends a call after its limit, but not one that still rings (issue s.6)."""

from media.relay import Silence
from tests.harness.border import CONFIG, Border, audio, calling, established, hang_up, pair
from tests.scenario.test_inside import reinvite


def silence(border: Border, ever: bool) -> None:
    stream = next(iter(border.relay.streams.values()))
    border.relay.on_event(Silence(stream.id, stream.call, 60.0, ever))


def test_silence_ends_an_established_call_on_both_sides() -> None:
    for ever, cause in ((True, "media-silence"), (False, "media-never")):
        border = Border()
        alice, bob = pair(border)
        established(border, alice, bob)
        silence(border, ever)
        bye = alice.expect("BYE")
        assert "cause=102" in (bye.get("Reason") or ""), "the peer is told why"
        alice.answer(bye, 200)
        bob.answer(bob.expect("BYE"), 200)
        border.at_rest()
        assert border.records[0].end_cause == cause


def test_silent_early_media_is_no_reason_to_stop_ringing() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 183, "Session Progress", sdp=audio("10.0.0.20", 4002))
    alice.expect_answer(183)
    silence(border, False)
    alice.nothing()
    border.relay.limited.clear()
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    assert border.relay.limited, "the clock starts again with the answer"
    answer = alice.expect_answer(200)
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_a_call_on_hold_is_as_silent_as_it_likes_unless_a_limit_is_written() -> None:
    for written, limit_s in (("", 0.0), ("timers: {rtp_hold_s: 900}\n", 900.0)):
        border = Border(CONFIG + written)
        alice, bob = pair(border)
        answer, _ = established(border, alice, bob)
        (stream,) = border.relay.streams
        assert border.relay.limited.pop(stream) == (60.0, 60.0)
        held, holding = audio("203.0.113.77", direction="sendonly"), audio("10.0.0.20", 4002, "recvonly")
        reinvite(alice, bob, answer, held, holding)
        assert border.relay.limited[stream] == (limit_s, limit_s)
        hang_up(border, alice, bob, answer)
