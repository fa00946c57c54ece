"""The worker's side of the kernel path where the kernel's table fails it: a full table, a call that is refused."""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from media.fastpath import ipsec, table
from media.fastpath import offload as module
from media.fastpath.netlink import Address, Hop
from media.fastpath.offload import Offload
from media.fastpath.ways import ROUNDS
from media.stream import RTP_PORT, Port, RelayEnd, RelayStream
from tests.harness.rtp import rtp_packet
from tests.media.fastpath.kernel import (
    FAR_PEER,
    FAR_US,
    FORWARDED,
    PASSED,
    PEER,
    US,
    Kernel,
    frame,
    reception,
)

WORKER = 3
"""That of `Kernel`, so that the program forwards by its lease."""


class _Ways:
    """A way to everybody by the interface that test runs come in by."""

    def __init__(self, _: int) -> None:
        pass

    def find(self, _: Address, remote: Address) -> Hop | str:
        return Hop(1, remote[0], 1500)

    def changed(self) -> bool:
        return False


@dataclass
class Place:
    """A worker's flows with one stream from PEER to FAR_PEER, and what was told of it."""

    kernel: Kernel
    offload: Offload
    stream: RelayStream
    told: list[str]
    flows_fd: int
    leases_fd: int

    def lease(self) -> int:
        leases = self.kernel.loaded.leases
        assert leases.lookup(WORKER.to_bytes(4, "little"))
        return int.from_bytes(leases.value.raw, "little")

    def next(self, count: int = 1) -> int:
        """The program's verdict on the packet number `count` of PEER since the stream went down."""
        return self.kernel.run(frame(payload=rtp_packet(100 + count, 160 * count, 0xABCD)))[0]


@pytest.fixture
def place(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A stream that both parties have been heard on, not yet down."""
    monkeypatch.setattr(module, "Ways", _Ways)
    told: list[str] = []
    fds = os.dup(kernel.loaded.flows.fd), os.dup(kernel.loaded.leases.fd)
    offload = Offload(*fds, WORKER, (1,), 46, lambda _, why: told.append(why), lambda end: None)
    stream = RelayStream(1, False, 10.0, 0.0, time.monotonic())
    _configure(stream)
    yield Place(kernel, offload, stream, told, *fds)
    _close(stream)
    for fd in fds:
        os.close(fd)


def _configure(stream: RelayStream, number: int = 0) -> None:
    """Both parties have been heard; `number` tells the ports of one stream from those of another."""
    codecs = ((0, "PCMU", 8000),)
    for end, (host, first), peer in ((stream.a, US, PEER), (stream.b, FAR_US, FAR_PEER)):
        local = host, first + 2 * number
        # Bound to nothing: only that there is one counts.
        end.rtp_port = Port(end, socket.socket(socket.AF_INET, socket.SOCK_DGRAM), local, RTP_PORT)
        addresses = (*local, 0, peer, None, False, "off", None)
        end.configure((*addresses, True, True, codecs, 0, None, None, False), bytearray())
        end.gate.restore(peer)
        end.aim()
        end.reception = reception()
        end.reception.codecs(codecs)


def _close(stream: RelayStream) -> None:
    for end in (stream.a, stream.b):
        if end.rtp_port is not None:
            end.rtp_port.sock.close()
            end.rtp_port = None


def damage(fd: int) -> None:
    """From now on the kernel refuses every command for the map behind a descriptor."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


def down(place: Place) -> RelayEnd:
    """The end of PEER once the kernel forwards what comes from it."""
    place.offload.tick(time.monotonic())
    place.offload.settle(place.stream)
    assert place.stream.a.flow is not None and place.next() == FORWARDED
    return place.stream.a


def test_what_cannot_be_taken_is_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    end = down(place)

    def refused(_: object, flow: bytes) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(table.FlowTable, "take", refused)
    place.offload.take_up(end)
    assert end.flow is None
    assert place.next(2) == PASSED
    place.offload.tick(time.monotonic())
    assert place.lease() > time.monotonic() * 1e9


def test_what_cannot_even_be_deleted_ends_the_kernel_path(place: Place) -> None:
    end = down(place)
    damage(place.flows_fd)
    place.offload.take_up(end)
    assert end.flow is None
    # Not after five seconds: at once.
    assert place.next(2) == PASSED
    place.offload.tick(time.monotonic())
    assert place.lease() == 0 and place.stream.b.flow is None
    assert place.told[-1] == "the kernel's table fails: Invalid argument"


def test_a_lease_that_cannot_be_renewed_runs_out(place: Place) -> None:
    down(place)
    damage(place.leases_fd)
    place.offload.tick(time.monotonic())
    assert place.stream.a.flow is place.stream.b.flow is None
    assert place.next(2) == PASSED
    assert place.told[-1] == "the kernel's table fails: Invalid argument"


def test_counters_that_cannot_be_read_stay_as_they_were(place: Place) -> None:
    end = down(place)
    damage(place.flows_fd)
    place.offload.refresh(end)
    assert end.reception.packets == 1


def test_before_linux_5_14_a_flow_is_read_and_deleted(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kernel.loaded.flows._call

    def older(command: int, attributes: int, size: int) -> int:
        return -524 if command == 21 else real(command, attributes, size)

    seen = reception()
    flow = kernel.put(seen)
    monkeypatch.setattr(kernel.loaded.flows, "_call", older)
    assert kernel.table.take(flow) == seen.state()
    assert kernel.table.take(flow) is None


@pytest.mark.parametrize("number", [errno.E2BIG, errno.ENOSPC])
def test_a_full_table_is_called_that(place: Place, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(table.FlowTable, "put", full)
    place.offload.settle(place.stream)
    place.offload.tick(time.monotonic())
    assert place.told == ["the kernel's table is full (65,536 flows)"]


def test_the_kernel_is_told_of_once_it_has_begun(place: Place) -> None:
    now = time.monotonic()
    place.offload.settle(place.stream)
    for _ in range(3):
        place.offload.tick(now)
    assert place.stream.a.flow is not None and place.stream.b.flow is not None and place.told == []
    assert place.next() == FORWARDED
    place.offload.tick(now)
    assert place.told == [""]


def test_packets_out_of_line_are_the_reason_once_attempts_are_used_up(place: Place) -> None:
    down(place)
    place.offload.tick(time.monotonic())
    place.offload.take_up(place.stream.a)
    place.offload.settle(place.stream)
    for _ in range(module.MAX_ATTEMPTS + 1):
        place.offload.surface(place.stream.a)
        place.offload.retry()
    assert place.stream.a.flow is None
    place.offload.tick(time.monotonic())
    assert place.told == [
        "",
        "its packets come out of order, or not by the interface that leads to their sender",
    ]
    # Another second, another try.
    assert place.stream.a.flow is not None


def test_a_stream_on_hold_is_not_the_kernels(place: Place) -> None:
    down(place)
    place.offload.tick(time.monotonic())
    place.stream.a.receive = False
    place.offload.settle(place.stream)
    assert place.told == ["", "it is on hold"]
    place.stream.a.receive = True
    place.offload.settle(place.stream)
    assert place.next(2) == FORWARDED
    place.offload.tick(time.monotonic())
    assert place.told == ["", "it is on hold", ""]


def test_a_party_that_is_another_now_is_not_heard_yet(place: Place) -> None:
    down(place)
    place.offload.tick(time.monotonic())
    place.stream.a.gate.source = None
    place.offload.settle(place.stream)
    assert place.told == ["", "its parties are not both heard"]


# What a tick looks at


def looked_at(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[RelayStream]:
    """The streams that are looked at, each time."""
    seen: list[RelayStream] = []
    for name in ("_try_again", "_settle"):
        real = getattr(Offload, name)

        def counted(self: Offload, stream: RelayStream, real: Callable[..., None] = real) -> None:
            seen.append(stream)
            real(self, stream)

        monkeypatch.setattr(Offload, name, counted)
    return seen


def test_a_stream_that_can_never_go_down_is_not_looked_at_in_vain(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looked_at(place, monkeypatch)
    for hindrance, reason in (("receive", "it is on hold"), ("udptl", "it is not RTP")):
        setattr(place.stream.a, hindrance, hindrance == "udptl")
        place.stream.b.receive = hindrance != "receive"
        place.stream.b.udptl = hindrance == "udptl"
        place.offload.settle(place.stream)
        seen.clear()
        for _ in range(100):
            place.offload.tick(time.monotonic())
        assert seen == [] and place.told[-1] == reason
        place.stream.a.receive = place.stream.b.receive = True
        place.stream.a.udptl = place.stream.b.udptl = False
    down(place)
    place.offload.tick(time.monotonic())
    seen.clear()
    for _ in range(100):
        place.offload.tick(time.monotonic())
    assert seen == [] and place.told[-1] == ""


def test_a_stream_that_its_way_keeps_up_waits_for_another(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [False]
    monkeypatch.setattr(_Ways, "find", lambda *_: "no route to host")
    monkeypatch.setattr(_Ways, "changed", lambda _: changed[0])
    place.offload.settle(place.stream)
    assert place.told == ["no route to host"]
    seen = looked_at(place, monkeypatch)
    for _ in range(ROUNDS - 1):
        place.offload.tick(time.monotonic())
    assert seen == []
    # Once in a while all the same: not every change of a way is told.
    place.offload.tick(time.monotonic())
    assert seen == [place.stream]
    seen.clear()
    changed[0] = True
    place.offload.tick(time.monotonic())
    assert seen == [place.stream]
    monkeypatch.setattr(_Ways, "find", lambda _, __, remote: Hop(1, remote[0], 1500))
    place.offload.tick(time.monotonic())
    assert place.stream.a.flow is not None and place.next() == FORWARDED


@pytest.mark.parametrize("why", ["no route to host", ""])
def test_a_closed_stream_is_let_go(place: Place, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why:
        monkeypatch.setattr(_Ways, "find", lambda *_: why)
    else:
        place.stream.a.reception.ssrc = -1
    place.offload.settle(place.stream)
    assert place.stream in place.offload._soon | place.offload._elsewhere
    _close(place.stream)
    place.offload.tick(time.monotonic())
    assert not place.offload._soon and not place.offload._elsewhere


def test_digits_are_not_for_the_kernel_where_policy_says_so(place: Place) -> None:
    for end, other in ((place.stream.a, PASSED), (place.stream.a, FORWARDED)):
        end.events_up = other == PASSED
        end.codecs = ((0, "PCMU", 8000), (101, "telephone-event", 8000))
        place.offload.settle(place.stream)
        assert place.kernel.run(frame(payload=rtp_packet(101, 160, 0xABCD, bytes(4), 101)))[0] == other


def test_policies_bring_up_what_they_hold_for_and_nothing_else(place: Place) -> None:
    down(place)
    place.offload.tick(time.monotonic())
    others = (ipsec.OUT, True, 2, bytes([192, 0, 2, 1]), 32, bytes(4), 0, 17, 0, 0, 0, 0)
    place.offload.heed((others,))
    assert place.stream.a.flow is not None and place.next(2) == FORWARDED
    ours = (ipsec.OUT, True, 2, bytes(4), 0, socket.inet_aton(FAR_PEER[0]), 32, 0, 0, 0, 0, 0)
    place.offload.heed((others, ours))
    assert place.stream.a.flow is None and place.next(3) == PASSED
    assert place.told[-1] == module.IPSEC
    place.offload.heed(())
    assert place.stream.a.flow is not None
    place.offload.heed(None)
    assert place.stream.a.flow is None and place.told[-1] == module.UNKNOWN_IPSEC


def test_many_are_written_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that the kernel refuses is up, whatever became of the others."""
    written: list[int] = []
    refused = [{1: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))}]
    real = table.FlowTable.put_all

    def counted(self: table.FlowTable, entries: Sequence[table.Entry]) -> dict[int, OSError]:
        written.append(len(entries))
        failed = real(self, entries)
        return failed | refused.pop() if refused else failed

    monkeypatch.setattr(table.FlowTable, "put_all", counted)
    streams = []
    for number in range(40):
        stream = RelayStream(10 + number, False, 10.0, 0.0, time.monotonic())
        _configure(stream, number + 1)
        streams.append(stream)
        place.offload._soon[stream] = None
    place.offload.tick(time.monotonic())
    assert written == [32, 32, 16]
    assert [stream.b.flow for stream in streams[:2]] == [None, streams[1].b.flow] and streams[1].b.flow
    assert place.told == ["the kernel does not take the flow: Cannot allocate memory"]
    place.offload.tick(time.monotonic())
    assert all(end.flow is not None for stream in streams for end in (stream.a, stream.b))
    # Another way for all of them: they come up, and go down by it together.
    written.clear()
    monkeypatch.setattr(_Ways, "find", lambda _, __, remote: Hop(1, remote[0], 1280))
    monkeypatch.setattr(_Ways, "changed", lambda _: True)
    place.offload.tick(time.monotonic())
    assert written == [32, 32, 16]
    assert {flow[88:92] for _, flow in place.kernel.loaded.flows.items()} == {struct.pack("=I", 1280)}
    # One that is taken up while it waits to be written is not written behind its back.
    place.offload._take_down(place.stream)
    place.offload.take_up(place.stream.a)
    place.offload._write()
    assert place.stream.a.flow is None and len(list(place.kernel.loaded.flows.items())) == 81
    for stream in streams:
        _close(stream)
