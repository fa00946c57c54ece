"""`make bench`: what a call, a held call, an OPTIONS and a packet cost, of ours and of what Debian has, as Markdown.

    python -m tests.bench [--rounds 3] [--rate 100] [--seconds 10] [--only calls,delay,options,register,memory,...]

Both systems run at the same time on loopback and get the same SIPp scenarios in turn, so that whatever else the
machine does hits both; what the machine itself varies by is measured and printed.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import delay
from tests.bench.bench_register import USERS, KamailioRegistrar, OurRegistrar, registrations
from tests.bench.bench_turn import gateway_packet_us
from tests.bench.loads import calls, cpu_costs, held_memory, options
from tests.bench.loopback import Corner, Loopback
from tests.bench.media import bench as media
from tests.bench.media.engines import WAYS
from tests.bench.relays import our_packet_us, rtpengine_packet_us
from tests.bench.systems import Ours, Peers, System, missing
from tests.bench.usage import come_first

README = Path(os.environ.get("SBC_README") or Path(__file__).parents[2] / "README.md")
"""`make bench` runs in a copy of the tree and names the one that is to be written."""
PLACE, MEDIA_PLACE = "make bench", "media bench"
"""What the marks around the figures say, `<!-- PLACE -->` and `<!-- end of PLACE -->`: of calls, and of packets;
written if they were measured."""

OURS = Corner(77)
THEIRS = Corner(78)
PARTS = ("calls", "delay", "options", "register", "memory", "relay", "turn", "media")
BUDGET = {
    "calls": "0.65",
    "p50": "1 ms",
    "p99": "5 ms",
    "options": "1.15",
    "register": "1.18",
    "memory": "0.77",
    "relay": "1.0",
}
"""Ratios of design.md s.6, and two figures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the tables; the exit status."""
    wanted = _options(arguments)
    absent = missing("sipp", "taskset", "ss")
    if absent:
        print(f"bench: not installed: {', '.join(absent)} (make packages)", file=sys.stderr)
        return 1
    alone = missing("kamailio", "rtpengine")
    print(f"# Bench, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}\n")
    print(
        f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores, load {_load()} at the start."
    )
    if alone:
        print(f"Ours alone: not installed: {', '.join(alone)} (make packages).")
    table = [
        "| measure | ours | Kamailio + rtpengine | ratio | budget | rounds ours; theirs |",
        "|" + " --- |" * 6,
    ]
    print("", *table, sep="\n", flush=True)
    come_first()
    spins = [_spin()]
    try:
        for part in wanted.only:
            if part == "media":
                continue
            for line in _measure(part, wanted, bool(alone)):
                print(line, flush=True)
                table.append(line)
            spins.append(_spin())
        packets = _media(wanted) if "media" in wanted.only else []
    except AssertionError as error:
        print(f"\nbench: a load failed, so there is no figure: {error}", file=sys.stderr)
        return 1
    low, middle, high = min(spins), statistics.median(spins), max(spins)
    noise = (
        f"Noise: a fixed piece of Python took {middle * 1000:.0f} ms of CPU (median), {low / middle - 1:+.0%} to"
        f" {high / middle - 1:+.0%} between the parts; load {_load()} at the end."
    )
    print(f"\n{noise}")
    if wanted.readme:
        for place, lines in ((PLACE, table if set(wanted.only) - {"media"} else []), (MEDIA_PLACE, packets)):
            if lines:
                _write(
                    README, place, "\n".join([*lines, "", f"Python {platform.python_version()}. {noise}", ""])
                )
    return 0


def _write(path: Path, place: str, text: str) -> None:
    """Put figures where the front page has them."""
    begin, end = f"<!-- {place} -->\n", f"<!-- end of {place} -->"
    before, _, rest = path.read_text("utf-8").partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"bench: {path.name} has no place for the figures ({begin.strip()} ... {end})")
    path.write_text(f"{before}{begin}{text}{end}{after}", "utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="What ours costs, beside its peers."
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each load; the median counts")
    parser.add_argument("--rate", type=int, default=100, help="calls/s; OPTIONS come four times as often")
    parser.add_argument("--seconds", type=int, default=10, help="length of a round")
    parser.add_argument("--held", type=int, default=500, help="calls held for the memory figure")
    parser.add_argument(
        "--streams", type=int, default=400, help="streams of 50 packets/s for the relay, two a call"
    )
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=f"of {','.join(PARTS)}"
    )
    parser.add_argument(
        "--readme", action="store_true", help="write what was measured into README.md as well"
    )
    found = parser.parse_args(arguments)
    unknown = [part for part in found.only if part not in PARTS]
    if unknown:
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(unknown)}")
    return found


def _measure(part: str, wanted: argparse.Namespace, alone: bool) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Loopback(Path(directory)) as place:
        if part == "relay":
            rounds = [our_packet_us(wanted.streams // 2) for _ in range(wanted.rounds)]
            theirs = (
                []
                if alone
                else [rtpengine_packet_us(place, THEIRS, wanted.streams // 2) for _ in range(wanted.rounds)]
            )
            return [_row(f"CPU per relayed packet at {wanted.streams} streams, us", part, [rounds, theirs])]
        if part == "turn":
            turn = [gateway_packet_us(wanted.streams // 2)[0] for _ in range(wanted.rounds)]
            name = "the same of the TURN gateway, which comes on top where a network has one, us"
            return [_row(name, part, [turn])]
        if part == "register":
            return _register(place, wanted, alone)
        systems: list[System] = [Ours(OURS)] if alone else [Ours(OURS), Peers(THEIRS)]
        for system in systems:
            system.start(place)
            come_first(system.pids())
        if part == "memory":
            held = [held_memory(place, system, wanted.held, wanted.rate, settle_s=5.0) for system in systems]
            return [
                _row(
                    f"memory per held call ({wanted.held} held), KiB",
                    part,
                    [[each.call_kib] for each in held],
                ),
                _row("memory before the first call, MiB", "", [[each.idle_kib / 1024] for each in held]),
            ]
        if part == "delay":
            return _delay(place, systems, wanted)
        rate = wanted.rate * (4 if part == "options" else 1)
        units = rate * wanted.seconds
        load = calls(units, rate) if part == "calls" else options(units, rate)
        costs = cpu_costs(place, systems, load, units, wanted.rounds)
        name = "CPU per anchored call" if part == "calls" else "CPU per OPTIONS"
        return [_row(f"{name} at {rate}/s, ms", part, costs)]


def _register(place: Loopback, wanted: argparse.Namespace, alone: bool) -> list[str]:
    """Registrations with digest that survive a restart, beside those that Kamailio has in memory."""
    ours: System = OurRegistrar(OURS, lasting=True)
    systems = [ours] if alone else [ours, KamailioRegistrar(THEIRS)]
    for system in systems:
        system.start(place)
        come_first(system.pids())
        registrations(USERS, wanted.rate * 2)(place, system)
    rate = wanted.rate * 2
    units = rate * wanted.seconds
    costs = cpu_costs(place, systems, registrations(units, rate), units, wanted.rounds)
    return [_row(f"CPU per registration with digest at {rate}/s, ms", "register", costs)]


def _delay(place: Loopback, systems: list[System], wanted: argparse.Namespace) -> list[str]:
    absent = missing("tcpdump")
    if absent or os.geteuid() != 0:
        return ["| delay added to INVITE -> 180 | needs tcpdump and root |" + " |" * 4]
    rate = delay.half_of_maximum(place, systems[0], wanted.rate)
    found: list[list[delay.Delay]] = [[] for _ in systems]
    for _ in range(wanted.rounds):
        for system, own in zip(systems, found, strict=True):
            own.append(delay.added(place, system, rate * wanted.seconds, rate))
    name = f"delay added to INVITE -> 180 at {rate}/s, half of our maximum,"
    return [
        _row(f"{name} p50, ms", "p50", [[each.p50 for each in own] for own in found]),
        _row(f"{name} p99, ms", "p99", [[each.p99 for each in own] for own in found]),
    ]


def _media(wanted: argparse.Namespace) -> list[str]:
    """The table of tests.bench.media, or why there is none."""
    reason = media.obstacle()
    if reason is not None:
        print(f"\nMedia bench: {reason}.", flush=True)
        return []
    print("\nRTP and SRTP through network namespaces, 50 packets/s a stream:\n", flush=True)
    return media.report(media.STREAMS, list(WAYS), media.SECONDS, wanted.rounds)


def _row(measure: str, part: str, figures: list[list[float]]) -> str:
    ours, theirs = figures[0], figures[1] if len(figures) > 1 else []
    middles = [statistics.median(each) if each else None for each in (ours, theirs)]
    cells = [_figure(each) for each in middles]
    ratio = "-" if middles[0] is None or not middles[1] else f"{middles[0] / middles[1]:.2f}"
    rounds = "; ".join(", ".join(map(_figure, each)) for each in (ours, theirs) if each)
    return f"| {measure} | {cells[0]} | {cells[1]} | {ratio} | {BUDGET.get(part, '')} | {rounds} |"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _spin() -> float:
    before = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number % 7
    return time.process_time() - before


def _load() -> str:
    return "/".join(f"{each:.1f}" for each in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
