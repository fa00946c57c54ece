"""Phones, their registrar, STUN and TURN: values that are right by themselves and do not fit together."""

import ipaddress
from collections.abc import Iterator

from config.findings import Mistake
from config.model import AUTO, Config, Network, Phones, Trunk

NAT_SILENCE_S = 30
"""NAT routers forget a UDP mapping after so long (RFC 4787 s.4.3 asks for 120 s; many do not)."""


def of_network(config: Config, network: Network) -> Iterator[Mistake]:
    """What is wrong with STUN and TURN in a network."""
    key = f"networks.{network.name}"
    if network.advertise == AUTO and not network.stun_servers:
        yield (
            f"{key}.advertise",
            "auto asks STUN servers for our address, and there are none; write stun_servers: with one or more, "
            "or the literal address that peers reach us at",
            "error",
        )
    elif network.stun_servers and network.advertise != AUTO:
        yield (
            f"{key}.stun_servers",
            "nobody asks them without advertise: auto; write that, or take them out",
            "warning",
        )
    own = {network.address, network.address6} - {"", None}
    for index, server in enumerate(network.stun_servers):
        literal = _literal(server.host)
        if server.host in own:
            yield (
                f"{key}.stun_servers[{index}]",
                f"{server} is our own address; write another server",
                "error",
            )
        elif literal is not None and network.address and (literal.version == 6) != (":" in network.address):
            family = "IPv6" if literal.version == 6 else "IPv4"
            yield (
                f"{key}.stun_servers[{index}]",
                f"{server.host} is {family}, and cannot see the address {network.address}; "
                "write a server of that family",
                "error",
            )
    if network.turn is None:
        return
    if network.turn.server.transport != "udp":
        yield (
            f"{key}.turn.server",
            "a relay is reached by UDP alone in this version; write ?transport=udp, or leave that out",
            "error",
        )
    host = network.turn.server.host
    if network.address and _literal(host) is not None and (":" in host) != (":" in network.address):
        family = "IPv6" if ":" in network.address else "IPv4"
        yield (
            f"{key}.turn.server",
            f"{host} cannot be reached from {network.address}, and peers are told an address of that family; "
            f"write an {family} server, or a name that has an {family} address",
            "error",
        )
    if network.address6 is not None:
        yield (
            f"{key}.address6",
            "this is for SIP alone: media goes by the relay of turn, which has the family of address, so peers that "
            "know IPv6 only hear nothing",
            "warning",
        )
    for name in ("media_address", "media_address6", "media_ports"):
        if config.has_key(f"{key}.{name}"):
            yield (
                f"{key}.{name}",
                "media goes by the relay of turn, so this means nothing; take it out",
                "warning",
            )
    if network.stun:
        yield (
            f"{key}.stun",
            "with turn there are no media ports of ours to answer on; SIP ports do",
            "warning",
        )


def of_trunk(trunk: Trunk) -> Iterator[Mistake]:
    """What is wrong with our registration at a trunk."""
    key = f"trunks.{trunk.name}.register"
    if trunk.register_ is None:
        return
    if trunk.credentials is None:
        yield (
            key,
            "no credentials, so the registration fails as soon as the trunk asks for a password; "
            "write credentials:, unless it goes by our address",
            "warning",
        )
    if trunk.register_.retry_s >= trunk.register_.expires_s:
        yield (
            f"{key}.retry_s",
            f"after a failure the next attempt comes {trunk.register_.retry_s:g} s later, when the registration of "
            f"{trunk.register_.expires_s} s is gone; write less",
            "warning",
        )


def of_phones(config: Config, phones: Phones, broken: frozenset[str]) -> Iterator[Mistake]:
    """What is wrong with the section `phones`, but for the names in it."""
    yield from _users(config, phones, broken)
    yield from _times(config, phones)
    network = config.networks.get(phones.network)
    if network is None:
        return
    if network.nat == "none" and phones.keepalive != "off":
        yield (
            f"networks.{network.name}",
            "phones are in this network, and nat is none: those behind NAT would get no answer and no sound; "
            "write nat: far-end, or phones.keepalive: off if there is no NAT between them and us",
            "warning",
        )
    if phones.local and not phones.domain and not network.domain and any(
        user.ha1 is not None for user in phones.users.values()
    ):  # fmt: skip
        yield (
            "phones.users",
            "a ha1 is made for one realm, and ours would be an address that may change; "
            "write phones.domain with the realm that they were made for",
            "error",
        )


def _users(config: Config, phones: Phones, broken: frozenset[str]) -> Iterator[Mistake]:
    if not phones.local:
        for key in ("users", "users_file", "digest"):
            if config.has_key(f"phones.{key}"):
                yield (
                    f"phones.{key}",
                    f"users and passwords are known to the registrar, which is the trunk {phones.registrar}; "
                    "take this out, or write registrar: local",
                    "error",
                )
        if phones.calls == "challenge":
            yield (
                "phones.calls",
                f"passwords are known to the registrar, which is the trunk {phones.registrar}, so nobody can be "
                "challenged here; write registered or any",
                "error",
            )
        return
    if not phones.users and phones.users_file is None and not broken & {"phones.users", "phones.users_file"}:
        yield (
            "phones.registrar",
            "the local registrar has no users, so nobody can register; write users:, or users_file:",
            "error",
        )
    owners = {name: f"phones.users.{name}" for name in phones.users}
    for user in phones.users.values():
        missing = [] if user.ha1 is None else [one for one in phones.digest if one not in user.ha1]
        if missing:
            yield (
                f"phones.users.{user.name}.ha1",
                f"phones.digest offers {missing[0]}, and {user.name} has no hash of it; write both alike",
                "error",
            )
        for index, number in enumerate(user.numbers):
            key = f"phones.users.{user.name}.numbers[{index}]"
            first = owners.setdefault(number, key)
            if first != key:
                line = config.position(first)[0]
                yield key, f"{number} is already {first} (line {line}); write every number once", "error"


def _times(config: Config, phones: Phones) -> Iterator[Mistake]:
    least, most = phones.min_expires_s, phones.max_expires_s
    if least > most:
        yield (
            "phones.min_expires_s",
            f"min_expires_s {least} is more than max_expires_s {most}; write less",
            "error",
        )
        return
    for name in ("default_expires_s", "nat_expires_s"):
        value = getattr(phones, name)
        if not least <= value <= most:
            yield (
                f"phones.{name}",
                f"{name} {value} is not between min_expires_s {least} and max_expires_s {most}, so what we tell a "
                "phone we would not take from it; write a value between them",
                "error",
            )
    if phones.registrar_expires_s < phones.nat_expires_s and not phones.local:
        yield (
            "phones.registrar_expires_s",
            f"registrar_expires_s {phones.registrar_expires_s} is less than nat_expires_s {phones.nat_expires_s}: "
            "the registrar would forget a phone before it refreshes; write more",
            "error",
        )
    if phones.keepalive in {"auto", "crlf", "options"} and phones.keepalive_s >= NAT_SILENCE_S:
        yield (
            "phones.keepalive_s",
            f"many NAT routers forget a phone after {NAT_SILENCE_S} s without a packet, and keepalive_s is "
            f"{phones.keepalive_s:g}; write less, like 25",
            "warning",
        )
    if phones.ring_s >= config.timers.no_answer_s:
        yield (
            "phones.ring_s",
            f"the call ends after no_answer_s {config.timers.no_answer_s:g}, before a second phone rings; write less",
            "warning",
        )


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
