"""What every relay does: forwarding, sources, counters, silence, ports, recovery. Real sockets on loopback."""

import asyncio
import socket
from dataclasses import replace

import pytest

from media.relay import Learn, SourceLocked
from tests.contract.relays import MAKES, Bench, bench, end_for, rtcp_of, rtp_of
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
            from_b = await under_test.counters(stream, "b")
            assert from_b.rtcp_packets == 1
            assert from_b.rtt_ms is not None and 40 < from_b.rtt_ms < 500

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


def stranger_sockets(hosts: list[str]) -> list[socket.socket]:
    """Sockets of nobody we know."""
    sockets = []
    for host in hosts:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((host, 0))
        sockets.append(sock)
    return sockets


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
            strangers = stranger_sockets(["127.0.0.2"] * 2 if same_host else ["127.0.0.66", "127.0.0.67"])
            expect = {"a": "127.0.0.2", "b": "127.0.0.3"} if expected else {"a": None, "b": None}
            a, b = end_for(alice, learn, expect["a"]), end_for(bob, learn, expect["b"])
            if learn is not Learn.OFF:
                # Behind NAT the signalled port is not the one that packets come from.
                a, b = replace(a, remote=("127.0.0.2", 9)), replace(b, remote=("127.0.0.3", 9))
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
            assert len(bob.received) >= 35 and len(alice.received) >= 30
            for stranger in strangers:
                stranger.close()

    asyncio.run(call())
