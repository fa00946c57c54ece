"""Ways out: from an address of ours to a host, remembered until a route, an address or a link changes."""

import contextlib
from itertools import islice

from media.fastpath.netlink import Address, Changes, Hop, Interface, Netlink, owner_of

# A flood of peers must not make us remember them all.
MAX_WAYS = 16384
# An MTU that a router on the way told (RFC 1191, RFC 8201) is no change of routes that anybody is notified of: every
# way is asked for again after so many rounds.
ROUNDS = 30
# Ways asked for in one round, at 10 us each: media must not wait for them.
MAX_ASKED = 2000


# Which of several routes a packet takes, by a hash of addresses (0) or of ports too.
_MULTIPATH = ("/proc/sys/net/ipv4/fib_multipath_hash_policy", "/proc/sys/net/ipv6/fib_multipath_hash_policy")


class Ways:
    """The routes of this network namespace, as the kernel would choose them for UDP with `tos` from a socket of ours.

    They are asked for and remembered by host. Where rules or the choice between several routes look at ports, by port.
    """

    def __init__(self, tos: int = 0) -> None:
        self._tos = tos
        self._by_port = False
        self._netlink = Netlink()
        self._changes = Changes()
        self._interfaces: dict[int, Interface] = {}
        self._owners: dict[str, int] = {}
        self._known: dict[tuple[Address, Address], Hop | str] = {}
        # How many of the ways known, from the oldest on, are from before the last change.
        self._stale = 0

    def close(self) -> None:
        """Close both sockets."""
        self._netlink.close()
        self._changes.close()

    def changed(self) -> bool:
        """Called in rounds: ask again for what may be another way now, and tell whether any is."""
        if self._changes.happened():
            self._interfaces.clear()
            self._owners.clear()
            if self._survey():
                return True
            self._stale = len(self._known)
        count = min(max(self._stale, len(self._known) // ROUNDS + 1), MAX_ASKED)
        self._stale = max(0, self._stale - count)
        changed = False
        for local, remote in list(islice(self._known, count)):
            before = self._known.pop((local, remote))
            changed |= self.find(local, remote) != before
        return changed

    def find(self, local: Address, remote: Address) -> Hop | str:
        """The way, with the MTU that holds on it, or why packets on it cannot be left to the kernel."""
        if not self._interfaces:
            self._survey()
        ends = (local, remote) if self._by_port else ((local[0], 0), (remote[0], 0))
        way = self._known.get(ends)
        if way is None:
            if len(self._known) >= MAX_WAYS:
                self._known.clear()
                self._stale = 0
            way = self._known[ends] = self._ask(*ends)
        return way

    def interface_of(self, local: str) -> Interface | None:
        """The interface that has an address."""
        if not self._interfaces:
            self._survey()
        return self._interfaces.get(owner_of(self._owners, local))

    def _survey(self) -> bool:
        """Look at everything but routes; whether all ways are forgotten, since ports count now or no longer do."""
        forgotten = False
        with contextlib.suppress(OSError):
            by_port = self._netlink.rules_of_ports() or any(map(_is_set, _MULTIPATH))
            if by_port != self._by_port:
                self._by_port, forgotten = by_port, True
                self._known.clear()
                self._stale = 0
            self._owners = self._netlink.owners()
            self._interfaces = self._netlink.interfaces()
        return forgotten

    def _ask(self, local: Address, remote: Address) -> Hop | str:
        if self.interface_of(local[0]) is None:
            return f"no interface has the address {local[0]}"
        found = self._netlink.route(local, remote, self._tos, self._by_port)
        if isinstance(found, str):
            return found
        out = self._interfaces.get(found.ifindex)
        if out is None or not out.up:
            return f"the interface towards {remote[0]} is down"
        if not out.ethernet:
            return f"{out.name}, the interface towards {remote[0]}, is not Ethernet"
        return Hop(found.ifindex, found.address, min(found.mtu or out.mtu, out.mtu))


def _is_set(path: str) -> bool:
    try:
        with open(path) as file:
            return file.read().strip() != "0"
    except OSError:
        return False
