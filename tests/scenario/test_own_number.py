"""A user who calls his own number: his other phones ring, the one that he holds in his hand does not."""

import pytest

from signaling.digest import Account, answer, parse_challenges
from signaling.identity import user_of
from signaling.message import Request
from signaling.uri import unescape
from tests.harness.border import Border, audio
from tests.harness.phones import LOCAL, Phone, Registrar, home, talked

ALWAYS = LOCAL.replace("{from: phones, to: phones, when: registered}", "{from: phones, to: phones}")
VOICEMAIL = LOCAL.replace(
    "{from: phones, to: phones, when: registered}",
    "{from: phones, to: phones, when: registered}\n  - {from: phones, to: pbx}",
)


def enter(border: Border, user: str, port: int, password: str) -> Phone:
    phone = Phone(border, user, port)
    phone.agent.tag = f"{user}-{port}"  # two lines of one phone write branches of their own
    phone.authorized(password)
    return phone


def test_the_only_phone_is_busy() -> None:
    border = Border(ALWAYS)
    alice = enter(border, "alice", 40001, "a-secret")
    for number, called in enumerate(("alice", "+15551234")):
        alice.agent.call_id = f"own-{number}"
        alice.invite(called)
        assert "own-number" in (alice.agent.expect_answer(486).get("Warning") or "")
        alice.agent.nothing()
    (decision,) = [one for one in border.records[0].decisions if one.rule == "phones"]
    assert ("udp 192.0.2.77:40001", "the phone that calls") in decision.compared


def test_the_others_ring() -> None:
    border = Border(LOCAL)
    alice = enter(border, "alice", 40001, "a-secret")
    kitchen = enter(border, "alice", 40002, "a-secret")
    alice.invite("alice")
    talked(border, alice.agent, kitchen.agent)


def test_when_registered_falls_through_to_what_comes_after_it() -> None:
    """A mailbox, say: with no other phone it is as if none were registered."""
    border = Border(VOICEMAIL)
    pbx = border.agent("private", "10.0.0.20:5060")
    alice = enter(border, "alice", 40001, "a-secret")
    alice.invite("alice")
    assert pbx.expect("INVITE").uri.startswith("sip:alice@")
    alice.agent.nothing()


def test_two_lines_of_one_phone_call_each_other() -> None:
    border = Border(LOCAL)
    alice = enter(border, "alice", 40001, "a-secret")
    line = enter(border, "bob", 40001, "b-secret")
    alice.agent = line.agent
    alice.invite("bob")
    assert alice.agent.expect("INVITE").uri == line.contact


def test_another_flow_of_the_same_phone_does_not_ring_either() -> None:
    """RFC 5626: several flows of one instance are one phone."""
    border = Border(ALWAYS)
    phones = []
    for number, port in ((1, 40001), (2, 40005)):
        phone = Phone(border, "alice", port)
        contact = f'<{phone.contact}>;+sip.instance="<urn:uuid:7>";reg-id={number}'
        phone.register(600, "Supported: outbound", contact)
        challenge = parse_challenges(phone.agent.expect_answer(401))[0]
        name, value = answer(
            challenge, Account("alice", "a-secret"), "REGISTER", "sip:sip.example.com", 1, "cn"
        )
        phone.register(600, f"{name}: {value}\r\nSupported: outbound", contact)
        assert len(phone.agent.expect_answer(200).contacts) == number
        phones.append(phone)
    phones[0].invite("alice")
    assert "own-number" in (phones[0].agent.expect_answer(486).get("Warning") or "")
    phones[1].agent.nothing()


def from_registrar(registrar: Registrar, invite: Request, token: str, proxied: bool) -> None:
    """The registrar calls a phone with what another has made: as a proxy does, or with a call of its own."""
    agent = registrar.agent
    if proxied:
        via = f"Via: SIP/2.0/UDP 10.0.0.20:5060;branch={agent.branch()}\r\nVia: {invite.get('Via')}"
        fields = [
            f"{name}: {value}" for name, value in invite.fields if name not in ("Via", "Content-Length")
        ]
        head = "\r\n".join(
            [f"INVITE sip:{token}@10.0.0.1 SIP/2.0", via, *fields, f"Content-Length: {len(invite.body)}"]
        )
        agent.raw(head.encode() + b"\r\n\r\n" + invite.body)
        return
    agent.call_id = f"own-{token}"
    agent.request(
        "INVITE",
        uri=f"sip:{token}@10.0.0.1",
        from_header=f"<sip:{unescape(user_of(invite.from_.uri_text))}@10.0.0.20>;tag={token}",
        body=audio("10.0.0.20"),
    )


def tokens(border: Border) -> dict[int, str]:
    return {one.flow.remote[1]: one.token for one in border.calls.phones.locations.all()}


@pytest.mark.parametrize("proxied", [True, False])
def test_a_registrar_rings_the_other_phones_of_who_calls_his_own_number(proxied: bool) -> None:
    """It knows the phones of a user, and what else there is, but not which of them is calling."""
    border, registrar, phone = home()
    kitchen = Phone(border, "alice", 40002)
    kitchen.register()
    registrar.serve()
    kitchen.agent.expect_answer(200)
    phone.invite("alice")
    invite = registrar.agent.expect("INVITE")
    assert invite.uri.startswith("sip:alice@")
    for port in (40001, 40002):
        from_registrar(registrar, invite, tokens(border)[port], proxied)
    assert "own-number" in (registrar.agent.expect_answer(486).get("Warning") or "")
    phone.agent.nothing()
    kitchen.agent.expect("INVITE")


@pytest.mark.parametrize("proxied", [True, False])
def test_who_has_several_calls_is_called_by_others_all_the_same(proxied: bool) -> None:
    """Another user's call is no own one, nor is one that comes when the phone talks: it may be a transfer."""
    border, registrar, phone = home()
    bob = Phone(border, "bob", 40002)
    bob.register()
    registrar.serve()
    bob.agent.expect_answer(200)
    phone.invite("carol")
    invite = registrar.agent.expect("INVITE")
    bob.invite("alice")
    other = registrar.agent.expect("INVITE")
    from_registrar(registrar, other, tokens(border)[40001], proxied)
    phone.agent.expect("INVITE")
    if not proxied:
        registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
        phone.agent.expect_answer(200)
        from_registrar(registrar, invite, tokens(border)[40001], proxied)
        phone.agent.expect("INVITE")
