"""What both kinds of registrar share: tokens, lifetimes, bindings, and the contacts of an answer (RFC 3261 s.10.3)."""

import hmac
from collections.abc import Callable, Iterable, Sequence

from sbc.answers import error_fields
from sbc.binding import Binding, Upstream, phone_of
from sbc.locations import Locations
from sbc.register_request import Registering, Wanted
from sbc.registration_effects import Asking, Effect, Happened, Persist, Reply
from sbc.registration_policy import RegistrationPolicy
from signaling.errors import PeerError
from signaling.flow import Flow
from signaling.headers import quote
from signaling.message import Field, Response, respond

FLOW_TIMER_S = 120
"""RFC 5626 s.4.4.1: how often a phone is to show on a stream that it is there."""
FULL_RETRY_S = 30
REWRITE = -1
"""The ticket by which the store says that it needs everything once more."""
ORDER_S = 64.0
"""After this a lower CSeq is no late message any more (timer F of both sides)."""


class Registrar:
    """The part of a registrar that does not depend on where registrations are kept.

    `secret` makes tokens and GRUUs: as long as it stays the same, so do they. `tag` makes unguessable To tags.
    """

    def __init__(
        self, policy: RegistrationPolicy, locations: Locations, secret: bytes, tag: Callable[[], str]
    ) -> None:
        self.policy = policy
        self.locations = locations
        self._secret = secret
        self._tag = tag
        self._ticket = 0
        # Answers that wait until what they say is stored.
        self._waiting: dict[int, tuple[Effect, ...]] = {}

    def adopt(self, old: "Registrar") -> None:
        """Take over what waits for the store."""
        self._ticket, self._waiting = old._ticket, old._waiting

    # -- names ---------------------------------------------------------------------------------------------

    def mac(self, *words: str) -> bytes:
        """A name that nobody else can make up."""
        # Each with its length: two lists of words must never read the same.
        text = "".join([f"{len(word)}:{word}" for word in words])
        return hmac.digest(self._secret, text.encode("utf-8", "surrogateescape"), "sha256")

    def token(self, user: str, wanted: Wanted) -> str:
        """The user part of the contact that stands for a phone: the same for all its flows (RFC 5626 s.4.2)."""
        return self.mac("token", user, phone_of(wanted.identity)).hex()[:32]

    # -- lifetimes -----------------------------------------------------------------------------------------

    def asked_s(self, wanted: Wanted) -> int:
        """How long a contact wants to be registered."""
        return self.policy.default_expires_s if wanted.expires_s is None else wanted.expires_s

    def long_enough(self, reading: Registering) -> None:
        """423 when a contact wants to be registered for too short a time (RFC 3261 s.10.3 step 7)."""
        for wanted in reading.wanted:
            asked = self.asked_s(wanted)
            if 0 < asked < self.policy.min_expires_s and asked < 3600:
                raise PeerError(423, "Interval Too Brief", "interval-too-brief")

    def granted_s(self, asked: int, reading: Registering, asking: Asking) -> int:
        """How long it is: what holds a NAT open may be shorter than what a phone would have liked.

        So may what brings it back when its connection has broken, or we were restarted: a phone that does not know
        RFC 5626 may not even look at a connection between two refreshes.
        """
        policy = self.policy
        granted = min(asked, policy.max_expires_s)
        if asking.flow.reliable and not (reading.outbound and all(one.reg_id for one in reading.wanted)):
            granted = min(granted, max(policy.stream_expires_s, policy.min_expires_s))
        if reading.nat and policy.keepalive == "expiry" and not asking.flow.reliable:
            granted = min(granted, policy.nat_expires_s)
        return granted

    def in_order(self, reading: Registering, bindings: Iterable[Binding], now: float) -> None:
        """RFC 3261 s.10.3 steps 6 and 7: within one Call-ID only a higher CSeq changes anything.

        Held for as long as a request can be under way: phones that make their Call-ID of their hardware address
        begin at 1 again when they were switched off, and would be locked out.
        """
        for binding in bindings:
            recent = now - binding.registered_at < ORDER_S
            if recent and binding.call_id == reading.call_id and reading.cseq <= binding.cseq:
                raise PeerError(500, "Older Than What Is Known", "cseq-not-rising")

    # -- bindings ------------------------------------------------------------------------------------------

    def room(self, reading: Registering) -> None:
        """403 or 503 when a new contact has no place, also not in that of those that cannot be called any more.

        Nothing is removed here: who asks may not have shown yet who he is.
        """
        fresh = self._fresh(reading)
        if not fresh:
            return
        over = self.locations.count(reading.user) + fresh - self.policy.max_contacts
        if over > sum(1 for one in self.locations.of(reading.user) if one.dead):
            raise PeerError(403, "Too Many Contacts", "too-many-contacts")
        if self.locations.full:
            raise PeerError(503, "Too Many Registrations", "too-many-bindings", FULL_RETRY_S)

    def make_room(self, reading: Registering) -> None:
        """Those that cannot be called any more go where `room` has counted on them, the longest unheard first."""
        over = self.locations.count(reading.user) + self._fresh(reading) - self.policy.max_contacts
        if over > 0:
            dead = sorted(
                (one for one in self.locations.of(reading.user) if one.dead), key=lambda one: one.seen_at
            )
            for binding in dead[:over]:
                self.locations.remove(binding)

    def _fresh(self, reading: Registering) -> int:
        """How many contacts are not there yet."""
        get, user = self.locations.get, reading.user
        return sum(1 for one in reading.wanted if one.expires_s != 0 and get(user, one.identity) is None)

    def bind(
        self,
        asking: Asking,
        wanted: Wanted,
        granted_s: float,
        now: float,
        gruu: str = "",
        upstream: Upstream | None = None,
    ) -> Happened | None:
        """Make the binding or renew it; the line for the log when it is a new one."""
        reading, flow = asking.reading, asking.flow
        known = self.locations.get(reading.user, wanted.identity)
        if (
            known is not None
            and known.flow == flow
            and known.contact == wanted.contact
            and known.call_id == reading.call_id
            and known.q == wanted.q
            and known.instance == wanted.instance
            and known.nat == reading.nat
        ):
            self.locations.refresh(known, now + granted_s, reading.cseq, now, upstream)
            return None
        self.locations.put(
            Binding(
                reading.user,
                wanted.identity,
                wanted.contact,
                self.token(reading.user, wanted) if known is None else known.token,
                flow,
                now + granted_s,
                reading.call_id,
                reading.cseq,
                wanted.q,
                wanted.instance,
                wanted.reg_id,
                reading.outbound and wanted.reg_id > 0,
                reading.user_agent,
                reading.nat,
                gruu,
                now,
                upstream,
                registered_at=now,
            )
        )
        if known is None:
            return Happened("registered", reading.user, flow, reading.nat)
        if known.flow == flow:
            return None
        # Its calls go there only when it is the same phone, which keeps its Call-ID (RFC 3261 s.10.2.4).
        before = known.flow if known.call_id == reading.call_id else None
        return Happened("moved", reading.user, flow, reading.nat, before)

    def unbind(self, bindings: Iterable[Binding], flow_of: Asking) -> list[Effect]:
        """The phone, or its user, has taken them back."""
        effects: list[Effect] = []
        for binding in bindings:
            self.locations.remove(binding)
            effects.append(Happened("removed", binding.user, flow_of.flow, binding.contact))
        return effects

    # -- answers -------------------------------------------------------------------------------------------

    def contact(self, binding: Binding, now: float, extra: str = "") -> Field:
        """One Contact of a 200."""
        left = max(1, round(binding.expires_at - now))
        q = "" if binding.q == 1000 else f";q={binding.q / 1000:g}"
        instance = f";+sip.instance={quote(binding.instance)}" if binding.instance else ""
        reg_id = f";reg-id={binding.reg_id}" if binding.reg_id else ""
        return "Contact", f"<{binding.contact}>;expires={left}{q}{instance}{reg_id}{extra}"

    def outbound_fields(self, asking: Asking) -> list[Field]:
        """RFC 5626 s.6: that its flows were understood, and how often the phone is to use them."""
        if not any(one.reg_id for one in asking.reading.wanted):
            return []
        return self.flow_fields(asking.flow)

    def flow_fields(self, flow: Flow) -> list[Field]:
        """That a registration with reg-id was taken as one, and how often its flow is to be used."""
        seconds = FLOW_TIMER_S if flow.reliable else max(1, round(self.policy.keepalive_s))
        return [("Require", "outbound"), ("Flow-Timer", str(seconds))]

    def answer(self, asking: Asking, status: int, reason: str, fields: Sequence[Field] = ()) -> Reply:
        """An answer to the phone."""
        return Reply(asking.tx, respond(asking.request, status, reason, self._tag(), fields))

    def refuse(self, asking: Asking, error: PeerError, fields: Sequence[Field] = ()) -> list[Effect]:
        """A refusal with its reason id."""
        named = error_fields(error, "-", 0)
        if error.status == 423:
            named.append(("Min-Expires", str(self.policy.min_expires_s)))
        reply = self.answer(asking, error.status, error.reason, [*fields, *named])
        if error.status == 401:
            return [
                reply
            ]  # how every registration begins, or a phone that has its password wrong: see the counters
        return [reply, Happened("refused", asking.reading.user, asking.flow, error.rule)]

    def when_stored(self, effects: Sequence[Effect]) -> list[Effect]:
        """Write what has changed; `effects` follow when it is on the disk."""
        self._ticket += 1
        self._waiting[self._ticket] = tuple(effects)
        return [Persist(self._ticket)]

    def stored(self, ticket: int, error: str | None) -> list[Effect]:
        """What was to be written is written, or failed with `error`: then nobody is told that he is registered."""
        if ticket == REWRITE:
            self.locations.rewrite()
            return []
        effects = self._waiting.pop(ticket, ())
        if error is None:
            return list(effects)
        said: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Reply):
                request = effect.tx.request
                refusal = PeerError(503, "Registration Cannot Be Stored", "store-failed", FULL_RETRY_S)
                fields = error_fields(refusal, "-", 0)
                response: Response = respond(request, 503, refusal.reason, self._tag(), fields)
                said.append(Reply(effect.tx, response))
                said.append(Happened("refused", "", effect.tx.flow, f"store-failed: {error}"))
        return said
