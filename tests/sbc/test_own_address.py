"""Finding our own address on real sockets of loopback, with a STUN server that says what the test wants."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from config.load import load
from config.model import Config
from sbc.own_address import NotFoundError, OwnAddresses, find
from tests.harness.stun import MAPPED, StunServer, serving


def config(*servers: str, advertise: str = "auto", address: str = "127.0.0.2") -> Config:
    return load(
        f"""
networks:
  public: {{address: {address}, advertise: {advertise}, stun_servers: [{", ".join(servers)}]}}
  private: {{address: 127.0.0.3}}
routes:
  - {{from: public, reject: {{}}}}
""",
        {},
    )


def run(scenario: Callable[[StunServer], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as server:
            await scenario(server)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_the_first_answer_is_there_before_calls_are_taken() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        file = config(f"127.0.0.1:{server.port}")
        own = OwnAddresses(file, lambda *change: changes.append(change))
        assert own.apply(file).networks["public"].advertised == "127.0.0.2"
        await own.first()
        assert changes == [("public", MAPPED)]
        known = own.apply(file)
        assert known.networks["public"].advertised == MAPPED
        assert known.networks["private"].advertised == "127.0.0.3"
        # Asked from the address that peers are to reach.
        assert [host for host, _ in server.asked] == ["127.0.0.2"]

    run(scenario)


def test_a_change_is_noticed_and_told_once() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        own = OwnAddresses(
            config(f"127.0.0.1:{server.port}"), lambda *change: changes.append(change), refresh_s=0.02
        )
        await own.first()
        task = asyncio.create_task(own.run())
        await until(lambda: len(server.asked) > 4)
        server.says = "198.51.100.8"
        await until(lambda: len(changes) > 1)
        seen = len(server.asked)
        await until(lambda: len(server.asked) > seen + 3)
        task.cancel()
        assert changes == [("public", MAPPED), ("public", "198.51.100.8")]

    run(scenario)


def test_an_address_that_differs_each_time_is_not_followed() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        own = OwnAddresses(
            config(f"127.0.0.1:{server.port}"), lambda *change: changes.append(change), refresh_s=0.02
        )
        await own.first()
        server.varies = True
        task = asyncio.create_task(own.run())
        seen = len(server.asked)
        await until(lambda: len(server.asked) > seen + 8)
        task.cancel()
        assert changes == [("public", MAPPED)]

    run(scenario)


def test_what_was_learned_stays_while_servers_fail() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        file = config(f"127.0.0.1:{server.port}")
        own = OwnAddresses(file, lambda *change: changes.append(change), refresh_s=0.02, retry_s=0.02)
        await own.first()
        task = asyncio.create_task(own.run())
        server.says = None
        seen = len(server.asked)
        await until(lambda: len(server.asked) > seen + 3)
        assert own.apply(file).networks["public"].advertised == MAPPED
        server.says = "198.51.100.9"
        await until(lambda: len(changes) == 2)
        task.cancel()

    run(scenario)


def test_the_start_waits_for_silent_servers_only_so_long() -> None:
    async def scenario(server: StunServer) -> None:
        server.mute = True
        changes: list[tuple[str, str]] = []
        own = OwnAddresses(config(f"127.0.0.1:{server.port}"), lambda *change: changes.append(change))
        begin = asyncio.get_running_loop().time()
        await own.first(0.2)
        assert asyncio.get_running_loop().time() - begin < 2
        assert changes == []
        server.mute = False
        task = asyncio.create_task(own.run())
        await until(lambda: changes == [("public", MAPPED)])
        task.cancel()

    run(scenario)


def test_the_second_server_answers_when_the_first_does_not() -> None:
    async def scenario(server: StunServer) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dead:
            dead.bind(("127.0.0.1", 0))
            network = config(f"127.0.0.1:{dead.getsockname()[1]}", f"127.0.0.1:{server.port}").networks[
                "public"
            ]
            assert await find(network) == (MAPPED, "127.0.0.1")

    run(scenario)


def test_a_reload_asks_what_is_new_in_it() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        own = OwnAddresses(config(advertise="192.0.2.1"), lambda *change: changes.append(change))
        await own.first()
        task = asyncio.create_task(own.run())
        await asyncio.sleep(0.05)
        assert (changes, server.asked) == ([], [])
        fresh = config(f"127.0.0.1:{server.port}")
        own.reconfigure(fresh)
        await until(lambda: changes == [("public", MAPPED)])
        literal = config(advertise="192.0.2.1")
        own.reconfigure(literal)
        assert own.apply(literal).networks["public"].advertised == "192.0.2.1"
        seen = len(server.asked)
        await asyncio.sleep(0.05)
        assert len(server.asked) == seen
        task.cancel()

    run(scenario)


def test_a_flood_neither_stops_the_search_nor_answers_it() -> None:
    async def scenario(server: StunServer) -> None:
        server.says = None
        flooding = True

        async def flood() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                while flooding:
                    for host, port in server.asked[:1]:
                        for _ in range(50):
                            stranger.sendto(b"\x01\x01\0\0\x21\x12\xa4\x42" + bytes(12), (host, port))
                    await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        with pytest.raises(NotFoundError, match="refused with 500"):
            await find(config(f"127.0.0.1:{server.port}").networks["public"])
        flooding = False
        await task

    run(scenario)


@pytest.mark.parametrize(
    ("address", "why"), [("192.0.2.99", "192.0.2.99: "), ("127.0.0.2", "127.0.0.1: refused with 500")]
)
def test_what_is_wrong_is_said(address: str, why: str) -> None:
    async def scenario(server: StunServer) -> None:
        server.says = None
        with pytest.raises(NotFoundError, match=why):
            await find(config(f"127.0.0.1:{server.port}", address=address).networks["public"])

    run(scenario)


def test_a_reload_knows_the_new_address_before_it_comes_into_force() -> None:
    async def scenario(server: StunServer) -> None:
        changes: list[tuple[str, str]] = []
        plain = config(advertise="192.0.2.1")
        own = OwnAddresses(plain, lambda *change: changes.append(change), refresh_s=0.02)
        await own.first()
        task = asyncio.create_task(own.run())
        fresh = config(f"127.0.0.1:{server.port}")
        learned = await own.preview(fresh)
        assert own.apply(fresh, learned).networks["public"].advertised == MAPPED
        assert own.apply(fresh).networks["public"].advertised != MAPPED, "not in force yet"
        own.reconfigure(fresh, learned)
        assert own.apply(fresh).networks["public"].advertised == MAPPED
        # Another one is noticed as ever, and a network that goes is not asked for any more.
        server.says = "198.51.100.8"
        await until(lambda: changes == [("public", "198.51.100.8")])
        others = {name: network for name, network in fresh.networks.items() if name != "public"}
        own.reconfigure(fresh.model_copy(update={"networks": others}), {})
        await asyncio.sleep(0.05)
        seen = len(server.asked)
        await asyncio.sleep(0.1)
        assert len(server.asked) == seen
        own.reconfigure(fresh, await own.preview(fresh))
        assert own.apply(fresh).networks["public"].advertised == "198.51.100.8"
        await until(lambda: len(server.asked) > seen + 2)
        task.cancel()

    run(scenario)


def test_a_reload_does_not_wait_long_for_an_address() -> None:
    async def scenario(server: StunServer) -> None:
        server.mute = True
        own = OwnAddresses(config(advertise="192.0.2.1"), lambda *change: None)
        fresh = config(f"127.0.0.1:{server.port}")
        assert await own.preview(fresh, 0.05) == {}
        assert server.asked

    run(scenario)
