"""`registrar: local`: the registrations are kept here (RFC 3261 s.10.3, RFC 5626 s.6, RFC 5627 s.5)."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from nat.address import subscriber
from sbc.binding import Binding
from sbc.gruu import Gruus, gruu_params
from sbc.locations import Locations
from sbc.register_request import Registering
from sbc.register_shape import shape_of
from sbc.registrar import Registrar
from sbc.registration_effects import Asking, Effect, Happened
from sbc.registration_policy import RegistrationPolicy
from sbc.users import User, Users
from signaling.digest import Check, Nonces, credentials_for
from signaling.errors import ParseError, PeerError
from signaling.flow import Flow
from signaling.message import Field, Request

MAX_GUESSES = 100
"""Wrong passwords of a user from one address before it has to wait. Some phones repeat a wrong one dozens of times, and
share the address with one that has the right one."""
GUESS_S = 30.0
"""One of them is forgotten after each such time."""
MAX_GUESSERS = 2_000
MAX_GUESSED = 50
"""Users that are remembered for each address; the one with the fewest wrong passwords is forgotten first."""
SALT_BYTES = 4
"""What tells apart the nonces of one microsecond."""


class LocalRegistrar(Registrar):
    """Our own location service. `token` makes unguessable text of so many bytes."""

    def __init__(
        self,
        policy: RegistrationPolicy,
        locations: Locations,
        users: Users,
        nonces: Nonces,
        secret: bytes,
        token: Callable[[int], str],
        stats: Counter[str],
    ) -> None:
        super().__init__(policy, locations, secret, lambda: token(6))
        self.users = users
        self.gruus = Gruus(secret)
        self._nonces = nonces
        self._token = token
        self._stats = stats
        self.era = token(4)
        """What shapes of bindings are made with: those of another configuration mean nothing."""
        # By address and user: how many were wrong, and when the last was.
        self._guesses: OrderedDict[str, dict[str, tuple[float, float]]] = OrderedDict()

    def adopt(self, old: Registrar) -> None:
        """Take over what waits for the store, and the nonces."""
        super().adopt(old)
        if isinstance(old, LocalRegistrar):
            self._nonces, self._guesses = old._nonces, old._guesses

    def dismiss(self, bindings: Iterable[Binding]) -> list[Effect]:
        """They are of users that there are not any more."""
        effects: list[Effect] = []
        for binding in bindings:
            self.locations.remove(binding)
            effects.append(Happened("removed", binding.user, binding.flow, "no such user any more"))
        return effects

    # -- who it is -----------------------------------------------------------------------------------------

    def challenge(self, now: float, stale: bool = False, proxy: bool = False, host: str = "") -> list[Field]:
        """The fields of a 401, or of a 407, for a sender at `host`."""
        return self._nonces.challenges(
            self.users.realm,
            self._token(SALT_BYTES),
            now,
            algorithms=self.users.algorithms,
            stale=stale,
            proxy=proxy,
            host=subscriber(host) if host else "",
        )

    def nonce(self, host: str, now: float) -> str:
        """A fresh nonce for a sender at `host`."""
        return self._nonces.make(self._token(SALT_BYTES), now, subscriber(host))

    def use(self, nonce: str, nc: int, host: str, now: float) -> bool:
        """Count `nc` of a nonce that went to `host` as used; False when it is not good."""
        return self._nonces.use(nonce, nc, now, subscriber(host))

    def guessed(self, host: str) -> bool:
        """Whether wrong passwords that came from `host` are remembered."""
        return bool(self._guesses) and subscriber(host) in self._guesses

    def _sent_to(self, nonce: str, host: str, now: float) -> bool:
        """Whether a nonce went to this address not long ago: only who gets what is sent there can know it."""
        return self._nonces.made(nonce, now, subscriber(host)) is not None

    def reached(self, request: Request, flow: Flow, now: float) -> bool:
        """Whether the credentials show that their sender is at the address that he comes from."""
        try:
            credentials = credentials_for(request, self.users.realm)
        except ParseError:
            return False
        return credentials is not None and self._sent_to(credentials.nonce, flow.remote[0], now)

    def authenticate(
        self, request: Request, flow: Flow, now: float, proxy: bool = False
    ) -> tuple[User | None, str]:
        """Who sent it by its credentials, or None and why: "no-credentials", "stale-nonce", "wrong-credentials".

        ParseError for credentials that cannot be read. PeerError for a host that goes on guessing the password of a
        user: nobody at another address is locked out by that, and no phone that is registered.
        """
        credentials = credentials_for(request, self.users.realm, proxy)
        if credentials is None:
            return None, "no-credentials"
        user = self.users.get(credentials.username)
        host, name = subscriber(flow.remote[0]), credentials.username[:128]
        if (
            self._guesses
            and self._wrong(host, name, now) >= MAX_GUESSES
            and not self.locations.has(name, flow)
        ):
            raise PeerError(403, "Too Many Wrong Passwords", "too-many-guesses")
        check = self._nonces.check(
            credentials,
            request.method,
            request.uri,
            None if user is None else user.secrets,
            now,
            own=self.policy.domains,
            host=host,
        )
        if check is Check.GOOD:
            return user, ""
        if check is Check.STALE:
            return None, "stale-nonce"
        # Anybody can send in the name of an address; a nonce that went there shows that it was from there.
        if check is Check.WRONG and self._sent_to(credentials.nonce, flow.remote[0], now):
            self._count(host, name, now)
        return None, "wrong-credentials"

    def _count(self, host: str, name: str, now: float) -> None:
        """One more wrong password."""
        users = self._guesses.setdefault(host, {})
        users[name] = (self._wrong(host, name, now) + 1.0, now)
        if len(users) > MAX_GUESSED:
            del users[min((one for one in users if one != name), key=lambda one: self._wrong(host, one, now))]
        self._guesses.move_to_end(host)
        if len(self._guesses) > MAX_GUESSERS:
            self._guesses.popitem(last=False)

    def _wrong(self, host: str, name: str, now: float) -> float:
        """Wrong passwords that still count against a user at an address."""
        count, at = self._guesses.get(host, {}).get(name, (0.0, now))
        return max(0.0, count - (now - at) / GUESS_S)

    # -- REGISTER ------------------------------------------------------------------------------------------

    def receive(self, asking: Asking, now: float) -> list[Effect]:
        """RFC 3261 s.10.3 steps 3 to 8."""
        try:
            user, why = self.authenticate(asking.request, asking.flow, now)
            if user is None:
                self._stats[f"refused:{why}"] += 1
                error = PeerError(401, "Unauthorized", why)
                return self.refuse(
                    asking, error, self.challenge(now, why == "stale-nonce", host=asking.flow.remote[0])
                )
            if user.name != asking.reading.user:
                raise PeerError(403, "This Address Belongs To Another User", "not-your-address")
            return self._update(asking, now)
        except ParseError as error:
            return self.refuse(asking, error)
        except PeerError as error:
            return self.refuse(asking, error)

    def _update(self, asking: Asking, now: float) -> list[Effect]:
        reading, locations = asking.reading, self.locations
        known = locations.of(reading.user)
        if reading.wildcard:
            self.in_order(reading, known, now)
            gone = self.unbind(known, asking)
            return [*gone, *self.when_stored([self.answer(asking, 200, "OK")])]
        touched = [locations.get(reading.user, wanted.identity) for wanted in reading.wanted]
        self.in_order(reading, [one for one in touched if one is not None], now)
        # Nothing is changed before everything is known to be right: all or nothing (RFC 3261 s.10.3 step 7).
        self.long_enough(reading)
        asked = [self.asked_s(wanted) for wanted in reading.wanted]
        self.room(reading)
        self.make_room(reading)
        effects: list[Effect] = []
        granted = 0
        for wanted, binding, seconds in zip(reading.wanted, touched, asked, strict=True):
            if seconds == 0:
                effects += self.unbind([] if binding is None else [binding], asking)
                continue
            gruu = ""
            if wanted.instance and self.policy.gruu:
                gruu = self.gruus.handle(reading.user, wanted.instance, reading.call_id)
            granted = self.granted_s(seconds, reading, asking)
            happened = self.bind(asking, wanted, granted, now, gruu)
            if happened is not None:
                effects.append(happened)
        if len(reading.wanted) == 1 and granted and not reading.gruu:
            self._remember(asking, granted)
        reply = self.answer(asking, 200, "OK", self._fields(asking, now))
        return effects + (self.when_stored([reply]) if reading.wanted else [reply])

    def _remember(self, asking: Asking, granted_s: int) -> None:
        """What this REGISTER looks like, so that the next of its kind goes the short way (`sbc.registrar_short`)."""
        reading = asking.reading
        binding = self.locations.get(reading.user, reading.wanted[0].identity)
        if binding is not None:
            binding.shape = shape_of(asking.request, self.era)
            binding.granted_s = granted_s

    def _fields(self, asking: Asking, now: float) -> list[Field]:
        reading = asking.reading
        fields = [
            self.contact(binding, now, self._gruu_params(reading, binding))
            for binding in self.locations.of(reading.user)
        ]
        return [*fields, *self.outbound_fields(asking)]

    def _gruu_params(self, reading: Registering, binding: Binding) -> str:
        # RFC 5627 s.5.2: only who says that he knows what to do with them gets them.
        if not (reading.gruu and binding.gruu and self.policy.gruu):
            return ""
        temporary = self.gruus.temporary(binding.gruu, self._token(6))
        return gruu_params(reading.user_text, self.policy.domain, binding.instance, temporary)
