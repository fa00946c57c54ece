"""Reloads that change everything while calls go on, on real sockets of loopback: all of it or nothing."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from config.load import load
from sbc.control import ControlError, ask
from sbc.log import LogFile
from sbc.phone import CallFailed, Phone, Talk
from sbc.server import Server
from tests.harness.stun import serving
from tests.sbc.test_server import (
    Ports,
    children,
    free_port,
    phone,
    records,
    running,
    talking,
    text,
    until,
)

Scenario = Callable[[Server, Phone, Phone, Ports], Awaitable[None]]
SOON = "30, t1_ms: 20, t2_ms: 80, t4_ms: 100"
"""Timers with which a transaction is forgotten after little more than a second."""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def file_of(ports: Ports, folder: Path, *changes: tuple[str, str]) -> str:
    """The configuration of `tests.sbc.test_server` with a second phone on either side, and with replacements."""
    file = text(ports, folder, drain_s=SOON)
    file = file.replace(
        "trunks:\n", f'trunks:\n  two: {{network: private, servers: ["sip:127.0.2.3:{ports.pbx}"]}}\n'
    )
    file = file.replace("routes:\n", 'routes:\n  - {from: public, match: "^dave$", to: two}\n')
    for old, new in changes:
        assert old in file, old
        file = file.replace(old, new)
    return file


def held(tmp_path: Path, scenario: Scenario) -> None:
    """Run a scenario with alice outside, and bob inside; nothing may be left of it."""

    async def run() -> None:
        ports = Ports()
        (tmp_path / "sbc.yaml").write_text(file_of(ports, tmp_path))
        async with (
            asyncio.timeout(240),
            phone("alice", "127.0.1.2", 0, 600, 1) as alice,
            phone("bob", "127.0.2.2", ports.pbx, 1000, 2) as bob,
            running(load(tmp_path / "sbc.yaml")) as server,
        ):
            await scenario(server, alice, bob, ports)

    before = children(), descriptors()
    asyncio.run(run())
    assert (children(), descriptors()) == before
    assert not (tmp_path / "control.sock").exists()


async def swap(server: Server, tmp_path: Path, ports: Ports, *changes: tuple[str, str]) -> list[str]:
    """Reload the file with these replacements in its text."""
    (tmp_path / "sbc.yaml").write_text(file_of(ports, tmp_path, *changes))
    return await server.reload()


@contextlib.asynccontextmanager
async def another_call(
    ports: Ports, host: str = "127.0.1.1", port: int = 0
) -> AsyncIterator[tuple[Talk, Talk]]:
    """Carol outside calls dave inside; she hangs up at the end."""
    async with (
        phone("carol", "127.0.1.3", 0, 600, 3) as carol,
        phone("dave", "127.0.2.3", ports.pbx, 1000, 4) as dave,
    ):
        talk = await carol.dial("sip:dave@border.example", (host, port or ports.public))
        other = await dave.incoming.get()
        yield talk, other
        await talk.hang_up()
        await other.ended.wait()


async def converse(*talks: Talk) -> None:
    """Both sides speak, and both hear the other from now on."""
    for talk in talks:
        talk.ear = type(talk.ear)()
    await asyncio.gather(*(talk.converse(0.4) for talk in talks))


def assert_heard(talk: Talk, other: Talk) -> None:
    assert talk.heard(1000).found
    assert other.heard(600).found


async def at_rest(server: Server) -> None:
    await until(lambda: server.calls.idle and not any(server.calls.leftovers().values()))
    await until(lambda: not server.wires.retired and not server.calls.sites.former)


def listens(host: str, port: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


@pytest.mark.parametrize("by_caller", [True, False])
def test_a_call_goes_on_by_the_listener_that_a_reload_takes_away(tmp_path: Path, by_caller: bool) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        old, new = ports.public, free_port("127.0.1.1")
        before = descriptors()
        assert any(
            "networks.public.listen" in line
            for line in await swap(
                server,
                tmp_path,
                ports,
                (f"udp:{old}, tcp:{old}", f"udp:{new}"),
                (f"udp:{ports.private}", f"udp:{free_port('127.0.2.1')}"),
            )
        )
        await converse(talk, other)
        assert_heard(talk, other)
        with pytest.raises(CallFailed) as refused:
            async with another_call(ports):
                pass
        assert (refused.value.status, server.calls.stats["refused:listener-closing"]) == (503, 1)
        async with another_call(ports, port=new) as (_, second):
            assert second.peer[1] != other.peer[1], "new calls come from the new port on the other side too"
        assert listens("127.0.1.1", old)
        await (talk if by_caller else other).hang_up()
        await (other if by_caller else talk).ended.wait()
        await at_rest(server)
        assert not listens("127.0.1.1", old)
        assert not listens("127.0.2.1", ports.private)
        assert listens("127.0.1.1", new)
        # One listener less than before, and the call had four sockets in the worker alone.
        assert descriptors() == before - 1

    held(tmp_path, scenario)
    assert [row["outcome"] for row in records(tmp_path)] == ["answered"] * 2


def test_networks_can_move_to_other_addresses_with_their_media(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        await swap(
            server,
            tmp_path,
            ports,
            ("127.0.1.1", "127.0.1.9"),
            ("127.0.2.1", "127.0.2.9"),
            (f"{ports.media}-{ports.media + 49}", f"{ports.media + 10}-{ports.media + 89}"),
        )
        await converse(talk, other)
        assert_heard(talk, other)
        assert talk.media is not None and talk.media[0] == "127.0.1.1"
        async with another_call(ports, "127.0.1.9") as (fresh, second):
            assert second.peer == ("127.0.2.9", ports.private)
            assert fresh.media is not None and fresh.media[0] == "127.0.1.9"
            await converse(fresh, second)
            assert_heard(fresh, second)
        await talk.hang_up()
        await other.ended.wait()
        await at_rest(server)
        assert not listens("127.0.1.1", ports.public)

    held(tmp_path, scenario)


def test_a_network_can_be_renamed_while_it_rings_and_while_calls_go_on(tmp_path: Path) -> None:
    renamed = [("  public:\n", "  outside:\n"), ("from: public", "from: outside")]
    renamed += [("  private:\n", "  inside:\n"), ("network: private", "network: inside")]

    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        kept = {key: face._socket for key, face in server.wires._faces.items()}
        async with (
            phone("carol", "127.0.1.3", 0, 600, 3) as carol,
            phone("dave", "127.0.2.3", ports.pbx, 1000, 4) as dave,
        ):
            dave._ring_s = 0.6
            dialling = asyncio.create_task(carol.dial("sip:dave@border.example", ("127.0.1.1", ports.public)))
            await until(lambda: any(one.state == "ringing" for one in server.calls.live.values()))
            changes = await swap(server, tmp_path, ports, *renamed)
            assert "networks.public: removed" in changes and "networks.outside: added" in changes
            # What she sends once more belongs to the call that there is.
            for pending in carol._pending.values():
                carol._send(pending.data, pending.target)
            fresh, second = await dialling, await dave.incoming.get()
            assert len(server.calls.live) == 2
            assert {key: face._socket for key, face in server.wires._faces.items()} == kept
            for one, two in ((talk, other), (fresh, second)):
                await converse(one, two)
                assert_heard(one, two)
            await talk.hang_up()
            await other.ended.wait()
            await second.hang_up()
            await fresh.ended.wait()
        third, last = await talking(alice, bob, ports)
        assert {record.legs[0].network for record in server.calls.live.values()} == {"outside"}
        await converse(third, last)
        assert_heard(third, last)
        await last.hang_up()
        await at_rest(server)
        assert server.calls.transactions.former_names == {}

    held(tmp_path, scenario)


def test_a_listener_that_does_not_change_keeps_its_socket_and_what_waits_there(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        face = server.wires._faces["udp", ("127.0.1.1", ports.public)]
        kept = face._socket
        # Sent before the reload and read after it: the loop does not turn between the two.
        dialling = asyncio.create_task(alice.dial("sip:bob@border.example", ("127.0.1.1", ports.public)))
        await asyncio.sleep(0)
        await swap(
            server,
            tmp_path,
            ports,
            (f"udp:{ports.private}", f"udp:{free_port('127.0.2.1')}"),
            ("max_calls: 20", "max_calls: 10"),
        )
        talk, other = await dialling, await bob.incoming.get()
        assert sum(b"INVITE" in data[:6] for data in bob.seen) == 1
        assert server.wires._faces["udp", ("127.0.1.1", ports.public)]._socket is kept
        await talk.hang_up()
        await other.ended.wait()
        await at_rest(server)

    held(tmp_path, scenario)


def test_what_cannot_be_bound_is_named_with_its_place_and_nothing_changes(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        config, bound, open_before = server.config, server.wires.bound, descriptors()
        free = free_port("127.0.1.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.1.1", 0))
            busy = taken.getsockname()[1]
            with pytest.raises(ControlError) as refused:
                await swap(
                    server, tmp_path, ports,
                    (f"udp:{ports.public}, tcp:{ports.public}", f"udp:{free}, udp:{busy}, tcp:{free}"),
                    ("address: 127.0.2.1", "address: 192.0.2.77"),
                    ("control.sock", "no/control.sock"),
                    ("workers: 1", "workers: 2"),
                )  # fmt: skip
        file = tmp_path / "sbc.yaml"
        lines = file.read_text().splitlines()
        listen = next(number for number, line in enumerate(lines, 1) if "listen: [udp" in line)
        column = lines[listen - 1].index(f"udp:{busy}") + 1
        address = next(number for number, line in enumerate(lines, 1) if "192.0.2.77" in line)
        control = next(number for number, line in enumerate(lines, 1) if "no/control.sock" in line)
        told = str(refused.value).splitlines()
        assert told[0] == "nothing was changed:"
        assert (
            f"{file}:{listen}:{column}: networks.public.listen[1]: cannot listen on udp:127.0.1.1:{busy}: "
            "the address is in use by another program (EADDRINUSE)"
        ) in told
        assert any(
            line.startswith(f"{file}:{address}:")
            and line.endswith(
                f"networks.private.address: cannot listen on udp:192.0.2.77:{ports.private}: "
                "the address is not on this host (EADDRNOTAVAIL)"
            )
            for line in told
        )
        assert any(
            line.startswith(f"{file}:{control}:")
            and line.endswith(f"control.socket: {tmp_path}/no/control.sock: No such file or directory")
            for line in told
        )
        await asyncio.sleep(0)
        assert descriptors() == open_before
        assert (server.config, server.wires.bound, server.wires.retired) == (config, bound, ())
        assert not listens("127.0.1.1", free)
        await converse(talk, other)
        assert_heard(talk, other)
        await other.hang_up()
        await talk.ended.wait()
        fresh, second = await talking(alice, bob, ports)
        await fresh.hang_up()
        await second.ended.wait()
        await at_rest(server)

    held(tmp_path, scenario)


def test_a_reload_that_fails_late_gives_everything_back(tmp_path: Path) -> None:
    """The log is the last thing that can fail: by then all is bound, and workers have started."""

    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        class Full:
            def change(self, level: str, path: str | None) -> None:
                if path is not None:
                    raise OSError(28, "No space left on device", path)

            def reopen(self) -> None:
                pass

            dropped = 0

        server.log_file = cast("LogFile", Full())
        open_before, workers = descriptors(), children()
        free = free_port("127.0.1.1")
        with pytest.raises(ControlError, match=r"log.file: /var/x: No space left on device$"):
            await swap(
                server, tmp_path, ports, (f"tcp:{ports.public}", f"tcp:{free}"), ("workers: 1", "workers: 2"),
                ("log: {", "log: {file: /var/x, "), ("control.sock", "other.sock"), ("cdr.jsonl", "other.jsonl"),
            )  # fmt: skip
        assert (descriptors(), children()) == (open_before, workers)
        assert not (tmp_path / "other.sock").exists()
        assert not listens("127.0.1.1", free, socket.SOCK_STREAM)
        server.log_file = None
        talk, other = await talking(alice, bob, ports)
        await talk.hang_up()
        await other.ended.wait()

    held(tmp_path, scenario)


def test_other_workers_take_new_calls_and_the_old_end_with_their_last_one(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        (old,) = children()
        await swap(server, tmp_path, ports, ("workers: 1", "workers: 2, dscp: 0, pin_workers: true"))
        assert len(children()) == 3 and old in children()
        assert os.sched_getaffinity(int(old)) == os.sched_getaffinity(0)
        pinned = [os.sched_getaffinity(int(pid)) for pid in children() if pid != old]
        cores = sorted(os.sched_getaffinity(0))
        assert sorted(map(sorted, pinned)) == sorted([cores[place % len(cores)]] for place in range(2))
        async with another_call(ports) as (fresh, second):
            for one, two in ((talk, other), (fresh, second)):
                await converse(one, two)
                assert_heard(one, two)
            everything = [
                line.stream for call in server.calls.live for line in server.calls.media(call).lines
            ]
            assert [one.id for one in await server.counters(everything)] == everything
            assert server.counts()["media.streams"] == 2
            await talk.hang_up()
            await other.ended.wait()
            await until(lambda: old not in children())
            assert len(children()) == 2
            await converse(fresh, second)
            assert_heard(fresh, second)
        await at_rest(server)
        rows = cast("list[dict[str, Any]]", records(tmp_path))
        assert all(row["media"][0]["a"]["packets"] for row in rows)

    held(tmp_path, scenario)


def test_a_drain_says_goodbye_on_listeners_of_before(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        moved = (f"udp:{ports.public}, tcp:{ports.public}", f"udp:{free_port('127.0.1.1')}")
        await swap(server, tmp_path, ports, moved, ("drain_s: 30", "drain_s: 0.2"))
        server.stop()
        await talk.ended.wait()
        await other.ended.wait()

    held(tmp_path, scenario)
    assert [row["cause"] for row in records(tmp_path)] == ["drain"]


def test_the_control_socket_moves_and_the_answer_comes_by_the_old_one(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        (tmp_path / "sbc.yaml").write_text(file_of(ports, tmp_path, ("control.sock", "other.sock")))
        answer = await asyncio.to_thread(ask, str(tmp_path / "control.sock"), "reload")
        assert isinstance(answer, dict) and "control.socket" in answer["changes"][1]
        await until(lambda: not (tmp_path / "control.sock").exists())
        assert isinstance(await asyncio.to_thread(ask, str(tmp_path / "other.sock"), "calls"), dict)

    held(tmp_path, scenario)
    assert not (tmp_path / "other.sock").exists()


def test_reloads_one_after_the_other_bring_a_listener_back(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        listening = f"udp:{ports.public}, tcp:{ports.public}"
        moved = (listening, f"udp:{free_port('127.0.1.1')}")
        # Two at a time: the second waits for the first, and finds nothing to change.
        first, second = await asyncio.gather(
            swap(server, tmp_path, ports, moved), swap(server, tmp_path, ports, moved)
        )
        assert (len(first), second[1:]) == (2, ["no difference"])
        assert len(server.wires.retired) == 2
        assert not listens("127.0.1.1", ports.public, socket.SOCK_STREAM)
        await swap(server, tmp_path, ports)
        assert [one.local[1] for one in server.wires.bound if one.network == "public"] == [ports.public] * 2
        assert listens("127.0.1.1", ports.public, socket.SOCK_STREAM)
        async with another_call(ports):
            await converse(talk, other)
            assert_heard(talk, other)
        await talk.hang_up()
        await other.ended.wait()
        await at_rest(server)
        assert len(server.wires.bound) == 3

    held(tmp_path, scenario)


def test_limits_and_timers_are_those_of_the_file(tmp_path: Path) -> None:
    """What used to be looked at when the process started."""

    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        await talk.hang_up()
        await other.ended.wait()
        limits = "max_calls: 20, recent_calls: 1, tcp_connections: 7, tcp_idle_s: 3, max_message_bytes: 2000"
        await swap(server, tmp_path, ports, ("max_calls: 20", limits), ("t1_ms: 20", "t1_ms: 40"))
        assert server.calls.recent.maxlen == 1
        book = server.wires._book.limits
        assert (book.connections, book.idle_s, book.max_message_bytes) == (7, 3, 2000)
        assert server.calls.transactions.clients._give_up_s == pytest.approx(64 * 0.04)
        long = b"OPTIONS sip:x SIP/2.0\r\n" + b"X: y\r\n" * 400 + b"\r\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(long, ("127.0.1.1", ports.public))
            await until(lambda: server.counts()["transport.oversized"] == 1)

    held(tmp_path, scenario)


def test_nothing_is_swapped_while_the_process_ends(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, _ = await talking(alice, bob, ports)
        server.stop()
        with pytest.raises(ControlError, match="the SBC is being stopped"):
            await swap(server, tmp_path, ports, ("max_calls: 20", "max_calls: 10"))
        assert server.config.limits.max_calls == 20
        await talk.hang_up()

    held(tmp_path, scenario)


def test_the_process_has_as_many_descriptors_after_a_hundred_reloads(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        listening = f"udp:{ports.public}, tcp:{ports.public}"
        other = (listening, f"udp:{free_port('127.0.1.1')}, tcp:{free_port('127.0.1.1')}")
        before = descriptors()
        for _ in range(50):
            await swap(server, tmp_path, ports, other)
            await swap(server, tmp_path, ports)
        await at_rest(server)
        assert descriptors() == before
        assert os.listdir(tmp_path).count("control.sock") == 1
        talk, heard = await talking(alice, bob, ports)
        await talk.hang_up()
        await heard.ended.wait()

    held(tmp_path, scenario)


def test_an_address_that_stun_tells_is_there_with_the_reload_that_asks_for_it(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        async with serving() as stun:
            stun.says = "127.0.1.77"
            auto = f"advertise: auto\n    stun_servers: 127.0.0.1:{stun.port}\n    nat: far-end"
            await swap(server, tmp_path, ports, ("nat: far-end", auto))
            assert server.config.networks["public"].advertised == "127.0.1.77"
            async with another_call(ports) as (fresh, _):
                assert "@127.0.1.77:" in fresh.target
            await converse(talk, other)
            assert_heard(talk, other)
            await other.hang_up()
            await talk.ended.wait()

    held(tmp_path, scenario)


def test_networks_come_and_go_with_what_belongs_to_them(tmp_path: Path) -> None:
    """A third network with a relay that does not answer: nothing of it is left when it goes."""

    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        before = descriptors(), children()
        turn = "turn: {server: 'turn:127.0.0.1:9', username: u, password: p}"
        third = f"  third: {{address: 127.0.3.1, listen: [udp:{free_port('127.0.3.1')}], {turn}}}\n"
        changes = await swap(server, tmp_path, ports, ("trunks:\n", f"{third}trunks:\n"))
        assert "networks.third: added" in changes
        assert len(children()) == len(before[1]) + 1, "the gateway"
        with pytest.raises(ControlError, match="nothing was changed"):
            await swap(server, tmp_path, ports, ("127.0.1.1", "192.0.2.77"))
        assert "third" in server.config.networks and server.turn
        async with another_call(ports):
            pass
        await swap(server, tmp_path, ports)
        assert not server.turn
        await at_rest(server)
        await until(lambda: (descriptors(), children()) == before)
        talk, other = await talking(alice, bob, ports)
        await talk.hang_up()
        await other.ended.wait()

    held(tmp_path, scenario)
