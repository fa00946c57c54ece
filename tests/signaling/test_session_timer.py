"""What a request is granted (RFC 4028 s.9); whole calls are in tests/scenario/test_session_timers.py."""

import pytest

from signaling.message import Request
from signaling.session_timer import MAX_MIN_SE_S, serve, served_fields


def granted(ours_s: int, **fields: str) -> int | None:
    """The interval that an INVITE with these fields is granted, None for no timer."""
    head = [("CSeq", "1 INVITE"), *((name.replace("_", "-"), value) for name, value in fields.items())]
    request = Request("INVITE", "sip:b@b.example", head)
    timer = serve(request, ours_s, 90)
    assert bool(served_fields(timer, request)) == (timer is not None)
    return None if timer is None else timer.interval_s


@pytest.mark.parametrize("supported", ["timer", ""])
def test_a_peer_may_want_longer_sessions_up_to_a_bound(supported: str) -> None:
    def asked(min_se_s: int) -> int | None:
        return granted(1800, Supported=supported, Min_SE=str(min_se_s))

    assert asked(3600) == 3600
    assert asked(MAX_MIN_SE_S) == MAX_MIN_SE_S
    assert asked(MAX_MIN_SE_S + 1) is None


@pytest.mark.parametrize("supported", ["timer", ""])
def test_an_interval_is_shortened_unless_its_min_se_forbids_it(supported: str) -> None:
    def asked(expires_s: int, min_se_s: int) -> int | None:
        return granted(1800, Supported=supported, Session_Expires=str(expires_s), Min_SE=str(min_se_s))

    assert asked(9_999_999_999, 90) == 1800
    assert asked(9_999_999_999, 5000) == 5000
    assert asked(9_999_999_999, MAX_MIN_SE_S + 1) is None
    assert asked(1800, MAX_MIN_SE_S + 1) == 1800, "it is what the peer has asked for itself"


def test_without_a_timer_of_ours_theirs_is_taken() -> None:
    assert granted(0, Supported="timer", Session_Expires="7200", Min_SE="3600") == 7200
    assert granted(0, Supported="timer", Min_SE="3600") is None
