"""Server transactions, input on the left and effects on the right (RFC 3261 s.17.2, s.8.2.2.2, s.9.2)."""

import pytest

from signaling.errors import ParseError
from signaling.message import respond
from signaling.return_path import UNPROVEN_REPEATS, ReturnPaths
from signaling.transaction import (
    AckReceived,
    CancelReceived,
    RequestReceived,
    State,
    TransactionFailed,
)
from tests.signaling.transaction.peer import (
    PRIVATE,
    TCP,
    UDP,
    layer,
    only,
    request,
    run_timers,
    sent,
    serve,
    start_lines,
    transmissions,
)

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


# Requests that cannot be served


def test_a_request_whose_to_cannot_be_read_leaves_no_transaction() -> None:
    transactions = layer()
    message = request()
    message.replace("To", "<sip:bob@203.0.113.10")
    with pytest.raises(ParseError):
        transactions.receive(message, UDP, 0.0)
    assert len(transactions) == 0


def test_what_is_not_sent_to_a_host_that_may_be_forged_is_not_counted_as_sent() -> None:
    transactions = layer(return_paths=ReturnPaths())
    tx = serve(transactions, request())
    transactions.respond(tx, respond(tx.request, 404, "Not Found", "x"), 0.0)
    assert len(transmissions(run_timers(transactions, 31.0))) == UNPROVEN_REPEATS
    assert transactions.counters.retransmissions_sent == UNPROVEN_REPEATS
