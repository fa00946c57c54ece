"""Ports of TURN relays among all others: what `sbc.turn` is lent there is handed out as ever."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from media.ports import PoolExhausted, PortPool, Range
from media.relay import PortPair


class TurnPool(PortPool):
    """A `PortPool` that has the ports of relays too, each network's as they are lent to it."""

    def __init__(
        self,
        ranges: Mapping[str, Range],
        quarantine_s: float,
        pick: Callable[[int], int] | None,
        networks: Iterable[str],
        taken: Callable[[str], None] = lambda network: None,
    ) -> None:
        super().__init__(ranges, quarantine_s, pick)
        self._rest_s = quarantine_s
        self._free: dict[str, deque[PortPair]] = {}
        self._rests: dict[str, deque[tuple[float, PortPair]]] = {}
        for network in networks:
            self.serve(network)
        self._lent: set[PortPair] = set()
        self._used: set[PortPair] = set()
        self.taken = taken

    def serve(self, network: str) -> None:
        """This one has ports of a relay from now on."""
        self._free.setdefault(network, deque())
        self._rests.setdefault(network, deque())

    def used(self, network: str) -> int:
        """How many pairs of the relay of `network` are handed out."""
        return sum(pair.network == network for pair in self._used)

    def lend(self, pair: PortPair) -> None:
        """A pair that can be handed out from now on."""
        self._lent.add(pair)
        self._free[pair.network].append(pair)

    def withdraw(self, pair: PortPair) -> None:
        """A pair that is gone; who has it now gives it back as ever."""
        self._lent.discard(pair)
        with contextlib.suppress(ValueError):
            self._free[pair.network].remove(pair)

    def allocate(self, network: str, now: float) -> PortPair:
        """As `PortPool.allocate`."""
        if network not in self._free:
            return super().allocate(network, now)
        free = self._awake(network, now)
        try:
            if not free:
                raise PoolExhausted(network, len(self._rests[network]))
            pair = free.popleft()
            self._used.add(pair)
            return pair
        finally:
            self.taken(network)

    def release(self, pair: PortPair, now: float) -> None:
        """As `PortPool.release`."""
        if pair.network not in self._free:
            super().release(pair, now)
            return
        if pair not in self._used:
            raise ValueError(f"{pair.network} {pair.host}:{pair.rtp} is not in use")
        self._used.remove(pair)
        self._rests[pair.network].append((now + self._rest_s, pair))

    def reconfigure(self, ranges: Mapping[str, Range], quarantine_s: float) -> None:
        """As `PortPool.reconfigure`; the ports of relays stay."""
        super().reconfigure(ranges, quarantine_s)
        self._rest_s = quarantine_s

    def span(self, network: str) -> Range | None:
        """None for a relay: its other ports belong to others."""
        return None if network in self._free else super().span(network)

    def holds(self, network: str, rtp: int) -> bool:
        """As `PortPool.holds`."""
        if network not in self._free:
            return super().holds(network, rtp)
        return any(pair.network == network and pair.rtp == rtp for pair in self._used)

    def size(self, network: str) -> int:
        """As `PortPool.size`."""
        if network not in self._free:
            return super().size(network)
        return sum(pair.network == network for pair in self._lent)

    def free(self, network: str, now: float) -> int:
        """As `PortPool.free`."""
        return len(self._awake(network, now)) if network in self._free else super().free(network, now)

    def total_in_use(self) -> int:
        """As `PortPool.total_in_use`."""
        return super().total_in_use() + len(self._used)

    def _awake(self, network: str, now: float) -> deque[PortPair]:
        free, rests = self._free[network], self._rests[network]
        while rests and rests[0][0] <= now:
            pair = rests.popleft()[1]
            if pair in self._lent:
                free.append(pair)
        return free
