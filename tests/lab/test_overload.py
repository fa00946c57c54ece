"""Twice the load that is allowed: as many calls as ever are answered, the rest is refused quickly."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import sipp
from tests.lab.border import Border, configuration, resident_kib
from tests.lab.capture import Packet
from tests.lab.goodput import SCENARIO, Trial, can_share, fair, shared
from tests.lab.goodput import offer as offer_goodput
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC
from tests.lab.talk import assert_no_traceback, packets_of

pytestmark = pytest.mark.lab

SHARE = 0.3
"""Of a core."""


@pytest.fixture(autouse=True)
def no_traceback(lab: Lab) -> Iterator[None]:
    """Whatever the load, the program must not fall over it."""
    yield
    assert_no_traceback(lab.border)


@dataclass(slots=True)
class Offered:
    """What became of the calls of one SIPp, from the packets on the wire; times from INVITE to final answer, s."""

    answered: list[float]
    refused: list[float]
    rude: int
    """503 without Retry-After."""
    span_s: float

    @property
    def rate(self) -> float:
        """Answered calls a second."""
        return len(self.answered) / self.span_s

    def __str__(self) -> str:
        calls = len(self.answered) + len(self.refused)
        text = f"{calls / self.span_s:.0f} calls/s offered, {self.rate:.1f}/s answered, {len(self.refused)} refused"
        for name, times in (("answer", self.answered), ("refusal", self.refused)):
            if times:
                worst = max(times)
                text += f", {name} after {statistics.median(times) * 1000:.1f} ms (worst {worst * 1000:.0f})"
        return text


def offered(packets: list[Packet], port: int) -> Offered:
    """The calls of the SIPp on `port` of the public side."""
    begun: dict[bytes, float] = {}
    found = Offered([], [], 0, 1.0)
    for packet in packets:
        payload = packet.payload
        if packet.source[1] == port and payload.startswith(b"INVITE "):
            begun.setdefault(_call_id(payload), packet.at)
        elif packet.destination[1] == port and payload.startswith((b"SIP/2.0 200", b"SIP/2.0 503")):
            if b"CSeq: 1 INVITE" not in payload:
                continue
            at = begun.get(_call_id(payload), 0.0)
            if not at:
                continue
            begun[_call_id(payload)] = 0.0
            if payload.startswith(b"SIP/2.0 200"):
                found.answered.append(packet.at - at)
            else:
                found.refused.append(packet.at - at)
                found.rude += b"Retry-After: " not in payload
    return found


def _call_id(payload: bytes) -> bytes:
    return payload.partition(b"Call-ID:")[2].partition(b"\r\n")[0].strip()


def offer(lab: Lab, rate: int, seconds: int, port: int) -> sipp.Sipp:
    """Calls at a rate for some seconds, each up for a moment, to their end: none may be lost."""
    return sipp.caller(
        lab.namespaces, PUBLIC, "uac_flood", lab.border_at(PUBLIC), port=port, calls=rate * seconds, rate=rate,
        words=sipp.Words(agent="flood", hold_ms=200), name=f"flood-{port}",
    ).done(60)  # fmt: skip


def answering(lab: Lab) -> sipp.Sipp:
    return sipp.callee(
        lab.namespaces, PRIVATE, "uas_server", calls=0, words=sipp.Words(agent="server", caller="bob")
    )


def memory(border: Border) -> int:
    return resident_kib(border.pids())


def test_twice_the_allowed_rate(lab: Lab) -> None:
    """The limit is far below what the machine can do, so that only the limit speaks."""
    limit, seconds = 40, 3
    border = lab.start(configuration(lab.namespaces, limits={"calls_per_s": limit, "recent_calls": 50}))
    answering(lab)
    offer(lab, limit, seconds, 5062)
    before = memory(border)
    offer(lab, 2 * limit, seconds, 5064)
    after = memory(border)
    assert border.leftovers() == {}
    lab.stop_recording()
    packets = packets_of(lab, PUBLIC)
    most, twice = offered(packets, 5062), offered(packets, 5064)
    most.span_s = twice.span_s = seconds
    print(f"\nmaximum: {most}\ntwice that: {twice}\nmemory {before} KiB before, {after} KiB after")
    assert len(most.answered) + len(most.refused) == limit * seconds
    assert len(twice.answered) + len(twice.refused) == 2 * limit * seconds, "every call has its answer"
    assert len(most.answered) >= 0.95 * limit * seconds
    assert twice.rate >= 0.95 * most.rate
    # The bucket holds a second's worth that may go first.
    assert len(twice.refused) >= 0.5 * limit * (seconds - 1)
    assert twice.rude == 0
    assert statistics.median(twice.refused) < 0.2
    assert after < before + 4096
    assert border.stats()["refused:rate"] >= len(twice.refused)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twice_what_it_can_do(lab: Lab) -> None:
    """design.md s.6. The border has a share of a core, so that SIPp and neighbours are not what is measured; a load in
    which the machine had not even that share for it says nothing, and is offered again."""
    if not can_share():
        pytest.skip("machine: no control group for a share of the processor")
    timers: dict[str, object] = {
        "t1_ms": 500,
        "t2_ms": 4000,
        "t4_ms": 5000,
    }  # those of RFC 3261: repetitions are part of the load
    yaml = configuration(lab.namespaces, timers=timers, limits={"recent_calls": 50, "max_calls": 900})
    border = lab.start(yaml.replace("trace: full", "trace: off"))
    lab.stop_recording()
    answering(lab)
    with shared(f"lab-{border.process.pid}", border.pids(), SHARE):
        best, rate = 0.0, 50.0
        # One moment in which a neighbour was in the way is no maximum: it has to fail twice.
        while (trial := fairly(lab, rate)).served or (trial := fairly(lab, rate)).served:
            best, rate = max(best, trial.clean), 1.3 * rate
        assert best, f"not even {rate:.0f} calls/s: {trial}"
        # What is held at worst at one moment stays with the process; a second time it must not grow again.
        fairly(lab, 2 * best)
        before = memory(border)
        twice = fairly(lab, 2 * best)
    assert border.leftovers(45) == {}
    print(
        f"\n{twice.clean / best:.0%} of the maximum; memory {before} KiB before, {memory(border)} KiB after"
    )
    assert twice.bad == 0, "whoever is not refused is served well"
    # design.md s.6 asks for 90 %: tests/bench/bench_overload.py has the figure, 105 % compiled on a busy machine. The
    # source, interpreted, gave 77 % to 188 % there.
    assert twice.clean >= 0.65 * best
    assert border.stats()["refused:overload"] > 0
    assert memory(border) < before + 8192


def fairly(lab: Lab, rate: float) -> Trial:
    """A load for which the machine had time; the calls of an earlier one are over before."""

    def load() -> Trial:
        deadline = time.monotonic() + 45
        while lab.border.stats()["held.calls"] and time.monotonic() < deadline:
            time.sleep(0.1)
        return goodput(lab, round(rate))

    trial = fair(load, SHARE)
    if trial is None:
        pytest.skip("machine: no share of the processor was to be had")
    return trial


def goodput(lab: Lab, rate: int, seconds: float = 5.0) -> Trial:
    """Calls at a rate, each held for a moment; lost ones are lost."""

    def caller(options: tuple[str, ...]) -> sipp.Sipp:
        return sipp.caller(
            lab.namespaces, PUBLIC, SCENARIO, lab.border_at(PUBLIC), port=5064, calls=round(rate * seconds), rate=rate,
            limit=100_000, words=sipp.Words(agent="flood", hold_ms=200), options=options,
        )  # fmt: skip

    trial = offer_goodput(caller, lab.namespaces.directory / "goodput.log", lab.border.pids, seconds)
    print(f"\n{trial}", end="")
    return trial
