"""`Registrations` with a clock, and phones behind NAT that register."""

from dataclasses import replace
from itertools import count
from typing import Any

from sbc.locations import Locations
from sbc.registration_effects import Effect, Forward, Happened, Persist, Relayed, Reply
from sbc.registration_policy import RegistrationPolicy
from sbc.registrations import Registrations
from sbc.routing import ServersSnapshot, ServerView
from sbc.users import User, Users
from signaling.digest import Account, answer, ha1, parse_challenges
from signaling.flow import Flow
from signaling.headers import parse_name_addr
from signaling.message import Request, Response, respond
from signaling.parser import parse
from signaling.transaction import ServerTx

DOMAIN = "sip.example.com"
RELAY = RegistrationPolicy(
    "public",
    "pbx",
    DOMAIN,
    frozenset((DOMAIN, "192.0.2.10")),
    upstream_domain="pbx.internal",
    keepalive="expiry",
)
LOCAL = replace(RELAY, registrar="", upstream_domain=None)
WALL = 1_700_000_000.0
SERVERS = ServersSnapshot(
    {
        "pbx": (
            ServerView("10.0.0.20", "udp", ("10.0.0.20", 5060)),
            ServerView("10.0.0.21", "udp", ("10.0.0.21", 5060)),
        )
    }
)


class Bench:
    """`Registrations` with a clock, and a phone that says what it is told to."""

    def __init__(self, policy: RegistrationPolicy = RELAY) -> None:
        self.now = 1000.0
        self.locations = Locations()
        self.servers = SERVERS
        self._serial = count(1)
        users = Users(
            DOMAIN,
            [
                User(name, {one: ha1(name, DOMAIN, f"{name}-secret", one) for one in ("MD5", "SHA-256")})
                for name in ("alice", "bob")
            ],
            ("SHA-256", "MD5"),
        )
        self.core = Registrations(
            policy,
            self.locations,
            users,
            b"k" * 32,
            lambda size: f"{next(self._serial):0{2 * size}x}",
            lambda view: (("10.0.0.1", 5060), None),
        )
        self.tickets: list[int] = []
        self.disk = ""
        self.happened: list[Happened] = []
        self.forwarded: list[Forward] = []
        self.replies: list[Response] = []

    @property
    def wall(self) -> float:
        return WALL + self.now

    def run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply():
                    self.replies.append(effect.response)
                case Forward():
                    self.forwarded.append(effect)
                case Persist():
                    self.tickets.append(effect.ticket)
                    self.locations.take_changes(self.now, self.wall)
                    if not self.disk:
                        self.run(self.core.stored(effect.ticket, None))
                case Happened():
                    self.happened.append(effect)

    def send(self, request: Request, flow: Flow) -> None:
        challenge = self.core.challenge(request, flow, self.now)
        if challenge is not None:
            status, reason, fields = challenge
            self.replies.append(respond(request, status, reason, "stateless", fields))
            return
        tx = ServerTx(request, flow, flow, ("key", next(self._serial)))
        self.run(self.core.receive(tx, request, flow, self.now, self.wall, self.servers))

    def upstream(self) -> Request:
        """The REGISTER that the registrar got."""
        return self.forwarded[-1].request

    def registrar(self, status: int, *fields: str, contacts: bool = True, expires: int | None = None) -> None:
        """The registrar answers the last REGISTER."""
        forward = self.forwarded[-1]
        lines = [f"SIP/2.0 {status} Whatever", "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx"]
        lines += [f"{name}: {forward.request.get(name)}" for name in ("From", "To", "Call-ID", "CSeq")]
        if status == 200 and contacts:
            for contact in forward.request.get_all("Contact"):
                one = parse_name_addr(contact)
                left = one.param("expires") if expires is None else str(expires)
                if left != "0":
                    lines.append(f"Contact: <{one.uri_text}>;expires={left}")
            lines.append("Contact: <sip:elsewhere@10.0.0.99>;expires=100")
        response = parse(("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode())
        assert isinstance(response, Response)
        self.run(self.core.answered(forward.relayed, response, self.now, self.wall))

    def expect(self, status: int) -> Response:
        assert self.replies, "the phone got nothing"
        response = self.replies.pop(0)
        assert response.status == status, response.encode()
        return response

    def advance(self, seconds: float) -> list[Relayed]:
        self.now += seconds
        effects, late = self.core.handle_timer(self.now, self.wall)
        self.run(effects)
        return late


class Phone:
    """A phone behind NAT: it writes its private address, and comes from a public one."""

    def __init__(
        self, bench: Bench, user: str = "alice", port: int = 40000, inside: str = "192.168.1.5"
    ) -> None:
        self.bench = bench
        self.user = user
        self.flow = Flow("public", "udp", ("192.0.2.10", 5060), ("203.0.113.7", port))
        self.inside = inside
        self.contact = f"sip:{user}@{inside}:5060"
        self.call_id = f"call-{user}-{port}@{inside}"
        self.cseq = 0

    def register(
        self,
        expires: int | None = 600,
        *fields: str,
        contact: str | None = None,
        cseq: int | None = None,
        uri: str = f"sip:{DOMAIN}",
        to: str | None = None,
        sender: str | None = None,
        flow: Flow | None = None,
        via: str | None = None,
    ) -> Request:
        self.cseq = self.cseq + 1 if cseq is None else cseq
        lines = [
            f"REGISTER {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {via or self.inside + ':5060'};branch=z9hG4bK{self.cseq};rport",
            "Max-Forwards: 70",
            f"From: <{sender or f'sip:{self.user}@{DOMAIN}'}>;tag=phonetag",
            f"To: <{to or f'sip:{self.user}@{DOMAIN}'}>",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq} REGISTER",
            "User-Agent: Phone/1.0",
        ]
        if contact is None:
            contact = f"<{self.contact}>"
        if contact:
            lines.append(f"Contact: {contact}")
        if expires is not None:
            lines.append(f"Expires: {expires}")
        request = parse(("\r\n".join([*lines, *fields]) + "\r\n\r\n").encode())
        assert isinstance(request, Request)
        self.bench.send(request, flow or self.flow)
        return request

    def authorized(
        self, expires: int | None = 600, *fields: str, password: str | None = None, **kw: Any
    ) -> None:
        """REGISTER, the challenge, and REGISTER with credentials."""
        self.register(expires, *fields, **kw)
        challenge = parse_challenges(self.bench.expect(401))[0]
        account = Account(self.user, password or f"{self.user}-secret")
        name, value = answer(challenge, account, "REGISTER", f"sip:{DOMAIN}", 1, "cnonce")
        self.register(expires, f"{name}: {value}", *fields, **kw)


def bound(response: Response) -> dict[str, int]:
    """The contacts of a 200 with their lifetimes."""
    return {one.uri_text: int(one.param("expires") or 0) for one in response.contacts}
