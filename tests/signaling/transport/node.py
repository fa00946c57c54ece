"""Open wires on loopback, and the peers that talk to them."""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from signaling.flow import Address, Flow, Listener, flow_from
from signaling.transport.limits import TransportLimits
from signaling.transport.wires import Wires

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
        flow = flow_from(self.wires.bound, "public", transport, remote)
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
