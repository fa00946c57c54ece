"""Phones behind NAT and a registrar behind us: registered, called and calling, over the in-memory wire."""

from dataclasses import replace

import pytest

from config.load import load
from sbc.binding import Row, row_of
from sbc.locations import Change
from sbc.registration_effects import Happened
from signaling.digest import Account, answer, parse_challenges
from signaling.message import Request
from tests.harness.border import Border, audio
from tests.harness.phones import ALWAYS, KEPT, LOCAL, RELAY, Phone, Registrar, home, rest, talked


def test_the_registrar_calls_the_contact_that_it_knows_and_the_phone_rings_on_its_flow() -> None:
    border, registrar, phone = home()
    registrar.call("alice")
    invite = phone.agent.inbox[-1]
    assert isinstance(invite, Request)
    assert invite.uri == phone.contact, "to the letter"
    assert invite.to.uri_text == phone.aor
    assert b"10.0.0" not in invite.encode() and b"pbx.internal" not in invite.encode()
    talked(border, registrar.agent, phone.agent)
    rest(border)
    decisions = [one.outcome for one in border.records[0].decisions if one.rule == "phones"]
    assert decisions == ["udp 192.0.2.77:40001 (one)"]


def test_the_phone_calls_by_its_flow() -> None:
    border, registrar, phone = home()
    phone.invite("200")
    invite = registrar.agent.inbox[-1]
    assert isinstance(invite, Request) and b"192.168" not in invite.encode()
    assert invite.from_.uri_text == "sip:alice@pbx.internal"
    talked(border, phone.agent, registrar.agent)
    rest(border)


def test_a_token_reaches_its_phone_alone() -> None:
    border, registrar, phone = home()
    other = Phone(border, "alice", 40002)
    first = registrar.contacts["sip:alice@pbx.internal"]
    other.register()
    registrar.serve()
    other.agent.expect_answer(200)
    assert registrar.contacts["sip:alice@pbx.internal"] != first
    registrar.agent.request("INVITE", uri=first, body=audio("10.0.0.20"))
    assert phone.agent.expect("INVITE").uri == phone.contact
    other.agent.nothing()


def test_a_registrar_that_keeps_path_calls_by_way_of_us() -> None:
    """RFC 3327 s.5.3: the Path comes back as Route."""
    border, registrar, phone = home(
        RELAY.replace("{network: private, servers", "{path: true, network: private, servers")
    )
    registrar.call("alice", fields="Route: <sip:10.0.0.1:5060;lr>")
    invite = phone.agent.inbox[-1]
    assert isinstance(invite, Request) and invite.uri == phone.contact and invite.get("Route") is None
    talked(border, registrar.agent, phone.agent)
    rest(border)


def test_a_token_is_for_the_registrar_alone() -> None:
    _border, registrar, phone = home()
    token = registrar.contacts["sip:alice@pbx.internal"].partition("@")[0].removeprefix("sip:")
    phone.invite(token)
    # It goes where calls of phones go: to the registrar's server, which may think of it what it likes.
    assert registrar.agent.expect("INVITE").uri.startswith(f"sip:{token}@10.0.0.20")


@pytest.mark.parametrize(
    ("sender", "port", "rule"),
    [("sip:bob@sip.example.com", 40001, "not-your-identity"), (None, 40055, "not-registered")],
)
def test_only_the_registered_flow_calls_as_its_user(sender: str | None, port: int, rule: str) -> None:
    border, registrar, phone = home()
    caller = phone if port == 40001 else Phone(border, "alice", port)
    caller.invite("200", sender)
    refusal = caller.agent.expect_answer(403)
    assert rule in (refusal.get("Warning") or "")
    registrar.agent.nothing()
    assert border.records[-1].end_cause == rule


def test_what_a_phone_asserts_of_itself_does_not_cross() -> None:
    """RFC 3325 s.5."""
    _border, registrar, phone = home()
    phone.invite(
        "200", fields="P-Asserted-Identity: <sip:boss@sip.example.com>\r\nRemote-Party-ID: <sip:boss@x.y>"
    )
    assert b"boss" not in registrar.agent.expect("INVITE").encode()


def test_nobody_there_falls_through_when_registered() -> None:
    """`when: registered`: the next route is asked."""
    border, registrar, _phone = home()
    carrier = border.agent("public", "198.51.100.7:5060")
    registrar.agent.request("INVITE", uri="sip:carol@10.0.0.1", body=audio("10.0.0.20"))
    assert carrier.expect("INVITE").uri.startswith("sip:carol@")


@pytest.mark.parametrize("gone", ["dead", "run out", "never heard of"])
def test_a_token_goes_nowhere_else(gone: str) -> None:
    """The carrier, which comes next, has no such number; the registrar is told that the phone is not there."""
    border, registrar, phone = home()
    carrier = border.agent("public", "198.51.100.7:5060")
    (binding,) = border.calls.phones.locations.of("alice")
    if gone == "dead":
        binding.dead = "no answer to OPTIONS"
    elif gone == "run out":
        border.advance(601)
    else:
        registrar.contacts["sip:alice@pbx.internal"] = f"sip:{'0' * 32}@10.0.0.1"
    registrar.call("alice")
    assert "phone-" in (registrar.agent.expect_answer(480).get("Warning") or "")
    carrier.nothing()
    phone.agent.nothing()


def test_480_for_a_phone_that_is_away() -> None:
    border, registrar, _phone = home(ALWAYS)
    border.calls.phones.locations.of("alice")[0].dead = "no answer to OPTIONS"
    registrar.call("alice")
    assert "phone-away" in (registrar.agent.expect_answer(480).get("Warning") or "")


def test_a_registration_that_has_run_out_is_called_no_more() -> None:
    border, registrar, _phone = home(ALWAYS)
    border.advance(601)
    registrar.call("alice")
    assert "phone-not-registered" in (registrar.agent.expect_answer(480).get("Warning") or "")


def test_register_elsewhere_and_without_phones() -> None:
    _border, registrar, _phone = home()
    registrar.agent.request("REGISTER", uri="sip:10.0.0.1")
    assert "no-registrar-here" in (registrar.agent.expect_answer(403).get("Warning") or "")
    plain = Border()
    agent = plain.agent("public", "192.0.2.1:5060")
    agent.request("REGISTER")
    agent.expect_answer(405)


def test_the_registrar_is_silent() -> None:
    border = Border(RELAY)
    Registrar(border)
    phone = Phone(border, "alice", 40001)
    phone.register()
    border.advance(9)
    assert "registrar-timeout" in (phone.agent.expect_answer(504).get("Warning") or "")
    assert (
        next(one for one in border.calls.trunks.status(border.now) if one["trunk"] == "pbx")["state"]
        == "suspect"
    )
    rest(border)


def test_keep_alives_cross_the_nat_and_find_out_who_is_gone() -> None:
    border, _registrar, phone = home(KEPT)
    border.advance(26)
    options = phone.agent.expect("OPTIONS")
    assert options.uri == phone.contact and b"10.0.0" not in options.encode()
    phone.agent.answer(options, 200, "OK")
    for _ in range(12):
        border.advance(25)
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.dead == "no answer to OPTIONS"
    phone.agent.inbox.clear()
    phone.register()
    phone.agent.expect_answer(200)
    assert binding.dead == "", "heard again"


def test_restart_brings_the_registrations_back() -> None:
    """UDP flows can be used at once; a stream is back with the next message of the phone."""
    stored: dict[tuple[str, str], Row] = {}
    border = Border(RELAY)

    def store(ticket: int, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if change.row is None:
                stored.pop((change.user, change.identity), None)
            else:
                stored[change.user, change.identity] = change.row
        border.calls.phones.stored(ticket, None, border.now)

    border.calls.phones._store = store
    registrar = Registrar(border)
    phone, streaming = Phone(border, "alice", 40001), Phone(border, "bob", 40002, "tcp")
    for one in (phone, streaming):
        one.register()
        registrar.serve()
        one.agent.expect_answer(200)
    again = Border(RELAY, secret=border.calls.phones._secret)
    again.now = border.now + 30
    assert again.calls.phones.restore(list(stored.values()), again.now) == 2
    pbx = Registrar(again)
    pbx.contacts = registrar.contacts
    moved = Phone(again, "alice", 40001)
    pbx.call("alice")
    assert moved.agent.expect("INVITE").uri == phone.contact
    back = Phone(again, "bob", 40003, "tcp")
    back.contact = streaming.contact
    back.register()
    assert pbx.serve().contacts[0].uri_text == registrar.contacts["sip:bob@pbx.internal"], "the same token"
    back.agent.expect_answer(200)
    assert again.calls.phones.locations.of("bob")[0].dead == ""


def test_the_registrar_may_ask_a_calling_phone_who_it_is() -> None:
    """The digest is between the two; nobody else sees either half of it (CVE-2021-41158)."""
    border, registrar, phone = home(
        RELAY.replace("registrar: pbx,", "registrar: pbx, domain: sip.example.com,")
    )
    phone.invite("200")
    first = registrar.agent.expect("INVITE")
    assert first.get("Proxy-Authorization") is None
    assert first.from_.uri_text == "sip:alice@sip.example.com"
    asked = 'Digest realm="pbx", nonce="n1", algorithm=MD5, qop="auth"'
    registrar.agent.answer(first, 407, "Who", fields=f"Proxy-Authenticate: {asked}")
    registrar.agent.expect("ACK")
    assert phone.agent.expect_answer(407).get("Proxy-Authenticate") == asked
    told = 'Digest username="alice", realm="pbx", nonce="n1", uri="sip:200@sip.example.com", response="00"'
    phone.invite("200", fields=f"Proxy-Authorization: {told}")
    second = registrar.agent.expect("INVITE")
    assert second.get("Proxy-Authorization") == told
    assert second.uri == "sip:200@sip.example.com", "what the digest was made for"
    registrar.agent.answer(second, 486, "Busy")
    registrar.agent.expect("ACK")
    phone.agent.expect_answer(486)
    rest(border)
    assert [one.final_status for one in border.records] == [486], "a challenge is no call"


def test_credentials_of_a_phone_are_for_its_registrar_alone() -> None:
    border, registrar, phone = home(RELAY.replace("{from: phones, to: pbx}", "{from: phones, to: carrier}"))
    carrier = border.agent("public", "198.51.100.7:5060")
    phone.invite("200", fields='Proxy-Authorization: Digest username="alice", realm="x"')
    invite = carrier.expect("INVITE")
    assert invite.get("Proxy-Authorization") is None
    carrier.answer(invite, 407, "Who", fields='Proxy-Authenticate: Digest realm="trap", nonce="n"')
    refused = phone.agent.expect_answer(403)
    assert refused.get("Proxy-Authenticate") is None
    registrar.agent.nothing()


def test_service_route_is_the_way_of_the_phones_calls() -> None:
    """RFC 3608 s.6.1."""
    border, registrar, phone = home()
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.upstream is not None
    binding.upstream = replace(binding.upstream, service_route=("<sip:edge@10.0.0.20;lr>",))
    phone.invite("200")
    assert registrar.agent.expect("INVITE").get("Route") == "<sip:edge@10.0.0.20;lr>"


@pytest.mark.parametrize("way", ["in the dialog", "by registration"])
def test_a_nat_that_forgets_its_mapping_in_mid_call(way: str) -> None:
    border, registrar, phone = home()
    registrar.call("alice")
    invite = phone.agent.expect("INVITE")
    phone.agent.answer(invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    phone.agent.expect("ACK")
    done = registrar.agent.expect_answer(200)
    registrar.agent.ack(done)
    moved = Phone(border, "alice", 40009, host="192.0.2.77" if way == "in the dialog" else "192.0.2.99")
    if way == "in the dialog":
        moved.agent.tag = phone.agent.tag
        moved.agent.inside("OPTIONS", invite)
        registrar.agent.answer(registrar.agent.expect("OPTIONS"), 200, "OK")
        moved.agent.expect_answer(200)
    else:
        moved.contact, moved.register_id, moved.agent.cseq = (
            phone.contact,
            phone.register_id,
            phone.agent.cseq,
        )
        moved.register()
        registrar.serve()
        moved.agent.expect_answer(200)
    if way == "by registration":
        _, side, end = border.relay.changes[-1]
        assert (side, end.expect) == ("b", "192.0.2.99"), "its media is believed from there too"
    registrar.agent.inside("BYE", done)
    moved.agent.answer(moved.agent.expect("BYE"), 200, "OK")
    registrar.agent.expect_answer(200, "BYE")
    phone.agent.nothing()
    rest(border)


def test_a_phone_that_registered_at_an_address_of_before_is_away() -> None:
    border, _registrar, _phone = home(ALWAYS.replace("keepalive: off", "keepalive: options"))
    rows = [row_of(one, border.now, 1e9) for one in border.calls.phones.locations.all()]
    again = Border(
        ALWAYS.replace("203.0.113.10", "203.0.113.99").replace("keepalive: off", "keepalive: options"),
        secret=border.calls.phones._secret,
    )
    again.calls.phones._wall = lambda: 1e9
    assert again.calls.phones.restore(rows, again.now) == 1
    pbx = Registrar(again)
    pbx.agent.request("INVITE", uri="sip:alice@10.0.0.1", body=audio("10.0.0.20"))
    assert "phone-away" in (pbx.agent.expect_answer(480).get("Warning") or "")
    again.advance(60)


def test_a_stream_that_closes_takes_its_phone_away() -> None:
    border = Border(RELAY)
    happened: list[Happened] = []
    border.calls.phones._happened = happened.append
    registrar = Registrar(border)
    phone = Phone(border, "alice", 40001, "tcp")
    phone.register()
    registrar.serve()
    phone.agent.expect_answer(200)
    border.calls.transport_failed(phone.agent.flow, border.now)
    assert border.calls.phones.locations.of("alice")[0].dead == "its connection has closed"
    assert [one.what for one in happened] == ["registered", "dead"]


def test_a_reload_keeps_registrations_and_those_that_are_under_way() -> None:
    border, registrar, phone = home()
    other = Phone(border, "bob", 40002)
    other.register()
    border.calls.reload(load(RELAY.replace("registrar: pbx,", "registrar: pbx, fork: serial,")), border.now)
    registrar.serve()
    other.agent.expect_answer(200)
    assert [one.user for one in border.calls.phones.locations.all()] == ["alice", "bob"]
    phone.register()
    phone.agent.expect_answer(200)
    registrar.call("alice")
    phone.agent.expect("INVITE")


def test_a_reload_without_phones_serves_none() -> None:
    border, _registrar, phone = home()
    lines = [line for line in RELAY.splitlines() if "phones" not in line]
    waiting = Phone(border, "bob", 40002)
    waiting.register()
    border.calls.reload(load("\n".join(lines)), border.now)
    assert "registrar-gone" in (waiting.agent.expect_answer(503).get("Warning") or "")
    phone.register()
    phone.agent.expect_answer(405)
    border.advance(700)


def test_nonces_survive_a_reload() -> None:
    border = Border(LOCAL)
    alice = Phone(border, "alice", 40001)
    alice.register()
    challenge = parse_challenges(alice.agent.expect_answer(401))[0]
    border.calls.reload(load(LOCAL), border.now)
    name, value = answer(challenge, Account("alice", "a-secret"), "REGISTER", "sip:sip.example.com", 1, "cn")
    alice.register(600, f"{name}: {value}")
    alice.agent.expect_answer(200)


def test_bytes_lost_on_the_way_are_repeated() -> None:
    """A REGISTER that is repeated gets one answer, and the registrar one request."""
    border = Border(RELAY)
    registrar, phone = Registrar(border), Phone(border, "alice", 40001)
    phone.register()
    sent = phone.last
    for _ in range(3):
        phone.agent.raw(sent)
    registrar.serve()
    registrar.agent.nothing()
    phone.agent.expect_answer(200)
    phone.agent.raw(sent)
    phone.agent.expect_answer(200)
    registrar.agent.nothing()
