"""Networks whose media goes through a TURN relay (`networks.*.turn`): their ports are those of the relay.

    TurnNetworks    keeps allocations at hand, by a gateway process (`sbc.turn_gateway`)
    TurnPool        hands their ports out like any others (`sbc.turn_pool`)
    TurnRelay       has streams go by the gateway, and tells it who the peers are

A stream takes ports the moment an offer comes, so some pairs are always allocated in advance; there are never more than
`limits.max_calls` wants. A pair that the server takes back is gone with the calls that use it: their silence ends them.
"""

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.model import Config, Network, Turn
from media.ports import Range
from media.relay import (
    Address,
    End,
    Learn,
    PortPair,
    Relay,
    RelayEvent,
    Side,
    SourceLocked,
    StreamCounters,
    StreamSpec,
    Withheld,
)
from nat.address import may_be_peer
from nat.turn import issue
from sbc.log import get_log
from sbc.media_policy import pool_of
from sbc.names import resolver_for
from sbc.tokens import Tokens
from sbc.turn_pool import TurnPool
from signaling.resolver import ResolveError

SPARE_PAIRS = 4
"""Pairs that are allocated in advance."""
FIRST_S = 4.0
"""How long the start waits for the first pair."""
RETRY_S = 5.0
"""Time before a server is asked again that gave none."""
TTL_S = 365 * 86_400
"""Life of the credentials that we make for ourselves: they leave this host for the server alone."""
USER = "border"
WORKER_HOST, GATEWAY_HOST = "127.84.0.{}", "127.84.1.{}"
"""Loopback addresses of a network's workers and gateway, by its number: the ports must be nobody else's. IPv4 for IPv6
relays too, since ::1 is all that there is of it."""
MESSAGE_BYTES = 262_144
CLOSE_S = 1.0
_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True, slots=True)
class Relayed:
    """A pair at a relay: `number` is that of the gateway, `inside` are its loopback addresses for RTP and RTCP."""

    number: int
    pair: PortPair
    inside: tuple[Address, Address]


class TurnNetworks:
    """The pairs of all networks with `turn`, and the gateway process that has them.

    `changed(network, host)` is called when the address of a relay is known for the first time or is another one.
    """

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, changed: Callable[[str, str], None]
    ) -> None:
        self._networks: dict[str, Network] = {}
        # Of configurations before: they are kept as long as a call has ports of theirs.
        self._leaving: set[str] = set()
        self._own: tuple[str, ...] = ()
        self._most = 0
        self._loop = loop
        self._changed = changed
        self._places: dict[str, int] = {}
        self._hosts: dict[str, str] = {}
        self._asked: dict[int, str] = {}
        self._pairs: dict[int, Relayed] = {}
        self._by_pair: dict[PortPair, Relayed] = {}
        self._numbers = 0
        self._wanted: dict[str, asyncio.Event] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._renewed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._failing: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []
        self._control: socket.socket | None = None
        self._log = get_log("sbc.turn")
        self.on_locked: Callable[[PortPair, int, Address], None] = lambda pair, kind, source: None
        self.pool: TurnPool | None = None
        for pool, network in _pools(config).items():
            self._join(pool, network)
        self._bound(config)

    def __bool__(self) -> bool:
        return bool(self._networks or self._leaving)

    @property
    def names(self) -> tuple[str, ...]:
        """The pools of the networks."""
        return tuple(self._networks)

    def pool_for(self, ranges: Mapping[str, Range], quarantine_s: float) -> TurnPool:
        """The pool of all media ports, those of the relays among them."""
        self.pool = TurnPool(ranges, quarantine_s, Tokens().below, self._networks, self._need)
        return self.pool

    def apply(self, config: Config) -> Config:
        """The same configuration with the addresses of the relays."""
        hosts = {
            network.name: self._hosts[pool] for pool, network in _pools(config).items() if pool in self._hosts
        }
        networks = {
            name: network.model_copy(update={"relayed": hosts[name]}) if name in hosts else network
            for name, network in config.networks.items()
        }
        return config.model_copy(update={"networks": networks})

    # -- another configuration -----------------------------------------------------------------------------

    async def prepare(self, config: Config, seconds: float = FIRST_S) -> None:
        """Have pairs of what `config` brings along, before it comes into force."""
        fresh = {pool: one for pool, one in _pools(config).items() if pool not in self._networks}
        for pool, network in fresh.items():
            self._join(pool, network)
            await self._fill(pool)
        await self._await(fresh, seconds)

    def reconfigure(self, config: Config) -> None:
        """`config` is in force: pairs that it has no place for are given back when the last call lets go of them.

        With the configuration that was in force before, what `prepare` has made is undone.
        """
        pools = _pools(config)
        self._leaving |= self._networks.keys() - pools.keys()
        for pool in self._networks.keys() - pools.keys():
            del self._networks[pool]
        for pool, network in pools.items():
            self._leaving.discard(pool)
            if pool in self._places:
                self._networks[pool] = network
            else:
                self._join(pool, network)
        self._bound(config)
        self._renewed.set()
        self.sweep()

    def sweep(self) -> None:
        """Give back what nobody needs any more."""
        for pool in [one for one in self._leaving if self.pool is None or not self.pool.used(one)]:
            self._leaving.discard(pool)
            for number in [n for n, one in self._pairs.items() if one.pair.network == pool]:
                self.tell(("close", number))
                self._forget(number)
            for number in [n for n, name in self._asked.items() if name == pool]:
                self.tell(("close", number))
                del self._asked[number]
            for table in (self._places, self._hosts, self._wanted):
                table.pop(pool, None)
            self._failing.discard(pool)
        if not self and self._control is not None and self._process is not None:
            # Nobody needs the gateway any more: it ends with its control socket.
            self._loop.remove_reader(self._control)
            self._control.close()
            self._ending.append(self._process)
            self._control = self._process = None
            self._loop.call_later(CLOSE_S, self._reap)

    def _reap(self) -> None:
        self._ending = [process for process in self._ending if process.poll() is None]

    def _join(self, pool: str, network: Network) -> None:
        taken = set(self._places.values())
        self._networks[pool] = network
        self._places[pool] = next(number for number in range(1, 255) if number not in taken)
        self._wanted[pool] = asyncio.Event()
        if self.pool is not None:
            self.pool.serve(pool)

    def _bound(self, config: Config) -> None:
        """What holds for all networks of a configuration."""
        networks = config.networks.values()
        own = {a for n in networks for a in (*n.sip_addresses, n.advertised, *n.media_addresses) if a}
        self._own = tuple(own)
        self._most = config.limits.max_calls * (2 if len(networks) == 1 else 1)

    @property
    def leaving(self) -> bool:
        """Whether there are relays of configurations before."""
        return bool(self._leaving)

    def may_be_peer(self, pair: PortPair, host: str) -> bool:
        """Whether the gateway sends to this host for who has the pair."""
        network = self._networks.get(pair.network)
        turn = None if network is None else network.turn
        return may_be_peer(host, self._own, () if turn is None else turn.refuse)

    def relayed(self, pair: PortPair) -> Relayed | None:
        """What the gateway has for a pair, None when it is gone."""
        return self._by_pair.get(pair)

    def tell(self, command: tuple[Any, ...]) -> None:
        """A command to the gateway."""
        if self._control is not None:
            try:
                self._control.send(marshal.dumps([command]))
            except OSError:
                self._lose_gateway()

    # -- life ----------------------------------------------------------------------------------------------

    async def first(self, seconds: float = FIRST_S) -> None:
        """Ask for pairs, and wait a moment until every network has one."""
        for pool in self._networks:
            await self._fill(pool)
        await self._await(self._networks, seconds)

    async def _await(self, pools: Iterable[str], seconds: float) -> None:
        wanted = set(pools)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not wanted <= self._hosts.keys():
                    self._arrived.clear()
                    await self._arrived.wait()
        for pool in wanted - self._hosts.keys():
            self._log.warning("no TURN relay yet: calls with media there are refused", network=pool)

    async def run(self) -> None:
        """Keep pairs at hand, for ever."""
        async with asyncio.TaskGroup() as keepers:
            while True:
                for pool, keeper in list(self._keepers.items()):
                    if pool not in self._networks or keeper.done():
                        self._keepers.pop(pool).cancel()
                for pool in self._networks.keys() - self._keepers.keys():
                    self._keepers[pool] = keepers.create_task(self._keep(pool))
                self._renewed.clear()
                await self._renewed.wait()

    async def stop(self) -> None:
        """Give everything back."""
        self._networks = {}
        control, self._control = self._control, None
        if control is not None:
            self._loop.remove_reader(control)
            control.close()
        deadline = time.monotonic() + CLOSE_S
        for process in (*self._ending, *([] if self._process is None else [self._process])):
            while process.poll() is None:
                if time.monotonic() > deadline:
                    process.kill()
                await asyncio.sleep(0.01)

    async def _keep(self, pool: str) -> None:
        while pool in self._networks:
            wanted = self._wanted[pool]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await wanted.wait()
            wanted.clear()
            await self._fill(pool)

    async def _fill(self, name: str) -> None:
        """Ask for as many pairs as are missing."""
        network = self._networks.get(name)
        if network is None or network.turn is None or self.pool is None:
            return
        turn = network.turn
        asked = sum(one == name for one in self._asked.values())
        have = sum(one.pair.network == name for one in self._pairs.values())
        spare = self.pool.free(name, self._loop.time())
        missing = min(SPARE_PAIRS - spare - asked, self._most - have - asked)
        if missing <= 0:
            return
        resolver = resolver_for(network)
        try:
            found = await resolver.resolve(turn.server.host, turn.server.port, "udp")
        except ResolveError as error:
            self._fails(name, error.reason)
            return
        ipv6 = ":" in network.address
        servers = [hop.address for hop in found.hops if (":" in hop.address[0]) == ipv6]
        if not servers:
            self._fails(name, f"{turn.server.host} has no {'IPv6' if ipv6 else 'IPv4'} address")
            return
        username, password = _account(turn)
        if name not in self._networks:
            return  # a reload has taken it away meanwhile
        try:
            if self._control is None:
                self._start_gateway()
        except OSError as error:
            self._fails(name, f"no gateway process: {error.strerror}")
            return
        place = self._places[name]
        for _ in range(missing):
            self._numbers += 1
            self._asked[self._numbers] = name
            inside, worker = GATEWAY_HOST.format(place), WORKER_HOST.format(place)
            self.tell(
                (
                    "open",
                    self._numbers,
                    network.address,
                    servers[0],
                    username,
                    password,
                    inside,
                    worker,
                    self._own,
                    tuple(str(prefix) for prefix in turn.refuse),
                )
            )

    def _fails(self, name: str, why: str) -> None:
        if name not in self._failing:
            self._failing.add(name)
            self._log.warning("TURN relay not reached", network=name, why=why)

    # -- the gateway ---------------------------------------------------------------------------------------

    def _start_gateway(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sbc.turn_gateway", str(theirs.fileno())],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": _ROOT},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours
        self._loop.add_reader(ours, self._read)

    def _lose_gateway(self) -> None:
        control, self._control = self._control, None
        if control is None:
            return
        self._loop.remove_reader(control)
        control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.warning("TURN gateway restarted", pairs=len(self._pairs))
        self._asked.clear()
        for number in list(self._pairs):
            self._forget(number)
        self._failing.update(self._networks)

    def _read(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            data = control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose_gateway()
            return
        for event in marshal.loads(data):
            match event:
                case ("opened", number, host, rtp, rtcp, inside, inside_rtcp):
                    self._opened(number, host, rtp, rtcp, (inside, inside_rtcp))
                case ("locked", number, kind, source) if number in self._pairs:
                    self.on_locked(self._pairs[number].pair, kind, source)
                case ("gone", number, why):
                    name = self._asked.pop(number, None) or (
                        self._pairs[number].pair.network if number in self._pairs else ""
                    )
                    self._fails(name, why)
                    self._forget(number)

    def _opened(self, number: int, host: str, rtp: int, rtcp: int, inside: tuple[Address, Address]) -> None:
        name = self._asked.pop(number, None)
        if name is None or self.pool is None:
            self.tell(("close", number))
            return
        known = self._hosts.get(name)
        if known != host and any(one.pair.network == name for one in self._pairs.values()):
            # SDP has one address for all of a network.
            self._fails(name, f"the relay has several addresses: {known} and {host}")
            self.tell(("close", number))
            return
        pair = PortPair(name, WORKER_HOST.format(self._places[name]), rtp, rtcp)
        relayed = Relayed(number, pair, inside)
        self._pairs[number] = self._by_pair[pair] = relayed
        self.pool.lend(pair)
        if name in self._failing:
            self._failing.discard(name)
            self._log.info("TURN relay reached again", network=name)
        if known != host:
            self._hosts[name] = host
            self._arrived.set()
            self._log.info("TURN relay", network=name, address=host, was=known or "-")
            self._changed(name, host)

    def _forget(self, number: int) -> None:
        relayed = self._pairs.pop(number, None)
        if relayed is not None:
            self._by_pair.pop(relayed.pair, None)
            if self.pool is not None:
                self.pool.withdraw(relayed.pair)

    def _need(self, name: str) -> None:
        """A pair of that network was taken: there may have to be another."""
        wanted = self._wanted.get(name)
        if wanted is not None:
            wanted.set()


class TurnRelay:
    """A `Relay` in front of the workers: ends on a TURN network are those of the gateway there."""

    def __init__(self, relay: Relay, turn: TurnNetworks) -> None:
        self._relay = relay
        self._turn = turn
        self._streams: dict[int, StreamSpec] = {}
        self._ends: dict[PortPair, tuple[int, Side]] = {}
        self._log = get_log("sbc.turn")
        self.on_event: Callable[[RelayEvent], None] = lambda event: None
        relay.on_event = self._receive
        turn.on_locked = self._locked

    def open(self, spec: StreamSpec) -> None:
        """As `Relay.open`."""
        if not self._turn:
            self._relay.open(spec)
            return
        self._streams[spec.id] = spec
        a = self._outside(spec, "a", spec.a)
        b = self._outside(spec, "b", spec.b)
        self._relay.open(replace(spec, a=a, b=b))

    def change(self, stream: int, side: Side, end: End) -> None:
        """As `Relay.change`."""
        spec = self._streams.get(stream)
        if spec is not None:
            self._let_go(spec.a if side == "a" else spec.b)
            self._streams[stream] = replace(spec, a=end) if side == "a" else replace(spec, b=end)
            end = self._outside(spec, side, end)
        self._relay.change(stream, side, end)

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        """As `Relay.limits`."""
        self._relay.limits(stream, start_s, silence_s)

    def close(self, stream: int) -> None:
        """As `Relay.close`."""
        spec = self._streams.pop(stream, None)
        if spec is not None:
            for end in (spec.a, spec.b):
                self._let_go(end)
                relayed = self._turn.relayed(end.local)
                if relayed is not None:
                    nobody = (None, (), False, 0, 0.0)
                    self._turn.tell(("peers", relayed.number, nobody, nobody))
        self._relay.close(stream)

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        """As `Relay.query`."""
        return self._relay.query(streams)

    def _let_go(self, end: End) -> None:
        self._ends.pop(end.local, None)

    def _outside(self, spec: StreamSpec, side: Side, end: End) -> End:
        """The end as the workers get it; the gateway is told of the peer."""
        relayed = self._turn.relayed(end.local)
        if relayed is None:
            return end
        self._ends[end.local] = (spec.id, side)
        hosts = tuple(
            {*(() if end.remote is None else (end.remote[0],)), *([end.expect] if end.expect else [])}
        )
        for host in hosts:
            if not self._turn.may_be_peer(end.local, host):
                self._log.warning(
                    "TURN peer refused", call=spec.call, network=end.local.network, address=host
                )
        learn = end.learn is not Learn.OFF
        trusted = end.proven is None or (end.remote is not None and end.remote[0] in end.proven)
        patience_s = 0.0 if trusted else spec.unheard_s
        rtp, rtcp = relayed.inside
        rtcp_hosts = hosts if end.remote_rtcp is None else tuple({*hosts, end.remote_rtcp[0]})
        self._turn.tell(
            (
                "peers",
                relayed.number,
                (end.remote, hosts, learn, end.epoch, patience_s),
                (end.remote_rtcp, rtcp_hosts, learn, end.epoch, patience_s),
            )
        )
        return replace(
            end,
            remote=rtp,
            remote_rtcp=rtp if end.rtcp_mux else rtcp,
            learn=Learn.OFF,
            expect=rtp[0],
            proven=None,
        )

    def _locked(self, pair: PortPair, kind: int, source: Address) -> None:
        place = self._ends.get(pair)
        if place is None or kind:
            return
        stream, side = place
        self.on_event(SourceLocked(stream, self._streams[stream].call, side, source))

    def _receive(self, event: RelayEvent) -> None:
        if isinstance(event, SourceLocked | Withheld):
            spec = self._streams.get(event.stream)
            end = None if spec is None else spec.a if event.side == "a" else spec.b
            if end is not None and end.local in self._ends:
                return  # that is the gateway, not the peer
        self.on_event(event)


def _pools(config: Config) -> dict[str, Network]:
    """The networks whose media goes by a relay, by the pool of its ports."""
    return {pool_of(n): n for n in config.networks.values() if n.turn is not None}


def _account(turn: Turn) -> tuple[str, str]:
    """User and password at the relay."""
    if turn.secret is not None:
        made = issue(turn.secret.get_secret_value(), USER, time.time(), TTL_S)
        return made.username, made.password
    assert turn.username is not None and turn.password is not None
    return turn.username, turn.password.get_secret_value()
