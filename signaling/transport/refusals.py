"""What the network says of datagrams that did not arrive: ICMP errors, as Linux keeps them for a UDP socket (ip(7)).

Each comes with where the datagram went and with what the router, or the host without that port, quotes of it. Anybody
can forge one; whoever listens has to find in the quote what only those on the way can know (RFC 5927 s.4).
"""

import errno
import socket
import struct
from collections.abc import Iterator

from signaling.flow import Address

# linux/in.h, linux/in6.h: Python's socket module does not name them.
_IP_RECVERR = 11
_IPV6_RECVERR = 25
# struct sock_extended_err of linux/errqueue.h: errno, origin, type, code, padding, two words.
_ERROR = struct.Struct("=IBBBxII")
_OF_ICMP = (2, 3)
_QUOTED_BYTES = 1024
_ANCILLARY_BYTES = 512
AT_ONCE = 64
UNREACHABLE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT, errno.EACCES)
"""RFC 3261 s.18.4: port, host, network and protocol unreachable, and what a firewall prohibits."""


def ask_for_refusals(sock: socket.socket) -> None:
    """From now on the socket keeps them, and shows that it has some by failing once."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def refusals(sock: socket.socket) -> Iterator[tuple[bytes, Address]]:
    """What was refused: as much as is quoted of the datagram, and where it went. Bounded at a time."""
    for _ in range(AT_ONCE):
        try:
            data, ancillary, _, target = sock.recvmsg(_QUOTED_BYTES, _ANCILLARY_BYTES, socket.MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, value in ancillary:
            asked = (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR))
            if asked and len(value) >= _ERROR.size and target:
                number, origin, *_ = _ERROR.unpack_from(value)
                if origin in _OF_ICMP and number in UNREACHABLE:
                    yield data, (target[0], target[1])
