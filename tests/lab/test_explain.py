"""`sbc explain` on real calls with one thing wrong: it names the cause, and of a good call it says that it is good.

All calls go through one SBC; each has its own SIPp user agents, and voices that misbehave as the case wants it.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import sipp
from tests.lab.border import COMMAND, ROOT, configuration
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC
from tests.lab.talk import (
    MEDIA,
    Talk,
    Voice,
    assert_no_traceback,
    filled,
    hang_up_all,
    place,
    rows,
    sdp,
    verdict_of,
)

pytestmark = pytest.mark.lab

A, B = PUBLIC, PRIVATE
AUDIO_S = 0.8


@pytest.fixture(scope="module")
def shared(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for all tests of this module, with an SBC that has to be free of faults at the end."""
    with Lab(tmp_path_factory.mktemp("explain")) as lab:
        lab.start(configuration(lab.namespaces, more="media: {codecs: [PCMU, PCMA]}\n"))
        yield lab
        assert_no_traceback(lab.border)
        assert lab.border.leftovers() == {}
        assert lab.border.stop() == 0


@pytest.fixture
def voices(shared: Lab) -> Iterator[dict[str, Voice]]:
    """The media of both phones, silent so far."""
    both = {A: Voice(shared, A), B: Voice(shared, B)}
    yield both
    for voice in both.values():
        voice.close()
    hang_up_all(shared.border)  # a test that failed must not be the reason for the next one to fail


def talk(call: Talk, voices: dict[str, Voice], *sides: str, rtcp: bool = True) -> None:
    """Let these sides speak for a moment."""
    for side in sides:
        voices[side].talk(call.ours[side], rtcp)
    time.sleep(AUDIO_S)


def finish(lab: Lab, call: Talk) -> str:
    """Hang up; what explain says of the call after its end."""
    lab.border.ask("hangup", call=call.id)
    call.done()
    return verdict_of(lab.border, call.id)


def test_healthy(shared: Lab, voices: dict[str, Voice]) -> None:
    call = place(shared, A)
    talk(call, voices, A, B)
    assert "Healthy: both directions carry audio" in verdict_of(shared.border, call.id)
    assert "Healthy: both directions carry audio" in finish(shared, call)
    assert voices[A].hears(B) > 0.9 and voices[B].hears(A) > 0.9


def test_muted_caller(shared: Lab, voices: dict[str, Voice]) -> None:
    call = place(shared, A)
    talk(call, voices, B)
    said = verdict_of(shared.border, call.id)
    assert "B sends, we forward" in said
    assert f"Nothing has come from A ({shared.host(A)}:{MEDIA[A]})" in said
    finish(shared, call)


def test_caller_that_sends_rtcp_only(shared: Lab, voices: dict[str, Voice]) -> None:
    call = place(shared, A)
    target = call.ours[A]
    voices[A].rtcp = (target[0], target[1] + 1)
    talk(call, voices, B)
    said = verdict_of(shared.border, call.id)
    assert "A sends RTCP (" in said and "but no RTP" in said
    finish(shared, call)


def test_private_address_without_help(shared: Lab, voices: dict[str, Voice]) -> None:
    """A is behind NAT, nobody told the border: its audio comes from elsewhere and is dropped."""
    call = place(shared, A, offer=sdp("192.168.7.20", 4000))
    talk(call, voices, B)
    said = verdict_of(shared.border, call.id)
    assert "A, whose address 192.168.7.20 is private" in said and "set nat: far-end on network public" in said
    talk(call, voices, A)
    said = finish(shared, call)
    assert "came from an address that is not the one it signalled (192.168.7.20:4000)" in said
    assert "set nat: far-end on network public" in said


def test_wrong_address_in_sdp(shared: Lab, voices: dict[str, Voice]) -> None:
    call = place(shared, A, offer=sdp(shared.host(A, number=1), MEDIA[A]))
    talk(call, voices, A, B)
    said = verdict_of(shared.border, call.id)
    assert f"is not the one it signalled ({shared.host(A, number=1)}:{MEDIA[A]})" in said
    assert "a SIP ALG rewrote the address" in said
    finish(shared, call)


@pytest.fixture
def closed(shared: Lab) -> Iterator[Callable[[str], None]]:
    """Drops all media that a side sends, as a firewall on its way to us would; SIP passes."""
    rule = ("ipproto", "udp", "dport", "20000-65000", "blackhole")
    sides: list[str] = []

    def close(side: str) -> None:
        shared.namespaces.run(side, "ip", "rule", "add", *rule)
        sides.append(side)

    yield close
    for side in sides:
        shared.namespaces.run(side, "ip", "rule", "del", *rule)


def test_firewall_that_closes_one_way(
    shared: Lab, voices: dict[str, Voice], closed: Callable[[str], None]
) -> None:
    closed(B)
    call = place(shared, A)
    talk(call, voices, A, B)
    said = verdict_of(shared.border, call.id)
    assert "A sends, we forward" in said
    assert "Nothing has come from B" in said
    assert voices[A].hears(B) == 0.0 and voices[B].hears(A) > 0.9
    finish(shared, call)


def test_firewall_that_closes_in_the_middle_of_a_call(
    shared: Lab, voices: dict[str, Voice], closed: Callable[[str], None]
) -> None:
    call = place(shared, A)
    talk(call, voices, A, B)
    closed(B)
    time.sleep(3.3)
    said = verdict_of(shared.border, call.id)
    assert "Healthy" not in said
    assert "A sends, we forward" in said and "B has stopped sending" in said
    finish(shared, call)


def test_codec_that_was_not_negotiated(shared: Lab, voices: dict[str, Voice]) -> None:
    call = place(shared, A)
    voices[B].payload_type = 18
    talk(call, voices, A, B)
    said = verdict_of(shared.border, call.id)
    assert "B sends payload type 18 (G729), which was not negotiated (PCMU" in said
    finish(shared, call)


def test_codec_that_policy_does_not_allow(shared: Lab) -> None:
    body = sdp(shared.host(A), MEDIA[A], formats="18", rtpmap=("18 G729/8000",))
    sipp.caller(
        shared.namespaces, A, filled(shared.directory, "uac_refused_offer", {"offer": body}),
        shared.border_at(A), words=sipp.Words(agent="g729", status=488), port=5062, name="g729",
    ).done()  # fmt: skip
    call = str(rows(shared.border, "recent")[0]["id"])
    assert "Rejected with 488: no codec that media.codecs allows was offered" in verdict_of(
        shared.border, call
    )
    assert "G729" in shared.border.explain(call)


def test_media_that_stays_at_the_old_address(shared: Lab, voices: dict[str, Voice]) -> None:
    """A says by re-INVITE that it moves, and goes on from where it was."""
    moved = sdp(shared.host(A, number=1), MEDIA[A] + 100, version=2)
    call = place(shared, A, second_offer=moved, after_ms=700)
    talk(call, voices, A, B)
    time.sleep(0.8)
    said = verdict_of(shared.border, call.id)
    assert "A was heard before, but " in said
    assert f"is not the one it signalled last ({shared.host(A, number=1)}:{MEDIA[A] + 100})" in said
    finish(shared, call)


def test_media_to_the_port_of_the_call_before(shared: Lab, voices: dict[str, Voice]) -> None:
    """B goes on sending to our port of an earlier call."""
    earlier = place(shared, A)
    finish(shared, earlier)
    call = place(shared, A)
    if call.ours[B] == earlier.ours[B]:
        pytest.fail("the second call got the port of the first")
    voices[B].talk(earlier.ours[B])
    talk(call, voices, A)
    said = verdict_of(shared.border, call.id)
    assert "A sends, we forward" in said and "Nothing has come from B" in said
    finish(shared, call)


def test_hold(shared: Lab, voices: dict[str, Voice]) -> None:
    held = sdp(shared.host(A), MEDIA[A], version=2, way="inactive")
    agreed = sdp(shared.host(B), MEDIA[B], version=2, way="inactive")
    call = place(shared, A, second_offer=held, second_answer=agreed)
    time.sleep(1.2)
    assert "On hold: neither side is to send audio" in verdict_of(shared.border, call.id)
    finish(shared, call)


def test_the_command_prints_the_same(shared: Lab, voices: dict[str, Voice], tmp_path: Path) -> None:
    """`sbc explain` as an operator types it, by Call-ID and after the call."""
    call = place(shared, B)
    talk(call, voices, A, B)
    finish(shared, call)
    done = subprocess.run(
        [*COMMAND, "explain", call.id, "--socket", shared.border.socket, "--ascii"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    for part in ("Decisions", "Ladder", "Hidden by the border", "Media", "Verdict", "Healthy", "INVITE"):
        assert part in done.stdout
