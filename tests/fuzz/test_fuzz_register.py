"""Bounded runs of the registration fuzz target; `python -m tests.fuzz.fuzz_register` goes on for longer."""

import pytest

from tests.fuzz import fuzz_register


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("local", [False, True], ids=["relay", "local"])
def test_storms(seed: int, local: bool) -> None:
    fuzz_register.run(seed, 150, local)
