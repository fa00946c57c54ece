"""`make load`: calls by the thousand through the real program in the lab, with media control but without RTP.

    python -m tests.lab.load [--only many,pool,quarantine] [--calls 20000] [--rate 200] [--cycles 2000]

Three runs. `many`: not a call fails, memory stays flat, nothing is left over. `pool`: as many calls at a time as
there are port pairs, round after round, without quarantine: none is refused. `quarantine`: ports rest for a while
after a call, so that too many calls come for them: those are refused with 503 that says why, the others succeed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import sipp
from tests.lab.border import Border
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, Namespaces, obstacle

PAIRS = 30
"""Port pairs of a network in the runs that are about them."""
FLAT_SHARE = 0.03
FLAT_KIB = 2048
"""What a process may grow by between the second and the last fifth of a run: the larger of the two."""
SAMPLE_S = 0.25
RULE = "media-ports-exhausted"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. `t1_ms` is RFC 3261's T1: a transaction lingers for 64 of them after its end."""

    calls: int = 20_000
    rate: int = 200
    cycles: int = 2_000
    refusal_s: int = 60
    t1_ms: int = 500

    @property
    def linger_s(self) -> float:
        """By when everything must be gone after the last call."""
        return 64 * self.t1_ms / 1000 + 3


@dataclass(slots=True)
class Outcome:
    """What a run showed, as lines for the reader, and what was wrong."""

    name: str
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def check(self, good: bool, problem: str) -> None:
        """Note `problem` unless `good`."""
        if not good:
            self.problems.append(problem)


class Watch:
    """Samples, from a thread of its own, the memory of every process of the SBC and the ports that are taken."""

    def __init__(self, border: Border) -> None:
        self._border = border
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.pids = border.pids()
        self.kib: dict[int, list[int]] = {pid: [] for pid in self.pids}
        self.most_ports = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(
    lab: Lab,
    border: Border,
    calls: int,
    rate: int,
    *,
    limit: int | None,
    settled: float,
    hold_ms: int = HOLD_MS,
) -> Result:
    """`settled`: after so many calls memory must be flat; tables and lingering transactions are full then."""
    pids = border.pids()
    bugs = {name: count for name, count in border.stats().items() if name.startswith("bug:")}
    status = border.stop()
    outcome.check(status == 0, f"the SBC ended with exit status {status}")
    outcome.check(not bugs, f"bugs of ours were caught: {bugs}")
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    outcome.check(not alive, f"processes left behind: {alive}")
    errors = [line for line in border.process.text.splitlines() if " ERROR " in line]
    outcome.check(not errors, f"{len(errors)} errors in the log, the first: {errors[:1]}")


def _records(outcome: Outcome, border: Border, expected: dict[int, int]) -> None:
    rows = [json.loads(line) for line in border.cdr.read_text().splitlines()]
    found = Counter(int(row["status"]) for row in rows)
    outcome.lines.append(f"call detail records by status: {dict(found)}")
    outcome.check(dict(found) == expected, f"call detail records {dict(found)}, not {expected}")
    why = {row["rule"] for row in rows if row["status"] == 503}
    outcome.check(why <= {RULE}, f"refused for {why}")


def _resident_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


RUNS: dict[str, Callable[[Plan], Outcome]] = {"many": many, "pool": pool, "quarantine": quarantine}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; exit status 1 when anything was wrong."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.lab.load", description="Calls by the thousand.")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(RUNS), help=",".join(RUNS))
    parser.add_argument("--calls", type=int, default=default.calls)
    parser.add_argument("--rate", type=int, default=default.rate, help="calls/s")
    parser.add_argument("--cycles", type=int, default=default.cycles)
    parser.add_argument("--refusal-s", type=int, default=default.refusal_s, help="length of the third run")
    parser.add_argument("--t1-ms", type=int, default=default.t1_ms, help="SIP timer T1 of the SBC")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.only if name not in RUNS]
    if unknown:
        parser.error(f"--only knows {', '.join(RUNS)}, not {', '.join(unknown)}")
    reason = obstacle("sipp", "ss")
    if reason:
        print(f"load: {reason}", file=sys.stderr)
        return 1
    plan = Plan(found.calls, found.rate, found.cycles, found.refusal_s, found.t1_ms)
    failed = False
    for name in found.only:
        outcome = RUNS[name](plan)
        print(f"## {outcome.name}\n", *outcome.lines, sep="\n")
        print(*(f"WRONG: {problem}" for problem in outcome.problems), sep="\n")
        print("good\n" if not outcome.problems else "", flush=True)
        failed = failed or bool(outcome.problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
