"""Our addresses and ports: what is wrong with the networks of a configuration, by themselves and beside each other."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from config import access
from config.findings import Findings, family
from config.model import AUTO, Network, PortRange

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
PRIVILEGED = 1024
"""The first port that is nobody's by right (RFC 6335 s.6)."""
_PUBLIC_WORDS = ("public", "internet", "wan", "external", "outside")


def check_networks(found: Findings) -> None:
    """What is wrong with each network, and which ports meet."""
    for name, network in found.config.networks.items():
        _network(found, f"networks.{name}", network)
    _listeners(found)


def _network(found: Findings, key: str, network: Network) -> None:
    found.reserved(key, network.name)
    if network.name in found.config.trunks:
        line = found.line(f"trunks.{network.name}")
        found.error(
            key, f"the trunk in {line} has the same name, so `from` could mean either; rename one of them"
        )
    # Asked of the file: `nat.interfaces.resolve` fills in the address that an interface has.
    if network.interface == "" or (network.interface and found.config.has_key(f"{key}.address")):
        found.error(f"{key}.interface", "write either interface, with a name, or address; not both")
    _families(found, key, network)
    if not network.listen:
        found.error(f"{key}.listen", "no listener, so no SIP; write one or more, like [udp:5060, tcp:5060]")
    if network.turn is None:
        _media_ports(found, f"{key}.media_ports", network)
    _reachable(found, key, network)
    found.add(access.of_network(found.config, network))


def _families(found: Findings, key: str, network: Network) -> None:
    address = network.address
    if network.address6 is not None:
        if ":" not in network.address6:
            found.error(
                f"{key}.address6", f"{network.address6} is IPv4; write an IPv6 address, or use address"
            )
        elif ":" in address:
            found.error(
                f"{key}.address6",
                "address is IPv6 already; write the IPv4 address there, or leave this out",
            )
    literal = None if network.advertise == AUTO else network.advertise
    for name, given in (("advertise", literal), ("media_address", network.media_address)):
        if given and address and (":" in given) != (":" in address):
            found.error(
                f"{key}.{name}",
                f"{given} is {family(given)}, but address is {family(address)}; write one family",
            )
    if network.media_address6 is not None and ":" not in network.media_address6:
        found.error(f"{key}.media_address6", f"{network.media_address6} is IPv4; write an IPv6 address")
    wildcards = {"0.0.0.0", "::"}
    if address in wildcards and literal is None:
        found.error(
            f"{key}.address",
            f"{address} is no address that peers can send to; write one address of ours, or add advertise: "
            "with the one that they reach us at",
        )
    if literal and address and _is_loopback(literal) and not _is_loopback(address):
        found.error(
            f"{key}.advertise",
            f"peers would look for us at {literal}, which is their own host; write the address that they reach us at",
        )
    for name, given in (("address6", network.address6), ("advertise", literal)):
        if given in wildcards:
            found.error(
                f"{key}.{name}",
                f"{given} is no address that peers can send to; write one address of ours",
            )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _reachable(found: Findings, key: str, network: Network) -> None:
    seen = network.advertised
    if network.advertise == AUTO and not network.learned:
        return
    if not seen or not _is_public(found, network):
        return
    if any(ipaddress.ip_address(seen) in prefix for prefix in _INSIDE):
        found.warn(
            f"{key}.{'advertise' if network.advertise else 'address'}",
            f"{seen} is private, and peers in {network.name} cannot reach it from outside; "
            "write advertise: with the public address, if there is address translation in front of us",
        )


def _is_public(found: Findings, network: Network) -> bool:
    """Whether peers of the network seem to be on the internet: by its name, or by their addresses."""
    if any(word in network.name.lower() for word in _PUBLIC_WORDS):
        return True
    trunks = [trunk for trunk in found.config.trunks.values() if trunk.network == network.name]
    addresses = [server.literal for trunk in trunks for server in trunk.servers if server.literal]
    prefixes = [prefix for trunk in trunks for prefix in trunk.from_ if prefix.prefixlen > 0]
    return any(address.is_global for address in addresses) or any(x.is_global for x in prefixes)


def _media_ports(found: Findings, key: str, network: Network) -> None:
    ports, calls = network.media_ports, found.config.limits.max_calls
    # With a single network both sides of a call are in it.
    per_call = 2 if len(found.names("networks")) == 1 else 1
    needed = calls * per_call
    if ports.pairs < needed and "limits.max_calls" not in found.broken and "limits" not in found.broken:
        sides = "2 pairs here, one for each side" if per_call == 2 else "1 pair here"
        first = ports.first + ports.first % 2
        last = first + 2 * needed - 1
        advice = f"{first}-{last}" if last <= 65535 else "a wider range"
        found.error(
            key,
            f"{ports} holds {ports.pairs} pairs of ports, but limits.max_calls is {calls} and a call needs {sides} "
            f"({calls} x {per_call} = {needed}); write {advice}, or at most "
            f"limits.max_calls: {max(1, ports.pairs // per_call)}",
        )
    elif ports.first < PRIVILEGED:
        found.warn(
            key,
            f"ports below {PRIVILEGED} belong to services of the system, and many firewalls and phones refuse media "
            f"there; write {PRIVILEGED} or more as the first one",
        )
    elif ports.first % 2 or not ports.last % 2:
        even = PortRange(first=ports.first + ports.first % 2, last=ports.last - 1 + ports.last % 2)
        found.warn(key, f"pairs begin at even ports, so {ports} wastes its ends; write {even}")


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


def _listeners(found: Findings) -> None:
    listeners: list[_Socket] = []
    media: list[_Socket] = []
    for name, network in found.config.networks.items():
        for host in _hosts(network.sip_addresses, network):
            for index, listen in enumerate(network.listen):
                key = f"networks.{name}.listen[{index}]"
                listeners.append(_Socket(key, name, listen.transport, host, listen.port, listen.port))
        for host in _hosts(network.media_addresses, network) if network.turn is None else ():
            key, ports = f"networks.{name}.media_ports", network.media_ports
            media.append(_Socket(key, name, "udp", host, ports.first, ports.last))
    for socket, other in _meetings(listeners):
        found.error(
            socket.key,
            f"{socket.transport}:{socket.first} on {socket.host} is already taken by {other.key} "
            f"({found.line(other.key)}); write another port or address",
        )
    for socket, other in _meetings(media):
        if socket.network != other.network:
            found.error(
                socket.key,
                f"{socket.first}-{socket.last} on {socket.host} overlaps {other.key} ({other.first}-{other.last}, "
                f"{found.line(other.key)}); write ranges that do not meet, or another address",
            )
    said: set[str] = set()
    for listener in listeners:
        for pool in media:
            if listener.meets(pool) and listener.key not in said:
                said.add(listener.key)
                found.error(
                    listener.key,
                    f"port {listener.first} is inside {pool.key} ({pool.first}-{pool.last}) of the same address; "
                    "write a port outside of it",
                )


def _meetings(sockets: list[_Socket]) -> Iterator[tuple[_Socket, _Socket]]:
    """Each socket that cannot be bound, with the first earlier one that is in its way."""
    said: set[str] = set()
    for number, socket in enumerate(sockets):
        for other in sockets[:number]:
            if other.key != socket.key and socket.key not in said and socket.meets(other):
                said.add(socket.key)
                yield socket, other
