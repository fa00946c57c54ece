"""The servers of the trunks: their addresses, and which of them are up.

A core without I/O. Inputs are resolved names, answers to OPTIONS pings and how calls went; `handle_timer` returns
the pings that are due. A server goes down after `down_after` failed pings in a row and up after `up_after`
answered ones. Between pings a call that got no answer makes its server suspect for a while (RFC 3263 s.4.3), and
a 503 with Retry-After makes it busy for as long as it said (RFC 3261 s.21.5.4). Where nothing pings, a server is
never down.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from config.model import Check, Config, SipServer, Trunk
from sbc.routing import SIP_PORT, Health, ServersSnapshot, ServerView, Target
from sbc.wakeups import Wakeups, apart
from signaling.flow import Address, Flow, host_port

SUSPECT_S = 30.0
"""How long a server is tried last after a call to it had no answer. RFC 3263 s.4.3 leaves it to us; timer B is 32 s."""
MAX_BUSY_S = 300.0
"""Longest Retry-After that is believed: a misbehaving server must not take itself out for a day."""
MAX_ADDRESSES = 8
"""Addresses of one server name that are used."""
MAX_EVENTS = 256
# RFC 3261 s.11: whatever a server answers, it lives. But a proxy that says so answers for one that does not.
_DEAD_ANSWERS = frozenset({408, 503})


@dataclass(frozen=True, slots=True)
class Ping:
    """An OPTIONS that is to be sent now; handed back with its outcome. `number` tells it from earlier ones."""

    trunk: str
    network: str
    server: str
    transport: str
    address: Address
    number: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """A server name to be resolved (RFC 3263). `transport` None: the configuration leaves it to NAPTR and SRV."""

    trunk: str
    network: str
    server: str
    host: str
    port: int | None
    transport: str | None


@dataclass(frozen=True, slots=True)
class ServerUp:
    """A server has come back."""

    trunk: str
    server: str
    transport: str
    address: Address
    why: str


@dataclass(frozen=True, slots=True)
class ServerDown:
    """A server has gone down."""

    trunk: str
    server: str
    transport: str
    address: Address
    why: str


TrunkEvent = ServerUp | ServerDown


@dataclass(slots=True, eq=False)
class _Endpoint:
    """One address of one server, and its health."""

    trunk: str
    network: str
    server: SipServer
    transport: str
    address: Address
    check: Check | None
    health: Health = Health.UP
    why: str = ""
    failed: int = 0
    answered: int = 0
    # Suspect or busy until then; of no account while down.
    passive: Health = Health.UP
    passive_until: float = 0.0
    passive_why: str = ""
    # The ping in flight, and when its answer is overdue or the next ping is due.
    number: int = 0
    armed: float | None = None
    next_ping: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, str, Address]:
        """What makes it the same one under another configuration."""
        return self.trunk, self.network, self.server.uri, self.transport, self.address


@dataclass(slots=True)
class _Name:
    """A server whose name has to be resolved."""

    lookup: Lookup
    why: str = "not looked up yet"


@dataclass(slots=True)
class _Servers:
    """The servers of one trunk, by position in the configuration."""

    trunk: Trunk
    endpoints: list[list[_Endpoint]] = field(default_factory=list)
    names: dict[int, _Name] = field(default_factory=dict)


class Trunks:
    """The servers of all trunks of one configuration."""

    def __init__(self, config: Config) -> None:
        self._trunks: dict[str, _Servers] = {}
        self._by_key: dict[tuple[str, str, Address], list[_Endpoint]] = {}
        self._wakeups: Wakeups[_Endpoint] = Wakeups()
        self._pings = 0
        self._phase = 0
        self._started = False
        self._snapshot: ServersSnapshot | None = None
        self._snapshot_until = 0.0
        self._events: deque[TrunkEvent] = deque(maxlen=MAX_EVENTS)
        for trunk in config.trunks.values():
            servers = _Servers(trunk)
            self._trunks[trunk.name] = servers
            for position, server in enumerate(trunk.servers):
                servers.endpoints.append([])
                if server.literal is None:
                    servers.names[position] = _Name(_lookup(trunk, server))
                else:
                    address = (str(server.literal), server.port or SIP_PORT)
                    servers.endpoints[position] = [self._endpoint(trunk, server, server.transport, address)]
        self._index()

    # -- names ---------------------------------------------------------------------------------------------

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The names that have to be resolved, now and again when their answers have aged."""
        return tuple(name.lookup for servers in self._trunks.values() for name in servers.names.values())

    def resolved(self, lookup: Lookup, hops: Sequence[tuple[str, Address]], now: float) -> None:
        """The (transport, address) pairs of a name, in the order in which they are to be tried."""
        found = self._named(lookup)
        if found is None:
            return  # an answer to a question of an earlier configuration
        servers, position = found
        known = {(one.transport, one.address): one for one in servers.endpoints[position]}
        endpoints: list[_Endpoint] = []
        for transport, address in dict.fromkeys(hops):
            endpoint = known.pop((transport, address), None)
            if endpoint is None:
                server = servers.trunk.servers[position]
                endpoint = self._endpoint(servers.trunk, server, transport, address)
                if self._started:
                    self._schedule_first(endpoint, now)
            endpoints.append(endpoint)
            if len(endpoints) == MAX_ADDRESSES:
                break
        for gone in known.values():
            self._wakeups.disarm(gone)
        servers.endpoints[position] = endpoints
        servers.names[position].why = "" if endpoints else "the name has no address"
        self._index()

    def unresolved(self, lookup: Lookup, cause: str) -> None:
        """A name could not be resolved. Addresses that it had stay in use: better old than none."""
        found = self._named(lookup)
        if found is not None:
            servers, position = found
            servers.names[position].why = cause
            self._snapshot = None

    def _named(self, lookup: Lookup) -> tuple[_Servers, int] | None:
        servers = self._trunks.get(lookup.trunk)
        if servers is not None:
            for position, name in servers.names.items():
                if name.lookup == lookup:
                    return servers, position
        return None

    # -- what is known -------------------------------------------------------------------------------------

    def snapshot(self, now: float) -> ServersSnapshot:
        """The servers at this moment, immutable. The same object until something changes."""
        if self._snapshot is None or now >= self._snapshot_until:
            self._snapshot = self._look(now)
        return self._snapshot

    def _look(self, now: float) -> ServersSnapshot:
        until = float("inf")
        trunks: dict[str, tuple[ServerView, ...]] = {}
        unresolved: dict[str, tuple[tuple[str, str], ...]] = {}
        sources: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for name, servers in self._trunks.items():
            views: list[ServerView] = []
            for endpoint in (one for some in servers.endpoints for one in some):
                view = _view(endpoint, now)
                if view.back_s is not None:
                    until = min(until, now + min(view.back_s, 1.0))
                elif view.health is Health.SUSPECT:
                    until = min(until, endpoint.passive_until)
                views.append(view)
                owners = sources.setdefault((endpoint.network, endpoint.address[0]), [])
                if (endpoint.address[1], name) not in owners:
                    owners.append((endpoint.address[1], name))
            trunks[name] = tuple(views)
            missing = tuple(
                (name.lookup.host, name.why)
                for position, name in servers.names.items()
                if not servers.endpoints[position]
            )
            if missing:
                unresolved[name] = missing
        self._snapshot_until = until
        return ServersSnapshot(
            MappingProxyType(trunks),
            MappingProxyType(unresolved),
            MappingProxyType({key: tuple(owners) for key, owners in sources.items()}),
        )

    def status(self, now: float) -> list[dict[str, str]]:
        """A row for each address or unresolved name: trunk, network, server, state, why."""
        rows: list[dict[str, str]] = []
        for name, servers in self._trunks.items():
            row = {"trunk": name, "network": servers.trunk.network}
            for position, server in enumerate(servers.trunk.servers):
                for endpoint in servers.endpoints[position]:
                    view = _view(endpoint, now)
                    where = f"{endpoint.transport} {host_port(endpoint.address)}"
                    shown = where if server.literal is not None else f"{server.host} ({where})"
                    rows.append({**row, "server": shown, "state": str(view.health), "why": view.why})
                if not servers.endpoints[position]:
                    why = servers.names[position].why
                    rows.append({**row, "server": server.host, "state": "unresolved", "why": why})
        return rows

    @property
    def eventful(self) -> bool:
        """Whether `take_events` has something."""
        return len(self._events) > 0

    def take_events(self) -> list[TrunkEvent]:
        """Servers that went up or down since the last call of this, for the log."""
        events = list(self._events)
        self._events.clear()
        return events

    def serves(self, trunk: str, flow: Flow) -> bool:
        """Whether the peer of `flow` is a server of this trunk. Its port may be that of any connection."""
        servers = self._trunks.get(trunk)
        if servers is None or servers.trunk.network != flow.network:
            return False
        host = flow.remote[0]
        return any(one.address[0] == host for some in servers.endpoints for one in some)

    # -- how it went ---------------------------------------------------------------------------------------

    def answered(self, ping: Ping, status: int, now: float) -> None:
        """A ping got its final answer."""
        if status in _DEAD_ANSWERS:
            self._ping_failed(ping, f"answered {status} to OPTIONS", now)
            return
        for endpoint in self._pinged(ping):
            self._next_ping(endpoint, now)
            endpoint.failed = 0
            endpoint.answered += 1
            # A suspect stays one: what answers OPTIONS may still not answer calls.
            check = endpoint.check
            if check is not None and endpoint.health is Health.DOWN and endpoint.answered >= check.up_after:
                self._change(endpoint, Health.UP, f"answered {status} to OPTIONS")

    def unanswered(self, ping: Ping, cause: str, now: float) -> None:
        """A ping failed: `cause` is "timeout", "transport", or words."""
        text = {"timeout": "no answer to OPTIONS", "transport": "cannot be reached"}.get(cause, cause)
        self._ping_failed(ping, text, now)

    def attempted(
        self, target: Target, status: int, rule: str, now: float, retry_after_s: float | None = None
    ) -> None:
        """A call to `target` ended with `status`; `rule` tells no answer at all from an answer."""
        for endpoint in self._by_key.get((target.trunk, target.transport, target.address), ()):
            if rule in ("server-timeout", "server-unreachable"):
                why = "no answer to a call" if rule == "server-timeout" else "could not be reached for a call"
                if endpoint.passive_until <= now:
                    self._ping_soon(endpoint, now)
                self._avoid(endpoint, Health.SUSPECT, now + SUSPECT_S, why, now)
            elif rule not in ("peer-rejected", "redirected"):
                continue  # said by us, of our ports or of the message: nothing that the server said of itself
            elif status == 503 and retry_after_s is not None and retry_after_s > 0:
                # Without Retry-After it counts as a 500 (RFC 3261 s.21.5.4), which says nothing of the next call.
                until = now + min(retry_after_s, MAX_BUSY_S)
                self._avoid(endpoint, Health.BUSY, until, f"503 with Retry-After: {retry_after_s:.0f}", now)
            elif endpoint.passive is Health.SUSPECT:
                endpoint.passive = Health.UP
                self._snapshot = None

    def _avoid(self, endpoint: _Endpoint, health: Health, until: float, why: str, now: float) -> None:
        if endpoint.passive is Health.BUSY and endpoint.passive_until > max(now, until):
            return
        endpoint.passive, endpoint.passive_until, endpoint.passive_why = health, until, why
        self._snapshot = None

    def _ping_failed(self, ping: Ping, why: str, now: float) -> None:
        for endpoint in self._pinged(ping):
            self._next_ping(endpoint, now)
            self._failed(endpoint, why)

    def _failed(self, endpoint: _Endpoint, why: str) -> None:
        endpoint.answered = 0
        endpoint.failed += 1
        check = endpoint.check
        if check is not None and endpoint.health is Health.UP and endpoint.failed >= check.down_after:
            times = "" if endpoint.failed == 1 else f", {endpoint.failed} times in a row"
            self._change(endpoint, Health.DOWN, f"{why}{times}")

    def _change(self, endpoint: _Endpoint, health: Health, why: str) -> None:
        endpoint.health, endpoint.why = health, why
        self._snapshot = None
        event = ServerUp if health is Health.UP else ServerDown
        self._events.append(
            event(endpoint.trunk, endpoint.server.uri, endpoint.transport, endpoint.address, why)
        )

    # -- time ----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        if not self._started:
            # The first call tells the time that the pings are counted from.
            return 0.0 if any(one.check is not None for one in self._endpoints()) else None
        return self._wakeups.next()

    def handle_timer(self, now: float) -> list[Ping]:
        """The pings that are due. A ping without answer after `timeout_s` counts as failed here."""
        if not self._started:
            self._start(now)
        pings: list[Ping] = []
        for endpoint in self._wakeups.due(now):
            check = endpoint.check
            if check is None:
                continue
            if endpoint.number:
                endpoint.number = 0
                self._failed(endpoint, "no answer to OPTIONS")
                self._arm(endpoint, max(endpoint.next_ping, now))
                continue
            self._pings += 1
            endpoint.number = self._pings
            # By the plan and not by the clock, so that a late timer does not bunch them.
            every = check.options_every_s
            endpoint.next_ping += every * (max(0.0, now - endpoint.next_ping) // every + 1)
            self._arm(endpoint, now + check.timeout_s)
            pings.append(
                Ping(
                    endpoint.trunk,
                    endpoint.network,
                    endpoint.server.uri,
                    endpoint.transport,
                    endpoint.address,
                    endpoint.number,
                )
            )
        return pings

    def _start(self, now: float) -> None:
        self._started = True
        for endpoint in self._endpoints():
            if endpoint.armed is None:
                self._schedule_first(endpoint, now)

    def _schedule_first(self, endpoint: _Endpoint, now: float) -> None:
        """Plan the first ping of a new endpoint somewhere in the period where there are few others."""
        if endpoint.check is None:
            return
        every = endpoint.check.options_every_s
        endpoint.next_ping = now + apart(self._phase) * every
        self._phase += 1
        self._arm(endpoint, endpoint.next_ping)

    def _next_ping(self, endpoint: _Endpoint, now: float) -> None:
        """The ping in flight is over."""
        endpoint.number = 0
        self._arm(endpoint, max(endpoint.next_ping, now))

    def _ping_soon(self, endpoint: _Endpoint, now: float) -> None:
        """A call had no answer: ask now and not in half a minute. The plan stays."""
        if endpoint.check is not None and self._started and not endpoint.number:
            endpoint.next_ping -= endpoint.check.options_every_s
            self._arm(endpoint, now)

    def _arm(self, endpoint: _Endpoint, at: float) -> None:
        self._wakeups.disarm(endpoint)  # the time may be a later one
        self._wakeups.arm(endpoint, at)

    # -- reload --------------------------------------------------------------------------------------------

    def adopt(self, old: "Trunks", now: float) -> None:
        """Take over from the Trunks of the configuration before: health, addresses of names, pings in flight."""
        self._pings, self._phase, self._started = old._pings, old._phase, old._started
        self._events.extend(old._events)
        before = {endpoint.key: endpoint for endpoint in old._endpoints()}
        named = {
            name.lookup: old_servers.endpoints[position]
            for old_servers in old._trunks.values()
            for position, name in old_servers.names.items()
        }
        for servers in self._trunks.values():
            for position, name in servers.names.items():
                hops = [(one.transport, one.address) for one in named.get(name.lookup, ())]
                if hops:
                    server = servers.trunk.servers[position]
                    servers.endpoints[position] = [
                        self._endpoint(servers.trunk, server, transport, address)
                        for transport, address in hops
                    ]
        self._index()
        for endpoint in self._endpoints():
            known = before.get(endpoint.key)
            if known is not None:
                endpoint.passive = known.passive
                endpoint.passive_until, endpoint.passive_why = known.passive_until, known.passive_why
            if endpoint.check is None or not self._started:
                continue
            if known is None or known.check is None or known.armed is None:
                self._schedule_first(endpoint, now)
                continue
            endpoint.health, endpoint.why = known.health, known.why
            endpoint.failed, endpoint.answered = known.failed, known.answered
            endpoint.number = known.number
            endpoint.next_ping = min(known.next_ping, now + endpoint.check.options_every_s)
            self._arm(endpoint, known.armed if known.number else endpoint.next_ping)

    # -- endpoints -----------------------------------------------------------------------------------------

    def _endpoints(self) -> list[_Endpoint]:
        return [one for servers in self._trunks.values() for some in servers.endpoints for one in some]

    def _endpoint(self, trunk: Trunk, server: SipServer, transport: str, address: Address) -> _Endpoint:
        check = trunk.check if trunk.check is not None and trunk.check.options_every_s > 0 else None
        return _Endpoint(trunk.name, trunk.network, server, transport, address, check)

    def _index(self) -> None:
        self._by_key = {}
        for endpoint in self._endpoints():
            key = (endpoint.trunk, endpoint.transport, endpoint.address)
            self._by_key.setdefault(key, []).append(endpoint)
        self._snapshot = None

    def _pinged(self, ping: Ping) -> list[_Endpoint]:
        """The endpoint that a ping is in flight for; none when it was given up or the configuration changed."""
        candidates = self._by_key.get((ping.trunk, ping.transport, ping.address), ())
        return [one for one in candidates if one.number == ping.number]


def _lookup(trunk: Trunk, server: SipServer) -> Lookup:
    # The model fills in udp, but RFC 3263 s.4.1 wants to know whether somebody asked for it.
    asked = ";transport=" in server.uri.lower()
    return Lookup(
        trunk.name, trunk.network, server.uri, server.host, server.port, server.transport if asked else None
    )


def _view(endpoint: _Endpoint, now: float) -> ServerView:
    health, why, back_s = endpoint.health, endpoint.why, None
    if health is Health.DOWN:
        back_s = max(0.0, endpoint.next_ping - now)
    elif endpoint.passive is not Health.UP and endpoint.passive_until > now:
        health, why = endpoint.passive, endpoint.passive_why
        if health is Health.BUSY:
            back_s = endpoint.passive_until - now
    return ServerView(endpoint.server.host, endpoint.transport, endpoint.address, health, why, back_s)
