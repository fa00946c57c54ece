"""Unguessable tokens (tags, branches, Call-IDs; RFC 3261 s.19.3) without a system call for each."""

import os

BLOCK = 2048
"""Bytes asked of the system at a time: a call takes about 80."""


class Tokens:
    """`secrets.token_hex` with a stock of random bytes; every byte is given out once."""

    __slots__ = ("_at", "_stock")

    def __init__(self) -> None:
        self._stock = ""
        self._at = 0

    def __call__(self, size: int) -> str:
        """`size` random bytes in hexadecimal."""
        end = self._at + 2 * size
        if end > len(self._stock):
            self._stock = os.urandom(max(BLOCK, size)).hex()
            self._at, end = 0, 2 * size
        token = self._stock[self._at : end]
        self._at = end
        return token

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1, of which there are far fewer than 2 ** 32."""
        return int(self(4), 16) % limit
