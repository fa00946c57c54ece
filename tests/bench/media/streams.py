"""What both sides of a run agree on: streams, ports, packets, and the memory that they share with the driver."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import PRIVATE, PUBLIC

SIDES = (PUBLIC, PRIVATE)
"""Side 0 and 1 of phones.c; also end a and b of a stream."""
FIRST_PORT = 10000
SOCKETS = 8
"""Sockets of each side. Every packet of theirs costs the same in all runs; many packets a system call keep it low."""
RELAY_PORTS = (20000, 39998)
PTIME_MS = 20
WARM_UP_S = 1.0
BEGINNING = 1000
"""Streams that begin in a second of the warm-up: each of them costs a relay more than its packets do for a while."""
REMEMBERED = 1024

_HEAD = struct.Struct("QQ")
_SIDE = struct.Struct("QQQQ")


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams of 50 packets/s, half of them from each side, for so long. With `srtp` side a speaks it."""

    streams: int
    seconds: float
    srtp: bool = False

    @property
    def calls(self) -> int:
        """A call is a stream each way."""
        return self.streams // 2

    @property
    def rate(self) -> float:
        """Packets/s of both sides together."""
        return self.calls * 2 * 1000 / PTIME_MS

    @property
    def warm_up_s(self) -> float:
        """How long it takes until what is counted begins."""
        return max(WARM_UP_S, self.streams / BEGINNING)

    @property
    def warm_up(self) -> int:
        """Packets of each stream that come before what is counted."""
        return round(self.warm_up_s * 1000 / PTIME_MS)

    @property
    def packets(self) -> int:
        """Packets of each stream."""
        return self.warm_up + round(self.seconds * 1000 / PTIME_MS)

    def first(self, call: int) -> int:
        """The first packet of a stream: they begin one after the other; `first_packet_of` of phones.c."""
        return call * self.warm_up * 3 // 4 // self.calls

    def phone_port(self, call: int) -> int:
        """The port of the phone, on either side, in a call; `socket_of` of phones.c."""
        return FIRST_PORT + 2 * (call * SOCKETS // self.calls)

    def arguments(self, side: int, host: str) -> str:
        """OPTIONS of phones.c."""
        return f"{host} {FIRST_PORT} {SOCKETS} {side} {self.packets} {self.warm_up} {PTIME_MS * 1000}"


class Shared:
    """The memory that phones.c calls `struct shared`."""

    def __init__(self, path: Path, load: Load) -> None:
        self.path = path
        size = _HEAD.size + 2 * _SIDE.size + 2 * load.calls * REMEMBERED * 8
        with path.open("wb+") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        _HEAD.pack_into(self._memory, 0, 0, load.calls)

    def start(self, at_ns: int) -> None:
        """Let both sides begin at this time of the monotonic clock."""
        struct.pack_into("Q", self._memory, 0, at_ns)

    @property
    def ready(self) -> bool:
        """Whether both sides wait for the start."""
        return all(self._side(side)[0] for side in (0, 1))

    @property
    def sent(self) -> int:
        """Packets sent so far, by both sides."""
        return sum(self._side(side)[1] for side in (0, 1))

    def _side(self, side: int) -> tuple[int, int, int, int]:
        ready, sent, received, finished = _SIDE.unpack_from(self._memory, _HEAD.size + side * _SIDE.size)
        return ready, sent, received, finished

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        self.path.unlink()
