"""Phones behind NAT and a registrar behind us: registered, called and calling, over the in-memory wire."""

from dataclasses import replace

import pytest

from config.load import load
from sbc.locations import Change, Row, row_of
from sbc.registration_effects import Happened
from signaling.digest import Account, answer, parse_challenges
from signaling.flow import Flow
from signaling.headers import parse_name_addr
from signaling.message import Request, Response
from signaling.multipart import part_of, parts_of
from tests.harness.border import Agent, Border, audio

RELAY = """
networks:
  public:
    address: 203.0.113.10
    listen: [udp:5060, tcp:5060]
    media_ports: 20000-21999
    domain: sip.example.com
    nat: far-end
  private:
    address: 10.0.0.1
    listen: [udp:5060, tcp:5060]
    media_ports: 30000-31999
    domain: pbx.internal
trunks:
  pbx: {network: private, servers: ["sip:10.0.0.20"]}
  carrier: {network: public, servers: ["sip:198.51.100.7"]}
phones: {network: public, registrar: pbx, store: null, keepalive: off}
emergency: {numbers: ["112"], priority: [esnet.0]}
routes:
  - {from: phones, to: pbx}
  - {from: pbx, to: phones, when: registered}
  - {from: pbx, to: carrier}
  - {from: public, match: "^900$", to: pbx}
"""
KEPT = RELAY.replace("keepalive: off", "keepalive: auto")
ALWAYS = RELAY.replace(", when: registered", "").replace("  - {from: pbx, to: carrier}\n", "")
LOCAL = RELAY.replace(
    "registrar: pbx,",
    "registrar: local, users: {alice: {password: a-secret, numbers: ['+15551234']},"
    " bob: {password: b-secret}},",
).replace("{from: phones, to: pbx}", "{from: phones, to: phones, when: registered}")


class Phone:
    """A phone in a home: it writes its private address and comes from that of its router."""

    def __init__(
        self, border: Border, user: str, port: int, transport: str = "udp", host: str = "192.0.2.77"
    ) -> None:
        self.border = border
        self.user = user
        self.agent = border.agent("public", f"{host}:{port}", transport)
        self.contact = f"sip:{user}@192.168.1.{port % 250}:5060"
        self.agent.call_id = self.register_id = f"register-{user}-{port}"
        self.aor = f"sip:{user}@sip.example.com"

    def register(self, expires: int = 600, fields: str = "", contact: str | None = None) -> None:
        self.agent.cseq += 1
        number = self.agent.cseq
        lines = [
            "REGISTER sip:sip.example.com SIP/2.0",
            f"Via: SIP/2.0/{self.agent.transport.upper()} 192.168.1.5:5060;branch={self.agent.branch()};rport",
            "Max-Forwards: 70",
            f"From: <{self.aor}>;tag=r{number}",
            f"To: <{self.aor}>",
            f"Call-ID: {self.register_id}",
            f"CSeq: {number} REGISTER",
            f"Contact: {contact or f'<{self.contact}>'}",
            f"Expires: {expires}",
            "User-Agent: Home/1.0",
        ]
        if fields:
            lines.append(fields)
        self.last = "\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n"
        self.agent.raw(self.last)

    def authorized(self, password: str, expires: int = 600, fields: str = "") -> Response:
        self.register(expires)
        challenge = parse_challenges(self.agent.expect_answer(401))[0]
        name, value = answer(
            challenge, Account(self.user, password), "REGISTER", "sip:sip.example.com", 1, "cn"
        )
        self.register(expires, f"{name}: {value}" + (f"\r\n{fields}" if fields else ""))
        return self.agent.expect_answer(200)

    def invite(self, to: str, sender: str | None = None, fields: str = "") -> Request:
        return self.agent.request(
            "INVITE",
            uri=f"sip:{to}@sip.example.com",
            from_header=f"<{sender or self.aor}>;tag=c{self.agent.cseq}",
            body=audio("192.168.1.5"),
            fields=f"{fields}\r\nAllow: INVITE, ACK, CANCEL, BYE".strip(),
        )


class Registrar:
    """A registrar that keeps what it is told, and lets everybody in."""

    def __init__(self, border: Border) -> None:
        self.agent = border.agent("private", "10.0.0.20:5060")
        self.contacts: dict[str, str] = {}

    def serve(self, expires: int | None = None) -> Request:
        request = self.agent.expect("REGISTER")
        lines = []
        for value in request.values("Contact"):
            contact = parse_name_addr(value)
            left = contact.param("expires") if expires is None else str(expires)
            if left == "0":
                self.contacts.pop(request.to.uri_text, None)
            else:
                self.contacts[request.to.uri_text] = contact.uri_text
                lines.append(f"Contact: <{contact.uri_text}>;expires={left}")
        self.agent.raw(
            "\r\n".join(
                [
                    "SIP/2.0 200 OK",
                    *(f"Via: {value}" for value in request.get_all("Via")),
                    f"From: {request.get('From')}",
                    f"To: {request.get('To')};tag=reg",
                    f"Call-ID: {request.call_id}",
                    f"CSeq: {request.get('CSeq')}",
                    *lines,
                    "Content-Length: 0",
                ]
            )
            + "\r\n\r\n"
        )
        return request

    def call(self, user: str, fields: str = "") -> Request:
        contact = self.contacts[f"sip:{user}@pbx.internal"]
        return self.agent.request("INVITE", uri=contact, body=audio("10.0.0.20"), fields=fields)


def home(config: str = RELAY) -> tuple[Border, Registrar, Phone]:
    border = Border(config)
    registrar = Registrar(border)
    phone = Phone(border, "alice", 40001)
    phone.register()
    registrar.serve()
    phone.agent.expect_answer(200)
    return border, registrar, phone


def talked(border: Border, caller: Agent, callee: Agent) -> None:
    """What rings is answered, and hung up by the caller."""
    invite = callee.expect("INVITE")
    callee.answer(invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    callee.expect("ACK")
    done = caller.expect_answer(200)
    caller.ack(done)
    caller.inside("BYE", done)
    bye = callee.expect("BYE")
    callee.answer(bye, 200, "OK")
    caller.expect_answer(200, "BYE")


def rest(border: Border) -> None:
    """Nothing is left but the registrations."""
    border.advance(70)
    left = {name: number for name, number in border.calls.leftovers().items() if number}
    assert left == {}, left


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


# -- kept here ---------------------------------------------------------------------------------------------


def local() -> tuple[Border, Phone, Phone]:
    border = Border(LOCAL)
    alice, bob = Phone(border, "alice", 40001), Phone(border, "bob", 40002)
    alice.authorized("a-secret")
    bob.authorized("b-secret")
    return border, alice, bob


def test_nothing_is_kept_of_a_register_without_credentials() -> None:
    """RFC 3261 s.8.2.7: it is answered again when it comes again, with the same tag."""
    border = Border(LOCAL)
    alice = Phone(border, "alice", 40001)
    alice.register()
    first = alice.agent.expect_answer(401)
    alice.agent.raw(alice.last)
    second = alice.agent.expect_answer(401)
    assert first.to_tag == second.to_tag
    assert border.calls.leftovers()["transactions"] == 0
    assert second.via.param("received") == "192.0.2.77" and second.via.param("rport") == "40001"


def test_phone_to_phone() -> None:
    border, alice, bob = local()
    alice.invite("bob")
    assert isinstance(bob.agent.inbox[-1], Request) and bob.agent.inbox[-1].uri == bob.contact
    talked(border, alice.agent, bob.agent)
    rest(border)


def test_by_number() -> None:
    _border, alice, bob = local()
    bob.invite("+15551234")
    assert alice.agent.expect("INVITE").uri == alice.contact


def test_all_phones_of_a_user_ring_and_one_wins() -> None:
    border, alice, bob = local()
    second = Phone(border, "bob", 40003)
    second.authorized("b-secret")
    alice.invite("bob")
    first_invite = bob.agent.expect("INVITE")
    other_invite = second.agent.expect("INVITE")
    second.agent.answer(other_invite, 180, "Ringing")
    bob.agent.answer(first_invite, 200, "OK", sdp=audio("192.168.1.5", 4002))
    second.agent.expect("CANCEL")


def test_q_decides_who_rings_first() -> None:
    border, alice, bob = local()
    desk = Phone(border, "bob", 40003)
    desk.register(600)
    challenge = parse_challenges(desk.agent.expect_answer(401))[0]
    name, value = answer(challenge, Account("bob", "b-secret"), "REGISTER", "sip:sip.example.com", 1, "cn")
    desk.register(600, f"{name}: {value}", contact=f"<{desk.contact}>;q=0.5")
    desk.agent.expect_answer(200)
    alice.invite("bob")
    first = bob.agent.expect("INVITE")
    desk.agent.nothing()
    bob.agent.answer(first, 486, "Busy Here")
    desk.agent.expect("INVITE")


def test_unknown_and_unregistered_are_told_apart() -> None:
    border = Border(
        LOCAL.replace("- {from: phones, to: phones, when: registered}", "- {from: phones, to: phones}")
    )
    alice = Phone(border, "alice", 40001)
    alice.authorized("a-secret")
    alice.invite("bob")
    assert "phone-not-registered" in (alice.agent.expect_answer(480).get("Warning") or "")
    other = Phone(border, "alice", 40001)
    other.invite("nobody")
    assert "no-such-user" in (other.agent.expect_answer(404).get("Warning") or "")


CHALLENGE = LOCAL.replace("store: null", "store: null, calls: challenge")


def test_a_stranger_may_show_who_he_is() -> None:
    border = Border(CHALLENGE)
    bob = Phone(border, "bob", 40002)
    bob.authorized("b-secret")
    roaming = Phone(border, "alice", 41000, host="192.0.2.200")
    invite = roaming.invite("bob")
    challenge = parse_challenges(roaming.agent.expect_answer(407))[0]
    assert challenge.proxy and border.records == []
    name, value = answer(challenge, Account("alice", "a-secret"), "INVITE", invite.uri, 1, "cn")
    roaming.invite("bob", fields=f"{name}: {value}")
    got = bob.agent.expect("INVITE")
    assert got.from_.uri_text == "sip:alice@sip.example.com"
    assert got.get("Proxy-Authorization") is None


@pytest.mark.parametrize(
    ("user", "password", "status"), [("alice", "guessed", 407), ("bob", "b-secret", 403)]
)
def test_a_stranger_with_the_wrong_password_or_name(user: str, password: str, status: int) -> None:
    border = Border(CHALLENGE)
    roaming = Phone(border, "alice", 41000)
    invite = roaming.invite("bob")
    challenge = parse_challenges(roaming.agent.expect_answer(407))[0]
    name, value = answer(challenge, Account(user, password), "INVITE", invite.uri, 1, "cn")
    roaming.invite("bob", fields=f"{name}: {value}")
    roaming.agent.expect_answer(status)


def test_public_and_temporary_gruu() -> None:
    _border, alice, bob = local()
    bob.register(600)
    challenge = parse_challenges(bob.agent.expect_answer(401))[0]
    name, value = answer(challenge, Account("bob", "b-secret"), "REGISTER", "sip:sip.example.com", 1, "cn")
    bob.register(
        600, f"{name}: {value}\r\nSupported: gruu", contact=f'<{bob.contact}>;+sip.instance="<urn:uuid:7>"'
    )
    contact = next(one for one in bob.agent.expect_answer(200).contacts if one.param("pub-gruu"))
    for number, gruu in enumerate((contact.param("pub-gruu"), contact.param("temp-gruu"))):
        alice.agent.call_id = f"gruu-{number}"
        alice.agent.request(
            "INVITE", uri=gruu, from_header=f"<{alice.aor}>;tag=g{number}", body=audio("192.168.1.5")
        )
        invite = bob.agent.expect("INVITE")
        bob.agent.answer(invite, 486, "Busy Here")
        bob.agent.expect("ACK")
        alice.agent.expect_answer(486)


# -- emergency ---------------------------------------------------------------------------------------------


def test_emergency_calls_pass_limits_and_overload() -> None:
    _border, registrar, phone = home(RELAY + "limits: {max_calls: 2}\n")
    for number in range(2):
        phone.agent.call_id = f"call-{number}"
        phone.invite("200")
        registrar.agent.expect("INVITE")
    for to, fields, passes in (
        ("201", "", False),
        ("112", "", True),
        ("202", "Resource-Priority: esnet.0", True),
        ("203", "Resource-Priority: esnet.4", False),
    ):
        phone.agent.call_id = f"help-{to}"
        phone.invite(to, fields=fields)
        if passes:
            assert registrar.agent.expect("INVITE").uri.startswith(f"sip:{to}@")
        else:
            phone.agent.expect_answer(503)


def test_the_service_of_help_is_called_by_its_name() -> None:
    """RFC 5031: a route says which number that is."""
    config = RELAY.replace(
        "- {from: phones, to: pbx}",
        '- {from: phones, match: "^urn:service:sos", strip: 64, prepend: "112", to: pbx}\n  - {from: phones, to: pbx}',
    )
    border, registrar, phone = home(config)
    phone.agent.request(
        "INVITE", uri="urn:service:sos.fire", from_header=f"<{phone.aor}>;tag=u1", body=audio("192.168.1.5")
    )
    assert registrar.agent.expect("INVITE").uri == "sip:112@10.0.0.20:5060"
    (live,) = border.calls.live.values()
    assert any(one.rule == "emergency" for one in live.decisions)


@pytest.mark.source
def test_overload_lets_emergencies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    border, registrar, phone = home()
    late = border.calls.stateless.queue_age_s + 1
    receive = border.calls.receive

    def slow(data: bytes, flow: Flow, now: float) -> None:
        receive(data, flow, now, late)

    monkeypatch.setattr(border.calls, "receive", slow)
    phone.invite("200")
    assert "overload" in (phone.agent.expect_answer(503).get("Warning") or "")
    phone.agent.call_id = "help"
    phone.invite("112")
    registrar.agent.expect("INVITE")
    phone.agent.call_id = "help-2"
    phone.invite("300", fields="Resource-Priority: q735.2, ESNET.0")
    registrar.agent.expect("INVITE")
    phone.register()
    assert phone.agent.expect_answer(503).get("Retry-After")


LOCATION = """<?xml version="1.0"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="pres:alice@192.0.2.77"><tuple id="t"><status><geopriv>
<location-info><Point xmlns="http://www.opengis.net/gml"><pos>52.5163 13.3777</pos></Point></location-info>
</geopriv></status></tuple></presence>"""


@pytest.mark.parametrize("verify", ["count", "block"])
@pytest.mark.parametrize(("to", "crosses"), [("112", True), ("200", False)])
def test_the_location_of_an_emergency_call_crosses_and_of_no_other(
    to: str, crosses: bool, verify: str
) -> None:
    """RFC 6442: Geolocation with a PIDF-LO body beside the SDP, and a reference."""
    _border, registrar, phone = home(RELAY + f"topology: {{verify: {verify}}}\n")
    parts = (
        "--cut\r\nContent-Type: application/sdp\r\n\r\n"
        + audio("192.168.1.5")
        + "\r\n--cut\r\nContent-Type: application/pidf+xml\r\nContent-ID: <here@192.168.1.5>\r\n\r\n"
        + LOCATION
        + "\r\n--cut--\r\n"
    )
    phone.agent.request(
        "INVITE",
        uri=f"sip:{to}@sip.example.com",
        from_header=f"<{phone.aor}>;tag=e1",
        fields="Geolocation: <cid:here@192.168.1.5>, <https://lis.example.net/u/77>\r\nGeolocation-Routing: yes",
        body=parts,
        content_type="multipart/mixed; boundary=cut",
    )
    invite = registrar.agent.expect("INVITE")
    values = invite.get_all("Geolocation")
    if not crosses:
        assert values == [] and invite.content_type == "application/sdp"
        return
    assert values[1] == "<https://lis.example.net/u/77>" and invite.get("Geolocation-Routing") == "yes"
    assert "192.168" not in values[0], "the Content-ID is ours"
    kind = invite.get("Content-Type") or ""
    (location,) = parts_of(kind, invite.body, "application/pidf+xml")
    assert location.decode() == LOCATION
    sdp = part_of(kind, invite.body, "application/sdp")
    assert sdp is not None and b"c=IN IP4 10.0.0.1" in sdp and b"192.168" not in sdp
    assert f"Content-ID: {values[0].replace('cid:', '')}".encode() in invite.body
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    registrar.agent.expect("ACK")
    phone.agent.expect_answer(200)
