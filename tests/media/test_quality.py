"""The E-model: known points and directions."""

from math import exp, log2, log10, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.quality import mos, rating


@pytest.mark.parametrize(
    ("r", "expected"),
    [(93.2, 4.41), (80.0, 4.02), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58), (0.0, 1.0), (100.0, 4.5)],
)
def test_mos_is_that_of_g107(r: float, expected: float) -> None:
    """ITU-T G.107 table B.1."""
    assert mos(r) == pytest.approx(expected, abs=0.02)


def test_a_clean_pcmu_call_is_very_good() -> None:
    assert mos(rating("PCMU", 0.0, 1.0, 20.0)) > 4.3


def test_g729_is_worse_than_pcmu_and_wideband_better() -> None:
    assert rating("G729", 0.0, 1.0, 20.0) < rating("PCMU", 0.0, 1.0, 20.0) < rating("opus", 0.0, 1.0, 20.0)


def test_five_percent_loss_is_heard() -> None:
    # G.107 (7-29): Ie-eff = 95 * 5 / (5 + 25.1) = 15.8
    assert rating("PCMU", 0.0, 0.0, None) - rating("PCMU", 0.05, 0.0, None) == pytest.approx(15.8, abs=0.1)


def delay_impairment(one_way_ms: float) -> float:
    """Id as ITU-T G.107 s.7.4 (7-18) to (7-28) writes it, with the values of its table 2: Idte + Idle + Idd."""
    ro, roe, telr, wepl = 94.77, 94.77, 65.0, 110.0
    t = one_way_ms
    terv = telr - 40 * log10((1 + t / 10) / (1 + t / 150)) + 6 * exp(-0.3 * t * t)
    half = (roe - (80 + 2.5 * (terv - 14))) / 2
    talker = (half + sqrt(half * half + 100) - 1) * (1 - exp(-t))
    half = (ro - 10.5 * (wepl + 7) * (2 * t + 1) ** -0.25) / 2
    listener = half + sqrt(half * half + 169)
    x = log2(t / 100) if t > 100 else 0.0
    too_long = 25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2)
    return float(talker + listener + too_long)


@pytest.mark.parametrize("one_way_ms", [25, 50, 100, 150, 177, 200, 250, 300])
def test_delay_is_heard_as_g107_has_it(one_way_ms: float) -> None:
    # The frame of PCMU is 20 ms of it.
    heard = 93.2 - rating("PCMU", 0.0, 0.0, 2 * (one_way_ms - 20))
    assert heard == pytest.approx(delay_impairment(one_way_ms), abs=1.1)


def test_delay_is_half_of_the_round_trip_the_codec_and_a_buffer_of_twice_the_jitter() -> None:
    assert rating("PCMU", 0.0, 0.0, None) == pytest.approx(93.2 - 0.024 * 20)
    assert rating("PCMU", 0.0, 0.0, 160.0) == pytest.approx(93.2 - 0.024 * 100)
    assert rating("PCMU", 0.0, 40.0, 0.0) == rating("PCMU", 0.0, 0.0, 160.0)
    assert rating("GSM", 0.0, 0.0, 160.0) == pytest.approx(73.2 - 0.024 * 100)
    assert rating("PCMU", 0.0, 0.0, 514.6) == pytest.approx(93.2 - 0.024 * 277.3 - 11.0)


@given(
    st.sampled_from(["PCMU", "g729", "opus", "G722", "AMR-WB", "iLBC", "", "nobody-knows"]),
    st.floats(0, 2),
    st.floats(0, 5000),
    st.none() | st.floats(0, 20000),
)
def test_the_score_stays_on_its_scale_and_falls_with_loss_and_delay(
    codec: str, loss: float, jitter_ms: float, rtt_ms: float | None
) -> None:
    r = rating(codec, loss, jitter_ms, rtt_ms)
    assert 0 <= r <= 100
    assert 1.0 <= mos(r) <= 4.5
    assert rating(codec, loss + 0.1, jitter_ms, rtt_ms) <= r
    assert rating(codec, loss, jitter_ms + 10, rtt_ms) <= r
    assert rating(codec, loss, jitter_ms, (rtt_ms or 0) + 100) <= r
