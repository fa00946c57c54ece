"""A user who calls his own number: his other phones ring, the one that he holds in his hand does not."""

from signaling.digest import Account, answer, parse_challenges
from tests.harness.border import Border
from tests.harness.phones import LOCAL, Phone, home, talked

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


def test_a_registrar_behind_us_decides_itself() -> None:
    """It knows the phones of a user, and what else there is: a mailbox, other numbers."""
    _border, registrar, phone = home()
    phone.invite("alice")
    assert registrar.agent.expect("INVITE").uri.startswith("sip:alice@")
