"""The loads of the bench: SIPp scenarios that every system under test gets alike."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.loopback import LOAD, SIP_PORT, Loopback
from tests.bench.systems import System
from tests.bench.usage import cpu_s, memory_kib
from tests.lab import sipp

SCENARIOS = Path(__file__).parent / "scenarios"
SLACK_S = 40.0
LINGER_S = 33.0
"""64 x T1 and a little: as long a transaction keeps its timers after its end (RFC 3261 s.17, RFC 6026)."""
WARM_UP_CALLS = 100

Load = Callable[[Loopback, System], None]


def calls(number: int, rate: int) -> Load:
    """INVITE with SDP, 100, 180, 200 with SDP, ACK, BYE, 200: no RTP, but media is anchored."""

    def run(place: Loopback, system: System) -> None:
        callee, caller = _place_calls(place, system, number, rate, hold_ms=500)
        caller.done(number / rate + SLACK_S)
        callee.done()

    return run


def _place_calls(
    place: Loopback, system: System, number: int, rate: int, hold_ms: int
) -> tuple[sipp.Sipp, sipp.Sipp]:
    corner = system.corner
    words = sipp.Words(agent="bench", hold_ms=hold_ms, ring_ms=100)
    callee = sipp.callee(
        place,
        LOAD,
        str(SCENARIOS / "callee"),
        local=corner.callee,
        port=SIP_PORT,
        calls=number,
        words=words,
        name="callee",
    )
    caller = sipp.caller(
        place,
        LOAD,
        "uac_call",
        f"{corner.outside}:{SIP_PORT}",
        local=corner.caller,
        calls=number,
        rate=rate,
        words=words,
        name="caller",
    )
    return callee, caller


def options(number: int, rate: int) -> Load:
    """OPTIONS that the system itself answers."""

    def run(place: Loopback, system: System) -> None:
        corner = system.corner
        caller = sipp.caller(
            place,
            LOAD,
            "uac_options",
            f"{corner.outside}:{SIP_PORT}",
            local=corner.caller,
            calls=number,
            rate=rate,
            words=sipp.Words(agent="bench"),
            name="options",
        )
        caller.done(number / rate + SLACK_S)

    return run


def cpu_costs(
    place: Loopback, systems: list[System], load: Load, units: int, rounds: int
) -> list[list[float]]:
    """Give every system the load in turn, `rounds` times: milliseconds of CPU for a unit, by system and round.

    A round counts until the next of the same system begins, so that the timers that a call leaves behind are in its
    bill; what the system uses when it has nothing to do is taken off.
    """
    idle = _idle_shares(systems)
    marks: list[list[tuple[float, float]]] = [[] for _ in systems]
    for _ in range(rounds):
        for system, own in zip(systems, marks, strict=True):
            own.append(_mark(system))
            load(place, system)
            time.sleep(0.5)
    time.sleep(LINGER_S)
    for system, own in zip(systems, marks, strict=True):
        own.append(_mark(system))
    return [
        [
            (cpu_after - cpu_before - share * (after - before)) / units * 1000
            for (before, cpu_before), (after, cpu_after) in itertools.pairwise(own)
        ]
        for own, share in zip(marks, idle, strict=True)
    ]


def _mark(system: System) -> tuple[float, float]:
    return time.monotonic(), cpu_s(system.pids())


def _idle_shares(systems: list[System], seconds: float = 5.0) -> list[float]:
    before = [_mark(system) for system in systems]
    time.sleep(seconds)
    after = [_mark(system) for system in systems]
    return [(last[1] - first[1]) / (last[0] - first[0]) for first, last in zip(before, after, strict=True)]


@dataclass(frozen=True, slots=True)
class Held:
    """Memory in KiB: of the idle system, and for each call that it holds."""

    idle_kib: int
    call_kib: float


def held_memory(place: Loopback, system: System, number: int, rate: int, settle_s: float) -> Held:
    """Proportional resident memory of a fresh `system` that holds `number` calls, `settle_s` after the last came."""
    calls(WARM_UP_CALLS, rate)(place, system)
    before = memory_kib(system.pids())["Pss"]
    ramp_s = number / rate
    hold_s = ramp_s + settle_s + 5
    callee, caller = _place_calls(place, system, number, rate, hold_ms=round(hold_s * 1000))
    time.sleep(ramp_s + settle_s)
    after = memory_kib(system.pids())["Pss"]
    caller.done(hold_s + SLACK_S)
    callee.done()
    return Held(before, (after - before) / number)
