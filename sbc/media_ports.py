"""The media ports of calls: taken from the pool, given back, and claimed for calls that were taken over."""

from collections.abc import Callable, Iterable

from media.ports import PortPool, Range
from media.relay import PortPair


class MediaPorts:
    """A `PortPool` with the time, and the ports that restored calls have brought along.

    The pool cannot be told of a port that it did not hand out, so a claimed pair is held here until the pool
    comes up with it: then it is the pool's in use, and another one is taken instead.
    """

    def __init__(self, pool: PortPool, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._claimed: set[PortPair] = set()

    def take(self, pool: str) -> PortPair:
        """A free pair. Raises PoolExhausted."""
        now = self._clock()
        pair = self._pool.allocate(pool, now)
        while self._claimed and pair in self._claimed:
            self._claimed.remove(pair)
            pair = self._pool.allocate(pool, now)
        return pair

    def claim(self, pair: PortPair) -> None:
        """A pair that is in use since before this process."""
        self._claimed.add(pair)

    def free(self, pairs: Iterable[PortPair], now: float | None = None) -> None:
        """Give pairs back; they rest as long as the pool says, from `now` on or from this moment."""
        now = self._clock() if now is None else now
        for pair in pairs:
            if self._claimed and pair in self._claimed:
                self._claimed.remove(pair)
            else:
                self._pool.release(pair, now)

    def span(self, pool: str) -> Range | None:
        """The bind address of a pool, its first and its last port."""
        return self._pool.span(pool)

    def holds(self, pool: str, rtp: int) -> bool:
        """Whether somebody has the pair that begins at this port."""
        return self._pool.holds(pool, rtp) or any(
            pair.network == pool and pair.rtp == rtp for pair in self._claimed
        )

    def in_use(self) -> int:
        """Pairs that are not free."""
        return self._pool.total_in_use() + len(self._claimed)

    def size(self, pool: str) -> int:
        """How many pairs there are."""
        return self._pool.size(pool)
