"""The life of the process: killed workers, SIGTERM, SIGHUP, kill -9, with real calls and real audio."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.border import Border, configuration
from tests.lab.capture import UDP
from tests.lab.lab import FOUND, OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SBC, SIDES
from tests.lab.talk import Voice, assert_no_traceback, await_calls, media_of, packets_of, place

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]

GAP_S = 1.0
"""How long the audio may be away when a relay worker is killed."""
STARTS = 8
"""Where the machine is so busy that a process of that kind needs long to start, as many of those are allowed, but never
more than `LONGEST_S`."""
LONGEST_S = 2.0


@pytest.fixture(autouse=True)
def no_traceback(lab: Lab) -> Iterator[None]:
    """Whatever a test does, the program must not fall over it."""
    yield
    assert_no_traceback(lab.border)


def configured(lab: Lab, more: str = "", **timers: object) -> str:
    return configuration(lab.namespaces, timers=timers, more="media: {workers: 2}\n" + more)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def await_death(pids: list[int], timeout_s: float = 20.0) -> float:
    """How long it takes until none of these runs."""
    begin = time.monotonic()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() - begin < timeout_s, [pid for pid in pids if alive(pid)]
        time.sleep(0.01)
    return time.monotonic() - begin


def sockets(lab: Lab) -> list[str]:
    """The sockets in the namespace of the border, other than a TCP connection's remains."""
    lines = lab.namespaces.run(SBC, "ss", "-Hntuap").splitlines()
    return [line for line in lines if "TIME-WAIT" not in line]


def flows(lab: Lab, side: str) -> dict[tuple[str, int, int], list[float]]:
    """Arrival times of RTP at the user agents of a side, by (host, port, port of ours)."""
    times: dict[tuple[str, int, int], list[float]] = {}
    for packet in packets_of(lab, side):
        if packet.protocol != UDP or packet.source[0] != SIDES[side].border or packet.source[1] == 5060:
            continue
        if packet.source[1] % 2 == 0:
            key = (packet.destination[0], packet.destination[1], packet.source[1])
            times.setdefault(key, []).append(packet.at)
    return times


def lines(cdr: Path) -> list[dict[str, Any]]:
    """The call detail records of a file."""
    return [json.loads(line) for line in cdr.read_text().splitlines()]


def start_of_a_worker_s() -> float:
    """How long a process that loads what a relay worker loads takes to start on this machine just now."""
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import media.worker"],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.monotonic() - begin


def test_killed_worker_is_replaced_at_once_on_the_same_ports(lab: Lab) -> None:
    border = lab.start(configured(lab))
    callee = lab.callee(PRIVATE, "uas_call", calls=2, audio=True)
    caller = lab.caller(PUBLIC, calls=2, audio=True, hold_ms=8000)
    calls = await_calls(border, "up", 2)
    time.sleep(0.6)
    workers = border.pids()[1:]
    assert len(workers) == 2
    killed: list[float] = []
    limit_s = GAP_S
    for worker in workers:
        limit_s = max(limit_s, min(LONGEST_S, STARTS * start_of_a_worker_s()))
        killed.append(time.time())
        os.kill(worker, signal.SIGKILL)
        time.sleep(limit_s + 0.2)
    told = [border.explain(call) for call in calls]
    assert set(border.pids()[1:]).isdisjoint(workers) and len(border.pids()) == 3
    caller.done()
    callee.done()
    lab.finish()
    lab.assert_heard()
    for side in SIDES:
        found = flows(lab, side)
        assert len(found) == 2, f"{side}: other ports than before: {sorted(found)}"
        for key, times in found.items():
            gaps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(times)]
            worst, at = max(gaps)
            struck = [f"{at - moment:+.3f} s" for moment in killed]
            print(
                f"{side} {key}: {len(times)} packets, longest gap {worst:.3f} s of {limit_s:.2f} s,"
                f" {struck} from the kills"
            )
            assert worst < limit_s, f"{side}: no audio for {worst:.2f} s, with {limit_s:.2f} s allowed"
            assert times[-1] > killed[-1] + limit_s, "the audio did not come back"
    assert border.process.text.count("relay worker restarted") == 2
    for text in told:
        assert "relay worker" in text, text


def test_sigterm_with_calls_drains_then_hangs_up(lab: Lab) -> None:
    border = lab.start(configured(lab, drain_s=1))
    callee = lab.callee(PRIVATE, "uas_call", calls=2, audio=True)
    caller = lab.caller(PUBLIC, "uac_call_released", calls=2, audio=True)
    await_calls(border, "up", 2)
    pids = border.pids()
    begin = time.monotonic()
    os.kill(border.process.pid, signal.SIGTERM)
    while "stopping" not in border.process.text:
        time.sleep(0.01)
    lab.caller(PUBLIC, "uac_refused", status=503, port=5066).done()
    refused_after = time.monotonic() - begin
    caller.done()
    callee.done()
    hung_up_after = time.monotonic() - begin
    assert border.process.wait(30) == 0
    ended_after = time.monotonic() - begin
    print(
        f"503 after {refused_after:.2f} s, BYE to both after {hung_up_after:.2f} s, end after {ended_after:.2f} s"
    )
    assert 1.0 <= hung_up_after < 20.0
    await_death(pids)
    assert sockets(lab) == []
    assert not Path(border.socket).exists()
    lab.stop_recording()
    refusal = next(text for text in lab.messages(PUBLIC) if text.startswith("SIP/2.0 503"))
    assert "\r\nRetry-After: 1\r\n" in refusal
    for side in SIDES:
        byes = [text for text in lab.messages(side) if text.startswith("BYE ")]
        assert len({text for text in byes}) == 2, byes
    rows = lines(border.cdr)
    assert sorted((row["outcome"], row["cause"]) for row in rows) == [
        ("answered", "drain"),
        ("answered", "drain"),
        ("failed", "draining"),
    ]
    assert all(row["media"][0]["a"]["packets"] for row in rows if row["outcome"] == "answered")


def test_sigterm_while_it_rings_cancels_and_refuses(lab: Lab) -> None:
    border = lab.start(configured(lab, drain_s=0.3))
    callee = lab.callee(PRIVATE, "uas_cancelled")
    caller = lab.caller(PUBLIC, "uac_refused", status=503)
    await_calls(border, "ringing")
    assert border.stop() == 0
    caller.done()
    callee.done()
    assert sockets(lab) == []
    assert [(row["outcome"], row["status"], row["cause"]) for row in lines(border.cdr)] == [
        ("failed", 503, "drain")
    ]


def test_second_sigterm_waits_for_nobody_and_the_record_is_written(lab: Lab) -> None:
    """The phones have vanished, so that the BYEs get no answer either."""
    border = lab.start(configured(lab, drain_s=30))
    call = place(lab, PUBLIC)
    for party in call.parties:
        party.process.stop(signal.SIGKILL)
    begin = time.monotonic()
    os.kill(border.process.pid, signal.SIGTERM)
    border.process.await_text("stopping")
    os.kill(border.process.pid, signal.SIGTERM)
    assert border.process.wait(25) == 0
    print(f"ended {time.monotonic() - begin:.2f} s after SIGTERM")
    assert sockets(lab) == []
    assert [(row["id"], row["cause"]) for row in lines(border.cdr)] == [(call.id, "drain")]


def test_sigterm_without_calls_ends_at_once(lab: Lab) -> None:
    border = lab.start(configured(lab, drain_s=30))
    pids = border.pids()
    begin = time.monotonic()
    assert border.stop() == 0
    print(f"ended {time.monotonic() - begin:.2f} s after SIGTERM")
    assert time.monotonic() - begin < 15.0
    await_death(pids)
    assert sockets(lab) == []
    assert not Path(border.socket).exists()


def test_sighup_swaps_the_routes_or_nothing_and_calls_live_on(lab: Lab) -> None:
    def routed(status: int, trunk: str = "carrier") -> str:
        closed = f'  - {{from: carrier, match: "^2000$", reject: {{status: {status}, reason: No}}}}\n'
        text = configured(lab).replace("routes:\n", f"routes:\n{closed}")
        return text.replace("to: carrier", f"to: {trunk}")

    border = lab.start(routed(486))

    def reload(text: str, answer: str) -> None:
        border.file.write_text(text)
        os.kill(border.process.pid, signal.SIGHUP)
        border.process.await_text(answer)

    def is_refused(status: int, port: int) -> None:
        lab.caller(PUBLIC, "uac_refused", status=status, dialled="2000", port=port).done()

    voices = {side: Voice(lab, side) for side in SIDES}
    call = place(lab, PUBLIC)
    for side, voice in voices.items():
        voice.talk(call.ours[side])
    is_refused(486, 5066)
    reload(routed(480, "carier") + "timres: {}\n", "reload refused")
    for problem in ("carier", "timres"):
        assert problem in border.process.text, "both problems are named"
    is_refused(486, 5068)
    reload(routed(603), "reloaded")
    is_refused(603, 5070)

    rotated = border.cdr.rename(border.cdr.with_suffix(".1"))
    os.kill(border.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 40
    while not border.cdr.exists():
        assert time.monotonic() < deadline, "no new CDR file"
        time.sleep(0.02)
    is_refused(603, 5072)
    since = time.monotonic()
    time.sleep(0.5)
    for side, voice in voices.items():
        assert voice.hears(OTHER[side], since) > FOUND, f"{side} hears nothing after the reloads"
        voice.close()
    border.ask("hangup", call=call.id)
    call.done()
    assert border.stop() == 0
    assert [row["status"] for row in lines(rotated)] == [486, 486, 603]
    assert [row["status"] for row in lines(border.cdr)] == [603, 200]
    assert lines(border.cdr)[1]["id"] == call.id


def test_kill_of_the_sbc_leaves_nothing_and_a_restart_works(lab: Lab) -> None:
    border = lab.start(configured(lab))
    call = place(lab, PUBLIC)
    voice = Voice(lab, PUBLIC)
    voice.talk(call.ours[PUBLIC])
    time.sleep(0.3)
    assert media_of(border, call.id)[0]["a"]["packets"] > 5
    workers = border.pids()[1:]
    os.kill(border.process.pid, signal.SIGKILL)
    border.process.wait(30)
    after = await_death(workers)
    print(f"workers ended {after:.3f} s after the kill of their parent")
    assert sockets(lab) == []
    voice.close()
    for party in call.parties:
        party.process.stop(signal.SIGKILL)

    again = Border(lab.namespaces, configured(lab))
    second = place(lab, PUBLIC, number=2)
    again.ask("hangup", call=second.id)
    second.done()
    assert again.leftovers() == {}
    assert again.stop() == 0
    assert not Path(again.socket).exists()
