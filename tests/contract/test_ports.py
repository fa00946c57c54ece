"""Ports and the processes that hold them: bound, freed, and bound again by the successor of a worker that died."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from media.relay import BindFailed, Closed, Learn, PortPair, WorkerRestarted
from tests.contract import place
from tests.contract.relays import MAKES, assert_free, bench, end_for, free_pair, rtp_of
from tests.harness import fastpath

pytestmark = pytest.mark.parametrize("make", MAKES)


def test_closing_tells_the_final_counters_and_frees_the_ports(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, _bob, b, stream = await under_test.between()
            await alice.stream(rtp_of(a), 5)
            under_test.relay.close(stream)
            await under_test.until(lambda: under_test.happened(Closed))
            (closed,) = under_test.happened(Closed)
            assert (closed.stream, closed.counters.a.packets, closed.counters.b.mos) == (stream, 5, None)
            assert_free([a.local, b.local])
            assert await under_test.relay.query([stream]) == []
            under_test.relay.close(stream)
            under_test.relay.change(stream, "a", a)
            under_test.relay.limits(stream, 1.0, 1.0)
            await under_test.settle()
            assert len(under_test.happened(Closed)) == 1

    asyncio.run(call())


def test_a_taken_port_is_told(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(rtp_of(a))
                stream = await under_test.open(a, b)
                await under_test.until(lambda: under_test.happened(BindFailed))
            (failed,) = under_test.happened(BindFailed)
            assert failed.stream == stream
            assert str(a.local.rtp) in failed.reason and "in use" in failed.reason
            await under_test.close(stream, a, b)

    asyncio.run(call())


def test_a_port_that_is_freed_a_moment_later_is_bound_after_all(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice), end_for(bob)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
                taken.bind(rtp_of(a))
                await under_test.open(a, b)
            await asyncio.sleep(0.1)
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 5
            assert under_test.happened(BindFailed) == []

    asyncio.run(call())


def test_thirty_pairs_are_opened_and_closed_over_and_over(make: str) -> None:
    async def call() -> None:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            host = alice.address[0]
            pairs = [(free_pair(host), free_pair(host)) for _ in range(30)]
            for cycle in range(20):
                streams = [
                    under_test.start(
                        replace(end_for(alice), local=first), replace(end_for(bob), local=second)
                    )
                    for first, second in (pairs[cycle:] + pairs[:cycle])
                ]
                for stream in streams:
                    under_test.relay.close(stream)
            await under_test.until(lambda: len(under_test.happened(Closed)) == 600)
            assert under_test.happened(BindFailed) == []
            assert_free([pair for both in pairs for pair in both])

    asyncio.run(call())


def test_a_killed_worker_is_replaced_on_the_same_ports_with_the_same_sources(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            a = replace(end_for(alice, Learn.PORT), remote=None, expect=alice.address[0])
            b = end_for(bob)
            stream = await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 10), bob.stream(rtp_of(b), 10))
            await under_test.settle()
            pid = under_test.signal(signal.SIGKILL)
            killed = time.monotonic()
            # Until that has been seen the kernel may go on forwarding.
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            alice.received.clear()
            # The first packet to Alice needs the source that only the dead worker had learned.
            while not alice.received and time.monotonic() < killed + 30:
                await bob.stream(rtp_of(b), 1, interval_s=0.02)
            # Half a second on an idle machine: the start of a Python process.
            assert time.monotonic() - killed < 10.0
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 15
            (restarted,) = under_test.happened(WorkerRestarted)
            assert restarted.streams == 1
            assert under_test.relay.pids[0] not in (None, pid)
            await under_test.close(stream, a, b)

    asyncio.run(call())


def test_streams_closed_while_the_worker_is_dead_are_told_closed(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            first, second = [await under_test.open(end_for(alice), end_for(bob)) for _ in range(2)]
            under_test.signal(signal.SIGKILL)
            under_test.relay.close(first)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            under_test.relay.close(second)
            await under_test.until(lambda: len(under_test.happened(Closed)) == 2)
            assert [event.streams for event in under_test.happened(WorkerRestarted)] in ([1], [2])

    asyncio.run(call())


def test_workers_share_the_streams_and_survive_a_terminal_signal(make: str) -> None:
    async def call() -> None:
        async with bench(make, workers=2) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            ends = [(end_for(alice), end_for(bob)) for _ in range(4)]
            streams = [await under_test.open(a, b) for a, b in ends]
            for pid in under_test.relay.pids:
                assert pid is not None
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
            for a, _ in ends:
                await alice.stream(rtp_of(a), 3)
            await under_test.settle()
            assert len(bob.received) == 12
            assert under_test.happened(WorkerRestarted) == []
            assert [each.id for each in await under_test.relay.query(streams[::-1])] == streams[::-1]
            # The ports of one worker go with it: that tells how many streams each had.
            pid = under_test.signal(signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert under_test.happened(WorkerRestarted)[0].streams == 2

    asyncio.run(call())


def test_workers_end_with_their_parent_and_leave_nothing(make: str) -> None:
    async def call() -> tuple[list[int], list[PortPair]]:
        async with bench(make, workers=2) as under_test:
            _alice, a, _bob, b, _ = await under_test.between()
            return [pid for pid in under_test.relay.pids if pid is not None], [a.local, b.local]

    pids, pairs = asyncio.run(call())
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert_free(pairs)


PARENT = """
import asyncio, os, sys
from pathlib import Path
from media.fastpath.loader import FastPath
from media.workers import WorkerRelay

async def main() -> None:
    path = FastPath([sys.argv[2]], Path(sys.argv[1])) if sys.argv[1:] else ""
    relay = WorkerRelay(asyncio.get_running_loop(), 2, fastpath=path)
    print(*relay.pids, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_workers_end_when_their_parent_is_killed(make: str) -> None:
    path = [str(fastpath.loadable()), place.OURS] if make == "kernel" else []
    with subprocess.Popen([sys.executable, "-c", PARENT, *path], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    """Whether a process that is not our child lives (an orphan may stay a zombie for a while)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_does_not_read_is_replaced(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("media.workers.MAX_QUEUED", 500)

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between()
            pid = under_test.signal(signal.SIGSTOP)
            for _ in range(2000):
                if under_test.relay.pids[0] != pid:
                    break
                for _ in range(50):
                    under_test.relay.change(stream, "b", b)
                await asyncio.sleep(0.001)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            await alice.stream(rtp_of(a), 5)
            await under_test.settle()
            assert len(bob.received) == 5

    asyncio.run(call())
