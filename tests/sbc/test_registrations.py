"""REGISTER, whoever keeps the registrations: what is refused, storms, what is stored (RFC 3261 s.10)."""

from dataclasses import replace
from typing import Any

import pytest

from sbc.locations import WIPE
from sbc.registrar import REWRITE
from sbc.registration_policy import RegistrationPolicy
from signaling.digest import Account, answer, parse_challenges
from signaling.flow import Flow
from tests.harness.registering import DOMAIN, LOCAL, RELAY, Bench, Phone


@pytest.mark.parametrize(
    ("kw", "status", "rule"),
    [
        ({"to": "sip:alice@elsewhere.example"}, 404, "not-our-domain"),
        ({"to": f"sip:{DOMAIN}"}, 404, "not-our-domain"),
        ({"sender": f"sip:bob@{DOMAIN}"}, 403, "third-party-registration"),
        ({"contact": "<mailto:alice@example.com>"}, 400, "bad-contact"),
        ({"contact": "<sip:a@1.2.3.4>, <sip:a@1.2.3.4>"}, 400, "bad-register"),
        ({"contact": ", ".join(f"<sip:a@1.2.3.{n}>" for n in range(11))}, 403, "too-many-contacts"),
        ({"flow": Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.5", 5060))}, 403, "no-registrar-here"),
    ],
)
@pytest.mark.parametrize("policy", [RELAY, LOCAL], ids=["relay", "local"])
def test_refused_before_any_registrar(
    policy: RegistrationPolicy, kw: dict[str, Any], status: int, rule: str
) -> None:
    bench = Bench(policy)
    # Without credentials a local registrar says nothing but 401 (RFC 3261 s.10.3 step 3).
    Phone(bench).register(600, 'Authorization: Digest username="alice"', **kw)
    assert rule in (bench.expect(status).get("Warning") or "")
    assert not bench.forwarded


def test_unknown_extension() -> None:
    bench = Bench()
    Phone(bench).register(600, "Require: outbound, teleport")
    assert bench.expect(420).get("Unsupported") == "teleport"


def test_a_storm_is_sent_away_and_comes_back_spread() -> None:
    bench = Bench(replace(RELAY, registers_per_s=10))
    waits = []
    for number in range(110):
        phone = Phone(bench, "alice", 30000 + number)
        phone.register(flow=replace(phone.flow, remote=(f"203.0.113.{number}", 5060)))
        if bench.replies:
            waits.append(int(bench.expect(503).get("Retry-After") or 0))
    assert len(bench.forwarded) == 10 and len(waits) == 100
    assert waits == sorted(waits) and max(waits) in (10, 11)
    assert all(waits.count(second) <= 10 for second in range(1, 11))


def test_one_address_does_not_use_up_what_belongs_to_all() -> None:
    bench = Bench(replace(RELAY, registers_per_s=20))
    for number in range(50):
        Phone(bench, "alice", 30000 + number).register()
    assert len(bench.forwarded) == 5
    bench.replies.clear()
    other = Phone(bench, "bob", 30000)
    other.register(flow=replace(other.flow, remote=("198.51.100.3", 5060)))
    assert len(bench.forwarded) == 6 and bench.replies == []


def test_who_was_let_in_may_answer_the_challenge() -> None:
    bench = Bench(replace(RELAY, registers_per_s=1))
    phone = Phone(bench)
    phone.register()
    bench.registrar(401, 'WWW-Authenticate: Digest realm="x", nonce="y"')
    bench.expect(401)
    Phone(bench, "bob", 40009).register()
    bench.expect(503)
    phone.register(600, 'Authorization: Digest username="alice"')
    assert len(bench.forwarded) == 2
    phone.register(600, 'Authorization: Digest username="alice"')
    bench.expect(503)


def test_a_phone_is_told_only_what_is_stored() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    bench.disk = "is slow"
    phone.register(600, f"{name}: {value}")
    assert bench.replies == []
    bench.run(bench.core.stored(bench.tickets[-1], "disk is full"))
    assert "store-failed" in (bench.expect(503).get("Warning") or "")
    assert bench.core.stored(bench.tickets[-1], None) == []


def test_a_store_that_lost_track_gets_everything() -> None:
    bench = Bench(LOCAL)
    Phone(bench).authorized()
    bench.expect(200)
    assert not bench.locations.unsaved
    assert bench.core.stored(REWRITE, None) == []
    changes = bench.locations.take_changes(bench.now, bench.wall)
    assert changes[0] == WIPE and [change.user for change in changes[1:]] == ["alice"]
