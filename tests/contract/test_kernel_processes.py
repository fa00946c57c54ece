"""The kernel path and processes: workers that die or hang, borders that are killed, two of them on one interface."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from media.fastpath import table
from media.fastpath.loader import WORKERS_MAX, FastPath, Unavailable, choose
from media.relay import WorkerRestarted
from tests.contract import place
from tests.contract.relays import bench, kernel, rtp_of
from tests.contract.speech import descend, descended, numbers
from tests.harness import fastpath


@kernel
def test_a_dead_worker_takes_its_flows_along(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test)
            path = under_test.relay._fastpath
            assert path is not None
            old = {table.worker_of(flow) for _, flow in path.flows.items()}
            assert old == {0}
            pid = under_test.relay.pids[0]
            assert pid is not None and under_test.relay.in_kernel == 1
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert under_test.relay.in_kernel == 0
            assert list(path.flows.items()) == []
            await under_test.settle()
            alice.received.clear()
            bob.received.clear()
            await descend(under_test, alice, a, bob, b, stream)
            assert {table.worker_of(flow) for _, flow in path.flows.items()} == {1}
            assert numbers(alice) == sorted(numbers(alice)) and len(numbers(alice)) == len(
                set(numbers(alice))
            )

    asyncio.run(call())


@kernel
@pytest.mark.slow
def test_the_flows_of_a_stuck_worker_run_out(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test)
            pid = under_test.signal(signal.SIGSTOP)
            try:
                bob.received.clear()
                await alice.stream(rtp_of(a), 10)
                assert len(bob.received) == 10
                await asyncio.sleep(table.LEASE_S + 0.5)
                await alice.stream(rtp_of(a), 10)
                await asyncio.sleep(0.1)
                assert len(bob.received) == 10
            finally:
                os.kill(pid, signal.SIGCONT)
            # They have waited at the socket, and the stream goes on where it was.
            await under_test.until(lambda: len(bob.received) == 20)
            await descend(under_test, alice, a, bob, b, stream)
            assert numbers(bob) == sorted(numbers(bob))
            assert (await under_test.counters(stream, "a")).lost == 0

    asyncio.run(call())


@kernel
def test_closing_leaves_no_flow(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            *_, stream = await descended(under_test)
            path = under_test.relay._fastpath
            assert path is not None and len(list(path.flows.items())) == 2
            under_test.relay.close(stream)
            await under_test.settle()
            await asyncio.sleep(0.1)
            assert list(path.flows.items()) == []

    asyncio.run(call())


@kernel
def test_before_tcx_there_is_clsact(make: str) -> None:
    path = FastPath([place.OURS], fastpath.loadable(), tcx=False)
    try:
        assert path.way == "clsact"
        assert "sbc_rtp" in place.programs() and "direct-action" in place.programs()
    finally:
        path.close()
    assert "sbc_rtp" not in place.programs()


BORDER = """
import sys, time
from pathlib import Path
from media.fastpath.loader import FastPath

path = FastPath([sys.argv[2]], Path(sys.argv[1]), tcx=bool(sys.argv[3:]))
print(path.way, flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def border(way: str) -> Iterator[None]:
    """Another process that has the program attached in this way, and is killed at the end."""
    arguments = [sys.executable, "-c", BORDER, str(fastpath.loadable()), place.OURS]
    if way == "tcx":
        arguments.append(way)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == way
            yield
        finally:
            process.kill()


@kernel
def test_the_filter_of_a_process_that_was_killed_is_taken_away(make: str) -> None:
    with border("clsact"):
        (theirs,) = place.handles()
        # A second border leaves the first alone as long as it lives.
        second = FastPath([place.OURS], fastpath.loadable(), tcx=False)
        assert len(place.handles()) == 2 and theirs in place.handles()
        second.close()
        assert place.handles() == [theirs]
    assert place.handles() == [theirs]
    path = FastPath([place.OURS], fastpath.loadable(), tcx=False)
    assert len(place.handles()) == 1 and place.handles() != [theirs]
    path.close()
    assert "sbc_rtp" not in place.programs()


@kernel
def test_nothing_outlives_a_process_that_is_killed(make: str) -> None:
    """Links count the programs of an interface: as many as there were are there again."""
    before = place.attached()
    with border("tcx"):
        assert place.attached() == before + 1
    deadline = time.monotonic() + 10
    while place.attached() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place.attached() == before


@kernel
def test_two_borders_on_one_interface_do_not_meet(make: str) -> None:
    async def call() -> None:
        async with bench(make) as first, bench(make) as second:
            for under_test in (first, second):
                await descended(under_test)

    asyncio.run(call())


@kernel
def test_an_address_of_another_namespace_is_refused(make: str) -> None:
    with pytest.raises(Unavailable, match=r"^no interface has the address 192\.0\.2\.9$"):
        FastPath(["192.0.2.9"], fastpath.loadable())


@kernel
def test_on_is_for_every_address_and_auto_for_those_that_can(make: str) -> None:
    hosts = [place.OURS, "127.0.0.1"]
    before = place.attached()
    with pytest.raises(Unavailable, match=r"^lo, which has 127\.0\.0\.1, is not Ethernet$"):
        choose("on", hosts, fastpath.loadable())
    assert place.attached() == before
    for mode, wanted in (("auto", hosts), ("on", hosts[:1])):
        found = choose(mode, wanted, fastpath.loadable())
        assert isinstance(found, FastPath) and found.interfaces == ("cable",)
        assert len(found.without) == len(wanted) - 1
        found.close()
    assert choose("off", hosts) == ""
    assert choose("auto", hosts[1:], fastpath.loadable()) == "lo, which has 127.0.0.1, is not Ethernet"


# When the kernel's table fails


@kernel
def test_a_worker_is_replaced_though_its_flows_cannot_be_told_to_end(
    make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test)
            monkeypatch.setattr(FastPath, "dismiss", refused)
            under_test.signal(signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            await descend(under_test, alice, a, bob, b, stream)

    asyncio.run(call())


@kernel
def test_flows_of_a_dead_worker_are_ended_once_more_when_it_can_write_no_others(
    make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, alive = FastPath.dismiss, []

    async def call() -> None:
        async with bench(make) as under_test:
            pid = under_test.relay.pids[0]
            assert pid is not None

            def dismiss(path: FastPath, number: int) -> int:
                assert number == 0
                alive.append(Path(f"/proc/{pid}").exists())
                return real(path, number)

            monkeypatch.setattr(FastPath, "dismiss", dismiss)
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert not alive[-1]

    asyncio.run(call())


@kernel
def test_a_worker_that_lives_long_keeps_its_number_to_itself(make: str) -> None:
    path = FastPath([place.OURS], fastpath.loadable())
    old = path.employ()
    others = []
    for _ in range(WORKERS_MAX):
        others.append(path.employ())
        path.dismiss(others[-1])
    path.close()
    assert old not in others and len(set(others)) == WORKERS_MAX - 1
