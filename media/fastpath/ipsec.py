"""IPsec policies of this host (ip-xfrm(8)): what they hold for must not be left to the kernel program.

Packets that it forwards meet no policy: they would leave in clear, and one would be taken in clear that has to come
encrypted. Only the process that loads the program may ask for policies (CAP_NET_ADMIN); the workers are told.

Of several policies for a packet the one with the lowest priority decides, as in the kernel: one that asks nothing may
exempt from one that does. Of two with the same priority the one that asks something does, and one that may not hold for
every packet, or that goes without a word, exempts from nothing.
"""

import socket
import struct
from collections.abc import Iterable

from media.fastpath.netlink import POLICY_CHANGES, XFRM, Address, Changes, Netlink, attributes_of

MAX_POLICIES = 256
"""With more of them every stream stays in user space: each would be compared with each."""

# linux/xfrm.h: struct xfrm_userpolicy_info. Its selector: daddr, saddr, dport and its mask, sport and its mask, family,
# prefix lengths of destination and source, protocol, interface. Then after how many seconds it ends, since it was made
# and since it was used; priority, direction and action.
_INFO = struct.Struct("=16s16s2s2s2s2sHBBB3xI4x40xQ8xQ32xI4xBB6x")
IN, OUT = 0, 1
_BLOCK = 1
_TEMPLATE = 5
# Security context, kind of policy, mark, interface id: for packets that have the like, or besides the policies of the
# main kind.
_SPECIAL = {8, 21, 31}
_KIND = 16
_UDP = 17

Policy = tuple[int, bool, int, bytes, int, bytes, int, int, int, int, int, int]
"""Direction, whether it asks something of its packets, and which they are: family (0: any), source and its prefix
length, target and its prefix length, protocol (0: any), source port and its mask, target port and its mask."""


class Policies:
    """The policies of this network namespace, and whether they change. Raises OSError without the right to ask.

    `found` is None when there are too many of them, or when all that no policy holds for is blocked.
    """

    def __init__(self) -> None:
        self._netlink = Netlink(XFRM)
        self._changes: Changes | None = None
        try:
            self._changes = Changes(XFRM, POLICY_CHANGES)
            self.found = self._ask()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when policies may have changed."""
        assert self._changes is not None
        return self._changes.fileno()

    def changed(self) -> bool:
        """Whether `found` is another than before."""
        assert self._changes is not None
        self._changes.happened()
        before = self.found
        try:
            self.found = self._ask()
        except OSError:
            self.found = None
        return self.found != before

    def close(self) -> None:
        """Close both sockets."""
        self._netlink.close()
        if self._changes is not None:
            self._changes.close()

    def _ask(self) -> tuple[Policy, ...] | None:
        try:
            if _BLOCK in self._netlink.default_policy()[:3]:
                return None
        except OSError:
            pass  # Before Linux 5.14 nothing is blocked by default.
        found = policies(self._netlink.policies())
        return found if len(found) <= MAX_POLICIES else None


def policies(messages: Iterable[bytes]) -> tuple[Policy, ...]:
    """Those of struct xfrm_userpolicy_info with attributes that count, the one that decides first."""
    found: dict[Policy, int] = {}
    for message in messages:
        info = _INFO.unpack_from(message)
        target, source, dport, dport_mask, sport, sport_mask, family, bits, from_bits, protocol = info[:10]
        interface, made_s, used_s, priority, direction, action = info[10:]
        attributes = attributes_of(message, _INFO.size)
        asks = action == _BLOCK or bool(attributes.get(_TEMPLATE))
        special = interface or _SPECIAL & attributes.keys() or any(attributes.get(_KIND, b"")[:1])
        if direction not in (IN, OUT) or (not asks and (special or made_s or used_s)):
            continue
        size = 16 if family == socket.AF_INET6 else 4
        selector = family, source[:size], from_bits, target[:size], bits, protocol
        ports = (int.from_bytes(each, "big") for each in (sport, sport_mask, dport, dport_mask))
        policy = direction, asks, *selector, *ports
        found[policy] = min(priority, found.get(policy, priority))
    in_order = sorted(found, key=lambda policy: (found[policy], not policy[1]))
    # Behind the last that asks for something nothing is exempted from.
    while in_order and not in_order[-1][1]:
        in_order.pop()
    return tuple(in_order)


def holds(found: Iterable[Policy], direction: int, source: Address, target: Address) -> bool:
    """Whether something is asked of UDP from `source` to `target` that comes in or goes out."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    packed = socket.inet_pton(family, source[0]), socket.inet_pton(family, target[0])
    for (
        way,
        asks,
        version,
        sources,
        from_bits,
        targets,
        bits,
        protocol,
        sport,
        sport_mask,
        dport,
        dport_mask,
    ) in found:
        if (
            way == direction
            and version in (0, family)
            and protocol in (0, _UDP)
            and (source[1] ^ sport) & sport_mask == 0
            and (target[1] ^ dport) & dport_mask == 0
            and _within(packed[0], sources, from_bits)
            and _within(packed[1], targets, bits)
        ):
            return asks
    return False


def _within(host: bytes, prefix: bytes, bits: int) -> bool:
    shift = 8 * len(host) - bits
    return (
        bits == 0
        or int.from_bytes(host, "big") >> shift == int.from_bytes(prefix[: len(host)], "big") >> shift
    )
