"""Where the phones are: bindings of addresses of record to flows (RFC 3261 s.10, RFC 5626), without I/O.

`Locations` finds them, ends them when their time is over, and tells what is to be stored; what one is, and its row in
the store, is `sbc.binding`.
"""

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import TypeVar

from config.frozen import frozen
from sbc.binding import Binding, FlowKey, Row, Upstream, binding_of, row_of, text_of
from sbc.wakeups import Wakeups
from signaling.flow import Address, Flow

MAX_BINDINGS = 200_000
"""Bindings in all. A phone costs about 2 KiB here; beyond it a new one gets 503."""
SLACK_S = 120.0
"""How much longer than is stored a restart keeps a binding of ours: a phone that renews it within that time is told so
at once, and what it renewed is written later, with that of many."""
WRITE_S = 5.0
"""How much later."""

TAKEN = "another phone has its place in the NAT"
"""Why one cannot be called, nor calls, that is not the last that registered by its flow."""
_SENT_BY = "Via says "

K = TypeVar("K")


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
        nat = registered.nat
        for one in self._by_flow.get(registered.flow_key, ()):
            if one.dead or one.nat != nat:
                break
        else:
            return  # as nearly always: behind a proxy of their own that are thousands
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
                self._changed[text_of(row[0]), text_of(row[1])] = None
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
