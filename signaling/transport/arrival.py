"""When the kernel took in what a socket has for us (SO_TIMESTAMPNS, Linux)."""

import socket
import struct
import time

SO_TIMESTAMPNS = 35  # Python's socket module does not name it
_TIMESPEC = struct.Struct("qq")
ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
"""Room for the stamp, for `recvmsg`."""


def stamp_arrivals(sock: socket.socket) -> None:
    """Have what comes by `sock` stamped."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def waited_s(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Seconds since the kernel took in the datagram, or the last byte of a piece of a stream."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            stamp: float = seconds + nanoseconds / 1e9
            return max(0.0, time.time() - stamp)
    return 0.0
