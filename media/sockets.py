"""The sockets of a relay worker: a port for every end that wants one, and a direct one to each source that is known."""

import errno
import select
import socket
import time
from collections.abc import Callable

from media.source import Sockaddr
from media.stream import DIRECT_PORT, RTCP_PORT, RTP_PORT, Event, Port, RelayEnd, RelayStream

# A second and a half of G.711, or 60 ms of 4 Mbit/s video, in kernel terms (the kernel doubles the number and
# counts its own overhead). A fuller buffer would only deliver audio that is too late to be heard.
RTP_BUFFER = 131072

# The pool may hand a port out again before the worker that had it has closed it: another worker then retries.
BIND_ATTEMPTS = 25
BIND_RETRY_S = 0.02


class Sockets:
    """Every socket that packets come to, and the epoll set that says which have some.

    `emit` is told ("unbound", stream, reason) of ports that cannot be had. Direct ports are a luxury: they leave the
    last third of `max_files` descriptors to streams that need them to open at all.
    """

    def __init__(self, emit: Callable[[Event], None], dscp: int, max_files: int) -> None:
        self._emit = emit
        self._dscp = dscp
        self._max_luxury = max_files * 2 // 3
        self.epoll = select.epoll()
        self.ports: dict[int, Port] = {}
        """By descriptor."""
        # Ends whose source or port has changed, so that their direct port must.
        self._unsettled: list[RelayEnd] = []
        # (stream, side): (end, when to try again, attempts left)
        self._unbound: dict[tuple[int, str], tuple[RelayEnd, float, int]] = {}

    @property
    def unsettled(self) -> bool:
        """Whether `settle` has something to do."""
        return bool(self._unsettled)

    @property
    def unbound(self) -> bool:
        """Whether `bind_again` has something to do in a moment."""
        return bool(self._unbound)

    def bind(self, end: RelayEnd, attempts: int = BIND_ATTEMPTS) -> None:
        """Make the ports of `end` those it should have; what is busy is tried again for half a second."""
        host, rtp_number, rtcp_number = end.local
        if end.mux or end.udptl:
            rtcp_number = 0
        key = (end.stream.id, end.side)
        self._unbound.pop(key, None)
        try:
            end.rtp_port = self._replace(end, end.rtp_port, host, rtp_number, RTP_PORT)
            self.unsettle(end)
            end.rtcp_port = self._replace(end, end.rtcp_port, host, rtcp_number, RTCP_PORT)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and attempts > 1:
                self._unbound[key] = (end, time.monotonic() + BIND_RETRY_S, attempts - 1)
            else:
                reason = f"{host}:{rtp_number}/{rtcp_number}: {error.strerror or error}"
                self._emit(("unbound", end.stream.id, reason))

    def bind_again(self, now: float) -> None:
        """Try those again whose time has come."""
        for end, at, attempts in list(self._unbound.values()):
            if at <= now:
                self.bind(end, attempts)

    def unsettle(self, end: RelayEnd) -> None:
        """The source or the port of `end` is another now."""
        end.aim()
        self._unsettled.append(end)

    def settle(self, drain: Callable[[RelayEnd], None]) -> list[RelayStream]:
        """Give the ends whose source has changed the direct port that goes with it; their streams, if still open.

        `drain` is to deal with the packets that wait at an end.
        """
        unsettled, self._unsettled = self._unsettled, []
        for end in unsettled:
            port, direct = end.rtp_port, end.direct
            source = end.gate.source
            if direct is not None and (source != direct.remote or port is None or port.local != direct.local):
                end.dropped += direct.dropped()
                self._close(direct)
                end.direct = None
            affordable = len(self.ports) < self._max_luxury
            if end.direct is None and source is not None and port is not None and affordable:
                end.direct = self._connect(end, port, source)
                if end.direct is not None:
                    # Until it was connected it may have been given anybody's packets, and what came before is still
                    # in the queue of the unconnected one: judge both by their source, in order, before any other.
                    end.direct.remote = None
                    drain(end)
                    end.direct.remote = source
            end.aim()
        return list(dict.fromkeys(end.stream for end in unsettled if end.rtp_port is not None))

    def close(self, end: RelayEnd) -> None:
        """Close the ports of an end that is not wanted any more."""
        self._unbound.pop((end.stream.id, end.side), None)
        for port in (end.rtp_port, end.rtcp_port, end.direct):
            if port is not None:
                self._close(port)
        end.rtp_port = end.rtcp_port = end.direct = None
        end.aim()

    def close_all(self) -> None:
        """Close every socket."""
        for port in list(self.ports.values()):
            self._close(port)
        self.epoll.close()

    def _replace(self, end: RelayEnd, old: Port | None, host: str, number: int, kind: int) -> Port | None:
        """The port that `end` should have instead of `old`; number 0 means none."""
        if old is not None and old.local == (host, number):
            return old
        fresh = self._open(end, host, number, kind) if number else None
        if old is not None:
            end.dropped += old.dropped()
            self._close(old)
        return fresh

    def _open(self, end: RelayEnd, host: str, number: int, kind: int) -> Port:
        sock = self._socket(end.family)
        try:
            if kind == RTP_PORT:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_BUFFER)
            sock.bind((host, number))
        except OSError:
            sock.close()
            raise
        return self._add(Port(end, sock, (host, number), kind))

    def _connect(self, end: RelayEnd, port: Port, source: Sockaddr) -> Port | None:
        sock = self._socket(end.family)
        try:
            # For this moment only: two sockets may share a port if both say so, and we share with nobody else.
            port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RTP_BUFFER)
            sock.bind(port.local)
            sock.connect(source)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError:
            # No descriptor left, or no route any more: the unconnected socket does everything, slower.
            sock.close()
            return None
        finally:
            port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        return self._add(Port(end, sock, port.local, DIRECT_PORT))

    def _socket(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, self._dscp << 2)
        elif self._dscp:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self._dscp << 2)
        return sock

    def _add(self, port: Port) -> Port:
        self.ports[port.sock.fileno()] = port
        self.epoll.register(port.sock.fileno(), select.EPOLLIN)
        return port

    def _close(self, port: Port) -> None:
        # Closing the last descriptor of a socket also takes it out of the epoll set.
        del self.ports[port.sock.fileno()]
        port.sock.close()
