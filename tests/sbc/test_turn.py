"""Ports of TURN relays in the pool, and streams that go by them; with a real relay in tests/lab/test_turn.py."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.load import load
from config.model import Config
from media.ports import PoolExhausted
from media.relay import (
    Address,
    End,
    Learn,
    PortPair,
    RelayEvent,
    Side,
    Silence,
    SourceLocked,
    StreamCounters,
    StreamSpec,
)
from sbc.media_policy import MediaPolicy, media_ranges
from sbc.turn import Relayed, TurnNetworks, TurnRelay
from sbc.turn_pool import TurnPool
from tests.harness.stun import StunServer

PLAIN = PortPair("private", "10.0.0.9", 20000, 20001)
RELAYED = PortPair("public", "127.84.0.1", 50000, 50001)
INSIDE: tuple[Address, Address] = (("127.84.1.1", 41000), ("127.84.1.1", 41002))
PEER, PEER_RTCP = ("203.0.113.5", 4000), ("203.0.113.5", 4001)


def config(server: str = "192.0.2.20") -> Config:
    return load(
        f"""
networks:
  public: {{address: 127.0.0.1, turn: {{server: "turn:{server}", username: u, password: hallelujah,
    refuse: [198.51.100.0/24]}}}}
  private: {{address: 10.0.0.1, media_address: 10.0.0.9, media_ports: 20000-20099}}
limits: {{max_calls: 20}}
routes:
  - {{from: public, reject: {{}}}}
""",
        {},
    )


# -- the pool -------------------------------------------------------------------------------------------------


def pool(taken: Callable[[str], None] = lambda network: None) -> TurnPool:
    return TurnPool(media_ranges(config()), 30.0, None, ["public"], taken)


def test_ports_of_a_relay_are_handed_out_and_rest_like_others() -> None:
    ports = pool()
    with pytest.raises(PoolExhausted):
        ports.allocate("public", 0.0)
    ports.lend(RELAYED)
    assert (ports.size("public"), ports.size("private"), ports.span("public")) == (1, 50, None)
    assert ports.allocate("public", 0.0) == RELAYED
    assert ports.allocate("private", 0.0) == PLAIN
    assert ports.total_in_use() == 2
    assert ports.holds("public", 50000) and not ports.holds("public", 50002)
    ports.release(RELAYED, 1.0)
    ports.release(PLAIN, 1.0)
    assert (ports.total_in_use(), ports.free("public", 30.9), ports.free("public", 31.0)) == (0, 0, 1)
    with pytest.raises(ValueError, match="not in use"):
        ports.release(RELAYED, 2.0)


def test_a_pair_that_is_gone_does_not_come_back() -> None:
    ports = pool()
    other = replace(RELAYED, rtp=50002, rtcp=50003)
    ports.lend(RELAYED)
    ports.lend(other)
    assert ports.allocate("public", 0.0) == RELAYED
    ports.withdraw(RELAYED)
    ports.withdraw(other)
    ports.release(RELAYED, 1.0)
    assert (ports.free("public", 100.0), ports.size("public"), ports.total_in_use()) == (0, 0, 0)


def test_who_keeps_pairs_at_hand_hears_of_every_want() -> None:
    wants: list[str] = []
    ports = pool(wants.append)
    ports.lend(RELAYED)
    ports.allocate("public", 0.0)
    with pytest.raises(PoolExhausted):
        ports.allocate("public", 0.0)
    ports.allocate("private", 0.0)
    assert wants == ["public", "public"]


def test_a_reload_leaves_the_ports_of_the_relay() -> None:
    ports = pool()
    ports.lend(RELAYED)
    ports.reconfigure(media_ranges(config()), 0.0)
    pair = ports.allocate("public", 0.0)
    ports.release(pair, 0.0)
    assert ports.allocate("public", 0.0) == RELAYED


def test_the_relay_is_what_sdp_says() -> None:
    file = config()
    public = file.networks["public"].model_copy(update={"relayed": "192.0.2.20"})
    policy = MediaPolicy.of_config(file.model_copy(update={"networks": {**file.networks, "public": public}}))
    assert policy.advertised(RELAYED) == "192.0.2.20"
    assert policy.advertised(PLAIN) == "10.0.0.9"
    assert "public" not in media_ranges(file)


# -- streams --------------------------------------------------------------------------------------------------


class Workers:
    """A `Relay` that writes down what it is told."""

    def __init__(self) -> None:
        self.on_event: Callable[[RelayEvent], None] = lambda event: None
        self.opened: list[StreamSpec] = []
        self.changed: list[tuple[int, Side, End]] = []
        self.closed: list[int] = []

    def open(self, spec: StreamSpec) -> None:
        self.opened.append(spec)

    def change(self, stream: int, side: Side, end: End) -> None:
        self.changed.append((stream, side, end))

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        pass

    def close(self, stream: int) -> None:
        self.closed.append(stream)

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        raise NotImplementedError


class Told(TurnNetworks):
    """The networks of `config` with one pair, without a gateway."""

    def __init__(self) -> None:
        super().__init__(config(), asyncio.new_event_loop(), lambda network, host: None)
        self.told: list[tuple[Any, ...]] = []
        self._by_pair[RELAYED] = Relayed(7, RELAYED, INSIDE)

    def tell(self, command: tuple[Any, ...]) -> None:
        self.told.append(command)


class Bench:
    """A `TurnRelay` between the two."""

    def __init__(self) -> None:
        self.workers, self.turn = Workers(), Told()
        self.relay = TurnRelay(self.workers, self.turn)
        self.events: list[RelayEvent] = []
        self.relay.on_event = self.events.append

    def open(self, **changes: Any) -> StreamSpec:
        a = replace(
            End(RELAYED, PEER, PEER_RTCP, learn=Learn.PORT, expect=PEER[0], proven=(PEER[0],)), **changes
        )
        b = End(PLAIN, ("10.0.0.20", 6000), ("10.0.0.20", 6001), learn=Learn.PORT, expect="10.0.0.20")
        spec = StreamSpec(3, "c-1", "rtp", a, b, 10.0, 0.0, 0.0, 20.0)
        self.relay.open(spec)
        return spec


def test_the_worker_sees_the_gateway_and_the_gateway_the_peer() -> None:
    bench = Bench()
    spec = bench.open()
    (opened,) = bench.workers.opened
    assert (opened.a.local, opened.a.remote, opened.a.remote_rtcp) == (RELAYED, *INSIDE)
    assert (opened.a.learn, opened.a.expect, opened.a.proven) == (Learn.OFF, INSIDE[0][0], None)
    assert opened.b == spec.b
    hosts = (PEER[0],)
    assert bench.turn.told == [("peers", 7, (PEER, hosts, True, 0, 0.0), (PEER_RTCP, hosts, True, 0, 0.0))]


@pytest.mark.parametrize(
    ("changes", "rtp"),
    [
        ({"proven": None}, (PEER, (PEER[0],), True, 0, 0.0)),
        # Who has not shown that he asked for it is sent to for a while only.
        ({"proven": ("198.51.100.1",)}, (PEER, (PEER[0],), True, 0, 20.0)),
        ({"learn": Learn.OFF, "expect": None, "epoch": 4}, (PEER, (PEER[0],), False, 4, 0.0)),
        ({"remote": None, "remote_rtcp": None}, (None, (PEER[0],), True, 0, 20.0)),
    ],
)
def test_what_the_gateway_is_told_of_the_peer(changes: dict[str, Any], rtp: tuple[Any, ...]) -> None:
    bench = Bench()
    bench.open(**changes)
    assert bench.turn.told[0][2] == rtp


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("203.0.113.5", False),
        ("198.51.100.7", True),
        ("127.0.0.1", True),
        ("10.0.0.1", True),  # our own
        ("10.0.0.9", True),  # our own for media
        ("10.0.0.2", False),
    ],
)
def test_whom_the_relay_is_not_asked_to_send_to(host: str, refused: bool) -> None:
    """CVE-2020-26262: nobody has it send to what it reaches and he does not."""
    turn = TurnNetworks(config(), asyncio.new_event_loop(), lambda network, address: None)
    assert turn.may_be_peer(RELAYED, host) is not refused


def test_with_multiplexing_rtcp_goes_the_way_of_rtp() -> None:
    bench = Bench()
    bench.open(rtcp_mux=True, remote_rtcp=PEER)
    assert bench.workers.opened[0].a.remote_rtcp == INSIDE[0]


def test_a_change_is_told_to_both() -> None:
    bench = Bench()
    spec = bench.open()
    elsewhere = ("203.0.113.6", 4444)
    bench.relay.change(3, "a", replace(spec.a, remote=elsewhere, expect=elsewhere[0], epoch=1))
    assert bench.turn.told[-1][2] == (elsewhere, (elsewhere[0],), True, 1, 20.0)
    assert bench.workers.changed[0][2].remote == INSIDE[0]
    plain = replace(spec.b, receive=False)
    bench.relay.change(3, "b", plain)
    assert bench.workers.changed[1] == (3, "b", plain)


def test_a_stream_that_is_closed_sends_to_nobody() -> None:
    bench = Bench()
    bench.open()
    bench.relay.close(3)
    assert bench.workers.closed == [3]
    nobody = (None, (), False, 0, 0.0)
    assert bench.turn.told[-1] == ("peers", 7, nobody, nobody)


def test_the_source_is_the_peer_and_not_the_gateway() -> None:
    bench = Bench()
    bench.open()
    bench.workers.on_event(SourceLocked(3, "c-1", "a", INSIDE[0]))
    other = SourceLocked(3, "c-1", "b", ("10.0.0.20", 6000))
    silence = Silence(3, "c-1", 60.0, True)
    bench.workers.on_event(other)
    bench.workers.on_event(silence)
    bench.turn.on_locked(RELAYED, 0, PEER)
    bench.turn.on_locked(RELAYED, 1, PEER_RTCP)
    assert bench.events == [other, silence, SourceLocked(3, "c-1", "a", PEER)]
    bench.relay.close(3)
    bench.turn.on_locked(RELAYED, 0, PEER)
    assert len(bench.events) == 3


# -- the gateway process --------------------------------------------------------------------------------------


def test_a_server_that_gives_nothing_is_named_and_the_start_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def scenario() -> None:
        server = StunServer()
        server.mute = True
        turn = TurnNetworks(config(f"127.0.0.1:{server.port}"), asyncio.get_running_loop(), lambda *_: None)
        ports = turn.pool_for(media_ranges(config()), 0.0)
        await turn.first(0.3)
        with pytest.raises(PoolExhausted):
            ports.allocate("public", 0.0)
        data = await asyncio.get_running_loop().sock_recv(server.socket, 2048)
        assert data[:2] == b"\0\3", "it was asked for an allocation"
        await turn.stop()
        server.close()

    asyncio.run(scenario())
    assert "hallelujah" not in capfd.readouterr().err


def test_without_such_networks_there_is_no_process() -> None:
    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = children()

    async def scenario() -> None:
        plain = load(
            "networks:\n  a: {address: 127.0.0.1}\nroutes:\n  - {from: a, reject: {}}\nlimits: {max_calls: 9}\n",
            {},
        )
        turn = TurnNetworks(plain, asyncio.get_running_loop(), lambda *_: None)
        assert not turn
        ports = turn.pool_for(media_ranges(plain), 0.0)
        assert ports.allocate("a", 0.0).host == "127.0.0.1"
        await turn.first()
        running = asyncio.create_task(turn.run())
        await asyncio.sleep(0.01)
        assert children() == before
        running.cancel()
        await turn.stop()
        assert turn.apply(plain) == plain

    asyncio.run(scenario())


# -- reloads --------------------------------------------------------------------------------------------------


class Gateway(TurnNetworks):
    """Allocates at once whatever it is asked for; `opened` and `closed` have the numbers."""

    def __init__(self, first: Config) -> None:
        self.opened: dict[int, str] = {}
        self.closed: list[int] = []
        self.mute = False
        super().__init__(first, asyncio.get_running_loop(), lambda network, host: None)

    def _start_gateway(self) -> None:
        pass

    def tell(self, command: tuple[Any, ...]) -> None:
        match command:
            case ("open", number, _, (host, _), *_):
                self.opened[number] = host
                if not self.mute:
                    self._loop.call_soon(
                        self._opened, number, host, 50000 + 2 * number, 50001 + 2 * number, INSIDE
                    )
            case ("close", number):
                self.closed.append(number)

    def at(self, host: str) -> list[int]:
        return [number for number, server in self.opened.items() if server == host]


def moved(server: str) -> Config:
    fresh = config(server)
    public = fresh.networks["public"].model_copy(update={"moves": 1})
    return fresh.model_copy(update={"networks": {**fresh.networks, "public": public}})


def test_a_reload_takes_another_relay_and_calls_keep_theirs() -> None:
    async def scenario() -> None:
        turn = Gateway(config("192.0.2.20"))
        ports = turn.pool_for(media_ranges(config()), 0.0)
        await turn.first(1.0)
        held = ports.allocate("public", 0.0)
        after = moved("192.0.2.30")
        await turn.prepare(after, 1.0)
        assert turn.apply(after).networks["public"].relayed == "192.0.2.30"
        turn.reconfigure(after)
        ports.reconfigure(media_ranges(after), 0.0)
        assert turn.closed == [], "a call has a port of it"
        fresh = ports.allocate("public~1", 0.0)
        assert turn.relayed(fresh) is not None
        assert fresh.host != held.host, "the same numbers of two relays are not to meet"
        more = ports.allocate("public", 0.0)
        assert more.host == held.host, "the call may want another one"
        ports.release(more, 0.0)
        turn.sweep()
        assert turn.closed == []
        ports.release(held, 0.0)
        turn.sweep()
        assert sorted(turn.closed) == turn.at("192.0.2.20")
        assert turn.relayed(held) is None
        assert turn.relayed(fresh) is not None

    asyncio.run(scenario())


def test_a_reload_that_fails_gives_back_what_it_had_got() -> None:
    async def scenario() -> None:
        before = config("192.0.2.20")
        turn = Gateway(before)
        ports = turn.pool_for(media_ranges(before), 0.0)
        await turn.first(1.0)
        await turn.prepare(moved("192.0.2.30"), 1.0)
        turn.reconfigure(before)
        assert sorted(turn.closed) == turn.at("192.0.2.30") != []
        assert turn.apply(before).networks["public"].relayed == "192.0.2.20"
        assert ports.allocate("public", 0.0).network == "public"

    asyncio.run(scenario())


def test_a_relay_that_comes_and_goes_by_reloads_leaves_nothing() -> None:
    async def scenario() -> None:
        relayed = moved("192.0.2.20")
        public = relayed.networks["public"].model_copy(update={"turn": None, "moves": 0})
        plain = relayed.model_copy(update={"networks": {**relayed.networks, "public": public}})
        turn = Gateway(plain)
        turn.pool_for(media_ranges(plain), 0.0)
        running = asyncio.create_task(turn.run())
        turn.mute = True
        await turn.prepare(relayed, 0.01)
        turn.reconfigure(relayed)
        assert turn.at("192.0.2.20")
        turn.reconfigure(plain)
        await asyncio.sleep(0.01)
        assert not turn
        assert sorted(turn.closed) == turn.at("192.0.2.20")
        assert (turn._places, turn._hosts, turn._wanted, turn._pairs, turn._asked) == ({}, {}, {}, {}, {})
        assert turn._keepers == {}
        running.cancel()

    asyncio.run(scenario())
