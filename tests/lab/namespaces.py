"""Network namespaces of the lab: `public` and `private`, each joined to `sbc` by a cable, with no way past it."""

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PUBLIC = "public"
PRIVATE = "private"
SBC = "sbc"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Side:
    """One network of the lab: the border's addresses in it, and those of its user agents."""

    name: str
    border: str
    border6: str
    peers: tuple[str, ...]
    peers6: tuple[str, ...]
    prefix: str
    prefix6: str

    @property
    def peer(self) -> str:
        """The IPv4 address of the first user agent."""
        return self.peers[0]

    @property
    def peer6(self) -> str:
        """The IPv6 address of the first user agent."""
        return self.peers6[0]


SIDES = {
    PUBLIC: Side(
        PUBLIC,
        border="203.0.113.1",
        border6="2001:db8:a::1",
        peers=("203.0.113.21", "203.0.113.22", "203.0.113.23"),
        peers6=("2001:db8:a::21", "2001:db8:a::22"),
        prefix="203.0.113.0/24",
        prefix6="2001:db8:a::/64",
    ),
    PRIVATE: Side(
        PRIVATE,
        border="10.77.0.1",
        border6="fd77:0:0:b::1",
        peers=("10.77.0.31", "10.77.0.32", "10.77.0.33"),
        peers6=("fd77:0:0:b::31", "fd77:0:0:b::32"),
        prefix="10.77.0.0/24",
        prefix6="fd77:0:0:b::/64",
    ),
}


def obstacle(*programs: str) -> str | None:
    """Why this machine cannot run the lab, or None. Begins with `machine:` for the rule of tests/conftest.py."""
    if os.geteuid() != 0:
        return "machine: network namespaces need root"
    for program in ("ip", "nsenter", *programs):
        if shutil.which(program) is None:
            return f"machine: {program} is not installed (make packages)"
    probe = f"lab-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"machine: no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None


class Process:
    """A program running in a namespace, its output in a file."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", output: Path) -> None:
        self.name = name
        self.popen = popen
        self.output = output

    @property
    def pid(self) -> int:
        """Its process id (nsenter replaces itself by the program)."""
        return self.popen.pid

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; its exit status. Raises AssertionError with its last lines when it takes too long."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {timeout_s:g} s:\n{self.text[-2000:]}"
            ) from None

    def stop(self, number: int = 15, timeout_s: float = 30.0) -> int:
        """End it by a signal, and by SIGKILL when that does not help; its exit status."""
        if self.running:
            self.popen.send_signal(number)
            try:
                return self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.popen.wait()

    def await_text(self, text: str, timeout_s: float = 40.0) -> None:
        """Wait until it has written `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.text:
            if time.monotonic() > deadline or not self.running:
                raise AssertionError(f"{self.name} did not write {text!r}:\n{self.text[-3000:]}")
            time.sleep(0.02)


class Namespaces:
    """The three namespaces, as a context manager: all that was started in them ends with them.

    `routed` lets `sbc` forward between the sides, to test the harness itself without a border.
    """

    def __init__(self, directory: Path, routed: bool = False) -> None:
        self.directory = directory
        self._routed = routed
        self._prefix = f"lab{os.getpid()}-{next(_numbers)}"
        self._processes: list[Process] = []
        self._outputs: list[IO[bytes]] = []

    def __enter__(self) -> "Namespaces":
        try:
            for name in (PUBLIC, PRIVATE, SBC):
                _ip("netns", "add", self.full_name(name))
                self.run(name, "ip", "link", "set", "lo", "up")
            for side in SIDES.values():
                self._cable(side)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and remove the namespaces."""
        for process in reversed(self._processes):
            process.stop()
        for output in self._outputs:
            output.close()
        for name in (PUBLIC, PRIVATE, SBC):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.full_name(name))

    def full_name(self, name: str) -> str:
        """The name of a namespace on this machine, unique to this run."""
        return f"{self._prefix}-{name}"

    def command(self, namespace: str, *arguments: str) -> list[str]:
        """A command line that runs `arguments` in a namespace."""
        return ["nsenter", f"--net=/run/netns/{self.full_name(namespace)}", "--", *arguments]

    def run(self, namespace: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run a command to its end; its output. Raises CalledProcessError."""
        done = subprocess.run(
            self.command(namespace, *arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    def start(
        self, namespace: str, name: str, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> Process:
        """Start a program; it is ended at the latest when the namespaces are closed."""
        output = self.directory / f"{name}.out"
        stream = output.open("wb")
        self._outputs.append(stream)
        popen = subprocess.Popen(
            self.command(namespace, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env={**os.environ, **(environment or {})},
        )
        process = Process(name, popen, output)
        self._processes.append(process)
        return process

    def reaches(self, source: str, address: str) -> bool:
        """Whether a namespace has any way to an address."""
        done = subprocess.run(
            self.command(source, "ip", "route", "get", address), capture_output=True, check=False
        )
        return done.returncode == 0

    def _cable(self, side: Side) -> None:
        inside = self.full_name(SBC)
        outside = self.full_name(side.name)
        device = f"to-{side.name}"
        _ip("link", "add", device, "netns", inside, "type", "veth", "peer", "name", "eth0", "netns", outside)
        for address, length in ((side.border, 24), (side.border6, 64)):
            self._address(SBC, device, address, length)
        for address in side.peers:
            self._address(side.name, "eth0", address, 24)
        for address in side.peers6:
            self._address(side.name, "eth0", address, 64)
        self.run(SBC, "ip", "link", "set", device, "up")
        self.run(side.name, "ip", "link", "set", "eth0", "up")
        if self._routed:
            self.run(side.name, "ip", "route", "add", "default", "via", side.border)
            self.run(side.name, "ip", "-6", "route", "add", "default", "via", side.border6)
            self.run(SBC, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def _address(self, namespace: str, device: str, address: str, length: int) -> None:
        # nodad: an address that is still being checked for duplicates cannot be bound.
        flags = ("nodad",) if ":" in address else ()
        self.run(namespace, "ip", "address", "add", f"{address}/{length}", "dev", device, *flags)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
