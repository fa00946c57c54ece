"""A carrier on the public side: Kamailio that challenges every request of the border and takes its registration."""

import hashlib
import re
import time
from pathlib import Path

from tests.lab.namespaces import PUBLIC, SIDES, Namespaces, Process

REALM = "carrier.example"
ACCOUNT, PASSWORD = "trunk-account", "secret-of-the-trunk"
USER = "4930123"
"""The user that the border registers as."""
PHONE = 1
"""The user agent of the public side that all other calls go to."""
_CONFIG = Path(__file__).with_name("carrier.cfg")
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}


class Carrier:
    """A running Kamailio at the first address of the public side. `nonce_s` is how long a nonce lives."""

    def __init__(
        self, namespaces: Namespaces, *, nonce_s: int = 300, algorithm: str = "MD5", min_expires_s: int = 5
    ) -> None:
        self._namespaces = namespaces
        self.host = SIDES[PUBLIC].peer
        self._control = namespaces.directory / "carrier.sock"
        file = namespaces.directory / "carrier.cfg"
        secret = f"{ACCOUNT}:{REALM}:{PASSWORD}".encode()
        words = {
            "host": self.host,
            "border": SIDES[PUBLIC].border,
            "phone": SIDES[PUBLIC].peers[PHONE],
            "realm": REALM,
            "user": USER,
            "algorithm": algorithm,
            "ha1": hashlib.new(_HASHES[algorithm], secret).hexdigest(),
            "nonce_s": str(nonce_s),
            "min_expires": str(min_expires_s),
            "modules": str(next(Path("/usr/lib").glob("*/kamailio/modules"))),
            "control": str(self._control),
        }
        text = _CONFIG.read_text()
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        file.write_text(text)
        self.process: Process = namespaces.start(
            PUBLIC,
            "carrier",
            ["kamailio", "-DD", "-E", "-Y", str(namespaces.directory), "-m", "32", "-f", str(file)],
        )
        deadline = time.monotonic() + 40
        while not self._ready():
            assert time.monotonic() < deadline and self.process.running, self.process.text[-3000:]
            time.sleep(0.05)

    def contacts(self) -> list[str]:
        """The URIs that are registered."""
        text = self._namespaces.run(PUBLIC, "kamcmd", "-s", f"unixs:{self._control}", "ul.dump")
        return re.findall(r"^\s*Address: (\S+)", text, re.M)

    def await_contacts(self, count: int, timeout_s: float = 20.0) -> list[str]:
        """Wait until there are so many."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.contacts()) != count:
            assert time.monotonic() < deadline, f"registered: {found}\n{self.process.text[-2000:]}"
            time.sleep(0.1)
        return found

    def _ready(self) -> bool:
        return self._control.exists() and f"{self.host}:5060 " in self._namespaces.run(PUBLIC, "ss", "-uln")
