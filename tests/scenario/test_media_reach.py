"""Media to whom nobody asked for, and media that would go round: what a whole call and its record make of it."""

from media.relay import Withheld
from tests.harness.border import Border, audio, hang_up, pair, sdp_field, talking


def test_media_that_stops_for_want_of_proof_is_in_the_record() -> None:
    border, alice, bob, answer, _ = talking()
    stream = next(iter(border.relay.streams.values()))
    assert stream.a.proven == (alice.address[0],), "where its SIP comes from"
    border.relay.on_event(Withheld(stream.id, stream.call, "b", ("10.0.0.66", 4002)))
    hang_up(border, alice, bob, answer)
    rules = {decision.rule: dict(decision.compared) for decision in border.records[0].decisions}
    assert rules["media-withheld"] == {"leg": "b", "address": "10.0.0.66:4002"}


def test_an_answer_with_our_own_port_is_refused_on_both_sides() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp=audio("203.0.113.10", 20000))
    invite = bob.expect("INVITE")
    ours = int(sdp_field(invite, r"m=audio (\d+)"))
    bob.answer(invite, 200, "OK", sdp=audio("10.0.0.1", ours))
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    alice.expect_answer(482)
    border.at_rest()
    assert border.records[0].end_cause == "media-loop"
