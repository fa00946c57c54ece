"""A network in memory with virtual time: loses, doubles, delays and reorders what is sent, by a seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from signaling.flow import Address

MAX_TIMERS_AT_ONCE = 100_000

Receiver = Callable[[bytes, Address, Address, float], None]
"""(data, source, destination, now)"""


class Node(Protocol):
    """Something with timers of its own: a core or a scripted user agent."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is to be called, None for never."""

    def handle_timer(self, now: float) -> object:
        """Do what is due."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network does to datagrams: probabilities from 0 to 1, times in seconds.

    Each copy takes `delay_s` and a random part of `jitter_s`, so jitter above the distance of two datagrams
    reorders them.
    """

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.01
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One message as it was sent, and how many copies of it the network lets through."""

    at: float
    source: Address
    destination: Address
    data: bytes
    copies: int


class Wire:
    """The network. `attach` receivers and nodes, `deliver` bytes, `run` the clock."""

    def __init__(self, seed: int = 0, weather: Weather | None = None, start: float = 1000.0) -> None:
        self.now = start
        self.weather = weather or Weather()
        self.passages: list[Passage] = []
        self.unreachable = 0
        # For a test that wants one certain message lost: True loses it.
        self.lose: Callable[[bytes, Address, Address], bool] = lambda data, source, destination: False
        self._random = random.Random(seed)
        self._receivers: dict[Address, Receiver] = {}
        self._nodes: list[Node] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._timer_at = start - 1.0
        self._timers_at = 0
        self._arrived: dict[tuple[Address, Address], float] = {}

    def attach(self, address: Address, receiver: Receiver) -> None:
        """Give `address` to a receiver."""
        self._receivers[address] = receiver

    def detach(self, address: Address) -> None:
        """Switch the host at `address` off: what is sent there vanishes."""
        self._receivers.pop(address, None)

    def add_node(self, node: Node) -> None:
        """Run the timers of `node` with the clock."""
        self._nodes.append(node)

    def call_at(self, at: float, action: Callable[[], None]) -> None:
        """Do something at a time, not before now."""
        self._order += 1
        heappush(self._events, (max(at, self.now), self._order, action))

    def deliver(self, data: bytes, source: Address, destination: Address, reliable: bool = False) -> None:
        """Send one message. `reliable` as TCP does it: nothing lost or doubled, and in order."""
        weather = self.weather
        if reliable:
            at = self.now + weather.delay_s + self._random.random() * weather.jitter_s
            way = (source, destination)
            at = max(at, self._arrived.get(way, 0.0))
            self._arrived[way] = at
            self._send(data, source, destination, [at])
            return
        copies = 1
        if self._random.random() < weather.duplication:
            copies = 2
        if self.lose(data, source, destination):
            copies = 0
        times = [
            self.now + weather.delay_s + self._random.random() * weather.jitter_s
            for _ in range(copies)
            if self._random.random() >= weather.loss
        ]
        self._send(data, source, destination, times)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass: arrivals, actions and timers in the order of their times."""
        until = self.now + seconds
        while True:
            at, step = self._next()
            if at > until:
                break
            self.now = max(self.now, at)
            step()
        self.now = until

    def run_until(self, done: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Let time pass until `done`; False when it is not after `seconds` or nothing is left to happen."""
        until = self.now + seconds
        while not done():
            at, step = self._next()
            if at > until:
                self.now = until
                return False
            self.now = max(self.now, at)
            step()
        return True

    @property
    def under_way(self) -> int:
        """Messages and actions that have yet to happen."""
        return len(self._events)

    def _next(self) -> tuple[float, Callable[[], None]]:
        """The next thing that happens. Arrivals go before timers of the same moment."""
        best = self._events[0][0] if self._events else float("inf")
        due: Node | None = None
        for node in self._nodes:
            at = node.next_timer()
            if at is not None and at < best:
                best, due = at, node
        if due is None:
            return best, self._happen
        timed = due
        return best, lambda: self._run_timer(timed)

    def _run_timer(self, node: Node) -> None:
        self._timers_at = self._timers_at + 1 if self._timer_at == self.now else 0
        self._timer_at = self.now
        assert self._timers_at < MAX_TIMERS_AT_ONCE, f"{node!r} leaves its timer due for ever"
        node.handle_timer(self.now)

    def _happen(self) -> None:
        heappop(self._events)[2]()

    def _send(self, data: bytes, source: Address, destination: Address, times: list[float]) -> None:
        self.passages.append(Passage(self.now, source, destination, data, len(times)))
        for at in times:
            self.call_at(at, lambda: self._arrive(data, source, destination))

    def _arrive(self, data: bytes, source: Address, destination: Address) -> None:
        receiver = self._receivers.get(destination)
        if receiver is None:
            self.unreachable += 1
            return
        receiver(data, source, destination, self.now)
