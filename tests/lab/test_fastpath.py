"""The kernel path in the real program: a call's audio goes by it, every other packet goes where it must, and without it
the program says why."""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from media.fastpath.build import OBJECT, build
from tests.harness import fastpath
from tests.harness.rtp import receiver_report, rtp_packet
from tests.lab.border import COMMAND, ROOT, configuration
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES
from tests.lab.talk import (
    MEDIA,
    Talk,
    Voice,
    assert_no_traceback,
    hang_up_all,
    inside,
    media_of,
    place,
    sdp,
    udp,
)

pytestmark = pytest.mark.lab

A, B = PUBLIC, PRIVATE
ON = 'media: {fastpath: "on"}\n'


@pytest.fixture(scope="module", autouse=True)
def program(machine: None) -> None:
    """The kernel program is where the real one looks for it."""
    fastpath.loadable()
    assert build(OBJECT) is None


@pytest.fixture
def voices(lab: Lab) -> Iterator[dict[str, Voice]]:
    """The media of both phones, silent so far."""
    both = {A: Voice(lab, A), B: Voice(lab, B)}
    yield both
    for voice in both.values():
        voice.close()


def call_with_events(lab: Lab, origin: str = A) -> Talk:
    """A call with PCMU and telephone-event on both sides."""
    offer = sdp(lab.host(A), MEDIA[A], formats="0 101", rtpmap=("0 PCMU/8000", "101 telephone-event/8000"))
    answer = sdp(lab.host(B), MEDIA[B], formats="0 101", rtpmap=("0 PCMU/8000", "101 telephone-event/8000"))
    return place(lab, origin, offer=offer, answer=answer)


def descend(lab: Lab, call: Talk, voices: dict[str, Voice]) -> None:
    """Both speak until the kernel forwards what they say."""
    for side, voice in voices.items():
        voice.talk(call.ours[side])
    deadline = time.monotonic() + 20
    while not all(figures(lab, call, side)["in_kernel"] for side in "ab"):
        assert time.monotonic() < deadline, lab.border.explain(call.id)
        time.sleep(0.1)


def figures(lab: Lab, call: Talk, side: str) -> dict[str, Any]:
    """The counters of what comes from a side, of this moment."""
    (line,) = media_of(lab.border, call.id)
    return cast("dict[str, Any]", line[side])


def test_the_audio_of_a_call_goes_by_the_kernel(lab: Lab, voices: dict[str, Voice]) -> None:
    lab.start(configuration(lab.namespaces, more=ON))
    assert "kernel=" in lab.border.process.text and "tcx on to-public, to-private" in lab.border.process.text
    call = place(lab, A)
    descend(lab, call, voices)
    time.sleep(1.0)
    before = time.monotonic()
    time.sleep(1.0)
    assert voices[A].hears(B, before) > 0.9 and voices[B].hears(A, before) > 0.9
    stats = lab.border.ask("stats")
    assert (stats["media.streams"], stats["media.in_kernel"]) == (1, 1)
    assert stats["media.kernel"] == "tcx on to-public, to-private"
    text = " ".join(lab.border.explain(call.id).split())
    assert "the kernel forwards it [media-in-kernel]" in text
    assert text.count("of them by the kernel)") == 2
    assert "Healthy: both directions carry audio." in text
    for side in "ab":
        counted = figures(lab, call, side)
        assert counted["in_kernel"] > 0.8 * counted["packets"]
    hang_up_all(lab.border)
    call.done()
    lab.finish()
    (record,) = [json.loads(line) for line in lab.border.cdr.read_text().splitlines()]
    (stream,) = record["media"]
    for side in "ab":
        assert stream[side]["packets"] > 100
        assert (stream[side]["lost"], stream[side]["forwarded"]) == (0, stream[side]["packets"])
        assert 0.5 * stream[side]["forwarded"] < stream[side]["in_kernel"] < stream[side]["forwarded"]
        assert stream[side]["mos"] > 4.0 and stream[side]["jitter_ms"] < 20
    assert_no_traceback(lab.border)


def test_an_address_that_goes_and_comes_again(lab: Lab, voices: dict[str, Voice]) -> None:
    """What runs where is told at every moment, and a call that lasts is heard again."""
    lab.start(configuration(lab.namespaces, more=ON))
    call = place(lab, A)
    descend(lab, call, voices)
    private = SIDES[PRIVATE]
    address = f"{private.border}/{private.prefix.partition('/')[2]}", "dev", "to-private"

    def until(told: tuple[str, int]) -> None:
        deadline = time.monotonic() + 20
        while True:
            stats = lab.border.ask("stats")
            if (stats["media.kernel"], stats["media.in_kernel"]) == told:
                return
            assert time.monotonic() < deadline, (stats["media.kernel"], stats["media.in_kernel"])
            time.sleep(0.1)

    lab.namespaces.run(SBC, "ip", "address", "del", *address)
    # The interface has an IPv6 address of media as well.
    until((f"tcx on to-public, to-private; no interface has the address {private.border}", 0))
    assert f"no interface has the address {private.border}" in " ".join(lab.border.explain(call.id).split())
    lab.namespaces.run(SBC, "ip", "address", "add", *address)
    until(("tcx on to-public, to-private", 1))
    since = time.monotonic()
    time.sleep(1.0)
    assert voices[A].hears(B, since) > 0.9 and voices[B].hears(A, since) > 0.9
    hang_up_all(lab.border)
    call.done()
    lab.finish()
    assert_no_traceback(lab.border)


@dataclass(frozen=True, slots=True)
class Kind:
    """A packet, and the counter of its side that tells where it went: "in_kernel", or one of the relay process."""

    data: bytes
    counter: str
    arrives: bool = False
    options: bytes = b""
    from_port: int = 0


SEQ = 40000
SSRC = 0x5EED
STUN = struct.pack("!HHI", 1, 0, 0x2112A442) + bytes(12)


def kinds() -> dict[str, Kind]:
    """One of each, in the order in which they are sent; RTP counts on in sequence."""
    number = iter(range(SEQ, SEQ + 1000))

    def rtp(payload_type: int = 0, size: int = 160, first: int = 0x80) -> bytes:
        seq = next(number)
        packet = rtp_packet(seq, (seq - SEQ) * 160, SSRC, bytes(size), payload_type)
        return bytes([first]) + packet[1:]

    return {
        "rtp": Kind(rtp(), "in_kernel", True),
        "telephone-event": Kind(rtp(101, 4), "in_kernel", True),
        "rtp with marker": Kind(rtp(0)[:1] + b"\x80" + rtp(0)[2:], "in_kernel", True),
        "comfort noise, in a frame that is padded": Kind(rtp(0, 1), "in_kernel", True),
        "stun": Kind(STUN, "other_protocols"),
        "dtls": Kind(b"\x16\xfe\xfd" + bytes(40), "other_protocols"),
        "zrtp": Kind(b"\x10\x00\x00\x01ZRTP" + bytes(40), "malformed"),
        "rtcp on the port of rtp": Kind(receiver_report(SSRC), "malformed"),
        "rtp version 1": Kind(rtp(first=0x40), "malformed"),
        "too short": Kind(b"\x80\x00\x00", "malformed"),
        "another port": Kind(rtp(), "strangers", from_port=1),
        "payload type 96": Kind(rtp(96), "forwarded", True),
        "fragments": Kind(rtp(0, 2500), "forwarded", True),
        "ip options": Kind(rtp(), "forwarded", True, options=b"\x01\x01\x01\x00"),
    }


def test_every_kind_of_packet_goes_where_it_must(lab: Lab, voices: dict[str, Voice]) -> None:
    lab.start(configuration(lab.namespaces, more=ON))
    call = call_with_events(lab)
    descend(lab, call, voices)
    voices[A].talk(None)
    time.sleep(0.3)
    target = call.ours[A]
    talker = voices[A]._sockets[0]
    with contextlib.closing(_other_port(lab)) as other:
        for name, kind in kinds().items():
            # Down again after what came up: an ordinary packet or two.
            _settle_down(lab, call, talker, target)
            before, heard = figures(lab, call, "a"), len(voices[B].heard)
            if kind.options:
                talker.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, kind.options)
            (other if kind.from_port else talker).sendto(kind.data, target)
            talker.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
            time.sleep(0.15)
            after = figures(lab, call, "a")
            changed = {
                counter: after[counter] - before[counter]
                for counter in ("in_kernel", "forwarded", "other_protocols", "malformed", "strangers")
                if after[counter] != before[counter]
            }
            # What the kernel forwards is forwarded as well.
            expected = {kind.counter: 1} | ({"forwarded": 1} if kind.counter == "in_kernel" else {})
            assert changed == expected, name
            arrived = [one.data for one in voices[B].heard[heard:] if one.data == kind.data]
            assert len(arrived) == kind.arrives, name
    hang_up_all(lab.border)
    call.done()
    lab.finish()
    assert_no_traceback(lab.border)


_filler = iter(range(1 << 20))


def _settle_down(lab: Lab, call: Talk, talker: socket.socket, target: tuple[str, int]) -> None:
    """Send ordinary packets, of an SSRC of their own, until the kernel forwards them."""
    deadline = time.monotonic() + 20
    while True:
        before = figures(lab, call, "a")["in_kernel"]
        for _ in range(2):
            index = next(_filler)
            talker.sendto(rtp_packet(index, index * 160, 0xF111), target)
            time.sleep(0.02)
        if figures(lab, call, "a")["in_kernel"] == before + 2:
            return
        assert time.monotonic() < deadline, lab.border.explain(call.id)
        time.sleep(0.2)


def test_digits_of_a_network_come_up_where_policy_wants_it(lab: Lab, voices: dict[str, Voice]) -> None:
    """`networks.public.telephone_event: process`: those of the public party, not those of the private one."""
    yaml = configuration(lab.namespaces, more=ON)
    lab.start(yaml.replace("nat: none", "nat: none\n    telephone_event: process", 1))
    call = call_with_events(lab)
    descend(lab, call, voices)
    # The voices stay silent: a digit that comes up takes its stream along for a moment.
    for side, voice, in_kernel in ((A, voices[A], 0), (B, voices[B], 4)):
        voice.talk(None)
        time.sleep(0.3)
        before = figures(lab, call, "a" if side == A else "b")
        for step in range(4):
            digit = rtp_packet(
                voice._seq + 1 + step, 160, voice._ssrc, bytes([5, 10, 0, 160 * step // 4]), 101
            )
            voice._sockets[0].sendto(digit, call.ours[side])
            time.sleep(0.02)
        time.sleep(0.2)
        after = figures(lab, call, "a" if side == A else "b")
        assert after["forwarded"] - before["forwarded"] == 4
        assert after["in_kernel"] - before["in_kernel"] == in_kernel
        other = voices[B if side == A else A]
        assert sum(one.data[1] & 0x7F == 101 for one in other.heard) == 4
    hang_up_all(lab.border)
    call.done()
    lab.finish()
    assert_no_traceback(lab.border)


def _other_port(lab: Lab) -> socket.socket:
    return inside(lab.namespaces, A, lambda: udp(lab.host(A), MEDIA[A] + 10))


def test_a_killed_program_forwards_nothing(lab: Lab, voices: dict[str, Voice]) -> None:
    lab.start(configuration(lab.namespaces, more=ON))
    call = place(lab, A)
    descend(lab, call, voices)
    lab.border.process.popen.send_signal(signal.SIGKILL)
    lab.border.process.popen.wait()
    time.sleep(0.3)
    heard = len(voices[B].heard)
    time.sleep(0.5)
    assert len(voices[B].heard) == heard
    for party in call.parties:
        party.process.stop(signal.SIGKILL)


def test_a_killed_worker_is_heard_for_a_moment_at_most(lab: Lab, voices: dict[str, Voice]) -> None:
    lab.start(configuration(lab.namespaces, more='media: {fastpath: "on", workers: 1}\n'))
    call = place(lab, A)
    descend(lab, call, voices)
    _, worker = lab.border.pids()
    os.kill(worker, signal.SIGKILL)
    time.sleep(2.0)
    since = time.monotonic()
    time.sleep(1.0)
    assert sum(one.at >= since for one in voices[B].heard) >= 40
    assert voices[B].hears(A, since) > 0.9
    descend(lab, call, voices)
    hang_up_all(lab.border)
    call.done()


def without_capabilities(*arguments: str) -> list[str]:
    """A command line that may do what root may, but for the network and BPF."""
    if shutil.which("setpriv") is None:
        pytest.skip("machine: setpriv is not installed")
    return ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin", *arguments]


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
WHY = "the process may not load the map 'flows': it needs CAP_BPF and CAP_NET_ADMIN"


def test_on_without_the_capability_is_an_error_at_the_start(lab: Lab) -> None:
    file = lab.directory / "sbc.yaml"
    file.write_text(configuration(lab.namespaces, more=ON))
    command = without_capabilities(*COMMAND, "run", str(file))
    process = lab.namespaces.start(SBC, "sbc", command, ENVIRONMENT)
    assert process.wait(30) == 1
    assert f"cannot start: media.fastpath is on, and cannot be: {WHY}; write auto or off" in process.text
    check = lab.namespaces.start(
        SBC, "check", without_capabilities(*COMMAND, "check", str(file)), ENVIRONMENT
    )
    # What depends on this host is a warning: the file may be meant for another one.
    assert check.wait(30) == 0
    assert f"sbc.yaml: warning: media.fastpath: not in the kernel here: {WHY}" in check.text


def test_auto_runs_without_and_says_why(
    lab: Lab, voices: dict[str, Voice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.lab.border.COMMAND", tuple(without_capabilities(*COMMAND)))
    lab.start(configuration(lab.namespaces))
    assert f'kernel="off: {WHY}"' in lab.border.process.text
    assert lab.border.ask("stats")["media.kernel"] == f"off: {WHY}"
    call = place(lab, A)
    for side, voice in voices.items():
        voice.talk(call.ours[side])
    time.sleep(1.0)
    text = " ".join(lab.border.explain(call.id).split())
    assert f"the relay process forwards it [media-in-relay] (stream 1, reason {WHY})" in text
    assert "Healthy: both directions carry audio." in text
    hang_up_all(lab.border)
    call.done()
