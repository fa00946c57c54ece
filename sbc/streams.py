"""The streams that the relay has: what it is told of the media of calls, and what it tells of their end."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from media.ports import PoolExhausted
from media.relay import Closed, Counters, End, PortPair, Relay, StreamCounters
from media.session import Change, Close, Limit, MediaSession, Open, Stream
from sbc.call_media import CallMedia, MediaLine, MediaReport
from sbc.decisions import Decision
from sbc.media_loops import MediaLoops
from sbc.media_policy import MediaPolicy
from sbc.media_ports import MediaPorts
from signaling.errors import PeerError

ADVERTISED = "networks.advertise"
"""The rule of the decision that tells a party another address than the one that we listen on."""

# Streams that a call has left behind (T.38 after audio) stay in its report, the latest of them.
MAX_PAST = 32


class Streams:
    """The streams in force, and those that the relay has yet to close: until then nobody else gets their ports.

    `loops` knows which of them lead back to us.
    """

    def __init__(self, ports: MediaPorts, relay: Relay) -> None:
        self.loops = MediaLoops(ports)
        self._ports = ports
        self._relay = relay
        self._closing: dict[int, CallMedia] = {}
        self._ending: dict[str, CallMedia] = {}

    def __len__(self) -> int:
        """Calls that are over and whose final counters are awaited."""
        return len(self._ending)

    def configure(self, policy: MediaPolicy) -> None:
        """The policy for calls to come."""
        self.loops.configure(policy)

    # -- in force ------------------------------------------------------------------------------------------

    def apply(self, media: CallMedia, after: MediaSession) -> None:
        """Put a session in force: tell the relay what changes, and who has which ports."""
        commands = media.session.changes(after)
        before, media.session = media.session, after
        exchange = media.exchange
        fresh = set() if exchange is None else exchange.fresh
        for command in commands:
            match command:
                case Open(stream):
                    fresh -= {stream.a.local, stream.b.local}
                    _note(media, stream)
                    self.loops.put(stream)
                    self._relay.open(stream.spec(media.id, media.policy.window_s))
                case Change(number, side, end, old):
                    if end.local != old.local:
                        fresh.discard(end.local)
                        retired = media.retired.setdefault(number, [])
                        if end.local in retired:
                            retired.remove(end.local)
                        retired.append(old.local)
                    self._relay.change(number, side, end)
                case Limit(number, limits):
                    self._relay.limits(number, limits.start_s, limits.silence_s)
                case Close(stream):
                    self._close(media, stream)
                case _:
                    assert_never(command)
        for changed in {command.stream for command in commands if isinstance(command, Change)}:
            self.loops.put(next(stream for stream in after if stream.id == changed))
        if exchange is not None and any(isinstance(command, Close) for command in commands):
            gone = {stream.id for stream in before} - {stream.id for stream in after}
            exchange.plans = [None if plan is None or plan.id in gone else plan for plan in exchange.plans]

    def _close(self, media: CallMedia, stream: Stream) -> None:
        if len(media.past) >= MAX_PAST:
            oldest = next(iter(media.past))
            del media.past[oldest]
            media.final.pop(oldest, None)
        media.past[stream.id] = media.line(stream)
        media.closing[stream.id] = [stream.a.local, stream.b.local, *media.retired.pop(stream.id, ())]
        self._closing[stream.id] = media
        self.loops.remove(stream.id)
        self._relay.close(stream.id)

    def reopen(self, media: CallMedia) -> None:
        """The streams of a call that was taken over go on at the same ports, with the sources that they had."""
        for stream in media.session:
            self._ports.claim(stream.a.local)
            self._ports.claim(stream.b.local)
            self.loops.put(stream)
            self._relay.open(stream.learned().spec(media.id, media.policy.window_s))

    def listen_anew(self, media: CallMedia) -> None:
        """Count silence from now on."""
        for stream in media.session:
            self._relay.limits(stream.id, stream.limits.start_s, stream.limits.silence_s)

    def refuse_loops(self, media: CallMedia, streams: list[Stream | None]) -> None:
        """Refuse media that would go round between our own ports (sbc/media_loops.py). What only comes back is
        vouched for: the other call that it belongs to has its own peers, and its own doubts about them."""
        loops = self.loops
        spirals = {
            place: stream
            for place, stream in enumerate(streams)
            if stream is not None and loops.lead_here(stream)
        }
        if not spirals:
            return
        fresh = [stream for stream in streams if stream is not None]
        for stream in fresh:
            loops.put(stream)
        why = next(filter(None, map(loops.objection, fresh)), None)
        for stream in fresh:
            loops.remove(stream.id)
        for stream in media.session:
            loops.put(stream)
        if why is not None:
            raise PeerError(482, f"Media loop: {why}", "media-loop")
        for place, stream in spirals.items():
            streams[place] = replace(stream, a=self._vouched(stream.a), b=self._vouched(stream.b))

    def _vouched(self, end: End) -> End:
        """The end of a stream; where it leads to a port of ours, its host is not doubted."""
        if end.remote is None or end.proven is None or self.loops.ours(end.remote) is None:
            return end
        return replace(end, proven=(*end.proven, end.remote[0]))

    # -- the end -------------------------------------------------------------------------------------------

    def end(self, media: CallMedia) -> bool:
        """A call is over. Returns whether its final counters are awaited."""
        self.apply(media, MediaSession())
        if not media.closing:
            return False
        self._ending[media.id] = media
        return True

    def closed(self, event: Closed) -> Sequence[str]:
        """The relay has closed a stream. Returns the call that is over and whose counters are complete by it."""
        media = self._closing.pop(event.stream, None)
        if media is None:
            return ()
        if event.stream in media.past:
            media.final[event.stream] = event.counters
        self._ports.free(media.closing.pop(event.stream))
        return (media.id,) if not media.closing and media.id in self._ending else ()

    def reap(self, call: str, now: float) -> bool:
        """Wait no longer for the relay to close the streams of a call; returns whether any was awaited."""
        media = self._ending.get(call)
        if media is None or not media.closing:
            return False
        for stream, pairs in media.closing.items():
            self._closing.pop(stream, None)
            self._ports.free(pairs, now)
        media.closing.clear()
        return True

    def take_report(self, call: str) -> MediaReport:
        """The last report of a call that is over, streams included that it had left before; given once."""
        media = self._ending.get(call)
        if media is None:
            return MediaReport(())
        if not media.closing:
            del self._ending[call]
        lines = tuple(media.past.values())
        return MediaReport(
            lines, tuple(media.final.get(line.stream) or _unheard(media, line) for line in lines)
        )

    def take_ports(self, pool: str) -> PortPair:
        """A pair for a stream to come. Raises PoolExhausted."""
        try:
            return self._ports.take(pool)
        except PoolExhausted:
            # A call that has just ended may hold ports until its worker says so. The stream that gets them opens
            # an answer later, a round trip from now: by then they are closed.
            for stream, media in self._closing.items():
                pairs = media.closing[stream]
                for pair in pairs:
                    if pair.network == pool:
                        pairs.remove(pair)
                        self._ports.free((pair,))
                        return self._ports.take(pool)
            raise


def _note(media: CallMedia, stream: Stream) -> None:
    """A stream opens: what the record is told of it."""
    line = media.line(stream)
    compared = (("a", line.a_signalled), ("b", line.b_signalled), ("codec", line.codec))
    outcome = f"{line.media} relayed, {line.a_local} towards a, {line.b_local} towards b"
    media.decisions.append(Decision("media", "RFC 3264 s.6", compared, outcome))
    for pair, told in ((stream.a.local, line.a_local), (stream.b.local, line.b_local)):
        if media.policy.advertised(pair) != pair.host:
            where = (("told", told), ("bound", pair.host))
            media.decisions.append(Decision("nat", ADVERTISED, where, "another address is advertised"))


def _unheard(media: CallMedia, line: MediaLine) -> StreamCounters:
    """The counters of a stream that the relay did not tell of."""
    return StreamCounters(line.stream, media.id, Counters(), Counters())
