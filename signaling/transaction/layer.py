"""The transaction layer: the four machines of RFC 3261 s.17 with RFC 6026, as tables.

`Transactions` matches messages to machines, runs their timers and absorbs retransmissions. Free of I/O:
inputs are messages and the time, the result is a list of effects.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from signaling.flow import Address, Flow
from signaling.message import Field, Request, Response
from signaling.return_path import ReturnPaths
from signaling.transaction.client import Clients
from signaling.transaction.clockwork import Clockwork
from signaling.transaction.effects import Effect
from signaling.transaction.server import Servers
from signaling.transaction.tables import Input, State, TimerValues
from signaling.transaction.tx import ClientTx, ServerTx, Transaction


class Transactions:
    """All transactions of one SIP node.

    `branch` gives unguessable unique text for Via branches, `tag` for To tags of answers made here,
    `advertised` what Via says for a flow. Networks named in `symmetric` get every UDP answer where the request
    came from, also without rport (peers behind NAT). `return_paths` bounds what a forged source is sent; without
    it every host is believed. Above `max_transactions` a new request is answered 503
    without a transaction.
    """

    def __init__(
        self,
        timers: TimerValues,
        branch: Callable[[], str],
        advertised: Callable[[Flow], Address],
        tag: Callable[[], str],
        trying_at_once: bool = True,
        max_transactions: int = 100_000,
        symmetric: frozenset[str] = frozenset(),
        retry_after_s: int = 5,
        return_paths: ReturnPaths | None = None,
    ) -> None:
        self.max_transactions = max_transactions
        self.clockwork = Clockwork(return_paths)
        self.counters = self.clockwork.counters
        self.clients = Clients(timers, self.clockwork, branch, advertised)
        self.servers = Servers(timers, self.clockwork, tag, trying_at_once, symmetric, retry_after_s)

    def __len__(self) -> int:
        return len(self.clients.known) + len(self.servers.known)

    @property
    def symmetric(self) -> frozenset[str]:
        """The networks whose peers are answered where they sent from."""
        return self.servers.symmetric

    @symmetric.setter
    def symmetric(self, networks: frozenset[str]) -> None:
        self.servers.symmetric = networks

    @property
    def former_names(self) -> Mapping[str, tuple[str, ...]]:
        """Names that networks had before a reload, by the name that they have now."""
        return self.clockwork.former_names

    @former_names.setter
    def former_names(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self.clockwork.former_names = names

    def retime(self, timers: TimerValues) -> None:
        """Transactions to come have these timers; those that there are keep theirs."""
        self.clients.retime(timers)
        self.servers.retime(timers)

    def flows(self) -> list[Flow]:
        """The flows that transactions still need."""
        return [tx.peer for tx in self._all() if tx.holds]

    def receive(self, message: Request | Response, flow: Flow, now: float) -> list[Effect]:
        """Take in one parsed message that came on `flow`. ParseError when a field that matching needs is bad."""
        if isinstance(message, Response):
            return self.clients.receive(message, flow, now)
        return self.servers.receive(message, flow, now, len(self) >= self.max_transactions)

    def repeats(self, data: bytes, flow: Flow) -> bool | None:
        """Whether an INVITE that nobody has parsed is one that is served already; None where only that could tell."""
        return self.servers.repeats(data, flow)

    def send_request(
        self, request: Request, flow: Flow, owner: object, now: float
    ) -> tuple[ClientTx, list[Effect]]:
        """Open a client transaction for `request`, which gets our Via on top, and send it."""
        return self.clients.send(request, flow, owner, now)

    def send_ack(self, request: Request, flow: Flow) -> list[Effect]:
        """Send the ACK of a 2xx, which is no part of a transaction (RFC 3261 s.13.2.2.4).

        An ACK that has its Via is sent again as it is: the answer to a repeated 2xx.
        """
        return self.clients.send_ack(request, flow)

    def cancel(self, tx: ClientTx, fields: Sequence[Field], now: float) -> list[Effect]:
        """Cancel an INVITE, now or as soon as a provisional response has come (RFC 3261 s.9.1).

        `fields` are added to the CANCEL (Reason). Without effect after a final response and when repeated.
        """
        return self.clients.cancel(tx, fields, now)

    def answer(
        self, request: Request, flow: Flow, status: int, reason: str, fields: Sequence[Field]
    ) -> list[Effect]:
        """Answer a request without a transaction (RFC 3261 s.8.2.7): one that is repeated is answered again."""
        return self.servers.answer(request, flow, status, reason, fields)

    def respond(self, tx: ServerTx, response: Response, now: float) -> list[Effect]:
        """Answer `tx`. A 2xx of an INVITE may be repeated for as long as RFC 6026 keeps the transaction."""
        return self.servers.respond(tx, response, now)

    def unreachable(self, quoted: bytes, flow: Flow, now: float) -> list[Effect]:
        """An ICMP error says that a datagram to `flow` did not arrive, and quotes its beginning (RFC 3261 s.18.4)."""
        return self.clients.unreachable(quoted, flow, now)

    def transport_failed(self, flow: Flow, now: float) -> list[Effect]:
        """What was sent on `flow` did not arrive for sure (RFC 3261 s.17.1.4, RFC 6026 s.8.9)."""
        effects: list[Effect] = []
        for tx in self.clockwork.on(flow) if flow.reliable else self._all():
            if tx.peer == flow and (tx.state, Input.TRANSPORT_ERROR) in tx.table:
                self.counters.transport_failures += 1
                self._step(tx, Input.TRANSPORT_ERROR, now, effects)
        return effects

    def next_timer(self) -> float | None:
        """When `handle_timer` should be called next: never late, at times early."""
        return self.clockwork.next()

    def handle_timer(self, now: float) -> list[Effect]:
        """Run every timer that is due."""
        effects: list[Effect] = []
        while (tx := self.clockwork.due(now)) is not None:
            if tx.deadline <= now:
                self._step(tx, Input.DEADLINE, now, effects)
            elif tx.resend_at <= now:
                tx.resend_at = inf
                self._step(tx, Input.RESEND, now, effects)
            if tx.state is not State.TERMINATED:
                self.clockwork.arm(tx)
        return effects

    def _all(self) -> list[Transaction]:
        return [*self.clients.known.values(), *self.servers.known.values()]

    def _step(self, tx: Transaction, given: Input, now: float, effects: list[Effect]) -> None:
        if isinstance(tx, ClientTx):
            self.clients.step(tx, given, now, effects)
        elif isinstance(tx, ServerTx):
            self.servers.step(tx, given, now, effects)
