"""Relays one after the other: new streams on the latest, old ones where they are, and the end of those in between."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from media.generations import REST_S, Generations
from media.relay import Counters, End, PortPair, RelayEvent, Side, StreamCounters, StreamSpec
from media.workers import WorkerRelay


class Loop:
    """A clock."""

    now = 100.0

    def time(self) -> float:
        return self.now


class Fake:
    """A relay that keeps what it is told."""

    def __init__(self) -> None:
        self.on_event: Callable[[RelayEvent], None] = lambda event: None
        self.streams: list[int] = []
        self.told: list[tuple[Any, ...]] = []
        self.stopped = False
        self.pids = (1,)

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def in_kernel(self) -> int:
        return len(self.streams)

    def open(self, spec: StreamSpec) -> None:
        self.streams.append(spec.id)

    def change(self, stream: int, side: Side, end: End) -> None:
        if stream in self.streams:
            self.told.append(("change", stream))

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        if stream in self.streams:
            self.told.append(("limits", stream))

    def close(self, stream: int) -> None:
        if stream in self.streams:
            self.streams.remove(stream)

    async def _counted(self, streams: Sequence[int]) -> list[StreamCounters]:
        return [StreamCounters(one, "c", Counters(), Counters()) for one in streams if one in self.streams]

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        return self._counted(streams)

    def stun(self, hosts: Sequence[str]) -> None:
        self.told.append(("stun", *hosts))

    async def stop(self) -> None:
        self.stopped = True


def made() -> tuple[Generations, Fake, Fake, Loop]:
    loop, first, second = Loop(), Fake(), Fake()
    relay = Generations(cast("WorkerRelay", first), cast("asyncio.AbstractEventLoop", loop))
    return relay, first, second, loop


END = End(PortPair("a", "127.0.0.1", 20000, 20001), None, None)


def spec(number: int) -> StreamSpec:
    return StreamSpec(number, "c", "rtp", END, END, 10.0, 0.0, 0.0, 20.0)


def test_streams_stay_with_the_relay_that_has_them() -> None:
    relay, first, second, _ = made()
    events: list[RelayEvent] = []
    relay.on_event = events.append
    relay.open(spec(1))
    relay.open(spec(2))
    relay.succeed(cast("WorkerRelay", second))
    relay.open(spec(3))
    assert (first.streams, second.streams) == ([1, 2], [3])
    assert (len(relay), relay.in_kernel, relay.former) == (3, 3, 1)
    assert first.on_event == second.on_event == events.append
    for number in (1, 3):
        relay.change(number, "a", END)
        relay.limits(number, 1.0, 1.0)
    assert first.told == [("change", 1), ("limits", 1)]
    assert second.told == [("change", 3), ("limits", 3)]
    relay.stun(["127.0.0.1"])
    assert second.told[-1] == ("stun", "127.0.0.1") and len(first.told) == 2
    found = asyncio.run(cast("Any", relay.query([3, 1, 9, 2])))
    assert [one.id for one in found] == [3, 1, 2]


def test_a_former_relay_ends_a_while_after_its_last_stream() -> None:
    relay, first, second, loop = made()
    relay.open(spec(1))
    relay.succeed(cast("WorkerRelay", second))
    loop.now += 2 * REST_S
    asyncio.run(relay.sweep())
    relay.close(1)
    asyncio.run(relay.sweep())
    loop.now += REST_S - 0.1
    asyncio.run(relay.sweep())
    assert not first.stopped, "its last counters may be on their way"
    loop.now += 0.2
    asyncio.run(relay.sweep())
    assert (first.stopped, second.stopped, relay.former) == (True, False, 0)
    asyncio.run(relay.stop())
    assert second.stopped


def test_all_end_together() -> None:
    relay, first, second, _ = made()
    relay.open(spec(1))
    relay.succeed(cast("WorkerRelay", second))
    asyncio.run(relay.stop())
    assert first.stopped and second.stopped


@pytest.mark.source
def test_workers_that_started_before_one_could_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    real = subprocess.Popen

    def spawn(*args: Any, **keywords: Any) -> "subprocess.Popen[bytes]":
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(*args, **keywords))
        return started[-1]

    async def scenario() -> None:
        monkeypatch.setattr("media.workers.subprocess.Popen", spawn)
        with pytest.raises(BlockingIOError):
            WorkerRelay(asyncio.get_running_loop(), 3)

    asyncio.run(scenario())
    assert [process.wait(20) for process in started] == [0, 0]
