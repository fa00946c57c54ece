"""Requests of the peer that cross and are answered by the other side: INFO, MESSAGE, OPTIONS, NOTIFY."""

from signaling.errors import PeerError
from signaling.events import Informed
from signaling.guard import hosts_of
from signaling.message import Request
from signaling.topology import carry_body, carry_request
from signaling.transaction import ServerTx

MAX_AT_ONCE = 16


class Informs:
    """Those of one leg that wait for their answer, by the number of their `Informed`."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending: dict[int, ServerTx] = {}

    def open(self, tx: ServerTx, request: Request, trusted: bool, hosts: tuple[str, ...] = ()) -> Informed:
        """The event for the other side. PeerError when the body cannot cross, or too many wait.

        `trusted` is whether the peer is believed what it asserts of itself, `hosts` what its side is known by.
        """
        body = carry_body(request.content_type, request.body, (*hosts_of(request), *hosts))
        if body is None:
            raise PeerError(415, "Unsupported Media Type", "unknown-body")
        carried = carry_request(request, trusted)
        if request.method == "NOTIFY" and carried.get("Event") is None:
            # RFC 6665 s.8.2.1: a NOTIFY has an Event, and without it the other side could not read this one.
            raise PeerError(489, "Bad Event", "unknown-event")
        if len(self._pending) >= MAX_AT_ONCE:
            raise PeerError(500, "Too many requests at once", "informs-at-once")
        number = max(self._pending, default=0) + 1
        self._pending[number] = tx
        return Informed(number, request.method, body[0], body[1], carried)

    def close(self, number: int) -> ServerTx | None:
        """The request that an answer is for, None when it has been answered."""
        return self._pending.pop(number, None)

    def close_all(self) -> list[ServerTx]:
        """Every request that waits, when the dialog ends."""
        pending = list(self._pending.values())
        self._pending.clear()
        return pending
