"""Several phones ring at once, or one after the other (RFC 3261 s.13.2.2.4, s.16.6, s.16.7; RFC 3326)."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sbc.decisions import Decision
from sbc.phonebook import Phonebook
from sbc.routing import CallRequest, Refusal, Target
from sbc.users import Users
from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, sdp_field

ELSEWHERE = 'SIP;cause=200;text="Call completed elsewhere"'


def to_phones(text: str) -> str:
    """A configuration whose public side calls phones."""
    return text.replace("{from: public, to: pbx}", "{from: public, to: phones}") + (
        "phones: {network: private, registrar: local, store: null, keepalive: off, users: {bob: {password: x}}}\n"
    )


class OnePage(Phonebook):
    """Everybody has these phones."""

    def __init__(self, border: Border, targets: Sequence[Target]) -> None:
        super().__init__(border.config, border.calls.phones.locations, Users("sip.private.example"), None)
        self.found = tuple(targets)

    def targets(
        self, request: CallRequest, user: str, now: float
    ) -> tuple[tuple[Target, ...], Decision, Refusal | None]:
        return self.found, Decision("routing", "phones", (), "of the test"), None


def ring(border: Border, targets: Sequence[Target]) -> None:
    """From now on calls go to these."""
    border.calls.phones.book = OnePage(border, targets)


def at(phone: Agent, group: int = 1, ring_s: float = 0.0) -> Target:
    """The target that a registration of this phone makes."""
    return Target(
        "phones",
        phone.flow.network,
        phone.transport,
        phone.address,
        "sip.private.example",
        "200",
        nat=True,
        flow=phone.flow,
        contact=f"sip:200@{phone.host};line={phone.address[1]}",
        group=group,
        ring_s=ring_s,
    )


class Forked:
    """Alice calls somebody who has several phones, each in the group that is given, in the order of the groups."""

    def __init__(self, *groups: int, ring_s: float = 0.0, changes: str = "") -> None:
        self.border = Border(changes=lambda text: to_phones(text) + changes)
        self.alice = self.border.agent("public", "203.0.113.77:5070")
        self.phones = [
            self.border.agent("private", f"10.0.0.3{number}:506{number}")
            for number, _ in enumerate(groups, 1)
        ]
        self.targets = [at(phone, group, ring_s) for phone, group in zip(self.phones, groups, strict=True)]
        ring(self.border, self.targets)

    def call(self, sdp: str | None = None) -> Request:
        return self.alice.invite(sdp=sdp)

    def media(self) -> tuple[object, object]:
        """Where the one stream leads: towards the caller, towards the callee."""
        (spec,) = self.border.relay.streams.values()
        ends = {"a": spec.a, "b": spec.b}
        ends.update({side: end for number, side, end in self.border.relay.changes if number == spec.id})
        return ends["a"].remote, ends["b"].remote

    def rules(self) -> list[str]:
        (record,) = self.border.records
        return [tried.rule for tried in record.targets]

    def confirm(self, status: int = 200) -> Response:
        """Alice gets the final answer and acknowledges it."""
        answer = self.alice.expect_answer(status, "INVITE")
        if status == 200:
            self.alice.ack(answer)
        return answer

    def hang_up(self, answer: Response, winner: Agent) -> None:
        self.alice.inside("BYE", answer)
        winner.answer(winner.expect("BYE"), 200)
        self.alice.expect_answer(200, "BYE")
        for phone in self.phones:
            phone.nothing()
        self.alice.nothing()
        self.border.at_rest()


def answered(phone: Agent, invite: Request, **changes: str) -> None:
    phone.answer(invite, 200, "OK", sdp=audio(phone.address[0], 4002), **changes)


def cancelled(phone: Agent, invite: Request) -> Request:
    """The phone is told to stop ringing, and does."""
    cancel = phone.expect("CANCEL")
    phone.answer(cancel, 200)
    phone.answer(invite, 487)
    phone.expect("ACK")
    return cancel


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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
        ((420, 500), 500),  # what was between the phone and us
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


# -- media -------------------------------------------------------------------------------------------------


def test_early_media_of_one_and_the_answer_of_another() -> None:
    """RFC 3261 s.13.2.2.4, RFC 6337 s.3.1: each early dialog has its own answer; one is heard at a time."""
    forked = Forked(1, 1)
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call(sdp="")
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
    one.answer(first, 200)
    one.expect("ACK")
    one.answer(one.expect("BYE"), 200)
    forked.alice.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)


# -- branches that are no phones ----------------------------------------------------------------------------


def test_servers_of_a_trunk_are_tried_in_turn_beside_a_phone() -> None:
    """RFC 3263 s.4.3 inside one branch; the others go on ringing."""
    forked = Forked(1, 1, 1)
    one, two, phone = forked.phones
    servers = [
        replace(target, trunk="pbx", flow=None, contact="", failover_on=frozenset({503}))
        for target in forked.targets[:2]
    ]
    ring(forked.border, [*servers, forked.targets[2]])
    forked.call()
    first, ringing = one.expect("INVITE"), phone.expect("INVITE")
    two.nothing()
    phone.answer(ringing, 180)
    one.answer(first, 503)
    one.expect("ACK")
    second = two.expect("INVITE")
    assert second.uri == "sip:200@sip.private.example:5062"
    answered(two, second)
    two.expect("ACK")
    forked.alice.expect_answer(180)
    answer = forked.confirm()
    cancelled(phone, ringing)
    forked.hang_up(answer, two)
    assert [(tried.leg, tried.status) for tried in forked.border.records[0].targets] == [
        ("b1", 503),
        ("b2", 487),
        ("b3", 200),
    ]


def test_servers_of_a_trunk_come_after_the_phones() -> None:
    forked = Forked(1, 1, 0, 0)
    one, two, first_server, second_server = forked.phones
    servers = [
        replace(target, trunk="pbx", flow=None, contact="", failover_on=frozenset({503}))
        for target in forked.targets[2:]
    ]
    ring(forked.border, [*forked.targets[:2], *servers])
    forked.call()
    for phone in (one, two):
        phone.answer(phone.expect("INVITE"), 486)
        phone.expect("ACK")
    first_server.answer(first_server.expect("INVITE"), 503)
    first_server.expect("ACK")
    second_server.answer(second_server.expect("INVITE"), 404)
    second_server.expect("ACK")
    forked.confirm(486)
    forked.border.at_rest()


def test_busy_server_is_not_followed_by_the_phones() -> None:
    """What failover_on does not name ends the hunt, as it does without phones."""
    forked = Forked(0, 1)
    server, phone = forked.phones
    forked.call()
    server.answer(server.expect("INVITE"), 486)
    forked.confirm(486)
    phone.nothing()
    forked.border.at_rest()


def test_redirect_of_one_branch_is_followed_beside_the_others() -> None:
    forked = Forked(1, 1)
    one, two = forked.phones
    moved = forked.border.agent("private", "10.0.0.40:5060")
    ring(
        forked.border,
        [
            replace(forked.targets[0], trunk="pbx", flow=None, contact="", redirects="follow"),
            forked.targets[1],
        ],
    )
    forked.call()
    first, second = one.expect("INVITE"), two.expect("INVITE")
    one.host = moved.host
    one.answer(first, 302)
    one.expect("ACK")
    third = moved.expect("INVITE")
    two.answer(second, 180)
    moved.answer(third, 486)
    moved.expect("ACK")
    forked.alice.expect_answer(180)
    forked.alice.nothing()
    two.answer(second, 404)
    two.expect("ACK")
    forked.confirm(486)
    forked.border.at_rest()


# -- what cannot be dialled ----------------------------------------------------------------------------------


def test_phone_that_cannot_be_dialled_leaves_the_others() -> None:
    forked = Forked(1, 1)
    two = forked.phones[1]
    ring(
        forked.border,
        [
            replace(forked.targets[0], flow=None, transport="tcp", address=("2001:db8::1", 5060)),
            forked.targets[1],
        ],
    )
    forked.call()
    second = two.expect("INVITE")
    forked.alice.nothing()
    answered(two, second)
    two.expect("ACK")
    answer = forked.confirm()
    forked.hang_up(answer, two)
    assert forked.rules() == ["no-listener", "answered"]


def test_nobody_can_be_dialled() -> None:
    forked = Forked(1, 1)
    ring(
        forked.border,
        [replace(one, flow=None, transport="tcp", address=("2001:db8::1", 5060)) for one in forked.targets],
    )
    forked.call()
    forked.confirm(500)
    forked.border.at_rest()


def test_ports_for_some_of_them_only() -> None:
    """Who gets no media port does not ring; the call goes to the others."""
    forked = Forked(1, 1, 1)
    pool = forked.border.pool
    taken = []
    while pool.in_use("private") < 498:
        taken.append(pool.allocate("private", forked.border.now))
    forked.call()
    one, two, three = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
    three.nothing()
    two.answer(second, 180)
    answered(one, first)
    one.expect("ACK")
    forked.alice.expect_answer(180)
    answer = forked.confirm()
    cancelled(two, second)
    assert pool.in_use("private") == 499
    for pair in taken:
        pool.release(pair, forked.border.now)
    forked.hang_up(answer, one)
    assert forked.rules() == ["answered", "answered-elsewhere", "media-ports-exhausted"]


# -- beside it all -------------------------------------------------------------------------------------------


def test_info_of_a_phone_that_rings_is_answered() -> None:
    forked = Forked(1, 1)
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
    forked.call()
    one, two = forked.phones
    first, second = one.expect("INVITE"), two.expect("INVITE")
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
