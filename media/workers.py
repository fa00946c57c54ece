"""The relay as worker processes: spawns them, tells them what to do, replaces those that die."""

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from media.fastpath.loader import FastPath
from media.relay import (
    BindFailed,
    Closed,
    Counters,
    End,
    Layer,
    RelayEvent,
    Side,
    Silence,
    SourceLocked,
    StreamCounters,
    StreamSpec,
    Withheld,
    WorkerRestarted,
)
from media.worker_state import Told, Worker, end_tuple

# Messages are far below the default 208 KiB of a socket buffer, which bounds a single one of them.
COMMANDS_PER_MESSAGE = 64
STREAMS_PER_QUERY = 64
MESSAGE_BYTES = 262144
# A worker that has not read so many commands is stuck: it is replaced.
MAX_QUEUED = 20000
# What can wait is told this much later, so that the ends of many calls wake the worker, and its answer us, once.
LATE_S = 0.05
QUERY_DEADLINE_S = 2.0
UP_DEADLINE_S = 10.0
"""A worker that takes longer to start is not waited for."""
STOP_DEADLINE_S = 2.0
REAP_INTERVAL_S = 0.005
# A worker that dies as soon as it starts is not started again at full speed.
HEALTHY_S = 5.0
MAX_BACKOFF_S = 5.0

_srtp = find_spec("pylibsrtp")
_LIBRARY = None if _srtp is None or _srtp.origin is None else str(Path(_srtp.origin).parent.parent)
"""Where the workers find what media.srtp needs."""
_ROOT = str(Path(__file__).resolve().parent.parent)


class _Query:
    """A query on its way; `waiting` holds the index of the worker behind each token."""

    __slots__ = ("deadline", "found", "future", "streams", "waiting")

    def __init__(self, streams: Sequence[int], future: "asyncio.Future[list[StreamCounters]]") -> None:
        self.streams = streams
        self.future = future
        self.found: dict[int, StreamCounters] = {}
        self.waiting: dict[int, int] = {}
        self.deadline: asyncio.TimerHandle | None = None


class WorkerRelay:
    """Relay (see `media.relay.Relay`) over `workers` processes, 0 for one per core.

    Commands are collected and written once per turn of the event loop, or whenever `soon` calls what it is given; those
    that can wait 20 times a second.
    When a worker dies, the next one opens its streams again on the same ports with the learned sources; counters
    begin again at zero. An end with SRTP gets no more packets then until it has new keys: those of before cannot go on
    where they were, and to begin again with them would use a key stream twice. Whatever `query` has not heard within
    two seconds is left out. With a `fastpath` the workers leave streams of plain RTP to the kernel; it is closed with
    the relay. Instead of one there may be the reason why there is none, which the streams are told then. `pin` keeps
    each worker on one processor core.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        workers: int = 0,
        on_event: Callable[[RelayEvent], None] = lambda event: None,
        dscp: int = 46,
        fastpath: FastPath | str = "",
        soon: Callable[[Callable[[], None]], object] | None = None,
        pin: bool = False,
    ) -> None:
        self.on_event = on_event
        self._cores = sorted(os.sched_getaffinity(0)) if pin else []
        self._soon = loop.call_soon if soon is None else soon
        self._fastpath = fastpath if isinstance(fastpath, FastPath) else None
        self._why_not = fastpath if isinstance(fastpath, str) else ""
        self._loop = loop
        self._dscp = dscp
        self._streams: dict[int, Told] = {}
        self._dirty: list[Worker] = []
        self._late: asyncio.TimerHandle | None = None
        self._queries: dict[int, _Query] = {}
        self._next_token = 0
        self._stopping = False
        self._buffer = bytearray(MESSAGE_BYTES)
        # One pseudonym for one CNAME, whichever worker has the stream.
        self._hash_seed = str(int.from_bytes(os.urandom(4), "big"))
        self._secret = os.urandom(16)
        self._stun_hosts: tuple[str, ...] = ()
        if self._fastpath is not None:
            loop.add_reader(self._fastpath, self._interfaces_changed)
            if self._fastpath.policies is not None:
                loop.add_reader(self._fastpath.policies, self._policies_changed)
        self._workers = [Worker(index) for index in range(workers or os.cpu_count() or 1)]
        try:
            for worker in self._workers:
                self._spawn(worker)
        except OSError:
            for worker in self._workers:
                self._disconnect(worker)  # by which those end that have started
            raise

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def in_kernel(self) -> int:
        """How many streams the kernel forwards."""
        return sum(stream.in_kernel for stream in self._streams.values())

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker, None while it is being replaced."""
        return tuple(w.process.pid if w.process and w.control else None for w in self._workers)

    # Commands

    def open(self, spec: StreamSpec) -> None:
        """Bind the ports of both ends and begin to relay, on the worker with the fewest streams."""
        if spec.id in self._streams:
            raise ValueError(f"stream {spec.id} is open")
        worker = min(self._workers, key=_load)
        stream = self._streams[spec.id] = Told(spec, worker)
        worker.load += 1
        self._tell(worker, stream.command())

    def change(self, stream: int, side: Side, end: End) -> None:
        """Replace what is known of one end; a new epoch forgets its source."""
        known = self._streams.get(stream)
        if known is None:
            return
        if side == "a":
            if end.epoch != known.a.epoch:
                known.source_a = None
            known.a = end
        else:
            if end.epoch != known.b.epoch:
                known.source_b = None
            known.b = end
        self._tell(known.worker, ("change", stream, side, end_tuple(end, known.spent)))

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        """Change the silence limits; their clocks start again."""
        known = self._streams.get(stream)
        if known is not None:
            known.start_s, known.silence_s = start_s, silence_s
            self._tell_late(known.worker, ("limits", stream, start_s, silence_s))

    def close(self, stream: int) -> None:
        """Stop relaying; a `Closed` event follows. Unknown streams are ignored."""
        known = self._streams.pop(stream, None)
        if known is None:
            return
        worker = known.worker
        worker.load -= 1
        worker.closing[stream] = known.spec.call
        if worker.control is None:
            self._loop.call_soon(self._give_up_closing, worker)
        else:
            self._tell_late(worker, ("close", stream))

    def stun(self, hosts: Iterable[str]) -> None:
        """Answer STUN Binding requests that come to media ports of these addresses of ours, and to no others."""
        hosts = tuple(hosts)
        if hosts != self._stun_hosts:
            self._stun_hosts = hosts
            for worker in self._workers:
                self._tell(worker, ("stun", hosts))

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        """Counters as of now, in the order asked for; streams that are not open are left out."""
        query = _Query(tuple(streams), self._loop.create_future())
        by_worker: dict[int, list[int]] = {}
        for number in query.streams:
            known = self._streams.get(number)
            if known is not None and known.worker.control is not None:
                by_worker.setdefault(known.worker.index, []).append(number)
        for index, numbers in by_worker.items():
            for start in range(0, len(numbers), STREAMS_PER_QUERY):
                self._next_token += 1
                query.waiting[self._next_token] = index
                self._queries[self._next_token] = query
                chunk = tuple(numbers[start : start + STREAMS_PER_QUERY])
                self._tell(self._workers[index], ("query", self._next_token, chunk))
        if query.waiting:
            query.deadline = self._loop.call_later(QUERY_DEADLINE_S, self._finish_query, query)
        else:
            self._finish_query(query)
        return query.future

    async def up(self) -> None:
        """Wait until every worker has answered once: a stream that is opened before loses its first packets."""
        query = _Query((), self._loop.create_future())
        for worker in self._workers:
            self._next_token += 1
            query.waiting[self._next_token] = worker.index
            self._queries[self._next_token] = query
            self._tell(worker, ("query", self._next_token, ()))
        query.deadline = self._loop.call_later(UP_DEADLINE_S, self._finish_query, query)
        await query.future

    async def stop(self) -> None:
        """End every worker; no events follow."""
        self._stopping = True
        for query in list(self._queries.values()):
            self._finish_query(query)
        for worker in self._workers:
            self._disconnect(worker)
        if self._late is not None:
            self._late.cancel()
            self._late = None
        deadline = time.monotonic() + STOP_DEADLINE_S
        for worker in self._workers:
            process = worker.process
            if process is None:
                continue
            while process.poll() is None:
                if time.monotonic() > deadline:
                    process.kill()
                await asyncio.sleep(REAP_INTERVAL_S)
        self._streams.clear()
        if self._fastpath is not None:
            self._loop.remove_reader(self._fastpath)
            if self._fastpath.policies is not None:
                self._loop.remove_reader(self._fastpath.policies)
            self._fastpath.close()
            self._fastpath = None

    def _tell(self, worker: Worker, command: tuple[Any, ...]) -> None:
        if worker.control is None:
            return  # its successor is told everything as it is by then
        queue = worker.queue
        if not queue and not worker.blocked:
            if not self._dirty:
                self._soon(self._flush)
            self._dirty.append(worker)
        queue.append(command)
        if len(queue) == MAX_QUEUED:
            # Not here: its events would come in the middle of whatever the caller is doing.
            self._loop.call_soon(self._lose_stuck, worker, worker.control)

    def _tell_late(self, worker: Worker, command: tuple[Any, ...]) -> None:
        """What may come after commands that were given later; in order among its like."""
        if worker.control is not None:
            worker.late.append(command)
        if self._late is None and worker.late:
            self._late = self._loop.call_later(LATE_S, self._tell_what_waited)

    def _tell_what_waited(self) -> None:
        self._late = None
        for worker in self._workers:
            late, worker.late = worker.late, []
            for command in late:
                self._tell(worker, command)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for worker in dirty:
            self._write(worker)

    def _write(self, worker: Worker) -> None:
        control, queue = worker.control, worker.queue
        if control is None:
            return
        try:
            while queue:
                batch = queue[:COMMANDS_PER_MESSAGE]
                control.send(marshal.dumps(batch))
                del queue[: len(batch)]
        except BlockingIOError:
            if not worker.blocked:
                worker.blocked = True
                self._loop.add_writer(control, self._write, worker)
            return
        except OSError:
            self._lose(worker)
            return
        if worker.blocked:
            worker.blocked = False
            self._loop.remove_writer(control)

    # Events

    def _read(self, worker: Worker) -> None:
        control = worker.control
        if control is None:
            return
        try:
            # Not recv(): it would ask for MESSAGE_BYTES of fresh memory for every few bytes.
            size = control.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._lose(worker)
            return
        for event in marshal.loads(self._buffer):
            self._take(worker, event)

    def _take(self, worker: Worker, event: tuple[Any, ...]) -> None:
        name, number = event[0], event[1]
        if name == "closed":
            call = worker.closing.pop(number, None)
            if call is not None:
                self.on_event(Closed(number, call, _counters(call, event[2])))
            return
        if name == "counters":
            query = self._queries.pop(number, None)
            if query is not None:
                self._answer_query(query, number, event[2])
            return
        known = self._streams.get(number)
        if known is None:
            return  # closed meanwhile
        call = known.spec.call
        if name == "locked":
            side, source = event[2], event[3]
            if side == "a":
                known.source_a = source
            else:
                known.source_b = source
            first = known.source_a is not None and known.source_b is not None and not known.told
            self.on_event(SourceLocked(number, call, side, source))
            if first and self._why_not:
                known.told = True
                self.on_event(Layer(number, call, self._why_not))
        elif name == "silence":
            self.on_event(Silence(number, call, event[2], event[3]))
        elif name == "layer":
            known.in_kernel = not event[2]
            self.on_event(Layer(number, call, event[2]))
        elif name == "withheld":
            self.on_event(Withheld(number, call, event[2], event[3]))
        else:
            self.on_event(BindFailed(number, call, event[2]))

    def _answer_query(self, query: _Query, token: int, rows: list[tuple[Any, ...]]) -> None:
        del query.waiting[token]
        for row in rows:
            known = self._streams.get(row[0])
            if known is not None:
                query.found[row[0]] = _counters(known.spec.call, row)
        if not query.waiting:
            self._finish_query(query)

    def _finish_query(self, query: _Query) -> None:
        if query.deadline is not None:
            query.deadline.cancel()
        for token in query.waiting:
            self._queries.pop(token, None)
        if not query.future.done():
            query.future.set_result([query.found[each] for each in query.streams if each in query.found])

    # Processes

    def _spawn(self, worker: Worker) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # -S: the worker needs the standard library and this package, not what site-packages sets up; that
        # halves its start and spares a megabyte. A session of its own: Ctrl-C is for the parent to act upon.
        command = [sys.executable, "-S", "-P", "-m", "media.worker", str(theirs.fileno()), str(self._dscp)]
        fastpath = self._fastpath
        maps = () if fastpath is None else (fastpath.flows.fd, fastpath.leases.fd)
        command += [str(fd) for fd in maps[1:]]
        try:
            worker.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *maps),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": _ROOT, "PYTHONHASHSEED": self._hash_seed},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._cores:
            with contextlib.suppress(OSError):  # it may be gone already: that is noticed as ever
                os.sched_setaffinity(worker.process.pid, {self._cores[worker.index % len(self._cores)]})
        worker.control = ours
        worker.started_at = time.monotonic()
        self._loop.add_reader(ours, self._read, worker)
        self._tell(worker, ("secret", self._secret))
        if self._stun_hosts:
            self._tell(worker, ("stun", self._stun_hosts))
        if _LIBRARY is not None:
            self._tell(worker, ("library", _LIBRARY))
        if fastpath is not None:
            worker.number = fastpath.employ()
            self._tell(worker, ("fastpath", *maps, worker.number, fastpath.indexes))
            if fastpath.policies is not None:
                self._tell(worker, ("ipsec", fastpath.policies.found))

    def _interfaces_changed(self) -> None:
        """Interfaces or their addresses have come or gone, and the kernel program with them."""
        if self._fastpath is not None and self._fastpath.follow():
            for worker in self._workers:
                self._tell(worker, ("interfaces", self._fastpath.indexes))

    def _policies_changed(self) -> None:
        """IPsec policies of this host have come or gone: streams that they hold for are not for the kernel."""
        policies = None if self._fastpath is None else self._fastpath.policies
        if policies is not None and policies.changed():
            for worker in self._workers:
                self._tell(worker, ("ipsec", policies.found))

    def _disconnect(self, worker: Worker) -> None:
        control = worker.control
        if control is not None:
            self._loop.remove_reader(control)
            if worker.blocked:
                self._loop.remove_writer(control)
            control.close()
        worker.control = None
        worker.blocked = False
        worker.queue.clear()
        worker.late.clear()

    def _lose(self, worker: Worker) -> None:
        """The worker is dead or as good as that."""
        if worker.control is None or worker.process is None:
            return
        self._disconnect(worker)
        worker.process.kill()
        self._dismiss(worker)
        if time.monotonic() - worker.started_at >= HEALTHY_S:
            worker.backoff_s = 0.0
        self._give_up_closing(worker)
        for stream in self._streams.values():
            if stream.worker is worker:
                stream.in_kernel = False
        for token, query in list(self._queries.items()):
            if query.waiting.get(token) == worker.index:
                del self._queries[token]
                self._answer_query(query, token, [])
        if not self._stopping:
            self._replace(worker)

    def _dismiss(self, worker: Worker) -> None:
        """What the kernel forwards for a worker is to come to the sockets of its successor instead."""
        if self._fastpath is not None and worker.number is not None:
            # If it cannot be told: that ends by itself with the lease, and the successor must come in any case.
            with contextlib.suppress(OSError):
                self._fastpath.dismiss(worker.number)

    def _lose_stuck(self, worker: Worker, control: socket.socket) -> None:
        if worker.control is control:
            self._lose(worker)

    def _replace(self, worker: Worker) -> None:
        """Start a successor as soon as the kernel has freed the ports, that is when the process is reaped."""
        if self._stopping:
            return
        if worker.process is not None and worker.process.poll() is None:
            self._loop.call_later(REAP_INTERVAL_S, self._replace, worker)
            return
        if worker.number is not None:
            # Until it was dead it may have gone on writing flows.
            self._dismiss(worker)
            worker.number = None
        if worker.process is not None and worker.backoff_s:
            worker.process = None
            self._loop.call_later(worker.backoff_s, self._replace, worker)
            return
        worker.backoff_s = min(MAX_BACKOFF_S, worker.backoff_s * 2 or 0.1)
        try:
            self._spawn(worker)
        except OSError:
            # No memory or no descriptors: a moment later there may be.
            worker.process = None
            self._loop.call_later(worker.backoff_s, self._replace, worker)
            return
        streams = [each for each in self._streams.values() if each.worker is worker]
        for stream in streams:
            stream.spend()
            self._tell(worker, stream.command())
        calls = tuple(dict.fromkeys(stream.spec.call for stream in streams))
        self.on_event(WorkerRestarted(worker.index, len(streams), calls))

    def _give_up_closing(self, worker: Worker) -> None:
        """The final counters of these streams died with the worker."""
        closing, worker.closing = worker.closing, {}
        for number, call in closing.items():
            self.on_event(Closed(number, call, StreamCounters(number, call, Counters(), Counters())))


def _load(worker: Worker) -> int:
    return worker.load


def _counters(call: str, row: tuple[Any, ...]) -> StreamCounters:
    """From (stream, `media.stream.CountersTuple` of a, of b)."""
    return StreamCounters(row[0], call, Counters(*row[1]), Counters(*row[2]))
