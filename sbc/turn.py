"""Networks whose media goes through a TURN relay (`networks.*.turn`): their ports are those of the relay.

    TurnNetworks    keeps allocations at hand, by a gateway process (`sbc.turn_gateway`)
    TurnPool        hands their ports out like any others
    TurnRelay       has streams go by the gateway, and tells it who the peers are

A stream takes ports the moment an offer comes, so some pairs are always allocated in advance; there are never more than
`limits.max_calls` wants. A pair that the server takes back is gone with the calls that use it: their silence ends them.
"""

import asyncio
import contextlib
import marshal
import os
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.model import Config, Network, Turn
from media.ports import PoolExhausted, PortPool, Range
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
from nat.turn import issue
from sbc.log import get_log
from sbc.names import resolver_for
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
"""Loopback addresses of a network's workers and gateway, by its number: the ports must be nobody else's."""
MESSAGE_BYTES = 262_144
CLOSE_S = 1.0
_ROOT = str(Path(__file__).resolve().parent.parent)


@dataclass(frozen=True, slots=True)
class Relayed:
    """A pair at a relay: `number` is that of the gateway, `inside` are its loopback addresses for RTP and RTCP."""

    number: int
    pair: PortPair
    inside: tuple[Address, Address]


class TurnPool(PortPool):
    """A `PortPool` that has the ports of relays too, each network's as they are lent to it."""

    def __init__(
        self,
        ranges: Mapping[str, Range],
        quarantine_s: float,
        pick: Callable[[int], int] | None,
        networks: Iterable[str],
        taken: Callable[[str], None] = lambda network: None,
    ) -> None:
        super().__init__(ranges, quarantine_s, pick)
        self._rest_s = quarantine_s
        self._free: dict[str, deque[PortPair]] = {network: deque() for network in networks}
        self._rests: dict[str, deque[tuple[float, PortPair]]] = {network: deque() for network in self._free}
        self._lent: set[PortPair] = set()
        self._used: set[PortPair] = set()
        self.taken = taken

    def lend(self, pair: PortPair) -> None:
        """A pair that can be handed out from now on."""
        self._lent.add(pair)
        self._free[pair.network].append(pair)

    def withdraw(self, pair: PortPair) -> None:
        """A pair that is gone; who has it now gives it back as ever."""
        self._lent.discard(pair)
        with contextlib.suppress(ValueError):
            self._free[pair.network].remove(pair)

    def allocate(self, network: str, now: float) -> PortPair:
        """As `PortPool.allocate`."""
        if network not in self._free:
            return super().allocate(network, now)
        free = self._awake(network, now)
        try:
            if not free:
                raise PoolExhausted(network, len(self._rests[network]))
            pair = free.popleft()
            self._used.add(pair)
            return pair
        finally:
            self.taken(network)

    def release(self, pair: PortPair, now: float) -> None:
        """As `PortPool.release`."""
        if pair.network not in self._free:
            super().release(pair, now)
            return
        if pair not in self._used:
            raise ValueError(f"{pair.network} {pair.host}:{pair.rtp} is not in use")
        self._used.remove(pair)
        self._rests[pair.network].append((now + self._rest_s, pair))

    def reconfigure(self, ranges: Mapping[str, Range], quarantine_s: float) -> None:
        """As `PortPool.reconfigure`; the ports of relays stay."""
        super().reconfigure(ranges, quarantine_s)
        self._rest_s = quarantine_s

    def span(self, network: str) -> Range | None:
        """None for a relay: its other ports belong to others."""
        return None if network in self._free else super().span(network)

    def holds(self, network: str, rtp: int) -> bool:
        """As `PortPool.holds`."""
        if network not in self._free:
            return super().holds(network, rtp)
        return any(pair.network == network and pair.rtp == rtp for pair in self._used)

    def size(self, network: str) -> int:
        """As `PortPool.size`."""
        if network not in self._free:
            return super().size(network)
        return sum(pair.network == network for pair in self._lent)

    def free(self, network: str, now: float) -> int:
        """As `PortPool.free`."""
        return len(self._awake(network, now)) if network in self._free else super().free(network, now)

    def total_in_use(self) -> int:
        """As `PortPool.total_in_use`."""
        return super().total_in_use() + len(self._used)

    def _awake(self, network: str, now: float) -> deque[PortPair]:
        free, rests = self._free[network], self._rests[network]
        while rests and rests[0][0] <= now:
            pair = rests.popleft()[1]
            if pair in self._lent:
                free.append(pair)
        return free


class TurnNetworks:
    """The pairs of all networks with `turn`, and the gateway process that has them.

    `changed(network, host)` is called when the address of a relay is known for the first time or is another one.
    """

    def __init__(
        self, config: Config, loop: asyncio.AbstractEventLoop, changed: Callable[[str, str], None]
    ) -> None:
        self._networks = {n.name: n for n in config.networks.values() if n.turn is not None}
        self._own = tuple(
            {a for n in config.networks.values() for a in (*n.sip_addresses, n.advertised) if a}
        )
        self._most = config.limits.max_calls * (2 if len(config.networks) == 1 else 1)
        self._loop = loop
        self._changed = changed
        self._places = {name: place for place, name in enumerate(self._networks, 1)}
        self._hosts: dict[str, str] = {}
        self._asked: dict[int, str] = {}
        self._pairs: dict[int, Relayed] = {}
        self._by_pair: dict[PortPair, Relayed] = {}
        self._numbers = 0
        self._wanted = {name: asyncio.Event() for name in self._networks}
        self._arrived = asyncio.Event()
        self._failing: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._log = get_log("sbc.turn")
        self.on_locked: Callable[[PortPair, int, Address], None] = lambda pair, kind, source: None
        self.pool: TurnPool | None = None

    def __bool__(self) -> bool:
        return bool(self._networks)

    @property
    def names(self) -> tuple[str, ...]:
        """The networks."""
        return tuple(self._networks)

    def pool_for(self, ranges: Mapping[str, Range], quarantine_s: float) -> PortPool:
        """The pool of all media ports, those of the relays among them."""
        pick = random.SystemRandom().randrange
        if not self._networks:
            return PortPool(ranges, quarantine_s, pick)
        self.pool = TurnPool(ranges, quarantine_s, pick, self._networks, self._need)
        return self.pool

    def apply(self, config: Config) -> Config:
        """The same configuration with the addresses of the relays."""
        networks = {
            name: network.model_copy(update={"relayed": self._hosts[name]})
            if name in self._hosts
            else network
            for name, network in config.networks.items()
        }
        return config.model_copy(update={"networks": networks})

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
        if not self._networks:
            return
        for network in self._networks.values():
            await self._fill(network)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        for name in self._networks.keys() - self._hosts.keys():
            self._log.warning("no TURN relay yet: calls with media there are refused", network=name)

    async def run(self) -> None:
        """Keep pairs at hand, for ever."""
        async with asyncio.TaskGroup() as keepers:
            for network in self._networks.values():
                keepers.create_task(self._keep(network))

    async def stop(self) -> None:
        """Give everything back."""
        self._networks = {}
        control, self._control = self._control, None
        if control is not None:
            self._loop.remove_reader(control)
            control.close()
        process = self._process
        if process is not None:
            deadline = time.monotonic() + CLOSE_S
            while process.poll() is None:
                if time.monotonic() > deadline:
                    process.kill()
                await asyncio.sleep(0.01)

    async def _keep(self, network: Network) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wanted[network.name].wait()
            self._wanted[network.name].clear()
            await self._fill(network)

    async def _fill(self, network: Network) -> None:
        """Ask for as many pairs as are missing."""
        name, turn = network.name, network.turn
        assert turn is not None and self.pool is not None
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
        servers = [hop.address for hop in found.hops if ":" not in hop.address[0]]
        if not servers:
            self._fails(name, f"{turn.server.host} has no IPv4 address")
            return
        username, password = _account(turn)
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
            if len(self._hosts) == len(self._networks):
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
        self._wanted[name].set()


class TurnRelay:
    """A `Relay` in front of the workers: ends on a TURN network are those of the gateway there."""

    def __init__(self, relay: Relay, turn: TurnNetworks) -> None:
        self._relay = relay
        self._turn = turn
        self._streams: dict[int, StreamSpec] = {}
        self._ends: dict[PortPair, tuple[int, Side]] = {}
        self.on_event: Callable[[RelayEvent], None] = lambda event: None
        relay.on_event = self._receive
        turn.on_locked = self._locked

    def open(self, spec: StreamSpec) -> None:
        """As `Relay.open`."""
        self._streams[spec.id] = spec
        a = self._outside(spec.id, "a", spec.a, spec.unheard_s)
        b = self._outside(spec.id, "b", spec.b, spec.unheard_s)
        self._relay.open(replace(spec, a=a, b=b))

    def change(self, stream: int, side: Side, end: End) -> None:
        """As `Relay.change`."""
        spec = self._streams.get(stream)
        if spec is not None:
            self._let_go(spec.a if side == "a" else spec.b)
            self._streams[stream] = replace(spec, a=end) if side == "a" else replace(spec, b=end)
            end = self._outside(stream, side, end, spec.unheard_s)
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

    def _outside(self, stream: int, side: Side, end: End, unheard_s: float) -> End:
        """The end as the workers get it; the gateway is told of the peer."""
        relayed = self._turn.relayed(end.local)
        if relayed is None:
            return end
        self._ends[end.local] = (stream, side)
        hosts = tuple(
            {*(() if end.remote is None else (end.remote[0],)), *([end.expect] if end.expect else [])}
        )
        learn = end.learn is not Learn.OFF
        trusted = end.proven is None or (end.remote is not None and end.remote[0] in end.proven)
        patience_s = 0.0 if trusted else unheard_s
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


def _account(turn: Turn) -> tuple[str, str]:
    """User and password at the relay."""
    if turn.secret is not None:
        made = issue(turn.secret.get_secret_value(), USER, time.time(), TTL_S)
        return made.username, made.password
    assert turn.username is not None and turn.password is not None
    return turn.username, turn.password.get_secret_value()
