"""The runtime guard of the border: finds what leaks, and nothing that is ours by right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.guard import (
    MAX_BRANCHES,
    MAX_SECRETS,
    Guard,
    Secrets,
    domains_of,
    host_in,
    hosts_of,
    user_in,
    without_hosts,
)
from signaling.message import Request, Response

FIELDS = [
    ("Via", "SIP/2.0/UDP 10.1.2.3:5060;branch=z9hG4bKabc;received=10.9.9.9"),
    ("From", '"x" <sip:alice@inner.example>;tag=tagA1'),
    ("To", "<sip:5551234@border.example>"),
    ("Call-ID", "f00d@10.1.2.3"),
    ("CSeq", "1 INVITE"),
    ("Contact", "<sip:alice@10.1.2.77:5062>"),
    ("Record-Route", "<sip:proxy.inner.example;lr>, <sip:[2001:db8::5];lr>"),
    ("User-Agent", "InnerPhone 3"),
    ("Content-Type", "application/sdp"),
]
SDP = b"v=0\r\no=- 1 1 IN IP4 10.1.2.88\r\nc=IN IP6 2001:db8::99\r\n"


def invite(*extra: tuple[str, str]) -> Request:
    return Request("INVITE", "sip:5551234@border.example", [*FIELDS, *extra], SDP)


def learned(*own: str) -> set[bytes]:
    secrets = Secrets()
    Guard(own).learn(secrets, invite())
    return all_of(secrets)


def all_of(secrets: Secrets) -> set[bytes]:
    return {*secrets.lasting.values(), *secrets.passing.values()}


def test_secrets_of_a_request() -> None:
    assert learned() == {
        b"10.1.2.3", b"10.9.9.9", b"10.1.2.77", b"10.1.2.88", b"2001:db8::5", b"2001:db8::99", b"z9hG4bKabc", b"tagA1",
        b"f00d@10.1.2.3", b"InnerPhone 3", b"inner.example", b"proxy.inner.example",
    }  # fmt: skip


def test_our_own_names_are_no_secrets() -> None:
    assert b"10.1.2.3" not in learned("10.1.2.3")
    assert b"inner.example" not in learned("Inner.Example")


def test_a_domain_that_both_sides_use_is_no_secret() -> None:
    request = invite()
    request.replace("To", "<sip:bob@inner.example>")
    secrets = Secrets()
    Guard().learn(secrets, request)
    assert b"inner.example" not in all_of(secrets)
    assert b"proxy.inner.example" in all_of(secrets)


def test_user_parts_and_short_words_are_no_secrets() -> None:
    request = invite()
    request.replace("From", "<sip:alice@inner.example>;tag=5551234")
    request.replace("User-Agent", "pbx")
    secrets = Secrets()
    Guard().learn(secrets, request)
    assert not all_of(secrets) & {b"5551234", b"pbx"}


def test_what_a_response_tells() -> None:
    fields = [("Via", "SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKours"), *FIELDS[1:6], ("Server", "PBX/18")]
    secrets = Secrets()
    Guard(["203.0.113.1"]).learn(secrets, Response(200, "OK", fields))
    assert {b"PBX/18", b"10.1.2.77", b"z9hG4bKours"} <= all_of(secrets)
    assert b"203.0.113.1" not in all_of(secrets)


@pytest.mark.parametrize(
    ("outgoing", "leaks"),
    [
        (b"Contact: <sip:x@10.1.2.3:5060>", ("10.1.2.3",)),
        (b"Contact: <sip:x@10.1.2.3.>", ("10.1.2.3",)),
        (b"Contact: <sip:x@10.1.2.33>", ()),
        (b"Contact: <sip:x@110.1.2.3>", ()),
        (b"Contact: <sip:x@10.1.2.3.4>", ()),
        (b"10.1.2.33 and 10.1.2.3", ("10.1.2.3",)),
        (b"x.inner.example", ("inner.example",)),
        (b"dinner.example", ()),
        (b"User-Agent: InnerPhone 3\r\n", ("InnerPhone 3",)),
        (b"Via: SIP/2.0/UDP 203.0.113.1;branch=z9hG4bKabcd\r\n", ()),
        (b"Call-ID: f00d@10.1.2.3\r\n", ("10.1.2.3", "f00d@10.1.2.3")),
        (b"To: <sip:5551234@trunk.example>\r\n", ()),
    ],
)
def test_scan(outgoing: bytes, leaks: tuple[str, ...]) -> None:
    secrets = Secrets()
    Guard().learn(secrets, invite())
    assert Guard().scan(secrets, outgoing) == leaks


def test_the_table_is_bounded() -> None:
    secrets = Secrets()
    guard = Guard()
    for number in range(1000):
        guard.learn(secrets, invite(("Route", f"<sip:host{number}.example;lr>")))
    assert len(secrets.lasting) == MAX_SECRETS
    assert guard.scan(secrets, b"host999.example") == ("host999.example",)


def test_branches_of_a_long_call_do_not_fill_the_table() -> None:
    secrets, guard = Secrets(), Guard()
    for number in range(1000):
        request = invite()
        request.replace("Via", f"SIP/2.0/UDP 10.1.2.3;branch=z9hG4bK{number:04}")
        guard.learn(secrets, request)
    assert len(secrets.passing) == MAX_BRANCHES
    assert len(secrets.lasting) < 20
    guard.learn(secrets, invite(("Route", "<sip:late.example;lr>")))
    assert guard.scan(secrets, b"late.example tagA1 z9hG4bK0999 z9hG4bK0001") == (
        "late.example",
        "tagA1",
        "z9hG4bK0999",
    )


def test_what_the_hearer_has_told_is_no_leak() -> None:
    secrets, hearer, guard = Secrets(), Secrets(), Guard()
    guard.learn(secrets, invite())
    assert guard.scan(secrets, b"10.1.2.77 tagA1", hearer) == ("10.1.2.77", "tagA1")
    hearer.tell(["10.1.2.77"])
    assert guard.scan(secrets, b"10.1.2.77 tagA1", hearer) == ("tagA1",)
    guard.learn(hearer, invite())
    assert guard.scan(secrets, b"10.1.2.77 tagA1", hearer) == ()


def test_common_words_are_no_secrets() -> None:
    request = invite()
    request.replace("User-Agent", "Asterisk PBX")
    request.replace("Contact", "<sip:alice@phone>")
    request.replace("Record-Route", "<sip:gw7;lr>")
    secrets = Secrets()
    Guard().learn(secrets, request)
    assert not {b"Asterisk PBX", b"phone"} & all_of(secrets)
    assert b"tagA1" in all_of(secrets)


def test_broken_messages_teach_what_they_can() -> None:
    secrets = Secrets()
    Guard().learn(
        secrets, Request("INVITE", "x", [("Via", "nonsense"), ("From", "<"), ("Call-ID", "call@h.example")])
    )
    assert all_of(secrets) == {b"call@h.example", b"h.example"}


@pytest.mark.parametrize(
    ("value", "host", "user"),
    [
        ("<sip:a@H.example:5060;x=1>;tag=2", "h.example", "a"),
        ("sip:h.example;tag=1", "h.example", ""),
        ("<sip:a:pw@[2001:DB8::1]:5060>", "2001:db8::1", "a"),
        ("<SIPS:a@h.example>", "h.example", "a"),
        ("<tel:+1555;x=y>", "", "+1555"),
        ("tel:+1555", "", "+1555"),
        ("<urn:service:sos>", "", ""),
        ("", "", ""),
        ("nonsense", "", ""),
    ],
)
def test_host_and_user_in(value: str, host: str, user: str) -> None:
    assert host_in(value) == host
    assert user_in(value) == user


def test_hosts_of_names_the_machines() -> None:
    assert set(hosts_of(invite(("P-Asserted-Identity", '"<sip:x@y>" <sip:a@core.example>')))) == {
        "inner.example", "proxy.inner.example", "2001:db8::5", "2001:db8::99",
        "border.example", "core.example",
    }  # fmt: skip
    assert not {"1234", "+49301", "30.123"} & set(
        hosts_of(invite(("Route", "<sip:1234>, <sip:+49301>, <sip:30.123>")))
    )


def test_a_telephone_number_is_no_machine() -> None:
    request = invite(
        ("P-Asserted-Identity", "<sip:+49170@core.example>, <tel:+49170>"), ("Diversion", "<tel:5551234>")
    )
    request.uri = "tel:5551234"
    request.replace("To", "<tel:5551234>")
    request.replace("From", "<tel:+49170>;tag=tagA1")
    assert not {"5551234", "+49170"} & set(hosts_of(request))
    assert "core.example" in hosts_of(request)


def test_without_hosts_takes_the_longest_name() -> None:
    assert without_hosts("at PBX.inner.example!", ["inner.example", "pbx.inner.example"]) == "at hidden!"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("conference at conf, pre-conf", "conference at hidden, pre-conf"),
        ("CONF@conf.", "hidden@hidden."),
        ("see gw7.corp.lan and corp.lan", "see hidden and hidden"),
        ("http://wiki.corp.lan/x", "http://hidden/x"),
        ("corp.land corp.lan.example xcorp.lan", "corp.land corp.lan.example xcorp.lan"),
        ("mail bob@Corp.Lan!", "mail bob@hidden!"),
        ("bob%40corp.lan %2Fconf", "bob%40hidden %2Fhidden"),
    ],
)
def test_without_hosts_takes_whole_words(text: str, clean: str) -> None:
    assert without_hosts(text, ["conf", "corp.lan"]) == clean


def test_without_hosts_leaves_single_labels_in_user_parts() -> None:
    assert (
        without_hosts("conf.gw.corp.lan conf 10.1.2.3", ["conf", "corp.lan"], False) == "hidden conf hidden"
    )


def test_without_hosts_knows_an_address_from_a_number() -> None:
    assert without_hosts("x10.1.2.3, 255.255.255.255", []) == "xhidden, hidden"
    assert without_hosts("+1.212.555.0100 v1.2.3", []) == "+1.212.555.0100 v1.2.3"
    assert without_hosts("[2001:db8::1]:5060 at 10:20:30", []) == "[hidden]:5060 at 10:20:30"


@given(st.text(), st.lists(st.text(min_size=4, max_size=6).map(str.lower)))
def test_without_hosts_takes_any_text(text: str, hosts: list[str]) -> None:
    without_hosts(text, hosts)


def test_the_neighbours_of_a_machine_are_known() -> None:
    request = invite(("Record-Route", "<sip:gw.shop.co.uk;lr>, <sip:pbx.corp.lan;lr>"))
    request.body = SDP.replace(b"IP4 10.1.2.88", b"IP4 media.studio.lan")
    hosts = set(hosts_of(request))
    assert {"corp.lan", "shop.co.uk", "media.studio.lan"} <= hosts
    assert "co.uk" not in hosts
    text = "Reception at gw7.corp.lan, http://wiki.corp.lan/x, alice.srv9.corp.lan, corp.land"
    assert without_hosts(text, hosts) == "Reception at hidden, http://hidden/x, hidden, corp.land"
    assert domains_of("<sip:x@pbx.corp.lan>", "<sip:10.1.2.3>") == ("pbx.corp.lan", "corp.lan")
