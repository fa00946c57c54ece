"""The way back of an answer (RFC 3261 s.18.2.2, RFC 3581)."""

import pytest

from signaling.flow import Flow
from signaling.parser import parse
from signaling.transaction import (
    Transmit,
)
from tests.signaling.transaction.peer import (
    TCP,
    UDP,
    layer,
    only,
    request,
    sent,
)


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


@pytest.mark.parametrize(
    "written", [";received=10.9.9.9;rport", ";rport;Received = 10.9.9.9;x=1", ";received=1"]
)
def test_received_is_said_once_and_by_us(written: str) -> None:
    flow = Flow("public", "udp", UDP.local, ("192.0.2.9", 40123))
    (transmit,) = only(
        Transmit, layer().receive(request(sent_by="10.1.1.1:5062", via_params=written), flow, 0.0)
    )
    via = parse(transmit.data).get("Via") or ""
    assert via.lower().count("received") == 1
    assert ";received=192.0.2.9" in via
