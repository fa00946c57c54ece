"""The real program: phones that register by UDP, a kill -9 in the middle, and what is known after the next start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from signaling.digest import Account, answer, ha1, parse_challenges
from signaling.message import Request, Response
from signaling.parser import parse

ROOT = Path(__file__).parents[2]
READY_S = 20.0
DOMAIN = "sip.example.com"
USERS = 120


class Program:
    """`sbc run` on loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.file = directory / "sbc.yaml"
        self.socket = directory / "control.sock"
        self.store = directory / "locations.db"
        users = ", ".join(
            f'u{n}: {{ha1: {{MD5: "{ha1(f"u{n}", DOMAIN, "pw", "MD5")}"}}}}' for n in range(USERS)
        )
        self.file.write_text(
            f"networks:\n  public: {{address: 127.0.0.1, listen: [udp:{self.port}], media_ports: 40000-40099,"
            " nat: far-end}\n"
            'trunks:\n  pbx: {network: public, servers: ["sip:127.0.0.3:5999"]}\n'
            f"phones: {{network: public, registrar: local, domain: {DOMAIN}, store: {self.store}, registers_per_s: 0,"
            f" keepalive: off, users: {{{users}}}}}\n"
            "routes:\n  - {from: phones, to: phones, when: registered}\n  - {from: phones, to: pbx}\n"
            "limits: {max_calls: 20}\nmedia: {workers: 1}\nlog: {level: info}\n"
            f"control: {{socket: {self.socket}}}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from sbc.cli import main; main()", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            self.command("run", str(self.file)),
            env=self.environment,
            stdout=log,
            stderr=log,
            cwd=self.directory,
        )
        log.close()
        deadline = time.monotonic() + READY_S
        while not self.socket.exists():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def kill(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        self.process = None

    def registrations(self) -> list[dict[str, object]]:
        done = subprocess.run(
            self.command("registrations", "--json", "--socket", str(self.socket)),
            env=self.environment, cwd=self.directory, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: list[dict[str, object]] = json.loads(done.stdout)["registrations"]
        return found


class Phones:
    """Many phones on one socket, each with its contact; `told` are the users that got their 200."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(5.0)
        self.here = self.socket.getsockname()[1]
        self.told: set[str] = set()

    def register(self, user: str, cseq: int, extra: str = "") -> None:
        self.socket.send(
            (
                f"REGISTER sip:{DOMAIN} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP 127.0.0.1:{self.here};branch=z9hG4bK-{user}-{cseq};rport\r\nMax-Forwards: 70\r\n"
                f"From: <sip:{user}@{DOMAIN}>;tag={user}\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: {user}\r\n"
                f"CSeq: {cseq} REGISTER\r\nContact: <sip:{user}@127.0.0.1:{self.here}>\r\nExpires: 600\r\n"
                # As phones do: a stranger gets few answers that are larger than what it has sent.
                "User-Agent: Home/1.0\r\nSupported: path, gruu, replaces\r\n"
                "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, NOTIFY, MESSAGE, REFER, PRACK\r\n"
                f"{extra}Content-Length: 0\r\n\r\n"
            ).encode()
        )

    def read(self) -> Request | Response:
        return parse(self.socket.recv(65535))

    def serve(self) -> None:
        """Take one answer, and answer a challenge."""
        response = self.read()
        assert isinstance(response, Response)
        user = response.call_id
        if response.status == 401:
            name, value = answer(
                parse_challenges(response)[0], Account(user, "pw"), "REGISTER", f"sip:{DOMAIN}", 1, "c"
            )
            self.register(user, 2, f"{name}: {value}\r\n")
        else:
            assert response.status == 200, response.encode()
            self.told.add(user)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    one = Program(tmp_path)
    yield one
    if one.process is not None:
        one.kill(signal.SIGKILL)


def test_no_binding_that_was_answered_200_is_lost_by_kill_9(program: Program) -> None:
    program.start()
    phones = Phones(program.port)
    for number in range(USERS):
        phones.register(f"u{number}", 1)
    while len(phones.told) < USERS // 2:
        phones.serve()
    program.kill(signal.SIGKILL)
    phones.socket.settimeout(0.2)
    try:
        while True:
            response = phones.read()
            if isinstance(response, Response) and response.status == 200:
                phones.told.add(response.call_id)
    except OSError:
        pass
    program.start()
    rows = program.registrations()
    known = {str(row["user"]) for row in rows}
    assert phones.told <= known and len(phones.told) >= USERS // 2
    assert {row["flow"] for row in rows} == {f"udp 127.0.0.1:{phones.here}"}
    assert "registrations are back" in program.log
    # The flow works at once: a call reaches the phone without it having said anything since.
    user, caller = sorted(phones.told)[:2]
    phones.socket.settimeout(5.0)
    phones.socket.send(
        (
            f"INVITE sip:{user}@{DOMAIN} SIP/2.0\r\nMax-Forwards: 70\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{phones.here};branch=z9hG4bKcall;rport\r\n"
            f"From: <sip:{caller}@{DOMAIN}>;tag=x\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: call\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:{user}@127.0.0.1:{phones.here}>\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    )
    while not isinstance(found := phones.read(), Request):
        pass
    assert found.method == "INVITE" and found.uri == f"sip:{user}@127.0.0.1:{phones.here}"
    phones.socket.close()


def test_a_store_that_cannot_be_used_is_said_at_the_start(program: Program) -> None:
    program.store.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    with pytest.raises(AssertionError, match="is damaged"):
        program.start()
