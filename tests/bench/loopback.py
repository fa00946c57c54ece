"""The place of a benchmark: everything on loopback addresses, load and system under test on cores of their own."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import Namespaces

SYSTEM = "system"
LOAD = "load"
SIP_PORT = 5060


@dataclass(frozen=True, slots=True)
class Corner:
    """The addresses round one system under test: 127.`number`.x.y, so that two systems can run side by side."""

    number: int

    @property
    def outside(self) -> str:
        """Where the system takes calls."""
        return f"127.{self.number}.1.1"

    @property
    def inside(self) -> str:
        """From where it passes them on."""
        return f"127.{self.number}.2.1"

    @property
    def caller(self) -> str:
        """Who calls."""
        return f"127.{self.number}.1.2"

    @property
    def callee(self) -> str:
        """Who is called."""
        return f"127.{self.number}.2.2"

    @property
    def control(self) -> str:
        """Where the parts of the system talk to each other."""
        return f"127.{self.number}.3.1"


class Loopback(Namespaces):
    """Runs programs as the lab does, but without namespaces (and so without root), each on its core.

    The names of the two places are `SYSTEM` and `LOAD`. On a machine with one core they share it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        cores = sorted(os.sched_getaffinity(0))
        self._core = {LOAD: cores[0], SYSTEM: cores[-1]}

    def __enter__(self) -> "Loopback":
        return self

    def command(self, namespace: str, *arguments: str) -> list[str]:
        """A command line that runs `arguments` on the core of a place."""
        return ["taskset", "-c", str(self._core[namespace]), *arguments]

    def close(self) -> None:
        """End all processes."""
        for process in reversed(self._processes):
            process.stop()
        for output in self._outputs:
            output.close()

    def listening(self) -> str:
        """The UDP sockets of this machine that are bound, as `ss` lists them."""
        return self.run(LOAD, "ss", "-uln")
