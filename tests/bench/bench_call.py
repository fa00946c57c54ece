"""What a whole anchored call costs in CPU inside the process: run it as `python -m tests.bench.bench_call`.

INVITE, 100, 180, 200, ACK, BYE, 200 with SDP on both sides through `Calls` and the anchor, without sockets and
relay workers: only the time inside `receive` and `handle_timer` counts. `--profile` adds the share of each module,
`--functions N` the dearest functions, `--held N` the memory of calls that stay up. `--instructions` counts what a call
takes under valgrind: the one figure that a busy machine does not change.
"""

import argparse
import cProfile
import gc
import os
import pstats
import re
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import CodeType

from sbc import collector
from signaling.flow import Flow
from tests.harness.border import CONFIG, Border, audio

ROOT = Path(__file__).resolve().parents[2]
CALLER, CALLEE = ("203.0.113.77", 5070), ("10.0.0.20", 5060)
GAP_S = 0.01
"""Time between two calls: 100 calls a second, so that the timers of the transactions run as they would."""
LINGER_S = 70.0
"""After this no transaction of a call is left."""


class Wire(Border):
    """A border whose agents are not: what it sends is kept as bytes."""

    def __init__(self, max_calls: int) -> None:
        self.out: list[bytes] = []
        super().__init__(CONFIG, lambda text: _wide(text, max_calls))

    def _send(self, data: bytes, flow: Flow) -> None:
        self.out.append(data)


class Caller:
    """Both user agents of the calls, written to cost little: text in, text out, nothing parsed but what is needed."""

    def __init__(self, max_calls: int = 200) -> None:
        self.border = Wire(max_calls)
        self.calls = self.border.calls
        self.spent_ns = 0
        self._sent = self.border.out
        self._serial = count(1)
        self._a = Flow("public", "udp", ("203.0.113.10", 5060), CALLER)
        self._b = Flow("private", "udp", ("10.0.0.1", 5060), CALLEE)
        self._offer = audio(CALLER[0]).encode()
        self._answer = audio(CALLEE[0], 4002).encode()
        self.profile: cProfile.Profile | None = None

    def _timed(self, work: Callable[[], None]) -> None:
        profile = self.profile
        begin = time.thread_time_ns()
        if profile is not None:
            profile.enable()
        work()
        if profile is not None:
            profile.disable()
        self.spent_ns += time.thread_time_ns() - begin

    def _receive(self, text: str, body: bytes, flow: Flow) -> list[bytes]:
        data = f"{text}Content-Length: {len(body)}\r\n\r\n".encode() + body
        calls, now = self.calls, self.border.now
        self._sent.clear()

        def work() -> None:
            calls.receive(data, flow, now)
            calls.next_timer()

        self._timed(work)
        return list(self._sent)

    def set_up(self) -> Callable[[], None]:
        """One call until its ACK; returns what ends it."""
        number = next(self._serial)
        branch = f"z9hG4bK-{number}"
        head = (
            f'From: "SIPp" <sip:100@{CALLER[0]}:{CALLER[1]}>;tag={number}SIPpTag\r\n'
            f"Call-ID: {number}-3917@{CALLER[0]}\r\n"
        )
        via = f"Via: SIP/2.0/UDP {CALLER[0]}:{CALLER[1]};branch={branch}"
        contact = (
            f"Contact: <sip:100@{CALLER[0]}:{CALLER[1]}>\r\nMax-Forwards: 70\r\nUser-Agent: SIPp/3.7\r\n"
        )
        sent = self._receive(
            f"INVITE sip:200@203.0.113.10:5060 SIP/2.0\r\n{via}-1;rport\r\n{head}"
            f"To: <sip:200@203.0.113.10:5060>\r\nCSeq: 1 INVITE\r\n{contact}Content-Type: application/sdp\r\n",
            self._offer,
            self._a,
        )
        invite = _only(sent, b"INVITE ")
        self._receive(_response(invite, "100 Trying", ""), b"", self._b)
        self._receive(_response(invite, "180 Ringing", f";tag={number}b"), b"", self._b)
        described = _response(invite, "200 OK", f";tag={number}b") + "Content-Type: application/sdp\r\n"
        sent = self._receive(described, self._answer, self._b)
        answer = _only(sent, b"SIP/2.0 200")
        to, target = _line(answer, "To"), _line(answer, "Contact").partition("<")[2].partition(">")[0]
        self._receive(
            f"ACK {target} SIP/2.0\r\n{via}-2;rport\r\n{head}{to}\r\nCSeq: 1 ACK\r\n{contact}", b"", self._a
        )

        def hang_up() -> None:
            sent = self._receive(
                f"BYE {target} SIP/2.0\r\n{via}-3;rport\r\n{head}{to}\r\nCSeq: 2 BYE\r\n{contact}",
                b"",
                self._a,
            )
            self._receive(_response(_only(sent, b"BYE "), "200 OK", ""), b"", self._b)

        return hang_up

    def call(self) -> None:
        """One whole call, then the time until the next one."""
        self.set_up()()
        self.advance(GAP_S)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        border, calls = self.border, self.calls
        end = border.now + seconds

        def work() -> None:
            while (due := calls.next_timer()) is not None and due <= end:
                border.now = max(border.now, due)
                calls.handle_timer(border.now)

        self._timed(work)
        border.now = end

    def us_per_call(self, calls: int) -> float:
        """CPU microseconds of one call, the average of `calls` and of the end of their transactions."""
        self.spent_ns = 0
        for _ in range(calls):
            self.call()
        self.border.records.clear()
        self.advance(LINGER_S)
        assert not any(self.calls.leftovers().values()), self.calls.leftovers()
        return self.spent_ns / calls / 1000


def _wide(config: str, max_calls: int) -> str:
    """The configuration with room for so many calls."""
    for some, more in (("20000-20999", "20000-29999"), ("30000-30999", "30000-39999")):
        config = config.replace(some, more)
    return config.replace("max_calls: 200", f"max_calls: {max_calls}")


def _only(sent: Sequence[bytes], start: bytes) -> bytes:
    (found,) = (data for data in sent if data.startswith(start))
    return found


def _line(message: bytes, name: str) -> str:
    begin = message.index(f"\r\n{name}: ".encode()) + 2
    return message[begin : message.index(b"\r\n", begin)].decode()


def _response(request: bytes, status: str, tag: str) -> str:
    """The answer of the called SIPp, up to its Content-Length."""
    copied = "\r\n".join(_line(request, name) for name in ("Via", "From", "Call-ID", "CSeq"))
    contact = f"Contact: <sip:{CALLEE[0]}:{CALLEE[1]}>\r\nServer: SIPp/3.7\r\n"
    return f"SIP/2.0 {status}\r\n{copied}\r\n{_line(request, 'To')}{tag}\r\n{contact}"


def yardstick_us() -> float:
    """CPU microseconds of a fixed piece of work: what the machine is worth at this moment."""
    begin = time.thread_time_ns()
    kept: dict[str, list[str]] = {}
    for number in range(1000):
        name, _, value = f"Header-{number % 40}: value of {number}".partition(": ")
        kept.setdefault(name, []).append(value.strip())
    return (time.thread_time_ns() - begin) / 1000


def modules(profile: cProfile.Profile) -> dict[str, float]:
    """Own time by module of the project, in seconds; what is built in is charged to whoever called it."""
    shares: defaultdict[str, float] = defaultdict(float)
    for entry in profile.getstats():
        module = _module(entry.code)
        if module is None:
            continue
        shares[module] += entry.inlinetime
        for called in entry.calls or ():
            if _module(called.code) is None:
                shares[module] += called.totaltime
    return shares


def _module(code: CodeType | str) -> str | None:
    """The file of the project that code is in."""
    if isinstance(code, str) or not code.co_filename.startswith(str(ROOT)):
        return None
    return str(Path(code.co_filename).relative_to(ROOT))


def instructions(calls: int = 100) -> int:
    """Machine instructions of one call, by the difference of two runs under cachegrind; those of `Caller` count too."""
    with ThreadPoolExecutor(2) as pool:
        short, long = pool.map(_counted, (20, 20 + calls))
    return (long - short) // calls


def _counted(calls: int) -> int:
    module = "from tests.bench.bench_call import bare"
    done = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable, "-c",
         f"{module}; bare({calls})"],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(re.findall(r"I +refs: +([0-9,]+)", done.stderr)[0].replace(",", ""))


def bare(calls: int) -> None:
    """So many calls and nothing else."""
    gc.disable()
    Caller().us_per_call(calls)


def held_kib(calls: int) -> tuple[float, float]:
    """KiB of one call that is up: of Python objects (tracemalloc), and what the process grew by."""
    caller = Caller(max_calls=calls + 10)
    caller.us_per_call(20)
    gc.collect()
    before = _resident_kib()
    for _ in range(calls):
        caller.set_up()
        caller.advance(GAP_S)
    gc.collect()
    grown = (_resident_kib() - before) / calls
    return _traced_kib(calls), grown


def _traced_kib(calls: int) -> float:
    caller = Caller(max_calls=calls + 10)
    caller.us_per_call(20)
    tracemalloc.start()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(calls):
        caller.set_up()
    caller.advance(LINGER_S)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / calls / 1024


def _resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_call")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=300, help="calls of each round")
    parser.add_argument("--profile", action="store_true", help="the share of each module")
    parser.add_argument("--functions", type=int, default=0, help="so many of the dearest functions")
    parser.add_argument("--held", type=int, default=0, help="memory of so many held calls")
    parser.add_argument(
        "--instructions", action="store_true", help="count instructions (valgrind, half a minute)"
    )
    given = parser.parse_args(arguments)

    caller = Caller()
    caller.us_per_call(given.calls)
    collector.settle()
    rounds: list[float] = []
    ratios: list[float] = []
    for _ in range(given.rounds):
        yardstick = min(yardstick_us() for _ in range(20))
        rounds.append(caller.us_per_call(given.calls))
        ratios.append(rounds[-1] / min(yardstick, *(yardstick_us() for _ in range(20))))
    print("| CPU of a call in process | us |\n| --- | --- |")
    print(f"| minimum of {given.rounds} rounds of {given.calls} calls | {min(rounds):.0f} |")
    print(f"| median | {statistics.median(rounds):.0f} |")
    print(f"| rounds | {', '.join(f'{one:.0f}' for one in rounds)} |")
    print(f"| median in yardsticks (a fixed piece of work) | {statistics.median(ratios):.2f} |")
    if given.profile or given.functions:
        caller.profile = cProfile.Profile()
        caller.us_per_call(given.calls)
        shares = modules(caller.profile)
        total = sum(shares.values())
        print("\n| module | share (profiled) |\n| --- | --- |")
        for name, own in sorted(shares.items(), key=lambda item: -item[1])[:24]:
            print(f"| {name} | {100 * own / total:.1f} % |")
        if given.functions:
            pstats.Stats(caller.profile).sort_stats("tottime").print_stats(given.functions)
    if given.instructions:
        print(f"\nInstructions of a call: {instructions() / 1e6:.2f} million")
    if given.held:
        traced, grown = held_kib(given.held)
        print("\n| memory of a held call | KiB |\n| --- | --- |")
        print(f"| Python objects | {traced:.1f} |\n| growth of the process | {grown:.1f} |")


if __name__ == "__main__":
    main()
