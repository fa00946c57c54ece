"""Where a call goes: pure functions of the configuration, a snapshot of the servers and the request.

Who sent it (`Router.source_of`), the first route that fits, the servers of its trunks in the order in which they
are to be tried (`Router.route`), and the contacts of a 3xx that may be followed (`Router.redirected`). Every
route that was looked at is a `Decision` with the values that were compared, also when it did not fit.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from config.frozen import frozen
from config.model import PHONES, Config, Route, Trunk
from nat.address import is_credible
from nat.address import parse as address_of
from sbc.decisions import Decision
from signaling.errors import ParseError
from signaling.flow import Address, Flow, host_port
from signaling.uri import SEPARATORS, SipUri, TelUri, parse_uri, unescape

MAX_TARGETS = 16
"""Servers tried for one call: with 4 s each, no caller waits for more."""
MAX_CONSIDERED = 24
"""Routes that did not fit and are recorded one by one; the rest is counted. A held call has to stay small."""
MAX_REDIRECTS = 8
"""Contacts of one 3xx that are followed."""
RETRY_AFTER_S = 10
"""Retry-After of a 503 when nothing says when a server will be back."""
MAX_OWNERS = 4096
"""Addresses of which it is remembered to which trunk they belong."""
MAX_MATCHED = 128
"""Longest user that patterns look at: what one may cost (`config.pattern`) grows with the cube of the length. A
longer one is refused; if it only fitted no pattern, it would slip past a route that rejects."""
SIP_PORT = 5060

# RFC 5031 s.4.2, in lower case.
_SERVICE = re.compile(r"urn:service:sos(?:\.[a-z0-9\-]{1,64}){0,8}")
# RFC 3261 s.25.1: what a user part may hold unescaped (unreserved and user-unreserved).
_UNSAFE = re.compile(r"[^A-Za-z0-9\-_.!~*'()&=+$,;?/]")


@frozen
class Source:
    """Who sent a request: `host` is its address, `trunk` None for one that belongs to no trunk.

    `phone` is the user of the phone that it is; "" for one that may call without having registered, None for none.
    """

    network: str
    trunk: str | None
    host: str
    phone: str | None = None

    def __str__(self) -> str:
        if self.phone is not None:
            return f"phone of {self.phone or 'nobody'} in network {self.network}"
        owner = "no trunk" if self.trunk is None else f"trunk {self.trunk}"
        return f"{owner} in network {self.network}"


@frozen
class CallRequest:
    """What routing looks at: called user and host of the Request-URI ("" for a tel: URI), calling user of From.

    `gruu` is the parameter gr of the Request-URI (RFC 5627), None where there is none. `flow` is what the call came by,
    `own` those of phones that a registrar hands their own call back to (`sbc.own_number`).
    """

    source: Source
    user: str
    host: str = ""
    caller: str = ""
    emergency: bool = False
    gruu: str | None = None
    flow: Flow | None = None
    own: tuple[Flow, ...] = ()


@frozen
class Target:
    """One server or phone to try: where the INVITE goes, `host` and `user` of its Request-URI, what may follow a
    failure.

    A phone is reached by its `flow`. `contact` is a Request-URI to the letter: that of a phone, or urn:service:sos.
    Neighbours of the same `group` ring at once, unless it is 0; when another group follows, they do for `ring_s` at
    most (0: as long as they like). A `spare` one is another flow of the phone before it, for when that one fails.
    `domain` is our host name in identities there, "" for that of the network.
    `credentials` (None: not the registrar of the phone that calls) and `routes` are what a phone's own registrar gets;
    `registrar` is whether that one calls the phone, `gruu` the user part of a Contact of ours, as it gets it, that
    leads to the phone of this call alone: the calling one, or with `flow` the called one.
    """

    trunk: str
    network: str
    transport: str
    address: Address
    host: str
    user: str
    failover_on: frozenset[int] = frozenset()
    redirects: str = "pass"
    nat: bool = False
    flow: Flow | None = None
    contact: str = ""
    group: int = 0
    ring_s: float = 0.0
    domain: str = ""
    credentials: tuple[tuple[str, str], ...] | None = None
    routes: tuple[str, ...] = ()
    registrar: bool = False
    gruu: str = ""
    spare: bool = False


@frozen
class Plan:
    """The servers to try, in order; `rule` is the route that chose them."""

    targets: tuple[Target, ...]
    rule: str = ""


@frozen
class Refusal:
    """The answer to a call that policy does not let through. `reason` goes on the wire: it names nothing of ours."""

    status: int
    reason: str
    rule: str
    retry_after_s: int | None = None


class Phones(Protocol):
    """The registered phones, as routes ask for them (`sbc.phonebook`). `user` is the called user, without escapes."""

    def registered(self, request: CallRequest, user: str, now: float) -> bool:
        """Whether there is a phone to call."""

    def targets(
        self, request: CallRequest, user: str, now: float
    ) -> "tuple[tuple[Target, ...], Decision, Refusal | None]":
        """The phones to ring, or why there is none."""


class Health(StrEnum):
    """What is known of a server."""

    UP = "up"
    SUSPECT = "suspect"  # a call to it failed a moment ago (RFC 3263 s.4.3): tried last
    BUSY = "busy"  # it asked to be left alone (503 with Retry-After, RFC 3261 s.21.5.4)
    DOWN = "down"  # its OPTIONS pings fail


@frozen
class ServerView:
    """One address of one server: `host` as configured, `why` its health is what it is, `back_s` when to ask again."""

    host: str
    transport: str
    address: Address
    health: Health = Health.UP
    why: str = ""
    back_s: float | None = None


@frozen
class ServersSnapshot:
    """The servers at one moment.

    `trunks`: addresses by trunk in the order of the configuration. `unresolved`: names without any address, by
    trunk, with the reason. `sources`: which trunks have a server at (network, host), with its port.
    """

    trunks: Mapping[str, tuple[ServerView, ...]] = field(default_factory=dict)
    unresolved: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    sources: Mapping[tuple[str, str], tuple[tuple[int, str], ...]] = field(default_factory=dict)


@frozen
class _Rule:
    """A route, ready to be compared."""

    name: str
    route: Route
    match: re.Pattern[str] | None
    from_match: re.Pattern[str] | None


@dataclass(slots=True)
class _Pick:
    """What the trunks of a route have to offer, while it is being collected."""

    up: list[Target] = field(default_factory=list)
    suspect: list[Target] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    looped: int = 0
    full: int = 0
    unresolved: int = 0
    back_s: list[float] = field(default_factory=list)
    absent: Refusal | None = None


class Router:
    """The routes of one configuration. Holds nothing that changes, but remembers whose an address was."""

    def __init__(self, config: Config) -> None:
        self._trunks = config.trunks
        self._rules = tuple(
            _Rule(f"routes[{number}]", route, _compiled(route.match), _compiled(route.from_match))
            for number, route in enumerate(config.routes)
        )
        self._patterns = any(rule.match or rule.from_match for rule in self._rules)
        self._prefixes = _prefixes(config)
        self._owners: dict[tuple[str, str], tuple[str, str] | None] = {}
        self._nat = {
            trunk.name: (trunk.nat or config.networks[trunk.network].nat) == "far-end"
            for trunk in config.trunks.values()
        }
        self._failover = {trunk.name: frozenset(trunk.failover_on) for trunk in config.trunks.values()}
        self._ours = frozenset(
            host
            for network in config.networks.values()
            for host in (
                *network.sip_addresses,
                network.advertised,
                (network.domain or network.advertised).lower(),
            )
        )

    # -- who sent it ---------------------------------------------------------------------------------------

    def source_of(self, flow: Flow, servers: ServersSnapshot) -> tuple[Source, Decision]:
        """The trunk that a request belongs to: the address of a server, else the longest prefix of `from`."""
        host = flow.remote[0]
        compared = (("source", f"{flow.transport} {host_port(flow.remote)}"), ("network", flow.network))
        known = servers.sources.get((flow.network, host))
        if known is not None:
            # Trunks may share a host and differ by port only.
            trunk = next((name for port, name in known if port == flow.remote[1]), known[0][1])
            return _found(flow, trunk, f"trunks.{trunk}.servers", compared)
        owner = self._owner(flow.network, host)
        if owner is not None:
            trunk, prefix = owner
            return _found(flow, trunk, f"trunks.{trunk}.from", (*compared, ("prefix", prefix)))
        decision = Decision("source", "trunks", compared, f"no trunk has this address in {flow.network}")
        return Source(flow.network, None, host), decision

    def _owner(self, network: str, host: str) -> tuple[str, str] | None:
        """The trunk and the longest prefix of `from` that an address is in."""
        known = self._owners.get((network, host), "unknown")
        if not isinstance(known, str):
            return known
        owner = None
        address = address_of(host)
        if address is not None:
            number, bits = int(address), address.max_prefixlen
            for length, owners in self._prefixes.get((network, address.version), ()):
                owner = owners.get(number >> (bits - length))
                if owner is not None:
                    break
        if len(self._owners) >= MAX_OWNERS:
            self._owners.clear()
        self._owners[network, host] = owner
        return owner

    # -- where it goes -------------------------------------------------------------------------------------

    def route(
        self,
        request: CallRequest,
        servers: ServersSnapshot,
        calls: Mapping[str, int] | None = None,
        phones: Phones | None = None,
        now: float = 0.0,
    ) -> tuple[Plan | Refusal, tuple[Decision, ...]]:
        """The servers and phones to try, or the refusal, with everything that was considered.

        `calls` are the calls in progress by trunk, for `trunks.*.max_calls` of the trunks called; `phones` those that
        are registered at `now`.
        """
        called = _called(request)
        number = called.partition(";")[0]
        if self._patterns and max(len(number), len(request.caller)) > MAX_MATCHED:
            lengths = (("called", str(len(number))), ("caller", str(len(request.caller))))
            refused = Refusal(404, "No Route For This Number", "user-too-long")
            return refused, (Decision("routing", "routes", lengths, f"{refused.status} {refused.rule}"),)
        decisions: list[Decision] = []
        others, admitted = 0, False
        looped = False
        away: str | None = None
        for rule in self._rules:
            misfit = _misfit(rule, request, number)
            if misfit is None and rule.route.when == "registered" and PHONES in rule.route.to:
                user = _plain(rule.route, called)
                if phones is None or not phones.registered(request, user, now):
                    misfit, away = "when", away or user
            if misfit is None:
                decisions.append(_fits(rule, request, number))
                if rule.route.reject is not None:
                    reject = rule.route.reject
                    return Refusal(reject.status, reject.reason, "rejected-by-route"), tuple(decisions)
                pick = self._pick(rule, request, called, servers, calls or {}, phones, now)
                decisions.extend(pick.decisions)
                if pick.looped == len(rule.route.to):
                    # Every trunk of it is where the call came from: as if the route did not fit.
                    looped = admitted = True
                    continue
                return self._outcome(rule, pick), tuple(decisions)
            admitted = admitted or misfit != "from"
            if len(decisions) < MAX_CONSIDERED:
                decisions.append(_unfit(rule, request, number, misfit))
            else:
                others += 1
        if others:
            decisions.append(
                Decision(
                    "routing", "routes", (("routes", str(len(self._rules))),), f"{others} more do not fit"
                )
            )
        refusal = _no_route(admitted, looped)
        if away is not None and phones is not None and not looped:
            # Nothing else takes the call: who is called and is not there, or does not exist, is the reason.
            _, decision, absent = phones.targets(request, away, now)
            decisions.append(decision)
            refusal = absent or refusal
        compared = (("source", str(request.source)), ("called", number), ("caller", request.caller))
        decisions.append(Decision("routing", "routes", compared, f"{refusal.status} {refusal.rule}"))
        return refusal, tuple(decisions)

    def _pick(
        self,
        rule: _Rule,
        request: CallRequest,
        called: str,
        servers: ServersSnapshot,
        calls: Mapping[str, int],
        phones: Phones | None,
        now: float,
    ) -> _Pick:
        route, pick = rule.route, _Pick()
        user = _rewritten(route, called)
        uri = _service(route, called, request)
        for name in route.to:
            if name == PHONES:
                if phones is not None:
                    targets, decision, pick.absent = phones.targets(request, _plain(route, called), now)
                    pick.up.extend(targets)
                    pick.decisions.append(decision)
                continue
            trunk = self._trunks[name]
            if name == request.source.trunk and route.from_ != name:
                pick.looped += 1
                pick.decisions.append(
                    Decision(
                        "routing", f"{rule.name}.to", (("source", name), ("to", name)),
                        "passed over: the call came from there; a route with from: "
                        f"{name} would send it back",
                    )
                )  # fmt: skip
                continue
            if trunk.max_calls is not None and not request.emergency:
                busy = calls.get(name, 0)
                if busy >= trunk.max_calls:
                    pick.full += 1
                    compared = (("calls", str(busy)), ("max_calls", str(trunk.max_calls)))
                    pick.decisions.append(
                        Decision("routing", f"trunks.{name}.max_calls", compared, "passed over: full")
                    )
                    continue
            self._servers(trunk, user, uri, servers, pick)
        return pick

    def _servers(self, trunk: Trunk, user: str, uri: str, servers: ServersSnapshot, pick: _Pick) -> None:
        """Add the addresses of one trunk. `uri` is what is called there when it is no user."""
        views = servers.trunks.get(trunk.name, ())
        compared: list[tuple[str, str]] = []
        chosen: list[str] = []
        for view in views:
            shown = f"{view.transport} {host_port(view.address)}"
            compared.append((shown, f"{view.health}: {view.why}" if view.why else str(view.health)))
            if view.health is Health.UP:
                pick.up.append(self._target(trunk, view, user, uri))
                chosen.append(shown)
            elif view.health is Health.SUSPECT:
                pick.suspect.append(self._target(trunk, view, user, uri))
                chosen.append(f"{shown} (last)")
            elif view.back_s is not None:
                pick.back_s.append(view.back_s)
        missing = servers.unresolved.get(trunk.name, ())
        pick.unresolved += len(missing)
        compared.extend((name, f"no address: {why}") for name, why in missing)
        outcome = ", ".join(chosen) or "no server is up"
        pick.decisions.append(Decision("routing", f"trunks.{trunk.name}.servers", tuple(compared), outcome))

    def _target(self, trunk: Trunk, view: ServerView, user: str, uri: str) -> Target:
        return Target(
            trunk.name,
            trunk.network,
            view.transport,
            view.address,
            view.host,
            user,
            self._failover[trunk.name],
            trunk.redirects,
            self._nat[trunk.name],
            contact=uri,
            domain=trunk.domain or "",
        )

    @staticmethod
    def _outcome(rule: _Rule, pick: _Pick) -> Plan | Refusal:
        # Those that failed a moment ago come after all others, also after those of later trunks: a caller
        # should not wait for a timeout that is expected. With nobody else they are tried all the same.
        targets = (pick.up + pick.suspect)[:MAX_TARGETS]
        if targets:
            return Plan(tuple(targets), rule.name)
        if pick.absent is not None and not pick.back_s and not pick.unresolved:
            return pick.absent
        if pick.full:
            return Refusal(503, "Trunk Is Full", "trunk-max-calls", RETRY_AFTER_S)
        if pick.unresolved and not pick.back_s:
            return Refusal(503, "Server Not Found", "servers-unresolved", RETRY_AFTER_S)
        back_s = min(pick.back_s, default=float(RETRY_AFTER_S))
        return Refusal(503, "No Server Is Up", "servers-down", max(1, round(back_s)))

    # -- redirects -----------------------------------------------------------------------------------------

    def redirected(self, target: Target, contacts: Sequence[str]) -> tuple[Target, ...]:
        """Targets out of the contacts of a 3xx that `target` sent, in their order (RFC 3261 s.8.1.3.4).

        Addresses are followed that the trunk may name (`nat.address.is_credible`): another server, but not our own
        loopback, nor a private network that it is not in, nor a name of its choice. A number, and a user at our own
        address or domain, is somebody whom the trunk's server is to call. What we cannot speak (sips), and the
        target itself, is left out.
        """
        found: dict[tuple[str, Address, str], Target] = {}
        before = (target.transport, target.address, target.user)
        for contact in contacts:
            try:
                uri = parse_uri(contact)
            except ParseError:
                continue
            if isinstance(uri, TelUri):
                key = (target.transport, target.address, uri.number)
            elif not isinstance(uri, SipUri) or uri.scheme != "sip":
                continue
            elif uri.host.lower() in self._ours or uri.host.lower() == target.domain:
                key = (target.transport, target.address, uri.user or target.user)
            else:
                address = address_of(uri.host)
                transport = (uri.param("transport") or "udp").lower()
                if address is None or uri.port == 0 or transport not in ("udp", "tcp"):
                    continue
                host, peer = str(address), target.address[0]
                if host in self._ours or (":" in host) != (":" in peer):
                    continue
                if host != peer and not is_credible(host, peer):
                    continue
                key = (transport, (host, uri.port or SIP_PORT), uri.user or target.user)
            if key != before and key not in found:
                transport, remote, user = key
                there = remote == target.address
                found[key] = Target(
                    target.trunk,
                    target.network,
                    transport,
                    remote,
                    target.host if there else remote[0],
                    user,
                    target.failover_on,
                    target.redirects,
                    target.nat,
                    domain=target.domain,
                )
            if len(found) == MAX_REDIRECTS:
                break
        return tuple(found.values())


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    return None if pattern is None else re.compile(pattern)


_Prefixes = dict[tuple[str, int], list[tuple[int, dict[int, tuple[str, str]]]]]


def _prefixes(config: Config) -> _Prefixes:
    """By (network, IP version): the prefix lengths, longest first, and who owns which prefix of that length."""
    tables: dict[tuple[str, int], dict[int, dict[int, tuple[str, str]]]] = {}
    for trunk in config.trunks.values():
        for prefix in trunk.from_:
            lengths = tables.setdefault((trunk.network, prefix.version), {})
            number = int(prefix.network_address) >> (prefix.max_prefixlen - prefix.prefixlen)
            # The same prefix of two trunks: the first one has it.
            lengths.setdefault(prefix.prefixlen, {}).setdefault(number, (trunk.name, str(prefix)))
    return {key: sorted(lengths.items(), reverse=True) for key, lengths in tables.items()}


def _found(
    flow: Flow, trunk: str, rule: str, compared: tuple[tuple[str, str], ...]
) -> tuple[Source, Decision]:
    return Source(flow.network, trunk, flow.remote[0]), Decision("source", rule, compared, f"trunk {trunk}")


def _called(request: CallRequest) -> str:
    """The called user as a person means it."""
    if request.host:
        return unescape(request.user)
    # RFC 3966 s.5.1.1: in a number they mean nothing; the dots of urn:service:sos.fire do (RFC 5031 s.4.2).
    return request.user if _SERVICE.fullmatch(request.user) else request.user.translate(SEPARATORS)


def _misfit(rule: _Rule, request: CallRequest, number: str) -> str | None:
    """The key of the route that does not fit, None when all do."""
    wanted = rule.route.from_
    if wanted == PHONES:
        if request.source.phone is None:
            return "from"
    elif wanted not in ("any", request.source.network, request.source.trunk):
        return "from"
    if rule.match is not None and rule.match.search(number) is None:
        return "match"
    if rule.from_match is not None and rule.from_match.search(request.caller) is None:
        return "from_match"
    return None


def _comparison(rule: _Rule, request: CallRequest, number: str, key: str) -> tuple[tuple[str, str], ...]:
    match key:
        case "from":
            return (("from", rule.route.from_), ("source", str(request.source)))
        case "match":
            return (("match", rule.route.match or ""), ("called", number))
        case "when":
            return (("when", rule.route.when), ("called", number))
        case _:
            return (("from_match", rule.route.from_match or ""), ("caller", request.caller))


_MISFITS = {
    "from": "does not fit: the call comes from elsewhere",
    "match": "does not fit: the called user does not match",
    "from_match": "does not fit: the calling user does not match",
    "when": "does not fit: the called user has no registered phone",
}


def _unfit(rule: _Rule, request: CallRequest, number: str, misfit: str) -> Decision:
    return Decision("routing", rule.name, _comparison(rule, request, number, misfit), _MISFITS[misfit])


def _fits(rule: _Rule, request: CallRequest, number: str) -> Decision:
    route = rule.route
    compared = _comparison(rule, request, number, "from")
    if rule.match is not None:
        compared += _comparison(rule, request, number, "match")
    if rule.from_match is not None:
        compared += _comparison(rule, request, number, "from_match")
    if route.reject is not None:
        return Decision("routing", rule.name, compared, f"fits: reject {route.reject.status}")
    if route.strip:
        compared += (("strip", str(route.strip)),)
    if route.prepend:
        compared += (("prepend", route.prepend),)
    return Decision("routing", rule.name, compared, f"fits: to {', '.join(route.to)}")


def _service(route: Route, called: str, request: CallRequest) -> str:
    """The service that the call is for, if that was called or a route makes it one: urn:service:sos; else ""."""
    plain = _plain(route, called)
    return plain if _SERVICE.fullmatch(plain) and (route.prepend or not request.host) else ""


def _plain(route: Route, called: str) -> str:
    """The called user after strip and prepend, without escapes."""
    return f"{route.prepend}{called[route.strip :]}"


def _rewritten(route: Route, called: str) -> str:
    """The called user after strip and prepend, escaped for a URI."""
    user = _plain(route, called)
    return user if _UNSAFE.search(user) is None else _UNSAFE.sub(_escaped, user)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{octet:02X}" for octet in found[0].encode("utf-8", "surrogateescape"))


def _no_route(admitted: bool, looped: bool) -> Refusal:
    if looped:
        return Refusal(482, "Loop Detected", "would-loop")
    if admitted:
        return Refusal(404, "No Route For This Number", "no-route")
    return Refusal(403, "No Route For This Source", "no-route-for-source")
