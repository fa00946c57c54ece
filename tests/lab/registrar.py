"""The registrar and PBX of the private side: Kamailio with usrloc, users with fixed HA1 and no database."""

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import PRIVATE, SIDES, Namespaces, Process

DOMAIN = "sip.example.com"
"""Domain of the addresses of record and realm of the registrar."""
PASSWORDS = {name: f"secret-of-{name}" for name in ("alice", "bob", "carol", "dave", "erin")}
DESK = 1
"""The user agent of the private side that calls to 1xxx go to."""
_CONFIG = Path(__file__).with_name("registrar.cfg")


@dataclass(frozen=True, slots=True)
class Contact:
    """One binding of a user, as the registrar has it."""

    user: str
    uri: str
    expires_s: int
    path: str


class Registrar:
    """A running Kamailio at the first address of the private side.

    With `asks` it wants to know who calls at each request that comes from the border, inside of calls too, and takes
    no nonce twice.
    """

    def __init__(self, namespaces: Namespaces, asks: bool = False) -> None:
        self._namespaces = namespaces
        self.host = SIDES[PRIVATE].peer
        # Short: a path of a Unix socket has 107 characters at most.
        self._control = namespaces.directory / "kam.sock"
        file = namespaces.directory / "registrar.cfg"
        users = "\n".join(
            f'\t$sht(ha1=>{user}) = "{ha1(user, password)}";' for user, password in PASSWORDS.items()
        )
        text = _CONFIG.read_text()
        words = {
            "host": self.host,
            "desk": SIDES[PRIVATE].peers[DESK],
            "realm": DOMAIN,
            "asks": "yes" if asks else "no",
            "once": "1" if asks else "0",
            "border": SIDES[PRIVATE].border,
            "modules": str(next(Path("/usr/lib").glob("*/kamailio/modules"))),
            "control": str(self._control),
            "users": users,
        }
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        file.write_text(text)
        self.process: Process = namespaces.start(
            PRIVATE,
            "kamailio",
            ["kamailio", "-DD", "-E", "-Y", str(namespaces.directory), "-m", "32", "-f", str(file)],
        )
        deadline = time.monotonic() + 40
        while not self._ready():
            assert time.monotonic() < deadline and self.process.running, self.process.text[-3000:]
            time.sleep(0.05)

    def contacts(self, user: str | None = None) -> list[Contact]:
        """The bindings of a user, or of all."""
        text = self._command("ul.dump")
        found: list[Contact] = []
        name = ""
        for block in re.split(r"(?=\bAoR: |\bContact: \{)", text):
            if block.startswith("AoR: "):
                name = block[5:].split()[0]
            elif block.startswith("Contact: {"):
                fields = dict(re.findall(r"^\s*([\w-]+): (.*)$", block.partition("{")[2], re.M))
                expires = fields["Expires"].strip()
                found.append(
                    Contact(
                        name.partition("@")[0],
                        fields["Address"].strip(),
                        int(expires) if expires.isdigit() else 0,
                        fields.get("Path", "").strip(),
                    )
                )
        return [one for one in found if user is None or one.user == user]

    def await_contacts(self, user: str, count: int, timeout_s: float = 15.0) -> list[Contact]:
        """Wait until a user has so many bindings."""
        deadline = time.monotonic() + timeout_s
        while len(found := self.contacts(user)) != count:
            assert time.monotonic() < deadline, f"{user} has {found}\n{self.process.text[-2000:]}"
            time.sleep(0.1)
        return found

    def _command(self, *arguments: str) -> str:
        return self._namespaces.run(PRIVATE, "kamcmd", "-s", f"unixs:{self._control}", *arguments)

    def _ready(self) -> bool:
        return self._control.exists() and f"{self.host}:5060 " in self._namespaces.run(PRIVATE, "ss", "-uln")


def ha1(user: str, password: str) -> str:
    """What a registrar stores in place of the password (RFC 7616 s.3.4.2), for MD5."""
    return hashlib.md5(f"{user}:{DOMAIN}:{password}".encode()).hexdigest()
