"""The E-model: known points and directions."""

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
