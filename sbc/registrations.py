"""REGISTER of phones, from the first look to the answer; also who a phone is that calls.

A core without I/O: a request and the time in, effects out. `Registrations` does what comes before any registrar
(RFC 3261 s.10.3 steps 1, 2 and 5, storms); `sbc.registrar_local` keeps the registrations here, `sbc.registrar_relay`
relays them to a trunk. A 200 goes out only after what it says is stored (`Persist`, `stored`).
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace

from sbc.admission import SOURCE_SHARE, Spread
from sbc.answers import Answer, error_fields
from sbc.binding import identity_of
from sbc.locations import Locations
from sbc.register_request import Registering, Wanted, read
from sbc.registrar_local import LocalRegistrar
from sbc.registrar_relay import RelayRegistrar
from sbc.registrar_short import ShortWay
from sbc.registration_effects import Asking, Effect, Happened, Relayed, Reply
from sbc.registration_policy import RegistrationPolicy
from sbc.routing import ServersSnapshot, ServerView
from sbc.users import Users
from signaling.digest import Nonces
from signaling.errors import PeerError
from signaling.flow import Address, Flow
from signaling.message import Request, Response, respond
from signaling.stateless import Plain
from signaling.transaction import ServerTx

MAX_ADMITTED = 20_000
"""REGISTERs that were let in and whose second half, the one with credentials, is not counted again."""
ADMITTED_S = 32.0
CHALLENGES = 10
"""Challenges that may be sent for each REGISTER that is let in: they cost little, and a flood of forged senders that
get all of them leaves none for phones."""


class Registrations:
    """The registrations of one configuration.

    `secret` makes tokens and GRUUs and has to outlive the process as the bindings do. `own` tells our address and
    User-Agent as a server of the registrar's trunk sees them.
    """

    def __init__(
        self,
        policy: RegistrationPolicy,
        locations: Locations,
        users: Users,
        secret: bytes,
        token: Callable[[int], str],
        own: Callable[[ServerView], tuple[Address, str | None] | None],
        stats: Counter[str] | None = None,
    ) -> None:
        self.policy = policy
        self.locations = locations
        self.stats: Counter[str] = Counter() if stats is None else stats
        self._tag = token
        # Each has its own: phones that are registered are not shut out by strangers, nor those that have shown that
        # they get what is sent to their address by those that have not.
        rate = policy.registers_per_s
        self.spread = Spread(rate)
        self._known = Spread(rate)
        self._unproven = Spread(rate * CHALLENGES, rate * SOURCE_SHARE, queue=False)
        self._admitted: OrderedDict[tuple[str, str], float] = OrderedDict()
        self.local: LocalRegistrar | None = None
        self.relay: RelayRegistrar | None = None
        self._short: ShortWay | None = None
        if policy.registrar:
            self.relay = RelayRegistrar(policy, locations, secret, lambda: token(6), own, self.spread.later)
        else:
            nonces = Nonces(bytes.fromhex(token(32)))
            self.local = LocalRegistrar(policy, locations, users, nonces, secret, token, self.stats)
            self._short = ShortWay(self.local, locations, self._let_in if rate else None)

    def adopt(self, old: "Registrations") -> None:
        """Take over from the configuration before: who waits for an answer gets it, and no nonce becomes stale."""
        self._admitted = old._admitted
        if self.local is not None and old.local is not None:
            self.local.adopt(old.local)
        if self.relay is not None and old.relay is not None:
            self.relay.adopt(old.relay)

    def abandon(self) -> list[Effect]:
        """There are no phones any more: who waits for an answer is told so."""
        return [] if self.relay is None else self.relay.abandon()

    # -- REGISTER ------------------------------------------------------------------------------------------

    def challenge(self, request: Request, flow: Flow, now: float) -> Answer | None:
        """The answer to a REGISTER that shows no credentials to a registrar which needs some; None for any other.

        RFC 3261 s.10.3 step 3 comes first, and half of all REGISTERs get no further. As s.8.2.7 advises, nothing is
        kept of them.
        """
        registrar = self.local
        if registrar is None or flow.network != self.policy.network or request.to_tag is not None:
            return None
        if request.get("Authorization") is not None:
            return None
        refused = self._let_in(flow, request.call_id, now, self.locations.anybody(flow))
        if refused is not None:
            return refused
        return 401, "Unauthorized", registrar.challenge(now, host=flow.remote[0])

    def answer(self, plain: Plain, flow: Flow, now: float, lasting: bool) -> bytes | None:
        """The answer to a REGISTER that goes the short way, None for any other. `lasting`: bindings are stored."""
        short = self._short
        if short is None or flow.network != self.policy.network:
            return None
        return short.answer(plain, flow, now, lasting)

    def _let_in(self, flow: Flow, call_id: str, now: float, known: bool) -> Answer | None:
        """What a REGISTER gets that comes when too many do, None for one that is let in."""
        if known:
            retry_s = self._admit(self._known, flow, call_id, now)
        else:
            # Not remembered as let in: that would be a way in for whoever forges his address.
            retry_s = self._unproven.take(flow.remote[0], now)
        return None if retry_s is None else self._storm_answer(retry_s)

    def receive(
        self, tx: ServerTx, request: Request, flow: Flow, now: float, wall: float, servers: ServersSnapshot
    ) -> list[Effect]:
        """A REGISTER that came."""
        policy = self.policy
        try:
            if flow.network != policy.network:
                raise PeerError(403, "No Registrar In This Network", "no-registrar-here")
            reading = read(request, flow, policy.domains, policy.max_contacts, policy.outbound)
        except PeerError as error:
            self.stats[f"refused:{error.rule}"] += 1
            fields = error_fields(error, "-", 0)
            response = respond(request, error.status, error.reason, self._tag(6), fields)
            return [Reply(tx, response), Happened("refused", "", flow, error.rule)]
        if reading.nat:
            reading = replace(
                reading, wanted=tuple([self._own(one, reading, flow) for one in reading.wanted])
            )
        asking = Asking(tx, request, flow, reading)
        if self.relay is not None:
            cached = self.relay.cached(asking, now)
            if cached is not None:
                self.stats["registrations.cached"] += 1
                return cached
        if self.locations.has(reading.user, flow):
            spread = self._known
        elif self.local is not None and not self.local.reached(request, flow, now):
            spread = self._unproven
        else:
            spread = self.spread
        retry_s = self._admit(spread, flow, reading.call_id, now)
        if retry_s is not None:
            return self._storm(tx, request, retry_s)
        if self.local is not None:
            return self.local.receive(asking, now)
        assert self.relay is not None
        self.stats["registrations.relayed"] += 1
        return self.relay.receive(asking, now, wall, servers)

    def _own(self, wanted: Wanted, reading: Registering, flow: Flow) -> Wanted:
        """Phones of one user in two homes may have the same private address: they are two (RFC 5626 s.3.1 has a better
        way, for those that know it). It is the same one when it keeps its Call-ID, or still is in that home.
        """
        if not wanted.identity.startswith("uri "):
            return wanted
        told_apart = f"{wanted.identity} {wanted.instance.lower() or reading.call_id}"
        others = False
        for binding in self.locations.of(reading.user):
            if binding.identity == told_apart:
                return replace(wanted, identity=told_apart)
            if binding.identity.startswith("uri ") and identity_of(binding.contact) == wanted.identity:
                same_phone = bool(wanted.instance) and binding.instance == wanted.instance
                if (
                    same_phone
                    or binding.call_id == reading.call_id
                    or binding.flow.remote[0] == flow.remote[0]
                ):
                    return replace(wanted, identity=binding.identity)
                others = True
        return replace(wanted, identity=told_apart) if others else wanted

    def _storm(self, tx: ServerTx, request: Request, retry_s: int) -> list[Effect]:
        status, reason, fields = self._storm_answer(retry_s)
        return [Reply(tx, respond(request, status, reason, self._tag(6), fields))]

    def _storm_answer(self, retry_s: int) -> Answer:
        self.stats["refused:register-storm"] += 1
        storm = PeerError(503, "Too Many Registrations At Once", "register-storm", retry_s)
        return storm.status, storm.reason, error_fields(storm, "-", 0)

    def _admit(self, spread: Spread, flow: Flow, call_id: str, now: float) -> int | None:
        """Seconds to come back after, None for now. Who was let in may answer the challenge that he got."""
        if not spread.rate:
            return None
        if spread is self._unproven:
            return spread.take(flow.remote[0], now)
        key = (flow.remote[0], call_id)
        until = self._admitted.pop(key, 0.0)
        if until > now:
            return None
        retry_s = spread.take(flow.remote[0], now)
        if retry_s is None:
            self._admitted[key] = now + ADMITTED_S
            if len(self._admitted) > MAX_ADMITTED:
                self._admitted.popitem(last=False)
        return retry_s

    def answered(self, relayed: Relayed, response: Response, now: float, wall: float) -> list[Effect]:
        """The registrar's answer to a REGISTER that was relayed."""
        return [] if self.relay is None else self.relay.answered(relayed, response, now, wall)

    def failed(self, relayed: Relayed, cause: str, now: float, wall: float) -> list[Effect]:
        """A relayed REGISTER without answer."""
        return [] if self.relay is None else self.relay.failed(relayed, cause, now, wall)

    def stored(self, ticket: int, error: str | None) -> list[Effect]:
        """What `Persist` asked for is done, or failed with `error`."""
        registrar = self.local if self.relay is None else self.relay
        return [] if registrar is None else registrar.stored(ticket, error)

    # -- time ----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        due = self.locations.next_timer()
        if self.relay is not None:
            at = self.relay.next_timer()
            if at is not None and (due is None or at < due):
                due = at
        return due

    def handle_timer(self, now: float, wall: float) -> tuple[list[Effect], list[Relayed]]:
        """Bindings that run out, and registrars that do not answer: those come back for their health."""
        effects: list[Effect] = [
            Happened("expired", binding.user, binding.flow, binding.contact)
            for binding in self.locations.expire(now)
        ]
        late: list[Relayed] = []
        if self.relay is not None:
            more, late = self.relay.handle_timer(now, wall)
            effects += more
        return effects, late
