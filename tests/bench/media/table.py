"""The table of the media bench, from the results of its runs."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.media.measure import Result

DIRECT = "direct"
PEER = "rtpengine"
HEAD = (
    "| load | way | relay us | of rtpengine | machine us | of rtpengine | delay us: p50, p99, max | lost | carried |",
    "|" + " --- |" * 9,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One way under one load: the results of its rounds, or why there are none."""

    way: str
    results: tuple[Result, ...] = ()
    absent: str = ""
    most: int = 0
    """Packets/s that it carries, where it does not carry the load; 0 if that was not found."""

    def median(self, figure: Callable[[Result], float]) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(map(figure, self.results))


def rows(load: str, found: Sequence[Row]) -> list[str]:
    """The lines of one load. The machine's CPU is that of the way less that of the direct run of the same round."""
    by_way = {row.way: row for row in found if row.results}
    direct, peer = by_way.get(DIRECT), by_way.get(PEER)
    lines = []
    for row in found:
        if not row.results:
            lines.append(f"| {load} | {row.way} | {row.absent} |" + " |" * 6)
            continue
        relay, machine = row.median(_relay), [each.machine_us for each in row.results]
        relay_ratio = machine_ratio = "-"
        if row is not direct and direct is not None:
            machine = _added(row, direct)
            if peer is not None:
                relay_ratio = f"{relay / peer.median(_relay):.2f}"
                machine_ratio = f"{statistics.median(machine) / statistics.median(_added(peer, direct)):.2f}"
        delay = ", ".join(f"{row.median(each):.0f}" for each in (_p50, _p99, _max))
        lines.append(
            f"| {load} | {row.way} | {'-' if row is direct else f'{relay:.2f}'} | {relay_ratio} | {_spread(machine)}"
            f" | {machine_ratio} | {delay} | {_lost(row)} | {_carried(row)} |"
        )
    return lines


def _added(row: Row, direct: Row) -> list[float]:
    """What a way costs the machine beyond the direct run, by round: its runs follow each other, noise hits all."""
    pairs = zip(row.results, direct.results, strict=True)
    return [own.machine_us - base.machine_us for own, base in pairs]


def _spread(figures: Sequence[float]) -> str:
    """The median, and between which the rounds were: what is small beside the direct run may be noise."""
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


def _lost(row: Row) -> str:
    lost, sent = sum(each.lost for each in row.results), sum(each.sent for each in row.results)
    reordered, doubled = (
        sum(each.reordered for each in row.results),
        sum(each.doubled for each in row.results),
    )
    places: dict[str, int] = {}
    for each in row.results:
        for place, number in each.places.items():
            places[place] = places.get(place, 0) + number
    where = ", ".join(f"{place} {number}" for place, number in places.items()) if lost else ""
    return f"{lost} of {sent}{f' ({where})' if where else ''}" + "".join(
        f", {number} {what}" for number, what in ((reordered, "reordered"), (doubled, "doubled")) if number
    )


def _carried(row: Row) -> str:
    rate = row.results[0].load.rate
    if any(each.carried for each in row.results):
        return f"{rate:,.0f}/s"
    if row.most:
        return f"no; {row.most:,}/s"
    return f"no; {max(each.rate for each in row.results):,.0f}/s sent"


def _relay(result: Result) -> float:
    return result.relay_us


def _p50(result: Result) -> float:
    return result.p50_us


def _p99(result: Result) -> float:
    return result.p99_us


def _max(result: Result) -> float:
    return result.max_us
