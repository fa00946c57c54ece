"""The tone of the built-in phones and the ear that finds it."""

import random

import pytest

from sbc.tone import PTIME_MS, SAMPLES, ToneEar, ToneVoice, decode_ulaw, encode_ulaw, share_of_tone


def test_ulaw_knows_the_ends_of_its_scale() -> None:
    assert encode_ulaw(0) == 0xFF
    assert encode_ulaw(32767) == 0x80
    assert encode_ulaw(-32768) == 0x00
    assert decode_ulaw(0x80) == 32124
    assert decode_ulaw(0x00) == -32124


@pytest.mark.parametrize("octet", [octet for octet in range(256) if octet != 0x7F])
def test_ulaw_round_trip(octet: int) -> None:
    # 0x7F is the second zero (negative), which encodes as 0xFF.
    assert encode_ulaw(decode_ulaw(octet)) == octet


def listen(packets: list[bytes], hz: int, jitter_s: float = 0.0) -> ToneEar:
    ear = ToneEar()
    for index, packet in enumerate(packets):
        ear.receive(packet, 100.0 + index * PTIME_MS / 1000 + (jitter_s if index % 2 else 0.0))
    return ear


def packets_of(hz: int, count: int = 50, sequence: int = 0) -> list[bytes]:
    voice = ToneVoice(hz, ssrc=1, sequence=sequence)
    return [voice.next_packet() for _ in range(count)]


def test_a_clean_tone_is_found() -> None:
    heard = listen(packets_of(600), 600).verdict(600)
    assert heard.found
    assert heard.share > 0.98
    assert (heard.packets, heard.lost) == (50, 0)
    assert heard.jitter_ms == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("other", [400, 500, 1000])
def test_another_tone_is_not_found(other: int) -> None:
    assert not listen(packets_of(other), 600).verdict(600).found


def test_silence_and_noise_are_no_tone() -> None:
    noise = random.Random(1)
    assert share_of_tone([0] * SAMPLES, 600) == 0.0
    assert share_of_tone([noise.randint(-8000, 8000) for _ in range(SAMPLES)], 600) < 0.2


def test_nothing_heard_is_not_found() -> None:
    heard = ToneEar().verdict(600)
    assert not heard.found
    assert (heard.packets, heard.lost) == (0, 0)


def test_loss_is_counted_over_the_wrap_of_the_sequence_and_the_tone_is_still_found() -> None:
    packets = packets_of(600, sequence=65_520)
    del packets[10:15]
    heard = listen(packets, 600).verdict(600)
    assert (heard.packets, heard.lost) == (45, 5)
    assert heard.found


def test_jitter_is_measured() -> None:
    # Every other packet is 4 ms late, so every interval is off by 4 ms.
    assert listen(packets_of(600, 400), 600, jitter_s=0.004).verdict(600).jitter_ms == pytest.approx(
        4.0, rel=0.01
    )


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x00" * 172, b"\x80\x08" + b"\x00" * 170])
def test_what_is_not_pcmu_is_ignored(data: bytes) -> None:
    ear = ToneEar()
    ear.receive(data, 0.0)
    assert ear.packets == 0
