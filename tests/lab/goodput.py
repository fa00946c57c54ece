"""How many calls a border serves well: callers that write down what became of each, and a share of a core for it."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.usage import cpu_s
from tests.lab.sipp import Sipp

SCENARIO = "uac_goodput"
SETUP_S = 2.0
"""A caller who waits longer is none that was served well."""
SETTLE_S = 1.0
"""Until a load is steady: what begins or ends before does not count."""
PATIENCE_S = 4.0
"""How long a load goes on after its last call has begun."""
PERIOD_US = 10_000
GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of the calls of a steady load, a second. `clean`: answered in time, and the BYE was answered too."""

    offered: float
    clean: float
    refused: float
    bad: int
    """Calls that began while it was steady and were answered late, or never, or not hung up."""
    setup_ms: float
    """After which 99 in a hundred of the clean ones were answered."""
    cores: float = 0.0
    """What the border had of a core: less than its share where the machine had no more for it."""

    @property
    def served(self) -> bool:
        """Whether every call was served well."""
        return not self.refused and not self.bad and self.clean >= 0.9 * self.offered

    def __str__(self) -> str:
        return (
            f"{self.offered:.0f}/s offered, {self.clean:.0f}/s clean, {self.refused:.0f}/s refused, {self.bad} slow or"
            f" lost, answer p99 {self.setup_ms:.0f} ms, {self.cores:.2f} cores"
        )


def told(log: str, seconds: float) -> Trial:
    """What a caller has written down of a load of that length."""
    at: dict[str, dict[str, float]] = {"begun": {}, "answered": {}, "over": {}, "refused": {}}
    for line in log.splitlines():
        what, _, rest = line.partition(" ")
        call, _, tick = rest.partition(" ")
        if what in at and tick.isdecimal():
            at[what].setdefault(call, int(tick) / 1000)
    begun, answered, over, refused = at["begun"], at["answered"], at["over"], at["refused"]
    start = min(begun.values(), default=0.0)
    since, until = start + SETTLE_S, start + seconds
    prompt = {call for call, t in answered.items() if t - begun[call] <= SETUP_S}
    clean = [call for call, t in over.items() if since <= t < until and call in prompt]
    steady = [call for call, t in begun.items() if since <= t < until]
    bad = sum(1 for call in steady if call not in refused and not (call in over and call in prompt))
    took = sorted(answered[call] - begun[call] for call in clean)
    length = until - since
    return Trial(
        len(steady) / length,
        len(clean) / length,
        sum(1 for t in refused.values() if since <= t < until) / length,
        bad,
        1000 * took[int(len(took) * 0.99)] if took else 0.0,
    )


def offer(
    caller: Callable[[tuple[str, ...]], Sipp], log: Path, pids: Callable[[], list[int]], seconds: float
) -> Trial:
    """Have a caller offer calls for `seconds`; it is started with some options, and ended when it has had its time."""
    log.unlink(missing_ok=True)
    sipp = caller(("-trace_logs", "-log_file", str(log)))
    began, spent = time.monotonic(), cpu_s(pids())
    time.sleep(seconds)
    cores = (cpu_s(pids()) - spent) / (time.monotonic() - began)
    deadline = time.monotonic() + PATIENCE_S
    while sipp.process.running and time.monotonic() < deadline:
        time.sleep(0.1)
    sipp.process.stop(1)
    return replace(told(log.read_text(errors="replace"), seconds), cores=cores)


def fair(load: Callable[[], Trial], share: float, attempts: int = 3) -> Trial | None:
    """A load that says something of the border: one that it served, or one for which it had its share of the machine.

    None when the machine had none for it each time. What the border does badly is not hidden: it has its share then.
    """
    for _ in range(attempts):
        trial = load()
        if trial.served or trial.cores >= 0.9 * share:
            return trial
    return None


def can_share() -> bool:
    """Whether this machine lets us make a control group for the processor."""
    return any(os.access(GROUPS / name, os.W_OK) for name in ("cgroup.controllers", "cpu"))


@contextmanager
def shared(name: str, pids: Sequence[int], share: float) -> Iterator[None]:
    """While it lasts the processes have that share of a core between them, in a control group. Needs root."""
    second = (GROUPS / "cgroup.controllers").exists()
    group = (GROUPS if second else GROUPS / "cpu") / name
    group.mkdir()
    try:
        quota = round(share * PERIOD_US)
        if second:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(left)
        group.rmdir()
