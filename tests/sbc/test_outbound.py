"""Registrations of ours at trunks, against a scripted registrar in virtual time (RFC 3261 s.10, RFC 5626 s.4.5)."""

from collections.abc import Callable
from itertools import count

import pytest

from config.load import load
from sbc.accounts import Accounts
from sbc.decisions import Decision
from sbc.outbound import ANSWER_S, LEAVE_S, Asked, Outbound, SendRegister
from sbc.routing import Health, ServersSnapshot, ServerView, Source
from sbc.sites import Sites
from sbc.trunks import Trunks
from signaling.digest import compute, ha1, parse_credentials
from signaling.headers import parse_name_addr
from signaling.message import Request, Response, respond
from signaling.uri import SipUri, parse_uri

CONFIG = """
networks:
  public: {address: 203.0.113.10, listen: [udp:5060, tcp:5060], media_ports: 20000-20999, user_agent: border}
trunks:
  carrier:
    network: public
    servers: ["sip:198.51.100.7", "sip:198.51.100.8"]
    domain: carrier.example
    credentials: {username: account, password: "correct horse"}
    register: {user: "4930123", expires_s: 3600, retry_s: 30}
limits: {max_calls: 100}
"""
FIRST, SECOND = ("198.51.100.7", 5060), ("198.51.100.8", 5060)


class World:
    """An `Outbound` between a clock and registrars that the test answers for."""

    def __init__(self, text: str = CONFIG, secret: bytes | None = None, first: int = 1) -> None:
        self.now = 1000.0
        self.secret = secret
        self.tokens = count(first)
        self.sent: list[SendRegister] = []
        self.health = {FIRST: Health.UP, SECOND: Health.UP}
        self.servers = self.snapshot()
        self.outbound = self.configured(text)

    def token(self, size: int) -> str:
        return f"{next(self.tokens):0{2 * size}x}"

    def configured(self, text: str) -> Outbound:
        config = load(text)
        accounts = Accounts(config, Trunks(config), lambda: self.token(6))
        return Outbound(config, Sites(config), accounts, self.token, self.secret)

    def snapshot(self) -> ServersSnapshot:
        views = tuple(ServerView(one[0], "udp", one, health) for one, health in self.health.items())
        return ServersSnapshot({"carrier": views})

    def set(self, address: tuple[str, int], health: Health) -> None:
        self.health[address] = health
        self.servers = self.snapshot()
        self.sent += self.outbound.handle_timer(self.servers, self.now)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.outbound.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.sent += self.outbound.handle_timer(self.servers, self.now)
            again = self.outbound.next_timer()
            assert again is None or again > self.now, "a timer that is not moved"
        self.now = end

    def until_sent(self) -> None:
        """Let time pass until a REGISTER is due."""
        while not self.sent:
            due = self.outbound.next_timer()
            assert due is not None
            self.advance(max(0.0, due - self.now))

    def next(self) -> SendRegister:
        if not self.sent:
            self.advance(0.0)
        assert self.sent, "nothing was sent"
        return self.sent.pop(0)

    def nothing(self) -> None:
        assert self.sent == []

    def answer(self, send: SendRegister, status: int, *fields: tuple[str, str]) -> None:
        response = respond(send.request, status, "Reason", "tag", fields)
        self.sent += self.outbound.answered(send.asked, response, self.servers, self.now)

    def accept(self, send: SendRegister, expires_s: int = 3600) -> None:
        contact = send.request.get("Contact") or ""
        self.answer(send, 200, ("Contact", f"{contact};expires={expires_s}"))

    def fail(self, send: SendRegister, cause: str = "timeout") -> None:
        self.sent += self.outbound.failed(send.asked, cause, self.servers, self.now)

    @property
    def row(self) -> dict[str, str]:
        (row,) = self.outbound.status(self.now)
        return row


def challenge(nonce: str = "n1", realm: str = "carrier.example", more: str = "") -> tuple[str, str]:
    return "WWW-Authenticate", f'Digest realm="{realm}", nonce="{nonce}", algorithm=MD5, qop="auth"{more}'


def verified(request: Request, nonce: str, nc: int) -> None:
    given = parse_credentials(request.get("Authorization") or "")
    assert (given.nonce, given.nc, given.uri) == (nonce, nc, request.uri)
    secret = ha1("account", "carrier.example", "correct horse", "MD5")
    assert compute(secret, given, "REGISTER") == given.response


def registered(world: World, expires_s: int = 3600) -> SendRegister:
    send = world.next()
    world.accept(send, expires_s)
    assert world.row["state"] == "registered"
    return send


def test_what_is_sent() -> None:
    world = World()
    send = world.next()
    request = send.request
    assert (request.method, request.uri) == ("REGISTER", "sip:carrier.example")
    assert request.get("To") == "<sip:4930123@carrier.example>"
    assert (request.get("From") or "").startswith("<sip:4930123@carrier.example>;tag=")
    contact = parse_name_addr(request.get("Contact") or "").uri
    assert isinstance(contact, SipUri)
    assert (contact.user, contact.host, contact.port) == ("4930123", "203.0.113.10", 5060)
    assert contact.param("line")
    assert request.get("Expires") == "3600"
    assert request.get("User-Agent") == "border"
    assert request.get("Authorization") is None
    assert send.flow.remote == FIRST
    world.nothing()


def test_nothing_is_registered_where_nothing_is_configured() -> None:
    outbound = World(CONFIG.replace("    register:", "    # register:")).outbound
    assert outbound.next_timer() is None
    assert outbound.handle_timer(ServersSnapshot(), 0.0) == []
    assert outbound.status(0.0) == []


def test_the_contact_user_and_the_port_of_a_literal_server() -> None:
    text = CONFIG.replace("retry_s: 30", "contact_user: pbx").replace("    domain: carrier.example\n", "")
    world = World(text)
    request = world.next().request
    assert request.uri == "sip:198.51.100.7"
    assert (request.get("Contact") or "").startswith("<sip:pbx@203.0.113.10:5060;line=")
    world = World(text.replace("198.51.100.7", "198.51.100.7:5070"))
    world.health = {("198.51.100.7", 5070): Health.UP}
    world.servers = world.snapshot()
    assert world.next().request.uri == "sip:198.51.100.7:5070"


def test_a_challenge_is_answered_and_its_nonce_used_again() -> None:
    world = World()
    first = world.next()
    world.answer(first, 401, challenge())
    second = world.next()
    verified(second.request, "n1", 1)
    assert second.request.call_id == first.request.call_id
    assert second.request.cseq.number == first.request.cseq.number + 1
    world.accept(second)
    world.until_sent()
    refresh = world.next()
    verified(refresh.request, "n1", 2)
    assert refresh.request.call_id == first.request.call_id
    assert refresh.request.get("Contact") == first.request.get("Contact")
    world.answer(refresh, 401, challenge("n2", more=", stale=true"))
    again = world.next()
    verified(again.request, "n2", 1)
    world.accept(again)
    assert world.row["state"] == "registered"


@pytest.mark.parametrize("granted", [10, 60, 600, 3600, 86400])
def test_it_is_refreshed_before_it_expires(granted: int) -> None:
    world = World()
    registered(world, granted)
    began = world.now
    world.advance(granted * 0.45)
    world.nothing()
    world.until_sent()
    assert granted * 0.5 <= world.now - began <= granted * 0.9
    world.accept(world.next(), granted)
    assert world.row["expires_s"] == str(granted)


@pytest.mark.parametrize(
    ("fields", "granted"),
    [
        ((("Expires", "120"),), "120"),
        ((), "3600"),
        ((("Contact", "<sip:else@192.0.2.1>;expires=7"), ("Expires", "120")), "120"),
        ((("Contact", '"<;>" <sip:else@192.0.2.1>;expires=7, OURS;expires=90'), ("Expires", "120")), "90"),
        ((("Contact", "OURS"), ("Expires", "120")), "120"),
        ((("Contact", "OURS;expires=nonsense"), ("Expires", "120")), "120"),
        ((("Expires", "99999999999999"),), "3600"),
        ((("Expires", "9999999"),), "604800"),
    ],
)
def test_how_long_it_lives(fields: tuple[tuple[str, str], ...], granted: str) -> None:
    """RFC 3261 s.10.2.4: the parameter of our contact, else Expires, else what we asked for."""
    world = World()
    send = world.next()
    ours = send.request.get("Contact") or ""
    world.answer(send, 200, *((name, value.replace("OURS", ours)) for name, value in fields))
    assert world.row["expires_s"] == granted


def test_a_registrar_that_grants_nothing() -> None:
    world = World()
    world.answer(world.next(), 200, ("Expires", "0"))
    assert world.next().flow.remote == SECOND


def test_423_asks_for_longer() -> None:
    world = World(CONFIG.replace("3600", "60"))
    world.answer(world.next(), 423, ("Min-Expires", "1800"))
    send = world.next()
    assert send.request.get("Expires") == "1800"
    world.accept(send, 1800)
    world.advance(1700)
    assert world.next().request.get("Expires") == "1800", "it is remembered"


@pytest.mark.parametrize("least", ["", "10", "99999999999", "x"])
def test_423_that_makes_no_sense_is_a_failure(least: str) -> None:
    world = World()
    world.answer(world.next(), 423, *([("Min-Expires", least)] if least else []))
    world.nothing()
    assert world.row["state"] == "failed"


def test_423_twice_is_a_failure() -> None:
    world = World(CONFIG.replace("3600", "60"))
    world.answer(world.next(), 423, ("Min-Expires", "1800"))
    world.answer(world.next(), 423, ("Min-Expires", "3600"))
    world.nothing()
    assert world.row["state"] == "failed"


def test_a_wrong_password_is_not_tried_everywhere() -> None:
    world = World()
    world.answer(world.next(), 401, challenge())
    world.answer(world.next(), 401, challenge())
    world.nothing()
    row = world.row
    assert row["state"] == "failed"
    assert row["why"] == "udp:198.51.100.7:5060: realm carrier.example: the credentials are wrong"
    (event,) = world.outbound.take_events()
    assert (event.trunk, event.up) == ("carrier", False)


def test_without_credentials_the_row_says_so() -> None:
    world = World(CONFIG.replace("    credentials:", "    # credentials:"))
    world.answer(world.next(), 401, challenge())
    world.nothing()
    assert "realm carrier.example: no credentials are configured" in world.row["why"]


def test_each_wait_is_longer_and_bounded_and_left_to_chance() -> None:
    """RFC 5626 s.4.5: half to the whole of 30 s, 60 s, 120 s, and no more than 300 s."""
    world = World()
    waits = []
    for _ in range(8):
        world.answer(world.next(), 403)
        began = world.now
        due = world.outbound.next_timer()
        assert due is not None
        world.advance(due - began)
        waits.append(world.now - began)
    for wait, whole in zip(waits, (30, 60, 120, 240, 300, 300, 300, 300), strict=True):
        assert whole / 2 <= wait <= whole
    assert len({round(wait, 3) for wait in waits}) > 4


def test_success_forgets_the_failures() -> None:
    world = World()
    for _ in range(5):
        world.answer(world.next(), 403)
        world.until_sent()
    registered(world)
    world.until_sent()
    world.answer(world.next(), 403)
    due = world.outbound.next_timer()
    assert due is not None and due - world.now <= 30


@pytest.mark.parametrize("how", ["timeout", "transport", "503", "500", "silence"])
def test_another_server_is_asked_at_once(how: str) -> None:
    world = World()
    send = world.next()
    assert send.flow.remote == FIRST
    if how == "silence":
        world.advance(ANSWER_S)
    elif how.isdigit():
        world.answer(send, int(how))
    else:
        world.fail(send, how)
    second = world.next()
    assert second.flow.remote == SECOND
    world.accept(second)
    assert world.row["server"] == "udp:198.51.100.8:5060"
    world.accept(send)
    assert world.row["server"] == "udp:198.51.100.8:5060", "a late answer changes nothing"


def test_when_all_servers_fail_it_waits() -> None:
    world = World()
    world.fail(world.next())
    world.fail(world.next())
    world.nothing()
    began = world.now
    world.advance(14)
    world.nothing()
    world.advance(17)
    assert world.next().flow.remote == FIRST
    assert world.now - began <= 31


def test_retry_after_is_kept_to() -> None:
    world = World()
    world.answer(world.next(), 503, ("Retry-After", "120"))
    second = world.next()
    assert second.flow.remote == SECOND
    world.answer(second, 503, ("Retry-After", "100"))
    world.nothing()
    world.advance(99)
    world.nothing()
    world.advance(2)
    assert world.next().flow.remote == SECOND, "it comes back first"


def test_retry_after_of_a_day_is_not_believed() -> None:
    world = World(CONFIG.replace(', "sip:198.51.100.8"', ""))
    del world.health[SECOND]
    world.servers = world.snapshot()
    world.answer(world.next(), 503, ("Retry-After", "86400"))
    world.advance(3700)
    world.next()


def test_a_server_that_goes_down_is_left() -> None:
    world = World()
    registered(world)
    world.set(FIRST, Health.DOWN)
    send = world.next()
    assert send.flow.remote == SECOND
    world.accept(send)
    assert world.row["server"] == "udp:198.51.100.8:5060"
    world.set(FIRST, Health.UP)
    world.nothing()
    world.until_sent()
    assert world.next().flow.remote == FIRST, "the first is preferred at the next refresh"


def test_a_server_that_is_down_is_not_asked_and_one_that_comes_up_is() -> None:
    world = World()
    world.health = dict.fromkeys((FIRST, SECOND), Health.DOWN)
    world.servers = world.snapshot()
    world.advance(1)
    world.nothing()
    assert world.row["why"] == "no server of the trunk is up"
    world.set(SECOND, Health.UP)
    assert world.next().flow.remote == SECOND


def test_a_suspect_server_goes_last() -> None:
    world = World()
    world.health[FIRST] = Health.SUSPECT
    world.servers = world.snapshot()
    assert world.next().flow.remote == SECOND


def test_a_name_without_address_is_waited_for() -> None:
    world = World()
    world.health.clear()
    world.servers = world.snapshot()
    world.advance(5)
    world.nothing()
    assert world.row["why"] == "no server of the trunk has an address"
    world.health[SECOND] = Health.UP
    world.servers = world.snapshot()
    world.advance(1)
    assert world.next().flow.remote == SECOND


def test_no_listener_for_it() -> None:
    world = World()
    world.health = {("2001:db8::7", 5060): Health.UP}
    world.servers = world.snapshot()
    world.advance(1)
    world.nothing()
    assert world.row["why"] == "no udp listener on network public"


def test_what_cannot_be_refreshed_is_lost() -> None:
    world = World()
    registered(world, 60)
    world.outbound.take_events()
    end = world.now + 61
    while world.now < end:
        world.advance(1)
        while world.sent:
            world.fail(world.next())
    assert world.row["state"] == "failed"
    events = world.outbound.take_events()
    assert not any(event.up for event in events)
    assert [event.why for event in events] == [
        "no answer",
        "no answer",
        "it expired and could not be refreshed",
    ]


def test_provisional_answers_give_it_time() -> None:
    world = World()
    send = world.next()
    world.advance(ANSWER_S - 1)
    world.answer(send, 100)
    world.advance(ANSWER_S - 1)
    world.nothing()
    world.accept(send)
    assert world.row["state"] == "registered"


class TestLeaving:
    def test_it_is_taken_back(self) -> None:
        world = World()
        before = registered(world)
        (send,) = world.outbound.leave(world.now)
        assert send.request.get("Expires") == "0"
        assert send.request.get("Contact") == before.request.get("Contact")
        assert send.flow.remote == FIRST
        assert not world.outbound.idle
        world.answer(send, 401, challenge())
        again = world.next()
        verified(again.request, "n1", 1)
        assert again.request.get("Expires") == "0"
        world.answer(again, 200)
        assert world.outbound.idle and world.outbound.next_timer() is None
        assert world.row["state"] == "gone"

    @pytest.mark.parametrize("how", ["silence", "timeout", "403", "wrong password"])
    def test_nobody_is_waited_for_for_long(self, how: str) -> None:
        world = World()
        registered(world)
        (send,) = world.outbound.leave(world.now)
        if how == "silence":
            world.advance(LEAVE_S)
        elif how == "timeout":
            world.fail(send)
        elif how == "403":
            world.answer(send, 403)
        else:
            world.answer(send, 401, challenge())
            world.answer(world.next(), 401, challenge())
        assert world.outbound.idle and world.outbound.next_timer() is None
        world.nothing()

    def test_who_is_not_registered_just_goes(self) -> None:
        world = World()
        assert world.outbound.leave(world.now) == []
        assert world.outbound.idle
        world.advance(100)
        world.nothing()

    def test_a_register_under_way_is_taken_back_too(self) -> None:
        world = World()
        first = world.next()
        (send,) = world.outbound.leave(world.now)
        assert send.request.cseq.number == first.request.cseq.number + 1
        world.accept(first)
        assert world.row["state"] == "leaving"
        world.answer(send, 200)
        assert world.outbound.idle


class TestReload:
    def reload(self, world: World, text: str) -> list[SendRegister]:
        fresh = world.configured(text)
        sends = fresh.adopt(world.outbound, world.now)
        world.outbound = fresh
        return sends

    def test_what_is_the_same_goes_on(self) -> None:
        world = World()
        first = registered(world)
        due = world.outbound.next_timer()
        assert self.reload(world, CONFIG) == []
        assert world.outbound.next_timer() == due
        assert world.row["state"] == "registered"
        world.until_sent()
        refresh = world.next()
        assert refresh.request.call_id == first.request.call_id
        assert refresh.request.cseq.number == first.request.cseq.number + 1
        assert refresh.request.get("Contact") == first.request.get("Contact")

    def test_what_has_changed_is_taken_back_and_made_anew(self) -> None:
        world = World()
        registered(world)
        (send,) = self.reload(world, CONFIG.replace("4930123", "4930999"))
        assert send.request.get("Expires") == "0"
        assert "4930123" in (send.request.get("To") or "")
        assert not world.outbound.idle
        world.answer(send, 200)
        fresh = world.next()
        assert "4930999" in (fresh.request.get("To") or "")
        world.accept(fresh)
        assert world.outbound.idle and world.row["user"] == "4930999"

    def test_another_address_of_ours_is_told_at_once(self) -> None:
        world = World()
        registered(world)
        self.reload(world, CONFIG.replace("203.0.113.10,", "203.0.113.10, advertise: 192.0.2.99,"))
        send = world.next()
        assert "@192.0.2.99:5060" in (send.request.get("Contact") or "")

    def test_a_register_under_way_is_asked_again(self) -> None:
        world = World()
        world.next()
        self.reload(world, CONFIG)
        registered(world)


def source(trunk: str | None = None, network: str = "public") -> Source:
    return Source(network, trunk, "192.0.2.55")


FOUND = Decision("source", "none", (("source", "udp 192.0.2.55:5060"),), "no trunk in network public")


class TestCalls:
    """Calls to our contact."""

    def word(self, world: World) -> str:
        world.until_sent()
        uri = parse_uri(parse_name_addr(registered(world).request.get("Contact") or "").uri_text)
        assert isinstance(uri, SipUri)
        return uri.param("line") or ""

    def test_a_call_to_our_contact_is_from_the_trunk(self) -> None:
        world = World()
        uri = f"sip:4930123@203.0.113.10:5060;line={self.word(world)}"
        found, decision = world.outbound.source_of(uri, source(), FOUND)
        assert (found.trunk, found.network, found.host) == ("carrier", "public", "192.0.2.55")
        assert decision.rule == "trunks.carrier.register"

    @pytest.mark.parametrize(
        "make",
        [
            lambda word: "sip:4930123@203.0.113.10:5060",
            lambda word: f"sip:4930123@203.0.113.10:5060;line={word}0",
            lambda word: "sip:4930123@203.0.113.10:5060;line=",
            lambda word: f"sip:4930123@203.0.113.10:5060;x=1;lines={word}",
            lambda word: f"not a uri;line={word}",
            lambda word: f"sip:4930123;line={word}@203.0.113.10",
        ],
    )
    def test_others_are_not(self, make: Callable[[str], str]) -> None:
        world = World()
        assert world.outbound.source_of(make(self.word(world)), source(), FOUND) == (source(), FOUND)

    def test_nor_is_one_from_another_network(self) -> None:
        world = World()
        uri = f"sip:4930123@203.0.113.10:5060;line={self.word(world)}"
        inside = source(network="private")
        assert world.outbound.source_of(uri, inside, FOUND) == (inside, FOUND)

    def test_the_word_is_the_same_after_a_restart_when_there_is_a_secret(self) -> None:
        kept = World(secret=b"k" * 32)
        assert self.word(kept) == self.word(World(secret=b"k" * 32, first=3))
        assert self.word(kept) != self.word(World(secret=b"l" * 32))

    @pytest.mark.parametrize("secret", [None, b"k" * 32])
    def test_the_word_tells_nothing_of_the_password(self, secret: bytes | None) -> None:
        """Whoever sees a Contact of ours could try passwords on it (the word was a hash of the password alone)."""
        other = World(CONFIG.replace("correct horse", "battery staple"), secret)
        assert self.word(other) == self.word(World(secret=secret))
        assert self.word(World(first=99)) != self.word(World())


def test_answers_of_nobody() -> None:
    world = World()
    send = world.next()
    stray = Asked(send.asked.line, send.request, send.flow, send.asked.server, 0.0)
    response: Response = respond(send.request, 200, "OK", "t", [])
    assert world.outbound.answered(stray, response, world.servers, world.now) == []
    assert world.outbound.failed(stray, "timeout", world.servers, world.now) == []
    assert world.row["state"] == "registering"
