"""Token buckets: how much of something may come in a second, in all or from one address."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from nat.address import subscriber

MAX_SOURCES = 10_000
"""Addresses whose bucket is remembered; the one that was silent for longest is forgotten first."""
MAX_RETRY_S = 60


@dataclass(slots=True)
class TokenBucket:
    """`rate` tokens a second, at most one second's worth (and at least one) at a time."""

    rate: float
    tokens: float
    at: float

    @classmethod
    def full(cls, rate: float, now: float) -> "TokenBucket":
        """A bucket that nobody has taken from."""
        return cls(rate, max(1.0, rate), now)

    def refill(self, now: float) -> float:
        """The tokens there are by now."""
        if now > self.at:
            self.tokens = min(max(1.0, self.rate), self.tokens + (now - self.at) * self.rate)
            self.at = now
        return self.tokens

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self.refill(now) < 1.0:
            return False
        self.tokens -= 1.0
        return True

    def wait_s(self) -> int:
        """Whole seconds until there is a token, for Retry-After."""
        return min(MAX_RETRY_S, max(1, math.ceil((1.0 - self.tokens) / self.rate)))

    def at_rate(self, rate: float, now: float) -> "TokenBucket":
        """The same at another rate: what was taken stays taken."""
        return TokenBucket(rate, min(max(1.0, rate), self.refill(now)), now)


class TokenBuckets:
    """One for each address, of IPv6 for each subscriber."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._sources)

    def of(self, host: str, now: float) -> TokenBucket:
        """The bucket of an address."""
        key = subscriber(host)
        bucket = self._sources.get(key)
        if bucket is None:
            bucket = self._sources[key] = TokenBucket.full(self.rate, now)
            if len(self._sources) > MAX_SOURCES:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(key)
        return bucket

    def adopt(self, old: "TokenBuckets", now: float) -> None:
        """Take over what is remembered at another rate: nobody gets a full bucket by a reload."""
        for key, bucket in old._sources.items():
            self._sources[key] = bucket.at_rate(self.rate, now)
