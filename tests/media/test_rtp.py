"""RTP headers and reception statistics (RFC 3550 s.5.1, s.6.4.1, s.A.1, s.A.3, s.A.8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.rtp import HEADER, MAX_DROPOUT, Reception, plausible, valid

PCMU = 0x8000
EVENT = 0x8000 | 101


def received(numbers: list[int], ssrc: int = 7) -> Reception:
    reception = Reception()
    for index, seq in enumerate(numbers):
        reception.receive(172, PCMU, seq, seq * 160, ssrc, 100 + 0.02 * index)
    return reception


@pytest.mark.parametrize(
    ("numbers", "lost", "reordered"),
    [
        ([1, 2, 3], 0, 0),
        ([1, 2, 4, 5], 1, 0),
        ([1, 3, 2, 4], 0, 1),
        ([1, 1, 2], -1, 0),
        ([65534, 65535, 0, 1], 0, 0),
        ([65534, 1, 2], 2, 0),
        ([65535, 1, 0, 2], 0, 1),
        ([10, 10 + MAX_DROPOUT - 1], MAX_DROPOUT - 2, 0),
        ([65535, 0, 65535, 1], -1, 1),
    ],
)
def test_loss_is_expected_less_received(numbers: list[int], lost: int, reordered: int) -> None:
    reception = received(numbers)
    assert (reception.lost, reception.reordered, reception.packets) == (lost, reordered, len(numbers))


def test_two_packets_in_sequence_after_a_jump_are_a_restart() -> None:
    reception = received([1, 2, 3, 40000, 40001, 40002])
    assert (reception.resets, reception.lost, reception.packets) == (1, 0, 6)


def test_one_stray_packet_is_no_restart() -> None:
    reception = received([1, 2, 3, 40000, 4, 5])
    assert (reception.resets, reception.lost) == (0, 0)


def test_a_new_ssrc_adds_to_what_was_counted() -> None:
    reception = received([1, 2, 4])
    for seq in (60000, 60001, 60005):
        reception.receive(172, PCMU, seq, seq, 8, 101.0)
    assert (reception.ssrc_changes, reception.lost, reception.expected) == (1, 4, 10)


def test_jitter_is_that_of_rfc_3550() -> None:
    reception = Reception()
    arrivals = [0.0, 0.020, 0.045, 0.060, 0.081, 0.100]
    expected = 0.0
    for index, at in enumerate(arrivals):
        reception.receive(172, PCMU, index, index * 160, 7, 100 + at)
        if index:
            late = abs(at - arrivals[index - 1] - 0.02)
            expected += (late - expected) / 16
        assert reception.jitter == pytest.approx(expected, abs=1e-9)
    assert reception.max_jitter > reception.jitter / 2


def test_steady_packets_have_no_jitter_across_a_timestamp_wrap() -> None:
    reception = Reception()
    for index in range(10):
        reception.receive(
            172, PCMU, index, (0xFFFFFFFF - 500 + index * 160) & 0xFFFFFFFF, 7, 100 + index * 0.02
        )
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)


def test_a_new_timestamp_origin_is_not_jitter() -> None:
    reception = Reception()
    for index in range(10):
        reception.receive(
            172, PCMU, index, index * 160 + (1_000_000_000 if index > 5 else 0), 7, index * 0.02
        )
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)


def test_digits_do_not_count_as_jitter() -> None:
    reception = Reception()
    reception.codecs([(0, "PCMU", 8000), (101, "telephone-event", 8000)])
    for index in range(20):
        event = 5 <= index < 12
        timestamp = 5 * 160 if event else index * 160
        reception.receive(172, EVENT if event else PCMU, index, timestamp, 7, 100 + index * 0.02)
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)
    assert reception.payload_types() == (0, 101)
    assert (reception.lost, reception.packets) == (0, 20)


def test_the_clock_rate_is_that_of_the_session() -> None:
    reception = Reception()
    reception.codecs([(96, "opus", 48000)])
    for index in range(10):
        reception.receive(100, 0x8000 | 96, index, index * 960, 7, index * 0.02)
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)


def test_a_marker_changes_nothing_in_the_statistics() -> None:
    reception = Reception()
    for index in range(10):
        reception.receive(172, PCMU | (0x80 if index % 3 == 0 else 0), index, index * 160, 7, index * 0.02)
    assert (reception.lost, reception.payload_types()) == (0, (0,))
    assert reception.jitter == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("packet", "good"),
    [
        (HEADER.pack(0x8000, 1, 2, 3), True),
        (HEADER.pack(0x8000, 1, 2, 3)[:11], False),
        (HEADER.pack(0x4000, 1, 2, 3), False),
        (HEADER.pack(0x80C8, 1, 2, 3), False),
        (HEADER.pack(0x8200, 1, 2, 3) + bytes(8), True),
        (HEADER.pack(0x8200, 1, 2, 3) + bytes(7), False),
        (HEADER.pack(0x9000, 1, 2, 3) + b"\xbe\xde\x00\x01" + bytes(4), True),
        (HEADER.pack(0x9000, 1, 2, 3) + b"\xbe\xde\x00\x02" + bytes(4), False),
        (HEADER.pack(0x9000, 1, 2, 3) + b"\xbe\xde", False),
        (HEADER.pack(0xA000, 1, 2, 3) + b"\x00\x00\x03", True),
        (HEADER.pack(0xA000, 1, 2, 3) + b"\x00\x00\x04", False),
        (HEADER.pack(0xA000, 1, 2, 3) + b"\x00\x00\x00", False),
        (HEADER.pack(0xA000, 1, 2, 3), False),
    ],
)
def test_the_header_must_fit_the_packet(packet: bytes, good: bool) -> None:
    assert valid(packet, len(packet)) is good


@given(st.integers(0, 0xFFFF))
def test_plausible_is_version_2_and_not_rtcp(first: int) -> None:
    assert plausible(first) == (first >> 14 == 2 and not 192 <= first & 0xFF <= 223)


@given(
    st.integers(0, 0xFFFF),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=60),
)
def test_loss_is_exact_for_any_loss_and_small_reordering(
    start: int, steps: list[tuple[bool, int, bool]]
) -> None:
    """The short way for packets in order counts as the long one does."""
    order = sorted(range(len(steps)), key=lambda index: index + steps[index][1])
    kept = [index for index in order if not steps[index][0]]
    if not kept or kept[0] != min(kept):
        return
    reception = Reception()
    for index in kept:
        first = PCMU | (0x80 if steps[index][2] else 0)
        reception.receive(172, first, (start + index) & 0xFFFF, index * 160, 7, 100 + index * 0.02)
    assert reception.packets == len(kept)
    assert reception.expected == max(kept) - min(kept) + 1
    assert reception.lost == max(kept) - min(kept) + 1 - len(kept)
