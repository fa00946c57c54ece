"""The SDP parser: RFC 8866 s.5, its bounds, and the round trip of files as devices send them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.errors import ParseError
from signaling.sdp.parser import SdpLimits, parse
from signaling.sdp.session import Media, Origin, normal_host, parse_connection

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "sdp").glob("*.sdp"))
PLAIN = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 0 8\r\na=ptime:20\r\n"
)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_what_devices_send_is_kept_to_the_byte(path: Path) -> None:
    data = path.read_bytes()
    assert parse(data).encode() == data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def test_m_lines_are_taken_apart_and_the_rest_is_kept() -> None:
    session = parse(PLAIN)
    assert session.media == (Media("audio", 4000, 1, "RTP/AVP", ("0", "8"), ("a=ptime:20",)),)
    assert session.lines[0] == "v=0"
    assert session.origin == Origin("-", "1", "1", "IN", "IP4", "192.0.2.1")


def test_unknown_lines_stay_in_order() -> None:
    data = PLAIN.replace(b"a=ptime:20\r\n", b"y=7\r\na=x-new:1\r\nz=8\r\n")
    assert parse(data).media[0].lines == ("y=7", "a=x-new:1", "z=8")


def test_a_display_name_with_spaces_in_the_origin() -> None:
    session = parse(PLAIN.replace(b"o=- 1", b"o=Front Desk 1"))
    assert session.origin.username == "Front Desk"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "sdp-bad-version"),
        (b"v=1\r\n", "sdp-bad-version"),
        (PLAIN[5:], "sdp-bad-version"),
        (PLAIN.replace(b"o=- 1 1 IN IP4 192.0.2.1\r\n", b""), "sdp-no-origin"),
        (PLAIN.replace(b"o=- 1 1", b"o=1"), "sdp-bad-origin"),
        (PLAIN.replace(b"t=0 0", b"o=- 1 1 IN IP4 192.0.2.1"), "sdp-bad-origin"),
        (PLAIN.replace(b"a=ptime:20", b"o=- 1 1 IN IP4 192.0.2.1"), "sdp-bad-origin"),
        (PLAIN.replace(b"s=-", b"subject"), "sdp-bad-line"),
        (PLAIN.replace(b"s=-", b" s=-"), "sdp-bad-line"),
        (PLAIN.replace(b"s=-", b"=-"), "sdp-bad-line"),
        (PLAIN.replace(b"s=-", b"s=a\0b"), "sdp-bad-line"),
        (PLAIN.replace(b"s=-", b"s=a\rb"), "sdp-bad-line"),
        (PLAIN.replace(b"s=-", b"s=" + b"x" * 5000), "sdp-bad-line"),
        (PLAIN.replace(b"4000", b"70000"), "sdp-bad-media"),
        (PLAIN.replace(b"4000", b"-1"), "sdp-bad-media"),
        (PLAIN.replace(b"4000", b"4000/0"), "sdp-bad-media"),
        (PLAIN.replace(b"4000", b"4000/"), "sdp-bad-media"),
        (PLAIN.replace(b"4000", "٤٠٠٠".encode()), "sdp-bad-media"),
        (PLAIN.replace(b" RTP/AVP 0 8", b" RTP/AVP"), "sdp-bad-media"),
        (PLAIN + b"m=audio 1 RTP/AVP 0\r\n" * 32, "sdp-too-large"),
        (PLAIN + b"a=x\r\n" * 1024, "sdp-too-large"),
        (PLAIN + b"m=audio 1 RTP/AVP" + b" 0" * 129 + b"\r\n", "sdp-bad-media"),
        (b"v=0\r\n" + b"a" * 40000, "sdp-too-large"),
    ],
)
def test_what_is_refused_and_by_which_rule(data: bytes, rule: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(data)
    assert caught.value.rule == rule
    assert caught.value.status == 400


def test_the_bounds_are_arguments() -> None:
    with pytest.raises(ParseError):
        parse(PLAIN, SdpLimits(max_bytes=len(PLAIN) - 1))
    assert parse(PLAIN, SdpLimits(max_bytes=len(PLAIN))).media


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN + b"\r\n\r\n",
        PLAIN.replace(b"t=0 0\r\n", b"\r\nt=0 0\r\n"),
        PLAIN[:-2],
    ],
    ids=["line feeds", "empty lines at the end", "empty line inside", "last line unended"],
)
def test_line_ends_are_forgiven(data: bytes) -> None:
    assert parse(data) == parse(PLAIN)


@pytest.mark.parametrize(
    ("value", "family", "host"),
    [
        ("IN IP4 192.0.2.1", 4, "192.0.2.1"),
        ("IN IP6 2001:DB8:0::1", 6, "2001:db8::1"),
        ("IN IP4 media.example.com", 4, "media.example.com"),
        ("IN IP6 ::", 6, "::"),
        ("IN IP4 0.0.0.0", 4, "0.0.0.0"),
        ("IN IP4 2001:db8::1", 6, "2001:db8::1"),
    ],
)
def test_connection_addresses(value: str, family: int, host: str) -> None:
    connection = parse_connection(value)
    assert (connection.family, connection.host) == (family, host)
    assert connection.unspecified == (host in ("::", "0.0.0.0"))
    assert connection.named == ("example" in host)
    assert connection.unicast


@pytest.mark.parametrize(
    "value", ["IN IP4 239.1.2.3/32", "IN IP4 255.255.255.255", "IN IP6 ff02::1", "IN IP4 192.0.2.1/127"]
)
def test_addresses_that_nothing_may_be_sent_to(value: str) -> None:
    assert not parse_connection(value).unicast


@pytest.mark.parametrize(
    "value",
    [
        "",
        "IN IP4",
        "XX IP4 192.0.2.1",
        "IN IP5 192.0.2.1",
        "IN IP4 192.0.2",
        "IN IP4 192.0.2.256",
        "IN IP4 192.0.02.1",
        "IN IP4 192.0..1",
        "IN IP6 2001:db8::1%eth0",
        "IN IP6 1:2",
        "IN IP4 under_score",
        "IN IP4 /24",
        "IN IP4 192.0.2.1 extra",
        "IN IP4 ١.٢.٣.٤",
    ],
)
def test_bad_connections(value: str) -> None:
    with pytest.raises(ParseError):
        parse_connection(value)


def test_hosts_compare_in_one_form() -> None:
    assert normal_host("2001:DB8::0:1") == "2001:db8::1"
    assert normal_host("Host.Example") == "host.example"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=60), max_size=12))
def test_what_parses_survives_writing_and_parsing(values: list[str]) -> None:
    lines = "".join(f"a={value}\r\n" for value in values)
    session = parse(PLAIN + lines.encode("utf-8", "surrogatepass"))
    assert parse(session.encode()) == session
