"""URIs: RFC 3261 s.19.1, RFC 3966, RFC 5118 for IPv6."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import ParseError
from signaling.uri import OpaqueUri, SipUri, TelUri, parse_uri, unescape


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("sip:alice@example.com", SipUri("sip", "alice", None, "example.com", None)),
        ("SIPS:alice:pw@example.com:5061", SipUri("sips", "alice", "pw", "example.com", 5061)),
        ("sip:192.0.2.1", SipUri("sip", "", None, "192.0.2.1", None)),
        ("sip:[2001:db8::1]:5070;lr", SipUri("sip", "", None, "2001:db8::1", 5070, (("lr", None),))),
        (
            "sip:+1555;ext=2@h.example;user=phone;x=?Subject=a&b=c",
            SipUri(
                "sip", "+1555;ext=2", None, "h.example", None, (("user", "phone"), ("x", "")), "Subject=a&b=c"
            ),
        ),
        ("sip:a%20b@example.com", SipUri("sip", "a%20b", None, "example.com", None)),
        ("sip:odd?/;;user@example.com", SipUri("sip", "odd?/;;user", None, "example.com", None)),
        (
            "tel:+1-555-0100;phone-context=example.com",
            TelUri("+1-555-0100", (("phone-context", "example.com"),)),
        ),
        ("TEL:*21#", TelUri("*21#")),
        ("urn:service:sos", OpaqueUri("urn", "service:sos")),
    ],
)
def test_uri_is_taken_apart(text: str, uri: object) -> None:
    assert parse_uri(text) == uri


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "alice@example.com", "sip:", "sip:@", "sip:alice@", "sip:alice@host:port", "sip:alice@host:",
        "sip:alice@host:99999", "sip:alice@[2001:db8::1", "sip:alice@[::1]x", "sip:alice@[]", "sip:alice@[abc]",
        "sip:a b@host", "sip:a@ho st", "sip:a@host;", "sip:a@host;=x", "sip:a@host;p=a b", "sip:a@b@c", "sip:a%zz@host",
        "sip:a%4@host", "sip:a@host?x y", 'sip:"a"@host', "sip:<a>@host", "tel:", "tel:alice", "tel:+1;", "1x:y",
        "http:", "http:a b", "sip:a@h\r\nX: y", "sip:a@hö.example", "sip:" + "a" * 5000 + "@h",
    ],
)  # fmt: skip
def test_malformed_uri_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_uri(text)


def test_uri_too_long_is_414() -> None:
    with pytest.raises(ParseError) as caught:
        parse_uri("sip:" + "a" * 5000 + "@example.com")
    assert caught.value.status == 414


def test_parameters_are_found_without_regard_to_case() -> None:
    uri = parse_uri("sip:a@h;Transport=TCP;LR")
    assert isinstance(uri, SipUri)
    assert uri.param("transport") == "TCP"
    assert uri.param("lr") == ""
    assert uri.param("maddr") is None


def test_digits_have_no_separators() -> None:
    assert TelUri("+1-(555)-01.00").digits == "+15550100"


def test_unescape_keeps_what_is_no_utf8() -> None:
    assert unescape("a%20b%C3%BC") == "a bü"
    assert unescape("%ff").encode("utf-8", "surrogateescape") == b"\xff"


HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9\-]{0,8}(\.[a-z]{1,5}){0,3}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
USERS = st.from_regex(r"([A-Za-z0-9_.!~*'()&=+$,;?/\-]|%[0-9A-F]{2}){1,20}", fullmatch=True)
PARAMS = st.lists(
    st.tuples(
        st.from_regex(r"[a-z\-.]{1,8}", fullmatch=True),
        st.none() | st.from_regex(r"[A-Za-z0-9\-_.!~*'():&+$/\[\]]{0,8}", fullmatch=True),
    ),
    max_size=4,
).map(tuple)
SIP_URIS = st.builds(
    SipUri,
    scheme=st.sampled_from(["sip", "sips"]),
    user=USERS,
    password=st.none() | st.from_regex(r"[A-Za-z0-9&=+$,]{0,8}", fullmatch=True),
    host=HOSTS,
    port=st.none() | st.integers(0, 65535),
    params=PARAMS,
    headers=st.from_regex(r"([A-Za-z]{1,5}=[A-Za-z0-9]{0,5}){0,2}", fullmatch=True),
)


@given(SIP_URIS)
def test_written_uri_parses_to_the_same(uri: SipUri) -> None:
    assert parse_uri(str(uri)) == uri


@given(st.from_regex(r"\+?[0-9*#.()\-]{1,20}", fullmatch=True), PARAMS)
def test_written_tel_uri_parses_to_the_same(number: str, params: tuple[tuple[str, str | None], ...]) -> None:
    uri = TelUri(number, params)
    assert parse_uri(str(uri)) == uri


@given(st.text())
def test_any_text_is_a_uri_or_a_parse_error(text: str) -> None:
    try:
        uri = parse_uri(text)
    except ParseError:
        return
    assert parse_uri(str(uri)) == uri
