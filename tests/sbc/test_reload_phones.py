"""The real program: phones that are registered while a reload moves their store, their listener and themselves."""

import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from signaling.message import Request, Response
from tests.sbc import test_phones_process
from tests.sbc.test_phones_process import DOMAIN, Phones, Program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setattr(test_phones_process, "READY_S", 90.0)  # a busy machine
    one = Program(tmp_path)
    one.start()
    yield one
    if one.process is not None:
        one.kill(signal.SIGKILL)


def reload(program: Program, *changes: tuple[str, str]) -> str:
    text = program.file.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    program.file.write_text(text)
    return ask(program, "reload")


def ask(program: Program, verb: str) -> str:
    done = subprocess.run(
        program.command(verb, "--socket", str(program.socket)),
        env=program.environment, cwd=program.directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def registered(program: Program, users: int) -> Phones:
    phones = Phones(program.port)
    phones.socket.settimeout(60.0)
    for number in range(users):
        phones.register(f"u{number}", 1)
    while len(phones.told) < users:
        phones.serve()
    return phones


def stored(file: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return {user for (user,) in database.execute("SELECT user FROM bindings")}


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(phones: Phones, user: str, caller: str) -> Request:
    """`caller` calls `user`; the INVITE that comes to the phone."""
    phones.socket.send(
        (
            f"INVITE sip:{user}@{DOMAIN} SIP/2.0\r\nMax-Forwards: 70\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{phones.here};branch=z9hG4bK{user}{caller}{time.monotonic_ns()};rport\r\n"
            f"From: <sip:{caller}@{DOMAIN}>;tag=x\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: {time.monotonic_ns()}\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:{user}@127.0.0.1:{phones.here}>\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    )
    while not isinstance(found := phones.read(), Request):
        pass
    assert found.method == "INVITE"
    return found


def test_another_store_has_everybody_at_once_and_after_the_next_start(program: Program) -> None:
    phones = registered(program, 20)
    other = program.directory / "other.db"
    assert "phones.store" in reload(program, (f"store: {program.store}", f"store: {other}"))
    deadline = time.monotonic() + 20
    while not other.exists() or len(stored(other)) < 20:
        assert time.monotonic() < deadline, stored(other)
        time.sleep(0.05)
    more = Phones(program.port)
    more.register("u30", 1)
    while "u30" not in more.told:
        more.serve()
    assert "u30" in stored(other) and "u30" not in stored(program.store)
    program.kill(signal.SIGKILL)
    program.start()
    assert {str(row["user"]) for row in program.registrations()} == {*phones.told, "u30"}
    assert call(phones, "u1", "u2").uri == f"sip:u1@127.0.0.1:{phones.here}"
    # Both had one secret, so that contacts which are made of it are the same.
    secrets = set()
    for file in (program.store, other):
        with closing(sqlite3.connect(file)) as database:
            secrets.add(database.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()[0])
    assert len(secrets) == 1


def test_a_store_that_cannot_be_used_is_named_and_nothing_changes(program: Program) -> None:
    registered(program, 3)
    bad = program.directory / "bad.db"
    bad.write_bytes(b"no database at all, but long enough to be taken for one" * 40)
    answer = reload(
        program, (f"store: {program.store}", f"store: {bad}"), (f"udp:{program.port}", f"udp:{free_port()}")
    )
    assert "nothing was changed:" in answer
    assert f"{program.file}:5:" in answer and "phones.store: " in answer and "is damaged" in answer
    phones = Phones(program.port)
    phones.register("u9", 1)
    while "u9" not in phones.told:
        phones.serve()
    assert "u9" in stored(program.store)


def test_a_flow_outlives_its_listener_and_the_phone_moves_to_the_new_one(program: Program) -> None:
    phones = registered(program, 3)
    old, new = program.port, free_port()
    reload(program, (f"udp:{old}", f"udp:{new}"))
    phones.register("u0", 7)
    response = phones.read()
    assert isinstance(response, Response) and response.status == 503
    program.port = new
    caller = Phones(new)
    caller.register("u5", 1)
    while "u5" not in caller.told:
        caller.serve()
    caller.socket.send(
        (
            f"INVITE sip:u1@{DOMAIN} SIP/2.0\r\nMax-Forwards: 70\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{caller.here};branch=z9hG4bKc1;rport\r\n"
            f"From: <sip:u5@{DOMAIN}>;tag=x\r\nTo: <sip:u1@{DOMAIN}>\r\nCall-ID: c1\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:u5@127.0.0.1:{caller.here}>\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    )
    while not isinstance(found := phones.read(), Request):
        pass
    assert found.method == "INVITE", (
        "the registered flow is that of the old listener, which the phone is connected to"
    )
    assert f":{old}" in str(found.contacts[0].uri_text)
    rows = {str(row["user"]): row["state"] for row in program.registrations()}
    assert rows == dict.fromkeys(("u0", "u1", "u2", "u5"), "up")


def test_phones_come_and_go_with_their_section(program: Program) -> None:
    registered(program, 5)
    with_phones = program.file.read_text()
    lines = [line for line in with_phones.splitlines() if "phones:" not in line and "phones," not in line]
    lines.insert(lines.index("routes:") + 1, "  - {from: public, reject: {status: 480}}")
    program.file.write_text("\n".join(lines))
    assert "phones: removed" in ask(program, "reload")
    assert program.registrations() == []
    phones = Phones(program.port)
    phones.register("u1", 1)
    response = phones.read()
    assert isinstance(response, Response) and response.status == 405
    program.file.write_text(with_phones)
    assert "phones: added" in ask(program, "reload")
    assert len(program.registrations()) == 5, "the store has them still"
    assert "Traceback" not in program.log
