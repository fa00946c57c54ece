"""All SIP listeners of a node: opened together, one way to send."""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable

from signaling.flow import Address, Flow, Listener, host_port
from signaling.transport.limits import TransportCounters, TransportLimits
from signaling.transport.listener import choose_listener
from signaling.transport.stream import ConnectionBook, StreamListener
from signaling.transport.udp import UdpListener

Receive = Callable[[bytes, Flow, float], None]
Failed = Callable[[Flow], None]

_CAUSES = {
    errno.EADDRINUSE: "the address is in use by another program",
    errno.EADDRNOTAVAIL: "the address is not on this host",
    errno.EACCES: "not permitted, ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EAFNOSUPPORT: "this host does not do that address family",
}


class ListenError(Exception):
    """Listeners that cannot be opened: one sentence that names each with its cause."""


class Wires:
    """Every UDP and TCP port of the node.

    `receive(data, flow, age_s)` gets each message with the time it has waited at most, in seconds; `failed(flow)`
    tells that what was sent on a flow did not arrive. Both are called from the loop's callbacks only.
    """

    def __init__(
        self, listeners: Iterable[Listener], receive: Receive, failed: Failed, limits: TransportLimits
    ) -> None:
        self.listeners = tuple(listeners)
        self.counters = TransportCounters()
        self._receive = receive
        self._failed = failed
        self._limits = limits
        self._book = ConnectionBook(limits, self.counters)
        self._faces: dict[tuple[str, str, Address], UdpListener | StreamListener] = {}

    def open(self) -> None:
        """Bind all listeners, or none: ListenError names every one that failed. Needs a running loop."""
        loop = asyncio.get_running_loop()
        problems: list[str] = []
        for listener in self.listeners:
            face: UdpListener | StreamListener
            if listener.transport == "udp":
                face = UdpListener(listener, self._receive, self._failed, self._limits, self.counters, loop)
            else:
                face = StreamListener(listener, self._receive, self._failed, self._book, loop)
            try:
                face.open()
            except OSError as error:
                cause = _CAUSES.get(error.errno or 0) or os.strerror(error.errno or 0)
                problems.append(
                    f"{listener.transport}:{host_port(listener.local)} of network {listener.network}: {cause}"
                )
            else:
                self._faces[listener.network, listener.transport, face.local] = face
        if problems:
            self.close()
            raise ListenError("cannot listen on " + "; ".join(problems))

    @property
    def bound(self) -> tuple[Listener, ...]:
        """The open listeners with the ports they really have (a configured port 0 is the system's choice)."""
        return tuple(
            Listener(face.listener.network, face.listener.transport, face.local, face.listener.advertised)
            for face in self._faces.values()
        )

    @property
    def connections(self) -> int:
        """Stream connections, open or being opened."""
        return self._book.accepted + self._book.opened

    def flow_to(self, network: str, transport: str, remote: Address) -> Flow | None:
        """A flow to `remote` from the first fitting listener, None when there is none."""
        chosen = choose_listener(self.bound, network, transport, remote)
        return None if chosen is None else Flow(network, transport, chosen.local, remote)

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message. A flow of a listener that is not open (any more) fails."""
        face = self._faces.get((flow.network, flow.transport, flow.local))
        if face is None:
            self.counters.send_failed += 1
            if self._faces:
                asyncio.get_running_loop().call_soon(self._failed, flow)
            return
        face.send(data, flow)

    def close(self) -> None:
        """Close every socket; nothing stays behind. Safe to call twice."""
        for face in self._faces.values():
            face.close()
        self._faces.clear()
