"""Which phones a call is for, and which phone it is from: pure functions of the bindings and the users.

A user is called by name or by number, a phone alone by the token that the registrar behind us has for it, or by its
GRUU (RFC 5627). Who calls is whose registered flow the call comes by; what From says has to fit that.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field

from config.frozen import frozen
from config.model import PHONES, Config
from sbc.binding import Binding
from sbc.decisions import Decision
from sbc.gruu import Gruus, gruu_in
from sbc.keepalive import NO_ANSWER
from sbc.locations import TAKEN, Locations
from sbc.routing import CallRequest, Refusal, Target
from sbc.users import Users
from signaling.flow import Flow, host_port

ANONYMOUS = "anonymous"
TOKEN = re.compile("[0-9a-f]{32}")
"""What names a phone towards its registrar (`sbc.registrar.Registrar.token`), also one that has run out."""
FLOW_FAILED = frozenset((430,))
"""RFC 5626 s.11.1: what says that it was the flow which failed, and not the phone. So does silence."""


@frozen
class Found:
    """The phones of a called user, the preferred first: one flow for each, those that can be called.

    `how` is what it was found by: token, gruu, user or number; "" when nobody has that name. `away` are bindings that
    cannot be called just now, `own` those of the phone that calls, which does not ring itself. `spare` are other flows
    of the phones, by their tokens, for when that one fails (RFC 5626 s.7).
    """

    user: str
    how: str
    bindings: tuple[Binding, ...] = ()
    away: tuple[Binding, ...] = ()
    own: tuple[Binding, ...] = ()
    spare: Mapping[str, Sequence[Binding]] = field(default_factory=dict)


@frozen
class Caller:
    """Who calls from the phones' network: `user` "" for one who has not registered and may call all the same.

    `unproven`: only his password can tell (407). `decision` is for the record.
    """

    user: str
    decision: Decision
    refusal: Refusal | None = None
    unproven: bool = False


class Phonebook:
    """The phones of one configuration, as routing sees them."""

    def __init__(self, config: Config, locations: Locations, users: Users, gruus: Gruus | None) -> None:
        phones = config.phones
        self._locations = locations
        self._users = users
        self._gruus = gruus
        self._registrar = None if phones is None or phones.local else phones.registrar
        self._calls = "any" if phones is None else phones.calls
        self.network = "" if phones is None else phones.network
        self._nat = phones is not None and config.networks[phones.network].nat == "far-end"
        self._domain = config.phones_domain
        self._ring_s = 0.0 if phones is None else float(phones.ring_s)
        self._parallel = phones is None or phones.fork == "parallel"

    # -- who is called -------------------------------------------------------------------------------------

    def find(self, request: CallRequest, user: str, now: float) -> Found:
        """The phones of `user`, which is the called user as the route has made it, but for the one that calls."""
        found = self._find(request, user, now)
        flows = request.own
        if request.flow is not None and request.source.phone == found.user:
            flows = (request.flow,)
        calling = {
            one.token for flow in flows for one in self._locations.on_flow(flow) if one.user == found.user
        }
        if not calling:
            return found
        return Found(
            found.user,
            found.how,
            tuple(one for one in found.bindings if one.token not in calling),
            tuple(one for one in found.away if one.token not in calling),
            tuple(one for one in found.bindings if one.token in calling),
            found.spare,
        )

    def _find(self, request: CallRequest, user: str, now: float) -> Found:
        locations = self._locations
        if self._registrar is not None and request.source.trunk == self._registrar:
            bindings = locations.by_token(request.user)
            if bindings:
                return _found(bindings[0].user, "token", bindings, now)
            if TOKEN.fullmatch(request.user):
                return Found("", "token")
        if request.gruu is not None and (self._gruus is not None or request.gruu):
            return self._by_gruu(request, user, now)
        bindings = locations.of(user)
        if bindings:
            return _found(user, "user", bindings, now)
        owner = self._users.by_number(user)
        if owner is not None:
            return _found(owner.name, "number", locations.of(owner.name), now)
        # With a registrar behind us nobody here knows who is a user.
        known = self._registrar is not None or self._users.get(user) is not None
        return Found(user, "user" if known else "")

    def _by_gruu(self, request: CallRequest, user: str, now: float) -> Found:
        handle = None if self._gruus is None else self._gruus.open(request.user)
        if handle is not None:
            found = self._locations.by_gruu(handle)
            return _found(found[0].user if found else user, "gruu", found, now)
        name = (request.gruu or "").lower()
        bindings = [one for one in self._locations.of(user) if _instance(one) == name]
        return _found(user, "gruu", bindings, now)

    def registered(self, request: CallRequest, user: str, now: float) -> bool:
        """Whether there is a phone to call (`when: registered`)."""
        found = self.find(request, user, now)
        # A token means nothing anywhere else: the registrar, which has other ways, is told that nobody is there.
        return bool(found.bindings) or found.how == "token"

    def targets(
        self, request: CallRequest, user: str, now: float
    ) -> tuple[tuple[Target, ...], Decision, Refusal | None]:
        """The phones to ring, in groups of those that ring at once; or why there is none."""
        found = self.find(request, user, now)
        compared = [("called", user), ("found by", found.how or "nothing")]
        compared += [(f"{_flow(one)} q={one.q / 1000:g}", "registered") for one in found.bindings]
        compared += [
            (_flow(one), "for when its other flow fails") for two in found.spare.values() for one in two
        ]
        compared += [(_flow(one), one.dead or "run out") for one in found.away]
        compared += [(_flow(one), "the phone that calls") for one in found.own]
        refusal = None if found.bindings else _absent(found)
        if refusal is not None:
            outcome = f"no phone: {refusal.status} {refusal.rule}"
            return (), Decision("routing", "phones", tuple(compared), outcome), refusal
        targets: list[Target] = []
        group, q = 0, -1
        for binding in found.bindings:
            if not self._parallel or binding.q != q:
                group, q = group + 1, binding.q
            for flow in (binding, *found.spare.get(binding.token, ())):
                targets.append(self._target(request, found, flow, group, flow is not binding))
        way = "one" if len(found.bindings) == 1 else "all at once" if group == 1 else "one by one"
        outcome = f"{', '.join(_flow(one) for one in found.bindings)} ({way})"
        return tuple(targets), Decision("routing", "phones", tuple(compared), outcome), None

    def _target(
        self, request: CallRequest, found: Found, binding: Binding, group: int, spare: bool
    ) -> Target:
        flow = binding.flow
        return Target(
            PHONES, flow.network, flow.transport, flow.remote, self._domain, found.user, FLOW_FAILED,
            nat=self._nat, flow=flow, contact=binding.contact, group=group, ring_s=self._ring_s,
            domain=self._domain,
            registrar=self._registrar is not None and request.source.trunk == self._registrar,
            gruu=binding.token if found.how == "token" else "",
            spare=spare,
        )  # fmt: skip

    # -- who calls -----------------------------------------------------------------------------------------

    def caller(self, flow: Flow, sender: str, now: float) -> Caller:
        """Who sends a call by `flow` with `sender` as the user of From."""
        # A phone that is silent may have lost its place in the NAT to another, which must not call in its name.
        bindings = [
            one
            for one in self._locations.on_flow(flow)
            if one.expires_at > now and one.dead not in (NO_ANSWER, TAKEN)
        ]
        users = sorted({one.user for one in bindings})
        compared = (("from", sender), ("registered on this flow", ", ".join(users) or "nobody"))
        for user in users:
            if sender in self.names(user) or (sender == ANONYMOUS and len(users) == 1):
                return self._caller(user, compared)
        if self._calls == "any":
            return self._caller("", compared)
        if users:
            refusal = Refusal(403, "Not Your Identity", "not-your-identity")
        else:
            refusal = Refusal(403, "Register First", "not-registered")
        return self._caller("", compared, refusal, self._calls == "challenge")

    def authenticated(self, user: str, sender: str) -> Caller:
        """The same for one who has proven that he is `user`."""
        compared = (("from", sender), ("credentials of", user))
        if sender == ANONYMOUS or sender in self.names(user):
            return self._caller(user, compared)
        return self._caller("", compared, Refusal(403, "Not Your Identity", "not-your-identity"))

    def _caller(
        self,
        user: str,
        compared: tuple[tuple[str, str], ...],
        refusal: Refusal | None = None,
        unproven: bool = False,
    ) -> Caller:
        outcome = f"{refusal.status} {refusal.rule}" if refusal else f"user {user}" if user else "anybody"
        return Caller(
            user, Decision("source", f"phones.calls: {self._calls}", compared, outcome), refusal, unproven
        )

    def names(self, user: str) -> Collection[str]:
        """What a user may call himself."""
        known = self._users.get(user)
        return (user,) if known is None else (user, *known.numbers)


def _instance(binding: Binding) -> str:
    """What a public GRUU calls the phone: its own name, or the one that the registrar behind us has for it."""
    if binding.upstream is None:
        return binding.instance.strip("<>").lower()
    gruu = gruu_in(binding.upstream.pub_gruu)
    return "" if gruu is None else (gruu.param("gr") or "").lower()


def _flow(binding: Binding) -> str:
    return f"{binding.flow.transport} {host_port(binding.flow.remote)}"


def _absent(found: Found) -> Refusal:
    """Why nobody rings. RFC 3261 s.21.4.5, s.21.4.18: 404 for a user that there is not, 480 for one who is away.

    Who calls his own number from the only phone that he has is busy: he is on the line (s.21.4.21).
    """
    if found.own:
        return Refusal(486, "Busy Here", "own-number")
    if found.away:
        return Refusal(480, "Temporarily Unavailable", "phone-away")
    if not found.how:
        return Refusal(404, "Not Found", "no-such-user")
    return Refusal(480, "Temporarily Unavailable", "phone-not-registered")


def _found(user: str, how: str, bindings: Iterable[Binding], now: float) -> Found:
    """Of each phone the flow that was heard last: several are for when one fails, not to ring twice (RFC 5626 s.7)."""
    up: dict[str, Binding] = {}
    away: list[Binding] = []
    spare: dict[str, list[Binding]] = {}
    for binding in bindings:
        if binding.dead or binding.expires_at <= now:
            away.append(binding)
        elif up.setdefault(binding.token, binding) is not binding:
            spare.setdefault(binding.token, []).append(binding)
    return Found(user, how, tuple(up.values()), tuple(away), (), spare)
