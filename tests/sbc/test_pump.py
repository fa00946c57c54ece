"""Between wires, relay and calls: what a turn holds back leaves at its end, whatever happens in it."""

import asyncio
from collections import Counter
from typing import cast

import pytest

from media.relay import RelayEvent, SourceLocked, WorkerRestarted
from sbc.calls import Calls
from sbc.journal import Journal
from sbc.log import get_log
from sbc.pump import Pump
from signaling.flow import Flow
from signaling.transport.wires import Wires

pytestmark = pytest.mark.source

UDP = Flow("public", "udp", ("192.0.2.1", 5060), ("192.0.2.9", 5060))
TCP = Flow("public", "tcp", ("192.0.2.1", 5060), ("192.0.2.9", 4711), 1)
STUN = bytes((0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42)) + bytes(12)


class Half:
    """In place of `Calls`: each input has the relay told something, and some meet a bug."""

    def __init__(self) -> None:
        self.pump: Pump
        self.stats: Counter[str] = Counter()
        self.told: list[str] = []
        self.trunks = self.outbound = self
        self.eventful = False
        self.live: dict[str, object] = {}
        self.recent: list[object] = []

    def receive(self, data: bytes, flow: Flow, now: float, age_s: float, glanced: bool) -> None:
        self._tell(data.decode())

    def relay_event(self, event: RelayEvent, now: float) -> None:
        self._tell("event")

    def transport_failed(self, flow: Flow, now: float) -> None:
        self._tell("failed")

    def next_timer(self) -> float | None:
        return None

    def _tell(self, what: str) -> None:
        self.pump.soon(lambda: self.told.append(what))
        if what == "bug":
            raise LookupError(what)


class Seldom:
    """What the server does."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def attend(self) -> None:
        self.seen.append("attend")

    def stun(self, data: bytes, flow: Flow) -> None:
        self.seen.append(data)

    def restarted(self, event: WorkerRestarted) -> None:
        self.seen.append(event)


def pumped(loop: asyncio.AbstractEventLoop) -> tuple[Pump, Half, Seldom]:
    calls, seldom = Half(), Seldom()
    pump = Pump(loop, Journal(get_log("sbc.test")), seldom)
    pump.begin(cast(Wires, None), cast(Calls, calls))
    calls.pump = pump
    return pump, calls, seldom


def test_what_a_row_of_datagrams_has_to_say_leaves_when_it_is_done() -> None:
    async def scenario() -> None:
        pump, calls, _ = pumped(asyncio.get_running_loop())
        for word in ("one", "bug", "two"):
            pump.receive(word.encode(), UDP, 0.0)
        assert calls.told == []
        pump.rearm()
        assert calls.told == ["one", "bug", "two"]
        assert calls.stats == {"bug:LookupError": 1}

    asyncio.run(scenario())


def test_all_other_turns_are_over_at_once() -> None:
    async def scenario() -> None:
        pump, calls, seldom = pumped(asyncio.get_running_loop())
        pump.receive(b"stream", TCP, 0.0)
        pump.failed(UDP)
        pump.relay_event(SourceLocked(1, "c", "a", UDP.remote))
        restarted = WorkerRestarted(0, 0, ())
        pump.relay_event(restarted)
        assert calls.told == ["stream", "failed", "event", "event"]
        assert seldom.seen == [restarted]

    asyncio.run(scenario())


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_stun_begins_no_turn(flow: Flow) -> None:
    """No end of it would come by a stream: what is said next would wait for the next message."""

    async def scenario() -> None:
        pump, calls, seldom = pumped(asyncio.get_running_loop())
        pump.receive(STUN, flow, 0.0)
        pump.soon(lambda: calls.told.append("later"))
        await asyncio.sleep(0)
        assert calls.told == ["later"] and seldom.seen == [STUN]

    asyncio.run(scenario())
