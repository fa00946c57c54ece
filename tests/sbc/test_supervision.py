"""sd_notify, spoken to a real datagram socket in a temporary directory."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from sbc.supervision import Supervisor


def test_the_manager_hears_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert Supervisor({"NOTIFY_SOCKET": str(tmp_path / "notify")}).tell("READY=1", "STATUS=0 calls")
        assert manager.recv(100) == b"READY=1\nSTATUS=0 calls"


def test_an_abstract_address_is_understood() -> None:
    name = f"sbc-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        assert Supervisor({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_nobody_listens_and_nothing_breaks(tmp_path: Path) -> None:
    assert not Supervisor({}).tell("READY=1")
    assert not Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "nonsense"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_interval_of_the_watchdog(environment: dict[str, str], seconds: float) -> None:
    assert Supervisor(environment).watchdog_s == seconds


def test_the_watchdog_is_fed_while_the_loop_turns(tmp_path: Path) -> None:
    async def run(supervisor: Supervisor) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await supervisor.keep_alive(lambda: "3 calls")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        asyncio.run(run(Supervisor(environment)))
        assert manager.recv(100) == b"WATCHDOG=1\nSTATUS=3 calls"
        assert manager.recv(100) == b"WATCHDOG=1\nSTATUS=3 calls"
