"""REGISTER relayed to a registrar (RFC 3261 s.10, RFC 3327, RFC 3608)."""

import re
from dataclasses import replace
from typing import Any

import pytest

from sbc.routing import Health, ServersSnapshot
from signaling.flow import Flow
from tests.harness.registering import DOMAIN, RELAY, SERVERS, Bench, Phone, bound


def test_the_registrar_sees_nothing_of_the_phone() -> None:
    bench = Bench()
    phone = Phone(bench)
    phone.register(
        600, 'Authorization: Digest username="alice", realm="r", nonce="n", uri="sip:x", response="0"'
    )
    request = bench.upstream()
    text = request.encode().decode()
    for secret in (phone.inside, phone.flow.remote[0], phone.call_id, "phonetag", "Phone/1.0", DOMAIN):
        assert secret not in text
    contact = request.contacts[0]
    assert re.fullmatch(r"sip:[0-9a-f]{32}@10\.0\.0\.1:5060", contact.uri_text)
    assert contact.param("expires") == "3600", "asked for seldom"
    assert request.to.uri_text == "sip:alice@pbx.internal" and request.to_tag is None
    assert request.uri == "sip:pbx.internal"
    assert 'response="0"' in (request.get("Authorization") or ""), "the digest is between the two"
    assert request.get("Path") is None


def test_registered_and_told_its_own_contact() -> None:
    bench = Bench()
    phone = Phone(bench)
    phone.register(600)
    assert bench.replies == []
    bench.registrar(200, "Service-Route: <sip:sr@10.0.0.20;lr>")
    response = bench.expect(200)
    assert bound(response) == {phone.contact: 60}, "behind NAT: often enough to hold it open"
    assert b"10.0.0" not in response.encode()
    assert len(bench.tickets) == 1
    (binding,) = bench.locations.of("alice")
    assert binding.flow == phone.flow and binding.nat == "Via says 192.168.1.5"
    assert binding.upstream is not None and binding.upstream.service_route == ("<sip:sr@10.0.0.20;lr>",)
    assert bench.upstream().contacts[0].uri_text.startswith(f"sip:{binding.token}@")


def test_the_challenge_passes_end_to_end() -> None:
    bench = Bench()
    phone = Phone(bench)
    phone.register()
    bench.registrar(
        401, 'WWW-Authenticate: Digest realm="pbx.internal", nonce="abc", algorithm=MD5, qop="auth"'
    )
    response = bench.expect(401)
    assert (
        response.get("WWW-Authenticate")
        == 'Digest realm="pbx.internal", nonce="abc", algorithm=MD5, qop="auth"'
    )
    first = bench.upstream()
    phone.register(
        600, 'Authorization: Digest username="alice", uri="sip:PBX.internal;transport=udp", nonce="abc"'
    )
    second = bench.upstream()
    assert second.uri == "sip:PBX.internal;transport=udp", "what the digest was made for"
    assert second.call_id == first.call_id and second.cseq.number == first.cseq.number + 1
    bench.registrar(200)
    bench.expect(200)


def refreshed(bench: Bench) -> Phone:
    phone = Phone(bench)
    phone.register(600, 'Authorization: Digest username="alice", nonce="abc"')
    bench.registrar(200)
    bench.expect(200)
    bench.now += 50
    return phone


def test_frequent_refreshes_are_answered_here() -> None:
    bench = Bench()
    phone = refreshed(bench)
    for _ in range(60):
        phone.register(600, 'Authorization: Digest username="alice", nonce="abc"')
        assert bound(bench.expect(200)) == {phone.contact: 60}
        bench.now += 50
    assert len(bench.forwarded) == 1
    for _ in range(12):
        phone.register(600)
        if len(bench.forwarded) == 2:
            break
        bench.expect(200)
        bench.now += 50
    assert len(bench.forwarded) == 2, "before the registrar forgets the phone"
    assert bench.now < 1000 + 3600


def test_a_registrar_that_was_down_is_asked_again() -> None:
    """It may have lost what it knew: phones must not stay away until what it said runs out."""
    bench = Bench()
    phone = refreshed(bench)
    assert bench.core.relay is not None
    bench.core.relay.came_back(bench.now)
    phone.register(600, 'Authorization: Digest username="alice", nonce="abc"')
    assert len(bench.forwarded) == 2
    bench.registrar(200)
    bench.expect(200)
    bench.now += 50
    phone.register(600, 'Authorization: Digest username="alice", nonce="abc"')
    bench.expect(200)
    assert len(bench.forwarded) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"flow": Flow("public", "udp", ("192.0.2.10", 5060), ("203.0.113.7", 40001))},
        {"flow": Flow("public", "udp", ("192.0.2.10", 5060), ("198.51.100.66", 40000))},
        {"contact": "<sip:alice@192.168.1.6>"},
        {"contact": "<sip:alice@192.168.1.5:5060>;q=0.3"},
        {"contact": '<sip:alice@192.168.1.5:5060>;+sip.instance="<urn:uuid:9>"'},
        {"call_id": "another@call"},
        {"auth": "mallory"},
        {"expires": 0},
        {"wildcard": True},
    ],
    ids=str,
)
def test_whatever_else_differs_is_the_registrars_to_decide(change: dict[str, Any]) -> None:
    """A cached answer must not refresh anything for a stranger."""
    bench = Bench()
    phone = refreshed(bench)
    expires: int = 600
    contact, flow, fields = None, None, []
    if "call_id" in change:
        phone.call_id = str(change["call_id"])
    if "auth" in change:
        fields.append(f'Authorization: Digest username="{change["auth"]}", nonce="abc"')
    if "expires" in change:
        expires = 0
    if "wildcard" in change:
        contact, expires = "*", 0
    if "contact" in change:
        contact = str(change["contact"])
    if isinstance(change.get("flow"), Flow):
        flow = change["flow"]
    phone.register(expires, *fields, contact=contact, flow=flow)
    assert len(bench.forwarded) == 2
    assert bench.replies == []


def test_a_cseq_that_does_not_rise_changes_nothing() -> None:
    """RFC 3261 s.10.3 step 7."""
    bench = Bench()
    phone = refreshed(bench)
    phone.register(600, cseq=1)
    bench.expect(500)
    assert len(bench.forwarded) == 1


def test_a_phone_that_was_switched_off_may_begin_again_at_one() -> None:
    """Its Call-ID is made of its hardware address: it must not be locked out until its registration ends."""
    bench = Bench()
    phone = refreshed(bench)
    bench.now += 64
    (binding,) = bench.locations.of("alice")
    bench.locations.refresh(binding, bench.now + 100, 9, bench.now - 64, binding.upstream)
    phone.register(600, cseq=1)
    bench.registrar(200)
    bench.expect(200)


def test_removed() -> None:
    bench = Bench()
    phone = refreshed(bench)
    phone.register(0)
    assert bench.upstream().contacts[0].param("expires") == "0"
    bench.registrar(200)
    assert bound(bench.expect(200)) == {}
    assert len(bench.locations) == 0
    assert [one.what for one in bench.happened] == ["registered", "removed"]


def test_wildcard_removes_every_contact() -> None:
    bench = Bench()
    phone = refreshed(bench)
    other = Phone(bench, port=40002)
    other.contact = "sip:alice@192.168.1.9"
    other.register()
    bench.registrar(200)
    assert len(bound(bench.expect(200))) == 2
    phone.register(0, contact="*")
    assert bench.upstream().get_all("Contact") == ["*"] and bench.upstream().get("Expires") == "0"
    bench.registrar(200, contacts=False)
    bench.expect(200)
    assert len(bench.locations) == 0


@pytest.mark.parametrize(("expires", "contact"), [(600, "*"), (0, "*, <sip:alice@10.0.0.1>")])
def test_wildcard_goes_alone_and_with_zero(expires: int, contact: str) -> None:
    bench = Bench()
    Phone(bench).register(expires, contact=contact)
    bench.expect(400)
    assert not bench.forwarded


def test_too_brief() -> None:
    bench = Bench()
    Phone(bench).register(30)
    assert bench.expect(423).get("Min-Expires") == "60"
    assert not bench.forwarded


def test_the_registrars_minimum_is_passed_and_remembered() -> None:
    bench = Bench(replace(RELAY, registrar_expires_s=600))
    phone = Phone(bench)
    phone.register(600)
    bench.registrar(423, "Min-Expires: 1800")
    assert bench.expect(423).get("Min-Expires") == "1800"
    phone.register(1800)
    assert bench.upstream().contacts[0].param("expires") == "1800"


def test_the_phone_is_told_no_more_than_the_registrar_granted() -> None:
    bench = Bench(replace(RELAY, keepalive="options"))
    phone = Phone(bench)
    phone.register(3600)
    bench.registrar(200, expires=300)
    assert bound(bench.expect(200)) == {phone.contact: 300}


def test_several_phones_of_one_user_and_of_one_nat() -> None:
    bench = Bench()
    phones = [
        Phone(bench, "alice", 40000),
        Phone(bench, "alice", 40001, "192.168.1.6"),
        Phone(bench, "bob", 40002),
    ]
    for phone in phones:
        phone.register()
        bench.registrar(200)
    assert set(bound(bench.replies[1])) == {phones[0].contact, phones[1].contact}
    assert set(bound(bench.replies[2])) == {phones[2].contact}
    assert len({one.token for one in bench.locations.all()}) == 3


def test_the_token_stays_when_the_nat_moves_the_phone() -> None:
    bench = Bench()
    phone = refreshed(bench)
    token = bench.locations.of("alice")[0].token
    phone.register(600, flow=Flow("public", "udp", ("192.0.2.10", 5060), ("203.0.113.7", 55555)))
    bench.registrar(200)
    (binding,) = bench.locations.of("alice")
    assert binding.token == token and binding.flow.remote[1] == 55555
    assert bench.locations.on_flow(phone.flow) == ()
    assert [one.what for one in bench.happened] == ["registered", "moved"]


def test_a_silent_registrar_gives_way_to_the_next_and_then_504() -> None:
    bench = Bench()
    phone = Phone(bench)
    phone.register()
    assert bench.forwarded[-1].relayed.server.host == "10.0.0.20"
    assert [one.server.host for one in bench.advance(8)] == ["10.0.0.20"]
    assert bench.forwarded[-1].relayed.server.host == "10.0.0.21"
    first, second = (one.request for one in bench.forwarded)
    assert second.cseq.number > first.cseq.number
    bench.advance(8)
    response = bench.expect(504)
    assert response.get("Retry-After") and "registrar-timeout" in (response.get("Warning") or "")
    assert bench.core.next_timer() is None
    bench.forwarded.pop()
    bench.registrar(200)
    assert bench.replies == [] and len(bench.locations) == 0, "an answer that comes too late is of no account"


def test_while_the_registrar_is_away_what_it_said_still_holds() -> None:
    bench = Bench()
    phone = refreshed(bench)
    bench.now = 1000 + 3600 - 45
    (binding,) = bench.locations.of("alice")
    bench.locations.refresh(binding, bench.now + 10, binding.cseq, bench.now, binding.upstream)
    phone.register()
    bench.registrar(503)
    bench.registrar(503)
    assert bound(bench.expect(200)) == {phone.contact: 45}
    assert bench.happened[-1].what == "kept"


def test_no_registrar_up() -> None:
    bench = Bench()
    view = SERVERS.trunks["pbx"][0]
    bench.servers = ServersSnapshot({"pbx": (replace(view, health=Health.DOWN),)})
    Phone(bench).register()
    response = bench.expect(503)
    assert response.get("Retry-After") and "registrar-down" in (response.get("Warning") or "")


def test_a_registrar_that_wants_to_rest_is_left_to_rest() -> None:
    """RFC 3261 s.21.5.4: phones come back after the time that it names, spread as after every outage."""
    bench = Bench(replace(RELAY, registers_per_s=1))
    told = []
    for number in range(6):
        bench.servers = ServersSnapshot({"pbx": SERVERS.trunks["pbx"][:1]})
        Phone(bench, port=40000 + number).register()
        bench.registrar(503, "Retry-After: 20 (busy)")
        told.append(int(bench.expect(503).get("Retry-After") or 0))
        bench.now += 2
    assert min(told) > 20 and max(told) < 60, told
    view = replace(SERVERS.trunks["pbx"][0], health=Health.BUSY, back_s=12.3)
    bench.servers = ServersSnapshot({"pbx": (view, replace(view, back_s=86_400.0))})
    Phone(bench, port=41000).register()
    assert int(bench.expect(503).get("Retry-After") or 0) > 13
    bench.servers = ServersSnapshot({"pbx": (replace(view, back_s=86_400.0),)})
    bench.now += 2
    Phone(bench, port=41001).register()
    assert int(bench.expect(503).get("Retry-After") or 0) < 300 + 60, "it may be back sooner than it says"


@pytest.mark.parametrize("status", [403, 404])
def test_who_is_no_user_any_more_is_forgotten(status: int) -> None:
    bench = Bench()
    phone = refreshed(bench)
    bench.now = 1000 + 3500
    (binding,) = bench.locations.of("alice")
    bench.locations.refresh(binding, bench.now + 10, binding.cseq, bench.now, binding.upstream)
    phone.register()
    bench.registrar(status)
    bench.expect(status)
    assert len(bench.locations) == 0


def test_a_strangers_refusal_touches_nobody() -> None:
    bench = Bench()
    phone = refreshed(bench)
    phone.register(600, flow=Flow("public", "udp", ("192.0.2.10", 5060), ("198.51.100.66", 5060)))
    bench.registrar(403)
    bench.expect(403)
    assert len(bench.locations) == 1


def test_only_who_is_let_in_takes_the_place_of_the_dead() -> None:
    bench = Bench(replace(RELAY, max_contacts=1))
    gone = refreshed(bench)
    bench.locations.lost(gone.flow, "its connection has closed")
    stranger = Phone(bench, "alice", 666, "192.168.1.66")
    stranger.register()
    bench.registrar(401, 'WWW-Authenticate: Digest realm="r", nonce="n"')
    bench.expect(401)
    assert [one.flow for one in bench.locations.of("alice")] == [gone.flow]
    stranger.register()
    bench.registrar(200)
    bench.expect(200)
    assert [one.flow for one in bench.locations.of("alice")] == [stranger.flow]


def test_flows_of_one_phone_are_one_contact_of_the_registrar() -> None:
    """RFC 5626 s.4.2: two flows, one phone; it is lost with the last of them."""
    bench = Bench(replace(RELAY, keepalive="options"))
    phone = Phone(bench)
    where = '<sip:alice@192.168.1.5:5060;ob>;+sip.instance="<urn:uuid:7>";reg-id={}'
    tokens = set()
    for reg_id, port in ((1, 40000), (2, 40001)):
        flow = replace(phone.flow, remote=("203.0.113.7", port))
        phone.register(600, "Supported: outbound, path", contact=where.format(reg_id), flow=flow)
        tokens.add(bench.upstream().contacts[0].uri_text)
        assert b"urn:uuid:7" not in bench.upstream().encode()
        bench.registrar(200)
        response = bench.expect(200)
        assert response.get("Require") == "outbound" and response.get("Flow-Timer")
    assert len(tokens) == 1 and len(bench.locations.of("alice")) == 2
    phone.register(0, "Supported: outbound", contact=where.format(1))
    assert bench.upstream().contacts[0].param("expires") == "3600"
    bench.registrar(200)
    bench.expect(200)
    assert [one.reg_id for one in bench.locations.of("alice")] == [2]
    phone.register(0, "Supported: outbound", contact=where.format(2))
    assert bench.upstream().contacts[0].param("expires") == "0"


def test_path_as_a_setting() -> None:
    """RFC 3327."""
    bench = Bench(replace(RELAY, path=True))
    Phone(bench).register()
    assert bench.upstream().get("Path") == "<sip:10.0.0.1:5060;lr>"
    assert bench.upstream().get("Supported") == "path"


def test_gruus_of_the_registrar_come_through_in_the_phones_domain() -> None:
    """RFC 5627 s.5.2."""
    bench = Bench()
    phone = Phone(bench)
    phone.register(600, "Supported: gruu", contact=f'<{phone.contact}>;+sip.instance="<urn:uuid:7>"')
    contact = bench.upstream().contacts[0].uri_text
    bench.registrar(
        200,
        f'Contact: <{contact}>;expires=600;pub-gruu="sip:alice@pbx.internal;gr=urn:uuid:9"',
        contacts=False,
    )
    response = bench.expect(200)
    assert response.contacts[0].param("pub-gruu") == f"sip:alice@{DOMAIN};gr=urn:uuid:9"
    assert response.contacts[0].param("+sip.instance") == "<urn:uuid:7>"


def test_a_registrar_that_lists_others_and_not_the_phone_has_not_registered_it() -> None:
    """RFC 3261 s.10.3 step 8: the 200 has every binding."""
    bench = Bench()
    phone = Phone(bench)
    phone.register(600)
    bench.registrar(200)
    bench.expect(200)
    phone.register(600, flow=replace(phone.flow, remote=("203.0.113.7", 40077)))
    bench.registrar(200, "Contact: <sip:elsewhere@10.0.0.99>;expires=100", contacts=False)
    response = bench.expect(503)
    assert "registrar-left-it-out" in (response.get("Warning") or "") and response.get("Retry-After")
    assert bench.locations.of("alice") == (), "what it does not know it does not call"
    assert len(bench.tickets) == 2


def test_the_registrar_gets_the_name_that_is_bound() -> None:
    bench = Bench()
    phone = Phone(bench)
    written = f"sip:%61l%69ce@{DOMAIN}"
    phone.register(600, to=written, sender=written)
    request = bench.upstream()
    assert request.to.uri_text == request.from_.uri_text == "sip:alice@pbx.internal"
    bench.registrar(200)
    bench.expect(200)
    assert [one.user for one in bench.locations.all()] == ["alice"]
    written = f"sip:a%40b%20+1;x@{DOMAIN}"
    phone.register(600, to=written, sender=written)
    assert bench.upstream().to.uri_text == "sip:a%40b%20+1;x@pbx.internal"
