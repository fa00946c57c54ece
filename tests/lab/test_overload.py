"""Twice the load that is allowed: as many calls as ever are answered, the rest is refused quickly."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import sipp
from tests.lab.border import Border, configuration, cpu_seconds, resident_kib
from tests.lab.capture import Packet
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC
from tests.lab.talk import assert_no_traceback, packets_of

pytestmark = pytest.mark.lab


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
    """Calls at a rate for some seconds, each up for a moment, to their end."""
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
    assert twice.rate >= 0.8 * most.rate
    # The bucket holds a second's worth that may go first.
    assert len(twice.refused) >= 0.5 * limit * (seconds - 1)
    assert twice.rude == 0
    assert statistics.median(twice.refused) < 0.2
    assert after < before + 4096
    assert border.stats()["refused:rate"] >= len(twice.refused)


@pytest.mark.slow
def test_twice_what_the_machine_can_do(lab: Lab) -> None:
    """The maximum is found by a ramp, without a recording, which would take the processor from the border.

    Machine and SIPp are shared: figures are printed, and what is asserted leaves room for a noisy neighbour.
    """
    yaml = configuration(lab.namespaces, limits={"recent_calls": 50, "max_calls": 900, "queue_age_ms": 200})
    border = lab.start(yaml.replace("trace: full", "trace: off"))
    lab.stop_recording()
    answering(lab)
    best = 0.0
    for port, rate in ((5062, 200), (5064, 350), (5066, 500), (5068, 700)):
        answered, text = load(lab, rate, 3, port)
        print(f"\n{text}", end="")
        best = max(best, answered)
    assert border.leftovers() == {}
    before = memory(border)
    twice, text = load(lab, round(2 * best), 5, 5090)
    print(f"\nmaximum {best:.0f} calls/s; twice that: {text}: {twice / best:.0%} of the maximum")
    assert border.leftovers() == {}
    print(f"memory at rest {before} KiB before, {memory(border)} KiB after")
    assert twice > 0.4 * best, "an overloaded border goes on answering calls"


def load(lab: Lab, rate: int, seconds: int, port: int) -> tuple[float, str]:
    """(answered calls a second, the figures in words) by the counters of the border."""
    border = lab.border
    before, spent = border.stats(), cpu_seconds(border.pids())
    offer(lab, rate, seconds, port)
    after = border.stats()
    refused = sum(after[key] - before.get(key, 0) for key in after if key.startswith("refused:"))
    answered = (rate * seconds - refused) / seconds
    spent = cpu_seconds(border.pids()) - spent
    return (
        answered,
        f"{rate} calls/s offered, {answered:.0f}/s answered, {refused} refused, {spent:.2f} s of CPU",
    )
