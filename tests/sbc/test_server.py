"""The process round the calls, on real sockets of loopback: start, reload, drain, and nothing left behind."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from config.load import load
from config.model import Config
from nat.stun import binding_request, mapped_address, parse
from sbc.control import ControlError, ask
from sbc.names import LOOKUPS
from sbc.phone import CallFailed, Phone, Talk
from sbc.preflight import StartError
from sbc.server import Server
from signaling.digest import Account, answer, parse_challenges
from signaling.message import Message, Response
from signaling.parser import parse as parse_message
from signaling.resolver import ResolveError
from tests.harness.stun import serving

ROOT = Path(__file__).resolve().parents[2]


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Ports:
    """Ports of loopback that are free at this moment, so that tests can run side by side."""

    def __init__(self) -> None:
        self.public = free_port("127.0.1.1")
        self.private = free_port("127.0.2.1")
        self.pbx = free_port("127.0.2.2")
        # A call needs one pair on each side; the ranges are below the ephemeral ports.
        self.media = random.randrange(20_000, 30_000, 100)


def text(ports: Ports, folder: Path, **changes: str) -> str:
    values = {"drain_s": "30", "max_calls": "20", "extra": "", "public": "", **changes}
    return f"""
networks:
  public:
    address: 127.0.1.1
    listen: [udp:{ports.public}, tcp:{ports.public}]
    media_ports: {ports.media}-{ports.media + 49}
    nat: far-end
    {values["public"]}
  private:
    address: 127.0.2.1
    listen: [udp:{ports.private}]
    media_ports: {ports.media + 50}-{ports.media + 99}
trunks:
  pbx: {{network: private, servers: ["sip:127.0.2.2:{ports.pbx}"]}}
routes:
  - {{from: public, to: pbx}}
limits: {{max_calls: {values["max_calls"]}}}
timers: {{drain_s: {values["drain_s"]}}}
media: {{workers: 1}}
log: {{cdr: {folder}/cdr.jsonl}}
control: {{socket: {folder}/control.sock}}
{values["extra"]}
"""


def written(ports: Ports, folder: Path, **changes: str) -> Config:
    path = folder / "sbc.yaml"
    path.write_text(text(ports, folder, **changes))
    return load(path)


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Server]:
    server = Server(config)
    task = asyncio.create_task(server.run())
    await server.ready.wait()
    try:
        yield server
    finally:
        server.stop()
        server.stop()
        await task


def phone(user: str, host: str, port: int, tone_hz: int, seed: int) -> Phone:
    source = random.Random(seed)
    return Phone(user, host, port, tone_hz, lambda: source.getrandbits(32), ring_s=0.02)


async def talking(caller: Phone, callee: Phone, ports: Ports) -> tuple[Talk, Talk]:
    talk = await caller.dial("sip:bob@border.example", ("127.0.1.1", ports.public))
    return talk, await callee.incoming.get()


def with_phones(
    tmp_path: Path, scenario: Callable[[Server, Phone, Phone, Ports], Awaitable[None]], **changes: str
) -> None:
    async def run() -> None:
        ports = Ports()
        config = written(ports, tmp_path, **changes)
        async with (
            asyncio.timeout(90),
            phone("alice", "127.0.1.2", 0, 600, 1) as alice,
            phone("bob", "127.0.2.2", ports.pbx, 1000, 2) as bob,
            running(config) as server,
        ):
            await scenario(server, alice, bob, ports)

    before = children()
    asyncio.run(run())
    assert children() == before
    assert not (tmp_path / "control.sock").exists()


def children() -> list[str]:
    """Our child processes: relay workers that were left behind would be among them."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    return own.read_text().split()


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "cdr.jsonl").read_text().splitlines()]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited for 30 s in vain")


def test_a_call_crosses_and_nothing_is_left(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        await asyncio.gather(talk.converse(1.0), other.converse(1.0))
        await talk.hang_up()
        await other.ended.wait()
        assert talk.heard(1000).found
        assert other.heard(600).found
        await until(lambda: server.calls.idle)
        left = server.calls.leftovers()
        assert {name: left[name] for name in ("calls", "dialogs", "media_sessions", "ports")} == {
            "calls": 0,
            "dialogs": 0,
            "media_sessions": 0,
            "ports": 0,
        }

    with_phones(tmp_path, scenario)
    (row,) = records(tmp_path)
    assert (row["outcome"], row["cause"], row["caller"], row["called"]) == ("answered", "bye", "alice", "bob")


def test_the_operator_sees_explains_and_ends_a_call(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        path = str(tmp_path / "control.sock")

        async def operator(verb: str, **arguments: object) -> dict[str, object]:
            return cast("dict[str, object]", await asyncio.to_thread(ask, path, verb, arguments))

        talk, other = await talking(alice, bob, ports)
        await asyncio.gather(talk.converse(0.5), other.converse(0.5))
        (row,) = cast("list[dict[str, object]]", (await operator("calls"))["calls"])
        assert (row["state"], row["source"], row["target"], row["codec"]) == ("up", "public", "pbx", "PCMU")
        explained = await operator("explain", call=talk.call_id, width=90, plain=True)
        assert "Healthy: both directions carry audio." in cast(str, explained["text"])
        assert await operator("hangup", call=row["id"]) == {"call": row["id"]}
        await talk.ended.wait()
        await other.ended.wait()
        await until(lambda: server.calls.idle)
        assert (await operator("calls"))["calls"] == []
        (ended,) = cast("list[dict[str, object]]", (await operator("recent"))["calls"])
        assert ended["cause"] == "operator"
        (server_row,) = cast("list[dict[str, object]]", (await operator("trunks"))["servers"])
        assert (server_row["trunk"], server_row["state"], server_row["calls"]) == ("pbx", "up", 0)
        stats = await operator("stats")
        assert stats["held.calls"] == 0
        # Loopback: why there is no kernel path is told here too.
        assert str(stats["media.kernel"]).startswith("off")
        with pytest.raises(ControlError, match="no call 'c-none'"):
            await operator("explain", call="c-none")
        with pytest.raises(ControlError, match="has already ended"):
            await operator("hangup", call=row["id"])

    with_phones(tmp_path, scenario)


def test_a_drain_refuses_new_calls_waits_and_then_says_goodbye_to_both(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, other = await talking(alice, bob, ports)
        server.stop()
        await until(lambda: server.calls.draining)
        async with phone("carol", "127.0.1.3", 0, 600, 3) as carol:
            with pytest.raises(CallFailed) as refused:
                await carol.dial("sip:bob@border.example", ("127.0.1.1", ports.public))
            assert refused.value.status == 503
            assert any(b"\r\nRetry-After:" in data for data in carol.seen)
        assert not talk.ended.is_set()
        begin = time.monotonic()
        await talk.ended.wait()
        await other.ended.wait()
        assert 0.5 < time.monotonic() - begin < 15.0

    with_phones(tmp_path, scenario, drain_s="1")
    rows = {str(row["cause"]): row for row in records(tmp_path)}
    assert set(rows) == {"drain", "draining"}


def test_a_drain_ends_with_the_last_call(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        talk, _ = await talking(alice, bob, ports)
        server.stop()
        await until(lambda: server.calls.draining)
        await talk.hang_up()
        begin = time.monotonic()
        await until(lambda: server.calls.idle)
        assert time.monotonic() - begin < 15.0  # of the 30 that a drain may take

    with_phones(tmp_path, scenario)


def test_a_reload_swaps_the_whole_configuration_or_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        ports = Ports()
        async with asyncio.timeout(90), running(written(ports, tmp_path)) as server:
            path = tmp_path / "sbc.yaml"
            path.write_text(text(ports, tmp_path, max_calls="10"))
            assert (await server.reload())[1:] == ["limits.max_calls: 20 -> 10"]
            assert server.calls.config.limits.max_calls == 10
            path.write_text(text(ports, tmp_path, extra="nonsense: 1"))
            with pytest.raises(ControlError, match=r"nothing was changed:\n.*nonsense: unknown key"):
                await server.reload()
            path.write_text(text(ports, tmp_path, max_calls="5").replace("cdr.jsonl", "no/cdr.jsonl"))
            with pytest.raises(ControlError, match="nothing was changed"):
                await server.reload()
            assert server.calls.config.limits.max_calls == 10
            path.write_text(text(ports, tmp_path, max_calls="10"))
            assert (await server.reload())[1:] == ["no difference"]

    asyncio.run(run())


def test_a_reload_is_adapted_as_the_configuration_was(tmp_path: Path) -> None:
    def quiet(config: Config) -> Config:
        return config.model_copy(update={"log": config.log.model_copy(update={"cdr": None})})

    async def run() -> None:
        ports = Ports()
        server = Server(quiet(written(ports, tmp_path)), adapt=quiet)
        task = asyncio.create_task(server.run())
        await server.ready.wait()
        (tmp_path / "sbc.yaml").write_text(text(ports, tmp_path, max_calls="10"))
        assert (await server.reload())[1:] == ["limits.max_calls: 20 -> 10"]
        assert server.config.log.cdr is None
        server.stop()
        await task

    asyncio.run(run())


def test_a_port_in_use_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        ports = Ports()
        config = written(ports, tmp_path)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.1.1", ports.public))
            with pytest.raises(
                StartError, match=f"udp:127.0.1.1:{ports.public} of network public: .* in use"
            ):
                await Server(config).run()
        # Everything was given back: a second start succeeds.
        async with running(config):
            pass

    before = children()
    asyncio.run(run())
    assert children() == before


def test_a_second_sbc_on_the_same_control_socket_does_not_start(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(written(Ports(), tmp_path)):
            with pytest.raises(StartError, match="another SBC is running there"):
                await Server(written(Ports(), tmp_path)).run()
            assert (tmp_path / "control.sock").exists()

    asyncio.run(run())


def started(folder: Path, config_text: str) -> "subprocess.Popen[str]":
    (folder / "sbc.yaml").write_text(config_text)
    return subprocess.Popen(
        [sys.executable, "-c", "from sbc.cli import main; main()", "run", str(folder / "sbc.yaml")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", word: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"the process ended before it said {word!r}")


def test_signals_of_the_real_process(tmp_path: Path) -> None:
    ports = Ports()
    process = started(tmp_path, text(ports, tmp_path))
    try:
        read_until(process, "INFO ready ")
        (tmp_path / "sbc.yaml").write_text(text(ports, tmp_path, max_calls="10"))
        process.send_signal(signal.SIGHUP)
        assert "limits.max_calls: 20 -> 10" in read_until(process, "INFO reloaded")
        (tmp_path / "sbc.yaml").write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        read_until(process, "ERROR reload refused")
        process.send_signal(signal.SIGTERM)
        read_until(process, "INFO stopped")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_names_are_asked_for_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking: list[int] = []
    most: list[int] = []

    class SlowResolver:
        def __init__(self, **_: object) -> None:
            pass

        async def resolve(self, host: str, port: int | None, transport: str | None) -> object:
            asking.append(1)
            most.append(len(asking))
            await asyncio.sleep(0.01)
            asking.pop()
            raise ResolveError("does not exist")

    monkeypatch.setattr("sbc.names.Resolver", SlowResolver)

    async def run() -> None:
        ports = Ports()
        names = ", ".join(f'"sip:server{number}.example"' for number in range(30))
        (tmp_path / "sbc.yaml").write_text(
            text(ports, tmp_path).replace("routes:", f"  many: {{network: private, servers: [{names}]}}\nroutes:")
            .replace("to: pbx", "to: [pbx, many]")
        )  # fmt: skip
        config = load(tmp_path / "sbc.yaml")
        async with asyncio.timeout(90), running(config) as server:
            await until(lambda: len(most) == 30 and not asking)
            states = [row["why"] for row in server.servers() if row["trunk"] == "many"]
            assert states == ["does not exist"] * 30

    asyncio.run(run())
    assert max(most) == LOOKUPS


def test_run_refuses_what_check_refuses(tmp_path: Path) -> None:
    process = started(tmp_path, text(Ports(), tmp_path, extra="nonsense: 1"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nonsense: unknown key" in errors
    assert "Traceback" not in errors


def test_the_address_that_stun_finds_is_told_in_new_calls(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = Ports()
        async with serving() as stun:
            stun.says = "127.0.1.77"
            public = f"advertise: auto\n    stun_servers: 127.0.0.1:{stun.port}"
            config = written(ports, tmp_path, public=public)
            async with (
                phone("alice", "127.0.1.2", 0, 600, 1) as alice,
                phone("bob", "127.0.2.2", ports.pbx, 1000, 2) as bob,
                running(config) as server,
            ):
                first, other = await talking(alice, bob, ports)
                assert "@127.0.1.77:" in first.target
                assert other.target.endswith(f"@127.0.2.1:{ports.private}")
                assert "advertise" not in "".join(await server.reload())
                stun.says = "127.0.1.78"
                await server.reload()
                await until(lambda: server.config.networks["public"].advertised == "127.0.1.78")
                await other.hang_up()
                await first.ended.wait()
                second, _ = await talking(alice, bob, ports)
                assert "@127.0.1.78:" in second.target

    asyncio.run(scenario())


def test_the_counters_of_the_transactions_are_told(tmp_path: Path) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        stray = (
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.1.1;branch=z9hG4bKnobody\r\nFrom: <sip:a@b>;tag=1\r\n"
            "To: <sip:b@b>;tag=2\r\nCall-ID: stray\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(stray.encode(), ("127.0.1.1", ports.public))
        await until(lambda: server.counts()["transactions.strays"] == 1)

    with_phones(tmp_path, scenario)


@pytest.mark.parametrize("wanted", [True, False])
def test_stun_is_answered_beside_sip_and_media_where_it_is_wanted(tmp_path: Path, wanted: bool) -> None:
    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(("127.0.1.2", 0))
            for request in (binding_request(bytes(12), 24), binding_request(bytes(12))):
                client.sendto(request.encode(), ("127.0.1.1", ports.public))
            await until(lambda: server.counts()["stun.dropped"] == (1 if wanted else 2))
            if wanted:
                answer, source = await loop.sock_recvfrom(client, 2048)
                assert source == ("127.0.1.1", ports.public)
                assert mapped_address(parse(answer)) == client.getsockname()
                # The bare request would have been answered with more than it was.
                assert server.counts()["stun.answered"] == 1
            talk, _ = await talking(alice, bob, ports)
            assert talk.media is not None
            answer = b""
            for _ in range(100 if wanted else 5):
                # The worker may be slower to open the port than the answer of the call was.
                with contextlib.suppress(ConnectionRefusedError):
                    client.sendto(binding_request(bytes(12), 24).encode(), talk.media)
                await asyncio.sleep(0.02)
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    answer, source = client.recvfrom(2048)
                    assert source == talk.media
                    break
            assert bool(answer) is wanted
            assert not answer or mapped_address(parse(answer)) == client.getsockname()

    with_phones(tmp_path, scenario, public="stun: true" if wanted else "")


def test_stun_of_a_registered_phone_is_answered_however_short(tmp_path: Path) -> None:
    """RFC 5626 s.4.4.2: a phone takes silence for the loss of its flow."""

    async def scenario(server: Server, alice: Phone, bob: Phone, ports: Ports) -> None:
        loop = asyncio.get_running_loop()
        border = ("127.0.1.1", ports.public)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(("127.0.1.2", 0))
            own = f"127.0.1.2:{client.getsockname()[1]}"

            async def register(cseq: int, more: str) -> Message:
                lines = (
                    "REGISTER sip:example.com SIP/2.0",
                    f"Via: SIP/2.0/UDP {own};rport;branch=z9hG4bK{cseq}",
                    "From: <sip:alice@example.com>;tag=1",
                    "To: <sip:alice@example.com>",
                    f"Call-ID: {own}",
                    f"CSeq: {cseq} REGISTER",
                    f"Contact: <sip:alice@{own}>",
                    "Expires: 60",
                )
                text = "\r\n".join(lines) + f"\r\n{more}Content-Length: 0\r\n\r\n"
                client.sendto(text.encode(), border)
                return parse_message(await loop.sock_recv(client, 2048))

            bare = binding_request(bytes(12)).encode()
            client.sendto(bare, border)
            await until(lambda: server.counts()["stun.dropped"] == 1)
            challenged = await register(1, "")
            assert isinstance(challenged, Response) and challenged.status == 401
            (challenge, *_) = parse_challenges(challenged)
            account = Account("alice", "everybody knows")
            name, value = answer(challenge, account, "REGISTER", "sip:example.com", 1, "cafe")
            registered = await register(2, f"{name}: {value}\r\n")
            assert isinstance(registered, Response) and registered.status == 200
            client.sendto(bare, border)
            assert mapped_address(parse(await loop.sock_recv(client, 2048))) == client.getsockname()

    users = "users: {alice: {password: everybody knows}}"
    extra = f"phones: {{network: public, registrar: local, domain: example.com, store: null, {users}}}"
    with_phones(tmp_path, scenario, extra=extra)
