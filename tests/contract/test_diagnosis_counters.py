"""What diagnosis lives on: where strangers are, and what the ends report to hear."""

import asyncio

import pytest

from tests.contract.relays import MAKES, bench, rtcp_of, rtp_of
from tests.harness.rtp import receiver_report, report_block, rtp_packet

pytestmark = pytest.mark.parametrize("make", MAKES)


def test_the_last_stranger_is_named(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            _alice, a, _bob, _b, stream = await under_test.between()
            assert (await under_test.counters(stream, "a")).stranger is None
            for number, stranger in enumerate(under_test.strangers(["127.0.0.66", "127.0.0.67"]), 1):
                # On the port of RTP, then on that of RTCP, where it is no RTCP.
                stranger.sendto(rtp_packet(1, 160, 7), rtp_of(a) if number == 1 else rtcp_of(a))
                await under_test.settle()
                counters = await under_test.counters(stream, "a")
                assert (counters.strangers, counters.stranger) == (number, stranger.getsockname())
            assert (await under_test.counters(stream, "b")).stranger is None

    asyncio.run(call())


def test_reports_are_counted_and_the_last_one_tells_the_loss(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, _bob, _b, stream = await under_test.between()
            alice.send(rtp_of(a))
            await under_test.settle()
            alice.rtcp.sendto(receiver_report(7), rtcp_of(a))
            await under_test.settle()
            counters = await under_test.counters(stream, "a")
            assert (counters.rtcp_packets, counters.reports, counters.reported_loss) == (1, 0, None)
            for fraction in (64, 0):
                block = bytearray(report_block(9))
                block[4] = fraction
                alice.rtcp.sendto(receiver_report(7, [bytes(block)]), rtcp_of(a))
                await under_test.settle()
                assert (await under_test.counters(stream, "a")).reported_loss == fraction / 256
            assert (await under_test.counters(stream, "a")).reports == 2

    asyncio.run(call())
