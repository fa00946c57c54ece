"""What the transaction layer costs in CPU, over parsing: run it as `python -m tests.bench.bench_transaction`.

Each row is the CPU time of one operation in microseconds, the best of several rounds. The last row is the layer's
share of one call: 4 transactions, 14 messages.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from signaling.flow import Flow
from signaling.message import Request, Response, respond
from signaling.parser import parse
from signaling.transaction import ClientTx, RequestReceived, ServerTx, TimerValues, Transactions

T = TypeVar("T")
R = TypeVar("R")

UDP = Flow("public", "udp", ("203.0.113.10", 5060), ("198.51.100.7", 5060))
ROUNDS = 5
SIZE = 2000


def new_layer() -> Transactions:
    """A layer with counted branches."""
    numbers = itertools.count(1)
    return Transactions(
        TimerValues(),
        branch=lambda: f"z9hG4bK{next(numbers):016x}",
        advertised=lambda flow: flow.local,
        tag=lambda: f"{next(numbers):08x}",
        max_transactions=1_000_000,
    )


def text(method: str, number: int, branch: str) -> bytes:
    """A request of a phone."""
    return (
        f"{method} sip:bob@203.0.113.10 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 198.51.100.7:5060;rport;branch=z9hG4bK{branch}{number}\r\n"
        "Max-Forwards: 70\r\nContact: <sip:alice@198.51.100.7>\r\n"
        f'From: "Alice" <sip:alice@198.51.100.7>;tag=a{number}\r\nTo: <sip:bob@203.0.113.10>\r\n'
        f"Call-ID: {number}@198.51.100.7\r\nCSeq: 1 {method}\r\nUser-Agent: phone\r\n"
        "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def ours(method: str, number: int) -> Request:
    """A request of ours."""
    return Request(
        method,
        "sip:bob@198.51.100.7",
        [
            ("Max-Forwards", "70"),
            ("From", f"<sip:alice@sbc.example>;tag=o{number}"),
            ("To", "<sip:bob@198.51.100.7>"),
            ("Call-ID", f"own{number}"),
            ("CSeq", f"7 {method}"),
            ("Contact", "<sip:203.0.113.10>"),
        ],
    )


def reply(request: Request, status: int) -> Response:
    """A parsed response of the peer."""
    message = parse(respond(request, status, "Reason", "r1").encode())
    assert isinstance(message, Response)
    return message


def typed(message: Request | Response) -> object:
    """Have the fields parsed that every layer above needs too."""
    return (message.via, message.from_, message.to, message.cseq)


class Clock:
    """The best CPU time of each named operation."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def measure(self, name: str, action: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Run `action` on each item; the results."""
        begin = time.process_time()
        results = [action(item) for item in items]
        taken = (time.process_time() - begin) / len(items) * 1e6
        self.best[name] = min(taken, self.best.get(name, taken))
        return results


def one_round(clock: Clock) -> None:
    """Every operation `SIZE` times, in the order of a call."""
    layer = new_layer()

    def receive(message: Request | Response) -> ServerTx | None:
        for effect in layer.receive(message, UDP, 0.0):
            if isinstance(effect, RequestReceived):
                return effect.tx
        return None

    def send(request: Request) -> ClientTx:
        return layer.send_request(request, UDP, None, 0.0)[0]

    def answer(served: tuple[ServerTx, Response]) -> object:
        return layer.respond(*served, 0.1)

    numbers = range(SIZE)
    parsed = clock.measure("(parse INVITE)", parse, [text("INVITE", number, "i") for number in numbers])
    clock.measure("(its typed fields)", typed, parsed)
    servers = [tx for tx in clock.measure("receive INVITE, send 100", receive, parsed) if tx is not None]
    requests = [tx.request for tx in servers]
    clock.measure(
        "(respond and encode)", lambda request: respond(request, 100, "Trying", None).encode(), requests
    )
    invites = clock.measure("send INVITE", send, [ours("INVITE", number) for number in numbers])
    for status in (100, 180, 200):
        clock.measure(f"receive {status}", receive, [reply(tx.request, status) for tx in invites])
    for status in (180, 200):
        answers = [(tx, respond(tx.request, status, "Reason", "x")) for tx in servers]
        clock.measure(f"respond {status}", answer, answers)
    clock.measure("receive ACK of 2xx", receive, [parse(text("ACK", number, "a")) for number in numbers])
    acks = [ours("ACK", number) for number in numbers]
    clock.measure("send ACK of 2xx", lambda ack: layer.send_ack(ack, UDP), acks)
    byes = [parse(text("BYE", number, "b")) for number in numbers]
    for bye in byes:
        typed(bye)
    served = [tx for tx in clock.measure("receive BYE", receive, byes) if tx is not None]
    answers = [(tx, respond(tx.request, 200, "OK", "x")) for tx in served]
    clock.measure("respond 200 to BYE", answer, answers)
    sent = clock.measure("send BYE", send, [ours("BYE", number) for number in numbers])
    clock.measure("receive 200 of BYE", receive, [reply(tx.request, 200) for tx in sent])

    begin = time.process_time()
    while (at := layer.next_timer()) is not None:
        layer.handle_timer(at)
    taken = (time.process_time() - begin) / SIZE * 1e6
    clock.best["all timers of a call"] = min(taken, clock.best.get("all timers of a call", taken))
    assert len(layer) == 0


def main() -> None:
    """Print the table."""
    clock = Clock()
    for _ in range(ROUNDS):
        one_round(clock)
    for name, taken in clock.best.items():
        print(f"{name:<28}{taken:8.2f} us")
    total = sum(taken for name, taken in clock.best.items() if not name.startswith("("))
    print(f"{'whole call':<28}{total:8.2f} us, building and encoding included")


if __name__ == "__main__":
    main()
