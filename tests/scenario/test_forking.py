"""Several phones ring at once, or one after the other (RFC 3261 s.13.2.2.4, s.16.6, s.16.7; RFC 3326)."""

import pytest

from tests.harness.border import sdp_field
from tests.harness.forks import ELSEWHERE, Forked, answered, at, cancelled, ring


def test_all_ring_at_once_and_the_first_answer_wins() -> None:
    forked = Forked(1, 1, 1)
    forked.call()
    invites = [phone.expect("INVITE") for phone in forked.phones]
    assert len({invite.call_id for invite in invites}) == 3, "each is a call of its own"
    assert len({sdp_field(invite, r"m=audio (\d+)") for invite in invites}) == 3
    ringing = []
    for phone, invite in zip(forked.phones, invites, strict=True):
        phone.answer(invite, 180)
        ringing.append(forked.alice.expect_answer(180))
    assert len({one.to.tag for one in ringing}) == 3, "three early dialogs (RFC 3261 s.12.1)"
    second = forked.phones[1]
    answered(second, invites[1])
    second.expect("ACK")
    answer = forked.confirm()
    assert answer.to.tag == ringing[1].to.tag
    for number in (0, 2):
        assert cancelled(forked.phones[number], invites[number]).get("Reason") == ELSEWHERE
    assert forked.media() == (("203.0.113.77", 4000), ("10.0.0.32", 4002))
    assert forked.border.anchor.ports_in_use() == 2, "what the others had is free again"
    forked.hang_up(answer, second)
    assert forked.rules() == ["answered-elsewhere", "answered", "answered-elsewhere"]


def test_a_phone_gets_its_own_contact_and_is_reached_by_its_flow() -> None:
    """RFC 3261 s.10, s.16.6 step 2; what its Contact says of a host behind NAT leads nowhere."""
    forked = Forked(1, 1)
    forked.call()
    one, two = forked.phones
    invite = one.expect("INVITE")
    assert invite.uri == "sip:200@10.0.0.31:5061;line=5061"
    assert (invite.to.uri_text, invite.to.tag) == ("sip:200@sip.private.example", None)
    other = two.expect("INVITE")
    two.answer(other, 180)
    forked.alice.expect_answer(180)
    one.host = "192.168.7.7:5999"
    answered(one, invite)
    ack = one.expect("ACK")
    assert ack.uri == "sip:agent@192.168.7.7:5999"
    answer = forked.confirm()
    cancelled(two, other)
    forked.hang_up(answer, one)


def test_a_phone_on_a_connection_is_called_by_it() -> None:
    """RFC 5626 s.5.3: no other connection is opened to what its Contact says."""
    forked = Forked(1, 1)
    tcp = forked.border.agent("private", "10.0.0.39:49152", "tcp")
    ring(forked.border, [at(tcp), forked.targets[0]])
    forked.call()
    tcp.host = "10.0.0.39:5060"
    answered(tcp, tcp.expect("INVITE"))
    tcp.expect("ACK")
    answer = forked.confirm()
    one = forked.phones[0]
    other = one.expect("INVITE")
    one.answer(other, 180)
    cancelled(one, other)
    forked.hang_up(answer, tcp)
    assert {flow for data, flow in forked.border.sent if flow.transport == "tcp"} == {tcp.flow}


def test_2xx_of_a_loser_that_crosses_is_acked_and_released() -> None:
    """RFC 3261 s.13.2.2.4, s.9.1: in the same instant, before the CANCEL arrives; and the 200 comes twice."""
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    two.answer(second, 180)
    forked.alice.expect_answer(180)
    answered(one, first)
    answered(two, second)
    one.expect("ACK")
    answer = forked.confirm()
    cancel = two.expect("CANCEL")
    two.expect("ACK")
    bye = two.expect("BYE")
    assert bye.get("Reason") == ELSEWHERE
    answered(two, second)
    two.expect("ACK")
    two.answer(cancel, 200)
    two.answer(bye, 200)
    answered(two, second)
    two.expect("ACK")
    assert forked.media()[1] == ("10.0.0.31", 4002)
    forked.hang_up(answer, one)
    assert forked.rules() == ["answered", "answered-elsewhere"]


def test_phone_that_has_not_answered_yet_is_cancelled_when_it_does() -> None:
    """RFC 3261 s.9.1: no CANCEL before a provisional answer."""
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    answered(one, first)
    one.expect("ACK")
    answer = forked.confirm()
    two.nothing()
    two.answer(second, 180)
    cancelled(two, second)
    forked.hang_up(answer, one)


def test_6xx_ends_all() -> None:
    """RFC 3261 s.16.7 step 5, and another group is not tried either."""
    forked = Forked(1, 1, 1, 2)
    forked.call()
    one, two, three, other = forked.phones
    invites = [phone.expect("INVITE") for phone in (one, two, three)]
    two.answer(invites[1], 180)
    three.answer(invites[2], 180)
    one.answer(invites[0], 603, "Decline")
    one.expect("ACK")
    for _ in range(2):
        forked.alice.expect_answer(180)
    forked.confirm(603)
    cancel = cancelled(two, invites[1])
    assert cancel.get("Reason") == 'SIP;cause=603;text="Decline"'
    answered(three, invites[2])
    three.expect("CANCEL")
    three.expect("ACK")
    three.answer(three.expect("BYE"), 200)
    other.nothing()
    forked.alice.nothing()
    forked.border.at_rest()
    assert forked.border.records[0].end_by == "b"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((486, 404), 486),  # of one class, the first
        ((404, 486), 404),
        ((480, 486), 486),  # it says more than that nobody was there
        ((408, 487, 480), 408),
        ((500, 486), 486),  # the lowest class
        ((503, 502), 500),  # step 6: 503 of a branch is no 503 of ours
        ((503, 503), 500),
        ((502, 503), 502),
        ((486, 415), 415),  # what the caller can do something about
        ((401, 486), 486),
        ((401, 407), 403),
        ((302, 486), 302),
        ((420, 500), 488),  # what was between the phone and us
    ],
)
def test_the_best_failure_is_told_when_all_have_failed(given: tuple[int, ...], told: int) -> None:
    """RFC 3261 s.16.7 step 6."""
    forked = Forked(*[1] * len(given))
    forked.call()
    for phone, status in zip(forked.phones, given, strict=True):
        forked.alice.nothing()
        fields = "Retry-After: 30" if status == 503 else ""
        phone.answer(phone.expect("INVITE"), status, fields=fields)
        phone.expect("ACK")
    assert forked.confirm(told).get("Retry-After") is None
    forked.border.at_rest()
    (record,) = forked.border.records
    assert [tried.status for tried in record.targets] == list(given)
    assert record.final_status == told
    assert record.target is not None
    if told in given:
        assert record.target.status == told, "who is named is whose answer it was"


def test_a_phone_alone_may_say_503() -> None:
    forked = Forked(1)
    forked.call()
    (phone,) = forked.phones
    phone.answer(phone.expect("INVITE"), 503, fields="Retry-After: 30")
    assert forked.confirm(503).get("Retry-After") == "30"
    forked.border.at_rest()


def test_groups_follow_each_other() -> None:
    forked = Forked(1, 1, 2, 3)
    forked.call()
    one, two, three, four = forked.phones
    one.answer(one.expect("INVITE"), 486)
    three.nothing()
    two.answer(two.expect("INVITE"), 404)
    third = three.expect("INVITE")
    four.nothing()
    three.answer(third, 500)
    fourth = four.expect("INVITE")
    answered(four, fourth)
    for phone in (one, two, three, four):
        phone.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, four)
    assert [tried.status for tried in forked.border.records[0].targets] == [486, 404, 500, 200]


def test_the_next_group_rings_after_ring_s() -> None:
    forked = Forked(1, 1, 2, ring_s=20)
    forked.call()
    one, two, three = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
    one.answer(first, 180)
    two.answer(second, 486)
    two.expect("ACK")
    forked.border.advance(19.9)
    three.nothing()
    forked.border.advance(0.2)
    third = three.expect("INVITE")
    cancelled(one, first)
    three.answer(third, 180)
    forked.border.advance(100)
    three.nothing()  # nobody waits for it to stop
    answered(three, third)
    three.expect("ACK")
    for _ in range(2):
        forked.alice.expect_answer(180)
    answer = forked.confirm()
    forked.hang_up(answer, three)
    assert forked.rules() == ["no-answer", "peer-rejected", "answered"]


def test_the_last_group_rings_as_long_as_any_call() -> None:
    forked = Forked(1, 2, ring_s=20)
    forked.call()
    one, two = forked.phones
    first = one.expect("INVITE")
    one.answer(first, 180)
    forked.border.advance(20.1)
    cancelled(one, first)
    second = two.expect("INVITE")
    two.answer(second, 180)
    forked.border.advance(180.1)
    cancelled(two, second)
    for _ in range(2):
        forked.alice.expect_answer(180)
    forked.confirm(480)
    forked.border.at_rest()


def test_nobody_picks_up() -> None:
    """All of them ring out in one moment."""
    forked = Forked(1, 1)
    forked.call()
    invites = [phone.expect("INVITE") for phone in forked.phones]
    for phone, invite in zip(forked.phones, invites, strict=True):
        phone.answer(invite, 180)
        forked.alice.expect_answer(180)
    forked.border.advance(180.1)
    for phone, invite in zip(forked.phones, invites, strict=True):
        cancelled(phone, invite)
    forked.confirm(480)
    forked.border.at_rest()
    assert forked.rules() == ["no-answer", "no-answer"]
    assert forked.border.records[0].end_by == "sbc"


def test_answer_that_crosses_the_end_of_the_ringing_comes_too_late() -> None:
    forked = Forked(1, 2, ring_s=20)
    forked.call()
    one, two = forked.phones
    first = one.expect("INVITE")
    one.answer(first, 180)
    forked.border.advance(20.1)
    answered(one, first)
    one.expect("CANCEL")
    one.expect("ACK")
    one.answer(one.expect("BYE"), 200)
    forked.alice.expect_answer(180)
    forked.alice.nothing()
    answered(two, two.expect("INVITE"))
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)


def test_phone_that_never_says_anything_does_not_hold_up_the_others() -> None:
    """No answer at all within `timers.trying_timeout_s`: as if it were not there."""
    forked = Forked(1, 1, 2)
    forked.call()
    one, two, three = forked.phones
    one.inbox.clear()
    second = two.expect("INVITE")
    two.answer(second, 180)
    forked.border.advance(4.1)
    three.nothing()
    two.answer(second, 486)
    two.expect("ACK")
    third = three.expect("INVITE")
    answered(three, third)
    three.expect("ACK")
    forked.alice.expect_answer(180)
    answer = forked.confirm()
    one.inbox.clear()
    forked.hang_up(answer, three)
    assert forked.rules() == ["server-timeout", "peer-rejected", "answered"]


def test_broken_connection_of_one_phone_leaves_the_others() -> None:
    forked = Forked(1, 1)
    forked.call()
    one, two = forked.phones
    one.expect("INVITE")
    second = two.expect("INVITE")
    forked.border.calls.transport_failed(one.flow, forked.border.now)
    forked.alice.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)
    assert forked.rules() == ["server-unreachable", "answered"]


def test_cancel_of_the_caller_stops_all() -> None:
    forked = Forked(1, 1, 2)
    invite = forked.call()
    one, two, three = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
    one.answer(first, 180)
    forked.alice.expect_answer(180)
    forked.alice.cancel(invite)
    forked.alice.expect_answer(200, "CANCEL")
    forked.confirm(487)
    cancelled(one, first)
    answered(two, second)  # without a word before: it could not be cancelled
    two.expect("ACK")
    two.answer(two.expect("BYE"), 200)
    three.nothing()
    forked.border.at_rest()
    assert forked.border.records[0].end_cause == "cancel"


@pytest.mark.parametrize("cause", ["drain", "operator"])
def test_hanging_up_stops_all(cause: str) -> None:
    forked = Forked(1, 1, 2)
    forked.call()
    one, two, three = forked.phones
    invites = [phone.expect("INVITE") for phone in (one, two)]
    for phone, invite in zip((one, two), invites, strict=True):
        phone.answer(invite, 180)
        forked.alice.expect_answer(180)
    forked.border.calls.hang_up(forked.border.now, None, cause)
    forked.confirm(503)
    for phone, invite in zip((one, two), invites, strict=True):
        cancelled(phone, invite)
    three.nothing()
    forked.border.at_rest()


# -- beside it all -------------------------------------------------------------------------------------------


def test_info_of_a_phone_that_rings_is_answered() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    two.answer(second, 180)
    two.inside("INFO", second)
    two.expect_answer(480, "INFO")
    forked.alice.expect_answer(180)
    answered(one, first)
    one.expect("ACK")
    answer = forked.confirm()
    cancelled(two, second)
    forked.hang_up(answer, one)


def test_an_answered_call_is_written_down_while_losers_are_still_cancelled() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    two.answer(second, 180)
    forked.alice.expect_answer(180)
    answered(one, first)
    one.expect("ACK")
    answer = forked.confirm()
    two.expect("CANCEL")
    (written,) = forked.border.calls.snapshot(forked.border.now)
    assert [leg["name"] for leg in written["call"]["legs"]] == ["a", "b1"]
    assert [party[0] for party in written["parties"]] == ["a", "b1"]
    two.answer(second, 487)
    two.expect("ACK")
    forked.hang_up(answer, one)


def test_a_call_that_still_rings_is_not_written_down() -> None:
    forked = Forked(1, 1)
    invite = forked.call()
    assert forked.border.calls.snapshot(forked.border.now) == []
    forked.alice.cancel(invite)
    forked.border.at_rest()


def test_early_dialogs_of_all_phones_end_with_the_answer() -> None:
    forked = Forked(1, 1)
    (one, first), (two, second) = forked.ring()
    one.answer(first, 180)
    two.answer(second, 180)
    early = forked.alice.expect_answer(180)
    forked.alice.expect_answer(180)
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    cancelled(one, first)
    forked.alice.inside("INFO", early)
    forked.alice.expect_answer(481, "INFO")
    forked.hang_up(answer, two)


def test_what_is_counted_for_the_limits_comes_back() -> None:
    forked = Forked(1, 1)
    invite = forked.call()
    assert forked.border.calls.board.on_trunk["phones"] == 1, "one call, however many phones ring"
    forked.alice.cancel(invite)
    forked.border.at_rest()
    assert forked.border.calls.board.on_trunk["phones"] == 0
