"""Every test over the in-memory wire ends with nothing held: `tests/conftest.py` asks after each that has passed."""

import os
from typing import Protocol


class Held(Protocol):
    """Something that holds calls, transactions, timers and ports."""

    def wind_up(self) -> None:
        """Hang up what is in progress, and see that nothing is left."""


BEGUN: list[Held] = []
"""What the test that runs has begun."""


def begun(held: Held) -> None:
    """To be wound up when the test is over. Where no test runs (a fuzzer does for days) nobody would ask."""
    if "PYTEST_CURRENT_TEST" in os.environ:
        BEGUN.append(held)


def wind_up() -> None:
    """Nothing is left of what the test has begun."""
    for held in BEGUN:
        held.wind_up()
