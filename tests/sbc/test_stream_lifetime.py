"""How long a phone on TCP is registered: as long as one may miss that its connection is gone."""

from dataclasses import replace

import pytest

from signaling.flow import Flow
from tests.harness.registering import LOCAL, RELAY, Bench, Phone

TCP = Flow("public", "tcp", ("192.0.2.10", 5060), ("203.0.113.7", 40000), 3)
INSTANCE = '+sip.instance="<urn:uuid:7>"'


@pytest.mark.parametrize(
    ("params", "fields", "granted"),
    [
        ("", (), 300),
        (f";{INSTANCE}", (), 300),
        (f";{INSTANCE};reg-id=1", ("Supported: outbound",), 3600),
        (f";{INSTANCE};reg-id=1", (), 300),
    ],
    ids=["plain", "instance", "outbound", "outbound-not-supported"],
)
def test_who_watches_no_connection_comes_back_soon(
    params: str, fields: tuple[str, ...], granted: int
) -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.flow = TCP
    phone.authorized(3600, *fields, contact=f"<{phone.contact}>{params}")
    (contact,) = bench.expect(200).contacts
    assert contact.param("expires") == str(granted)


def test_the_registrar_is_asked_as_seldom_as_ever() -> None:
    bench = Bench(RELAY)
    phone = Phone(bench)
    phone.flow = TCP
    for number in range(10):
        phone.register(3600)
        if number == 0:
            assert bench.upstream().contacts[0].param("expires") == "3600"
            bench.registrar(200)
        (contact,) = [one for one in bench.expect(200).contacts if one.uri_text == phone.contact]
        assert contact.param("expires") == "300"
        bench.advance(270)
    assert len(bench.forwarded) == 1


def test_what_a_phone_is_told_it_may_ask_for() -> None:
    """Else a phone that repeats the lifetime it was told would get 423."""
    bench = Bench(replace(LOCAL, min_expires_s=600))
    phone = Phone(bench)
    phone.flow = TCP
    phone.authorized(3600)
    (contact,) = bench.expect(200).contacts
    assert contact.param("expires") == "600"
