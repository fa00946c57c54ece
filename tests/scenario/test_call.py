"""Calls that come about: offers early and late, provisional answers, the 2xx and its ACK (RFC 3261 s.13)."""

from signaling.message import Response
from tests.harness.border import Border, audio, calling, established, hang_up, pair, sdp_field, talking


def test_call_is_anchored_and_hidden_both_ways() -> None:
    border, alice, bob, invite = calling()
    assert invite.uri == "sip:200@10.0.0.20:5060"
    assert sdp_field(invite, r"c=IN IP4 (\S+)") == "10.0.0.1"
    assert 30000 <= int(sdp_field(invite, r"m=audio (\d+)")) <= 30999
    assert b"203.0.113" not in invite.encode()
    assert b"Scripted" not in invite.encode()
    assert alice.tag.encode() not in invite.encode()
    assert alice.call_id.encode() not in invite.encode()
    bob.answer(invite, 180, "Ringing")
    ringing = alice.expect_answer(180)
    assert b"10.0.0" not in ringing.encode()
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    assert answer.to.tag == ringing.to.tag
    assert sdp_field(answer, r"c=IN IP4 (\S+)") == "203.0.113.10"
    assert b"10.0.0" not in answer.encode()
    bob.expect("ACK")
    alice.ack(answer)
    hang_up(border, alice, bob, answer)
    record = border.records[0]
    assert (record.end_by, record.end_cause) == ("a", "bye")
    assert record.leaks == 0


def test_100_is_sent_at_once() -> None:
    border = Border()
    alice, _ = pair(border)
    alice.invite()
    trying = alice.next(trying=True)
    assert isinstance(trying, Response) and trying.status == 100


def test_callee_hangs_up() -> None:
    border, alice, bob, _, invite = talking()
    bob.inside("BYE", invite)
    bob.expect_answer(200, "BYE")
    bye = alice.expect("BYE")
    alice.answer(bye, 200, "OK")
    border.at_rest()
    assert (border.records[0].end_by, border.records[0].end_cause) == ("b", "bye")


def test_byes_cross() -> None:
    border, alice, bob, answer, invite = talking()
    alice.inside("BYE", answer)
    bob.inside("BYE", invite)
    alice.expect_answer(200, "BYE")
    bye = bob.expect("BYE")
    bob.expect_answer(200, "BYE")
    bob.answer(bye, 481, "Call/Transaction Does Not Exist")
    alice.nothing()
    border.at_rest()
    assert len(border.records) == 1


def test_late_offer_crosses_in_200_and_ack() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="")
    invite = bob.expect("INVITE")
    assert invite.body == b""
    bob.answer(invite, 180, "Ringing", sdp=audio("10.0.0.20", 4002))
    assert alice.expect_answer(180).body == b"", "an offer in an unreliable 18x is none"
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    assert sdp_field(answer, r"c=IN IP4 (\S+)") == "203.0.113.10"
    bob.nothing()
    alice.ack(answer, audio("203.0.113.77", 6000))
    ack = bob.expect("ACK")
    assert sdp_field(ack, r"c=IN IP4 (\S+)") == "10.0.0.1"
    hang_up(border, alice, bob, answer)


def test_late_offer_without_answer_ends_both_sides() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="")
    invite = bob.expect("INVITE")
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    alice.ack(answer)
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


def test_early_media_then_answer_without_sdp() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 183, "Session Progress", sdp=audio("10.0.0.20", 4002))
    early = alice.expect_answer(183)
    assert sdp_field(early, r"c=IN IP4 (\S+)") == "203.0.113.10"
    bob.answer(invite, 200, "OK")
    answer = alice.expect_answer(200)
    assert answer.body == early.body, "the answer given in the 183 stands"
    bob.expect("ACK")
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_several_early_dialogs_get_tags_of_their_own() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 180, "Ringing", tag="fork1")
    bob.answer(invite, 183, "Session Progress", tag="fork2", sdp=audio("10.0.0.21", 4100))
    first, second = alice.expect_answer(180), alice.expect_answer(183)
    assert first.to.tag != second.to.tag
    bob.answer(invite, 200, "OK", tag="fork2", sdp=audio("10.0.0.21", 4100))
    answer = alice.expect_answer(200)
    assert answer.to.tag == second.to.tag
    assert bob.expect("ACK").to.tag == "fork2"
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_second_2xx_of_another_fork_is_acked_and_released() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, "OK", tag="one", sdp=audio("10.0.0.20", 4002))
    assert bob.expect("ACK").to.tag == "one"
    bob.answer(invite, 200, "OK", tag="two", sdp=audio("10.0.0.21", 4002))
    assert bob.expect("ACK").to.tag == "two"
    bye = bob.expect("BYE")
    assert bye.to.tag == "two"
    bob.answer(bye, 200)
    answer = alice.expect_answer(200)
    alice.ack(answer)
    alice.nothing()
    hang_up(border, alice, bob, answer)


def test_2xx_is_repeated_until_the_ack() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    answer = alice.expect_answer(200)
    border.advance(0.5)
    assert alice.expect_answer(200).encode() == answer.encode()
    border.advance(1.0)
    alice.expect_answer(200)
    alice.ack(answer)
    border.advance(20)
    alice.nothing()
    bob.expect("ACK")
    hang_up(border, alice, bob, answer)


def test_repeated_2xx_gets_its_ack_again() -> None:
    border, alice, bob, invite = calling()
    for _ in range(3):
        bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
        bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.nothing()
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_lost_ack_ends_the_call_on_both_sides() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    alice.expect_answer(200)
    border.advance(33)
    bob.answer(bob.expect("BYE"), 200)
    while isinstance(message := alice.next(), Response):
        assert message.status == 200
    assert message.encode().startswith(b"BYE")
    border.at_rest()
    assert border.records[0].end_cause == "no-ack"


def test_bye_right_after_200_waits_for_the_ack() -> None:
    """RFC 3261 s.15: the callee's side sends no BYE before its 2xx is acknowledged."""
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    bob.inside("BYE", invite)
    bob.expect_answer(200)
    alice.nothing()
    alice.ack(answer)
    alice.answer(alice.expect("BYE"), 200)
    border.at_rest()


def test_retransmitted_invite_makes_one_call() -> None:
    border = Border()
    alice, bob = pair(border)
    invite = alice.invite()
    alice.raw(invite.encode())
    alice.raw(invite.encode())
    got = bob.expect("INVITE")
    bob.nothing()
    bob.answer(got, 486, "Busy Here")
    bob.expect("ACK")
    alice.expect_answer(486)
    border.at_rest()
    assert len(border.records) == 1


def test_call_over_tcp() -> None:
    border = Border()
    alice = border.agent("public", "203.0.113.77:41000", "tcp")
    bob = border.agent("private", "10.0.0.20:5060")
    answer, _ = established(border, alice, bob)
    assert ";transport=tcp" in (answer.get("Contact") or "")
    hang_up(border, alice, bob, answer)


def test_call_from_pbx_to_carrier() -> None:
    border = Border()
    pbx = border.agent("private", "10.0.0.20:5060")
    carrier = border.agent("public", "198.51.100.7:5060")
    answer, invite = established(border, pbx, carrier)
    assert b"10.0.0" not in invite.encode()
    hang_up(border, pbx, carrier, answer)


def test_call_can_be_written_down_and_restored() -> None:
    border, alice, _bob, answer, invite = talking()
    saved = border.calls.snapshot(border.now)
    later = Border()
    later.calls.restore(saved, later.now)
    caller, callee = pair(later)
    caller.cseq = alice.cseq
    assert list(later.calls.live) == list(border.calls.live)
    assert later.relay.streams.keys() == border.relay.streams.keys()
    caller.inside("BYE", answer)
    bye = callee.expect("BYE")
    assert bye.call_id == invite.call_id
    assert bye.cseq.number == invite.cseq.number + 1
    callee.answer(bye, 200, "OK")
    caller.expect_answer(200, "BYE")
    later.at_rest()
    assert later.records[0].end_cause == "bye"
