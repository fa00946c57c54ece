"""The TURN gateway: a process between the relay workers and TURN servers, for networks whose media goes by one.

    worker ── loopback ── leg ── allocation at the TURN server ── peer

A pair of legs carries RTP and RTCP of one end. The worker binds the port numbers that the server gave, on a
loopback address, so that all above it deals with ports as ever. Whose packets a leg believes: those of hosts that
it was told, and of the first source among them until the signalling says something new.

The control socket has the form of `media.worker`: marshalled lists of tuples. Commands are (method name, *arguments) of
`Gateway`; events are ("opened", pair, relayed host, RTP port, RTCP port, our two loopback addresses),
("locked", pair, 0 or 1 for RTCP, source) and ("gone", pair, reason).
"""

import asyncio
import contextlib
import marshal
import os
import resource
import signal
import socket
import sys
from ipaddress import ip_network
from typing import Any

from nat.address import may_be_peer
from nat.allocation import Account, Allocation, State
from nat.stun import Address

MESSAGE_BYTES = 262_144
BATCH = 64
"""Packets of one socket before the others get their turn."""
TICK_S = 0.1
_MAX_DATAGRAM = 65_535
Peer = tuple[Address | None, tuple[str, ...], bool, int, float]
"""Signalled address, hosts that are believed, whether other ports of them are too, epoch, how long to send to who has
not been heard, s (0: for ever)."""


class Leg:
    """One allocation and the loopback socket that the worker sees in its place."""

    def __init__(self, pair: "Pair", kind: int, reserved: bytes | None) -> None:
        self.pair = pair
        self.kind = kind
        self.allocation = Allocation(
            pair.account, os.urandom, reserve=kind == 0, reserved=reserved, ipv6=":" in pair.local
        )
        self.signalled: Address | None = None
        self.source: Address | None = None
        self._hosts: frozenset[str] = frozenset()
        self._learn = False
        self._epoch = -1
        self._patience_s = 0.0
        self._sending_since: float | None = None
        self.outer = _udp(pair.local)
        self.inner = _udp(pair.inside)
        self.outer.connect(pair.server)
        loop = pair.gateway.loop
        loop.add_reader(self.outer, self._take_outer)
        self._send_all(self.allocation.begin(loop.time()))

    @property
    def inside(self) -> Address:
        """Where the worker sends to."""
        host, port = self.inner.getsockname()
        return host, port

    def join(self, worker: Address) -> None:
        """From now on there is a worker."""
        self.inner.connect(worker)
        self.pair.gateway.loop.add_reader(self.inner, self._take_inner)

    def believe(self, peer: Peer) -> None:
        """Whom to send to and whose packets to take."""
        signalled, hosts, learn, epoch, patience_s = peer
        allowed = frozenset(host for host in hosts if may_be_peer(host, self.pair.own, self.pair.refused))
        if signalled is not None and signalled[0] not in allowed:
            signalled = None
        if epoch != self._epoch or signalled != self.signalled or allowed != self._hosts:
            self.source = self._sending_since = None
        self.signalled, self._hosts, self._learn, self._epoch = signalled, allowed, learn, epoch
        self._patience_s = patience_s
        self._aim()

    def handle_timer(self, now: float) -> None:
        """What the allocation has to do."""
        due = self.allocation.next_timer()
        if due is not None and due <= now:
            self._send_all(self.allocation.handle_timer(now))
            self.pair.look()

    def close(self) -> None:
        """Give the allocation up."""
        loop = self.pair.gateway.loop
        loop.remove_reader(self.outer)
        loop.remove_reader(self.inner)
        self._send_all(self.allocation.close(loop.time()))
        self.outer.close()
        self.inner.close()

    def _aim(self) -> None:
        target = self.source or self.signalled
        peers = () if target is None else (target,)
        self._send_all(self.allocation.want(self._hosts, peers, self.pair.gateway.loop.time()))

    def _send_all(self, sends: list[bytes]) -> None:
        for data in sends:
            with contextlib.suppress(OSError):
                self.outer.send(data)

    def _take_outer(self) -> None:
        for _ in range(BATCH):
            try:
                data = self.outer.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # ICMP: the server is not there; its timers say so in the end
            found = self.allocation.unwrap(data)
            if found is not None:
                self._inward(*found)
                continue
            self._send_all(self.allocation.receive(data, self.pair.gateway.loop.time()))
            self.pair.look()
            if self.outer.fileno() < 0:
                return

    def _inward(self, peer: Address, payload: bytes) -> None:
        if peer[0] not in self._hosts:
            return
        if self.source is None:
            if not self._learn and peer != self.signalled:
                return
            self.source = peer
            self._aim()
            self.pair.gateway.tell(("locked", self.pair.number, self.kind, peer))
        elif peer != self.source:
            return
        with contextlib.suppress(OSError):
            self.inner.send(payload)

    def _take_inner(self) -> None:
        for _ in range(BATCH):
            try:
                data = self.inner.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # ICMP: the worker has closed its port
            target = self.source or self.signalled
            if target is None or self._is_unheard():
                continue
            with contextlib.suppress(OSError):
                self.outer.send(self.allocation.wrap(data, target))

    def _is_unheard(self) -> bool:
        """Whether the target has been sent to for long enough without a packet from there."""
        if self.source is not None or not self._patience_s:
            return False
        now = self.pair.gateway.loop.time()
        if self._sending_since is None:
            self._sending_since = now
        return now - self._sending_since > self._patience_s


class Pair:
    """The two legs of one end."""

    def __init__(
        self,
        gateway: "Gateway",
        number: int,
        local: str,
        server: Address,
        account: Account,
        inside: str,
        worker: str,
        own: tuple[str, ...],
        refused: tuple[str, ...],
    ) -> None:
        self.gateway = gateway
        self.number = number
        self.local = local
        self.server = server
        self.account = account
        self.inside = inside
        self.worker = worker
        self.own = own
        self.refused = tuple(ip_network(prefix) for prefix in refused)
        self.legs = [Leg(self, 0, None)]
        self._opened = False

    def look(self) -> None:
        """Something has changed at one of the allocations."""
        for leg in self.legs:
            if leg.allocation.state is State.GONE:
                self.gateway.lose(self, leg.allocation.why)
                return
        first = self.legs[0].allocation
        if self._opened or first.relayed is None:
            return
        if len(self.legs) == 1:
            if first.reservation is None:
                self.gateway.lose(self, "the server reserves no second port (RFC 8656 s.7.2)")
                return
            try:
                self.legs.append(Leg(self, 1, first.reservation))
            except OSError as error:
                self.gateway.lose(self, f"{self.local}: {error.strerror}")
            return
        second = self.legs[1].allocation
        if second.relayed is None:
            return
        (host, rtp), (other, rtcp) = first.relayed, second.relayed
        if host != other or rtcp != rtp + 1 or rtp % 2:
            self.gateway.lose(self, f"the server gave {host}:{rtp} and {other}:{rtcp}, which is no pair")
            return
        self._opened = True
        for leg, port in zip(self.legs, (rtp, rtcp), strict=True):
            leg.join((self.worker, port))
        inside = tuple(leg.inside for leg in self.legs)
        self.gateway.tell(("opened", self.number, host, rtp, rtcp, *inside))

    def close(self) -> None:
        """Give both up."""
        for leg in self.legs:
            leg.close()


class Gateway:
    """All pairs of the process, and its control socket."""

    def __init__(self, control: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self._control = control
        self._pairs: dict[int, Pair] = {}
        self._ended = asyncio.Event()
        control.setblocking(False)
        self.loop.add_reader(control, self._read)

    async def run(self) -> None:
        """Serve until the parent closes its end."""
        ended = asyncio.ensure_future(self._ended.wait())
        while not ended.done():
            await asyncio.wait([ended], timeout=TICK_S)
            now = self.loop.time()
            for pair in list(self._pairs.values()):
                for leg in list(pair.legs):
                    leg.handle_timer(now)
        for pair in self._pairs.values():
            pair.close()

    def open(
        self,
        number: int,
        local: str,
        server: Address,
        username: str,
        password: str,
        inside: str,
        worker: str,
        own: tuple[str, ...],
        refused: tuple[str, ...],
    ) -> None:
        """Ask for a pair of ports at a server. Neither `own` addresses nor `refused` prefixes can be peers."""
        account = Account(username, password)
        try:
            self._pairs[number] = Pair(self, number, local, server, account, inside, worker, own, refused)
        except OSError as error:
            self.tell(("gone", number, f"{local}: {error.strerror}"))

    def peers(self, number: int, rtp: Peer, rtcp: Peer) -> None:
        """Say who the peer of a pair is."""
        pair = self._pairs.get(number)
        if pair is not None:
            for leg, peer in zip(pair.legs, (rtp, rtcp), strict=False):
                leg.believe(peer)

    def close(self, number: int) -> None:
        """Give a pair up."""
        pair = self._pairs.pop(number, None)
        if pair is not None:
            pair.close()

    def lose(self, pair: Pair, why: str) -> None:
        """A pair is of no use any more."""
        if self._pairs.pop(pair.number, None) is not None:
            pair.close()
            self.tell(("gone", pair.number, why))

    def tell(self, event: tuple[Any, ...]) -> None:
        """Tell the parent. Events are few: what does not fit any more is as good as the end of the parent."""
        try:
            self._control.send(marshal.dumps([event]))
        except OSError:
            self._ended.set()

    def _read(self) -> None:
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.loop.remove_reader(self._control)
            self._ended.set()
            return
        for name, *arguments in marshal.loads(data):
            getattr(self, name)(*arguments)


def _udp(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind((host, 0))
    except OSError:
        sock.close()
        raise
    return sock


async def _serve(descriptor: int) -> None:
    await Gateway(socket.socket(fileno=descriptor)).run()


def main(arguments: list[str]) -> None:
    """`turn_gateway FD`: FD is our end of the control socket pair."""
    # As in media.worker: media goes on until the parent has said goodbye to its calls.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(int(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
