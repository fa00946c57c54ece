"""Our registrations at trunks (`trunks.*.register`): RFC 3261 s.10.2, with the back-off of RFC 5626 s.4.5.

A core without I/O. `handle_timer` and the answers to what it sent return the REGISTERs that are to be sent. A
registration is asked for at the first server that is up, refreshed before it expires, moved to the next server when
one fails or goes down, and taken back at the end.

Our Contact has a word in it that only the trunk is told (`line`, as others write it): a call with that word came to
that registration, from whatever host the trunk sends it.
"""

import hmac
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from config.frozen import frozen
from config.model import Config, Register, Trunk
from sbc.accounts import Accounts
from sbc.decisions import Decision
from sbc.routing import Health, ServersSnapshot, ServerView, Source
from sbc.sites import Sites
from signaling.authorizer import Attempt, Authorizer, realms_of
from signaling.errors import ParseError
from signaling.exchange import retry_after
from signaling.flow import Address, Flow, host_port
from signaling.headers import parse_name_addr
from signaling.message import Request, Response
from signaling.uri import SipUri, parse_uri

ANSWER_S = 10.0
"""A registrar that has said nothing for so long is given up; the transaction would wait for 32 s."""
LEAVE_S = 2.0
"""How long a registrar may take to let go of us when we stop."""
NO_SERVER_S = 1.0
"""How often it is looked whether the name of a server has got an address."""
MAX_BACK_OFF = 10
"""The wait after failures grows up to so many times `retry_s`."""
MAX_EXPIRES_S = 604_800
MAX_RETRY_AFTER_S = 3600
MAX_EVENTS = 256
LINE = "line"

# What says something of this server and not of our account: another server may do better.
_NEXT_SERVER = frozenset({408, 430, 480, *range(500, 600)})


class State(Enum):
    """What the registrar has of us."""

    OUT = "out"
    IN = "in"
    LEAVING = "leaving"  # taken back, the answer is outstanding
    GONE = "gone"


@frozen
class RegistrationEvent:
    """For the log: a registration was made, failed, or was lost. `up`: whether calls can come by it now."""

    trunk: str
    server: str
    up: bool
    why: str


@dataclass(slots=True, eq=False)
class Asked:
    """A REGISTER under way, the owner of its transaction."""

    line: "Line"
    request: Request
    flow: Flow
    server: ServerView
    deadline: float
    attempt: Attempt | None = None
    shortened: bool = False  # it was sent again after a 423


@frozen
class SendRegister:
    """Open a client transaction for `request`; its owner is `asked`."""

    asked: Asked
    request: Request
    flow: Flow


@dataclass(slots=True)
class Identity:
    """What makes the registrations of one process one: Call-ID, counting CSeq, From tag, and the word in Contact."""

    call_id: str
    tag: str
    word: str
    cseq: int = 0


@dataclass(slots=True)
class Standing:
    """What is known of one registration: where it is, until when, and how the last attempts went."""

    state: State = State.OUT
    server: str = ""
    address: Address | None = None
    contact: str = ""
    expires_at: float = 0.0
    due: float = 0.0
    failures: int = 0
    why: str = ""
    asks_s: int = 0
    alive: frozenset[Address] = frozenset()
    tried: set[Address] = field(default_factory=set)
    resting: dict[Address, float] = field(default_factory=dict)


class Line:
    """The registration at one trunk."""

    __slots__ = ("_dice", "_events", "_register", "asked", "authorizer", "identity", "now", "sites", "trunk")

    def __init__(
        self,
        trunk: Trunk,
        register: Register,
        identity: Identity,
        sites: Sites,
        authorizer: Authorizer | None,
        dice: Callable[[], float],
        events: deque[RegistrationEvent],
    ) -> None:
        self.trunk = trunk
        self._register = register
        self.identity = identity
        self.sites = sites
        self.authorizer = authorizer
        self._dice = dice
        self._events = events
        self.asked: Asked | None = None
        self.now = Standing(asks_s=register.expires_s)

    @property
    def reached_at(self) -> frozenset[Address]:
        """Our addresses in the network of the trunk, as our Contact has them."""
        return frozenset(one.advertised for one in self.sites.listeners if one.network == self.trunk.network)

    # -- time ----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        standing = self.now
        if standing.state is State.GONE:
            return None
        due = standing.due if self.asked is None or standing.state is State.LEAVING else self.asked.deadline
        return min(due, standing.expires_at) if standing.state is State.IN else due

    def handle_timer(self, servers: tuple[ServerView, ...], now: float) -> list[SendRegister]:
        """Do what is due."""
        standing, asked = self.now, self.asked
        if standing.state is State.LEAVING and now >= standing.due:
            self._gone()
        if standing.state in (State.LEAVING, State.GONE):
            return []
        if standing.state is State.IN and now >= standing.expires_at:
            self._lost("it expired and could not be refreshed")
        if asked is not None:
            return [] if now < asked.deadline else self._failed(asked, "no answer", True, servers, now)
        return [] if now < standing.due else self._ask(servers, now)

    def look(self, servers: tuple[ServerView, ...], now: float) -> None:
        """The servers have changed. A registration at one that is down is of no use; one that has come up is tried."""
        standing = self.now
        alive = frozenset(one.address for one in servers if one.health is not Health.DOWN)
        fresh, standing.alive = alive - standing.alive, alive
        if self.asked is not None:
            return
        if standing.address not in alive if standing.state is State.IN else fresh:
            standing.due = min(standing.due, now)

    # -- asking --------------------------------------------------------------------------------------------

    def _ask(self, servers: tuple[ServerView, ...], now: float) -> list[SendRegister]:
        standing = self.now
        if not servers:
            standing.why = "no server of the trunk has an address"
            standing.due = now + NO_SERVER_S
            return []
        usable = [
            one
            for one in servers
            if one.health is not Health.DOWN
            and one.address not in standing.tried
            and standing.resting.get(one.address, 0.0) <= now
        ]
        # Those that a call found dead go last (RFC 3263 s.4.3); otherwise in the order of the configuration.
        usable.sort(key=lambda one: one.health is not Health.UP)
        for server in usable:
            flow = self.sites.flow_to(self.trunk.network, server.transport, server.address)
            if flow is not None:
                return [self._send(server, flow, standing.asks_s, now)]
            standing.why = f"no {server.transport} listener on network {self.trunk.network}"
        if not standing.tried and not standing.why:
            standing.why = "no server of the trunk is up"
        self._back_off(now)
        return []

    def _send(self, server: ServerView, flow: Flow, expires_s: int, now: float) -> SendRegister:
        request = self._request(server, flow, expires_s)
        asked = Asked(self, request, flow, server, now + ANSWER_S)
        if self.authorizer is not None:
            asked.attempt = self.authorizer.attempt(request, flow)
        self.asked = asked
        return SendRegister(asked, request, flow)

    def _request(self, server: ServerView, flow: Flow, expires_s: int) -> Request:
        """A REGISTER (RFC 3261 s.10.2): the Request-URI names the registrar, without a user."""
        site, identity, register = self.sites.site(flow), self.identity, self._register
        identity.cseq += 1
        host = self.trunk.domain or server.host
        domain = f"[{host}]" if ":" in host else host
        port = "" if self.trunk.domain or server.address[1] == 5060 else f":{server.address[1]}"
        transport = "" if site.transport == "udp" else f";transport={site.transport}"
        address = host_port(site.contact)
        user = register.contact_user or register.user
        contact = f"<sip:{user}@{address}{transport};{LINE}={identity.word}>"
        self.now.contact = contact
        return Request(
            "REGISTER",
            f"sip:{domain}{port if _literal(host) else ''}",
            [
                ("Max-Forwards", "70"),
                ("From", f"<sip:{register.user}@{domain}>;tag={identity.tag}"),
                ("To", f"<sip:{register.user}@{domain}>"),
                ("Call-ID", identity.call_id),
                ("CSeq", f"{identity.cseq} REGISTER"),
                ("Contact", contact),
                ("Expires", str(expires_s)),
                *([("User-Agent", site.user_agent)] if site.user_agent else []),
            ],
        )

    # -- answers -------------------------------------------------------------------------------------------

    def answered(
        self, asked: Asked, response: Response, servers: tuple[ServerView, ...], now: float
    ) -> list[SendRegister]:
        """A response to a REGISTER."""
        if asked is not self.asked:
            return []
        status = response.status
        if status < 200:
            asked.deadline = now + ANSWER_S
            return []
        if status in (401, 407):
            return self._challenged(asked, response, servers, now)
        if self.now.state is State.LEAVING:
            self._gone()
            return []
        if status < 300:
            return self._registered(asked, response, servers, now)
        if status == 423 and not asked.shortened:
            least = _seconds(response.get("Min-Expires"))
            if least is not None and self.now.asks_s < least <= MAX_EXPIRES_S:
                self.now.asks_s = least
                again = self._send(asked.server, asked.flow, least, now)
                again.asked.shortened = True
                return [again]
        wait_s = retry_after(response)
        if wait_s:
            self.now.resting[asked.server.address] = now + min(wait_s, MAX_RETRY_AFTER_S)
        why = f"answered {status}" + (f" with Retry-After: {wait_s}" if wait_s else "")
        return self._failed(asked, why, status in _NEXT_SERVER, servers, now)

    def failed(
        self, asked: Asked, cause: str, servers: tuple[ServerView, ...], now: float
    ) -> list[SendRegister]:
        """A REGISTER got no answer: `cause` is "timeout" or "transport"."""
        if asked is not self.asked:
            return []
        if self.now.state is State.LEAVING:
            self._gone()
            return []
        why = "no answer" if cause == "timeout" else "cannot be reached"
        return self._failed(asked, why, True, servers, now)

    def _challenged(
        self, asked: Asked, response: Response, servers: tuple[ServerView, ...], now: float
    ) -> list[SendRegister]:
        why = "no credentials are configured"
        if self.authorizer is not None and asked.attempt is not None:
            cseq = self.identity.cseq + 1
            made, request, why = self.authorizer.again(asked.attempt, response, cseq)
            if made is not None:
                self.identity.cseq = cseq
                again = replace(asked, request=request, attempt=made, deadline=now + ANSWER_S)
                self.asked = again
                return [SendRegister(again, request, asked.flow)]
        if self.now.state is State.LEAVING:
            self._gone()
            return []
        return self._failed(asked, f"realm {realms_of(response)}: {why}", False, servers, now)

    def _registered(
        self, asked: Asked, response: Response, servers: tuple[ServerView, ...], now: float
    ) -> list[SendRegister]:
        standing = self.now
        granted = self._granted(response, standing.asks_s)
        if granted <= 0:
            return self._failed(asked, "the registrar granted no time", True, servers, now)
        self.asked = None
        server = f"{asked.server.transport}:{host_port(asked.server.address)}"
        if standing.state is not State.IN or standing.server != server:
            self._events.append(
                RegistrationEvent(self.trunk.name, server, True, f"registered for {granted} s")
            )
        standing.state = State.IN
        standing.server, standing.address = server, asked.server.address
        standing.expires_at = now + granted
        # A short life leaves room for one attempt that fails; of a long one most is used.
        standing.due = now + granted * (0.5 if granted < 60 else 0.8 + 0.1 * self._dice())
        standing.failures, standing.why = 0, ""
        standing.tried.clear()
        standing.resting.clear()
        return []

    def _granted(self, response: Response, asked_s: int) -> int:
        """How long our contact lives (RFC 3261 s.10.2.4): its own parameter, else Expires, else what we asked for."""
        said = _seconds(response.get("Expires"))
        word = f"{LINE}={self.identity.word}"
        for value in response.values("Contact")[:64]:
            if word in value:
                try:
                    own = _seconds(parse_name_addr(value).param("expires"))
                except ParseError:
                    break
                said = own if own is not None else said
                break
        return min(asked_s if said is None else said, MAX_EXPIRES_S)

    def _failed(
        self, asked: Asked, why: str, elsewhere: bool, servers: tuple[ServerView, ...], now: float
    ) -> list[SendRegister]:
        """An attempt failed; `elsewhere`: another server may do better."""
        standing = self.now
        self.asked = None
        server = f"{asked.server.transport}:{host_port(asked.server.address)}"
        standing.why = f"{server}: {why}"
        if not standing.failures and asked.server.address not in standing.tried:
            self._events.append(RegistrationEvent(self.trunk.name, server, False, why))
        standing.tried.add(asked.server.address)
        if elsewhere:
            return self._ask(servers, now)
        self._back_off(now)
        return []

    def _back_off(self, now: float) -> None:
        """RFC 5626 s.4.5: twice as long after each failure, up to a bound, of which half is left to chance."""
        standing = self.now
        standing.tried.clear()
        retry_s = self._register.retry_s
        wait_s = min(retry_s * 2 ** min(standing.failures, 10), retry_s * MAX_BACK_OFF)
        standing.failures += 1
        standing.due = now + wait_s * (0.5 + 0.5 * self._dice())
        rest = [until for until in standing.resting.values() if until > now]
        standing.resting = {one: until for one, until in standing.resting.items() if until > now}
        if rest:
            standing.due = max(standing.due, min(rest))

    def _lost(self, why: str) -> None:
        standing = self.now
        standing.state = State.OUT
        self._events.append(RegistrationEvent(self.trunk.name, standing.server, False, why))

    # -- the end -------------------------------------------------------------------------------------------

    def leave(self, now: float) -> list[SendRegister]:
        """Take the registration back (RFC 3261 s.10.2.2)."""
        standing, asked = self.now, self.asked
        if standing.state in (State.LEAVING, State.GONE):
            return []
        flow = None if asked is None else asked.flow
        server = None if asked is None else asked.server
        if standing.state is State.IN and standing.address is not None and server is None:
            transport = standing.server.partition(":")[0]
            server = ServerView(self._host_of(standing.address), transport, standing.address)
            flow = self.sites.flow_to(self.trunk.network, transport, standing.address)
        if server is None or flow is None:
            self._gone()
            return []
        standing.state = State.LEAVING
        standing.due = now + LEAVE_S
        return [self._send(server, flow, 0, now)]

    def _host_of(self, address: Address) -> str:
        for server in self.trunk.servers:
            if server.literal is not None and (str(server.literal), server.port or 5060) == address:
                return server.host
        return self.trunk.servers[0].host

    def _gone(self) -> None:
        self.now.state = State.GONE
        self.asked = None

    def row(self, now: float) -> dict[str, str]:
        """What an operator is shown."""
        standing = self.now
        state = "registered" if standing.state is State.IN else standing.state.value
        if standing.state is State.OUT:
            state = "failed" if standing.failures else "registering"
        left = f"{max(0.0, standing.expires_at - now):.0f}" if standing.state is State.IN else ""
        return {
            "trunk": self.trunk.name,
            "user": self._register.user,
            "server": standing.server if standing.state is State.IN else "",
            "state": state,
            "expires_s": left,
            "next_s": f"{max(0.0, (self.next_timer() or now) - now):.0f}",
            "why": standing.why,
        }


class Outbound:
    """The registrations of one configuration. `token` makes unguessable text of so many bytes.

    With a `secret` that outlives the process the words in our Contacts do so too.
    """

    def __init__(
        self,
        config: Config,
        sites: Sites,
        accounts: Accounts,
        token: Callable[[int], str],
        secret: bytes | None = None,
    ) -> None:
        self._token = token
        self._secret = secret
        self._events: deque[RegistrationEvent] = deque(maxlen=MAX_EVENTS)
        self._lines: dict[str, Line] = {}
        self._leaving: list[Line] = []
        self._by_word: dict[str, Line] = {}
        self._seen: Mapping[str, tuple[ServerView, ...]] | None = None
        for name, trunk in config.trunks.items():
            register = trunk.register_
            if register is None:
                continue
            identity = Identity(token(12), token(6), self._word(trunk))
            line = Line(trunk, register, identity, sites, accounts.of(name), self._dice, self._events)
            self._lines[name] = line
            self._by_word[identity.word] = line
        self._due: float | None = None
        self._settle([])

    def _dice(self) -> float:
        return zlib.crc32(self._token(4).encode()) % 1000 / 1000

    def _word(self, trunk: Trunk) -> str:
        """The word in our Contact. With a secret it is the same after a restart, so that the old binding goes.

        Nothing of the password is in it: whoever sees the word could try passwords on it at leisure.
        """
        if self._secret is None:
            return self._token(8)
        return hmac.digest(self._secret, f"contact of {trunk.name}".encode(), "sha256")[:8].hex()

    # -- time ----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due

    def _settle(self, sends: list[SendRegister]) -> list[SendRegister]:
        """After every input: what is due next. Asked for at each message, so it is kept."""
        self._leaving = [line for line in self._leaving if line.now.state is not State.GONE]
        times = [line.next_timer() for line in (*self._lines.values(), *self._leaving)]
        self._due = min((at for at in times if at is not None), default=None)
        return sends

    def handle_timer(self, servers: ServersSnapshot, now: float) -> list[SendRegister]:
        """The REGISTERs that are due."""
        changed = servers.trunks is not self._seen
        if not changed and (self._due is None or now < self._due):
            return []
        self._seen = servers.trunks
        sends: list[SendRegister] = []
        for name, line in self._lines.items():
            views = servers.trunks.get(name, ())
            if changed:
                line.look(views, now)
            due = line.next_timer()
            if due is not None and due <= now:
                sends.extend(line.handle_timer(views, now))
        for line in self._leaving:
            sends.extend(line.handle_timer((), now))
        return self._settle(sends)

    # -- answers -------------------------------------------------------------------------------------------

    def answered(
        self, asked: Asked, response: Response, servers: ServersSnapshot, now: float
    ) -> list[SendRegister]:
        """A response to a REGISTER of ours."""
        line = asked.line
        return self._settle(line.answered(asked, response, servers.trunks.get(line.trunk.name, ()), now))

    def failed(self, asked: Asked, cause: str, servers: ServersSnapshot, now: float) -> list[SendRegister]:
        """A REGISTER of ours got no answer."""
        line = asked.line
        return self._settle(line.failed(asked, cause, servers.trunks.get(line.trunk.name, ()), now))

    # -- calls ---------------------------------------------------------------------------------------------

    def source_of(self, uri: str, source: Source, decision: Decision) -> tuple[Source, Decision]:
        """Who sent a call to `uri`: the trunk whose registration it came to, else `source` as it was found."""
        if not self._by_word or f";{LINE}=" not in uri:
            return source, decision
        try:
            parsed = parse_uri(uri)
        except ParseError:
            return source, decision
        line = self._by_word.get(parsed.param(LINE) or "") if isinstance(parsed, SipUri) else None
        if line is None or line.trunk.network != source.network or line.trunk.name == source.trunk:
            return source, decision
        found = Source(source.network, line.trunk.name, source.host)
        compared = (*decision.compared, ("registered contact", "ours"))
        return found, Decision("source", f"trunks.{line.trunk.name}.register", compared, str(found))

    # -- life ----------------------------------------------------------------------------------------------

    def leave(self, now: float) -> list[SendRegister]:
        """Take all registrations back."""
        return self._settle([send for line in self._lines.values() for send in line.leave(now)])

    @property
    def idle(self) -> bool:
        """Whether no registration is being taken back."""
        return all(line.now.state is not State.LEAVING for line in (*self._lines.values(), *self._leaving))

    def adopt(self, old: "Outbound", now: float) -> list[SendRegister]:
        """Take over from the configuration before. Registrations that are the same go on, the others are taken back."""
        sends: list[SendRegister] = []
        self._events.extend(old._events)
        self._leaving.extend(old._leaving)
        for name, before in old._lines.items():
            line = self._lines.get(name)
            if line is None or line.trunk != before.trunk or line.reached_at != before.reached_at:
                sends.extend(before.leave(now))
                self._leaving.append(before)
                continue
            del self._by_word[line.identity.word]
            line.identity, line.now = before.identity, before.now
            self._by_word[line.identity.word] = line
            if before.asked is not None:
                line.now.due = now
            elif line.now.state is State.IN:
                line.now.due = _told_by(line, now)
        return self._settle(sends)

    def status(self, now: float) -> list[dict[str, str]]:
        """A row for each registration: trunk, user, server, state, expires_s, next_s, why."""
        return [line.row(now) for line in self._lines.values()]

    @property
    def eventful(self) -> bool:
        """Whether `take_events` has something."""
        return len(self._events) > 0

    def take_events(self) -> list[RegistrationEvent]:
        """What has happened since the last call of this, for the log."""
        events = list(self._events)
        self._events.clear()
        return events


def _told_by(line: Line, now: float) -> float:
    """When to refresh: now, if peers see us at another address than the registrar was told."""
    standing = line.now
    if standing.address is None:
        return now
    transport = standing.server.partition(":")[0]
    flow = line.sites.flow_to(line.trunk.network, transport, standing.address)
    told = flow is not None and f"@{host_port(line.sites.site(flow).contact)}" in standing.contact
    return standing.due if told else now


def _seconds(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _literal(host: str) -> bool:
    """Whether a port belongs behind this host: behind a name it would bypass SRV (RFC 3263 s.4.1)."""
    return ":" in host or host.replace(".", "").isdigit()
