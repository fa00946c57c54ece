"""What the transaction layer says to its user, in order: bytes for the wire, and what has come of them."""

from typing import Literal

from config.frozen import frozen
from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.transaction.tx import ClientTx, ServerTx

Cause = Literal["timeout", "transport"]


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
    cause: Cause


Effect = Transmit | RequestReceived | CancelReceived | AckReceived | ResponseReceived | TransactionFailed
