"""Whose packets the relay takes (design.md s.4.6), and to whom it sends none: nobody injects, listens or is flooded."""

import asyncio
import socket
from dataclasses import replace

import pytest

from media.relay import Learn, Withheld
from tests.contract.relays import MAKES, Bench, bench, end_for, rtcp_of, rtp_of
from tests.harness.rtp import (
    receiver_report,
    rtp_packet,
    sender_report,
)

pytestmark = pytest.mark.parametrize("make", MAKES)


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
            alice, a, _bob, _b, _ = await under_test.between("127.0.0.2")
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
            await under_test.settle()
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
