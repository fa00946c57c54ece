"""SIP over TCP: framing, reuse of connections, and limits on what a peer may cost.

Sockets are driven by the loop's readers and writers directly: no task lives here, so none can be left behind.
"""

import asyncio
import errno
import socket
import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import replace
from enum import Enum
from itertools import count

from nat.address import subscriber
from signaling.errors import ParseError
from signaling.flow import Address, Flow, Listener
from signaling.message import Response
from signaling.parser import Framer, KeepAlive, ParseLimits, parse, refuse
from signaling.transport.arrival import ANCILLARY_BYTES, stamp_arrivals, waited_s
from signaling.transport.limits import TransportCounters, TransportLimits

Receive = Callable[[bytes, Flow, float], None]
Failed = Callable[[Flow], None]

_READ_BYTES = 65_536
_ACCEPT_PAUSE_S = 0.2
_SWEEP_S = 1.0
_MAX_FLOWS = 64
_PONG = b"\r\n"
_MIN_PARTIAL_BYTES = 4  # less may be the half of a keep-alive
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

UNANSWERED_MS = 32_000
"""A connection whose other end acknowledges nothing for so long is none any more (RFC 5482). The system's own limit is
a quarter of an hour, for which a phone whose router was switched off would seem to be there; this is timer F.

SO_KEEPALIVE stays off: the same limit holds for its probes (tcp(7)), so that of a connection that was quiet for longer
the first probe that is lost would be the end. Who is called finds out, and who is not is missed by nobody."""


class Phase(Enum):
    """The life of a connection."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class ConnectionBook:
    """What the stream listeners of one node share: numbers, totals, counters."""

    def __init__(self, limits: TransportLimits, counters: TransportCounters) -> None:
        self.limits = limits
        self.counters = counters
        self.accepted = 0
        self.opened = 0
        self.per_source: Counter[str] = Counter()
        self.numbers = count(1)

    def refuse_accept(self, source: str) -> bool:
        """Whether a connection from `source` is over a limit; counts the reason."""
        if self.accepted >= self.limits.connections:
            self.counters.refused_total += 1
            return True
        if self.per_source[subscriber(source)] >= self.limits.connections_per_source:
            self.counters.refused_source += 1
            return True
        return False

    def enter(self, inbound: bool, source: str) -> None:
        """One more connection."""
        if inbound:
            self.accepted += 1
            self.per_source[subscriber(source)] += 1
        else:
            self.opened += 1

    def leave(self, inbound: bool, source: str) -> None:
        """One connection less."""
        if not inbound:
            self.opened -= 1
            return
        self.accepted -= 1
        owner = subscriber(source)
        self.per_source[owner] -= 1
        if not self.per_source[owner]:
            del self.per_source[owner]


class Connection:
    """One TCP connection, accepted or opened by us."""

    def __init__(self, face: "StreamListener", sock: socket.socket, remote: Address, inbound: bool) -> None:
        self._face = face
        self._socket = sock
        self.remote = remote
        self.inbound = inbound
        self.number = next(face.book.numbers)
        self.phase = Phase.OPEN if inbound else Phase.CONNECTING
        self.flow = Flow(face.listener.network, face.listener.transport, face.local, remote, self.number)
        self._framer = Framer(ParseLimits(max_message_bytes=face.limits.max_message_bytes))
        self._partial_bytes = 0
        self._unsent = bytearray()
        self._flows = {self.flow}  # that something was sent on: who is told when it is lost
        now = time.monotonic()
        self._started_at = now
        self._active_at = now
        self._partial_at: float | None = None  # since when a message is under way
        self._stalled_at: float | None = None  # since when the peer has read nothing of what waits
        loop = face.loop
        if inbound:
            loop.add_reader(sock.fileno(), self._readable)
        else:
            loop.add_writer(sock.fileno(), self._connected)

    @property
    def sending(self) -> bool:
        """Whether something that we sent still waits here."""
        return bool(self._unsent)

    def send(self, data: bytes, flow: Flow) -> None:
        """Write, now as far as the socket takes it; the rest waits within the bound of the buffer."""
        if len(self._flows) >= _MAX_FLOWS:
            self._flows = {self.flow}
        self._flows.add(flow)
        if self.phase is Phase.OPEN and not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._lose()
                return
            self._active_at = time.monotonic()
            if sent == len(data):
                return
            data = data[sent:]
            self._stalled_at = self._active_at
            self._face.loop.add_writer(self._socket.fileno(), self._writable)
        if len(self._unsent) + len(data) > self._face.limits.write_buffer_bytes:
            self._face.counters.closed_overflow += 1
            self.close(failed=True)
            return
        self._unsent += data

    def close(self, failed: bool = False) -> None:
        """Close; `failed` tells the users of the connection that what they sent has not arrived."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        loop = self._face.loop
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._unsent.clear()
        self._face.forget(self)
        if failed:
            for flow in self._flows:
                loop.call_soon(self._face.failed, flow)

    def sweep(self, now: float) -> None:
        """Close when a limit on time is over."""
        limits = self._face.limits
        counters = self._face.counters
        if self.phase is Phase.CONNECTING:
            if now - self._started_at >= limits.connect_s:
                counters.connect_failed += 1
                self.close(failed=True)
        elif self._stalled_at is not None and now - self._stalled_at >= limits.stalled_s:
            counters.closed_stalled += 1
            self.close(failed=True)
        elif self._partial_at is not None and now - self._partial_at >= limits.partial_s:
            counters.closed_partial += 1
            self.close()
        elif not self._unsent and now - self._active_at >= limits.idle_s:
            counters.closed_idle += 1
            self.close()

    def _connected(self) -> None:
        face = self._face
        face.loop.remove_writer(self._socket.fileno())
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            face.counters.connect_failed += 1
            self.close(failed=True)
            return
        face.counters.connected += 1
        self.phase = Phase.OPEN
        self._active_at = time.monotonic()
        face.loop.add_reader(self._socket.fileno(), self._readable)
        if self._unsent:
            self._stalled_at = self._active_at
            face.loop.add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose()
            return
        del self._unsent[:sent]
        self._active_at = time.monotonic()
        if self._unsent:
            self._stalled_at = self._active_at
        else:
            self._stalled_at = None
            self._face.loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lose()
            return
        if not data:
            self._face.counters.closed_by_peer += 1
            # A peer that closes in good order has read what we sent: only what still waits here is lost.
            self.close(failed=bool(self._unsent))
            return
        self._active_at = time.monotonic()
        # What came before the last byte has waited longer, what stands after others here waits for them too.
        arrived_at = self._active_at - waited_s(ancillary)
        self._partial_bytes += len(data)
        try:
            items = self._framer.feed(data)
        except ParseError:
            items = []
        for item in items:
            if isinstance(item, KeepAlive):
                self._partial_bytes -= len(item.value)
                self._face.counters.keepalives += 1
                if item is KeepAlive.PING:
                    self.send(_PONG, self.flow)  # RFC 5626 s.4.4.1
            else:
                self._partial_bytes -= len(item)
                self._face.receive(item, self.flow, time.monotonic() - arrived_at)
            if self.phase is Phase.CLOSED:
                return
        if self._framer.error is not None:
            self._out_of_step(self._framer.error)
        elif self._partial_bytes < _MIN_PARTIAL_BYTES:
            self._partial_at = None
        elif items or self._partial_at is None:
            self._partial_at = self._active_at

    def _out_of_step(self, error: ParseError) -> None:
        """The stream cannot be read on: answer what can be answered, and close."""
        self._face.counters.closed_framing += 1
        answer = refuse(self._framer.rest, error.status, error.reason)
        if answer is not None:
            self.send(answer, self.flow)
        self.close()

    def _lose(self) -> None:
        self._face.counters.lost += 1
        self.close(failed=True)


class StreamListener:
    """One TCP port and all connections that use it, accepted there or opened from its address.

    `receive(data, flow, age_s)` gets whole messages and is told how long they have waited at least; `failed(flow)` is
    called from the loop, never from inside `send`, when what was sent on `flow` cannot have arrived.
    """

    def __init__(
        self,
        listener: Listener,
        receive: Receive,
        failed: Failed,
        book: ConnectionBook,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.listener = listener
        self.local = listener.local
        self.receive = receive
        self.failed = failed
        self.book = book
        self.counters = book.counters
        self.loop = loop
        self._closed = False
        self._socket: socket.socket | None = None
        self._connections: dict[int, Connection] = {}
        self._by_remote: dict[Address, Connection] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._pause_timer: asyncio.TimerHandle | None = None
        self._sweep_s = _SWEEP_S

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def limits(self) -> TransportLimits:
        """The bounds that all listeners share."""
        return self.book.limits

    def bind(self) -> None:
        """Bind and listen; who connects waits for `serve`. OSError when the address cannot be had."""
        sock = self._new_socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stamp_arrivals(sock)  # of what comes before we accept it, too
            sock.bind(self.local)
            sock.listen(1024)
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self.local = (self.local[0], sock.getsockname()[1])

    def serve(self, listener: Listener) -> None:
        """Accept connections, for whom `listener` says: also when that changes while we do."""
        limits = self.limits
        shortest = min(limits.idle_s, limits.partial_s, limits.connect_s, limits.stalled_s)
        self._sweep_s = min(_SWEEP_S, shortest / 4)
        if listener.network != self.listener.network:
            for connection in self._connections.values():
                connection.flow = replace(connection.flow, network=listener.network)
        self.listener = listener
        if self._socket is not None and self._pause_timer is None:
            self.loop.add_reader(self._socket.fileno(), self._accept)

    def stop_listening(self) -> None:
        """Take no new connections; those that there are stay, and old flows may still get one."""
        if self._pause_timer is not None:
            self._pause_timer.cancel()
            self._pause_timer = None
        if self._socket is not None:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def release(self, remotes: Container[Address]) -> bool:
        """Close the connections to all but these; whether none is left."""
        for connection in list(self._connections.values()):
            if connection.remote not in remotes and not connection.sending:
                connection.close()
        return not self._connections

    def send(self, data: bytes, flow: Flow) -> None:
        """Send on the connection of `flow`, on another one to the same peer, or on a new one.

        A response whose connection is gone goes to the port of its top Via (RFC 3261 s.18.2.2).
        """
        if self._closed:
            return
        connection = self._connections.get(flow.connection) if flow.connection else None
        if connection is None:
            remote = flow.remote
            if flow.connection and data.startswith(b"SIP/2.0 "):
                remote = _sent_by(data, remote)
            connection = self._by_remote.get(remote) or self._connect(remote, flow)
        if connection is not None:
            connection.send(data, flow)

    def close(self) -> None:
        """Close the port and every connection. Safe to call twice."""
        self._closed = True
        self.stop_listening()
        for connection in list(self._connections.values()):
            connection.close()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self._connections.pop(connection.number, None)
        if self._by_remote.get(connection.remote) is connection:
            del self._by_remote[connection.remote]
        self.book.leave(connection.inbound, connection.remote[0])

    def _new_socket(self) -> socket.socket:
        ipv6 = ":" in self.listener.local[0]
        sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return sock

    def _accept(self) -> None:
        for _ in range(self.limits.accepts_per_wakeup):
            if self._socket is None:
                return
            try:
                sock, source = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    # The connection stays in the backlog and would wake us for ever.
                    self.counters.refused_system += 1
                    self.loop.remove_reader(self._socket.fileno())
                    self._pause_timer = self.loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
                    return
                continue  # gone before we came (ECONNABORTED)
            if self.book.refuse_accept(source[0]):
                sock.close()
                continue
            self.counters.accepted += 1
            self._enter(sock, (source[0], source[1]), inbound=True)

    def _accept_again(self) -> None:
        self._pause_timer = None
        if self._socket is not None:
            self.loop.add_reader(self._socket.fileno(), self._accept)

    def _connect(self, remote: Address, flow: Flow) -> Connection | None:
        if self.book.opened >= self.limits.connections:
            self.counters.refused_connect += 1
            self.loop.call_soon(self.failed, flow)
            return None
        try:
            sock = self._new_socket()
        except OSError:
            self.counters.refused_system += 1
            self.loop.call_soon(self.failed, flow)
            return None
        try:
            # Our listener's address, so that the packets leave by its interface; the port is the system's choice.
            sock.bind((self.local[0], 0))
            sock.connect(remote)
        except BlockingIOError:
            pass  # EINPROGRESS
        except (OSError, OverflowError):
            self.counters.connect_failed += 1
            sock.close()
            self.loop.call_soon(self.failed, flow)
            return None
        return self._enter(sock, remote, inbound=False)

    def _enter(self, sock: socket.socket, remote: Address, inbound: bool) -> Connection:
        sock.setblocking(False)
        stamp_arrivals(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
        self.book.enter(inbound, remote[0])
        connection = Connection(self, sock, remote, inbound)
        self._connections[connection.number] = connection
        self._by_remote[remote] = connection
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep)
        return connection

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections.values()):
            connection.sweep(now)
        self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep) if self._connections else None


def _sent_by(data: bytes, remote: Address) -> Address:
    """Where a response goes when its connection is gone: our own note of the source, the port of the Via.

    Not `received`, which the peer may have written itself.
    """
    try:
        response = parse(data)
        if isinstance(response, Response):
            return (remote[0], response.via.port or 5060)
    except ParseError:
        pass  # a response of ours to a request whose Via we could not read: the source is all we know
    return remote
