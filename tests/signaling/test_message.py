"""Messages: verbatim fields, lookups, typed access, encoding (RFC 3261 s.7)."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import ParseError, UsageError
from signaling.headers import CSeq
from signaling.message import Request, Response, key_of, respond
from signaling.parser import parse

HEAD = [
    ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1, SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK2"),
    ("v", "SIP/2.0/UDP 192.0.2.3;branch=z9hG4bK3"),
    ("Max-Forwards", "70"),
    ("From", "Alice <sip:alice@example.com>;tag=a1"),
    ("t", "<sip:bob@example.com>"),
    ("I", "call-1@example.com"),
    ("CSeq", "7 INVITE"),
    ("CONTACT", '"x, y" <sip:alice@192.0.2.1>, <sip:alice@192.0.2.9>;q=0.5'),
    ("Timestamp", "54"),
    ("X-Odd", "  not stripped here"),
]


def invite() -> Request:
    return Request("INVITE", "sip:bob@example.com", HEAD, b"v=0\r\n")


def test_lookups_know_compact_forms_and_any_case() -> None:
    request = invite()
    assert request.get("Call-ID") == "call-1@example.com"
    assert request.get("call-id") == request.get("i") == request.get("CALL-id")
    assert request.get("To") == "<sip:bob@example.com>"
    assert len(request.get_all("Via")) == 2
    assert len(request.values("Via")) == 3
    assert request.get("x-odd") == "  not stripped here"
    assert request.get("Subject") is None
    assert request.values("Subject") == request.get_all("Subject") == []
    assert key_of("M") == "contact"


def test_typed_properties() -> None:
    request = invite()
    assert request.via.branch == "z9hG4bK1"
    assert request.from_.tag == "a1"
    assert request.to.tag is None
    assert request.call_id == "call-1@example.com"
    assert request.cseq == CSeq(7, "INVITE")
    assert [contact.uri_text for contact in request.contacts] == [
        "sip:alice@192.0.2.1",
        "sip:alice@192.0.2.9",
    ]
    assert request.max_forwards == 70
    assert request.content_type == ""
    assert request.routes == request.record_routes == []


def test_a_property_follows_its_line() -> None:
    request = invite()
    assert request.from_.tag == "a1"
    request.replace("From", "<sip:c@example.com>;tag=c1")
    assert request.from_.tag == "c1"
    request.replace_first("From", "<sip:c@example.com>;tag=d1")
    assert request.from_.tag == request.from_tag == "d1"
    request.prepend("Route", "<sip:p.example.com;lr>")
    assert request.routes[0].uri_text == "sip:p.example.com;lr"


def test_a_parsed_message_forgets_what_it_knew_of_a_changed_line() -> None:
    request = parse(invite().encode())
    assert isinstance(request, Request)
    vias = request.get_all("Via")
    assert request.via.host == "192.0.2.1"
    request.replace_first("v", "SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK9")
    assert request.via.host == "192.0.2.9"
    assert request.get_all("Via") == ["SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK9", *vias[1:]]
    request.replace_first("Subject", "nothing to replace")
    assert request.get("Subject") is None
    assert parse(request.encode()) == request


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("<sip:a@h>;tag=x1", "x1"),
        ("<sip:a@h>", None),
        ("sip:a@h;tag=x1", "x1"),
        ("<sip:a@h;tag=no>", None),
        ("<sip:a@h;tag=no>;x=1;tag=yes;z", "yes"),
        ("<sip:a@h> ; Tag = x1 ", "x1"),
        ('"<sip:b@h>;tag=no" <sip:a@h>;tag=yes', "yes"),
        ('<sip:a@h>;x=">;tag=no";tag=yes', "yes"),
        ('"a;tag=no" <sip:a@h>', None),
        ("<sip:a@h>;tag=", None),
        ("<sip:a@h>;mytag=no", None),
    ],
)
def test_the_tag_alone_is_what_the_whole_value_says(value: str, tag: str | None) -> None:
    request = Request("BYE", "sip:b@h", [("From", value), ("To", value)])
    assert request.from_tag == request.to_tag == request.from_.tag == tag


def test_names_of_fields_are_found_by_their_keys() -> None:
    parsed = parse(invite().encode())
    for message in (invite(), parsed):
        assert message.has_any({"contact", "reason"})
        assert not message.has_any({"reason", "x-nothing"})


def test_missing_and_malformed_fields_are_parse_errors() -> None:
    request = Request("INVITE", "sip:b@h", [("From", "<"), ("Max-Forwards", "300")])
    for name in ("via", "from_", "to", "call_id", "cseq", "max_forwards"):
        with pytest.raises(ParseError):
            getattr(request, name)
    assert Request("INVITE", "sip:b@h", []).max_forwards is None


def test_prepend_goes_above_its_own_kind() -> None:
    request = invite()
    request.prepend("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bK0")
    assert request.fields[0][1].startswith("SIP/2.0/UDP 192.0.2.200")
    assert request.via.host == "192.0.2.200"
    request.prepend("Max-Forwards", "1")
    assert request.max_forwards == 1


def test_replace_and_remove() -> None:
    request = invite()
    request.replace("Via", "SIP/2.0/UDP h")
    assert request.get_all("Via") == ["SIP/2.0/UDP h"]
    request.remove("Contact")
    assert request.contacts == []
    request.replace("Subject", "hello")
    request.add("Subject", "again")
    assert request.fields[-2:] == [("Subject", "hello"), ("Subject", "again")]


def test_content_length_is_right_and_last() -> None:
    whole = invite()
    wrong = [("Content-Length", "999"), ("l", "3"), ("content-LENGTH", "1")]
    request = Request(whole.method, whole.uri, [whole.fields[0], *wrong, *whole.fields[1:]], whole.body)
    data = request.encode()
    assert data.endswith(b"\r\nContent-Length: 5\r\n\r\nv=0\r\n")
    assert data.lower().count(b"content-length") == 1
    assert data.startswith(b"INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;")


@pytest.mark.parametrize("value", ["a\r\nEvil: b", "a\nEvil: b", "a\r", "\n"])
def test_a_line_break_never_becomes_a_header(value: str) -> None:
    request = invite()
    request.add("Subject", value)
    with pytest.raises(UsageError):
        request.encode()
    with pytest.raises(UsageError):
        Response(200, value, HEAD).encode()


def test_bytes_that_are_no_utf8_survive() -> None:
    data = invite().encode().replace(b"not stripped", b"\xff\xfe\xc3\xbc")
    assert b"X-Odd: \xff\xfe\xc3\xbc here" in parse(data).encode()


def test_respond_copies_what_it_must() -> None:
    response = respond(invite(), 180, "Ringing", "b1", [("Contact", "<sip:us@192.0.2.8>")])
    assert [name for name, _ in response.fields] == ["Via", "Via", "From", "To", "Call-ID", "CSeq", "Contact"]
    assert response.get_all("Via") == invite().get_all("Via")
    assert response.to.tag == "b1"
    assert response.from_.tag == "a1"
    assert response.cseq == CSeq(7, "INVITE")


def test_respond_keeps_a_tag_and_gives_none_when_told() -> None:
    request = invite()
    assert respond(request, 100, "Trying", None).to.tag is None
    request.replace("To", "<sip:bob@example.com>;tag=old")
    assert respond(request, 200, "OK", "new").get("To") == "<sip:bob@example.com>;tag=old"


def test_timestamp_is_repeated_in_100_only() -> None:
    assert respond(invite(), 100, "Trying", None).get("Timestamp") == "54"
    assert respond(invite(), 180, "Ringing", "x").get("Timestamp") is None


def test_equality_ignores_content_length_and_spelling_of_names() -> None:
    fields = [(key_of(name), value) for name, value in invite().fields]
    other = Request(invite().method, invite().uri, [*fields, ("l", "5")], invite().body)
    assert other == invite()
    assert invite() != Request("INVITE", "sip:bob@example.com", HEAD)
    assert Response(200, "OK", HEAD) == Response(200, "OK", HEAD)
    assert Response(200, "OK", HEAD) != invite()
    with pytest.raises(TypeError):
        hash(invite())


NAMES = st.one_of(
    st.sampled_from(["Subject", "s", "Contact", "m", "X-Thing", "Reason", "Record-Route", "user-agent"]),
    st.text(string.ascii_letters + string.digits + "-.!%*_+`'~", min_size=1, max_size=12).filter(
        lambda name: (
            key_of(name)
            not in ("via", "from", "to", "call-id", "cseq", "max-forwards", "content-type", "content-length")
        )
    ),
)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=40).map(
    lambda text: text.strip(" \t")
)
MANDATORY = [
    ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1"),
    ("From", "<sip:a@example.com>;tag=1"),
    ("To", "<sip:b@example.com>"),
    ("Call-ID", "x"),
    ("CSeq", "1 INFO"),
]
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=12).flatmap(
    lambda extra: st.permutations(MANDATORY + extra)
)


@given(FIELDS, st.binary(max_size=200))
def test_encoded_request_parses_to_the_same_and_keeps_every_value(
    fields: list[tuple[str, str]], body: bytes
) -> None:
    request = Request("INFO", "sip:bob@example.com", fields, body)
    parsed = parse(request.encode())
    assert parsed == request
    assert parsed.fields[:-1] == fields  # verbatim and in order; Content-Length comes last
    assert parsed.encode() == request.encode()


@given(st.integers(100, 699), VALUES, FIELDS, st.binary(max_size=200))
def test_encoded_response_parses_to_the_same(
    status: int, reason: str, fields: list[tuple[str, str]], body: bytes
) -> None:
    response = Response(status, reason, fields, body)
    assert parse(response.encode()) == response
