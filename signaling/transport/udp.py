"""SIP over UDP: one socket a listener, drained in a loop whenever it is readable.

Not asyncio's datagram transport, which allocates 256 KiB for each datagram (design.md s.6).
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from signaling.flow import Address, Flow, Listener
from signaling.stateless import METHODS
from signaling.transport.arrival import ANCILLARY_BYTES, stamp_arrivals, waited_s
from signaling.transport.limits import TransportCounters, TransportLimits
from signaling.transport.refusals import UNREACHABLE, ask_for_refusals, refusals

# Below this the queue age is taken from the time of the last empty queue, above it from the kernel's clock.
SURE_AGE_S = 0.05
_MAX_DATAGRAM = 65_535

Receive = Callable[[bytes, Flow, float], None]
Failed = Callable[[Flow], None]
Refused = Callable[[bytes, Flow], None]


@dataclass(frozen=True, slots=True)
class Glance:
    """Who sees what begins with one of `METHODS` before `receive` does.

    `answers(data, flow, age_s)` tells whether that was all. `after` is called when a row of datagrams is done.
    """

    answers: Callable[[bytes, Flow, float], bool]
    after: Callable[[], None]


class UdpListener:
    """One UDP port. `receive(data, flow, age_s)` is told how long a datagram has waited at most.

    `failed(flow)` is called from the loop, never from inside `send`, when the system refuses an address; so is
    `refused(quoted, flow)` when the network says that a datagram did not arrive, of which it quotes the beginning.
    """

    def __init__(
        self,
        listener: Listener,
        receive: Receive,
        failed: Failed,
        limits: TransportLimits,
        counters: TransportCounters,
        loop: asyncio.AbstractEventLoop,
        glance: Glance | None = None,
        refused: Refused | None = None,
    ) -> None:
        self._glance = glance
        self._refused = refused
        self.listener = listener
        self.local = listener.local
        self._receive = receive
        self._failed = failed
        self._limits = limits
        self._counters = counters
        self._loop = loop
        self._socket: socket.socket | None = None
        self._flows: dict[Address | tuple[str, int, int, int], Flow] = {}
        self._empty_at = 0.0

    def bind(self) -> None:
        """Take the address; what comes waits for `serve`. OSError when it cannot be had."""
        host, port = self.listener.local
        ipv6 = ":" in host
        sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            size = self._limits.socket_buffer_bytes
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            stamp_arrivals(sock)
            if self._refused is not None:
                ask_for_refusals(sock)
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self.local = (host, sock.getsockname()[1])
        self._empty_at = time.monotonic()

    def serve(self, listener: Listener, limits: TransportLimits) -> None:
        """Read, for whom `listener` says: also when that changes while we do."""
        self.listener = listener
        self._limits = limits
        self._flows.clear()
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._drain)

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one datagram. A full socket buffer loses it, as the network may: SIP's timers repeat it."""
        if self._socket is None:
            return
        try:
            try:
                self._socket.sendto(data, flow.remote)
            except OSError as error:
                if error.errno not in UNREACHABLE:
                    raise
                # Most likely the ICMP error of an earlier datagram, which says nothing about this one.
                self._counters.receive_errors += 1
                self._loop.call_soon(self._take_refusals)
                self._socket.sendto(data, flow.remote)
        except BlockingIOError:
            self._counters.send_blocked += 1
        except (OSError, OverflowError, UnicodeError):
            # No route, not permitted, too long, or no literal address.
            self._counters.send_failed += 1
            self._loop.call_soon(self._failed, flow)
        else:
            self._counters.datagrams_sent += 1

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _drain(self) -> None:
        try:
            self._read()
        finally:
            if self._glance is not None:
                self._glance.after()

    def _read(self) -> None:
        """Read what is there, a bounded number of datagrams so that timers and other sockets get their turn.

        Whatever is read now has come since the queue was last seen empty. As long as that is a moment ago, the
        moment is a good enough age and costs nothing; only after it the kernel's time stamps are read.
        """
        sock = self._socket
        assert sock is not None
        limit = self._limits.max_message_bytes
        counters = self._counters
        flows = self._flows
        answers = None if self._glance is None else self._glance.answers
        before = counters.datagrams_received
        for _ in range(self._limits.datagrams_per_wakeup):
            age_s = time.monotonic() - self._empty_at
            try:
                if age_s < SURE_AGE_S:
                    data, source = sock.recvfrom(_MAX_DATAGRAM)
                else:
                    data, ancillary, _, source = sock.recvmsg(_MAX_DATAGRAM, ANCILLARY_BYTES)
                    age_s = min(age_s, waited_s(ancillary))
            except BlockingIOError:
                self._empty_at = time.monotonic()
                if counters.datagrams_received == before:
                    self._take_refusals()  # nothing was there to be read: it is an error that woke us
                return
            except OSError:
                counters.receive_errors += 1  # an ICMP error on the queue; the next read goes on
                self._take_refusals()
                if self._socket is None:
                    break
                continue
            counters.datagrams_received += 1
            if len(data) > limit:
                counters.oversized += 1
                continue
            if len(data) < 5:
                # RFC 5626 s.4.4.1 and many phones: CRLF or zero bytes keep a NAT binding open, no answer wanted.
                counters.keepalives += 1
                continue
            flow = flows.get(source)
            if flow is None:
                if len(flows) >= self._limits.flows:
                    flows.clear()
                listener = self.listener
                flow = Flow(listener.network, "udp", self.local, (source[0], source[1]))
                flows[source] = flow
            if answers is not None and data.startswith(METHODS) and answers(data, flow, age_s):
                continue
            self._receive(data, flow, age_s)
            if self._socket is None:
                break  # closed by what it received

    def _take_refusals(self) -> None:
        if self._socket is None or self._refused is None:
            return
        for quoted, remote in refusals(self._socket):
            self._counters.unreachable += 1
            self._refused(quoted, Flow(self.listener.network, "udp", self.local, remote))
            if self._socket is None:
                return  # closed by what it has told
