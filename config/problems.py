"""Mistakes in a configuration, and the one exception that carries them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, which key, what is wrong and what to write instead.

    `key` is a path like `networks.public.listen[0]`, empty when the file as a whole is meant.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    level: Level = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}:"
        key = f" {self.key}:" if self.key else ""
        return f"{place}{' warning:' if self.level == 'warning' else ''}{key} {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used, with everything that is wrong about it in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column, problem.key))
        super().__init__("\n".join(str(problem) for problem in self.problems))
