"""A PBX that asks who it is at every request, inside of calls too: baresip answers through the border."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, obstacle
from tests.lab.talk import assert_no_traceback, packets_of
from tests.lab.town import Town, converse

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture
def town(machine: None, tmp_path: Path) -> Iterator[Town]:
    """A town with such a PBX."""
    reason = obstacle("nft", "kamailio", "baresip")
    if reason:
        pytest.skip(reason)
    town = Town(tmp_path, asks=True)
    # Kamailio asks before it knows that a request is one that it has already: what we repeat too early it takes for
    # somebody who shows a nonce once more.
    assert "t1_ms: 30," in town.yaml
    town.yaml = town.yaml.replace("t1_ms: 30,", "t1_ms: 240,")
    town.open()
    try:
        yield town
        town.evening()
        assert_no_traceback(town.border)
        assert town.border.leftovers(refused=3) == {}
    finally:
        town.close()


def challenged(town: Town, side: str) -> list[str]:
    """The methods that were answered 407 on a side, in order."""
    found = []
    for packet in packets_of(town.village, side):
        text = packet.payload.decode(errors="replace")
        if text.startswith("SIP/2.0 407 "):
            method = re.search(r"^CSeq: *\d+ (\w+)", text, re.MULTILINE)
            assert method is not None
            found.append(method[1])
    return found


def test_a_call_that_is_challenged_all_the_way(town: Town) -> None:
    """Set up, hold, resume and hang up; then a call of the PBX that the phone hangs up."""
    alice = town.at_home("a", "alice")
    converse(alice, town.desk, hold=True)
    assert {"INVITE", "BYE"} <= set(challenged(town, PRIVATE))
    assert challenged(town, PRIVATE) == challenged(town, PUBLIC), "each of them passes, and no other"
    assert challenged(town, PUBLIC).count("INVITE") >= 3, "the call, the hold and the end of it"
    calls, ended = alice.calls, town.desk.ended
    town.desk.call("alice")
    alice.await_established(calls + 1)
    before = challenged(town, PUBLIC).count("BYE")
    alice.hang_up()
    town.desk.await_ended(ended + 1)
    alice.await_ended(2)
    assert challenged(town, PUBLIC).count("BYE") > before
    byes = [
        packet
        for packet in packets_of(town.village, PRIVATE)
        if packet.payload.startswith(b"BYE ")
        and packet.source[0] == SIDES[PRIVATE].border
        and b"Proxy-Authorization: " in packet.payload
    ]
    assert len(byes) >= 2, "the PBX was shown who hangs up, each time"
