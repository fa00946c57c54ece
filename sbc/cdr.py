"""Call detail records: one JSON object a line for every call, at its end.

The schema is stable: keys are added, never renamed or removed. Times are seconds since the epoch with
milliseconds, lengths are seconds; null is what did not happen or is not known.

| key | is |
| --- | --- |
| `v` | version of the schema, 1 |
| `id` | id of the call, as in the log and in `sbc explain` |
| `outcome` | `answered` or `failed` |
| `started`, `ringing`, `answered`, `ended` | when the INVITE came, it first rang, was answered, was over |
| `duration_s` | from answer to end; 0 for a failed call |
| `setup_s` | from INVITE to answer, or to the end of a failed call |
| `caller`, `called` | user parts as they came |
| `status`, `rule` | final SIP status of the INVITE, and the id of the reason |
| `ended_by`, `cause`, `text` | `a`, `b` or `sbc`; id of the cause; words |
| `a`, `b` | both sides: `network`, `trunk`, `transport`, `remote` (host:port), `call_id`; `b` is the leg that |
|  | answered, else the last one tried; null for none |
| `targets` | servers in the order tried: `trunk`, `address`, `transport`, `user`, `status`, `rule`, `duration_s` |
| `media` | streams: `media`, `codec`, and `a`, `b`: what came from that side: `packets`, `bytes`, `forwarded`, |
|  | `lost`, `jitter_ms`, `max_jitter_ms`, `rtt_ms`, `mos`, `strangers`, `in_kernel` (of those forwarded, how many |
|  | the kernel forwarded by itself); null without counters |
| `leaks` | findings of the topology guard |
| `cut` | true when lists were shortened to keep the line under `MAX_LINE` bytes; absent otherwise |

A line is written with one write(2) to a file opened with O_APPEND, so that it survives the end of the process as
soon as it is written, and several processes may share a file. A disk that is full or slow never holds up a call:
a thread writes, from a bounded queue, tries again while it fails, and counts what it had to drop.
"""

import contextlib
import errno
import json
import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from media.relay import Counters
from sbc.anchor import MediaReport
from sbc.log import get_log
from sbc.record import CallRecord, LegRecord, TriedTarget, printable

VERSION = 1
MAX_LINE = 16 * 1024
"""Longest line in bytes."""
MAX_STREAMS = 8
MAX_TARGETS = 16
QUEUE_LIMIT = 10_000
"""Lines that wait for the disk: 50 s of 200 calls a second, some 15 MB."""
RETRY_S = 1.0
CLOSE_S = 5.0
"""How long `close` waits for the disk."""
FILE_MODE = 0o640

# Made once: json.dumps with settings of its own makes an encoder each time.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_COUNTED = (
    "packets", "bytes", "forwarded", "lost", "jitter_ms", "max_jitter_ms", "rtt_ms", "mos", "strangers",
    "in_kernel",
)  # fmt: skip


def cdr_line(record: CallRecord) -> bytes:
    """The line of one call, with its line break, of at most `MAX_LINE` bytes."""
    row = cdr(record)
    line = _encode(row)
    if len(line) <= MAX_LINE:
        return line
    row["cut"] = True
    for key, kept in (("targets", 4), ("media", 2), ("targets", 0), ("media", 0)):
        row[key] = row[key][:kept]
        line = _encode(row)
        if len(line) <= MAX_LINE:
            return line
    raise AssertionError("texts of a record are bounded, so that what is left fits")


def cdr(record: CallRecord) -> dict[str, Any]:
    """The row of one call by the schema above."""
    ended = record.ended_at if record.ended_at is not None else record.started
    answered = record.answered_at
    target = record.target
    b_leg = record.leg(target.leg) if target is not None else None
    return {
        "v": VERSION,
        "id": record.id,
        "outcome": "failed" if answered is None else "answered",
        "started": _time(record.started),
        "ringing": _time(record.ringing_at),
        "answered": _time(answered),
        "ended": _time(ended),
        "duration_s": 0.0 if answered is None else _length(answered, ended),
        "setup_s": _length(record.started, ended if answered is None else answered),
        "caller": printable(record.caller),
        "called": printable(record.called),
        "status": record.final_status,
        "rule": printable(record.final_rule),
        "ended_by": record.end_by,
        "cause": printable(record.end_cause),
        "text": record.end_text,
        "a": _leg(record.leg("a")),
        "b": _leg(b_leg) if b_leg is not None else _from_target(target),
        "targets": [_target(tried) for tried in record.targets[:MAX_TARGETS]],
        "media": [] if record.media is None else _media(record.media),
        "leaks": record.leaks,
    }


def _encode(row: dict[str, Any]) -> bytes:
    return _to_json(row).encode("utf-8", "replace") + b"\n"


def _time(at: float | None) -> float | None:
    return None if at is None else round(at, 3)


def _length(begin: float, end: float) -> float:
    # The wall clock may be set back during a call.
    return round(max(0.0, end - begin), 3)


def _leg(leg: LegRecord | None) -> dict[str, Any] | None:
    if leg is None:
        return None
    return {
        "network": leg.network,
        "trunk": leg.trunk,
        "transport": leg.transport,
        "remote": leg.remote,
        "call_id": leg.call_id,
    }


def _from_target(target: TriedTarget | None) -> dict[str, Any] | None:
    """A side that was chosen, and refused before it had a leg (no port, no listener)."""
    if target is None:
        return None
    return {
        "network": target.network,
        "trunk": target.trunk,
        "transport": target.transport,
        "remote": target.address,
        "call_id": "",
    }


def _target(tried: TriedTarget) -> dict[str, Any]:
    return {
        "trunk": tried.trunk,
        "address": tried.address,
        "transport": tried.transport,
        "user": tried.user,
        "status": tried.status,
        "rule": printable(tried.rule),
        "duration_s": None if tried.ended is None else _length(tried.started, tried.ended),
    }


def _media(report: MediaReport) -> list[dict[str, Any]]:
    counters = {one.id: one for one in report.counters}
    rows = []
    for line in report.lines[:MAX_STREAMS]:
        counted = counters.get(line.stream)
        rows.append(
            {
                "media": printable(line.media, 32),
                "codec": printable(line.codec, 64),
                "a": None if counted is None else _counters(counted.a),
                "b": None if counted is None else _counters(counted.b),
            }
        )
    return rows


def _counters(counters: Counters) -> dict[str, Any]:
    return {key: _rounded(getattr(counters, key)) for key in _COUNTED}


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value


class CdrFile:
    """The file: whole lines or none. Raises OSError; `append` after an error goes on where the file stands."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._torn = False
        self._descriptor = self._open()

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        # A machine that lost its power may have left half a line; ours must not become its other half.
        self._torn = not _ends_whole(self.path)
        return descriptor

    def append(self, line: bytes) -> None:
        """Write one line."""
        if self._descriptor < 0:
            self._descriptor = self._open()
        data = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, data)
        self._torn = written < len(data)
        if self._torn:
            # A disk that is nearly full takes a part. The line is tried again as a whole, on a line of its own.
            raise OSError(errno.ENOSPC, "only a part of the line could be written", self.path)

    def reopen(self) -> None:
        """Close the file, and open what has its name now (logrotate)."""
        self.close()
        self._descriptor = self._open()

    def close(self) -> None:
        """Hand everything to the disk and close. Closing twice does no harm."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            try:
                os.fsync(descriptor)
            except OSError as error:
                # A pipe or /dev/null has nothing to sync.
                if error.errno != errno.EINVAL:
                    raise
            finally:
                os.close(descriptor)


def _ends_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except OSError:
        # Not a regular file (a pipe, /dev/null), or one that we may write and not read.
        return True


class CdrWriter:
    """Appends the lines of calls to a file, in a thread of its own.

    Raises OSError when the file cannot be opened at all: that is for the operator, at start. From then on nothing
    is raised: `written`, `dropped` and `errors` count, and the log has one line when the disk fails and one when
    it works again. `opened` makes the file (for tests).
    """

    def __init__(
        self,
        path: str,
        *,
        limit: int = QUEUE_LIMIT,
        retry_s: float = RETRY_S,
        opened: Callable[[str], CdrFile] = CdrFile,
    ) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        self.errors = 0
        self._lost = 0
        self._log = get_log("cdr")
        self._retry_s = retry_s
        self._file = opened(path)
        self._queue: queue.Queue[bytes] = queue.Queue(limit)
        self._closing = threading.Event()
        self._reopening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cdr", daemon=True)
        self._thread.start()

    def write(self, record: CallRecord) -> None:
        """Take the line of a call that has ended. Never blocks and never raises."""
        if self._closing.is_set():
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(cdr_line(record))
        except queue.Full:
            if not self.dropped:
                self._log.error("call records are dropped: the disk does not keep up", path=self.path)
            self.dropped += 1

    def reopen(self) -> None:
        """Write on to the file that has the name now (after logrotate has moved the old one away)."""
        self._reopening.set()
        self._nudge()

    def close(self, deadline_s: float = CLOSE_S) -> bool:
        """Write what is waiting, sync and close; whether everything was written within `deadline_s`."""
        self._closing.set()
        self._nudge()
        self._thread.join(deadline_s)
        if self._thread.is_alive() or self._lost:
            lost = self._lost or self._queue.qsize()
            self._log.error("call records were lost: the disk did not take them", path=self.path, lost=lost)
            return False
        return True

    def _nudge(self) -> None:
        # An empty line wakes the thread and is not written. A full queue needs no waking.
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(b"")

    def _run(self) -> None:
        failing = False
        line = b""
        while line or not (self._closing.is_set() and self._queue.empty()):
            line = line or self._queue.get()
            if self._reopening.is_set():
                self._reopening.clear()
                failing = self._failed(self._file.reopen, failing)
            if not line:
                continue
            failing = self._failed(partial(self._file.append, line), failing)
            if not failing:
                self.written += 1
                line = b""
            elif self._closing.wait(self._retry_s):
                # No time left to wait for the disk; each line that still waits has one try.
                self._lost += 1
                line = b""
        self._failed(self._file.close, failing)

    def _failed(self, action: Callable[[], None], failing: bool) -> bool:
        """Do something with the file; returns whether it failed. Only the first of a row of errors is logged."""
        try:
            action()
        except OSError as error:
            self.errors += 1
            if not failing:
                self._log.error("call records cannot be written", path=self.path, cause=error.strerror)
            return True
        if failing:
            self._log.info("call records are written again", path=self.path)
        return False
