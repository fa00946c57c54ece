"""Ways out: from an address of ours to a host, remembered until a route, an address or a link changes."""

from itertools import islice

from media.fastpath.netlink import Changes, Hop, Interface, Netlink, canonical

# A flood of peers must not make us remember them all.
MAX_WAYS = 16384
# An MTU that a router on the way told (RFC 1191, RFC 8201) is no change of routes that anybody is notified of: every
# way is asked for again after so many rounds.
ROUNDS = 30
# Ways asked for in one round, at 10 us each: media must not wait for them.
MAX_ASKED = 2000


class Ways:
    """The routes of this network namespace, as the kernel would choose them for packets of ours."""

    def __init__(self) -> None:
        self._netlink = Netlink()
        self._changes = Changes()
        self._interfaces: dict[int, Interface] = {}
        self._owners: dict[str, int] = {}
        self._known: dict[tuple[str, str], Hop | str] = {}
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
            self._stale = len(self._known)
        count = min(max(self._stale, len(self._known) // ROUNDS + 1), MAX_ASKED)
        self._stale = max(0, self._stale - count)
        changed = False
        for local, remote in list(islice(self._known, count)):
            before = self._known.pop((local, remote))
            changed |= self.find(local, remote) != before
        return changed

    def find(self, local: str, remote: str) -> Hop | str:
        """The way, with the MTU that holds on it, or why packets on it cannot be left to the kernel."""
        way = self._known.get((local, remote))
        if way is None:
            if len(self._known) >= MAX_WAYS:
                self._known.clear()
                self._stale = 0
            way = self._known[(local, remote)] = self._ask(local, remote)
        return way

    def interface_of(self, local: str) -> Interface | None:
        """The interface that has an address."""
        if not self._interfaces:
            try:
                self._interfaces = self._netlink.interfaces()
                self._owners = self._netlink.owners()
            except OSError:
                return None
        return self._interfaces.get(self._owners.get(canonical(local), 0))

    def _ask(self, local: str, remote: str) -> Hop | str:
        if self.interface_of(local) is None:
            return f"no interface has the address {local}"
        found = self._netlink.route(local, remote)
        if isinstance(found, str):
            return found
        out = self._interfaces.get(found.ifindex)
        if out is None or not out.up:
            return f"the interface towards {remote} is down"
        if not out.ethernet:
            return f"{out.name}, the interface towards {remote}, is not Ethernet"
        return Hop(found.ifindex, found.address, min(found.mtu or out.mtu, out.mtu))
