"""The control socket: one line asks, one line answers, and every failure is a sentence."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sbc import control
from sbc.control import Arguments, ControlError, ControlServer, ControlSocket, Verb, ask


async def echo(arguments: Arguments) -> object:
    return dict(arguments)


async def refuse(arguments: Arguments) -> object:
    raise ControlError(f"no call {arguments['call']}")


async def break_down(arguments: Arguments) -> object:
    raise KeyError("a bug")


VERBS: dict[str, Verb] = {"echo": echo, "refuse": refuse, "break": break_down}


@contextlib.asynccontextmanager
async def serving(path: Path, verbs: dict[str, Verb] | None = None) -> AsyncIterator[ControlServer]:
    server = ControlServer(str(path), VERBS if verbs is None else verbs)
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        server.close()


def test_a_request_is_answered(tmp_path: Path) -> None:
    async def run() -> object:
        async with serving(tmp_path / "s"):
            return await asyncio.to_thread(ask, str(tmp_path / "s"), "echo", {"call": "c-1", "width": 80})

    assert asyncio.run(run()) == {"call": "c-1", "width": 80}


def test_a_large_answer_arrives_whole(tmp_path: Path) -> None:
    async def large(arguments: Arguments) -> object:
        return ["x" * 1000] * 3000

    async def run() -> object:
        async with serving(tmp_path / "s", {"large": large}):
            return await asyncio.to_thread(ask, str(tmp_path / "s"), "large")

    answer = asyncio.run(run())
    assert isinstance(answer, list)
    assert len(answer) == 3000


@pytest.mark.parametrize(
    ("verb", "arguments", "text"),
    [
        ("refuse", {"call": "c-7"}, "no call c-7"),
        ("nonsense", {}, "unknown verb 'nonsense'; known: break, echo, refuse"),
        ("break", {}, "internal error: KeyError; the log has the details"),
    ],
)
def test_a_refusal_is_a_sentence(tmp_path: Path, verb: str, arguments: dict[str, str], text: str) -> None:
    async def run() -> None:
        async with serving(tmp_path / "s"):
            await asyncio.to_thread(ask, str(tmp_path / "s"), verb, arguments)

    with pytest.raises(ControlError, match=text.replace("?", r"\?")):
        asyncio.run(run())


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"verb": 3}\n',
        b"[" * 60_000 + b"\n",
        b"x" * 70_000 + b"\n",
        b"\xff\n",
        b"\n",
    ],
)
def test_nonsense_is_refused_and_the_server_lives_on(tmp_path: Path, line: bytes) -> None:
    def speak(data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(tmp_path / "s"))
            wire.sendall(data)
            try:
                return wire.recv(65536)
            except ConnectionResetError:
                return b""

    async def run() -> tuple[bytes, object]:
        async with serving(tmp_path / "s"):
            refused = await asyncio.to_thread(speak, line)
            return refused, await asyncio.to_thread(ask, str(tmp_path / "s"), "echo")

    refused, after = asyncio.run(run())
    assert refused.startswith(b'{"ok":false')
    assert after == {}


def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    async def run() -> int:
        async with serving(tmp_path / "s"):
            return stat.S_IMODE(os.stat(tmp_path / "s").st_mode)

    assert asyncio.run(run()) == 0o600


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path / "s"):
            pass

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"no SBC is running on .*/s; start it with sbc run FILE"):
        ask(str(tmp_path / "s"), "calls")


def test_a_stale_socket_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    with pytest.raises(ControlError, match="no SBC is running"):
        ask(path, "calls")
    server = ControlServer(path, VERBS)
    server.close()


def test_a_running_sbc_is_not_pushed_aside(tmp_path: Path) -> None:
    server = ControlServer(str(tmp_path / "s"), VERBS)
    with pytest.raises(ControlError, match="another SBC is running there"):
        ControlServer(str(tmp_path / "s"), VERBS)
    assert (tmp_path / "s").exists()
    server.close()


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ControlError, match="not a socket"):
        ControlServer(str(tmp_path / "s"), VERBS)
    assert (tmp_path / "s").read_text() == "precious"


def test_a_missing_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="No such file or directory"):
        ControlServer(str(tmp_path / "no" / "s"), VERBS)


def test_a_server_that_says_nothing_times_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen(1)
        with pytest.raises(ControlError, match="has not answered within"):
            ask(str(tmp_path / "s"), "calls", timeout_s=0.05)


def test_a_client_that_says_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_DEADLINE_S", 0.05)

    def linger() -> bytes:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(tmp_path / "s"))
            return wire.recv(100)

    async def run() -> bytes:
        async with serving(tmp_path / "s"):
            return await asyncio.to_thread(linger)

    assert asyncio.run(run()) == b""


def test_a_socket_of_another_user_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root may connect to anything, so the refusal of the kernel is played.
    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(ControlError, match="belongs to another user; run this as the user of the SBC"):
        ask(str(tmp_path / "control.sock"), "calls")


def test_it_moves_and_who_asked_for_that_gets_the_answer(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"

    async def run() -> None:
        async def move(arguments: Arguments) -> object:
            server.move(ControlSocket(str(new)))
            await asyncio.sleep(0.05)
            return "moved"

        async with serving(old, {**VERBS, "move": move}) as server:
            assert await asyncio.to_thread(ask, str(old), "move") == "moved"
            assert not old.exists()
            assert await asyncio.to_thread(ask, str(new), "echo", {"call": "c-1"}) == {"call": "c-1"}
            assert server.path == str(new)
            with pytest.raises(ControlError, match="no SBC is running"):
                await asyncio.to_thread(ask, str(old), "echo")
            # It moves back, and on before it has got there.
            server.move(ControlSocket(str(old)))
            server.move(ControlSocket(str(tmp_path / "third")))
            await asyncio.sleep(0.05)
            assert not new.exists() and not old.exists()
            assert await asyncio.to_thread(ask, str(tmp_path / "third"), "echo") == {}

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_was_never_moved_to_leaves_no_file(tmp_path: Path) -> None:
    ControlSocket(str(tmp_path / "s")).close()
    assert list(tmp_path.iterdir()) == []
