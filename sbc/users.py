"""The users of `registrar: local`: HA1 by algorithm, never a password, and the numbers that are theirs."""

from collections.abc import Iterable, Mapping, Sequence

from config.frozen import frozen
from config.model import Config
from signaling.digest import ALGORITHMS, ha1


@frozen
class User:
    """Who may register, with HA1 by algorithm ("MD5", "SHA-256", "SHA-512-256"), and the numbers he may call as."""

    name: str
    secrets: Mapping[str, str]
    numbers: tuple[str, ...] = ()


class Users:
    """All users of one realm, by name. `algorithms` are what a challenge offers, whoever asks."""

    def __init__(
        self, realm: str, users: Iterable[User] = (), algorithms: Sequence[str] = ALGORITHMS
    ) -> None:
        self.realm = realm
        self.algorithms = tuple(name for name in algorithms if name in ALGORITHMS)
        # What is not offered is not accepted either: a weaker hash could be had by leaving out the stronger.
        self._users = {user.name: self._offered(user) for user in users}
        self._numbers = {number: user for user in self._users.values() for number in user.numbers}

    def _offered(self, user: User) -> User:
        secrets = {name: secret for name, secret in user.secrets.items() if name in self.algorithms}
        return User(user.name, secrets, user.numbers)

    def __len__(self) -> int:
        return len(self._users)

    def get(self, name: str) -> User | None:
        """The user of that name."""
        return self._users.get(name)

    def by_number(self, number: str) -> User | None:
        """The user whose number that is."""
        return self._numbers.get(number)

    def stranded(self) -> list[str]:
        """Users without a hash for something that is offered: they cannot register."""
        return sorted(
            user.name
            for user in self._users.values()
            if any(algorithm not in user.secrets for algorithm in self.algorithms)
        )

    @classmethod
    def of_config(cls, config: Config, stored: Iterable[User] = ()) -> "Users":
        """Those of the file, and `stored` ones beside them; who is in both is the one of the file."""
        realm, phones = config.phones_domain, config.phones
        offered: Sequence[str] = ALGORITHMS if phones is None else phones.digest
        found = {user.name: user for user in stored}
        if phones is not None:
            for name, entry in phones.users.items():
                if entry.password is not None:
                    password = entry.password.get_secret_value()
                    secrets = {one: ha1(name, realm, password, one) for one in ALGORITHMS if one in offered}
                else:
                    given = entry.ha1 or {}
                    secrets = {
                        str(one): text.get_secret_value().lower()
                        for one, text in given.items()
                        if one in ALGORITHMS
                    }
                found[name] = User(name, secrets, tuple(entry.numbers))
        return cls(realm, found.values(), () if config.phones is None else config.phones.digest)
