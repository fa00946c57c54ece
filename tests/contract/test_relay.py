"""What every relay does with packets: forwarding, changes of a stream, counters, silence. Real sockets on loopback."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from media.relay import Learn, Silence, SourceLocked
from tests.contract.relays import MAKES, assert_free, bench, end_for, free_pair, rtcp_of, rtp_of
from tests.harness.rtp import (
    Tone,
    has_tone,
    receiver_report,
    rtp_packet,
)

pytestmark = pytest.mark.parametrize("make", MAKES)


def test_both_sides_hear_each_other(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, _ = await under_test.between()
            await asyncio.gather(
                alice.stream(rtp_of(a), 50, tone=Tone(440)), bob.stream(rtp_of(b), 50, tone=Tone(1000))
            )
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 50
            # In order also where the relay changes from one socket to another, when a source locks.
            for peer in (alice, bob):
                assert [packet[2:4] for packet, _ in peer.received] == sorted(
                    packet[2:4] for packet, _ in peer.received
                )
            assert has_tone(bob.audio(), 440)
            assert has_tone(alice.audio(), 1000)
            assert {source for _, source in bob.received} == {rtp_of(b)}
            assert {source for _, source in alice.received} == {rtp_of(a)}
            locked = under_test.happened(SourceLocked)
            assert {(event.side, event.source) for event in locked} == {
                ("a", alice.address),
                ("b", bob.address),
            }

    asyncio.run(call())


def test_packets_pass_unchanged(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, _b, _ = await under_test.between()
            sent = [alice.send(rtp_of(a), bytes(size)) for size in (1, 160, 1400, 2500)]
            await under_test.settle()
            assert [packet for packet, _ in bob.received] == sent

    asyncio.run(call())


@pytest.mark.parametrize(("host_a", "host_b"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("::1", "::1")])
def test_any_pair_of_address_families(make: str, host_a: str, host_b: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(host_a), under_test.peer(host_b)
            a, b = end_for(alice, Learn.PORT), end_for(bob)
            await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 10), bob.stream(rtp_of(b), 10))
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 10

    asyncio.run(call())


def test_an_end_moves_to_other_ports(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between()
            moved = replace(a, local=free_pair(alice.address[0]))
            under_test.relay.change(stream, "a", moved)
            await under_test.settle()
            await alice.stream(rtp_of(moved), 5)
            await bob.stream(rtp_of(b), 5)
            await under_test.settle()
            assert (len(bob.received), len(alice.received)) == (5, 5)
            assert {source for _, source in alice.received} == {rtp_of(moved)}
            assert_free([a.local])

    asyncio.run(call())


def test_hold_stops_media_in_the_directions_that_it_says(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between()
            # Bob holds: he sends music and does not listen; Alice is not to send.
            under_test.relay.change(stream, "a", replace(a, receive=False))
            under_test.relay.change(stream, "b", replace(b, send=False))
            await under_test.settle()
            await asyncio.gather(alice.stream(rtp_of(a), 5), bob.stream(rtp_of(b), 5))
            from_a = await under_test.counters(stream, "a")
            assert (len(alice.received), len(bob.received)) == (5, 0)
            assert (from_a.muted, from_a.forwarded, from_a.packets) == (5, 0, 5)
            alice.rtcp.sendto(receiver_report(1), rtcp_of(a))
            await under_test.until(lambda: bob.received_rtcp)
            under_test.relay.change(stream, "a", a)
            under_test.relay.change(stream, "b", b)
            await under_test.settle()
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 5

    asyncio.run(call())


def test_fax_passes_as_udptl_without_rtp_checks(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, _b, stream = await under_test.between(kind="udptl")
            packets = [seq.to_bytes(2) + b"\x01\x06\x00" for seq in range(10)]
            for packet in packets:
                alice.rtp.sendto(packet, rtp_of(a))
            from_a = await under_test.counters(stream, "a")
            assert [packet for packet, _ in bob.received] == packets
            assert (from_a.packets, from_a.lost, from_a.mos, from_a.malformed) == (10, 0, None, 0)

    asyncio.run(call())


# Counters


def test_counters_tell_loss_reordering_and_a_new_ssrc(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=1), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            alice.seq = 65500
            await alice.stream(rtp_of(a), 100, lost={10, 11, 40})
            swapped = [rtp_packet(alice.seq + step, alice.timestamp + step * 160, 1) for step in (1, 0)]
            for packet in swapped:
                alice.rtp.sendto(packet, rtp_of(a))
            before = await under_test.counters(stream, "a")
            assert (before.packets, before.forwarded, before.lost, before.reordered) == (99, 99, 3, 1)
            assert before.bytes == 99 * 172
            alice.ssrc = 2
            alice.seq = 5
            await alice.stream(rtp_of(a), 20, lost={3})
            alice.seq = 30000
            await alice.stream(rtp_of(a), 20)
            alice.rtp.sendto(b"\x80", rtp_of(a))
            alice.rtp.sendto(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), rtp_of(a))
            after = await under_test.counters(stream, "a")
            # RFC 3550 s.A.1: of the two packets that prove a restart only the second counts as received.
            assert (after.packets, after.lost, after.ssrc_changes, after.resets) == (138, 4, 1, 1)
            assert (after.malformed, after.other_protocols, after.payload_types) == (1, 1, (0,))
            assert after.mos is not None and 1.0 < after.mos < 4.4
            assert after.jitter_ms > 0 and after.max_jitter_ms >= after.jitter_ms
            assert after.last_s is not None and after.last_s < 30.0

    asyncio.run(call())


def test_what_our_own_queue_dropped_is_counted(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, _bob, _b, stream = await under_test.between()
            pid = under_test.signal(signal.SIGSTOP)
            for _ in range(1500):
                alice.send(rtp_of(a))
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.1)
            from_a = await under_test.counters(stream, "a")
            assert from_a.dropped > 0
            assert from_a.packets + from_a.dropped == 1500

    asyncio.run(call())


@pytest.mark.parametrize("known", [False, True])
def test_a_worker_that_is_late_by_a_second_and_a_half_has_lost_nothing(make: str, known: bool) -> None:
    """Receive buffers hold 75 packets of G.711 at least, that of the unconnected port and that of a known source."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, _b, stream = await under_test.between()
            if known:
                await alice.stream(rtp_of(a), 3)
            pid = under_test.signal(signal.SIGSTOP)
            sent = [alice.send(rtp_of(a)) for _ in range(75)]
            os.kill(pid, signal.SIGCONT)
            await under_test.until(lambda: len(bob.received) >= 75 + 3 * known)
            from_a = await under_test.counters(stream, "a")
            assert (from_a.dropped, from_a.lost) == (0, 0)
            assert [packet for packet, _ in bob.received[-75:]] == sent

    asyncio.run(call())


# Silence


def test_silence_is_told_once_and_again_after_speech(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, _bob, _b, stream = await under_test.between(start_s=60.0, silence_s=0.2)
            await asyncio.sleep(1.2)
            assert under_test.happened(Silence) == []
            alice.send(rtp_of(a))
            await under_test.until(lambda: under_test.happened(Silence))
            (told,) = under_test.happened(Silence)
            assert (told.stream, told.ever) == (stream, True) and 0.2 <= told.seconds < 30.0
            # On hold nobody need send.
            under_test.relay.limits(stream, 0.0, 0.0)
            await asyncio.sleep(1.2)
            assert len(under_test.happened(Silence)) == 1

    asyncio.run(call())


def test_a_stream_that_never_had_a_packet_has_its_own_limit(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            stream = await under_test.open(end_for(alice), end_for(bob), start_s=0.3, silence_s=60.0)
            await under_test.until(lambda: under_test.happened(Silence))
            (told,) = under_test.happened(Silence)
            assert (told.stream, told.ever) == (stream, False)

    asyncio.run(call())


def test_unreachable_and_impossible_targets_do_no_harm(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between()
            targets = [("127.0.0.1", 9), ("203.0.113.1", 9), ("255.255.255.255", 9), ("0.0.0.0", 9)]
            targets += [("::1", 9), ("host.invalid", 9), ("127.0.0.1", 0), ("127.0.0.1", 70000)]
            for epoch, target in enumerate(targets, 1):
                under_test.relay.change(
                    stream, "b", replace(b, remote=target, remote_rtcp=target, epoch=epoch)
                )
                await under_test.settle()
                await alice.stream(rtp_of(a), 3)
                alice.rtcp.sendto(receiver_report(1), rtcp_of(a))
                await under_test.settle()
            under_test.relay.change(stream, "b", replace(b, epoch=99))
            await under_test.settle()
            await alice.stream(rtp_of(a), 3)
            await under_test.settle()
            assert len(bob.received) == 3
            assert (await under_test.counters(stream, "a")).packets == 3 * len(targets) + 3

    asyncio.run(call())
