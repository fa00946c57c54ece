"""The location of a caller (RFC 6442): carried by value and by reference, bounded, and never in the way."""

from itertools import count

import pytest

from signaling.location import MAX_BYTES, Location, carry_location, with_location, without_location
from signaling.message import Request
from signaling.multipart import parts_of
from signaling.parser import parse

HERE = b"<presence entity='pres:alice@host.invalid'/>"


def request(geolocation: str, kind: str, body: bytes) -> Request:
    found = parse(
        (
            "INVITE sip:112@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
            "From: <sip:a@b>;tag=1\r\nTo: <sip:112@example.com>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n"
            f"{geolocation}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        + body
    )
    assert isinstance(found, Request)
    return found


def multipart(*parts: bytes) -> bytes:
    head = b"--x\r\nContent-Type: application/pidf+xml\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in parts) + b"--x--\r\n"


def test_by_value_and_by_reference() -> None:
    found = carry_location(
        request(
            "Geolocation: <cid:1@b>, <https://lis.example/1>\r\nGeolocation-Routing: No\r\n",
            'multipart/mixed; boundary="x"',
            multipart(HERE),
        )
    )
    assert found == Location((HERE,), ("https://lis.example/1",), "no")


def test_a_body_alone() -> None:
    found = carry_location(request("Geolocation: <cid:1@b>\r\n", "application/pidf+xml", HERE))
    assert found == Location((HERE,))


@pytest.mark.parametrize(
    ("geolocation", "kind", "body"),
    [
        ("", "multipart/mixed;boundary=x", multipart(HERE)),
        ("Geolocation: <cid:1@b>\r\n", "application/sdp", b"v=0"),
        ("Geolocation: <cid:1@b>\r\n", "multipart/mixed", multipart(HERE)),
        ("Geolocation: <cid:1@b>\r\n", "multipart/mixed;boundary=x", multipart(b"x" * (MAX_BYTES + 1))),
        ("Geolocation: nonsense <\r\n", "application/sdp", b"v=0"),
        ("Geolocation: <javascript:alert(1)>\r\n", "application/sdp", b"v=0"),
    ],
)
def test_nothing_to_carry(geolocation: str, kind: str, body: bytes) -> None:
    assert carry_location(request(geolocation, kind, body)) is None


def test_written_and_taken_out_again() -> None:
    serial = count(1)
    location = Location((HERE, HERE + b"2"), ("https://lis.example/1",), "yes")
    fields, kind, body = with_location(location, b"v=0\r\n", lambda: f"t{next(serial)}", "192.0.2.9")
    assert [value for name, value in fields if name == "Geolocation"] == [
        "<cid:t2@192.0.2.9>", "<cid:t1@192.0.2.9>", "<https://lis.example/1>"
    ]  # fmt: skip
    assert ("Geolocation-Routing", "yes") in fields
    assert parts_of(kind, body, "application/pidf+xml") == [HERE, HERE + b"2"]
    assert parts_of(kind, body, "application/sdp") == [b"v=0\r\n"]
    message = Request("INVITE", "sip:112@x", [*fields, ("Content-Type", kind)], body).encode()
    bare = without_location(message)
    assert b"host.invalid" not in bare and b"lis.example" not in bare and b"v=0" in bare


def test_references_need_no_second_part() -> None:
    fields, kind, body = with_location(
        Location((), ("https://lis.example/1",)), b"v=0", lambda: "t", "192.0.2.9"
    )
    assert (fields, kind, body) == ([("Geolocation", "<https://lis.example/1>")], "application/sdp", b"v=0")


def test_without_an_offer_only_the_location() -> None:
    _, kind, body = with_location(Location((HERE,)), b"", lambda: "t", "2001:db8::1")
    assert parts_of(kind, body, "application/sdp") == []
    assert parts_of(kind, body, "application/pidf+xml") == [HERE]
