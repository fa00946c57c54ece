"""Tokens from a stock of random bytes."""

from sbc.tokens import BLOCK, Tokens


def test_no_byte_is_given_out_twice() -> None:
    tokens = Tokens()
    given = [tokens(8) for _ in range(BLOCK)]
    assert len(set(given)) == len(given)
    assert all(len(bytes.fromhex(each)) == 8 for each in given)


def test_a_token_may_be_longer_than_the_stock() -> None:
    tokens = Tokens()
    first, long = tokens(3), tokens(BLOCK + 1)
    assert len(long) == 2 * (BLOCK + 1)
    assert first not in long[:6]


def test_every_border_has_its_own() -> None:
    assert Tokens()(12) != Tokens()(12)
