"""Which phones a call is for, in which groups they ring, and who calls."""

from typing import Any

import pytest

from config.load import load
from sbc.binding import Binding, identity_of
from sbc.gruu import Gruus
from sbc.keepalive import NO_ANSWER
from sbc.locations import Locations
from sbc.phonebook import Phonebook
from sbc.routing import CallRequest, Source
from sbc.users import User, Users
from signaling.flow import Flow

CONFIG = """
networks:
  public: {address: 203.0.113.10, listen: [udp:5060], media_ports: 20000-20099, nat: far-end}
  private: {address: 10.0.0.1, listen: [udp:5060], media_ports: 30000-30099}
trunks:
  pbx: {network: private, servers: ["sip:10.0.0.20"]}
  carrier: {network: private, servers: ["sip:10.0.0.30"]}
phones: {network: public, registrar: REGISTRAR, store: null, domain: sip.example.com, ring_s: 7MORE}
routes: [{from: phones, to: pbx}, {from: pbx, to: phones}]
limits: {max_calls: 10}
"""
PBX = Source("private", "pbx", "10.0.0.20")
CARRIER = Source("private", "carrier", "10.0.0.30")
GRUUS = Gruus(b"k" * 32)


def flow(port: int) -> Flow:
    return Flow("public", "udp", ("203.0.113.10", 5060), ("192.0.2.7", port))


def bound(user: str, port: int, **fields: Any) -> Binding:
    contact = f"sip:{user}@192.168.1.5:{port}"
    values: dict[str, Any] = {"token": f"token{port}", "expires_at": 1000.0, **fields}
    token, expires_at = values.pop("token"), values.pop("expires_at")
    return Binding(user, identity_of(contact), contact, token, flow(port), expires_at, "c", 1, **values)


def book(*bindings: Binding, local: bool = False, more: str = "") -> Phonebook:
    locations = Locations()
    for binding in bindings:
        locations.put(binding)
    registrar = "local, users: {alice: {password: a}}" if local else "pbx"
    config = load(CONFIG.replace("REGISTRAR", registrar).replace("MORE", more))
    users = Users("sip.example.com", [User("alice", {}, ("+15551234",))] if local else [])
    return Phonebook(config, locations, users, GRUUS if local else None)


def ringing(phones: Phonebook, user: str, source: Source = PBX, **fields: Any) -> list[tuple[int, int]]:
    """Port and group of each target."""
    targets, _, refusal = phones.targets(CallRequest(source, user, "x", **fields), user, 10.0)
    assert bool(targets) == (refusal is None)
    return [(target.address[1], target.group) for target in targets]


def test_a_token_is_one_phone_and_only_for_the_registrar() -> None:
    phones = book(bound("alice", 1), bound("alice", 2))
    assert ringing(phones, "token2") == [(2, 1)]
    assert ringing(phones, "token2", CARRIER) == []
    assert len(ringing(phones, "alice", CARRIER)) == 2


def test_equals_ring_at_once_and_lower_q_later() -> None:
    phones = book(bound("alice", 1, q=500), bound("alice", 2, seen_at=1.0), bound("alice", 3, seen_at=2.0))
    assert ringing(phones, "alice") == [(3, 1), (2, 1), (1, 2)]
    targets, decision, _ = phones.targets(CallRequest(PBX, "alice"), "alice", 10.0)
    assert {target.domain for target in targets} == {"sip.example.com"}
    assert {target.ring_s for target in targets} == {7.0} and "one by one" in decision.outcome


def test_serial_rings_one_by_one() -> None:
    phones = book(bound("alice", 1), bound("alice", 2, seen_at=1.0), more=", fork: serial")
    assert ringing(phones, "alice") == [(2, 1), (1, 2)]


def test_of_the_flows_of_one_phone_the_one_heard_last_rings() -> None:
    """RFC 5626 s.7: several flows are for when one fails."""
    phones = book(bound("alice", 1, token="t", seen_at=1.0), bound("alice", 2, token="t", seen_at=2.0))
    assert ringing(phones, "t") == [(2, 1), (1, 1)]
    targets, decision, _ = phones.targets(CallRequest(PBX, "t"), "t", 10.0)
    assert [target.spare for target in targets] == [False, True] and "(one)" in decision.outcome
    phones = book(
        bound("alice", 1, token="t", seen_at=1.0), bound("alice", 2, token="t", seen_at=2.0, dead="gone")
    )
    assert ringing(phones, "t") == [(1, 1)]


@pytest.mark.parametrize(
    ("bindings", "local", "user", "rule"),
    [
        ((), False, "alice", "phone-not-registered"),
        ((bound("alice", 1, dead="no answer"),), False, "alice", "phone-away"),
        ((bound("alice", 1, expires_at=9.0),), False, "alice", "phone-away"),
        ((), True, "alice", "phone-not-registered"),
        ((), True, "+15551234", "phone-not-registered"),
        ((), True, "nobody", "no-such-user"),
    ],
)
def test_why_nobody_rings(bindings: tuple[Binding, ...], local: bool, user: str, rule: str) -> None:
    phones = book(*bindings, local=local)
    targets, decision, refusal = phones.targets(CallRequest(PBX, user, "x"), user, 10.0)
    assert refusal is not None and refusal.rule == rule and not targets
    assert rule in decision.outcome
    assert not phones.registered(CallRequest(PBX, user, "x"), user, 10.0)


def test_gruus() -> None:
    handle = GRUUS.handle("alice", "<urn:uuid:1>", "c")
    one = bound("alice", 1, instance="<urn:uuid:1>", gruu=handle)
    phones = book(one, bound("alice", 2, instance="<urn:uuid:2>"), local=True)
    assert ringing(phones, "alice", gruu="urn:uuid:1") == [(1, 1)]
    assert ringing(phones, "alice", gruu="URN:UUID:2") == [(2, 1)]
    assert ringing(phones, "alice", gruu="urn:uuid:3") == []
    temporary = GRUUS.temporary(handle, "0123456789ab")
    assert ringing(phones, temporary, gruu="") == [(1, 1)]
    forged = temporary[:-1] + ("0" if temporary[-1] != "0" else "1")
    assert ringing(phones, forged, gruu="") == []


@pytest.mark.parametrize(
    ("port", "sender", "user", "rule"),
    [
        (1, "alice", "alice", None),
        (1, "+15551234", "alice", None),
        (1, "anonymous", "alice", None),
        (1, "bob", "", "not-your-identity"),
        (2, "alice", "", "not-registered"),
        (3, "carol", "", "not-registered"),
    ],
)
def test_who_calls(port: int, sender: str, user: str, rule: str | None) -> None:
    phones = book(bound("alice", 1), bound("carol", 3, expires_at=9.0), local=True)
    caller = phones.caller(flow(port), sender, 10.0)
    assert caller.user == user
    assert (None if caller.refusal is None else caller.refusal.rule) == rule


def test_two_users_of_one_phone_are_told_apart_by_from() -> None:
    phones = book(bound("alice", 1), bound("bob", 1))
    assert phones.caller(flow(1), "bob", 10.0).user == "bob"
    assert phones.caller(flow(1), "anonymous", 10.0).refusal is not None


def test_anybody_may_call_where_the_file_says_so() -> None:
    phones = book(bound("alice", 1), more=", calls: any")
    assert phones.caller(flow(1), "alice", 10.0).user == "alice"
    stranger = phones.caller(flow(9), "mallory", 10.0)
    assert stranger.user == "" and stranger.refusal is None


def test_a_flow_that_does_not_answer_any_more_calls_as_nobody() -> None:
    assert book(bound("alice", 1)).caller(flow(1), "alice", 0.0).user == "alice"
    caller = book(bound("alice", 1, dead=NO_ANSWER)).caller(flow(1), "alice", 0.0)
    assert caller.user == "" and caller.refusal is not None and caller.refusal.rule == "not-registered"
