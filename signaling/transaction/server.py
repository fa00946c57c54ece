"""Server transactions (RFC 3261 s.17.2, RFC 6026 s.7.1, RFC 4320): requests of the peer, merged ones among them
(s.8.2.2.2), and CANCEL (s.9.2)."""

from collections.abc import Callable, Sequence

from signaling.flow import Flow
from signaling.headers import Via, tag_of
from signaling.message import Field, Request, Response, respond
from signaling.transaction.clockwork import Clockwork
from signaling.transaction.effects import (
    AckReceived,
    CancelReceived,
    Effect,
    RequestReceived,
    TransactionFailed,
    Transmit,
)
from signaling.transaction.tables import INVITE_SERVER, SERVER, Do, Input, State, TimerValues
from signaling.transaction.tx import Key, ServerTx
from signaling.transaction.via import has_cookie, invite_key, merge_key, server_key, stateless_tag, way_back


class Servers:
    """Requests of peers, until no repetition of them can come any more; `known` has them by what those match."""

    def __init__(
        self,
        timers: TimerValues,
        clockwork: Clockwork,
        tag: Callable[[], str],
        trying_at_once: bool,
        symmetric: frozenset[str],
        retry_after_s: int,
    ) -> None:
        self._trying_at_once = trying_at_once
        self.known: dict[Key, ServerTx] = {}
        self._clockwork = clockwork
        self._tag = tag
        self.symmetric = symmetric
        self.retry_after_s = retry_after_s
        self._merging: dict[Key, ServerTx] = {}
        self.retime(timers)

    def retime(self, timers: TimerValues) -> None:
        """Transactions to come have these timers; those that there are keep theirs."""
        self._t2 = timers.t2
        self._invite_clocks = tuple(
            timers.invite_server(reliable, self._trying_at_once) for reliable in (False, True)
        )
        self._clocks = tuple(timers.server(reliable) for reliable in (False, True))

    def receive(self, request: Request, flow: Flow, now: float, full: bool) -> list[Effect]:
        """A request that came on `flow`; while it is `full` a new one is refused."""
        via = request.via
        method = request.method
        key = server_key(request, via, method, flow)
        tx = self._find(key, flow)
        if method == "ACK":
            return self._receive_ack(request, flow, tx, now)
        if method == "CANCEL":
            return self._receive_cancel(request, via, flow, tx)
        if tx is not None:
            self._clockwork.counters.retransmissions_received += 1
            effects: list[Effect] = []
            self.step(tx, Input.REQUEST, now, effects)
            return effects
        peer = way_back(request, via, flow, flow.network in self.symmetric)
        if full:
            self._clockwork.counters.refused += 1
            busy = [("Retry-After", str(self.retry_after_s))]
            return [stateless(request, peer, 503, "Service Unavailable", busy)]
        return self._serve(request, flow, peer, key, now)

    def repeats(self, data: bytes, flow: Flow) -> bool | None:
        """Whether an INVITE that nobody has parsed is one that is served already; None where only that could tell."""
        key = invite_key(data, flow)
        return None if key is None else self._find(key, flow) is not None

    def _find(self, key: Key, flow: Flow) -> ServerTx | None:
        tx = self.known.get(key)
        if tx is None and self._clockwork.former_names:
            for name in self._clockwork.former_names.get(flow.network, ()):
                tx = tx or self.known.get((*key[:-1], name))
        return tx

    def answer(
        self, request: Request, flow: Flow, status: int, reason: str, fields: Sequence[Field]
    ) -> list[Effect]:
        """Answer a request without a transaction."""
        peer = way_back(request, request.via, flow, flow.network in self.symmetric)
        return [stateless(request, peer, status, reason, fields)]

    def respond(self, tx: ServerTx, response: Response, now: float) -> list[Effect]:
        """Answer `tx`."""
        status = response.status
        if status >= 200:
            given = Input.SUCCESS if status < 300 else Input.FAILURE
        else:
            given = Input.PROVISIONAL
        effects: list[Effect] = []
        if tx.table is SERVER and (status < 200 or status == 408):
            self._clockwork.counters.suppressed += 1
            if status == 408 and (tx.state, Input.SILENT) in tx.table:
                self.step(tx, Input.SILENT, now, effects)
            return effects
        if (tx.state, given) not in tx.table or (
            tx.state is State.ACCEPTED and self._clockwork.overspent(tx)
        ):
            self._clockwork.counters.suppressed += 1
            return effects
        tx.data = response.encode()
        if status > 100:
            tx.to_value = response.get("To") or ""
        self.step(tx, given, now, effects)
        if given is Input.FAILURE and tx.merge_key is not None:
            # A proxy upstream may now try the next branch through us: not a merge but a second attempt.
            self._merging.pop(tx.merge_key, None)
            tx.merge_key = None
        return effects

    def _receive_ack(self, ack: Request, flow: Flow, tx: ServerTx | None, now: float) -> list[Effect]:
        if tx is None:
            return [AckReceived(ack, flow)]
        ours = tx.to_value != "" and ack.to_tag == tag_of(tx.to_value)
        if not has_cookie(ack.via) and tx.to_value and not ours:
            self._clockwork.counters.strays += 1  # s.17.2.3: the To tag is part of the match without a cookie
            return []
        if tx.state is State.ACCEPTED:
            return [AckReceived(ack, flow)]
        if ours and self._clockwork.return_paths is not None:
            self._clockwork.return_paths.prove(flow.network, flow.remote[0])
        effects: list[Effect] = []
        self.step(tx, Input.ACK, now, effects)
        return effects

    def _receive_cancel(self, cancel: Request, via: Via, flow: Flow, tx: ServerTx | None) -> list[Effect]:
        # A CANCEL is answered without a transaction of its own: a retransmission gets the same answer again.
        peer = way_back(cancel, via, flow, flow.network in self.symmetric)
        # s.9.1: it takes the way of the INVITE, so who sends it from another host has only seen the branch.
        if tx is None or tx.flow.remote[0] != flow.remote[0]:
            self._clockwork.counters.cancels_unmatched += 1
            return [stateless(cancel, peer, 481, "Call/Transaction Does Not Exist")]
        answer = respond(cancel, 200, "OK", tag_of(tx.to_value) or stateless_tag(cancel))
        effects: list[Effect] = [Transmit(answer.encode(), peer)]
        if tx.state is State.PROCEEDING:  # after a final response CANCEL has no effect (s.9.2)
            effects.append(CancelReceived(tx, cancel))
        return effects

    def _serve(self, request: Request, flow: Flow, peer: Flow, key: Key, now: float) -> list[Effect]:
        merging = merge_key(request, flow) if request.to.tag is None else None
        tx = ServerTx(request, flow, peer, key)
        self.known[key] = tx
        if request.method == "INVITE":
            self._clockwork.start(tx, INVITE_SERVER, self._invite_clocks, State.PROCEEDING, now)
        else:
            self._clockwork.start(tx, SERVER, self._clocks, State.TRYING, now)
        if merging in self._merging:
            self._clockwork.counters.merged += 1
            return self.respond(tx, respond(request, 482, "Loop Detected", self._tag()), now)
        if merging is not None:
            tx.merge_key = merging
            self._merging[merging] = tx
        effects: list[Effect] = []
        if tx.table is INVITE_SERVER and self._trying_at_once:
            send_trying(tx, effects)
        effects.append(RequestReceived(tx, request, flow))
        return effects

    def step(self, tx: ServerTx, given: Input, now: float, effects: list[Effect]) -> None:
        """Move by the table, or count what came as a stray."""
        row = tx.table.get((tx.state, given))
        clockwork = self._clockwork
        if row is None:
            clockwork.counters.strays += 1
            return
        state, actions = row
        moved = state is not tx.state
        if moved:
            clockwork.enter(tx, state, now)
        for do in actions:
            if do is Do.TRANSMIT:
                effects.append(Transmit(tx.data, tx.peer))
            elif do is Do.REPEAT:
                if tx.data:
                    clockwork.counters.retransmissions_sent += 1
                    effects.append(Transmit(tx.data, tx.peer))
            elif do is Do.RETRANSMIT:
                clockwork.retransmit(tx, self._t2, now, effects)
            elif do is Do.TRYING:
                if not tx.data:
                    send_trying(tx, effects)
            else:
                effects.append(TransactionFailed(tx, clockwork.cause(do)))
        if not moved:
            return
        if state is State.TERMINATED:
            self.known.pop(tx.key, None)
            if tx.merge_key is not None:
                self._merging.pop(tx.merge_key, None)
            clockwork.forget(tx)
        elif not clockwork.lingers(tx, now):
            self.step(tx, Input.DEADLINE, now, effects)


def send_trying(tx: ServerTx, effects: list[Effect]) -> None:
    """A 100, which is repeated until something better comes."""
    tx.data = respond(tx.request, 100, "Trying", None).encode()
    effects.append(Transmit(tx.data, tx.peer))


def stateless(
    request: Request, peer: Flow, status: int, reason: str, fields: Sequence[Field] = ()
) -> Transmit:
    """An answer without a transaction (s.8.2.7): a request that is repeated is answered again."""
    return Transmit(respond(request, status, reason, stateless_tag(request), fields).encode(), peer)
