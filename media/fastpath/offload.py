"""Which streams go down into the kernel and when they come up again: the worker's side of the fast path.

An end is *down* while the kernel forwards what comes from it. Then the kernel has the counters: `refresh` reads them,
`take_up` reads them and ends the flow. Everything that the kernel does not forward still comes to the sockets, and a
packet of the locked source that does brings its end up; a moment later or with the next tick it goes down again. Order
is kept on the way down by the kernel, which begins with the packet that follows the last one forwarded here, and on the
way up by deleting the flow before that packet is looked at.

Only streams for which time itself may change something are looked at in every tick. One that SRTP, a hold or a party
not yet heard keeps up waits for `settle`, and one that its way keeps up for a change of ways or of IPsec policies.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Collection, Iterable

from media import rtp
from media.fastpath import ipsec, table
from media.fastpath.bpf import Map
from media.fastpath.netlink import Hop
from media.fastpath.ways import ROUNDS, Ways
from media.source import Sockaddr
from media.stream import RelayEnd, RelayStream

# A stream that is never in order when it is put down must not cost this every time: so often in a second.
MAX_ATTEMPTS = 16
# Flows written in one call. The more there are, the more packets come to a socket before theirs is: one of 300 us.
TOGETHER = 32

KERNEL = ""
"""What is told of a stream that the kernel forwards: no reason why not."""
UNHEARD = "its parties are not both heard"
HELD = "it is on hold"
OUT_OF_LINE = "its packets come out of order, or not by the interface that leads to their sender"
IPSEC = "an IPsec policy of this host holds for it"
UNKNOWN_IPSEC = "which IPsec policies of this host hold for it is not known"

# When an end that is up may be put down: with the next tick, when ways or policies have changed, or by `settle` only.
_SOON, _ELSEWHERE, _NEVER = range(3)
_Waits = tuple[int, str | None]
"""One of these, and what is to be told of the stream."""
_NOT_YET: _Waits = (_SOON, None)


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
        self._priorities = {
            family: priority(family, self._tos) for family in (socket.AF_INET, socket.AF_INET6)
        }
        self._tell = tell
        self._drain = drain
        self._ways = Ways(self._tos)
        self._policies: Collection[ipsec.Policy] | None = ()
        # The end of each flow with the way back to its sender and the way on, to see when they are others.
        self._down: dict[bytes, tuple[RelayEnd, Hop, Hop]] = {}
        # Streams that are not in the kernel, or not known to be, by what they wait for.
        self._soon: dict[RelayStream, None] = {}
        self._elsewhere: dict[RelayStream, None] = {}
        self._rounds = 0
        # Flows that are to be written together, and their ends.
        self._entries: list[table.Entry] = []
        self._ends: list[RelayEnd] = []
        # Why this worker has no kernel path any more: one whose table it cannot be sure of would be none.
        self._failed = ""
        self.soon: list[RelayEnd] = []
        """Ends that came up before the kernel had begun, for `retry`."""

    def settle(self, stream: RelayStream) -> None:
        """Something about the stream has changed: up with it, and down again with what holds now."""
        self._settle(stream)
        self._write()

    def heed(self, policies: Collection[ipsec.Policy] | None) -> None:
        """IPsec policies that streams may not get past; None: it is not known which there are."""
        self._policies = policies
        self._settle_all(end for end, _, _ in self._down.values() if self._of_ipsec(end))

    def reach(self, interfaces: Iterable[int]) -> None:
        """The interfaces that the program is attached to now."""
        self._interfaces = frozenset(interfaces)
        self._settle_all(end for end, back, _ in self._down.values() if back.ifindex not in self._interfaces)

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
            if end in self._ends:
                self._write()
            flow, end.flow = end.flow, None
            self._down.pop(flow, None)
            self._soon[end.stream] = None
            try:
                state = self._table.take(flow)
            except OSError as error:
                self._remove(flow, error)
                return
            if state is not None:
                self._resume(end, state)

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
        self._write()

    def tick(self, now: float) -> None:
        """Once a second: the worker is alive; routes may have changed; what has come up goes down again."""
        if not self._failed:
            try:
                self._table.renew(now)
            except OSError as error:
                self._fail(error)
        if self._failed:
            self._settle_all(end for end, _, _ in self._down.values())
            return
        self._rounds += 1
        if self._ways.changed():
            self._settle_all(
                end for end, back, way in self._down.values() if self._way_of(end) != (back, way)
            )
        elif self._rounds % ROUNDS == 0:
            # A way may be another though nobody is told, and more are asked for than are remembered.
            self._soon |= self._elsewhere
        for waiting in (self._elsewhere, self._soon):
            for stream in [stream for stream in waiting if not _open(stream)]:
                del waiting[stream]
        for stream in list(self._soon):
            self._try_again(stream)
        self._write()

    def _try_again(self, stream: RelayStream) -> None:
        a, b = stream.a, stream.b
        if a.flow is not None and b.flow is not None:
            # The kernel is told of once it has begun.
            self.refresh(a)
            self.refresh(b)
            if stream.layer == KERNEL:
                self._soon.pop(stream, None)
            return
        if max(a.attempts, b.attempts) >= MAX_ATTEMPTS:
            self._say(stream, OUT_OF_LINE)
        a.attempts = b.attempts = 0
        self._take_down(stream)

    def _settle_all(self, ends: Iterable[RelayEnd]) -> None:
        """The same for the streams of these ends and for all that wait for something else than themselves."""
        for stream in dict.fromkeys([*(end.stream for end in ends), *self._elsewhere, *self._soon]):
            if _open(stream):
                self._settle(stream)
        self._write()

    def _settle(self, stream: RelayStream) -> None:
        for end in (stream.a, stream.b):
            self.take_up(end)
        self._take_down(stream)

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
        self._soon.pop(stream, None)
        self._elsewhere.pop(stream, None)
        a, b = stream.a, stream.b
        if a.gate.source is None or b.gate.source is None:
            if stream.layer == KERNEL:
                self._say(stream, UNHEARD)
            return
        (waits_a, told_a), (waits_b, told_b) = self._end_down(a), self._end_down(b)
        # A reason why not, if either end has one.
        told = max(told_a or KERNEL, told_b or KERNEL)
        if told != KERNEL:
            self._say(stream, told)
        if _SOON in (waits_a, waits_b):
            self._soon[stream] = None
        elif _ELSEWHERE in (waits_a, waits_b):
            self._elsewhere[stream] = None

    def _end_down(self, end: RelayEnd) -> _Waits:
        """Take an end down, with the next `_write`, or say what it waits for."""
        if end.flow is not None:
            return _SOON, KERNEL
        if self._failed:
            return _NEVER, self._failed
        out, source = end.other, end.gate.source
        lasting = _lasting(end)
        if lasting:
            return _NEVER, lasting
        if source is None or out.target is None or end.reception.ssrc < 0 or end.rtp_port is None:
            return _NOT_YET
        if out.target != out.gate.source:
            return _NOT_YET
        if self._of_ipsec(end):
            return _ELSEWHERE, UNKNOWN_IPSEC if self._policies is None else IPSEC
        back, way = self._way_of(end)
        if isinstance(back, str):
            return _ELSEWHERE, back
        if isinstance(way, str):
            return _ELSEWHERE, way
        if back.ifindex not in self._interfaces:
            return _ELSEWHERE, f"the kernel program is not attached to the interface towards {source[0]}"
        target = out.target
        self._drain(end)
        if end.gate.source != source or out.target != target:
            # What waited there has changed who is who; there will be another occasion.
            return _NOT_YET
        return self._put(end, source, target, back, way)

    def _way_of(self, end: RelayEnd) -> tuple[Hop | str, Hop | str]:
        """The way back to the sender of what comes from an end, and the way on."""
        source, target = end.gate.source, end.other.target
        if source is None or target is None:
            return UNHEARD, UNHEARD
        find = self._ways.find
        return find(end.local[:2], source[:2]), find(end.other.local[:2], target[:2])

    def _of_ipsec(self, end: RelayEnd) -> bool:
        """Whether what comes from an end may have to come encrypted, or to leave so."""
        found, source, target = self._policies, end.gate.source, end.other.target
        if not found:
            return found is None
        if source is None or target is None:
            return False
        return ipsec.holds(found, ipsec.IN, source[:2], end.local[:2]) or ipsec.holds(
            found, ipsec.OUT, end.other.local[:2], target[:2]
        )

    def _put(self, end: RelayEnd, source: Sockaddr, target: Sockaddr, back: Hop, way: Hop) -> _Waits:
        out, seen = end.other, end.reception
        allowed, timed = end.payload_types(seen.tick)
        if not timed >> seen.payload_type & 1:
            # An event or comfort noise, of which the kernel cannot tell the jitter: audio will follow.
            return _NOT_YET
        if seen.tick > table.MAX_TICK_S:
            return _SOON, "the clock of its codec is too slow"
        flow = table.key(end.local[:2], source[:2])
        course = table.Course(
            back.ifindex,
            out.local[:2],
            target[:2],
            way.address,
            way.ifindex,
            way.mtu,
            self._tos,
            self._priorities[out.family],
        )
        self._entries.append(table.Entry(flow, course, allowed, timed, seen.tick, seen.state()))
        self._ends.append(end)
        end.flow, end.begun = flow, False
        self._down[flow] = (end, back, way)
        # From now on every packet that comes here all the same is out of the ordinary.
        seen.usual_first = -1
        if len(self._entries) >= TOGETHER:
            self._write()
        return _SOON, KERNEL

    def _write(self) -> None:
        """Give the kernel the flows that wait for it."""
        if not self._entries:
            return
        entries, self._entries = self._entries, []
        ends, self._ends = self._ends, []
        for place, error in self._table.put_all(entries).items():
            end = ends[place]
            if end.flow == entries[place].flow:
                self._down.pop(end.flow, None)
                end.flow = None
                self._soon[end.stream] = None
                self._say(end.stream, _refused(error))


def priority(family: socket.AddressFamily, tos: int) -> int:
    """The priority that the kernel gives the packets of a socket with this TOS (SO_PRIORITY of socket(7))."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
    except OSError:
        return 0  # There is no such family here, and so nothing of it to send.


def _open(stream: RelayStream) -> bool:
    """Whether a stream can be down at all: one without ports has none yet, or was closed."""
    return stream.a.rtp_port is not None and stream.b.rtp_port is not None


def _lasting(end: RelayEnd) -> str:
    """Why an end cannot be down as long as its stream is what it is."""
    source, out = end.gate.source, end.other
    if end.udptl:
        return "it is not RTP"
    if end.secure is not None or out.secure is not None:
        return "it is SRTP"
    if end.family != out.family:
        return "its sides are of two address families"
    if not end.receive or not out.send:
        return HELD
    if source is not None and out.target is not None and ("%" in source[0] or "%" in out.target[0]):
        return "one of its addresses is link-local"
    return ""


def _refused(error: OSError) -> str:
    if error.errno in (errno.E2BIG, errno.ENOSPC):
        return f"the kernel's table is full ({table.FLOWS_MAX:,} flows)"
    return f"the kernel does not take the flow: {error.strerror}"
