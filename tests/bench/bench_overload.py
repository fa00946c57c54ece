"""What is left of the maximum when twice as many calls come: goodput beyond the limit, beside Kamailio and rtpengine.

    python -m tests.bench.bench_overload [--share 0.3] [--seconds 8]

Each system has the same share of one core (a control group, for which this needs root), so that neither SIPp nor
whatever else the machine does is what is measured. The maximum is the highest rate at which every call is clean:
answered within 2 s, and hung up with an answer. Then twice as many are offered, and clean calls are counted by the
second, as the caller has written them down; refused, slow and lost ones are none. design.md s.6 asks for 90 %.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.loads import SCENARIOS, WARM_UP_CALLS, calls
from tests.bench.loopback import LOAD, SIP_PORT, Corner, Loopback
from tests.bench.systems import Ours, Peers, System, missing
from tests.bench.usage import come_first
from tests.lab import sipp
from tests.lab.goodput import SCENARIO, Trial, fair, offer, shared

HOLD_MS = 200
LINGER_S = 35.0
"""64 x T1: as long what a failed load has left over goes on being repeated."""
FIRST_RATE = 30.0
STEP = 1.2


def load(place: Loopback, system: System, rate: int, seconds: float) -> Trial:
    """Offer calls at a rate, without waiting for any of them."""
    corner = system.corner
    words = sipp.Words(agent="bench", hold_ms=HOLD_MS, ring_ms=10)

    def caller(options: tuple[str, ...]) -> sipp.Sipp:
        return sipp.caller(
            place, LOAD, SCENARIO, f"{corner.outside}:{SIP_PORT}", local=corner.caller,
            calls=round(rate * seconds), rate=rate, limit=100_000, words=words, options=options,
        )  # fmt: skip

    callee = sipp.callee(
        place, LOAD, str(SCENARIOS / "callee"), local=corner.callee, port=SIP_PORT, calls=0, words=words,
        name="goodput-callee",
    )  # fmt: skip
    trial = offer(caller, place.directory / "goodput.log", system.pids, seconds)
    callee.process.stop(1)
    print(f"  {system.name}: {trial}", flush=True)
    if trial.bad:
        time.sleep(LINGER_S)
    return trial


def maximum(at: Callable[[float], Trial]) -> float:
    """The most clean calls a second of a load all of whose calls were; AssertionError where there is none."""
    best, rate = 0.0, FIRST_RATE
    # One moment in which a neighbour was in the way is no maximum: it has to fail twice.
    while (trial := at(rate)).served or (trial := at(rate)).served:
        best, rate = max(best, trial.clean), STEP * rate
    assert best, f"too slow for {rate:.0f} calls/s: {trial}"
    return best


def measured(place: Loopback, system: System, share: float, seconds: float) -> tuple[float, Trial]:
    """The maximum, and what is left at twice of it; AssertionError when the machine has no time."""

    def at(rate: float) -> Trial:
        trial = fair(lambda: load(place, system, round(rate), seconds), share)
        assert trial is not None, f"{system.name} had not its share of the machine"
        return trial

    most = maximum(at)
    return most, at(2 * most)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and say it; 0 when ours keeps what the budget asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_overload")
    parser.add_argument("--share", type=float, default=0.3, help="of one core, for each system")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a load")
    wanted = parser.parse_args(arguments)
    if absent := missing("sipp", "taskset", "ss"):
        print(f"bench: not installed: {', '.join(absent)} (make packages)", file=sys.stderr)
        return 1
    come_first()
    kept = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Loopback(Path(directory)) as place:
        systems: list[System] = [Ours(Corner(87))]
        if not missing("kamailio", "rtpengine"):
            systems.append(Peers(Corner(88)))
        for system in systems:
            system.start(place)
            calls(WARM_UP_CALLS, round(FIRST_RATE))(place, system)
            with shared(f"bench-{os.getpid()}", system.pids(), wanted.share):
                most, twice = measured(place, system, wanted.share, wanted.seconds)
            system.stop()
            kept[system.name] = twice.clean / most
            print(f"{system.name}: {most:.0f}/s at most; at twice that {twice}: {twice.clean / most:.0%}")
    return 0 if kept[systems[0].name] >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
