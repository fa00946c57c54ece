"""The way of a packet through the relay: from a port of one end, past its checks, to a port of the other.

    receive -> demultiplex -> source -> open (SRTP) -> count -> seal (SRTP) -> send

It is written to be read and is the specification of what a relay does with a packet; `media/source.py` says whose
packets those are, `media/stream.py` what is known of a stream. Every packet takes the same way, plain or SRTP,
whichever socket it came by. There is one buffer, in which it is opened and sealed where it lies.
"""

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from media import demux, rtcp, rtp
from media.sockets import Sockets
from media.source import LOCKED, PASS, STRANGER, Sockaddr
from media.stream import Event, Port, RelayEnd

if TYPE_CHECKING:
    from media.fastpath.offload import Offload
    from nat.binding import BindingServer

BUFFER_BYTES = 65536
# Packets that are read from a socket while others wait for theirs.
DRAINED = 256
# Sizes of packets that have a view of the buffer each.
VIEWS: Final = 1600

_unpack: Final = rtp.HEADER.unpack_from


class Forwarder:
    """What is done with a packet. `emit` is told ("locked", stream, side, address) of sources that are found.

    `now` is when the worker woke up, for all packets that were there then: nearer to their arrival than the time when
    it is their turn.
    """

    def __init__(self, emit: Callable[[Event], None], sockets: Sockets) -> None:
        self._emit = emit
        self._sockets = sockets
        self.kernel: Offload | None = None
        self.secret = b""
        """The key of pseudonyms."""
        self.stun: BindingServer | None = None
        self.stun_hosts: frozenset[str] = frozenset()
        """Addresses of ours where `stun` answers whoever asks."""
        self.buffer = bytearray(BUFFER_BYTES)
        whole = memoryview(self.buffer)
        self._whole = whole
        # A memoryview per size, made once: slicing for every packet costs as much as parsing the header.
        self._views = [whole[:size] for size in range(VIEWS)]

    def receive(self, port: Port, now: float) -> bool:
        """Take one packet from an RTP port; False if there was none."""
        source = port.remote
        try:
            if source is None:
                size, source = port.recvfrom_into(self.buffer)
            else:
                size = port.recv_into(self.buffer)
        except OSError:
            # EAGAIN (a checksum was wrong, or another socket has the descriptor now) and ICMP errors.
            return False
        end = port.end
        if end.udptl:
            self._take_udptl(end, size, source, now)
            return True
        first, seq, timestamp, ssrc = _unpack(self.buffer)
        if size < rtp.HEADER_BYTES or not rtp.plausible(first):
            self._take_other(end, size, source, now)
            return True
        if end.secure is not None:
            # The header is readable (RFC 3711 s.3.1), but nothing is believed before it is authentic.
            size = end.secure.open(size)
            if not size:
                end.unauthentic += 1
                return True
        known = end.gate.source
        if source is not known and source != known and not self._admit(end, size, source, ssrc, seq, now):
            return True
        if end.flow is not None and self.kernel is not None:
            self.kernel.surface(end)
        end.reception.receive(size, first, seq, timestamp, ssrc, now)
        self._forward(end, size)
        return True

    def drain(self, end: RelayEnd) -> None:
        """Deal with the packets that wait for an end; those of the unconnected socket are the older ones."""
        now = time.monotonic()
        for queue in (end.rtp_port, end.direct):
            if queue is not None:
                for _ in range(DRAINED):
                    if not self.receive(queue, now):
                        break

    def receive_rtcp(self, port: Port, now: float) -> None:
        """Take one packet from an RTCP port."""
        try:
            size, source = port.recvfrom_into(self.buffer)
        except OSError:
            return
        end = port.end
        kind = demux.classify(self.buffer, size)
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
        verdict = end.rtcp_gate.judge(source, end.gate.source, now)
        if verdict != STRANGER:
            compound = self._parse_rtcp(size)
            if verdict == PASS or end.secure is not None or _proves(end, compound):
                self._take_rtcp(end, compound, source, now)
                return
        end.refuse(source)

    def _forward(self, end: RelayEnd, size: int) -> None:
        """Send what is in the buffer to the other end."""
        if not end.receive:
            end.muted += 1
            return
        out = end.other
        if out.secure is not None and not end.udptl:
            size = out.secure.seal(size)
            if not size:
                return
        packet = self._views[size] if size < VIEWS else self._whole[:size]
        try:
            if out.send_direct is not None:
                out.send_direct(packet)
            elif out.target is not None and out.rtp_port is not None:
                out.rtp_port.sock.sendto(packet, out.target)
            else:
                end.withheld += out.withholding
                return
        except OSError:
            # ICMP errors of earlier packets, no route, queue full, too big: the next one is due in 20 ms.
            return
        end.forwarded += 1

    def _admit(self, end: RelayEnd, size: int, source: Sockaddr, ssrc: int, seq: int, now: float) -> bool:
        """Whether a packet that is not from the locked source may pass."""
        seen = end.reception
        if not end.udptl and not rtp.valid(self.buffer, size):
            end.malformed += 1
            return False
        if self.kernel is not None:
            # When the locked source was last heard is for the kernel to say.
            self.kernel.refresh(end)
        verdict = end.gate.admit(source, ssrc, seq, now, seen.heard, seen.follows)
        if verdict == STRANGER:
            end.refuse(source)
            return False
        end.hear(source)
        if verdict == LOCKED:
            end.rtcp_gate.follow(source)
            self._sockets.unsettle(end)
            self._emit(("locked", end.stream.id, end.side, source[:2]))
        return True

    def _take_udptl(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        # ITU-T T.38 s.9.1: a UDPTL packet begins with a 16-bit sequence number; nothing else tells it apart.
        if size < 3:
            end.malformed += 1
            return
        seq = self.buffer[0] << 8 | self.buffer[1]
        if source != end.gate.source and not self._admit(end, size, source, 0, seq, now):
            return
        end.reception.receive_opaque(size, now)
        self._forward(end, size)

    def _take_other(self, end: RelayEnd, size: int, source: Sockaddr, now: float) -> None:
        """What is not RTP: RTCP with multiplexing, else counted and dropped."""
        kind = demux.classify(self.buffer, size)
        if kind == demux.RTCP and end.mux:
            # Who only listens has no RTP source that could be known.
            if source == (end.gate.source or end.signalled):
                size = self._open_rtcp(end, size)
                if size:
                    self._take_rtcp(end, self._parse_rtcp(size), source, now)
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
        if self.stun is None or port is None or port.local[0] not in self.stun_hosts:
            return False
        end.other_protocols += 1
        answer = self.stun.receive(self._whole[:size].tobytes(), source[:2], now)
        if answer is not None:
            with contextlib.suppress(OSError):
                port.sock.sendto(answer, source)
        return True

    # RTCP

    def _open_rtcp(self, end: RelayEnd, size: int) -> int:
        """How much RTCP is in the buffer: nothing if it had to be authentic and is not."""
        if end.secure is None:
            return size
        size = end.secure.open_rtcp(size)
        if not size:
            end.unauthentic += 1
        return size

    def _parse_rtcp(self, size: int) -> rtcp.Compound | None:
        return rtcp.parse(self._whole[:size].tobytes(), self._pseudonym)

    def _take_rtcp(self, end: RelayEnd, compound: rtcp.Compound | None, source: Sockaddr, now: float) -> None:
        """RTCP from a source that is ours. It flows on hold too (RFC 3264 s.5.1)."""
        if compound is None:
            end.malformed += 1
            return
        if not end.mux:
            end.rtcp_gate.lock(source, now)
        end.hear(source)
        end.rtcp_packets += 1
        end.round_trip.answered(compound.echoes, now)
        if compound.lost:
            end.reports += len(compound.lost)
            end.reported_loss = max(compound.lost) / 256
        if self._send_rtcp(end.other, compound.forward) and compound.sent is not None:
            end.other.round_trip.passed_on(compound.sent, now)

    def _send_rtcp(self, out: RelayEnd, data: bytes) -> bool:
        port, target = out.rtp_port if out.mux else out.rtcp_port, out.rtcp_target()
        if port is None or target is None or not data:
            return False
        packet: bytes | memoryview = data
        if out.secure is not None:
            self.buffer[: len(data)] = data
            size = out.secure.seal_rtcp(len(data))
            if not size:
                return False
            packet = self._whole[:size]
        try:
            port.sock.sendto(packet, target)
        except OSError:
            return False
        return True

    def _pseudonym(self, name: bytes) -> bytes:
        # hash() of bytes is SipHash under a seed that the parent gives to all its workers, and a 32-bit seed alone
        # could be guessed. hashlib would cost each worker a megabyte.
        return b"%016x" % (hash(self.secret + name) & 0xFFFFFFFFFFFFFFFF)


def _proves(end: RelayEnd, compound: rtcp.Compound | None) -> bool:
    """Whether RTCP shows by its SSRCs that it is of this end: that of its RTP, or of what it was sent."""
    if compound is None:
        return False
    return end.reception.ssrc in compound.senders or end.other.reception.ssrc in compound.about
