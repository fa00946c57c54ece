"""The transaction layer: the four machines of RFC 3261 s.17 with RFC 6026, as tables.

`Transactions` matches messages to machines, runs their timers and absorbs retransmissions. Free of I/O:
inputs are messages and the time, the result is a list of effects. RFC 4320 governs non-INVITE answers, RFC
3581 the way back of a response, RFC 3261 s.9 CANCEL, s.8.2.2.2 merged requests.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Literal

from config.frozen import frozen
from signaling.errors import UsageError
from signaling.flow import Address, Flow, host_port
from signaling.headers import Via, split_commas, tag_of
from signaling.message import Request, Response, respond
from signaling.return_path import UNPROVEN_REPEATS, ReturnPaths
from signaling.transaction_tables import (
    CANCEL_CLIENT,
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    Clocks,
    Do,
    Input,
    State,
    Table,
    TimerValues,
)

__all__ = [
    "AckReceived",
    "CancelReceived",
    "ClientTx",
    "Counters",
    "Effect",
    "RequestReceived",
    "ResponseReceived",
    "ServerTx",
    "State",
    "TimerValues",
    "TransactionFailed",
    "Transactions",
    "Transmit",
]

MAGIC_COOKIE = "z9hG4bK"
# What an ACK of a failure is built of (RFC 3261 s.17.1.1.3), and what names the transaction in a log.
_LINGERING = frozenset(("Via", "v", "Route", "From", "f", "To", "t", "Call-ID", "i", "CSeq"))
_EMPTY_RPORT = re.compile(r";[ \t]*rport[ \t]*(?=;|$)", re.IGNORECASE)


class Transaction:
    """What the four machines share: identity, the last bytes sent, and the two clocks of the state."""

    __slots__ = (
        "armed_at",
        "clocks",
        "data",
        "deadline",
        "flow",
        "holds",
        "interval",
        "key",
        "owner",
        "peer",
        "repeats",
        "request",
        "resend_at",
        "state",
        "table",
    )

    def __init__(self, request: Request, flow: Flow, peer: Flow, key: tuple[object, ...]) -> None:
        self.owner: object = None
        self.request = request
        self.flow = flow
        self.peer = peer  # where `data` goes: for a server the way back of RFC 3261 s.18.2.2
        self.key = key
        self.data = b""
        self.state = State.TERMINATED
        self.table: Table = SERVER
        self.clocks: Clocks = {}
        self.interval = inf
        self.resend_at = inf
        self.deadline = inf
        self.armed_at = inf  # when the timer heap looks at us next
        self.repeats = 0  # of `data`, while the peer has not shown that it arrives
        self.holds = True  # whether its listener stays open for it after a reload

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request.method} {self.state.name})"


class ClientTx(Transaction):
    """A request of ours. `owner` is the caller's, `request` holds the Via that was sent.

    Of `request` only the fields that name the transaction stay after the final response.
    """

    __slots__ = ("branch", "cancel_fields", "cancelled")

    def __init__(self, request: Request, flow: Flow, branch: str, owner: object) -> None:
        super().__init__(request, flow, flow, (branch, request.method))
        self.owner = owner
        self.branch = branch
        self.cancel_fields: Sequence[tuple[str, str]] | None = None  # a CANCEL that waits for a provisional
        self.cancelled = False


class ServerTx(Transaction):
    """A request of the peer. `owner` is for the user; `flow` is where the request came from.

    Of `request` only the fields that name the transaction stay after the final response; `owner` goes with the
    last effect that could need it.
    """

    __slots__ = ("merge_key", "to_value")

    def __init__(self, request: Request, flow: Flow, peer: Flow, key: tuple[object, ...]) -> None:
        super().__init__(request, flow, peer, key)
        self.merge_key: tuple[object, ...] | None = None
        self.to_value = ""  # To of the last response that was not 100: its tag is ours


@frozen
class Transmit:
    """Send `data` on `flow`."""

    data: bytes
    flow: Flow


@frozen
class RequestReceived:
    """A new request, never an ACK, a CANCEL or a retransmission."""

    tx: ServerTx
    request: Request
    flow: Flow


@frozen
class CancelReceived:
    """The unanswered INVITE `tx` is cancelled by `request`, which is answered 200 before this effect."""

    tx: ServerTx
    request: Request


@frozen
class AckReceived:
    """An ACK that is not of a transaction: of a 2xx, or of nothing we know."""

    request: Request
    flow: Flow


@frozen
class ResponseReceived:
    """A response of `tx`: each provisional, the first final, and every 2xx of an INVITE (RFC 6026 s.7.2)."""

    tx: ClientTx
    response: Response


@frozen
class TransactionFailed:
    """`tx` ended without an answer (client), without an ACK or unanswered or undeliverable (server)."""

    tx: ClientTx | ServerTx
    cause: Literal["timeout", "transport"]


Effect = Transmit | RequestReceived | CancelReceived | AckReceived | ResponseReceived | TransactionFailed


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
        self._branch = branch
        self._advertised = advertised
        self._tag = tag
        self._trying_at_once = trying_at_once
        self.max_transactions = max_transactions
        self.symmetric = symmetric
        self.retry_after_s = retry_after_s
        self._return_paths = return_paths
        # Names that networks had before a reload, by the name that they have now.
        self.former_names: Mapping[str, tuple[str, ...]] = {}
        self._time(timers)
        self._clients: dict[tuple[object, ...], ClientTx] = {}
        self._servers: dict[tuple[object, ...], ServerTx] = {}
        self._merging: dict[tuple[object, ...], ServerTx] = {}
        self._on_flow: dict[Flow, set[ClientTx | ServerTx]] = {}  # reliable flows only
        # One entry for each transaction, at the earlier of its clocks or before: an entry that comes up too
        # early is pushed again, one that is not `armed_at` any more is dropped.
        self._heap: list[tuple[float, int, ClientTx | ServerTx]] = []
        self._order = 0
        self.counters = Counters()

    def _time(self, timers: TimerValues) -> None:
        self._t2 = timers.t2
        self._give_up_s = timers.give_up_s
        # Pairs: for an unreliable transport, for a reliable one.
        self._invite_client = tuple(timers.invite_client(reliable) for reliable in (False, True))
        self._client = tuple(timers.client(reliable) for reliable in (False, True))
        self._invite_server = tuple(
            timers.invite_server(reliable, self._trying_at_once) for reliable in (False, True)
        )
        self._server = tuple(timers.server(reliable) for reliable in (False, True))

    def __len__(self) -> int:
        return len(self._clients) + len(self._servers)

    def retime(self, timers: TimerValues) -> None:
        """Transactions to come have these timers; those that there are keep theirs."""
        self._time(timers)

    def flows(self) -> list[Flow]:
        """The flows that transactions still need."""
        return [tx.peer for tx in (*self._clients.values(), *self._servers.values()) if tx.holds]

    def receive(self, message: Request | Response, flow: Flow, now: float) -> list[Effect]:
        """Take in one parsed message that came on `flow`. ParseError when a field that matching needs is bad."""
        if isinstance(message, Response):
            return self._receive_response(message, flow, now)
        via = message.via
        method = message.method
        key = _server_key(message, via, method, flow)
        tx = self._servers.get(key)
        if tx is None and self.former_names:
            for name in self.former_names.get(flow.network, ()):
                tx = tx or self._servers.get((*key[:-1], name))
        if method == "ACK":
            return self._receive_ack(message, flow, tx, now)
        if method == "CANCEL":
            return self._receive_cancel(message, via, flow, tx, now)
        if tx is not None:
            self.counters.retransmissions_received += 1
            effects: list[Effect] = []
            self._step_server(tx, Input.REQUEST, now, effects)
            return effects
        peer = self._way_back(message, via, flow)
        if len(self) >= self.max_transactions:
            self.counters.refused += 1
            return [self._stateless(message, peer, 503, "Service Unavailable")]
        return self._serve(message, flow, peer, key, now)

    def send_request(
        self, request: Request, flow: Flow, owner: object, now: float
    ) -> tuple[ClientTx, list[Effect]]:
        """Open a client transaction for `request`, which gets our Via on top, and send it."""
        method = request.method
        if method in ("ACK", "CANCEL"):
            raise UsageError(f"{method} has no client transaction of its own: use send_ack or cancel")
        branch = self._prepend_via(request, flow)
        tx = ClientTx(request, flow, branch, owner)
        if method == "INVITE":
            self._start(tx, INVITE_CLIENT, self._invite_client, State.CALLING, now)
        else:
            self._start(tx, CLIENT, self._client, State.TRYING, now)
        self._clients[tx.key] = tx
        tx.data = request.encode()
        return tx, [Transmit(tx.data, flow)]

    def send_ack(self, request: Request, flow: Flow) -> list[Effect]:
        """Send the ACK of a 2xx, which is no part of a transaction (RFC 3261 s.13.2.2.4).

        An ACK that has its Via is sent again as it is: the answer to a repeated 2xx.
        """
        if request.fields[0][0] != "Via":
            self._prepend_via(request, flow)
        return [Transmit(request.encode(), flow)]

    def cancel(self, tx: ClientTx, fields: Sequence[tuple[str, str]], now: float) -> list[Effect]:
        """Cancel an INVITE, now or as soon as a provisional response has come (RFC 3261 s.9.1).

        `fields` are added to the CANCEL (Reason). Without effect after a final response and when repeated.
        """
        effects: list[Effect] = []
        if (tx.state, Input.CANCEL) in tx.table and not tx.cancelled:
            tx.cancel_fields = fields
            self._step_client(tx, Input.CANCEL, None, now, effects)
        return effects

    def answer(
        self, request: Request, flow: Flow, status: int, reason: str, fields: Sequence[tuple[str, str]]
    ) -> list[Effect]:
        """Answer a request without a transaction (RFC 3261 s.8.2.7): one that is repeated is answered again."""
        peer = self._way_back(request, request.via, flow)
        made = respond(request, status, reason, self._stateless_tag(request), fields)
        return [Transmit(made.encode(), peer)]

    def respond(self, tx: ServerTx, response: Response, now: float) -> list[Effect]:
        """Answer `tx`. A 2xx of an INVITE may be repeated for as long as RFC 6026 keeps the transaction."""
        status = response.status
        if status >= 200:
            given = Input.SUCCESS if status < 300 else Input.FAILURE
        else:
            given = Input.PROVISIONAL
        if tx.table is SERVER and (status < 200 or status == 408):
            self.counters.suppressed += 1
            if status < 200:
                return []
            given = Input.SILENT
        elif tx.state is State.ACCEPTED and self._overspent(tx):
            self.counters.suppressed += 1
            return []
        elif (tx.state, given) in tx.table:
            tx.data = response.encode()
            if status > 100:
                tx.to_value = response.get("To") or ""
        effects: list[Effect] = []
        self._step_server(tx, given, now, effects)
        if given is Input.FAILURE and tx.merge_key is not None:
            # A proxy upstream may now try the next branch through us: not a merge but a second attempt.
            self._merging.pop(tx.merge_key, None)
            tx.merge_key = None
        return effects

    def unreachable(self, quoted: bytes, flow: Flow, now: float) -> list[Effect]:
        """An ICMP error says that a datagram to `flow` did not arrive, and quotes its beginning (RFC 3261 s.18.4).

        Believed only where the quote is of a request of ours that nobody has answered: its branch is known to nobody
        who is not on the way, while anybody can forge the rest.
        """
        found = _QUOTED.match(quoted)
        tx = None if found is None else self._clients.get((found[2].decode(), found[1].decode()))
        if tx is None or tx.peer != flow or tx.state not in (State.CALLING, State.TRYING):
            return []
        self.counters.transport_failures += 1
        effects: list[Effect] = []
        self._step_client(tx, Input.TRANSPORT_ERROR, None, now, effects)
        return effects

    def transport_failed(self, flow: Flow, now: float) -> list[Effect]:
        """What was sent on `flow` did not arrive for sure (RFC 3261 s.17.1.4, RFC 6026 s.8.9)."""
        effects: list[Effect] = []
        hit: list[ClientTx | ServerTx]
        if flow.reliable:
            hit = list(self._on_flow.get(flow, ()))
        else:
            hit = [tx for tx in self._clients.values() if tx.peer == flow]
            hit += [server for server in self._servers.values() if server.peer == flow]
        for tx in hit:
            if (tx.state, Input.TRANSPORT_ERROR) not in tx.table:
                continue
            self.counters.transport_failures += 1
            if isinstance(tx, ClientTx):
                self._step_client(tx, Input.TRANSPORT_ERROR, None, now, effects)
            else:
                self._step_server(tx, Input.TRANSPORT_ERROR, now, effects)
        return effects

    def next_timer(self) -> float | None:
        """When `handle_timer` should be called next: never late, at times early."""
        heap = self._heap
        while heap and heap[0][2].armed_at != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Run every timer that is due."""
        effects: list[Effect] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, tx = heappop(heap)
            if tx.armed_at != at:
                continue
            tx.armed_at = inf
            if tx.deadline <= now:
                given = Input.DEADLINE
            elif tx.resend_at <= now:
                given = Input.RESEND
                tx.resend_at = inf
            else:
                self._arm(tx)
                continue
            if isinstance(tx, ClientTx):
                self._step_client(tx, given, None, now, effects)
            else:
                self._step_server(tx, given, now, effects)
            if tx.state is not State.TERMINATED:
                self._arm(tx)
        return effects

    # Receiving

    def _same_network(self, before: str, now: str) -> bool:
        return before == now or before in self.former_names.get(now, ())

    def _receive_response(self, response: Response, flow: Flow, now: float) -> list[Effect]:
        tx = self._clients.get(_client_key(response))
        # The branch is unguessable, so a response from elsewhere is only possible from inside the peer's network.
        if tx is None or not self._same_network(tx.flow.network, flow.network):
            self.counters.strays += 1
            return []
        if self._return_paths is not None:
            self._return_paths.prove(flow.network, flow.remote[0])
        status = response.status
        if status < 200:
            given = Input.PROVISIONAL
        elif status < 300:
            given = Input.SUCCESS
        else:
            given = Input.FAILURE
        effects: list[Effect] = []
        self._step_client(tx, given, response, now, effects)
        return effects

    def _receive_ack(self, ack: Request, flow: Flow, tx: ServerTx | None, now: float) -> list[Effect]:
        if tx is None:
            return [AckReceived(ack, flow)]
        if not _has_cookie(ack.via) and tx.to_value and ack.to_tag != tag_of(tx.to_value):
            self.counters.strays += 1  # RFC 3261 s.17.2.3: the To tag is part of the match without a cookie
            return []
        if tx.state is State.ACCEPTED:
            return [AckReceived(ack, flow)]
        if self._return_paths is not None and tx.to_value and ack.to_tag == tag_of(tx.to_value):
            self._return_paths.prove(flow.network, flow.remote[0])
        effects: list[Effect] = []
        self._step_server(tx, Input.ACK, now, effects)
        return effects

    def _receive_cancel(
        self, cancel: Request, via: Via, flow: Flow, tx: ServerTx | None, now: float
    ) -> list[Effect]:
        # A CANCEL is answered without a transaction of its own: a retransmission gets the same answer again.
        peer = self._way_back(cancel, via, flow)
        # s.9.1: it takes the way of the INVITE, so who sends it from another host has only seen the branch.
        if tx is None or tx.flow.remote[0] != flow.remote[0]:
            self.counters.cancels_unmatched += 1
            return [self._stateless(cancel, peer, 481, "Call/Transaction Does Not Exist")]
        tag = tag_of(tx.to_value)
        answer = respond(cancel, 200, "OK", tag or self._stateless_tag(cancel))
        effects: list[Effect] = [Transmit(answer.encode(), peer)]
        if tx.state is State.PROCEEDING:  # after a final response CANCEL has no effect (RFC 3261 s.9.2)
            effects.append(CancelReceived(tx, cancel))
        return effects

    def _serve(
        self, request: Request, flow: Flow, peer: Flow, key: tuple[object, ...], now: float
    ) -> list[Effect]:
        tx = ServerTx(request, flow, peer, key)
        merged = False
        if request.to.tag is None:
            # RFC 3261 s.8.2.2.2. The Request-URI is part of it: we stand for many user agents, and a proxy that
            # forks to two of them sends us two requests that differ in nothing else.
            cseq = request.cseq
            merge_key = (
                flow.network, request.call_id, request.from_.tag, cseq.number, cseq.method, request.uri
            )  # fmt: skip
            merged = merge_key in self._merging
            if not merged:
                tx.merge_key = merge_key
                self._merging[merge_key] = tx
        self._servers[key] = tx
        effects: list[Effect] = []
        if request.method == "INVITE":
            self._start(tx, INVITE_SERVER, self._invite_server, State.PROCEEDING, now)
        else:
            self._start(tx, SERVER, self._server, State.TRYING, now)
        if merged:
            self.counters.merged += 1
            return self.respond(tx, respond(request, 482, "Loop Detected", self._tag()), now)
        if tx.table is INVITE_SERVER and self._trying_at_once:
            self._send_trying(tx, effects)
        effects.append(RequestReceived(tx, request, flow))
        return effects

    # Machines

    def _start(
        self, tx: ClientTx | ServerTx, table: Table, clocks: tuple[Clocks, ...], state: State, now: float
    ) -> None:
        tx.table = table
        reliable = tx.peer.reliable
        tx.clocks = clocks[reliable]
        if reliable:
            self._on_flow.setdefault(tx.peer, set()).add(tx)
        self._enter(tx, state, now)
        self._arm(tx)

    def _enter(self, tx: ClientTx | ServerTx, state: State, now: float) -> None:
        """The one place where a state is assigned: its timers start, those of the old state stop."""
        tx.state = state
        clocks = tx.clocks.get(state)
        if clocks is None:
            return
        tx.interval, deadline_s = clocks
        tx.resend_at = now + tx.interval
        if deadline_s is not None:
            tx.deadline = now + deadline_s

    def _step_client(
        self, tx: ClientTx, given: Input, response: Response | None, now: float, effects: list[Effect]
    ) -> None:
        row = tx.table.get((tx.state, given))
        if row is None:
            self.counters.strays += 1
            return
        state, actions = row
        moved = state is not tx.state
        if moved:
            self._enter(tx, state, now)
        for do in actions:
            if do is Do.PASS_UP:
                if response is not None:
                    effects.append(ResponseReceived(tx, response))
            elif do is Do.ACK:
                if response is not None:
                    self._send_ack(tx, response, effects)
            elif do is Do.CANCEL:
                if tx.cancel_fields is not None:
                    self._send_cancel(tx, tx.cancel_fields, now, effects)
            elif do is Do.RETRANSMIT:
                cap = inf if tx.table is INVITE_CLIENT else self._t2
                self._retransmit(tx, cap, now, [] if self._overspent(tx) else effects)
            else:
                self._fail(tx, do, effects)
        if moved:
            self._settle(tx, now, effects)

    def _step_server(self, tx: ServerTx, given: Input, now: float, effects: list[Effect]) -> None:
        row = tx.table.get((tx.state, given))
        if row is None:
            if given in (Input.PROVISIONAL, Input.SUCCESS, Input.FAILURE, Input.SILENT):
                self.counters.suppressed += 1
            else:
                self.counters.strays += 1
            return
        state, actions = row
        moved = state is not tx.state
        if moved:
            self._enter(tx, state, now)
        for do in actions:
            if do is Do.TRANSMIT:
                effects.append(Transmit(tx.data, tx.peer))
            elif do is Do.REPEAT:
                if tx.data:
                    self.counters.retransmissions_sent += 1
                    effects.append(Transmit(tx.data, tx.peer))
            elif do is Do.RETRANSMIT:
                self._retransmit(tx, self._t2, now, [] if self._overspent(tx) else effects)
            elif do is Do.TRYING:
                if not tx.data:
                    self._send_trying(tx, effects)
            else:
                self._fail(tx, do, effects)
        if moved:
            self._settle(tx, now, effects)

    def _settle(self, tx: ClientTx | ServerTx, now: float, effects: list[Effect]) -> None:
        """After a change of state: end at once when the state lasts zero seconds, else set the timer."""
        if tx.state is State.TERMINATED:
            self._forget(tx)
        elif tx.deadline > now:
            if tx.state is State.ACCEPTED or tx.state is State.COMPLETED:
                _slim(tx)
            self._arm(tx)
        elif isinstance(tx, ClientTx):
            self._step_client(tx, Input.DEADLINE, None, now, effects)
        else:
            self._step_server(tx, Input.DEADLINE, now, effects)

    def _forget(self, tx: ClientTx | ServerTx) -> None:
        tx.armed_at = inf
        tx.data = b""
        if isinstance(tx, ClientTx):
            self._clients.pop(tx.key, None)
        else:
            self._servers.pop(tx.key, None)
            if tx.merge_key is not None:
                self._merging.pop(tx.merge_key, None)
        if tx.peer.reliable:
            on_flow = self._on_flow.get(tx.peer)
            if on_flow is not None:
                on_flow.discard(tx)
                if not on_flow:
                    del self._on_flow[tx.peer]

    def _fail(self, tx: ClientTx | ServerTx, do: Do, effects: list[Effect]) -> None:
        if do is Do.TIMED_OUT:
            self.counters.timeouts += 1
            effects.append(TransactionFailed(tx, "timeout"))
        else:
            effects.append(TransactionFailed(tx, "transport"))

    # Timers

    def _arm(self, tx: ClientTx | ServerTx) -> None:
        at = tx.resend_at if tx.resend_at < tx.deadline else tx.deadline
        if at >= tx.armed_at:
            return  # an earlier entry is in the heap and will come back for this one
        tx.armed_at = at
        self._order += 1
        heap = self._heap
        heappush(heap, (at, self._order, tx))
        if len(heap) > 64 + 2 * len(self):
            # Transactions that ended early (reliable transports) leave entries behind: keep the heap in proportion.
            heap[:] = [entry for entry in heap if entry[2].armed_at == entry[0]]
            heapify(heap)

    def _retransmit(self, tx: ClientTx | ServerTx, cap: float, now: float, effects: list[Effect]) -> None:
        tx.interval = min(2 * tx.interval, cap)
        tx.resend_at = now + tx.interval
        self.counters.retransmissions_sent += 1
        effects.append(Transmit(tx.data, tx.peer))

    def _overspent(self, tx: ClientTx | ServerTx) -> bool:
        """Whether `tx` may not repeat what it sent once more: see `signaling.return_path`."""
        paths = self._return_paths
        if paths is None or tx.peer.reliable or paths.proven(tx.peer.network, tx.peer.remote[0]):
            return False
        if isinstance(tx, ClientTx) and tx.request.to_tag is None:
            return False  # a server of our own choice: nobody else has aimed us at it
        tx.repeats += 1
        return tx.repeats > UNPROVEN_REPEATS

    # Messages made here

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

    def _send_trying(self, tx: ServerTx, effects: list[Effect]) -> None:
        tx.data = respond(tx.request, 100, "Trying", None).encode()
        effects.append(Transmit(tx.data, tx.peer))

    def _send_ack(self, tx: ClientTx, response: Response, effects: list[Effect]) -> None:
        ack = self._same_branch(tx, "ACK", response.get("To") or "")
        effects.append(Transmit(ack.encode(), tx.peer))

    def _send_cancel(
        self, tx: ClientTx, fields: Sequence[tuple[str, str]], now: float, effects: list[Effect]
    ) -> None:
        tx.cancel_fields = None
        tx.cancelled = True
        # s.9.1: without a final response within 64*T1 the INVITE counts as cancelled.
        tx.deadline = now + self._give_up_s
        self._arm(tx)
        cancel = self._same_branch(tx, "CANCEL", tx.request.get("To") or "")
        for name, value in fields:
            cancel.add(name, value)
        own = ClientTx(cancel, tx.flow, tx.branch, None)
        self._start(own, CANCEL_CLIENT, self._client, State.TRYING, now)
        self._clients[own.key] = own
        own.data = cancel.encode()
        effects.append(Transmit(own.data, own.peer))

    def _same_branch(self, tx: ClientTx, method: str, to: str) -> Request:
        """An ACK or CANCEL of the INVITE `tx`: the same top Via and Route (RFC 3261 s.9.1, s.17.1.1.3)."""
        request = tx.request
        fields = [("Via", request.get("Via") or ""), ("Max-Forwards", "70")]
        fields += [("Route", value) for value in request.get_all("Route")]
        fields += [
            ("From", request.get("From") or ""),
            ("To", to),
            ("Call-ID", request.call_id),
            ("CSeq", f"{request.cseq.number} {method}"),
        ]
        return Request(method, request.uri, fields)

    def _stateless(self, request: Request, peer: Flow, status: int, reason: str) -> Transmit:
        extra = [("Retry-After", str(self.retry_after_s))] if status == 503 else []
        answer = respond(request, status, reason, self._stateless_tag(request), extra)
        return Transmit(answer.encode(), peer)

    def _stateless_tag(self, request: Request) -> str:
        # RFC 3261 s.8.2.7: a stateless server gives a retransmission the same tag.
        return f"{zlib.crc32(f'{request.via.branch} {request.call_id}'.encode(errors='replace')):08x}"

    def _way_back(self, request: Request, via: Via, flow: Flow) -> Flow:
        """Where answers to `request` go (RFC 3261 s.18.2.2, RFC 3581 s.4); completes its top Via.

        `maddr` is ignored: it would let a stranger aim our answers at anyone.
        """
        host, port = flow.remote
        asked = via.param("rport") is not None
        if asked or via.host != host:
            line = request.get("Via") or ""
            top, *rest = split_commas(line) if "," in line else [line]
            if asked:
                top = _EMPTY_RPORT.sub(f";rport={port}", top, count=1)
            request.replace_first("Via", ", ".join([f"{top};received={host}", *rest]))
        if flow.reliable or asked or flow.network in self.symmetric:
            return flow
        sent_by_port = via.port or 5060
        if sent_by_port == port:
            return flow
        return Flow(flow.network, flow.transport, flow.local, (host, sent_by_port), flow.connection)


def _has_cookie(via: Via) -> bool:
    branch = via.branch
    return branch is not None and branch.startswith(MAGIC_COOKIE)


def _slim(tx: ClientTx | ServerTx) -> None:
    """Let go of what a transaction needs no more while it lingers to absorb retransmissions.

    At 200 calls a second 25,000 of them linger: what they hold is most of the memory of the process.
    """
    request = tx.request
    tx.request = Request(request.method, request.uri, [f for f in request.fields if f[0] in _LINGERING])
    if tx.state is State.ACCEPTED or tx.table is CLIENT or tx.table is CANCEL_CLIENT:
        tx.data = b""  # not repeated in these states
    if tx.table is SERVER or (tx.table is INVITE_SERVER and tx.state is State.ACCEPTED):
        tx.owner = None  # nothing can come up any more


# As we write it: our Via is the first line after the Request-Line.
_QUOTED = re.compile(rb"([A-Z]{1,16}) [^\r\n]*\r\nVia: [^\r\n]*;branch=(z9hG4bK[0-9A-Za-z]{8,64})[;\r]")


def _client_key(response: Response) -> tuple[object, ...]:
    """What RFC 3261 s.17.1.3 matches by: the branch of the top Via and the method of CSeq.

    Read from the text, since most responses come with our Via as we wrote it, and typed only when that fails.
    """
    value = response.get("Via") or ""
    cseq = response.get("CSeq") or ""
    _, found, rest = value.partition(";branch=")
    if not found or "," in value or '"' in value:
        return (response.via.branch, response.cseq.method)
    return (rest.partition(";")[0].rstrip(), cseq[cseq.rfind(" ") + 1 :])


def _server_key(request: Request, via: Via, method: str, flow: Flow) -> tuple[object, ...]:
    """What RFC 3261 s.17.2.3 matches by. ACK and CANCEL get the key of their INVITE.

    The network is part of it: two networks may use the same private addresses.
    """
    if method in ("ACK", "CANCEL"):
        method = "INVITE"
    branch = via.branch
    if branch is not None and branch.startswith(MAGIC_COOKIE):
        return (branch, via.host, via.port, method, flow.network)
    # RFC 2543: no unique branch, so the request as a whole. A CANCEL matches whatever it cancels; that only an
    # INVITE can be is RFC 3261 s.9.1. The To tag of an ACK is compared with that of the answer.
    return (
        request.uri, request.from_.tag, request.call_id, request.cseq.number, via.host, via.port, branch, method,
        flow.network,
    )  # fmt: skip
