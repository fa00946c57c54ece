"""All SIP listeners of a node: opened together, changed together while they run, one way to send.

A listener is known by its transport and bound address. One that a change leaves out is retired: it takes no new
connections, but what was begun there goes on there, until `release` is told that nothing of it is left.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from signaling.flow import Address, Flow, Listener, host_port
from signaling.transport.limits import TransportCounters, TransportLimits
from signaling.transport.stream import ConnectionBook, StreamListener
from signaling.transport.udp import Glance, Refused, UdpListener

Receive = Callable[[bytes, Flow, float], None]
Failed = Callable[[Flow], None]
Face = UdpListener | StreamListener
Key = tuple[str, Address]
"""Transport and bound address of a listener."""

_CAUSES = {
    errno.EADDRINUSE: "the address is in use by another program",
    errno.EADDRNOTAVAIL: "the address is not on this host",
    errno.EACCES: "not permitted, ports below 1024 need CAP_NET_BIND_SERVICE",
    errno.EAFNOSUPPORT: "this host does not do that address family",
}


@dataclass(frozen=True, slots=True)
class Unbound:
    """A listener that cannot be opened, and why: the errno, and what it means."""

    listener: Listener
    number: int
    cause: str

    def __str__(self) -> str:
        listener = self.listener
        return f"{listener.transport}:{host_port(listener.local)} of network {listener.network}: {self.cause}"


class ListenError(Exception):
    """Listeners that cannot be opened: one sentence that names each with its cause."""

    def __init__(self, problems: Iterable[Unbound]) -> None:
        self.problems = tuple(problems)
        super().__init__("cannot listen on " + "; ".join(map(str, self.problems)))


@dataclass(slots=True)
class Staged:
    """Listeners that are bound and do not serve yet: each with what it will be, and whether it was bound for this."""

    faces: list[tuple[Listener, Face, bool]]

    def abandon(self) -> None:
        """Let go of what was bound for it; those that served before go on."""
        for _, face, fresh in self.faces:
            if fresh and isinstance(face, StreamListener):
                face.stop_listening()
            elif fresh:
                face.close()
        self.faces = []


class Wires:
    """Every UDP and TCP port of the node.

    `receive(data, flow, age_s)` gets each message with the time it has waited at most, in seconds; `failed(flow)`
    tells that what was sent on a flow did not arrive. Both are called from the loop's callbacks only. `glance` has a
    look at datagrams before, `refused(quoted, flow)` hears of ICMP errors to them.
    """

    def __init__(
        self,
        listeners: Iterable[Listener],
        receive: Receive,
        failed: Failed,
        limits: TransportLimits,
        glance: Glance | None = None,
        refused: Refused | None = None,
    ) -> None:
        self.listeners = tuple(listeners)
        self.counters = TransportCounters()
        self._receive = receive
        self._failed = failed
        self._glance = glance
        self._refused = refused
        self._book = ConnectionBook(limits, self.counters)
        self._faces: dict[Key, Face] = {}
        self._retired: set[Key] = set()

    # -- opening and changing ------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind all listeners, or none: ListenError names every one that failed. Needs a running loop."""
        self.change(self.stage(self.listeners), self._book.limits)

    def stage(self, listeners: Iterable[Listener]) -> Staged:
        """Bind what is new in `listeners`, or nothing: ListenError names every one that failed.

        A listener whose transport and address are open already keeps its socket.
        """
        staged = Staged([])
        problems: list[Unbound] = []
        for listener in listeners:
            key = (listener.transport, listener.local)
            known = self._faces.get(key)
            face = self._new(listener) if known is None else known
            # A retired stream listener has let go of its port; it must be had again.
            fresh = known is None or (key in self._retired and isinstance(face, StreamListener))
            if fresh:
                try:
                    face.bind()
                except OSError as error:
                    problems.append(Unbound(listener, error.errno or 0, cause_of(error)))
                    continue
            staged.faces.append((listener, face, fresh))
        if problems:
            staged.abandon()
            raise ListenError(problems)
        return staged

    def change(self, staged: Staged, limits: TransportLimits) -> None:
        """Serve by what was staged from now on; listeners that are not in it are retired."""
        self._book.limits = limits
        before, self._faces, self._retired = self._faces, {}, set()
        for listener, face, _ in staged.faces:
            if isinstance(face, UdpListener):
                face.serve(listener, limits)
            else:
                face.serve(listener)
            self._faces[listener.transport, face.local] = face
        for key, face in before.items():
            if key not in self._faces:
                if isinstance(face, StreamListener):
                    face.stop_listening()
                self._faces[key] = face
                self._retired.add(key)
        self.listeners = tuple(listener for listener, _, _ in staged.faces)
        staged.faces = []

    def release(self, flows: Iterable[Flow]) -> list[Listener]:
        """Close what retired listeners have that none of `flows` uses, and tell which of them are closed by it."""
        remotes: dict[Key, set[Address]] = {key: set() for key in self._retired}
        for flow in flows:
            used = remotes.get((flow.transport, flow.local))
            if used is not None:
                used.add(flow.remote)
        closed: list[Listener] = []
        for key, used in remotes.items():
            face = self._faces[key]
            if (isinstance(face, UdpListener) or face.release(used)) and not used:
                face.close()
                del self._faces[key]
                self._retired.discard(key)
                closed.append(_bound(face))
        return closed

    def _new(self, listener: Listener) -> Face:
        loop = asyncio.get_running_loop()
        if listener.transport == "udp":
            limits, counters = self._book.limits, self.counters
            return UdpListener(
                listener, self._receive, self._failed, limits, counters, loop, self._glance, self._refused
            )
        return StreamListener(listener, self._receive, self._failed, self._book, loop)

    # -- what there is -------------------------------------------------------------------------------------

    @property
    def bound(self) -> tuple[Listener, ...]:
        """The open listeners with the ports they really have (a configured port 0 is the system's choice)."""
        return tuple(_bound(face) for key, face in self._faces.items() if key not in self._retired)

    @property
    def retired(self) -> tuple[Listener, ...]:
        """Those that are not of the configuration any more, and still in use."""
        return tuple(_bound(face) for key, face in self._faces.items() if key in self._retired)

    @property
    def connections(self) -> int:
        """Stream connections, open or being opened."""
        return self._book.accepted + self._book.opened

    def send(self, data: bytes, flow: Flow) -> None:
        """Send one message. A flow of a listener that is not open (any more) fails.

        The network does not matter: its listener may have another name since the flow was made.
        """
        face = self._faces.get((flow.transport, flow.local))
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
        self._retired.clear()


def cause_of(error: OSError) -> str:
    """What an error of bind means for whoever wrote the configuration."""
    number = error.errno or 0
    name = errno.errorcode.get(number)
    cause = _CAUSES.get(number) or os.strerror(number)
    return cause if name is None else f"{cause} ({name})"


def _bound(face: Face) -> Listener:
    listener = face.listener
    return Listener(listener.network, listener.transport, face.local, listener.advertised)
