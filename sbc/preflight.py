"""What a checked configuration wants of this host: addresses, interfaces, descriptors, names."""

import asyncio
import errno
import os
import resource
import socket
from dataclasses import replace

from config.check import check
from config.model import AUTO, Config, Network
from config.problems import ConfigError
from media.fastpath.loader import obstacle, survey
from nat.interfaces import addresses_of, resolve
from sbc.media_policy import media_ranges
from sbc.names import look_up
from sbc.own_address import NotFoundError, find
from sbc.trunks import Trunks
from signaling import parser

SOCKETS_PER_CALL = 4
"""RTP and RTCP on each side."""
SOCKETS_SPARE = 200
STUN_S = 5.0
"""How long STUN servers may take to tell our address."""


def modules() -> str:
    """Whether the modules of every message were compiled when this was installed: "compiled" or "interpreted"."""
    return "interpreted" if parser.__file__.endswith(".py") else "compiled"


class StartError(Exception):
    """The server cannot start on this host; the text says why and what to do."""


def examine_host(config: Config) -> tuple[Config | None, list[str]]:
    """The configuration with the addresses that its interfaces have here, as `sbc run` would take it, and what is to
    be said of it. None when it cannot be used: what lies behind an interface clashes with the rest.

    An interface that this host lacks is a warning, and the configuration stays as it is.
    """
    absent = [
        network.name
        for network in config.networks.values()
        if network.interface is not None and not network.address and not addresses_of(network.interface)
    ]
    try:
        return resolve(config), [*missing_addresses(config), *missing_folders(config)]
    except ConfigError as error:
        if not absent:
            return None, [str(problem) for problem in error.problems]
        warnings = [str(replace(problem, level="warning")) for problem in error.problems]
        return config, [*warnings, *missing_addresses(config), *missing_folders(config)]


def names_of_servers(config: Config, ask: bool) -> list[str]:
    """What is to be said of servers that have a name: that they were not looked up, or which were not found."""
    lookups = Trunks(config).lookups
    if not lookups:
        return []
    if not ask:
        names = ", ".join(dict.fromkeys(lookup.host for lookup in lookups))
        return [f"{config.path}: note: names of servers were not looked up (--resolve does): {names}"]
    return [
        f"{config.path}: warning: trunks.{found.lookup.trunk}.servers: {found.lookup.host}: {found.why}"
        for found in asyncio.run(look_up(config, lookups))
        if not found.hops
    ]


def kernel_path(config: Config) -> list[str]:
    """What is to be said of `media.fastpath` on this host: why streams stay in the relay process."""
    if config.media.fastpath == "off":
        return []
    reason = obstacle()
    if reason is None:
        suited, without = survey(host for host, *_ in media_ranges(config).values())
        if suited and not without:
            return []
        reason = "; ".join(without)
    level = "warning" if config.media.fastpath == "on" else "note"
    return [f"{config.path}: {level}: media.fastpath: not in the kernel here: {reason}"]


def own_addresses(config: Config, ask: bool) -> list[str]:
    """What is to be said of `advertise: auto`: that nobody was asked, or what STUN servers see of us."""
    networks = [network for network in config.networks.values() if network.advertise == AUTO]
    if not networks:
        return []
    if not ask:
        names = ", ".join(network.name for network in networks)
        return [f"{config.path}: note: STUN servers were not asked (--resolve does), for networks: {names}"]
    return [line for network in networks for line in asyncio.run(_own_address(config, network))]


async def _own_address(config: Config, network: Network) -> list[str]:
    key = f"networks.{network.name}.advertise"
    if not network.address:
        return []  # its interface is not on this host, which has been said
    try:
        async with asyncio.timeout(STUN_S):
            address, server = await find(network)
    except (NotFoundError, TimeoutError) as error:
        why = str(error) or f"no answer within {STUN_S:g} s"
        return [f"{config.path}: warning: {key}: STUN servers do not tell our address: {why}"]
    learned = network.model_copy(update={"learned": address})
    known = config.model_copy(update={"networks": {**config.networks, network.name: learned}})
    return [
        f"{config.path}: note: {key}: peers see us as {address} (asked {server})",
        *(str(problem) for problem in check(known) if problem.key == key),
    ]


def missing_addresses(config: Config) -> list[str]:
    """Warnings on addresses that this host does not have: right on the machine that the file is meant for."""
    warnings = []
    for network in config.networks.values():
        for address in dict.fromkeys((*network.sip_addresses, *network.media_addresses)):
            reason = _cannot_bind(address)
            if reason is not None:
                warnings.append(f"{config.path}: warning: networks.{network.name}: {address}: {reason}")
    return warnings


def missing_folders(config: Config) -> list[str]:
    """Warnings on files that could not be made: right where the service manager makes their folder."""
    return [
        f"{config.path}: warning: log.{key}: there is no directory {folder}, so nothing is written; make it, or write"
        " another"
        for key, path in (("file", config.log.file), ("cdr", config.log.cdr))
        if path and not os.path.isdir(folder := os.path.dirname(path) or ".")
    ]


def few_descriptors(config: Config, limit: int | None = None) -> list[str]:
    """A warning when the limit of open files is too low for `limits.max_calls`."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if limit is None else limit
    wanted = config.limits.max_calls * SOCKETS_PER_CALL + SOCKETS_SPARE
    if allowed == resource.RLIM_INFINITY or wanted <= allowed:
        return []
    return [
        f"{config.path}: warning: limits.max_calls: {config.limits.max_calls} calls want"
        f" {wanted} open files, and"
        f" this host allows {allowed} (ulimit -Hn; LimitNOFILE= in the unit)"
    ]


def summary(config: Config) -> str:
    """One line on what a configuration holds."""
    networks = ", ".join(
        f"{network.name} {' and '.join(network.sip_addresses) or network.interface or ''}".rstrip()
        for network in config.networks.values()
    )
    return (
        f"networks {networks}; {_count(len(config.trunks), 'trunk')}, {_count(len(config.routes), 'route')},"
        f" up to {_count(config.limits.max_calls, 'call')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _cannot_bind(address: str) -> str | None:
    # Asking the kernel counts every address that works, also those of 127.0.0.0/8 that no interface lists.
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return "no interface of this host has this address"
        return f"cannot be used on this host: {error.strerror}"
    return None
