"""What holds the NAT of a phone open, and finds out that it is gone: a core without I/O.

One keep-alive for each flow, however many users it carries, spread evenly over the period and never in bursts. CRLF
is the double CRLF of RFC 5626 s.3.5.1, OPTIONS is answered by the phone, so that a packet crosses its NAT outwards,
which is what RFC 4787 s.4.3 makes every NAT count. Short registrations (`expiry`) need nothing from here.
"""

from dataclasses import dataclass
from typing import Literal

from config.frozen import frozen
from sbc.binding import Binding, FlowKey
from sbc.locations import Locations
from sbc.wakeups import Wakeups, apart
from signaling.flow import Flow

Kind = Literal["crlf", "options", "off"]

CRLF = b"\r\n\r\n"
MISSES = 3
"""Unanswered OPTIONS in a row after which a phone that used to answer is gone."""
MUTE = 2
"""Unanswered OPTIONS after which a phone that never answered one gets CRLF instead (keepalive: auto)."""
NO_ANSWER = "no answer to OPTIONS"


@frozen
class KeepAlive:
    """To be sent now. OPTIONS goes to `contact` and is handed back with what became of it."""

    flow: Flow
    kind: Kind
    contact: str


@dataclass(slots=True, eq=False)
class _Watch:
    """A flow that is kept alive. `asked` while an OPTIONS is under way, `answered` once one was ever answered."""

    flow: Flow
    kind: Kind
    due: float
    armed: float | None = None
    asked: bool = False
    answered: bool = False
    missed: int = 0


class KeepAlives:
    """The flows of phones that want keeping alive. `mode` and `every_s` are those of the configuration."""

    def __init__(self, locations: Locations, mode: str, every_s: float) -> None:
        self._locations = locations
        self.mode = mode
        self.every_s = every_s
        self._watches: dict[FlowKey, _Watch] = {}
        self._wakeups: Wakeups[_Watch] = Wakeups()
        self._phase = 0

    def __len__(self) -> int:
        return len(self._watches)

    def kind(self, binding: Binding) -> Kind:
        """What this phone needs."""
        reliable = binding.flow.reliable
        match self.mode:
            case "auto" if binding.outbound and reliable:
                return "off"  # RFC 5626 s.4.4: it pings, and we answer
            case "auto" if reliable:
                return "crlf"
            case "auto":
                return "options" if binding.nat else "off"
            case "crlf":
                return "crlf"
            case "options":
                return "options"
            case _:
                return "off"

    def watch(self, binding: Binding, now: float) -> None:
        """A phone has registered, or is back from the store."""
        if binding.flow_key in self._watches or binding.dead:
            return
        kind = self.kind(binding)
        if kind == "off":
            return
        self._phase += 1
        due = now + apart(self._phase) * self.every_s
        watch = _Watch(binding.flow, kind, due)
        self._watches[binding.flow_key] = watch
        self._wakeups.arm(watch, due)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due; at times early."""
        return self._wakeups.next()

    def handle_timer(self, now: float) -> list[KeepAlive]:
        """What is to be sent now. Flows that no binding uses any more are let go."""
        sent: list[KeepAlive] = []
        for watch in self._wakeups.due(now):
            flow = watch.flow
            bindings = [one for one in self._locations.on_flow(flow) if not one.dead]
            if not bindings:
                self._drop(watch)
                continue
            # By the plan and not by the clock, so that a late timer does not bunch them.
            watch.due += self.every_s * (max(0.0, now - watch.due) // self.every_s + 1)
            self._wakeups.arm(watch, watch.due)
            if not watch.asked:
                watch.asked = watch.kind == "options"
                sent.append(KeepAlive(flow, watch.kind, bindings[0].contact))
        return sent

    def answered(self, keep: KeepAlive, now: float) -> None:
        """The phone has answered an OPTIONS, whatever it said."""
        watch = self._of(keep)
        if watch is not None:
            watch.asked, watch.answered, watch.missed = False, True, 0
            for binding in self._locations.on_flow(keep.flow):
                self._locations.heard(binding, now)

    def unanswered(self, keep: KeepAlive) -> list[Binding]:
        """It has not; the bindings that are dead by that."""
        watch = self._of(keep)
        if watch is None:
            return []
        watch.asked = False
        watch.missed += 1
        if watch.answered and watch.missed >= MISSES:
            self._drop(watch)
            return self._locations.lost(keep.flow, NO_ANSWER)
        if not watch.answered and watch.missed >= MUTE and self.mode == "auto":
            watch.kind = "crlf"
        return []

    def _of(self, keep: KeepAlive) -> _Watch | None:
        flow = keep.flow
        watch = self._watches.get((flow.network, flow.transport, flow.remote))
        return watch if watch is not None and watch.flow == flow else None

    def _drop(self, watch: _Watch) -> None:
        flow = watch.flow
        key = (flow.network, flow.transport, flow.remote)
        if self._watches.get(key) is watch:
            del self._watches[key]
        self._wakeups.disarm(watch)
