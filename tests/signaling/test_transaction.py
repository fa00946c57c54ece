"""The transaction layer, input on the left and effects on the right, in virtual time (RFC 3261 s.17)."""

import itertools
from collections.abc import Iterable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.errors import UsageError
from signaling.flow import Flow
from signaling.message import Request, Response, respond
from signaling.parser import parse
from signaling.transaction import (
    AckReceived,
    CancelReceived,
    ClientTx,
    Effect,
    RequestReceived,
    ResponseReceived,
    ServerTx,
    State,
    TimerValues,
    TransactionFailed,
    Transactions,
    Transmit,
)
from signaling.transaction_tables import (
    CANCEL_CLIENT,
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    Input,
)

T = TypeVar("T")

UDP = Flow("public", "udp", ("203.0.113.10", 5060), ("198.51.100.7", 5060))
TCP = Flow("public", "tcp", ("203.0.113.10", 5060), ("198.51.100.7", 40000), 3)
PRIVATE = Flow("private", "udp", ("10.0.0.1", 5060), ("198.51.100.7", 5060))


def layer(
    trying_at_once: bool = True, max_transactions: int = 1000, symmetric: frozenset[str] = frozenset()
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


# INVITE client (s.17.1.1, RFC 6026 s.7.2)


def test_request_gets_our_via_and_goes_out_once() -> None:
    tx, effects = layer().send_request(ours(), UDP, "owner", 0.0)
    (message,) = sent(effects)
    assert message.get("Via") == "SIP/2.0/UDP sbc.example:5070;rport;branch=z9hG4bKb1"
    assert (tx.owner, tx.state, tx.flow) == ("owner", State.CALLING, UDP)


def test_via_on_tcp_asks_for_no_rport() -> None:
    _, effects = layer().send_request(ours(), TCP, None, 0.0)
    assert sent(effects)[0].get("Via") == "SIP/2.0/TCP sbc.example:5070;branch=z9hG4bKb1"


def test_invite_is_repeated_at_doubling_intervals_until_timer_b() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    log = run_timers(transactions, 100.0)
    assert transmissions(log) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert log[-1] == (32.0, TransactionFailed(tx, "timeout"))
    assert len(transactions) == 0
    assert transactions.next_timer() is None


def test_provisional_stops_the_retransmission_and_invite_may_ring_for_ever() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    response = answer(tx, 180)
    assert transactions.receive(response, UDP, 0.1) == [ResponseReceived(tx, response)]
    assert run_timers(transactions, 600.0) == []
    assert tx.state is State.PROCEEDING


def test_invite_on_tcp_is_never_repeated_but_times_out() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), TCP, None, 0.0)
    assert run_timers(transactions, 100.0) == [(32.0, TransactionFailed(tx, "timeout"))]


def test_final_failure_is_acked_in_the_transaction() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    response = answer(tx, 486)
    effects = transactions.receive(response, UDP, 0.1)
    (ack,) = sent(effects)
    assert isinstance(ack, Request)
    assert (ack.method, ack.uri, str(ack.cseq)) == ("ACK", "sip:bob@198.51.100.7", "7 ACK")
    assert ack.to.tag == "r1"
    assert ack.get_all("Via") == [tx.request.get("Via")]
    assert ack.get_all("Route") == ["<sip:proxy.example;lr>"]
    assert only(ResponseReceived, effects) == [ResponseReceived(tx, response)]


def test_repeated_final_failure_is_acked_again_and_not_passed_up() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.receive(answer(tx, 486), UDP, 0.1)
    effects = transactions.receive(answer(tx, 486), UDP, 0.6)
    assert start_lines(effects) == ["ACK sip:bob@198.51.100.7 SIP/2.0"]
    assert only(ResponseReceived, effects) == []


def test_completed_invite_client_lingers_for_timer_d_on_udp_only() -> None:
    for flow, left in ((UDP, 1), (TCP, 0)):
        transactions = layer()
        tx, _ = transactions.send_request(ours(), flow, None, 0.0)
        transactions.receive(answer(tx, 500), flow, 0.1)
        assert len(transactions) == left
        run_timers(transactions, 32.2)
        assert len(transactions) == 0
        assert tx.state is State.TERMINATED


def test_every_2xx_is_passed_up_for_64_t1() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), TCP, None, 0.0)
    for now, tag in ((0.1, "r1"), (0.6, "r1"), (0.7, "fork2")):
        response = answer(tx, 200, tag)
        assert transactions.receive(response, TCP, now) == [ResponseReceived(tx, response)]
    run_timers(transactions, 32.2)
    assert transactions.receive(answer(tx, 200), TCP, 33.0) == []
    assert len(transactions) == 0


@pytest.mark.parametrize("late", [100, 180, 487])
def test_anything_but_2xx_after_a_2xx_is_absorbed(late: int) -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.receive(answer(tx, 200), UDP, 0.1)
    assert transactions.receive(answer(tx, late), UDP, 0.2) == []
    assert transactions.counters.strays == 1


def test_response_of_another_branch_method_or_network_is_stray() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    stranger = answer(tx, 200)
    stranger.replace_first("Via", "SIP/2.0/UDP sbc.example:5070;branch=z9hG4bKother")
    assert transactions.receive(stranger, UDP, 0.1) == []
    assert transactions.receive(answer(tx, 200, method="BYE"), UDP, 0.1) == []
    assert transactions.receive(answer(tx, 200), PRIVATE, 0.1) == []
    assert transactions.counters.strays == 3
    assert tx.state is State.CALLING


# Non-INVITE client (s.17.1.2)


def test_non_invite_is_repeated_up_to_t2_until_timer_f() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours("BYE"), UDP, None, 0.0)
    log = run_timers(transactions, 100.0)
    assert transmissions(log) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert log[-1] == (32.0, TransactionFailed(tx, "timeout"))


def test_non_invite_in_proceeding_is_repeated_every_t2_and_still_times_out() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours("BYE"), UDP, None, 0.0)
    transactions.receive(answer(tx, 100), UDP, 0.2)
    log = run_timers(transactions, 100.0)
    assert transmissions(log) == pytest.approx([4.2, 8.2, 12.2, 16.2, 20.2, 24.2, 28.2])
    assert log[-1] == (32.0, TransactionFailed(tx, "timeout"))


def test_final_of_a_non_invite_is_passed_up_once_and_absorbed_for_t4() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours("BYE"), UDP, None, 0.0)
    assert len(transactions.receive(answer(tx, 200), UDP, 0.1)) == 1
    assert transactions.receive(answer(tx, 200), UDP, 0.2) == []
    assert len(transactions) == 1
    run_timers(transactions, 5.2)
    assert len(transactions) == 0


def test_ack_and_cancel_are_no_transactions_of_the_caller() -> None:
    for method in ("ACK", "CANCEL"):
        with pytest.raises(UsageError):
            layer().send_request(ours(method), UDP, None, 0.0)


def test_ack_of_2xx_gets_a_branch_of_its_own_and_keeps_it_when_repeated() -> None:
    transactions = layer()
    ack = ours("ACK")
    first, second = transactions.send_ack(ack, UDP), transactions.send_ack(ack, UDP)
    assert first == second
    assert sent(first)[0].get_all("Via") == ["SIP/2.0/UDP sbc.example:5070;rport;branch=z9hG4bKb1"]
    assert len(transactions) == 0


# CANCEL as a client (s.9.1)


def test_cancel_waits_for_a_provisional_response() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    assert transactions.cancel(tx, [("Reason", "SIP;cause=200")], 0.1) == []
    effects = transactions.receive(answer(tx, 100), UDP, 0.2)
    (cancel,) = sent(effects)
    assert isinstance(cancel, Request)
    assert (cancel.method, cancel.uri, str(cancel.cseq)) == ("CANCEL", tx.request.uri, "7 CANCEL")
    assert cancel.get_all("Via") == [tx.request.get("Via")]
    assert cancel.get_all("Route") == tx.request.get_all("Route")
    assert cancel.get("Reason") == "SIP;cause=200"
    assert cancel.to.tag is None


def test_cancel_goes_at_once_in_proceeding_and_only_once() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.receive(answer(tx, 180), UDP, 0.1)
    assert start_lines(transactions.cancel(tx, [], 0.2)) == ["CANCEL sip:bob@198.51.100.7 SIP/2.0"]
    assert transactions.cancel(tx, [], 0.3) == []
    assert only(Transmit, transactions.receive(answer(tx, 180), UDP, 0.4)) == []


def test_cancel_is_repeated_and_its_answer_stays_in_the_layer() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.receive(answer(tx, 180), UDP, 0.0)
    transactions.cancel(tx, [], 0.0)
    assert transmissions(run_timers(transactions, 1.0)) == [0.5]
    assert transactions.receive(answer(tx, 200, method="CANCEL"), UDP, 1.0) == []
    assert transmissions(run_timers(transactions, 4.0)) == []
    effects = transactions.receive(answer(tx, 487), UDP, 4.0)
    assert start_lines(effects) == ["ACK sip:bob@198.51.100.7 SIP/2.0"]
    assert len(only(ResponseReceived, effects)) == 1
    run_timers(transactions, 60.0)
    assert len(transactions) == 0


def test_cancelled_invite_without_final_response_ends_after_64_t1() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.receive(answer(tx, 180), UDP, 0.0)
    transactions.cancel(tx, [], 10.0)
    transactions.receive(answer(tx, 200, method="CANCEL"), UDP, 10.1)
    assert run_timers(transactions, 100.0) == [(42.0, TransactionFailed(tx, "timeout"))]
    assert len(transactions) == 0


def test_cancel_crossing_a_final_does_nothing() -> None:
    for status in (200, 486):
        transactions = layer()
        tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
        transactions.receive(answer(tx, status), UDP, 0.1)
        assert transactions.cancel(tx, [], 0.2) == []


def test_pending_cancel_is_forgotten_when_the_final_comes_first() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours(), UDP, None, 0.0)
    transactions.cancel(tx, [], 0.1)
    effects = transactions.receive(answer(tx, 200), UDP, 0.2)
    assert only(Transmit, effects) == []
    assert len(only(ResponseReceived, effects)) == 1


def test_non_invite_cannot_be_cancelled() -> None:
    transactions = layer()
    tx, _ = transactions.send_request(ours("OPTIONS"), UDP, None, 0.0)
    transactions.receive(answer(tx, 100), UDP, 0.1)
    assert transactions.cancel(tx, [], 0.2) == []


# INVITE server (s.17.2.1, RFC 6026 s.7.1)


def test_new_invite_is_answered_100_at_once_and_passed_up() -> None:
    transactions = layer()
    message = request()
    effects = transactions.receive(message, UDP, 0.0)
    assert start_lines(effects) == ["SIP/2.0 100 Trying"]
    assert sent(effects)[0].to.tag is None
    (received,) = only(RequestReceived, effects)
    assert received.request is message
    assert received.tx.owner is None


def test_100_can_wait_200_ms_for_something_better() -> None:
    transactions = layer(trying_at_once=False)
    tx = serve(transactions, request())
    assert transmissions(run_timers(transactions, 5.0)) == [0.2]
    second = layer(trying_at_once=False)
    tx = serve(second, request())
    second.respond(tx, respond(tx.request, 180, "Ringing", "x"), 0.1)
    assert run_timers(second, 5.0) == []


def test_retransmitted_invite_gets_the_last_provisional_again() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    assert start_lines(transactions.receive(request(), UDP, 0.5)) == ["SIP/2.0 100 Trying"]
    transactions.respond(tx, respond(tx.request, 180, "Ringing", "x"), 0.6)
    effects = transactions.receive(request(), UDP, 1.5)
    assert start_lines(effects) == ["SIP/2.0 180 Ringing"]
    assert len(effects) == 1
    assert transactions.counters.retransmissions_received == 2


def test_failure_is_repeated_up_to_t2_until_the_ack() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, 404, "Not Found", "x"), 0.0)
    assert transmissions(run_timers(transactions, 16.0)) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5]
    assert start_lines(transactions.receive(request(), UDP, 16.0)) == ["SIP/2.0 404 Not Found"]
    assert transactions.receive(request("ACK", to_tag="x"), UDP, 16.1) == []
    assert transactions.receive(request("ACK", to_tag="x"), UDP, 16.2) == []
    assert transactions.receive(request(), UDP, 16.3) == []
    assert run_timers(transactions, 21.2) == []
    assert len(transactions) == 0


def test_failure_without_ack_is_reported_after_64_t1() -> None:
    transactions = layer()
    tx = serve(transactions, request(), TCP)
    transactions.respond(tx, respond(tx.request, 404, "Not Found", "x"), 0.0)
    assert run_timers(transactions, 100.0) == [(32.0, TransactionFailed(tx, "timeout"))]
    assert len(transactions) == 0


def test_ack_on_tcp_ends_the_transaction_at_once() -> None:
    transactions = layer()
    tx = serve(transactions, request(), TCP)
    transactions.respond(tx, respond(tx.request, 404, "Not Found", "x"), 0.0)
    assert transactions.receive(request("ACK", to_tag="x"), TCP, 0.1) == []
    assert len(transactions) == 0
    assert transactions.next_timer() is None


def test_2xx_may_be_repeated_by_the_user_and_invites_are_absorbed_until_timer_l() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    ok = respond(tx.request, 200, "OK", "x")
    for now in (0.0, 0.5, 1.5):
        assert start_lines(transactions.respond(tx, ok, now)) == ["SIP/2.0 200 OK"]
    assert transactions.receive(request(), UDP, 2.0) == []
    assert run_timers(transactions, 31.0) == []
    assert transactions.respond(tx, respond(tx.request, 500, "Late", "x"), 31.0) == []
    run_timers(transactions, 32.1)
    assert len(transactions) == 0
    assert transactions.respond(tx, ok, 33.0) == []
    assert transactions.counters.suppressed == 2


def test_ack_of_2xx_is_passed_up_with_and_without_a_new_branch() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 0.0)
    for branch in ("z9hG4bKnew", "z9hG4bKpeer1"):
        ack = request("ACK", branch=branch, to_tag="x")
        assert transactions.receive(ack, UDP, 0.1) == [AckReceived(ack, UDP)]


def test_ack_before_any_final_is_stray() -> None:
    transactions = layer()
    serve(transactions, request())
    assert transactions.receive(request("ACK"), UDP, 0.1) == []
    assert transactions.counters.strays == 1


def test_same_branch_from_another_host_or_network_is_another_transaction() -> None:
    transactions = layer()
    serve(transactions, request())
    serve(transactions, request(sent_by="198.51.100.8", call_id="c2"))
    serve(transactions, request(sent_by="198.51.100.7:5080", call_id="c3"))
    serve(transactions, request(), PRIVATE)
    assert len(transactions) == 4


# Non-INVITE server (s.17.2.2, RFC 4320)


def test_unanswered_non_invite_gets_100_only_when_timer_e_has_grown_to_t2() -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"))
    assert transactions.receive(request("OPTIONS"), UDP, 0.5) == []
    log = run_timers(transactions, 31.0)
    assert transmissions(log) == [3.5]
    assert start_lines([log[0][1]]) == ["SIP/2.0 100 Trying"]
    assert start_lines(transactions.receive(request("OPTIONS"), UDP, 7.5)) == ["SIP/2.0 100 Trying"]
    assert run_timers(transactions, 40.0) == [(32.0, TransactionFailed(tx, "timeout"))]
    assert transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 41.0) == []


def test_non_invite_answer_is_repeated_for_each_retransmission() -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"))
    transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 0.0)
    for now in (0.5, 1.5, 31.0):
        assert start_lines(transactions.receive(request("OPTIONS"), UDP, now)) == ["SIP/2.0 200 OK"]
        assert run_timers(transactions, now) == []
    run_timers(transactions, 32.0)
    assert len(transactions) == 0


@pytest.mark.parametrize("status", [100, 180, 408])
def test_non_invite_never_gets_a_provisional_or_408_from_the_user(status: int) -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"))
    assert transactions.respond(tx, respond(tx.request, status, "No", "x"), 0.1) == []
    assert transactions.receive(request("OPTIONS"), UDP, 0.5) == []
    assert transactions.counters.suppressed == 1


def test_answered_non_invite_on_tcp_leaves_nothing_behind() -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"), TCP)
    assert len(transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 0.0)) == 1
    assert len(transactions) == 0


# CANCEL as a server (s.9.2)


def test_cancel_is_answered_200_with_our_tag_and_passed_up() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, 180, "Ringing", "x9"), 0.1)
    cancel = request("CANCEL")
    effects = transactions.receive(cancel, UDP, 0.2)
    (ok,) = sent(effects)
    assert (ok.start_line, str(ok.cseq), ok.to.tag) == ("SIP/2.0 200 OK", "1 CANCEL", "x9")
    assert effects[1:] == [CancelReceived(tx, cancel)]
    transactions.respond(tx, respond(tx.request, 487, "Request Terminated", "x9"), 0.2)
    assert start_lines(transactions.receive(request("CANCEL"), UDP, 0.7)) == ["SIP/2.0 200 OK"]


@pytest.mark.parametrize("status", [200, 486])
def test_cancel_after_the_final_is_answered_without_effect(status: int) -> None:
    transactions = layer()
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, status, "Final", "x"), 0.1)
    effects = transactions.receive(request("CANCEL"), UDP, 0.2)
    assert start_lines(effects) == ["SIP/2.0 200 OK"]
    assert len(effects) == 1


def test_cancel_of_nothing_is_481_with_the_same_tag_each_time() -> None:
    transactions = layer()
    first = transactions.receive(request("CANCEL"), UDP, 0.0)
    assert start_lines(first) == ["SIP/2.0 481 Call/Transaction Does Not Exist"]
    assert transactions.receive(request("CANCEL"), UDP, 0.5) == first
    assert len(transactions) == 0


def test_cancel_does_not_reach_a_non_invite() -> None:
    transactions = layer()
    serve(transactions, request("OPTIONS"))
    effects = transactions.receive(request("CANCEL"), UDP, 0.1)
    assert start_lines(effects) == ["SIP/2.0 481 Call/Transaction Does Not Exist"]


# RFC 2543 peers: no magic cookie (s.17.2.3)


@pytest.mark.parametrize("branch", [None, "1"])
def test_request_without_cookie_is_matched_as_a_whole(branch: str | None) -> None:
    transactions = layer()
    tx = serve(transactions, request(branch=branch))
    assert start_lines(transactions.receive(request(branch=branch), UDP, 0.5)) == ["SIP/2.0 100 Trying"]
    serve(transactions, request(branch=branch, cseq=2))
    serve(transactions, request(branch=branch, call_id="other"))
    cancel = request("CANCEL", branch=branch)
    assert CancelReceived(tx, cancel) in transactions.receive(cancel, UDP, 0.6)
    transactions.respond(tx, respond(tx.request, 487, "Request Terminated", "x"), 0.7)
    states: list[State] = []
    for to_tag in ("other", "x"):
        assert transactions.receive(request("ACK", branch=branch, to_tag=to_tag), UDP, 0.8) == []
        states.append(tx.state)
    assert states == [State.COMPLETED, State.CONFIRMED]


# Merged requests (s.8.2.2.2)


def test_request_that_comes_by_two_ways_is_merged() -> None:
    transactions = layer()
    serve(transactions, request())
    effects = transactions.receive(request(branch="z9hG4bKother"), UDP, 0.1)
    assert start_lines(effects) == ["SIP/2.0 482 Loop Detected"]
    assert only(RequestReceived, effects) == []
    assert transactions.receive(request("ACK", branch="z9hG4bKother", to_tag="own1"), UDP, 0.2) == []
    assert transactions.counters.merged == 1


def test_forks_to_two_targets_behind_us_are_two_requests() -> None:
    transactions = layer()
    serve(transactions, request())
    serve(transactions, request(branch="z9hG4bKother", uri="sip:carol@203.0.113.10"))


def test_proxy_may_try_again_after_our_failure() -> None:
    transactions = layer()
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, 480, "Temporarily Unavailable", "x"), 0.1)
    serve(transactions, request(branch="z9hG4bKsecond"), now=0.2)


def test_request_inside_a_dialog_is_never_merged() -> None:
    transactions = layer()
    serve(transactions, request(to_tag="x"))
    serve(transactions, request(to_tag="x", branch="z9hG4bKother"))


def test_merging_ends_with_the_transaction() -> None:
    transactions = layer()
    tx = serve(transactions, request("OPTIONS"), TCP)
    transactions.respond(tx, respond(tx.request, 200, "OK", "x"), 0.1)
    serve(transactions, request("OPTIONS", branch="z9hG4bKother"), TCP, 0.2)


# The way back (s.18.2.2, RFC 3581)


def test_rport_is_filled_in_and_the_answer_goes_to_the_source() -> None:
    flow = Flow("public", "udp", UDP.local, ("192.0.2.9", 40123))
    effects = layer().receive(request(sent_by="10.1.1.1:5062", via_params=";rport"), flow, 0.0)
    (transmit,) = only(Transmit, effects)
    assert transmit.flow == flow
    assert parse(transmit.data).get("Via") == (
        "SIP/2.0/UDP 10.1.1.1:5062;rport=40123;branch=z9hG4bKpeer1;received=192.0.2.9"
    )


def test_without_rport_the_answer_goes_to_the_port_of_the_via() -> None:
    flow = Flow("public", "udp", UDP.local, ("192.0.2.9", 40123))
    for sent_by, port in (("10.1.1.1:5062", 5062), ("10.1.1.1", 5060), ("192.0.2.9:40123", 40123)):
        (transmit,) = only(Transmit, layer().receive(request(sent_by=sent_by), flow, 0.0))
        assert transmit.flow.remote == ("192.0.2.9", port)
        received = parse(transmit.data).via.param("received")
        assert received == (None if sent_by.startswith("192.0.2.9") else "192.0.2.9")


def test_symmetric_network_answers_to_the_source_also_without_rport() -> None:
    flow = Flow("public", "udp", UDP.local, ("192.0.2.9", 40123))
    (transmit,) = only(Transmit, layer(symmetric=frozenset({"public"})).receive(request(), flow, 0.0))
    assert transmit.flow == flow


def test_maddr_is_not_followed() -> None:
    effects = layer().receive(request(via_params=";maddr=192.0.2.99"), UDP, 0.0)
    assert only(Transmit, effects)[0].flow == UDP


def test_tcp_answers_on_its_connection_whatever_the_via_says() -> None:
    effects = layer().receive(request(sent_by="10.1.1.1:5099", transport="TCP"), TCP, 0.0)
    assert only(Transmit, effects)[0].flow == TCP


def test_only_the_top_via_is_completed() -> None:
    message = request(via_params=";rport")
    message.replace_first(
        "v",
        "SIP/2.0/UDP 10.1.1.1;rport;branch=z9hG4bKtop, SIP/2.0/UDP 10.2.2.2;rport;branch=z9hG4bKlow",
    )
    effects = layer().receive(message, UDP, 0.0)
    assert sent(effects)[0].values("Via") == [
        "SIP/2.0/UDP 10.1.1.1;rport=5060;branch=z9hG4bKtop;received=198.51.100.7",
        "SIP/2.0/UDP 10.2.2.2;rport;branch=z9hG4bKlow",
    ]


# Limits and failures


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
        largest = max(largest, len(transactions._heap) - 2 * len(transactions))
    assert largest <= 64
    run_timers(transactions, now + 64)
    assert len(transactions) == 0
    assert transactions.next_timer() is None
    assert not transactions._merging
    assert not transactions._on_flow


def test_transactions_that_end_before_their_deadline_do_not_pile_up_in_the_heap() -> None:
    transactions = layer()
    for number in range(1000):
        tx, _ = transactions.send_request(ours("OPTIONS"), TCP, None, number / 1000)
        transactions.receive(answer(tx, 200), TCP, number / 1000)
        assert len(transactions._heap) <= 66
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


# Reloads


def test_a_network_that_has_another_name_now_is_the_same_for_what_is_under_way() -> None:
    layer_ = layer()
    invite = request()
    (tx,) = [one.tx for one in layer_.receive(invite, UDP, 0.0) if isinstance(one, RequestReceived)]
    asked, _ = layer_.send_request(request("OPTIONS", branch=None), UDP, None, 0.0)
    later = Flow("outside", *[getattr(UDP, name) for name in ("transport", "local", "remote")])
    answer = respond(asked.request, 200, "OK", "t")
    stranger = layer()
    assert stranger.receive(respond(asked.request, 200, "OK", "t"), later, 0.1) == []
    assert layer_.receive(answer, later, 0.1) == [], "another network"
    layer_.former_names = {"outside": ("public",)}
    assert any(isinstance(one, ResponseReceived) for one in layer_.receive(answer, later, 0.1))
    before = len(layer_)
    assert not [one for one in layer_.receive(request(), later, 0.2) if isinstance(one, RequestReceived)]
    assert len(layer_) == before, "the repeated INVITE is not a second one"
    effects = layer_.receive(request("CANCEL"), later, 0.3)
    assert [one.tx for one in effects if isinstance(one, CancelReceived)] == [tx]
    layer_.respond(tx, respond(invite, 487, "Request Terminated", "t"), 0.4)
    layer_.receive(request("ACK", to_tag="t"), later, 0.5)
    assert tx.state is State.CONFIRMED
    assert any(
        isinstance(one, RequestReceived)
        for one in layer_.receive(request(branch="z9hG4bKnew", cseq=2), later, 1.0)
    )


def test_flows_are_those_of_transactions_that_still_need_them() -> None:
    layer_ = layer()
    assert layer_.flows() == []
    (tx,) = [one.tx for one in layer_.receive(request(), UDP, 0.0) if isinstance(one, RequestReceived)]
    layer_.send_request(request("OPTIONS", branch=None), PRIVATE, None, 0.0)
    assert {flow.network for flow in layer_.flows()} == {"public", "private"}
    tx.holds = False
    assert {flow.network for flow in layer_.flows()} == {"private"}


def test_other_timers_are_for_transactions_to_come() -> None:
    layer_ = layer()
    first, _ = layer_.send_request(request(branch=None), UDP, None, 0.0)
    layer_.retime(TimerValues(t1=0.1))
    second, _ = layer_.send_request(request(branch=None), UDP, None, 0.0)
    assert first.deadline == pytest.approx(32.0)
    assert second.deadline == pytest.approx(6.4)
