"""Remote phones come home: baresip behind NAT registers through the border, calls and is called, and stays reachable.

Real phones in the homes of homes.py, the registrar of registrar.py on the private side with a desk phone of its own.
Whoever talks is proven to be heard by a tone, both ways, each time.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.border import FAST, Border
from tests.lab.capture import leaks, secrets_of
from tests.lab.handset import Handset
from tests.lab.homes import HOUSE, LOTS, Nat, Village
from tests.lab.lab import FOUND
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, obstacle
from tests.lab.registrar import DOMAIN, Registrar
from tests.lab.talk import assert_no_traceback, packets_of, rows

pytestmark = [pytest.mark.lab, pytest.mark.slow]

PROXY = f"{SIDES[PUBLIC].border}:5060"
DESK = "erin"
"""The phone of the private side, which registers at the registrar itself."""
MAPPING_S = 4
"""After so many seconds of silence the routers forget, in place of the 30 s of the trade."""
KEEPALIVE_S = 1.5
EXPIRES_S = 6
"""What a phone behind NAT registers for at most; it refreshes before."""


def configuration(directory: Path, registrar: str = "pbx", more: str = "") -> str:
    """The border: phones in the Internet, the registrar inside."""
    listener = (
        "{{address: {host}, listen: [udp:5060, tcp:5060], media_ports: 20000-21999, domain: {name}{more}}}"
    )
    networks = {
        PUBLIC: listener.format(
            host=SIDES[PUBLIC].border, name="public.border.example", more=", nat: far-end"
        ),
        PRIVATE: listener.format(host=SIDES[PRIVATE].border, name="private.border.example", more=""),
    }
    timers = ", ".join(f"{name}: {value}" for name, value in FAST.items())
    lines = [
        "networks:",
        *(f"  {name}: {line}" for name, line in networks.items()),
        f'trunks: {{pbx: {{network: private, servers: ["sip:{SIDES[PRIVATE].peer}"]}}}}',
        "phones:",
        f"  {{network: public, registrar: {registrar}, domain: {DOMAIN}, store: {directory}/locations.db,",
        f"   min_expires_s: 2, max_expires_s: {EXPIRES_S}, default_expires_s: {EXPIRES_S},",
        f"   nat_expires_s: {EXPIRES_S}, keepalive_s: {KEEPALIVE_S}{more}}}",
        "routes:",
        '  - {from: phones, match: "^1", to: pbx}' if registrar == "local" else "  - {from: phones, to: pbx}",
        *(["  - {from: phones, to: phones}"] if registrar == "local" else []),
        "  - {from: pbx, to: phones, when: registered}",
        f"timers: {{{timers}}}",
        f"log: {{level: info, cdr: {directory}/cdr.jsonl, trace: full}}",
        f"control: {{socket: {directory}/control.sock}}",
    ]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def machine_for_phones(machine: None) -> None:
    """Skips where there is no registrar, no phone or no router."""
    reason = obstacle("nft", "kamailio", "baresip")
    if reason:
        pytest.skip(reason)


class Town:
    """Two homes, the registrar, the desk phone and the border."""

    def __init__(self, directory: Path, registrar: str = "pbx", more: str = "") -> None:
        self.village = Village(directory)
        self.yaml = configuration(directory, registrar, more)
        self.phones: list[Handset] = []
        self._numbers = 0

    def open(self) -> "Town":
        """Build it."""
        self.village.__enter__()
        try:
            self.village.home("a", Nat.CONE, MAPPING_S)
            self.village.home("b", Nat.SYMMETRIC, MAPPING_S)
            self.registrar = Registrar(self.village.namespaces)
            self.village.start(self.yaml)
            self.desk = Handset(
                self.village.namespaces, PRIVATE, SIDES[PRIVATE].peers[1], DESK, f"{self.registrar.host}:5060",
                expires_s=3600,
            )  # fmt: skip
            self.desk.await_registered()
        except BaseException:
            self.village.__exit__()
            raise
        return self

    @property
    def border(self) -> Border:
        """The running border."""
        return self.village.border

    def phone(
        self, home: str, user: str, room: int = 0, transport: str = "udp", password: str | None = None
    ) -> Handset:
        """A phone in a room of a home, switched on."""
        self._numbers += 1
        phone = Handset(
            self.village.namespaces, self.village.homes[home].room(room), HOUSE[room], user, PROXY,
            transport=transport, expires_s=60, password=password, number=self._numbers,
        )  # fmt: skip
        self.phones.append(phone)
        return phone

    def at_home(self, home: str, user: str, room: int = 0, transport: str = "udp") -> Handset:
        """A phone that has registered."""
        phone = self.phone(home, user, room, transport)
        phone.await_registered()
        return phone

    def bindings(self, user: str) -> list[dict[str, object]]:
        """What the border knows of a user."""
        return [row for row in rows(self.border, "registrations", "registrations") if row["user"] == user]

    def await_bindings(self, user: str, count: int, timeout_s: float = 15.0) -> None:
        """Wait until the border has so many."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.bindings(user)) != count:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def evening(self) -> None:
        """All phones are switched off, nobody is registered any more."""
        for phone in self.phones:
            phone.switch_off()
        for user in {phone.user for phone in self.phones}:
            self.await_bindings(user, 0)
        self.phones.clear()

    def close(self) -> None:
        """Remove it."""
        self.village.__exit__()


@pytest.fixture(scope="module")
def built(machine_for_phones: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The town of all tests here; at the end nothing of one side was seen on the other."""
    town = Town(tmp_path_factory.mktemp("town")).open()
    try:
        yield town
        assert_no_traceback(town.border)
        assert town.border.leftovers() == {}
        town.village.stop_recording()
        assert_nothing_leaked(town.village)
    finally:
        town.close()


@pytest.fixture
def town(built: Town) -> Iterator[Town]:
    """The town, at night empty."""
    yield built
    built.evening()


def assert_nothing_leaked(village: Village) -> None:
    """No address, tag, Call-ID, branch or user agent of one side was seen on the other."""
    hosts = {
        PUBLIC: {
            *SIDES[PUBLIC].peers,
            SIDES[PUBLIC].border,
            *HOUSE,
            *(one for lot in LOTS.values() for one in lot.given),
        },
        PRIVATE: {*SIDES[PRIVATE].peers, SIDES[PRIVATE].border},
    }
    sides = {side: packets_of(village, side) for side in SIDES}
    own = {
        side: secrets_of(
            [
                packet.payload.decode(errors="replace")
                for packet in sides[side]
                if packet.source[0] != SIDES[side].border and b"SIP/2.0" in packet.payload[:2000]
            ]
        )
        for side in SIDES
    }
    for side, other in ((PUBLIC, PRIVATE), (PRIVATE, PUBLIC)):
        assert own[other], "nothing was recorded"
        found = leaks(sides[side], (own[other] - own[side]) | hosts[other])
        assert not found, "\n".join(found[:5])


def converse(caller: Handset, callee: Handset, hold: bool = False) -> None:
    """A call: both hear the other one's tone, and their own one never. With `hold` once more after a pause."""
    for phone in (caller, callee):
        phone.forget()
    before = callee.calls
    caller.call(callee.user)
    callee.await_established(before + 1)
    time.sleep(1.5)
    if hold:
        caller.hold()
        time.sleep(1.0)
        caller.resume()
        time.sleep(1.5)
    caller.hang_up()
    caller.await_ended(caller.calls)
    callee.await_ended(before + 1)
    for phone, other in ((caller, callee), (callee, caller)):
        assert phone.hears(other.hz) > FOUND, f"{phone.user} does not hear {other.user}"
        assert phone.hears(phone.hz) < 0.01, f"{phone.user} hears itself"
        if hold:
            rate, samples = phone.recording()
            assert phone.hears_in(samples[-rate:], rate, other.hz) > FOUND, f"{phone.user} after hold"


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("home", ["a", "b"])
def test_a_phone_calls_and_is_called(town: Town, home: str, transport: str) -> None:
    """From behind a port-restricted cone (a) and a symmetric NAT (b)."""
    alice = town.at_home(home, "alice", transport=transport)
    (contact,) = town.registrar.contacts("alice")
    assert f"@{SIDES[PRIVATE].border}:5060" in contact.uri
    converse(alice, town.desk, hold=True)
    converse(town.desk, alice)
