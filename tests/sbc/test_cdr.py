"""Call detail records: the schema, bounded lines, whole lines in the file, and disks that fail."""

import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from media.relay import Counters, StreamCounters
from sbc import cdr
from sbc.anchor import MediaLine, MediaReport
from sbc.cdr import MAX_LINE, CdrFile, CdrWriter, cdr_line
from sbc.record import CallRecord
from sbc.routing import Target
from signaling.flow import Flow

A = Flow("public", "udp", ("203.0.113.10", 5060), ("203.0.113.77", 5070))
B = Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.20", 5060))
TARGET = Target("pbx", "private", "udp", ("10.0.0.20", 5060), "10.0.0.20", "200")


def read_cdrs(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a file; half lines (power lost, disk full) are passed over."""
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def record(name: str = "c-1", ended: bool = True) -> CallRecord:
    one = CallRecord(name, 1700000000.12345)
    one.caller, one.called = "100", "200"
    one.add_leg("a", A, None, "in@x")
    one.add_leg("b1", B, "pbx", "out@y")
    one.try_target("b1", TARGET, 1700000000.2)
    one.rang(1700000001.0)
    one.answered(1700000005.0, "b1")
    line = MediaLine(4, "audio", "PCMU", "h:1", "h:2", "h:3", "h:4", "sendrecv", "sendrecv")
    counters = StreamCounters(
        4, name, Counters(packets=50, jitter_ms=1.23456, mos=4.4), Counters(packets=7, in_kernel=5)
    )
    one.media = MediaReport((line,), (counters,))
    if ended:
        one.end(1700000065.5, "b", "bye", "", 200, "bye")
    return one


def failed() -> CallRecord:
    one = CallRecord("c-2", 1000.0)
    one.add_leg("a", A, "carrier", "in@x")
    one.end(1000.25, "sbc", "no-route", "No Route For This Number", 404, "no-route")
    return one


# -- the row


def test_row_of_an_answered_call() -> None:
    assert json.loads(cdr_line(record())) == {
        "v": 1,
        "id": "c-1",
        "outcome": "answered",
        "started": 1700000000.123,
        "ringing": 1700000001.0,
        "answered": 1700000005.0,
        "ended": 1700000065.5,
        "duration_s": 60.5,
        "setup_s": 4.877,
        "caller": "100",
        "called": "200",
        "status": 200,
        "rule": "bye",
        "ended_by": "b",
        "cause": "bye",
        "text": "",
        "a": {
            "network": "public", "trunk": None, "transport": "udp", "remote": "203.0.113.77:5070", "call_id": "in@x",
        },
        "b": {
            "network": "private", "trunk": "pbx", "transport": "udp", "remote": "10.0.0.20:5060", "call_id": "out@y",
        },
        "targets": [
            {
                "trunk": "pbx", "address": "10.0.0.20:5060", "transport": "udp", "user": "200", "status": 200,
                "rule": "answered", "duration_s": 4.8,
            }
        ],
        "media": [
            {
                "media": "audio",
                "codec": "PCMU",
                "a": {
                    "packets": 50, "bytes": 0, "forwarded": 0, "lost": 0, "jitter_ms": 1.23, "max_jitter_ms": 0.0,
                    "rtt_ms": None, "mos": 4.4, "strangers": 0, "in_kernel": 0,
                },
                "b": {
                    "packets": 7, "bytes": 0, "forwarded": 0, "lost": 0, "jitter_ms": 0.0, "max_jitter_ms": 0.0,
                    "rtt_ms": None, "mos": None, "strangers": 0, "in_kernel": 5,
                },
            }
        ],
        "leaks": 0,
    }  # fmt: skip


def test_row_of_a_refused_call() -> None:
    row = json.loads(cdr_line(failed()))
    assert (row["outcome"], row["status"], row["rule"], row["ended_by"]) == ("failed", 404, "no-route", "sbc")
    assert (row["answered"], row["duration_s"], row["setup_s"]) == (None, 0.0, 0.25)
    assert (row["b"], row["targets"], row["media"]) == (None, [], [])


def test_side_that_never_had_a_leg_is_known_by_its_target() -> None:
    one = failed()
    one.try_target("b1", TARGET, 1000.1)
    assert json.loads(cdr_line(one))["b"]["remote"] == "10.0.0.20:5060"


def test_every_key_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", cdr.__doc__ or ""))
    row = json.loads(cdr_line(record()))
    nested = [row, row["a"], row["targets"][0], row["media"][0], row["media"][0]["a"]]
    assert {key for part in nested for key in part} <= documented


def test_line_is_one_line_of_valid_utf8() -> None:
    one = record()
    one.caller, one.called = "a\nb\udcff", "\u2028Müller"
    line = cdr_line(one)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    row = json.loads(line.decode("utf-8"))
    assert (row["caller"], row["called"]) == ("a?b?", "?Müller")


def test_line_is_bounded_whatever_the_call() -> None:
    one = CallRecord("c-1", 0.0)
    one.caller = one.called = "ü" * 100_000
    one.add_leg("a", A, "t" * 63, "ü" * 100_000)
    for number in range(100):
        one.add_leg(f"b{number}", B, "t" * 63, "ü" * 100_000)
        one.try_target(f"b{number}", Target("t" * 63, "n" * 63, "udp", ("h" * 40, 1), "h", "ü" * 9999), 0.0)
        one.tried(f"b{number}", 503, "ü" * 9999, "ü" * 9999, 1.0)
    one.end(2.0, "b", "ü" * 9999, "ü" * 9999, 503, "ü" * 9999)
    lines = tuple(MediaLine(n, "ü" * 9999, "ü" * 9999, "", "", "", "", "", "") for n in range(100))
    one.media = MediaReport(lines, tuple(StreamCounters(n, "c", Counters(), Counters()) for n in range(100)))
    line = cdr_line(one)
    assert len(line) <= MAX_LINE
    assert json.loads(line)["cut"] is True
    assert "cut" not in json.loads(cdr_line(record()))


# -- the file


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "cdr.jsonl"
    for name in ("c-1", "c-2"):
        file = CdrFile(str(path))
        file.append(cdr_line(record(name)))
        file.close()
        file.close()
    assert [row["id"] for row in read_cdrs(str(path))] == ["c-1", "c-2"]
    assert path.stat().st_mode & 0o007 == 0, "who called whom is nobody else's business"


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    one, two = CdrFile(str(tmp_path / "cdr")), CdrFile(str(tmp_path / "cdr"))
    for number in range(10):
        (one, two)[number % 2].append(cdr_line(record(f"c-{number}")))
    assert [row["id"] for row in read_cdrs(str(tmp_path / "cdr"))] == [f"c-{number}" for number in range(10)]


def test_half_a_line_of_an_earlier_crash_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "cdr"
    path.write_bytes(cdr_line(record("c-1")) + b'{"v":1,"id":"c-2","sta')
    CdrFile(str(path)).append(cdr_line(record("c-3")))
    assert [row["id"] for row in read_cdrs(str(path))] == ["c-1", "c-3"]


def test_partly_written_line_is_an_error_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cdr"
    file = CdrFile(str(path))
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
        with pytest.raises(OSError, match="part of the line"):
            file.append(cdr_line(record("c-1")))
    file.append(cdr_line(record("c-1")))
    assert [row["id"] for row in read_cdrs(str(path))] == ["c-1"]


def test_reopen_follows_logrotate(tmp_path: Path) -> None:
    path = tmp_path / "cdr"
    file = CdrFile(str(path))
    file.append(cdr_line(record("c-1")))
    path.rename(tmp_path / "cdr.1")
    file.append(cdr_line(record("c-2")))
    file.reopen()
    file.append(cdr_line(record("c-3")))
    assert [row["id"] for row in read_cdrs(str(tmp_path / "cdr.1"))] == ["c-1", "c-2"]
    assert [row["id"] for row in read_cdrs(str(path))] == ["c-3"]


def test_device_without_storage_is_fine() -> None:
    file = CdrFile("/dev/null")
    file.append(b"{}\n")
    file.close()


# -- the writer


class Disk(CdrFile):
    """A file on a disk that fails when told to."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()

    def append(self, line: bytes) -> None:
        self.gate.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(line)


def writer(tmp_path: Path, failures: int = 0, limit: int = 100) -> tuple[CdrWriter, Disk]:
    disk = Disk(str(tmp_path / "cdr"))
    disk.failures = failures
    return CdrWriter(disk.path, limit=limit, retry_s=0.0, opened=lambda path: disk), disk


def test_everything_is_written_at_close(tmp_path: Path) -> None:
    out = CdrWriter(str(tmp_path / "cdr"))
    for number in range(500):
        out.write(record(f"c-{number}"))
    assert out.close()
    assert [row["id"] for row in read_cdrs(str(tmp_path / "cdr"))] == [f"c-{number}" for number in range(500)]
    assert (out.written, out.dropped, out.errors) == (500, 0, 0)


def test_close_twice_and_write_afterwards_raise_nothing(tmp_path: Path) -> None:
    out = CdrWriter(str(tmp_path / "cdr"))
    assert out.close()
    out.write(record())
    out.reopen()
    out.close()
    assert (out.written, out.dropped) == (0, 1)


def test_full_disk_is_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    out, disk = writer(tmp_path, failures=3)
    disk.gate.clear()
    for number in range(5):
        out.write(record(f"c-{number}"))
    disk.gate.set()
    while out.written < 5:
        os.sched_yield()
    assert out.close()
    assert [row["id"] for row in read_cdrs(disk.path)] == [f"c-{number}" for number in range(5)]
    assert (out.written, out.errors) == (5, 3)


def test_disk_that_stays_full_is_said_at_close(tmp_path: Path) -> None:
    out, _ = writer(tmp_path, failures=10**9)
    for number in range(3):
        out.write(record(f"c-{number}"))
    assert not out.close()
    assert out.written == 0


def test_slow_disk_costs_records_but_never_a_call(tmp_path: Path) -> None:
    out, disk = writer(tmp_path, limit=10)
    disk.gate.clear()
    for number in range(50):
        out.write(record(f"c-{number}"))
    assert out.dropped >= 39
    assert not out.close(deadline_s=0.0)
    disk.gate.set()
    out.close()
    assert out.written + out.dropped == 50


def test_hanging_disk_does_not_hold_up_the_end(tmp_path: Path) -> None:
    out, disk = writer(tmp_path)
    disk.gate.clear()
    out.write(record())
    assert not out.close(deadline_s=0.01)
    disk.gate.set()


def test_reopen_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "cdr"
    out = CdrWriter(str(path))
    out.write(record("c-1"))
    while out.written < 1:
        os.sched_yield()
    path.rename(tmp_path / "cdr.1")
    out.reopen()
    out.write(record("c-2"))
    assert out.close()
    assert [row["id"] for row in read_cdrs(str(path))] == ["c-2"]


def test_file_that_cannot_be_opened_is_said_at_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        CdrWriter(str(tmp_path / "missing" / "cdr"))
