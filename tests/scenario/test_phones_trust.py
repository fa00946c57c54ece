"""What phones, registrars and strangers may not do to others: over the in-memory wire."""

from dataclasses import replace

import pytest

from sbc.locations import TAKEN
from signaling.errors import ParseError
from signaling.message import Message, Request, Response
from tests.harness.border import Border, audio
from tests.harness.phones import LOCAL, RELAY, Phone, Registrar, home, rest

TO_PBX = LOCAL.replace("{from: phones, to: phones, when: registered}", "{from: phones, to: pbx}")


def enter(registrar: Registrar, phone: Phone) -> None:
    """`phone` registers, here or at the registrar behind us."""
    border = phone.border
    if border.calls.config.phones is not None and border.calls.config.phones.local:
        phone.authorized(f"{phone.user[0]}-secret")
    else:
        phone.register()
        registrar.serve()
        phone.agent.expect_answer(200)


BAD_ROUTES = ("<sip:1.1.1*>", "<tel:+15551234>", "<sips:10.0.0.20;lr>", "<sip:10.0.0.20>", "<<;lr>")


@pytest.mark.parametrize("route", BAD_ROUTES)
def test_a_service_route_that_nobody_can_follow_is_none(route: str) -> None:
    border = Border(RELAY)
    registrar, phone = Registrar(border), Phone(border, "alice", 40001)
    phone.register()
    asked = registrar.agent.expect("REGISTER")
    contact = f"Contact: {asked.get('Contact')}\r\n"
    registrar.agent.answer(asked, 200, "OK", fields=f"{contact}Service-Route: {route}, <sip:sr@10.0.0.20;lr>")
    phone.agent.expect_answer(200)
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.upstream is not None and binding.upstream.service_route == ("<sip:sr@10.0.0.20;lr>",)


def test_a_call_that_cannot_be_addressed_leaves_nothing() -> None:
    """One that was stored before it was looked at: every call was kept for ever, with its ports."""
    border, registrar, phone = home()
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.upstream is not None
    binding.upstream = replace(binding.upstream, service_route=("<sip:1.1.1*>",))
    phone.invite("200")
    phone.agent.expect_answer(500)
    registrar.agent.nothing()
    rest(border)
    assert [one.final_status for one in border.records] == [500]


@pytest.mark.source
def test_a_call_that_meets_something_malformed_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    border, _registrar, phone = home()

    def stumble(*_: object) -> None:
        raise ParseError("cannot be read", "malformed")

    monkeypatch.setattr(border.calls.phones, "routed", stumble)
    phone.invite("200")
    phone.agent.expect_answer(400)
    phone.agent.nothing()
    rest(border)
    assert [one.final_rule for one in border.records] == ["malformed"]


@pytest.mark.parametrize("config", [RELAY, TO_PBX], ids=["relay", "local"])
def test_who_registers_where_another_speaks_does_not_take_his_call(config: str) -> None:
    """One ATA, or a source address that was forged once: bob's phone was at alice's flow, and is at another now."""
    border = Border(config)
    registrar, alice, bob = Registrar(border), Phone(border, "alice", 40000), Phone(border, "bob", 50000)
    bob.agent = alice.agent
    enter(registrar, alice)
    enter(registrar, bob)
    alice.agent.call_id = "speaks"
    alice.invite("900")
    invite = registrar.agent.expect("INVITE")
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    registrar.agent.expect("ACK")
    alice.agent.ack(alice.agent.expect_answer(200))
    elsewhere = Phone(border, "bob", 50000, host="198.51.100.66")
    elsewhere.contact = bob.contact
    elsewhere.register_id, elsewhere.agent.cseq = bob.register_id, bob.agent.cseq
    enter(registrar, elsewhere)
    registrar.agent.inside("BYE", invite)
    alice.agent.answer(alice.agent.expect("BYE"), 200, "OK")
    elsewhere.agent.nothing()
    rest(border)


def test_another_phone_with_the_same_contact_takes_no_call() -> None:
    """Behind two NATs both are 192.168.1.5: only the Call-ID says which phone it is."""
    border, registrar, phone = home()
    registrar.call("alice")
    invite = phone.agent.expect("INVITE")
    phone.agent.answer(invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    phone.agent.expect("ACK")
    done = registrar.agent.expect_answer(200)
    registrar.agent.ack(done)
    other = Phone(border, "alice", 40009, host="192.0.2.99")
    other.contact = phone.contact
    other.register()
    registrar.serve()
    other.agent.expect_answer(200)
    registrar.agent.inside("BYE", done)
    phone.agent.answer(phone.agent.expect("BYE"), 200, "OK")
    other.agent.nothing()


@pytest.mark.parametrize(
    ("rest_of_it", "crosses"),
    [
        ("", True),
        (":5060;transport=UDP;user=phone", True),
        (":25", False),
        (";maddr=192.0.2.66", False),
        (";transport=tls", False),
        (";transport=udp;transport=tcp;transport=udp", False),
        (";x-evil=203.0.113.99", False),
        ("?Route=%3Csip:192.0.2.66%3E", False),
        (";gr=zz", False),
    ],
)
def test_the_uri_of_a_digest_aims_nothing(rest_of_it: str, crosses: bool) -> None:
    """Nobody has looked whether the digest is right when the registrar gets the request."""
    config = RELAY.replace("servers: ", "domain: pbx.internal, servers: ", 1)
    border, registrar, phone = home(config)
    made_for = (
        f'Digest username="alice", realm="x", nonce="n", response="0", uri="sip:{{}}pbx.internal{rest_of_it}"'
    )
    stranger = Phone(border, "carol", 40002)
    stranger.register(fields=f"Authorization: {made_for.format('')}")
    uri = registrar.agent.expect("REGISTER").uri
    assert uri == (f"sip:pbx.internal{rest_of_it}" if crosses else "sip:pbx.internal")
    phone.invite("200", fields=f"Proxy-Authorization: {made_for.format('200@')}")
    uri = registrar.agent.expect("INVITE").uri
    assert uri == (f"sip:200@pbx.internal{rest_of_it}" if crosses else "sip:200@10.0.0.20:5060")


def test_the_uri_of_a_digest_holds_no_password() -> None:
    border = Border(RELAY)
    registrar, phone = Registrar(border), Phone(border, "alice", 40001)
    uri = "sip::secret@pbx.internal"
    phone.register(fields=f'Authorization: Digest username="alice", realm="x", nonce="n", uri="{uri}"')
    assert registrar.agent.expect("REGISTER").uri == "sip:pbx.internal"


STRANGERS = "  - {from: public, to: pbx}\nlimits: {max_calls: 2, calls_per_s_per_source: 1}\n"


def test_a_stranger_has_no_priority() -> None:
    border = Border(RELAY.replace("store: null", "store: null, calls: any") + STRANGERS)
    registrar = Registrar(border)
    stranger = border.agent("public", "198.18.0.9:5060")
    for number in range(8):
        stranger.call_id = f"forged-{number}"
        stranger.invite("200", fields="Resource-Priority: esnet.0")
    assert len(border.calls.live) == 1
    registrar.agent.expect("INVITE")
    registrar.agent.nothing()
    assert border.calls.stats["refused:source-rate"] == 7
    carrier = border.agent("public", "198.51.100.7:5060")
    for number in range(2):
        carrier.call_id = f"known-{number}"
        carrier.invite("900", fields="Resource-Priority: esnet.0")
        registrar.agent.expect("INVITE")


def test_help_has_a_ceiling_too() -> None:
    border = Border(RELAY.replace("store: null", "store: null, calls: any") + STRANGERS)
    registrar = Registrar(border)
    stranger = border.agent("public", "198.18.0.9:5060")
    for number in range(8):
        stranger.call_id = f"help-{number}"
        stranger.invite("112")
    assert len(border.calls.live) == 4, "twice limits.max_calls"
    for _ in range(4):
        registrar.agent.expect("INVITE")
    registrar.agent.nothing()


ASSERTED = (
    'P-Asserted-Identity: "CEO" <sip:ceo@sip.example.com>\r\n'
    "P-Preferred-Identity: <sip:ceo@sip.example.com>\r\n"
    "Remote-Party-ID: <sip:ceo@sip.example.com>;party=calling"
)


def asserts(message: Message) -> bool:
    """Whether a message says that it is of the CEO."""
    return b"ceo" in message.encode()


def test_what_a_phone_asserts_does_not_cross_later_either() -> None:
    border, registrar, phone = home()
    pbx = registrar.agent
    phone.agent.call_id = "asserts"
    phone.invite("200", fields=ASSERTED)
    first = pbx.expect("INVITE")
    pbx.answer(first, 200, "OK", sdp=audio("10.0.0.20", 4002))
    pbx.expect("ACK")
    done = phone.agent.expect_answer(200)
    phone.agent.ack(done)
    phone.agent.inside("INVITE", done, body=audio("192.168.1.5", version=2), fields=ASSERTED)
    again = pbx.expect("INVITE")
    pbx.answer(again, 200, "OK", sdp=audio("10.0.0.20", 4002))
    pbx.expect("ACK")
    phone.agent.ack(phone.agent.expect_answer(200))
    phone.agent.inside("INFO", done, fields=ASSERTED)
    info = pbx.expect("INFO")
    pbx.answer(info, 200, "OK", fields=ASSERTED)
    assert asserts(phone.agent.expect_answer(200, "INFO")), "the PBX is to be believed"
    pbx.inside("INFO", first, fields=ASSERTED)
    told = phone.agent.expect("INFO")
    assert asserts(told)
    phone.agent.answer(told, 200, "OK", fields=ASSERTED)
    answered = pbx.expect_answer(200, "INFO")
    phone.agent.inside("BYE", done, fields=ASSERTED)
    bye = pbx.expect("BYE")
    assert [asserts(one) for one in (first, again, info, answered, bye)] == [False] * 5
    pbx.answer(bye, 200, "OK")
    phone.agent.expect_answer(200, "BYE")
    rest(border)


@pytest.mark.parametrize("status", [180, 200, 486])
def test_what_a_phone_that_is_called_asserts_does_not_cross(status: int) -> None:
    _border, registrar, phone = home()
    registrar.call("alice", ASSERTED)
    invite = phone.agent.expect("INVITE")
    assert asserts(invite)
    sdp = audio("192.168.1.5", 4002) if status == 200 else ""
    phone.agent.answer(invite, status, "Answer", sdp=sdp, fields=ASSERTED)
    assert not asserts(registrar.agent.expect_answer(status))


def test_nor_after_the_call_was_written_down_and_taken_up() -> None:
    border, registrar, phone = home()
    pbx = registrar.agent
    phone.invite("200")
    pbx.answer(pbx.expect("INVITE"), 200, "OK", sdp=audio("10.0.0.20", 4002))
    pbx.expect("ACK")
    done = phone.agent.expect_answer(200)
    phone.agent.ack(done)
    later = Border(RELAY)
    later.now, later.agents = border.now, border.agents
    later.calls.restore(border.calls.snapshot(border.now), later.now)
    phone.agent.border = pbx.border = later
    phone.agent.inside("BYE", done, fields=ASSERTED)
    assert not asserts(pbx.expect("BYE"))


@pytest.mark.parametrize(("calls", "told"), [("registered", False), ("any", True)])
def test_whose_identity_is_private_is_not_told_to_a_phone_that_has_to_show_its_own(
    calls: str, told: bool
) -> None:
    """RFC 3325 s.7: the phones are outside of the trust domain that their registrar is in."""
    _border, registrar, phone = home(RELAY.replace("store: null", f"store: null, calls: {calls}"))
    registrar.call("alice", f"{ASSERTED}\r\nPrivacy: id")
    invite = phone.agent.expect("INVITE")
    assert invite.get("Privacy") == "id"
    assert asserts(invite) == told


@pytest.mark.parametrize("name", ["Authorization: ", "authorization : ", "AUTHORIZATION:\t"])
def test_credentials_pass_overload_only_from_a_phone_of_ours(name: str) -> None:
    border, _registrar, phone = home()
    stranger = Phone(border, "carol", 40002)
    for one, refused in ((phone, False), (stranger, True)):
        one.register(fields=f'{name}Digest username="alice"')
        one.agent.inbox.clear()
        late = one.last.replace(";rport", "late;rport").encode()
        border.calls.receive(late, one.agent.flow, border.now, age_s=10)
        told = [answer.status for answer in one.agent.inbox if isinstance(answer, Response)]
        assert (503 in told) == refused


def accept(registrar: Registrar, asked: Request) -> None:
    """The registrar takes it, and lists what is there now."""
    contact = asked.get("Contact") or "*"
    kept = contact != "*" and "expires=0" not in contact
    registrar.agent.answer(asked, 200, "OK", fields=f"Contact: {contact}" if kept else "")


def test_a_wildcard_removes_what_was_there_when_it_was_sent() -> None:
    border, registrar, phone = home()
    other = Phone(border, "alice", 40010)
    border.advance(1)
    phone.register(0, contact="*")
    wildcard = registrar.agent.expect("REGISTER")
    border.advance(0.1)
    other.register()
    accept(registrar, registrar.agent.expect("REGISTER"))
    other.agent.expect_answer(200)
    accept(registrar, wildcard)
    phone.agent.expect_answer(200)
    assert [one.contact for one in border.calls.phones.locations.all()] == [other.contact]


@pytest.mark.parametrize("goes", [None, "*"])
def test_an_answer_that_was_overtaken_brings_nothing_back(goes: str | None) -> None:
    border = Border(RELAY)
    registrar, phone = Registrar(border), Phone(border, "alice", 40001)
    phone.register()
    first = registrar.agent.expect("REGISTER")
    phone.register(0, contact=goes)
    second = registrar.agent.expect("REGISTER")
    accept(registrar, second)
    accept(registrar, first)
    assert border.calls.phones.locations.all() == []
    phone.agent.inbox.clear()
    border.advance(1)
    phone.agent.cseq = 0
    phone.register()
    accept(registrar, registrar.agent.expect("REGISTER"))
    assert len(border.calls.phones.locations.all()) == 1, "a phone that was switched off and on counts anew"


@pytest.mark.parametrize("inside", ["192.168.1.6:5060", "192.168.1.5:5062"])
def test_a_port_of_a_nat_that_goes_to_another_phone(inside: str) -> None:
    """A router that was switched off may give its first port to whoever comes first.

    Of one phone with two accounts both stay; it writes the same host in Via.
    """
    border = Border(LOCAL)
    alice, bob = Phone(border, "alice", 40001), Phone(border, "bob", 40002)
    alice.authorized("a-secret")
    bob.authorized("b-secret")
    newcomer = Phone(border, "bob", 40001)
    newcomer.inside, newcomer.register_id, newcomer.agent.tag = inside, "of-the-newcomer", "newcomer"
    newcomer.authorized("b-secret")
    another = inside.startswith("192.168.1.6")
    locations = border.calls.phones.locations
    assert [one.dead for one in locations.of("alice")] == [TAKEN if another else ""]
    for one in locations.of("alice"):
        locations.heard(one, border.now)
    newcomer.agent.call_id = "in-her-name"
    newcomer.invite("bob", sender=alice.aor)
    if not another:
        bob.agent.expect("INVITE")
        return
    assert "not-your-identity" in (newcomer.agent.expect_answer(403).get("Warning") or "")
    bob.agent.nothing()
    bob.agent.call_id = "to-her"
    bob.invite("alice")
    assert "phone-away" in (bob.agent.expect_answer(480).get("Warning") or "")
    newcomer.agent.nothing()
    again = Phone(border, "alice", 40003)
    again.contact, again.register_id, again.agent.cseq = alice.contact, alice.register_id, 300
    again.authorized("a-secret")
    bob.agent.call_id = "to-her-again"
    bob.invite("alice")
    again.agent.expect("INVITE")
