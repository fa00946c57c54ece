"""The pool of media ports: even/odd pairs per network, which rest before they are used again."""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise

from media.relay import PortPair

Range = tuple[str, int, int]
"""(bind address, first port, last port), both inclusive."""

# Some phones go on sending to the port of the previous call, and packets in flight arrive after the BYE: a
# pair rests before the next call gets it, so that nobody hears the end of somebody else's conversation.
QUARANTINE_S = 30.0

# The next pair is picked among this many of those that have been free for longest: the choice cannot be
# guessed from the last one, and a pair still rests as long as the pool allows.
CHOICE = 256

# Ranges that a reload took away are known for as long as calls may be left that began with them.
MAX_FORMER = 64


class PoolExhausted(Exception):
    """No pair is free on `network`; `resting` pairs are in quarantine."""

    def __init__(self, network: str, resting: int) -> None:
        super().__init__(f"no media port pair free on {network} ({resting} resting)")
        self.network = network
        self.resting = resting


class _Network:
    """The pairs of one network, each known by its even (RTP) port."""

    __slots__ = ("first", "free", "host", "in_use", "last", "resting")

    def __init__(self, host: str, first: int, last: int) -> None:
        if not 0 < first <= last <= 65535:
            raise ValueError(f"port range {first}-{last} is not within 1-65535")
        self.host = host
        self.first = first + first % 2
        self.last = last
        # RFC 3550 s.11: RTP on the even port, RTCP on the next one; a range may begin odd or end even.
        self.free = deque(range(self.first, last, 2))
        self.in_use: set[int] = set()
        self.resting: deque[tuple[float, int]] = deque()

    def wake(self, now: float) -> None:
        """Move the pairs that have rested long enough to the free ones; amortised O(1) per release."""
        resting = self.resting
        while resting and resting[0][0] <= now:
            self.free.append(resting.popleft()[1])


class PortPool:
    """Pairs of ports for every network in `ranges`; allocate and release are O(1).

    The key is any name: a network with two bind addresses has two keys. A pair that is released rests for
    `quarantine_s` seconds (0: none) before it can be allocated again. `pick(n)` gives an index below n and
    chooses among the longest free pairs (unguessable in production); without it the
    pool simply rotates. Raises ValueError when two keys would hand out the same port of the same address.
    """

    def __init__(
        self,
        ranges: Mapping[str, Range],
        quarantine_s: float = QUARANTINE_S,
        pick: Callable[[int], int] | None = None,
    ) -> None:
        self._quarantine_s = quarantine_s
        self._pick = pick
        self._networks: dict[str, _Network] = {}
        # Pairs of networks that a reload has taken away, and the ranges of these networks: calls go on there.
        self._orphans: set[PortPair] = set()
        self._former: dict[str, Range] = {}
        self.reconfigure(ranges, quarantine_s)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names that can be allocated from."""
        return tuple(self._networks)

    def allocate(self, network: str, now: float) -> PortPair:
        """A pair of free ports on `network`, ours until `release`. Raises PoolExhausted, KeyError.

        A network that a reload has taken away still has ports for the calls that began in it.
        """
        pool = self._networks.get(network)
        if pool is None:
            return self._allocate_former(network, now)
        if pool.resting and pool.resting[0][0] <= now:
            pool.wake(now)
        free = pool.free
        if not free:
            raise PoolExhausted(network, len(pool.resting))
        if self._pick is not None:
            index = self._pick(min(len(free), CHOICE))
            free[0], free[index] = free[index], free[0]
        port = free.popleft()
        pool.in_use.add(port)
        return PortPair(network, pool.host, port, port + 1)

    def _allocate_former(self, network: str, now: float) -> PortPair:
        host, first, last = self._former[network]
        pools = [pool for pool in self._networks.values() if pool.host == host]
        for pool in pools:
            pool.wake(now)
        busy = {pair.rtp for pair in self._orphans if pair.host == host}
        for pool in pools:
            busy |= pool.in_use | {port for _, port in pool.resting}
        port = next((port for port in range(first + first % 2, last, 2) if port not in busy), None)
        if port is None:
            raise PoolExhausted(network, sum(len(pool.resting) for pool in pools))
        for pool in pools:
            if port in pool.free:
                pool.free.remove(port)
        pair = PortPair(network, host, port, port + 1)
        self._orphans.add(pair)
        return pair

    def release(self, pair: PortPair, now: float) -> None:
        """Give a pair back. Raises ValueError when it is not in use: a second release would, once the pair
        belongs to another call, take it away from there, so it is an error and not a no-op."""
        if self._orphans and pair in self._orphans:
            self._orphans.remove(pair)
        else:
            own = self._networks.get(pair.network)
            if own is None or own.host != pair.host or pair.rtp not in own.in_use:
                raise ValueError(f"{pair.network} {pair.host}:{pair.rtp} is not in use")
            own.in_use.remove(pair.rtp)
            if own.first <= pair.rtp < own.last:
                self._rest(own, pair.rtp, now)
                return
        # A reload has changed the ranges meanwhile: it belongs to whoever has it now, or to nobody.
        for pool in self._networks.values():
            if pool.host == pair.host and pool.first <= pair.rtp < pool.last:
                self._rest(pool, pair.rtp, now)

    def _rest(self, pool: _Network, port: int, now: float) -> None:
        if self._quarantine_s > 0:
            pool.resting.append((now + self._quarantine_s, port))
        else:
            pool.free.append(port)

    def reconfigure(self, ranges: Mapping[str, Range], quarantine_s: float) -> None:
        """Change the ranges (configuration reload). Pairs in use stay valid until they are released."""
        clash = overlap(ranges)
        if clash is not None:
            raise ValueError(clash)
        networks: dict[str, _Network] = {}
        before = self._networks
        for name, (host, first, last) in ranges.items():
            fresh = networks[name] = _Network(host, first, last)
            old = before.get(name)
            if old is not None and old.host == host:
                fresh.in_use = old.in_use
            # What rests goes on to rest, whoever has it now.
            resting = [
                entry
                for one in before.values()
                if one.host == host
                for entry in one.resting
                if fresh.first <= entry[1] < last
            ]
            fresh.resting = deque(sorted(resting))
        for name, old in before.items():
            if name not in networks or networks[name].in_use is not old.in_use:
                self._orphans.update(PortPair(name, old.host, port, port + 1) for port in old.in_use)
            if name not in networks:
                self._former[name] = (old.host, old.first, old.last)
        for fresh in networks.values():
            taken = {port for _, port in fresh.resting}
            taken |= {pair.rtp for pair in self._orphans if pair.host == fresh.host}
            for one in networks.values():
                if one.host == fresh.host:
                    taken |= one.in_use
            fresh.free = deque(port for port in fresh.free if port not in taken)
        for name in networks:
            self._former.pop(name, None)
        for name in list(self._former)[:-MAX_FORMER]:
            del self._former[name]
        self._networks = networks
        self._quarantine_s = quarantine_s

    def span(self, network: str) -> Range | None:
        """The bind address and the range of `network`, None if there is no such."""
        pool = self._networks.get(network)
        return self._former.get(network) if pool is None else (pool.host, pool.first, pool.last)

    def holds(self, network: str, rtp: int) -> bool:
        """Whether the pair at the address of `network` that begins at this port is handed out."""
        span = self.span(network)
        if span is None:
            return False
        return any(pool.host == span[0] and rtp in pool.in_use for pool in self._networks.values()) or any(
            pair.host == span[0] and pair.rtp == rtp for pair in self._orphans
        )

    def size(self, network: str) -> int:
        """How many pairs the range of `network` holds."""
        pool = self._networks.get(network)
        _, first, last = self._former[network] if pool is None else (pool.host, pool.first, pool.last)
        return max(0, (last - first + 1) // 2)

    def in_use(self, network: str) -> int:
        """How many pairs of `network` are handed out."""
        return len(self._networks[network].in_use)

    def free(self, network: str, now: float) -> int:
        """How many pairs of `network` could be allocated at this moment."""
        pool = self._networks[network]
        pool.wake(now)
        return len(pool.free)

    def resting(self, network: str, now: float) -> int:
        """How many pairs of `network` are in quarantine."""
        pool = self._networks[network]
        pool.wake(now)
        return len(pool.resting)

    def total_in_use(self) -> int:
        """Pairs handed out on all networks, those of networks that a reload removed included."""
        return sum(len(pool.in_use) for pool in self._networks.values()) + len(self._orphans)


def overlap(ranges: Mapping[str, Range]) -> str | None:
    """What two keys would both hand out, None for nothing."""
    spans = sorted((host, first, last, name) for name, (host, first, last) in ranges.items())
    for (host, _, last, name), (next_host, next_first, _, next_name) in pairwise(spans):
        if host == next_host and next_first <= last:
            return f"media ports of {name} and {next_name} overlap on {host}"
    return None
