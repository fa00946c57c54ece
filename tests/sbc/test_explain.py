"""The explanation of a call: from its record and the figures of its media to text and data."""

import json

import pytest

from media.relay import Counters, StreamCounters
from sbc.anchor import ADVERTISED, MediaLine, MediaReport
from sbc.decisions import Decision
from sbc.explain import Explanation, explain
from sbc.record import CallRecord, TraceMode
from sbc.routing import Target
from signaling.flow import Flow
from signaling.message import Request, respond

A_FLOW = Flow("public", "udp", ("203.0.113.1", 5060), ("203.0.113.99", 5060))
B_FLOW = Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.20", 5060))
TARGET = Target("pbx", "private", "udp", ("10.0.0.20", 5060), "10.0.0.20", "100")
GOOD = Counters(
    packets=250, forwarded=250, jitter_ms=0.5, mos=4.4, source=("203.0.113.99", 4000), payload_types=(0,)
)


def invite(host: str, call_id: str) -> Request:
    fields = [
        ("Via", f"SIP/2.0/UDP {host}:5060;branch=z9hG4bK{call_id}"),
        ("From", f"<sip:alice@{host}>;tag={call_id}"),
        ("To", f"<sip:100@{host}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 INVITE"),
    ]
    return Request("INVITE", f"sip:100@{host}", fields)


def record(trace: TraceMode = "full") -> CallRecord:
    call = CallRecord("c-0001", 1_700_000_000.0, 50, trace)
    call.caller, call.called = "alice", "100"
    call.add_leg("a", A_FLOW, None, "aaa")
    call.trace(call.started, "a", "<", invite("203.0.113.99", "aaa"), None)
    fits = Decision("routing", "routes[0]", (("from", "public"),), "fits: to pbx")
    call.decide(fits, call.started + 0.001)
    call.try_target("b1", TARGET, call.started + 0.002)
    call.add_leg("b1", B_FLOW, "pbx", "bbb")
    call.trace(call.started + 0.002, "b1", ">", invite("10.0.0.1", "bbb"), None)
    return call


def answered(trace: TraceMode = "full") -> CallRecord:
    call = record(trace)
    ok = respond(invite("10.0.0.1", "bbb"), 200, "OK", "t")
    call.trace(call.started + 1.0, "b1", "<", ok, None)
    call.answered(call.started + 1.0, "b1")
    call.trace(call.started + 1.0, "a", ">", respond(invite("203.0.113.99", "aaa"), 200, "OK", "t"), None)
    return call


def report(a: Counters = GOOD, b: Counters = GOOD, a_signalled: str = "203.0.113.99:4000") -> MediaReport:
    line = MediaLine(
        1, "audio", "PCMU/8000", a_signalled, "10.0.0.20:5000", "203.0.113.1:20000", "10.0.0.1:20002",
        "sendrecv", "sendrecv",
    )  # fmt: skip
    return MediaReport((line,), (StreamCounters(1, "c-0001", a, b),))


def explained(call: CallRecord, media: MediaReport | None = None, nat: bool = False) -> Explanation:
    return explain(call, media, {"a": nat}, call.started + 11.0)


def test_a_healthy_call_in_progress_says_nothing_alarming() -> None:
    explanation = explained(answered(), report())
    assert explanation.verdict == ("The call is up since 10.0 s.", "Healthy: both directions carry audio.")
    text = explanation.text(100, plain=True)
    for alarming in ("not", "lost between", "nothing", "stranger", "silent", "fail"):
        assert alarming not in text.partition("Verdict")[2]


def test_the_text_has_all_its_parts() -> None:
    text = explained(answered(), report()).text(100, plain=True)
    lines = text.splitlines()
    assert lines[0] == "Call c-0001: alice -> 100, up, came 2023-11-14 22:13:20 UTC"
    assert "  leg a   udp 203.0.113.99:5060 in public, Call-ID aaa" in lines
    assert "  leg b1  udp 10.0.0.20:5060 in private (trunk pbx), Call-ID bbb" in lines
    assert "  server 1: pbx udp:10.0.0.20:5060 as 100: 200 OK after 0.998 s" in lines
    assert "     0.001  routing    fits: to pbx  [routes[0]] (from public)" in lines
    assert [line for line in lines if line in ("Decisions", "Ladder", "Hidden by the border", "Media", "Verdict")] == [
        "Decisions", "Ladder", "Hidden by the border", "Media", "Verdict",
    ]  # fmt: skip
    assert any("INVITE" in line and "|" in line for line in lines)
    assert any(line.split() == ["Call-ID", "aaa", "bbb"] for line in lines)
    assert (
        "    A -> B: signalled 203.0.113.99:4000, our port 203.0.113.1:20000, source 203.0.113.99:4000"
        in lines
    )
    assert "            250 packets (250 forwarded), 0 lost (0.0%), jitter 0.5 ms (max 0.0), MOS 4.4" in lines


def test_the_sentence_of_the_issue() -> None:
    silent = report(a=Counters(), a_signalled="192.168.1.5:4000")
    assert explained(answered(), silent, nat=True).verdict[1:] == (
        "B sends, we forward.",
        "A's address 192.168.1.5 is private and nothing has come from it: A is behind NAT"
        " and has not opened its port.",
    )


def described(origin: str, host: str, formats: str = "0") -> bytes:
    lines = ["v=0", f"o=- 1 1 IN IP4 {origin}", "s=-", f"c=IN IP4 {host}", "t=0 0"]
    lines += [
        f"m=audio 4000 RTP/AVP {formats}",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:101 telephone-event/8000",
        "",
    ]
    return "\r\n".join(lines).encode()


def ids(explanation: Explanation) -> list[tuple[str, str]]:
    return [(finding.id, finding.side) for finding in explanation.findings]


def test_sdp_that_was_rewritten_on_its_way() -> None:
    call = answered()
    call.legs[0].described = described("192.168.1.5", "203.0.113.99")
    strange = report(a=Counters(strangers=50))
    assert ids(explained(call, strange)) == [("up", ""), ("healthy", "B"), ("sdp-rewritten", "A")]
    call.legs[0].described = b"m=rubbish"
    assert ids(explained(call, strange))[2] == ("strangers-unhelped", "A")


def test_a_payload_type_that_the_sdp_of_the_other_side_does_not_have() -> None:
    call = answered()
    call.legs[0].described = described("203.0.113.99", "203.0.113.99", "0 101")
    digits = report(b=Counters(packets=9, forwarded=9, payload_types=(101,)))
    assert ids(explained(call, digits))[2] == ("only-digits", "B")
    wrong = report(b=Counters(packets=9, forwarded=9, payload_types=(97,)))
    assert ids(explained(call, wrong))[2] == ("wrong-codec", "B")


def test_an_address_that_is_advertised_is_doubted_when_nothing_comes() -> None:
    call = answered()
    where = (("told", "203.0.113.1:20000"), ("bound", "10.9.9.9"))
    call.decide(Decision("nat", ADVERTISED, where, "another address is advertised"), call.started + 1)
    said = explained(call, report(a=Counters()))
    assert ids(said) == [("up", ""), ("healthy", "B"), ("wrong-advertise", "A")]
    assert "was told to send to 203.0.113.1:20000 while we listen on 10.9.9.9" in said.verdict[2]
    assert ids(explained(call, report(b=Counters())))[2] == ("nothing", "B"), "B was told where we listen"


def test_findings_are_in_the_data_and_their_ids_in_the_text() -> None:
    said = explained(answered(), report(a=Counters()))
    assert [finding["id"] for finding in json.loads(json.dumps(said.data()))["findings"]] == [
        "up",
        "healthy",
        "nothing",
    ]
    assert "[nothing]" in said.text(200).partition("Verdict")[2]


def test_a_refusal_by_the_peer_names_it_and_its_answer() -> None:
    call = record()
    call.tried("b1", 486, "Busy Here", "peer-rejected", call.started + 2)
    call.end(call.started + 2, "b", "peer-rejected", "Busy Here", 486, "peer-rejected")
    assert explained(call).verdict == ("Refused by B (pbx 10.0.0.20:5060): 486 Busy Here.",)


def test_a_refusal_by_a_rule_of_ours() -> None:
    call = CallRecord("c-2", 1_700_000_000.0)
    call.add_leg("a", A_FLOW, None, "aaa")
    call.end(call.started, "sbc", "no-route", "No Route For This Number", 404, "no-route")
    explanation = explained(call)
    assert explanation.verdict[0].startswith("Rejected with 404: no rule of routes matched")
    assert "(never called)" in explanation.text()
    assert "no media was agreed" in explanation.text()


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("media-silence", "no media came from either side for longer"),
        ("session-timer", "the session timer ran out"),
        ("drain", "told to stop"),
        ("operator", "sbc hangup"),
        ("bye", "B hung up after 9.0 s"),
    ],
)
def test_how_an_answered_call_ended(cause: str, words: str) -> None:
    call = answered()
    call.end(call.started + 10.0, "b", cause, "", 200, cause)
    verdict = explained(call, report()).verdict
    assert words in verdict[0]
    assert verdict[1] == "Healthy: both directions carry audio."


def test_hold_is_taken_from_the_directions() -> None:
    call = answered()
    line = MediaLine(
        1, "audio", "PCMU", "203.0.113.99:4000", "10.0.0.20:5000", "x:1", "y:2", "sendonly", "recvonly"
    )
    held = MediaReport((line,), (StreamCounters(1, "c-0001", GOOD, Counters()),))
    assert "B is silent by agreement" in explained(call, held).verdict[2]


def test_without_whole_messages_there_is_no_table_of_what_was_hidden() -> None:
    explanation = explained(answered("lines"), report())
    assert explanation.hidden == {}
    assert "Hidden by the border" not in explanation.text()


def test_after_a_failover_the_column_is_the_server_that_answered() -> None:
    call = record()
    call.tried("b1", 503, "Service Unavailable", "peer-rejected", call.started + 1)
    second = Target("backup", "private", "udp", ("10.0.0.21", 5060), "10.0.0.21", "100")
    call.try_target("b2", second, call.started + 1)
    call.add_leg("b2", Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.21", 5060)), "backup", "ccc")
    call.answered(call.started + 2, "b2")
    text = explained(call).text(100, plain=True)
    assert "B backup udp:10.0.0.21:5060" in text
    assert "server 1: pbx udp:10.0.0.20:5060 as 100: 503 Service Unavailable after 0.998 s" in text


def test_the_data_is_json_with_the_verdict_and_the_figures() -> None:
    data = json.loads(json.dumps(explained(answered(), report()).data()))
    assert data["id"] == "c-0001"
    assert data["verdict"][1] == "Healthy: both directions carry audio."
    assert data["media"][0]["a"]["packets"] == 250
    assert {row["what"] for row in data["hidden"]["INVITE from A to B"]} >= {"Call-ID", "Via"}


def test_what_a_peer_wrote_cannot_move_the_cursor() -> None:
    call = record("lines")
    call.caller = "\x1b[2Jalice"
    call.decide(Decision("source", "rule", (("user", "\x1b[31m"),), "ok"), call.started)
    assert "\x1b" not in explained(call).text()
