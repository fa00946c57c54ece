"""A trunk that challenges, and a border that has its credentials."""

from signaling.digest import compute, ha1, parse_credentials
from signaling.message import Message, Request, Response
from tests.harness.border import Agent, Border, audio

USER, PASSWORD, REALM = "sbc-user", "correct horse", "carrier.example"
HEADERS = ("Authorization", "Proxy-Authorization", "WWW-Authenticate", "Proxy-Authenticate")


def with_credentials(text: str, password: str = PASSWORD, realm: str = "", more: str = "") -> str:
    """The configuration with credentials for the trunk `carrier`."""
    wanted = f", realm: {realm}" if realm else ""
    return text.replace(
        'servers: ["sip:198.51.100.7"],',
        f'servers: ["sip:198.51.100.7", "sip:198.51.100.8"], '
        f'credentials: {{username: {USER}, password: "{password}"{wanted}}},{more}',
    )


def border_of(**settings: str) -> Border:
    return Border(changes=lambda text: with_credentials(text, **settings))


class Carrier:
    """A trunk that challenges: an agent, its nonce, and what it believes."""

    def __init__(self, border: Border, address: str = "198.51.100.7:5060", status: int = 407) -> None:
        self.agent = border.agent("public", address)
        self.status = status
        self.nonce = "nonce-1"
        self.counts: list[tuple[str, int]] = []

    def challenge(self, request: Request, realm: str = REALM, more: str = "") -> None:
        """401 or 407."""
        name = "WWW-Authenticate" if self.status == 401 else "Proxy-Authenticate"
        line = f'{name}: Digest realm="{realm}", nonce="{self.nonce}", qop="auth", algorithm=MD5{more}'
        self.agent.answer(request, self.status, "Challenge", fields=line)
        if request.method == "INVITE":
            ack = self.agent.expect("ACK")
            assert ack.cseq.number == request.cseq.number

    def verify(self, request: Request) -> None:
        """The request has credentials that are right, by the nonce in force, with a count never seen."""
        name = "Authorization" if self.status == 401 else "Proxy-Authorization"
        (line,) = request.get_all(name)
        given = parse_credentials(line)
        assert (given.username, given.realm, given.nonce) == (USER, REALM, self.nonce)
        # RFC 3261 s.22.1: an ACK has the credentials of its INVITE, as they were.
        assert given.uri == request.uri or request.method == "ACK"
        method = "INVITE" if request.method == "ACK" else request.method
        assert compute(ha1(USER, REALM, PASSWORD, "MD5"), given, method) == given.response
        if request.method != "ACK":
            assert (given.nonce, given.nc) not in self.counts
            self.counts.append((given.nonce, given.nc))

    def challenged(self, method: str, more: str = "") -> Request:
        """The next request is this one; it is challenged, and comes again with credentials, otherwise the same."""
        first = self.agent.expect(method)
        self.challenge(first, more=more)
        again = self.agent.expect(method)
        self.verify(again)
        assert again.cseq.number == first.cseq.number + 1
        assert (again.call_id, again.get("From"), again.get("To")) == (
            first.call_id,
            first.get("From"),
            first.get("To"),
        )
        assert (again.uri, again.body) == (first.uri, first.body)
        assert again.via.branch != first.via.branch
        kept = [name for name, _ in again.fields if name not in HEADERS]
        assert kept == [name for name, _ in first.fields if name not in HEADERS]
        return again


def no_credentials(*messages: Message) -> None:
    for message in messages:
        assert not any(message.get(name) for name in HEADERS), message.encode()


def decisions(border: Border) -> list[tuple[str, str]]:
    return [
        (one.outcome, dict(one.compared)["realm"])
        for one in border.records[-1].decisions
        if one.stage == "credentials"
    ]


def call_up(border: Border, alice: Agent, carrier: Carrier) -> tuple[Response, Request]:
    """A call from alice through the carrier, challenged once."""
    alice.invite()
    invite = carrier.challenged("INVITE")
    carrier.agent.answer(invite, 200, "OK", sdp=audio(carrier.agent.address[0], 4002))
    carrier.verify(carrier.agent.expect("ACK"))
    answer = alice.expect_answer(200)
    alice.ack(answer)
    alice.nothing()
    return answer, invite


def alice_of(border: Border) -> Agent:
    return border.agent("private", "10.0.0.20:5060")
