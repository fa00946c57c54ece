"""A nonce of the local registrar is for the host that asked for it: who forges an address registers nobody there."""

from dataclasses import replace

import pytest

from signaling.digest import Account, answer, parse_challenges
from signaling.flow import Flow
from tests.harness.registering import DOMAIN, LOCAL, Bench, Phone


def credentials(bench: Bench, phone: Phone, asked_from: Flow) -> str:
    """Good ones, for a challenge that went to a host."""
    phone.register(600, flow=asked_from)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(
        challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "cnonce"
    )
    return f"{name}: {value}"


@pytest.mark.parametrize(
    ("asked", "shown", "good"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("198.51.100.66", "203.0.113.7", False),
        ("2001:db8::7", "2001:db8::8", True),  # the other privacy address of one phone
        ("2001:db8::7", "2001:db8:0:1::7", False),
        ("2001:db8::7", "203.0.113.7", False),
    ],
)
def test_a_nonce_is_stale_from_another_host(asked: str, shown: str, good: bool) -> None:
    """Else a user could register the address of a victim, who would get his calls and every keep-alive."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    there = replace(phone.flow, remote=(shown, 40000))
    line = credentials(bench, phone, replace(phone.flow, remote=(asked, 40000)))
    phone.register(600, line, flow=there)
    if good:
        bench.expect(200)
        return
    again = parse_challenges(bench.expect(401))[0]
    assert again.stale, "a phone that has moved asks by itself, and nobody is asked for the password"
    assert not bench.locations.on_flow(there) and len(bench.locations) == 0


def test_another_port_of_the_same_host_is_the_same_phone() -> None:
    """RFC 4787 s.4.1: a NAT may give each packet another port."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    line = credentials(bench, phone, phone.flow)
    phone.register(600, line, flow=replace(phone.flow, remote=(phone.flow.remote[0], 40999)))
    bench.expect(200)


def test_a_phone_that_changes_its_address_needs_one_more_message() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized()
    bench.expect(200)
    moved = replace(phone.flow, remote=("198.51.100.9", 40000))
    line = credentials(bench, phone, phone.flow)
    phone.register(600, line, flow=moved)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(
        challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "cnonce"
    )
    phone.register(600, f"{name}: {value}", flow=moved)
    bench.expect(200)
    (binding,) = bench.locations.of("alice")
    assert binding.flow == moved
