"""Whether a new call may come in: limits on calls in progress, and token buckets on new calls.

A core without I/O. Everything that is refused gets 503 with Retry-After: RFC 3261 s.21.5.4 lets the peer go
elsewhere for so long, and the called user was never asked, as 480 and 486 would claim (s.21.4.18, s.21.4.21).
"""

import math
import re
from collections.abc import Callable, Sequence

from config.model import Config
from sbc.buckets import MAX_RETRY_S, TokenBucket, TokenBuckets
from sbc.decisions import Decision
from sbc.routing import Refusal, Source
from sbc.wakeups import apart
from signaling.identity import user_of
from signaling.uri import SEPARATORS, unescape

MAX_SPREAD_S = 300.0
"""Longest that anybody is sent away for; the rest of a storm comes back all over this time."""
SOURCE_SHARE = 0.25
"""What one address may take of it: who floods us must not use up what belongs to all."""
FORGED_SPREAD_S = 15.0
"""Over what time those come back who have shown nothing that would tell them from a forged sender."""
DEFAULT_SPREAD = 100.0
"""Phones a second that are called back where no rate is set."""
# A place becomes free when somebody hangs up; nobody knows when.
FULL_RETRY_S = 5
SERVICE = "urn:service:sos"
LATE_STRANGERS = 10.0
"""Calls of strangers a second that are parsed under overload since they look like calls for help."""
UNREGISTERED_SHARE = 0.1
"""What part of `limits.max_calls` calls for help may be whose caller is not registered."""
UNREGISTERED_LEAST = 4


class Emergencies:
    """Which calls pass limits: those to emergency numbers and to urn:service:sos (RFC 5031) where there are any, and
    those of a configured priority (RFC 4412). Also which calls for help come in though nobody knows who calls.
    """

    def __init__(self, config: Config) -> None:
        settings = config.emergency
        self._numbers = frozenset(settings.numbers)
        self._priorities = frozenset(one.lower() for one in settings.priority)
        self._raw_numbers = _raw_numbers(settings.numbers)
        self._raw_priorities = _raw_priorities(settings.priority)
        self._strangers = Spread(settings.unregistered_per_s, queue=False)
        self._most = max(UNREGISTERED_LEAST, int(config.limits.max_calls * UNREGISTERED_SHARE))
        self._late: TokenBucket | None = None
        self.unregistered = bool(settings.numbers) and settings.unregistered

    def adopt(self, old: "Emergencies") -> None:
        """Take over from the configuration before: nobody gets a full bucket by a reload."""
        self._late = old._late
        if self._strangers.rate == old._strangers.rate:
            self._strangers = old._strangers

    def is_one(self, user: str, priorities: Sequence[str]) -> bool:
        """Whether a call to `user` with these values of Resource-Priority is one."""
        if self._numbers and (user == SERVICE or user.startswith(f"{SERVICE}.")):
            return True
        if user.partition(";")[0].translate(SEPARATORS) in self._numbers or user in self._numbers:
            return True
        return any(value.strip().lower() in self._priorities for value in priorities)

    def may_be_one(self, data: bytes) -> bool:
        """Whether a raw INVITE has to be parsed to tell: it is to such a number, or claims a priority."""
        if self._priorities and b"resource-priority" in data.lower():
            return True
        uri = data[7 : data.find(b" ", 7)].decode("utf-8", "surrogateescape")
        return bool(self._numbers) and self.is_one(unescape(user_of(uri)), ())

    def looks_like_one(self, data: bytes, known: Callable[[], bool], now: float) -> bool:
        """The same of a raw INVITE, when there is no time to parse: at worst a few too many pass.

        `known` tells whether it is from a trunk or a registered phone. Others have no priority, and only so many of
        their calls for help are looked at: anybody can write the number.
        """
        help_wanted = self._raw_numbers is not None and self._raw_numbers.search(data) is not None
        if not help_wanted and (self._raw_priorities is None or self._raw_priorities.search(data) is None):
            return False
        if known():
            return True
        if self._late is None:
            self._late = TokenBucket.full(LATE_STRANGERS, now)
        return help_wanted and self._late.take(now)

    def admit_unregistered(
        self, host: str, calls: int, refused: Refusal, now: float
    ) -> tuple[Refusal | None, Decision]:
        """Whether a call for help comes in though its caller was `refused` (RFC 6881 s.8 asks for it).

        `calls` of that kind are in progress: they are few, so that nobody fills all lines by crying for help.
        """
        compared = [("caller", refused.rule), ("calls", f"{calls} of {self._most}")]
        if not self.unregistered:
            return refused, _decision("emergency.unregistered", tuple(compared), refused)
        later = FULL_RETRY_S if calls >= self._most else self._strangers.take(host, now)
        if later is None:
            return None, Decision("admission", "emergency.unregistered", tuple(compared), "admitted")
        refusal = Refusal(503, "Too Many Calls For Help", "unregistered-emergencies", later)
        return refusal, _decision("emergency.unregistered_per_s", tuple(compared), refusal)


def _raw_numbers(numbers: Sequence[str]) -> re.Pattern[bytes] | None:
    if not numbers:
        return None
    listed = b"|".join(_raw_number(number) for number in numbers)
    return re.compile(
        rb"\AINVITE (?:(?:sips?|tel):(?:" + listed + rb")[@; ]|urn:service:sos[. ])", re.IGNORECASE
    )


def _raw_number(number: str) -> bytes:
    """A number in any spelling: with separators, which mean nothing (RFC 3966 s.5.1.1), and escapes."""
    octets = [b"(?:%b|%%%02x)" % (re.escape(bytes((one,))), one) for one in number.encode()]
    if number != number.translate(SEPARATORS):
        return b"".join(octets)  # of one that is configured with them they are a part
    # What was taken is not given back: nobody makes it look twice.
    return rb"[-.()]*+" + b"".join(octet + rb"[-.()]*+" for octet in octets)


def _raw_priorities(priorities: Sequence[str]) -> re.Pattern[bytes] | None:
    if not priorities:
        return None
    listed = b"|".join(re.escape(priority.encode()) for priority in priorities)
    return re.compile(
        rb"\r\nresource-priority[ \t]*:[^\r]*?(?<![a-z0-9.\-])(?:" + listed + rb")(?![a-z0-9.\-])",
        re.IGNORECASE,
    )


class Admission:
    """The limits of one configuration."""

    def __init__(self, config: Config) -> None:
        limits = config.limits
        self._max_calls = limits.max_calls
        self._rate = limits.calls_per_s
        self._trunk_limits = {trunk.name: trunk.max_calls for trunk in config.trunks.values()}
        self._drain_s = config.timers.drain_s
        self._whole: TokenBucket | None = None
        self._sources = TokenBuckets(limits.calls_per_s_per_source)

    def __len__(self) -> int:
        """Sources that are remembered."""
        return len(self._sources)

    def admit(
        self,
        source: Source,
        now: float,
        calls: int,
        trunk_calls: int,
        draining: bool = False,
        emergency: bool = False,
    ) -> tuple[Refusal | None, Decision]:
        """None, or the refusal; the decision lists every number that was compared.

        `calls` are in progress in all, `trunk_calls` over the trunk of `source`. An emergency call passes every
        limit, but not the end of the process: it would be cut off.
        """
        if draining:
            refusal = Refusal(
                503, "Shutting Down", "draining", min(MAX_RETRY_S, max(1, math.ceil(self._drain_s)))
            )
            return refusal, _decision("sbc", (("draining", "yes"),), refusal)
        compared: list[tuple[str, str]] = [("calls", f"{calls} of {self._max_calls}")]
        if calls >= self._max_calls and not emergency:
            refusal = _FULL
            return refusal, _decision("limits.max_calls", tuple(compared), refusal)
        limit = self._trunk_limits.get(source.trunk) if source.trunk is not None else None
        if limit is not None:
            compared.append((f"calls of {source.trunk}", f"{trunk_calls} of {limit}"))
            if trunk_calls >= limit and not emergency:
                refusal = Refusal(503, "Too Many Calls", "trunk-max-calls", FULL_RETRY_S)
                return refusal, _decision(f"trunks.{source.trunk}.max_calls", tuple(compared), refusal)
        # The source first: who floods us must not use up what belongs to all.
        own = self._sources.of(source.host, now) if self._sources.rate else None
        if own is not None:
            compared.append((f"tokens of {source.host}", f"{own.refill(now):.2f} of {own.rate:g}/s"))
            if own.tokens < 1.0 and not emergency:
                refusal = _too_many_of_one(own)
                return refusal, _decision("limits.calls_per_s_per_source", tuple(compared), refusal)
        whole = self._whole_bucket(now) if self._rate else None
        if whole is not None:
            compared.append(("tokens", f"{whole.refill(now):.2f} of {whole.rate:g}/s"))
            if whole.tokens < 1.0 and not emergency:
                refusal = _too_many(whole)
                return refusal, _decision("limits.calls_per_s", tuple(compared), refusal)
        for bucket in (own, whole):
            if bucket is not None:
                bucket.tokens = max(0.0, bucket.tokens - 1.0)
        rule = "emergency" if emergency else "limits"
        return None, Decision("admission", rule, tuple(compared), "admitted")

    def no_room(self, host: str, now: float, calls: int) -> Refusal | None:
        """What `admit` says to a call from `host` whoever sends it, if it is no emergency; it takes no token."""
        if calls >= self._max_calls:
            return _FULL
        own = self._sources.of(host, now) if self._sources.rate else None
        if own is not None and own.refill(now) < 1.0:
            return _too_many_of_one(own)
        whole = self._whole_bucket(now) if self._rate else None
        return _too_many(whole) if whole is not None and whole.refill(now) < 1.0 else None

    def adopt(self, old: "Admission", now: float) -> None:
        """Take over from the Admission of the configuration before: nobody gets a full bucket by a reload."""
        if old._whole is not None and self._rate:
            self._whole = old._whole.at_rate(self._rate, now)
        if self._sources.rate:
            self._sources.adopt(old._sources, now)

    def _whole_bucket(self, now: float) -> TokenBucket:
        if self._whole is None:
            self._whole = TokenBucket.full(self._rate, now)
        return self._whole


_FULL = Refusal(503, "Too Many Calls", "max-calls", FULL_RETRY_S)


def _too_many_of_one(bucket: TokenBucket) -> Refusal:
    return Refusal(503, "Too Many Calls From You", "source-rate", bucket.wait_s())


def _too_many(bucket: TokenBucket) -> Refusal:
    return Refusal(503, "Too Many New Calls", "rate", bucket.wait_s())


def _decision(rule: str, compared: tuple[tuple[str, str], ...], refusal: Refusal) -> Decision:
    return Decision("admission", rule, compared, f"{refusal.status} {refusal.rule}")


class Spread:
    """A token bucket that sends those away who find it empty, each at his own time (RFC 3261 s.20.33).

    A thousand phones that all were told "in five seconds" would be back in five seconds, all together. So each gets
    the next free place in a queue that moves at `rate`; 0 lets everybody in.

    `share` is what one host may take of it a second. `queue` False is for senders whose addresses may be forged: they
    must not make the queue long, so they are sent away for a short time, each for another one.
    """

    def __init__(self, rate: float, share: float | None = None, queue: bool = True) -> None:
        self.rate = rate
        self._queue = queue
        self._turn = 0
        self._bucket: TokenBucket | None = None
        self._sources = TokenBuckets(max(1.0, rate * SOURCE_SHARE if share is None else share))
        self._place = 0.0

    def take(self, host: str, now: float) -> int | None:
        """None to go on, or the seconds after which to come back. No host gets more than its share of the rate."""
        if not self.rate:
            return None
        if self._bucket is None:
            self._bucket = TokenBucket.full(self.rate, now)
        own = self._sources.of(host, now)
        if own.refill(now) < 1.0:
            return own.wait_s() + self._behind(now)
        if self._bucket.refill(now) < 1.0:
            return self.later(now)
        self._bucket.tokens -= 1.0
        own.tokens -= 1.0
        return None

    def later(self, now: float) -> int:
        """When one more may come back, in seconds."""
        if not self._queue:
            return self._apart()
        rate = self.rate or DEFAULT_SPREAD
        self._place = min(max(self._place, now) + 1.0 / rate, now + MAX_SPREAD_S)
        return max(1, math.ceil(self._place - now))

    def _behind(self, now: float) -> int:
        """When one may come back that has used up his own share: it is not for him that others wait longer."""
        return max(0, math.ceil(self._place - now)) + self._apart()

    def _apart(self) -> int:
        self._turn += 1
        return 1 + int(apart(self._turn) * FORGED_SPREAD_S)
