"""RTCP through the relay: no names cross, the round trip is measured, and its source is proven."""

import asyncio
import socket
import time
from dataclasses import replace

import pytest

from media.relay import Learn
from tests.contract.relays import MAKES, bench, end_for, rtcp_of, rtp_of
from tests.harness.rtp import (
    ntp_middle,
    receiver_report,
    report_block,
    sender_report,
)

pytestmark = pytest.mark.parametrize("make", MAKES)


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


def test_rtcp_from_a_port_that_nobody_named_must_prove_itself(make: str) -> None:
    """Behind one NAT all phones have one address: only whose SSRCs are those of the stream belongs to it."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2", ssrc=0xA), under_test.peer("127.0.0.3", ssrc=0xB)
            neighbour = under_test.peer("127.0.0.2", ssrc=0xBAD)
            a = replace(end_for(alice, Learn.PORT), remote_rtcp=(alice.address[0], 9))
            b = end_for(bob)
            stream = await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 3), bob.stream(rtp_of(b), 3))
            for report in (receiver_report(0xBAD), receiver_report(0xBAD, [report_block(0xA)])):
                neighbour.rtcp.sendto(report, rtcp_of(a))
            from_a = await under_test.counters(stream, "a")
            assert (from_a.rtcp_packets, from_a.reports, from_a.strangers) == (0, 0, 2)
            assert from_a.stranger == neighbour.rtcp_address
            # By whom it is, and once its port is known by that alone.
            for report in (sender_report(0xA, 1e9), receiver_report(7)):
                alice.rtcp.sendto(report, rtcp_of(a))
                await under_test.settle()
            assert [packet for packet, _ in bob.received_rtcp] == [
                sender_report(0xA, 1e9),
                receiver_report(7),
            ]

    asyncio.run(call())


def test_who_only_listens_proves_itself_by_what_it_reports_on(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2", ssrc=0xA), under_test.peer("127.0.0.3", ssrc=0xB)
            a = replace(end_for(alice, Learn.PORT), remote_rtcp=(alice.address[0], 9))
            b = end_for(bob)
            await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 3), bob.stream(rtp_of(b), 3))
            report = receiver_report(0xAA, [report_block(0xB)])
            alice.rtcp.sendto(report, rtcp_of(a))
            await under_test.settle()
            assert [packet for packet, _ in bob.received_rtcp] == [report]

    asyncio.run(call())
