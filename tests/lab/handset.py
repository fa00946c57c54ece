"""baresip that registers: a phone in a home, or anywhere else, with an account and a password."""

import array
import contextlib
import re
import time
import wave

from tests.lab.namespaces import Namespaces
from tests.lab.phone import _CONFIG, MODULES, TONE_S, Phone
from tests.lab.registrar import DOMAIN, PASSWORDS
from tests.lab.sound import tone, write_wav

HZ = {"alice": 400, "bob": 1000, "carol": 600, "dave": 1400, "erin": 1800}
"""The voice of each user: 20 ms hold whole periods of all of them."""
CONTROL = 4444


class Handset(Phone):
    """A baresip with the account of a user, at an address of a namespace; `number` tells several of a user apart.

    Incoming calls are answered at once, or with `answers` false never. `proxy` is host:port of the border, or of a
    registrar without one. `account` is what else its line in the file of accounts says, like ";sipnat=outbound".
    """

    def __init__(
        self,
        namespaces: Namespaces,
        namespace: str,
        host: str,
        user: str,
        proxy: str,
        *,
        transport: str = "udp",
        expires_s: int = 60,
        password: str | None = None,
        number: int = 0,
        answers: bool = True,
        account: str = "",
    ) -> None:
        self.user = user
        self.host = host
        self.hz = HZ[user]
        self.transport = transport
        self._namespaces = namespaces
        self._side = namespace
        self._control = CONTROL + number
        name = f"{user}-{number}" if number else user
        self.directory = namespaces.directory / f"phone-{name}"
        self.directory.mkdir(exist_ok=True)
        write_wav(self.directory / "tone.wav", tone(self.hz, TONE_S))
        (self.directory / "config").write_text(
            _CONFIG.format(
                listen=f"{host}:5060",
                tone=self.directory / "tone.wav",
                directory=self.directory,
                control=self._control,
                modules=MODULES,
            )
        )
        (self.directory / "accounts").write_text(
            f"<sip:{user}@{DOMAIN};transport={transport}>;auth_pass={password or PASSWORDS[user]}"
            f';outbound="sip:{proxy};transport={transport}";regint={expires_s}'
            f";answermode={'auto' if answers else 'manual'};audio_codecs=PCMA/8000/1{account}\n"
        )
        (self.directory / "contacts").write_text("")
        self._name = f"baresip-{name}"
        self.switch_on()

    def switch_on(self) -> None:
        """Start it, or start it again."""
        self.process = self._namespaces.start(
            self._side, self._name, ["baresip", "-4", "-f", str(self.directory), "-v"]
        )
        self.process.await_text("baresip is ready")

    def await_registered(self) -> None:
        """Wait until it has registered; of later refreshes it says nothing."""
        self.await_(lambda: bool(re.search(r"\{\d+/\w+/v4\} 200 ", self.process.text)), "a registration")

    def await_refused(self, status: int) -> None:
        """Wait until a REGISTER has been refused with a status."""
        self.await_(
            lambda: bool(re.search(rf"(?:v4\}}|{DOMAIN}:) {status} ", self.process.text)), f"{status}"
        )

    def call(self, user: str) -> None:
        """Call a user of the domain, or a number; returns when the call is up."""
        self.dial(f"sip:{user}@{DOMAIN}")

    @property
    def calls(self) -> int:
        """How many calls have been up so far."""
        return self.process.text.count("Call established")

    @property
    def ended(self) -> int:
        """How many calls are over, those included that never were up."""
        return self.process.text.count("audio: destroyed")

    def recording(self) -> "tuple[int, array.array[int]]":
        """(rate, samples) of the latest call; baresip closes the file a moment after it has said that it is over."""
        deadline = time.monotonic() + 1.5
        while True:
            with contextlib.suppress(wave.Error, EOFError, AssertionError):
                rate, samples = super().recording()
                if samples or time.monotonic() > deadline:
                    return rate, samples
            assert time.monotonic() < deadline, f"{self._name} has recorded nothing"
            time.sleep(0.05)

    @property
    def has_recorded(self) -> bool:
        """Whether anything was heard since `forget`."""
        return any(self.directory.glob("dump-*-dec.wav"))

    def forget(self) -> None:
        """Remove what it has recorded, so that the next call is judged by itself."""
        for file in self.directory.glob("dump-*.wav"):
            file.unlink()

    def switch_off(self) -> None:
        """It takes its contact back and ends."""
        self.process.stop()

    def pull_the_plug(self) -> None:
        """It is gone, and nobody is told."""
        self.process.stop(9)
