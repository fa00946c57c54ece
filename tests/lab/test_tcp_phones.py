"""Phones on TCP come home again: the border is killed, the router of the home is switched off and on.

A connection ends with the border, and what is left of it after a router that has forgotten it leads nowhere. How soon
a phone is back is its own choice: one that does not know RFC 5626 looks at its connection at its next refresh alone.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.namespaces import obstacle
from tests.lab.registrar import DOMAIN
from tests.lab.talk import assert_no_traceback
from tests.lab.town import KEEPALIVE_S, Town, converse

pytestmark = [pytest.mark.lab, pytest.mark.slow]

STREAM_S = 12
"""`phones.stream_expires_s`, in place of 300."""
LONG_S = 3600
UNANSWERED_S = 32
"""After this a connection that acknowledges nothing is none (`signaling.transport.stream`)."""
OUTBOUND = ";sipnat=outbound"
TRYING_S = 4
"""`timers.trying_timeout_s`."""


@pytest.fixture
def town(machine: None, tmp_path: Path) -> Iterator[Town]:
    """A town whose phones may register for an hour."""
    reason = obstacle("nft", "kamailio", "baresip")
    if reason:
        pytest.skip(reason)
    town = Town(tmp_path, more=f", stream_expires_s: {STREAM_S}", expires_s=LONG_S).open()
    try:
        yield town
        assert_no_traceback(town.border)
    finally:
        town.close()


def lifetime(town: Town, user: str) -> float:
    (row,) = town.bindings(user)
    left = row["expires_s"]
    assert isinstance(left, int)
    return left


def refused_s(town: Town) -> float:
    """How long it takes until who calls alice hears that she is not there."""
    desk = town.desk
    closed, called = desk.process.text.count("session closed"), time.monotonic()
    desk.command("dial", f"sip:alice@{DOMAIN}")
    desk.await_(lambda: desk.process.text.count("session closed") > closed, "a refusal")
    return time.monotonic() - called


def test_after_a_crash_each_is_back_in_its_own_time(town: Town) -> None:
    alice = town.at_home("a", "alice", transport="tcp", expires_s=LONG_S)
    bob = town.at_home("b", "bob", transport="tcp", expires_s=LONG_S, account=OUTBOUND)
    assert lifetime(town, "alice") <= STREAM_S, "it looks at its connection when it refreshes"
    assert lifetime(town, "bob") > LONG_S / 2, "it looks at it all the time"
    flows = {user: town.flow(user) for user in ("alice", "bob")}
    killed = time.monotonic()
    town.restart_border()
    town.await_another_flow("alice", flows["alice"])
    alone = time.monotonic() - killed
    assert alone < STREAM_S + 8
    converse(town.desk, alice)
    town.await_another_flow("bob", flows["bob"])
    # baresip waits 30 to 60 s after a connection has failed; RFC 5626 s.4.5 has the same base time.
    watched = time.monotonic() - killed
    print(f"after kill -9: back by refresh after {alone:.1f} s, by RFC 5626 after {watched:.1f} s")
    converse(town.desk, bob)
    converse(alice, bob)


def test_a_phone_whose_router_has_forgotten_it_is_away(town: Town) -> None:
    """The border finds out by itself, so that callers hear at once that nobody is there, or get the mailbox.

    The phone finds out at its next refresh: 93 s after its router, 60 of them its own pause, when it registers for 12.
    """
    town.restart_border(stream_expires_s=LONG_S)
    alice = town.at_home("a", "alice", transport="tcp", expires_s=LONG_S)
    assert lifetime(town, "alice") > LONG_S / 2
    cut = time.monotonic()
    town.village.homes["a"].reboot()
    while town.bindings("alice")[0]["state"] == "up":
        assert time.monotonic() < cut + UNANSWERED_S + KEEPALIVE_S + 8, town.bindings("alice")
        time.sleep(0.2)
    print(f"after a router's reboot: noticed after {time.monotonic() - cut:.1f} s")
    assert town.bindings("alice")[0]["state"] == "its connection has closed"
    assert refused_s(town) < 3, "it is known that nobody is there"
    alice.pull_the_plug()


def test_a_phone_that_pings_is_found_away_by_the_first_call(town: Town) -> None:
    """RFC 5626: such a phone shows every two minutes at most that it is there, and nothing is sent to it between.

    A caller waits no longer for it than for a server that is silent, and by what it was sent the connection is known
    to be none: the next one hears it at once.
    """
    alice = town.at_home("a", "alice", transport="tcp", expires_s=LONG_S, account=OUTBOUND)
    town.village.homes["a"].reboot()
    assert town.bindings("alice")[0]["state"] == "up"
    for seconds in (TRYING_S + 3, 3):
        called = time.monotonic()
        assert refused_s(town) < seconds
        while town.bindings("alice")[0]["state"] == "up":
            assert time.monotonic() < called + UNANSWERED_S + 8, town.bindings("alice")
            time.sleep(0.2)
    assert town.bindings("alice")[0]["state"] == "its connection has closed"
    alice.pull_the_plug()
