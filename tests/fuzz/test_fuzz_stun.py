"""A short run of the fuzz target of STUN; the long one is `python -m tests.fuzz.fuzz_stun`."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_stun import SEEDS, SENDERS, check, mutate


def test_mutated_messages() -> None:
    chance = random.Random(1)
    understood = sum(check(mutate(chance), chance.choice(SENDERS)) for _ in range(2000))
    assert 400 < understood < 1900, "neither only noise nor only valid messages"


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    check(data)
    check(SEEDS[0][:20] + data)


@given(st.sampled_from(SEEDS), st.integers(0, 100))
def test_any_end(data: bytes, end: int) -> None:
    check(data[:end])
