"""Bounded runs of the SIP fuzz target; `python -m tests.fuzz.fuzz_sip` goes on for longer."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import fuzz_sip

PATHOLOGICAL = list(fuzz_sip.pathological())


def test_the_corpus_is_there() -> None:
    assert len(fuzz_sip.corpus()) >= 30


@pytest.mark.parametrize("seed", range(8))
def test_mutated_messages(seed: int) -> None:
    chance, seeds = random.Random(seed), fuzz_sip.corpus()
    for _ in range(250):
        fuzz_sip.check(fuzz_sip.mutate(seeds, chance))


def test_pathological_messages_take_linear_time() -> None:
    for data in PATHOLOGICAL:
        fuzz_sip.check(data)


@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    fuzz_sip.check(data)
