"""Servers of a trunk that are dead in every way: a caller notices a delay at most, and pings tell before that."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.lab import sipp
from tests.lab.border import COMMAND, ROOT, Border, configuration, server
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC
from tests.lab.talk import assert_no_traceback, inside, rows, udp

pytestmark = pytest.mark.lab

TRYING_S = 0.8
PINGS = ", check: {options_every_s: 0.5, timeout_s: 0.4, down_after: 2, up_after: 1}"


@pytest.fixture(autouse=True)
def no_traceback(lab: Lab) -> Iterator[None]:
    """Whatever servers do not do, the program must not fall over it."""
    yield
    assert_no_traceback(lab.border)


def test_one_call_finds_its_way_past_four_dead_servers(lab: Lab) -> None:
    servers = [
        server(PRIVATE, port=5070),  # somebody is there and says nothing
        server(PRIVATE, port=5071),  # nobody listens: ICMP, which quotes what only who saw it can know
        server(PRIVATE, port=5072, transport="tcp"),  # nobody listens: connection refused
        server(PRIVATE, port=5073),  # answers 503
        server(PRIVATE, number=1),
    ]
    border = lab.start(
        configuration(lab.namespaces, to_private=servers, timers={"trying_timeout_s": TRYING_S})
    )
    host = lab.host(PRIVATE)
    silent = inside(lab.namespaces, PRIVATE, lambda: udp(host, 5070))
    refusing = sipp.callee(
        lab.namespaces, PRIVATE, "uas_refuse", port=5073, name="busy",
        words=sipp.Words(agent="busy", status=503),
    )  # fmt: skip
    answering = lab.callee(PRIVATE, "uas_call", number=1)
    lab.caller(PUBLIC).done()
    answering.done()
    refusing.done()
    silent.close()
    row = await_cdr(border, 1)
    tried = [(target["address"].rpartition(":")[2], target["rule"]) for target in row["targets"]]
    print(tried, [target["duration_s"] for target in row["targets"]], f"answered after {row['setup_s']} s")
    assert tried == [
        ("5070", "server-timeout"),
        ("5071", "server-unreachable"),
        ("5072", "server-unreachable"),
        ("5073", "peer-rejected"),
        ("5060", "answered"),
    ]
    # One server was waited for, the others cost nothing but a round trip.
    assert TRYING_S <= row["setup_s"] < TRYING_S + 6.0
    assert row["targets"][1]["duration_s"] < TRYING_S / 2
    assert row["outcome"] == "answered"
    lab.finish(refused=1)


def await_cdr(border: Border, number: int) -> dict[str, Any]:
    """The `number`-th call detail record. It is written when the relay has told its last figures."""
    deadline = time.monotonic() + 40
    while len(lines := border.cdr.read_text().splitlines()) < number:
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
    return cast("dict[str, Any]", json.loads(lines[number - 1]))


def states(border: Border) -> list[str]:
    """The states of the servers of the trunk `pbx`, in the order of the configuration."""
    return [row["state"] for row in rows(border, "trunks", "servers") if row["trunk"] == "pbx"]


def await_states(border: Border, *wanted: str) -> float:
    """How long it takes until the servers of `pbx` are in these states."""
    begin = time.monotonic()
    while states(border) != list(wanted):
        assert time.monotonic() - begin < 40, (states(border), border.process.text[-1500:])
        time.sleep(0.03)
    return time.monotonic() - begin


def test_pings_mark_servers_down_and_up_and_calls_lose_no_time(lab: Lab) -> None:
    servers = [server(PRIVATE), server(PRIVATE, number=1)]
    border = lab.start(configuration(lab.namespaces, to_private=servers, trunk=PINGS))

    def start(number: int, name: str) -> sipp.Sipp:
        return sipp.callee(
            lab.namespaces, PRIVATE, "uas_server", calls=0, local=lab.host(PRIVATE, number=number), name=name,
        )  # fmt: skip

    first, second = start(0, "first"), start(1, "second")
    await_states(border, "up", "up")
    time.sleep(1.2)
    assert states(border) == ["up", "up"]

    first.process.stop(signal.SIGKILL)
    down_s = await_states(border, "down", "up")
    lab.caller(PUBLIC).done()
    row = await_cdr(border, 1)
    assert [target["address"] for target in row["targets"]] == [f"{lab.host(PRIVATE, number=1)}:5060"]
    assert row["setup_s"] < 4.0, "a server that is down is not even tried"

    second.process.stop(signal.SIGKILL)
    await_states(border, "down", "down")
    begin = time.monotonic()
    lab.caller(PUBLIC, "uac_refused", status=503, port=5064).done()
    row = await_cdr(border, 2)
    assert (row["status"], row["rule"], row["targets"]) == (503, "servers-down", [])
    assert row["setup_s"] < 0.4, "nobody is waited for"
    refused_s = time.monotonic() - begin

    third = start(0, "third")
    up_s = await_states(border, "up", "down")
    lab.caller(PUBLIC, port=5066).done()
    row = await_cdr(border, 3)
    assert [target["address"] for target in row["targets"]] == [f"{lab.host(PRIVATE)}:5060"]
    shown = trunks(border)
    assert "answered 200 to OPTIONS" in shown and "cannot be reached" in shown.splitlines()[-1], shown
    third.process.stop(signal.SIGKILL)
    print(
        f"down after {down_s:.2f} s, 503 after {refused_s:.2f} s (SIPp's start included), up after {up_s:.2f} s"
    )
    for word in ("server is down", "server is up"):
        assert word in border.process.text
    lab.stop_recording()
    refusal = next(text for text in lab.messages(PUBLIC) if text.startswith("SIP/2.0 503"))
    assert "\r\nRetry-After: " in refusal


def trunks(border: Border) -> str:
    """`sbc trunks` as an operator sees it."""
    command = [*COMMAND, "trunks", "--socket", border.socket]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
