"""What a forged sender can make us send to the one whose address he writes."""

import pytest

from sbc.buckets import MAX_SOURCES
from sbc.reflection import Reflection
from tests.harness.border import Agent, Border
from tests.harness.phones import LOCAL, Phone

SHORT = (
    "REGISTER sip:sip.example.com SIP/2.0\r\n{via}: SIP/2.0/{transport} a;branch=z9hG4bK{number}\r\n"
    "{f}: <sip:alice@sip.example.com>;tag=1\r\n{t}: <sip:alice@sip.example.com>\r\n{i}: {number}\r\n"
    "CSeq: 1 REGISTER\r\n\r\n"
)
FULL = {"via": "Via", "f": "From", "t": "To", "i": "Call-ID"}
COMPACT = {"via": "v", "f": "f", "t": "t", "i": "i"}
ODD = {"via": "VIA", "f": "FROM", "t": "TO", "i": "CALL-ID"}


def flood(agent: Agent, names: dict[str, str], count: int = 100, text: str = SHORT) -> tuple[int, float]:
    """How many answers came for so many requests, and how many times as many bytes as were sent."""
    asked = answered = 0
    agent.inbox.clear()
    for number in range(count):
        data = text.format(number=number, transport=agent.transport.upper(), **names)
        asked += len(data)
        agent.raw(data)
    for message in agent.inbox:
        answered += len(message.encode())
    return len(agent.inbox), round(answered / asked, 2)


@pytest.mark.parametrize("names", [FULL, COMPACT, ODD], ids=["plain", "compact", "odd"])
def test_few_answers_are_larger_than_what_asked(names: dict[str, str]) -> None:
    """Whichever way a REGISTER is read."""
    border = Border(LOCAL)
    victim = border.agent("public", "198.18.0.9:5060")
    count, factor = flood(victim, names)
    assert count == 5 and factor < 0.2
    assert border.calls.stats["dropped:reflection"] == 95
    border.advance(1)
    assert flood(victim, names)[0] == 5
    assert flood(border.agent("public", "198.18.0.10:5060"), names)[0] == 5, "each address by itself"


def test_many_ports_of_one_victim_are_one() -> None:
    border = Border(LOCAL)
    answers = [flood(border.agent("public", f"198.18.0.9:{port}"), FULL, 1)[0] for port in range(5000, 5050)]
    assert sum(answers) == 5


def test_garbage_is_refused_as_seldom() -> None:
    border = Border(LOCAL)
    victim = border.agent("public", "198.18.0.9:5060")
    short = (
        "INVITE x SIP/2.0\r\nv: SIP/2.0/UDP a;branch=z9hG4bK{number}\r\nf: <sip:a@a>;tag=1\r\nt: <sip:a@a>\r\n"
        "i: {number}\r\nCSeq: 1 INVITE\r\n\r\n"
    )
    count, _ = flood(victim, {}, 100, short)
    assert 0 < count <= 5


def test_real_phones_write_more_than_they_get() -> None:
    border = Border(LOCAL)
    phone = Phone(border, "alice", 40001)
    agent = "User-Agent: baresip v1.0.0 (x86_64/linux)\r\nAllow: INVITE,ACK,BYE,CANCEL,OPTIONS,NOTIFY,SUBSCRIBE,INFO"
    for _ in range(20):
        phone.register(fields=agent)
        phone.agent.expect_answer(401)
    assert border.calls.stats["dropped:reflection"] == 0


def test_who_is_registered_or_on_a_stream_is_answered_always() -> None:
    border = Border(LOCAL)
    phone = Phone(border, "alice", 40001)
    phone.authorized("a-secret")
    assert flood(phone.agent, FULL, 50)[0] == 50
    assert flood(border.agent("public", "198.18.0.9:5060", "tcp"), FULL, 50)[0] == 50


def test_what_is_remembered_is_bounded() -> None:
    reflection = Reflection()
    for number in range(MAX_SOURCES + 100):
        assert reflection.may_enlarge(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1.0)
    assert len(reflection) == MAX_SOURCES
    assert [reflection.may_enlarge("2001:db8::1", 2.0) for _ in range(6)] == [True] * 5 + [False]
    assert not reflection.may_enlarge("2001:db8::2", 2.0), "one subscriber"
