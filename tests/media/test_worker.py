"""The control side of a relay process: packets have their turn between commands, of which none is lost or overtaken."""

import gc
import marshal
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from media import worker as module
from media.reference import Reference
from media.relay import End, Learn, PortPair
from media.stream import Event
from media.worker import TURN_S, Worker
from media.worker_state import end_tuple

COST_S = TURN_S / 2


class Relay:
    """In place of `Reference`: a command takes COST_S of a clock of its own, and a turn of packets none."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[int] = []
        self.turns: list[tuple[bool, int]] = []
        """For each turn of packets: whether commands waited, and how many had been carried out."""
        self.worker: Worker

    def monotonic(self) -> float:
        return self.now

    def close(self, number: int) -> None:
        self.now += COST_S
        self.done.append(number)

    def change(self, number: int) -> None:
        raise ValueError(f"no such stream: {number}")

    def serve(self, at_once: bool) -> None:
        self.turns.append((at_once, len(self.done)))
        self.worker._read()

    def shut_down(self) -> None:
        self.turns.append((False, -1))


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Relay, socket.socket]]:
    """A worker's relay, and the parent's end of its control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    relay = Relay()
    relay.worker = Worker(theirs, 0, 100)
    monkeypatch.setattr(relay.worker, "_relay", relay)
    monkeypatch.setattr(module, "time", relay)
    with ours, theirs:
        yield relay, ours


def test_packets_have_their_turn_after_commands_of_two_milliseconds(
    ends: tuple[Relay, socket.socket],
) -> None:
    relay, parent = ends
    parent.send(marshal.dumps([("close", number) for number in range(5)]))
    parent.send(marshal.dumps([("close", number) for number in range(5, 8)]))
    parent.shutdown(socket.SHUT_WR)
    relay.worker.run()
    assert relay.done == list(range(8))
    assert relay.turns == [(False, 0), (True, 2), (True, 4), (False, 5), (True, 7), (False, 8), (False, -1)]


def test_a_command_that_fails_is_told_and_does_not_hold_up_the_next(
    ends: tuple[Relay, socket.socket],
) -> None:
    relay, parent = ends
    parent.send(marshal.dumps([("change", 7), ("close", 8)]))
    parent.shutdown(socket.SHUT_WR)
    relay.worker.run()
    assert relay.done == [8]
    assert marshal.loads(parent.recv(1000)) == [("unbound", 7, "change: ValueError('no such stream: 7')")]


def test_streams_leave_no_garbage() -> None:
    """The worker runs without a collector."""
    events: list[Event] = []
    relay = Reference(events.append, 46, 4096)
    pairs = [PortPair("loopback", "127.0.0.1", port, port + 1) for port in range(38000, 38080, 2)]
    gc.collect()
    gc.disable()
    try:
        for number, (one, other) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            a = End(one, ("127.0.0.1", 9), codecs=((0, "PCMU", 8000),), learn=Learn.PORT, expect="127.0.0.1")
            b = End(other)
            limits = (10.0, 0.0, 0.0, 20.0)
            relay.open(
                number, "rtp", end_tuple(a, frozenset()), end_tuple(b, frozenset()), limits, (None, None)
            )
            relay.change(number, "b", end_tuple(replace(b, remote=("127.0.0.1", 9)), frozenset()))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.sendto(bytes((0x80, 0)) + bytes(170), ("127.0.0.1", one.rtp))
                peer.sendto(b"no RTP", ("127.0.0.1", other.rtp))
            relay.serve(at_once=True)
            relay.close(number)
        assert [event[0] for event in events].count("closed") == len(pairs) // 2
        assert gc.collect() == 0
    finally:
        gc.enable()
        relay.shut_down()
