"""Dialogs: what a peer may put into a route set (RFC 3261 s.12.1)."""

import time

import pytest

from signaling.dialog import MAX_ROUTES, Dialog, untagged, usable_routes
from signaling.errors import PeerError
from signaling.message import Request


def invite(*record_routes: str) -> Request:
    fields = [
        ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1"),
        ("From", "<sip:a@a.example>;tag=1"),
        ("To", "<sip:b@b.example>"),
        ("Call-ID", "x"),
        ("CSeq", "1 INVITE"),
        ("Contact", "<sip:a@192.0.2.1>"),
        *(("Record-Route", value) for value in record_routes),
    ]
    return Request("INVITE", "sip:b@b.example", fields)


def test_the_route_set_is_what_the_proxies_wrote() -> None:
    request = invite("<sip:192.0.2.3;lr>, <sip:192.0.2.2;lr>", "<sip:192.0.2.1;lr>")
    expected = ("<sip:192.0.2.3;lr>", "<sip:192.0.2.2;lr>", "<sip:192.0.2.1;lr>")
    assert Dialog.of_request(request, "t").route_set == expected


def test_a_route_set_without_end_is_refused_and_read_no_further_than_its_bound() -> None:
    request = invite(*[", ".join(["<sip:a>"] * 900)] * 4)
    begin = time.perf_counter()
    assert len(usable_routes(request)) == MAX_ROUTES
    assert time.perf_counter() - begin < 0.1
    with pytest.raises(PeerError) as refused:
        Dialog.of_request(request, "t")
    assert refused.value.rule == "bad-record-route"


def test_a_malformed_record_route_is_refused() -> None:
    with pytest.raises(PeerError):
        Dialog.of_request(invite("<sip:192.0.2.1;lr>, <sip:>"), "t")


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("<sip:a@h;tag=in>;tag=1;x=y", "<sip:a@h;tag=in>;x=y"),
        ("<sip:a@h>; Tag = 1 ;x=y", "<sip:a@h>;x=y"),
        ("sip:a@h;tag=1", "sip:a@h"),
        ('"A;tag=2" <sip:a@h>;tag=1', '"A;tag=2" <sip:a@h>'),
        ('<sip:a@h>;x="y;tag=2";tag=1', '<sip:a@h>;x="y;tag=2"'),
        ('<sip:a@h>;x="y>z\\";tag=2";tag=1', '<sip:a@h>;x="y>z\\";tag=2"'),
        ("<sip:a@h>", "<sip:a@h>"),
        ("", ""),
    ],
)
def test_only_the_tag_is_taken_from_an_address(value: str, left: str) -> None:
    assert untagged(value) == left
