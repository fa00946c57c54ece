"""Our accounts at the trunks (`trunks.*.credentials`), each bound to the servers of its trunk."""

from collections.abc import Callable

from config.model import Config
from sbc.decisions import Decision
from sbc.trunks import Trunks
from signaling.authorizer import Authorizer
from signaling.digest import Account
from signaling.exchange import Challenged
from signaling.flow import Flow


class Accounts:
    """The accounts of one configuration, by the names of their trunks."""

    __slots__ = ("_by_trunk",)

    def __init__(self, config: Config, trunks: Trunks, token: Callable[[], str]) -> None:
        self._by_trunk: dict[str, Authorizer] = {}
        for name, trunk in config.trunks.items():
            given = trunk.credentials
            if given is not None:
                account = Account(given.username, given.password.get_secret_value(), given.realm)
                self._by_trunk[name] = Authorizer(name, account, Server(name, trunks).at, token)

    def of(self, trunk: str | None) -> Authorizer | None:
        """The account at a trunk, None where there is none."""
        return None if trunk is None else self._by_trunk.get(trunk)


class Server:
    """Whether a flow leads to a server of one trunk."""

    __slots__ = ("_trunk", "_trunks")

    def __init__(self, trunk: str, trunks: Trunks) -> None:
        self._trunk = trunk
        self._trunks = trunks

    def at(self, flow: Flow) -> bool:
        """Whether the peer of `flow` is one."""
        return self._trunks.serves(self._trunk, flow)


def challenge_decision(challenged: Challenged, trunk: str | None) -> Decision:
    """What the record of a call says of a challenge."""
    compared = (
        ("method", challenged.method),
        ("status", str(challenged.status)),
        ("realm", challenged.realm),
    )
    rule = f"trunks.{trunk}.credentials" if trunk is not None else "RFC 3261 s.22"
    outcome = (
        f"no credentials fit: {challenged.outcome}" if challenged.outcome else "answered with credentials"
    )
    return Decision("credentials", rule, compared, outcome)
