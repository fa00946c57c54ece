"""What processes have used: CPU and memory of a whole tree of them, from /proc."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

NICE = -10


def come_first(pids: Iterable[int] = ()) -> None:
    """Put this process, what it starts from now on, and `pids` above whatever else the machine does, as far as that is
    allowed: loads and systems under test alike, so that they are measured and not what is beside them."""
    for pid in (os.getpid(), *pids):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, min(NICE, os.getpriority(os.PRIO_PROCESS, pid)))
        # Niceness counts within a session only where the scheduler groups processes by it (sched(7), autogroup).
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def tree(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def cpu_s(pids: list[int]) -> float:
    """Seconds of CPU (user and system) that the threads of processes have had so far, in the scheduler's nanoseconds.

    On loopback the kernel's work for a packet is done by its sender, up to the socket of the receiver.
    """
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0])
    return total / 1e9


def memory_kib(pids: list[int]) -> dict[str, int]:
    """Resident memory of processes by kind: `Pss` counts a page that n processes share as 1/n, `Rss` whole."""
    total = {"Pss": 0, "Rss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            kind, _, rest = line.partition(":")
            if kind in total:
                total[kind] += int(rest.split()[0])
    return total


def softirq_threads() -> list[int]:
    """The kernel's own threads that work on packets when there are too many for the processes that caused them."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/comm")
        if path.read_text().startswith("ksoftirqd/")
    ]
