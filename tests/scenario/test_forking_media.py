"""Several phones ring: whose media the caller hears, and which offer and answer count (RFC 3264, RFC 3960)."""

from tests.harness.border import audio, sdp_field
from tests.harness.forks import Forked, answered, cancelled


def test_early_media_of_one_and_the_answer_of_another() -> None:
    """RFC 3261 s.13.2.2.4, RFC 6337 s.3.1: each early dialog has its own answer; one is heard at a time."""
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    one.answer(first, 183, sdp=audio("10.0.0.31", 4100))
    early = forked.alice.expect_answer(183)
    assert forked.media() == (("203.0.113.77", 4000), ("10.0.0.31", 4100))
    two.answer(second, 183, sdp=audio("10.0.0.32", 4200))
    other = forked.alice.expect_answer(183)
    assert other.body == b"" and other.to.tag != early.to.tag
    assert forked.media()[1] == ("10.0.0.31", 4100)
    two.answer(second, 200, sdp=audio("10.0.0.32", 4200))
    two.expect("ACK")
    answer = forked.confirm()
    assert answer.to.tag == other.to.tag
    assert sdp_field(answer, r"m=audio (\d+)") == sdp_field(early, r"m=audio (\d+)")
    assert forked.media() == (("203.0.113.77", 4000), ("10.0.0.32", 4200))
    cancelled(one, first)
    assert forked.media()[1] == ("10.0.0.32", 4200)
    forked.hang_up(answer, two)


def test_early_media_of_the_next_when_the_first_gives_up() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    one.answer(first, 183, sdp=audio("10.0.0.31", 4100))
    one.answer(first, 486)
    one.expect("ACK")
    assert forked.media()[1] is None
    two.answer(second, 183, sdp=audio("10.0.0.32", 4200))
    forked.alice.expect_answer(183)
    assert b"m=audio" in forked.alice.expect_answer(183).body
    assert forked.media()[1] == ("10.0.0.32", 4200)
    two.answer(second, 200, sdp=audio("10.0.0.32", 4200))
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)


def test_answer_in_a_183_that_was_not_to_be_heard() -> None:
    """A phone that answers in the 18x alone, while another one is heard: its 200 brings that answer."""
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    one.answer(first, 183, sdp=audio("10.0.0.31", 4100))
    two.answer(second, 183, sdp=audio("10.0.0.32", 4200))
    two.answer(second, 200)
    two.expect("ACK")
    for _ in range(2):
        forked.alice.expect_answer(183)
    answer = forked.confirm()
    assert b"m=audio" in answer.body
    assert forked.media()[1] == ("10.0.0.32", 4200)
    cancelled(one, first)
    forked.hang_up(answer, two)


def test_late_offer() -> None:
    """RFC 3264 s.5, RFC 3261 s.13.2.1: the one that answers offers; a loser's offer gets no answer."""
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring(sdp="")
    assert (first.body, second.body) == (b"", b"")
    two.answer(second, 180)
    forked.alice.expect_answer(180)
    answered(one, first)
    answered(two, second)
    offer = forked.alice.expect_answer(200)
    assert b"m=audio" in offer.body
    forked.alice.ack(offer, sdp=audio("203.0.113.77"))
    assert b"m=audio" in one.expect("ACK").body
    two.expect("CANCEL")
    two.expect("ACK")
    two.answer(two.expect("BYE"), 200)
    assert forked.media() == (("203.0.113.77", 4000), ("10.0.0.31", 4002))
    forked.hang_up(offer, one)


def test_answer_that_cannot_be_used_leaves_the_others_ringing() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    two.answer(second, 180)
    one.answer(first, 200, sdp=audio("10.0.0.31").replace("RTP/AVP", "RTP/SAVP"))
    one.expect("ACK")
    one.answer(one.expect("BYE"), 200)
    forked.alice.expect_answer(180)
    forked.alice.nothing()
    two.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)
    assert forked.border.records[0].targets[0].status == 488


def test_2xx_without_sdp_leaves_the_others_ringing() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    one.answer(first, 200)
    one.expect("ACK")
    one.answer(one.expect("BYE"), 200)
    forked.alice.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)
