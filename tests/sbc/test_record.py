"""The record of a call: states, what a trace teaches, bounds, and that all of it is plain JSON."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.relay import Counters, StreamCounters
from sbc.anchor import MediaLine, MediaReport
from sbc.decisions import Decision
from sbc.record import (
    MAX_BYTES,
    MAX_DECISIONS,
    MAX_TARGETS,
    MAX_TEXT,
    CallRecord,
    TraceMode,
    media_json,
    printable,
    sdp_summary,
)
from sbc.routing import Target
from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.parser import parse

A = Flow("public", "udp", ("203.0.113.10", 5060), ("203.0.113.77", 5070))
B = Flow("private", "tcp", ("2001:db8::1", 5060), ("2001:db8::20", 5060))
SDP = (
    "v=0\r\no=- 1 1 IN IP4 192.168.1.5\r\ns=-\r\nc=IN IP4 192.168.1.5\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8\r\na=sendonly\r\nm=video 4002 RTP/AVP 96\r\nc=IN IP6 2001:db8::9\r\n"
)


def target(host: str = "10.0.0.20") -> Target:
    return Target("pbx", "private", "udp", (host, 5060), host, "200")


def message(
    start: str, body: str = "", from_tag: str = "ft", to_tag: str = "", cseq: str = "1 INVITE"
) -> Request | Response:
    to = f"<sip:200@sbc>;tag={to_tag}" if to_tag else "<sip:200@sbc>"
    kind = "Content-Type: application/sdp\r\n" if body else ""
    return parse(
        (
            f"{start}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:100@h>;tag={from_tag}\r\nTo: {to}\r\n"
            f"Call-ID: x@y\r\nCSeq: {cseq}\r\nMax-Forwards: 70\r\n{kind}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )


def invite(body: str = SDP, tag: str = "ft") -> Request | Response:
    return message("INVITE sip:200@sbc SIP/2.0", body, tag)


def record(limit: int = 50, mode: TraceMode = "lines") -> CallRecord:
    made = CallRecord("c-00000001", 1000.0, limit, mode)
    made.add_leg("a", A, None, "x@y")
    return made


# -- the life of a call


def test_states_of_an_answered_call() -> None:
    one = record()
    assert (one.state, one.lasted_s(1003.0)) == ("ringing", 3.0)
    one.try_target("b1", target(), 1000.1)
    one.rang(1001.0)
    one.rang(1002.0)
    one.answered(1005.0, "b1")
    one.answered(1006.0, "b1")
    assert (one.state, one.ringing_at, one.answered_at) == ("up", 1001.0, 1005.0)
    assert one.lasted_s(1015.0) == 10.0
    one.end(1025.0, "a", "bye", "", 200, "bye")
    one.end(1026.0, "sbc", "drain", "", 0, "drain")
    assert (one.state, one.end_by, one.end_cause, one.ended_at) == ("ended", "a", "bye", 1025.0)
    assert one.lasted_s(9999.0) == 20.0


def test_targets_and_what_came_of_them() -> None:
    one = record()
    one.try_target("b1", target(), 1000.0)
    one.tried("b1", 503, "Busy\r\nX: y", "peer-rejected", 1001.0)
    one.try_target("b2", target("10.0.0.21"), 1001.0)
    one.answered(1002.0, "b2")
    one.try_target("b3", target("10.0.0.22"), 1002.0)
    one.end(1003.0, "b", "bye", "", 200, "bye")
    first, second, third = one.targets
    assert (first.status, first.reason, first.rule, first.ended) == (
        503,
        "Busy??X: y",
        "peer-rejected",
        1001.0,
    )
    assert (second.status, second.rule) == (200, "answered")
    assert (third.status, third.rule, third.ended) == (0, "bye", 1003.0)
    assert one.target is second


def test_failed_call() -> None:
    one = record()
    assert one.target is None
    one.try_target("b1", target(), 1000.0)
    one.tried("b1", 486, "Busy Here", "peer-rejected", 1001.0)
    one.end(1001.0, "b", "peer-rejected", "Busy Here", 486, "peer-rejected")
    assert (one.state, one.final_status) == ("failed", 486)
    assert one.target is one.targets[0]


def test_outcome_of_an_unknown_leg_is_no_error() -> None:
    record().tried("b9", 486, "", "", 1.0)


def test_source_trunk_is_that_of_the_first_leg() -> None:
    assert CallRecord("c-1", 0.0).source_trunk is None
    one = CallRecord("c-1", 0.0)
    one.add_leg("a", A, "carrier", "x")
    one.add_leg("b1", B, "pbx", "y")
    assert one.source_trunk == "carrier"
    assert one.leg("b1") is one.legs[1]
    assert one.legs[1].remote == "[2001:db8::20]:5060"


# -- the trace


def test_trace_of_lines_keeps_no_bytes() -> None:
    one = record()
    one.trace(1000.5, "a", "<", invite(), None)
    one.trace(1001.0, "a", ">", message("SIP/2.0 180 Ringing", to_tag="tt"), b"whole")
    assert [(m.at, m.leg, m.direction, m.summary, m.data) for m in one.messages] == [
        (1000.5, "a", "<", "INVITE (sdp)", None),
        (1001.0, "a", ">", "180 Ringing", None),
    ]


def test_trace_in_full_keeps_no_credentials() -> None:
    one = record(mode="full")
    for name in ("Authorization", "Proxy-Authorization"):
        request = Request("INVITE", "sip:bob@x", [(name, 'Digest username="bob", response="0123456789"')])
        one.trace(0.0, "a", "<", request, None)
        one.trace(0.0, "b1", ">", request, request.encode())
    shown = [message.data for message in one.messages]
    assert len(shown) == 4
    assert all(data is not None and b"0123456789" not in data and b"[redacted]" in data for data in shown)


def test_trace_in_full_keeps_the_bytes_up_to_a_limit() -> None:
    one = record(mode="full")
    one.trace(1.0, "a", "<", invite(), None)
    one.trace(2.0, "a", ">", invite(), b"as sent")
    one.trace(3.0, "a", ">", invite(), b"x" * 100_000)
    first, second, third = (m.data for m in one.messages)
    assert first is not None and b"m=video" in first
    assert second == b"as sent"
    assert third is not None and len(third) == MAX_BYTES


def test_trace_off_counts() -> None:
    one = record(mode="off")
    one.trace(1.0, "a", "<", invite(), None)
    assert (one.messages, one.messages_left_out) == ([], 1)
    assert one.legs[0].remote_tag == "ft", "tags are known all the same"


def test_trace_keeps_the_beginning_and_the_end() -> None:
    one = record(limit=20)
    for number in range(100):
        one.trace(float(number), "a", "<", invite(), None)
    times = [m.at for m in one.messages]
    assert len(times) == 20
    assert one.messages_left_out == 80
    assert times[:14] == [float(number) for number in range(14)]
    assert times[-6:] == [float(number) for number in range(94, 100)]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_small_limits(limit: int) -> None:
    one = record(limit=limit)
    for number in range(10):
        one.trace(float(number), "a", "<", invite(), None)
    assert len(one.messages) == limit
    assert one.messages_left_out == 10 - limit


def test_same_summaries_are_one_object() -> None:
    one, two = record(), record()
    one.trace(1.0, "a", "<", invite(), None)
    two.trace(1.0, "a", "<", invite(), None)
    assert one.messages[0].summary is two.messages[0].summary


def test_legs_learn_tags_and_sdp() -> None:
    one = record()
    one.add_leg("b1", B, "pbx", "z")
    one.trace(1.0, "a", "<", invite(tag="alice"), None)
    one.trace(1.0, "b1", ">", invite(body="", tag="ours-b"), None)
    one.trace(1.0, "b1", "<", message("SIP/2.0 180 Ringing", from_tag="ours-b", to_tag="fork1"), None)
    one.trace(1.0, "b1", "<", message("SIP/2.0 200 OK", SDP, from_tag="ours-b", to_tag="fork2"), None)
    one.trace(1.0, "a", ">", message("SIP/2.0 200 OK", SDP, from_tag="alice", to_tag="ours-a"), None)
    one.trace(1.0, "b9", "<", invite(), None)
    a, b = one.legs
    assert (a.local_tag, a.remote_tag) == ("ours-a", "alice")
    assert (b.local_tag, b.remote_tag) == ("ours-b", "fork2"), "the one that answered"
    expected = ("audio 192.168.1.5:4000 RTP/AVP 0 8 sendonly", "video [2001:db8::9]:4002 RTP/AVP 96 sendrecv")
    assert a.sdp == expected, "what A signalled, not what we told it"
    assert b.sdp == expected


def test_broken_tags_are_no_error() -> None:
    one = record()
    broken = Request("INVITE", "sip:x@y", [("From", '"'), ("To", "<"), ("CSeq", "1 INVITE")])
    one.trace(1.0, "a", "<", broken, None)
    assert one.legs[0].remote_tag == ""


@given(st.binary(max_size=400))
def test_sdp_summary_takes_anything(body: bytes) -> None:
    lines = sdp_summary(b"m=" + body + b"\nc=\nm=\nm=a\n" + body)
    assert len(lines) <= 8
    assert all(line.isprintable() and len(line) < 140 for line in lines)


# -- decisions and bounds


def test_decisions_get_their_time_and_are_bounded() -> None:
    one = record()
    one.decide(Decision("source", "trunks", (), "x"), 5.0)
    one.decide(Decision("codec", "media", (), "y", at=3.0), 6.0)
    assert [decision.at for decision in one.decisions] == [5.0, 3.0]
    for number in range(500):
        one.decide(Decision("topology", "topology.verify", (), str(number)), 7.0)
    assert len(one.decisions) == MAX_DECISIONS
    assert one.decisions_left_out == 502 - MAX_DECISIONS
    assert (one.decisions[0].outcome, one.decisions[-1].outcome) == ("x", "499")


def test_targets_are_bounded() -> None:
    one = record()
    for number in range(200):
        one.try_target(f"b{number}", target(), 1.0)
    assert len(one.targets) == MAX_TARGETS
    assert one.targets[-1].leg == "b199"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller", "Müller"),
        ("a\r\nb\x1b[2J", "a??b?[2J"),
        ("\udcff", "?"),
        ("x" * 999, "x" * MAX_TEXT + "..."),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


# -- JSON


def full_record() -> CallRecord:
    one = record(mode="full")
    one.caller, one.called = "al\udcffice", "200\x00"
    one.add_leg("b1", B, "pbx", "z")
    one.trace(1000.0, "a", "<", invite(), None)
    one.trace(1000.0, "a", "<", invite(), b"\xff\xfe")
    one.decide(Decision("routing", "routes[0]", (("called", "2\udc8000"),), "fits"), 1000.0)
    one.try_target("b1", target(), 1000.0)
    one.answered(1001.0, "b1")
    one.end(1002.0, "b", "bye", "", 200, "bye")
    line = MediaLine(
        4, "audio", "PCMU", "192.168.1.5:4000", "10.0.0.20:4000", "h:1", "h:2", "sendrecv", "sendrecv"
    )
    counters = StreamCounters(4, one.id, Counters(packets=5, source=("192.0.2.1", 4000)), Counters())
    one.media = MediaReport((line,), (counters,))
    return one


def test_json_is_plain_and_complete() -> None:
    shown = json.loads(json.dumps(full_record().to_json(), ensure_ascii=False).encode("utf-8"))
    assert shown["id"] == "c-00000001"
    assert (shown["caller"], shown["called"]) == ("al?ice", "200?")
    assert (shown["state"], shown["status"], shown["ended_by"], shown["cause"]) == ("ended", 200, "b", "bye")
    assert [leg["name"] for leg in shown["legs"]] == ["a", "b1"]
    assert shown["targets"][0]["address"] == "10.0.0.20:5060"
    assert shown["decisions"][0]["compared"] == {"called": "2?00"}
    assert shown["media"][0]["codec"] == "PCMU"
    assert shown["media"][0]["a"]["packets"] == 5
    assert shown["messages"][0]["summary"] == "INVITE (sdp)"
    assert full_record().to_json(messages=False)["messages"] == []


def test_media_without_counters() -> None:
    one = full_record()
    assert one.media is not None
    one.media = MediaReport(one.media.lines)
    (stream,) = media_json(one.media)
    assert (stream["codec"], stream["a"]) == ("PCMU", None)


def test_held_call_is_small() -> None:
    """design.md s.6: 40 KiB for everything, so the record may take a small part of it."""
    one = record()
    one.add_leg("b1", B, "pbx", "z" * 32)
    for number in range(14):
        one.trace(float(number), "a", "<", invite(), None)
    for number in range(12):
        one.decide(
            Decision(
                "routing", f"routes[{number}]", (("from", f"x{number}"), ("source", f"y{number}")), "no"
            ),
            1.0,
        )
    one.try_target("b1", target(), 1.0)
    assert size_of(one, set()) < 10 * 1024


def size_of(thing: object, seen: set[int]) -> int:
    if id(thing) in seen or thing is None:
        return 0
    seen.add(id(thing))
    size = sys.getsizeof(thing)
    if isinstance(thing, list | tuple):
        size += sum(size_of(part, seen) for part in thing)
    for name in getattr(type(thing), "__slots__", ()):
        size += size_of(getattr(thing, name), seen)
    return size


def test_words_that_a_peer_made_up_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    interned: list[str] = []

    def intern(text: str) -> str:
        interned.append(text)
        return text

    monkeypatch.setattr("sbc.record.sys.intern", intern)
    kept = record()
    fields = [("CSeq", "1 INVITE")]
    for made in (
        Response(486, "Busy at 4711", fields),
        Response(699, "OK", fields),
        Request("FOO4711", "sip:a@b", [("CSeq", "1 FOO4711")]),
        Response(200, "OK", [("CSeq", "1 FOO4711")]),
    ):
        kept.trace(1.0, "a", "<", made, None)
    assert interned == []
    kept.trace(1.0, "a", "<", Response(486, "Busy Here", fields), None)
    assert interned == ["486 Busy Here"]
    assert len(kept.messages) == 5
