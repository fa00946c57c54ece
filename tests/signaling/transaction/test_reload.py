"""What a reload changes: names of networks, timers; and the flows that are still needed."""

import pytest

from signaling.flow import Flow
from signaling.message import respond
from signaling.transaction import CancelReceived, RequestReceived, ResponseReceived, State, TimerValues
from tests.signaling.transaction.peer import PRIVATE, UDP, layer, request


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
