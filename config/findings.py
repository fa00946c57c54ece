"""What is found wrong with one configuration as a whole, while it is being looked at."""

import difflib
from collections.abc import Iterable

from config.model import PHONES, Config
from config.problems import Level, Problem

Mistake = tuple[str, str, Level]
"""(key, message, level)"""


class Findings:
    """The problems of one configuration.

    `broken` are keys that had mistakes of their own and were taken out, `route_numbers` the places of the remaining
    routes in the file.
    """

    def __init__(self, config: Config, broken: frozenset[str], route_numbers: tuple[int, ...]) -> None:
        self.config = config
        self.broken = broken
        self.route_numbers = route_numbers
        self.problems: list[Problem] = []

    def error(self, key: str, message: str, level: Level = "error") -> None:
        """Nothing can be served with this."""
        if key.endswith("]") and not self.config.has_key(key):
            # One value where a list may stand.
            key = key[: key.rfind("[")]
        line, column = self.config.position(key)
        self.problems.append(Problem(self.config.path, line, column, key, message, level))

    def warn(self, key: str, message: str) -> None:
        """It can be served, but is hardly meant."""
        self.error(key, message, "warning")

    def add(self, mistakes: Iterable[Mistake]) -> None:
        """Mistakes; those of keys that are broken anyway are left out."""
        for key, message, level in mistakes:
            if key not in self.broken:
                self.error(key, message, level)

    def line(self, key: str) -> str:
        """Where a key stands, for a message about another one."""
        return f"line {self.config.position(key)[0]}"

    def names(self, section: str) -> list[str]:
        """What stands in the section `networks` or `trunks`, broken or not."""
        known = list(self.config.networks if section == "networks" else self.config.trunks)
        return known + [key.partition(".")[2] for key in sorted(self.broken) if key.startswith(f"{section}.")]

    def exists(self, section: str, name: str) -> bool:
        """Whether there is such a network or trunk, as far as is known."""
        return name in self.names(section) or section in self.broken

    def reserved(self, key: str, name: str) -> None:
        """Refuse a name that stands for something else."""
        meaning = {"any": "every network", PHONES: "the phones"}.get(name)
        if meaning is not None:
            self.error(key, f"{name} stands for {meaning} in routes; write another name")


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """The end of a message about a name that does not exist: the one that was meant, or all there are."""
    known = list(names)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"the {what} are {', '.join(known[:20])}" if known else f"there are no {what} yet; write one"


def family(address: str) -> str:
    """The family of an address, for people."""
    return "IPv6" if ":" in address else "IPv4"
