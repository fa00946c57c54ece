"""Client transactions (RFC 3261 s.17.1, RFC 6026 s.7.2): requests of ours, and CANCEL (s.9.1)."""

from collections.abc import Callable, Sequence
from math import inf

from signaling.errors import UsageError
from signaling.flow import Address, Flow, host_port
from signaling.message import Field, Request, Response
from signaling.transaction.clockwork import Clockwork
from signaling.transaction.effects import Effect, ResponseReceived, TransactionFailed, Transmit
from signaling.transaction.tables import (
    CANCEL_CLIENT,
    CLIENT,
    INVITE_CLIENT,
    Do,
    Input,
    State,
    TimerValues,
)
from signaling.transaction.tx import ClientTx, Key
from signaling.transaction.via import MAGIC_COOKIE, client_key, quoted_key


class Clients:
    """Requests of ours; `known` has them by what their answers match."""

    def __init__(
        self,
        timers: TimerValues,
        clockwork: Clockwork,
        branch: Callable[[], str],
        advertised: Callable[[Flow], Address],
    ) -> None:
        self.known: dict[Key, ClientTx] = {}
        self._clockwork = clockwork
        self._branch = branch
        self._advertised = advertised
        self.retime(timers)

    def retime(self, timers: TimerValues) -> None:
        """Transactions to come have these timers; those that there are keep theirs."""
        self._t2 = timers.t2
        self._give_up_s = timers.give_up_s
        self._invite_clocks = tuple(timers.invite_client(reliable) for reliable in (False, True))
        self._clocks = tuple(timers.client(reliable) for reliable in (False, True))

    def send(self, request: Request, flow: Flow, owner: object, now: float) -> tuple[ClientTx, list[Effect]]:
        """Open a transaction for `request`, which gets our Via on top, and send it."""
        method = request.method
        if method in ("ACK", "CANCEL"):
            raise UsageError(f"{method} has no client transaction of its own: use send_ack or cancel")
        tx = ClientTx(request, flow, self._prepend_via(request, flow), owner)
        if method == "INVITE":
            self._clockwork.start(tx, INVITE_CLIENT, self._invite_clocks, State.CALLING, now)
        else:
            self._clockwork.start(tx, CLIENT, self._clocks, State.TRYING, now)
        self.known[tx.key] = tx
        tx.data = request.encode()
        return tx, [Transmit(tx.data, flow)]

    def send_ack(self, request: Request, flow: Flow) -> list[Effect]:
        """Send the ACK of a 2xx, which is no part of a transaction (s.13.2.2.4)."""
        if request.fields[0][0] != "Via":
            self._prepend_via(request, flow)
        return [Transmit(request.encode(), flow)]

    def cancel(self, tx: ClientTx, fields: Sequence[Field], now: float) -> list[Effect]:
        """Cancel an INVITE, now or as soon as a provisional response has come."""
        effects: list[Effect] = []
        if (tx.state, Input.CANCEL) in tx.table and not tx.cancelled:
            tx.cancel_fields = fields
            self.step(tx, Input.CANCEL, now, effects)
        return effects

    def receive(self, response: Response, flow: Flow, now: float) -> list[Effect]:
        """A response that came on `flow`."""
        tx = self.known.get(client_key(response))
        # The branch is unguessable, so a response from elsewhere is only possible from inside the peer's network.
        clockwork = self._clockwork
        if tx is None or (
            tx.flow.network != flow.network and not clockwork.renamed(tx.flow.network, flow.network)
        ):
            clockwork.counters.strays += 1
            return []
        if clockwork.return_paths is not None:
            clockwork.return_paths.prove(flow.network, flow.remote[0])
        status = response.status
        if status < 200:
            given = Input.PROVISIONAL
        elif status < 300:
            given = Input.SUCCESS
        else:
            given = Input.FAILURE
        effects: list[Effect] = []
        self.step(tx, given, now, effects, response)
        return effects

    def unreachable(self, quoted: bytes, flow: Flow, now: float) -> list[Effect]:
        """An ICMP error says that a datagram to `flow` did not arrive, and quotes its beginning (s.18.4).

        Believed only where the quote is of a request of ours that nobody has answered: its branch is known to nobody
        who is not on the way, while anybody can forge the rest.
        """
        key = quoted_key(quoted)
        tx = None if key is None else self.known.get(key)
        if tx is None or tx.peer != flow or tx.state not in (State.CALLING, State.TRYING):
            return []
        self._clockwork.counters.transport_failures += 1
        effects: list[Effect] = []
        self.step(tx, Input.TRANSPORT_ERROR, now, effects)
        return effects

    def step(
        self,
        tx: ClientTx,
        given: Input,
        now: float,
        effects: list[Effect],
        response: Response | None = None,
    ) -> None:
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
            if do is Do.PASS_UP:
                if response is not None:
                    effects.append(ResponseReceived(tx, response))
            elif do is Do.ACK:
                if response is not None:
                    ack = tx.same_branch("ACK", response.get("To") or "")
                    effects.append(Transmit(ack.encode(), tx.peer))
            elif do is Do.CANCEL:
                if tx.cancel_fields is not None:
                    self._send_cancel(tx, tx.cancel_fields, now, effects)
            elif do is Do.RETRANSMIT:
                clockwork.retransmit(tx, inf if tx.table is INVITE_CLIENT else self._t2, now, effects)
            else:
                effects.append(TransactionFailed(tx, clockwork.cause(do)))
        if not moved:
            return
        if state is State.TERMINATED:
            self.known.pop(tx.key, None)
            clockwork.forget(tx)
        elif not clockwork.lingers(tx, now):
            self.step(tx, Input.DEADLINE, now, effects)

    def _send_cancel(self, tx: ClientTx, fields: Sequence[Field], now: float, effects: list[Effect]) -> None:
        tx.cancel_fields = None
        tx.cancelled = True
        # s.9.1: without a final response within 64*T1 the INVITE counts as cancelled.
        tx.deadline = now + self._give_up_s
        self._clockwork.arm(tx)
        cancel = tx.same_branch("CANCEL", tx.request.get("To") or "")
        for name, value in fields:
            cancel.add(name, value)
        own = ClientTx(cancel, tx.flow, tx.branch, None)
        self._clockwork.start(own, CANCEL_CLIENT, self._clocks, State.TRYING, now)
        self.known[own.key] = own
        own.data = cancel.encode()
        effects.append(Transmit(own.data, own.peer))

    def _prepend_via(self, request: Request, flow: Flow) -> str:
        branch = self._branch()
        if not branch.startswith(MAGIC_COOKIE):
            branch = MAGIC_COOKIE + branch
        sent_by = host_port(self._advertised(flow))
        if flow.transport == "udp":
            via = f"SIP/2.0/UDP {sent_by};rport;branch={branch}"
        else:
            via = f"SIP/2.0/{flow.transport.upper()} {sent_by};branch={branch}"
        request.prepend("Via", via)
        return branch
