"""The reference relay: one epoll loop, one socket per port, no asyncio. Runs in a worker process.

It is written to be read and is the specification of what a relay does with a packet; `media/source.py` says
whose packets those are. It imports little on purpose: every worker pays for it in memory.
"""

import errno
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from media import demux, quality, rtcp, rtp
from media.source import LOCKED, STRANGER, RtcpGate, Sockaddr, SourceGate

# What a worker hears is `media.relay.End` as a tuple, in this order.
EndTuple = tuple[
    str,  # bind address
    int,  # RTP port
    int,  # RTCP port
    tuple[str, int] | None,  # remote
    tuple[str, int] | None,  # remote_rtcp
    bool,  # rtcp_mux
    str,  # learn
    str | None,  # expect
    bool,  # receive
    bool,  # send
    tuple[tuple[int, str, int], ...],  # codecs
    int,  # epoch
]

# `media.relay.Counters` as a tuple, in its order.
CountersTuple = tuple[Any, ...]
Event = tuple[Any, ...]

# RFC 3551 s.6: what a stream without rtpmap for its payload type is, for the quality estimate.
STATIC_NAMES = {
    0: "PCMU",
    3: "GSM",
    4: "G723",
    8: "PCMA",
    9: "G722",
    10: "L16",
    11: "L16",
    15: "G728",
    18: "G729",
}

# A second and a half of G.711, or 60 ms of 4 Mbit/s video, in kernel terms (the kernel doubles the number and
# counts its own overhead). A fuller buffer would only deliver audio that is too late to be heard.
RTP_BUFFER = 131072

# The pool may hand a port out again before the worker that had it has closed it: another worker then retries.
BIND_ATTEMPTS = 25
BIND_RETRY_S = 0.02

TICK_S = 1.0
BATCH = 256
VIEWS = 1600

# Linux include/uapi/asm-generic/socket.h and linux/sock_diag.h: one getsockopt tells what the queue dropped,
# where SO_RXQ_OVFL would need recvmsg with ancillary data for every packet.
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8

_unpack = rtp.HEADER.unpack_from
_clock = time.monotonic


class Port:
    """One bound UDP socket of an end."""

    __slots__ = ("end", "local", "recvfrom_into", "rtcp", "sock")

    def __init__(self, end: "RelayEnd", sock: socket.socket, local: tuple[str, int], is_rtcp: bool) -> None:
        self.end = end
        self.sock = sock
        self.recvfrom_into = sock.recvfrom_into
        self.local = local
        self.rtcp = is_rtcp

    def dropped(self) -> int:
        """Packets that the kernel dropped because our queue was full."""
        info = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _SK_MEMINFO_DROPS + 4)
        return int.from_bytes(info[4 * _SK_MEMINFO_DROPS :], sys.byteorder)


class RelayEnd:
    """One end of an open stream: its ports, its policy, its counters."""

    __slots__ = (
        "codecs",
        "dropped",
        "family",
        "forwarded",
        "gate",
        "local",
        "malformed",
        "muted",
        "mux",
        "other",
        "other_protocols",
        "receive",
        "reception",
        "round_trip",
        "rtcp_gate",
        "rtcp_packets",
        "rtcp_port",
        "rtp_port",
        "send",
        "sendto",
        "side",
        "signalled",
        "signalled_rtcp",
        "strangers",
        "stream",
        "target",
        "udptl",
    )

    other: "RelayEnd"
    # Of the RTP socket; there while `target` is not None.
    sendto: Callable[[memoryview, Sockaddr], int]

    def __init__(self, stream: "RelayStream", side: str, window_s: float, now: float) -> None:
        self.stream = stream
        self.udptl = stream.udptl
        self.side = side
        self.gate = SourceGate(window_s, now)
        self.rtcp_gate = RtcpGate()
        self.reception = rtp.Reception()
        self.round_trip = rtcp.RoundTrip()
        self.rtp_port: Port | None = None
        self.rtcp_port: Port | None = None
        self.local = ("", 0, 0)
        self.family = socket.AF_INET
        self.target: Sockaddr | None = None
        self.signalled: Sockaddr | None = None
        self.signalled_rtcp: Sockaddr | None = None
        self.mux = False
        self.receive = True
        self.send = True
        self.codecs: tuple[tuple[int, str, int], ...] = ()
        self.forwarded = 0
        self.strangers = 0
        self.muted = 0
        self.malformed = 0
        self.other_protocols = 0
        self.rtcp_packets = 0
        self.dropped = 0

    def configure(self, spec: EndTuple) -> None:
        """Take over everything but the ports."""
        (host, rtp_port, rtcp_port, remote, remote_rtcp, self.mux, learn, expect) = spec[:8]
        (self.receive, self.send, codecs, epoch) = spec[8:]
        self.local = (host, rtp_port, rtcp_port)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.signalled = sockaddr(self.family, remote)
        self.signalled_rtcp = sockaddr(self.family, remote_rtcp)
        if expect is not None:
            named = sockaddr(self.family, (expect, 1))
            expect = named[0] if named else None
        if epoch != self.gate.epoch:
            self.rtcp_gate.follow(None)
        self.gate.configure(learn, self.signalled, expect, epoch)
        self.rtcp_gate.configure(learn, self.signalled_rtcp)
        if codecs != self.codecs:
            self.codecs = codecs
            self.reception.codecs(codecs)
        self.aim()

    def aim(self) -> None:
        """Say where RTP to this end goes: the locked source (RFC 4961), before that the signalled address."""
        self.target = (self.gate.source or self.signalled) if self.send and self.rtp_port else None

    def counters(self, now: float) -> CountersTuple:
        """What came from this end so far."""
        seen = self.reception
        dropped = self.dropped + sum(port.dropped() for port in (self.rtp_port, self.rtcp_port) if port)
        rtt_ms = None if self.round_trip.seconds is None else self.round_trip.seconds * 1000
        mos = None
        if seen.packets and not self.udptl:
            name = next((codec[1] for codec in self.codecs if codec[0] == seen.payload_type), None)
            name = name or STATIC_NAMES.get(seen.payload_type, "")
            loss = max(0, seen.lost) / max(1, seen.expected)
            mos = quality.mos(quality.rating(name, loss, seen.jitter * 1000, rtt_ms))
        source = self.gate.source
        return (
            seen.packets,
            seen.bytes,
            self.forwarded,
            0 if self.udptl else seen.lost,
            seen.jitter * 1000,
            seen.max_jitter * 1000,
            seen.reordered,
            seen.resets,
            seen.ssrc_changes,
            self.rtcp_packets,
            rtt_ms,
            mos,
            self.strangers,
            self.muted,
            self.malformed,
            seen.payload_types(),
            source[:2] if source else None,
            now - seen.heard if seen.packets else None,
            dropped,
            self.other_protocols,
        )


class RelayStream:
    """An open stream: two ends and its silence limits."""

    __slots__ = ("a", "b", "id", "quiet_since", "reported", "silence_s", "start_s", "udptl")

    def __init__(self, number: int, udptl: bool, window_s: float, now: float) -> None:
        self.id = number
        self.udptl = udptl
        self.a = RelayEnd(self, "a", window_s, now)
        self.b = RelayEnd(self, "b", window_s, now)
        self.a.other = self.b
        self.b.other = self.a
        self.start_s = 0.0
        self.silence_s = 0.0
        self.quiet_since = now
        self.reported = False

    def silence(self, now: float) -> tuple[float, bool] | None:
        """(seconds without a packet, whether there ever was one) if that is over the limit, else None.

        An end that is muted is not asked to send; if both are, both count. Any change of the stream starts
        the clock again: a call that leaves hold gets its whole time.
        """
        a, b = self.a, self.b
        heard_a = a.reception.heard if a.receive or not b.receive else 0.0
        heard_b = b.reception.heard if b.receive or not a.receive else 0.0
        ever = a.reception.packets > 0 or b.reception.packets > 0
        limit = self.silence_s if ever else self.start_s
        quiet = now - max(heard_a, heard_b, self.quiet_since)
        if limit <= 0 or quiet < limit:
            self.reported = False
            return None
        return quiet, ever


class Reference:
    """The streams of one worker and the loop that serves them.

    `emit` is given the events as tuples: ("locked", stream, side, address), ("silence", stream, seconds, ever),
    ("closed", stream, counters), ("unbound", stream, reason), ("counters", token, list of counters), where
    counters are (stream, CountersTuple of a, CountersTuple of b).
    """

    def __init__(self, emit: Callable[[Event], None], dscp: int = 0) -> None:
        self._emit = emit
        self._dscp = dscp
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._timeout_s = 0.0
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

    def open(
        self,
        number: int,
        kind: str,
        a: EndTuple,
        b: EndTuple,
        limits: tuple[float, float, float],
        sources: tuple[tuple[str, int] | None, tuple[str, int] | None],
    ) -> None:
        """Open a stream; `limits` are window_s, start_s, silence_s. `sources` were learned by a predecessor."""
        self.close(number)
        now = _clock()
        stream = RelayStream(number, kind == "udptl", limits[0], now)
        _, stream.start_s, stream.silence_s = limits
        self._streams[number] = stream
        for end, spec, source in ((stream.a, a, sources[0]), (stream.b, b, sources[1])):
            end.configure(spec)
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
        end.configure(spec)
        now = _clock()
        for either in (stream.a, stream.b):
            either.gate.restart_window(now)
            either.aim()
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
        now = _clock()
        self._emit(("closed", number, (number, stream.a.counters(now), stream.b.counters(now))))
        for end in (stream.a, stream.b):
            self._unbound.pop((number, end.side), None)
            for port in (end.rtp_port, end.rtcp_port):
                if port is not None:
                    self._close_port(port)
            # Without cycles the memory is free now, and the collector never has to look for it.
            del end.other, end.stream

    def query(self, token: int, numbers: tuple[int, ...]) -> None:
        """Tell the counters of these streams."""
        now = _clock()
        found = [self._streams[number] for number in numbers if number in self._streams]
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
            elif port.rtcp:
                self._receive_rtcp(port)
            else:
                self._receive(port)
        now = _clock()
        if self._unbound:
            self._bind_again(now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._look_for_silence(now)
        self._timeout_s = BIND_RETRY_S if self._unbound else self._tick_at - now

    def shut_down(self) -> None:
        """Close every socket, without a word."""
        for port in list(self._ports.values()):
            self._close_port(port)
        self._streams.clear()
        self._epoll.close()

    # Packets

    def _receive(self, port: Port) -> None:
        """One packet on an RTP port. The path of the packet that is in order runs straight down to sendto."""
        try:
            size, source = port.recvfrom_into(self._buffer)
        except OSError:
            # EAGAIN (a checksum was wrong, or a command closed and reopened the port) and ICMP errors.
            return
        end = port.end
        seen = end.reception
        first, seq, timestamp, ssrc = _unpack(self._buffer)
        now = _clock()
        if source != end.gate.source or first != seen.usual_first or size < rtp.HEADER_BYTES:
            if end.udptl:
                self._receive_udptl(end, size, source, now)
                return
            if size < rtp.HEADER_BYTES or not rtp.plausible(first):
                self._receive_other(end, size, source, now)
                return
            if source != end.gate.source and not self._admit(end, size, source, ssrc, seq, now):
                return
        seen.receive(size, first, seq, timestamp, ssrc, now)
        if end.receive:
            out = end.other
            if out.target is not None:
                try:
                    out.sendto(self._views[size] if size < VIEWS else self._whole[:size], out.target)
                except OSError:
                    # ICMP errors of earlier packets, no route, queue full, too big: the next one is due in 20 ms.
                    return
                end.forwarded += 1
        else:
            end.muted += 1

    def _admit(self, end: RelayEnd, size: int, source: Sockaddr, ssrc: int, seq: int, now: float) -> bool:
        """Whether a packet that is not from the locked source may pass."""
        seen = end.reception
        if not end.udptl and not rtp.valid(self._buffer, size):
            end.malformed += 1
            return False
        verdict = end.gate.admit(source, ssrc, seq, now, seen.heard, seen.follows)
        if verdict == STRANGER:
            end.strangers += 1
            return False
        if verdict == LOCKED:
            end.rtcp_gate.follow(source)
            end.aim()
            self._emit(("locked", end.stream.id, end.side, source[:2]))
        return True

    def _receive_other(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        """What is not RTP: RTCP with multiplexing, else counted and dropped."""
        kind = demux.classify(self._buffer, size)
        if kind == demux.RTCP and end.mux:
            if source == end.gate.source:
                self._relay_rtcp(end, size, now)
            else:
                end.strangers += 1
        elif source != end.gate.source:
            end.strangers += 1
        elif kind in (demux.STUN, demux.DTLS):
            end.other_protocols += 1
        else:
            end.malformed += 1

    def _receive_udptl(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        # ITU-T T.38 s.9.1: a UDPTL packet begins with a 16-bit sequence number; nothing else tells it apart.
        if size < 3:
            end.malformed += 1
            return
        seq = self._buffer[0] << 8 | self._buffer[1]
        if source != end.gate.source and not self._admit(end, size, source, 0, seq, now):
            return
        end.reception.receive_opaque(size, now)
        if not end.receive:
            end.muted += 1
            return
        out = end.other
        if self._send(out.rtp_port, self._whole[:size], out.target):
            end.forwarded += 1

    def _receive_rtcp(self, port: Port) -> None:
        try:
            size, source = port.sock.recvfrom_into(self._buffer)
        except OSError:
            return
        end = port.end
        now = _clock()
        if demux.classify(self._buffer, size) != demux.RTCP:
            if source == end.rtcp_gate.source:
                end.malformed += 1
            else:
                end.strangers += 1
        elif end.rtcp_gate.admit(source, end.gate.source, now):
            self._relay_rtcp(end, size, now)
        else:
            end.strangers += 1

    def _relay_rtcp(self, end: RelayEnd, size: int, now: float) -> None:
        """RTCP from a source that is ours. It flows on hold too (RFC 3264 s.5.1)."""
        compound = rtcp.parse(bytes(self._whole[:size]), pseudonym)
        if compound is None:
            end.malformed += 1
            return
        end.rtcp_packets += 1
        end.round_trip.answered(compound.echoes, now)
        out = end.other
        if out.mux:
            passed = self._send(out.rtp_port, compound.forward, out.gate.source or out.signalled)
        else:
            passed = self._send(out.rtcp_port, compound.forward, out.rtcp_gate.source or out.signalled_rtcp)
        if passed and compound.sent is not None:
            out.round_trip.passed_on(compound.sent, now)

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
            port = end.rtp_port = self._replace(end, end.rtp_port, host, rtp_number, False)
            if port is not None:
                end.sendto = port.sock.sendto
                end.aim()
            end.rtcp_port = self._replace(end, end.rtcp_port, host, rtcp_number, True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and attempts > 1:
                self._unbound[key] = (_clock() + BIND_RETRY_S, attempts - 1)
            else:
                reason = f"{host}:{rtp_number}/{rtcp_number}: {error.strerror or error}"
                self._emit(("unbound", end.stream.id, reason))

    def _replace(self, end: RelayEnd, old: Port | None, host: str, number: int, is_rtcp: bool) -> Port | None:
        """The port that `end` should have instead of `old`; number 0 means none."""
        if old is not None and old.local == (host, number):
            return old
        fresh = self._open_port(end, host, number, is_rtcp) if number else None
        if old is not None:
            end.dropped += old.dropped()
            self._close_port(old)
        return fresh

    def _open_port(self, end: RelayEnd, host: str, number: int, is_rtcp: bool) -> Port:
        sock = socket.socket(end.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if not is_rtcp:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_BUFFER)
            if end.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._dscp << 2)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._dscp << 2)
            sock.bind((host, number))
        except OSError:
            sock.close()
            raise
        port = Port(end, sock, (host, number), is_rtcp)
        self._ports[sock.fileno()] = port
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return port

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
            if quiet is not None and not stream.reported:
                stream.reported = True
                self._emit(("silence", stream.id, *quiet))


def sockaddr(family: int, address: tuple[str, int] | None) -> Sockaddr | None:
    """`address` as recvfrom tells it; None if there is nothing to send to (0.0.0.0, port 0, other family).

    Only literals: a name would make sendto ask the DNS, on the packet path.
    """
    if address is None:
        return None
    host, port = address
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None
    if packed == bytes(len(packed)) or not 0 < port < 65536:
        return None
    # Of an IPv4 address inet_pton takes one spelling only.
    return (socket.inet_ntop(family, packed), port, 0, 0) if family == socket.AF_INET6 else (host, port)


def pseudonym(name: bytes) -> bytes:
    """A CNAME that stands for `name`: the same for the life of the process (hash() is keyed and random)."""
    return b"%016x" % (hash(name) & 0xFFFFFFFFFFFFFFFF)
