"""What is wrong with a configuration as a whole, though each of its values is right by itself."""

import difflib
import importlib.metadata
import os
from collections.abc import Collection, Mapping

from config import access
from config.addresses import check_networks
from config.coverage import sources, unreachable
from config.findings import Findings, nearest
from config.model import LOCAL, PHONES, Config, Route
from config.peers import check_trunks
from config.problems import Problem
from config.timing import contradictions, written

DISTRIBUTION = "border-sbc"
PACKAGES = ("sbc", "signaling", "media", "nat", "config")
"""Our import packages; their names are generic, so another distribution might bring one of them too."""

CODECS = """
PCMU PCMA G722 G7221 G723 G728 G729 G729D G729E G726-16 G726-24 G726-32 G726-40 GSM GSM-EFR iLBC iSAC opus speex
AMR AMR-WB AMR-WB+ EVS EVRC EVRCB EVRCWB L16 telephone-event CN red H261 H263 H263-1998 H264 H265 H266 VP8 VP9 AV1
rtx ulpfec t140
"""
"""Encoding names that are in use (IANA, RTP Payload Format Media Types); others may pass too, but look like mistakes
when they are nearly one of these."""

SUN_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (unix(7))."""


def check(
    config: Config, broken: Collection[str] = frozenset(), route_numbers: tuple[int, ...] | None = None
) -> list[Problem]:
    """Every problem of `config`, in the order of the file.

    `broken` are keys (`networks.public`, `routes`) that had mistakes of their own and were taken out: nothing is
    said about what may be missing only for that. `route_numbers` are the places of the remaining routes in the file.
    """
    numbers = tuple(range(len(config.routes))) if route_numbers is None else route_numbers
    found = Findings(config, frozenset(broken), numbers)
    check_networks(found)
    check_trunks(found)
    _phones(found)
    _routes(found)
    _idle_trunks(found)
    _idle_networks(found)
    _limits(found)
    _timers(found)
    _media_and_files(found)
    return sorted(found.problems, key=lambda problem: (problem.line, problem.column, problem.key))


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


def _phones(found: Findings) -> None:
    phones = found.config.phones
    if phones is None:
        return
    if not found.exists("networks", phones.network):
        hint = nearest(phones.network, found.names("networks"), "networks")
        found.error("phones.network", f"there is no network {phones.network}; {hint}")
    found.add(access.of_phones(found.config, phones, found.broken))
    if phones.local:
        return
    trunk = found.config.trunks.get(phones.registrar)
    if trunk is None:
        if not found.exists("trunks", phones.registrar):
            hint = nearest(phones.registrar, [LOCAL, *found.names("trunks")], "registrars")
            found.error("phones.registrar", f"there is no trunk {phones.registrar}; {hint}")
    elif trunk.network == phones.network:
        found.error(
            "phones.registrar",
            f"trunk {trunk.name} is in the network of the phones, who could reach it without us; "
            "write a trunk in another network, or local",
        )


def _routes(found: Findings) -> None:
    config = found.config
    if not config.routes and "routes" not in found.broken:
        found.warn("routes", "no routes, so every call is refused; write one like {from: pbx, to: carrier}")
    for number, route in zip(found.route_numbers, config.routes, strict=True):
        key = f"routes[{number}]"
        if route.from_ == PHONES:
            _phones_exist(found, f"{key}.from")
        elif route.from_ != "any" and not (
            found.exists("networks", route.from_) or found.exists("trunks", route.from_)
        ):
            names = ["any", PHONES, *found.names("networks"), *found.names("trunks")]
            hint = nearest(route.from_, names, "networks and trunks")
            found.error(f"{key}.from", f"there is no network or trunk {route.from_}; {hint}")
        for index, name in enumerate(route.to):
            _target(found, f"{key}.to[{index}]", name, route.from_)
            if name in route.to[:index]:
                found.warn(f"{key}.to[{index}]", f"{name} stands in this list twice; write it once")
        _when(found, f"{key}.when", route)
        if route.reject is not None and (route.strip or route.prepend):
            found.warn(key, "strip and prepend change nothing on a call that is rejected; leave them out")
    for verdict in unreachable(config, config.routes):
        key = f"routes[{found.route_numbers[verdict.route]}]"
        takers = [found.route_numbers[number] for number in verdict.taken_by]
        where = " and ".join(f"routes[{n}] ({found.line(f'routes[{n}]')})" for n in takers)
        if len(takers) == 1:
            found.error(
                key,
                f"shadowed: {where} takes every call that this one fits; move this one above it, or take it out",
            )
        else:
            found.error(
                key,
                f"unreachable: {where} together take every call that this one fits; "
                "move it above them, or take it out",
            )


def _phones_exist(found: Findings, key: str) -> None:
    if found.config.phones is None and PHONES not in found.broken:
        found.error(key, "there is no section phones; write one with network: and registrar:")


def _when(found: Findings, key: str, route: Route) -> None:
    if route.when == "registered" and PHONES not in route.to:
        found.error(
            key, "only a route to phones can depend on a registration; take it out, or write to: phones"
        )


def _target(found: Findings, key: str, name: str, source: str) -> None:
    if name == PHONES:
        _phones_exist(found, key)
        return
    if name == source:
        found.warn(key, f"calls from {name} go back to {name}; write another trunk, unless that is meant")
    if found.exists("trunks", name):
        return
    if name in found.config.networks:
        there = [trunk.name for trunk in found.config.trunks.values() if trunk.network == name]
        hint = f"write one of its trunks: {', '.join(there)}" if there else "write a trunk that is in it"
        found.error(key, f"{name} is a network, and calls go to trunks; {hint}")
        return
    found.error(key, f"there is no trunk {name}; {nearest(name, found.names('trunks'), 'trunks')}")


def _idle_trunks(found: Findings) -> None:
    if not found.config.routes or found.broken & {"routes", "trunks", "networks"}:
        return
    used = {name for route in found.config.routes for name in route.to}
    for route in found.config.routes:
        used |= {trunk for _, trunk in sources(found.config, route.from_)}
    if found.config.phones is not None:
        used.add(found.config.phones.registrar)
        if PHONES not in used and not any(route.from_ in {PHONES, "any", found.config.phones.network}
                                          for route in found.config.routes):  # fmt: skip
            found.warn("phones", "no route leads to or from phones; write one like {from: phones, to: TRUNK}")
    for name in found.config.trunks:
        if name not in used:
            found.warn(
                f"trunks.{name}", "no route leads to or from this trunk; write one, or take the trunk out"
            )


def _idle_networks(found: Findings) -> None:
    """Calls come from a network by a route from it or from one of its trunks, and go there by a trunk."""
    config = found.config
    if not config.routes or found.broken & {"routes", "trunks", "networks", "phones"}:
        return
    used = {trunk.network for trunk in config.trunks.values()} | {route.from_ for route in config.routes}
    if config.phones is not None:
        used.add(config.phones.network)
    if "any" in used or any(trunk.network not in config.networks for trunk in config.trunks.values()):
        return
    if any(key.startswith(("trunks.", "routes")) for key in found.broken):
        return
    for name in config.networks:
        if name not in used:
            found.warn(
                f"networks.{name}",
                "no route leads to or from this network, so every call there is refused; write one, or take it out",
            )


def _limits(found: Findings) -> None:
    limits = found.config.limits
    if 0 < limits.calls_per_s < limits.calls_per_s_per_source:
        found.warn(
            "limits.calls_per_s_per_source",
            f"{written(limits.calls_per_s_per_source)} is never reached, as calls_per_s is "
            f"{written(limits.calls_per_s)}; write less",
        )
    if limits.tcp_connections < limits.tcp_connections_per_source:
        found.warn(
            "limits.tcp_connections_per_source",
            f"{limits.tcp_connections_per_source} is never reached, as tcp_connections is "
            f"{limits.tcp_connections}; write less",
        )
    t1_ms = found.config.timers.t1_ms
    if limits.queue_age_ms >= t1_ms and not found.broken & {"limits.queue_age_ms", "timers", "timers.t1_ms"}:
        found.warn(
            "limits.queue_age_ms",
            f"{limits.queue_age_ms} lets messages wait until peers repeat them after timers.t1_ms {t1_ms}, so that "
            f"overload feeds itself; write {max(1, t1_ms * 2 // 5)} or less",
        )
    if limits.max_transactions < 2 * limits.max_calls:
        found.warn(
            "limits.max_transactions",
            f"{limits.max_transactions} is less than the 2 x {limits.max_calls} = {2 * limits.max_calls} that "
            f"limits.max_calls needs when all calls are set up at once; write {2 * limits.max_calls} or more",
        )


def _timers(found: Findings) -> None:
    unknown = [key.removeprefix("timers.") for key in found.broken if key.startswith("timers.")]
    for key, message, level in contradictions(found.config.timers):
        if not any(name in message for name in unknown):
            found.error(f"timers.{key}", message, level)


def _codec_names(found: Findings) -> None:
    known = {name.lower(): name for name in CODECS.split()}
    for index, codec in enumerate(found.config.media.codecs or ()):
        if codec.lower() in known:
            continue
        near = difflib.get_close_matches(codec.lower(), known, 1, 0.8)
        if near:
            found.warn(f"media.codecs[{index}]", f"no codec {codec} is known; did you mean {known[near[0]]}?")


def _media_and_files(found: Findings) -> None:
    media, log = found.config.media, found.config.log
    if media.engine == "native":
        found.error("media.engine", "the native engine is not in this version yet; write auto or reference")
    if media.codecs is not None and not media.codecs:
        found.error(
            "media.codecs", "an empty list lets no codec pass; write names, or leave the key out for all"
        )
    elif media.codecs is not None and "telephone-event" not in {codec.lower() for codec in media.codecs}:
        found.warn(
            "media.codecs", "digits are taken out without telephone-event; add it, unless that is meant"
        )
    _codec_names(found)
    if log.file is not None and log.file == log.cdr:
        found.error("log.cdr", "call records would go to the log file; write another path")
    path = os.fsencode(found.config.control.socket)
    if not path or b"\0" in path or len(path) > SUN_PATH_BYTES:
        found.error(
            "control.socket",
            f"a socket path has 1 to {SUN_PATH_BYTES} bytes, this one {len(path)}; write another",
        )
