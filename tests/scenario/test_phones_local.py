"""Phones that are registered here: by name, by number, with several contacts, by GRUU, over the in-memory wire."""

import pytest

from config.load import load
from sbc.binding import row_of
from sbc.registration_effects import Happened
from signaling.digest import Account, answer, parse_challenges
from signaling.message import Request
from tests.harness.border import Border, audio
from tests.harness.phones import LOCAL, Phone, local, rest, talked


def test_nothing_is_kept_of_a_register_without_credentials() -> None:
    """RFC 3261 s.8.2.7: it is answered again when it comes again, with the same tag."""
    border = Border(LOCAL)
    alice = Phone(border, "alice", 40001)
    alice.register()
    first = alice.agent.expect_answer(401)
    alice.agent.raw(alice.last)
    second = alice.agent.expect_answer(401)
    assert first.to_tag == second.to_tag
    assert border.calls.leftovers()["transactions"] == 0
    assert second.via.param("received") == "192.0.2.77" and second.via.param("rport") == "40001"


def test_phone_to_phone() -> None:
    border, alice, bob = local()
    alice.invite("bob")
    assert isinstance(bob.agent.inbox[-1], Request) and bob.agent.inbox[-1].uri == bob.contact
    talked(border, alice.agent, bob.agent)
    rest(border)


def test_by_number() -> None:
    _border, alice, bob = local()
    bob.invite("+15551234")
    assert alice.agent.expect("INVITE").uri == alice.contact


def test_all_phones_of_a_user_ring_and_one_wins() -> None:
    border, alice, bob = local()
    second = Phone(border, "bob", 40003)
    second.authorized("b-secret")
    alice.invite("bob")
    first_invite = bob.agent.expect("INVITE")
    other_invite = second.agent.expect("INVITE")
    second.agent.answer(other_invite, 180, "Ringing")
    bob.agent.answer(first_invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    second.agent.expect("CANCEL")


def test_q_decides_who_rings_first() -> None:
    border, alice, bob = local()
    desk = Phone(border, "bob", 40003)
    desk.register(600)
    challenge = parse_challenges(desk.agent.expect_answer(401))[0]
    name, value = answer(challenge, Account("bob", "b-secret"), "REGISTER", "sip:sip.example.com", 1, "cn")
    desk.register(600, f"{name}: {value}", contact=f"<{desk.contact}>;q=0.5")
    desk.agent.expect_answer(200)
    alice.invite("bob")
    first = bob.agent.expect("INVITE")
    desk.agent.nothing()
    bob.agent.answer(first, 486, "Busy Here")
    desk.agent.expect("INVITE")


def test_unknown_and_unregistered_are_told_apart() -> None:
    border = Border(
        LOCAL.replace("- {from: phones, to: phones, when: registered}", "- {from: phones, to: phones}")
    )
    alice = Phone(border, "alice", 40001)
    alice.authorized("a-secret")
    alice.invite("bob")
    assert "phone-not-registered" in (alice.agent.expect_answer(480).get("Warning") or "")
    other = Phone(border, "alice", 40001)
    other.invite("nobody")
    assert "no-such-user" in (other.agent.expect_answer(404).get("Warning") or "")


CHALLENGE = LOCAL.replace("store: null", "store: null, calls: challenge")


def test_a_stranger_may_show_who_he_is() -> None:
    border = Border(CHALLENGE)
    bob = Phone(border, "bob", 40002)
    bob.authorized("b-secret")
    roaming = Phone(border, "alice", 41000, host="192.0.2.200")
    invite = roaming.invite("bob")
    challenge = parse_challenges(roaming.agent.expect_answer(407))[0]
    assert challenge.proxy and border.records == []
    name, value = answer(challenge, Account("alice", "a-secret"), "INVITE", invite.uri, 1, "cn")
    roaming.invite("bob", fields=f"{name}: {value}")
    got = bob.agent.expect("INVITE")
    assert got.from_.uri_text == "sip:alice@sip.example.com"
    assert got.get("Proxy-Authorization") is None


@pytest.mark.parametrize(
    ("user", "password", "status"), [("alice", "guessed", 407), ("bob", "b-secret", 403)]
)
def test_a_stranger_with_the_wrong_password_or_name(user: str, password: str, status: int) -> None:
    border = Border(CHALLENGE)
    roaming = Phone(border, "alice", 41000)
    invite = roaming.invite("bob")
    challenge = parse_challenges(roaming.agent.expect_answer(407))[0]
    name, value = answer(challenge, Account(user, password), "INVITE", invite.uri, 1, "cn")
    roaming.invite("bob", fields=f"{name}: {value}")
    roaming.agent.expect_answer(status)


def test_public_and_temporary_gruu() -> None:
    _border, alice, bob = local()
    bob.register(600)
    challenge = parse_challenges(bob.agent.expect_answer(401))[0]
    name, value = answer(challenge, Account("bob", "b-secret"), "REGISTER", "sip:sip.example.com", 1, "cn")
    bob.register(
        600, f"{name}: {value}\r\nSupported: gruu", contact=f'<{bob.contact}>;+sip.instance="<urn:uuid:7>"'
    )
    contact = next(one for one in bob.agent.expect_answer(200).contacts if one.param("pub-gruu"))
    for number, gruu in enumerate((contact.param("pub-gruu"), contact.param("temp-gruu"))):
        alice.agent.call_id = f"gruu-{number}"
        alice.agent.request(
            "INVITE", uri=gruu, from_header=f"<{alice.aor}>;tag=g{number}", body=audio("192.168.1.5")
        )
        invite = bob.agent.expect("INVITE")
        bob.agent.answer(invite, 486, "Busy Here")
        bob.agent.expect("ACK")
        alice.agent.expect_answer(486)


def test_who_is_no_user_any_more_has_no_phone_either() -> None:
    """A reload takes away what was registered, so that nobody calls as him until that would have run out."""
    border, alice, bob = local()
    happened: list[Happened] = []
    border.calls.phones._happened = happened.append
    config = load(LOCAL.replace(" bob: {password: b-secret}", ""))
    border.calls.reload(config, border.now)
    assert [(one.what, one.user, one.why) for one in happened] == [
        ("removed", "bob", "no such user any more")
    ]
    assert [one.user for one in border.calls.phones.locations.all()] == ["alice"]
    bob.invite("alice")
    assert "not-registered" in (bob.agent.expect_answer(403).get("Warning") or "")
    alice.agent.nothing()
    alice.invite("bob")
    alice.agent.expect_answer(404)
    bob.agent.nothing()


def test_nor_is_he_brought_back_by_what_was_stored() -> None:
    border, _alice, _bob = local()
    locations = border.calls.phones.locations
    rows = [row_of(one, border.now, border.calls.phones._wall()) for one in locations.all()]
    again = Border(LOCAL.replace(" bob: {password: b-secret}", ""))
    again.now = border.now
    again.calls.phones.restore(rows, again.now)
    assert [one.user for one in again.calls.phones.locations.all()] == ["alice"]


def with_flows(border: Border, *ports: int) -> dict[int, Phone]:
    """alice at a phone with several flows (RFC 5626)."""
    flows = {}
    for number, port in enumerate(ports, 1):
        flow = flows[port] = Phone(border, "alice", port)
        flow.agent.tag = f"flow{port}"
        contact = f'<{flow.contact}>;+sip.instance="<urn:uuid:7>";reg-id={number}'
        flow.register(600, "Supported: outbound", contact)
        challenge = parse_challenges(flow.agent.expect_answer(401))[0]
        name, value = answer(
            challenge, Account("alice", "a-secret"), "REGISTER", "sip:sip.example.com", 1, "cn"
        )
        flow.register(600, f"{name}: {value}\r\nSupported: outbound", contact)
        flow.agent.expect_answer(200)
        border.advance(1)
    return flows


@pytest.mark.parametrize("fails", ["silence", "430"])
def test_another_flow_of_a_phone_is_taken_when_one_fails(fails: str) -> None:
    """RFC 5626 s.7: that which was heard last comes first, and its failure is not the phone's."""
    border = Border(LOCAL)
    flows = with_flows(border, 40011, 40012)
    bob = Phone(border, "bob", 40002)
    bob.authorized("b-secret")
    bob.invite("alice")
    first = flows[40012].agent.expect("INVITE")
    flows[40011].agent.nothing()
    if fails == "430":
        flows[40012].agent.answer(first, 430, "Flow Failed")
    else:
        border.advance(4.1)
    talked(border, bob.agent, flows[40011].agent)


@pytest.mark.parametrize("status", [486, 480, 603])
def test_a_phone_that_declines_is_not_asked_again_by_its_other_flow(status: int) -> None:
    border = Border(LOCAL)
    flows = with_flows(border, 40011, 40012)
    bob = Phone(border, "bob", 40002)
    bob.authorized("b-secret")
    bob.invite("alice")
    flows[40012].agent.answer(flows[40012].agent.expect("INVITE"), status, "No")
    bob.agent.expect_answer(status)
    flows[40011].agent.nothing()


def test_who_is_away_is_the_reason_where_nothing_else_takes_the_call() -> None:
    """`when: registered` falls through, and when there is nowhere to fall, 404 would say that there is no such user."""
    border = Border(LOCAL)
    alice = Phone(border, "alice", 40001)
    alice.authorized("a-secret")
    for called, status, rule in (("bob", 480, "phone-not-registered"), ("nobody", 404, "no-such-user")):
        alice.agent.call_id = called
        alice.invite(called)
        assert rule in (alice.agent.expect_answer(status).get("Warning") or "")
    alice.agent.call_id = "own"
    alice.invite("alice")
    assert "own-number" in (alice.agent.expect_answer(486).get("Warning") or "")
