"""The load runs of tests/lab/load.py, short: `make load` has them at length."""

import pytest

from tests.lab.load import Plan, many, pool, quarantine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

SHORT = Plan(calls=1500, rate=100, cycles=60, refusal_s=6, t1_ms=50)
"""T1 of a wire without delay: a transaction lingers for 3.2 s, so that the run is longer than that."""


def test_many_calls_none_fails_memory_is_flat_and_nothing_is_left(machine: None) -> None:
    outcome = many(SHORT)
    assert outcome.problems == [], "\n".join(outcome.lines)


def test_exactly_enough_ports_without_quarantine_refuse_nobody(machine: None) -> None:
    outcome = pool(SHORT)
    assert outcome.problems == [], "\n".join(outcome.lines)


def test_ports_in_quarantine_refuse_with_503_and_the_reason(machine: None) -> None:
    outcome = quarantine(SHORT)
    assert outcome.problems == [], "\n".join(outcome.lines)
