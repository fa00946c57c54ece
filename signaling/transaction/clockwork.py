"""What all transactions have in common: states with timers, one heap for all of them, and an end."""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from signaling.flow import Flow
from signaling.return_path import UNPROVEN_REPEATS, ReturnPaths
from signaling.transaction.effects import Cause, Effect, Transmit
from signaling.transaction.tables import Clocks, Do, State, Table
from signaling.transaction.tx import ClientTx, Transaction

# Fewer stale entries than this are not worth a look.
FEW = 64


@dataclass(slots=True)
class Counters:
    """What the layer dealt with by itself, for the operator."""

    retransmissions_received: int = 0
    retransmissions_sent: int = 0
    strays: int = 0  # matched nothing, or came in a state that has no use for it
    merged: int = 0
    refused: int = 0  # 503 because of max_transactions
    suppressed: int = 0  # answers that RFC 4320 forbids, or that came after the end
    cancels_unmatched: int = 0
    timeouts: int = 0
    transport_failures: int = 0


class Clockwork:
    """The clocks of all transactions, and the connections that they depend on.

    The heap has one entry for each transaction, at the earlier of its clocks or before: an entry that comes up too
    early is pushed again, one that is not `armed_at` any more is dropped. `former_names` are those that networks had
    before a reload, by the name that they have now.
    """

    __slots__ = ("_armed", "_heap", "_on_flow", "_order", "counters", "former_names", "return_paths")

    def __init__(self, return_paths: ReturnPaths | None) -> None:
        self.return_paths = return_paths
        self.counters = Counters()
        self.former_names: Mapping[str, tuple[str, ...]] = {}
        self._on_flow: dict[Flow, set[Transaction]] = {}  # reliable flows only
        self._heap: list[tuple[float, int, Transaction]] = []
        self._order = 0
        self._armed = 0

    def __len__(self) -> int:
        """Entries of the heap, stale ones included."""
        return len(self._heap)

    # -- states --------------------------------------------------------------------------------------------

    def start(
        self, tx: Transaction, table: Table, clocks: tuple[Clocks, ...], state: State, now: float
    ) -> None:
        """Begin with `state` of `table`; `clocks` are a pair: for an unreliable transport, for a reliable one."""
        tx.table = table
        reliable = tx.peer.reliable
        tx.clocks = clocks[reliable]
        if reliable:
            self._on_flow.setdefault(tx.peer, set()).add(tx)
        self.enter(tx, state, now)
        self.arm(tx)

    def enter(self, tx: Transaction, state: State, now: float) -> None:
        """The one place where a state is assigned: its timers start, those of the old state stop."""
        tx.state = state
        clocks = tx.clocks.get(state)
        if clocks is None:
            return
        tx.interval, deadline_s = clocks
        tx.resend_at = now + tx.interval
        if deadline_s is not None:
            tx.deadline = now + deadline_s

    def lingers(self, tx: Transaction, now: float) -> bool:
        """After a change of state: whether it lasts. Its timer is set then."""
        if tx.deadline <= now:
            return False
        if tx.state is State.ACCEPTED or tx.state is State.COMPLETED:
            tx.slim()
        self.arm(tx)
        return True

    def forget(self, tx: Transaction) -> None:
        """It has ended."""
        if tx.armed_at != inf:
            tx.armed_at = inf
            self._armed -= 1
        tx.data = b""
        if tx.peer.reliable:
            on_flow = self._on_flow.get(tx.peer)
            if on_flow is not None:
                on_flow.discard(tx)
                if not on_flow:
                    del self._on_flow[tx.peer]

    def on(self, flow: Flow) -> list[Transaction]:
        """Those whose peer is reached by this connection."""
        return list(self._on_flow.get(flow, ()))

    def cause(self, do: Do) -> Cause:
        """Why the table says that a transaction has failed."""
        if do is not Do.TIMED_OUT:
            return "transport"
        self.counters.timeouts += 1
        return "timeout"

    def renamed(self, before: str, now: str) -> bool:
        """Whether a network was called `before` and is called `now` since a reload."""
        return before in self.former_names.get(now, ())

    # -- timers --------------------------------------------------------------------------------------------

    def arm(self, tx: Transaction) -> None:
        """Come back to it by its next clock."""
        at = tx.resend_at if tx.resend_at < tx.deadline else tx.deadline
        if at >= tx.armed_at:
            return  # an earlier entry is in the heap and will come back for this one
        if tx.armed_at == inf:
            self._armed += 1
        tx.armed_at = at
        self._order += 1
        heap = self._heap
        heappush(heap, (at, self._order, tx))
        if len(heap) > FEW + 2 * self._armed:
            # Transactions that ended early (reliable transports) leave entries behind: keep the heap in proportion.
            heap[:] = [entry for entry in heap if entry[2].armed_at == entry[0]]
            heapify(heap)

    def next(self) -> float | None:
        """When the first of them is due: never late, at times early."""
        heap = self._heap
        while heap and heap[0][2].armed_at != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> Transaction | None:
        """The next that is due; None when there is no other."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, tx = heappop(heap)
            if tx.armed_at == at:
                tx.armed_at = inf
                self._armed -= 1
                return tx
        return None

    # -- repetitions ---------------------------------------------------------------------------------------

    def retransmit(self, tx: Transaction, cap: float, now: float, effects: list[Effect]) -> None:
        """A timer says so: send the last bytes again, and next time after twice the time."""
        tx.interval = min(2 * tx.interval, cap)
        tx.resend_at = now + tx.interval
        if not self.overspent(tx):
            self.counters.retransmissions_sent += 1
            effects.append(Transmit(tx.data, tx.peer))

    def overspent(self, tx: Transaction) -> bool:
        """Whether `tx` may not repeat what it sent once more: see `signaling.return_path`."""
        paths = self.return_paths
        if paths is None or tx.peer.reliable or paths.proven(tx.peer.network, tx.peer.remote[0]):
            return False
        if isinstance(tx, ClientTx) and tx.request.to_tag is None:
            return False  # a server of our own choice: nobody else has aimed us at it
        tx.repeats += 1
        return tx.repeats > UNPROVEN_REPEATS
