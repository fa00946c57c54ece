"""What comes goes to the calls, what they say to the wires, and the one timer is set: every turn of the process.

Every message passes here, so it is compiled (ARCHITECTURE.md, Building); what happens seldom is the server's.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from media.relay import RelayEvent, WorkerRestarted
from nat.stun import is_stun
from sbc.calls import Calls
from sbc.journal import Journal
from sbc.record import CallRecord
from signaling.flow import Flow, host_port
from signaling.stateless import METHODS
from signaling.transport.wires import Wires

GRAIN_S = 0.05
"""Timers may be as late as this, a tenth of T1 (RFC 3261 s.17.1.1.1): what is due in it is done in one go."""


class Attendant(Protocol):
    """Who does what happens seldom."""

    def attend(self) -> None:
        """Servers or registrations have something to tell."""

    def stun(self, data: bytes, flow: Flow) -> None:
        """STUN came to a SIP port."""

    def restarted(self, event: WorkerRestarted) -> None:
        """A relay worker has taken the place of another."""


class Pump:
    """Between the wires, the relay and the calls. A bug in one input never ends the others: it is counted and told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, journal: Journal, attendant: Attendant) -> None:
        self._loop = loop
        self._journal = journal
        self._attendant = attendant
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf
        self._turning = False
        self._afterwards: list[Callable[[], None]] = []

    def begin(self, wires: Wires, calls: Calls) -> None:
        """Between these: before anything comes."""
        self._wires = wires
        self._calls = calls

    def soon(self, callback: Callable[[], None]) -> None:
        """Have something done at the end of this turn, or of the loop's next: once for all that came together."""
        if self._turning:
            self._afterwards.append(callback)
        else:
            self._loop.call_soon(callback)

    # -- messages ------------------------------------------------------------------------------------------

    def send(self, data: bytes, flow: Flow) -> None:
        """A message leaves."""
        if self._journal.debugging:
            self._journal.sent(data, flow, self._known())
        self._wires.send(data, flow)

    def answers(self, data: bytes, flow: Flow, age_s: float) -> bool:
        """Whether a datagram is answered without being kept; what is left to `receive` has been looked at."""
        if self._journal.debugging:
            return False  # the journal shows every message
        try:
            return self._calls.stateless.answers(data, flow, time.monotonic(), age_s)
        except Exception as error:
            self.broken("message", error, flow)
            return True

    def receive(self, data: bytes, flow: Flow, age_s: float) -> None:
        """A message came, and has waited for us at most so long. `rearm` follows when a row of datagrams is done."""
        if data[0] < 4 and is_stun(data):
            self._attendant.stun(data, flow)
            return
        self._turning = True
        debugging = self._journal.debugging
        if debugging:
            self._journal.begin(data, flow, age_s)
        try:
            glanced = not debugging and flow.transport == "udp" and data.startswith(METHODS)
            self._calls.receive(data, flow, time.monotonic(), age_s, glanced)
        # The one broad except of this loop: a bug outside of any call must not end every call.
        except Exception as error:
            self.broken("message", error, flow)
        if debugging:
            self._journal.finish(self._known())
        if flow.transport != "udp":
            self.rearm()

    def failed(self, flow: Flow) -> None:
        """What was sent on a flow did not arrive."""
        self._turn("transport failure", lambda: self._calls.transport_failed(flow, time.monotonic()), flow)

    def refused(self, quoted: bytes, flow: Flow) -> None:
        """The network says that a datagram did not arrive, and quotes the beginning of it."""
        self._turn("ICMP error", lambda: self._calls.unreachable(quoted, flow, time.monotonic()), flow)

    def relay_event(self, event: RelayEvent) -> None:
        """The relay tells what happened to a stream."""
        if isinstance(event, WorkerRestarted):
            self._attendant.restarted(event)
        self._turn(type(event).__name__, lambda: self._calls.relay_event(event, time.monotonic()))

    def _turn(self, what: str, work: Callable[[], None], flow: Flow | None = None) -> None:
        """A turn that is no row of datagrams."""
        self._turning = True
        try:
            work()
        except Exception as error:
            self.broken(what, error, flow)
        self.rearm()

    def _known(self) -> list[CallRecord]:
        return [*self._calls.live.values(), *reversed(self._calls.recent)]

    # -- time ----------------------------------------------------------------------------------------------

    def rearm(self) -> None:
        """After every input: have told what servers did, and wake up when it is time again."""
        self._turning = False
        if self._afterwards:
            afterwards, self._afterwards = self._afterwards, []
            for callback in afterwards:
                callback()
        calls = self._calls
        if calls.trunks.eventful or calls.outbound.eventful:
            self._attendant.attend()
        if self._armed <= time.monotonic() + GRAIN_S:
            return  # Whatever is due before it can wait for it.
        due = calls.next_timer()
        if due is None:
            return
        at = math.ceil(due / GRAIN_S) * GRAIN_S
        if self._timer is not None:
            # Waking too early costs a look; cancelling at every message costs more, and fills the loop's heap.
            if self._armed <= at:
                return
            self._timer.cancel()
        self._armed = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._armed = math.inf
        self._turn("timer", lambda: self._calls.handle_timer(time.monotonic()))

    def stop(self) -> None:
        """No timer follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- bugs ----------------------------------------------------------------------------------------------

    def broken(self, what: str, error: Exception, flow: Flow | None = None) -> None:
        """A bug of ours was met by an input."""
        where: dict[str, object] = {}
        if flow is not None:
            where = {"network": flow.network, "transport": flow.transport, "peer": host_port(flow.remote)}
        self._journal.bug(error, met_by=what, **where)
        self._calls.stats[f"bug:{type(error).__name__}"] += 1
