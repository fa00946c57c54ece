"""Tones: made as samples, written as WAV or as raw G.711, and found again by Goertzel's algorithm."""

import array
import math
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path

RATE = 8000
"""Samples a second, as in all of telephony."""
AMPLITUDE = 8000


def tone(hz: float, seconds: float) -> "array.array[int]":
    """A sine as 16-bit samples."""
    step = 2 * math.pi * hz / RATE
    return array.array("h", (round(AMPLITUDE * math.sin(step * n)) for n in range(int(RATE * seconds))))


def write_wav(path: Path, samples: "array.array[int]") -> Path:
    """Mono, 16 bits, 8,000 samples a second."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples.tobytes())
    return path


def read_wav(path: Path) -> "tuple[int, array.array[int]]":
    """(samples a second, samples of the first channel)."""
    with wave.open(str(path), "rb") as recording:
        samples = array.array("h", recording.readframes(recording.getnframes()))
        return recording.getframerate(), samples[:: recording.getnchannels()]


def write_alaw(path: Path, samples: Iterable[int]) -> Path:
    """Raw G.711 A-law, as SIPp's rtp_stream sends it."""
    path.write_bytes(bytes(_to_alaw(sample) for sample in samples))
    return path


def from_alaw(payload: bytes) -> "array.array[int]":
    """Samples of G.711 A-law."""
    return array.array("h", (_ALAW[octet] for octet in payload))


def from_ulaw(payload: bytes) -> "array.array[int]":
    """Samples of G.711 mu-law."""
    return array.array("h", (_ULAW[octet] for octet in payload))


def share(samples: Sequence[int], hz: float, rate: int = RATE) -> float:
    """The part of the power that lies at `hz`: 1 for a pure tone, 0 for none of it (Goertzel)."""
    power = sum(sample * sample for sample in samples)
    if not power:
        return 0.0
    factor = 2 * math.cos(2 * math.pi * hz / rate)
    before = last = 0.0
    for sample in samples:
        before, last = last, sample + factor * last - before
    energy = before * before + last * last - factor * before * last
    return 2 * energy / (len(samples) * power)


def loudest_second(samples: "array.array[int]", rate: int = RATE) -> "array.array[int]":
    """The second with the most power: recordings begin with silence and end with whatever was left."""
    length = min(rate, len(samples))
    starts = range(0, len(samples) - length + 1, max(1, rate // 4))
    best = max(starts, key=lambda at: sum(abs(x) for x in samples[at : at + length]), default=0)
    return samples[best : best + length]


def heard(samples: "array.array[int]", hz: float, rate: int = RATE) -> float:
    """The share of `hz` in the loudest second; 0 when there is less than half a second of sound."""
    second = loudest_second(samples, rate)
    return share(second, hz, rate) if len(second) * 2 >= rate else 0.0


def _to_alaw(sample: int) -> int:
    """ITU-T G.711 A-law of one 16-bit sample."""
    sign = 0x80 if sample >= 0 else 0
    magnitude = min(abs(sample), 32767) >> 3
    segment = max(magnitude.bit_length() - 5, 0)
    code = segment << 4 | (magnitude >> max(segment, 1)) & 0x0F
    return (sign | code) ^ 0x55


def _of_alaw(octet: int) -> int:
    octet ^= 0x55
    exponent, mantissa = (octet >> 4) & 7, octet & 0x0F
    magnitude = (mantissa << 4) + 8 if exponent == 0 else ((mantissa << 4) + 0x108) << (exponent - 1)
    return magnitude if octet & 0x80 else -magnitude


def _of_ulaw(octet: int) -> int:
    octet = ~octet & 0xFF
    magnitude = (((octet & 0x0F) << 3) + 0x84 << ((octet >> 4) & 7)) - 0x84
    return -magnitude if octet & 0x80 else magnitude


_ALAW = tuple(_of_alaw(octet) for octet in range(256))
_ULAW = tuple(_of_ulaw(octet) for octet in range(256))
