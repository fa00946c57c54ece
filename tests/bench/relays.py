"""CPU per relayed packet: of our worker by `bench_relay`, and of rtpengine under the same generator."""

import re
import subprocess
import sys
import time

from tests.bench.bench_relay import SECONDS, WARM_UP_S, phones, traffic
from tests.bench.loopback import Corner, Loopback
from tests.bench.ng import Ng, Value
from tests.bench.systems import ROOT, start_rtpengine
from tests.bench.usage import cpu_s, tree

HOST = "127.0.0.1"
"""Where the generator sends to."""


def our_packet_us(calls: int) -> float:
    """Microseconds of worker CPU for a packet, as `python -m tests.bench.bench_relay` prints it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_relay", str(calls)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r"([\d.]+) us of worker CPU", done.stdout)
    if found is None:
        raise AssertionError(f"bench_relay does not say it any more:\n{done.stdout}")
    return float(found[1])


def rtpengine_packet_us(place: Loopback, corner: Corner, calls: int) -> float:
    """The same of rtpengine's process."""
    process = start_rtpengine(place, corner, HOST, HOST, "rtpengine-alone")
    try:
        with Ng(corner.control) as ng, phones() as (alice, bob):
            ports = [
                _open(ng, f"bench-{number}", alice.getsockname()[1], bob.getsockname()[1])
                for number in range(calls)
            ]
            with traffic([a for a, _ in ports], [b for _, b in ports], alice, bob):
                time.sleep(WARM_UP_S)
                pids = tree(process.pid)
                packets, cpu = _relayed(ng, calls), cpu_s(pids)
                time.sleep(SECONDS)
                cpu = cpu_s(pids) - cpu
                packets = _relayed(ng, calls) - packets
            return cpu / packets * 1e6
    finally:
        process.stop()


def _open(ng: Ng, call: str, alice: int, bob: int) -> tuple[int, int]:
    """The ports of rtpengine that Alice and Bob send to."""
    offer = ng.ask("offer", call_id=call, from_tag="a", sdp=_sdp(alice))
    answer = ng.ask("answer", call_id=call, from_tag="a", to_tag="b", sdp=_sdp(bob))
    return _port(answer), _port(offer)


def _port(answer: dict[str, Value]) -> int:
    found = re.search(r"m=audio (\d+)", str(answer["sdp"]))
    assert found is not None, answer
    return int(found[1])


def _sdp(port: int) -> str:
    return (
        f"v=0\r\no=- 1 1 IN IP4 {HOST}\r\ns=-\r\nc=IN IP4 {HOST}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0 101\r\n"
        "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
    )


def _relayed(ng: Ng, calls: int) -> int:
    total = 0
    for number in range(calls):
        answer: Value = ng.ask("query", call_id=f"bench-{number}")
        for name in ("totals", "RTP", "packets"):
            assert isinstance(answer, dict), answer
            answer = answer[name]
        assert isinstance(answer, int), answer
        total += answer
    return total


__all__ = ["our_packet_us", "rtpengine_packet_us"]
