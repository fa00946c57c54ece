"""Bodies of several parts (RFC 2046 s.5.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import PeerError
from signaling.multipart import MAX_PARTS, part_of

SDP = b"v=0\r\ns=-\r\n"
KIND = "multipart/mixed;boundary=outer"


def part(kind: str, content: bytes, boundary: str = "outer") -> bytes:
    return f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


def test_the_wanted_part_is_found_among_others() -> None:
    body = (
        b"preamble\r\n" + part("application/isup;version=itu", b"\x01\r\n\r\n") + part("Application/SDP", SDP)
    )
    assert part_of(KIND, body + b"--outer--\r\nepilogue", "application/sdp") == SDP


@pytest.mark.parametrize("kind", ['multipart/mixed; Boundary="outer"', "multipart/mixed;x=1; boundary=outer"])
def test_boundary_is_read_as_parameters_are_written(kind: str) -> None:
    assert part_of(kind, part("application/sdp", SDP) + b"--outer--", "application/sdp") == SDP


def test_boundary_that_begins_like_ours_is_of_an_inner_multipart() -> None:
    inner = part("text/plain", b"one", "outer2") + b"--outer2--"
    body = part("multipart/alternative;boundary=outer2", inner) + part("application/sdp", SDP) + b"--outer--"
    assert part_of(KIND, body, "application/sdp") == SDP
    assert part_of(KIND, body, "multipart/alternative") == inner


def test_white_space_may_follow_a_boundary() -> None:
    body = part("application/sdp", SDP).replace(b"--outer\r\n", b"--outer \t\r\n") + b"--outer-- \r\n"
    assert part_of(KIND, body, "application/sdp") == SDP


def test_nothing_is_found_behind_the_end() -> None:
    assert (
        part_of(KIND, b"--outer--\r\n" + part("application/sdp", SDP) + b"--outer--", "application/sdp")
        is None
    )


def test_last_delimiter_may_be_missing() -> None:
    assert (
        part_of(KIND, part("text/plain", b"x") + part("application/sdp", SDP)[:-2], "application/sdp") == SDP
    )


def test_parts_are_bounded() -> None:
    body = part("text/plain", b"x") * MAX_PARTS + part("application/sdp", SDP) + b"--outer--"
    assert part_of(KIND, body, "application/sdp") is None


@pytest.mark.parametrize(
    "kind", ["multipart/mixed", "multipart/mixed;boundary=", "multipart/mixed;boundary=" + "x" * 71]
)
def test_without_boundary_it_is_400(kind: str) -> None:
    with pytest.raises(PeerError) as raised:
        part_of(kind, SDP, "application/sdp")
    assert raised.value.status == 400


@given(st.text(max_size=80), st.binary(max_size=300))
def test_whatever_comes_is_part_of_the_body_or_a_peer_error(kind: str, body: bytes) -> None:
    """Invariant: the result is a slice of the body or None; nothing but PeerError is raised."""
    try:
        found = part_of("multipart/mixed;boundary=" + kind, body, "application/sdp")
    except PeerError:
        return
    assert found is None or found in body
