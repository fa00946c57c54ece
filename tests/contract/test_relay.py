"""What every relay does: forwarding, sources, counters, silence, ports, recovery. Real sockets on loopback."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from media.relay import BindFailed, Closed, Learn, PortPair, Silence, SourceLocked, Withheld, WorkerRestarted
from tests.contract import place
from tests.contract.relays import MAKES, Bench, bench, end_for, free_pair, rtcp_of, rtp_of
from tests.harness import fastpath
from tests.harness.rtp import (
    Tone,
    has_tone,
    ntp_middle,
    receiver_report,
    report_block,
    rtp_packet,
    sender_report,
)

pytestmark = pytest.mark.parametrize("make", MAKES)


def test_both_sides_hear_each_other(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            await under_test.open(a, b)
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
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            await under_test.open(a, b)
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


def test_rtcp_is_relayed_without_names_and_tells_the_round_trip(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            now = 1_700_000_000.25
            begin = time.monotonic()
            alice.rtcp.sendto(sender_report(0xA, now, cname=b"alice@10.1.2.3"), rtcp_of(a))
            await under_test.until(lambda: bob.received_rtcp)
            await asyncio.sleep(0.05)
            block = report_block(0xA, ntp_middle(now), dlsr_s=0.0)
            bob.rtcp.sendto(receiver_report(0xB, [block], cname=b"bob@host.private"), rtcp_of(b))
            await under_test.until(lambda: alice.received_rtcp)
            (to_bob, source), (to_alice, _) = bob.received_rtcp[0], alice.received_rtcp[0]
            assert source == rtcp_of(b)
            assert to_bob.startswith(sender_report(0xA, now))
            assert to_alice.startswith(receiver_report(0xB, [block]))
            assert b"alice" not in to_bob and b"10.1.2.3" not in to_bob and b"private" not in to_alice
            elapsed_ms = 1000 * (time.monotonic() - begin)
            from_b = await under_test.counters(stream, "b")
            assert from_b.rtcp_packets == 1
            assert from_b.rtt_ms is not None and 40 < from_b.rtt_ms < elapsed_ms + 10

    asyncio.run(call())


def test_one_participant_has_one_pseudonym_on_all_streams(make: str) -> None:
    async def call() -> None:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            for name in (b"alice@10.1.2.3", b"alice@10.1.2.3", b"carol@10.1.2.3"):
                a = end_for(alice)
                await under_test.open(a, end_for(bob))
                alice.rtcp.sendto(receiver_report(1, cname=name), rtcp_of(a))
                await under_test.settle()
            first, second, other = [packet for packet, _ in bob.received_rtcp]
            assert first == second != other
            assert len(first) == len(receiver_report(1, cname=bytes(16)))

    asyncio.run(call())


def test_rtcp_multiplexed_on_one_side_only(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            a, b = end_for(alice, rtcp_mux=True), end_for(bob)
            await under_test.open(a, b)
            alice.send(rtp_of(a))
            alice.rtp.sendto(sender_report(0xA, 1e9), rtp_of(a))
            bob.rtcp.sendto(sender_report(0xB, 1e9), rtcp_of(b))
            await under_test.settle()
            assert [packet for packet, _ in bob.received_rtcp] == [sender_report(0xA, 1e9)]
            assert (sender_report(0xB, 1e9), rtp_of(a)) in alice.received
            assert alice.received_rtcp == []
            # With multiplexing the RTCP port is not ours to hold.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(rtcp_of(a))

    asyncio.run(call())


# Sources (design.md s.4.6)


async def spray(
    under_test: Bench, targets: list[tuple[str, int]], strangers: list[socket.socket], rounds: int
) -> None:
    """Well-formed RTP and RTCP, in sequence, from every stranger to every port."""
    for seq in range(rounds):
        for stranger in strangers:
            for target in targets:
                stranger.sendto(rtp_packet(seq, seq * 160, 0xBAD, b"\xbd" * 160), target)
                stranger.sendto(receiver_report(0xBAD), target)
        await asyncio.sleep(0.001)
    await under_test.settle()


def heard(sock: socket.socket) -> int:
    """How many packets a stranger was sent."""
    number = 0
    while True:
        try:
            sock.recv(2048)
        except BlockingIOError:
            return number
        number += 1


# (mode, whether the host is expected, whether strangers share the host of the peer, packets that may get in)
SPRAYS = [
    pytest.param(Learn.OFF, False, False, 0, id="off"),
    pytest.param(Learn.OFF, False, True, 0, id="off-same-host"),
    pytest.param(Learn.PORT, True, False, 0, id="port"),
    pytest.param(Learn.ANY, True, False, 5, id="any-expected"),
    pytest.param(Learn.ANY, False, False, 5, id="any"),
]


@pytest.mark.parametrize(("learn", "expected", "same_host", "allowed"), SPRAYS)
def test_strangers_inject_nothing_and_hear_nothing(
    make: str, learn: Learn, expected: bool, same_host: bool, allowed: int
) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            strangers = under_test.strangers(["127.0.0.2"] * 2 if same_host else ["127.0.0.66", "127.0.0.67"])
            expect = (alice.address[0], bob.address[0]) if expected else (None, None)
            a, b = end_for(alice, learn, expect[0]), end_for(bob, learn, expect[1])
            if learn is not Learn.OFF:
                # Behind NAT the signalled port is not the one that packets come from.
                a, b = replace(a, remote=(alice.address[0], 9)), replace(b, remote=(bob.address[0], 9))
            ports = [rtp_of(a), rtcp_of(a), rtp_of(b), rtcp_of(b)]
            # Before the ports are even open, then while nobody has sent yet.
            await spray(under_test, ports, strangers, 3)
            stream = await under_test.open(a, b)
            await spray(under_test, ports, strangers, 20)
            # During and after learning.
            await asyncio.gather(
                alice.stream(rtp_of(a), 40),
                bob.stream(rtp_of(b), 40),
                spray(under_test, ports, strangers, 20),
            )
            await spray(under_test, ports, strangers, 20)
            injected = sum(packet.endswith(b"\xbd" * 160) for packet, _ in alice.received + bob.received)
            leaked = sum(heard(stranger) for stranger in strangers)
            assert injected <= allowed
            assert leaked <= allowed
            assert alice.received_rtcp == bob.received_rtcp == []
            from_a, from_b = await under_test.counters(stream, "a"), await under_test.counters(stream, "b")
            assert (from_a.source, from_b.source) == (alice.address, bob.address)
            assert from_a.strangers >= 2 * 2 * 2 * 20
            # Where the other is to be found is known five of its packets later, and one may be quicker than the other.
            assert len(bob.received) >= 30 and len(alice.received) >= 30
            for stranger in strangers:
                stranger.close()

    asyncio.run(call())


def test_a_stranger_is_not_told_that_nobody_is_there(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            await under_test.open(a, b)
            await alice.stream(rtp_of(a), 5)
            (stranger,) = under_test.strangers(["127.0.0.66"])
            stranger.connect(rtp_of(a))
            stranger.send(rtp_packet(1, 1, 1))
            await under_test.settle()
            # An ICMP error would wait here.
            assert stranger.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            stranger.close()

    asyncio.run(call())


def test_a_lone_packet_from_the_expected_host_does_not_lock(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer()
            (scanner,) = under_test.strangers(["127.0.0.2"])
            host = alice.address[0]
            a, b = replace(end_for(alice, Learn.PORT, host), remote=(host, 9)), end_for(bob)
            stream = await under_test.open(a, b)
            for ssrc in range(20):
                scanner.sendto(rtp_packet(ssrc, 0, ssrc, b"\xbd" * 160), rtp_of(a))
            await bob.stream(rtp_of(b), 5)
            await alice.stream(rtp_of(a), 10)
            for _ in range(500):
                if (await under_test.counters(stream, "a")).source == alice.address:
                    break
                await asyncio.sleep(0.01)
            await bob.stream(rtp_of(b), 5)
            assert sum(packet.endswith(b"\xbd" * 160) for packet, _ in bob.received) <= 5
            assert heard(scanner) == 0
            assert len(alice.received) == 5
            scanner.close()

    asyncio.run(call())


def test_the_signalled_address_takes_over_from_a_learned_one(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer()
            impostor = under_test.peer("127.0.0.2", ssrc=0xBAD)
            a, b = end_for(alice, Learn.PORT), end_for(bob)
            stream = await under_test.open(a, b)
            await impostor.stream(rtp_of(a), 10)
            assert (await under_test.counters(stream, "a")).source == impostor.address
            alice.send(rtp_of(a))
            assert (await under_test.counters(stream, "a")).source == alice.address
            await impostor.stream(rtp_of(a), 10)
            assert (await under_test.counters(stream, "a")).source == alice.address
            assert len(bob.received) == 11

    asyncio.run(call())


def test_a_rebound_nat_port_is_followed_when_the_stream_goes_on(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer()
            moved = under_test.peer("127.0.0.2", alice.ssrc)
            host = alice.address[0]
            a, b = replace(end_for(alice, Learn.PORT), remote=None, expect=host), end_for(bob)
            stream = await under_test.open(a, b)
            await alice.stream(rtp_of(a), 10)
            moved.seq, moved.timestamp = alice.seq, alice.timestamp
            await moved.stream(rtp_of(a), 10)
            assert (await under_test.counters(stream, "a")).source == alice.address
            await asyncio.sleep(1.1)
            await moved.stream(rtp_of(a), 10)
            assert (await under_test.counters(stream, "a")).source == moved.address

    asyncio.run(call())


def test_a_changed_remote_is_obeyed_and_the_old_one_is_a_stranger(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob, carol = under_test.peer(), under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await alice.stream(rtp_of(a), 5)
            await bob.stream(rtp_of(b), 5)
            changed = replace(b, remote=carol.address, remote_rtcp=carol.rtcp_address, epoch=1)
            under_test.relay.change(stream, "b", changed)
            await under_test.settle()
            await asyncio.gather(
                alice.stream(rtp_of(a), 5), bob.stream(rtp_of(b), 5), carol.stream(rtp_of(b), 5)
            )
            await under_test.settle()
            assert (len(bob.received), len(carol.received), len(alice.received)) == (5, 5, 10)
            assert (await under_test.counters(stream, "b")).strangers == 5

    asyncio.run(call())


def test_an_end_moves_to_other_ports(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
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
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
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
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b, kind="udptl")
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
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            for _ in range(1500):
                alice.send(rtp_of(a))
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.1)
            from_a = await under_test.counters(stream, "a")
            assert from_a.dropped > 0
            assert from_a.packets + from_a.dropped == 1500

    asyncio.run(call())


def test_closing_tells_the_final_counters_and_frees_the_ports(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await alice.stream(rtp_of(a), 5)
            under_test.relay.close(stream)
            await under_test.until(lambda: under_test.happened(Closed))
            (closed,) = under_test.happened(Closed)
            assert (closed.stream, closed.counters.a.packets, closed.counters.b.mos) == (stream, 5, None)
            assert_free([a.local, b.local])
            assert await under_test.relay.query([stream]) == []
            under_test.relay.close(stream)
            under_test.relay.change(stream, "a", a)
            under_test.relay.limits(stream, 1.0, 1.0)
            await under_test.settle()
            assert len(under_test.happened(Closed)) == 1

    asyncio.run(call())


# Media that nobody asked for


def test_an_address_that_never_sends_is_sent_to_for_a_while_only(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, victim = under_test.peer(), under_test.peer()
            a, b = (
                end_for(alice, proven=(alice.address[0],)),
                end_for(victim, Learn.PORT, proven=("192.0.2.1",)),
            )
            stream = await under_test.open(a, b, unheard_s=1.0)
            talk = asyncio.create_task(alice.stream(rtp_of(a), 300, 0.02))
            await under_test.until(lambda: under_test.happened(Withheld))
            (told,) = under_test.happened(Withheld)
            assert (told.stream, told.side, told.address) == (stream, "b", victim.address)
            await under_test.settle()
            so_far = len(victim.received)
            alice.rtcp.sendto(sender_report(0xA, 1e9), rtcp_of(a))
            await asyncio.sleep(0.2)
            assert len(victim.received) == so_far
            assert victim.received_rtcp == []
            assert (await under_test.counters(stream, "a")).withheld > 0
            # It was no victim, only silent: its first packet opens the way.
            victim.send(rtp_of(b))
            await under_test.until(lambda: len(victim.received) > so_far + 5)
            talk.cancel()
            assert len(under_test.happened(Withheld)) == 1

    asyncio.run(call())


@pytest.mark.parametrize("proof", ["signalling", "rtcp", "rtp"])
def test_a_listener_keeps_its_media(make: str, proof: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            trusted = bob.address[0] if proof == "signalling" else "192.0.2.1"
            a = end_for(alice)
            b = end_for(bob, Learn.PORT, proven=(trusted,), receive=proof != "signalling")
            await under_test.open(a, b, unheard_s=1.0)
            if proof == "rtcp":
                bob.rtcp.sendto(receiver_report(0xB), rtcp_of(b))
            elif proof == "rtp":
                bob.send(rtp_of(b))
            await alice.stream(rtp_of(a), 115, 0.02)
            await under_test.settle()
            assert len(bob.received) == 115
            assert under_test.happened(Withheld) == []

    asyncio.run(call())


def test_a_listener_with_one_port_for_rtp_and_rtcp_keeps_its_media(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob, proven=(), rtcp_mux=True)
            await under_test.open(a, b, unheard_s=1.0)
            bob.rtp.sendto(receiver_report(0xB), rtp_of(b))
            await alice.stream(rtp_of(a), 115, 0.02)
            await under_test.settle()
            assert len(bob.received) == 115
            assert [packet for packet, _ in alice.received_rtcp] == [receiver_report(0xB)]

    asyncio.run(call())


def test_going_on_to_the_next_victim_begins_no_new_grace(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, first, second = (under_test.peer() for _ in range(3))
            a, b = end_for(alice), end_for(first, proven=())
            stream = await under_test.open(a, b, unheard_s=1.0)
            talk = asyncio.create_task(alice.stream(rtp_of(a), 300, 0.02))
            await under_test.until(lambda: under_test.happened(Withheld))
            moved = replace(b, remote=second.address, remote_rtcp=second.rtcp_address, epoch=1)
            under_test.relay.change(stream, "b", moved)
            await asyncio.sleep(0.2)
            talk.cancel()
            assert second.received == []

    asyncio.run(call())


# Silence


def test_silence_is_told_once_and_again_after_speech(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b, start_s=60.0, silence_s=0.2)
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


# Ports and processes


def assert_free(pairs: list[PortPair]) -> None:
    """Every port of these pairs can be bound."""
    for pair in pairs:
        for number in (pair.rtp, pair.rtcp):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((pair.host, number))


def test_a_taken_port_is_told(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(rtp_of(a))
                stream = await under_test.open(a, b)
                await under_test.until(lambda: under_test.happened(BindFailed))
            (failed,) = under_test.happened(BindFailed)
            assert failed.stream == stream
            assert str(a.local.rtp) in failed.reason and "in use" in failed.reason
            under_test.relay.close(stream)
            await under_test.until(lambda: under_test.happened(Closed))
            assert_free([a.local, b.local])

    asyncio.run(call())


def test_a_port_that_is_freed_a_moment_later_is_bound_after_all(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(rtp_of(a))
                await under_test.open(a, b)
            await asyncio.sleep(0.1)
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 5
            assert under_test.happened(BindFailed) == []

    asyncio.run(call())


def test_thirty_pairs_are_opened_and_closed_over_and_over(make: str) -> None:
    async def call() -> None:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            host = alice.address[0]
            pairs = [(free_pair(host), free_pair(host)) for _ in range(30)]
            for cycle in range(20):
                streams = [
                    under_test.start(
                        replace(end_for(alice), local=first), replace(end_for(bob), local=second)
                    )
                    for first, second in (pairs[cycle:] + pairs[:cycle])
                ]
                for stream in streams:
                    under_test.relay.close(stream)
            await under_test.until(lambda: len(under_test.happened(Closed)) == 600)
            assert under_test.happened(BindFailed) == []
            assert_free([pair for both in pairs for pair in both])

    asyncio.run(call())


def test_a_killed_worker_is_replaced_on_the_same_ports_with_the_same_sources(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            a = replace(end_for(alice, Learn.PORT), remote=None, expect=alice.address[0])
            b = end_for(bob)
            stream = await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 10), bob.stream(rtp_of(b), 10))
            await under_test.settle()
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            # Until that has been seen the kernel may go on forwarding.
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            alice.received.clear()
            # The first packet to Alice needs the source that only the dead worker had learned.
            while not alice.received and time.monotonic() < killed + 30:
                await bob.stream(rtp_of(b), 1, interval_s=0.02)
            # Half a second on an idle machine: the start of a Python process.
            assert time.monotonic() - killed < 10.0
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 15
            (restarted,) = under_test.happened(WorkerRestarted)
            assert restarted.streams == 1
            assert under_test.relay.pids[0] not in (None, pid)
            under_test.relay.close(stream)
            await under_test.until(lambda: under_test.happened(Closed))
            assert_free([a.local, b.local])

    asyncio.run(call())


def test_streams_closed_while_the_worker_is_dead_are_told_closed(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            first, second = [await under_test.open(end_for(alice), end_for(bob)) for _ in range(2)]
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            under_test.relay.close(first)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            under_test.relay.close(second)
            await under_test.until(lambda: len(under_test.happened(Closed)) == 2)
            assert [event.streams for event in under_test.happened(WorkerRestarted)] in ([1], [2])

    asyncio.run(call())


def test_workers_share_the_streams_and_survive_a_terminal_signal(make: str) -> None:
    async def call() -> None:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            ends = [(end_for(alice), end_for(bob)) for _ in range(4)]
            streams = [await under_test.open(a, b) for a, b in ends]
            for pid in under_test.relay.pids:
                assert pid is not None
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
            for a, _ in ends:
                await alice.stream(rtp_of(a), 3)
            await under_test.settle()
            assert len(bob.received) == 12
            assert under_test.happened(WorkerRestarted) == []
            assert [each.id for each in await under_test.relay.query(streams[::-1])] == streams[::-1]
            # The ports of one worker go with it: that tells how many streams each had.
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert under_test.happened(WorkerRestarted)[0].streams == 2

    asyncio.run(call())


def test_workers_end_with_their_parent_and_leave_nothing(make: str) -> None:
    async def call() -> tuple[list[int], list[PortPair]]:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            await under_test.open(a, b)
            return [pid for pid in under_test.relay.pids if pid is not None], [a.local, b.local]

    pids, pairs = asyncio.run(call())
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert_free(pairs)


def test_unreachable_and_impossible_targets_do_no_harm(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
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


PARENT = """
import asyncio, os, sys
from pathlib import Path
from media.fastpath.loader import FastPath
from media.workers import WorkerRelay

async def main() -> None:
    path = FastPath([sys.argv[2]], Path(sys.argv[1])) if sys.argv[1:] else ""
    relay = WorkerRelay(asyncio.get_running_loop(), 2, fastpath=path)
    print(*relay.pids, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_workers_end_when_their_parent_is_killed(make: str) -> None:
    path = [str(fastpath.loadable()), place.OURS] if make == "kernel" else []
    with subprocess.Popen([sys.executable, "-c", PARENT, *path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    """Whether a process that is not our child lives (an orphan may stay a zombie for a while)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_does_not_read_is_replaced(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.workers.MAX_QUEUED", 500)

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            for _ in range(2000):
                if under_test.relay.pids[0] != pid:
                    break
                for _ in range(50):
                    under_test.relay.change(stream, "b", b)
                await asyncio.sleep(0.001)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 5

    asyncio.run(call())
