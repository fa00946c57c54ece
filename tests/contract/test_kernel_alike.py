"""What the kernel forwards is what the process forwards: in its headers, over a change of keys, in the last figures."""

import asyncio
import random
import socket
import struct
from dataclasses import replace

import pytest

from media.fastpath.loader import FastPath
from media.relay import Closed
from media.workers import WorkerRelay
from tests.contract import place
from tests.contract.relays import Bench, bench, end_for, kernel, rtp_of
from tests.contract.speech import EVENTS, descend, descended, numbers, talk
from tests.contract.test_srtp import HMAC, Phone, keys
from tests.harness import fastpath
from tests.harness.rtp import RtpPeer, receiver_report

# linux/in.h, linux/in6.h
IP_RECVTTL, IP_RECVTOS, IP_TTL, IP_TOS = 12, 13, 2, 1
IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_HOPLIMIT, IPV6_TCLASS = 51, 66, 52, 67

STUN = struct.pack("!HHI", 1, 0, 0x2112A442) + bytes(12)


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


@kernel
@pytest.mark.parametrize(("hosts", "seed"), [(("127.0.0.2", "127.0.0.3"), 1), (("::1", "::2"), 2)])
def test_whatever_comes_between_everything_arrives_once_and_in_order(
    make: str, hosts: tuple[str, str], seed: int
) -> None:
    """Speech, and in any order what takes a stream up: payload types, fragments, RTCP, STUN, re-INVITEs of both."""

    async def call() -> None:
        async with bench(make) as under_test:
            chance = random.Random(seed)
            alice, a, bob, b, stream = await under_test.between(*hosts)
            await talk(alice, a, bob, b, 30)
            sent = list(range(1000, 1030))
            speaking = asyncio.create_task(bob.stream(rtp_of(b), 1000, 0.002))
            while not speaking.done():
                match chance.randrange(6):
                    case 0:
                        alice.payload_type = chance.choice([96, 101])
                        sent.append(alice.seq)
                        alice.send(rtp_of(a))
                        alice.payload_type = 0
                    case 1:
                        sent.append(alice.seq)
                        alice.send(rtp_of(a), bytes(2500))
                    case 2:
                        codecs = ((0, "PCMU", 8000), EVENTS)[: chance.randint(1, 2)]
                        under_test.relay.change(stream, "a", replace(a, codecs=codecs))
                    case 3:
                        under_test.relay.change(stream, "b", b)
                        await asyncio.sleep(chance.random() * 0.1)
                    case 4:
                        alice.rtp.sendto(receiver_report(alice.ssrc), rtp_of(a))
                        alice.rtp.sendto(STUN, rtp_of(a))
                    case _:
                        pass
                packets = chance.randint(1, 60)
                sent += range(alice.seq, alice.seq + packets)
                await alice.stream(rtp_of(a), packets, 0.002)
            from_a, from_b = await under_test.counters(stream, "a"), await under_test.counters(stream, "b")
            assert numbers(bob) == sent and numbers(alice) == list(range(1000, 2030))
            for figures, number in ((from_a, len(sent)), (from_b, 1030)):
                assert figures.packets == figures.forwarded == number
                assert (figures.lost, figures.reordered) == (0, 0)
                assert 0.3 * number < figures.in_kernel < number

    asyncio.run(call())
