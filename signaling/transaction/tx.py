"""One transaction: what is kept of a request until nobody can ask about it any more."""

from collections.abc import Sequence
from math import inf

from signaling.flow import Flow
from signaling.message import Field, Request
from signaling.transaction.tables import CANCEL_CLIENT, CLIENT, INVITE_SERVER, SERVER, Clocks, State, Table

Key = tuple[object, ...]
"""What a message is matched by; see `signaling.transaction.via`."""
# What an ACK of a failure is built of (RFC 3261 s.17.1.1.3), and what names the transaction in a log.
_LINGERING = frozenset(("Via", "v", "Route", "From", "f", "To", "t", "Call-ID", "i", "CSeq"))


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

    def __init__(self, request: Request, flow: Flow, peer: Flow, key: Key) -> None:
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

    def slim(self) -> None:
        """Let go of what is needed no more while it lingers to absorb retransmissions.

        At 200 calls a second 25,000 of them linger: what they hold is most of the memory of the process.
        """
        request, state, table = self.request, self.state, self.table
        fields = [field for field in request.fields if field[0] in _LINGERING]
        self.request = Request(request.method, request.uri, fields)
        if state is State.ACCEPTED or table is CLIENT or table is CANCEL_CLIENT:
            self.data = b""  # not repeated in these states
        if table is SERVER or (table is INVITE_SERVER and state is State.ACCEPTED):
            self.owner = None  # nothing can come up any more


class ClientTx(Transaction):
    """A request of ours. `owner` is the caller's, `request` holds the Via that was sent.

    Of `request` only the fields that name the transaction stay after the final response.
    """

    __slots__ = ("branch", "cancel_fields", "cancelled")

    def __init__(self, request: Request, flow: Flow, branch: str, owner: object) -> None:
        super().__init__(request, flow, flow, (branch, request.method))
        self.owner = owner
        self.branch = branch
        self.cancel_fields: Sequence[Field] | None = None  # a CANCEL that waits for a provisional
        self.cancelled = False

    def same_branch(self, method: str, to: str) -> Request:
        """An ACK or CANCEL of this INVITE: the same top Via and Route (RFC 3261 s.9.1, s.17.1.1.3)."""
        request = self.request
        fields = [("Via", request.get("Via") or ""), ("Max-Forwards", "70")]
        fields += [("Route", value) for value in request.get_all("Route")]
        fields += [
            ("From", request.get("From") or ""),
            ("To", to),
            ("Call-ID", request.call_id),
            ("CSeq", f"{request.cseq.number} {method}"),
        ]
        return Request(method, request.uri, fields)


class ServerTx(Transaction):
    """A request of the peer. `owner` is for the user; `flow` is where the request came from.

    Of `request` only the fields that name the transaction stay after the final response; `owner` goes with the
    last effect that could need it.
    """

    __slots__ = ("merge_key", "to_value")

    def __init__(self, request: Request, flow: Flow, peer: Flow, key: Key) -> None:
        super().__init__(request, flow, peer, key)
        self.merge_key: Key | None = None
        self.to_value = ""  # To of the last response that was not 100: its tag is ours
