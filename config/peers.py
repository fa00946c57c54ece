"""Trunks: what is wrong with their servers, and which of them claim the same addresses."""

from config import access
from config.findings import Findings, family, nearest
from config.model import LOCAL, Network, SipServer, Trunk
from config.timing import written
from config.values import IpNetwork

SIP_PORT = 5060


def check_trunks(found: Findings) -> None:
    """What is wrong with each trunk, and between them."""
    for trunk in found.config.trunks.values():
        _trunk(found, f"trunks.{trunk.name}", trunk)
    _claims(found)


def _trunk(found: Findings, key: str, trunk: Trunk) -> None:
    found.reserved(key, trunk.name)
    if trunk.name == LOCAL:
        found.error(key, "local stands for our own registrar in phones.registrar; write another name")
    _numbers_of(found, key, trunk)
    found.add(access.of_trunk(trunk))
    network = found.config.networks.get(trunk.network)
    if network is None:
        if f"networks.{trunk.network}" not in found.broken and "networks" not in found.broken:
            hint = nearest(trunk.network, found.names("networks"), "networks")
            found.error(f"{key}.network", f"there is no network {trunk.network}; {hint}")
        return
    families = {family(address) for address in network.sip_addresses}
    seen: dict[tuple[str, int, str], int] = {}
    for index, server in enumerate(trunk.servers):
        at = f"{key}.servers[{index}]"
        _server(found, at, server, network, families)
        first = seen.setdefault((server.host, server.port or SIP_PORT, server.transport), index)
        if first != index:
            found.warn(at, f"{server.uri} is already servers[{first}]; write every server once")
    for index, prefix in enumerate(trunk.from_):
        kind = family(str(prefix))
        if families and kind not in families:
            found.error(
                f"{key}.from[{index}]",
                f"{prefix} is {kind}, but network {network.name} has only {next(iter(families))}; "
                "write another prefix, or give the network an address of that family",
            )
        elif prefix.prefixlen == 0:
            found.warn(
                f"{key}.from[{index}]",
                f"{prefix} makes everybody this trunk; write the addresses it really uses",
            )


def _server(found: Findings, key: str, server: SipServer, network: Network, families: set[str]) -> None:
    literal = server.literal
    if literal is not None and families and family(server.host) not in families:
        found.error(
            key,
            f"{server.host} is {family(server.host)}, but network {network.name} has only "
            f"{next(iter(families))}; write a server of that family, or give the network address6",
        )
    if network.listen and server.transport not in {listen.transport for listen in network.listen}:
        found.error(
            key,
            f"network {network.name} has no {server.transport} listener to send from; "
            f"add {server.transport}:5060 to its listen, or write another transport",
        )
    ports = {listen.port for listen in network.listen if listen.transport == server.transport}
    own = {*network.sip_addresses, network.advertised}
    if server.host in own and (server.port or SIP_PORT) in ports:
        found.error(
            key, f"{server.uri} is our own listener, so calls would come back; write the peer's address"
        )
        return
    for other in found.config.networks.values():
        ports = {listen.port for listen in other.listen if listen.transport == server.transport}
        ours = server.host in {*other.sip_addresses, other.advertised}
        if other.name != network.name and ours and (server.port or SIP_PORT) in ports:
            found.error(
                key,
                f"{server.uri} is our own listener in network {other.name}, so calls would come back; "
                "write the peer's address",
            )
            return


def _numbers_of(found: Findings, key: str, trunk: Trunk) -> None:
    ping = trunk.check
    if ping is not None and ping.options_every_s == 0:
        found.warn(
            f"{key}.check", "options_every_s is 0, so no pings are sent; write a time, or leave check out"
        )
    elif ping is not None and ping.timeout_s > ping.options_every_s:
        found.error(
            f"{key}.check",
            f"timeout_s {written(ping.timeout_s)} is longer than options_every_s {written(ping.options_every_s)}, "
            "so pings would overtake each other; write a shorter timeout",
        )
    most = found.config.limits.max_calls
    if trunk.max_calls is not None and trunk.max_calls > most:
        found.warn(
            f"{key}.max_calls",
            f"{trunk.max_calls} is never reached, as limits.max_calls is {most}; write less",
        )
    redirecting = [status for status in trunk.failover_on if status < 400]
    if redirecting and trunk.redirects == "follow":
        found.error(
            f"{key}.failover_on",
            f"{redirecting[0]} would be followed (redirects: follow) and failed over; write it in one place only",
        )


def _claims(found: Findings) -> None:
    # A server's address goes before any `from`, and there the longest prefix decides (sbc/routing.py).
    prefixes: dict[tuple[str, IpNetwork], str] = {}
    servers: dict[tuple[str, str, int], str] = {}
    for trunk in found.config.trunks.values():
        key = f"trunks.{trunk.name}"
        for index, prefix in enumerate(trunk.from_):
            _prefix(found, f"{key}.from[{index}]", (trunk.network, prefix), prefixes)
        for index, server in enumerate(trunk.servers):
            if server.literal is None:
                continue
            at = f"{key}.servers[{index}]"
            first = servers.setdefault((trunk.network, server.host, server.port or SIP_PORT), at)
            if _owner(first) != _owner(at):
                found.warn(
                    at,
                    f"{server.host}:{server.port or SIP_PORT} is a server of trunk {_owner(first)} too "
                    f"({found.line(first)}), so its requests belong to that trunk; write the server in one place",
                )


def _prefix(
    found: Findings, key: str, claim: tuple[str, IpNetwork], claims: dict[tuple[str, IpNetwork], str]
) -> None:
    network, prefix = claim
    same = claims.setdefault(claim, key)
    if _owner(same) != _owner(key):
        found.error(
            key,
            f"trunk {_owner(same)} claims {prefix} too ({found.line(same)}), so its requests could belong to "
            "either; write every prefix in one trunk",
        )
        return
    for (other_network, other), other_key in claims.items():
        if other_network == network and _owner(other_key) != _owner(key) and _overlap(prefix, other):
            narrow = max(prefix, other, key=lambda one: one.prefixlen)
            relation = "lies in" if narrow == prefix else "holds"
            winner = _owner(key) if narrow == prefix else _owner(other_key)
            found.warn(
                key,
                f"{prefix} {relation} {other}, which trunk {_owner(other_key)} claims ({found.line(other_key)}); "
                f"the narrower one wins, so requests from {narrow} belong to {winner}",
            )
            return


def _overlap(one: IpNetwork, other: IpNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _owner(key: str) -> str:
    """The trunk in a key such as `trunks.carrier.from[0]`; its name may have dots in it."""
    return key.removeprefix("trunks.").rpartition(".")[0]
