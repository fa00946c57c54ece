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
from typing import Any

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
    def warm_up(self) -> int:
        """Calls before those that are looked at."""
        return min(1000, self.calls // 3)

    @property
    def linger_s(self) -> float:
        """By when everything must be gone after the last call."""
        return 64 * self.t1_ms / 1000 + 15


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

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for pid in self.pids:
                self.kib[pid].append(_resident_kib(pid))
            self.most_ports = max(self.most_ports, self._border.stats()["held.ports"])

    def growth(self) -> Iterator[tuple[int, int]]:
        """Of each process the median memory in KiB in the second and in the last fifth of the run."""
        for samples in self.kib.values():
            fifth = max(1, len(samples) // 5)
            yield (
                int(statistics.median(samples[fifth : 2 * fifth])),
                int(statistics.median(samples[-fifth:])),
            )


def many(plan: Plan) -> Outcome:
    """Call after call at a steady rate."""
    outcome = Outcome(f"{plan.calls} calls at {plan.rate}/s")
    pairs = 20_000
    with _lab(plan, pairs=pairs, max_calls=pairs // 2, quarantine_s=1.0) as (namespaces, border):
        # Tables, the recent calls and the transactions that linger are to be full when memory is first looked at.
        _run_calls(outcome, namespaces, "uac_call", plan.warm_up, plan.rate, hold_ms=500)
        with Watch(border) as watch:
            _run_calls(outcome, namespaces, "uac_call", plan.calls, plan.rate, hold_ms=500)
        _flat_memory(outcome, watch)
        _nothing_left(outcome, border, plan)
        _records(outcome, border, {200: plan.warm_up + plan.calls})
    return outcome


def pool(plan: Plan) -> Outcome:
    """As many calls at a time as there are ports."""
    calls = plan.cycles * PAIRS
    outcome = Outcome(f"{plan.cycles} cycles of {PAIRS} calls at a time in {PAIRS} port pairs, no quarantine")
    with _lab(plan, pairs=PAIRS, max_calls=PAIRS, quarantine_s=0.0) as (namespaces, border):
        with Watch(border) as watch:
            # Twice the rate that the pool allows: SIPp's own limit on calls at a time sets the pace.
            hold_ms = 1000 * PAIRS // plan.rate
            _run_calls(outcome, namespaces, "uac_call", calls, 2 * plan.rate, hold_ms=hold_ms, limit=PAIRS)
        outcome.lines.append(f"most port pairs taken at a time: {watch.most_ports} of {2 * PAIRS}")
        outcome.check(watch.most_ports == 2 * PAIRS, "the pool was never full: this run shows nothing")
        _nothing_left(outcome, border, plan)
        _records(outcome, border, {200: calls})
    return outcome


def quarantine(plan: Plan) -> Outcome:
    """More calls than ports that have rested."""
    rate = 2 * PAIRS
    calls = rate * plan.refusal_s
    outcome = Outcome(f"{calls} calls at {rate}/s in {PAIRS} port pairs that rest for 1 s after a call")
    with _lab(plan, pairs=PAIRS, max_calls=PAIRS, quarantine_s=1.0) as (namespaces, border):
        _run_calls(outcome, namespaces, "uac_call_or_no_port", calls, rate, hold_ms=100)
        _nothing_left(outcome, border, plan)
        # How many is a matter of timing. SIPp has counted each that was not refused with the rule as a failure.
        refused = _statuses(border)[503]
        outcome.check(0 < refused < calls, "not some refused and some answered: this run shows nothing")
        _records(outcome, border, {200: calls - refused, 503: refused})
    return outcome


@contextmanager
def _lab(
    plan: Plan, *, pairs: int, max_calls: int, quarantine_s: float
) -> Iterator[tuple[Namespaces, Border]]:
    with (
        tempfile.TemporaryDirectory(prefix="load-") as directory,
        Namespaces(Path(directory)) as namespaces,
    ):
        networks = "".join(
            f"  {side.name}: {{address: {side.border}, listen: [udp:5060],"
            f" media_ports: 20000-{20000 + 2 * pairs - 1}}}\n"
            for side in SIDES.values()
        )
        border = Border(
            namespaces,
            f"networks:\n{networks}"
            f'trunks:\n  pbx: {{network: private, servers: ["sip:{SIDES[PRIVATE].peer}:5060"]}}\n'
            "routes:\n  - {from: public, to: pbx}\n"
            f"limits: {{max_calls: {max_calls}}}\n"
            f"timers: {{t1_ms: {plan.t1_ms}, t2_ms: {8 * plan.t1_ms}, t4_ms: {10 * plan.t1_ms},"
            f" port_quarantine_s: {quarantine_s:g}}}\n"
            f"log: {{cdr: {namespaces.directory}/cdr.jsonl}}\n"
            f"control: {{socket: {namespaces.directory}/control.sock}}\n",
        )
        yield namespaces, border


def _run_calls(
    outcome: Outcome,
    namespaces: Namespaces,
    scenario: str,
    calls: int,
    rate: int,
    *,
    hold_ms: int,
    limit: int | None = None,
) -> None:
    words = sipp.Words(agent="load", hold_ms=hold_ms, ring_ms=20)
    callee = sipp.callee(namespaces, PRIVATE, "uas_call", calls=0, words=words, name="callee")
    begin = time.monotonic()
    caller = sipp.caller(
        namespaces,
        PUBLIC,
        scenario,
        f"{SIDES[PUBLIC].border}:5060",
        calls=calls,
        rate=rate,
        limit=limit or 10 * rate,
        words=words,
        name="caller",
    )
    try:
        caller.done(4 * calls / rate + 60)
    except AssertionError as error:
        outcome.problems.append(str(error))
    seconds = time.monotonic() - begin
    callee.process.stop(9)
    counts = caller.counts()
    good, failed, again = (counts.get(name, 0) for name in ("successful", "failed", "retransmissions"))
    outcome.lines.append(
        f"caller: {good} by the scenario, {failed} not, {again} retransmissions,"
        f" {counts.get('created', 0) / seconds:.0f} calls/s over {seconds:.0f} s"
    )


def _flat_memory(outcome: Outcome, watch: Watch) -> None:
    outcome.lines += ["", "| process | 2nd fifth, MiB | last fifth, MiB |", "| --- | --- | --- |"]
    for number, (early, late) in enumerate(watch.growth()):
        name = "signalling" if number == 0 else f"relay worker {number}"
        outcome.lines.append(f"| {name} | {early / 1024:.1f} | {late / 1024:.1f} |")
        outcome.check(late - early <= max(FLAT_KIB, FLAT_SHARE * early), f"{name} grew by {late - early} KiB")
    outcome.lines.append("")


def _nothing_left(outcome: Outcome, border: Border, plan: Plan) -> None:
    begin = time.monotonic()
    left = border.leftovers(plan.linger_s)
    outcome.lines.append(f"held after {time.monotonic() - begin:.0f} s: {left or 'nothing'}")
    outcome.check(not left, f"left over: {left}")
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
    found = _statuses(border)
    outcome.lines.append(f"call detail records by status: {dict(found)}")
    outcome.check(found == Counter(expected), f"call detail records {dict(found)}, not {expected}")
    why = {row["rule"] for row in _rows(border) if row["status"] == 503}
    outcome.check(why <= {RULE}, f"refused for {why}")


def _statuses(border: Border) -> Counter[int]:
    return Counter(int(row["status"]) for row in _rows(border))


def _rows(border: Border) -> list[dict[str, Any]]:
    return [json.loads(line) for line in border.cdr.read_text().splitlines()]


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
