"""The ways through which the streams of a load can go: no relay, ours, and rtpengine from Debian."""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from media.fastpath.build import OBJECT, build
from media.fastpath.loader import obstacle
from tests.bench.loopback import Corner
from tests.bench.media.place import PHONES, Place
from tests.bench.media.streams import Load
from tests.bench.systems import ROOT, missing, start_rtpengine
from tests.bench.usage import tree
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES

CORNER = Corner(78)
BORDER = (SIDES[PUBLIC].border, SIDES[PRIVATE].border)
OPEN_S = 60.0
# Any key will do: thirty octets, RFC 3711 s.8.2.
KEY = bytes(range(1, 31))


@dataclass(slots=True)
class Way:
    """A way that is ready: the ports that each side sends to, whose CPU it is, and what it counted (after its end).
    `straight` means the ports of the other side's phones, by the cable past the relay."""

    ports: tuple[list[int], list[int]]
    pids: list[int] = field(default_factory=list)
    straight: bool = False
    counters: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Engine:
    """How a way is made, and why it cannot be under a load (None: it can)."""

    make: Callable[[Place, Load], contextlib.AbstractContextManager[Way]]
    obstacle: Callable[[Load], str | None] = lambda load: None


@contextlib.contextmanager
def direct(place: Place, load: Load) -> Iterator[Way]:
    """The phones of one side send straight to those of the other."""
    ports = [load.phone_port(call) for call in range(load.calls)]
    yield Way((ports, ports), straight=True)


def reference(place: Place, load: Load) -> contextlib.AbstractContextManager[Way]:
    """Our relay in its worker processes, one a core."""
    return _ours(place, load, "reference")


def kernel(place: Place, load: Load) -> contextlib.AbstractContextManager[Way]:
    """The same, and the kernel forwards what it can by itself."""
    return _ours(place, load, "kernel")


@contextlib.contextmanager
def _ours(place: Place, load: Load, way: str) -> Iterator[Way]:
    program = [sys.executable, "-m", "tests.bench.media.ours"]
    command = [*program, way, str(load.calls), *BORDER, *PHONES.values(), *([KEY.hex()] if load.srtp else [])]
    process = subprocess.Popen(
        place.command(SBC, *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        ports = json.loads(process.stdout.readline())
        made = Way((ports["a"], ports["b"]), tree(process.pid))
        yield made
        process.stdin.close()
        made.counters = json.loads(process.stdout.readline())
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def rtpengine(place: Place, load: Load) -> Iterator[Way]:
    """rtpengine in user space; with `load.srtp` it takes SRTP from side a and gives it."""
    process = start_rtpengine(place, CORNER, *BORDER, "rtpengine")
    try:
        key = [base64.b64encode(KEY).decode()] if load.srtp else []
        command = [sys.executable, "-m", "tests.bench.media.offers", CORNER.control, str(load.calls)]
        told = subprocess.run(
            place.command(SBC, *command, *PHONES.values(), *key),
            capture_output=True,
            text=True,
            check=True,
            timeout=OPEN_S,
            cwd=ROOT,
        )
        ports = json.loads(told.stdout)
        yield Way((ports["a"], ports["b"]), tree(process.pid))
    finally:
        process.stop()


def _no_kernel(load: Load) -> str | None:
    if load.srtp:
        return "SRTP is not for the kernel"
    # Anew, since what is there may be of an older source.
    failure = build(OBJECT)
    return failure if failure is not None and not OBJECT.exists() else obstacle()


WAYS: dict[str, Engine] = {
    "direct": Engine(direct),
    "reference": Engine(reference),
    "kernel": Engine(kernel, _no_kernel),
    "rtpengine": Engine(rtpengine, lambda load: "not installed" if missing("rtpengine") else None),
}
"""Everything that can be measured, by name, in the order of the table."""
