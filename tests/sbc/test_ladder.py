"""The ladder and the table of what was hidden."""

import pytest

from sbc.ladder import NOT_PASSED, Column, Hidden, Step, hidden_between, hidden_text, ladder
from sbc.record import summary_of
from signaling.message import Request, Response, respond
from signaling.parser import parse

SDP_A = (
    b"v=0\r\no=alice 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
)
SDP_B = b"v=0\r\no=- 7 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\n"


def invite(host: str, call_id: str, sdp: bytes, extra: list[tuple[str, str]] | None = None) -> Request:
    fields = [
        ("Via", f"SIP/2.0/UDP {host}:5060;branch=z9hG4bK{call_id}"),
        ("Max-Forwards", "70"),
        ("From", f"<sip:alice@{host}>;tag={call_id}"),
        ("To", f"<sip:bob@{host}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 INVITE"),
        ("Contact", f"<sip:alice@{host}>"),
        ("Content-Type", "application/sdp"),
        *(extra or []),
    ]
    return Request("INVITE", f"sip:bob@{host}", fields, sdp)


COME = invite(
    "192.0.2.1", "aaa", SDP_A, [("User-Agent", "Phone 1.0"), ("X-Secret", "s1"), ("Subject", "hello")]
)
GONE = invite("10.0.0.1", "bbb", SDP_B, [("Subject", "hello")])

STEPS = (
    Step(1000.0, "a", "<", "INVITE (sdp)"),
    Step(1000.001, "a", ">", "100 Trying"),
    Step(1000.002, "b1", ">", "INVITE (sdp)"),
    Step(1000.123, "b1", "<", "180 Ringing"),
    Step(1000.124, "a", ">", "180 Ringing"),
)
LEFT, RIGHT = Column("A public", "192.0.2.1:5060"), Column("B pbx", "10.0.0.20:5060")


def test_the_whole_diagram() -> None:
    assert ladder(STEPS, LEFT, RIGHT, width=73, plain=True).splitlines() == [
        "          A public 192.0.2.1:5060       SBC          B pbx 10.0.0.20:5060",
        "   0.000  |-------- INVITE (sdp) ------->|                              |",
        "   0.001  |<--------- 100 Trying --------|                              |",
        "   0.002  |                              |-------- INVITE (sdp) ------->|",
        "   0.123  |                              |<-------- 180 Ringing --------|",
        "   0.124  |<-------- 180 Ringing --------|                              |",
    ]


@pytest.mark.parametrize("width", [10, 60, 73, 80, 81, 120, 200, 1000])
@pytest.mark.parametrize("plain", [True, False])
def test_every_line_keeps_to_the_width_and_the_bars_stand_in_a_row(width: int, plain: bool) -> None:
    lines = ladder(STEPS, LEFT, RIGHT, width, plain).splitlines()
    assert max(len(line) for line in lines) <= max(60, min(width, 160))
    bar = "|" if plain else "│"
    assert len({tuple(i for i, character in enumerate(line) if character == bar) for line in lines[1:]}) == 1


def test_unicode_is_the_default() -> None:
    assert "▶│" in ladder(STEPS, LEFT, RIGHT)


def test_several_targets_are_told_apart() -> None:
    steps = (Step(0.0, "b1", ">", "INVITE"), Step(0.1, "b2", ">", "INVITE"))
    text = ladder(steps, LEFT, RIGHT, plain=True)
    assert "b1: INVITE" in text
    assert "b2: INVITE" in text


def test_a_peer_cannot_draw_on_the_terminal() -> None:
    steps = (Step(0.0, "a", "<", "INVITE\x1b[2J\r\n"), Step(0.0, "a", "<", "x" * 500))
    text = ladder(steps, Column("A", "\x1b]0;gotcha\x07"), RIGHT)
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_no_trace_and_a_cut_trace_say_so() -> None:
    assert "log.trace is off" in ladder((), LEFT, RIGHT)
    assert "7 further messages were not recorded" in ladder(STEPS, LEFT, RIGHT, dropped=7)


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        (COME, "INVITE (sdp)"),
        (Request("BYE", "sip:x", [("CSeq", "2 BYE")]), "BYE"),
        (respond(COME, 180, "Ringing", "t"), "180 Ringing"),
        (respond(COME, 200, "OK", "t", [("Content-Type", "application/sdp")], SDP_B), "200 OK (sdp)"),
        (Response(200, "OK", [("CSeq", "2 BYE")]), "200 OK (BYE)"),
        (Response(404, "Not Found", []), "404 Not Found"),
    ],
)
def test_summaries(message: Request | Response, summary: str) -> None:
    assert summary_of(message) == summary


def answer(request: Request, server: str, sdp: bytes) -> bytes:
    fields = [("Contact", f"<sip:x@{server}>"), ("Server", server), ("Content-Type", "application/sdp")]
    return respond(request, 200, "OK", "t", fields, sdp).encode()


def test_what_was_hidden_in_both_directions() -> None:
    tables = hidden_between(
        [
            ("a", "<", COME.encode()),
            ("b1", ">", GONE.encode()),
            ("b1", "<", answer(GONE, "pbx", SDP_B)),
            ("a", ">", answer(COME, "sbc", SDP_A)),
        ]
    )
    assert list(tables) == ["INVITE from A to B", "200 OK from B to A"]
    rows = {row.what: row for row in tables["INVITE from A to B"]}
    assert rows["Call-ID"] == Hidden("Call-ID", "aaa", "bbb")
    assert rows["X-Secret"] == Hidden("X-Secret", "s1", None)
    assert rows["User-Agent"].inside is None
    assert rows["SDP c="] == Hidden("SDP c=", "c=IN IP4 192.0.2.1", "c=IN IP4 10.0.0.1")
    assert rows["Subject"].kept
    assert "Max-Forwards" not in rows
    assert {row.what for row in tables["200 OK from B to A"]} >= {"Via", "Call-ID", "Server", "SDP o="}


def test_after_a_failover_the_last_target_counts() -> None:
    last = invite("10.0.0.9", "ccc", SDP_B)
    tables = hidden_between(
        [("a", "<", COME.encode()), ("b1", ">", GONE.encode()), ("b2", ">", last.encode())]
    )
    rows = {row.what: row for row in tables["INVITE from A to B"]}
    assert rows["Call-ID"].inside == "ccc"


def test_without_whole_messages_there_is_no_table() -> None:
    assert hidden_between([("a", "<", b""), ("a", "<", b"garbage")]) == {}


def test_compact_names_are_known() -> None:
    compact = parse(COME.encode().replace(b"Call-ID:", b"i:").replace(b"Via:", b"v:"))
    tables = hidden_between([("a", "<", compact.encode()), ("b1", ">", GONE.encode())])
    whats = [row.what for row in tables["INVITE from A to B"]]
    assert "Call-ID" in whats
    assert "i" not in whats
    assert "v" not in whats


def test_the_table_as_text() -> None:
    tables = hidden_between([("a", "<", COME.encode()), ("b1", ">", GONE.encode())])
    text = hidden_text(tables, width=80, plain=True)
    assert max(len(line) for line in text.splitlines()) <= 80
    (call_id,) = [line.split() for line in text.splitlines() if line.strip().startswith("Call-ID")]
    assert call_id == ["Call-ID", "aaa", "bbb"]
    assert NOT_PASSED in text
    assert "(the same)" in text
