"""TCP on loopback (RFC 3261 s.18): connections that are used again, limited, and closed on peers that misbehave."""

import asyncio
import contextlib
import errno
import socket
import struct
from typing import Any

import pytest

from signaling.flow import Flow
from signaling.transport.limits import TransportCounters, TransportLimits
from signaling.transport.stream import ConnectionBook
from tests.signaling.transport.node import (
    MESSAGE,
    OPTIONS,
    TcpPeer,
    accepted,
    listener,
    node,
    on_loop,
    stall,
    tcp_server,
)


def stop_reading(peer: TcpPeer) -> None:
    transport: Any = peer.writer.transport
    transport.pause_reading()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_tcp_answer_goes_on_the_connection_of_the_request(host: str) -> None:
    async with node(listener("tcp", host)) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE[:50])
        await asyncio.sleep(0.02)
        peer.writer.write(MESSAGE[50:] + MESSAGE)
        await ours.until(lambda: len(ours.received) == 2)
        data, flow, _ = ours.received[0]
        assert data == MESSAGE
        assert flow == Flow("public", "tcp", ours.local("tcp"), peer.local, flow.connection)
        assert flow.connection > 0
        ours.wires.send(b"answer", flow)
        assert await peer.read(6) == b"answer"
        await peer.close()
        await ours.until(lambda: ours.wires.connections == 0)
        assert ours.failed == []


@on_loop
async def test_what_came_by_tcp_has_waited_since_the_kernel_had_it() -> None:
    async with node(listener("tcp")) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        await asyncio.sleep(1.0)
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        assert ours.received[0][2] < 0.8, "how long the connection was idle says nothing"
        peer.writer.write(MESSAGE * 2)
        early = await TcpPeer.connect(ours.local("tcp"))
        early.writer.write(MESSAGE)  # before it is accepted
        stall(1.0)
        peer.writer.write(MESSAGE)
        await ours.until(lambda: len(ours.received) == 5)
        ages = {
            flow.remote: [age for _, other, age in ours.received if other == flow]
            for _, flow, _ in ours.received
        }
        assert ages[early.local][0] >= 0.99
        await early.close()
        await peer.close()
        await ours.until(lambda: not ours.wires.connections)


@on_loop
async def test_what_came_by_tcp_together_waits_for_each_other() -> None:
    async with node(listener("tcp")) as ours:
        ours.slow_s = 0.2
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE * 3)
        await ours.until(lambda: len(ours.received) == 3)
        assert ours.received[2][2] >= ours.received[0][2] + 0.4
        await peer.close()
        await ours.until(lambda: not ours.wires.connections)


@on_loop
async def test_ping_is_answered_by_pong() -> None:
    async with node(listener("tcp")) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(b"\r\n\r\n")
        assert await peer.read(2) == b"\r\n"
        assert ours.received == []
        await peer.close()


@on_loop
async def test_connection_is_opened_on_demand_and_used_again() -> None:
    async with node(listener("tcp")) as ours, tcp_server() as (remote, peers):
        flow = ours.flow_to(remote)
        ours.wires.send(MESSAGE, flow)
        ours.wires.send(MESSAGE, flow)
        peer = await accepted(peers)
        assert await peer.read(2 * len(MESSAGE)) == 2 * MESSAGE
        ours.wires.send(MESSAGE, flow)
        await peer.read(len(MESSAGE))
        assert ours.wires.connections == 1
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        assert ours.received[0][1].remote == remote


@on_loop
async def test_request_from_a_peer_opens_the_way_back_to_it() -> None:
    """RFC 5923 in spirit: what is sent to the address of an open connection goes on it."""
    async with node(listener("tcp")) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        flow = ours.flow_to(peer.local)
        ours.wires.send(b"request", flow)
        assert await peer.read(7) == b"request"
        assert ours.wires.connections == 1
        await peer.close()


@on_loop
async def test_response_of_a_closed_connection_goes_to_the_port_of_the_via() -> None:
    async with node(listener("tcp")) as ours, tcp_server() as (remote, peers):
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(OPTIONS % remote[1])
        await ours.until(lambda: ours.received)
        flow = ours.received[0][1]
        await peer.close()
        await ours.until(lambda: ours.wires.connections == 0)
        response = b"SIP/2.0 200 OK\r\n" + (OPTIONS % remote[1]).partition(b"\r\n")[2]
        ours.wires.send(response, flow)
        assert await (await accepted(peers)).read(len(response)) == response


@on_loop
async def test_refused_connection_fails_every_flow_that_waits() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        remote = unused.getsockname()[:2]
        async with node(listener("tcp")) as ours:
            flow = ours.flow_to(remote)
            ours.wires.send(MESSAGE, flow)
            assert ours.failed == []
            await ours.until(lambda: flow in ours.failed)
            assert ours.wires.counters.connect_failed == 1


@on_loop
async def test_connecting_has_a_deadline() -> None:
    with socket.socket() as full:
        # A full backlog leaves the next connection without an answer.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        remote = full.getsockname()[:2]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(remote)
        try:
            async with node(listener("tcp"), connect_s=0.2) as ours:
                flow = ours.flow_to(remote)
                ours.wires.send(MESSAGE, flow)
                await ours.until(lambda: flow in ours.failed)
                assert ours.wires.counters.connect_failed == 1
        finally:
            for filler in fillers:
                filler.close()


@on_loop
async def test_reset_connection_fails_what_was_sent_on_it() -> None:
    async with node(listener("tcp")) as ours, tcp_server() as (remote, peers):
        flow = ours.flow_to(remote)
        ours.wires.send(MESSAGE, flow)
        peer = await accepted(peers)
        await peer.read(len(MESSAGE))
        peer.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        await peer.close()
        await ours.until(lambda: flow in ours.failed)
        assert ours.wires.counters.lost == 1


@pytest.mark.parametrize(
    ("limits", "counter"),
    [
        ({"connections": 1}, "refused_total"),
        ({"connections_per_source": 1}, "refused_source"),
    ],
)
@on_loop
async def test_connection_over_a_limit_is_closed_and_counted(limits: dict[str, int], counter: str) -> None:
    async with node(listener("tcp"), **limits) as ours:
        first = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.connections == 1)
        second = await TcpPeer.connect(ours.local("tcp"))
        assert await second.closed()
        assert getattr(ours.wires.counters, counter) == 1
        await first.close()
        await ours.until(lambda: ours.wires.connections == 0)
        third = await TcpPeer.connect(ours.local("tcp"))
        third.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        await second.close()
        await third.close()


@on_loop
async def test_a_flood_of_accepted_connections_leaves_the_way_out_open() -> None:
    async with node(listener("tcp"), connections=1) as ours, tcp_server() as (remote, peers):
        first = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.connections == 1)
        flow = ours.flow_to(remote)
        ours.wires.send(MESSAGE, flow)
        await (await accepted(peers)).read(len(MESSAGE))
        other = Flow("public", "tcp", flow.local, ("127.0.0.1", 1))
        ours.wires.send(MESSAGE, other)
        await ours.until(lambda: ours.failed == [other])
        assert ours.wires.counters.refused_connect == 1
        await first.close()


@on_loop
async def test_idle_connection_is_closed() -> None:
    async with node(listener("tcp"), idle_s=0.2) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        assert await peer.closed()
        assert ours.wires.counters.closed_idle == 1
        await peer.close()


@on_loop
async def test_slow_loris_is_closed_though_it_keeps_sending() -> None:
    async with node(listener("tcp"), partial_s=0.3) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        for byte in MESSAGE:
            if ours.wires.counters.closed_partial:
                break
            with contextlib.suppress(ConnectionError):
                peer.writer.write(bytes([byte]))
                await peer.writer.drain()
            await asyncio.sleep(0.02)
        assert ours.wires.counters.closed_partial == 1
        assert ours.received == []
        await peer.close()


@on_loop
async def test_single_crlf_does_not_count_as_half_a_message() -> None:
    async with node(listener("tcp"), partial_s=0.2) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(b"\r\n")
        await asyncio.sleep(0.5)
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        assert ours.received[0][0] == MESSAGE
        await peer.close()


@on_loop
async def test_peer_that_does_not_read_is_closed_when_the_buffer_is_full() -> None:
    async with node(listener("tcp"), write_buffer_bytes=100_000) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        stop_reading(peer)
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        flow = ours.received[0][1]
        for _ in range(2000):
            ours.wires.send(b"x" * 10_000, flow)
            if ours.wires.counters.closed_overflow:
                break
        assert ours.wires.counters.closed_overflow == 1
        await ours.until(lambda: flow in ours.failed)
        await peer.close()


@on_loop
async def test_peer_that_stops_reading_is_closed_after_a_while() -> None:
    async with node(listener("tcp"), write_buffer_bytes=100_000_000, stalled_s=0.3) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        stop_reading(peer)
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        flow = ours.received[0][1]
        for _ in range(1000):
            ours.wires.send(b"x" * 10_000, flow)
        await ours.until(lambda: flow in ours.failed)
        assert ours.wires.counters.closed_stalled == 1
        await peer.close()


@on_loop
async def test_slow_but_reading_peer_gets_everything_in_order() -> None:
    async with node(listener("tcp"), write_buffer_bytes=100_000_000) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        flow = ours.received[0][1]
        whole = b"".join(b"%08d" % number * 1000 for number in range(1000))
        for at in range(0, len(whole), 8000):
            ours.wires.send(whole[at : at + 8000], flow)
        assert await peer.read(len(whole)) == whole
        await peer.close()


@on_loop
async def test_stream_out_of_step_is_answered_and_closed() -> None:
    async with node(listener("tcp"), max_message_bytes=2000) as ours:
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE + MESSAGE.replace(b"Content-Length: 0", b"Content-Length: 9999"))
        async with asyncio.timeout(30):
            answer = await peer.reader.read()
        assert answer.startswith(b"SIP/2.0 513 ")
        assert [data for data, _, _ in ours.received] == [MESSAGE]
        assert ours.wires.counters.closed_framing == 1
        await peer.close()


@on_loop
async def test_accept_rests_when_the_system_has_no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(listener("tcp")) as ours:
        face: Any = next(iter(ours.wires._faces.values()))
        real = face._socket

        class Exhausted:
            def accept(self) -> None:
                raise OSError(errno.EMFILE, "too many open files")

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        face._socket = Exhausted()
        peer = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.counters.refused_system)
        assert ours.wires.counters.refused_system == 1
        face._socket = real
        peer.writer.write(MESSAGE)
        await ours.until(lambda: ours.received)
        await peer.close()


def test_connections_of_one_ipv6_subscriber_count_together() -> None:
    book = ConnectionBook(TransportLimits(connections_per_source=2), TransportCounters())
    sources = ["2001:db8:0:7::1", "2001:db8:0:7::2", "2001:db8:0:7:ffff::3"]
    for source in sources[:2]:
        assert not book.refuse_accept(source)
        book.enter(True, source)
    assert book.refuse_accept(sources[2])
    assert not book.refuse_accept("2001:db8:0:8::1")
    for source in sources[:2]:
        book.leave(True, source)
    assert not book.per_source, "nothing is remembered of who is gone"
