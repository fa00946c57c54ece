"""A PBX that asks a phone who it is at every request: what it asks passes to the phone, and what that shows to it."""

from random import Random

import pytest

from signaling.message import Request, Response
from signaling.parser import parse
from tests.harness.border import Agent, Border, audio
from tests.harness.phones import RELAY, home, rest

ASKS = 'Digest realm="pbx.internal", nonce="n{0}", algorithm=MD5, qop="auth"'
SHOWS = 'Digest username="alice", realm="pbx.internal", nonce="n{0}", uri="sip:x", response="{0:032x}"'


def ask(agent: Agent, request: Request, number: int, status: int = 407) -> None:
    """The PBX challenges."""
    assert request.get("Authorization") is None and request.get("Proxy-Authorization") is None
    name = "Proxy-Authenticate" if status == 407 else "WWW-Authenticate"
    agent.answer(request, status, "Who Is It", fields=f"{name}: {ASKS.format(number)}")
    if request.method == "INVITE":
        agent.expect("ACK")


def asked(agent: Agent, number: int, status: int = 407) -> None:
    """The phone hears of it."""
    answer = agent.expect_answer(status)
    name = "Proxy-Authenticate" if status == 407 else "WWW-Authenticate"
    assert answer.get(name) == ASKS.format(number)
    if answer.cseq.method == "INVITE":
        agent.inbox.clear()


def shown(number: int, status: int = 407) -> str:
    return f"{'Proxy-' if status == 407 else ''}Authorization: {SHOWS.format(number)}"


def shows(request: Request, number: int, status: int = 407) -> None:
    name = "Proxy-Authorization" if status == 407 else "Authorization"
    assert request.get_all(name) == [SHOWS.format(number)]


class Talk:
    """A call between a phone and a PBX: `phone` and `pbx` are their agents, `of` what makes their dialogs."""

    def __init__(self, phone_calls: bool, config: str = RELAY) -> None:
        self.border, registrar, phone = home(config)
        self.phone, self.pbx = phone.agent, registrar.agent
        caller, callee = (self.phone, self.pbx) if phone_calls else (self.pbx, self.phone)
        if phone_calls:
            phone.invite("200")
        else:
            registrar.call("alice", "Allow: INVITE, ACK, CANCEL, BYE, UPDATE, INFO")
        invite = callee.expect("INVITE")
        self.first = invite
        callee.answer(invite, 200, "OK", sdp=audio(callee.address[0], 4002))
        callee.expect("ACK")
        answer = caller.expect_answer(200)
        caller.ack(answer)
        self.of: dict[Agent, Request | Response] = {caller: answer, callee: invite}
        self.hung_up: list[Request] = []

    def says(self, agent: Agent, method: str, fields: str = "", version: int = 2) -> None:
        """A request inside the dialog."""
        sdp = audio(agent.address[0], 4000, "sendonly", version=version)
        body = sdp if method in ("INVITE", "UPDATE") else ""
        sent = agent.inside(method, self.of[agent], body=body, fields=fields)
        if method == "BYE":
            self.hung_up.append(sent)


@pytest.fixture(params=[True, False], ids=["the-phone-calls", "the-pbx-calls"])
def talk(request: pytest.FixtureRequest) -> Talk:
    return Talk(request.param)


@pytest.mark.parametrize("status", [401, 407])
@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "MESSAGE", "OPTIONS"])
def test_a_challenge_inside_the_call_passes_to_the_phone(talk: Talk, method: str, status: int) -> None:
    talk.says(talk.phone, method)
    ask(talk.pbx, talk.pbx.expect(method), 1, status)
    asked(talk.phone, 1, status)
    talk.says(talk.phone, method, shown(1, status), version=3)
    again = talk.pbx.expect(method)
    shows(again, 1, status)
    assert b"192.168" not in again.encode()
    sdp = audio("10.0.0.20", 4002, version=3) if method in ("INVITE", "UPDATE") else ""
    talk.pbx.answer(again, 200, "OK", sdp=sdp)
    answer = talk.phone.expect_answer(200, method)
    if method == "INVITE":
        talk.pbx.expect("ACK")
        talk.phone.ack(answer)
    talk.pbx.nothing()


def test_a_bye_is_answered_when_the_pbx_knows_who_it_is(talk: Talk) -> None:
    talk.says(talk.phone, "BYE")
    bye = talk.pbx.expect("BYE")
    talk.phone.nothing()
    ask(talk.pbx, bye, 1)
    asked(talk.phone, 1)
    talk.says(talk.phone, "BYE", shown(1))
    again = talk.pbx.expect("BYE")
    shows(again, 1)
    assert again.cseq.number > bye.cseq.number and again.call_id == bye.call_id
    talk.pbx.answer(again, 200, "OK")
    talk.phone.expect_answer(200, "BYE")
    rest(talk.border)
    (record,) = talk.border.records
    assert record.end_cause == "bye"


def test_a_bye_that_shows_at_once_what_will_be_asked(talk: Talk) -> None:
    talk.says(talk.phone, "BYE", shown(7))
    bye = talk.pbx.expect("BYE")
    shows(bye, 7)
    talk.pbx.answer(bye, 200, "OK")
    talk.phone.expect_answer(200, "BYE")
    rest(talk.border)


def test_a_phone_that_gives_up_is_gone_all_the_same(talk: Talk) -> None:
    talk.says(talk.phone, "BYE")
    ask(talk.pbx, talk.pbx.expect("BYE"), 1)
    asked(talk.phone, 1)
    rest(talk.border)


def test_a_silent_pbx_keeps_no_phone_waiting(talk: Talk) -> None:
    talk.says(talk.phone, "BYE")
    talk.pbx.expect("BYE")
    talk.border.advance(3.9)
    talk.phone.nothing()
    talk.border.advance(0.2)
    talk.phone.expect_answer(200, "BYE")
    talk.pbx.inbox.clear()
    rest(talk.border)


def test_a_pbx_that_goes_on_asking_is_left(talk: Talk) -> None:
    for number in range(4):
        talk.says(talk.phone, "BYE", shown(number - 1) if number else "")
        bye = talk.pbx.expect("BYE")
        talk.pbx.answer(bye, 407, "Again", fields=f"Proxy-Authenticate: {ASKS.format(number)}")
        if number < 3:
            asked(talk.phone, number)
    talk.phone.expect_answer(200, "BYE")
    rest(talk.border)


def test_both_hang_up_at_once(talk: Talk) -> None:
    talk.says(talk.phone, "BYE")
    bye = talk.pbx.expect("BYE")
    talk.says(talk.pbx, "BYE")
    talk.pbx.expect_answer(200, "BYE")
    talk.phone.expect_answer(200, "BYE")
    talk.pbx.answer(bye, 481, "Gone")
    rest(talk.border)


def test_a_pbx_that_hangs_up_notices_nothing_of_it(talk: Talk) -> None:
    talk.says(talk.pbx, "BYE")
    talk.pbx.expect_answer(200, "BYE")
    bye = talk.phone.expect("BYE")
    talk.phone.answer(bye, 200, "OK")
    rest(talk.border)


def test_what_a_phone_asks_reaches_no_pbx(talk: Talk) -> None:
    """It would give its digest away for the asking."""
    talk.says(talk.pbx, "INFO", 'Authorization: Digest username="pbx"')
    info = talk.phone.expect("INFO")
    assert info.get("Authorization") is None
    talk.phone.answer(info, 401, "Who", fields=f"WWW-Authenticate: {ASKS.format(1)}")
    answer = talk.pbx.expect_answer(403)
    assert answer.get("WWW-Authenticate") is None


def test_nobody_but_the_registrar_is_shown_anything() -> None:
    """A trunk beside it asks, and gets what it got before: nothing."""
    config = RELAY.replace(
        "- {from: phones, to: pbx}", '- {from: phones, match: "^9", to: carrier}\n  - {from: phones, to: pbx}'
    )
    border, _, phone = home(config)
    carrier = border.agent("public", "198.51.100.7:5060")
    phone.invite("900", fields=shown(1))
    invite = carrier.expect("INVITE")
    assert invite.get("Proxy-Authorization") is None
    carrier.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4002))
    carrier.expect("ACK")
    answer = phone.agent.expect_answer(200)
    phone.agent.ack(answer)
    phone.agent.inside("INFO", answer, fields=shown(1))
    info = carrier.expect("INFO")
    assert info.get("Proxy-Authorization") is None
    carrier.answer(info, 407, "Who", fields=f"Proxy-Authenticate: {ASKS.format(1)}")
    assert phone.agent.expect_answer(403).get("Proxy-Authenticate") is None
    phone.agent.inside("BYE", answer, fields=shown(1))
    phone.agent.expect_answer(200, "BYE")
    bye = carrier.expect("BYE")
    assert bye.get("Proxy-Authorization") is None
    carrier.answer(bye, 407, "Who", fields=f"Proxy-Authenticate: {ASKS.format(1)}")
    rest(border)


def test_a_call_of_the_pbx_that_goes_on_to_a_carrier_passes_nothing() -> None:
    border, registrar, _ = home()
    carrier = border.agent("public", "198.51.100.7:5060")
    registrar.agent.invite("900")
    invite = carrier.expect("INVITE")
    carrier.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4002))
    carrier.expect("ACK")
    registrar.agent.ack(registrar.agent.expect_answer(200))
    carrier.inside("INFO", invite, fields=shown(1))
    info = registrar.agent.expect("INFO")
    assert info.get("Proxy-Authorization") is None
    registrar.agent.answer(info, 407, "Who", fields=f"Proxy-Authenticate: {ASKS.format(1)}")
    assert carrier.expect_answer(403).get("Proxy-Authenticate") is None


def test_a_refresh_that_is_challenged_keeps_the_call() -> None:
    """Only the phone could answer, and it was not asked for anything; the registrar has shown that it is there."""
    talk = Talk(True, RELAY + "timers: {session_expires_s: 120, min_se_s: 90}\n")
    assert talk.first.get("Session-Expires") == "120;refresher=uas", "it is to refresh, if it can"
    for _ in range(4):
        talk.border.advance(60)
        for agent in (talk.pbx, talk.phone):
            for message in agent.inbox:
                if isinstance(message, Request) and message.method in ("INVITE", "UPDATE"):
                    if agent is talk.pbx:
                        agent.answer(message, 407, "Who", fields=f"Proxy-Authenticate: {ASKS.format(1)}")
                    else:
                        agent.answer(message, 200, "OK", sdp=audio("192.168.1.5", 4000))
            agent.inbox.clear()
    assert len(talk.border.calls.live) == 1


def test_a_restored_call_passes_it_too(talk: Talk) -> None:
    written = talk.border.calls.snapshot(talk.border.now)
    other = Border(RELAY)
    other.calls.restore(written, other.now)
    phone, pbx = (
        other.agent("public", "192.0.2.77:40001"),
        other.agent("private", "10.0.0.20:5060"),
    )
    phone.cseq, pbx.cseq = talk.phone.cseq, talk.pbx.cseq
    phone.tag, pbx.tag = talk.phone.tag, talk.pbx.tag
    phone.inside("INFO", talk.of[talk.phone])
    ask(pbx, pbx.expect("INFO"), 1)
    asked(phone, 1)


@pytest.mark.parametrize("seed", range(60))
def test_however_a_call_ends_nothing_is_left_and_nobody_waits(seed: int) -> None:
    """Both sides do what they like, answers are lost, come late or ask again: every BYE gets its answer."""
    chance = Random(seed)
    talk = Talk(chance.random() < 0.5)
    for number in range(chance.randint(2, 12)):
        agent = chance.choice((talk.phone, talk.pbx))
        match chance.randrange(5):
            case 0 | 1:
                talk.says(
                    agent, chance.choice(("BYE", "BYE", "INFO", "INVITE")), shown(number), version=number + 2
                )
            case 2:
                talk.border.advance(chance.choice((0.1, 1.0, 4.0, 40.0)))
            case _:
                asked_of = [one for one in agent.inbox if isinstance(one, Request) and one.method != "ACK"]
                agent.inbox.clear()
                for request in asked_of:
                    if chance.random() < 0.8:
                        status = chance.choice((200, 401, 407, 407, 481, 500))
                        name = "WWW-Authenticate" if status == 401 else "Proxy-Authenticate"
                        fields = f"{name}: {ASKS.format(number)}" if status in (401, 407) else ""
                        agent.answer(request, status, "Chance", fields=fields)
    byes = {(one.call_id, one.cseq.number) for one in talk.hung_up}
    for agent in (talk.phone, talk.pbx):
        agent.inbox.clear()
    for agent in (talk.phone, talk.pbx):
        talk.says(agent, "BYE")
    rest(talk.border)
    answered = {
        (one.call_id, one.cseq.number)
        for data, _ in talk.border.sent
        if isinstance(one := parse(data), Response) and one.cseq.method == "BYE" and one.status >= 200
    }
    assert byes <= answered
