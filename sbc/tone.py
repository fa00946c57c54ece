"""A tone as RTP: the voice of the built-in phones, and the ear that finds it (G.711, RFC 3550)."""

import math
from dataclasses import dataclass

RATE_HZ = 8000
PTIME_MS = 20
SAMPLES = RATE_HZ * PTIME_MS // 1000
PCMU = 0
"""Static payload type (RFC 3551 s.6)."""
FOUND_SHARE = 0.5
"""Share of the power heard that must lie in the tone: a clean one has 0.99, noise and others below 0.2."""
MEMORY_PACKETS = 3000
"""How many packets the ear keeps for the verdict: one minute."""

_HEADER_BYTES = 12
_BIAS = 0x84
_CLIP = 32635


def encode_ulaw(sample: int) -> int:
    """One 16-bit sample as G.711 mu-law."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), _CLIP) + _BIAS
    exponent = magnitude.bit_length() - 8
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return ~(sign | exponent << 4 | mantissa) & 0xFF


def decode_ulaw(octet: int) -> int:
    """One G.711 mu-law octet as a 16-bit sample."""
    octet = ~octet & 0xFF
    magnitude = (((octet & 0x0F) << 3) + _BIAS << (octet >> 4 & 0x07)) - _BIAS
    return -magnitude if octet & 0x80 else magnitude


_DECODED = tuple(decode_ulaw(octet) for octet in range(256))


def share_of_tone(samples: list[int], hz: int) -> float:
    """Share (0 to 1) of the power of `samples` that lies at `hz`, by the Goertzel algorithm."""
    power = sum(sample * sample for sample in samples)
    if power == 0:
        return 0.0
    coefficient = 2.0 * math.cos(2.0 * math.pi * hz / RATE_HZ)
    before, last = 0.0, 0.0
    for sample in samples:
        before, last = last, sample + coefficient * last - before
    in_tone = before * before + last * last - coefficient * before * last
    return 2.0 * in_tone / (len(samples) * power)


class ToneVoice:
    """RTP packets of 20 ms of one tone, one after the other. `hz` is a whole number."""

    def __init__(self, hz: int, ssrc: int, sequence: int = 0, timestamp: int = 0) -> None:
        self._second = bytes(
            encode_ulaw(round(8000 * math.sin(2.0 * math.pi * hz * index / RATE_HZ)))
            for index in range(RATE_HZ)
        )
        self._ssrc = ssrc
        self._sequence = sequence
        self._timestamp = timestamp
        self.sent = 0

    def next_packet(self) -> bytes:
        """The next packet. The first one carries the marker bit (RFC 3551 s.4.1)."""
        marker = 0x80 if self.sent == 0 else 0
        start = self.sent * SAMPLES % RATE_HZ
        header = (
            bytes((0x80, marker | PCMU))
            + ((self._sequence + self.sent) & 0xFFFF).to_bytes(2, "big")
            + ((self._timestamp + self.sent * SAMPLES) & 0xFFFFFFFF).to_bytes(4, "big")
            + self._ssrc.to_bytes(4, "big")
        )
        self.sent += 1
        return header + self._second[start : start + SAMPLES]


@dataclass(frozen=True, slots=True)
class Heard:
    """What came in one direction: `lost` and `jitter_ms` by RFC 3550, `share` of the power in the tone."""

    hz: int
    packets: int
    lost: int
    jitter_ms: float
    share: float

    @property
    def found(self) -> bool:
        """Whether the tone is there."""
        return self.share >= FOUND_SHARE


class ToneEar:
    """Takes RTP packets as they come and says afterwards what was heard."""

    def __init__(self) -> None:
        self._payloads: list[bytes] = []
        self._packets = 0
        self._first: int | None = None
        self._highest = 0
        self._transit: float | None = None
        self._jitter = 0.0

    @property
    def packets(self) -> int:
        """How many packets of PCMU have come."""
        return self._packets

    def receive(self, data: bytes, now: float) -> None:
        """One datagram, `now` in seconds. What is not RTP with PCMU is ignored."""
        if len(data) <= _HEADER_BYTES or data[0] >> 6 != 2 or data[1] & 0x7F != PCMU:
            return
        sequence = int.from_bytes(data[2:4], "big")
        if self._first is None:
            self._first = self._highest = sequence
        else:
            step = (sequence - self._highest + 0x8000 & 0xFFFF) - 0x8000
            self._highest = max(self._highest, self._highest + step)
        self._packets += 1
        self._measure_jitter(int.from_bytes(data[4:8], "big"), now)
        if len(self._payloads) < MEMORY_PACKETS:
            self._payloads.append(data[_HEADER_BYTES + 4 * (data[0] & 0x0F) :])

    def _measure_jitter(self, timestamp: int, now: float) -> None:
        transit = now * RATE_HZ - timestamp
        if self._transit is not None:
            # A timestamp that has wrapped is a jump of 2^32 units and no delay.
            step = abs((transit - self._transit + 2**31) % 2**32 - 2**31)
            self._jitter += (step - self._jitter) / 16.0
        self._transit = transit

    def verdict(self, hz: int) -> Heard:
        """What was heard of the tone `hz`: packet by packet, so that lost ones do not break the phase."""
        shares = [share_of_tone([_DECODED[octet] for octet in payload], hz) for payload in self._payloads]
        expected = 0 if self._first is None else self._highest - self._first + 1
        return Heard(
            hz=hz,
            packets=self._packets,
            lost=expected - self._packets,
            jitter_ms=self._jitter / RATE_HZ * 1000.0,
            share=sum(shares) / len(shares) if shares else 0.0,
        )
