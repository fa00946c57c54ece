"""Requests read for what an answer repeats: the same as the parser finds, or none at all."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.parser import ParseLimits, parse
from signaling.stateless import MAX_BYTES, Plain, lines, read

FLOW = Flow("public", "udp", ("203.0.113.10", 5060), ("192.0.2.7", 40001))
REGISTER = (
    b"REGISTER sip:sip.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bKa1;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Alice" <sip:alice@sip.example.com>;tag=f1\r\n'
    b"To: <sip:alice@sip.example.com>\r\n"
    b"Call-ID: c1@192.168.1.5\r\n"
    b"CSeq: 41 REGISTER\r\n"
    b"Contact: <sip:alice@192.168.1.5:5060>;expires=60\r\n"
    b'Authorization: Digest username="alice", realm="x", nonce="n", uri="u", response="r"\r\n'
    b"User-Agent: Home/1.0\r\n"
    b"Content-Length: 0\r\n\r\n"
)
LIMITS = ParseLimits()


def plain(data: bytes, flow: Flow = FLOW) -> Plain | None:
    return read(data, flow, LIMITS.max_headers)


def test_what_an_answer_repeats() -> None:
    found = plain(REGISTER)
    assert found is not None
    assert (found.method, found.uri, found.number) == ("REGISTER", "sip:sip.example.com", 41)
    assert (found.sent_by, found.sender) == ("192.168.1.5:5060", '"Alice" <sip:alice@sip.example.com')
    assert found.authorization.startswith('Digest username="alice"')
    assert found.others == [
        "Max-Forwards: 70",
        "Contact: <sip:alice@192.168.1.5:5060>;expires=60",
        "User-Agent: Home/1.0",
    ]
    answer = parse(found.answer("200 OK", lines([("Expires", "60"), ("Server", "x")])))
    request = parse(REGISTER)
    assert isinstance(answer, Response) and (answer.status, answer.reason) == (200, "OK")
    # RFC 3581 s.4: the answer says where the request came from.
    assert answer.get_all("Via") == [
        "SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bKa1;rport=40001;received=192.0.2.7"
    ]
    for name in ("From", "Call-ID", "CSeq"):
        assert answer.get(name) == request.get(name)
    assert answer.to.uri_text == request.to.uri_text and answer.to_tag
    assert (answer.get("Expires"), answer.get("Server"), answer.body) == ("60", "x", b"")


def test_a_repeated_request_gets_the_same_tag_and_another_one_another() -> None:
    """RFC 3261 s.8.2.7."""
    one, again, other = plain(REGISTER), plain(REGISTER), plain(REGISTER.replace(b"z9hG4bKa1", b"z9hG4bKa2"))
    assert one is not None and again is not None and other is not None
    assert one.answer("200 OK", "") == again.answer("200 OK", "")
    tags = {parse(found.answer("200 OK", "")).to_tag for found in (one, other)}
    assert len(tags) == 2


def test_without_rport_the_sender_has_to_be_where_it_says() -> None:
    """RFC 3261 s.18.2.2: else the answer goes elsewhere, which is for the transactions to find out."""
    bare = REGISTER.replace(b";rport", b"")
    assert plain(bare) is None
    here = Flow("public", "udp", FLOW.local, ("192.168.1.5", 5060))
    found = plain(bare, here)
    assert found is not None and found.via == "SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bKa1"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Content-Length: 0\r\n\r\n", b"Content-Length: 4\r\n\r\nbody"),
        (b"Content-Length: 0\r\n\r\n", b"Content-Length: 0\r\n\r\nmore"),
        (b"Content-Length: 0\r\n\r\n", b"Content-Length: 0\r\n"),
        (b"User-Agent: Home/1.0", b"User-Agent: Home\r\n folded"),
        (b"User-Agent: Home/1.0", b"User-Agent: Home\nInjected: 1"),
        (b"User-Agent: Home/1.0", b"User-Agent: Home\rInjected: 1"),
        (b"User-Agent: Home/1.0", b"User-Agent: Hom\xc3\xa9"),
        (b"User-Agent: Home/1.0", b"User-Agent: \0"),
        (b"User-Agent: Home/1.0", b"User-Agent"),
        (b"User-Agent: Home/1.0", b"Unheard-Of: 1"),
        (b"User-Agent: Home/1.0", b"Subject: " + b"x" * MAX_BYTES),
        (b"User-Agent: Home/1.0", b"To: <sip:bob@sip.example.com>"),
        (b"User-Agent: Home/1.0", b"From: <sip:bob@sip.example.com>;tag=2"),
        (b"User-Agent: Home/1.0", b"Call-ID: another"),
        (b"User-Agent: Home/1.0", b"CSeq: 42 REGISTER"),
        (b"User-Agent: Home/1.0", b"Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKb"),
        (b"User-Agent: Home/1.0", b"Authorization: Digest x"),
        (b"User-Agent: Home/1.0", b"Max-Forwards: 1"),
        (b"User-Agent: Home/1.0", b"l: 0"),
        (b"To: <sip:alice@sip.example.com>", b"To: <sip:alice@sip.example.com>;tag=t"),
        (b"To: <sip:alice@sip.example.com>", b"To: sip:alice@sip.example.com"),
        (b";tag=f1", b""),
        (b";tag=f1", b";x=1;tag=f1"),
        (b";rport", b";rport=1"),
        (b";rport", b";RPORT"),
        (b";rport", b";rport, SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKb"),
        (b";branch=z9hG4bKa1", b";branch=1"),
        (b"SIP/2.0/UDP", b"SIP/2.0/TCP"),
        (b"SIP/2.0/UDP", b"SIP / 2.0 / UDP"),
        (b"41 REGISTER", b"41 INVITE"),
        (b"41 REGISTER", b"4294967296 REGISTER"),
        (b"41 REGISTER", b"-1 REGISTER"),
        (b"Call-ID: c1@192.168.1.5\r\n", b""),
        (b"sip.example.com SIP/2.0", b"sip.example.com SIP/3.0"),
        (b"REGISTER sip:sip.example.com", b"REGISTER  sip:sip.example.com"),
        (b"REGISTER sip:sip.example.com", b"REGISTER >sip:sip.example.com"),
        (b"REGISTER sip:sip.example.com", b"REGISTER sip:sip.example.com\x01"),
        (b"REGISTER sip:sip.example.com", b"REGISTER sip:sip.example.com\x7f"),
    ],
)
def test_whatever_else_is_for_the_parser(old: bytes, new: bytes) -> None:
    assert plain(REGISTER) is not None
    assert plain(REGISTER.replace(old, new, 1)) is None


def test_the_limits_are_those_of_the_parser() -> None:
    many = REGISTER.replace(b"User-Agent: Home/1.0\r\n", b"User-Agent: Home/1.0\r\n" * 20)
    assert read(many, FLOW, 29) is not None
    assert read(many, FLOW, 28) is None
    assert len(parse(many, ParseLimits(max_headers=29)).fields) == 29


PIECES = (
    b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b";", b",", b"<", b">", b'"', b"\0", b"\xff", b"v: x\r\n",
    b"t: <sip:a@b>\r\n", b"Max-Forwards: 1\r\n",
    b"tag=", b";rport", b";branch=z9hG4bK", b"1", b"Content-Length: 0\r\n", b"\r\n\r\n", b"ACK ", b"SIP/2.0",
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.integers(0, len(REGISTER)), st.integers(0, 40), st.sampled_from((*PIECES, b""))),
        max_size=4,
    )
)
def test_what_is_read_is_what_the_parser_reads(changes: list[tuple[int, int, bytes]]) -> None:
    data = REGISTER
    for at, dropped, piece in changes:
        data = data[:at] + piece + data[at + dropped :]
    found = plain(data)
    if found is None:
        return
    request = parse(data)
    assert isinstance(request, Request)
    assert (found.method, found.uri, found.call_id) == (request.method, request.uri, request.call_id)
    assert found.number == request.cseq.number and request.to_tag is None
    assert len(request.get_all("Via")) == 1 and request.via.branch is not None
    assert (request.get("Authorization") or "") == found.authorization
    answer = parse(found.answer("200 OK", "X-Ours: 1\r\n"))
    assert [name for name, _ in answer.fields] == [
        "Via", "From", "To", "Call-ID", "CSeq", "X-Ours", "Content-Length"
    ]  # fmt: skip
    assert answer.get("From") == request.get("From") and answer.to.uri_text == request.to.uri_text
    assert re.sub(r";tag=\d+$", "", answer.get("To") or "") == request.get("To")
    for before, after in pairwise(found.others):
        assert data.index(before.encode()) <= data.index(after.encode())
