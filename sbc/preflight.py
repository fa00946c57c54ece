"""What a checked configuration wants of this host: addresses and descriptors."""

import errno
import resource
import socket

from config.model import Config

SOCKETS_PER_CALL = 4
"""RTP and RTCP on each side."""
SOCKETS_SPARE = 200


class StartError(Exception):
    """The server cannot start on this host; the text says why and what to do."""


def missing_addresses(config: Config) -> list[str]:
    """Warnings on addresses that this host does not have: right on the machine that the file is meant for."""
    warnings = []
    for network in config.networks.values():
        for address in dict.fromkeys((*network.sip_addresses, *network.media_addresses)):
            reason = _cannot_bind(address)
            if reason is not None:
                warnings.append(f"{config.path}: warning: networks.{network.name}: {address}: {reason}")
    return warnings


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
