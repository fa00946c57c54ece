"""Calls that do not come about: refusals, redirects, CANCEL and its races, failover (RFC 3261 s.9, s.16.7)."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import Agent, Border, audio, calling, established, hang_up, pair, picked_up, talking

TWO_SERVERS = '{network: private, servers: ["sip:10.0.0.20", "sip:10.0.0.21"], from: [10.0.0.0/24]}'
ONE_SERVER = '{network: private, servers: ["sip:10.0.0.20"], from: [10.0.0.0/24]}'


def two_servers(text: str) -> str:
    return text.replace(ONE_SERVER, TWO_SERVERS)


def calling_two_servers() -> tuple[Border, Agent, Agent, Agent]:
    """Alice calls a trunk with two servers: the border, she, and they."""
    border = Border(changes=two_servers)
    alice, bob = pair(border)
    second = border.agent("private", "10.0.0.21:5060")
    alice.invite()
    return border, alice, bob, second


def calling_to_cancel() -> tuple[Border, Agent, Agent, Request, Request]:
    """A call that has come to bob: the INVITE as alice sent it, and as he got it."""
    border = Border()
    alice, bob = pair(border)
    return border, alice, bob, alice.invite(), bob.expect("INVITE")


def following(text: str) -> str:
    return text.replace(ONE_SERVER, ONE_SERVER[:-1] + ", redirects: follow}")


@pytest.mark.parametrize(
    ("status", "reason"), [(486, "Busy Here"), (404, "Not Found"), (500, "Oops"), (603, "Decline")]
)
def test_failure_keeps_its_status(status: int, reason: str) -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, status, reason, fields='Reason: Q.850;cause=17;text="busy at 10.0.0.20"')
    bob.expect("ACK")
    answer = alice.expect_answer(status)
    assert "cause=17" in (answer.get("Reason") or "")
    assert b"10.0.0" not in answer.encode()
    assert border.records[0].id in (answer.get("Warning") or ""), "the reason id leads to the record"
    alice.raw(
        f"ACK sip:200@203.0.113.10:5060 SIP/2.0\r\nVia: {answer.get('Via')}\r\nFrom: {answer.get('From')}\r\n"
        f"To: {answer.get('To')}\r\nCall-ID: {answer.call_id}\r\nCSeq: {answer.cseq.number} ACK\r\n\r\n"
    )
    border.at_rest()
    assert border.records[0].final_status == status


def test_challenge_of_a_trunk_does_not_reach_the_caller() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(
        bob.expect("INVITE"),
        407,
        "Proxy Authentication Required",
        fields='Proxy-Authenticate: Digest realm="x"',
    )
    answer = alice.expect_answer(403)
    assert answer.get("Proxy-Authenticate") is None
    border.at_rest()


def test_503_keeps_retry_after() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 503, "Busy", fields="Retry-After: 17")
    assert alice.expect_answer(503).get("Retry-After") == "17"
    border.at_rest()


def test_no_route_is_refused_with_reason() -> None:
    border = Border(changes=lambda text: text.replace("- {from: public, to: pbx}", ""))
    alice, _ = pair(border)
    alice.invite()
    message = alice.next()
    assert isinstance(message, Response) and message.status in (403, 404)
    assert border.records[0].id in (message.get("Warning") or "")
    border.at_rest()


def test_302_passes_with_our_own_contact() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 302, "Moved", fields="Contact: <sip:300@10.0.0.99>")
    answer = alice.expect_answer(302)
    assert all("10.0.0" not in value for value in answer.get_all("Contact"))
    assert b"10.0.0" not in answer.encode()
    border.at_rest()


def test_302_is_followed_when_set() -> None:
    border = Border(changes=following)
    alice, bob = pair(border)
    other = border.agent("private", "10.0.0.99:5080")
    alice.invite()
    first = bob.expect("INVITE")
    text = (
        f"SIP/2.0 302 Moved\r\nVia: {first.get('Via')}\r\nFrom: {first.get('From')}\r\nTo: {first.get('To')};tag=m\r\n"
        f"Call-ID: {first.call_id}\r\nCSeq: {first.get('CSeq')}\r\nContact: <sip:300@10.0.0.99:5080>\r\n\r\n"
    )
    bob.raw(text)
    bob.expect("ACK")
    invite = other.expect("INVITE")
    assert invite.uri.startswith("sip:300@10.0.0.99:5080")
    other.answer(invite, 200, "OK", sdp=audio("10.0.0.99", 4002))
    other.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    hang_up(border, alice, other, answer)


def test_cancel_before_any_answer_waits_for_one() -> None:
    """RFC 3261 s.9.1: no CANCEL before a provisional answer."""
    border, alice, bob, invite, got = calling_to_cancel()
    alice.cancel(invite)
    assert {alice.next().encode()[:11], alice.next().encode()[:11]} == {b"SIP/2.0 200", b"SIP/2.0 487"}
    bob.nothing()
    bob.answer(got, 100, "Trying")
    cancel = bob.expect("CANCEL")
    bob.answer(cancel, 200)
    bob.answer(got, 487, "Request Terminated")
    bob.expect("ACK")
    border.at_rest()


def test_cancel_while_ringing() -> None:
    border, alice, bob, invite, got = calling_to_cancel()
    bob.answer(got, 180, "Ringing")
    alice.expect_answer(180)
    alice.cancel(invite)
    assert {alice.next().encode()[:11], alice.next().encode()[:11]} == {b"SIP/2.0 200", b"SIP/2.0 487"}
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(got, 487, "Request Terminated")
    bob.expect("ACK")
    border.at_rest()
    assert border.records[0].end_cause == "cancel"


def test_cancel_after_200_has_no_effect() -> None:
    border, alice, bob, invite, got = calling_to_cancel()
    bob.answer(got, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("ACK")
    answer = alice.expect_answer(200)
    alice.cancel(invite)
    message = alice.next()
    assert isinstance(message, Response) and message.cseq.method == "CANCEL"
    bob.nothing()
    alice.ack(answer)
    hang_up(border, alice, bob, answer)


def test_cancel_crossing_200_ends_in_ack_and_bye() -> None:
    border, alice, bob, invite, got = calling_to_cancel()
    bob.answer(got, 180, "Ringing")
    alice.expect_answer(180)
    alice.cancel(invite)
    bob.answer(got, 200, "OK", sdp=audio("10.0.0.20", 4002))
    bob.expect("CANCEL")
    bob.expect("ACK")
    bob.answer(bob.expect("BYE"), 200)
    border.at_rest()


def test_cancelled_callee_that_never_answers_is_given_up() -> None:
    border, alice, bob, invite, got = calling_to_cancel()
    bob.answer(got, 180, "Ringing")
    alice.cancel(invite)
    border.at_rest()
    assert border.records[0].end_cause == "cancel"


def test_silent_server_is_passed_over() -> None:
    border, alice, bob, second = calling_two_servers()
    bob.expect("INVITE")
    border.advance(4.1)
    invite = second.expect("INVITE")
    answer = picked_up(alice, second, invite)
    hang_up(border, alice, second, answer)


def test_503_goes_to_the_next_server() -> None:
    border, alice, bob, second = calling_two_servers()
    bob.answer(bob.expect("INVITE"), 503, "Unavailable")
    bob.expect("ACK")
    invite = second.expect("INVITE")
    alice.nothing()
    second.answer(invite, 486, "Busy Here")
    second.expect("ACK")
    alice.expect_answer(486)
    border.at_rest()
    assert [tried.status for tried in border.records[0].targets] == [503, 486]


def test_busy_does_not_fail_over() -> None:
    border, alice, bob, second = calling_two_servers()
    bob.answer(bob.expect("INVITE"), 486, "Busy Here")
    alice.expect_answer(486)
    second.nothing()
    border.at_rest()


def test_nobody_answers_at_all() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite()
    bob.expect("INVITE")
    border.advance(4.1)
    alice.expect_answer(408)
    border.at_rest()
    assert border.records[0].final_status == 408


def test_ringing_for_ever_ends_in_480() -> None:
    border, alice, bob, got = calling()
    bob.answer(got, 180, "Ringing")
    alice.expect_answer(180)
    border.advance(181)
    alice.expect_answer(480)
    bob.answer(bob.expect("CANCEL"), 200)
    bob.answer(got, 487, "Request Terminated")
    border.at_rest()


def test_unusable_offer_is_488_and_nobody_is_called() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp=audio("203.0.113.77").replace("RTP/AVP", "RTP/SAVP"))
    alice.expect_answer(488)
    bob.nothing()
    border.at_rest()


def test_broken_offer_is_refused_and_nobody_is_called() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="v=0\r\nnonsense\r\n")
    message = alice.next()
    assert isinstance(message, Response) and message.status in (400, 488)
    bob.nothing()
    border.at_rest()


def test_full_port_pool_is_503_with_reason() -> None:
    border = Border(
        changes=lambda text: text.replace("20000-20999", "20000-20001").replace(
            "max_calls: 200", "max_calls: 1"
        )
    )
    alice, bob = pair(border)
    answer, _ = established(border, alice, bob)
    border.calls.config.limits.__dict__["max_calls"] = 10
    carol = border.agent("public", "203.0.113.78:5070")
    border.calls.reload(border.calls.config, border.now)
    carol.invite()
    refused = carol.expect_answer(503)
    assert "media-ports-exhausted" in (refused.get("Warning") or "")
    assert refused.get("Retry-After")
    assert border.calls.stats["refused:media-ports-exhausted"] == 1
    bob.nothing()
    # Its Retry-After is ours and not the server's, which goes on being tried.
    carol.call_id, carol.tag = "another", "another"
    carol.invite()
    assert "media-ports-exhausted" in (carol.expect_answer(503).get("Warning") or "")
    hang_up(border, alice, bob, answer)


def test_required_extension_is_420() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Require: 100rel")
    assert alice.expect_answer(420).get("Unsupported") == "100rel"
    bob.nothing()
    border.at_rest()


def test_what_is_counted_is_not_for_the_peer_to_name() -> None:
    """Every refusal is counted under its rule: with words of the peer in it, memory would be his to fill."""
    border = Border()
    alice, _ = pair(border)
    for number in range(20):
        alice.call_id = alice.tag = f"call{number}"
        alice.invite(fields=f"Require: x{number}")
        alice.expect_answer(420)
    counted = {name: count for name, count in border.calls.stats.items() if name.startswith("refused:")}
    assert counted == {"refused:bad-extension": 20}


@pytest.mark.parametrize(
    ("status", "told"), [(420, 488), (421, 488), (422, 488), (423, 480), (439, 480), (494, 403)]
)
def test_what_only_our_request_could_answer_stays_a_4xx(status: int, told: int) -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, status)
    bob.expect("ACK")
    alice.expect_answer(told)
    border.at_rest()
    assert border.records[0].final_status == told


@pytest.mark.parametrize(
    ("uri", "rule"),
    [
        ("http://x.example/", "uri-scheme"),
        ("mailto:200@x.example", "uri-scheme"),
        ("urn:service:counseling", "uri-scheme"),
        ("sips:200@203.0.113.10", "sips-without-tls"),
        ("SIPS:200@203.0.113.10", "sips-without-tls"),
    ],
)
def test_a_uri_that_cannot_be_called_is_416(uri: str, rule: str) -> None:
    """RFC 3261 s.8.2.2.1, and s.26.2.2: what asks for TLS does not go on in the clear."""
    border = Border()
    alice, bob = pair(border)
    alice.request("INVITE", uri=uri, body=audio("203.0.113.77"))
    assert rule in (alice.expect_answer(416).get("Warning") or "")
    bob.nothing()
    border.at_rest()
    assert (border.records[0].final_status, border.records[0].final_rule) == (416, rule)


def test_a_number_and_a_service_are_called_without_sip() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.request("INVITE", uri="tel:+4930123", to_header="<tel:+4930123>", body=audio("203.0.113.77"))
    invite = bob.expect("INVITE")
    assert invite.uri.startswith("sip:+4930123@")
    bob.answer(invite, 486)
    alice.expect_answer(486)
    border.at_rest()


def test_max_forwards_zero_is_483() -> None:
    border = Border()
    alice, bob = pair(border)
    text = (
        "INVITE sip:200@203.0.113.10 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.77:5070;branch=z9hG4bKmf0\r\n"
        "Max-Forwards: 0\r\nFrom: <sip:1@203.0.113.77>;tag=1\r\nTo: <sip:200@203.0.113.10>\r\nCall-ID: mf0\r\n"
        "CSeq: 1 INVITE\r\nContact: <sip:1@203.0.113.77:5070>\r\nContent-Length: 0\r\n\r\n"
    )
    alice.raw(text)
    alice.expect_answer(483)
    bob.nothing()
    border.at_rest()


def test_drain_refuses_new_calls_and_keeps_the_old() -> None:
    border, alice, bob, answer, _ = talking()
    border.calls.drain(border.now)
    carol = border.agent("public", "203.0.113.78:5070")
    carol.invite()
    assert carol.expect_answer(503).get("Retry-After")
    assert (border.records[0].caller, border.records[0].called) == ("100", "200")
    hang_up(border, alice, bob, answer)


def test_overload_is_refused_before_parsing() -> None:
    border = Border()
    alice, bob = pair(border)
    border.lose = lambda data, flow: False
    invite = alice.invite()
    bob.answer(bob.expect("INVITE"), 486, "Busy Here")
    alice.expect_answer(486)
    late = invite.encode().replace(b"z9hG4bK", b"z9hG4bKlate").replace(b"-call-", b"-late-")
    border.calls.receive(late, alice.flow, border.now, age_s=3.0)
    answer = alice.expect_answer(503)
    assert answer.get("Retry-After")
    bob.inbox.clear()
    border.advance(1)
    bob.nothing()
    alice.inbox.clear()
    # What the parser refuses tells whether it was asked.
    broken = late.replace(b"CSeq: 101 INVITE", b"CSeq: 101 BYE")
    border.calls.receive(broken, alice.flow, border.now)
    alice.expect_answer(400)
    border.calls.receive(broken, alice.flow, border.now, age_s=3.0)
    alice.expect_answer(503)
