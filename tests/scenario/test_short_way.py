"""The short way of OPTIONS and REGISTER: it answers as the long way does, and leaves to it whatever it should."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from config.load import load
from sbc.binding import Row
from sbc.locations import SLACK_S, WRITE_S, Change
from signaling.digest import Account, Challenge, answer, parse_challenges
from signaling.flow import Flow
from signaling.message import Response
from signaling.parser import parse
from tests.harness.border import Border

CONFIG = """
networks:
  public:
    address: 203.0.113.10
    listen: [udp:5060, tcp:5060]
    media_ports: 20000-21999
    domain: sip.example.com
    nat: far-end
phones: {network: public, registrar: local, store: null, keepalive: off, outbound: true, gruu: true,
  min_expires_s: 60, max_expires_s: 3600, registers_per_s: 0,
  users: {alice: {password: a-secret}, bob: {password: b-secret}}}
routes:
  - {from: phones, to: phones}
limits: {max_calls: 100}
"""
LONG = "X-Unheard-Of: 1\r\n"
"""A line that the short way does not know: with it everything goes the long way."""
REALM = "sip.example.com"
HOME = ("192.0.2.77", 40001)


class Phone:
    """A phone behind a NAT, which writes everything alike each time, as phones do."""

    def __init__(self, border: Border, user: str = "alice", remote: tuple[str, int] = HOME) -> None:
        self.border = border
        self.user = user
        self.flow = Flow("public", "udp", ("203.0.113.10", 5060), remote)
        self.call_id = f"c-{user}"
        self.cseq = 0
        self.nc = 0
        self.contact = f"<sip:{user}@192.168.1.5:5060>"
        self.expires = 600
        self.more = ""
        self.challenge: Challenge | None = None
        self.last = b""

    def text(self, authorization: str = "", more: str = "", method: str = "REGISTER") -> bytes:
        return (
            f"{method} sip:{REALM} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK{self.user}{self.cseq};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:{self.user}@{REALM}>;tag=t{self.cseq}\r\n"
            f"To: <sip:{self.user}@{REALM}>\r\nCall-ID: {self.call_id}\r\nCSeq: {self.cseq} {method}\r\n"
            f"Contact: {self.contact}\r\nExpires: {self.expires}\r\nUser-Agent: Home/1.0\r\n{self.more}"
            f"{authorization}{more}Content-Length: 0\r\n\r\n"
        ).encode()

    def credentials(self, password: str | None = None, nc: int | None = None) -> str:
        assert self.challenge is not None
        account = Account(self.user, password or f"{self.user[0]}-secret")
        number = self.nc if nc is None else nc
        name, value = answer(self.challenge, account, "REGISTER", f"sip:{REALM}", number, "cn")
        return f"{name}: {value}\r\n"

    def send(self, data: bytes) -> Response | None:
        self.last = data
        before = len(self.border.sent)
        self.border.calls.receive(data, self.flow, self.border.now)
        found = [parse(data) for data, flow in self.border.sent[before:] if flow == self.flow]
        assert len(found) < 2
        if not found:
            return None
        assert isinstance(found[0], Response)
        return found[0]

    def ask(self, more: str = "") -> Response:
        self.cseq += 1
        response = self.send(self.text(more=more))
        assert response is not None
        if response.status == 401:
            self.challenge, self.nc = parse_challenges(response)[0], 0
        return response

    def show(self, more: str = "", password: str | None = None, nc: int | None = None) -> Response | None:
        self.cseq += 1
        self.nc += 1
        return self.send(self.text(self.credentials(password, nc), more))

    def registered(self, more: str = "") -> Response:
        assert self.ask(more).status == 401
        response = self.show(more)
        assert response is not None and response.status == 200, response
        return response

    @property
    def short(self) -> bool:
        """Whether the last request took the short way: no transaction knows it."""
        begin = len(self.border.calls.transactions)
        return begin == 0


def known() -> Phone:
    """A phone that has registered, all of whose transactions are over."""
    phone = Phone(Border(CONFIG))
    phone.registered()
    phone.border.advance(40)
    assert phone.border.calls.leftovers()["transactions"] == 0
    return phone


def shown(response: Response | None) -> list[tuple[str, str]]:
    """What an answer says, but for what is new in each."""
    assert response is not None
    text = [("status", f"{response.status} {response.reason}")]
    for name, value in response.fields:
        told = re.sub(r'(tag|nonce)=("?)\w+', r"\1=\2new", re.sub(r"z9hG4bK\w+", "branch", value))
        text.append((name, re.sub(r"^\d+ ", "", told) if name == "CSeq" else told))
    return text


@pytest.mark.parametrize("method", ["OPTIONS", "REGISTER"])
def test_the_same_answer_as_by_the_long_way(method: str) -> None:
    phone = Phone(Border(CONFIG))
    answers = []
    for more in ("", LONG):
        phone.cseq += 1
        answers.append(phone.send(phone.text(more=more, method=method)))
        assert phone.short, "neither needs a transaction"
    assert shown(answers[0]) == shown(answers[1])


@pytest.mark.parametrize("more", ["", "Supported: path, outbound\r\n", "Allow: INVITE, ACK\r\n"])
def test_a_renewal_is_answered_as_by_the_long_way(more: str) -> None:
    phone = Phone(Border(CONFIG))
    phone.more = more
    if "outbound" in more:
        phone.contact += ';+sip.instance="<urn:uuid:1>";reg-id=1'
        phone.border = Border(CONFIG.replace("gruu: true", "gruu: false"))
    first = phone.registered()
    phone.border.advance(40)
    second = phone.registered()
    assert phone.short
    long = phone.registered(LONG)
    assert not phone.short
    assert shown(first) == shown(second) == shown(long)
    if "outbound" in more:
        assert second.get("Require") == "outbound" and second.get("Flow-Timer")
    (binding,) = phone.border.calls.phones.locations.of("alice")
    assert binding.expires_at == phone.border.now + 600 and binding.cseq == phone.cseq


def test_a_phone_that_shows_the_nonce_it_has_needs_one_message() -> None:
    phone = known()
    phone.registered()
    for _ in range(3):
        phone.border.advance(60)
        response = phone.show()
        assert response is not None and response.status == 200 and phone.short
    (binding,) = phone.border.calls.phones.locations.of("alice")
    assert binding.expires_at == phone.border.now + 600


def test_a_phone_that_was_switched_off_has_another_call_id() -> None:
    phone = known()
    phone.call_id, phone.cseq = "another", 0
    phone.registered()
    assert phone.short
    (binding,) = phone.border.calls.phones.locations.of("alice")
    assert (binding.call_id, binding.cseq) == ("another", 2)


def test_a_repeated_renewal_gets_the_same_answer() -> None:
    """RFC 3261 s.17.2.2 without a transaction: its nonce count is used, and yet it is no replay."""
    phone = known()
    first = phone.registered()
    assert phone.short
    phone.border.advance(0.5)
    again = phone.send(phone.last)
    assert again is not None and again.encode() == first.encode()
    phone.border.advance(3.5)
    later = phone.send(phone.last)
    assert later is not None and later.status == 200 and later.to_tag == first.to_tag
    (binding,) = phone.border.calls.phones.locations.of("alice")
    assert binding.expires_at == phone.border.now - 4 + 600, "and renews nothing"


def test_the_same_digest_is_good_for_no_other_request() -> None:
    phone = known()
    phone.registered()
    used = phone.last
    for forged in (
        used.replace(b"branch=z9hG4bK", b"branch=z9hG4bKx"),
        used.replace(b"CSeq: 4", b"CSeq: 5").replace(b"branch=z9hG4bK", b"branch=z9hG4bKy"),
        used.replace(b"Call-ID: c-alice", b"Call-ID: x").replace(b"branch=z9hG4bK", b"branch=z9hG4bKz"),
    ):
        assert forged != used
        response = phone.send(forged)
        assert response is not None and response.status in (401, 500), response
    (binding,) = phone.border.calls.phones.locations.of("alice")
    assert (binding.call_id, binding.cseq) == (phone.call_id, phone.cseq)


def _moved(phone: Phone) -> None:
    phone.flow = Flow("public", "udp", phone.flow.local, (HOME[0], 41000))


def _elsewhere(phone: Phone) -> None:
    phone.contact = "<sip:alice@192.168.1.9:5060>"


def _sooner(phone: Phone) -> None:
    phone.expires = 300


def _gone(phone: Phone) -> None:
    phone.expires = 0


def _preferred(phone: Phone) -> None:
    phone.contact += ";q=0.5"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_moved, [("sip:alice@192.168.1.5:5060", 41000, 600.0, 1000)]),
        (_sooner, [("sip:alice@192.168.1.5:5060", 40001, 300.0, 1000)]),
        (_preferred, [("sip:alice@192.168.1.5:5060", 40001, 600.0, 500)]),
        (_gone, []),
        (
            _elsewhere,
            [
                ("sip:alice@192.168.1.9:5060", 40001, 600.0, 1000),
                ("sip:alice@192.168.1.5:5060", 40001, 560.0, 1000),
            ],
        ),
    ],
)
def test_what_is_not_the_same_is_read_in_full(
    change: Callable[[Phone], None], expected: list[tuple[Any, ...]]
) -> None:
    phone = known()
    change(phone)
    phone.registered()
    now = phone.border.now
    found = phone.border.calls.phones.locations.of("alice")
    assert [(one.contact, one.flow.remote[1], one.expires_at - now, one.q) for one in found] == expected
    assert not phone.short


def test_a_wrong_password_renews_nothing() -> None:
    phone = known()
    (binding,) = phone.border.calls.phones.locations.of("alice")
    before = binding.expires_at
    phone.ask()
    response = phone.show(password="guess")
    assert response is not None and response.status == 401
    assert phone.border.calls.stats["refused:wrong-credentials"] == 1
    assert binding.expires_at == before


def test_a_nonce_count_is_good_once() -> None:
    phone = known()
    phone.registered()
    response = phone.show(nc=1)
    assert response is not None and response.status == 401 and parse_challenges(response)[0].stale


def test_one_user_does_not_renew_for_another() -> None:
    border = Border(CONFIG)
    alice, bob = Phone(border), Phone(border, "bob")
    alice.registered()
    bob.registered()
    border.advance(40)
    alice.ask()
    alice.cseq += 1
    alice.nc += 1
    bob.challenge, bob.nc = alice.challenge, 1
    response = alice.send(alice.text(bob.credentials()))
    assert response is not None and response.status == 403


def test_another_configuration_reads_anew() -> None:
    phone = known()
    border = phone.border
    border.calls.reload(
        load(CONFIG.replace("max_expires_s: 3600", "max_expires_s: 120, default_expires_s: 120")), border.now
    )
    phone.registered()
    (binding,) = border.calls.phones.locations.of("alice")
    assert binding.expires_at == border.now + 120
    border.advance(40)
    phone.registered()
    assert phone.short and binding.expires_at == border.now + 120


def test_too_many_at_once_are_sent_away_by_the_short_way_too() -> None:
    border = Border(CONFIG.replace("registers_per_s: 0", "registers_per_s: 1"))
    phone = Phone(border)
    phone.more = (
        f"Organization: {'x' * 200}\r\n"  # a stranger gets few answers that are larger than what he sends
    )
    answers = [phone.ask() for _ in range(40)]
    refused = [one for one in answers if one.status == 503]
    assert refused and answers[0].status == 401
    long = phone.ask(LONG)
    drop = {"Retry-After"}
    assert [one for one in shown(refused[-1]) if one[0] not in drop] == [
        one for one in shown(long) if one[0] not in drop
    ]


class Disk:
    """A store that writes when it is told to."""

    def __init__(self, border: Border) -> None:
        self.border = border
        self.rows: dict[tuple[str, str], Row] = {}
        self.waiting: list[tuple[int, tuple[Change, ...]]] = []
        border.calls.phones.keep(lambda ticket, changes: self.waiting.append((ticket, changes)), None)

    def write(self, error: str | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        for ticket, changes in waiting:
            for change in changes:
                if error is None and change.row is not None:
                    self.rows[change.user, change.identity] = change.row
                elif error is None:
                    self.rows.pop((change.user, change.identity), None)
            self.border.calls.phones.stored(ticket, error, self.border.now)

    def restored(self, after_s: float) -> Border:
        """A border that begins with what is on the disk."""
        fresh = Border(CONFIG)
        fresh.now = self.border.now + after_s
        fresh.calls.phones.restore(list(self.rows.values()), fresh.now)
        return fresh


def stored() -> tuple[Phone, Disk]:
    """A phone that is registered and stored."""
    phone = Phone(Border(CONFIG))
    disk = Disk(phone.border)
    phone.ask()
    assert phone.show() is None, "nothing is said before it is stored"
    before = len(phone.border.sent)
    disk.write()
    assert phone.border.sent[before][0].startswith(b"SIP/2.0 200 ")
    phone.border.advance(40)
    return phone, disk


def test_a_renewal_that_the_store_covers_is_not_waited_for() -> None:
    phone, disk = stored()
    phone.registered()
    assert phone.short and not disk.waiting
    told = phone.border.now + 600
    # Killed now, nothing of the renewal having been written: the phone is there for as long as it was told.
    assert len(disk.restored(told - phone.border.now - 1).calls.phones.locations) == 1
    phone.border.advance(WRITE_S)
    assert len(disk.waiting) == 1
    disk.write()
    (row,) = disk.rows.values()
    assert row[10] == 1_700_000_000 + told, "what was promised is what is written"


def test_the_end_writes_what_was_renewed() -> None:
    phone, disk = stored()
    phone.registered()
    phone.border.calls.phones.close(phone.border.now)
    disk.write()
    (row,) = disk.rows.values()
    assert row[10] == 1_700_000_000 + phone.border.now + 600
    phone.border.calls.phones.close(phone.border.now)
    assert not disk.waiting, "and nothing when there is nothing"


def test_renewals_go_on_for_as_long_as_the_store_keeps_up() -> None:
    phone, disk = stored()
    for _ in range(20):
        phone.border.advance(SLACK_S / 2)
        disk.write()
        phone.registered()
        assert phone.short
    assert len(disk.restored(600).calls.phones.locations) == 1


def test_a_renewal_that_it_does_not_cover_waits() -> None:
    phone, disk = stored()
    phone.border.advance(SLACK_S)
    phone.ask()
    assert phone.show() is None and len(disk.waiting) == 1
    before = len(phone.border.sent)
    disk.write()
    assert phone.border.sent[before][0].startswith(b"SIP/2.0 200 ")


def test_while_the_disk_fails_no_more_is_promised_than_it_covers() -> None:
    phone, disk = stored()
    for _ in range(6):
        phone.border.advance(SLACK_S / 4)
        disk.write("disk is full")
        phone.ask()
        response = phone.show()
        if response is None:
            break
        assert response.status == 200
        assert len(disk.restored(599).calls.phones.locations) == 1
    else:
        raise AssertionError("it went on without the disk")
    before = len(phone.border.sent)
    disk.write("disk is full")
    assert phone.border.sent[before][0].startswith(b"SIP/2.0 503 ")


def test_what_is_removed_is_not_written_again() -> None:
    phone, disk = stored()
    phone.registered()
    phone.expires = 0
    phone.ask()
    phone.show()
    disk.write()
    phone.border.advance(2 * WRITE_S)
    disk.write()
    assert disk.rows == {} and len(phone.border.calls.phones.locations) == 0
