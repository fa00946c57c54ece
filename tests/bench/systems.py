"""The systems under test: ours, and beside it what a good engineer would put together from Debian's packages."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tests.bench.loopback import SIP_PORT, SYSTEM, Corner, Loopback
from tests.bench.usage import tree
from tests.lab.namespaces import Process

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
"""Debian's daemons are not in the path of everybody."""
MEDIA_PORTS = (20000, 39999)
READY_S = 20.0
KAMAILIO_WORKERS = 4
"""Two for each socket."""


class System(Protocol):
    """Takes calls at `corner.outside` and passes them on, media anchored, to `corner.callee`."""

    name: str
    corner: Corner

    def start(self, place: Loopback) -> None:
        """Bring it up; returns when it takes calls."""

    def pids(self) -> list[int]:
        """All its processes."""

    def stop(self) -> None:
        """End it."""


class Ours:
    """`sbc run` as in production, without log lines and call detail records."""

    name = "ours"

    def __init__(self, corner: Corner) -> None:
        self.corner = corner
        self._process: Process | None = None

    def start(self, place: Loopback) -> None:
        """Bring it up; returns when it takes calls."""
        corner = self.corner
        first, last = MEDIA_PORTS
        networks = "".join(
            f"  {name}: {{address: {address}, listen: [udp:{SIP_PORT}], media_ports: {first}-{last}}}\n"
            for name, address in (("outside", corner.outside), ("inside", corner.inside))
        )
        socket = place.directory / "ours.sock"
        file = place.directory / "ours.yaml"
        file.write_text(
            f"networks:\n{networks}"
            f'trunks:\n  callee: {{network: inside, servers: ["sip:{corner.callee}:{SIP_PORT}"]}}\n'
            "routes:\n  - {from: outside, to: callee}\n"
            "limits: {max_calls: 4000}\n"
            "log: {level: warning}\n"
            f"control: {{socket: {socket}}}\n"
        )
        self._process = place.start(
            SYSTEM,
            "ours",
            [sys.executable, "-c", "from sbc.cli import main; main()", "run", str(file)],
            {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        )
        awaited(self._process, socket.exists)

    def pids(self) -> list[int]:
        """The process and its relay workers."""
        assert self._process is not None
        return tree(self._process.pid)

    def stop(self) -> None:
        """End it, with its drain."""
        assert self._process is not None
        self._process.stop(timeout_s=60)


class Peers:
    """Kamailio with topology hiding, and rtpengine in user space."""

    name = "Kamailio + rtpengine"

    def __init__(self, corner: Corner) -> None:
        self.corner = corner
        self._processes: list[Process] = []

    def start(self, place: Loopback) -> None:
        """Bring it up; returns when it takes calls."""
        corner = self.corner
        self._processes.append(start_rtpengine(place, corner, corner.outside, corner.inside, "rtpengine"))
        file = filled(
            place,
            HERE / "kamailio" / "kamailio.cfg",
            "kamailio.cfg",
            {
                "outside": corner.outside,
                "inside": corner.inside,
                "callee": corner.callee,
                "control": corner.control,
                "port": SIP_PORT,
                "modules": next(Path("/usr/lib").glob("*/kamailio/modules")),
            },
        )
        proxy = place.start(
            SYSTEM, "kamailio", [found("kamailio"), "-DD", "-E", "-Y", str(place.directory), "-f", str(file)]
        )
        self._processes.append(proxy)
        awaited(proxy, lambda: f"{corner.inside}:{SIP_PORT}" in place.listening())
        # It binds its sockets before its workers are there to read them.
        awaited(proxy, lambda: len(tree(proxy.pid)) > KAMAILIO_WORKERS)
        time.sleep(0.5)

    def pids(self) -> list[int]:
        """All processes of both."""
        return [pid for process in self._processes for pid in tree(process.pid)]

    def stop(self) -> None:
        """End both."""
        for process in reversed(self._processes):
            process.stop()


class Room(Protocol):
    """Where a daemon can be started."""

    directory: Path

    def start(
        self, namespace: str, name: str, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> Process:
        """Start a program."""

    def listening(self) -> str:
        """The UDP sockets there that are bound."""


def start_rtpengine(place: Room, corner: Corner, outside: str, inside: str, name: str) -> Process:
    """An rtpengine that is controlled at `corner.control`."""
    file = filled(
        place,
        HERE / "rtpengine" / "rtpengine.conf",
        f"{name}.conf",
        {
            "outside": outside,
            "inside": inside,
            "control": corner.control,
            "first": MEDIA_PORTS[0],
            "last": MEDIA_PORTS[1],
        },
    )
    process = place.start(SYSTEM, name, [found("rtpengine"), f"--config-file={file}"])
    awaited(process, lambda: f"{corner.control}:2223" in place.listening())
    return process


def filled(place: Room, template: Path, name: str, words: dict[str, object]) -> Path:
    """A configuration out of a template with @words@."""
    text = template.read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    file = place.directory / name
    file.write_text(text)
    return file


def awaited(process: Process, ready: Callable[[], bool]) -> None:
    """Wait until a process is ready; AssertionError with what it said when it is not in time."""
    deadline = time.monotonic() + READY_S
    while not ready():
        if time.monotonic() > deadline or not process.running:
            raise AssertionError(f"{process.name} did not start:\n{process.text[-2000:]}")
        time.sleep(0.05)


def missing(*programs: str) -> list[str]:
    """Which programs are not installed."""
    return [program for program in programs if shutil.which(program, path=PATH) is None]


def found(program: str) -> str:
    """Where a program is."""
    path = shutil.which(program, path=PATH)
    assert path is not None, program
    return path
