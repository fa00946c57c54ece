"""Relay workers as their parent knows them: processes, and what each was told of its streams."""

import socket
import subprocess
from typing import Any

from media.relay import Address, End, StreamSpec


class Worker:
    """One process. Without a `control` socket it is dead and its successor not yet started."""

    __slots__ = (
        "backoff_s",
        "blocked",
        "closing",
        "control",
        "index",
        "late",
        "load",
        "number",
        "process",
        "queue",
        "started_at",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.queue: list[tuple[Any, ...]] = []
        # To be queued a moment later.
        self.late: list[tuple[Any, ...]] = []
        self.blocked = False
        self.load = 0
        # In the kernel's tables; a successor has another.
        self.number: int | None = None
        # Streams told to close whose final counters have not come: stream id -> call.
        self.closing: dict[int, str] = {}
        self.started_at = 0.0
        self.backoff_s = 0.0


class Told:
    """What a worker was told about an open stream, to tell its successor."""

    __slots__ = (
        "a",
        "b",
        "in_kernel",
        "silence_s",
        "source_a",
        "source_b",
        "spec",
        "spent",
        "start_s",
        "told",
        "worker",
    )

    def __init__(self, spec: StreamSpec, worker: Worker) -> None:
        self.spec = spec
        self.a = spec.a
        self.b = spec.b
        self.start_s = spec.start_s
        self.silence_s = spec.silence_s
        self.source_a: Address | None = None
        self.source_b: Address | None = None
        # Keys that a worker before had: nothing is sealed with them any more.
        self.spent: frozenset[bytes] = frozenset()
        # Whether it was told why it is not in the kernel, where nothing ever is.
        self.told = False
        self.in_kernel = False
        self.worker = worker

    def command(self) -> tuple[Any, ...]:
        """The command that opens the stream as it is now."""
        spec = self.spec
        limits = (spec.window_s, self.start_s, self.silence_s, spec.unheard_s)
        sources = (self.source_a, self.source_b)
        ends = end_tuple(self.a, self.spent), end_tuple(self.b, self.spent)
        return ("open", spec.id, spec.kind, *ends, limits, sources)

    def spend(self) -> None:
        """The worker is gone, and how far it was with its keys nobody knows."""
        self.spent |= {end.srtp.ours for end in (self.a, self.b) if end.srtp is not None}


def end_tuple(end: End, spent: frozenset[bytes]) -> tuple[Any, ...]:
    """`media.stream.EndTuple`; nothing is sealed with `spent` keys."""
    local, srtp = end.local, end.srtp
    return (
        local.host,
        local.rtp,
        local.rtcp,
        end.remote,
        end.remote_rtcp,
        end.rtcp_mux,
        str(end.learn),
        end.expect,
        end.receive,
        end.send,
        end.codecs,
        end.epoch,
        end.proven,
        None if srtp is None else (srtp.suite, srtp.theirs, b"" if srtp.ours in spent else srtp.ours),
        end.events_up,
    )
