"""What the kernel forwards is what the process forwards: in its headers, over a change of keys, in the last figures."""

import asyncio
import socket
from dataclasses import replace

import pytest

from media.fastpath.loader import FastPath
from media.relay import Closed
from media.workers import WorkerRelay
from tests.contract import place
from tests.contract.relays import Bench, bench, end_for, kernel, rtp_of
from tests.contract.speech import descend, descended, numbers, talk
from tests.contract.test_srtp import HMAC, Phone, keys
from tests.harness import fastpath
from tests.harness.rtp import RtpPeer

# linux/in.h, linux/in6.h
IP_RECVTTL, IP_RECVTOS, IP_TTL, IP_TOS = 12, 13, 2, 1
IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_HOPLIMIT, IPV6_TCLASS = 51, 66, 52, 67


class Headers:
    """(TTL or hop limit, DSCP) of each packet that comes to a peer from now on, instead of the packets."""

    def __init__(self, peer: RtpPeer) -> None:
        self.seen: list[tuple[int, int]] = []
        self._sock = peer.rtp
        self._six = peer.rtp.family == socket.AF_INET6
        level = socket.IPPROTO_IPV6 if self._six else socket.IPPROTO_IP
        for option in (IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS) if self._six else (IP_RECVTTL, IP_RECVTOS):
            peer.rtp.setsockopt(level, option, 1)
        loop = asyncio.get_running_loop()
        loop.remove_reader(peer.rtp)
        loop.add_reader(peer.rtp, self._read)

    def _read(self) -> None:
        _, notes, _, _ = self._sock.recvmsg(65536, 256)
        told = {kind: int.from_bytes(data[:4], "little") for _, kind, data in notes}
        ttl, tos = (IPV6_HOPLIMIT, IPV6_TCLASS) if self._six else (IP_TTL, IP_TOS)
        self.seen.append((told[ttl], told[tos] >> 2))


@kernel
@pytest.mark.parametrize("dscp", [0, 26, 46])
@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.3"), ("::1", "::2")])
def test_no_header_tells_who_forwarded_it(make: str, hosts: tuple[str, str], dscp: int) -> None:
    """Whatever the time to live with which it came: a packet that crosses is our own (RFC 1122 s.3.2.1.7)."""

    async def call() -> None:
        path = FastPath([place.OURS, place.OURS6], fastpath.loadable())
        relay = WorkerRelay(asyncio.get_running_loop(), 1, dscp=dscp, fastpath=path)
        under_test = Bench(relay, make)
        try:
            await relay.up()
            alice, bob = under_test.peer(hosts[0]), under_test.peer(hosts[1])
            headers = Headers(bob)
            if alice.rtp.family == socket.AF_INET6:
                alice.rtp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 2)
            else:
                alice.rtp.setsockopt(socket.IPPROTO_IP, IP_TTL, 2)
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            await talk(alice, a, bob, b, 20)
            both = await under_test.counters(stream, "a")
            assert both.forwarded > both.in_kernel >= 20
            assert headers.seen == [(64, dscp)] * both.forwarded
        finally:
            for peer in under_test.peers:
                peer.close()
            await relay.stop()

    asyncio.run(call())


@kernel
def test_to_srtp_and_back(make: str) -> None:
    """What is sealed leaves the kernel, and what is not goes back to it; nothing is lost, doubled or overtaken."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test)
            under_test.relay.change(stream, "a", replace(a, srtp=keys(HMAC), epoch=1))
            await under_test.settle()
            before = await under_test.counters(stream, "a")
            phone = Phone(alice, keys(HMAC))
            for _ in range(20):
                phone.send(rtp_of(a))
                await asyncio.sleep(0.002)
            sealed = await under_test.counters(stream, "a")
            assert (sealed.in_kernel, sealed.packets) == (before.in_kernel, before.packets + 20)
            under_test.relay.change(stream, "a", replace(a, epoch=2))
            await under_test.settle()
            await descend(under_test, alice, a, bob, b, stream)
            while (await under_test.counters(stream, "a")).in_kernel == before.in_kernel:
                await talk(alice, a, bob, b, 2, 0.005)
            assert numbers(bob) == list(range(1000, 1000 + len(bob.received)))
            assert (await under_test.counters(stream, "a")).lost == 0

    asyncio.run(call())


@kernel
def test_the_last_figures_are_those_of_the_kernel_too(make: str) -> None:
    """A call that ends while the kernel forwards it, with packets under way."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test)
            speaking = asyncio.create_task(talk(alice, a, bob, b, 200, 0.001))
            await asyncio.sleep(0.1)
            under_test.relay.close(stream)
            await speaking
            await under_test.until(lambda: under_test.happened(Closed))
            (closed,) = under_test.happened(Closed)
            for figures, heard in ((closed.counters.a, bob), (closed.counters.b, alice)):
                assert figures.packets == figures.forwarded == len(heard.received)
                assert 50 < figures.in_kernel < figures.packets and figures.lost == 0
                assert figures.bytes == 172 * figures.packets

    asyncio.run(call())
