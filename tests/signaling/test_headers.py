"""Structured header values: RFC 3261 s.20 and s.25.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import ParseError
from signaling.headers import (
    CSeq,
    NameAddr,
    Via,
    parse_cseq,
    parse_name_addr,
    parse_params,
    parse_via,
    split_commas,
    write_display,
)
from signaling.uri import SipUri


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<sip:a@h>", NameAddr("", "sip:a@h")),
        ("sip:a@h", NameAddr("", "sip:a@h")),
        ("sip:a@h;tag=1", NameAddr("", "sip:a@h", (("tag", "1"),))),
        ("<sip:a@h;lr>;tag=1", NameAddr("", "sip:a@h;lr", (("tag", "1"),))),
        ("Alice B <sip:a@h> ; TAG = x ;y", NameAddr("Alice B", "sip:a@h", (("tag", "x"), ("y", None)))),
        ('"A \\"q\\" \\\\ <x>, y" <sip:a@h>', NameAddr('A "q" \\ <x>, y', "sip:a@h")),
        ('"A"<sip:a@h>;p="a;b"', NameAddr("A", "sip:a@h", (("p", '"a;b"'),))),
        ('sip:a@h;p="<b>";tag=1', NameAddr("", "sip:a@h", (("p", '"<b>"'), ("tag", "1")))),
        ("Bell, Alexander <sip:b@h>;tag=4", NameAddr("Bell, Alexander", "sip:b@h", (("tag", "4"),))),
        ("*", NameAddr("", "*")),
        ('"" <tel:+1>', NameAddr("", "tel:+1")),
        ("大停電 <sip:a@h>", NameAddr("大停電", "sip:a@h")),
    ],
)
def test_name_addr_is_taken_apart(text: str, value: NameAddr) -> None:
    assert parse_name_addr(text) == value
    assert parse_name_addr(str(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<>",
        "<sip:a@h",
        '"A <sip:a@h>',
        '"A" sip:a@h',
        '"A" x <sip:a@h>',
        "<sip:a@h> x",
        "<sip:a@h>;=1",
        ";tag=1",
    ],
)
def test_malformed_name_addr_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_name_addr(text)


def test_name_addr_params() -> None:
    value = parse_name_addr('<sip:a@h>;tag=T1;x;n="q \\" r"')
    assert value.tag == "T1"
    assert value.param("x") == ""
    assert value.param("n") == 'q " r'
    assert value.param("other") is None
    assert isinstance(value.uri, SipUri)
    assert parse_name_addr("<sip:a@h>;tag=").tag is None


def test_display_is_quoted_only_where_it_must_be() -> None:
    assert write_display("Alice B") == "Alice B"
    assert write_display("a@b") == '"a@b"'
    assert write_display(" x") == '" x"'


@pytest.mark.parametrize(
    ("text", "via"),
    [
        (
            "SIP/2.0/UDP h.example;branch=z9hG4bK1;rport",
            Via("UDP", "h.example", None, (("branch", "z9hG4bK1"), ("rport", None))),
        ),
        ("SIP/2.0/tcp 192.0.2.1:5070", Via("TCP", "192.0.2.1", 5070)),
        (
            "SIP / 2.0 / UDP   first.example : 4000 ;ttl=16",
            Via("UDP", "first.example", 4000, (("ttl", "16"),)),
        ),
        ("SIP/2.0/UDP\t192.0.2.1", Via("UDP", "192.0.2.1", None)),
        (
            "SIP/2.0/TLS [2001:db8::1]:5061;received=[2001:db8::2]",
            Via("TLS", "2001:db8::1", 5061, (("received", "[2001:db8::2]"),)),
        ),
        ("SIP/2.0/UDP [2001:db8::1]", Via("UDP", "2001:db8::1", None)),
    ],
)
def test_via_is_taken_apart(text: str, via: Via) -> None:
    assert parse_via(text) == via
    assert parse_via(str(via)) == via


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0 h",
        "UDP h",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/U@P h",
        "SIP/2.0/UDP [::1",
        "HTTP/1.1/TCP h",
        "SIP/2.0/UDP ;x",
    ],
)
def test_malformed_via_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_via(text)


def test_cseq() -> None:
    assert parse_cseq("0009\t INVITE") == CSeq(9, "INVITE")
    assert str(CSeq(9, "INVITE")) == "9 INVITE"
    for text in (
        "",
        "1",
        "INVITE 1",
        "-1 ACK",
        "2147483648 ACK",
        "99999999999999 ACK",
        "1 IN VITE",
        "1 A@B",
        "² ACK",
    ):
        with pytest.raises(ParseError):
            parse_cseq(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("a", ["a"]),
        (" a , b,,c ", ["a", "b", "c"]),
        ('"x, y" <sip:a@h>, <sip:b,c@h>;p="1,2", d', ['"x, y" <sip:a@h>', '<sip:b,c@h>;p="1,2"', "d"]),
        ('"a\\", b", c', ['"a\\", b"', "c"]),
        ('"open, a', ['"open, a']),
    ],
)
def test_commas_split_outside_quotes_and_brackets(text: str, parts: list[str]) -> None:
    assert split_commas(text) == parts


def test_params_without_leading_semicolon() -> None:
    assert parse_params("Refresher=uac;x") == (("refresher", "uac"), ("x", None))
    assert parse_params(';a="1;2";;b=') == (("a", '"1;2"'), ("b", ""))
    assert parse_params("") == ()


TOKENS = st.from_regex(r"[A-Za-z0-9\-.!%*_+`'~]{1,10}", fullmatch=True)
DISPLAYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(str.strip)
HEADER_PARAMS = st.lists(
    st.tuples(TOKENS.map(str.lower), st.none() | TOKENS | st.just('"a;b,c<d>"')), max_size=4
).map(tuple)


@given(DISPLAYS, HEADER_PARAMS)
def test_written_name_addr_parses_to_the_same(
    display: str, params: tuple[tuple[str, str | None], ...]
) -> None:
    value = NameAddr(display, "sip:alice@example.com;lr", params)
    assert parse_name_addr(str(value)) == value
    assert split_commas(f"{value}, {value}") == [str(value), str(value)]


@given(st.text())
def test_any_text_is_a_value_or_a_parse_error(text: str) -> None:
    for parser in (parse_name_addr, parse_via, parse_cseq, parse_params):
        try:
            parser(text)
        except ParseError:
            continue
    split_commas(text)
