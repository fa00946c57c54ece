"""Session timers (RFC 4028): what the two sides of one leg agreed, and when which of them must act."""

from math import inf
from typing import Any, Literal

from config.frozen import frozen
from signaling.errors import PeerError
from signaling.headers import parse_params
from signaling.message import Message, Request, Response

Refresher = Literal["local", "remote"]
MAX_MIN_SE_S = 86_400
"""The longest Min-SE that we go along with, a day: a 422 with more is not tried again, a request gets no timer."""


@frozen
class SessionTimer:
    """An agreed session interval in seconds and who refreshes it."""

    interval_s: int
    refresher: Refresher

    def due(self, now: float) -> float:
        """When to refresh (s.7.4: half of the interval), or to hang up."""
        return now + self.interval_s / 2 if self.refresher == "local" else self.ends(now)

    def ends(self, now: float) -> float:
        """When to hang up after a refresh `now` that no other followed (s.10: before the interval is over)."""
        return now + self.interval_s - min(32.0, self.interval_s / 3)


def session_expires(message: Message) -> tuple[int, str | None] | None:
    """The Session-Expires field as (seconds, refresher parameter), None without one; 400 if broken."""
    value = message.get("Session-Expires")
    if value is None:
        return None
    seconds, _, rest = value.partition(";")
    params = dict(parse_params(rest)) if rest else {}
    return delta_seconds(seconds, "Session-Expires"), (params.get("refresher") or "").lower() or None


def min_se(message: Message) -> int | None:
    """The Min-SE field in seconds, None where there is none; 400 if broken."""
    value = message.get("Min-SE")
    return None if value is None else delta_seconds(value.partition(";")[0], "Min-SE")


def wanted_min_se(response: Response) -> int | None:
    """The Min-SE of a 422; None also for one that is broken, since a response cannot be refused."""
    try:
        return min_se(response)
    except PeerError:
        return None


def delta_seconds(text: str, field: str) -> int:
    """A bounded number of seconds (RFC 3261 s.25.1 delta-seconds)."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise PeerError(400, f"{field} is not a number of seconds", "bad-session-timer")
    return int(text)


def supports_timer(message: Message) -> bool:
    """Whether the sender knows session timers."""
    return any(
        value.lower() == "timer" for name in ("Supported", "Require") for value in message.values(name)
    )


def serve(request: Request, ours_s: int, min_se_s: int) -> SessionTimer | None:
    """What we answer to `request` (s.9): the agreement, or None. 422 when theirs is too small.

    None also where we would have less than its Min-SE and that is above `MAX_MIN_SE_S`: s.9 forbids less, and what it
    asks for would find no call that is lost.
    """
    wanted = session_expires(request)
    knows = supports_timer(request)
    if wanted is None:
        interval_s = _not_below_theirs(request, ours_s) if ours_s else None
        return None if interval_s is None else SessionTimer(interval_s, "remote" if knows else "local")
    seconds, refresher = wanted
    if seconds < min_se_s:
        if knows:
            raise PeerError(422, "Session Interval Too Small", "session-interval-too-small")
        seconds = min_se_s
    if ours_s and ours_s < seconds:
        interval_s = _not_below_theirs(request, max(ours_s, min_se_s))
        if interval_s is None:
            return None
        seconds = interval_s
    if not knows:
        return SessionTimer(seconds, "local")
    return SessionTimer(seconds, "local" if refresher == "uas" else "remote")


def _not_below_theirs(request: Request, seconds: int) -> int | None:
    """`seconds`, or the Min-SE of a request that wants more; None where that is too much."""
    least_s = min_se(request) or 0
    return None if least_s > MAX_MIN_SE_S else max(seconds, least_s)


def served_fields(timer: SessionTimer | None, request: Request) -> list[tuple[str, str]]:
    """The fields of our 2xx to `request` (s.9 table 2)."""
    if timer is None:
        return []
    remote = timer.refresher == "remote"
    fields = [("Session-Expires", f"{timer.interval_s};refresher={'uac' if remote else 'uas'}")]
    if remote and supports_timer(request):
        fields.append(("Require", "timer"))
    return fields


def asked_fields(interval_s: int, min_se_s: int, timer: SessionTimer | None) -> list[tuple[str, str]]:
    """The fields of our INVITE or UPDATE (s.7.1, s.7.4); in a refresh the role is kept."""
    if not interval_s:
        return []
    role = "" if timer is None else f";refresher={'uac' if timer.refresher == 'local' else 'uas'}"
    return [("Session-Expires", f"{interval_s}{role}"), ("Min-SE", str(min_se_s))]


def agreed(response: Response, least_s: int) -> SessionTimer | None:
    """What a 2xx to our request agrees to (s.7.2); without a usable Session-Expires there is no timer.

    A response cannot be refused, so an interval below the `least_s` that we asked for counts as that.
    """
    try:
        answer = session_expires(response)
    except PeerError:
        return None
    if answer is None or answer[0] == 0:
        return None
    return SessionTimer(max(answer[0], least_s), "remote" if answer[1] == "uas" else "local")


class SessionClock:
    """The session timer of one leg: what is agreed, until when, and what to ask for next.

    `shortest_s` is our Min-SE, or the larger one that a 422 of the peer has asked for; `wanted_s` 0 asks for none.
    """

    __slots__ = ("ends_at", "shortest_s", "timer", "wanted_s")

    def __init__(self, wanted_s: int, shortest_s: int) -> None:
        self.wanted_s = wanted_s
        self.shortest_s = shortest_s
        self.timer: SessionTimer | None = None
        self.ends_at = inf  # when to hang up, should no refresh succeed

    def agree(self, timer: SessionTimer | None, now: float) -> None:
        """A session refresh succeeded with this agreement."""
        self.timer = timer
        self.ends_at = inf if timer is None else timer.ends(now)

    def answered(self, response: Response, now: float) -> None:
        """A 2xx to a request of ours came."""
        timer = self.timer
        # RFC 4028 s.7.2: no Session-Expires, no expiry; we may go on refreshing for ourselves.
        kept = timer if timer is not None and timer.refresher == "local" else None
        self.agree(agreed(response, self.shortest_s) or kept, now)

    def fields(self) -> list[tuple[str, str]]:
        """The fields of our next INVITE or UPDATE."""
        interval_s = self.wanted_s if self.timer is None else self.timer.interval_s
        return asked_fields(
            max(interval_s, self.shortest_s) if interval_s else 0, self.shortest_s, self.timer
        )

    def lengthen(self, response: Response) -> bool:
        """Whether a failure is a 422 that asks for an interval that we can try (s.7.3)."""
        wanted_s = wanted_min_se(response) if response.status == 422 else None
        if wanted_s is None or not self.shortest_s < wanted_s <= MAX_MIN_SE_S:
            return False
        self.shortest_s = wanted_s
        return True

    def pause_s(self, retry_after_s: int | None = None) -> float:
        """How long to wait with a refresh that could not be: well within the interval."""
        interval_s = self.wanted_s if self.timer is None else self.timer.interval_s
        return min(float(retry_after_s or 10), 10.0, interval_s / 8)

    def snapshot(self) -> list[Any]:
        """The agreement as plain data; the interval begins anew when it is taken up again."""
        timer = self.timer
        return [self.shortest_s, *([] if timer is None else [timer.interval_s, timer.refresher])]

    def restore(self, data: list[Any], now: float) -> None:
        """Take up what `snapshot` wrote."""
        self.shortest_s = data[0]
        self.agree(SessionTimer(data[1], data[2]) if len(data) > 1 else None, now)
