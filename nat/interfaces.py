"""Which addresses this host has, by network interface."""

import socket
from collections.abc import Iterable, Mapping

import netifaces

from config.check import check
from config.model import Config, Network
from config.problems import ConfigError, Problem
from nat.address import Kind, classify

# A host is best reached at the widest scope that it has; link-local addresses need a zone and are left out.
_ORDER = (
    Kind.PUBLIC,
    Kind.DOCUMENTATION,
    Kind.BENCHMARK,
    Kind.PRIVATE,
    Kind.CGNAT,
    Kind.LOOPBACK,
)


def interface_names() -> tuple[str, ...]:
    """The names of all network interfaces."""
    return tuple(netifaces.interfaces())


def addresses_of(interface: str) -> tuple[str, ...]:
    """The usable addresses of an interface, IPv4 first, the widest scope first; empty when it does not exist."""
    if interface not in netifaces.interfaces():
        return ()
    try:
        found = netifaces.ifaddresses(interface)
    except (OSError, ValueError):
        # It went away between the two questions.
        return ()
    entries = [*found.get(socket.AF_INET, ()), *_ipv6(found)]
    return preferred(str(entry["addr"]) for entry in entries if "addr" in entry)


def _ipv6(found: Mapping[int, list[dict[str, str]]]) -> list[dict[str, str]]:
    return found.get(int(socket.AF_INET6), [])


def preferred(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those that can be bound and told to a peer, without zones and duplicates, the best first."""
    plain = dict.fromkeys(address.partition("%")[0] for address in addresses)
    ranked = [
        (":" in address, _ORDER.index(kind), number, address)
        for number, address in enumerate(plain)
        if (kind := classify(address)) in _ORDER
    ]
    return tuple(address for *_, address in sorted(ranked))


def local_addresses() -> tuple[str, ...]:
    """The usable addresses of all interfaces."""
    return preferred(address for name in interface_names() for address in addresses_of(name))


def resolve(config: Config) -> Config:
    """The same configuration with every `interface` turned into the addresses that it has now.

    The first IPv4 address becomes `address` and the first IPv6 address `address6`; an interface with IPv6 alone
    gives `address`. What could not be checked before is checked now. Raises ConfigError.
    """
    problems: list[Problem] = []
    networks: dict[str, Network] = {}
    for name, network in config.networks.items():
        if network.interface is None or network.address:
            continue
        found = addresses_of(network.interface)
        if found:
            networks[name] = network.model_copy(update=_first(found, network))
            continue
        key = f"networks.{name}.interface"
        if network.interface in interface_names():
            message = (
                f"{network.interface} has no usable address; give it one, or write address: with one of ours"
            )
        else:
            message = f"there is no interface {network.interface}; the interfaces are {', '.join(interface_names())}"
        problems.append(Problem(config.path, *config.position(key), key, message))
    if problems:
        raise ConfigError(problems)
    if not networks:
        return config
    resolved = config.model_copy(update={"networks": {**config.networks, **networks}})
    errors = [problem for problem in check(resolved) if problem.level == "error"]
    if errors:
        raise ConfigError(errors)
    return resolved


def _first(found: tuple[str, ...], network: Network) -> dict[str, str]:
    ipv4 = next((address for address in found if ":" not in address), None)
    ipv6 = next((address for address in found if ":" in address), None)
    if ipv4 is None or ipv6 is None or network.address6 is not None:
        return {"address": found[0]}
    return {"address": ipv4, "address6": ipv6}
