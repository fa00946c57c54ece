"""ICMP errors: a server that is not there is noticed at once (RFC 3261 s.18.4), and nobody makes us believe in one."""

import asyncio
import contextlib
import socket

import pytest

from signaling.flow import Flow, Listener
from signaling.transport.limits import TransportLimits
from signaling.transport.wires import Wires
from tests.harness.border import Agent, Border
from tests.scenario.test_no_call import two_servers

REQUEST = (
    b"INVITE sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK0123456789abcdef\r\n"
)


def quoted(border: Border, agent: Agent) -> tuple[bytes, Flow]:
    """What we have sent to an agent last."""
    return next((data, flow) for data, flow in reversed(border.sent) if flow.remote == agent.address)


def calling() -> tuple[Border, Agent, Agent, Agent]:
    """A call whose first server has the INVITE."""
    border = Border(changes=two_servers)
    alice = border.agent("public", "203.0.113.77:5070")
    first, second = border.agent("private", "10.0.0.20:5060"), border.agent("private", "10.0.0.21:5060")
    alice.invite()
    first.expect("INVITE")
    return border, alice, first, second


@pytest.mark.parametrize("length", [4096, 160, 110])
def test_the_next_server_is_tried_at_once(length: int) -> None:
    """However little is quoted, if only it is the branch."""
    border, _, first, second = calling()
    data, flow = quoted(border, first)
    border.calls.unreachable(data[:length], flow, border.now)
    second.expect("INVITE")
    servers = border.calls.trunks.snapshot(border.now).trunks["pbx"]
    assert [str(server.health) for server in servers] == ["suspect", "up"]


@pytest.mark.parametrize(
    "forged",
    [
        lambda data: data[:40],  # a router that quotes 8 bytes of UDP, or little more
        lambda data: data.replace(b"branch=z9hG4bK", b"branch=z9hG4bKf"),
        lambda data: data.replace(b"INVITE", b"OPTIONS", 1),
        lambda data: b"",
        lambda data: b"\x80\x00" + data,
    ],
)
def test_who_has_not_seen_the_request_cannot_have_it_fail(forged: object) -> None:
    border, _, first, second = calling()
    data, flow = quoted(border, first)
    assert callable(forged)
    border.calls.unreachable(forged(data), flow, border.now)
    second.nothing()
    border.calls.unreachable(data, Flow(flow.network, "udp", flow.local, ("10.0.0.99", 5060)), border.now)
    second.nothing()


def test_what_was_answered_has_arrived() -> None:
    border = Border(changes=two_servers)
    alice = border.agent("public", "203.0.113.77:5070")
    first, second = border.agent("private", "10.0.0.20:5060"), border.agent("private", "10.0.0.21:5060")
    alice.invite()
    invite = first.expect("INVITE")
    first.answer(invite, 100, "Trying")
    data, flow = quoted(border, first)
    border.calls.unreachable(data, flow, border.now)
    second.nothing()
    first.answer(invite, 180, "Ringing")
    alice.expect_answer(180)


def test_the_last_server_is_none() -> None:
    border, alice, first, second = calling()
    for server in (first, second):
        data, flow = quoted(border, server)
        border.calls.unreachable(data, flow, border.now)
    assert "server-unreachable" in (alice.expect_answer(503).get("Warning") or "")
    border.at_rest()


# -- what the system tells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_closed_port_is_told_with_what_was_sent(host: str) -> None:
    """And what goes to others meanwhile arrives."""
    asyncio.run(_closed_port(host))


async def _closed_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    told: list[tuple[bytes, Flow]] = []
    wires = Wires(
        [Listener("public", "udp", (host, 0), ("sbc.example", 5060))],
        lambda data, flow, age_s: None,
        lambda flow: None,
        TransportLimits(),
        None,
        lambda data, flow: told.append((data, flow)),
    )
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        closed: tuple[str, int] = probe.getsockname()[:2]
    wires.open()
    (local,) = [face.local for face in wires._faces.values()]
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.bind((host, 0))
        peer.settimeout(2)
        here = Flow("public", "udp", local, peer.getsockname()[:2])
        for number in range(20):
            wires.send(REQUEST, Flow("public", "udp", local, closed))
            wires.send(b"%d" % number, here)
            assert peer.recv(100) == b"%d" % number
        for _ in range(100):
            if len(told) == 20:
                break
            await asyncio.sleep(0.01)
        spent = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - spent < 1
    wires.close()
    assert len(told) == 20 and set(told) == {(REQUEST, Flow("public", "udp", local, closed))}
    assert wires.counters.unreachable == 20
