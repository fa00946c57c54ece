"""The transaction layer (RFC 3261 s.17): requests and their answers over a wire that loses, doubles and forges."""

from signaling.transaction.clockwork import Counters
from signaling.transaction.effects import (
    AckReceived,
    CancelReceived,
    Effect,
    RequestReceived,
    ResponseReceived,
    TransactionFailed,
    Transmit,
)
from signaling.transaction.layer import Transactions
from signaling.transaction.tables import State, TimerValues
from signaling.transaction.tx import ClientTx, ServerTx

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
