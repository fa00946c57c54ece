"""The relay implementations that the contract suite runs on, and a bench around each of them."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Literal, TypeVar

import pytest

from media.fastpath.loader import FastPath
from media.relay import (
    Closed,
    Counters,
    End,
    Learn,
    PortPair,
    RelayEvent,
    Side,
    Srtp,
    StreamCounters,
    StreamSpec,
)
from media.workers import WorkerRelay
from tests.contract import place
from tests.harness import fastpath
from tests.harness.rtp import Address, RtpPeer

MAKES = ("reference", "kernel")
"""The relay alone, and with the kernel path below it."""
both = pytest.mark.parametrize("make", MAKES)
kernel = pytest.mark.parametrize("make", ["kernel"])

_ids = count(1)
_Event = TypeVar("_Event")


def free_pair(host: str = "127.0.0.1") -> PortPair:
    """An even/odd pair that nobody has at this moment, of ours towards `host`."""
    host = place.ours(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with (
            socket.socket(family, socket.SOCK_DGRAM) as even,
            socket.socket(family, socket.SOCK_DGRAM) as odd,
        ):
            even.bind((host, 0))
            number = even.getsockname()[1]
            if number % 2:
                continue
            try:
                odd.bind((host, number + 1))
            except OSError:
                continue
            return PortPair("test", host, number, number + 1)


def end_for(
    peer: RtpPeer,
    learn: Learn = Learn.OFF,
    expect: str | None = None,
    proven: tuple[str, ...] | None = None,
    srtp: Srtp | None = None,
    **more: bool,
) -> End:
    """An end on fresh ports, signalled as where `peer` really is."""
    pair = free_pair(peer.address[0])
    return End(
        pair,
        peer.address,
        peer.rtcp_address,
        learn=learn,
        expect=expect,
        codecs=((0, "PCMU", 8000),),
        proven=proven,
        srtp=srtp,
        **more,
    )


def rtp_of(end: End) -> Address:
    """Our RTP address at that end."""
    return end.local.host, end.local.rtp


def rtcp_of(end: End) -> Address:
    """Our RTCP address at that end."""
    return end.local.host, end.local.rtcp


def assert_free(pairs: list[PortPair]) -> None:
    """Every port of these pairs can be bound."""
    for pair in pairs:
        for number in (pair.rtp, pair.rtcp):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((pair.host, number))


class Bench:
    """A relay under test with its events, and peers that are closed at the end."""

    def __init__(self, relay: WorkerRelay, make: str) -> None:
        self.relay = relay
        self.make = make
        self.events: list[RelayEvent] = []
        self.peers: list[RtpPeer] = []
        self._opened: list[int] = []
        relay.on_event = self.events.append

    def peer(self, host: str = "127.0.0.1", ssrc: int = 0x1234) -> RtpPeer:
        """A new endpoint on what loopback calls `host`."""
        with place.among_peers(self.make):
            peer = RtpPeer(place.at(self.make, host), ssrc)
        self.peers.append(peer)
        return peer

    def strangers(self, hosts: list[str]) -> list[socket.socket]:
        """Sockets of nobody we know."""
        sockets = []
        with place.among_peers(self.make):
            for host in hosts:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.setblocking(False)
                sock.bind((place.at(self.make, host), 0))
                sockets.append(sock)
        return sockets

    async def between(
        self,
        host_a: str = "127.0.0.1",
        host_b: str = "127.0.0.1",
        kind: Literal["rtp", "udptl"] = "rtp",
        start_s: float = 0.0,
        silence_s: float = 0.0,
    ) -> tuple[RtpPeer, End, RtpPeer, End, int]:
        """Alice and Bob, who say from the first where they are, each with the end of ours, and the stream that is open
        between them."""
        alice, bob = self.peer(host_a), self.peer(host_b)
        a, b = end_for(alice), end_for(bob)
        return alice, a, bob, b, await self.open(a, b, kind, start_s=start_s, silence_s=silence_s)

    async def open(
        self,
        a: End,
        b: End,
        kind: Literal["rtp", "udptl"] = "rtp",
        window_s: float = 10.0,
        start_s: float = 0.0,
        silence_s: float = 0.0,
        unheard_s: float = 0.0,
    ) -> int:
        """Open a stream between two ends and wait until it is open; its id."""
        number = self.start(a, b, kind, window_s, start_s, silence_s, unheard_s)
        await self.settle()
        return number

    def start(
        self,
        a: End,
        b: End,
        kind: Literal["rtp", "udptl"] = "rtp",
        window_s: float = 10.0,
        start_s: float = 0.0,
        silence_s: float = 0.0,
        unheard_s: float = 0.0,
    ) -> int:
        """Open a stream without waiting; its id."""
        number = next(_ids)
        self._opened.append(number)
        self.relay.open(
            StreamSpec(number, f"c-{number:08x}", kind, a, b, window_s, start_s, silence_s, unheard_s)
        )
        return number

    def signal(self, number: int) -> int:
        """Send a signal to the first worker; its pid."""
        pid = self.relay.pids[0]
        assert pid is not None
        os.kill(pid, number)
        return pid

    async def close(self, stream: int, *ends: End) -> None:
        """Close a stream; fails if ports of its ends are not free then."""
        self.relay.close(stream)
        await self.until(lambda: self.happened(Closed))
        assert_free([end.local for end in ends])

    async def settle(self) -> None:
        """Wait until every command so far has been carried out, packets that were under way included."""
        await asyncio.sleep(0.02)
        # A worker that answers has woken up, and then it takes a packet from every port that has some.
        seen: list[list[StreamCounters]] = []
        while len(seen) < 3 or (seen[-1] != seen[-2] and len(seen) < 500):
            rows = await self.relay.query(self._opened)
            seen.append(
                [replace(row, a=replace(row.a, last_s=None), b=replace(row.b, last_s=None)) for row in rows]
            )

    async def counters(self, stream: int, side: Side) -> Counters:
        """What came from one end, after everything under way has come."""
        await self.settle()
        both = (await self.relay.query([stream]))[0]
        return both.a if side == "a" else both.b

    def happened(self, kind: type[_Event]) -> list[_Event]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], object], within_s: float = 30.0) -> None:
        """Wait for a condition; fails after `within_s`, which is for a machine that is busy."""
        for _ in range(int(within_s / 0.005)):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"not within {within_s} s")


@asynccontextmanager
async def bench(make: str, workers: int = 1) -> AsyncIterator[Bench]:
    """A running relay of one make."""
    path = FastPath([place.OURS, place.OURS6], fastpath.loadable()) if make == "kernel" else ""
    relay = WorkerRelay(asyncio.get_running_loop(), workers, fastpath=path)
    under_test = Bench(relay, make)
    try:
        await relay.up()
        yield under_test
    finally:
        for peer in under_test.peers:
            peer.close()
        await relay.stop()
