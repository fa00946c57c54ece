"""`make bench`: what a call costs in CPU, of ours, as Markdown."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.loopback import LOAD, SIP_PORT, Corner, Loopback
from tests.bench.systems import Ours, System, missing
from tests.bench.usage import cpu_s
from tests.lab import sipp

RATE = 100
SECONDS = 10
ROUNDS = 3


def main() -> int:
    """Print the table; the exit status."""
    absent = missing("sipp", "taskset")
    if absent:
        print(f"bench: not installed: {', '.join(absent)} (make packages)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Loopback(Path(directory)) as place:
        system = Ours(Corner(77))
        system.start(place)
        costs = [_calls(place, system) for _ in range(ROUNDS)]
        system.stop()
    print("| measure | ours |\n| --- | --- |")
    print(f"| CPU per anchored call, ms | {statistics.median(costs):.2f} |")
    return 0


def _calls(place: Loopback, system: System) -> float:
    corner = system.corner
    calls = RATE * SECONDS
    words = sipp.Words(agent="bench", hold_ms=500, ring_ms=100)
    callee = sipp.callee(
        place, LOAD, "uas_call", local=corner.callee, port=SIP_PORT, calls=calls, words=words
    )
    before = cpu_s(system.pids())
    sipp.caller(
        place,
        LOAD,
        "uac_call",
        f"{corner.outside}:{SIP_PORT}",
        local=corner.caller,
        calls=calls,
        rate=RATE,
        words=words,
    ).done(SECONDS + 30)
    callee.done()
    time.sleep(1)
    return (cpu_s(system.pids()) - before) / calls * 1000


if __name__ == "__main__":
    sys.exit(main())
