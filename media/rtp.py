"""RTP (RFC 3550): the fixed header, its validity, and what a receiver keeps count of."""

import struct
from collections.abc import Iterable
from typing import Final

HEADER = struct.Struct("!HHII")
"""Version to payload type as one number, sequence, timestamp, SSRC."""

HEADER_BYTES: Final = 12

# RFC 3550 s.A.1: a jump of less than MAX_DROPOUT forward is loss, one of less than MAX_MISORDER back is
# reordering, everything else a restart of the sender once two packets in a row say so.
MAX_DROPOUT: Final = 3000
MAX_MISORDER: Final = 100

# A step between arrival and timestamp beyond this is a new timestamp origin (a file began to play, a mixer
# switched its source under one SSRC), not jitter: s.A.8 would carry it along as minutes of jitter.
DISCONTINUITY_S: Final = 5.0

# RFC 3551 s.6: clock rates of the static payload types that are not 8000 Hz; 64-95 are not used with RTCP
# multiplexing and 96-127 have no rate until the session names one.
_STATIC_RATES = {6: 16000, 10: 44100, 11: 44100, 14: 90000, 16: 11025, 17: 22050}
_STATIC_RATES.update(dict.fromkeys((25, 26, 28, 31, 32, 33, 34), 90000))

State = tuple[int, ...]
"""All that a `Reception` has counted, as whole numbers: the second half of `struct flow` in fastpath/rtp.bpf.c."""

_NANO = 1e9
_MASK_64 = 0xFFFFFFFFFFFFFFFF


def taken_over(state: State) -> bool:
    """Whether the kernel had begun to forward when it told this."""
    return bool(state[18])


def plausible(first: int) -> bool:
    """Whether a header can begin with these 16 bits: version 2, and not RTCP (RFC 5761 s.4)."""
    return first & 0xC000 == 0x8000 and not 192 <= first & 0xFF <= 223


def valid(data: bytes | bytearray | memoryview, size: int) -> bool:
    """Whether `size` bytes of `data` can be an RTP packet: RFC 3550 s.A.1 with the header extension measured."""
    if size < HEADER_BYTES or data[0] & 0xC0 != 0x80 or 192 <= data[1] <= 223:
        return False
    length = HEADER_BYTES + 4 * (data[0] & 0x0F)
    if data[0] & 0x10:
        if size < length + 4:
            return False
        length += 4 + 4 * (data[length + 2] << 8 | data[length + 3])
    if data[0] & 0x20:
        if size <= length:
            return False
        padding = data[size - 1]
        return padding > 0 and length + padding <= size
    return length <= size


class Reception:
    """What is known of the packets of one sender; SSRC changes and restarts add up instead of starting anew.

    Times are monotonic seconds. `jitter` is in seconds, so that a change of codec does not change its unit.
    """

    __slots__ = (
        "_bad_seq",
        "_base",
        "_codec_rates",
        "_comparable",
        "_cycles",
        "_expected_before",
        "_next",
        "_not_received",
        "_tick",
        "_timestamp",
        "bytes",
        "heard",
        "jitter",
        "max_jitter",
        "packets",
        "payload_mask",
        "payload_type",
        "reordered",
        "resets",
        "ssrc",
        "ssrc_changes",
        "usual_first",
    )

    def __init__(self) -> None:
        self.ssrc = -1
        self.packets = 0
        self.bytes = 0
        self.reordered = 0
        self.resets = 0
        self.ssrc_changes = 0
        self.jitter = 0.0
        self.max_jitter = 0.0
        self.heard = 0.0
        self.payload_type = -1
        self.payload_mask = 0
        # What the next packet looks like if nothing is out of the ordinary: first 16 bits (-1: every packet is)
        # and sequence number (65536 at a wrap, which is thus out of the ordinary).
        self.usual_first = -1
        self._next = -1
        self._timestamp = 0
        self._tick = 0.0
        # Whether `_timestamp` and `heard` are those of one packet on the clock of `_tick`.
        self._comparable = False
        self._codec_rates: dict[int, float] = {}
        self._base = 0
        self._cycles = 0
        self._bad_seq = -1
        self._expected_before = 0
        self._not_received = 0

    def codecs(self, rates: Iterable[tuple[int, str, int]]) -> None:
        """Name the clock rates: (payload type, encoding name, Hz)."""
        # RFC 4733 s.2.2.1: all packets of one digit carry the timestamp of its begin, which is no jitter.
        self._codec_rates = {
            pt: 0.0 if name.lower() == "telephone-event" or hz <= 0 else 1.0 / hz for pt, name, hz in rates
        }
        if self.payload_type >= 0:
            self._tick = self._tick_of(self.payload_type)
        self.usual_first = -1
        self._comparable = False

    def receive(self, size: int, first: int, seq: int, timestamp: int, ssrc: int, now: float) -> None:
        """Count one packet of `size` bytes with these header values (see HEADER)."""
        if first == self.usual_first and seq == self._next and ssrc == self.ssrc:
            # The packet that everybody hopes for; the rest of this class is for the others.
            self._next = seq + 1
            late = now - self.heard - (timestamp - self._timestamp) * self._tick
            if late < 0.0:
                late = -late
            if late < DISCONTINUITY_S:
                jitter = self.jitter = self.jitter + (late - self.jitter) * 0.0625
                self.max_jitter = max(self.max_jitter, jitter)
            self._timestamp = timestamp
        else:
            self._receive_extraordinary(first, seq, timestamp, ssrc, now)
        self.heard = now
        self.packets += 1
        self.bytes += size

    def receive_opaque(self, size: int, now: float) -> None:
        """Count one packet that is not RTP (UDPTL)."""
        self.heard = now
        self.packets += 1
        self.bytes += size

    def follows(self, ssrc: int, seq: int) -> bool:
        """Whether such a packet would go on with the stream as it is (RFC 3550 s.A.1)."""
        return ssrc == self.ssrc and (seq - self._next) & 0xFFFF < MAX_DROPOUT

    @property
    def expected(self) -> int:
        """How many packets the sequence numbers promise, over all SSRCs (RFC 3550 s.A.3)."""
        if self.ssrc < 0:
            return 0
        return self._expected_before + self._cycles + self._next - self._base

    @property
    def lost(self) -> int:
        """Packets expected and not received; negative with duplicates (RFC 3550 s.A.3)."""
        return self.expected - (self.packets - self._not_received) if self.ssrc >= 0 else 0

    @property
    def tick(self) -> float:
        """Seconds of one timestamp unit of the last packet, 0.0 where it is not known."""
        return self._tick

    def state(self) -> State:
        """All that has been counted so far, for somebody else to go on with."""
        return (
            self.packets,
            self.bytes,
            int(self.heard * _NANO),
            # RFC 3550 s.A.8 keeps sixteen times the jitter, so that whole numbers do.
            int(self.jitter * 16 * _NANO),
            int(self.max_jitter * 16 * _NANO),
            self.payload_mask & _MASK_64,
            self.payload_mask >> 64,
            self._expected_before,
            self._not_received,
            self.ssrc,
            self._timestamp,
            self._next,
            self._base,
            self._cycles,
            self._bad_seq,
            self.reordered,
            self.resets,
            self.ssrc_changes,
            0,
            int(self._comparable),
            self.payload_type,
        )

    def resume(self, state: State) -> None:
        """Go on from where somebody else has got to."""
        (self.packets, self.bytes, heard, jitter, max_jitter, low, high) = state[:7]
        (self._expected_before, self._not_received, self.ssrc, self._timestamp) = state[7:11]
        (self._next, self._base, self._cycles, self._bad_seq) = state[11:15]
        (self.reordered, self.resets, self.ssrc_changes, _, comparable, payload_type) = state[15:]
        self.heard = heard / _NANO
        self.jitter = jitter / (16 * _NANO)
        self.max_jitter = max_jitter / (16 * _NANO)
        self.payload_mask = low | high << 64
        if payload_type != self.payload_type:
            self.payload_type = payload_type
            self._tick = self._tick_of(payload_type)
        self._comparable = bool(comparable)
        self.usual_first = -1

    def payload_types(self) -> tuple[int, ...]:
        """Every payload type seen, ascending."""
        mask = self.payload_mask
        return tuple(pt for pt in range(128) if mask >> pt & 1) if mask else ()

    def _receive_extraordinary(self, first: int, seq: int, timestamp: int, ssrc: int, now: float) -> None:
        if first & 0x7F != self.payload_type:
            self._change_payload_type(first & 0x7F)
        # The jitter of events is not measured (see `codecs`), so none of them takes the short way.
        self.usual_first = first & ~0x80 if self._tick and self._comparable else -1
        if ssrc != self.ssrc:
            if self.ssrc >= 0:
                self.ssrc_changes += 1
            self._restart(seq)
            self.ssrc = ssrc
            self._comparable = False
        elif seq == self._next & 0xFFFF:
            self._cycles += self._next - seq
            self._next = seq + 1
        else:
            self._receive_out_of_line(seq)
        if self._tick:
            if self._comparable:
                step = (timestamp - self._timestamp) & 0xFFFFFFFF
                if step > 0x7FFFFFFF:
                    step -= 0x100000000
                late = abs(now - self.heard - step * self._tick)
                if late < DISCONTINUITY_S:
                    self.jitter += (late - self.jitter) * 0.0625
                    self.max_jitter = max(self.max_jitter, self.jitter)
            self._comparable = True
            self.usual_first = first & ~0x80
        else:
            self._comparable = False
        self._timestamp = timestamp

    def _change_payload_type(self, payload_type: int) -> None:
        self.payload_mask |= 1 << payload_type
        self.payload_type = payload_type
        tick = self._tick_of(payload_type)
        if tick != self._tick:
            # Timestamps of two clocks cannot be compared: begin with the next packet.
            self._comparable = False
        self._tick = tick

    def _tick_of(self, payload_type: int) -> float:
        tick = self._codec_rates.get(payload_type)
        if tick is None:
            tick = 1.0 / _STATIC_RATES.get(payload_type, 8000) if payload_type < 64 else 0.0
        return tick

    def _restart(self, seq: int) -> None:
        self._expected_before = self.expected
        self._base = seq
        self._cycles = 0
        self._next = seq + 1
        self._bad_seq = -1

    def _receive_out_of_line(self, seq: int) -> None:
        # RFC 3550 s.A.1 update_seq(), with the highest number kept as the one after it.
        highest = (self._next - 1) & 0xFFFF
        delta = (seq - highest) & 0xFFFF
        if delta < MAX_DROPOUT:
            if delta:
                if seq < highest:
                    self._cycles += 0x10000
                self._next = seq + 1
        elif delta <= 0x10000 - MAX_MISORDER:
            if seq == self._bad_seq:
                self.resets += 1
                self._restart(seq)
                # The first of the two was not counted as received, nor is it expected now.
            else:
                self._bad_seq = (seq + 1) & 0xFFFF
                self._not_received += 1
        else:
            self.reordered += 1
