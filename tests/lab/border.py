"""The SBC under test: its configuration in the lab, its process, its control socket."""

import os
import sys
import textwrap
import time
from pathlib import Path
from typing import cast

from sbc.control import ControlError, ask
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES, Namespaces, Process

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-c", "from sbc.cli import main; main()")

FAST: dict[str, object] = {"t1_ms": 30, "t2_ms": 240, "t4_ms": 500, "port_quarantine_s": 0}
"""SIP timers for a wire without delay, so that a transaction lingers for 2 s and not for 32."""


def server(side: str, transport: str = "udp", port: int = 5060, family: int = 4, number: int = 0) -> str:
    """The URI of a user agent of the lab, as `servers` of a trunk wants it."""
    host = SIDES[side].peers[number] if family == 4 else f"[{SIDES[side].peers6[number]}]"
    return f"sip:{host}:{port};transport={transport}"


def configuration(
    namespaces: Namespaces,
    *,
    to_private: list[str] | None = None,
    to_public: list[str] | None = None,
    nat: str = "none",
    media_ports: str = "20000-21999",
    timers: dict[str, object] | None = None,
    limits: dict[str, object] | None = None,
    trunk: str = "",
    more: str = "",
) -> str:
    """YAML: everything from public goes to the trunk `pbx`, everything from private to the trunk `carrier`.

    `to_private` and `to_public` are the servers of the two, `trunk` further settings of both.
    """

    def mapping(name: str, values: dict[str, object]) -> str:
        return (
            f"{name}: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}\n" if values else ""
        )

    def servers(uris: list[str] | None, side: str) -> str:
        return "[" + ", ".join(f'"{uri}"' for uri in uris or [server(side)]) + "]"

    networks = "".join(
        textwrap.dedent(
            f"""\
              {side.name}:
                address: {side.border}
                address6: "{side.border6}"
                listen: [udp:5060, tcp:5060]
                media_ports: {media_ports}
                nat: {nat if side.name == PUBLIC else "none"}
                domain: {side.name}.border.example
            """
        ).replace("\n", "\n  ")
        for side in SIDES.values()
    )
    return (
        f"networks:\n  {networks.rstrip()}\n"
        "trunks:\n"
        f"  carrier: {{network: public, servers: {servers(to_public, PUBLIC)},"
        f' from: ["{SIDES[PUBLIC].prefix}", "{SIDES[PUBLIC].prefix6}"]{trunk}}}\n'
        f"  pbx: {{network: private, servers: {servers(to_private, PRIVATE)},"
        f' from: ["{SIDES[PRIVATE].prefix}", "{SIDES[PRIVATE].prefix6}"]{trunk}}}\n'
        "routes:\n"
        "  - {from: carrier, to: pbx}\n"
        "  - {from: pbx, to: carrier}\n"
        + mapping("timers", {**FAST, **(timers or {})})
        + mapping("limits", limits or {})
        + "topology: {verify: count}\n"
        f"log: {{level: info, cdr: {namespaces.directory}/cdr.jsonl, trace: full}}\n"
        f"control: {{socket: {namespaces.directory}/control.sock}}\n" + more
    )


class Border:
    """A running SBC in the namespace `sbc`."""

    def __init__(self, namespaces: Namespaces, yaml: str) -> None:
        self.file = namespaces.directory / "sbc.yaml"
        self.file.write_text(yaml)
        self.socket = str(namespaces.directory / "control.sock")
        self.cdr = namespaces.directory / "cdr.jsonl"
        self.process: Process = namespaces.start(
            SBC, "sbc", [*COMMAND, "run", str(self.file)], {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
        )
        self._await_ready()

    def _await_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the control socket answers: the log may be too quiet to say `ready`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.stats()
                return
            except ControlError as error:
                if time.monotonic() > deadline or not self.process.running:
                    raise AssertionError(
                        f"the SBC did not start: {error}\n{self.process.text[-3000:]}"
                    ) from None
                time.sleep(0.05)

    def ask(self, verb: str, **arguments: object) -> dict[str, object]:
        """What a verb of the control socket answers."""
        return cast("dict[str, object]", ask(self.socket, verb, arguments))

    def stats(self) -> dict[str, int]:
        """Counters and what the process holds."""
        return cast("dict[str, int]", self.ask("stats"))

    def leftovers(self, timeout_s: float = 30.0, refused: int = 0) -> dict[str, int]:
        """What is still held, once nothing is or the time is over. Transactions linger for 64 x T1.

        `refused` UDP transactions may be left, of INVITEs that were refused: timer D is at least 32 s whatever
        T1 is (RFC 3261 s.17.1.1.2).
        """
        deadline = time.monotonic() + timeout_s
        while True:
            held = {name: value for name, value in self.stats().items() if name.startswith("held.")}
            held["held.transactions"] = max(0, held["held.transactions"] - refused)
            left = {name: value for name, value in held.items() if value}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.25)

    def explain(self, call: str) -> str:
        """The text of `sbc explain`."""
        return str(self.ask("explain", call=call, width=120, plain=True)["text"])

    def pids(self) -> list[int]:
        """The process and its relay workers."""
        found = [self.process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            if children.exists():
                found.extend(int(child) for child in children.read_text().split())
        return found

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; its exit status."""
        return self.process.stop(15, timeout_s)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far, of those that still are."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_kib(pids: list[int]) -> int:
    """Proportional resident memory of processes: pages that they share count once.

    It changes with whoever else on the machine maps the same libraries: for what grows, `anonymous_kib` is the figure.
    """
    return _rollup_kib(pids, "Pss:")


def anonymous_kib(pids: list[int]) -> int:
    """Memory that is no file's: heaps and stacks."""
    return _rollup_kib(pids, "Anonymous:")


def _rollup_kib(pids: list[int], kind: str) -> int:
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except FileNotFoundError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith(kind))
    return total


__all__ = [
    "Border",
    "ControlError",
    "anonymous_kib",
    "configuration",
    "cpu_seconds",
    "resident_kib",
    "server",
]
