"""REGISTER: relayed to a registrar, or kept here (RFC 3261 s.10, RFC 5626, RFC 5627)."""

import re
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from sbc.locations import WIPE, Locations
from sbc.registrar import REWRITE
from sbc.registration_effects import Effect, Forward, Happened, Persist, Relayed, Reply
from sbc.registration_policy import RegistrationPolicy
from sbc.registrations import Registrations
from sbc.routing import Health, ServersSnapshot, ServerView
from sbc.users import User, Users
from signaling.digest import Account, answer, ha1, parse_challenges
from signaling.flow import Flow
from signaling.headers import parse_name_addr
from signaling.message import Request, Response, respond
from signaling.parser import parse
from signaling.transaction import ServerTx

DOMAIN = "sip.example.com"
RELAY = RegistrationPolicy(
    "public",
    "pbx",
    DOMAIN,
    frozenset((DOMAIN, "192.0.2.10")),
    upstream_domain="pbx.internal",
    keepalive="expiry",
)
LOCAL = replace(RELAY, registrar="", upstream_domain=None)
WALL = 1_700_000_000.0
SERVERS = ServersSnapshot(
    {
        "pbx": (
            ServerView("10.0.0.20", "udp", ("10.0.0.20", 5060)),
            ServerView("10.0.0.21", "udp", ("10.0.0.21", 5060)),
        )
    }
)


class Bench:
    """`Registrations` with a clock, and a phone that says what it is told to."""

    def __init__(self, policy: RegistrationPolicy = RELAY) -> None:
        self.now = 1000.0
        self.locations = Locations()
        self.servers = SERVERS
        self._serial = count(1)
        users = Users(
            DOMAIN,
            [
                User(name, {one: ha1(name, DOMAIN, f"{name}-secret", one) for one in ("MD5", "SHA-256")})
                for name in ("alice", "bob")
            ],
            ("SHA-256", "MD5"),
        )
        self.core = Registrations(
            policy,
            self.locations,
            users,
            b"k" * 32,
            lambda size: f"{next(self._serial):0{2 * size}x}",
            lambda view: (("10.0.0.1", 5060), None),
        )
        self.tickets: list[int] = []
        self.disk = ""
        self.happened: list[Happened] = []
        self.forwarded: list[Forward] = []
        self.replies: list[Response] = []

    @property
    def wall(self) -> float:
        return WALL + self.now

    def run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply():
                    self.replies.append(effect.response)
                case Forward():
                    self.forwarded.append(effect)
                case Persist():
                    self.tickets.append(effect.ticket)
                    self.locations.take_changes(self.now, self.wall)
                    if not self.disk:
                        self.run(self.core.stored(effect.ticket, None))
                case Happened():
                    self.happened.append(effect)

    def send(self, request: Request, flow: Flow) -> None:
        challenge = self.core.challenge(request, flow, self.now)
        if challenge is not None:
            status, reason, fields = challenge
            self.replies.append(respond(request, status, reason, "stateless", fields))
            return
        tx = ServerTx(request, flow, flow, ("key", next(self._serial)))
        self.run(self.core.receive(tx, request, flow, self.now, self.wall, self.servers))

    def upstream(self) -> Request:
        """The REGISTER that the registrar got."""
        return self.forwarded[-1].request

    def registrar(self, status: int, *fields: str, contacts: bool = True, expires: int | None = None) -> None:
        """The registrar answers the last REGISTER."""
        forward = self.forwarded[-1]
        lines = [f"SIP/2.0 {status} Whatever", "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx"]
        lines += [f"{name}: {forward.request.get(name)}" for name in ("From", "To", "Call-ID", "CSeq")]
        if status == 200 and contacts:
            for contact in forward.request.get_all("Contact"):
                one = parse_name_addr(contact)
                left = one.param("expires") if expires is None else str(expires)
                if left != "0":
                    lines.append(f"Contact: <{one.uri_text}>;expires={left}")
            lines.append("Contact: <sip:elsewhere@10.0.0.99>;expires=100")
        response = parse(("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode())
        assert isinstance(response, Response)
        self.run(self.core.answered(forward.relayed, response, self.now, self.wall))

    def expect(self, status: int) -> Response:
        assert self.replies, "the phone got nothing"
        response = self.replies.pop(0)
        assert response.status == status, response.encode()
        return response

    def advance(self, seconds: float) -> list[Relayed]:
        self.now += seconds
        effects, late = self.core.handle_timer(self.now, self.wall)
        self.run(effects)
        return late


class Phone:
    """A phone behind NAT: it writes its private address, and comes from a public one."""

    def __init__(
        self, bench: Bench, user: str = "alice", port: int = 40000, inside: str = "192.168.1.5"
    ) -> None:
        self.bench = bench
        self.user = user
        self.flow = Flow("public", "udp", ("192.0.2.10", 5060), ("203.0.113.7", port))
        self.inside = inside
        self.contact = f"sip:{user}@{inside}:5060"
        self.call_id = f"call-{user}-{port}@{inside}"
        self.cseq = 0

    def register(
        self,
        expires: int | None = 600,
        *fields: str,
        contact: str | None = None,
        cseq: int | None = None,
        uri: str = f"sip:{DOMAIN}",
        to: str | None = None,
        sender: str | None = None,
        flow: Flow | None = None,
        via: str | None = None,
    ) -> Request:
        self.cseq = self.cseq + 1 if cseq is None else cseq
        lines = [
            f"REGISTER {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {via or self.inside + ':5060'};branch=z9hG4bK{self.cseq};rport",
            "Max-Forwards: 70",
            f"From: <{sender or f'sip:{self.user}@{DOMAIN}'}>;tag=phonetag",
            f"To: <{to or f'sip:{self.user}@{DOMAIN}'}>",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq} REGISTER",
            "User-Agent: Phone/1.0",
        ]
        if contact is None:
            contact = f"<{self.contact}>"
        if contact:
            lines.append(f"Contact: {contact}")
        if expires is not None:
            lines.append(f"Expires: {expires}")
        request = parse(("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode())
        assert isinstance(request, Request)
        self.bench.send(request, flow or self.flow)
        return request

    def authorized(
        self, expires: int | None = 600, *fields: str, password: str | None = None, **kw: Any
    ) -> None:
        """REGISTER, the challenge, and REGISTER with credentials."""
        self.register(expires, *fields, **kw)
        challenge = parse_challenges(self.bench.expect(401))[0]
        account = Account(self.user, password or f"{self.user}-secret")
        name, value = answer(challenge, account, "REGISTER", f"sip:{DOMAIN}", 1, "cnonce")
        self.register(expires, f"{name}: {value}", *fields, **kw)


def bound(response: Response) -> dict[str, int]:
    """The contacts of a 200 with their lifetimes."""
    return {one.uri_text: int(one.param("expires") or 0) for one in response.contacts}


# -- relayed -----------------------------------------------------------------------------------------------


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


# -- what both have ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kw", "status", "rule"),
    [
        ({"to": "sip:alice@elsewhere.example"}, 404, "not-our-domain"),
        ({"to": f"sip:{DOMAIN}"}, 404, "not-our-domain"),
        ({"sender": f"sip:bob@{DOMAIN}"}, 403, "third-party-registration"),
        ({"contact": "<mailto:alice@example.com>"}, 400, "bad-contact"),
        ({"contact": "<sip:a@1.2.3.4>, <sip:a@1.2.3.4>"}, 400, "bad-register"),
        ({"contact": ", ".join(f"<sip:a@1.2.3.{n}>" for n in range(11))}, 403, "too-many-contacts"),
        ({"flow": Flow("private", "udp", ("10.0.0.1", 5060), ("10.0.0.5", 5060))}, 403, "no-registrar-here"),
    ],
)
@pytest.mark.parametrize("policy", [RELAY, LOCAL], ids=["relay", "local"])
def test_refused_before_any_registrar(
    policy: RegistrationPolicy, kw: dict[str, Any], status: int, rule: str
) -> None:
    bench = Bench(policy)
    # Without credentials a local registrar says nothing but 401 (RFC 3261 s.10.3 step 3).
    Phone(bench).register(600, 'Authorization: Digest username="alice"', **kw)
    assert rule in (bench.expect(status).get("Warning") or "")
    assert not bench.forwarded


def test_unknown_extension() -> None:
    bench = Bench()
    Phone(bench).register(600, "Require: outbound, teleport")
    assert bench.expect(420).get("Unsupported") == "teleport"


def test_a_storm_is_sent_away_and_comes_back_spread() -> None:
    bench = Bench(replace(RELAY, registers_per_s=10))
    waits = []
    for number in range(110):
        phone = Phone(bench, "alice", 30000 + number)
        phone.register(flow=replace(phone.flow, remote=(f"203.0.113.{number}", 5060)))
        if bench.replies:
            waits.append(int(bench.expect(503).get("Retry-After") or 0))
    assert len(bench.forwarded) == 10 and len(waits) == 100
    assert waits == sorted(waits) and max(waits) in (10, 11)
    assert all(waits.count(second) <= 10 for second in range(1, 11))


def test_one_address_does_not_use_up_what_belongs_to_all() -> None:
    bench = Bench(replace(RELAY, registers_per_s=20))
    for number in range(50):
        Phone(bench, "alice", 30000 + number).register()
    assert len(bench.forwarded) == 5
    bench.replies.clear()
    other = Phone(bench, "bob", 30000)
    other.register(flow=replace(other.flow, remote=("198.51.100.3", 5060)))
    assert len(bench.forwarded) == 6 and bench.replies == []


def test_who_was_let_in_may_answer_the_challenge() -> None:
    bench = Bench(replace(RELAY, registers_per_s=1))
    phone = Phone(bench)
    phone.register()
    bench.registrar(401, 'WWW-Authenticate: Digest realm="x", nonce="y"')
    bench.expect(401)
    Phone(bench, "bob", 40009).register()
    bench.expect(503)
    phone.register(600, 'Authorization: Digest username="alice"')
    assert len(bench.forwarded) == 2
    phone.register(600, 'Authorization: Digest username="alice"')
    bench.expect(503)


# -- kept here ---------------------------------------------------------------------------------------------


def test_local_needs_the_password() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600, password="wrong")
    assert "wrong-credentials" in (bench.expect(401).get("Warning") or "")
    assert len(bench.locations) == 0
    phone.authorized()
    assert bound(bench.expect(200)) == {phone.contact: 60}


def test_who_goes_on_guessing_has_to_wait_and_nobody_else() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    registered = Phone(bench, "alice", 40008)
    registered.authorized(600)
    bench.expect(200)
    phone = Phone(bench)
    for _ in range(100):
        phone.authorized(600, password="guess")
        bench.expect(401)
    registered.authorized(600)
    bench.expect(200)
    phone.authorized(600)
    assert "too-many-guesses" in (bench.expect(403).get("Warning") or ""), "even with the right one"
    elsewhere = Phone(bench, "alice", 40009)
    elsewhere.flow = replace(elsewhere.flow, remote=("198.51.100.9", 40009))
    elsewhere.authorized(600)
    bench.expect(200)
    bob = Phone(bench, "bob", 40000)
    bob.authorized(600)
    bench.expect(200)
    bench.now += 31
    phone.authorized(600)
    bench.expect(200)


def forged(bench: Bench, number: int, host: str, *fields: str) -> None:
    """A REGISTER of alice with somebody else's address."""
    sender = Phone(bench, "alice", 1000 + number)
    sender.register(600, *fields, flow=replace(sender.flow, remote=(host, 1000 + number)))


NONSENSE = 'Authorization: Digest username="alice", realm="sip.example.com", nonce="x", uri="x", response="0"'


@pytest.mark.parametrize("fields", [(), (NONSENSE,)])
def test_a_flood_of_forged_senders_shuts_nobody_out(fields: tuple[str, ...]) -> None:
    bench = Bench(replace(LOCAL, registers_per_s=10))
    registered = Phone(bench, "alice", 40000)
    registered.authorized(600)
    bench.expect(200)
    for number in range(3000):
        forged(bench, number, f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}", *fields)
        bench.now += 0.001
    bench.replies.clear()
    registered.authorized(600)
    bench.expect(200)
    fresh = Phone(bench, "bob", 40001)
    fresh.flow = replace(fresh.flow, remote=("192.0.2.200", 40001))
    bench.now += 0.1
    fresh.register(600)
    later = bench.replies.pop()
    assert later.status == 401 or int(later.get("Retry-After") or 0) <= 16


def test_a_forged_sender_locks_nobody_out() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    # With a good nonce, but one that went elsewhere.
    forger = Phone(bench, "alice", 666)
    forger.flow = replace(forger.flow, remote=("198.51.100.66", 666))
    forger.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "guess"), "REGISTER", f"sip:{DOMAIN}", 1, "cnonce")
    phone = Phone(bench)
    for number in range(110):
        forged(bench, number, phone.flow.remote[0], NONSENSE)
        forged(bench, number, phone.flow.remote[0], f"{name}: {value}")
    bench.replies.clear()
    phone.authorized(600)
    bench.expect(200)


def test_guesses_are_not_forgotten_for_those_of_other_users() -> None:
    bench = Bench(replace(LOCAL, registers_per_s=0))
    phone = Phone(bench)
    for _ in range(100):
        phone.authorized(600, password="guess")
        bench.expect(401)
    for number in range(60):
        other = Phone(bench, f"user{number}", 40000)
        other.authorized(600)
        bench.expect(401)
    phone.authorized(600)
    bench.expect(403)


def test_local_offers_the_strongest_first() -> None:
    """RFC 8760 s.2.3."""
    bench = Bench(LOCAL)
    Phone(bench).register()
    assert [one.algorithm for one in parse_challenges(bench.expect(401))] == ["SHA-256", "MD5"]


def test_local_one_user_is_not_another() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("bob", "bob-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    phone.register(600, f"{name}: {value}")
    assert "not-your-address" in (bench.expect(403).get("Warning") or "")


def test_local_credentials_are_good_once_per_count() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    phone.register(600, f"{name}: {value}")
    bench.expect(200)
    phone.register(600, f"{name}: {value}")
    response = bench.expect(401)
    assert parse_challenges(response)[0].stale


def test_local_refresh_replace_and_removal() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600)
    bench.expect(200)
    bench.now += 30
    phone.authorized(600)
    assert bound(bench.expect(200)) == {phone.contact: 60}
    assert len(bench.locations) == 1
    phone.authorized(0)
    assert bound(bench.expect(200)) == {}
    assert len(bench.locations) == 0


def test_phones_of_one_user_in_two_homes_with_one_private_address_are_two() -> None:
    bench = Bench(LOCAL)
    one, other = Phone(bench, "alice", 40000), Phone(bench, "alice", 40001)
    other.flow = replace(other.flow, remote=("198.51.100.9", 40001))
    for phone in (one, other, one, other):
        phone.authorized(600)
        bench.expect(200)
        bench.now += 5
    flows = [one.flow, other.flow]
    assert sorted(binding.flow.remote for binding in bench.locations.of("alice")) == sorted(
        f.remote for f in flows
    )
    assert len({binding.token for binding in bench.locations.of("alice")}) == 2
    # Switched off and on again, with another Call-ID, and another port of its router.
    other.call_id = "another"
    other.flow = replace(other.flow, remote=("198.51.100.9", 40017))
    other.authorized(600)
    bench.expect(200)
    # A router with another address, but the Call-ID is the same.
    one.flow = replace(one.flow, remote=("198.51.100.77", 40000))
    one.authorized(600)
    bench.expect(200)
    flows = [one.flow, other.flow]
    assert sorted(binding.flow.remote for binding in bench.locations.of("alice")) == sorted(
        f.remote for f in flows
    )
    one.authorized(0)
    bench.expect(200)
    assert [binding.flow for binding in bench.locations.of("alice")] == [other.flow]


def test_local_registration_runs_out() -> None:
    bench = Bench(replace(LOCAL, keepalive="options"))
    Phone(bench).authorized(600)
    bench.expect(200)
    bench.advance(599)
    assert len(bench.locations) == 1
    bench.advance(1)
    assert len(bench.locations) == 0
    assert bench.happened[-1].what == "expired"


def test_local_query_changes_nothing() -> None:
    """RFC 3261 s.10.2.3."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.authorized(600)
    bench.expect(200)
    persisted = len(bench.tickets)
    phone.authorized(None, contact="")
    assert list(bound(bench.expect(200))) == [phone.contact]
    assert len(bench.tickets) == persisted


def test_local_all_or_nothing() -> None:
    """RFC 3261 s.10.3 step 7: one contact that is refused refuses the request."""
    bench = Bench(LOCAL)
    Phone(bench).authorized(None, contact="<sip:a@1.2.3.4>;expires=600, <sip:a@1.2.3.5>;expires=5")
    bench.expect(423)
    assert len(bench.locations) == 0


def test_local_max_contacts_and_the_dead_make_room() -> None:
    bench = Bench(replace(LOCAL, max_contacts=2))
    for number in range(2):
        Phone(bench, "alice", 40000 + number, f"192.168.1.{number + 1}").authorized()
        bench.expect(200)
    third = Phone(bench, "alice", 40002, "192.168.1.3")
    third.authorized()
    assert "too-many-contacts" in (bench.expect(403).get("Warning") or "")
    gone = bench.locations.of("alice")[1]
    bench.locations.lost(gone.flow, "no answer to OPTIONS")
    third.authorized()
    assert gone.contact not in bound(bench.expect(200))


def test_local_outbound_replaces_by_instance_and_reg_id() -> None:
    """RFC 5626 s.6."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    for contact, reg_id in (("sip:alice@192.168.1.5:5060;ob", 1), ("sip:alice@192.168.1.77:5080;ob", 1)):
        phone.authorized(
            600, "Supported: outbound", contact=f'<{contact}>;+sip.instance="<urn:uuid:7>";reg-id={reg_id}'
        )
        response = bench.expect(200)
    assert list(bound(response)) == ["sip:alice@192.168.1.77:5080;ob"]
    assert response.get("Require") == "outbound"
    assert response.contacts[0].param("reg-id") == "1"


def test_local_gruu() -> None:
    """RFC 5627 s.5.2: temporary ones differ each time, and both lead to the phone."""
    bench = Bench(LOCAL)
    phone = Phone(bench)
    found = []
    for _ in range(2):
        phone.authorized(600, "Supported: gruu", contact=f'<{phone.contact}>;+sip.instance="<urn:uuid:7>"')
        contact = bench.expect(200).contacts[0]
        assert contact.param("pub-gruu") == f"sip:alice@{DOMAIN};gr=urn:uuid:7"
        found.append(contact.param("temp-gruu") or "")
    assert found[0] != found[1] and "alice" not in found[0]
    assert bench.core.local is not None
    for temporary in found:
        handle = bench.core.local.gruus.open(temporary.removeprefix("sip:").partition("@")[0])
        assert handle is not None
        assert bench.locations.by_gruu(handle) == bench.locations.of("alice")
    assert bench.core.local.gruus.open("tgruu." + "0" * 44) is None


def test_a_phone_is_told_only_what_is_stored() -> None:
    bench = Bench(LOCAL)
    phone = Phone(bench)
    phone.register(600)
    challenge = parse_challenges(bench.expect(401))[0]
    name, value = answer(challenge, Account("alice", "alice-secret"), "REGISTER", f"sip:{DOMAIN}", 1, "c")
    bench.disk = "is slow"
    phone.register(600, f"{name}: {value}")
    assert bench.replies == []
    bench.run(bench.core.stored(bench.tickets[-1], "disk is full"))
    assert "store-failed" in (bench.expect(503).get("Warning") or "")
    assert bench.core.stored(bench.tickets[-1], None) == []


def test_a_store_that_lost_track_gets_everything() -> None:
    bench = Bench(LOCAL)
    Phone(bench).authorized()
    bench.expect(200)
    assert not bench.locations.unsaved
    assert bench.core.stored(REWRITE, None) == []
    changes = bench.locations.take_changes(bench.now, bench.wall)
    assert changes[0] == WIPE and [change.user for change in changes[1:]] == ["alice"]


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
