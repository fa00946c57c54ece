"""The streams of one call as values: what is open, what must change, and how it is written down."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from config.frozen import frozen
from media.relay import Address, End, Learn, PortPair, Side, Srtp, StreamSpec

Kind = Literal["rtp", "udptl"]


@frozen
class Limits:
    """Silence limits of a stream in seconds, 0 for none (see `StreamSpec`)."""

    start_s: float = 0.0
    silence_s: float = 0.0


@frozen
class Stream:
    """One stream: two ends and its limits. `media` ("audio") and `codec` are for people.

    `signalled` is what the parties of end a and end b said of themselves; `sources` are the sources that the relay
    has locked for them, as far as it told.
    """

    id: int
    kind: Kind
    media: str
    codec: str
    a: End
    b: End
    limits: Limits = Limits()
    signalled: tuple[str, str] = ("", "")
    sources: tuple[Address | None, Address | None] = (None, None)

    def end(self, side: Side) -> End:
        """One of the two ends."""
        return self.a if side == "a" else self.b

    def learned(self) -> "Stream":
        """The stream with the sources that were found in the place of what was signalled: where it goes on."""
        a, b = self.sources
        return replace(
            self,
            a=self.a if a is None else replace(self.a, remote=a),
            b=self.b if b is None else replace(self.b, remote=b),
        )

    @property
    def on_hold(self) -> bool:
        """Whether one direction or both are off."""
        return not (self.a.receive and self.b.receive)

    def spec(self, call: str, window_s: float) -> StreamSpec:
        """What the relay needs to open it."""
        return StreamSpec(
            self.id, call, self.kind, self.a, self.b, window_s, self.limits.start_s, self.limits.silence_s
        )

    def within(self, limits: Limits) -> "Stream":
        """The stream with other silence limits. Written out: every call does it."""
        return Stream(
            self.id,
            self.kind,
            self.media,
            self.codec,
            self.a,
            self.b,
            limits,
            self.signalled,
            self.sources,
        )

    def muted(self, side: Side) -> "Stream":
        """The stream when the party on `side` is gone."""
        gone = replace(self.end(side), remote=None, remote_rtcp=None, receive=False, send=False)
        return replace(self, a=gone) if side == "a" else replace(self, b=gone)

    def moved(self, side: Side, before: str, after: str) -> "Stream":
        """The stream when the party on `side` is known to have left host `before` for `after`."""
        end = self.end(side)
        if end.expect != before:
            return self  # believed for another reason than where its signalling came from
        stays = end.remote is not None and end.remote[0] != before
        there = replace(
            end,
            remote=end.remote if stays else None,
            remote_rtcp=end.remote_rtcp if stays else None,
            expect=after,
            epoch=end.epoch + 1,
            proven=(after,) if end.proven is None else (*end.proven, after),
        )
        return replace(self, a=there) if side == "a" else replace(self, b=there)

    def locked(self, side: Side, source: Address) -> "Stream":
        """The stream with a source that the relay has found."""
        a, b = self.sources
        return replace(self, sources=(source, b) if side == "a" else (a, source))


@frozen
class Open:
    """Open this stream."""

    stream: Stream


@frozen
class Change:
    """One end of a stream that is open has changed."""

    stream: int
    side: Side
    end: End
    before: End


@frozen
class Limit:
    """The limits of a stream that is open have changed."""

    stream: int
    limits: Limits


@frozen
class Close:
    """This stream is not wanted any more."""

    stream: Stream


Command = Open | Change | Limit | Close


@frozen
class MediaSession:
    """The streams of a call, one place for each m= line; None where a line has no stream."""

    streams: tuple[Stream | None, ...] = ()

    def __iter__(self) -> Iterator[Stream]:
        """The streams that there are."""
        return (stream for stream in self.streams if stream is not None)

    def __getitem__(self, place: int) -> Stream | None:
        """The stream of an m= line, None where there is none (yet)."""
        return self.streams[place] if place < len(self.streams) else None

    def moved(self, side: Side, before: str, after: str) -> "MediaSession":
        """The session when the party on `side` has another host than before: its source is learned anew."""
        return MediaSession(
            tuple(None if stream is None else stream.moved(side, before, after) for stream in self.streams)
        )

    def locked(self, number: int, side: Side, source: Address) -> "MediaSession":
        """The session with a source that the relay has found for one stream."""
        return MediaSession(
            tuple(
                stream.locked(side, source) if stream is not None and stream.id == number else stream
                for stream in self.streams
            )
        )

    def muted(self, side: Side) -> "MediaSession":
        """The session when the party on `side` is gone: nothing passes from it or to it."""
        return MediaSession(tuple(None if stream is None else stream.muted(side) for stream in self.streams))

    def changes(self, after: "MediaSession") -> list[Command]:
        """What turns this session into `after`. Closing comes first: it may free what opening needs."""
        old = {stream.id: stream for stream in self}
        new = {stream.id: stream for stream in after}
        commands: list[Command] = [Close(stream) for number, stream in old.items() if number not in new]
        for number, stream in new.items():
            before = old.get(number)
            if before is None:
                commands.append(Open(stream))
                continue
            if before.a != stream.a:
                commands.append(Change(number, "a", stream.a, before.a))
            if before.b != stream.b:
                commands.append(Change(number, "b", stream.b, before.b))
            if before.limits != stream.limits:
                commands.append(Limit(number, stream.limits))
        return commands

    def snapshot(self) -> list[dict[str, Any] | None]:
        """The session as plain data that JSON can carry (design.md s.4.4)."""
        return [None if stream is None else _plain_stream(stream) for stream in self.streams]

    @classmethod
    def restore(cls, data: list[dict[str, Any] | None]) -> "MediaSession":
        """The session that `snapshot` wrote."""
        return cls(tuple(None if item is None else _stream(item) for item in data))


def _plain_stream(stream: Stream) -> dict[str, Any]:
    return {
        "id": stream.id,
        "kind": stream.kind,
        "media": stream.media,
        "codec": stream.codec,
        "a": _plain_end(stream.a),
        "b": _plain_end(stream.b),
        "limits": [stream.limits.start_s, stream.limits.silence_s],
        "signalled": list(stream.signalled),
        "sources": [None if source is None else list(source) for source in stream.sources],
    }


def _stream(data: dict[str, Any]) -> Stream:
    a, b = data["sources"]
    return Stream(
        data["id"],
        data["kind"],
        data["media"],
        data["codec"],
        _end(data["a"]),
        _end(data["b"]),
        Limits(*data["limits"]),
        (data["signalled"][0], data["signalled"][1]),
        (_address(a), _address(b)),
    )


def _plain_end(end: End) -> dict[str, Any]:
    local = end.local
    return {
        "local": [local.network, local.host, local.rtp, local.rtcp],
        "remote": None if end.remote is None else list(end.remote),
        "remote_rtcp": None if end.remote_rtcp is None else list(end.remote_rtcp),
        "rtcp_mux": end.rtcp_mux,
        "learn": str(end.learn),
        "expect": end.expect,
        "receive": end.receive,
        "send": end.send,
        "codecs": [list(codec) for codec in end.codecs],
        "epoch": end.epoch,
        "proven": None if end.proven is None else list(end.proven),
        "srtp": None if end.srtp is None else [end.srtp.suite, end.srtp.theirs.hex(), end.srtp.ours.hex()],
        "events_up": end.events_up,
    }


def _end(data: dict[str, Any]) -> End:
    return End(
        PortPair(*data["local"]),
        _address(data["remote"]),
        _address(data["remote_rtcp"]),
        data["rtcp_mux"],
        Learn(data["learn"]),
        data["expect"],
        data["receive"],
        data["send"],
        tuple((payload, name, clock) for payload, name, clock in data["codecs"]),
        data["epoch"],
        None if data["proven"] is None else tuple(data["proven"]),
        None if data["srtp"] is None else _srtp(*data["srtp"]),
        data.get("events_up", False),
    )


def _srtp(suite: str, theirs: str, ours: str) -> Srtp:
    return Srtp(suite, bytes.fromhex(theirs), bytes.fromhex(ours))


def _address(data: list[Any] | None) -> Address | None:
    return None if data is None else (data[0], data[1])
