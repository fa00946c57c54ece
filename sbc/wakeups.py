"""When a call, a binding or a server wants to be woken: one heap entry for each, and never many of those long gone."""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Generic, Protocol, TypeVar


class Sleeper(Protocol):
    """What can be woken. `armed` is when its entry in the heap is due; kept by `Wakeups` alone."""

    armed: float | None


T = TypeVar("T", bound=Sleeper)

# Fewer stale entries than this are not worth a look.
FEW = 64
_GOLDEN = 0.618033988749895


def apart(turn: int) -> float:
    """A share of a period, from 0 to 1: those of any number of turns are spread over it evenly, whoever comes later.

    Steps of the golden section never fall together (three-distance theorem).
    """
    return turn * _GOLDEN % 1.0


class Wakeups(Generic[T]):
    """Entries are not taken out of the heap but left behind, and swept when they are the greater part of it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()
        self._stale = 0

    def __len__(self) -> int:
        """Entries that are held, stale ones included."""
        return len(self._heap)

    def arm(self, sleeper: T, at: float | None) -> None:
        """Wake `sleeper` no later than `at`; an earlier entry stays, since waking too early costs only a look."""
        if at is None:
            self.disarm(sleeper)
        elif sleeper.armed is None or at < sleeper.armed:
            self.disarm(sleeper)
            sleeper.armed = at
            heapq.heappush(self._heap, (at, next(self._order), sleeper))

    def disarm(self, sleeper: T) -> None:
        """Do not wake it."""
        if sleeper.armed is None:
            return
        sleeper.armed = None
        self._stale += 1
        if self._stale > FEW and self._stale > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].armed == entry[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def next(self) -> float | None:
        """When the first of them is due."""
        while self._heap and self._heap[0][2].armed != self._heap[0][0]:
            heapq.heappop(self._heap)
            self._stale -= 1
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[T]:
        """Those that are due, each disarmed as it is given; it may be armed again meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            at, _, sleeper = heapq.heappop(self._heap)
            if sleeper.armed != at:
                self._stale -= 1
                continue
            sleeper.armed = None
            yield sleeper
