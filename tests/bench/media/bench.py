"""All runs of the media bench, in turn, so that whatever else the machine does hits every way alike.

The columns of the table:

relay us    CPU for each packet of the relay's processes, all their threads, by the scheduler's own clock (schedstat;
            the tick-sampled /proc/stat knows nothing of such short work)
machine us  that of everybody who has to do with a packet: the relay, the phones of both sides, and the kernel's
            ksoftirqd threads; less the same of the direct run, where the phones send to each other. On these cables
            the kernel does its work for a packet in the process that sends it, so that nothing is left out. The median
            of the rounds, and the least and the most: on a machine with other work the direct run alone varies by more
            than a packet costs in the kernel, and only rounds help.
delay       from the call that sends a packet to its arrival in the network stack of the other side
lost        of the packets of all rounds, the warm-up of each aside, and where (losses.py); what came in another
            order, or twice
carried     whether in one round nothing was lost and the phones kept their pace; otherwise the most that was found
            with 0 lost, by rounds with less
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.media import build, measure, table
from tests.bench.media.engines import WAYS
from tests.bench.media.place import Place
from tests.bench.media.streams import Load
from tests.bench.systems import PATH
from tests.bench.usage import come_first
from tests.lab import namespaces

STREAMS = (200, 1000, 4000)
SECONDS = 4.0
PLAIN, SRTP = "RTP", "SRTP"
LESS = (0.75, 0.5, 0.375, 0.25, 0.125)
"""What is tried when a load cannot be carried."""


def obstacle() -> str | None:
    """Why this machine cannot run it, or None; begins with `machine:` for the rule of tests/conftest.py."""
    if build.compiler() is None:
        return "machine: no C compiler is installed (apt-get install build-essential)"
    return namespaces.obstacle("ss")


def report(
    streams: Sequence[int],
    ways: Sequence[str],
    seconds: float,
    rounds: int,
    kinds: Sequence[str] = (PLAIN, SRTP),
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Run everything; the lines of the table, each told as soon as it is there."""
    os.environ["PATH"] = PATH
    come_first()
    lines = list(table.HEAD)
    for line in lines:
        tell(line)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Place(Path(directory)) as place:
        for kind in kinds:
            for number in streams:
                load = Load(number, seconds, kind == SRTP)
                found = [_row(place, way, load) for way in ways]
                results: dict[str, list[measure.Result]] = {row.way: [] for row in found if not row.absent}
                for _ in range(rounds):
                    for way, own in results.items():
                        own.append(measure.run(place, WAYS[way].make, load))
                found = [
                    row if row.absent else _complete(place, row.way, tuple(results[row.way])) for row in found
                ]
                for line in table.rows(f"{number} x {kind}", found):
                    tell(line)
                    lines.append(line)
    return lines


def _row(place: Place, way: str, load: Load) -> table.Row:
    return table.Row(way, absent=WAYS[way].obstacle(load) or "")


def _complete(place: Place, way: str, results: tuple[measure.Result, ...]) -> table.Row:
    """The row, and if the load was too much for it, how much is not."""
    load = results[0].load
    if not any(result.carried for result in results):
        for share in LESS:
            less = Load(round(load.streams * share / 2) * 2, load.seconds, load.srtp)
            if measure.run(place, WAYS[way].make, less).carried:
                return table.Row(way, results, most=round(less.rate))
    return table.Row(way, results)
