"""Where the phones are: bindings of addresses of record to flows (RFC 3261 s.10, RFC 5626), without I/O.

Times in memory are monotonic, so that a step of the clock ends no registration; `row_of` and `binding_of` turn them
into seconds since the epoch and back, because what is stored has to survive the process.
"""

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import TypeVar

from config.frozen import frozen
from sbc.wakeups import Wakeups
from signaling.errors import ParseError
from signaling.flow import Address, Flow, host_port
from signaling.uri import SipUri, parse_uri, unescape

MAX_BINDINGS = 200_000
"""Bindings in all. A phone costs about 2 KiB here; beyond it a new one gets 503."""
MAX_SHOWN = 256
"""Characters of what a phone says of itself that are kept."""
SLACK_S = 120.0
"""How much longer than is stored a restart keeps a binding of ours: a phone that renews it within that time is told so
at once, and what it renewed is written later, with that of many."""
WRITE_S = 5.0
"""How much later."""

TAKEN = "another phone has its place in the NAT"
"""Why one cannot be called, nor calls, that is not the last that registered by its flow."""
_SENT_BY = "Via says "

K = TypeVar("K")
Value = str | int | float | bytes
Row = tuple[Value, ...]
"""What is stored of a binding: a value for each of `COLUMNS`."""
COLUMNS: tuple[tuple[str, str], ...] = (
    ("user", "TEXT"), ("identity", "TEXT"), ("contact", "TEXT"), ("token", "TEXT"), ("network", "TEXT"),
    ("transport", "TEXT"), ("local_host", "TEXT"), ("local_port", "INTEGER"), ("remote_host", "TEXT"),
    ("remote_port", "INTEGER"), ("expires_at", "REAL"), ("seen_at", "REAL"), ("call_id", "TEXT"),
    ("cseq", "INTEGER"), ("q", "INTEGER"), ("instance", "TEXT"), ("reg_id", "INTEGER"), ("outbound", "INTEGER"),
    ("user_agent", "TEXT"), ("nat", "TEXT"), ("gruu", "TEXT"), ("registrar", "TEXT"),
    ("registrar_expires_at", "REAL"), ("auth_user", "TEXT"), ("service_route", "TEXT"), ("pub_gruu", "TEXT"),
    ("temp_gruu", "TEXT"),
)  # fmt: skip
"""Name and SQL type of each; the first two are the key. `registrar` "": kept here."""
FlowKey = tuple[str, str, Address]


@frozen
class Upstream:
    """What the registrar behind us knows of a binding: its server, until when, and what it told us.

    `auth_user` is who the credentials named that it accepted; `service_route` is RFC 3608. `asked_at` is when it said
    so, 0 for before the last start.
    """

    server: str
    expires_at: float
    auth_user: str = ""
    service_route: tuple[str, ...] = ()
    pub_gruu: str = ""
    temp_gruu: str = ""
    asked_at: float = 0.0


class Binding:
    """One contact of one user. Changed only through `Locations`, which has it in its tables.

    `user` is the user of the address of record without escapes, `contact` the URI as the phone wrote it, `identity`
    what makes it the same binding when it comes again (`identity_of`), `token` the user part of the contact that
    stands for it towards the registrar, `q` in thousandths, `nat` how Via and Contact differ from the source ("":
    they do not), `gruu` the handle of its temporary GRUUs. `expires_at` and `seen_at` are monotonic.
    """

    __slots__ = (
        "answered",
        "armed",
        "call_id",
        "contact",
        "cseq",
        "dead",
        "expires_at",
        "flow",
        "granted_s",
        "gruu",
        "identity",
        "instance",
        "nat",
        "outbound",
        "q",
        "reg_id",
        "registered_at",
        "seen_at",
        "shape",
        "stored_until",
        "token",
        "upstream",
        "user",
        "user_agent",
    )

    def __init__(
        self,
        user: str,
        identity: str,
        contact: str,
        token: str,
        flow: Flow,
        expires_at: float,
        call_id: str,
        cseq: int,
        q: int = 1000,
        instance: str = "",
        reg_id: int = 0,
        outbound: bool = False,
        user_agent: str = "",
        nat: str = "",
        gruu: str = "",
        seen_at: float = 0.0,
        upstream: Upstream | None = None,
        dead: str = "",
        registered_at: float = 0.0,
    ) -> None:
        self.user = user
        self.identity = identity
        self.contact = contact
        self.token = token
        self.flow = flow
        self.expires_at = expires_at
        self.call_id = call_id
        self.cseq = cseq
        self.q = q
        self.instance = instance
        self.reg_id = reg_id
        self.outbound = outbound
        self.user_agent = user_agent
        self.nat = nat
        self.gruu = gruu
        self.seen_at = seen_at
        self.upstream = upstream
        # Why it cannot be called just now: "" for one that can.
        self.dead = dead
        # When its last REGISTER came; not stored, so that it is long ago after a restart.
        self.registered_at = registered_at
        self.armed: float | None = None
        # Until when a restart would have it, by what is on the disk.
        self.stored_until = 0.0
        # Of the short way (`sbc.registrar_short`): what its last REGISTER looked like (0: not known), what was granted,
        # and the hash of the one that was answered.
        self.shape = 0
        self.granted_s = 0
        self.answered = 0

    @property
    def key(self) -> tuple[str, str]:
        """User and identity."""
        return self.user, self.identity

    @property
    def flow_key(self) -> FlowKey:
        """What a message of this phone is recognised by."""
        return self.flow.network, self.flow.transport, self.flow.remote


@frozen
class Change:
    """One line for the store: the row, or None for a binding that is gone."""

    user: str
    identity: str
    row: Row | None


WIPE = Change("", "", None)
"""Everything that is stored goes; what comes after it is all there is."""

_PREFERENCE = attrgetter("q", "seen_at")


class Locations:
    """All bindings, by user, by token and by flow.

    What changed since the last `take_changes` is remembered by key, so a binding that is refreshed ten times in
    between is written once.
    """

    def __init__(self, max_bindings: int = MAX_BINDINGS) -> None:
        self.max_bindings = max_bindings
        self._by_user: dict[str, list[Binding]] = {}
        self._by_token: dict[str, list[Binding]] = {}
        self._by_flow: dict[FlowKey, list[Binding]] = {}
        self._by_gruu: dict[str, list[Binding]] = {}
        self._wakeups: Wakeups[Binding] = Wakeups()
        self._changed: dict[tuple[str, str], Binding | None] = {}
        # Renewed, for which what is stored still holds; when the first of them was.
        self._renewed: dict[Binding, None] = {}
        self._renewed_at = 0.0
        # By ticket: what is on its way to the disk, and until when a restart would have it then.
        self._in_flight: dict[int, list[tuple[Binding, float]]] = {}
        self._rewrite = False
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def unsaved(self) -> bool:
        """Whether `take_changes` has something to give."""
        return self._rewrite or bool(self._changed)

    @property
    def full(self) -> bool:
        """Whether no new binding may come in."""
        return self._size >= self.max_bindings

    # -- looking -------------------------------------------------------------------------------------------

    def of(self, user: str) -> tuple[Binding, ...]:
        """The bindings of a user, the preferred first: by q, then the one heard of last."""
        found = self._by_user.get(user)
        if found is None:
            return ()
        # Most users have one phone.
        return (found[0],) if len(found) == 1 else tuple(sorted(found, key=_PREFERENCE, reverse=True))

    def count(self, user: str) -> int:
        """How many bindings a user has."""
        return len(self._by_user.get(user, ()))

    def get(self, user: str, identity: str) -> Binding | None:
        """The binding that a contact renews."""
        for binding in self._by_user.get(user, ()):
            if binding.identity == identity:
                return binding
        return None

    def by_token(self, token: str) -> tuple[Binding, ...]:
        """The flows of one phone that registered through us with this token, the one heard of last first."""
        return tuple(sorted(self._by_token.get(token, ()), key=_PREFERENCE, reverse=True))

    def by_gruu(self, gruu: str) -> tuple[Binding, ...]:
        """The flows of the phone with these temporary GRUUs, the one heard of last first."""
        return tuple(sorted(self._by_gruu.get(gruu, ()), key=_PREFERENCE, reverse=True))

    def has(self, user: str, flow: Flow) -> bool:
        """Whether a user has a binding by this flow."""
        return any(one.flow is flow or one.flow == flow for one in self._by_user.get(user, ()))

    def anybody(self, flow: Flow) -> bool:
        """Whether anybody has one by it."""
        found = self._by_flow.get((flow.network, flow.transport, flow.remote))
        return found is not None and any(one.flow.connection == flow.connection for one in found)

    def on_flow(self, flow: Flow) -> tuple[Binding, ...]:
        """The bindings that were made by this flow: who sends from it is one of their users."""
        found = self._by_flow.get((flow.network, flow.transport, flow.remote))
        if found is None:
            return ()
        # A connection of before the last start has no number yet, and none of its bytes can still come.
        return tuple(one for one in found if one.flow.connection == flow.connection)

    def all(self) -> list[Binding]:
        """Every binding, by user."""
        return [binding for user in sorted(self._by_user) for binding in self.of(user)]

    # -- changing ------------------------------------------------------------------------------------------

    def put(self, binding: Binding) -> Binding | None:
        """Add it, or let it take the place of the one with its key, which is returned."""
        old = self.get(binding.user, binding.identity)
        if old is not None:
            self._unlink(old)
        self._by_user.setdefault(binding.user, []).append(binding)
        self._by_token.setdefault(binding.token, []).append(binding)
        self._by_flow.setdefault(binding.flow_key, []).append(binding)
        if binding.gruu:
            self._by_gruu.setdefault(binding.gruu, []).append(binding)
        self._size += 1
        self._wakeups.arm(binding, binding.expires_at)
        self._changed[binding.key] = binding
        if not binding.dead:
            self._place(binding)
        return old

    def refresh(
        self, binding: Binding, expires_at: float, cseq: int, now: float, upstream: Upstream | None
    ) -> None:
        """The same contact by the same flow once more."""
        binding.expires_at = expires_at
        binding.cseq = cseq
        binding.seen_at = binding.registered_at = now
        binding.upstream = upstream
        self._place(binding)
        self._wakeups.arm(binding, expires_at)
        self._changed[binding.key] = binding

    def renew(
        self, binding: Binding, expires_at: float, call_id: str, cseq: int, now: float, lasting: bool
    ) -> None:
        """The same once more of one that can be called, by the short way. `lasting`: it is to be stored."""
        binding.expires_at = expires_at
        binding.call_id = call_id
        binding.cseq = cseq
        binding.seen_at = binding.registered_at = now
        if binding.armed is None or binding.armed > expires_at:
            self._wakeups.arm(binding, expires_at)
        if lasting:
            if not self._renewed:
                self._renewed_at = now
            self._renewed[binding] = None

    def remove(self, binding: Binding) -> None:
        """It is gone. Nothing happens when it already was."""
        if self._unlink(binding):
            self._changed[binding.key] = None

    def lost(self, flow: Flow, why: str) -> list[Binding]:
        """This flow leads nowhere any more: its bindings cannot be called until the phone is heard again."""
        found = [binding for binding in self.on_flow(flow) if not binding.dead]
        for binding in found:
            binding.dead = why
        return found

    def heard(self, binding: Binding, now: float) -> None:
        """The phone has sent something by its flow."""
        if binding.dead != TAKEN:
            binding.seen_at = now
            binding.dead = ""

    def rename(self, new_name: Callable[[Flow], Flow]) -> None:
        """A reload has given listeners to networks of other names: their flows have them too from now on."""
        for binding in [one for found in self._by_user.values() for one in found]:
            flow = new_name(binding.flow)
            if flow != binding.flow:
                _drop(self._by_flow, binding.flow_key, binding)
                binding.flow = flow
                self._by_flow.setdefault(binding.flow_key, []).append(binding)
                self._changed[binding.key] = binding

    def flows(self, ours: Collection[Address]) -> list[Flow]:
        """The flows that lead to a phone from one of these addresses of ours."""
        return [
            one.flow
            for found in self._by_flow.values()
            for one in found
            if one.flow.local in ours and not one.dead
        ]

    def clear(self) -> None:
        """Forget everything, but not what is stored of it."""
        for found in self._by_user.values():
            for binding in found:
                self._wakeups.disarm(binding)
        for table in (self._by_user, self._by_token, self._by_gruu):
            table.clear()
        self._by_flow.clear()
        self._changed.clear()
        self._renewed.clear()
        self._in_flight.clear()
        self._rewrite = False
        self._size = 0

    def _place(self, registered: Binding) -> None:
        """A phone has registered: all that it has registered by this flow can be called again.

        A NAT that has forgotten us may give its port to another phone, which would get the calls of the first and
        could call in its name: what that has registered is nothing until it registers again.
        """
        for binding in self.on_flow(registered.flow):
            binding.dead = TAKEN if _is_another(binding, registered) else ""

    def _unlink(self, binding: Binding) -> bool:
        if not _drop(self._by_user, binding.user, binding):
            return False
        _drop(self._by_token, binding.token, binding)
        _drop(self._by_flow, binding.flow_key, binding)
        _drop(self._by_gruu, binding.gruu, binding)
        self._wakeups.disarm(binding)
        self._renewed.pop(binding, None)
        self._size -= 1
        return True

    # -- time ----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `expire` is due; at times early."""
        return self._wakeups.next()

    def expire(self, now: float) -> list[Binding]:
        """Remove what has run out, and tell which."""
        gone: list[Binding] = []
        for binding in self._wakeups.due(now):
            if binding.expires_at > now:
                self._wakeups.arm(binding, binding.expires_at)
            else:
                self.remove(binding)
                gone.append(binding)
        return gone

    # -- written down --------------------------------------------------------------------------------------

    def forget_changes(self) -> list[Binding]:
        """As if they had been stored: the bindings that were made or renewed."""
        changed = [binding for binding in self._changed.values() if binding is not None]
        self._changed.clear()
        return changed

    @property
    def write_at(self) -> float | None:
        """When what was renewed is to be written at the latest."""
        return self._renewed_at + WRITE_S if self._renewed else None

    def take_changes(self, now: float, wall: float, ticket: int = 0) -> tuple[Change, ...]:
        """What is to be stored since the last call of this. `wall`: seconds since the epoch at `now`.

        `written(ticket)` is to tell what became of it; a ticket of 0 is not heard of again.
        """
        for renewed in self._renewed:
            self._changed[renewed.key] = renewed
        self._renewed.clear()
        changes = tuple(
            [
                Change(user, identity, None if binding is None else row_of(binding, now, wall))
                for (user, identity), binding in self._changed.items()
            ]
        )
        if ticket:
            self._in_flight[ticket] = [
                (binding, binding.expires_at + SLACK_S)
                for binding in self._changed.values()
                if binding is not None
            ]
        self._changed.clear()
        if self._rewrite:
            self._rewrite = False
            return WIPE, *changes
        return changes

    def in_flight(self, ticket: int) -> list[Binding]:
        """The bindings that a ticket stands for."""
        return [binding for binding, _ in self._in_flight.get(ticket, ())]

    def written(self, ticket: int, done: bool) -> None:
        """What `take_changes` gave with this ticket is on the disk, or is not."""
        for binding, until in self._in_flight.pop(ticket, ()):
            if done:
                binding.stored_until = until

    def rewrite(self) -> None:
        """The store has lost sight of what changed: all of it is to be stored again."""
        self._rewrite = True
        self._changed = {binding.key: binding for found in self._by_user.values() for binding in found}
        self._in_flight.clear()
        for found in self._by_user.values():
            for binding in found:
                binding.stored_until = 0.0

    def restore(self, rows: Sequence[Row], now: float, wall: float) -> int:
        """Take over what was stored, but for what has run out meanwhile; returns how many there are.

        What cannot be read (of a later version) is left out: the phone will register again.
        """
        for row in rows:
            binding = binding_of(row, now, wall)
            if binding is not None and binding.upstream is None:
                binding.stored_until = binding.expires_at = binding.expires_at + SLACK_S
            if binding is None or binding.expires_at <= now:
                self._changed[_text(row[0]), _text(row[1])] = None
            elif not self.full:
                self.put(binding)
                self._changed.pop(binding.key, None)
        return self._size


def _is_another(one: Binding, other: Binding) -> bool:
    """Whether these are of two phones by what they wrote in Via; those behind a proxy of their own have one."""
    hosts = one.nat.startswith(_SENT_BY) and other.nat.startswith(_SENT_BY)
    return hosts and one.nat != other.nat and " port " not in one.nat + other.nat and not one.flow.reliable


def _drop(table: dict[K, list[Binding]], key: K, one: Binding) -> bool:
    found = table.get(key)
    if found is None or one not in found:
        return False
    found.remove(one)
    if not found:
        del table[key]
    return True


# -- what makes a binding the same -------------------------------------------------------------------------


def identity_of(contact: str, instance: str = "", reg_id: int = 0) -> str:
    """What makes a contact the same binding: instance and reg-id (RFC 5626 s.6), else the URI (RFC 3261 s.19.1.4)."""
    if instance and reg_id:
        return f"reg {reg_id} {instance.lower()}"
    try:
        uri = parse_uri(contact)
    except ParseError:
        return f"uri {contact}"
    if not isinstance(uri, SipUri):
        return f"uri {contact}"
    params = sorted(f";{name.lower()}={(value or '').lower()}" for name, value in uri.params)
    port = "" if uri.port is None else f":{uri.port}"
    return f"uri {uri.scheme}:{unescape(uri.user)}@{uri.host.lower()}{port}{''.join(params)}"


def phone_of(identity: str) -> str:
    """The identity without its reg-id: the flows of one phone are one contact towards a registrar behind us."""
    return identity.partition(" ")[2].partition(" ")[2] if identity.startswith("reg ") else identity


# -- rows --------------------------------------------------------------------------------------------------


def row_of(binding: Binding, now: float, wall: float) -> Row:
    """What is stored of `binding`; its times in seconds since the epoch."""
    flow, upstream = binding.flow, binding.upstream
    later: Row = ("", 0.0, "", "", "", "")
    if upstream is not None:
        later = (
            upstream.server, wall + upstream.expires_at - now, upstream.auth_user,
            "\n".join(upstream.service_route), upstream.pub_gruu, upstream.temp_gruu,
        )  # fmt: skip
    row: Row = (
        binding.user, binding.identity, binding.contact, binding.token, flow.network, flow.transport,
        flow.local[0], flow.local[1], flow.remote[0], flow.remote[1], wall + binding.expires_at - now,
        wall + binding.seen_at - now, binding.call_id, binding.cseq, binding.q, binding.instance, binding.reg_id,
        int(binding.outbound), binding.user_agent, binding.nat, binding.gruu, *later,
    )  # fmt: skip
    return tuple([storable(value) if isinstance(value, str) else value for value in row])


def storable(text: str) -> str | bytes:
    """`text` as SQLite takes it: a phone may send bytes that are no UTF-8, which are stored as they came."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def _text(value: Value) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def binding_of(row: Row, now: float, wall: float) -> Binding | None:
    """The binding of a stored row, None for one that cannot be read."""
    if len(row) != len(COLUMNS):
        return None
    value = dict(zip([name for name, _ in COLUMNS], row, strict=True))
    texts = {name: _text(value[name]) for name, kind in COLUMNS if kind == "TEXT"}
    try:
        times = {name: now + float(value[name]) - wall for name, kind in COLUMNS if kind == "REAL"}
        numbers = {name: int(value[name]) for name, kind in COLUMNS if kind == "INTEGER"}
    except (ValueError, OverflowError):
        return None
    upstream = None
    if texts["registrar"]:
        upstream = Upstream(
            texts["registrar"],
            times["registrar_expires_at"],
            texts["auth_user"],
            tuple(texts["service_route"].split("\n")) if texts["service_route"] else (),
            texts["pub_gruu"],
            texts["temp_gruu"],
        )
    local = (texts["local_host"], numbers["local_port"])
    flow = Flow(texts["network"], texts["transport"], local, (texts["remote_host"], numbers["remote_port"]))
    return Binding(
        texts["user"],
        texts["identity"],
        texts["contact"],
        texts["token"],
        flow,
        times["expires_at"],
        texts["call_id"],
        numbers["cseq"],
        numbers["q"],
        texts["instance"],
        numbers["reg_id"],
        bool(numbers["outbound"]),
        texts["user_agent"],
        texts["nat"],
        texts["gruu"],
        times["seen_at"],
        upstream,
        # Its connection ended with the process that had it: it is back when the phone registers again.
        "its connection ended with the restart" if flow.reliable else "",
    )


def shown(binding: Binding, now: float) -> dict[str, object]:
    """One line of `sbc registrations`."""
    upstream, flow = binding.upstream, binding.flow
    return {
        "user": binding.user,
        "contact": binding.contact,
        "network": flow.network,
        "flow": f"{flow.transport} {host_port(flow.remote)}",
        "expires_s": max(0, round(binding.expires_at - now)),
        "q": binding.q / 1000,
        "nat": binding.nat or None,
        "registrar": "local" if upstream is None else upstream.server,
        "registrar_expires_s": None if upstream is None else max(0, round(upstream.expires_at - now)),
        "seen_s": max(0, round(now - binding.seen_at)),
        "state": binding.dead or "up",
        "user_agent": binding.user_agent,
        "instance": binding.instance or None,
        "reg_id": binding.reg_id or None,
    }
