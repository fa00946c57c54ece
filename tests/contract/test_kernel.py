"""The kernel path below the relay: what goes down and comes up, and that nobody hears or counts a difference."""

import asyncio
import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from media.fastpath import bpf, table
from media.fastpath.loader import FastPath, Unavailable, choose, survey
from media.relay import Counters, End, Layer, Learn, Silence, WorkerRestarted
from media.rtp import HEADER, Reception
from media.workers import WorkerRelay
from tests.contract import place
from tests.contract.relays import MAKES, Bench, bench, end_for, free_pair, rtcp_of, rtp_of
from tests.harness import fastpath
from tests.harness.netns import ip
from tests.harness.rtp import RtpPeer, receiver_report, rtp_packet

kernel = pytest.mark.parametrize("make", ["kernel"])
both = pytest.mark.parametrize("make", MAKES)

EVENTS = (101, "telephone-event", 8000)


async def talk(alice: RtpPeer, a: End, bob: RtpPeer, b: End, packets: int, interval_s: float = 0.002) -> None:
    """Both speak at once."""
    await asyncio.gather(
        alice.stream(rtp_of(a), packets, interval_s), bob.stream(rtp_of(b), packets, interval_s)
    )


async def descend(under_test: Bench, alice: RtpPeer, a: End, bob: RtpPeer, b: End, stream: int) -> None:
    """Speak until the kernel forwards both directions."""
    for _ in range(600):
        await talk(alice, a, bob, b, 2, 0.005)
        (row,) = await under_test.relay.query([stream])
        if row.a.in_kernel and row.b.in_kernel:
            return
    raise AssertionError("the stream does not go down")


def numbers(peer: RtpPeer) -> list[int]:
    """The sequence numbers that a peer received."""
    return [int.from_bytes(packet[2:4], "big") for packet, _ in peer.received]


@kernel
@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.3"), ("::1", "::2")])
def test_a_stream_goes_down_once_both_sources_are_known(make: str, hosts: tuple[str, str]) -> None:
    """The peers take nothing with a wrong checksum; of one host, all addresses together would sum up to the same."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(hosts[0]), under_test.peer(hosts[1])
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await alice.stream(rtp_of(a), 20)
            assert (await under_test.counters(stream, "a")).in_kernel == 0
            await talk(alice, a, bob, b, 100)
            from_a, from_b = await under_test.counters(stream, "a"), await under_test.counters(stream, "b")
            assert (from_a.packets, from_a.forwarded, from_b.packets, from_b.forwarded) == (
                120,
                120,
                100,
                100,
            )
            assert from_a.in_kernel >= 90 and from_b.in_kernel >= 90
            assert (from_a.lost, from_a.reordered, from_a.bytes) == (0, 0, 120 * 172)
            assert from_a.last_s is not None and from_a.last_s < 5 and from_a.mos is not None
            assert numbers(bob) == list(range(1000, 1120)) and numbers(alice) == list(range(1000, 1100))
            assert {source for _, source in bob.received} == {rtp_of(b)}
            assert [(event.stream, event.reason) for event in under_test.happened(Layer)] == [(stream, "")]

    asyncio.run(call())


@kernel
def test_two_address_families_stay_in_user_space_and_say_so(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.1"), under_test.peer("::1")
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 20)
            assert (await under_test.counters(stream, "a")).in_kernel == 0
            assert len(bob.received) == 20
            assert [event.reason for event in under_test.happened(Layer)] == [
                "its sides are of two address families"
            ]

    asyncio.run(call())


@kernel
def test_a_party_on_this_very_machine_stays_in_user_space(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), RtpPeer(place.OURS)
            under_test.peers.append(bob)
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 20)
            assert (await under_test.counters(stream, "a")).in_kernel == 0
            assert len(bob.received) == len(alice.received) == 20
            (told,) = under_test.happened(Layer)
            assert told.reason == f"{place.OURS} is this machine itself"

    asyncio.run(call())


@kernel
def test_what_peers_name_does_no_harm_to_other_streams(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            odd = [
                ((0, "PCMU", 1),),
                ((0, "PCMU", 99), (8, "PCMA", 2**31)),
                ((0, "PCMU", 2**40),),
                ((0, "PCMU", 0), (-1, "X", 8000), (4711, "telephone-event", 8000)),
                (),
            ]
            for codecs in odd:
                a, b = replace(end_for(alice), codecs=codecs), replace(end_for(bob), codecs=codecs)
                await under_test.open(a, b)
                await talk(alice, a, bob, b, 10)
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 10 * len(odd)
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            assert "the clock of its codec is too slow" in {
                event.reason for event in under_test.happened(Layer)
            }

    asyncio.run(call())


@kernel
def test_without_a_path_the_streams_are_told_why(make: str) -> None:
    async def call() -> None:
        async with bench("reference") as under_test:
            under_test.relay._why_not = "rtp.bpf.o is not there"
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            a, b = end_for(alice), end_for(bob)
            await under_test.open(a, b)
            await talk(alice, a, bob, b, 5)
            await under_test.settle()
            assert [event.reason for event in under_test.happened(Layer)] == ["rtp.bpf.o is not there"]

    asyncio.run(call())


@both
def test_changes_in_mid_stream_lose_double_and_disorder_nothing(make: str) -> None:
    """Re-INVITEs while both speak: a codec is added, ports stay. Up and down it goes, and nobody hears it."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            speaking = asyncio.create_task(talk(alice, a, bob, b, 2500))
            for number in range(40):
                await asyncio.sleep(0.1)
                codecs = ((0, "PCMU", 8000), (8, "PCMA", 8000), EVENTS)[: 1 + number % 3]
                under_test.relay.change(stream, "a", replace(a, codecs=codecs))
                under_test.relay.change(stream, "b", b)
            await speaking
            from_a, from_b = await under_test.counters(stream, "a"), await under_test.counters(stream, "b")
            assert numbers(bob) == numbers(alice) == list(range(1000, 3500))
            for each in (from_a, from_b):
                assert (each.packets, each.forwarded, each.lost, each.reordered) == (2500, 2500, 0, 0)
                assert each.in_kernel > (500 if make == "kernel" else -1)

    asyncio.run(call())


@both
def test_hold_and_back(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 50)
            under_test.relay.change(stream, "a", replace(a, receive=False))
            await under_test.settle()
            await talk(alice, a, bob, b, 50)
            held = await under_test.counters(stream, "a")
            assert (held.packets, held.forwarded, held.muted) == (100, 50, 50)
            assert len(bob.received) == 50 and len(alice.received) == 100
            under_test.relay.change(stream, "a", a)
            await under_test.settle()
            await talk(alice, a, bob, b, 50)
            after = await under_test.counters(stream, "a")
            assert (after.packets, after.forwarded, after.muted, after.lost) == (150, 100, 50, 0)
            assert numbers(bob) == [*range(1000, 1050), *range(1100, 1150)]
            assert numbers(alice) == list(range(1000, 1150))

    asyncio.run(call())


@both
def test_what_the_kernel_does_not_forward_arrives_in_its_place(make: str) -> None:
    """Digits of a payload type that was not negotiated, packets that need fragments, RTCP on the same port."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice, rtcp_mux=True), end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 50)
            sent = list(range(1000, 1050))
            for round_number in range(3):
                for payload_type in (0, 101, 101, 0, 0):
                    alice.payload_type = payload_type
                    sent.append(alice.seq)
                    await alice.stream(rtp_of(a), 1, 0.02)
                sent.append(alice.seq)
                alice.send(rtp_of(a), bytes(2500))
                alice.rtp.sendto(receiver_report(0x1234), rtp_of(a))
                sent += range(alice.seq, alice.seq + 20)
                await alice.stream(rtp_of(a), 20)
                if round_number == 1:
                    # Time to go down again.
                    await asyncio.sleep(1.1)
            from_a = await under_test.counters(stream, "a")
            assert numbers(bob) == sent
            assert (from_a.packets, from_a.forwarded, from_a.lost, from_a.rtcp_packets) == (
                len(sent),
                len(sent),
                0,
                3,
            )
            assert from_a.payload_types == (0, 101)
            assert len(bob.received_rtcp) == 3

    asyncio.run(call())


# Counters

PACKETS = 100_000


def journey(number: int, seed: int) -> list[bytes]:
    """Packets of a bad network: 1 % lost, 0.5 % late by a few places, 0.1 % twice; SSRC and sequence change."""
    chance = random.Random(seed)
    packets: list[tuple[float, bytes]] = []
    seq, ssrc = 65000, 0xA
    for index in range(number):
        if index % 30011 == 30010:
            ssrc += 1
            seq = chance.randrange(65536)
        elif index % 25013 == 25012:
            seq = seq + 20000 & 0xFFFF
        place_in_line = float(index)
        if chance.random() < 0.005:
            place_in_line += chance.randint(2, 8) + 0.5
        copies = 2 if chance.random() < 0.001 else 1
        if chance.random() >= 0.01:
            packets += [(place_in_line, rtp_packet(seq, index * 160, ssrc, bytes(20)))] * copies
        seq = seq + 1 & 0xFFFF
    return [packet for _, packet in sorted(packets, key=lambda item: item[0])]


@both
@pytest.mark.slow
def test_counters_agree_over_a_hundred_thousand_packets(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            bob.send(rtp_of(b))
            await under_test.settle()
            expected = Reception()
            packets = journey(PACKETS, seed=7)
            begin = time.perf_counter()
            for index, packet in enumerate(packets):
                first, seq, timestamp, ssrc = HEADER.unpack_from(packet)
                expected.receive(len(packet), first, seq, timestamp, ssrc, 0.0)
                alice.rtp.sendto(packet, rtp_of(a))
                if index % 20 == 19:
                    # 10,000 a second, which the relay alone can do too on a machine with other work.
                    await asyncio.sleep(max(0.0, begin + (index + 1) / 10_000 - time.perf_counter()))
            found = await under_test.counters(stream, "a")
            if make == "kernel":
                assert found.in_kernel > 0.99 * len(packets)
            wanted = Counters(
                packets=expected.packets,
                bytes=expected.bytes,
                lost=expected.lost,
                reordered=expected.reordered,
                resets=expected.resets,
                ssrc_changes=expected.ssrc_changes,
            )
            # What our own queue dropped on a busy machine is lost for the relay alone.
            slack = PACKETS // 1000 + found.dropped
            for name in ("packets", "lost", "reordered", "resets", "ssrc_changes"):
                assert abs(getattr(found, name) - getattr(wanted, name)) <= slack, name
            assert (found.resets, found.ssrc_changes) == (wanted.resets, wanted.ssrc_changes)
            assert abs(found.bytes - wanted.bytes) <= slack * 32
            assert found.forwarded == found.packets

    asyncio.run(call())


@both
def test_jitter_is_told_alike(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            bob.send(rtp_of(b))
            # 20 ms of audio every 10 and 30 ms in turn: every step is 10 ms off.
            for index in range(100):
                alice.send(rtp_of(a))
                await asyncio.sleep(0.01 if index % 2 else 0.03)
            found = await under_test.counters(stream, "a")
            assert 8.0 < found.jitter_ms < 30.0
            assert found.max_jitter_ms >= found.jitter_ms

    asyncio.run(call())


# Silence, sources


@kernel
def test_silence_is_noticed_below(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b, silence_s=1.0)
            await descend(under_test, alice, a, bob, b, stream)
            # More than two seconds of which the relay itself sees nothing.
            await talk(alice, a, bob, b, 120, 0.02)
            assert under_test.happened(Silence) == []
            stopped = time.monotonic()
            await under_test.until(lambda: under_test.happened(Silence))
            assert time.monotonic() - stopped < 10.0
            (told,) = under_test.happened(Silence)
            assert told.ever and told.seconds >= 1.0

    asyncio.run(call())


@both
def test_a_rebound_port_is_followed_and_not_before_the_old_one_is_silent(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer()
            moved = under_test.peer("127.0.0.2", alice.ssrc)
            a = replace(end_for(alice, Learn.PORT), remote=None, expect=alice.address[0])
            b = end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 100)
            moved.seq, moved.timestamp = alice.seq, alice.timestamp
            # Who goes on from another port while the first still speaks is a thief.
            await asyncio.gather(alice.stream(rtp_of(a), 200, 0.01), moved.stream(rtp_of(a), 200, 0.01))
            assert (await under_test.counters(stream, "a")).source == alice.address
            moved.seq, moved.timestamp = alice.seq, alice.timestamp
            await asyncio.sleep(1.1)
            alice.received.clear()
            await moved.stream(rtp_of(a), 10, 0.01)
            assert (await under_test.counters(stream, "a")).source == moved.address
            await bob.stream(rtp_of(b), 20)
            await under_test.settle()
            assert len(moved.received) == 20 and alice.received == []

    asyncio.run(call())


@both
def test_strangers_change_nothing_for_a_stream_that_runs(make: str) -> None:
    """Spoofed in all but one part of the address: other ports and other hosts, with the right SSRC and sequence."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            strangers = under_test.strangers(["127.0.0.2", "127.0.0.66"])
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await talk(alice, a, bob, b, 50)

            async def inject() -> None:
                for step in range(300):
                    for stranger in strangers:
                        forged = rtp_packet(alice.seq + step % 3, alice.timestamp, alice.ssrc, b"\xbd" * 160)
                        stranger.sendto(forged, rtp_of(a))
                        stranger.sendto(forged, rtp_of(b))
                        stranger.sendto(receiver_report(alice.ssrc), rtcp_of(a))
                    await asyncio.sleep(0.002)

            await asyncio.gather(talk(alice, a, bob, b, 300), inject())
            from_a = await under_test.counters(stream, "a")
            assert numbers(bob) == numbers(alice) == list(range(1000, 1350))
            assert (from_a.packets, from_a.lost, from_a.reordered) == (350, 0, 0)
            assert from_a.strangers == 2 * 300 * 2
            assert from_a.in_kernel > (300 if make == "kernel" else -1)
            for stranger in strangers:
                stranger.close()

    asyncio.run(call())


# Processes


@kernel
def test_a_dead_worker_takes_its_flows_along(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            path = under_test.relay._fastpath
            assert path is not None
            old = {table.worker_of(flow) for _, flow in path.flows.items()}
            assert old == {0}
            pid = under_test.relay.pids[0]
            assert pid is not None and under_test.relay.in_kernel == 1
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert under_test.relay.in_kernel == 0
            assert list(path.flows.items()) == []
            await under_test.settle()
            alice.received.clear()
            bob.received.clear()
            await descend(under_test, alice, a, bob, b, stream)
            assert {table.worker_of(flow) for _, flow in path.flows.items()} == {1}
            assert numbers(alice) == sorted(numbers(alice)) and len(numbers(alice)) == len(
                set(numbers(alice))
            )

    asyncio.run(call())


@kernel
@pytest.mark.slow
def test_the_flows_of_a_stuck_worker_run_out(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                bob.received.clear()
                await alice.stream(rtp_of(a), 10)
                assert len(bob.received) == 10
                await asyncio.sleep(table.LEASE_S + 0.5)
                await alice.stream(rtp_of(a), 10)
                await asyncio.sleep(0.1)
                assert len(bob.received) == 10
            finally:
                os.kill(pid, signal.SIGCONT)
            # They have waited at the socket, and the stream goes on where it was.
            await under_test.until(lambda: len(bob.received) == 20)
            await descend(under_test, alice, a, bob, b, stream)
            assert numbers(bob) == sorted(numbers(bob))
            assert (await under_test.counters(stream, "a")).lost == 0

    asyncio.run(call())


@kernel
def test_closing_leaves_no_flow(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            path = under_test.relay._fastpath
            assert path is not None and len(list(path.flows.items())) == 2
            under_test.relay.close(stream)
            await under_test.settle()
            await asyncio.sleep(0.1)
            assert list(path.flows.items()) == []

    asyncio.run(call())


def programs() -> str:
    """What is attached to the cable's end in this namespace, as ip(8) and tc(8) tell it."""
    shown = subprocess.run(
        ["tc", "filter", "show", "dev", "cable", "ingress"], capture_output=True, text=True, check=True
    )
    return shown.stdout


def handles() -> list[str]:
    """By what tc(8) tells our filters there apart."""
    return re.findall(r"handle (0x[0-9a-f]+) sbc_rtp", programs())


@kernel
def test_before_tcx_there_is_clsact(make: str) -> None:
    path = FastPath([place.OURS], fastpath.loadable(), tcx=False)
    try:
        assert path.way == "clsact"
        assert "sbc_rtp" in programs() and "direct-action" in programs()
    finally:
        path.close()
    assert "sbc_rtp" not in programs()


@kernel
def test_streams_run_by_clsact_as_well(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FastPath.__init__
    monkeypatch.setattr(FastPath, "__init__", lambda self, hosts, path: real(self, hosts, path, tcx=False))
    test_a_stream_goes_down_once_both_sources_are_known(make, ("127.0.0.2", "127.0.0.3"))
    assert "sbc_rtp" not in programs()


@kernel
def test_the_filter_of_a_process_that_was_killed_is_taken_away(make: str) -> None:
    script = (
        "import sys, time; from pathlib import Path; from media.fastpath.loader import FastPath\n"
        "path = FastPath([sys.argv[2]], Path(sys.argv[1]), tcx=False); print(path.way, flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", script, str(fastpath.loadable()), place.OURS]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "clsact"
        (theirs,) = handles()
        # A second border leaves the first alone as long as it lives.
        second = FastPath([place.OURS], fastpath.loadable(), tcx=False)
        assert len(handles()) == 2 and theirs in handles()
        second.close()
        assert handles() == [theirs]
        process.kill()
    assert handles() == [theirs]
    path = FastPath([place.OURS], fastpath.loadable(), tcx=False)
    assert len(handles()) == 1 and handles() != [theirs]
    path.close()
    assert "sbc_rtp" not in programs()


@kernel
def test_nothing_outlives_a_process_that_is_killed(make: str) -> None:
    """Links count the programs of an interface: as many as there were are there again."""
    script = (
        "import sys, time; from pathlib import Path; from media.fastpath.loader import FastPath\n"
        "path = FastPath([sys.argv[2]], Path(sys.argv[1])); print(path.way, flush=True); time.sleep(60)"
    )
    before = attached()
    with subprocess.Popen(
        [sys.executable, "-c", script, str(fastpath.loadable()), place.OURS],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "tcx"
        assert attached() == before + 1
        process.kill()
    deadline = time.monotonic() + 10
    while attached() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert attached() == before


def attached() -> int:
    """How many programs there are on the ingress of the cable."""
    ((interface,), _) = survey([place.OURS])
    return bpf.attached(interface.ifindex)


@kernel
def test_two_borders_on_one_interface_do_not_meet(make: str) -> None:
    async def call() -> None:
        async with bench(make) as first, bench(make) as second:
            for under_test in (first, second):
                alice, bob = under_test.peer(), under_test.peer()
                a, b = end_for(alice), end_for(bob)
                stream = await under_test.open(a, b)
                await descend(under_test, alice, a, bob, b, stream)

    asyncio.run(call())


@kernel
def test_an_address_of_another_namespace_is_refused(make: str) -> None:
    with pytest.raises(Unavailable, match=r"^no interface has the address 192\.0\.2\.9$"):
        FastPath(["192.0.2.9"], fastpath.loadable())


@kernel
def test_on_is_for_every_address_and_auto_for_those_that_can(make: str) -> None:
    hosts = [place.OURS, "127.0.0.1"]
    before = attached()
    with pytest.raises(Unavailable, match=r"^lo, which has 127\.0\.0\.1, is not Ethernet$"):
        choose("on", hosts, fastpath.loadable())
    assert attached() == before
    for mode, wanted in (("auto", hosts), ("on", hosts[:1])):
        found = choose(mode, wanted, fastpath.loadable())
        assert isinstance(found, FastPath) and found.interfaces == ("cable",)
        assert len(found.without) == len(wanted) - 1
        found.close()
    assert choose("off", hosts) == ""
    assert choose("auto", hosts[1:], fastpath.loadable()) == "lo, which has 127.0.0.1, is not Ethernet"


# The machine around it


@kernel
def test_tcpdump_sees_the_packets_come_and_go(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            rule = f"udp and (dst port {rtp_of(a)[1]} or src port {rtp_of(b)[1]})"
            dump = await asyncio.create_subprocess_exec(
                "tcpdump",
                "-i",
                "cable",
                "-n",
                "-l",
                "-v",
                "-c",
                "40",
                rule,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert dump.stderr is not None
            await dump.stderr.readline()
            before = (await under_test.counters(stream, "a")).in_kernel
            await alice.stream(rtp_of(a), 30)
            output, _ = await asyncio.wait_for(dump.communicate(), 20)
            assert (await under_test.counters(stream, "a")).in_kernel == before + 30
            text = output.decode()
            assert text.count(f"{alice.address[0]}.{alice.address[1]} > {place.OURS}") == 20
            assert text.count(f" > {bob.address[0]}.{bob.address[1]}") == 20
            # Expedited forwarding, and a time to live of its own.
            assert text.count("tos 0xb8, ttl 64, id 0") >= 20

    asyncio.run(call())


@kernel
def test_a_new_route_is_followed(make: str) -> None:
    """An MTU on the route to Bob: what is larger must come up to be cut, within a second or two of the change."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.4")
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            route = ["-n", place.BORDER, "route", "add", f"{bob.address[0]}/32", "dev", "cable", "mtu", "600"]
            await asyncio.to_thread(ip, *route)
            try:
                await asyncio.sleep(1.5)
                await descend(under_test, alice, a, bob, b, stream)
                before = (await under_test.counters(stream, "a")).in_kernel
                big = alice.send(rtp_of(a), bytes(900))
                await under_test.settle()
                assert bob.received[-1][0] == big
                assert (await under_test.counters(stream, "a")).in_kernel == before
            finally:
                await asyncio.to_thread(ip, "-n", place.BORDER, "route", "del", f"{bob.address[0]}/32")

    asyncio.run(call())


def device(kind: str) -> tuple[str, str]:
    """Another device over the cable, in both namespaces, with an address of ours and one of a peer; skips without.

    Of a bridge only the border has one: there the addresses are the bridge's, and the cable is its port.
    """
    over = {
        "macvlan": ["link", "add", "link", "cable", "name", "over", "type", "macvlan", "mode", "bridge"],
        "vlan": ["link", "add", "link", "cable", "name", "over", "type", "vlan", "id", "100"],
    }
    try:
        for name, host in ((place.BORDER, "10.98.0.1"), (place.PEERS, "10.98.0.2")):
            ip("-n", name, *over[kind])
            ip("-n", name, "address", "add", f"{host}/24", "dev", "over")
            ip("-n", name, "link", "set", "over", "up")
    except subprocess.CalledProcessError as error:
        for name in (place.BORDER, place.PEERS):
            subprocess.run(["ip", "-n", name, "link", "del", "over"], capture_output=True, check=False)
        pytest.skip(f"machine: no {kind} devices: {error.stderr.strip()}")
    return "10.98.0.1", "10.98.0.2"


@kernel
@pytest.mark.parametrize("kind", ["macvlan", "vlan"])
def test_from_one_kind_of_device_to_another(make: str, kind: str) -> None:
    """Alice behind the cable, Bob behind a device over it: two interfaces, of which one may have a tag to put on."""
    ours, peers = device(kind)

    async def call() -> None:
        path = FastPath([place.OURS, ours], fastpath.loadable())
        assert set(path.interfaces) == {"cable", "over"}
        relay = WorkerRelay(asyncio.get_running_loop(), 1, fastpath=path)
        under_test = Bench(relay, make)
        try:
            alice = under_test.peer("127.0.0.2")
            with place.among_peers(make):
                bob = RtpPeer(peers)
            under_test.peers.append(bob)
            a = end_for(alice)
            b = replace(a, local=free_pair(ours), remote=bob.address, remote_rtcp=bob.rtcp_address)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            alice.received.clear()
            bob.received.clear()
            await talk(alice, a, bob, b, 50)
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 50
            assert {source for _, source in bob.received} == {rtp_of(b)}
            assert (await under_test.counters(stream, "b")).in_kernel >= 50
        finally:
            for peer in under_test.peers:
                peer.close()
            await relay.stop()

    try:
        asyncio.run(call())
    finally:
        for name in (place.BORDER, place.PEERS):
            ip("-n", name, "link", "del", "over")


@kernel
def test_a_party_behind_an_interface_without_the_program_stays_in_user_space(make: str) -> None:
    ours, peers = device("macvlan")

    async def call() -> None:
        relay = WorkerRelay(
            asyncio.get_running_loop(), 1, fastpath=FastPath([place.OURS], fastpath.loadable())
        )
        under_test = Bench(relay, make)
        try:
            alice = under_test.peer("127.0.0.2")
            with place.among_peers(make):
                bob = RtpPeer(peers)
            under_test.peers.append(bob)
            a = end_for(alice)
            b = replace(a, local=free_pair(ours), remote=bob.address, remote_rtcp=bob.rtcp_address)
            await under_test.open(a, b)
            await talk(alice, a, bob, b, 20)
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 20
            (told,) = under_test.happened(Layer)
            assert told.reason == f"the kernel program is not attached to the interface towards {peers}"
        finally:
            for peer in under_test.peers:
                peer.close()
            await relay.stop()

    try:
        asyncio.run(call())
    finally:
        for name in (place.BORDER, place.PEERS):
            ip("-n", name, "link", "del", "over")


@kernel
@pytest.mark.parametrize("hop", [["via", "10.99.0.104"], ["via", "inet6", "fd99::102"]])
def test_by_way_of_a_gateway(make: str, hop: list[str]) -> None:
    """A gateway that is the peers' own namespace; of an IPv4 route it may have an IPv6 address (RFC 5549)."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            bob.received.clear()
            await talk(alice, a, bob, b, 30)
            await under_test.settle()
            assert len(bob.received) == 30

    route = [f"{place.at(make, '127.0.0.3')}/32", *hop, "dev", "cable"]
    ip("-n", place.BORDER, "route", "add", *route)
    try:
        asyncio.run(call())
    finally:
        ip("-n", place.BORDER, "route", "del", *route)


# When the kernel's table fails


@kernel
def test_a_worker_is_replaced_though_its_flows_cannot_be_told_to_end(
    make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            monkeypatch.setattr(FastPath, "dismiss", refused)
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            await descend(under_test, alice, a, bob, b, stream)

    asyncio.run(call())
