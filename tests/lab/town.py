"""Two homes, a registrar with a desk phone, and the border between: where the tests of registered phones take place."""

import os
import re
import signal
import time
from pathlib import Path

from tests.lab.border import FAST, Border
from tests.lab.capture import leaks, secrets_of
from tests.lab.faults import UNEVEN, findings
from tests.lab.handset import Handset
from tests.lab.homes import HOUSE, LOTS, Nat, Village
from tests.lab.lab import FOUND
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES
from tests.lab.registrar import DOMAIN, Registrar
from tests.lab.talk import assert_no_traceback, packets_of, rows

PROXY = f"{SIDES[PUBLIC].border}:5060"
DESK = "erin"
"""The phone of the private side, which registers at the registrar itself."""
MAPPING_S = 4
"""After so many seconds of silence the routers forget, in place of the 30 s of the trade."""
KEEPALIVE_S = 1.5
EXPIRES_S = 6
"""What a phone behind NAT registers for at most; it refreshes before."""


def configuration(directory: Path, registrar: str = "pbx", more: str = "", expires_s: int = EXPIRES_S) -> str:
    """The border: phones in the Internet, the registrar inside. No phone registers for longer than `expires_s`."""
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
        f"   min_expires_s: 2, max_expires_s: {expires_s}, default_expires_s: {expires_s},",
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


class Town:
    """Two homes, the registrar, the desk phone and the border."""

    def __init__(
        self,
        directory: Path,
        registrar: str = "pbx",
        more: str = "",
        expires_s: int = EXPIRES_S,
        asks: bool = False,
        sections: str = "",
    ) -> None:
        self.village = Village(directory)
        self._asks = asks
        self.yaml = configuration(directory, registrar, more, expires_s) + sections
        self.phones: list[Handset] = []
        self._numbers = 0
        self._judged: set[str] = set()

    def open(self) -> "Town":
        """Build it."""
        self.village.__enter__()
        try:
            self.village.home("a", Nat.CONE, MAPPING_S)
            self.village.home("b", Nat.SYMMETRIC, MAPPING_S)
            self.registrar = Registrar(self.village.namespaces, self._asks)
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
        self,
        home: str,
        user: str,
        room: int = 0,
        transport: str = "udp",
        password: str | None = None,
        answers: bool = True,
        account: str = "",
        expires_s: int = 60,
    ) -> Handset:
        """A phone in a room of a home, switched on."""
        self._numbers += 1
        phone = Handset(
            self.village.namespaces, self.village.homes[home].room(room), HOUSE[room], user, PROXY,
            transport=transport, expires_s=expires_s, password=password, number=self._numbers,
            answers=answers, account=account,
        )  # fmt: skip
        self.phones.append(phone)
        return phone

    def at_home(
        self,
        home: str,
        user: str,
        room: int = 0,
        transport: str = "udp",
        answers: bool = True,
        account: str = "",
        expires_s: int = 60,
    ) -> Handset:
        """A phone that has registered."""
        phone = self.phone(home, user, room, transport, answers=answers, account=account, expires_s=expires_s)
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

    def flow(self, user: str) -> str:
        """Where the border reaches the one phone of a user; "" where it has none."""
        return next((str(row["flow"]) for row in self.bindings(user)), "")

    def await_another_flow(self, user: str, before: str, timeout_s: float = 75) -> None:
        """Wait until a phone has come by another way than before.

        A baresip that was refused, since its refresh came while nobody was there, waits for up to a minute.
        """
        deadline = time.monotonic() + timeout_s
        while self.flow(user) in ("", before):
            assert time.monotonic() < deadline, self.bindings(user)
            time.sleep(0.2)

    def registers(self, side: str, since: float) -> int:
        """How many REGISTERs have come to the border (public) or left it (private) since a moment."""
        to_border = side == PUBLIC
        return sum(
            packet.at >= since
            and packet.payload.startswith(b"REGISTER ")
            and (packet.destination[0] == SIDES[side].border) == to_border
            for packet in packets_of(self.village, side)
        )

    def held(self) -> dict[str, int]:
        """What the border holds, transactions aside, which linger."""
        stats = self.border.stats()
        return {
            name: n for name, n in stats.items() if name.startswith("held.") and "transactions" not in name
        }

    def restart_border(self, **settings: int) -> None:
        """Kill it and all of its workers, and start it anew, with other `settings` of `phones`."""
        for name, value in settings.items():
            self.yaml, found = re.subn(rf"\b{name}: \d+", f"{name}: {value}", self.yaml)
            assert found == 1, name
        for pid in self.border.pids():
            os.kill(pid, signal.SIGKILL)
        self.border.process.wait(10)
        assert_no_traceback(self.border)
        self.village.restart(self.yaml)

    def judge(self) -> None:
        """Of every call that was up and ended by BYE explain says that it was healthy, and nothing else."""
        calls = [str(row["id"]) for row in rows(self.border, "recent") if row["cause"] == "bye"]
        fresh = [call for call in calls if call not in self._judged]
        self._judged.update(fresh)
        for call in fresh:
            found = findings(self.border, call)
            assert found.pop("call") == "bye"
            assert set(found.values()) <= {"healthy", *UNEVEN}, self.border.explain(call)

    def evening(self) -> None:
        """All phones are switched off, nobody is registered any more."""
        self.judge()
        for phone in self.phones:
            phone.switch_off()
        for user in {phone.user for phone in self.phones}:
            self.await_bindings(user, 0)
        self.phones.clear()

    def close(self) -> None:
        """Remove it."""
        self.village.__exit__()


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
    # Media has no words in it but in RTCP, and test_calls.py looks at every byte of calls like these.
    sides = {
        side: [packet for packet in packets_of(village, side) if b"SIP/2.0" in packet.payload]
        for side in SIDES
    }
    own = {
        side: secrets_of(
            [
                packet.payload.decode(errors="replace")
                for packet in sides[side]
                # The hundreds of refreshes of this one would be thousands of words to look for.
                if packet.source[0] != SIDES[side].border and b"dave@" not in packet.payload
            ]
        )
        for side in SIDES
    }
    for side, other in ((PUBLIC, PRIVATE), (PRIVATE, PUBLIC)):
        assert own[other], "nothing was recorded"
        # `leaks` looks into each packet for each word; one look at all packets at once leaves few words to it.
        whole = b"\0".join(packet.payload for packet in sides[side]).lower()
        assert all(word.lower().encode() in whole for word in own[side]), "the search finds nothing"
        secrets = (own[other] - own[side]) | hosts[other]
        found = leaks(sides[side], {secret for secret in secrets if secret.lower().encode() in whole})
        assert not found, "\n".join(found[:5])


def converse(caller: Handset, callee: Handset, hold: bool = False) -> None:
    """A call: both hear the other one's tone, and their own one never. With `hold` once more after a pause."""
    for phone in (caller, callee):
        phone.forget()
    before, over, over_there = callee.calls, caller.ended, callee.ended
    caller.call(callee.user)
    callee.await_established(before + 1)
    time.sleep(1.5)
    if hold:
        caller.hold()
        time.sleep(1.0)
        caller.resume()
        time.sleep(1.5)
    caller.hang_up()
    caller.await_ended(over + 1)
    callee.await_ended(over_there + 1)
    for phone, other in ((caller, callee), (callee, caller)):
        assert phone.hears(other.hz) > FOUND, f"{phone.user} does not hear {other.user}"
        assert phone.hears(phone.hz) < 0.01, f"{phone.user} hears itself"
        if hold:
            rate, samples = phone.recording()
            assert phone.hears_in(samples[-rate:], rate, other.hz) > FOUND, f"{phone.user} after hold"


def assert_one_has_the_call(caller: Handset, answering: Handset, silent: Handset) -> None:
    """Both phones of a user ring; the one that does not answer is told to stop."""
    ended = silent.ended
    converse(caller, answering)
    silent.await_(lambda: "Incoming call from" in silent.process.text, "an incoming call")
    silent.await_ended(ended + 1)
    assert silent.calls == 0
