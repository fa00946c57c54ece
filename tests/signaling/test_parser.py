"""Parser, stream framing and raw refusal: RFC 3261 s.7, s.18.3, in the spirit of RFC 4475."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import ParseError
from signaling.message import Request, Response
from signaling.parser import Framer, KeepAlive, ParseLimits, parse, refuse

VECTORS = Path(__file__).parent.parent / "vectors" / "sip"
VALID = sorted(VECTORS.glob("valid/*.sip"))
INVALID = sorted(VECTORS.glob("invalid/*.sip"))
HEAD = (
    b"OPTIONS sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
    b"From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n"
)


def message(extra: bytes = b"", body: bytes = b"") -> bytes:
    return HEAD + extra + b"\r\n" + body


def test_vectors_are_there() -> None:
    assert len(VALID) >= 9
    assert len(INVALID) >= 20


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_torture_parses_and_survives(path: Path) -> None:
    parsed = parse(path.read_bytes())
    assert parse(parsed.encode()) == parsed
    assert parsed.via.branch is not None
    assert parsed.from_.tag is not None
    assert parsed.call_id
    assert parsed.cseq.number > 0
    _ = (parsed.to.uri, parsed.contacts, parsed.routes, parsed.record_routes)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_torture_is_refused_with_its_status(path: Path) -> None:
    with pytest.raises(ParseError) as caught:
        parse(path.read_bytes())
    assert caught.value.status == int(path.stem.rsplit(".", 1)[1])


def test_spaces_and_folding_mean_nothing() -> None:
    request = parse((VECTORS / "valid/3.1.1.1-spaces-and-folding.sip").read_bytes())
    assert isinstance(request, Request)
    assert request.to.tag == "4711abcn"
    assert request.from_.display == 'C \\" Doe'
    assert request.max_forwards == 31
    assert request.get("Subject") == ""
    assert request.get("NewField") == "first part second part after a fold"
    assert [value.split(";")[0].split()[-1] for value in request.values("Via")] == [
        "192.0.2.9", "relay.example.com", "192.0.2.77",
    ]  # fmt: skip
    assert request.contacts[0].params == (("one", "value"), ("two", None), ("q", "0.5"))
    assert request.body.startswith(b"v=0")


def test_fields_are_verbatim() -> None:
    request = parse(message(b"x-Thing :  a  ;B=C , d \r\n"))
    assert request.fields[-1] == ("x-Thing", "a  ;B=C , d")


def test_datagram_longer_than_content_length_is_cut() -> None:
    assert parse(message(b"Content-Length: 3\r\n", b"abcdef")).body == b"abc"


def test_datagram_without_content_length_is_body_to_its_end() -> None:
    assert parse(message(b"", b"abcdef")).body == b"abcdef"


def test_datagram_shorter_than_content_length_is_400() -> None:
    with pytest.raises(ParseError) as caught:
        parse(message(b"l: 7\r\n", b"abcdef"))
    assert (caught.value.status, caught.value.rule) == (400, "truncated")


def test_crlf_before_the_start_line_is_ignored() -> None:
    assert isinstance(parse(b"\r\n\r\n" + message()), Request)


def test_keep_alive_is_named_as_empty() -> None:
    for data in (b"", b"\r\n", b"\r\n\r\n"):
        with pytest.raises(ParseError) as caught:
            parse(data)
        assert caught.value.rule == "empty"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (message(body=b"x" * 2000), "message-too-large"),
        (message(b"X-Big: " + b"x" * 800 + b"\r\n" + b"Y: y\r\n" * 20), "headers-too-large"),
        (message(b"X: y\r\n" * 8), "too-many-headers"),
        (message(b"X: " + b"y" * 350 + b"\r\n"), "line-too-long"),
        (message(b"X: y\r\n" + b" fold" * 40 + b"\r\n " + b"fold" * 40 + b"\r\n"), "line-too-long"),
        (HEAD + b"X: " + b"y" * 1100, "headers-too-large"),
    ],
)
def test_limits_are_513(data: bytes, rule: str) -> None:
    limits = ParseLimits(max_message_bytes=1500, max_header_bytes=1000, max_headers=12, max_line=300)
    with pytest.raises(ParseError) as caught:
        parse(data, limits)
    assert (caught.value.status, caught.value.rule) == (513, rule)


def test_folds_do_not_count_as_headers() -> None:
    limits = ParseLimits(max_headers=7)
    assert parse(message(b"X: a\r\n b\r\n c\r\n d\r\n e\r\n"), limits).get("X") == "a b c d e"


@pytest.mark.parametrize(
    "start", [b"SIP/2.0 99 x", b"SIP/2.0 700 x", b"SIP/2.0 2x0 OK", b"SIP/2.0", b"SIP/2.0  200 OK"]
)
def test_bad_status_lines(start: bytes) -> None:
    with pytest.raises(ParseError):
        parse(message().replace(b"OPTIONS sip:bob@example.com SIP/2.0", start))


def test_response() -> None:
    response = parse(
        message().replace(b"OPTIONS sip:bob@example.com SIP/2.0", b"sip/2.0 486 Busy  Here ".upper())
    )
    assert isinstance(response, Response)
    assert (response.status, response.reason) == (486, "BUSY  HERE ")


# -- refuse -------------------------------------------------------------------------------------------------


def test_refusal_is_an_answer_to_the_request() -> None:
    data = message(b"Content-Length: 0\r\n")
    answer = refuse(data, 503, "Service Unavailable", [("Retry-After", "5")])
    assert answer is not None
    response = parse(answer)
    assert isinstance(response, Response)
    assert response.status == 503
    assert response.via.branch == "z9hG4bK1"
    assert response.cseq.method == "OPTIONS"
    assert response.get("Retry-After") == "5"
    assert response.to.tag
    assert answer == refuse(data, 503, "Service Unavailable", [("Retry-After", "5")])


def test_refusal_keeps_a_to_tag_and_unfolds() -> None:
    data = (
        message()
        .replace(b"To: <sip:b@example.com>", b"t: <sip:b@example.com>\r\n ;tag=x")
        .replace(b"Via: SIP/2.0/UDP 192.0.2.1", b"v:\r\n SIP/2.0/UDP 192.0.2.1")
    )
    answer = refuse(data, 400, "Bad Request")
    assert answer is not None
    assert parse(answer).to.tag == "x"
    assert parse(answer).via.host == "192.0.2.1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        message().replace(b"OPTIONS", b"ACK"),
        message().replace(b"OPTIONS sip:bob@example.com SIP/2.0", b"SIP/2.0 200 OK"),
        message().replace(b"Via:", b"Vi:"),
        message().replace(b"CSeq:", b"Seq:"),
        message().replace(b"Call-ID: c1", b"Call-ID: c1\nEvil: 1"),
        message().replace(b"Call-ID: c1", b"Call-ID: c1\rEvil: 1"),
    ],
)
def test_what_cannot_be_answered_is_not(data: bytes) -> None:
    assert refuse(data, 400, "Bad Request") is None


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_refusal_of_invalid_torture_is_a_message(path: Path) -> None:
    answer = refuse(path.read_bytes(), 400, "Bad Request")
    if answer is not None:
        assert answer.startswith(b"SIP/2.0 400 Bad Request\r\nVia: ")
        assert answer.endswith(b"\r\nContent-Length: 0\r\n\r\n")


# -- streams ------------------------------------------------------------------------------------------------

ONE = message(b"Content-Length: 4\r\n", b"body")
TWO = message(b"l :\r\n 0\r\n")


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_may_be_cut_anywhere(sizes: list[int]) -> None:
    stream = b"\r\n\r\n" + ONE + TWO + b"\r\n\r\n" + ONE + b"\r\n" + TWO
    framer, out = Framer(), list[bytes | KeepAlive]()
    for size in sizes:
        out += framer.feed(stream[:size])
        stream = stream[size:]
    out += framer.feed(stream)
    assert out == [KeepAlive.PING, ONE, TWO, KeepAlive.PING, ONE, KeepAlive.PONG, TWO]
    assert framer.rest == b""


def test_a_row_of_pings_is_one() -> None:
    assert Framer().feed(b"\r\n\r\n" * 100 + TWO) == [KeepAlive.PING, TWO]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message(), 400),
        (message(b"Content-Length: -1\r\n"), 400),
        (message(b"Content-Length: 1\r\nl: 2\r\n"), 400),
        (message(b"Content-Length: 99999999999\r\n"), 400),
        (message(b"Content-Length: 9999999999\r\n"), 513),
        (b"x" * 40000, 513),
        (b"\rx", 400),
    ],
)
def test_a_stream_out_of_step_is_an_error(data: bytes, status: int) -> None:
    framer = Framer()
    with pytest.raises(ParseError) as caught:
        framer.feed(data)
    assert caught.value.status == status
    assert framer.error is caught.value
    with pytest.raises(ParseError):
        framer.feed(ONE)


def test_messages_before_the_fault_are_not_lost() -> None:
    framer = Framer()
    assert framer.feed(ONE + message()) == [ONE]
    assert framer.error is not None
    assert framer.rest == message()
    with pytest.raises(ParseError):
        framer.feed(b"")


def test_the_buffer_is_bounded() -> None:
    framer = Framer(ParseLimits(max_message_bytes=2000, max_header_bytes=1000))
    with pytest.raises(ParseError):
        for _ in range(100):
            framer.feed(b"X: y\r\n" * 20)
    assert len(framer.rest) <= 1000 + 4 + 120


@pytest.mark.parametrize("missing", ["Via", "From", "To", "Call-ID", "CSeq"])
def test_nothing_is_refused_that_an_answer_could_not_name(missing: str) -> None:
    lines = [
        "Via: SIP/2.0/UDP h;branch=z9hG4bK1",
        "From: <sip:a@b>;tag=1",
        "To: <sip:a@b>",
        "Call-ID: x",
        "CSeq: 1 BYE",
    ]
    kept = [line for line in lines if not line.startswith(missing)]
    assert refuse("\r\n".join(["BYE sip:a@b SIP/2.0", *kept, "", ""]).encode(), 400, "Bad Request") is None
