"""What users of registered phones meet now and then: a GRUU, their own number, a call for help without registration."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.handset import Handset
from tests.lab.homes import HOUSE
from tests.lab.lab import FOUND
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, obstacle
from tests.lab.registrar import DOMAIN
from tests.lab.talk import assert_no_traceback, packets_of
from tests.lab.town import DESK, KEEPALIVE_S, PROXY, Town

pytestmark = [pytest.mark.lab, pytest.mark.slow]

HELP = "112"
"""Who answers there is the desk phone."""
OUTBOUND = ";sipnat=outbound"


def opened(town: Town) -> Iterator[Town]:
    town.open()
    try:
        yield town
        town.evening()
        assert_no_traceback(town.border)
        assert town.border.leftovers(refused=3) == {}
    finally:
        town.close()


@pytest.fixture
def machine_for_phones(machine: None) -> None:
    """Skips where there is no registrar, no phone or no router."""
    reason = obstacle("nft", "kamailio", "baresip")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def town(machine_for_phones: None, tmp_path: Path) -> Iterator[Town]:
    """The registrar behind us."""
    town = Town(tmp_path, sections=f'emergency: {{numbers: ["{HELP}"]}}\n')
    first = "  - {from: phones, to: pbx}\n"
    help_desk = f'  - {{from: phones, match: "^{HELP}$", strip: {len(HELP)}, prepend: "{DESK}", to: pbx}}\n'
    assert first in town.yaml
    town.yaml = town.yaml.replace(first, help_desk + first)
    yield from opened(town)


@pytest.fixture
def local_town(machine_for_phones: None, tmp_path: Path) -> Iterator[Town]:
    """Our own registrar."""
    users = ", users: {alice: {password: secret-of-alice}}"
    yield from opened(Town(tmp_path, "local", users))


def gruu_of(town: Town, phone: Handset) -> str:
    """What the registrar has given a phone, as that was told."""
    for packet in reversed(packets_of(town.village, PUBLIC)):
        text = packet.payload.decode(errors="replace")
        found = re.search(rf'pub-gruu="(sip:{phone.user}@[^"]+)"', text)
        if text.startswith("SIP/2.0 200") and found is not None:
            return found[1]
    raise AssertionError("no GRUU was given")


def test_a_gruu_of_the_registrar_rings_one_phone_of_a_user(town: Town) -> None:
    """baresip asks for one when it uses RFC 5626; Kamailio gives it, and finds the phone by it."""
    alice = town.at_home("a", "alice", account=OUTBOUND)
    other = town.at_home("b", "alice", 1, answers=False)
    bob = town.at_home("b", "bob")
    town.await_bindings("alice", 2)
    gruu = gruu_of(town, alice)
    assert gruu.startswith(f"sip:alice@{DOMAIN};gr=urn:uuid:")
    alice.forget()
    bob.forget()
    bob.dial(gruu)
    alice.await_established()
    time.sleep(1.5)
    bob.hang_up()
    bob.await_ended()
    alice.await_ended()
    assert alice.hears(bob.hz) > FOUND and bob.hears(alice.hz) > FOUND
    assert "Incoming call" not in other.process.text
    asked = [one.payload for one in packets_of(town.village, PRIVATE) if one.payload.startswith(b"INVITE ")]
    assert any(one.startswith(f"INVITE {gruu} ".encode()) for one in asked), "a GRUU at the registrar, too"


def test_another_flow_of_a_phone_is_taken_when_one_fails(local_town: Town) -> None:
    """RFC 5626: one phone, registered by UDP and by TCP; its router lets UDP in no more."""
    town = local_town
    second = f'{OUTBOUND};outbound2="sip:{PROXY};transport=tcp"'
    alice = town.at_home("a", "alice", account=second)
    kitchen = town.at_home("b", "alice", 1, answers=False)
    town.await_bindings("alice", 3)
    assert sorted(str(row["reg_id"]) for row in town.bindings("alice")) == ["1", "2", "None"]
    kitchen.forget()
    alice.forget()
    time.sleep(2 * KEEPALIVE_S)  # it answers what holds its NAT open, so that UDP was heard last
    town.village.homes["a"].drop(f"meta l4proto udp ip daddr {HOUSE[0]}")
    kitchen.call("alice")
    alice.await_established()
    time.sleep(1.5)
    kitchen.hang_up()
    kitchen.await_ended(1)
    kitchen.await_(lambda: town.border.cdr.read_text() != "", "a call record")
    (record,) = [json.loads(line) for line in town.border.cdr.read_text().splitlines()]
    assert [(one["transport"], one["rule"]) for one in record["targets"]] == [
        ("udp", "server-timeout"),
        ("tcp", "answered"),
    ]
    town.village.homes["a"].pass_all()


def test_a_call_for_help_needs_no_registration(town: Town) -> None:
    """A phone with a wrong password; the PBX is reached, and both hear each other."""
    alice = town.phone("a", "alice", password="guessed")
    alice.await_refused(403)
    alice.command("dial", f"sip:{DESK}@{DOMAIN}")
    alice.await_(lambda: "session closed: 403" in alice.process.text.lower(), "a refusal")
    alice.forget()
    town.desk.forget()
    calls, ended = town.desk.calls, alice.ended
    alice.call(HELP)
    town.desk.await_established(calls + 1)
    time.sleep(1.5)
    alice.hang_up()
    alice.await_ended(ended + 1)
    assert alice.hears(town.desk.hz) > FOUND and town.desk.hears(alice.hz) > FOUND
    assert town.bindings("alice") == []
    assert any(
        packet.payload.startswith(f"INVITE sip:{DESK}@".encode())
        and packet.destination[0] == SIDES[PRIVATE].peer
        for packet in packets_of(town.village, PRIVATE)
    )


@pytest.mark.parametrize("registrar", ["local_town", "town"])
def test_who_calls_his_own_number_does_not_ring_himself(
    request: pytest.FixtureRequest, registrar: str
) -> None:
    """The only phone is busy; with a second one that rings. Also where a registrar behind us rings all of them."""
    town = request.getfixturevalue(registrar)
    assert isinstance(town, Town)
    alice = town.at_home("a", "alice")
    alice.command("dial", f"sip:alice@{DOMAIN}")
    alice.await_(lambda: "session closed: 486" in alice.process.text.lower(), "busy")
    assert "Incoming call" not in alice.process.text
    kitchen = town.at_home("b", "alice", 1)
    town.await_bindings("alice", 2)
    alice.forget()
    kitchen.forget()
    ended = alice.ended
    alice.call("alice")
    kitchen.await_established()
    alice.hang_up()
    alice.await_ended(ended + 1)
    assert "Incoming call" not in alice.process.text
