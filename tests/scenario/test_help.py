"""Calls for help of those who are not registered, and what strangers gain by crying for it."""

import pytest

from signaling.digest import Account, answer, parse_challenges
from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio
from tests.harness.phones import LOCAL, RELAY, Phone, Registrar, home, rest, talked

LOCAL_CHALLENGE = LOCAL.replace("store: null", "store: null, calls: challenge").replace(
    "{from: phones, to: phones, when: registered}",
    '{from: phones, match: "^112$", to: pbx}\n  - {from: phones, to: phones, when: registered}',
)
REFUSED = RELAY.replace("priority: [esnet.0]", "priority: [esnet.0], unregistered: false")


def unknown(border: Border, number: int = 0, host: str = "192.0.2.99") -> Phone:
    """A phone that has not registered."""
    return Phone(border, "carol", 40100 + number, host=host)


def refused(phone: Phone, status: int) -> str:
    """The reason id."""
    return (phone.agent.expect_answer(status).get("Warning") or "").split('"')[1].split()[0]


def test_who_is_not_registered_may_call_for_help() -> None:
    border = Border(RELAY)
    registrar = Registrar(border)
    phone = unknown(border)
    phone.invite("112", fields="P-Asserted-Identity: <sip:ceo@sip.example.com>")
    invite = registrar.agent.inbox[-1]
    assert isinstance(invite, Request) and invite.uri.startswith("sip:112@")
    assert invite.from_.uri_text == "sip:carol@pbx.internal", "who may be called back"
    assert invite.get("P-Asserted-Identity") is None, "and nobody vouches for that"
    talked(border, phone.agent, registrar.agent)
    rest(border)
    assert not +border.calls.board.on_trunk
    (record,) = border.records
    assert [one.outcome for one in record.decisions if one.rule == "emergency.unregistered"] == ["admitted"]
    phone.agent.call_id = "no-help"
    phone.invite("200")
    assert refused(phone, 403) == "not-registered"


def test_help_reaches_the_caller_by_his_flow() -> None:
    """He is behind a NAT that nothing keeps open but this call."""
    border = Border(RELAY)
    registrar = Registrar(border)
    phone = unknown(border)
    phone.invite("112")
    invite = registrar.agent.expect("INVITE")
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    phone.agent.ack(phone.agent.expect_answer(200))
    registrar.agent.expect("ACK")
    registrar.agent.inside("BYE", invite)
    phone.agent.answer(phone.agent.expect("BYE"), 200, "OK")


def test_where_the_file_says_so_they_may_not() -> None:
    border = Border(REFUSED)
    phone = unknown(border)
    phone.invite("112")
    assert refused(phone, 403) == "not-registered"
    border = Border(RELAY.replace('numbers: ["112"], ', ""))
    phone = unknown(border)
    phone.invite("112")
    assert refused(phone, 403) == "not-registered", "no number is one for help"


def test_who_names_another_than_he_is_may_call_for_help_too() -> None:
    _border, registrar, phone = home()
    phone.invite("112", sender="sip:bob@sip.example.com")
    registrar.agent.expect("INVITE")


def test_such_calls_are_few_a_second() -> None:
    """Two by default, and one address gets one; who is registered is not counted."""
    border, registrar, alice = home()
    for number, (host, passes) in enumerate(
        [("192.0.2.99", True), ("192.0.2.99", False), ("192.0.2.98", True), ("192.0.2.97", False)]
    ):
        phone = unknown(border, number, host)
        phone.invite("112")
        if passes:
            registrar.agent.expect("INVITE")
        else:
            assert refused(phone, 503) == "unregistered-emergencies"
    alice.invite("112")
    registrar.agent.expect("INVITE")
    border.advance(1)
    unknown(border, 9).invite("112")
    registrar.agent.expect("INVITE")


def test_such_calls_are_few_at_a_time() -> None:
    """So that nobody fills all lines by crying for help."""
    border = Border(RELAY + "limits: {max_calls: 50}\n")
    registrar = Registrar(border)
    phones = []
    for number in range(6):
        phones.append(unknown(border, number, f"192.0.2.{100 + number}"))
        phones[-1].invite("112")
        if number < 5:
            invite = registrar.agent.expect("INVITE")
            registrar.agent.answer(invite, 180, "Ringing")
            phones[-1].agent.expect_answer(180)
        border.advance(1)
    answered = phones[-1].agent.expect_answer(503)
    assert "unregistered-emergencies" in (answered.get("Warning") or "") and answered.get("Retry-After")
    registrar.agent.answer(invite, 486, "Busy Here")
    registrar.agent.expect("ACK")
    phones[4].agent.expect_answer(486)
    border.advance(1)
    unknown(border, 7).invite("112")
    registrar.agent.expect("INVITE")


def test_nobody_who_calls_for_help_is_asked_for_a_password() -> None:
    border = Border(LOCAL_CHALLENGE)
    pbx = border.agent("private", "10.0.0.20:5060")
    phone = unknown(border)
    phone.invite("200")
    phone.agent.expect_answer(407)
    phone.agent.call_id = "help"
    phone.invite("112")
    pbx.expect("INVITE")


@pytest.mark.parametrize(("password", "decided"), [("b-secret", "user bob"), ("guessed", "admitted")])
def test_who_shows_a_password_is_known_by_it(password: str, decided: str) -> None:
    """One that is wrong keeps nobody from help."""
    border = Border(LOCAL_CHALLENGE)
    pbx = border.agent("private", "10.0.0.20:5060")
    bob = Phone(border, "bob", 40300)
    bob.invite("200")
    challenge = parse_challenges(bob.agent.expect_answer(407))[0]
    name, value = answer(challenge, Account("bob", password), "INVITE", "sip:112@sip.example.com", 1, "cn")
    bob.agent.call_id = "help"
    bob.invite("112", fields=f"{name}: {value}")
    pbx.expect("INVITE")
    (live,) = border.calls.live.values()
    assert decided in [one.outcome for one in live.decisions if one.stage in ("source", "admission")]


def test_a_reload_gives_nobody_a_new_allowance() -> None:
    border = Border(RELAY)
    registrar = Registrar(border)
    unknown(border).invite("112")
    registrar.agent.expect("INVITE")
    border.calls.reload(border.calls.config, border.now)
    again = unknown(border, 1)
    again.invite("112")
    assert refused(again, 503) == "unregistered-emergencies"


# -- overload ------------------------------------------------------------------------------------------------------


def late(border: Border, agent: Agent, number: int, called: str = "200", field: str = "Subject: x") -> bool:
    """Send an INVITE that has waited for too long; whether it was looked at all the same."""
    border.calls.receive(
        (
            f"INVITE sip:{called}@sip.example.com SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {agent.host};branch=z9hG4bKlate{number};rport\r\nMax-Forwards: 70\r\n"
            f"From: <sip:carol@sip.example.com>;tag={number}\r\nTo: <sip:{called}@sip.example.com>\r\n"
            f"Call-ID: late-{number}\r\nCSeq: 1 INVITE\r\nContact: <sip:carol@{agent.host}>\r\n{field}\r\n"
            "Content-Length: 0\r\n\r\n"
        ).encode(),
        agent.flow,
        border.now,
        border.calls.stateless.queue_age_s + 1,
    )
    first = agent.inbox.pop(0)
    agent.inbox.clear()
    assert isinstance(first, Response)
    return "overload" not in (first.get("Warning") or "")


PRIORITY = "Resource-Priority: esnet.0"


def test_overload_heeds_no_priority_of_strangers() -> None:
    border, _registrar, phone = home()
    stranger = border.agent("public", "198.18.0.9:5060")
    carrier = border.agent("public", "198.51.100.7:5060")
    assert not late(border, stranger, 1, field=PRIORITY)
    assert not late(border, carrier, 2)
    assert late(border, carrier, 3, field=PRIORITY)
    assert not late(border, phone.agent, 4)
    assert late(border, phone.agent, 5, field=PRIORITY)


def test_overload_looks_at_few_cries_for_help_of_strangers() -> None:
    border, registrar, phone = home()
    stranger = border.agent("public", "198.18.0.9:5060")
    looked = [late(border, stranger, number, "112") for number in range(50)]
    assert looked == [True] * 10 + [False] * 40
    assert late(border, phone.agent, 100, "112"), "phones are not held up by that"
    assert registrar.agent.inbox
    border.advance(0.5)
    assert [late(border, stranger, number, "112") for number in range(200, 210)].count(True) == 5
