"""The reference relay: one epoll loop over plain sockets, no asyncio. Runs in a worker process.

It is written to be read and is the specification of what a relay does with a packet; `media/source.py` says
whose packets those are, `media/stream.py` what is known of a stream. It imports little on purpose: every
worker pays for it in memory.
"""

import contextlib
import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from media import demux, rtcp, rtp
from media.source import LOCKED, STRANGER, Sockaddr
from media.stream import DIRECT, RTCP_PORT, RTP_PORT, SECURE, EndTuple, Port, RelayEnd, RelayStream, sockaddr

if TYPE_CHECKING:
    from media.fastpath.offload import Offload
    from nat.binding import BindingServer

Event = tuple[Any, ...]

# A second and a half of G.711, or 60 ms of 4 Mbit/s video, in kernel terms (the kernel doubles the number and
# counts its own overhead). A fuller buffer would only deliver audio that is too late to be heard.
RTP_BUFFER = 131072

# The pool may hand a port out again before the worker that had it has closed it: another worker then retries.
BIND_ATTEMPTS = 25
BIND_RETRY_S = 0.02

TICK_S = 1.0
BATCH = 256
VIEWS = 1600

_unpack = rtp.HEADER.unpack_from
_clock = time.monotonic


class Reference:
    """The streams of one worker and the loop that serves them.

    `emit` is given the events as tuples: ("locked", stream, side, address), ("silence", stream, seconds, ever),
    ("withheld", stream, side, address), ("closed", stream, counters), ("unbound", stream, reason),
    ("counters", token, list of counters), where counters are (stream, CountersTuple of a, CountersTuple of b), and
    ("layer", stream, why it is not the kernel that forwards it or "").
    """

    def __init__(self, emit: Callable[[Event], None], dscp: int = 0, max_files: int = 1024) -> None:
        self._emit = emit
        self._dscp = dscp
        self._secret = b""
        # Direct ports are a luxury: they leave the descriptors that streams need to open at all.
        self._max_luxury = max_files * 2 // 3
        self._kernel: Offload | None = None
        self.no_kernel = ""
        """Why there is none although there was to be one, for the streams."""
        self._stun: BindingServer | None = None
        self._stun_hosts: frozenset[str] = frozenset()
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._timeout_s = 0.0
        # Ends whose source has changed, so that their direct port must.
        self._unsettled: list[RelayEnd] = []
        self._ports: dict[int, Port] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._streams: dict[int, RelayStream] = {}
        # (stream, side): (when to try again, attempts left)
        self._unbound: dict[tuple[int, str], tuple[float, int]] = {}
        self._tick_at = _clock() + TICK_S
        self._buffer = bytearray(65536)
        whole = memoryview(self._buffer)
        # A memoryview per size, made once: slicing for every packet costs as much as parsing the header.
        self._views = [whole[:size] for size in range(VIEWS)]
        self._whole = whole

    def __len__(self) -> int:
        return len(self._streams)

    # Commands

    def library(self, path: str) -> None:
        """Say where installed packages are, for what only some streams need: see media/srtp.py."""
        sys.path.append(path)

    def secret(self, key: bytes) -> None:
        """Set the key of pseudonyms: receivers match audio with video by CNAME, so all workers share it."""
        self._secret = key

    def stun(self, hosts: tuple[str, ...]) -> None:
        """Answer STUN Binding requests that come to these addresses of ours, whoever asks."""
        # Like ctypes below: for those who need it.
        from nat.binding import BindingServer  # noqa: PLC0415

        self._stun = self._stun or BindingServer()
        self._stun_hosts = frozenset(hosts)

    def fastpath(self, flows: int, leases: int, worker: int, interfaces: tuple[int, ...]) -> None:
        """Leave streams to the kernel: descriptors of its maps, our number in them, where the program is attached."""
        # ctypes and what goes with it are for those who need them: see the top of this file.
        from media.fastpath.offload import Offload  # noqa: PLC0415

        kernel = Offload(
            flows,
            leases,
            worker,
            interfaces,
            self._dscp,
            lambda stream, why: self._emit(("layer", stream, why)),
            self._drain,
        )
        kernel.tick(_clock())
        self._kernel = kernel

    def ipsec(self, policies: tuple[Any, ...] | None) -> None:
        """Keep what IPsec policies (`media.fastpath.ipsec`) hold for out of the kernel; None: all that there is."""
        if self._kernel is not None:
            self._kernel.heed(policies)

    def open(
        self,
        number: int,
        kind: str,
        a: EndTuple,
        b: EndTuple,
        limits: tuple[float, float, float, float],
        sources: tuple[tuple[str, int] | None, tuple[str, int] | None],
    ) -> None:
        """Open a stream; `limits` are window_s, start_s, silence_s, unheard_s. `sources` were learned before."""
        self.close(number)
        now = _clock()
        stream = RelayStream(number, kind == "udptl", limits[0], limits[3], now)
        stream.start_s, stream.silence_s = limits[1:3]
        self._streams[number] = stream
        for end, spec, source in ((stream.a, a, sources[0]), (stream.b, b, sources[1])):
            end.configure(spec, self._buffer)
            learned = sockaddr(end.family, source)
            if learned is not None:
                end.gate.restore(learned)
                end.aim()
            self._bind(end, BIND_ATTEMPTS)

    def change(self, number: int, side: str, spec: EndTuple) -> None:
        """Replace what is known of one end."""
        stream = self._streams.get(number)
        if stream is None:
            return
        end = stream.a if side == "a" else stream.b
        self._take_up(stream.a)
        self._take_up(stream.b)
        end.configure(spec, self._buffer)
        now = _clock()
        for either in (stream.a, stream.b):
            if either.direct is not None:
                either.direct.kind = either.direct_kind
            either.gate.restart_window(now)
            either.aim()
            self._unsettled.append(either)
        stream.quiet_since = now
        self._bind(end, BIND_ATTEMPTS)

    def limits(self, number: int, start_s: float, silence_s: float) -> None:
        """Replace the silence limits and start the clock again."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.start_s, stream.silence_s = start_s, silence_s
            stream.quiet_since = _clock()

    def close(self, number: int) -> None:
        """Close a stream and tell its counters."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        self._take_up(stream.a)
        self._take_up(stream.b)
        now = _clock()
        self._emit(("closed", number, (number, stream.a.counters(now), stream.b.counters(now))))
        for end in (stream.a, stream.b):
            self._unbound.pop((number, end.side), None)
            for port in (end.rtp_port, end.rtcp_port, end.direct):
                if port is not None:
                    self._close_port(port)
            end.rtp_port = end.rtcp_port = end.direct = None
            # Without cycles the memory is free now, and the collector never has to look for it.
            del end.other, end.stream

    def query(self, token: int, numbers: tuple[int, ...]) -> None:
        """Tell the counters of these streams."""
        found = [self._streams[number] for number in numbers if number in self._streams]
        if self._kernel is not None:
            for each in found:
                self._kernel.refresh(each.a)
                self._kernel.refresh(each.b)
        now = _clock()
        self._emit(
            ("counters", token, [(each.id, each.a.counters(now), each.b.counters(now)) for each in found])
        )

    # The loop

    def watch(self, fd: int, ready: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call `ready` when `fd` is (the control socket)."""
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = ready

    def serve(self) -> None:
        """Wait for packets, commands and the clock, and serve what is there, once."""
        ports = self._ports
        for fd, _ in self._poll(self._timeout_s, BATCH):
            port = ports.get(fd)
            if port is None:
                # Either the control socket, or a port that a command in this very batch has closed.
                ready = self._watched.get(fd)
                if ready is not None:
                    ready()
            elif port.kind == DIRECT:
                self._receive_direct(port)
            elif port.kind == RTP_PORT:
                self._receive(port)
            elif port.kind == SECURE:
                self._receive_secure(port)
            else:
                self._receive_rtcp(port)
        if self._unsettled:
            self._settle()
        if self._kernel is not None and self._kernel.soon:
            self._kernel.retry()
        now = _clock()
        if self._unbound:
            self._bind_again(now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            # First what must not depend on the kernel path.
            self._look_for_silence(now)
            self._look_for_victims()
            if self._kernel is not None:
                self._kernel.tick(now)
        self._timeout_s = BIND_RETRY_S if self._unbound else self._tick_at - now

    def shut_down(self) -> None:
        """Close every socket, without a word."""
        for stream in self._streams.values():
            self._take_up(stream.a)
            self._take_up(stream.b)
        for port in list(self._ports.values()):
            self._close_port(port)
        self._streams.clear()
        self._epoll.close()

    # Packets

    def _receive_direct(self, port: Port) -> None:
        """One packet from the locked source. The packet that is in order runs straight down to the next send."""
        try:
            size = port.recv_into(self._buffer)
        except OSError:
            # EAGAIN (a checksum was wrong, or a command closed and reopened the port) and ICMP errors.
            return
        end = port.end
        seen = end.reception
        first, seq, timestamp, ssrc = _unpack(self._buffer)
        now = _clock()
        if first != seen.usual_first or size < rtp.HEADER_BYTES:
            if end.connected is not None:
                self._take(end, size, end.connected, now)
            return
        seen.receive(size, first, seq, timestamp, ssrc, now)
        if end.receive:
            out = end.other
            try:
                if out.send_direct is not None:
                    out.send_direct(self._views[size] if size < VIEWS else self._whole[:size])
                elif out.target is not None:
                    out.sendto(self._views[size] if size < VIEWS else self._whole[:size], out.target)
                else:
                    end.withheld += out.withholding
                    return
            except OSError:
                # ICMP errors of earlier packets, no route, queue full, too big: the next one is due in 20 ms.
                return
            end.forwarded += 1
        else:
            end.muted += 1

    def _receive_secure(self, port: Port) -> None:
        """One packet from the locked source of a stream with SRTP, likewise."""
        try:
            size = port.recv_into(self._buffer)
        except OSError:
            return
        end = port.end
        seen = end.reception
        # The header of SRTP is readable (RFC 3711 s.3.1).
        first, seq, timestamp, ssrc = _unpack(self._buffer)
        now = _clock()
        if first != seen.usual_first or size < rtp.HEADER_BYTES:
            if end.connected is not None:
                self._take(end, size, end.connected, now)
            return
        if end.secure is not None:
            size = end.secure.open(size)
            if not size:
                end.unauthentic += 1
                return
        seen.receive(size, first, seq, timestamp, ssrc, now)
        if not end.receive:
            end.muted += 1
            return
        out = end.other
        if out.secure is not None:
            size = out.secure.seal(size)
            if not size:
                return
        try:
            if out.send_direct is not None:
                out.send_direct(self._views[size] if size < VIEWS else self._whole[:size])
            elif out.target is not None:
                out.sendto(self._views[size] if size < VIEWS else self._whole[:size], out.target)
            else:
                end.withheld += out.withholding
                return
        except OSError:
            return
        end.forwarded += 1

    def _receive(self, port: Port) -> bool:
        """One packet on an RTP port; False if there was none."""
        try:
            size, source = port.recvfrom_into(self._buffer)
        except OSError:
            return False
        self._take(port.end, size, source, _clock())
        return True

    def _take(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        """The packet in the buffer came to the RTP port of `end`."""
        if end.udptl:
            self._take_udptl(end, size, source, now)
            return
        first, seq, timestamp, ssrc = _unpack(self._buffer)
        if size < rtp.HEADER_BYTES or not rtp.plausible(first):
            self._take_other(end, size, source, now)
            return
        if end.secure is not None:
            size = end.secure.open(size)
            if not size:
                end.unauthentic += 1
                return
        if source != end.gate.source and not self._admit(end, size, source, ssrc, seq, now):
            return
        if end.flow is not None and self._kernel is not None:
            self._kernel.surface(end)
        end.reception.receive(size, first, seq, timestamp, ssrc, now)
        self._forward(end, size)

    def _forward(self, end: RelayEnd, size: int) -> None:
        out = end.other
        if not end.receive:
            end.muted += 1
            return
        if out.secure is not None and not end.udptl:
            size = out.secure.seal(size)
        if self._send(out.rtp_port, self._whole[:size], out.target):
            end.forwarded += 1
        else:
            end.withheld += out.withholding

    def _admit(self, end: RelayEnd, size: int, source: Sockaddr, ssrc: int, seq: int, now: float) -> bool:
        """Whether a packet that is not from the locked source may pass."""
        seen = end.reception
        if not end.udptl and not rtp.valid(self._buffer, size):
            end.malformed += 1
            return False
        if self._kernel is not None:
            # When the locked source was last heard is for the kernel to say.
            self._kernel.refresh(end)
        verdict = end.gate.admit(source, ssrc, seq, now, seen.heard, seen.follows)
        if verdict == STRANGER:
            end.refuse(source)
            return False
        end.hear(source)
        if verdict == LOCKED:
            end.rtcp_gate.follow(source)
            end.aim()
            self._unsettled.append(end)
            self._emit(("locked", end.stream.id, end.side, source[:2]))
        return True

    def _take_up(self, end: RelayEnd) -> None:
        """If the kernel forwards what comes from this end: it stops, and we go on from where it is."""
        if end.flow is not None and self._kernel is not None:
            self._kernel.take_up(end)

    def _take_other(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        """What is not RTP: RTCP with multiplexing, else counted and dropped."""
        kind = demux.classify(self._buffer, size)
        if kind == demux.RTCP and end.mux:
            # Who only listens has no RTP source that could be known.
            if source == (end.gate.source or end.signalled):
                size = self._open_rtcp(end, size)
                if size:
                    end.hear(source)
                    self._relay_rtcp(end, size, now)
            else:
                end.refuse(source)
        elif kind == demux.STUN and self._answer_stun(end, end.rtp_port, size, source, now):
            pass
        elif source != end.gate.source:
            end.refuse(source)
        elif kind in (demux.STUN, demux.DTLS):
            end.other_protocols += 1
        else:
            end.malformed += 1

    def _answer_stun(self, end: RelayEnd, port: Port | None, size: int, source: Sockaddr, now: float) -> bool:
        """Whether what is in the buffer is STUN on a port that answers it. Who asks is no source by that."""
        if self._stun is None or port is None or port.local[0] not in self._stun_hosts:
            return False
        end.other_protocols += 1
        answer = self._stun.receive(self._whole[:size].tobytes(), source[:2], now)
        if answer is not None:
            with contextlib.suppress(OSError):
                port.sock.sendto(answer, source)
        return True

    def _take_udptl(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        # ITU-T T.38 s.9.1: a UDPTL packet begins with a 16-bit sequence number; nothing else tells it apart.
        if size < 3:
            end.malformed += 1
            return
        seq = self._buffer[0] << 8 | self._buffer[1]
        if source != end.gate.source and not self._admit(end, size, source, 0, seq, now):
            return
        end.reception.receive_opaque(size, now)
        self._forward(end, size)

    def _receive_rtcp(self, port: Port) -> None:
        try:
            size, source = port.sock.recvfrom_into(self._buffer)
        except OSError:
            return
        end = port.end
        now = _clock()
        kind = demux.classify(self._buffer, size)
        if kind != demux.RTCP:
            if kind == demux.STUN and self._answer_stun(end, port, size, source, now):
                return
            if source == end.rtcp_gate.source:
                end.malformed += 1
            else:
                end.refuse(source)
            return
        size = self._open_rtcp(end, size)
        if not size:
            return
        if end.rtcp_gate.admit(source, end.gate.source, now):
            end.hear(source)
            self._relay_rtcp(end, size, now)
        else:
            end.refuse(source)

    def _open_rtcp(self, end: RelayEnd, size: int) -> int:
        """How much RTCP is in the buffer: nothing if it had to be authentic and is not."""
        if end.secure is None:
            return size
        size = end.secure.open_rtcp(size)
        if not size:
            end.unauthentic += 1
        return size

    def _relay_rtcp(self, end: RelayEnd, size: int, now: float) -> None:
        """RTCP from a source that is ours. It flows on hold too (RFC 3264 s.5.1)."""
        compound = rtcp.parse(bytes(self._whole[:size]), self._pseudonym)
        if compound is None:
            end.malformed += 1
            return
        end.rtcp_packets += 1
        end.round_trip.answered(compound.echoes, now)
        if compound.lost:
            end.reports += len(compound.lost)
            end.reported_loss = max(compound.lost) / 256
        out = end.other
        port = out.rtp_port if out.mux else out.rtcp_port
        data: bytes | memoryview = compound.forward
        if out.secure is not None:
            size = len(data)
            self._buffer[:size] = data
            data = self._whole[: out.secure.seal_rtcp(size)]
        passed = self._send(port, data, out.rtcp_target())
        if passed and compound.sent is not None:
            out.round_trip.passed_on(compound.sent, now)

    def _pseudonym(self, name: bytes) -> bytes:
        # hash() of bytes is SipHash under a seed that the parent gives to all its workers, and a 32-bit seed alone
        # could be guessed. hashlib would cost each worker a megabyte.
        return b"%016x" % (hash(self._secret + name) & 0xFFFFFFFFFFFFFFFF)

    def _send(self, port: Port | None, data: bytes | memoryview, target: Sockaddr | None) -> bool:
        if port is None or target is None or not data:
            return False
        try:
            port.sock.sendto(data, target)
        except OSError:
            return False
        return True

    # Ports

    def _bind(self, end: RelayEnd, attempts: int) -> None:
        """Make the sockets of `end` those it should have; what is busy is tried again for half a second."""
        host, rtp_number, rtcp_number = end.local
        if end.mux or end.udptl:
            rtcp_number = 0
        key = (end.stream.id, end.side)
        self._unbound.pop(key, None)
        try:
            port = end.rtp_port = self._replace(end, end.rtp_port, host, rtp_number, RTP_PORT)
            if port is not None:
                end.sendto = port.sock.sendto
                end.aim()
                self._unsettled.append(end)
            end.rtcp_port = self._replace(end, end.rtcp_port, host, rtcp_number, RTCP_PORT)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and attempts > 1:
                self._unbound[key] = (_clock() + BIND_RETRY_S, attempts - 1)
            else:
                reason = f"{host}:{rtp_number}/{rtcp_number}: {error.strerror or error}"
                self._emit(("unbound", end.stream.id, reason))

    def _replace(self, end: RelayEnd, old: Port | None, host: str, number: int, kind: int) -> Port | None:
        """The port that `end` should have instead of `old`; number 0 means none."""
        if old is not None and old.local == (host, number):
            return old
        fresh = self._open_port(end, host, number, kind) if number else None
        if old is not None:
            end.dropped += old.dropped()
            self._close_port(old)
        return fresh

    def _open_port(self, end: RelayEnd, host: str, number: int, kind: int) -> Port:
        sock = self._socket(end.family)
        try:
            if kind == RTP_PORT:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_BUFFER)
            sock.bind((host, number))
        except OSError:
            sock.close()
            raise
        return self._add_port(Port(end, sock, (host, number), kind))

    def _socket(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._dscp << 2)
        elif self._dscp:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._dscp << 2)
        return sock

    def _add_port(self, port: Port) -> Port:
        self._ports[port.sock.fileno()] = port
        self._epoll.register(port.sock.fileno(), select.EPOLLIN)
        return port

    def _settle(self) -> None:
        """Give the ends whose source has changed the direct port that goes with it."""
        unsettled, self._unsettled = self._unsettled, []
        for end in unsettled:
            port, source = end.rtp_port, end.gate.source
            direct = end.direct
            if direct is not None and (source != end.connected or port is None or port.local != direct.local):
                end.dropped += direct.dropped()
                self._close_port(direct)
                end.direct = end.connected = None
            affordable = len(self._ports) < self._max_luxury
            if end.direct is None and source is not None and port is not None and affordable:
                self._connect(end, port, source)
            end.aim()
        if self._kernel is not None:
            # An end without a port belongs to a stream that was closed meanwhile.
            for stream in dict.fromkeys(end.stream for end in unsettled if end.rtp_port is not None):
                self._kernel.settle(stream)
        elif self.no_kernel:
            for stream in dict.fromkeys(end.stream for end in unsettled if end.rtp_port is not None):
                self._tell_why_not(stream)

    def _tell_why_not(self, stream: RelayStream) -> None:
        """Once both sources are known, which is when the kernel would take over."""
        if stream.layer is None and stream.a.gate.source and stream.b.gate.source:
            stream.layer = self.no_kernel
            self._emit(("layer", stream.id, stream.layer))

    def _connect(self, end: RelayEnd, port: Port, source: Sockaddr) -> None:
        sock = self._socket(end.family)
        try:
            # For this moment only: two sockets may share a port if both say so, and we share with nobody else.
            port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_BUFFER)
            sock.bind(port.local)
            sock.connect(source)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError:
            # No descriptor left, or no route any more: the unconnected socket does everything, slower.
            sock.close()
            return
        finally:
            port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        end.direct = self._add_port(Port(end, sock, port.local, end.direct_kind))
        end.connected = source
        # Until it was connected the new socket may have been given anybody's packets, and what came before is
        # still in the queue of the old one: judge both by their source, in order, before any other packet.
        self._drain(end)

    def _drain(self, end: RelayEnd) -> None:
        """Deal with the packets that wait for an end; those of the unconnected socket are the older ones."""
        for queue in (end.rtp_port, end.direct):
            if queue is not None:
                for _ in range(BATCH):
                    if not self._receive(queue):
                        break

    def _close_port(self, port: Port) -> None:
        # Closing the last descriptor of a socket also takes it out of the epoll set.
        del self._ports[port.sock.fileno()]
        port.sock.close()

    def _bind_again(self, now: float) -> None:
        for (number, side), (at, attempts) in list(self._unbound.items()):
            if at <= now:
                stream = self._streams[number]
                self._bind(stream.a if side == "a" else stream.b, attempts)

    def _look_for_silence(self, now: float) -> None:
        for stream in self._streams.values():
            quiet = stream.silence(now)
            if quiet is not None and self._kernel is not None:
                # So it looks from here: only now it is worth asking what the kernel has heard.
                self._kernel.refresh(stream.a)
                self._kernel.refresh(stream.b)
                quiet = stream.silence(now)
            if quiet is not None and not stream.reported:
                stream.reported = True
                self._emit(("silence", stream.id, *quiet))

    def _look_for_victims(self) -> None:
        for stream in self._streams.values():
            for end in (stream.a, stream.b):
                address = end.unproven(TICK_S)
                if address is not None:
                    self._emit(("withheld", stream.id, end.side, address[:2]))
