"""Which streams go down into the kernel and when they come up again: the worker's side of the fast path.

An end is *down* while the kernel forwards what comes from it. Then the kernel has the counters: `refresh` reads them,
`take_up` reads them and ends the flow. Everything that the kernel does not forward still comes to the sockets, and a
packet of the locked source that does brings its end up; a moment later or with the next tick it goes down again. Order
is kept on the way down by the kernel, which begins with the packet that follows the last one forwarded here, and on the
way up by deleting the flow before that packet is looked at.
"""

import contextlib
import errno
from collections.abc import Callable, Iterable

from media import rtp
from media.fastpath import table
from media.fastpath.bpf import Map
from media.fastpath.netlink import Hop
from media.fastpath.ways import Ways
from media.source import Sockaddr
from media.stream import RelayEnd, RelayStream

# A stream that is never in order when it is put down must not cost this every time: so often in a second.
MAX_ATTEMPTS = 16

KERNEL = ""
"""What is told of a stream that the kernel forwards: no reason why not."""
UNHEARD = "its parties are not both heard"
HELD = "it is on hold"
OUT_OF_LINE = "its packets come out of order, or not by the interface that leads to their sender"


class Offload:
    """The flows of a worker. `tell` hears of a stream's layer when it changes: KERNEL, or why it is not the kernel.

    `drain` is to deal with the packets that wait at the sockets of an end: the fewer there are, the sooner the kernel
    can begin.
    """

    def __init__(
        self,
        flows: int,
        leases: int,
        worker: int,
        interfaces: Iterable[int],
        dscp: int,
        tell: Callable[[int, str], None],
        drain: Callable[[RelayEnd], None],
    ) -> None:
        maps = Map(flows, table.KEY_BYTES, table.FLOW_BYTES), Map(leases, table.SLOT_BYTES, table.LEASE_BYTES)
        self._table = table.FlowTable(*maps, worker)
        self._interfaces = frozenset(interfaces)
        self._tos = dscp << 2
        self._tell = tell
        self._drain = drain
        self._ways = Ways()
        # The way back to the sender and the way on of each flow, to see when they are others.
        self._hops: dict[bytes, tuple[Hop, Hop]] = {}
        # Why this worker has no kernel path any more: one whose table it cannot be sure of would be none.
        self._failed = ""
        self.soon: list[RelayEnd] = []
        """Ends that came up before the kernel had begun, for `retry`."""

    def settle(self, stream: RelayStream) -> None:
        """Something about the stream has changed: up with it, and down again with what holds now."""
        for end in (stream.a, stream.b):
            self.take_up(end)
        self._take_down(stream)

    def refresh(self, end: RelayEnd) -> None:
        """Bring the counters of an end up to date."""
        if end.flow is not None:
            try:
                state = self._table.read(end.flow)
            except OSError as error:
                self._fail(error)
                return
            if state is not None:
                self._resume(end, state)

    def take_up(self, end: RelayEnd) -> None:
        """Let what comes from this end come to its socket from now on."""
        if end.flow is not None:
            flow, end.flow = end.flow, None
            self._hops.pop(flow, None)
            try:
                state = self._table.take(flow)
            except OSError as error:
                self._remove(flow, error)
                return
            if state is not None:
                self._resume(end, state)

    def _remove(self, flow: bytes, error: OSError) -> None:
        """End a flow that could not be taken. What it has counted is lost."""
        try:
            self._table.delete(flow)
        except OSError:
            # It would go on behind our back.
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """No more kernel path for this worker: at once, or if not even that can be told, when its lease is over."""
        self._failed = f"the kernel's table fails: {error.strerror}"
        with contextlib.suppress(OSError):
            self._table.end()

    def surface(self, end: RelayEnd) -> None:
        """A packet of an end that is down has come to its socket. If the kernel was still waiting to begin, there were
        more of them on the way here than it was told: it is put down again once they are through."""
        flow = end.flow
        self.take_up(end)
        if flow is not None and not end.begun and end.attempts < MAX_ATTEMPTS:
            end.attempts += 1
            self.soon.append(end)

    def retry(self) -> None:
        """After all packets that were there: put down again what `surface` brought up too early."""
        soon, self.soon = self.soon, []
        for end in soon:
            # One without a port belongs to a stream that was closed meanwhile.
            if end.rtp_port is not None:
                self._take_down(end.stream)

    def tick(self, streams: Iterable[RelayStream], now: float) -> None:
        """Once a second: the worker is alive; routes may have changed; what has come up goes down again."""
        if not self._failed:
            try:
                self._table.renew(now)
            except OSError as error:
                self._fail(error)
        if self._failed:
            for stream in streams:
                self.settle(stream)
            return
        changed = self._ways.changed()
        for stream in streams:
            a, b = stream.a, stream.b
            if changed and (self._moved(a) or self._moved(b)):
                self.settle(stream)
            elif a.flow is None or b.flow is None:
                if max(a.attempts, b.attempts) >= MAX_ATTEMPTS:
                    self._say(stream, OUT_OF_LINE)
                a.attempts = b.attempts = 0
                self._take_down(stream)
            elif stream.layer != KERNEL:
                self.refresh(a)
                self.refresh(b)

    def _moved(self, end: RelayEnd) -> bool:
        """Whether the packets of an end that is down must go another way now."""
        source, target = end.gate.source, end.other.target
        if end.flow is None or source is None or target is None:
            return False
        ways = self._ways.find(end.local[0], source[0]), self._ways.find(end.other.local[0], target[0])
        return ways != self._hops[end.flow]

    def _resume(self, end: RelayEnd, state: rtp.State) -> None:
        forwarded = state[0] - end.reception.packets
        end.forwarded += forwarded
        end.in_kernel += forwarded
        end.begun = rtp.taken_over(state)
        end.reception.resume(state)
        if end.begun and end.flow is not None and end.other.flow is not None:
            self._say(end.stream, KERNEL)

    def _say(self, stream: RelayStream, layer: str) -> None:
        if layer != stream.layer:
            stream.layer = layer
            self._tell(stream.id, layer)

    def _take_down(self, stream: RelayStream) -> None:
        """Leave to the kernel what can be. That it forwards is told when it has begun to."""
        a, b = stream.a, stream.b
        if a.gate.source is None or b.gate.source is None:
            if stream.layer == KERNEL:
                self._say(stream, UNHEARD)
            return
        # A reason why not, if either end has one.
        reason = max(self._end_down(a) or KERNEL, self._end_down(b) or KERNEL)
        if reason != KERNEL:
            self._say(stream, reason)

    def _end_down(self, end: RelayEnd) -> str | None:
        """Take an end down; None if it is not the time yet, KERNEL if it is down, else why it cannot be."""
        if end.flow is not None:
            return KERNEL
        if self._failed:
            return self._failed
        out, seen = end.other, end.reception
        if end.udptl:
            return "it is not RTP"
        if end.secure is not None or out.secure is not None:
            return "it is SRTP"
        if end.family != out.family:
            return "its sides are of two address families"
        source = end.gate.source
        if not end.receive or not out.send:
            return HELD
        if source is None or out.target is None or seen.ssrc < 0 or end.rtp_port is None:
            return None
        if out.target != out.gate.source:
            return None
        if "%" in source[0] or "%" in out.target[0]:
            return "one of its addresses is link-local"
        back, way = self._ways.find(end.local[0], source[0]), self._ways.find(out.local[0], out.target[0])
        if isinstance(back, str):
            return back
        if isinstance(way, str):
            return way
        if back.ifindex not in self._interfaces:
            return f"the kernel program is not attached to the interface towards {source[0]}"
        target = out.target
        self._drain(end)
        if end.gate.source != source or out.target != target:
            # What waited there has changed who is who; there will be another occasion.
            return None
        return self._put(end, source, target, back, way)

    def _put(self, end: RelayEnd, source: Sockaddr, target: Sockaddr, back: Hop, way: Hop) -> str | None:
        out, seen = end.other, end.reception
        allowed, timed = end.payload_types(seen.tick)
        if not timed >> seen.payload_type & 1:
            # An event or comfort noise, of which the kernel cannot tell the jitter: audio will follow.
            return None
        if seen.tick > table.MAX_TICK_S:
            return "the clock of its codec is too slow"
        flow = table.key(end.local[:2], source[:2])
        course = table.Course(
            back.ifindex, out.local[:2], target[:2], way.address, way.ifindex, way.mtu, self._tos
        )
        try:
            self._table.put(flow, course, allowed, timed, seen.tick, seen.state())
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.ENOSPC):
                return f"the kernel's table is full ({table.FLOWS_MAX:,} flows)"
            return f"the kernel does not take the flow: {error.strerror}"
        end.flow, end.begun = flow, False
        self._hops[flow] = (back, way)
        # From now on every packet that comes here all the same is out of the ordinary.
        seen.usual_first = -1
        return KERNEL
