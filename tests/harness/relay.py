"""A relay without packets: it remembers what it was told and answers at once."""

from collections.abc import Awaitable, Callable, Sequence

from media.relay import Closed, Counters, End, RelayEvent, Side, StreamCounters, StreamSpec


class FakeRelay:
    """The `media.relay.Relay` protocol over a dictionary. `mute` keeps it from confirming that streams closed."""

    def __init__(self) -> None:
        self.streams: dict[int, StreamSpec] = {}
        self.changes: list[tuple[int, Side, End]] = []
        self.limited: dict[int, tuple[float, float]] = {}
        self.events: list[RelayEvent] = []
        self.mute = False
        self.on_event: Callable[[RelayEvent], None] = self.events.append

    def open(self, spec: StreamSpec) -> None:
        assert spec.id not in self.streams, "a stream is opened once"
        self.streams[spec.id] = spec

    def change(self, stream: int, side: Side, end: End) -> None:
        assert stream in self.streams, "only an open stream changes"
        self.changes.append((stream, side, end))

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        self.limited[stream] = (start_s, silence_s)

    def close(self, stream: int) -> None:
        spec = self.streams.pop(stream)
        if not self.mute:
            counters = StreamCounters(stream, spec.call, Counters(), Counters())
            self.on_event(Closed(stream, spec.call, counters))

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        raise AssertionError("no test of the signalling asks for counters")
