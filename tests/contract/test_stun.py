"""STUN on media ports: answered where it is wanted, and of no consequence for the call."""

import asyncio
import os
import signal
import socket

import pytest

from media.relay import WorkerRestarted
from nat.stun import binding_request, mapped_address, parse
from tests.contract.relays import MAKES, Bench, bench, end_for, rtcp_of, rtp_of
from tests.harness.rtp import Address, Tone

pytestmark = pytest.mark.parametrize("make", MAKES)

REQUEST = binding_request(bytes(range(12)), 24).encode()
BARE = binding_request(bytes(range(12))).encode()


async def answered(
    under_test: Bench, sock: socket.socket, to: Address, request: bytes = REQUEST
) -> bytes | None:
    """What a port answers, None when nothing comes."""
    sock.sendto(request, to)
    await under_test.settle()
    try:
        return sock.recv(2048)
    except BlockingIOError:
        return None


def test_everybody_is_told_his_address_and_nobody_becomes_a_source(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            under_test.relay.stun([a.local.host])
            stream = await under_test.open(a, b)
            (stranger,) = under_test.strangers(["127.0.0.66"])
            for port in (rtp_of(a), rtcp_of(a), rtp_of(b), rtcp_of(b)):
                answer = await answered(under_test, stranger, port)
                assert answer is not None and mapped_address(parse(answer)) == stranger.getsockname()
                assert await answered(under_test, stranger, port, BARE) is None
            await asyncio.gather(
                alice.stream(rtp_of(a), 20, tone=Tone(440)), bob.stream(rtp_of(b), 20, tone=Tone(1000))
            )
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 20
            # Of a peer whose media flows too, also on the path that is quickest.
            assert await answered(under_test, stranger, rtp_of(a)) is not None
            counters = await under_test.counters(stream, "a")
            assert (counters.source, counters.malformed, counters.strangers) == (alice.address, 0, 0)
            assert counters.other_protocols == 5

    asyncio.run(call())


def test_it_is_not_answered_where_it_is_not_wanted(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            under_test.relay.stun(["192.0.2.1"])
            stream = await under_test.open(a, b)
            (stranger,) = under_test.strangers(["127.0.0.66"])
            for port in (rtp_of(a), rtcp_of(b)):
                assert await answered(under_test, stranger, port) is None
            assert (await under_test.counters(stream, "a")).strangers == 1
            under_test.relay.stun([a.local.host])
            await under_test.settle()
            assert await answered(under_test, stranger, rtp_of(a)) is not None
            under_test.relay.stun([])
            await under_test.settle()
            assert await answered(under_test, stranger, rtp_of(a)) is None

    asyncio.run(call())


def test_the_successor_of_a_worker_answers_too(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            under_test.relay.stun([a.local.host])
            await under_test.open(a, b)
            (pid,) = under_test.relay.pids
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            (stranger,) = under_test.strangers(["127.0.0.66"])
            assert await answered(under_test, stranger, rtp_of(a)) is not None

    asyncio.run(call())
