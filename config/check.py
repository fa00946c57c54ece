"""What is wrong with a configuration as a whole, though each of its values is right by itself."""

import difflib
import importlib.metadata
import ipaddress
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from config import access
from config.coverage import sources, unreachable
from config.model import AUTO, LOCAL, PHONES, Config, Network, PortRange, Route, SipServer, Trunk
from config.problems import Level, Problem
from config.timing import contradictions, written
from config.values import IpNetwork

DISTRIBUTION = "border-sbc"
PACKAGES = ("sbc", "signaling", "media", "nat", "config")
"""Our import packages; their names are generic, so another distribution might bring one of them too."""

SUN_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (unix(7))."""
SIP_PORT = 5060

_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
_PUBLIC_WORDS = ("public", "internet", "wan", "external", "outside")


def check(
    config: Config, broken: Collection[str] = frozenset(), route_numbers: tuple[int, ...] | None = None
) -> list[Problem]:
    """Every problem of `config`, in the order of the file.

    `broken` are keys (`networks.public`, `routes`) that had mistakes of their own and were taken out: nothing is
    said about what may be missing only for that. `route_numbers` are the places of the remaining routes in the file.
    """
    numbers = tuple(range(len(config.routes))) if route_numbers is None else route_numbers
    checker = _Checker(config, frozenset(broken), numbers)
    checker.run()
    return sorted(checker.problems, key=lambda problem: (problem.line, problem.column, problem.key))


def foreign_packages(distributions: Mapping[str, Collection[str]] | None = None) -> list[Problem]:
    """Other installed distributions that own one of our five import packages; any of them may hide ours.

    `distributions` maps import packages to the distributions that bring them, by default as installed.
    """
    found = importlib.metadata.packages_distributions() if distributions is None else distributions
    return [
        Problem(
            "environment",
            1,
            1,
            package,
            f"the distribution {other} also installs a package {package}, which may hide ours; "
            f"uninstall it, or install {DISTRIBUTION} in an environment of its own",
        )
        for package in PACKAGES
        for other in sorted(set(found.get(package, ())))
        if other.lower().replace("_", "-") != DISTRIBUTION
    ]


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """The end of a message about a name that does not exist: the one that was meant, or all there are."""
    known = list(names)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"the {what} are {', '.join(known[:20])}" if known else f"there are no {what} yet; write one"


@dataclass(frozen=True, slots=True)
class _Socket:
    """Something that binds UDP or TCP ports of one address (or of an interface, while that is unresolved)."""

    key: str
    network: str
    transport: str
    host: str
    first: int
    last: int

    def meets(self, other: "_Socket") -> bool:
        """Whether both cannot be bound at once."""
        return (
            self.transport == other.transport
            and self.first <= other.last
            and other.first <= self.last
            and _same_host(self.host, other.host)
        )


def _same_host(one: str, other: str) -> bool:
    if one == other:
        return True
    # A wildcard takes every address of its own family (our IPv6 sockets are IPv6 only).
    return (
        (one == "0.0.0.0" and ":" not in other)
        or (other == "0.0.0.0" and ":" not in one)
        or ("::" in (one, other) and ":" in one and ":" in other)
    )


def _hosts(addresses: tuple[str, ...], network: Network) -> tuple[str, ...]:
    return addresses or (f"interface {network.interface}",)


class _Checker:
    def __init__(self, config: Config, broken: frozenset[str], route_numbers: tuple[int, ...]) -> None:
        self.config = config
        self.broken = broken
        self.route_numbers = route_numbers
        self.problems: list[Problem] = []

    def run(self) -> None:
        """Fill `problems`."""
        for name, network in self.config.networks.items():
            self._network(f"networks.{name}", network)
        self._listeners()
        for trunk in self.config.trunks.values():
            self._trunk(f"trunks.{trunk.name}", trunk)
        self._claims()
        self._phones()
        self._routes()
        self._idle_trunks()
        self._limits()
        self._timers()
        self._media_and_files()

    def _say(self, key: str, message: str, level: Level = "error") -> None:
        if key.endswith("]") and not self.config.has_key(key):
            # One value where a list may stand.
            key = key[: key.rfind("[")]
        line, column = self.config.position(key)
        self.problems.append(Problem(self.config.path, line, column, key, message, level))

    def _warn(self, key: str, message: str) -> None:
        self._say(key, message, "warning")

    def _say_all(self, mistakes: Iterable[access.Mistake]) -> None:
        for key, message, level in mistakes:
            if key not in self.broken:
                self._say(key, message, level)

    def _line(self, key: str) -> str:
        return f"line {self.config.position(key)[0]}"

    # -- networks ------------------------------------------------------------------------------------------

    def _network(self, key: str, network: Network) -> None:
        self._reserved(key, network.name)
        if network.name in self.config.trunks:
            line = self._line(f"trunks.{network.name}")
            self._say(
                key, f"the trunk in {line} has the same name, so `from` could mean either; rename one of them"
            )
        # Asked of the file: `nat.interfaces.resolve` fills in the address that an interface has.
        if network.interface == "" or (network.interface and self.config.has_key(f"{key}.address")):
            self._say(f"{key}.interface", "write either interface, with a name, or address; not both")
        self._families(key, network)
        if not network.listen:
            self._say(f"{key}.listen", "no listener, so no SIP; write one or more, like [udp:5060, tcp:5060]")
        if network.turn is None:
            self._media_ports(f"{key}.media_ports", network)
        self._reachable(key, network)
        self._say_all(access.of_network(self.config, network))

    def _reserved(self, key: str, name: str) -> None:
        meaning = {"any": "every network", PHONES: "the phones"}.get(name)
        if meaning is not None:
            self._say(key, f"{name} stands for {meaning} in routes; write another name")

    def _families(self, key: str, network: Network) -> None:
        address = network.address
        if network.address6 is not None:
            if ":" not in network.address6:
                self._say(
                    f"{key}.address6", f"{network.address6} is IPv4; write an IPv6 address, or use address"
                )
            elif ":" in address:
                self._say(
                    f"{key}.address6",
                    "address is IPv6 already; write the IPv4 address there, or leave this out",
                )
        literal = None if network.advertise == AUTO else network.advertise
        for name, given in (("advertise", literal), ("media_address", network.media_address)):
            if given and address and (":" in given) != (":" in address):
                self._say(
                    f"{key}.{name}",
                    f"{given} is {_family(given)}, but address is {_family(address)}; write one family",
                )
        if network.media_address6 is not None and ":" not in network.media_address6:
            self._say(f"{key}.media_address6", f"{network.media_address6} is IPv4; write an IPv6 address")
        wildcards = {"0.0.0.0", "::"}
        if address in wildcards and literal is None:
            self._say(
                f"{key}.address",
                f"{address} is no address that peers can send to; write one address of ours, or add advertise: "
                "with the one that they reach us at",
            )
        for name, given in (("address6", network.address6), ("advertise", literal)):
            if given in wildcards:
                self._say(
                    f"{key}.{name}",
                    f"{given} is no address that peers can send to; write one address of ours",
                )

    def _reachable(self, key: str, network: Network) -> None:
        seen = network.advertised
        if network.advertise == AUTO and not network.learned:
            return
        if not seen or not self._is_public(network):
            return
        if any(_contains(prefix, seen) for prefix in _INSIDE):
            self._warn(
                f"{key}.{'advertise' if network.advertise else 'address'}",
                f"{seen} is private, and peers in {network.name} cannot reach it from outside; "
                "write advertise: with the public address, if there is address translation in front of us",
            )

    def _is_public(self, network: Network) -> bool:
        """Whether peers of the network seem to be on the internet: by its name, or by their addresses."""
        if any(word in network.name.lower() for word in _PUBLIC_WORDS):
            return True
        trunks = [trunk for trunk in self.config.trunks.values() if trunk.network == network.name]
        addresses = [server.literal for trunk in trunks for server in trunk.servers if server.literal]
        prefixes = [prefix for trunk in trunks for prefix in trunk.from_ if prefix.prefixlen > 0]
        return any(address.is_global for address in addresses) or any(x.is_global for x in prefixes)

    def _media_ports(self, key: str, network: Network) -> None:
        ports, calls = network.media_ports, self.config.limits.max_calls
        # With a single network both sides of a call are in it.
        per_call = 2 if len(self._names("networks")) == 1 else 1
        needed = calls * per_call
        if ports.pairs < needed and "limits.max_calls" not in self.broken and "limits" not in self.broken:
            sides = "2 pairs here, one for each side" if per_call == 2 else "1 pair here"
            first = ports.first + ports.first % 2
            last = first + 2 * needed - 1
            advice = f"{first}-{last}" if last <= 65535 else "a wider range"
            self._say(
                key,
                f"{ports} holds {ports.pairs} pairs of ports, but limits.max_calls is {calls} and a call needs {sides} "
                f"({calls} x {per_call} = {needed}); write {advice}, or at most "
                f"limits.max_calls: {max(1, ports.pairs // per_call)}",
            )
        elif ports.first % 2 or not ports.last % 2:
            even = PortRange(first=ports.first + ports.first % 2, last=ports.last - 1 + ports.last % 2)
            self._warn(key, f"pairs begin at even ports, so {ports} wastes its ends; write {even}")

    def _listeners(self) -> None:
        listeners: list[_Socket] = []
        media: list[_Socket] = []
        for name, network in self.config.networks.items():
            for host in _hosts(network.sip_addresses, network):
                for index, listen in enumerate(network.listen):
                    key = f"networks.{name}.listen[{index}]"
                    listeners.append(_Socket(key, name, listen.transport, host, listen.port, listen.port))
            for host in _hosts(network.media_addresses, network) if network.turn is None else ():
                key, ports = f"networks.{name}.media_ports", network.media_ports
                media.append(_Socket(key, name, "udp", host, ports.first, ports.last))
        for socket, other in _meetings(listeners):
            self._say(
                socket.key,
                f"{socket.transport}:{socket.first} on {socket.host} is already taken by {other.key} "
                f"({self._line(other.key)}); write another port or address",
            )
        for socket, other in _meetings(media):
            if socket.network != other.network:
                self._say(
                    socket.key,
                    f"{socket.first}-{socket.last} on {socket.host} overlaps {other.key} ({other.first}-{other.last}, "
                    f"{self._line(other.key)}); write ranges that do not meet, or another address",
                )
        said: set[str] = set()
        for listener in listeners:
            for pool in media:
                if listener.meets(pool) and listener.key not in said:
                    said.add(listener.key)
                    self._say(
                        listener.key,
                        f"port {listener.first} is inside {pool.key} ({pool.first}-{pool.last}) of the same address; "
                        "write a port outside of it",
                    )

    # -- trunks --------------------------------------------------------------------------------------------

    def _trunk(self, key: str, trunk: Trunk) -> None:
        self._reserved(key, trunk.name)
        if trunk.name == LOCAL:
            self._say(key, "local stands for our own registrar in phones.registrar; write another name")
        self._numbers_of(key, trunk)
        self._say_all(access.of_trunk(trunk))
        network = self.config.networks.get(trunk.network)
        if network is None:
            if f"networks.{trunk.network}" not in self.broken and "networks" not in self.broken:
                hint = nearest(trunk.network, self._names("networks"), "networks")
                self._say(f"{key}.network", f"there is no network {trunk.network}; {hint}")
            return
        families = {_family(address) for address in network.sip_addresses}
        seen: dict[tuple[str, int, str], int] = {}
        for index, server in enumerate(trunk.servers):
            at = f"{key}.servers[{index}]"
            self._server(at, server, network, families)
            first = seen.setdefault((server.host, server.port or SIP_PORT, server.transport), index)
            if first != index:
                self._warn(at, f"{server.uri} is already servers[{first}]; write every server once")
        for index, prefix in enumerate(trunk.from_):
            family = "IPv4" if prefix.version == 4 else "IPv6"
            if families and family not in families:
                self._say(
                    f"{key}.from[{index}]",
                    f"{prefix} is {family}, but network {network.name} has only {families.pop()}; "
                    "write another prefix, or give the network an address of that family",
                )
            elif prefix.prefixlen == 0:
                self._warn(
                    f"{key}.from[{index}]",
                    f"{prefix} makes everybody this trunk; write the addresses it really uses",
                )

    def _server(self, key: str, server: SipServer, network: Network, families: set[str]) -> None:
        literal = server.literal
        if literal is not None and families and _family(server.host) not in families:
            self._say(
                key,
                f"{server.host} is {_family(server.host)}, but network {network.name} has only "
                f"{next(iter(families))}; write a server of that family, or give the network address6",
            )
        if network.listen and server.transport not in {listen.transport for listen in network.listen}:
            self._say(
                key,
                f"network {network.name} has no {server.transport} listener to send from; "
                f"add {server.transport}:5060 to its listen, or write another transport",
            )
        ports = {listen.port for listen in network.listen if listen.transport == server.transport}
        own = {*network.sip_addresses, network.advertised}
        if server.host in own and (server.port or SIP_PORT) in ports:
            self._say(
                key, f"{server.uri} is our own listener, so calls would come back; write the peer's address"
            )

    def _numbers_of(self, key: str, trunk: Trunk) -> None:
        ping = trunk.check
        if ping is not None and ping.options_every_s == 0:
            self._warn(
                f"{key}.check", "options_every_s is 0, so no pings are sent; write a time, or leave check out"
            )
        elif ping is not None and ping.timeout_s > ping.options_every_s:
            self._say(
                f"{key}.check",
                f"timeout_s {written(ping.timeout_s)} is longer than options_every_s {written(ping.options_every_s)}, "
                "so pings would overtake each other; write a shorter timeout",
            )
        most = self.config.limits.max_calls
        if trunk.max_calls is not None and trunk.max_calls > most:
            self._warn(
                f"{key}.max_calls",
                f"{trunk.max_calls} is never reached, as limits.max_calls is {most}; write less",
            )
        redirecting = [status for status in trunk.failover_on if status < 400]
        if redirecting and trunk.redirects == "follow":
            self._say(
                f"{key}.failover_on",
                f"{redirecting[0]} would be followed (redirects: follow) and failed over; write it in one place only",
            )

    def _claims(self) -> None:
        # A server's address goes before any `from`, and there the longest prefix decides (sbc/routing.py).
        prefixes: dict[tuple[str, IpNetwork], str] = {}
        servers: dict[tuple[str, str, int], str] = {}
        for trunk in self.config.trunks.values():
            key = f"trunks.{trunk.name}"
            for index, prefix in enumerate(trunk.from_):
                self._prefix(f"{key}.from[{index}]", (trunk.network, prefix), prefixes)
            for index, server in enumerate(trunk.servers):
                if server.literal is None:
                    continue
                at = f"{key}.servers[{index}]"
                first = servers.setdefault((trunk.network, server.host, server.port or SIP_PORT), at)
                if _owner(first) != _owner(at):
                    self._warn(
                        at,
                        f"{server.host}:{server.port or SIP_PORT} is a server of trunk {_owner(first)} too "
                        f"({self._line(first)}), so its requests belong to that trunk; write the server in one place",
                    )

    def _prefix(
        self, key: str, claim: tuple[str, IpNetwork], claims: dict[tuple[str, IpNetwork], str]
    ) -> None:
        network, prefix = claim
        same = claims.setdefault(claim, key)
        if _owner(same) != _owner(key):
            self._say(
                key,
                f"trunk {_owner(same)} claims {prefix} too ({self._line(same)}), so its requests could belong to "
                "either; write every prefix in one trunk",
            )
            return
        for (other_network, other), other_key in claims.items():
            if other_network == network and _owner(other_key) != _owner(key) and _overlap(prefix, other):
                narrow = max(prefix, other, key=lambda one: one.prefixlen)
                relation = "lies in" if narrow == prefix else "holds"
                winner = _owner(key) if narrow == prefix else _owner(other_key)
                self._warn(
                    key,
                    f"{prefix} {relation} {other}, which trunk {_owner(other_key)} claims ({self._line(other_key)}); "
                    f"the narrower one wins, so requests from {narrow} belong to {winner}",
                )
                return

    # -- phones --------------------------------------------------------------------------------------------

    def _phones(self) -> None:
        phones = self.config.phones
        if phones is None:
            return
        if not self._exists("networks", phones.network):
            hint = nearest(phones.network, self._names("networks"), "networks")
            self._say("phones.network", f"there is no network {phones.network}; {hint}")
        self._say_all(access.of_phones(self.config, phones, self.broken))
        if phones.local:
            return
        trunk = self.config.trunks.get(phones.registrar)
        if trunk is None:
            if not self._exists("trunks", phones.registrar):
                hint = nearest(phones.registrar, [LOCAL, *self._names("trunks")], "registrars")
                self._say("phones.registrar", f"there is no trunk {phones.registrar}; {hint}")
        elif trunk.network == phones.network:
            self._say(
                "phones.registrar",
                f"trunk {trunk.name} is in the network of the phones, who could reach it without us; "
                "write a trunk in another network, or local",
            )

    # -- routes --------------------------------------------------------------------------------------------

    def _names(self, section: str) -> list[str]:
        known = list(self.config.networks if section == "networks" else self.config.trunks)
        return known + [key.partition(".")[2] for key in sorted(self.broken) if key.startswith(f"{section}.")]

    def _exists(self, section: str, name: str) -> bool:
        return name in self._names(section) or section in self.broken

    def _routes(self) -> None:
        config = self.config
        if not config.routes and "routes" not in self.broken:
            self._warn(
                "routes", "no routes, so every call is refused; write one like {from: pbx, to: carrier}"
            )
        for number, route in zip(self.route_numbers, config.routes, strict=True):
            key = f"routes[{number}]"
            if route.from_ == PHONES:
                self._phones_exist(f"{key}.from")
            elif route.from_ != "any" and not (
                self._exists("networks", route.from_) or self._exists("trunks", route.from_)
            ):
                names = ["any", PHONES, *self._names("networks"), *self._names("trunks")]
                hint = nearest(route.from_, names, "networks and trunks")
                self._say(f"{key}.from", f"there is no network or trunk {route.from_}; {hint}")
            for index, name in enumerate(route.to):
                self._target(f"{key}.to[{index}]", name, route.from_)
                if name in route.to[:index]:
                    self._warn(f"{key}.to[{index}]", f"{name} stands in this list twice; write it once")
            self._when(f"{key}.when", route)
            if route.reject is not None and (route.strip or route.prepend):
                self._warn(key, "strip and prepend change nothing on a call that is rejected; leave them out")
        for verdict in unreachable(config, config.routes):
            key = f"routes[{self.route_numbers[verdict.route]}]"
            takers = [self.route_numbers[number] for number in verdict.taken_by]
            where = " and ".join(f"routes[{n}] ({self._line(f'routes[{n}]')})" for n in takers)
            if len(takers) == 1:
                self._say(
                    key,
                    f"shadowed: {where} takes every call that this one fits; move this one above it, or take it out",
                )
            else:
                self._say(
                    key,
                    f"unreachable: {where} together take every call that this one fits; "
                    "move it above them, or take it out",
                )

    def _phones_exist(self, key: str) -> None:
        if self.config.phones is None and PHONES not in self.broken:
            self._say(key, "there is no section phones; write one with network: and registrar:")

    def _when(self, key: str, route: Route) -> None:
        if route.when == "registered" and PHONES not in route.to:
            self._say(
                key, "only a route to phones can depend on a registration; take it out, or write to: phones"
            )

    def _target(self, key: str, name: str, source: str) -> None:
        if name == PHONES:
            self._phones_exist(key)
            return
        if name == source:
            self._warn(key, f"calls from {name} go back to {name}; write another trunk, unless that is meant")
        if self._exists("trunks", name):
            return
        if name in self.config.networks:
            there = [trunk.name for trunk in self.config.trunks.values() if trunk.network == name]
            hint = f"write one of its trunks: {', '.join(there)}" if there else "write a trunk that is in it"
            self._say(key, f"{name} is a network, and calls go to trunks; {hint}")
            return
        self._say(key, f"there is no trunk {name}; {nearest(name, self._names('trunks'), 'trunks')}")

    def _idle_trunks(self) -> None:
        if not self.config.routes or self.broken & {"routes", "trunks", "networks"}:
            return
        used = {name for route in self.config.routes for name in route.to}
        for route in self.config.routes:
            used |= {trunk for _, trunk in sources(self.config, route.from_)}
        if self.config.phones is not None:
            used.add(self.config.phones.registrar)
            if PHONES not in used and not any(route.from_ in {PHONES, "any", self.config.phones.network}
                                              for route in self.config.routes):  # fmt: skip
                self._warn(
                    "phones", "no route leads to or from phones; write one like {from: phones, to: TRUNK}"
                )
        for name in self.config.trunks:
            if name not in used:
                self._warn(
                    f"trunks.{name}", "no route leads to or from this trunk; write one, or take the trunk out"
                )

    # -- numbers -------------------------------------------------------------------------------------------

    def _limits(self) -> None:
        limits = self.config.limits
        if 0 < limits.calls_per_s < limits.calls_per_s_per_source:
            self._warn(
                "limits.calls_per_s_per_source",
                f"{written(limits.calls_per_s_per_source)} is never reached, as calls_per_s is "
                f"{written(limits.calls_per_s)}; write less",
            )
        if limits.tcp_connections < limits.tcp_connections_per_source:
            self._warn(
                "limits.tcp_connections_per_source",
                f"{limits.tcp_connections_per_source} is never reached, as tcp_connections is "
                f"{limits.tcp_connections}; write less",
            )
        if limits.max_transactions < 2 * limits.max_calls:
            self._warn(
                "limits.max_transactions",
                f"{limits.max_transactions} is less than the 2 x {limits.max_calls} = {2 * limits.max_calls} that "
                f"limits.max_calls needs when all calls are set up at once; write {2 * limits.max_calls} or more",
            )

    def _timers(self) -> None:
        unknown = [key.removeprefix("timers.") for key in self.broken if key.startswith("timers.")]
        for key, message, level in contradictions(self.config.timers):
            if not any(name in message for name in unknown):
                self._say(f"timers.{key}", message, level)

    def _media_and_files(self) -> None:
        media, log = self.config.media, self.config.log
        if media.engine == "native":
            self._say("media.engine", "the native engine is not in this version yet; write auto or reference")
        if media.codecs is not None and not media.codecs:
            self._say(
                "media.codecs", "an empty list lets no codec pass; write names, or leave the key out for all"
            )
        elif media.codecs is not None and "telephone-event" not in {codec.lower() for codec in media.codecs}:
            self._warn(
                "media.codecs", "digits are taken out without telephone-event; add it, unless that is meant"
            )
        if log.file is not None and log.file == log.cdr:
            self._say("log.cdr", "call records would go to the log file; write another path")
        path = os.fsencode(self.config.control.socket)
        if not path or b"\0" in path or len(path) > SUN_PATH_BYTES:
            self._say(
                "control.socket",
                f"a socket path has 1 to {SUN_PATH_BYTES} bytes, this one {len(path)}; write another",
            )


def _meetings(sockets: list[_Socket]) -> Iterator[tuple[_Socket, _Socket]]:
    """Each socket that cannot be bound, with the first earlier one that is in its way."""
    said: set[str] = set()
    for number, socket in enumerate(sockets):
        for other in sockets[:number]:
            if other.key != socket.key and socket.key not in said and socket.meets(other):
                said.add(socket.key)
                yield socket, other


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _contains(prefix: IpNetwork, address: str) -> bool:
    return ipaddress.ip_address(address) in prefix


def _overlap(one: IpNetwork, other: IpNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _owner(key: str) -> str:
    """The trunk in a key such as `trunks.carrier.from[0]`; its name may have dots in it."""
    return key.removeprefix("trunks.").rpartition(".")[0]
