"""Limits on calls count those in progress, not those that only wait for a last answer."""

import re

import pytest

from sbc.reception import WRITTEN_PER_S
from signaling.message import Response
from tests.harness.border import Agent, Border, audio, calling, established, pair


def test_a_call_that_is_over_makes_room_at_once() -> None:
    border = Border(changes=lambda text: text.replace("max_calls: 200", "max_calls: 1"))
    alice, bob = pair(border)
    carol = border.agent("public", "203.0.113.78:5070")
    answer, _ = established(border, alice, bob)
    carol.invite()
    refused = carol.expect_answer(503)
    assert "max-calls" in (refused.get("Warning") or "")
    alice.inside("BYE", answer)
    alice.expect_answer(200)
    bye = bob.expect("BYE")  # which bob leaves unanswered for now
    carol.call_id, carol.tag = "another", "another"
    carol.invite()
    invite = bob.expect("INVITE")
    bob.answer(invite, 486, "Busy Here")
    bob.expect("ACK")
    message = carol.next()
    assert isinstance(message, Response) and message.status == 486
    bob.answer(bye, 200)
    border.at_rest()


def test_being_asked_what_we_can_do_keeps_nothing() -> None:
    """RFC 3261 s.8.2.7: whoever asks a thousand times costs no memory, and a repeated question gets the same answer."""
    border = Border()
    alice = border.agent("public", "203.0.113.77:5070")
    question = alice.request("OPTIONS")
    first = alice.expect_answer(200, "OPTIONS")
    assert "INVITE" in (first.get("Allow") or "")
    alice.raw(question.encode())
    assert alice.expect_answer(200, "OPTIONS").to_tag == first.to_tag != ""
    assert len(border.calls.transactions) == 0


ONE_CALL = "max_calls: 1"
FEW_A_SECOND = "max_calls: 200, calls_per_s: 1"
FEW_OF_ONE = "max_calls: 200, calls_per_s_per_source: 1"
WRITTEN = int(WRITTEN_PER_S)


def limited(limits: str) -> Border:
    """A border that has taken one call more than it takes, with emergencies."""
    border = Border(
        changes=lambda text: (
            text.replace("max_calls: 200", limits) + "emergency: {numbers: ['112'], priority: [esnet.0]}\n"
        )
    )
    alice, bob = pair(border)
    established(border, alice, bob)
    return border


def flood(border: Border, number: int, agent: Agent) -> None:
    for call in range(number):
        agent.call_id = agent.tag = f"flood-{border.now}-{call}"
        agent.invite()


@pytest.mark.parametrize(
    ("limits", "rule"), [(ONE_CALL, "max-calls"), (FEW_A_SECOND, "rate"), (FEW_OF_ONE, "source-rate")]
)
def test_beyond_a_limit_calls_are_refused_unread_but_for_some_a_second(limits: str, rule: str) -> None:
    border = limited(limits)
    alice = border.agent("public", "203.0.113.77:5071")
    held = len(border.calls.transactions)
    flood(border, 100, alice)
    for _ in range(100):
        refused = alice.expect_answer(503)
        assert rule in (refused.get("Warning") or "")
        assert int(refused.get("Retry-After") or 0) > 0
    assert border.calls.stats[f"refused:{rule}"] == 100
    assert [record.final_rule for record in border.records] == [rule] * WRITTEN
    assert len(border.calls.transactions) == held + WRITTEN, "nothing is kept of the rest"
    alice.raw(
        f"ACK sip:200@203.0.113.10:5060 SIP/2.0\r\nVia: {refused.get('Via')}\r\nFrom: {refused.get('From')}\r\n"
        f"To: {refused.get('To')}\r\nCall-ID: {refused.call_id}\r\nCSeq: {refused.cseq.number} ACK\r\n\r\n"
    )
    alice.nothing()


def test_a_limit_needs_no_parser() -> None:
    border = limited(ONE_CALL)
    alice = border.agent("public", "203.0.113.77:5071")
    flood(border, WRITTEN - 1, alice)
    text = alice.invite().encode()
    alice.inbox.clear()
    alice.raw(re.sub(rb"CSeq: \d+ INVITE", b"CSeq: 7 BYE", text.replace(b"z9hG4bK", b"z9hG4bKbroken")))
    assert "max-calls" in (alice.expect_answer(503).get("Warning") or "")


def test_a_second_later_some_are_written_down_again() -> None:
    border = limited(ONE_CALL)
    alice = border.agent("public", "203.0.113.77:5071")
    flood(border, 30, alice)
    border.advance(0.5)
    flood(border, 30, alice)
    assert len(border.records) == WRITTEN + WRITTEN // 2


@pytest.mark.parametrize("limits", [ONE_CALL, FEW_A_SECOND, FEW_OF_ONE])
@pytest.mark.parametrize(
    ("to", "fields"),
    [
        ("112", ""),
        ("1-1-2", ""),
        ("%31%31%32", ""),
        ("200", "Resource-Priority: q735.2, ESNET.0"),
        ("200", "resource-priority:\r\n  esnet.0"),
    ],
)
def test_calls_for_help_pass_however_many_are_refused(limits: str, to: str, fields: str) -> None:
    border = limited(limits)
    server, carrier = (
        border.agents["private", ("10.0.0.20", 5060)],
        border.agent("public", "198.51.100.7:5060"),
    )
    flood(border, 30, carrier)
    for agent in (server, carrier):
        agent.inbox.clear()
    carrier.call_id = carrier.tag = "help"
    carrier.invite(to, fields=fields)
    invite = server.expect("INVITE")
    server.answer(invite, 486)
    server.expect("ACK")
    carrier.expect_answer(486)


def test_who_only_claims_a_priority_is_refused_as_others_are() -> None:
    border = limited(ONE_CALL)
    stranger = border.agent("public", "203.0.113.77:5071")
    flood(border, 30, stranger)
    stranger.inbox.clear()
    stranger.call_id = stranger.tag = "claims"
    stranger.invite(fields="Resource-Priority: esnet.0")
    assert "max-calls" in (stranger.expect_answer(503).get("Warning") or "")


@pytest.mark.parametrize("via", ["Via", "v", "Subject: it comes later\r\nVIA "])
@pytest.mark.parametrize("late", [False, True])
def test_an_invite_that_is_repeated_is_none_to_refuse(via: str, late: bool) -> None:
    """Its 100 was lost: a 503 now would leave a telephone ringing for nobody."""
    border = limited("max_calls: 2")
    alice = border.agent("public", "203.0.113.77:5071")
    text = alice.invite().encode().replace(b"Via:", via.encode() + b":", 1)
    server = border.agents["private", ("10.0.0.20", 5060)]
    server.answer(server.expect("INVITE"), 180)
    alice.expect_answer(180)
    flood(border, 30, border.agent("public", "203.0.113.78:5070"))
    border.calls.receive(text, alice.flow, border.now, 10.0 if late else 0.0)
    alice.expect_answer(180)
    alice.nothing()


def test_a_reinvite_passes_every_limit() -> None:
    border = Border(changes=lambda text: text.replace("max_calls: 200", ONE_CALL))
    alice, bob = pair(border)
    answer, _ = established(border, alice, bob)
    flood(border, 30, border.agent("public", "203.0.113.78:5070"))
    alice.inside("INVITE", answer, body=audio("203.0.113.77", 4010, version=2))
    bob.expect("INVITE")


def test_what_comes_while_we_end_is_written_down() -> None:
    border, alice, *_ = calling(lambda text: text.replace("max_calls: 200", ONE_CALL))
    border.calls.drain(border.now)
    flood(border, 30, alice)
    assert {record.final_rule for record in border.records} == {"draining"}
    assert len(border.records) == 30
