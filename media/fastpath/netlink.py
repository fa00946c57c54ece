"""As much netlink (rtnetlink(7)) as the fast path needs: interfaces, addresses, routes and their rules, IPsec policies,
and filters before TCX."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_TC = struct.Struct("=BxHiIII")

_ERROR = 2
_DONE = 3
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_GETRULE = 34
_NEWQDISC = 36
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46

# linux/xfrm.h
XFRM = 6
_GETPOLICY = 0x15
_GETDEFAULT = 0x28
_POLICY_ID = bytes(64)
POLICY_CHANGES = 1 << 3
"""The group that hears of policies that come and go; to join it takes CAP_NET_ADMIN."""

_REQUEST = 0x1
_ACK = 0x4
_DUMP = 0x300
_EXCL = 0x200
_CREATE = 0x400
_REPLACE = 0x100

# linux/rtnetlink.h: groups of which a change of ways is told.
_GROUPS = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
"""Links, IPv4 addresses, routes and rules, IPv6 addresses, routes and rules."""
OF_INTERFACES = 1 | 1 << 4 | 1 << 8
"""Of these: links, and the addresses of both families."""
# linux/fib_rules.h: FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE.
_RULE = struct.Struct("=8xI")
_OF_PORTS = {22, 23, 24}

_UNICAST = 1
_LOCAL = 2
_ETHERNET = 1
_UP = 0x1

# linux/pkt_sched.h
_CLSACT = 0xFFFFFFF1
_CLSACT_PARENT = 0xFFFF0000
_INGRESS_PARENT = 0xFFFFFFF2
# Ahead of what an operator usually installs, which begins at 1 and goes down from 49152.
_PRIORITY = 1
_ALL_PROTOCOLS = socket.htons(0x0003)
_DIRECT_ACTION = 1

_UDP = bytes([17])

BUFFER = 65536
DEADLINE_S = 2.0

Address = tuple[str, int]


def canonical(host: str) -> str:
    """An address as the kernel's is written, whatever way it was configured."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, host))


def owner_of(owners: Mapping[str, int], host: str) -> int:
    """The index of the interface that has an address, 0 for none. Where 127.0.0.1 is, is all of 127.0.0.0/8."""
    host = canonical(host)
    return owners.get(host) or (owners.get("127.0.0.1", 0) if host.startswith("127.") else 0)


# Named tuples: for data classes each worker would import four megabytes of the standard library.
class Interface(NamedTuple):
    """A network interface."""

    ifindex: int
    name: str
    ethernet: bool
    up: bool
    mtu: int


class Hop(NamedTuple):
    """The way to a host: out by an interface to a next hop (the host itself where it is a neighbour)."""

    ifindex: int
    address: str
    mtu: int


class Netlink:
    """A netlink socket of the namespace that it is made in. Requests are answered at once; errors are OSError."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sock.settimeout(DEADLINE_S)
        self._sock.bind((0, 0))
        self._number = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def interfaces(self) -> dict[int, Interface]:
        """All interfaces, by index."""
        found = {}
        for body in self._request(_GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)):
            _, kind, index, flags, _ = _LINK.unpack_from(body)
            attributes = attributes_of(body, _LINK.size)
            name = attributes.get(3, b"?").rstrip(b"\0").decode("utf-8", "replace")
            mtu = int.from_bytes(attributes.get(4, b""), sys.byteorder)
            found[index] = Interface(index, name, kind == _ETHERNET, bool(flags & _UP), mtu)
        return found

    def owners(self) -> dict[str, int]:
        """The index of the interface that has an address, by address as text."""
        found = {}
        for body in self._request(_GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, _, _, _, index = _ADDRESS.unpack_from(body)
            attributes = attributes_of(body, _ADDRESS.size)
            # IFA_LOCAL; on a point-to-point interface IFA_ADDRESS is the other end.
            packed = attributes.get(2, attributes.get(1))
            if packed is not None and family in (socket.AF_INET, socket.AF_INET6):
                found[socket.inet_ntop(family, packed)] = index
        return found

    def filters(self, ifindex: int, name: str) -> list[int]:
        """The handles of the BPF filters of a name at the ingress of an interface."""
        found = []
        for body in self._request(_GETTFILTER, _DUMP, self._filter(ifindex, 0)):
            handle = _TC.unpack_from(body)[3]
            attributes = attributes_of(body, _TC.size)
            options = attributes_of(attributes.get(2, b""), 0)
            if attributes.get(1) == b"bpf\0" and options.get(7) == name.encode() + b"\0":
                found.append(handle)
        return found

    def rules_of_ports(self) -> bool:
        """Whether there are routing rules (ip-rule(8)) that ask for ports or for the protocol."""
        try:
            rules = self._request(_GETRULE, _DUMP, _RULE.pack(0))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False  # A kernel without rules.
            raise
        return any(_OF_PORTS & attributes_of(rule, _RULE.size).keys() for rule in rules)

    def policies(self) -> list[bytes]:
        """All IPsec policies, as struct xfrm_userpolicy_info with its attributes; of a socket for XFRM. Takes
        CAP_NET_ADMIN."""
        return self._request(_GETPOLICY, _DUMP, _POLICY_ID)

    def default_policy(self) -> bytes:
        """What holds where no policy does: struct xfrm_userpolicy_default. Likewise."""
        (answer,) = self._request(_GETDEFAULT, 0, bytes(3))
        return answer

    def route(self, local: Address, remote: Address, tos: int = 0, ports: bool = False) -> Hop | str:
        """The way of UDP with this `tos` from an address of ours to a host, or why there is none that leaves this host.

        Its ports are told only with `ports`: for rules that ask for them, or where the hash of multipath does.
        """
        to = remote[0]
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        target, source = socket.inet_pton(family, to), socket.inet_pton(family, local[0])
        body = _ROUTE.pack(family, 8 * len(target), 8 * len(source), tos, 0, 0, 0, 0, 0)
        body += attribute(1, target) + attribute(2, source)
        if ports:
            body += attribute(27, _UDP)
            body += attribute(28, local[1].to_bytes(2, "big")) + attribute(29, remote[1].to_bytes(2, "big"))
        try:
            (answer,) = self._request(_GETROUTE, 0, body)
        except (OSError, ValueError) as error:
            return f"no route to {to} ({error})"
        kind = _ROUTE.unpack_from(answer)[7]
        if kind == _LOCAL:
            return f"{to} is this machine itself"
        if kind != _UNICAST:
            return f"no unicast route to {to}"
        attributes = attributes_of(answer, _ROUTE.size)
        if 4 not in attributes:
            return f"the route to {to} names no interface"
        gateway = to
        if 5 in attributes:
            gateway = socket.inet_ntop(family, attributes[5])
        elif 18 in attributes:
            # RTA_VIA (RFC 5549): an IPv6 gateway of an IPv4 route, with its family before it.
            via = attributes[18]
            gateway = socket.inet_ntop(int.from_bytes(via[:2], sys.byteorder), via[2:])
        metrics = attributes_of(attributes.get(8, b""), 0)
        return Hop(
            int.from_bytes(attributes[4], sys.byteorder),
            gateway,
            int.from_bytes(metrics.get(2, b""), sys.byteorder),
        )

    def add_filter(self, ifindex: int, program: int, name: str, handle: int) -> None:
        """Attach a program to the ingress of an interface by clsact. It stays until it is deleted."""
        qdisc = _TC.pack(0, 0, ifindex, _CLSACT_PARENT, _CLSACT, 0) + attribute(1, b"clsact\0")
        try:
            self._request(_NEWQDISC, _ACK | _CREATE | _EXCL, qdisc)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        options = attribute(6, struct.pack("=I", program)) + attribute(7, name.encode() + b"\0")
        options += attribute(8, struct.pack("=I", _DIRECT_ACTION))
        self._request(
            _NEWTFILTER,
            _ACK | _CREATE | _REPLACE,
            self._filter(ifindex, handle) + attribute(1, b"bpf\0") + attribute(2, options),
        )

    def delete_filter(self, ifindex: int, handle: int) -> None:
        """Take away what `add_filter` attached."""
        self._request(_DELTFILTER, _ACK, self._filter(ifindex, handle) + attribute(1, b"bpf\0"))

    @staticmethod
    def _filter(ifindex: int, handle: int) -> bytes:
        return _TC.pack(0, 0, ifindex, handle, _INGRESS_PARENT, _PRIORITY << 16 | _ALL_PROTOCOLS)

    def _request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """The bodies of the answers. Raises OSError."""
        self._number = self._number + 1 & 0xFFFFFFFF
        self._sock.send(_HEADER.pack(16 + len(body), kind, _REQUEST | flags, self._number, 0) + body)
        found: list[bytes] = []
        while True:
            for answer, number, content in _messages(self._sock.recv(BUFFER)):
                if number != self._number:
                    continue
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return found
                found.append(content)
            if found and not flags & (_DUMP | _ACK):
                return found


class Changes:
    """Tells that links, addresses, routes or their rules have changed, or what other `groups` of a netlink protocol are
    told; which, is for those who ask anew to find out. Raises OSError where one may not listen."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, groups: int = _GROUPS) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
        )
        try:
            self._sock.bind((0, groups))
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """The descriptor that becomes readable when something has changed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def happened(self) -> bool:
        """Whether anything has changed since the last time."""
        changed = False
        for _ in range(64):
            try:
                self._sock.recv(BUFFER)
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: more changes than the queue holds, so there were some.
                changed = True
                break
            changed = True
        return changed


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, sequence number, body) of each message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise OSError(errno.EBADMSG, "a netlink message of impossible length")
        yield kind, number, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def attributes_of(data: bytes, at: int) -> dict[int, bytes]:
    """Attributes by type, the last of each."""
    found = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        # The two upper bits say that it is nested, or in network byte order.
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def attribute(kind: int, content: bytes) -> bytes:
    """An attribute as it lies behind a message."""
    return _ATTRIBUTE.pack(4 + len(content), kind) + content + bytes(-len(content) % 4)
