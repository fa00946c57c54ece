"""Remote phones come home: baresip behind NAT registers through the border, calls and is called, and stays reachable.

Real phones in the homes of homes.py, the registrar of registrar.py on the private side with a desk phone of its own.
Whoever talks is proven to be heard by a tone, both ways, each time.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sbc.locations import TAKEN
from tests.lab import sipp
from tests.lab.alg import Alg, Rewrite, contact_only, sdp_address_only, sdp_wrong_port
from tests.lab.border import anonymous_kib
from tests.lab.homes import HOUSE
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, obstacle
from tests.lab.registrar import DOMAIN, PASSWORDS, ha1
from tests.lab.talk import assert_no_traceback, packets_of
from tests.lab.town import (
    DESK,
    EXPIRES_S,
    MAPPING_S,
    PROXY,
    Town,
    assert_nothing_leaked,
    assert_one_has_the_call,
    converse,
)

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module")
def machine_for_phones(machine: None) -> None:
    """Skips where there is no registrar, no phone or no router."""
    reason = obstacle("nft", "kamailio", "baresip")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def built(machine_for_phones: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The town of all tests here; at the end nothing of one side was seen on the other."""
    town = Town(tmp_path_factory.mktemp("town")).open()
    try:
        yield town
        assert_no_traceback(town.border)
        assert town.border.leftovers(refused=3) == {}
        town.village.stop_recording()
        assert_nothing_leaked(town.village)
    finally:
        town.close()


@pytest.fixture
def town(built: Town) -> Iterator[Town]:
    """The town, at night empty."""
    yield built
    built.evening()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("home", ["a", "b"])
def test_a_phone_calls_and_is_called(town: Town, home: str, transport: str) -> None:
    """From behind a port-restricted cone (a) and a symmetric NAT (b)."""
    alice = town.at_home(home, "alice", transport=transport)
    (contact,) = town.registrar.contacts("alice")
    assert f"@{SIDES[PRIVATE].border}:5060" in contact.uri
    converse(alice, town.desk, hold=transport == "udp")
    converse(town.desk, alice)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("a", 0, "udp"), ("a", 1, "udp"), id="one-home"),
        pytest.param(("b", 0, "udp"), ("b", 1, "tcp"), id="one-symmetric-home"),
        pytest.param(("a", 0, "tcp"), ("b", 0, "udp"), id="two-homes"),
    ],
)
def test_phones_call_each_other(town: Town, one: tuple[str, int, str], other: tuple[str, int, str]) -> None:
    """By way of the PBX; from one home the media goes to the border and back (hairpin)."""
    alice = town.at_home(one[0], "alice", *one[1:])
    bob = town.at_home(other[0], "bob", *other[1:])
    converse(alice, bob)


def test_several_phones_behind_one_nat_are_told_apart(town: Town) -> None:
    phones = [town.at_home("a", user, room) for room, user in enumerate(("alice", "bob", "carol"))]
    for phone in phones:
        converse(town.desk, phone)
    assert [phone.calls for phone in phones] == [1, 1, 1]


def test_two_phones_of_one_user_ring_and_the_one_that_answers_has_the_call(town: Town) -> None:
    alice, silent = town.at_home("a", "alice"), town.at_home("b", "alice", transport="tcp", answers=False)
    town.registrar.await_contacts("alice", 2)
    assert_one_has_the_call(town.desk, alice, silent)


def test_keep_alives_hold_the_nat_open(town: Town) -> None:
    """For longer than a mapping lives the phone is silent, but for its refreshes, and is called then."""
    alice = town.at_home("b", "alice")
    time.sleep(MAPPING_S + 2)
    converse(town.desk, alice)


def test_without_a_mapping_the_phone_is_lost(town: Town) -> None:
    """The lab is what it says: once its router has forgotten it, a phone is not reached before its next refresh."""
    alice = town.at_home("b", "alice")
    town.village.homes["b"].reboot(keep_address=True)
    before, over = alice.calls, town.desk.ended
    town.desk.command("dial", f"sip:alice@{DOMAIN}")
    town.desk.await_ended(over + 1)
    assert alice.calls == before


def test_a_router_that_starts_anew(town: Town) -> None:
    """With another address: at its next refresh the phone is back, without having been asked."""
    alice = town.at_home("a", "alice")
    before = town.flow("alice")
    town.village.homes["a"].reboot()
    town.await_another_flow("alice", before)
    assert town.village.homes["a"].address in town.flow("alice")
    assert len(town.registrar.contacts("alice")) == 1
    converse(town.desk, alice)
    converse(alice, town.desk)


def test_a_port_that_goes_to_another_phone_takes_no_calls_with_it(town: Town) -> None:
    """A router keeps ports where it can: after it was off and on, who comes first has the port of who came first."""
    alice, bob = town.at_home("a", "alice"), town.at_home("a", "bob", 1)
    home = town.village.homes["a"]
    hers, his = town.flow("alice"), town.flow("bob")
    home.drop(f"ip saddr {HOUSE[0]}")
    home.reboot(keep_address=True)
    try:
        town.await_another_flow("bob", his)
        assert town.flow("bob") == hers, "the router is none of that kind"
        (row,) = town.bindings("alice")
        assert row["state"] == TAKEN
        calls, over = bob.calls, town.desk.ended
        town.desk.command("dial", f"sip:alice@{DOMAIN}")
        town.desk.await_ended(over + 1)
        assert "Incoming call" not in bob.process.text and bob.calls == calls
    finally:
        home.pass_all()
    town.await_another_flow("alice", hers)
    converse(town.desk, alice)
    converse(town.desk, bob)


@pytest.mark.parametrize("rewrite", [contact_only, sdp_address_only, sdp_wrong_port])
def test_a_router_that_rewrites_half_of_it(town: Town, rewrite: Rewrite) -> None:
    alg = Alg(town.village.street, town.village.homes["a"], rewrite)
    try:
        alice = town.at_home("a", "alice")
        converse(alice, town.desk)
        converse(town.desk, alice)
        assert alg.rewritten
        town.evening()
    finally:
        alg.stop()


def test_a_router_with_the_alg_of_linux(town: Town) -> None:
    """nf_nat_sip, which is in many routers: it rewrites all of it, and opens ports for the media that it reads of."""
    home = town.village.homes["b"]
    try:
        home.help_sip()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"machine: this kernel has no SIP ALG: {error.stderr}")
    home.reboot(keep_address=True)
    try:
        alice = town.at_home("b", "alice")
        (binding,) = town.bindings("alice")
        assert home.address in str(binding["contact"]) and HOUSE[0] not in str(binding), "it has rewritten"
        converse(alice, town.desk)
        converse(town.desk, alice)
        town.evening()
    finally:
        home.translate(home.nat)
        home.reboot(keep_address=True)


def test_a_border_that_dies_knows_its_phones_when_it_is_back(town: Town) -> None:
    """kill -9: the phones notice nothing, and are called before they have refreshed."""
    alice, bob = town.at_home("a", "alice"), town.at_home("b", "bob")
    bindings = len(town.bindings("alice")) + len(town.bindings("bob"))
    assert bindings == 2
    town.restart_border()
    back = time.time()
    assert len(town.bindings("alice")) + len(town.bindings("bob")) == 2
    town.desk.call("alice")
    alice.await_established()
    assert town.registers(PUBLIC, back) == 0, "nobody has registered again"
    town.desk.hang_up()
    alice.await_ended()
    converse(town.desk, bob)
    converse(alice, bob)


def test_a_phone_on_tcp_is_back_after_its_border_has_died(town: Town) -> None:
    """Its connection is gone with the border; it connects again at its next refresh."""
    alice = town.at_home("a", "alice", transport="tcp")
    before = town.flow("alice")
    town.restart_border()
    town.await_another_flow("alice", before)
    converse(town.desk, alice)


def test_a_wrong_password_is_refused_by_the_registrar(town: Town) -> None:
    """401 and 403 pass from end to end, and nothing is bound."""
    alice = town.phone("a", "alice", password="guessed")
    alice.await_refused(403)
    assert town.bindings("alice") == [] and town.registrar.contacts("alice") == []


def test_a_phone_that_has_not_registered_cannot_call(town: Town) -> None:
    begin = time.time()
    alice = town.phone("a", "alice", password="guessed")
    alice.await_refused(403)
    alice.command("dial", f"sip:{DESK}@{DOMAIN}")
    alice.await_(lambda: "session closed: 403" in alice.process.text.lower(), "a refusal")
    assert not [
        packet
        for packet in packets_of(town.village, PRIVATE)
        if packet.at >= begin and packet.payload.startswith(b"INVITE ")
    ]


def test_a_phone_that_vanishes_is_forgotten(town: Town) -> None:
    """Without taking its contact back: the registration runs out."""
    alice = town.at_home("a", "alice")
    alice.pull_the_plug()
    town.await_bindings("alice", 0, 3 * EXPIRES_S)


def test_two_days_in_half_a_minute(town: Town) -> None:
    """A phone that refreshes hundreds of times has one binding, the registrar hears little of it, nothing grows."""
    home = town.village.homes["b"]
    begin = time.time()

    def refresh(times: int) -> None:
        words = sipp.Words(
            agent="dave-the-phone", caller="dave", status=401, extra=DOMAIN, hold_ms=60, ring_ms=times
        )
        sipp.caller(
            town.village.namespaces, home.room(2), "uac_register", PROXY, local=HOUSE[2], port=5070, words=words,
            options=("-au", "dave", "-ap", PASSWORDS["dave"]), name=f"refresh-{times}",
        ).done()  # fmt: skip

    refresh(50)
    held, memory = town.held(), anonymous_kib(town.border.pids())
    refresh(250)
    assert town.registers(PUBLIC, begin) >= 300
    assert town.registers(PRIVATE, begin) <= 6
    assert len(town.bindings("dave")) == len(town.registrar.contacts("dave")) == 1
    assert town.held() == held
    # Measured: 44 KiB after the first 250, nothing after 1,000 more.
    assert anonymous_kib(town.border.pids()) - memory < 256
    town.await_bindings("dave", 0, 3 * EXPIRES_S)


# -- our own registrar --------------------------------------------------------------------------------------------


@pytest.fixture
def local_town(machine_for_phones: None, tmp_path: Path) -> Iterator[Town]:
    """The same with `registrar: local`: alice by password, bob by HA1."""
    users = (
        f"alice: {{password: {PASSWORDS['alice']}}}, bob: {{ha1: {{MD5: {ha1('bob', PASSWORDS['bob'])}}}}}"
    )
    town = Town(tmp_path, "local", f", users: {{{users}}}").open()
    try:
        yield town
        town.evening()
        assert_no_traceback(town.border)
        assert town.border.leftovers(refused=3) == {}
    finally:
        town.close()


def test_our_own_registrar(local_town: Town) -> None:
    """Digest, calls between homes, two phones of one user, a restart that loses nothing, a wrong password."""
    alice, bob = local_town.at_home("a", "alice"), local_town.at_home("b", "bob")
    converse(alice, bob)
    converse(bob, alice)
    second = local_town.at_home("b", "alice", 1, answers=False)
    local_town.await_bindings("alice", 2)
    assert_one_has_the_call(bob, alice, second)
    second.switch_off()
    local_town.await_bindings("alice", 1)
    local_town.restart_border()
    for user in ("alice", "bob"):
        local_town.await_bindings(user, 1)
    converse(bob, alice)
    stranger = local_town.phone("a", "alice", 2, password="guessed")
    stranger.await_refused(401)
