"""Client transactions, input on the left and effects on the right (RFC 3261 s.17.1, s.9.1)."""

import pytest

from signaling.errors import UsageError
from signaling.message import Request
from signaling.transaction import (
    ResponseReceived,
    State,
    TransactionFailed,
    Transmit,
)
from tests.signaling.transaction.peer import (
    PRIVATE,
    TCP,
    UDP,
    answer,
    layer,
    only,
    ours,
    run_timers,
    sent,
    start_lines,
    transmissions,
)

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
