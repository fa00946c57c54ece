"""SIPp callers and callees from the scenario files, with words in @signs@ filled in for each run.

Debian's SIPp (3.6) has neither TLS nor WebSocket; audio is sent by rtp_stream and read from the capture.
"""

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import SIDES, Namespaces, Process

SCENARIOS = Path(__file__).parent / "scenarios"
TRANSPORTS = {"udp": "u1", "tcp": "t1"}


@dataclass(frozen=True, slots=True)
class Words:
    """What a scenario file leaves open."""

    agent: str
    caller: str = "alice"
    status: int = 486
    extra: str = ""
    hold_ms: int = 500
    ring_ms: int = 200
    audio: Path | None = None


class Sipp:
    """One SIPp process."""

    def __init__(self, process: Process, statistics: Path, errors: Path) -> None:
        self.process = process
        self._statistics = statistics
        self._errors = errors

    def done(self, timeout_s: float = 80.0) -> "Sipp":
        """Wait for its end; AssertionError with what it complains about unless every call went by the scenario."""
        status = self.process.wait(timeout_s)
        if status != 0:
            raise AssertionError(
                f"{self.process.name}: exit status {status}: {self.counts()}\n{self.complaints}"
            )
        return self

    @property
    def complaints(self) -> str:
        """The last that it wrote about unexpected messages."""
        errors = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        return (errors or self.process.text)[-1500:]

    def counts(self) -> dict[str, int]:
        """Successful and failed calls, retransmissions, as the last line of its statistics says."""
        if not self._statistics.exists():
            return {}
        with self._statistics.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        names = {
            "SuccessfulCall(C)": "successful",
            "FailedCall(C)": "failed",
            "Retransmissions(C)": "retransmissions",
            "TotalCallCreated": "created",
        }
        return {ours: int(rows[-1][theirs] or 0) for theirs, ours in names.items()} if rows else {}


def callee(
    namespaces: Namespaces,
    side: str,
    scenario: str,
    *,
    local: str | None = None,
    transport: str = "udp",
    port: int = 5060,
    calls: int = 1,
    words: Words | None = None,
    name: str | None = None,
    options: tuple[str, ...] = (),
) -> Sipp:
    """Start a callee that ends after `calls` calls (0: never); returns when it listens."""
    local = local or SIDES[side].peer
    words = words or Words(agent=f"callee-{side}", caller="bob")
    name = name or f"{scenario}-{side}-{port}"
    arguments = [] if calls == 0 else ["-m", str(calls)]
    sipp = _start(
        namespaces, side, scenario, name, words, local, port, transport, [*arguments, "-aa", *options]
    )
    _await_port(namespaces, side, sipp, port, transport)
    return sipp


def caller(
    namespaces: Namespaces,
    side: str,
    scenario: str,
    target: str,
    *,
    local: str | None = None,
    number: str = "1000",
    transport: str = "udp",
    port: int = 5060,
    calls: int = 1,
    rate: int = 10,
    limit: int | None = None,
    words: Words | None = None,
    name: str | None = None,
    options: tuple[str, ...] = (),
) -> Sipp:
    """Start a caller that places `calls` calls to `number` at `target`, at `rate` calls/s."""
    local = local or SIDES[side].peer
    words = words or Words(agent=f"caller-{side}")
    name = name or f"{scenario}-{side}-{port}"
    most = ["-l", str(limit)] if limit else []
    arguments = [target, "-s", number, "-m", str(calls), "-r", str(rate), *most, "-aa", *options]
    return _start(namespaces, side, scenario, name, words, local, port, transport, arguments)


def _start(
    namespaces: Namespaces,
    side: str,
    scenario: str,
    name: str,
    words: Words,
    local: str,
    port: int,
    transport: str,
    arguments: list[str],
) -> Sipp:
    directory = namespaces.directory
    file = directory / f"{name}.xml"
    file.write_text(_fill((SCENARIOS / f"{scenario}.xml").read_text(), words))
    statistics = directory / f"{name}.csv"
    errors = directory / f"{name}.errors"
    process = namespaces.start(
        side,
        name,
        [
            *(
                "sipp",
                "-sf",
                str(file),
                "-t",
                TRANSPORTS[transport],
                "-i",
                local,
                "-p",
                str(port),
                "-mi",
                local,
            ),
            *("-nostdin", "-timer_resol", "10", "-trace_err", "-error_file", str(errors)),
            *("-trace_stat", "-stf", str(statistics), "-fd", "1", "-mp", str(_media_port(port))),
            *arguments,
        ],
        # SIPp draws its screen by curses and wants to know on what.
        {"TERM": "dumb"},
    )
    return Sipp(process, statistics, errors)


def _fill(text: str, words: Words) -> str:
    talk = ""
    if words.audio is not None:
        talk = f'<nop><action><exec rtp_stream="{words.audio},-1,8,PCMA/8000"/></action></nop>'
    values = {
        "@talk@": talk,
        "@port@": "[media_port]" if words.audio is None else "[rtpstream_audio_port]",
        "@agent@": words.agent,
        "@caller@": words.caller,
        "@status@": str(words.status),
        "@hold_ms@": str(words.hold_ms),
        "@ring_ms@": str(words.ring_ms),
    }
    if not words.extra:
        text = text.replace("      @extra@\n", "")
    for word, value in {**values, "@extra@": words.extra}.items():
        text = text.replace(word, value)
    return text


def _await_port(namespaces: Namespaces, side: str, sipp: Sipp, port: int, transport: str) -> None:
    flag = "-uln" if transport == "udp" else "-tln"
    deadline = time.monotonic() + 40
    while f":{port} " not in namespaces.run(side, "ss", flag):
        if time.monotonic() > deadline or not sipp.process.running:
            raise AssertionError(f"{sipp.process.name} does not listen on port {port}:\n{sipp.complaints}")
        time.sleep(0.05)


def _media_port(port: int) -> int:
    """Where this SIPp counts its audio ports from: two of them must not share one."""
    return 30000 + port % 1000 * 20
