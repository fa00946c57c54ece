"""What a system adds to the time from an INVITE to its 180, as the packets on the wire tell.

SIPp's own clock ticks every 4 ms, so tcpdump's is taken: on the outside from the caller's INVITE to the 180 that it
gets, on the inside from the INVITE that the callee gets to its 180; what the callee takes is not the system's.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.loads import calls
from tests.bench.loopback import LOAD, SIP_PORT, Loopback
from tests.bench.systems import System
from tests.bench.usage import cpu_s
from tests.lab.capture import Packet, read_pcap

TRIAL_S = 4


@dataclass(frozen=True, slots=True)
class Delay:
    """Milliseconds that a system added in the median, and to the slowest call in a hundred."""

    p50: float
    p99: float


def half_of_maximum(place: Loopback, system: System, rate: int) -> int:
    """Half of the calls/s that one core can do, by what a call costs at `rate`: the system has one core here."""
    number = rate * TRIAL_S
    before = cpu_s(system.pids())
    calls(number, rate)(place, system)
    return max(1, round(0.5 * number / (cpu_s(system.pids()) - before)))


def added(place: Loopback, system: System, number: int, rate: int) -> Delay:
    """The delay over `number` calls that come at `rate` a second."""
    corner = system.corner
    file = place.directory / "delay.pcap"
    file.unlink(missing_ok=True)
    narrow = f"udp port {SIP_PORT} and net 127.{corner.number}.0.0/16"
    recording = place.start(
        LOAD,
        "tcpdump-delay",
        [
            "tcpdump",
            "-n",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
            "-B",
            "8192",
            "-i",
            "lo",
            "-w",
            str(file),
            narrow,
        ],
    )
    recording.await_text("listening on")
    calls(number, rate)(place, system)
    time.sleep(0.2)
    recording.stop(2)
    return told(file, (corner.caller, corner.outside), (corner.inside, corner.callee), number)


def told(file: Path, outside: tuple[str, str], inside: tuple[str, str], number: int) -> Delay:
    """What a recording tells; each pair is who calls and who is called. AssertionError when calls are missing."""
    packets = list(read_pcap(file))
    seen, callee = (_until_ringing(packets, *pair) for pair in (outside, inside))
    for found in (seen, callee):
        assert len(found) == number, f"{len(found)} of {number} calls were seen to ring"
    own = statistics.median(callee)
    return Delay(statistics.median(seen) - own, statistics.quantiles(seen, n=100)[98] - own)


def _until_ringing(packets: Sequence[Packet], caller: str, called: str) -> list[float]:
    """Milliseconds from the first INVITE of each call to its first 180."""
    began: dict[bytes, float] = {}
    took: dict[bytes, float] = {}
    for packet in packets:
        way = packet.source[0], packet.destination[0]
        if way == (caller, called) and packet.payload.startswith(b"INVITE "):
            began.setdefault(_call_id(packet.payload), packet.at)
        elif way == (called, caller) and packet.payload.startswith(b"SIP/2.0 180 "):
            call = _call_id(packet.payload)
            if call in began:
                took.setdefault(call, (packet.at - began[call]) * 1000)
    return list(took.values())


def _call_id(message: bytes) -> bytes:
    return message.partition(b"Call-ID:")[2].partition(b"\r\n")[0].strip()
