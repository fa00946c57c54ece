"""The worker's side of the kernel path where the kernel's table fails it: a full table, a call that is refused."""

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from media.fastpath import offload as module
from media.fastpath import table
from media.fastpath.netlink import Address, Hop
from media.fastpath.offload import Offload
from media.stream import Port, RelayEnd, RelayStream
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
    for end, local, peer in ((stream.a, US, PEER), (stream.b, FAR_US, FAR_PEER)):
        port = object.__new__(Port)
        end.rtp_port = port
        end.configure(
            (
                *local,
                0,
                peer,
                None,
                False,
                "off",
                None,
                True,
                True,
                ((0, "PCMU", 8000),),
                0,
                None,
                None,
                False,
            ),
            bytearray(),
        )
        end.gate.restore(peer)
        end.aim()
        end.reception = reception()
        end.reception.codecs(((0, "PCMU", 8000),))
    yield Place(kernel, offload, stream, told, *fds)
    for fd in fds:
        os.close(fd)


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
