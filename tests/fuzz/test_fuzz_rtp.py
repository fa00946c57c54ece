"""A fixed number of rounds of the media fuzz target, and the corner that random bytes rarely meet."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_rtp import check_forwarder, check_rtcp, check_stream, mutate, seeds


def test_media_ports_take_anything() -> None:
    rng = random.Random(20261121)
    for _ in range(150):
        for _ in range(20):
            check_rtcp(mutate(rng.choice(seeds()), rng))
        check_stream(rng, 100)
        check_forwarder(rng, 100)


@given(st.binary(max_size=200))
def test_any_bytes_as_rtcp(data: bytes) -> None:
    check_rtcp(data)
