"""All listeners together, also while they are changed: which socket stays, which goes, who is on it until then."""

import asyncio
from dataclasses import replace

import pytest

from signaling.flow import Flow, Listener, flow_from
from signaling.transport.limits import TransportLimits
from signaling.transport.wires import ListenError, Wires
from tests.signaling.transport.node import (
    MESSAGE,
    Node,
    TcpPeer,
    listener,
    node,
    on_loop,
    tcp_server,
    udp_peer,
)

LIMITS = TransportLimits()


def change(ours: Node, *listeners: Listener) -> None:
    ours.wires.change(ours.wires.stage(listeners), LIMITS)


def of(ours: Node, transport: str) -> Listener:
    """The open listener of a transport, with its port."""
    return next(one for one in ours.wires.bound if one.transport == transport)


@on_loop
async def test_all_binding_errors_come_in_one_sentence_and_nothing_stays_open() -> None:
    with udp_peer() as taken:
        port = taken.getsockname()[1]
        wires = Wires(
            [
                listener("udp", port=port),
                listener("udp"),
                listener("tcp", host="203.0.113.77", port=5060, network="carrier"),
            ],
            lambda data, flow, age: None,
            lambda flow: None,
            TransportLimits(),
        )
        with pytest.raises(ListenError) as raised:
            wires.open()
    assert str(raised.value) == (
        f"cannot listen on udp:127.0.0.1:{port} of network public: the address is in use by another program "
        "(EADDRINUSE); tcp:203.0.113.77:5060 of network carrier: the address is not on this host (EADDRNOTAVAIL)"
    )
    assert wires.bound == ()


@on_loop
async def test_a_network_may_have_both_transports_and_both_families() -> None:
    async with node(listener("udp"), listener("udp", host="::1"), listener("tcp")) as ours:
        shared = [(one.transport, one.local[0]) for one in ours.wires.bound if one.network == "public"]
        assert shared == [("udp", "127.0.0.1"), ("udp", "::1"), ("tcp", "127.0.0.1")]


@on_loop
async def test_sending_on_a_listener_that_is_not_there_fails() -> None:
    async with node(listener()) as ours:
        flow = Flow("private", "udp", ("127.0.0.2", 5060), ("127.0.0.1", 5060))
        ours.wires.send(b"x", flow)
        await ours.until(lambda: ours.failed == [flow])


@on_loop
async def test_closing_twice_and_sending_after_it_is_quiet() -> None:
    async with node(listener(), listener("tcp")) as ours:
        flow = Flow("public", "udp", ours.local("udp"), ("127.0.0.1", 9))
        ours.wires.close()
        ours.wires.close()
        ours.wires.send(b"x", flow)
        await asyncio.sleep(0)
        assert ours.failed == []


@on_loop
async def test_close_with_open_connections_and_one_under_way() -> None:
    async with node(listener("tcp")) as ours, tcp_server() as (remote, _):
        peer = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.connections == 1)
        flow = ours.flow_to(remote)
        ours.wires.send(MESSAGE, flow)
        ours.wires.close()
        assert await peer.closed()
        await peer.close()


@on_loop
async def test_what_comes_while_a_listener_is_made_ready_is_read_when_it_serves() -> None:
    async with node(listener()) as ours:
        staged = ours.wires.stage([of(ours, "udp"), listener("udp", network="private"), listener("tcp")])
        local = staged.faces[1][1].local
        with udp_peer() as peer:
            peer.sendto(MESSAGE, local)
            waiting = await TcpPeer.connect(staged.faces[2][1].local)
            waiting.writer.write(MESSAGE)
            await asyncio.sleep(0.05)
            assert ours.received == []
            ours.wires.change(staged, LIMITS)
            await ours.until(lambda: len(ours.received) == 2)
            assert {flow.network for _, flow, _ in ours.received} == {"private", "public"}
        await waiting.close()


@on_loop
async def test_what_was_made_ready_and_is_not_wanted_is_let_go() -> None:
    async with node(listener(), listener("tcp")) as ours:
        kept = [face._socket for face in ours.wires._faces.values()]
        staged = ours.wires.stage([of(ours, "udp"), of(ours, "tcp"), listener("udp"), listener("tcp")])
        locals_ = [face.local for _, face, fresh in staged.faces if fresh]
        staged.abandon()
        with pytest.raises(ConnectionRefusedError):
            await TcpPeer.connect(locals_[1])
        assert [face._socket for face in ours.wires._faces.values()] == kept
        change(ours, of(ours, "udp"), of(ours, "tcp"), listener("udp", port=locals_[0][1]))
        with udp_peer() as taken:
            with pytest.raises(ListenError) as raised:
                ours.wires.stage([listener("udp"), listener("udp", port=taken.getsockname()[1])])
            (problem,) = raised.value.problems
            assert problem.listener.local == taken.getsockname()
        assert len(ours.wires.bound) == 3


@on_loop
async def test_a_listener_gets_another_name_and_address_without_another_socket() -> None:
    async with node(listener(), listener("tcp")) as ours:
        kept = {face._socket for face in ours.wires._faces.values()}
        peer = await TcpPeer.connect(ours.local("tcp"))
        peer.writer.write(MESSAGE)
        with udp_peer() as wire:
            wire.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: len(ours.received) == 2)
            before = {flow.transport: flow for _, flow, _ in ours.received}
            there = ("192.0.2.1", 5070)
            change(ours, *[replace(one, network="other", advertised=there) for one in ours.wires.bound])
            assert {face._socket for face in ours.wires._faces.values()} == kept
            assert {one.advertised for one in ours.wires.bound} == {there}
            wire.sendto(MESSAGE, ours.local("udp"))
            peer.writer.write(MESSAGE)
            await ours.until(lambda: len(ours.received) == 4)
            assert [flow.network for _, flow, _ in ours.received[2:]] == ["other", "other"]
            # Who knows the flow by its old name reaches the same peer.
            for flow in before.values():
                ours.wires.send(MESSAGE, flow)
            assert wire.recvfrom(1000)[0] == MESSAGE
            assert await peer.read(len(MESSAGE)) == MESSAGE
            assert ours.wires.connections == 1
        await peer.close()


@on_loop
async def test_a_retired_udp_listener_serves_until_no_flow_uses_it() -> None:
    async with node(listener()) as ours:
        old = of(ours, "udp")
        with udp_peer() as wire:
            change(ours, listener(network="private"))
            assert (ours.wires.retired, len(ours.wires.bound)) == ((old,), 1)
            assert flow_from(ours.wires.bound, "public", "udp", wire.getsockname()) is None
            wire.sendto(MESSAGE, old.local)
            await ours.until(lambda: ours.received)
            flow = ours.received[0][1]
            assert flow.network == "public"
            assert ours.wires.release([flow]) == []
            ours.wires.send(MESSAGE, replace(flow, network="any"))
            assert wire.recvfrom(1000)[0] == MESSAGE
            elsewhere = replace(flow, local=of(ours, "udp").local)
            assert ours.wires.release([elsewhere]) == [old]
            assert ours.wires.retired == ()
            ours.wires.send(MESSAGE, flow)
            await ours.until(lambda: ours.failed == [flow])


@on_loop
async def test_a_retired_stream_listener_keeps_the_connections_that_are_used_and_takes_no_others() -> None:
    async with node(listener("tcp")) as ours:
        old = of(ours, "tcp")
        used, idle = await TcpPeer.connect(old.local), await TcpPeer.connect(old.local)
        used.writer.write(MESSAGE)
        await ours.until(lambda: ours.received and ours.wires.connections == 2)
        flow = ours.received[0][1]
        change(ours, listener("tcp"))
        with pytest.raises(ConnectionRefusedError):
            await TcpPeer.connect(old.local)
        assert ours.wires.connections == 2
        assert ours.wires.release([flow]) == []
        assert await idle.closed()
        assert ours.wires.connections == 1
        ours.wires.send(MESSAGE, flow)
        assert await used.read(len(MESSAGE)) == MESSAGE
        assert ours.wires.release([]) == [old]
        assert await used.closed()
        await used.close()
        await idle.close()


@on_loop
async def test_a_call_on_a_retired_listener_may_open_a_connection() -> None:
    async with node(listener("tcp")) as ours:
        old = of(ours, "tcp")
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        remote = server.sockets[0].getsockname()
        change(ours, listener())
        flow = Flow("public", "tcp", old.local, remote)
        ours.wires.send(MESSAGE, flow)
        assert ours.wires.connections == 1
        assert ours.wires.release([flow]) == []
        await asyncio.sleep(0.05)  # until then what was sent still waits for the connection
        assert len(ours.wires.release([])) == 1
        server.close()


@on_loop
async def test_a_retired_listener_comes_back_with_its_connections() -> None:
    async with node(listener("tcp"), listener()) as ours:
        tcp, udp = of(ours, "tcp"), of(ours, "udp")
        face = ours.wires._faces["udp", udp.local]
        peer = await TcpPeer.connect(tcp.local)
        await ours.until(lambda: ours.wires.connections == 1)
        change(ours, listener())
        change(ours, tcp, udp)
        assert ours.wires._faces["udp", udp.local] is face
        assert len(ours.wires.retired) == 1
        assert len(ours.wires.release([])) == 1
        peer.writer.write(MESSAGE)
        other = await TcpPeer.connect(tcp.local)
        other.writer.write(MESSAGE)
        await ours.until(lambda: len(ours.received) == 2)
        assert ours.wires.connections == 2
        await peer.close()
        await other.close()


@on_loop
async def test_limits_of_a_change_hold_at_once_for_all() -> None:
    async with node(listener(), listener("tcp")) as ours:
        limits = TransportLimits(max_message_bytes=len(MESSAGE), connections=1)
        ours.wires.change(ours.wires.stage(ours.wires.bound), limits)
        peer = await TcpPeer.connect(ours.local("tcp"))
        await ours.until(lambda: ours.wires.connections == 1)
        refused = await TcpPeer.connect(ours.local("tcp"))
        assert await refused.closed()
        with udp_peer() as wire:
            wire.sendto(MESSAGE + b"x", ours.local("udp"))
            wire.sendto(MESSAGE, ours.local("udp"))
            await ours.until(lambda: ours.received)
            assert ours.wires.counters.oversized == 1
        await peer.close()
        await refused.close()
