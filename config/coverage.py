"""Which calls a route takes, and whether anything is left for it behind the routes above."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from config.model import PHONES, Config, Route

_SPECIAL = set(".^$*+?{}[]()|\\")
_QUANTIFIERS = set("*+?{")

Source = tuple[str, str]
"""(network, trunk), with an empty trunk for peers of the network that belong to none, `phones` for the phones."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why no call reaches a route: the numbers (in the given order) of the routes that take them all."""

    route: int
    taken_by: tuple[int, ...]


def sources(config: Config, name: str) -> frozenset[Source]:
    """What the `from` of a route stands for; empty for a name that does not exist."""
    every = {(network, "") for network in config.networks}
    every |= {(trunk.network, trunk.name) for trunk in config.trunks.values()}
    if config.phones is not None:
        every.add((config.phones.network, PHONES))
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
    if len(targets) != 1 or route.from_ in targets or PHONES in targets:
        # One phone may call another.
        return found
    return frozenset(source for source in found if source[1] not in targets)


def unreachable(config: Config, routes: Sequence[Route]) -> Iterator[Verdict]:
    """The routes that never decide anything."""
    above = _Above()
    memo: dict[tuple[str, tuple[str, ...]], frozenset[Source]] = {}
    for number, route in enumerate(routes):
        named = (route.from_, route.to)
        covered = memo.get(named)
        if covered is None:
            covered = memo[named] = taken(config, route)
        if covered:
            takers = above.takers(route, covered)
            if takers:
                # One route that takes it all says more than several that share it.
                alone = [n for n in takers if above.covers(n, covered)]
                yield Verdict(number, tuple(alone[:1] or takers))
        above.add(number, route, covered)


Width = tuple[str, str]
"""What a pattern finds, as far as it can be compared: (kind, text); see `_widths`."""


class _Above:
    """The routes above the one that is looked at, found by what they take: each is compared with few others."""

    def __init__(self) -> None:
        # Of routes that take the same, the first is enough.
        self._first: dict[tuple[Width, Width, When], dict[frozenset[Source], int]] = {}
        self._covered: dict[int, frozenset[Source]] = {}
        self._lengths: set[int] = set()

    def add(self, number: int, route: Route, covered: frozenset[Source]) -> None:
        """The next one."""
        self._covered[number] = covered
        when = _when(route)
        for width in _widths(route.match):
            self._lengths.add(len(width[1]))
            for from_width in _widths(route.from_match):
                self._lengths.add(len(from_width[1]))
                self._first.setdefault((width, from_width, when), {}).setdefault(covered, number)

    def covers(self, number: int, covered: frozenset[Source]) -> bool:
        """Whether that route takes all of these sources."""
        return self._covered[number] >= covered

    def takers(self, route: Route, covered: frozenset[Source]) -> list[int]:
        """The routes that leave nothing of `covered` to `route`; empty when something is left."""
        as_wide = sorted(
            (number, taken_there)
            for width in self._wider(route.match)
            for from_width in self._wider(route.from_match)
            for when in {None, _when(route)}
            for taken_there, number in self._first.get((width, from_width, when), {}).items()
            if not covered.isdisjoint(taken_there)
        )
        left, found = covered, []
        for number, taken_there in as_wide:
            if not left.isdisjoint(taken_there):
                left -= taken_there
                found.append(number)
            if not left:
                return found
        return []

    def _wider(self, pattern: str | None) -> Iterator[Width]:
        """The widths that find whatever `pattern` finds. None more where that is hard to say."""
        yield _EVERYTHING
        if pattern is None or _finds_everything(pattern):
            return
        yield "=", pattern
        prefix, _ = _literal_prefix(pattern)
        if prefix is not None:
            for length in sorted(self._lengths):
                if length <= len(prefix):
                    yield "^", prefix[:length]


_EVERYTHING: Width = ("", "")

When = tuple[int, str] | None
"""What a route with `when: registered` looks up: who that is depends on `strip` and `prepend`. None: always."""


def _when(route: Route) -> When:
    return None if route.when == "always" else (route.strip, route.prepend)


def _finds_everything(pattern: str) -> bool:
    return pattern in {"", "^", ".*", "^.*", "^.*$"}


def _widths(pattern: str | None) -> Iterator[Width]:
    """What the pattern of an earlier route is found under."""
    if pattern is None or _finds_everything(pattern):
        yield _EVERYTHING
        return
    yield "=", pattern
    prefix, complete = _literal_prefix(pattern)
    if complete and prefix is not None:
        yield "^", prefix


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
