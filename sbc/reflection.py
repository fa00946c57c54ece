"""Answers that nothing is kept of, and who may be hit by them.

Anybody can write another's address into a packet. What is no larger than that packet gains him nothing; what is larger
goes to an address that has not shown that it asks only so often that it is no weapon. Real phones write more into a
REGISTER than is in our 401, so none of them notices.
"""

from collections import OrderedDict

from nat.address import subscriber
from sbc.admission import TokenBucket

ENLARGED_PER_S = 5.0
"""To one address: about 2 KiB/s."""
MAX_ADDRESSES = 10_000


class Reflection:
    """How many answers that are larger than what asked for them each address has had."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that are remembered; the one that was silent for longest is forgotten first."""
        return len(self._addresses)

    def may_enlarge(self, host: str, now: float) -> bool:
        """Whether one more may go to `host`."""
        key = subscriber(host)
        bucket = self._addresses.get(key)
        if bucket is None:
            bucket = self._addresses[key] = TokenBucket.full(ENLARGED_PER_S, now)
            if len(self._addresses) > MAX_ADDRESSES:
                self._addresses.popitem(last=False)
        else:
            self._addresses.move_to_end(key)
        return bucket.take(now)
