"""RTCP across the border: reports pass, names do not, and the round trip is measured (RFC 3550 s.6)."""

import struct

import pytest

from media.rtcp import RoundTrip, parse
from tests.harness.rtp import description, ntp_middle, receiver_report, report_block, sender_report


def alias(name: bytes) -> bytes:
    return b"alias-%d" % len(name)


def crossing(data: bytes) -> bytes | None:
    compound = parse(data, alias)
    return None if compound is None else compound.forward


def test_reports_pass_unchanged_and_the_cname_becomes_a_pseudonym() -> None:
    block = report_block(2, 5, 1.0, lost=3)
    assert crossing(sender_report(1, 1e9, [block], cname=b"alice@10.0.0.7")) == sender_report(
        1, 1e9, [block], cname=b"alias-14"
    )
    assert crossing(receiver_report(1, [block, block])) == receiver_report(1, [block, block])


def test_of_sdes_only_the_cname_crosses() -> None:
    items = b"".join(
        bytes((kind, len(text))) + text for kind, text in ((2, b"Alice"), (1, b"me"), (6, b"SecretPhone 1.0"))
    )
    chunk = struct.pack("!I", 9) + items
    chunk += bytes(4 - len(chunk) % 4)
    packet = struct.pack("!BBH", 0x81, 202, len(chunk) // 4) + chunk
    assert crossing(receiver_report(9) + packet) == receiver_report(9) + description(9, b"alias-2")


def test_the_reason_of_a_bye_and_application_packets_stay_behind() -> None:
    bye = struct.pack("!BBHI", 0x81, 203, 4, 9) + b"\x0bgone 10.0.0.7"[:12]
    application = struct.pack("!BBHI4s", 0x80, 204, 2, 9, b"NAME")
    assert crossing(receiver_report(9) + bye) == receiver_report(9) + struct.pack("!BBHI", 0x81, 203, 1, 9)
    assert crossing(application) == b""


def test_profile_specific_extensions_of_a_report_stay_behind() -> None:
    extended = struct.pack("!BBHI8s", 0x80, 201, 3, 9, b"10.0.0.7")
    assert crossing(extended) == receiver_report(9)


def test_feedback_packets_pass_in_reduced_size() -> None:
    picture_loss = struct.pack("!BBHII", 0x81, 206, 2, 1, 2)
    assert crossing(picture_loss) == picture_loss


def test_padding_is_taken_off() -> None:
    report = receiver_report(9)
    padded = struct.pack("!BBH", 0xA0, 201, 2) + report[4:] + b"\x00\x00\x00\x04"
    assert crossing(padded) == report


@pytest.mark.parametrize(
    "data",
    [
        sender_report(1, 0.0)[:20],
        receiver_report(1) + b"\x81\xca\x00",
        struct.pack("!BBHI", 0x81, 201, 1, 9),
        struct.pack("!BBHI", 0x80, 200, 1, 9),
        struct.pack("!BBHI", 0x40, 201, 1, 9),
        struct.pack("!BBHI", 0x80, 100, 1, 9),
        struct.pack("!BBHI", 0xA0, 201, 1, 9),
        struct.pack("!BBHI", 0x81, 202, 1, 9),
        struct.pack("!BBHI4s", 0x81, 202, 2, 9, b"\x01\x0aab"),
        struct.pack("!BBHI4s", 0x81, 202, 2, 9, b"\x01\x02ab"),
        struct.pack("!BBHI", 0x82, 203, 1, 9),
    ],
)
def test_what_does_not_add_up_is_no_rtcp(data: bytes) -> None:
    assert parse(data, alias) is None


def test_the_round_trip_is_the_time_since_we_passed_the_report_on_less_the_delay_of_the_answer() -> None:
    sent = parse(sender_report(1, 1e9), alias)
    answer = parse(receiver_report(2, [report_block(1, ntp_middle(1e9), dlsr_s=2.0)]), alias)
    assert sent is not None and answer is not None
    trip = RoundTrip()
    assert sent.sent is not None
    trip.passed_on(sent.sent, 50.0)
    trip.answered(answer.echoes, 52.08)
    assert trip.seconds == pytest.approx(0.08, abs=1e-4)


def test_an_answer_to_a_report_that_we_never_passed_on_tells_nothing() -> None:
    trip = RoundTrip()
    trip.passed_on(1, 50.0)
    trip.answered([(2, 0), (1, 65536 * 3600)], 50.1)
    assert trip.seconds is None
    for number in range(10, 20):
        trip.passed_on(number, 50.0)
    trip.answered([(1, 0)], 50.1)
    assert trip.seconds is None


def test_the_loss_that_each_block_reports_is_read() -> None:
    blocks = [bytearray(report_block(ssrc)) for ssrc in (2, 3)]
    blocks[0][4], blocks[1][4] = 64, 255
    compound = parse(sender_report(1, 1e9, [bytes(block) for block in blocks]), alias)
    assert compound is not None and compound.lost == [64, 255]
    silent = parse(receiver_report(1), alias)
    assert silent is not None and silent.lost == []


def test_a_compound_tells_who_reports_and_about_whom() -> None:
    compound = parse(
        sender_report(1, 1e9, [report_block(2)]) + receiver_report(3, [report_block(4)] * 2), alias
    )
    assert compound is not None
    assert (compound.senders, compound.about) == ([1, 3], [2, 4, 4])
