"""Streams that lead to our own ports: spirals are let through, loops are not.

A registrar that anchors no media sends an INVITE back to us with our own SDP in it, and the media of that call goes
through us twice (a spiral, RFC 3261 s.6). The same can be crafted so that packets go round for ever: RTP has no hop
count. So the way of a packet is followed through the streams before one comes into force. Every loop has a last
stream that closes it, and that one is refused; so are chains without end, and ports of ours that nobody has.
"""

from media.relay import Address, End, Side
from media.session import Stream
from sbc.media_policy import MediaPolicy
from sbc.media_ports import MediaPorts

# A call passes us once more for each proxy that turns it back; beyond that, somebody has ordered work for each packet.
MAX_HOPS = 8

Port = tuple[str, int]
"""The pool of a pair, and its even port."""
Place = tuple[int, Side]
"""A stream, and the end where packets come in."""


class MediaLoops:
    """The streams in force by their ports, and which of our ports they lead to."""

    def __init__(self, ports: MediaPorts) -> None:
        self._ports = ports
        self._pools: dict[str, list[str]] = {}
        self._here: dict[int, tuple[Port, Port]] = {}
        self._places: dict[Port, Place] = {}
        # "What comes in here goes on to that port of ours" and its reverse. Nearly always empty.
        self._onward: dict[Place, tuple[Port, ...]] = {}
        self._before: dict[Port, set[Place]] = {}

    def __len__(self) -> int:
        return len(self._here) + len(self._places) + len(self._onward) + len(self._before)

    def configure(self, policy: MediaPolicy) -> None:
        """Our addresses, as bound and as advertised."""
        self._pools = {}
        for addresses in policy.addresses.values():
            for address in addresses:
                span = self._ports.span(address.pool)
                for host in {address.advertised, *(() if span is None else (span[0],))}:
                    self._pools.setdefault(host, []).append(address.pool)

    def ours(self, address: Address | None) -> Port | None:
        """Our port that an address in SDP means; None when it is somebody else's."""
        if address is None:
            return None
        host, number = address
        for pool in self._pools.get(host, ()):
            span = self._ports.span(pool)
            if span is not None and span[1] <= number <= span[2]:
                # Pairs begin even (RFC 3550 s.11): RTCP goes the same way as RTP.
                return pool, number & ~1
        return None

    def lead_here(self, stream: Stream) -> bool:
        """Whether a stream sends to ports of ours."""
        return any(self._targets(end) for end in (stream.a, stream.b))

    def objection(self, stream: Stream) -> str | None:
        """Why a stream that is in force here should not be."""
        sides: tuple[Side, Side] = ("a", "b")
        for side in sides:
            start = (stream.id, side)
            for port in self._onward.get(start, ()):
                if port not in self._places and not self._ports.holds(*port):
                    return "it leads to a media port of ours that nobody has"
            hops, edge, seen = 0, {start}, {start}
            while edge := {place for each in edge for place in self._after(each)}:
                if start in edge:
                    return "its packets would come back for ever"
                edge -= seen
                seen |= edge
                hops += bool(edge)
            edge = {start}
            while edge := {place for each in edge for place in self._leading_to(each)} - seen:
                seen |= edge
                hops += 1
            if hops > MAX_HOPS:
                return f"its packets would pass us more than {MAX_HOPS} times"
        return None

    def put(self, stream: Stream) -> None:
        """A stream comes into force, or changes."""
        self.remove(stream.id)
        port_a, port_b = _port(stream.a), _port(stream.b)
        self._here[stream.id] = port_a, port_b
        self._places[port_a] = stream.id, "a"
        self._places[port_b] = stream.id, "b"
        self._lead((stream.id, "a"), stream.b)
        self._lead((stream.id, "b"), stream.a)

    def remove(self, stream: int) -> None:
        """A stream is gone."""
        for port in self._here.pop(stream, ()):
            self._places.pop(port, None)
        sides: tuple[Side, Side] = ("a", "b")
        for side in sides:
            for port in self._onward.pop((stream, side), ()):
                before = self._before[port]
                before.discard((stream, side))
                if not before:
                    del self._before[port]

    def _lead(self, place: Place, out: End) -> None:
        targets = self._targets(out)
        if targets:
            self._onward[place] = targets
            for port in targets:
                self._before.setdefault(port, set()).add(place)

    def _targets(self, end: End) -> tuple[Port, ...]:
        found = (self.ours(end.remote), self.ours(end.remote_rtcp))
        return tuple(dict.fromkeys(port for port in found if port is not None))

    def _after(self, place: Place) -> list[Place]:
        return [self._places[port] for port in self._onward.get(place, ()) if port in self._places]

    def _leading_to(self, place: Place) -> set[Place]:
        here = self._here.get(place[0])
        return set() if here is None else self._before.get(here[place[1] == "b"], set())


def _port(end: End) -> Port:
    return end.local.network, end.local.rtp
