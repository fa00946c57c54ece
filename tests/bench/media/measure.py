"""One run of a load through a way: CPU of everybody who works on it, loss, order and delay."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pylibsrtp import Policy, Session

from tests.bench.media import build, losses
from tests.bench.media.engines import KEY, Way
from tests.bench.media.pace import kept
from tests.bench.media.place import DIRECT, PHONES, Place
from tests.bench.media.streams import SIDES, Load, Shared
from tests.bench.usage import cpu_s, softirq_threads
from tests.harness.rtp import rtp_packet
from tests.lab.namespaces import SIDES as NETWORKS

READY_S = 30.0
LEAD_S = 0.1
"""Between the go-ahead and the first packet, so that both sides hear of it in time."""
SLACK_S = 20.0
PACE = 0.98
"""Share of the packets of a second that must have been sent in it."""


Make = Callable[[Place, Load], AbstractContextManager[Way]]
"""Makes a way ready for a load."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run, from the end of its warm-up on.

    CPU in microseconds for each packet sent: of the relay's processes, and of these, both sides' phones and the
    kernel's threads for packets together. `relay_share` is how much of one core the relay had. Delays in microseconds.
    `rate` is packets/s as really sent: phones that get no CPU fall behind. `counters` are the relay's own. `places` is
    where packets were lost (losses.py), and `lost_by_relay` of them those that nobody else has lost.
    """

    load: Load
    sent: int
    lost: int
    reordered: int
    doubled: int
    rate: float
    relay_us: float
    machine_us: float
    relay_share: float
    p50_us: float
    p99_us: float
    max_us: float
    late_ms: float
    counters: dict[str, int]
    places: dict[str, int]

    @property
    def lost_by_relay(self) -> int:
        """Lost neither by the phones nor by the machine: in the relay, or in queues that it did not empty in time."""
        return sum(number for name, number in self.places.items() if name.startswith(losses.OWN))

    @property
    def carried(self) -> bool:
        """Whether everything came, once, at the pace that was asked for."""
        return not self.lost and not self.doubled and self.rate >= PACE * self.load.rate


def run(place: Place, make: Make, load: Load) -> Result:
    """One run. Raises AssertionError when something does not start or end."""
    program = str(build.phones())
    shared = Shared(place.directory / "shared", load)
    try:
        with make(place, load) as way:
            sides = []
            for number, side in enumerate(SIDES):
                there = PHONES[side] if not way.straight else DIRECT[side]
                towards = DIRECT[SIDES[1 - number]] if way.straight else NETWORKS[side].border
                targets = place.directory / f"targets-{side}"
                targets.write_text("".join(f"{towards} {port}\n" for port in way.ports[number]))
                arguments = [program, load.arguments(number, there), str(shared.path), str(targets)]
                if load.srtp and number == 0:
                    arguments.append(str(_prepared(place.directory / "prepared", load)))
                sides.append(place.start(side, f"phones-{side}", arguments))
            deadline = time.monotonic() + READY_S
            while not shared.ready:
                assert time.monotonic() < deadline, [side.text for side in sides]
                assert all(side.running for side in sides), [side.text for side in sides]
                time.sleep(0.01)
            with kept([side.pid for side in sides], way.pids):
                shared.start(time.monotonic_ns() + int(LEAD_S * 1e9))
                time.sleep(LEAD_S + load.warm_up_s)
                relay, others = way.pids, [side.pid for side in sides] + softirq_threads()
                dropped = losses.count(
                    place, {side: each.pid for side, each in zip(SIDES, sides, strict=True)}, relay
                )
                before = (shared.sent, cpu_s(relay), cpu_s(others), time.monotonic())
                # The last tenth of a second is the phones' own end.
                time.sleep(load.seconds - 0.1)
                after = (shared.sent, cpu_s(relay), cpu_s(others), time.monotonic())
                for each in sides:
                    status = each.wait(load.seconds + SLACK_S)
                    assert status == 0, f"{each.name} ended with {status}: {each.text}"
            told = [json.loads(side.text) for side in sides]
            lost = sum(each["lost"] for each in told)
            refused = sum(each["refused"] for each in told)
            places = losses.places(dropped, losses.count(place), refused, lost)
        packets, relay_s, others_s, elapsed_s = (
            last - first for first, last in zip(before, after, strict=True)
        )
        return Result(
            load=load,
            sent=sum(each["sent"] for each in told),
            lost=lost,
            reordered=sum(each["reordered"] for each in told),
            doubled=sum(each["doubled"] for each in told),
            rate=packets / elapsed_s,
            relay_us=relay_s / packets * 1e6,
            machine_us=(relay_s + others_s) / packets * 1e6,
            relay_share=relay_s / elapsed_s,
            p50_us=sum(each["p50_us"] for each in told) / 2,
            p99_us=_worst(told, "p99_us"),
            max_us=_worst(told, "max_us"),
            late_ms=_worst(told, "late_ms"),
            counters=way.counters,
            places=places,
        )
    finally:
        shared.close()


def _worst(told: list[dict[str, Any]], key: str) -> float:
    return max(float(each[key]) for each in told)


def _prepared(path: Path, load: Load) -> Path:
    """All packets of side a as SRTP, so that the phones need no cryptography while they are measured."""
    policy = Policy(KEY, ssrc_type=Policy.SSRC_ANY_OUTBOUND)
    with path.open("wb") as file:
        for call in range(load.calls):
            session = Session(policy)
            for seq in range(load.packets):
                file.write(session.protect(rtp_packet(seq, seq * 160, 0x52500000 | call)))
    return path
