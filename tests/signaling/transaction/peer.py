"""A transaction layer, and what the peer beyond it writes; time is virtual."""

import itertools
from collections.abc import Iterable
from typing import TypeVar

from signaling.flow import Flow
from signaling.message import Request, Response, respond
from signaling.parser import parse
from signaling.return_path import ReturnPaths
from signaling.transaction import (
    ClientTx,
    Effect,
    RequestReceived,
    ServerTx,
    TimerValues,
    Transactions,
    Transmit,
)

T = TypeVar("T")

UDP = Flow("public", "udp", ("203.0.113.10", 5060), ("198.51.100.7", 5060))
TCP = Flow("public", "tcp", ("203.0.113.10", 5060), ("198.51.100.7", 40000), 3)
PRIVATE = Flow("private", "udp", ("10.0.0.1", 5060), ("198.51.100.7", 5060))


def layer(
    trying_at_once: bool = True,
    max_transactions: int = 1000,
    symmetric: frozenset[str] = frozenset(),
    return_paths: ReturnPaths | None = None,
) -> Transactions:
    """A layer whose branches and tags count."""
    branches, tags = itertools.count(1), itertools.count(1)
    return Transactions(
        TimerValues(),
        branch=lambda: f"b{next(branches)}",
        advertised=lambda flow: ("sbc.example", 5070),
        tag=lambda: f"own{next(tags)}",
        trying_at_once=trying_at_once,
        max_transactions=max_transactions,
        symmetric=symmetric,
        return_paths=return_paths,
    )


def request(
    method: str = "INVITE",
    *,
    branch: str | None = "z9hG4bKpeer1",
    to_tag: str = "",
    sent_by: str = "198.51.100.7",
    via_params: str = "",
    cseq: int = 1,
    cseq_method: str = "",
    uri: str = "sip:bob@203.0.113.10",
    call_id: str = "call-1@198.51.100.7",
    transport: str = "UDP",
) -> Request:
    """A request as the peer writes it."""
    via_branch = f";branch={branch}" if branch else ""
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/{transport} {sent_by}{via_params}{via_branch}",
        "Max-Forwards: 70",
        "From: Alice <sip:alice@198.51.100.7>;tag=a1",
        "To: <sip:bob@203.0.113.10>" + (f";tag={to_tag}" if to_tag else ""),
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {cseq_method or method}",
        "Content-Length: 0",
    ]
    message = parse(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(message, Request)
    return message


def ours(method: str = "INVITE") -> Request:
    """A request of ours before it has its Via."""
    return Request(
        method,
        "sip:bob@198.51.100.7",
        [
            ("Max-Forwards", "70"),
            ("Route", "<sip:proxy.example;lr>"),
            ("From", "<sip:alice@sbc.example>;tag=o1"),
            ("To", "<sip:bob@198.51.100.7>"),
            ("Call-ID", "own-call"),
            ("CSeq", f"7 {method}"),
        ],
    )


def answer(tx: ClientTx, status: int, to_tag: str = "r1", method: str = "") -> Response:
    """What the peer answers to the request of `tx`."""
    message = parse(respond(tx.request, status, "Reason", to_tag).encode())
    assert isinstance(message, Response)
    if method:
        message.replace("CSeq", f"{tx.request.cseq.number} {method}")
    return message


def only(kind: type[T], effects: Iterable[Effect]) -> list[T]:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Iterable[Effect]) -> list[Request | Response]:
    return [parse(effect.data) for effect in only(Transmit, effects)]


def start_lines(effects: Iterable[Effect]) -> list[str]:
    return [message.start_line for message in sent(effects)]


def serve(transactions: Transactions, message: Request, flow: Flow = UDP, now: float = 0.0) -> ServerTx:
    (received,) = only(RequestReceived, transactions.receive(message, flow, now))
    return received.tx


def run_timers(transactions: Transactions, until: float) -> list[tuple[float, Effect]]:
    """Every effect of the timers up to a time, with the time."""
    log: list[tuple[float, Effect]] = []
    while (at := transactions.next_timer()) is not None and at <= until:
        log += [(at, effect) for effect in transactions.handle_timer(at)]
    return log


def transmissions(log: Iterable[tuple[float, Effect]]) -> list[float]:
    return [at for at, effect in log if isinstance(effect, Transmit)]
