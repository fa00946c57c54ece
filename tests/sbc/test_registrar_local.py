"""REGISTER kept here (RFC 3261 s.10, RFC 5626, RFC 5627)."""

from dataclasses import replace

import pytest

from signaling.digest import Account, answer, parse_challenges
from tests.harness.registering import DOMAIN, LOCAL, Bench, Phone, bound


def test_local_needs_the_password() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600, password="wrong")
    assert "wrong-credentials" in (bench.expect(401).get("Warning") or "")
    assert len(bench.locations) == 0
    phone.authorized()
    assert bound(bench.expect(200)) == {phone.contact: 60}


def test_who_goes_on_guessing_has_to_wait_and_nobody_else() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    registered = Phone(bench, "alice", 40008)
    registered.authorized(600)
    bench.expect(200)
    phone = Phone(bench)
    for _ in range(100):
        phone.authorized(600, password="guess")
        bench.expect(401)
    registered.authorized(600)
    bench.expect(200)
    phone.authorized(600)
    assert "too-many-guesses" in (bench.expect(403).get("Warning") or ""), "even with the right one"
    elsewhere = Phone(bench, "alice", 40009)
    elsewhere.flow = replace(elsewhere.flow, remote=("198.51.100.9", 40009))
    elsewhere.authorized(600)
    bench.expect(200)
    bob = Phone(bench, "bob", 40000)
    bob.authorized(600)
    bench.expect(200)
    bench.now += 31
    phone.authorized(600)
    bench.expect(200)


def forged(bench: Bench, number: int, host: str, *fields: str) -> None:
    """A REGISTER of alice with somebody else's address."""
    sender = Phone(bench, "alice", 1000 + number)
    sender.register(600, *fields, flow=replace(sender.flow, remote=(host, 1000 + number)))


NONSENSE = 'Authorization: Digest username="alice", realm="sip.example.com", nonce="x", uri="x", response="0"'


@pytest.mark.parametrize("fields", [(), (NONSENSE,)])
def test_a_flood_of_forged_senders_shuts_nobody_out(fields: tuple[str, ...]) -> None:
    bench = Bench(replace(LOCAL, registers_per_s=10))
    registered = Phone(bench, "alice", 40000)
    registered.authorized(600)
    bench.expect(200)
    for number in range(3000):
        forged(bench, number, f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}", *fields)
        bench.now += 0.001
    bench.replies.clear()
    registered.authorized(600)
    bench.expect(200)
    fresh = Phone(bench, "bob", 40001)
    fresh.flow = replace(fresh.flow, remote=("192.0.2.200", 40001))
    bench.now += 0.1
    fresh.register(600)
    later = bench.replies.pop()
    assert later.status == 401 or int(later.get("Retry-After") or 0) <= 16


def test_a_forged_sender_locks_nobody_out() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    # With a good nonce, but one that went elsewhere.
    forger = Phone(bench, "alice", 666)
    forger.flow = replace(forger.flow, remote=("198.51.100.66", 666))
    forger.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "guess"), "REGISTER", f"sip:{DOMAIN}", 1, "cnonce")
    phone = Phone(bench)
    for number in range(110):
        forged(bench, number, phone.flow.remote[0], NONSENSE)
        forged(bench, number, phone.flow.remote[0], f"{name}: {value}")
    bench.replies.clear()
    phone.authorized(600)
    bench.expect(200)


def test_guesses_are_not_forgotten_for_those_of_other_users() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    phone = Phone(bench)
    for _ in range(100):
        phone.authorized(600, password="guess")
        bench.expect(401)
    for number in range(60):
        other = Phone(bench, f"user{number}", 40000)
        other.authorized(600)
        bench.expect(401)
    phone.authorized(600)
    bench.expect(403)


def test_local_offers_the_strongest_first() -> None:
    """RFC 8760 s.2.3."""
    bench = Bench(LOCAL)
    Phone(bench).register()
    assert [one.algorithm for one in parse_challenges(bench.expect(401))] == ["SHA-256", "MD5"]


def test_local_one_user_is_not_another() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("bob", "bob-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    phone.register(600, f"{name}: {value}")
    assert "not-your-address" in (bench.expect(403).get("Warning") or "")


def test_local_credentials_are_good_once_per_count() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    phone.register(600, f"{name}: {value}")
    bench.expect(200)
    phone.register(600, f"{name}: {value}")
    response = bench.expect(401)
    assert parse_challenges(response)[0].stale


def test_local_refresh_replace_and_removal() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600)
    bench.expect(200)
    bench.now += 30
    phone.authorized(600)
    assert bound(bench.expect(200)) == {phone.contact: 60}
    assert len(bench.locations) == 1
    phone.authorized(0)
    assert bound(bench.expect(200)) == {}
    assert len(bench.locations) == 0


def test_phones_of_one_user_in_two_homes_with_one_private_address_are_two() -> None:
    bench = Bench(LOCAL)
    one, other = Phone(bench, "alice", 40000), Phone(bench, "alice", 40001)
    other.flow = replace(other.flow, remote=("198.51.100.9", 40001))
    for phone in (one, other, one, other):
        phone.authorized(600)
        bench.expect(200)
        bench.now += 5
    flows = [one.flow, other.flow]
    assert sorted(binding.flow.remote for binding in bench.locations.of("alice")) == sorted(
        f.remote for f in flows
    )
    assert len({binding.token for binding in bench.locations.of("alice")}) == 2
    # Switched off and on again, with another Call-ID, and another port of its router.
    other.call_id = "another"
    other.flow = replace(other.flow, remote=("198.51.100.9", 40017))
    other.authorized(600)
    bench.expect(200)
    # A router with another address, but the Call-ID is the same.
    one.flow = replace(one.flow, remote=("198.51.100.77", 40000))
    one.authorized(600)
    bench.expect(200)
    flows = [one.flow, other.flow]
    assert sorted(binding.flow.remote for binding in bench.locations.of("alice")) == sorted(
        f.remote for f in flows
    )
    one.authorized(0)
    bench.expect(200)
    assert [binding.flow for binding in bench.locations.of("alice")] == [other.flow]


def test_local_registration_runs_out() -> None:
    bench = Bench(replace(LOCAL, keepalive="options"))
    Phone(bench).authorized(600)
    bench.expect(200)
    bench.advance(599)
    assert len(bench.locations) == 1
    bench.advance(1)
    assert len(bench.locations) == 0
    assert bench.happened[-1].what == "expired"


def test_local_query_changes_nothing() -> None:
    """RFC 3261 s.10.2.3."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600)
    bench.expect(200)
    persisted = len(bench.tickets)
    phone.authorized(None, contact="")
    assert list(bound(bench.expect(200))) == [phone.contact]
    assert len(bench.tickets) == persisted


def test_local_all_or_nothing() -> None:
    """RFC 3261 s.10.3 step 7: one contact that is refused refuses the request."""
    bench = Bench(LOCAL)
    Phone(bench).authorized(None, contact="<sip:a@1.2.3.4>;expires=600, <sip:a@1.2.3.5>;expires=5")
    bench.expect(423)
    assert len(bench.locations) == 0


def test_local_max_contacts_and_the_dead_make_room() -> None:
    bench = Bench(replace(LOCAL, max_contacts=2))
    for number in range(2):
        Phone(bench, "alice", 40000 + number, f"192.168.1.{number + 1}").authorized()
        bench.expect(200)
    third = Phone(bench, "alice", 40002, "192.168.1.3")
    third.authorized()
    assert "too-many-contacts" in (bench.expect(403).get("Warning") or "")
    gone = bench.locations.of("alice")[1]
    bench.locations.lost(gone.flow, "no answer to OPTIONS")
    third.authorized()
    assert gone.contact not in bound(bench.expect(200))


def test_local_outbound_replaces_by_instance_and_reg_id() -> None:
    """RFC 5626 s.6."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    for contact, reg_id in (("sip:alice@192.168.1.5:5060;ob", 1), ("sip:alice@192.168.1.77:5080;ob", 1)):
        phone.authorized(
            600, "Supported: outbound", contact=f'<{contact}>;+sip.instance="<urn:uuid:7>";reg-id={reg_id}'
        )
        response = bench.expect(200)
    assert list(bound(response)) == ["sip:alice@192.168.1.77:5080;ob"]
    assert response.get("Require") == "outbound"
    assert response.contacts[0].param("reg-id") == "1"


def test_local_gruu() -> None:
    """RFC 5627 s.5.2: temporary ones differ each time, and both lead to the phone."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    found = []
    for _ in range(2):
        phone.authorized(600, "Supported: gruu", contact=f'<{phone.contact}>;+sip.instance="<urn:uuid:7>"')
        contact = bench.expect(200).contacts[0]
        assert contact.param("pub-gruu") == f"sip:alice@{DOMAIN};gr=urn:uuid:7"
        found.append(contact.param("temp-gruu") or "")
    assert found[0] != found[1] and "alice" not in found[0]
    assert bench.core.local is not None
    for temporary in found:
        handle = bench.core.local.gruus.open(temporary.removeprefix("sip:").partition("@")[0])
        assert handle is not None
        assert bench.locations.by_gruu(handle) == bench.locations.of("alice")
    assert bench.core.local.gruus.open("tgruu." + "0" * 44) is None
