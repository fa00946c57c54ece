"""How we answer challenges (RFC 3261 s.22.1, RFC 7616 s.3.6): the account of one peer and the nonces that it gave us.

An account is bound to the hosts of its peer. A challenge that comes from anywhere else is never answered, whoever
passed it on (CVE-2021-41158): the answer would be a proof of the password in a stranger's hands.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from signaling.digest import Account, Challenge, answer, choose, parse_challenges
from signaling.flow import Flow
from signaling.message import Field, Request, Response

MAX_ANSWERS = 2
"""How often one request is answered for: once by the nonce that came with the challenge, and again for another."""
MAX_REALMS = 4
MAX_HOSTS = 64

NO_CREDENTIALS = "no credentials are configured"
STRANGER = "the challenge does not come from a server of the trunk"


@dataclass(slots=True, eq=False)
class Attempt:
    """A request that may be challenged: itself without credentials, where it went, the credentials that it had."""

    request: Request
    flow: Flow
    credentials: list[Field] = field(default_factory=list)
    answers: int = 0


@dataclass(slots=True, eq=False)
class _Given:
    """A challenge that a host gave, and how often its nonce was used."""

    challenge: Challenge
    uses: int = 0


class Authorizer:
    """Our account at one peer, `name` for people.

    `serves` says whether a flow leads to a server of that peer, `token` makes unguessable text.
    """

    __slots__ = ("_given", "_token", "account", "name", "serves")

    def __init__(
        self, name: str, account: Account, serves: Callable[[Flow], bool], token: Callable[[], str]
    ) -> None:
        self.name = name
        self.account = account
        self.serves = serves
        self._token = token
        # By network and host, then by realm and kind: two servers of a trunk need not know each other's nonces.
        self._given: dict[tuple[str, str], dict[tuple[str, bool], _Given]] = {}

    def attempt(self, request: Request, flow: Flow) -> Attempt | None:
        """To be called with each request before it is sent by `flow`: it gets credentials by nonces given before.

        None when the peer of the flow gets no credentials of ours, whatever it asks.
        """
        if not self.serves(flow):
            return None
        attempt = Attempt(Request(request.method, request.uri, list(request.fields), request.body), flow)
        self._sign(attempt, request)
        return attempt

    def again(self, attempt: Attempt, response: Response, cseq: int) -> tuple[Attempt | None, Request, str]:
        """What a 401 or 407 to `attempt` makes us send, with `cseq`; None and the reason for nothing.

        The reason is empty when there is an answer.
        """
        request = attempt.request
        offered = parse_challenges(response)
        chosen = choose(offered, self.account)[:MAX_REALMS]
        why = ""
        if not offered:
            why = "none of its challenges can be read or computed"
        elif not chosen:
            why = f"the credentials are for realm {self.account.realm}"
        elif attempt.answers >= MAX_ANSWERS or any(_answered(attempt, one) for one in chosen):
            why = "the credentials are wrong"
        if why:
            self._given.pop(_host(attempt.flow), None)
            return None, request, why
        self._take(attempt.flow, chosen)
        fields = [
            (name, f"{cseq} {request.method}" if name == "CSeq" else value) for name, value in request.fields
        ]
        kept = Request(request.method, request.uri, fields, request.body)
        made = Attempt(kept, attempt.flow, [], attempt.answers + 1)
        sent = Request(kept.method, kept.uri, list(fields), kept.body)
        self._sign(made, sent)
        return made, sent, ""

    def _take(self, flow: Flow, chosen: list[Challenge]) -> None:
        """Keep the challenges of a host for its next requests."""
        host = _host(flow)
        given = self._given.get(host)
        if given is None:
            if len(self._given) >= MAX_HOSTS:
                del self._given[next(iter(self._given))]
            given = self._given[host] = {}
        for challenge in chosen:
            key = (challenge.realm, challenge.proxy)
            before = given.get(key)
            if before is None and len(given) >= MAX_REALMS:
                del given[next(iter(given))]
            if before is None or before.challenge.nonce != challenge.nonce:
                given[key] = _Given(challenge)

    def _sign(self, attempt: Attempt, request: Request) -> None:
        for given in self._given.get(_host(attempt.flow), {}).values():
            given.uses += 1
            name, value = answer(
                given.challenge,
                self.account,
                request.method,
                request.uri,
                given.uses,
                self._token(),
                request.body,
            )
            request.add(name, value)
            attempt.credentials.append((name, value))


def _host(flow: Flow) -> tuple[str, str]:
    return flow.network, flow.remote[0]


def _answered(attempt: Attempt, challenge: Challenge) -> bool:
    """Whether the request already had credentials by this very nonce."""
    nonce = f'nonce="{challenge.nonce}"'
    return any(nonce in value for _, value in attempt.credentials)


def realms_of(response: Response) -> str:
    """The realms that a response asks credentials for, for people."""
    return ", ".join(dict.fromkeys(challenge.realm for challenge in parse_challenges(response))) or "unknown"
