"""Registrations with digest through `Calls`, in process and without sockets: CPU time, and machine instructions.

What SIPp sends in `bench_register`, in the same form: REGISTER, 401, REGISTER with digest, 200. Only the time inside
`receive` and `handle_timer` counts. Instructions are those of the whole, less those of the phones alone.
"""

import gc
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from itertools import count
from pathlib import Path

from signaling.digest import ha1
from signaling.flow import Flow
from tests.harness.border import Border

ROOT = Path(__file__).resolve().parents[2]
USERS = 200
HOST, PORT = "127.77.0.1", 5070
PHONES = ("127.77.0.9", 5060)
GAP_S = 0.005
"""Between two registrations: 200 a second, so that timers run as they would."""
WHAT = ("registration", "refresh", "options")
"""A registration of two REGISTERs, a REGISTER that shows the nonce that the phone has, an OPTIONS."""


class Wire(Border):
    """A border whose phones are text: what it sends is kept as bytes."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        users = "".join(
            f"    {user}: {{ha1: {{MD5: {ha1(user, HOST, 'secret', 'MD5')}}}}}\n" for user in NAMES
        )
        super().__init__(
            f"networks:\n  outside: {{address: {HOST}, listen: [udp:{PORT}], media_ports: 20000-20099}}\n"
            f"phones:\n  network: outside\n  registrar: local\n  domain: {HOST}\n  store: null\n"
            f"  registers_per_s: 0\n  keepalive: off\n  users:\n{users}"
            "routes:\n  - {from: phones, to: phones}\nlimits: {max_calls: 10}\n"
        )

    def _send(self, data: bytes, flow: Flow) -> None:
        self.out.append(data)


NAMES = [f"user{number}" for number in range(USERS)]


class Phones:
    """Registers one user after the other. `shown`: each shows the nonce that it has, as a phone does that refreshes.

    Without a border the answers are made up: that is what the phones cost by themselves.
    """

    def __init__(self, border: bool = True, shown: bool = False) -> None:
        self._border = Wire() if border else None
        self.spent_ns = 0
        self._shown = shown
        self._nonces: dict[str, tuple[str, int]] = {}
        self._serial = count(1)
        self._flow = Flow("outside", "udp", (HOST, PORT), PHONES)
        self._ha2 = md5(f"REGISTER:sip:{HOST}:{PORT}".encode()).hexdigest()
        self._ha1 = {user: ha1(user, HOST, "secret", "MD5") for user in NAMES}

    def _receive(self, data: bytes, made_up: bytes) -> bytes:
        border = self._border
        if border is None:
            return made_up
        border.out.clear()
        begin = time.thread_time_ns()
        border.calls.receive(data, self._flow, border.now)
        border.calls.next_timer()
        self.spent_ns += time.thread_time_ns() - begin
        (answer,) = border.out
        return answer

    def _request(self, number: int, user: str, call: int, cseq: int, more: str) -> bytes:
        host, port = PHONES
        return (
            f"REGISTER sip:{HOST}:{PORT} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK-{number}-{call}-{cseq};rport\r\n"
            f"From: <sip:{user}@{HOST}>;tag=41reg{number}\r\nTo: <sip:{user}@{HOST}>\r\n"
            f"Call-ID: {call}-41@{host}\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:{user}@{host}:{port}>\r\n{more}"
            "Max-Forwards: 70\r\nExpires: 300\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    def _credentials(self, user: str, nonce: str, nc: int) -> str:
        text = f"{self._ha1[user]}:{nonce}:{nc:08x}:6b8b4567:auth:{self._ha2}"
        return (
            f'Authorization: Digest username="{user}",realm="{HOST}",uri="sip:{HOST}:{PORT}",nonce="{nonce}",'
            f'response="{md5(text.encode()).hexdigest()}",algorithm=MD5,cnonce="6b8b4567",qop=auth,nc={nc:08x}\r\n'
        )

    def register(self) -> None:
        """One registration, then the time until the next."""
        number = next(self._serial)
        user = NAMES[number % USERS]
        nonce, nc = self._nonces.get(user, ("", 0)) if self._shown else ("", 0)
        call = number % USERS if self._shown else number
        if not nonce:
            answer = self._receive(self._request(number, user, call, 1, ""), CHALLENGE)
            assert answer.startswith(b"SIP/2.0 401 "), answer
            begin = answer.index(b'nonce="') + 7
            nonce = answer[begin : answer.index(b'"', begin)].decode()
        nc += 1
        self._nonces[user] = nonce, nc
        credentials = self._credentials(user, nonce, nc)
        answer = self._receive(self._request(number, user, call, 1 + nc, credentials), REGISTERED)
        assert answer.startswith(b"SIP/2.0 200 "), answer
        self.advance(GAP_S)

    def options(self) -> None:
        """One OPTIONS, then the time until the next."""
        number = next(self._serial)
        answer = self._receive(
            self._request(number, NAMES[number % USERS], number, 1, "").replace(b"REGISTER", b"OPTIONS"),
            REGISTERED,
        )
        assert answer.startswith(b"SIP/2.0 200 "), answer
        self.advance(GAP_S)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        border = self._border
        if border is None:
            return
        begin = time.thread_time_ns()
        border.advance(seconds)
        self.spent_ns += time.thread_time_ns() - begin

    def many(self, number: int, what: str) -> float:
        """CPU microseconds of each of so many of `what`."""
        self.spent_ns = 0
        one = self.options if what == "options" else self.register
        for _ in range(number):
            one()
        self.advance(40.0)
        return self.spent_ns / number / 1000


CHALLENGE = b'SIP/2.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm="x", nonce="%b"\r\n\r\n' % (
    b"A" * 54
)
REGISTERED = b"SIP/2.0 200 OK\r\n\r\n"


def bare(number: int, what: str, border: bool) -> None:
    """So many of `what` and nothing else; every user has registered once before."""
    gc.disable()
    phones = Phones(border, shown=what == "refresh")
    for _ in range(USERS):
        phones.register()
    phones.many(number, what)


def instructions(what: str, number: int = 400) -> int:
    """Machine instructions of one of `what`, by the difference of runs under cachegrind."""
    runs = [(length, border) for border in (True, False) for length in (1, 1 + number)]
    with ThreadPoolExecutor(2) as pool:
        short, long, alone_short, alone_long = pool.map(lambda run: _counted(run[0], what, run[1]), runs)
    return (long - short - alone_long + alone_short) // number


def _counted(number: int, what: str, border: bool) -> int:
    done = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable, "-c",
         f"from tests.bench.registering import bare; bare({number}, {what!r}, {border})"],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(re.findall(r"I +refs: +([0-9,]+)", done.stderr)[0].replace(",", ""))
