"""Relays one after the other: what a reload changes of the workers holds for streams to come.

How many workers there are, their DSCP and the kernel path are settled when they start. So a reload starts others beside
them, and they end when the last stream that was opened on them has been closed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from media.relay import End, RelayEvent, Side, StreamCounters, StreamSpec
from media.workers import WorkerRelay

# The final counters of a stream follow its end; nobody waits for them longer than `sbc.switchboard.REPORT_S`.
REST_S = 3.0


class Generations:
    """A `Relay` of several `WorkerRelay`s: streams are opened on the latest one, and their numbers never used twice."""

    def __init__(self, first: WorkerRelay, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._on_event: Callable[[RelayEvent], None] = lambda event: None
        self._latest = first
        self._former: list[WorkerRelay] = []
        # Since when a former one has had no stream.
        self._empty_since: dict[WorkerRelay, float] = {}

    def __len__(self) -> int:
        return sum(map(len, self._all))

    @property
    def _all(self) -> tuple[WorkerRelay, ...]:
        return (*self._former, self._latest)

    @property
    def former(self) -> int:
        """How many relays of before are still in use."""
        return len(self._former)

    @property
    def on_event(self) -> Callable[[RelayEvent], None]:
        """Who is told what happens to streams."""
        return self._on_event

    @on_event.setter
    def on_event(self, on_event: Callable[[RelayEvent], None]) -> None:
        self._on_event = on_event
        for relay in self._all:
            relay.on_event = on_event

    @property
    def in_kernel(self) -> int:
        """How many streams the kernel forwards."""
        return sum(relay.in_kernel for relay in self._all)

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The processes of the latest workers, None for one that is being replaced."""
        return self._latest.pids

    def succeed(self, relay: WorkerRelay) -> None:
        """From now on streams are opened on this one."""
        relay.on_event = self._on_event
        self._former.append(self._latest)
        self._latest = relay

    async def sweep(self) -> None:
        """End the relays that are of no use any more."""
        now = self._loop.time()
        for relay in list(self._former):
            if len(relay):
                self._empty_since.pop(relay, None)
            elif now - self._empty_since.setdefault(relay, now) >= REST_S:
                del self._empty_since[relay]
                self._former.remove(relay)
                await relay.stop()

    # -- Relay ---------------------------------------------------------------------------------------------

    def open(self, spec: StreamSpec) -> None:
        """As `Relay.open`."""
        self._latest.open(spec)

    def change(self, stream: int, side: Side, end: End) -> None:
        """As `Relay.change`."""
        self._latest.change(stream, side, end)
        for relay in self._former:
            relay.change(stream, side, end)

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        """As `Relay.limits`."""
        self._latest.limits(stream, start_s, silence_s)
        for relay in self._former:
            relay.limits(stream, start_s, silence_s)

    def close(self, stream: int) -> None:
        """As `Relay.close`."""
        self._latest.close(stream)
        for relay in self._former:
            relay.close(stream)

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        """As `Relay.query`."""
        if not self._former:
            return self._latest.query(streams)
        return self._query(streams)

    async def _query(self, streams: Sequence[int]) -> list[StreamCounters]:
        answers = await asyncio.gather(*(relay.query(streams) for relay in self._all))
        found = {counters.id: counters for answer in answers for counters in answer}
        return [found[stream] for stream in streams if stream in found]

    # -- all workers ---------------------------------------------------------------------------------------

    def stun(self, hosts: Iterable[str]) -> None:
        """As `WorkerRelay.stun`; streams of before keep what they had."""
        self._latest.stun(hosts)

    async def up(self) -> None:
        """As `WorkerRelay.up`."""
        await self._latest.up()

    async def stop(self) -> None:
        """End every worker; no events follow."""
        relays, self._former = self._all, []
        for relay in relays:
            await relay.stop()
