"""A short run of the SDP fuzz target; the long one is `python -m tests.fuzz.fuzz_sdp`."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_sdp import check, mutations

ALPHABET = (
    "v=0",
    "o=- 1 1 IN IP4 192.0.2.1",
    "c=IN IP4 192.0.2.1",
    "m=audio 4000 RTP/AVP 0",
    "a=inactive",
    "s=",
)


def test_mutated_files_of_devices() -> None:
    parsed = sum(check(data) for data in islice(mutations(1), 2500))
    assert 500 < parsed < 2400, "neither only noise nor only valid files"


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check(data)
    check(b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n" + data)


@given(st.lists(st.sampled_from(ALPHABET) | st.text(max_size=20), max_size=12))
def test_any_lines(lines: list[str]) -> None:
    check("\r\n".join(("v=0", *lines)).encode("utf-8", "surrogatepass"))
