"""The kernel path below the relay: what goes down and comes up, and that nobody hears or counts a difference."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from media.fastpath.loader import FastPath
from media.relay import Counters, Layer, Learn, Silence
from media.rtp import HEADER, Reception
from tests.contract import place
from tests.contract.relays import bench, both, end_for, kernel, rtcp_of, rtp_of
from tests.contract.speech import EVENTS, descend, numbers, talk
from tests.harness.rtp import RtpPeer, receiver_report, rtp_packet


@kernel
@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.3"), ("::1", "::2")])
def test_a_stream_goes_down_once_both_sources_are_known(make: str, hosts: tuple[str, str]) -> None:
    """The peers take nothing with a wrong checksum; of one host, all addresses together would sum up to the same."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between(hosts[0], hosts[1])
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
            alice, a, bob, b, stream = await under_test.between("127.0.0.1", "::1")
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
            alice, a, bob, b, _ = await under_test.between("127.0.0.2", "127.0.0.3")
            await talk(alice, a, bob, b, 5)
            await under_test.settle()
            assert [event.reason for event in under_test.happened(Layer)] == ["rtp.bpf.o is not there"]

    asyncio.run(call())


@both
def test_changes_in_mid_stream_lose_double_and_disorder_nothing(make: str) -> None:
    """Re-INVITEs while both speak: a codec is added, ports stay. Up and down it goes, and nobody hears it."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between()
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
            alice, a, bob, b, stream = await under_test.between()
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
            alice, a, bob, b, stream = await under_test.between()
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
            alice, a, bob, b, stream = await under_test.between(silence_s=1.0)
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


@kernel
def test_streams_run_by_clsact_as_well(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FastPath.__init__
    monkeypatch.setattr(FastPath, "__init__", lambda self, hosts, path: real(self, hosts, path, tcx=False))
    test_a_stream_goes_down_once_both_sources_are_known(make, ("127.0.0.2", "127.0.0.3"))
    assert "sbc_rtp" not in place.programs()
