"""The reference relay: one epoll loop over plain sockets, no asyncio. Runs in a worker process.

`media/forwarder.py` is what it does with a packet, `media/sockets.py` where packets come in and go out. It imports
little on purpose: every worker pays for it in memory.
"""

import select
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from media.forwarder import Forwarder
from media.sockets import BIND_RETRY_S, Sockets
from media.stream import RTCP_PORT, EndTuple, Event, RelayStream, sockaddr

TICK_S: Final = 1.0
BATCH: Final = 256
# What comes within so long is dealt with at one wake-up, which saves a busy worker a sixth of its CPU and more. Jitter
# buffers are forty times as long.
REST_S: Final = 0.001
# Streams that are looked after before packets get their turn again.
LOOKS: Final = 64

_clock: Final = time.monotonic


class Reference:
    """The streams of one worker and the loop that serves them.

    `emit` is given the events as tuples: ("locked", stream, side, address), ("silence", stream, seconds, ever),
    ("withheld", stream, side, address), ("closed", stream, counters), ("unbound", stream, reason),
    ("counters", token, list of counters), where counters are (stream, CountersTuple of a, CountersTuple of b), and
    ("layer", stream, why it is not the kernel that forwards it or "").
    """

    def __init__(self, emit: Callable[[Event], None], dscp: int = 0, max_files: int = 1024) -> None:
        self._emit = emit
        self._dscp = dscp
        # Why there is no kernel path although there was to be one.
        self._no_kernel = ""
        self._sockets = Sockets(emit, dscp, max_files)
        self._forwarder = Forwarder(emit, self._sockets)
        self._drain = self._forwarder.drain
        self._watched: dict[int, Callable[[], None]] = {}
        self._streams: dict[int, RelayStream] = {}
        self._tick_at = _clock() + TICK_S
        self._woken_at = 0.0
        # Whether packets wait for more than one wake-up.
        self._behind = False
        # Those whose turn to be looked after has not come yet.
        self._unseen: list[RelayStream] = []

    def __len__(self) -> int:
        return len(self._streams)

    # Commands

    def library(self, path: str) -> None:
        """Say where installed packages are, for what only some streams need: see media/srtp.py."""
        sys.path.append(path)

    def secret(self, key: bytes) -> None:
        """Set the key of pseudonyms: receivers match audio with video by CNAME, so all workers share it."""
        self._forwarder.secret = key

    def stun(self, hosts: tuple[str, ...]) -> None:
        """Answer STUN Binding requests that come to these addresses of ours, whoever asks."""
        # Like ctypes below: for those who need it.
        from nat.binding import BindingServer  # noqa: PLC0415

        self._forwarder.stun = self._forwarder.stun or BindingServer()
        self._forwarder.stun_hosts = frozenset(hosts)

    def fastpath(self, flows: int, leases: int, worker: int, interfaces: tuple[int, ...]) -> None:
        """Leave streams to the kernel: descriptors of its maps, our number in them, where the program is attached."""
        # ctypes and what goes with it are for those who need them: see the top of this file.
        from media.fastpath.offload import Offload  # noqa: PLC0415

        kernel = Offload(flows, leases, worker, interfaces, self._dscp, self._tell_layer, self._drain)
        kernel.tick(_clock())
        self._forwarder.kernel = kernel

    def interfaces(self, attached: tuple[int, ...]) -> None:
        """Where the kernel's program is attached now."""
        if self._forwarder.kernel is not None:
            self._forwarder.kernel.reach(attached)

    def do_without_kernel(self, reason: str) -> None:
        """There is no kernel path although there was to be one: tell the streams why."""
        self._no_kernel = reason
        for stream in self._streams.values():
            self._tell_why_not(stream)

    def ipsec(self, policies: tuple[Any, ...] | None) -> None:
        """Keep what IPsec policies (`media.fastpath.ipsec`) hold for out of the kernel; None: all that there is."""
        if self._forwarder.kernel is not None:
            self._forwarder.kernel.heed(policies)

    def open(
        self,
        number: int,
        kind: str,
        a: EndTuple,
        b: EndTuple,
        limits: tuple[float, float, float, float],
        sources: tuple[tuple[str, int] | None, tuple[str, int] | None],
    ) -> None:
        """Open a stream; `limits` are window_s, start_s, silence_s, unheard_s. `sources` were learned before."""
        self.close(number)
        stream = RelayStream(number, kind == "udptl", limits[0], limits[3], _clock())
        stream.start_s, stream.silence_s = limits[1], limits[2]
        self._streams[number] = stream
        for end, spec, source in ((stream.a, a, sources[0]), (stream.b, b, sources[1])):
            end.configure(spec, self._forwarder.buffer)
            learned = sockaddr(end.family, source)
            if learned is not None:
                end.gate.restore(learned)
            self._sockets.bind(end)

    def change(self, number: int, side: str, spec: EndTuple) -> None:
        """Replace what is known of one end."""
        stream = self._streams.get(number)
        if stream is None:
            return
        end = stream.a if side == "a" else stream.b
        self._take_up(stream)
        for either in (stream.a, stream.b):
            # What came before is judged as it was then.
            self._drain(either)
        end.configure(spec, self._forwarder.buffer)
        now = _clock()
        for either in (stream.a, stream.b):
            either.gate.restart_window(now)
            self._sockets.unsettle(either)
        stream.quiet_since = now
        self._sockets.bind(end)

    def limits(self, number: int, start_s: float, silence_s: float) -> None:
        """Replace the silence limits and start the clock again."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.start_s, stream.silence_s = start_s, silence_s
            stream.quiet_since = _clock()

    def close(self, number: int) -> None:
        """Close a stream and tell its counters."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        self._take_up(stream)
        now = _clock()
        self._emit(("closed", number, (number, stream.a.counters(now), stream.b.counters(now))))
        for end in (stream.a, stream.b):
            self._sockets.close(end)
        stream.part()

    def query(self, token: int, numbers: tuple[int, ...]) -> None:
        """Tell the counters of these streams."""
        found = [self._streams[number] for number in numbers if number in self._streams]
        for each in found:
            self._refresh(each)
        now = _clock()
        self._emit(
            ("counters", token, [(each.id, each.a.counters(now), each.b.counters(now)) for each in found])
        )

    # The loop

    def watch(self, fd: int, ready: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Call `ready` when `fd` is (the control socket)."""
        if fd in self._watched:
            self._sockets.epoll.modify(fd, events)
        else:
            self._sockets.epoll.register(fd, events)
        self._watched[fd] = ready

    def serve(self, at_once: bool = False) -> None:
        """Wait for packets, commands and the clock, and serve what is there, once; `at_once`: without waiting."""
        sockets, forwarder = self._sockets, self._forwarder
        rest_s = self._woken_at + REST_S - _clock()
        if rest_s > 0.0 and not self._behind and not at_once:
            time.sleep(rest_s)
        events = sockets.epoll.poll(0.0 if at_once else self._patience_s(), BATCH)
        now = _clock()
        before, self._woken_at, self._behind = self._woken_at, now, False
        for fd, _ in events:
            port = sockets.ports.get(fd)
            if port is None:
                # The control socket, or a port that was closed in this very batch.
                ready = self._watched.get(fd)
                if ready is not None:
                    ready()
                continue
            # One packet of each port at a time is fair. One that had its turn just before has a queue.
            if port.served_at == before:
                self._behind = True
            port.served_at = now
            if port.kind == RTCP_PORT:
                forwarder.receive_rtcp(port, now)
            else:
                forwarder.receive(port, now)
        if sockets.unsettled:
            self._settle()
        if forwarder.kernel is not None and forwarder.kernel.soon:
            forwarder.kernel.retry()
        if sockets.unbound:
            sockets.bind_again(now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._unseen = list(self._streams.values())
            if forwarder.kernel is not None:
                forwarder.kernel.tick(now)
        if self._unseen:
            self._look_after(now)

    def shut_down(self) -> None:
        """Close every socket, without a word."""
        for stream in self._streams.values():
            self._take_up(stream)
        self._sockets.close_all()
        self._streams.clear()

    def _patience_s(self) -> float:
        """How long nothing has to be done without a packet or a command."""
        if self._unseen:
            return 0.0
        if self._sockets.unbound:
            return BIND_RETRY_S
        return max(0.0, self._tick_at - _clock())

    def _settle(self) -> None:
        """Deal with ends whose source has changed."""
        kernel = self._forwarder.kernel
        for stream in self._sockets.settle(self._drain):
            if kernel is not None:
                kernel.settle(stream)
            else:
                self._tell_why_not(stream)

    def _tell_why_not(self, stream: RelayStream) -> None:
        """Once both sources are known, which is when the kernel would take over."""
        if self._no_kernel and stream.layer is None and stream.a.gate.source and stream.b.gate.source:
            stream.layer = self._no_kernel
            self._tell_layer(stream.id, self._no_kernel)

    def _tell_layer(self, stream: int, why_not: str) -> None:
        self._emit(("layer", stream, why_not))

    def _take_up(self, stream: RelayStream) -> None:
        """What the kernel forwards comes to us from now on, and we go on from where it is."""
        kernel = self._forwarder.kernel
        if kernel is not None:
            kernel.take_up(stream.a)
            kernel.take_up(stream.b)

    def _refresh(self, stream: RelayStream) -> None:
        """Ask the kernel what it has counted."""
        kernel = self._forwarder.kernel
        if kernel is not None:
            kernel.refresh(stream.a)
            kernel.refresh(stream.b)

    def _look_after(self, now: float) -> None:
        """Some of the streams that are still to be looked after in this round: silence, and hosts that never answer."""
        for _ in range(min(LOOKS, len(self._unseen))):
            stream = self._unseen.pop()
            if self._streams.get(stream.id) is not stream:
                continue
            quiet = stream.silence(now)
            if quiet is not None and self._forwarder.kernel is not None:
                # So it looks from here: only now it is worth asking what the kernel has heard.
                self._refresh(stream)
                quiet = stream.silence(now)
            if quiet is not None and not stream.reported:
                stream.reported = True
                self._emit(("silence", stream.id, *quiet))
            for end in (stream.a, stream.b):
                address = end.unproven(TICK_S)
                if address is not None:
                    self._emit(("withheld", stream.id, end.side, address[:2]))
