"""Telling protocols apart on one port (RFC 7983 s.7, RFC 5761 s.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.demux import DTLS, RTCP, RTP, STUN, UNKNOWN, classify


@pytest.mark.parametrize(
    ("first", "second", "size", "kind"),
    [
        (0x80, 0x00, 12, RTP),
        (0x80, 0x80, 12, RTP),
        (0xBF, 0x7F, 1400, RTP),
        (0x80, 191, 12, RTP),
        (0x80, 192, 8, RTCP),
        (0x80, 223, 8, RTCP),
        (0x80, 224, 12, RTP),
        (0x80, 200, 7, UNKNOWN),
        (0x80, 0, 11, UNKNOWN),
        (0, 1, 20, STUN),
        (3, 1, 20, STUN),
        (0, 1, 19, UNKNOWN),
        (4, 0, 100, UNKNOWN),
        (19, 0, 100, UNKNOWN),
        (20, 0, 13, DTLS),
        (63, 0, 13, DTLS),
        (20, 0, 12, UNKNOWN),
        (64, 0, 100, UNKNOWN),
        (127, 0, 100, UNKNOWN),
        (192, 0, 100, UNKNOWN),
        (0x80, 0, 1, UNKNOWN),
    ],
)
def test_the_first_bytes_tell(first: int, second: int, size: int, kind: int) -> None:
    assert classify(bytes((first, second)), size) == kind


@given(st.binary(max_size=64))
def test_any_bytes_are_something(data: bytes) -> None:
    assert classify(data, len(data)) in (RTP, RTCP, STUN, DTLS, UNKNOWN)
