"""The ear of the lab can tell tones apart: otherwise it proves nothing."""

from pathlib import Path

import pytest

from tests.lab.sound import _of_alaw, _to_alaw, from_alaw, heard, read_wav, share, tone, write_alaw, write_wav


def test_alaw_codes_are_a_fixed_point() -> None:
    """Every code decodes to a sample that encodes to the same code (ITU-T G.711)."""
    assert [_to_alaw(_of_alaw(octet)) for octet in range(256)] == list(range(256))


@pytest.mark.parametrize(("hz", "other"), [(400, 1000), (1000, 400), (650, 700)])
def test_tone_is_found_and_another_is_not(hz: int, other: int) -> None:
    samples = tone(hz, 2.0)
    assert heard(samples, hz) > 0.95
    assert heard(samples, other) < 0.01


def test_silence_holds_no_tone() -> None:
    assert share([0] * 8000, 400) == 0.0
    assert heard(tone(400, 0.2), 400) == 0.0


def test_tone_survives_alaw_and_wav(tmp_path: Path) -> None:
    samples = tone(700, 1.5)
    assert heard(from_alaw(write_alaw(tmp_path / "x.alaw", samples).read_bytes()), 700) > 0.95
    rate, again = read_wav(write_wav(tmp_path / "x.wav", samples))
    assert (rate, again) == (8000, samples)
