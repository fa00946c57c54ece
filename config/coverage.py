"""Which calls a route takes, and whether anything is left for it behind the routes above."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from config.model import Config, Route

_SPECIAL = set(".^$*+?{}[]()|\\")
_QUANTIFIERS = set("*+?{")

Source = tuple[str, str]
"""(network, trunk), with an empty trunk for peers of the network that belong to none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why no call reaches a route: the numbers (in the given order) of the routes that take them all."""

    route: int
    taken_by: tuple[int, ...]


def sources(config: Config, name: str) -> frozenset[Source]:
    """What the `from` of a route stands for; empty for a name that does not exist."""
    every = {(network, "") for network in config.networks}
    every |= {(trunk.network, trunk.name) for trunk in config.trunks.values()}
    if name == "any":
        return frozenset(every)
    if name in config.networks:
        return frozenset(source for source in every if source[0] == name)
    return frozenset(source for source in every if source[1] == name and name)


def taken(config: Config, route: Route) -> frozenset[Source]:
    """The sources whose calls a route decides, as far as its `from` goes.

    A call is not sent back to the trunk that it came from unless the route names that trunk in `from`: for such
    a call the route counts as one that does not fit, and the next one is looked at.
    """
    found = sources(config, route.from_)
    targets = set(route.to)
    if len(targets) != 1 or route.from_ in targets:
        return found
    return frozenset(source for source in found if source[1] not in targets)


def unreachable(config: Config, routes: Sequence[Route]) -> Iterator[Verdict]:
    """The routes that never decide anything."""
    covered = [taken(config, route) for route in routes]
    for number, route in enumerate(routes):
        left = covered[number]
        if not left:
            continue
        takers: list[int] = []
        for earlier in range(number):
            if covered[earlier] & left and _as_wide(routes[earlier], route):
                left -= covered[earlier]
                takers.append(earlier)
            if not left:
                # One route that takes it all says more than several that share it.
                alone = [n for n in takers if covered[n] >= covered[number]]
                yield Verdict(number, tuple(alone[:1] or takers))
                break


def _as_wide(earlier: Route, later: Route) -> bool:
    return _pattern_as_wide(earlier.match, later.match) and _pattern_as_wide(
        earlier.from_match, later.from_match
    )


def _pattern_as_wide(earlier: str | None, later: str | None) -> bool:
    """Whether whatever `later` finds, `earlier` finds too. False where that is hard to say."""
    if earlier is None or earlier in {"", "^", ".*", "^.*", "^.*$", later}:
        return True
    if later is None:
        return False
    prefix, complete = _literal_prefix(earlier)
    longer, _ = _literal_prefix(later)
    return complete and prefix is not None and longer is not None and longer.startswith(prefix)


def _literal_prefix(pattern: str) -> tuple[str | None, bool]:
    """The fixed text that a pattern with ^ begins with, and whether the pattern says nothing more than that."""
    if not pattern.startswith("^") or "|" in pattern:
        return None, False
    text, index = "", 1
    while index < len(pattern):
        char, width = pattern[index], 1
        if char == "\\":
            char, width = pattern[index + 1], 2
            if char.isalnum():
                return text, False
        elif char in _SPECIAL:
            return text, bool(re.fullmatch(r"\.\*\$?", pattern[index:]))
        if pattern[index + width : index + width + 1] in _QUANTIFIERS and index + width < len(pattern):
            return text, False
        text += char
        index += width
    return text, True
