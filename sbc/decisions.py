"""A decision: one choice with its reason (design.md s.4.2)."""

from typing import Literal

from config.frozen import frozen

Stage = Literal[
    "admission",
    "source",
    "routing",
    "failover",
    "redirect",
    "codec",
    "nat",
    "media",
    "session",
    "credentials",
    "topology",
    "end",
]


@frozen
class Decision:
    """One choice: at which stage, by which rule, which values were compared, and what came of it.

    `rule` names the configuration key ("routes[1]", "limits.max_calls") or the RFC section that decided;
    `compared` holds (what, value) pairs as text; `at` is seconds since the epoch.
    """

    stage: Stage
    rule: str
    compared: tuple[tuple[str, str], ...]
    outcome: str
    at: float = 0.0
