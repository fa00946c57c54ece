"""A short run of the fuzz target of challenges and credentials; the long one is `python -m tests.fuzz.fuzz_digest`."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_digest import PIECES, check, mutate


def test_mutated_lines() -> None:
    chance = random.Random(1)
    understood = sum(check(mutate(chance)) for _ in range(2000))
    assert 400 < understood < 1900, "neither only noise nor only valid lines"


@pytest.mark.parametrize("piece", PIECES)
def test_the_same_piece_as_often_as_it_fits(piece: str) -> None:
    count = 4000 // len(piece)
    for head in ("", "Digest ", 'Digest realm="', "Digest realm=", 'Digest realm="a"'):
        check(head + piece * (count - 10))


@given(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=60))
def test_any_text(text: str) -> None:
    check("Digest " + text)
    check('Digest realm="a", nonce="n", ' + text)
