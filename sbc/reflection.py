"""Answers that nothing is kept of, and who may be hit by them.

Anybody can write another's address into a packet. What is no larger than that packet gains him nothing; what is larger
goes to an address that has not shown that it asks only so often that it is no weapon. Real phones write more into a
REGISTER than is in our 401, so none of them notices.
"""

from sbc.buckets import TokenBuckets

ENLARGED_PER_S = 5.0
"""To one address: about 2 KiB/s."""


class Reflection:
    """How many answers that are larger than what asked for them each address has had."""

    def __init__(self) -> None:
        self._addresses = TokenBuckets(ENLARGED_PER_S)

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._addresses)

    def may_enlarge(self, host: str, now: float) -> bool:
        """Whether one more may go to `host`."""
        return self._addresses.of(host, now).take(now)
