"""CPU per packet of the TURN gateway, beside that of the relay worker behind it.

    python -m tests.bench.bench_turn [calls ...]

Every call has one RTP stream of 50 packets/s each way by an allocation. The TURN server is one of the bench: it grants
what is signed, and is the generator and the sink of what goes by channels; so is the worker on the other side. What is
counted is the gateway's process alone (`tests.bench.bench_relay` says how), which comes on top of the worker's.
"""

import contextlib
import hashlib
import marshal
import multiprocessing
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from nat.allocation import (
    ALLOCATE,
    CHANNEL_BIND,
    CHANNEL_NUMBER,
    EVEN_PORT,
    LIFETIME,
    NONCE,
    REALM,
    REFRESH,
    RESERVATION_TOKEN,
    XOR_RELAYED_ADDRESS,
)
from nat.stun import ERROR_CODE, Address, Kind, Message, parse, xor_address
from tests.bench.bench_relay import PACKETS_PER_S, SECONDS, TICKS_PER_S, WARM_UP_S, cpu_s
from tests.bench.relays import our_packet_us
from tests.harness.rtp import rtp_packet

HOST = "127.0.0.1"
FIRST_PORT = 30_000
KEY = hashlib.md5(b"bench:example.org:bench").digest()
PEER: Address = ("203.0.113.5", 40_000)
RELAY_HOST = "198.51.100.20"


class Grants:
    """The TURN server: channels by the address of the client that bound them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ports: dict[Address, int] = {}
        self._reserved: dict[bytes, int] = {}
        self.channels: dict[Address, bytes] = {}

    def take(self, data: bytes, client: Address) -> None:
        """Answer a request; indications and media need no answer."""
        if data[0] >= 0x40:
            return
        request = parse(data)
        if request.kind is Kind.INDICATION:
            return
        if request.get(NONCE) is None:
            asks = ((ERROR_CODE, bytes((0, 0, 4, 1))), (REALM, b"example.org"), (NONCE, b"bench"))
            answer = Message(Kind.ERROR, request.method, request.transaction, asks).encode()
        else:
            answer = Message(
                Kind.SUCCESS, request.method, request.transaction, self._granted(request, client)
            ).encode(key=KEY)
        self._sock.sendto(answer, client)

    def _granted(self, request: Message, client: Address) -> tuple[tuple[int, bytes], ...]:
        if request.method == REFRESH:
            return ((LIFETIME, request.get(LIFETIME) or b""),)
        if request.method == CHANNEL_BIND:
            number = request.get(CHANNEL_NUMBER)
            assert number is not None
            self.channels[client] = number[:2]
        if request.method != ALLOCATE:
            return ()
        token = request.get(RESERVATION_TOKEN)
        port = self._ports.get(client)
        if port is None:
            port = FIRST_PORT + 2 * len(self._reserved) if token is None else self._reserved[token] + 1
            self._ports[client] = port
        granted: tuple[tuple[int, bytes], ...] = (
            (XOR_RELAYED_ADDRESS, xor_address((RELAY_HOST, port), request.transaction)),
            (LIFETIME, (600).to_bytes(4, "big")),
        )
        if request.get(EVEN_PORT):
            token = port.to_bytes(8, "big")
            self._reserved[token] = port
            granted += ((RESERVATION_TOKEN, token),)
        return granted


class Gateway:
    """The process under test."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sbc.turn_gateway", str(theirs.fileno())], pass_fds=(theirs.fileno(),)
            )
        self.pid = self._process.pid

    def send(self, *command: object) -> None:
        """A method of `sbc.turn_gateway.Gateway` and its arguments."""
        self._control.send(marshal.dumps([command]))

    def events(self) -> list[tuple[object, ...]]:
        """What it has told."""
        found: list[tuple[object, ...]] = marshal.loads(self._control.recv(262_144))
        return found

    @property
    def socket(self) -> socket.socket:
        return self._control

    def stop(self) -> None:
        self._control.close()
        self._process.wait(10)


def opened(
    gateway: Gateway, server: socket.socket, calls: int
) -> tuple[list[tuple[socket.socket, Address]], list[tuple[Address, bytes]]]:
    """Pairs at the server: the worker's socket and where it sends to, the gateway's address there and its channel."""
    grants = Grants(server)
    workers: list[tuple[socket.socket, Address]] = []
    for number in range(calls):
        gateway.send("open", number, HOST, server.getsockname(), "bench", "bench", HOST, HOST, (), ())
    legs: list[Address] = []
    deadline = time.monotonic() + 20
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        ready.register(gateway.socket, selectors.EVENT_READ)
        while len(grants.channels) < calls:
            assert time.monotonic() < deadline, f"{len(workers)} pairs, {len(grants.channels)} channels"
            for key, _ in ready.select(1.0):
                if key.fileobj is server:
                    grants.take(*server.recvfrom(2048))
                    continue
                for kind, pair, _, rtp, _, inside, _ in gateway.events():
                    assert kind == "opened" and isinstance(rtp, int) and isinstance(inside, tuple)
                    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    sock.bind((HOST, rtp))
                    sock.setblocking(False)
                    workers.append((sock, inside))
                    peer = (PEER, (PEER[0],), False, 1, 0.0)
                    gateway.send("peers", pair, peer, (None, (), False, 1, 0.0))
    legs = list(grants.channels)
    return workers, [(leg, grants.channels[leg]) for leg in legs]


def generate(
    workers: Sequence[tuple[socket.socket, Address]],
    channels: Sequence[tuple[Address, bytes]],
    server: socket.socket,
    stop: Event,
    sent: "Synchronized[int]",
    arrived: "Synchronized[int]",
) -> None:
    """50 packets a second both ways on each; counts what was sent and what has crossed the gateway."""
    server.setblocking(False)
    packets = [rtp_packet(seq, seq * 160, 7) for seq in range(2000)]
    slots = TICKS_PER_S // PACKETS_PER_S
    scratch = bytearray(2048)
    begin = time.monotonic()
    tick = count = 0
    while not stop.is_set():
        seq, slot = divmod(tick, slots)
        packet = packets[seq % 2000]
        framed = len(packet).to_bytes(2, "big") + packet
        for call in range(slot, len(workers), slots):
            sock, inside = workers[call]
            sock.sendto(packet, inside)
            client, channel = channels[call]
            server.sendto(channel + framed, client)
            sent.value += 2
        for sink in (server, *(workers[call][0] for call in range(slot, len(workers), slots))):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sink.recv_into(scratch)
                    count += 1
        arrived.value = count
        tick += 1
        time.sleep(max(0.0, begin + tick / TICKS_PER_S - time.monotonic()))


@contextlib.contextmanager
def traffic(
    workers: Sequence[tuple[socket.socket, Address]],
    channels: Sequence[tuple[Address, bytes]],
    server: socket.socket,
) -> Iterator[tuple["Synchronized[int]", "Synchronized[int]"]]:
    """Media from a process of its own: how many packets it has sent, and how many have come."""
    context = multiprocessing.get_context("fork")
    stop, sent, arrived = context.Event(), context.Value("q", 0), context.Value("q", 0)
    process = context.Process(
        target=generate, args=(workers, channels, server, stop, sent, arrived), daemon=True
    )
    process.start()
    try:
        yield sent, arrived
    finally:
        stop.set()
        process.join()


def gateway_packet_us(calls: int, seconds: float = SECONDS) -> tuple[float, float, float]:
    """Microseconds of the gateway's CPU for a packet, its share of a core, and what part of the packets came."""
    gateway = Gateway()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        workers, channels = opened(gateway, server, calls)
        try:
            with traffic(workers, channels, server) as (sent, arrived):
                time.sleep(WARM_UP_S)
                asked, packets, cpu, at = sent.value, arrived.value, cpu_s(gateway.pid), time.monotonic()
                time.sleep(seconds)
                asked, packets = sent.value - asked, arrived.value - packets
                cpu, lasted = cpu_s(gateway.pid) - cpu, time.monotonic() - at
        finally:
            for sock, _ in workers:
                sock.close()
            gateway.stop()
    return cpu / packets * 1e6, cpu / lasted, packets / asked


def table(calls: Sequence[int]) -> Iterator[str]:
    """A line for each load."""
    yield "| calls by TURN | gateway, us CPU a packet | of a core | got through | worker without it, us |"
    yield "| --- | --- | --- | --- | --- |"
    for number in calls:
        cost, core, share = gateway_packet_us(number)
        yield f"| {number} | {cost:.1f} | {core:.0%} | {share:.1%} | {our_packet_us(number):.1f} |"


if __name__ == "__main__":
    for line in table([int(argument) for argument in sys.argv[1:]] or [20, 100]):
        print(line, flush=True)
