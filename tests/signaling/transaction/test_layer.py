"""Limits, failures, and what holds for transactions of all kinds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.flow import Flow
from signaling.message import respond
from signaling.transaction import (
    ClientTx,
    Effect,
    RequestReceived,
    ResponseReceived,
    ServerTx,
    State,
    TransactionFailed,
)
from signaling.transaction.tables import (
    CANCEL_CLIENT,
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    Input,
)
from tests.signaling.transaction.peer import (
    PRIVATE,
    TCP,
    UDP,
    answer,
    layer,
    only,
    ours,
    request,
    run_timers,
    sent,
    serve,
    start_lines,
)


def test_above_the_limit_a_new_request_gets_503_and_no_transaction() -> None:
    transactions = layer(max_transactions=1)
    serve(transactions, request())
    other = request(branch="z9hG4bKother", call_id="c2")
    first = transactions.receive(other, UDP, 0.1)
    assert start_lines(first) == ["SIP/2.0 503 Service Unavailable"]
    assert sent(first)[0].get("Retry-After") == "5"
    again = request(branch="z9hG4bKother", call_id="c2")
    assert transactions.receive(again, UDP, 0.2) == first
    assert len(transactions) == 1
    assert start_lines(transactions.receive(request(), UDP, 0.3)) == ["SIP/2.0 100 Trying"]
    assert transactions.counters.refused == 2


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_transport_failure_ends_a_client_that_has_no_answer(flow: Flow) -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), flow, None, 0.0)
    other, _ = transactions.send_request(ours("OPTIONS"), PRIVATE, None, 0.0)
    assert transactions.transport_failed(flow, 0.1) == [TransactionFailed(tx, "transport")]
    assert tx.state is State.TERMINATED
    assert other.state is State.TRYING
    assert transactions.transport_failed(flow, 0.2) == []


def test_transport_failure_spares_an_invite_that_rings() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), TCP, None, 0.0)
    transactions.receive(answer(tx, 180), TCP, 0.1)
    assert transactions.transport_failed(TCP, 0.2) == []
    assert tx.state is State.PROCEEDING


def test_undeliverable_failure_is_reported_but_the_server_stays() -> None:
    transactions = layer()
    tx = serve(transactions, request(), TCP)
    assert transactions.transport_failed(TCP, 0.1) == []
    transactions.respond(tx, respond(tx.request, 404, "Not Found", "x"), 0.2)
    assert transactions.transport_failed(TCP, 0.3) == [TransactionFailed(tx, "transport")]
    assert tx.state is State.COMPLETED


def test_many_calls_leave_nothing_and_the_heap_stays_in_proportion() -> None:
    transactions = layer(max_transactions=100_000)
    now, largest = 0.0, 0
    for number in range(5_000):
        now += 0.005
        transactions.handle_timer(now)
        flow = TCP if number % 2 else UDP
        tx = serve(transactions, request(branch=f"z9hG4bK{number}", call_id=f"c{number}"), flow, now)
        client, _ = transactions.send_request(ours(), flow, None, now)
        transactions.receive(answer(client, 200), flow, now)
        transactions.respond(tx, respond(tx.request, 200, "OK", "x"), now)
        bye, _ = transactions.send_request(ours("BYE"), flow, None, now)
        transactions.receive(answer(bye, 200), flow, now)
        largest = max(largest, len(transactions.clockwork) - 2 * len(transactions))
    assert largest <= 64
    run_timers(transactions, now + 64)
    assert len(transactions) == 0
    assert transactions.next_timer() is None
    assert not transactions.servers._merging
    assert not transactions.clockwork._on_flow


def test_transactions_that_end_before_their_deadline_do_not_pile_up_in_the_heap() -> None:
    transactions = layer()
    for number in range(1000):
        tx, _ = transactions.send_request(ours("OPTIONS"), TCP, None, number / 1000)
        transactions.receive(answer(tx, 200), TCP, number / 1000)
        assert len(transactions.clockwork) <= 66
    assert len(transactions) == 0


def test_lingering_transaction_holds_no_more_than_it_needs() -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"))
    tx.owner = object()
    transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 0.1)
    assert tx.owner is None
    assert [name for name, _ in tx.request.fields] == ["Via", "From", "To", "Call-ID", "CSeq"]
    assert start_lines(transactions.receive(request("OPTIONS"), UDP, 0.5)) == ["SIP/2.0 200 OK"]


# The tables


@pytest.mark.parametrize("table", [INVITE_CLIENT, CLIENT, CANCEL_CLIENT, INVITE_SERVER, SERVER])
def test_every_state_but_ringing_ends_by_its_deadline(table: dict[tuple[State, Input], object]) -> None:
    states = {state for state, _ in table}
    without = {state for state in states if (state, Input.DEADLINE) not in table}
    assert without <= {State.PROCEEDING}


STEPS = st.lists(
    st.sampled_from(["100", "180", "200", "486", "ack", "cancel", "request", "fail", "wait", "long"]),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    flow=st.sampled_from([UDP, TCP]),
    method=st.sampled_from(["INVITE", "OPTIONS"]),
    client=st.booleans(),
)
def test_whatever_happens_a_transaction_ends(steps: list[str], flow: Flow, method: str, client: bool) -> None:
    """Any order of inputs: no exception, at most one failure, and nothing left once all is answered."""
    transactions = layer()
    now, failures, finals = 0.0, 0, 0
    tx: ClientTx | ServerTx
    if client:
        tx, _ = transactions.send_request(ours(method), flow, None, now)
    else:
        tx = serve(transactions, request(method), flow, now)
    for step in [*steps, "486"]:
        effects: list[Effect] = []
        if step in ("wait", "long"):
            now += 0.5 if step == "wait" else 40.0
            effects = [effect for _, effect in run_timers(transactions, now)]
        elif step == "fail":
            effects = transactions.transport_failed(flow, now)
        elif isinstance(tx, ClientTx):
            if step == "cancel":
                effects = transactions.cancel(tx, [], now)
            elif step.isdigit():
                effects = transactions.receive(answer(tx, int(step)), flow, now)
        elif step.isdigit():
            effects = transactions.respond(tx, respond(tx.request, int(step), "R", "x"), now)
        elif tx.state is not State.TERMINATED:
            name = {"ack": "ACK", "cancel": "CANCEL", "request": method, "fail": method}[step]
            effects = transactions.receive(request(name, to_tag="x" if name == "ACK" else ""), flow, now)
            assert only(RequestReceived, effects) == []
        failures += len([e for e in only(TransactionFailed, effects) if e.tx is tx and e.cause == "timeout"])
        finals += len([e for e in only(ResponseReceived, effects) if e.response.status >= 300])
    run_timers(transactions, now + 100.0)
    assert failures <= 1
    assert finals <= 1
    assert len(transactions) == 0
    assert transactions.next_timer() is None
