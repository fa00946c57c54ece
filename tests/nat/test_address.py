"""Kinds of addresses, by the registries of RFC 6890."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat.address import (
    Kind,
    classify,
    family,
    is_behind_nat,
    is_credible,
    is_usable,
    may_be_peer,
    parse,
    same,
    subscriber,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("8.8.8.8", Kind.PUBLIC),
        ("2606:4700::1111", Kind.PUBLIC),
        ("10.255.255.255", Kind.PRIVATE),
        ("172.15.255.255", Kind.PUBLIC),
        ("172.16.0.0", Kind.PRIVATE),
        ("172.31.255.255", Kind.PRIVATE),
        ("172.32.0.0", Kind.PUBLIC),
        ("192.168.1.1", Kind.PRIVATE),
        ("fd00::1", Kind.PRIVATE),
        ("100.63.255.255", Kind.PUBLIC),
        ("100.64.0.1", Kind.CGNAT),
        ("100.128.0.0", Kind.PUBLIC),
        ("127.0.1.1", Kind.LOOPBACK),
        ("::1", Kind.LOOPBACK),
        ("169.254.1.1", Kind.LINK_LOCAL),
        ("fe80::1", Kind.LINK_LOCAL),
        ("fe80::1%eth0", Kind.LINK_LOCAL),
        ("192.0.2.1", Kind.DOCUMENTATION),
        ("198.51.100.7", Kind.DOCUMENTATION),
        ("203.0.113.7", Kind.DOCUMENTATION),
        ("2001:db8::7", Kind.DOCUMENTATION),
        ("198.18.0.1", Kind.BENCHMARK),
        ("224.0.0.1", Kind.MULTICAST),
        ("239.255.255.255", Kind.MULTICAST),
        ("ff02::1", Kind.MULTICAST),
        ("0.0.0.0", Kind.UNSPECIFIED),
        ("::", Kind.UNSPECIFIED),
        ("0.0.0.1", Kind.RESERVED),
        ("240.0.0.1", Kind.RESERVED),
        ("255.255.255.255", Kind.RESERVED),
        ("4000::1", Kind.RESERVED),
        ("::ffff:10.0.0.1", Kind.PRIVATE),
        ("example.com", None),
        ("1.2.3", None),
        ("01.2.3.4", None),
        ("", None),
    ],
)
def test_kind(text: str, kind: Kind | None) -> None:
    assert classify(text) is kind


def test_family() -> None:
    assert (family("192.0.2.1"), family("2001:db8::1"), family("sip.example")) == (4, 6, None)
    assert family("::ffff:192.0.2.1") == 4


def test_who_is_behind_nat() -> None:
    private = (
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.0.1",
        "127.0.0.1",
    )
    assert all(map(is_behind_nat, (*private, "fd00::1", "fe80::1", "::1")))
    public = ("8.8.8.8", "203.0.113.1", "172.32.0.1", "192.0.2.1", "100.128.0.1", "2606::1", "2001:db8::1")
    assert not any(map(is_behind_nat, (*public, "pbx.example")))


def test_what_packets_can_be_sent_to() -> None:
    assert all(map(is_usable, ("10.0.0.1", "8.8.8.8", "fd00::1")))
    assert not any(map(is_usable, ("0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "name")))


def test_same_in_every_spelling() -> None:
    assert same("2001:DB8:0::1", "2001:db8::1")
    assert same("::ffff:192.0.2.1", "192.0.2.1")
    assert not same("192.0.2.1", "192.0.2.2")
    assert not same("a", "a")


@given(st.ip_addresses())
def test_every_address_has_a_kind(address: object) -> None:
    assert classify(str(address)) is not None


@given(st.text(max_size=40))
def test_text_never_raises(text: str) -> None:
    assert (parse(text) is None) == (classify(text) is None)


@pytest.mark.parametrize(
    ("text", "source", "credible"),
    [
        ("198.51.100.8", "203.0.113.77", True),
        ("8.8.8.8", "10.0.0.20", True),
        ("10.0.0.21", "10.0.0.20", True),
        ("100.64.0.9", "10.0.0.20", True),
        ("127.0.0.2", "127.0.0.1", True),
        ("10.0.0.20", "203.0.113.77", False),
        ("fd00::1", "2001:db8::1", False),
        ("127.0.0.1", "10.0.0.20", False),
        ("::1", "2001:db8::1", False),
        ("::ffff:127.0.0.1", "2001:db8::1", False),
        ("169.254.169.254", "10.0.0.20", False),
        ("0.0.0.0", "203.0.113.77", False),
        ("255.255.255.255", "203.0.113.77", False),
        ("224.0.1.75", "203.0.113.77", False),
        ("ff02::1", "fe80::1", False),
        ("999.1.2.3", "203.0.113.77", False),
        ("phone.example", "203.0.113.77", False),
    ],
)
def test_an_address_is_credible_where_its_sender_may_be(text: str, source: str, credible: bool) -> None:
    assert is_credible(text, source) is credible


def test_a_subscriber_is_an_ipv4_address_or_a_64_of_ipv6() -> None:
    assert subscriber("192.0.2.1") == "192.0.2.1"
    assert subscriber("2001:db8:0:7::1") == subscriber("2001:db8::7:ffff:0:0:2")
    assert subscriber("2001:db8:0:7::1") != subscriber("2001:db8:0:8::1")
    assert subscriber("::ffff:192.0.2.1") == "192.0.2.1"
    assert subscriber("phone.example") == "phone.example"


OWN = ("203.0.113.10", "2001:db8::10")
INTERNAL = (ip_network("10.0.0.0/8"), ip_network("198.51.100.128/25"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    "text",
    [
        # CVE-2020-26262, and other ways to write the same hosts
        *(
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.255.255.254",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "0.1.2.3",
        ),
        *("::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1:2::80ff:fffe"),
        *(
            "169.254.169.254",
            "fe80::1",
            "fe80::1%eth0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "240.0.0.1",
        ),
        *("203.0.113.10", "::ffff:203.0.113.10", "2001:db8:0:0::10", "2002:cb00:710a::1"),
        *("10.1.2.3", "::ffff:10.1.2.3", "2002:a01:203::1", "198.51.100.200", "fd00::1"),
        *("", "localhost", "127.1", "0x7f.1", "2130706433", "10.0.0.1/8", "999.1.2.3"),
    ],
)
def test_what_a_stranger_may_not_have_a_relay_send_to(text: str) -> None:
    assert not may_be_peer(text, OWN, INTERNAL)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "203.0.113.11", "198.51.100.5", "192.168.1.1", "2001:db8::11", "2002:808:808::1"]
)
def test_everybody_else_may_be_its_peer(text: str) -> None:
    assert may_be_peer(text, OWN, INTERNAL)
    assert not may_be_peer(text, (*OWN, text), INTERNAL)


@given(st.ip_addresses())
def test_a_peer_is_always_one_host_that_packets_can_be_sent_to(address: object) -> None:
    if may_be_peer(str(address)):
        assert is_usable(str(address))
        assert classify(str(address)) not in {Kind.LOOPBACK, Kind.LINK_LOCAL}
