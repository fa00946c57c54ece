"""`registrar: TRUNK`: registrations go to a registrar behind us (RFC 3261 s.10, RFC 5853 s.3.4).

The registrar sees one contact of ours for each phone, and no Via, Contact, Call-ID or name of the phone. What it asks
in a 401 and what the phone answers pass through unchanged: the digest is between the two. The registrar is asked for
long registrations and seldom; a phone that refreshes often, to hold its NAT open, is answered here while what the
registrar said is fresh, and only when nothing but the CSeq differs: same flow, Call-ID, contacts and user.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from urllib.parse import quote as escape

from sbc.binding import Binding, Upstream
from sbc.locations import Locations
from sbc.register_request import Registering, Wanted
from sbc.registrar import ORDER_S, Registrar
from sbc.registration_effects import Asking, Effect, Forward, Happened, Relayed
from sbc.registration_policy import RegistrationPolicy
from sbc.routing import Health, ServersSnapshot, ServerView
from signaling.errors import ParseError, PeerError
from signaling.exchange import crossing_status, retry_after
from signaling.flow import Address, host_port
from signaling.headers import NameAddr, parse_name_addr, quote
from signaling.message import Field, Request, Response
from signaling.phrases import reason_phrase, warning
from signaling.uri import SipUri, parse_uri, unescape

MAX_SERVERS = 3
"""Registrars tried for one REGISTER: with `wait_s` each the phone, whose timer F is 32 s, still hears of it."""
MARGIN_S = 30.0
"""A cached answer is given only when the registrar's is good for so much longer."""
GRACE_S = 10.0
"""The least that is left of a registration for it to stand in for a registrar that does not answer."""
MAX_REST_S = 300
"""The longest rest of a registrar that phones are told of: it may be back sooner than it says."""
MAX_SERVICE_ROUTES = 8
MAX_CALL_IDS = 50_000
# What makes the CSeq of a Call-ID rise over a restart: seconds since then, unless more have been used.
CSEQ_EPOCH = 1_600_000_000
# RFC 3261 s.20.44 and s.20.27 may hold several challenges; they pass as they are.
_CHALLENGES = ("WWW-Authenticate", "Proxy-Authenticate")
_CREDENTIALS = ("Authorization", "Proxy-Authorization")
MAX_LINES = 8
_USERNAME = re.compile(r'(?:^|[ ,\t])username[ \t]*=[ \t]*"((?:[^"\\]|\\.){0,256})"', re.IGNORECASE)
_DIGEST_URI = re.compile(r'(?:^|[ ,\t])uri[ \t]*=[ \t]*"?([^", \t]{1,256})', re.IGNORECASE)

# What stands in a user part as it is (RFC 3261 s.25.1).
USER_CHARACTERS = "-_.!~*'()&=+$,;?/"
_HARMLESS = frozenset((("transport", "udp"), ("transport", "tcp"), ("user", "phone")))


class RelayRegistrar(Registrar):
    """The registrations of phones at a trunk.

    `own` gives our address and User-Agent as a server there sees them, None where no listener of ours reaches it.
    `spread_s` says when to come back.
    """

    def __init__(
        self,
        policy: RegistrationPolicy,
        locations: Locations,
        secret: bytes,
        tag: Callable[[], str],
        own: Callable[[ServerView], tuple[Address, str | None] | None],
        spread_s: Callable[[float], int],
    ) -> None:
        super().__init__(policy, locations, secret, tag)
        self._own = own
        self._spread_s = spread_s
        self._number = 0
        # In the order of their deadlines: each waits equally long.
        self._pending: OrderedDict[int, Relayed] = OrderedDict()
        self._cseqs: OrderedDict[str, int] = OrderedDict()
        # By user and contact ("*": all of them): Call-ID and CSeq of what was accepted last, and when.
        self._newest: OrderedDict[tuple[str, str], tuple[str, int, float]] = OrderedDict()
        # The registrar's own Min-Expires, when it has said so.
        self._least_s = 0
        # What it said before this it may have forgotten.
        self._remembers_since = 0.0

    def __len__(self) -> int:
        """REGISTERs that wait for the registrar."""
        return len(self._pending)

    def adopt(self, old: Registrar) -> None:
        """Take over what waits for the store and for the registrar."""
        super().adopt(old)
        if isinstance(old, RelayRegistrar):
            self._number, self._pending, self._cseqs = old._number, old._pending, old._cseqs
            self._least_s, self._remembers_since = old._least_s, old._remembers_since
            self._newest = old._newest

    # -- REGISTER ------------------------------------------------------------------------------------------

    def cached(self, asking: Asking, now: float) -> list[Effect] | None:
        """The answer without asking the registrar, None when it has to be asked."""
        try:
            self.long_enough(asking.reading)
        except PeerError:
            return None
        asked = [self.asked_s(wanted) for wanted in asking.reading.wanted]
        granted = [self.granted_s(seconds, asking.reading, asking) for seconds in asked]
        known = self._same_as_before(asking, now)
        if known is None or 0 in asked:
            return None
        for binding, seconds in zip(known, granted, strict=True):
            upstream = binding.upstream
            if upstream is None or upstream.asked_at < self._remembers_since:
                return None
            left = upstream.expires_at - now
            if left < max(2 * seconds, seconds + MARGIN_S):
                return None
        return self._renew(asking, known, granted, now)

    def _same_as_before(self, asking: Asking, now: float) -> list[Binding] | None:
        """The bindings that this REGISTER renews without changing anything, None when it is not such a one."""
        reading = asking.reading
        named = username_of(asking.request)
        known: list[Binding] = []
        for wanted in reading.wanted:
            binding = self.locations.get(reading.user, wanted.identity)
            if (
                binding is None
                or binding.upstream is None
                or binding.expires_at <= now
                or binding.flow != asking.flow
                or binding.call_id != reading.call_id
                or binding.cseq >= reading.cseq
                or binding.contact != wanted.contact
                or binding.q != wanted.q
                or binding.instance != wanted.instance
                or (named and named != binding.upstream.auth_user)
            ):
                return None
            known.append(binding)
        return known or None

    def _renew(
        self, asking: Asking, known: Sequence[Binding], granted: Sequence[float], now: float
    ) -> list[Effect]:
        for binding, seconds in zip(known, granted, strict=True):
            self.locations.refresh(binding, now + seconds, asking.reading.cseq, now, binding.upstream)
        return self.when_stored([self.answer(asking, 200, "OK", self._fields(asking, now))])

    def came_back(self, now: float) -> None:
        """The registrar was down: it may have lost what it knew, so every phone is relayed again when it refreshes."""
        self._remembers_since = now

    def receive(self, asking: Asking, now: float, wall: float, servers: ServersSnapshot) -> list[Effect]:
        """Send it on."""
        reading = asking.reading
        try:
            self.long_enough(reading)
            known = self.locations.of(reading.user)
            touched = {wanted.identity for wanted in reading.wanted}
            self.in_order(reading, (one for one in known if reading.wildcard or one.identity in touched), now)
            self.room(reading)
        except PeerError as error:
            return self.refuse(asking, error)
        views = servers.trunks.get(self.policy.registrar, ())
        chosen = [one for one in views if one.health is Health.UP]
        chosen += [one for one in views if one.health is Health.SUSPECT]
        if not chosen:
            rest = min((one.back_s for one in views if one.back_s is not None), default=0.0)
            return self._unavailable(asking, "registrar-down", now, rest)
        return self._try(asking, tuple(chosen[:MAX_SERVERS]), now, wall)

    def _try(self, asking: Asking, servers: tuple[ServerView, ...], now: float, wall: float) -> list[Effect]:
        for position, server in enumerate(servers):
            own = self._own(server)
            if own is None:
                continue
            self._number += 1
            relayed = Relayed(
                self._number,
                asking,
                self.policy.registrar,
                server,
                servers[position + 1 :],
                now + self.policy.wait_s,
            )
            self._pending[relayed.number] = relayed
            return [Forward(relayed, self._request(asking, server, own, wall, now))]
        return self._unavailable(asking, "no-listener", now)

    # -- what the registrar gets ---------------------------------------------------------------------------

    def _request(
        self, asking: Asking, server: ServerView, own: tuple[Address, str | None], wall: float, now: float
    ) -> Request:
        reading, policy = asking.reading, self.policy
        domain = policy.upstream_domain or server.host
        host = f"[{domain}]" if ":" in domain else domain
        address, user_agent = own
        # As we read the name, not as the phone wrote it: what the registrar lets in must be what is bound here.
        identity = f"<sip:{escape(reading.user, safe=USER_CHARACTERS)}@{host}>"
        call_id = self.mac("call-id", reading.user, reading.call_id).hex()[:32]
        fields: list[Field] = [
            ("Max-Forwards", "70"),
            ("From", f"{identity};tag={self._tag()}"),
            ("To", identity),
            ("Call-ID", call_id),
            ("CSeq", f"{self._cseq(call_id, wall)} REGISTER"),
        ]
        if reading.wildcard:
            fields += [("Contact", "*"), ("Expires", "0")]
        fields += self._contacts(asking, server, address, now)
        if policy.path:
            fields += [("Path", f"<sip:{host_port(address)};lr>"), ("Supported", "path")]
        if reading.gruu:
            fields.append(("Supported", "gruu"))
        for name in _CREDENTIALS:
            fields += [(name, value) for value in asking.request.get_all(name)[:MAX_LINES]]
        if user_agent is not None:
            fields.append(("User-Agent", user_agent))
        return Request("REGISTER", self._request_uri(asking, domain, host), fields)

    def _request_uri(self, asking: Asking, domain: str, host: str) -> str:
        """The registrar's domain; as the phone's digest has it where that means the same (RFC 7616 s.3.4.6)."""
        for name in _CREDENTIALS:
            uri = digest_uri(asking.request.get(name) or "", "", domain)
            if uri:
                return uri
        return f"sip:{host}"

    def _contacts(self, asking: Asking, server: ServerView, address: Address, now: float) -> list[Field]:
        reading = asking.reading
        found: dict[str, Field] = {}
        for wanted in reading.wanted:
            token = self.token(reading.user, wanted)
            seconds = self._upstream_s(wanted, token, now)
            transport = "" if server.transport == "udp" else f";transport={server.transport}"
            q = "" if wanted.q == 1000 else f";q={wanted.q / 1000:g}"
            instance = ""
            if wanted.instance:
                # A name of the phone as stable as its own, which may be its hardware address (RFC 5627 s.4.1).
                name = self.mac("instance", wanted.instance).hex()
                uuid = f"{name[:8]}-{name[8:12]}-5{name[13:16]}-8{name[17:20]}-{name[20:32]}"
                instance = f";+sip.instance={quote(f'<urn:uuid:{uuid}>')}"
            found[token] = (
                "Contact",
                f"<sip:{token}@{host_port(address)}{transport}>;expires={seconds}{q}{instance}",
            )
        return list(found.values())

    def _upstream_s(self, wanted: Wanted, token: str, now: float) -> int:
        """What the registrar is asked for. It loses a phone only with the last of its flows (RFC 5626 s.4.2)."""
        if self.asked_s(wanted) == 0:
            others = [
                one
                for one in self.locations.by_token(token)
                if one.identity != wanted.identity and one.expires_at > now and not one.dead
            ]
            if not others:
                return 0
        return max(self.policy.registrar_expires_s, self._least_s)

    def _cseq(self, call_id: str, wall: float) -> int:
        number = max(self._cseqs.pop(call_id, 0) + 1, int(wall) - CSEQ_EPOCH)
        self._cseqs[call_id] = number
        if len(self._cseqs) > MAX_CALL_IDS:
            self._cseqs.popitem(last=False)
        return number

    # -- what becomes of it --------------------------------------------------------------------------------

    def answered(self, relayed: Relayed, response: Response, now: float, wall: float) -> list[Effect]:
        """The registrar's answer."""
        if response.status < 200 or self._pending.pop(relayed.number, None) is None:
            return []
        asking, status = relayed.asking, response.status
        if status < 300:
            return self._accepted(relayed, response, now)
        if status in (401, 407):
            challenges = [
                (name, value) for name in _CHALLENGES for value in response.get_all(name)[:MAX_LINES]
            ]
            return [self.answer(asking, status, reason_phrase(status), challenges)]
        if status == 503 or status < 400 or status == 408:
            rest = retry_after(response) or 0.0 if status == 503 else 0.0
            return self._next(relayed, f"registrar-answered-{status}", now, wall, rest)
        if status == 423:
            least = (response.get("Min-Expires") or "").strip()
            if least.isascii() and least.isdigit() and len(least) <= 6:
                self._least_s = max(self._least_s, int(least))
                fields = [("Min-Expires", least), ("Warning", warning("peer-rejected -"))]
                return [self.answer(asking, 423, reason_phrase(423), fields)]
        if status in (403, 404):
            # He is no user any more, or the password was changed: nothing is his that this REGISTER would renew.
            gone = self._same_as_before(asking, now) or []
            dropped = self.unbind(gone, asking)
            refused = self.refuse(asking, PeerError(status, reason_phrase(status), "peer-rejected"))
            return [*dropped, *self.when_stored(refused)] if gone else refused
        told = crossing_status(status)  # what is between the registrar and us means nothing to the phone
        return self.refuse(asking, PeerError(told, reason_phrase(told), "peer-rejected"))

    def failed(self, relayed: Relayed, cause: str, now: float, wall: float) -> list[Effect]:
        """It could not be sent, or was never answered."""
        if self._pending.pop(relayed.number, None) is None:
            return []
        return self._next(relayed, f"registrar-{cause}", now, wall)

    def abandon(self) -> list[Effect]:
        """Answer everybody who waits for the registrar: nobody will ask it any more."""
        waiting, self._pending = self._pending, OrderedDict()
        error = PeerError(503, "No Registrar Any More", "registrar-gone")
        return [effect for relayed in waiting.values() for effect in self.refuse(relayed.asking, error)]

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        for relayed in self._pending.values():
            return relayed.deadline
        return None

    def handle_timer(self, now: float, wall: float) -> tuple[list[Effect], list[Relayed]]:
        """Servers that have had their time; they come back beside the effects, for their health."""
        late = []
        for relayed in self._pending.values():
            if relayed.deadline > now:
                break
            late.append(relayed)
        effects: list[Effect] = []
        for relayed in late:
            effects += self.failed(relayed, "timeout", now, wall)
        return effects, late

    def _next(self, relayed: Relayed, why: str, now: float, wall: float, rest_s: float = 0.0) -> list[Effect]:
        if relayed.others:
            return self._try(relayed.asking, relayed.others, now, wall)
        return self._unavailable(relayed.asking, why, now, rest_s)

    def _unavailable(self, asking: Asking, why: str, now: float, rest_s: float = 0.0) -> list[Effect]:
        """Nobody answers there. What the registrar said before still holds for a while.

        For `rest_s` the registrar wants to hear nothing; phones come back after that, and not all at once.
        """
        if all(wanted.expires_s != 0 for wanted in asking.reading.wanted):
            known = self._same_as_before(asking, now)
            lasting = [one.upstream.expires_at - now for one in known or () if one.upstream is not None]
            if known is not None and min(lasting) > GRACE_S:
                granted = [
                    min(left, float(self.granted_s(self.asked_s(wanted), asking.reading, asking)))
                    for left, wanted in zip(lasting, asking.reading.wanted, strict=True)
                ]
                told = Happened("kept", asking.reading.user, asking.flow, why)
                return [told, *self._renew(asking, known, granted, now)]
        status, reason = (
            (504, "Server Time-out") if why == "registrar-timeout" else (503, "Registrar Is Down")
        )
        seconds = min(MAX_REST_S, math.ceil(rest_s)) + self._spread_s(now)
        fields = [] if status == 503 else [("Retry-After", str(seconds))]
        return self.refuse(asking, PeerError(status, reason, why, seconds), fields)

    # -- 200 -----------------------------------------------------------------------------------------------

    def _accepted(self, relayed: Relayed, response: Response, now: float) -> list[Effect]:
        asking = relayed.asking
        reading = asking.reading
        shown = f"{relayed.trunk} {host_port(relayed.server.address)}"
        listed = contacts_by_user(response)
        overall = _seconds(response.get("Expires"))
        routes = service_route(response)
        effects: list[Effect] = []
        if listed and any(
            self.asked_s(wanted) and self.token(reading.user, wanted) not in listed
            for wanted in reading.wanted
        ):
            return self._left_out(asking, listed, now)
        sent = relayed.deadline - self.policy.wait_s
        if reading.wildcard:
            # What the registrar took after it was asked for this is not what it has removed.
            before = [
                one
                for one in self.locations.of(reading.user)
                if one.upstream is None or one.upstream.asked_at <= sent
            ]
            effects += self.unbind(before, asking)
            self._accept("*", reading, now)
        for wanted in reading.wanted:
            if self._overtaken(wanted, reading, sent):
                continue
            self._accept(wanted.identity, reading, now)
            seconds = self.asked_s(wanted)
            if seconds == 0:
                known = self.locations.get(reading.user, wanted.identity)
                effects += self.unbind([] if known is None else [known], asking)
                continue
            told = listed.get(self.token(reading.user, wanted))
            least = overall
            if told is not None and (own := _seconds(told.param("expires"))) is not None:
                least = own
            upstream_s = max(self.policy.registrar_expires_s, self._least_s) if least is None else least
            if upstream_s <= 0:
                known = self.locations.get(reading.user, wanted.identity)
                effects += self.unbind([] if known is None else [known], asking)
                continue
            upstream = Upstream(
                shown,
                now + upstream_s,
                username_of(asking.request),
                routes,
                "" if told is None else self._gruu(told.param("pub-gruu")),
                "" if told is None else self._gruu(told.param("temp-gruu")),
                now,
            )
            granted = min(self.granted_s(seconds, reading, asking), upstream_s)
            self._make_room(asking, wanted)
            happened = self.bind(asking, wanted, granted, now, "", upstream)
            if happened is not None:
                effects.append(happened)
        fields = self._fields(asking, now)
        fields += [("Authentication-Info", value) for value in response.get_all("Authentication-Info")[:1]]
        reply = self.answer(asking, 200, "OK", fields)
        return effects + (self.when_stored([reply]) if reading.wanted or reading.wildcard else [reply])

    def _accept(self, identity: str, reading: Registering, now: float) -> None:
        """Remember what was accepted for as long as an older answer may be under way."""
        self._newest.pop((reading.user, identity), None)
        self._newest[reading.user, identity] = (reading.call_id, reading.cseq, now)
        while self._newest:
            key, (_, _, at) = next(iter(self._newest.items()))
            if now - at < ORDER_S and len(self._newest) <= MAX_CALL_IDS:
                return
            del self._newest[key]

    def _overtaken(self, wanted: Wanted, reading: Registering, sent: float) -> bool:
        """Whether a later word of the same phone was accepted while this waited (RFC 3261 s.10.3 step 7).

        One that was sent after that is of a phone that began to count anew.
        """
        for identity in (wanted.identity, "*"):
            call_id, cseq, at = self._newest.get((reading.user, identity), ("", 0, 0.0))
            if call_id == reading.call_id and cseq > reading.cseq and sent <= at:
                return True
        return False

    def _left_out(self, asking: Asking, listed: Collection[str], now: float) -> list[Effect]:
        """The registrar lists others and not this phone (RFC 3261 s.10.3 step 8): nobody would call it."""
        user = asking.reading.user
        gone: list[Binding] = []
        for wanted in asking.reading.wanted:
            known = self.locations.get(user, wanted.identity)
            if known is not None and known.token not in listed:
                gone.append(known)
        dropped = self.unbind(gone, asking)
        error = PeerError(503, "Not Registered", "registrar-left-it-out", self._spread_s(now))
        refused = self.refuse(asking, error)
        return [*dropped, *self.when_stored(refused)] if gone else refused

    def _make_room(self, asking: Asking, wanted: Wanted) -> None:
        """The registrar has taken one that came while others were asked for: the one unheard for longest goes."""
        user = asking.reading.user
        if self.locations.get(user, wanted.identity) is None:
            while self.locations.count(user) >= self.policy.max_contacts:
                self.locations.remove(min(self.locations.of(user), key=lambda one: one.seen_at))

    def _fields(self, asking: Asking, now: float) -> list[Field]:
        fields = []
        for binding in self.locations.of(asking.reading.user):
            extra = ""
            if asking.reading.gruu and binding.upstream is not None:
                for name, value in (
                    ("pub-gruu", binding.upstream.pub_gruu),
                    ("temp-gruu", binding.upstream.temp_gruu),
                ):
                    extra += f";{name}={quote(value)}" if value else ""
            fields.append(self.contact(binding, now, extra))
        return [*fields, *self.outbound_fields(asking)]

    def _gruu(self, text: str | None) -> str:
        """A GRUU of the registrar as a phone may see it: in the domain that the phones know."""
        if not text or len(text) > 512:
            return ""
        try:
            uri = parse_uri(text)
        except ParseError:
            return ""
        if not isinstance(uri, SipUri) or uri.scheme != "sip":
            return ""
        return str(SipUri("sip", uri.user, None, self.policy.domain, None, uri.params))


def contacts_by_user(response: Response) -> dict[str, NameAddr]:
    """The contacts of a registrar's 200 by their user part; what is malformed is left out."""
    found: dict[str, NameAddr] = {}
    for value in response.values("Contact")[:256]:
        try:
            contact = parse_name_addr(value)
            uri = contact.uri
        except ParseError:
            continue
        if isinstance(uri, SipUri):
            found[unescape(uri.user)] = contact
    return found


def service_route(response: Response) -> tuple[str, ...]:
    """The route that calls of the phone begin with (RFC 3608 s.6.1), without what nobody could follow."""
    routes: list[str] = []
    for value in response.values("Service-Route")[:MAX_SERVICE_ROUTES]:
        try:
            uri = parse_name_addr(value).uri
        except ParseError:
            continue
        if (
            len(value) <= 512
            and isinstance(uri, SipUri)
            and uri.scheme == "sip"
            and uri.param("lr") is not None
        ):
            routes.append(value)
    return tuple(routes)


def digest_uri(credentials: str, user: str, domain: str, gruu: str | None = None) -> str:
    """The URI that a digest was made for, when it may be our Request-URI to `user` at `domain`; else "".

    `gruu` is the parameter gr of that URI, None for one without.

    Nobody has checked the digest yet: what says more than user, domain and how to write them (another port, maddr,
    headers) would let anybody aim our request, or have the registrar read what he likes (RFC 3261 s.19.1.5).
    """
    found = _DIGEST_URI.search(credentials)
    if found is None:
        return ""
    try:
        uri = parse_uri(found[1])
    except ParseError:
        return ""
    if not isinstance(uri, SipUri) or uri.scheme != "sip" or uri.headers or uri.password is not None:
        return ""
    if uri.user != user or uri.host.lower() != domain.lower() or uri.port not in (None, 5060):
        return ""
    said = [(name.lower(), (value or "").lower()) for name, value in uri.params]
    if gruu is not None:
        own = ("gr", gruu.lower())
        if own not in said:
            return ""
        said.remove(own)
    return found[1] if len(set(said)) == len(said) and _HARMLESS.issuperset(said) else ""


def username_of(request: Request) -> str:
    """Who the credentials of a request are of, "" where there are none."""
    for name in _CREDENTIALS:
        found = _USERNAME.search(request.get(name) or "")
        if found is not None:
            return found[1]
    return ""


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
