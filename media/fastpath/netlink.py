"""As much rtnetlink (rtnetlink(7)) as the fast path needs: interfaces, addresses, routes, and filters before TCX."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
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
_NEWQDISC = 36
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46

# linux/xfrm.h
XFRM = 6
_GETSPDINFO = 0x25

_REQUEST = 0x1
_ACK = 0x4
_DUMP = 0x300
_EXCL = 0x200
_CREATE = 0x400
_REPLACE = 0x100

# linux/rtnetlink.h: groups of which a change of ways is told.
_GROUPS = 1 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10
"""Links, IPv4 addresses, IPv4 routes, IPv6 addresses, IPv6 routes."""

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

BUFFER = 65536
DEADLINE_S = 2.0


def canonical(host: str) -> str:
    """An address as the kernel's is written, whatever way it was configured."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, host))


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
            attributes = _attributes(body, _LINK.size)
            name = attributes.get(3, b"?").rstrip(b"\0").decode("utf-8", "replace")
            mtu = int.from_bytes(attributes.get(4, b""), sys.byteorder)
            found[index] = Interface(index, name, kind == _ETHERNET, bool(flags & _UP), mtu)
        return found

    def owners(self) -> dict[str, int]:
        """The index of the interface that has an address, by address as text."""
        found = {}
        for body in self._request(_GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, _, _, _, index = _ADDRESS.unpack_from(body)
            attributes = _attributes(body, _ADDRESS.size)
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
            attributes = _attributes(body, _TC.size)
            options = _attributes(attributes.get(2, b""), 0)
            if attributes.get(1) == b"bpf\0" and options.get(7) == name.encode() + b"\0":
                found.append(handle)
        return found

    def policies(self) -> int:
        """How many IPsec policies there are; of a socket for XFRM. Takes CAP_NET_ADMIN."""
        (answer,) = self._request(_GETSPDINFO, 0, bytes(4))
        # struct xfrmu_spdinfo: in, out, forwarded; those of sockets follow and are for those sockets alone.
        return sum(struct.unpack_from("=III", _attributes(answer, 4)[1]))

    def route(self, local: str, remote: str) -> Hop | str:
        """The way from an address of ours to a host, or why there is none that leaves this machine."""
        family = socket.AF_INET6 if ":" in remote else socket.AF_INET
        target, source = socket.inet_pton(family, remote), socket.inet_pton(family, local)
        body = _ROUTE.pack(family, 8 * len(target), 8 * len(source), 0, 0, 0, 0, 0, 0)
        body += _attribute(1, target) + _attribute(2, source)
        try:
            (answer,) = self._request(_GETROUTE, 0, body)
        except (OSError, ValueError) as error:
            return f"no route to {remote} ({error})"
        kind = _ROUTE.unpack_from(answer)[7]
        if kind == _LOCAL:
            return f"{remote} is this machine itself"
        if kind != _UNICAST:
            return f"no unicast route to {remote}"
        attributes = _attributes(answer, _ROUTE.size)
        if 4 not in attributes:
            return f"the route to {remote} names no interface"
        gateway = remote
        if 5 in attributes:
            gateway = socket.inet_ntop(family, attributes[5])
        elif 18 in attributes:
            # RTA_VIA (RFC 5549): an IPv6 gateway of an IPv4 route, with its family before it.
            via = attributes[18]
            gateway = socket.inet_ntop(int.from_bytes(via[:2], sys.byteorder), via[2:])
        metrics = _attributes(attributes.get(8, b""), 0)
        return Hop(
            int.from_bytes(attributes[4], sys.byteorder),
            gateway,
            int.from_bytes(metrics.get(2, b""), sys.byteorder),
        )

    def add_filter(self, ifindex: int, program: int, name: str, handle: int) -> None:
        """Attach a program to the ingress of an interface by clsact. It stays until it is deleted."""
        qdisc = _TC.pack(0, 0, ifindex, _CLSACT_PARENT, _CLSACT, 0) + _attribute(1, b"clsact\0")
        try:
            self._request(_NEWQDISC, _ACK | _CREATE | _EXCL, qdisc)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        options = _attribute(6, struct.pack("=I", program)) + _attribute(7, name.encode() + b"\0")
        options += _attribute(8, struct.pack("=I", _DIRECT_ACTION))
        self._request(
            _NEWTFILTER,
            _ACK | _CREATE | _REPLACE,
            self._filter(ifindex, handle) + _attribute(1, b"bpf\0") + _attribute(2, options),
        )

    def delete_filter(self, ifindex: int, handle: int) -> None:
        """Take away what `add_filter` attached."""
        self._request(_DELTFILTER, _ACK, self._filter(ifindex, handle) + _attribute(1, b"bpf\0"))

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
    """Tells that links, addresses or routes have changed; which, is for those who ask anew to find out."""

    def __init__(self) -> None:
        self._sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        self._sock.bind((0, _GROUPS))

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


def _attributes(data: bytes, at: int) -> dict[int, bytes]:
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


def _attribute(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(content), kind) + content + bytes(-len(content) % 4)
