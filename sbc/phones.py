"""The phones of a process: performs what the registration cores decide, for `Calls` (design.md s.2).

It does no I/O itself: what is to be stored goes out by `store`, and `stored` says when it is on the disk.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from config.model import Config
from sbc.answers import RETRY_AFTER_S, Answer
from sbc.binding import Binding, Row, shown
from sbc.gruu import gruu_elsewhere, gruu_in
from sbc.keepalive import CRLF, KeepAlive, KeepAlives
from sbc.locations import Change, Locations
from sbc.phonebook import Caller, Phonebook
from sbc.registrar import REWRITE
from sbc.registrar_relay import digest_uri
from sbc.registration_effects import Effect, Forward, Happened, Persist, Relayed, Reply
from sbc.registration_policy import RegistrationPolicy
from sbc.registrations import Registrations
from sbc.routing import Refusal, ServerView, Source, Target
from sbc.sites import Sites
from sbc.trunks import Trunks
from sbc.users import Users
from signaling.errors import ParseError, PeerError
from signaling.exchange import retry_after
from signaling.flow import Address, Flow, Listener
from signaling.identity import user_of
from signaling.message import Field, Request, Response
from signaling.passed_digest import credentials_of
from signaling.stateless import Plain
from signaling.transaction import Effect as TransactionEffect
from signaling.transaction import ServerTx, Transactions
from signaling.uri import SipUri, TelUri, unescape

Store = Callable[[int, tuple[Change, ...]], None]
Perform = Callable[[Sequence[TransactionEffect], float], None]


NOT_OURS = "the address that it registered at is not ours any more"


class Phones:
    """Registrations, where they lead, and what keeps them alive.

    `store` is given a ticket and what to write; `stored` has to follow. Without it bindings are in memory only.
    `perform` carries out what transactions want, `on_happened` hears of each change, for the log, and `on_moved` of the
    user whose phone has another flow than before.
    """

    def __init__(
        self,
        transactions: Transactions,
        stats: Counter[str],
        *,
        send: Callable[[bytes, Flow], None],
        perform: Perform,
        wall: Callable[[], float],
        token: Callable[[int], str],
        store: Store | None,
        secret: bytes | None,
        on_happened: Callable[[Happened], None],
        on_moved: Callable[[str, Flow, Flow], None],
    ) -> None:
        self.locations = Locations()
        self._transactions = transactions
        self._stats = stats
        self._send = send
        self._perform = perform
        self._wall = wall
        self._token = token
        self._store = store
        self._secret = secret
        self._unawaited = REWRITE  # tickets of what nobody waits for: below it
        self._happened = on_happened
        self._moved = on_moved
        self.registrations: Registrations | None = None
        self.book: Phonebook | None = None
        self._keeps: KeepAlives | None = None
        self._sites: Sites | None = None
        self._trunks: Trunks | None = None
        self._moved_at = 0.0  # when a reload last gave the registrar reason to be told anew

    def configure(
        self, config: Config, sites: Sites, trunks: Trunks, users: Users | None, now: float | None = None
    ) -> None:
        """Serve by this configuration from now on; the bindings stay."""
        self._sites, self._trunks = sites, trunks
        policy = RegistrationPolicy.of_config(config)
        if now is not None:
            self.locations.rename(sites.new_name)
        if policy is None:
            if self.registrations is not None and now is not None:
                self._run(self.registrations.abandon(), now)
            self.registrations = self.book = self._keeps = None
            # What is stored stays: with the section the phones come back.
            self.locations.clear()
            return
        users = Users.of_config(config) if users is None else users
        before = self.registrations
        if self._secret is None:
            self._secret = bytes.fromhex(self._token(32))
        fresh = Registrations(
            policy, self.locations, users, self._secret, self._token, self._own, self._stats
        )
        if before is not None:
            fresh.adopt(before)
        self.registrations = fresh
        if before is not None and now is not None:
            self._hand_over(before, fresh, now)
        self.book = Phonebook(
            config, self.locations, users, None if fresh.local is None else fresh.local.gruus
        )
        self._keeps = KeepAlives(self.locations, policy.keepalive, policy.keepalive_s)
        if now is not None:
            self._watch(self.locations.all(), now)

    def _hand_over(self, before: Registrations, fresh: Registrations, now: float) -> None:
        """What the registrations of before mean to another registrar, and to other networks."""
        if fresh.relay is None:
            self._run(before.abandon(), now)
        elif self._told_otherwise() or before.policy.registrar != fresh.policy.registrar:
            # It knows nothing of them, or another address of ours, until they refresh.
            fresh.relay.came_back(now)
            self._moved_at = now
        for binding in self.locations.all():
            if self._sites is not None and not self._sites.listens(binding.flow):
                binding.dead = NOT_OURS
        self._part_with_strangers(now)

    def _part_with_strangers(self, now: float) -> None:
        """Whom our registrar does not know any more has no phones: nobody calls as him until they have run out."""
        registrar = None if self.registrations is None else self.registrations.local
        if registrar is not None:
            gone = [one for one in self.locations.all() if registrar.users.get(one.user) is None]
            self._run(registrar.dismiss(gone), now)

    def _told_otherwise(self) -> list[Listener]:
        """Where the registrar may still send calls to, that are for phones: what it was told before a reload."""
        if self._sites is None or self.registrations is None or self.registrations.relay is None:
            return []
        network = self.registrations.policy.upstream_network
        return [listener for listener in self._sites.former if listener.network == network]

    def promised(self, request: Request, flow: Flow) -> bool:
        """Whether the registrar was told that calls like this one may come by a listener that a reload took away."""
        if request.method != "INVITE" or flow.network not in {one.network for one in self._told_otherwise()}:
            return False
        found = self.locations.by_token(unescape(user_of(request.uri)))
        return any(one.upstream is not None for one in found)

    def flows(self, ours: Collection[Address]) -> list[Flow]:
        """The flows by these listeners that phones are reached by, and those that the registrar may use for calls."""
        flows = self.locations.flows(ours)
        told = self._told_otherwise()
        if told and any(
            one.upstream is not None and one.upstream.asked_at <= self._moved_at
            for one in self.locations.all()
        ):
            flows += [Flow(one.network, one.transport, one.local, ("", 0)) for one in told]
        return flows

    def keep(self, store: Store | None, secret: bytes | None) -> None:
        """Store elsewhere from now on, which `restore` has to follow; `secret` is for whoever has none yet."""
        self._store = store
        if self._secret is None or self.registrations is None:
            self._secret = secret or self._secret

    @property
    def secret(self) -> bytes | None:
        """What names are made of; None while there are no phones."""
        return None if self.registrations is None else self._secret

    def _own(self, view: ServerView) -> tuple[Address, str | None] | None:
        """Our address and User-Agent as a server of the registrar's trunk sees them."""
        flow = self._flow_to(view)
        if flow is None or self._sites is None:
            return None
        site = self._sites.site(flow)
        return site.contact, site.user_agent

    def _flow_to(self, view: ServerView) -> Flow | None:
        if self._sites is None or self.registrations is None:
            return None
        network = self.registrations.policy.upstream_network
        return self._sites.flow_to(network, view.transport, view.address)

    # -- what was stored -----------------------------------------------------------------------------------

    def restore(self, rows: Sequence[Row], now: float) -> int:
        """Take over the bindings of the store; UDP flows can be used at once."""
        known = {binding.key for binding in self.locations.all()}
        count = self.locations.restore([row for row in rows if row[:2] not in known], now, self._wall())
        if known:
            self.locations.rewrite()
        for binding in self.locations.all():
            if self._sites is None or not self._sites.listens(binding.flow):
                binding.dead = NOT_OURS
        self._part_with_strangers(now)
        self._watch(self.locations.all(), now)
        self._save(now)
        return count

    # -- REGISTER ------------------------------------------------------------------------------------------

    def register(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> bool:
        """A REGISTER came; False when there is no registrar at all."""
        if self.registrations is None or self._trunks is None:
            return False
        servers = self._trunks.snapshot(now)
        self._run(self.registrations.receive(tx, request, flow, now, self._wall(), servers), now)
        return True

    def answer(self, plain: Plain, flow: Flow, now: float) -> bytes | None:
        """The answer to a plain REGISTER by UDP that goes the short way, None for one that does not."""
        registrations = self.registrations
        if registrations is None:
            return None
        return registrations.answer(plain, flow, now, self._store is not None)

    def challenge(self, request: Request, flow: Flow, now: float) -> Answer | None:
        """The answer to a REGISTER without credentials that needs no transaction; None where one is needed."""
        registrations = self.registrations
        return None if registrations is None else registrations.challenge(request, flow, now)

    def answered(self, relayed: Relayed, response: Response, now: float) -> None:
        """The registrar's answer."""
        if self.registrations is not None:
            if response.status >= 200:
                self._tried(relayed, response.status, "peer-rejected", now, retry_after(response))
            self._run(self.registrations.answered(relayed, response, now, self._wall()), now)

    def server_up(self, trunk: str, now: float) -> None:
        """A server that was down is back."""
        registrations = self.registrations
        relay = None if registrations is None else registrations.relay
        if relay is not None and trunk == relay.policy.registrar:
            relay.came_back(now)

    def failed(self, relayed: Relayed, cause: str, now: float) -> None:
        """A relayed REGISTER was not answered or could not be sent."""
        if self.registrations is not None:
            self._tried(relayed, 408, f"server-{'timeout' if cause == 'timeout' else 'unreachable'}", now)
            self._run(self.registrations.failed(relayed, cause, now, self._wall()), now)

    def stored(self, ticket: int, error: str | None, now: float) -> None:
        """What `store` was given is on the disk, or is not because of `error`."""
        self.locations.written(ticket, error is None)
        if self.registrations is not None and ticket:
            self._run(self.registrations.stored(ticket, error), now)

    def _run(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case Reply():
                    self._perform(self._transactions.respond(effect.tx, effect.response, now), now)
                case Forward():
                    self._forward(effect, now)
                case Persist():
                    self._persist(effect.ticket, now)
                case Happened():
                    self._stats[f"registrations.{effect.what}"] += 1
                    self._happened(effect)
                    if effect.before is not None and effect.flow is not None:
                        self._moved(effect.user, effect.before, effect.flow)
        self._save(now)

    def _forward(self, forward: Forward, now: float) -> None:
        flow = self._flow_to(forward.relayed.server)
        if flow is None:
            self.failed(forward.relayed, "transport", now)
            return
        _, effects = self._transactions.send_request(forward.request, flow, forward.relayed, now)
        self._perform(effects, now)

    def _persist(self, ticket: int, now: float) -> None:
        if self._store is None:
            self._watch(self.locations.forget_changes(), now)
            self.stored(ticket, None, now)
            return
        changes = self.locations.take_changes(now, self._wall(), ticket)
        self._watch(self.locations.in_flight(ticket), now)
        self._store(ticket, changes)

    def _save(self, now: float) -> None:
        """Changes that nobody waits for."""
        write_at = self.locations.write_at
        if self.locations.unsaved or (write_at is not None and write_at <= now):
            self._write(now)

    def _write(self, now: float) -> None:
        self._unawaited -= 1
        self._persist(self._unawaited, now)

    def close(self, now: float) -> None:
        """The last that the store gets: what was renewed and not written yet."""
        if self.locations.unsaved or self.locations.write_at is not None:
            self._write(now)

    def _watch(self, bindings: Iterable[Binding], now: float) -> None:
        if self._keeps is not None:
            for binding in bindings:
                self._keeps.watch(binding, now)

    def _tried(
        self, relayed: Relayed, status: int, rule: str, now: float, retry_after_s: float | None = None
    ) -> None:
        """What a REGISTER says of the health of a server, as a call does."""
        if self._trunks is not None and self.registrations is not None:
            view = relayed.server
            network = self.registrations.policy.upstream_network
            target = Target(relayed.trunk, network, view.transport, view.address, view.host, "")
            self._trunks.attempted(target, status, rule, now, retry_after_s)

    def retry_after_s(self, data: bytes, now: float) -> int:
        """When what is refused for overload may come back; phones that register one after the other."""
        if self.registrations is None or not data.startswith(b"REGISTER "):
            return RETRY_AFTER_S
        return self.registrations.spread.later(now)

    # -- calls of phones -----------------------------------------------------------------------------------

    def caller(
        self, flow: Flow, request: Request, now: float, unasked: bool = False
    ) -> tuple[Caller | None, list[Field]]:
        """Who calls, when it is from the network of the phones, and the fields of the 407 that asks for proof.

        Who is `unasked` gets no 407: he calls for help.
        """
        book = self.book
        if book is None or flow.network != book.network:
            return None, []
        sender = sender_of(request)
        caller = book.caller(flow, sender, now)
        registrar = None if self.registrations is None else self.registrations.local
        if not caller.unproven or registrar is None:
            return caller, []
        try:
            user, why = registrar.authenticate(request, flow, now, proxy=True)
        except PeerError as error:
            refusal = Refusal(error.status, error.reason, error.rule)
            return replace(caller, refusal=refusal, unproven=False), []
        if user is not None:
            return book.authenticated(user.name, sender), []
        if unasked:
            return caller, []
        self._stats[f"refused:{why}"] += 1
        return caller, registrar.challenge(now, why == "stale-nonce", proxy=True, host=flow.remote[0])

    def called_by_registrar(self, source: Source, token: str) -> str:
        """The user whose phone the registrar calls by its `token`, "" for every other call."""
        registrations = self.registrations
        if source.trunk is None or registrations is None or source.trunk != registrations.policy.registrar:
            return ""
        found = self.locations.by_token(token)
        return found[0].user if found else ""

    def routed(
        self, targets: tuple[Target, ...], flow: Flow, request: Request, source: Source
    ) -> tuple[Target, ...]:
        """The same with what the registrar of a phone gets beside the call: its own credentials, and Service-Route.

        Nobody else gets them, whatever trunk the call goes to next.
        """
        policy = None if self.registrations is None else self.registrations.policy
        if source.phone is None or policy is None or not policy.registrar:
            return targets
        routes: tuple[str, ...] = ()
        token = ""
        for binding in self.locations.on_flow(flow):
            if binding.user == source.phone and binding.upstream is not None:
                routes, token = binding.upstream.service_route, binding.token
        if not any(gruu_in(contact.uri_text, policy.domains) for contact in request.contacts[:1]):
            token = ""  # one that does not call itself by its GRUU wants none to call it by
        credentials = credentials_of(request)
        domain = policy.upstream_domain
        gruu = gruu_in(request.uri, policy.domains)
        return tuple(
            replace(
                target,
                domain=domain or target.domain,
                credentials=credentials,
                routes=routes,
                contact=_request_uri(credentials, target.user, domain, target.host, gruu) or target.contact,
                gruu=token,
            )
            if target.trunk == policy.registrar
            else target
            for target in targets
        )

    # -- flows and time ------------------------------------------------------------------------------------

    def transport_failed(self, flow: Flow) -> None:
        """A flow is no more; a phone on a stream is gone until it comes back with another."""
        if flow.reliable and flow.connection:
            for binding in self.locations.lost(flow, "its connection has closed"):
                self._gone(binding)

    def kept(self, keep: KeepAlive, now: float) -> None:
        """An OPTIONS was answered."""
        if self._keeps is not None:
            self._keeps.answered(keep, now)

    def lost(self, keep: KeepAlive) -> None:
        """An OPTIONS was not answered."""
        if self._keeps is not None:
            for binding in self._keeps.unanswered(keep):
                self._gone(binding)

    def _gone(self, binding: Binding) -> None:
        self._stats["registrations.dead"] += 1
        self._happened(Happened("dead", binding.user, binding.flow, binding.dead))

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        due = None
        for at in (
            None if self.registrations is None else self.registrations.next_timer(),
            None if self._keeps is None else self._keeps.next_timer(),
            self.locations.write_at,
        ):
            if at is not None and (due is None or at < due):
                due = at
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self.registrations is not None:
            effects, late = self.registrations.handle_timer(now, self._wall())
            for relayed in late:
                self._tried(relayed, 408, "server-timeout", now)
            self._run(effects, now)
        if self._keeps is not None:
            for keep in self._keeps.handle_timer(now):
                self._keep(keep, now)

    def _keep(self, keep: KeepAlive, now: float) -> None:
        self._stats[f"keepalive.{keep.kind}"] += 1
        if keep.kind == "crlf":
            self._send(CRLF, keep.flow)
            return
        if self._sites is None:
            return
        site = self._sites.site(keep.flow)
        uri = keep.contact
        fields = [
            ("Max-Forwards", "70"),
            ("From", f"<sip:{site.domain}>;tag={self._token(6)}"),
            ("To", f"<{uri}>"),
            ("Call-ID", self._token(12)),
            ("CSeq", "1 OPTIONS"),
        ]
        request = Request("OPTIONS", uri, fields)
        _, effects = self._transactions.send_request(request, keep.flow, keep, now)
        self._perform(effects, now)

    # -- for operators -------------------------------------------------------------------------------------

    def rows(self, now: float) -> list[dict[str, object]]:
        """A line for each binding."""
        return [shown(binding, now) for binding in self.locations.all()]


def _request_uri(
    credentials: Sequence[Field], user: str, domain: str | None, host: str, gruu: SipUri | None
) -> str:
    """The Request-URI of a call to `user` at the registrar, where it is more than that; else "".

    A GRUU stays one in the registrar's `domain`, and what a digest was made for stays as it is (RFC 7616 s.3.4.6).
    """
    theirs = "" if gruu is None else gruu_elsewhere(gruu, user, domain or host)
    if domain is None:
        return theirs
    name = gruu.param("gr") if gruu is not None and theirs else None
    made_for = (digest_uri(value, user, domain, name) for _, value in credentials)
    return next((uri for uri in made_for if uri), theirs)


def sender_of(request: Request) -> str:
    """The calling user, "" where From names none."""
    try:
        uri = request.from_.uri
    except ParseError:
        return ""
    if isinstance(uri, TelUri):
        return uri.digits
    return unescape(uri.user) if isinstance(uri, SipUri) else ""
