"""Two transaction layers against each other over a bad network: every request is served once and answered."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.flow import Address, Flow
from signaling.message import Request, respond
from signaling.parser import parse
from signaling.transaction import (
    AckReceived,
    Effect,
    RequestReceived,
    ResponseReceived,
    TimerValues,
    TransactionFailed,
    Transactions,
    Transmit,
)
from tests.harness.wire import Weather, Wire

CALLER: Address = ("192.0.2.1", 5060)
CALLEE: Address = ("192.0.2.2", 5060)


class Side:
    """A layer with a simple user: answers each request with `status`, notes what comes up."""

    def __init__(self, wire: Wire, local: Address, status: int, transport: str) -> None:
        self.wire, self.local, self.status, self.transport = wire, local, status, transport
        numbers = itertools.count(1)
        self.layer = Transactions(
            TimerValues(),
            lambda: f"{local[0]}x{next(numbers)}",
            lambda flow: local,
            lambda: f"t{next(numbers)}",
        )
        self.served: Counter[str] = Counter()
        self.finals: Counter[str] = Counter()
        self.acked: set[str] = set()  # by ACKs of no transaction
        self.failed: Counter[str] = Counter()
        wire.attach(local, self.receive)
        wire.add_node(self)

    def flow(self, remote: Address) -> Flow:
        return Flow("net", self.transport, self.local, remote)

    def receive(self, data: bytes, source: Address, destination: Address, now: float) -> None:
        self.perform(self.layer.receive(parse(data), self.flow(source), now))

    def send(self, method: str, number: int, remote: Address) -> None:
        request = Request(
            method,
            "sip:peer@example",
            [
                ("Max-Forwards", "70"),
                ("From", f"<sip:a@example>;tag=f{number}"),
                ("To", "<sip:b@example>"),
                ("Call-ID", f"call{number}"),
                ("CSeq", f"1 {method}"),
            ],
        )
        self.perform(self.layer.send_request(request, self.flow(remote), None, self.wire.now)[1])

    def next_timer(self) -> float | None:
        return self.layer.next_timer()

    def handle_timer(self, now: float) -> None:
        self.perform(self.layer.handle_timer(now))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Transmit():
                    self.wire.deliver(effect.data, self.local, effect.flow.remote, effect.flow.reliable)
                case RequestReceived():
                    self.served[effect.request.call_id] += 1
                    response = respond(effect.request, self.status, "Answer", "callee")
                    self.perform(self.layer.respond(effect.tx, response, self.wire.now))
                case ResponseReceived():
                    if effect.response.status >= 200:
                        self.finals[effect.response.call_id] += 1
                case AckReceived():
                    self.acked.add(effect.request.call_id)
                case TransactionFailed():
                    self.failed[effect.tx.request.call_id] += 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    status=st.sampled_from([302, 404, 503, 603]),
    weather=st.builds(
        Weather,
        loss=st.floats(0.0, 0.3),
        duplication=st.floats(0.0, 0.3),
        delay_s=st.floats(0.0, 0.3),
        jitter_s=st.floats(0.0, 1.0),
    ),
)
def test_failed_invites_end_acked_on_both_sides_whatever_the_weather(
    seed: int, status: int, weather: Weather
) -> None:
    wire = Wire(seed, weather)
    caller, callee = Side(wire, CALLER, 500, "udp"), Side(wire, CALLEE, status, "udp")
    for number in range(10):
        caller.send("INVITE", number, CALLEE)
    wire.run(200.0)
    assert len(caller.layer) == len(callee.layer) == 0
    assert wire.under_way == 0
    # 7 INVITEs and as many answers may each be lost with 0.3: a failure is rare but allowed, a second answer not.
    assert set(caller.finals.values()) <= {1}
    assert set(callee.served.values()) <= {1}
    assert len(caller.finals) + caller.failed.total() == 10
    # An ACK belongs to its transaction, unless that gave up waiting for one (timer H, 64*T1): of eleven answers
    # and their ACKs the last may be the first that gets through, and come after the end.
    assert callee.acked <= set(callee.failed)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_non_invite_is_served_once_and_answered_in_a_storm(transport: str) -> None:
    wire = Wire(3, Weather(loss=0.3, duplication=0.3, delay_s=0.05, jitter_s=0.4))
    caller, callee = Side(wire, CALLER, 500, transport), Side(wire, CALLEE, 200, transport)
    for number in range(50):
        caller.send("OPTIONS", number, CALLEE)
    wire.run(200.0)
    assert len(callee.served) == 50
    assert set(callee.served.values()) == {1}
    assert len(caller.finals) == 50
    assert set(caller.finals.values()) == {1}
    assert len(caller.layer) == len(callee.layer) == 0
    assert caller.failed.total() == 0
    repeats = len(wire.passages) - 100
    assert (repeats > 20) if transport == "udp" else (repeats == 0)


def test_peer_that_is_gone_costs_one_failure_each() -> None:
    wire = Wire()
    caller = Side(wire, CALLER, 500, "udp")
    caller.send("INVITE", 1, CALLEE)
    caller.send("BYE", 2, CALLEE)
    wire.run(100.0)
    assert caller.failed.total() == 2
    assert wire.unreachable == 7 + 11
    assert len(caller.layer) == 0
