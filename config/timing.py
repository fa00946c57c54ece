"""Timers that contradict each other or the RFCs."""

from collections.abc import Iterator

from config.model import Timers
from config.problems import Level

MIN_SE_S = 90
"""RFC 4028 s.5: the smallest Min-SE there is."""


def written(value: float) -> str:
    """A number as the file would have it."""
    return f"{value:g}" if value < 1_000_000 else f"{value:.0f}"


def contradictions(t: Timers) -> Iterator[tuple[str, str, Level]]:
    """(key, message, level) of every timer that does not fit the others."""
    if t.t1_ms > t.t2_ms:
        yield (
            "t1_ms",
            f"t1_ms {t.t1_ms} is more than t2_ms {t.t2_ms}; write less (RFC 3261: 500 and 4000)",
            "error",
        )
    elif t.t1_ms < 100:
        yield (
            "t1_ms",
            f"t1_ms {t.t1_ms} repeats messages before most answers can be here; write 100 or more",
            "warning",
        )
    elif t.t1_ms > 2000:
        yield (
            "t1_ms",
            f"t1_ms {t.t1_ms} makes one lost packet cost {t.t1_ms / 1000:g} s; write 2000 or less",
            "warning",
        )
    if t.t2_ms > t.t4_ms:
        yield (
            "t2_ms",
            f"t2_ms {t.t2_ms} is more than t4_ms {t.t4_ms}; write less (RFC 3261: 4000 and 5000)",
            "warning",
        )
    if t.trying_timeout_s >= t.no_answer_s:
        yield (
            "trying_timeout_s",
            f"trying_timeout_s {written(t.trying_timeout_s)} is not below no_answer_s {written(t.no_answer_s)}, so no "
            "second server is ever tried; write less",
            "error",
        )
    elif t.trying_timeout_s * 1000 > 64 * t.t1_ms:
        yield (
            "trying_timeout_s",
            f"trying_timeout_s {written(t.trying_timeout_s)} is never reached, as RFC 3261 timer B ends the attempt "
            f"after 64 x t1_ms {t.t1_ms} = {64 * t.t1_ms / 1000:g} s; write less",
            "warning",
        )
    elif t.trying_timeout_s * 1000 <= t.t1_ms:
        yield (
            "trying_timeout_s",
            f"trying_timeout_s {written(t.trying_timeout_s)} gives a server up before the first repeat at t1_ms "
            f"{t.t1_ms}; write more",
            "warning",
        )
    if t.min_se_s < MIN_SE_S:
        yield (
            "min_se_s",
            f"min_se_s {t.min_se_s} is below {MIN_SE_S}, the least that RFC 4028 allows; write more",
            "error",
        )
    if 0 < t.session_expires_s < max(t.min_se_s, MIN_SE_S):
        yield (
            "session_expires_s",
            f"session_expires_s {t.session_expires_s} is below min_se_s {max(t.min_se_s, MIN_SE_S)}; "
            "write more, or 0 for no session timers",
            "error",
        )
    elif 0 < t.max_call_s <= t.session_expires_s / 2:
        yield (
            "session_expires_s",
            f"no refresh ever happens: half of session_expires_s {t.session_expires_s} is not below max_call_s "
            f"{written(t.max_call_s)}; write less, or 0",
            "warning",
        )
    if 0 < t.rtp_hold_s < t.rtp_silence_s:
        yield (
            "rtp_hold_s",
            f"rtp_hold_s {written(t.rtp_hold_s)} ends a silent call on hold sooner than rtp_silence_s "
            f"{written(t.rtp_silence_s)} one that is not; write more",
            "warning",
        )
    if 0 < t.rtp_start_s < t.learn_window_s:
        yield (
            "learn_window_s",
            f"learn_window_s {written(t.learn_window_s)} goes on after rtp_start_s {written(t.rtp_start_s)} has ended "
            "the call; write less",
            "warning",
        )
