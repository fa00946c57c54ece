"""The flow table, as one worker writes it: `struct flow_key` and `struct flow` of rtp.bpf.c as bytes.

A flow is one direction of a stream. While it is in the table the kernel counts what it forwards, beginning with the
state of `media.rtp.Reception` that it was given; to read it on is to take that state back.
"""

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from media.fastpath.bpf import Map
from media.rtp import State

if TYPE_CHECKING:
    import ctypes

_KEY = struct.Struct("=16s16s2s2sI")
_SETTINGS = struct.Struct("=QQQQ16s16s16s2s2sIIIIIBBHI")
_STATE = struct.Struct("=QQQQQQQqqIIIIIiIIIBBBx")
KEY_BYTES = _KEY.size
FLOW_BYTES = _SETTINGS.size + _STATE.size
_WORKER_AT = 96
_PORTS = struct.Struct("=HH")
_PORTS_AT = 32
_LEASE = struct.Struct("=Q")
_SLOT = struct.Struct("=I")
LEASE_BYTES = _LEASE.size
SLOT_BYTES = _SLOT.size

# Below that it costs more to prepare a batch than its calls do.
WORTH_A_BATCH = 4

# As in the kernel program.
FLOWS_MAX = 65536

# A worker that has not come round for so long is dead or stuck: its flows fall back to its sockets.
LEASE_S = 5.0

# Peers name clock rates as they like, and the kernel has 32 bits for a unit of the clock. No codec is below 100 Hz.
MAX_TICK_S = 0.01

# linux/socket.h, in the kernel program too; Python's numbers are those of this machine, which is Linux.
_FAMILIES = {socket.AF_INET: 2, socket.AF_INET6: 10}

Address = tuple[str, int]


class Course(NamedTuple):
    """Where the packets of a flow come in and go to, and what they look like there."""

    incoming: int
    source: Address
    target: Address
    next_hop: str
    ifindex: int
    mtu: int
    tos: int
    priority: int = 0
    """For the queues on the way out (SO_PRIORITY of socket(7))."""


class Entry(NamedTuple):
    """A flow to forward: what comes by the key `flow` and has one of the `allowed` payload types, as bitmaps.

    `timed` are those of them whose timestamps count in `tick_s`, so that their jitter can be measured. The first packet
    to be forwarded is the one that follows `state`.
    """

    flow: bytes
    course: Course
    allowed: int
    timed: int
    tick_s: float
    state: State


def key(local: Address, remote: Address) -> bytes:
    """The key of what comes from `remote` to `local`."""
    family = _family(local[0])
    return _KEY.pack(
        socket.inet_pton(family, local[0]),
        socket.inet_pton(family, remote[0]),
        local[1].to_bytes(2, "big"),
        remote[1].to_bytes(2, "big"),
        _FAMILIES[family],
    )


def bitmap(payload_types: Iterable[int]) -> int:
    """Payload types as the set that the kernel looks them up in."""
    mask = 0
    for payload_type in payload_types:
        mask |= 1 << payload_type
    return mask


def worker_of(flow: bytes) -> int:
    """The worker that wrote a flow."""
    number: int = _SLOT.unpack_from(flow, _WORKER_AT)[0]
    return number


class FlowTable:
    """The flows of one worker, which is `worker` in the table of leases."""

    def __init__(self, flows: Map, leases: Map, worker: int) -> None:
        self._flows = flows
        self._leases = leases
        self._worker = worker
        self._slot = _SLOT.pack(worker)

    def renew(self, now: float) -> None:
        """The worker is alive: its flows are good for another while."""
        _LEASE.pack_into(self._leases.value, 0, int((now + LEASE_S) * 1e9))
        self._leases.put(self._slot)

    def end(self) -> None:
        """No flow of this worker is good any more. Raises OSError."""
        _LEASE.pack_into(self._leases.value, 0, 0)
        self._leases.put(self._slot)

    def put(self, entry: Entry) -> None:
        """Forward a flow. Raises OSError (ENOSPC or E2BIG: the table is full)."""
        self._write(entry, self._flows.value, 0)
        self._flows.put(entry.flow)

    def put_all(self, entries: Sequence[Entry]) -> dict[int, OSError]:
        """Forward all of these, in one call where the kernel has it; why not, for those that it does not take, by their
        place."""
        if len(entries) < WORTH_A_BATCH:
            failed = {}
            for place, entry in enumerate(entries):
                try:
                    self.put(entry)
                except OSError as error:
                    failed[place] = error
            return failed
        values = bytearray(FLOW_BYTES * len(entries))
        for place, entry in enumerate(entries):
            self._write(entry, values, FLOW_BYTES * place)
        return self._flows.put_all([entry.flow for entry in entries], values)

    def _write(self, entry: Entry, into: "bytearray | ctypes.Array[ctypes.c_char]", at: int) -> None:
        course = entry.course
        family = _family(course.source[0])
        hop = _family(course.next_hop)
        _SETTINGS.pack_into(
            into,
            at,
            entry.allowed & 0xFFFFFFFFFFFFFFFF,
            entry.allowed >> 64,
            entry.timed & 0xFFFFFFFFFFFFFFFF,
            entry.timed >> 64,
            socket.inet_pton(family, course.source[0]),
            socket.inet_pton(family, course.target[0]),
            socket.inet_pton(hop, course.next_hop),
            course.source[1].to_bytes(2, "big"),
            course.target[1].to_bytes(2, "big"),
            course.ifindex,
            course.mtu,
            int(entry.tick_s * 256e9),
            self._worker,
            course.incoming,
            course.tos,
            _FAMILIES[hop],
            _ports(entry.flow),
            course.priority,
        )
        _STATE.pack_into(into, at + _SETTINGS.size, *entry.state)

    def read(self, flow: bytes) -> State | None:
        """How far the kernel has come with a flow; None if it is not in the table."""
        return _STATE.unpack_from(self._flows.value, _SETTINGS.size) if self._flows.lookup(flow) else None

    def take(self, flow: bytes) -> State | None:
        """End a flow: what comes from now on comes to the socket. How far the kernel came with it."""
        return _STATE.unpack_from(self._flows.value, _SETTINGS.size) if self._flows.take(flow) else None

    def delete(self, flow: bytes) -> None:
        """End a flow without a word of how far the kernel came. Raises OSError."""
        self._flows.delete(flow)


def _ports(flow: bytes) -> int:
    """Both ports of a key, one over the other: by them the kernel program knows that an entry is still of its flow."""
    local, remote = _PORTS.unpack_from(flow, _PORTS_AT)
    return int(local ^ remote)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
