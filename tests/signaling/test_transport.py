"""The transport faces on loopback: UDP, TCP and both together."""

import asyncio
import contextlib
import errno
import functools
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

import pytest

from signaling.flow import Address, Flow, Listener
from signaling.transport.limits import TransportCounters, TransportLimits
from signaling.transport.listener import choose_listener, flow_from
from signaling.transport.stream import ConnectionBook
from signaling.transport.wires import ListenError, Wires

P = ParamSpec("P")

OPTIONS = (
    b"OPTIONS sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:%d;branch=z9hG4bKx\r\n"
    b"From: <sip:a@a>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
)
MESSAGE = OPTIONS % 5060


def listener(
    transport: str = "udp", host: str = "127.0.0.1", port: int = 0, network: str = "public"
) -> Listener:
    return Listener(network, transport, (host, port), ("sbc.example", 5060))


def on_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def stall(seconds: float) -> None:
    """Hold up the loop, as an overloaded process does."""
    time.sleep(seconds)


def stop_reading(peer: "TcpPeer") -> None:
    transport: Any = peer.writer.transport
    transport.pause_reading()


class Node:
    """Open wires, with what came in and what failed."""

    def __init__(self, listeners: list[Listener], limits: TransportLimits) -> None:
        self.received: list[tuple[bytes, Flow, float]] = []
        self.failed: list[Flow] = []
        self.slow_s = 0.0  # that serving a message takes
        self.wires = Wires(
            listeners,
            self.receive,
            self.failed.append,
            limits,
        )
        self.wires.open()

    def receive(self, data: bytes, flow: Flow, age_s: float) -> None:
        self.received.append((data, flow, age_s))
        stall(self.slow_s)

    def flow_to(self, remote: Address, transport: str = "tcp") -> Flow:
        flow = self.wires.flow_to("public", transport, remote)
        assert flow is not None
        return flow

    def local(self, transport: str) -> Address:
        return next(bound.local for bound in self.wires.bound if bound.transport == transport)

    async def until(self, done: Callable[[], object], seconds: float = 30.0) -> None:
        for _ in range(int(seconds / 0.005)):
            if done():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"not within {seconds} s")


@asynccontextmanager
async def node(*listeners: Listener, **limits: Any) -> AsyncIterator[Node]:
    """A node that must leave no socket, reader, timer or task behind."""
    running: Any = asyncio.get_running_loop()
    before = {key.fd for key in running._selector.get_map().values()}
    made = Node(list(listeners), TransportLimits(**limits))
    try:
        yield made
    finally:
        made.wires.close()
        assert made.wires.connections == 0
        assert made.wires.bound == ()
        await asyncio.sleep(0)
        assert {key.fd for key in running._selector.get_map().values()} == before
        assert len(asyncio.all_tasks()) == 1


@contextlib.contextmanager
def udp_peer(host: str = "127.0.0.1") -> Any:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        peer.settimeout(30.0)
        yield peer


class TcpPeer:
    """A scripted peer on a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, remote: Address) -> "TcpPeer":
        return cls(*await asyncio.open_connection(*remote))

    @property
    def local(self) -> Address:
        address: Address = self.writer.get_extra_info("sockname")[:2]
        return address

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.readexactly(size)

    async def closed(self) -> bool:
        """Whether the other side closes within a moment."""
        async with asyncio.timeout(30):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def tcp_server(port: int = 0) -> AsyncIterator[tuple[Address, "asyncio.Queue[TcpPeer]"]]:
    """A peer that accepts connections."""
    peers: asyncio.Queue[TcpPeer] = asyncio.Queue()
    accepted: list[TcpPeer] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(TcpPeer(reader, writer))
        peers.put_nowait(accepted[-1])

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[:2], peers
    finally:
        server.close()
        for peer in accepted:
            await peer.close()


async def accepted(peers: "asyncio.Queue[TcpPeer]") -> TcpPeer:
    async with asyncio.timeout(30):
        return await peers.get()


# UDP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_udp_both_ways(host: str) -> None:
    async with node(listener(host=host)) as ours:
        with udp_peer(host) as peer:
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
            data, flow, age = ours.received[0]
            assert data == MESSAGE
            assert flow == Flow("public", "udp", ours.local("udp"), (host, peer.getsockname()[1]))
            assert 0 <= age < 1
            ours.wires.send(b"answer", flow)
            assert peer.recvfrom(100)[0] == b"answer"


@on_loop
async def test_flow_of_a_remote_is_one_object_and_the_cache_is_bounded() -> None:
    async with node(listener(), flows=2) as ours:
        for _ in range(2):
            with udp_peer() as peer:
                peer.sendto(MESSAGE, ours.local("udp"))
                peer.sendto(MESSAGE, ours.local("udp"))
                await ours.until(lambda: len(ours.received) % 2 == 0 and ours.received)
            assert ours.received[-1][1] is ours.received[-2][1]
        face: Any = next(iter(ours.wires._faces.values()))
        for _ in range(3):
            with udp_peer() as peer:
                peer.sendto(MESSAGE, ours.local("udp"))
                ours.received.clear()
                await ours.until(lambda: ours.received)
                assert len(face._flows) <= 2


@on_loop
async def test_one_wakeup_reads_a_bounded_number() -> None:
    async with node(listener(), datagrams_per_wakeup=4) as ours:
        with udp_peer() as peer:
            for _ in range(10):
                peer.sendto(MESSAGE, ours.local("udp"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert 0 < len(ours.received) <= 8
            await ours.until(lambda: len(ours.received) == 10)


@on_loop
async def test_age_is_what_the_datagram_waited_and_not_how_long_we_were_idle() -> None:
    async with node(listener()) as ours:
        with udp_peer() as peer:
            # Long enough to tell from the moments that a busy machine takes away from us.
            await asyncio.sleep(1.0)
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
            assert ours.received[0][2] < 0.8
            peer.sendto(MESSAGE, ours.local("udp"))
            stall(1.0)
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: len(ours.received) == 3)
            assert ours.received[1][2] >= 0.99
            assert ours.received[2][2] < 0.8


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
async def test_keepalive_and_oversized_datagrams_go_no_further() -> None:
    async with node(listener(), max_message_bytes=1000) as ours:
        with udp_peer() as peer:
            for data in (b"\r\n\r\n", b"\0", b"", b"x" * 1001, MESSAGE):
                peer.sendto(data, ours.local("udp"))
            await ours.until(lambda: ours.received)
            assert [data for data, _, _ in ours.received] == [MESSAGE]
            assert (ours.wires.counters.keepalives, ours.wires.counters.oversized) == (3, 1)


@on_loop
async def test_udp_send_that_the_system_refuses_fails_from_the_loop() -> None:
    async with node(listener()) as ours:
        flow = Flow("public", "udp", ours.local("udp"), ("127.0.0.1", 9))
        ours.wires.send(b"x" * 70_000, flow)
        assert ours.failed == []
        await ours.until(lambda: ours.failed == [flow])
        ours.wires.send(b"to nobody", flow)  # an ICMP error comes back and must not matter
        with udp_peer() as peer:
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
        assert ours.failed == [flow]


# TCP


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


# Wires


@on_loop
async def test_all_binding_errors_come_in_one_sentence_and_nothing_stays_open() -> None:
    with udp_peer() as taken:
        port = taken.getsockname()[1]
        wires = Wires(
            [
                listener("udp", port=port),
                listener("udp"),
                listener("tcp", host="203.0.113.77", port=5060, network="carrier"),
            ],
            lambda data, flow, age: None,
            lambda flow: None,
            TransportLimits(),
        )
        with pytest.raises(ListenError) as raised:
            wires.open()
    assert str(raised.value) == (
        f"cannot listen on udp:127.0.0.1:{port} of network public: the address is in use by another program "
        "(EADDRINUSE); tcp:203.0.113.77:5060 of network carrier: the address is not on this host (EADDRNOTAVAIL)"
    )
    assert wires.bound == ()


@on_loop
async def test_udp_and_tcp_share_a_port_and_both_families_a_network() -> None:
    async with node(listener("udp"), listener("udp", host="::1"), listener("tcp")) as ours:
        assert ours.wires.flow_to("public", "udp", ("::1", 5060)) is not None
        flow = ours.wires.flow_to("public", "udp", ("127.0.0.1", 5060))
        assert flow is not None
        assert flow.local == ours.local("udp")
        assert ours.wires.flow_to("private", "udp", ("127.0.0.1", 5060)) is None
        assert ours.wires.flow_to("public", "tcp", ("::1", 5060)) is None


@on_loop
async def test_sending_on_a_listener_that_is_not_there_fails() -> None:
    async with node(listener()) as ours:
        flow = Flow("private", "udp", ("127.0.0.2", 5060), ("127.0.0.1", 5060))
        ours.wires.send(b"x", flow)
        await ours.until(lambda: ours.failed == [flow])


@on_loop
async def test_closing_twice_and_sending_after_it_is_quiet() -> None:
    async with node(listener(), listener("tcp")) as ours:
        flow = Flow("public", "udp", ours.local("udp"), ("127.0.0.1", 9))
        ours.wires.close()
        ours.wires.close()
        ours.wires.send(b"x", flow)
        await asyncio.sleep(0)
        assert ours.failed == []


@on_loop
async def test_close_with_open_connections_and_one_under_way() -> None:
    async with node(listener("tcp")) as ours, tcp_server() as (remote, _):
        peer = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.connections == 1)
        flow = ours.flow_to(remote)
        ours.wires.send(MESSAGE, flow)
        ours.wires.close()
        assert await peer.closed()
        await peer.close()


def test_choice_of_the_listener_is_free_of_io() -> None:
    listeners = [
        listener("udp", "10.0.0.1", 5060, "private"),
        listener("udp", "203.0.113.10", 5060),
        listener("udp", "203.0.113.10", 5070),
        listener("tcp", "2001:db8::1", 5060),
    ]
    chosen = choose_listener(listeners, "public", "udp", ("198.51.100.7", 5060))
    assert chosen is listeners[1]
    assert flow_from(chosen, ("198.51.100.7", 5060)) == Flow(
        "public", "udp", ("203.0.113.10", 5060), ("198.51.100.7", 5060)
    )
    assert choose_listener(listeners, "public", "tcp", ("2001:db8::7", 5060)) is listeners[3]
    assert choose_listener(listeners, "public", "tcp", ("198.51.100.7", 5060)) is None
    assert choose_listener(listeners, "private", "tcp", ("10.0.0.9", 5060)) is None


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
