"""UDP on loopback: datagrams both ways, how long each has waited, and what is answered where it is read."""

import asyncio
import socket
from typing import Any

import pytest

from signaling.flow import Flow, Listener, flow_from
from signaling.transport.limits import TransportLimits
from signaling.transport.udp import Glance
from signaling.transport.wires import Wires
from tests.signaling.transport.node import MESSAGE, listener, node, on_loop, stall, udp_peer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@on_loop
async def test_udp_both_ways(host: str) -> None:
    async with node(listener(host=host)) as ours:
        with udp_peer(host) as peer:
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
            data, flow, age = ours.received[0]
            assert data == MESSAGE
            assert flow == Flow("public", "udp", ours.local("udp"), (host, peer.getsockname()[1]))
            assert 0 <= age < 1
            ours.wires.send(b"answer", flow)
            assert peer.recvfrom(100)[0] == b"answer"


@on_loop
async def test_flow_of_a_remote_is_one_object_and_the_cache_is_bounded() -> None:
    async with node(listener(), flows=2) as ours:
        for _ in range(2):
            with udp_peer() as peer:
                peer.sendto(MESSAGE, ours.local("udp"))
                peer.sendto(MESSAGE, ours.local("udp"))
                await ours.until(lambda: len(ours.received) % 2 == 0 and ours.received)
            assert ours.received[-1][1] is ours.received[-2][1]
        face: Any = next(iter(ours.wires._faces.values()))
        for _ in range(3):
            with udp_peer() as peer:
                peer.sendto(MESSAGE, ours.local("udp"))
                ours.received.clear()
                await ours.until(lambda: ours.received)
                assert len(face._flows) <= 2


@on_loop
async def test_one_wakeup_reads_a_bounded_number() -> None:
    async with node(listener(), datagrams_per_wakeup=4) as ours:
        with udp_peer() as peer:
            for _ in range(10):
                peer.sendto(MESSAGE, ours.local("udp"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert 0 < len(ours.received) <= 8
            await ours.until(lambda: len(ours.received) == 10)


@on_loop
async def test_age_is_what_the_datagram_waited_and_not_how_long_we_were_idle() -> None:
    async with node(listener()) as ours:
        with udp_peer() as peer:
            # Long enough to tell from the moments that a busy machine takes away from us.
            await asyncio.sleep(1.0)
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
            assert ours.received[0][2] < 0.8
            peer.sendto(MESSAGE, ours.local("udp"))
            stall(1.0)
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: len(ours.received) == 3)
            assert ours.received[1][2] >= 0.99
            assert ours.received[2][2] < 0.8


@on_loop
async def test_keepalive_and_oversized_datagrams_go_no_further() -> None:
    async with node(listener(), max_message_bytes=1000) as ours:
        with udp_peer() as peer:
            for data in (b"\r\n\r\n", b"\0", b"", b"x" * 1001, MESSAGE):
                peer.sendto(data, ours.local("udp"))
            await ours.until(lambda: ours.received)
            assert [data for data, _, _ in ours.received] == [MESSAGE]
            assert (ours.wires.counters.keepalives, ours.wires.counters.oversized) == (3, 1)


@on_loop
async def test_udp_send_that_the_system_refuses_fails_from_the_loop() -> None:
    async with node(listener()) as ours:
        flow = Flow("public", "udp", ours.local("udp"), ("127.0.0.1", 9))
        ours.wires.send(b"x" * 70_000, flow)
        assert ours.failed == []
        await ours.until(lambda: ours.failed == [flow])
        ours.wires.send(b"to nobody", flow)  # an ICMP error comes back and must not matter
        with udp_peer() as peer:
            peer.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
        assert ours.failed == [flow]


@on_loop
async def test_a_glance_comes_first_and_the_end_of_a_row_is_told_once() -> None:
    seen: list[tuple[str, bytes]] = []
    done = asyncio.Event()

    def answers(data: bytes, flow: Flow, age_s: float) -> bool:
        assert flow.network == "public" and 0 <= age_s < 30
        seen.append(("glance", data))
        if b"enough" in data:
            wires.send(b"answer", flow)
            return True
        return False

    def receive(data: bytes, flow: Flow, age_s: float) -> None:
        seen.append(("receive", data))

    def after() -> None:
        seen.append(("after", b""))
        done.set()

    wires = Wires(
        [Listener("public", "udp", ("127.0.0.1", 0), ("sbc.example", 5060))],
        receive,
        lambda flow: None,
        TransportLimits(),
        Glance(answers, after),
    )
    wires.open()
    (bound,) = wires.bound
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(30.0)
        # All of them wait in one row when the loop looks for the first time.
        for data in (b"OPTIONS enough", b"INVITE enough", b"REGISTER more", b"REGISTER enough"):
            peer.sendto(data, bound.local)
        await asyncio.wait_for(done.wait(), 30.0)
        back = flow_from(wires.bound, "public", "udp", peer.getsockname())
        assert back is not None
        wires.send(b"last", back)
        got = [peer.recv(100) for _ in range(3)]
    wires.close()
    assert seen == [
        ("glance", b"OPTIONS enough"),
        ("receive", b"INVITE enough"),
        ("glance", b"REGISTER more"),
        ("receive", b"REGISTER more"),
        ("glance", b"REGISTER enough"),
        ("after", b""),
    ]
    assert got == [b"answer", b"answer", b"last"]
