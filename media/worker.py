"""The relay process: reads commands from its control socket, serves packets, tells events.

Both directions are SOCK_SEQPACKET messages of one marshalled list of tuples, so that order and message borders
come from the kernel. marshal is the cheapest encoder of plain tuples in the standard library and costs the
worker no import; it trusts its input, which is right here and only here: the other end of this socket pair is
the process that started us.

Commands are (method name, *arguments) of `media.reference.Reference`.
"""

import errno
import gc
import marshal
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from typing import Any

from media.reference import Reference
from media.stream import Event

MESSAGE_BYTES = 262144
# What commands may take before packets get their turn again: opening hundreds of streams takes longer than packets
# should wait.
TURN_S = 0.002
# Counters of that many streams fit easily into one message.
EVENTS_PER_MESSAGE = 64
# Commands whose first argument is a stream.
OF_A_STREAM = ("open", "change", "limits", "close")
# linux/capability.h: CAP_NET_BIND_SERVICE, for media ports below 1024.
BIND_SERVICE = 1 << 10
# A bug met once per packet must not fill the disk.
MAX_TRACES = 20
# Should the parent stop reading: locks and silences beyond this are lost, final counters are not.
MAX_PENDING_EVENTS = 16384


class Worker:
    """The control side of one relay process."""

    def __init__(self, control: socket.socket, dscp: int, max_files: int) -> None:
        self._control = control
        self._buffer = bytearray(MESSAGE_BYTES)
        self._pending: list[Event] = []
        self._commands: deque[tuple[Any, ...]] = deque()
        self._running = True
        self._blocked = False
        self._relay = Reference(self._emit, dscp, max_files)
        self._relay.watch(control.fileno(), self._read)

    def run(self) -> None:
        """Serve until the parent closes its end."""
        traces = 0
        while self._running:
            try:
                self._relay.serve(at_once=bool(self._commands))
            except Exception:
                # Our own bug, met by one packet: it is lost, the other streams go on.
                traces += 1
                if traces <= MAX_TRACES:
                    print_trace()
            if self._commands:
                self._carry_out()
            if self._pending and not self._blocked:
                self._flush()
        self._relay.shut_down()

    def _emit(self, event: Event) -> None:
        if len(self._pending) < MAX_PENDING_EVENTS or event[0] in ("closed", "counters"):
            self._pending.append(event)

    def _read(self) -> None:
        """Take the next commands, once those from before are carried out."""
        if self._blocked:
            self._flush()
        if self._commands:
            return
        try:
            size = self._control.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if size:
            self._commands.extend(marshal.loads(self._buffer))
        else:
            self._running = False

    def _carry_out(self) -> None:
        relay, commands = self._relay, self._commands
        until = time.monotonic() + TURN_S
        while commands and time.monotonic() < until:
            name, *arguments = commands.popleft()
            try:
                getattr(relay, name)(*arguments)
            except Exception as error:
                # Our own bug, met by one command: that stream fails, not the worker with all others.
                print_trace()
                if name in OF_A_STREAM:
                    self._emit(("unbound", arguments[0], f"{name}: {error!r}"))
                elif name == "fastpath":
                    relay.do_without_kernel(f"a relay process cannot use the kernel's table: {error}")

    def _flush(self) -> None:
        pending = self._pending
        count = EVENTS_PER_MESSAGE
        while pending:
            batch = pending[:count]
            try:
                self._control.send(marshal.dumps(batch))
            except BlockingIOError:
                self._block(True)
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE and count > 1:
                    count //= 2
                    continue
                self._running = False
                return
            del pending[: len(batch)]
        self._block(False)

    def _block(self, blocked: bool) -> None:
        if blocked != self._blocked:
            self._blocked = blocked
            events = select.EPOLLIN | select.EPOLLOUT if blocked else select.EPOLLIN
            self._relay.watch(self._control.fileno(), self._read, events)


def print_trace() -> None:
    """The current exception on standard error; the traceback module would cost each worker most of a megabyte."""
    sys.__excepthook__(*sys.exc_info())


def shed_capabilities(leases: int | None) -> None:
    """Give up what we may do beyond any user, but for what the kernel path needs with the table `leases`."""
    with open("/proc/self/status") as status:
        permitted = next((int(line.split()[1], 16) for line in status if line.startswith("CapPrm:")), 0)
    if not permitted & ~BIND_SERVICE:
        return
    # ctypes is for those who have something to give up: see media/reference.py.
    from media.fastpath.capabilities import shed  # noqa: PLC0415

    shed(leases, permitted & BIND_SERVICE)


def main(arguments: list[str]) -> None:
    """`worker FD DSCP [LEASES]`: FD is our end of the control socket pair, LEASES the map of the kernel path."""
    shed_capabilities(int(arguments[2]) if len(arguments) > 2 else None)
    # The operator's Ctrl-C and the service manager's SIGTERM reach the whole group; media goes on until the
    # parent has said goodbye to its calls and closes the control socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What a stream is made of goes with it (tests/media/test_worker.py holds that): the collector would find nothing,
    # and its walks over a thousand streams are pauses for all of them.
    gc.disable()
    control = socket.socket(fileno=int(arguments[0]))
    control.setblocking(False)
    Worker(control, int(arguments[1]), hard if hard != resource.RLIM_INFINITY else 1 << 20).run()


if __name__ == "__main__":
    main(sys.argv[1:])
