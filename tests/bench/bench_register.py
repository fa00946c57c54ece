"""What a phone's registration with digest costs (REGISTER, 401, REGISTER, 200), beside Kamailio in the same run.

    python -m tests.bench.bench_register [--rounds 3] [--rate 200] [--seconds 10] [--instructions]

Three systems take the same SIPp load in turn: ours with the bindings in memory, ours with the SQLite store (no 200 is
sent before what it says is on the disk), and Kamailio with its bindings in memory. CPU is of all processes of a system.
A registration is both REGISTERs. All users register once before it counts, so it counts renewals with a new Call-ID and
a fresh nonce, as of phones that were switched off. Each system makes and checks the nonce, hashes with qop, looks up
the user and replaces the contact; ours lets no nonce count pass twice, for which Kamailio is not set up, and has HA1
where Kamailio is given the password. `--instructions` counts what ours takes in process under valgrind, the one figure
that a busy machine does not change.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from signaling.digest import ha1
from tests.bench.loads import SCENARIOS, SLACK_S, Load, cpu_costs
from tests.bench.loopback import LOAD, SIP_PORT, SYSTEM, Corner, Loopback
from tests.bench.registering import WHAT, instructions
from tests.bench.systems import HERE, ROOT, System, awaited, filled, found, missing
from tests.bench.usage import come_first, tree
from tests.lab import sipp
from tests.lab.namespaces import Process

USERS = 500
PASSWORD = "secret"


class OurRegistrar:
    """`sbc run` with `registrar: local`."""

    def __init__(self, corner: Corner, lasting: bool) -> None:
        self.name = "ours, SQLite" if lasting else "ours, memory"
        self.corner = corner
        self._lasting = lasting
        self._process: Process | None = None

    def start(self, place: Loopback) -> None:
        """Bring it up; returns when it takes registrations."""
        host = self.corner.outside
        name = f"registrar-{self.corner.number}"
        users = "".join(
            f"    {user}: {{ha1: {{MD5: {ha1(user, host, PASSWORD, 'MD5')}}}}}\n" for user in user_names()
        )
        socket = place.directory / f"{name}.sock"
        file = place.directory / f"{name}.yaml"
        store = place.directory / f"{name}.db" if self._lasting else "null"
        file.write_text(
            f"networks:\n  outside: {{address: {host}, listen: [udp:{SIP_PORT}], media_ports: 20000-20099}}\n"
            f"phones:\n  network: outside\n  registrar: local\n  domain: {host}\n  store: {store}\n"
            f"  registers_per_s: 0\n  keepalive: off\n  users:\n{users}"
            "routes:\n  - {from: phones, to: phones}\n"
            "limits: {max_calls: 10}\nmedia: {workers: 1}\nlog: {level: warning}\n"
            f"control: {{socket: {socket}}}\n"
        )
        self._process = place.start(
            SYSTEM,
            name,
            [sys.executable, "-c", "from sbc.cli import main; main()", "run", str(file)],
            {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        )
        awaited(self._process, socket.exists)

    def pids(self) -> list[int]:
        """The process and its relay worker."""
        assert self._process is not None
        return tree(self._process.pid)

    def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.stop(timeout_s=30)


class KamailioRegistrar:
    """Kamailio with auth, registrar and usrloc in memory."""

    name = "Kamailio"

    def __init__(self, corner: Corner) -> None:
        self.corner = corner
        self._process: Process | None = None

    def start(self, place: Loopback) -> None:
        """Bring it up; returns when it takes registrations."""
        file = filled(
            place,
            HERE / "kamailio" / "registrar.cfg",
            "registrar.cfg",
            {
                "outside": self.corner.outside,
                "port": SIP_PORT,
                "modules": next(Path("/usr/lib").glob("*/kamailio/modules")),
            },
        )
        process = place.start(
            SYSTEM, "registrar", [found("kamailio"), "-DD", "-E", "-Y", str(place.directory), "-f", str(file)]
        )
        self._process = process
        awaited(process, lambda: f"{self.corner.outside}:{SIP_PORT}" in place.listening())
        awaited(process, lambda: len(tree(process.pid)) > 2)

    def pids(self) -> list[int]:
        """All its processes."""
        assert self._process is not None
        return tree(self._process.pid)

    def stop(self) -> None:
        """End it."""
        assert self._process is not None
        self._process.stop()


def user_names() -> list[str]:
    """The users that register in turn."""
    return [f"user{number}" for number in range(USERS)]


def registrations(number: int, rate: int) -> Load:
    """REGISTER, 401, REGISTER with digest, 200."""

    def run(place: Loopback, system: System) -> None:
        corner = system.corner
        users = place.directory / "users.csv"
        lines = [f"{user};[authentication username={user} password={PASSWORD}]" for user in user_names()]
        users.write_text("\n".join(["SEQUENTIAL", *lines]) + "\n")
        phones = sipp.caller(
            place,
            LOAD,
            str(SCENARIOS / "register"),
            f"{corner.outside}:{SIP_PORT}",
            local=corner.caller,
            calls=number,
            rate=rate,
            words=sipp.Words(agent="bench"),
            name="phones",
            options=("-inf", str(users)),
        )
        phones.done(number / rate + SLACK_S)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_register")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=200, help="registrations a second")
    parser.add_argument("--seconds", type=int, default=10, help="length of a round")
    parser.add_argument(
        "--instructions", action="store_true", help="machine instructions in process (valgrind)"
    )
    given = parser.parse_args(arguments)
    if given.instructions:
        print("| in process | thousand instructions |\n| --- | --- |")
        for what in WHAT:
            print(f"| {what} | {instructions(what) / 1000:.0f} |", flush=True)
        return 0
    absent = missing("sipp", "kamailio", "taskset", "ss")
    if absent:
        print(f"bench: not installed: {', '.join(absent)} (make packages)", file=sys.stderr)
        return 1
    units = given.rate * given.seconds
    come_first()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Loopback(Path(directory)) as place:
        systems: list[System] = [
            OurRegistrar(Corner(77), lasting=False),
            OurRegistrar(Corner(79), lasting=True),
            KamailioRegistrar(Corner(78)),
        ]
        for system in systems:
            system.start(place)
            come_first(system.pids())
            registrations(USERS, given.rate)(place, system)
        costs = cpu_costs(place, systems, registrations(units, given.rate), units, given.rounds)
    theirs = statistics.median(costs[-1])
    print(
        f"| CPU of a registration with digest at {given.rate}/s | ms | ratio | rounds |\n| --- | --- | --- | --- |"
    )
    for system, rounds in zip(systems, costs, strict=True):
        own = statistics.median(rounds)
        print(
            f"| {system.name} | {own:.3f} | {own / theirs:.2f} | {', '.join(f'{one:.3f}' for one in rounds)} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
