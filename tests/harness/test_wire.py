"""The in-memory network does what its weather says, the same for the same seed."""

from signaling.flow import Address
from tests.harness.wire import Weather, Wire

A: Address = ("192.0.2.1", 5060)
B: Address = ("192.0.2.2", 5060)


def arrivals(
    weather: Weather, seed: int = 1, number: int = 200, reliable: bool = False
) -> list[tuple[int, float]]:
    """What arrives of numbered messages sent 1 ms apart, and when."""
    wire = Wire(seed, weather, start=0.0)
    got: list[tuple[int, float]] = []
    wire.attach(B, lambda data, source, destination, now: got.append((int(data), now)))
    for index in range(number):
        wire.deliver(b"%d" % index, A, B, reliable)
        wire.run(0.001)
    wire.run(10.0)
    assert wire.under_way == 0
    return got


def test_fair_weather_delivers_everything_once_in_order_after_the_delay() -> None:
    got = arrivals(Weather(delay_s=0.25))
    assert [index for index, _ in got] == list(range(200))
    assert abs(got[0][1] - 0.25) < 1e-9


def test_loss_duplication_and_jitter_lose_double_and_reorder() -> None:
    assert 100 < len(arrivals(Weather(loss=0.3))) < 180
    assert 220 < len(arrivals(Weather(duplication=0.3))) < 300
    jittery = [index for index, _ in arrivals(Weather(jitter_s=0.02))]
    assert sorted(jittery) == list(range(200))
    assert jittery != sorted(jittery)


def test_reliable_delivery_stays_whole_and_in_order_in_any_weather() -> None:
    storm = Weather(loss=0.5, duplication=0.5, jitter_s=0.1)
    assert [index for index, _ in arrivals(storm, reliable=True)] == list(range(200))


def test_the_same_seed_gives_the_same_day() -> None:
    storm = Weather(loss=0.2, duplication=0.2, jitter_s=0.1)
    assert arrivals(storm, seed=7) == arrivals(storm, seed=7)
    assert arrivals(storm, seed=7) != arrivals(storm, seed=8)


def test_one_message_can_be_lost_on_purpose_and_is_on_record() -> None:
    wire = Wire()
    got: list[bytes] = []
    wire.attach(B, lambda data, source, destination, now: got.append(data))
    wire.lose = lambda data, source, destination: data == b"first"
    wire.deliver(b"first", A, B)
    wire.deliver(b"second", A, B)
    wire.deliver(b"nowhere", A, ("192.0.2.9", 5060))
    wire.run(1.0)
    assert got == [b"second"]
    assert [(passage.data, passage.copies) for passage in wire.passages] == [
        (b"first", 0),
        (b"second", 1),
        (b"nowhere", 1),
    ]
    assert wire.unreachable == 1


class Ticker:
    """Wants to be called at fixed times."""

    def __init__(self, times: list[float]) -> None:
        self.times = times
        self.called: list[float] = []

    def next_timer(self) -> float | None:
        return self.times[0] if self.times else None

    def handle_timer(self, now: float) -> None:
        self.called.append(now)
        self.times.pop(0)


def test_timers_run_at_their_time_between_arrivals() -> None:
    wire = Wire(start=0.0)
    ticker = Ticker([0.5, 0.5, 2.0])
    wire.add_node(ticker)
    seen: list[float] = []
    wire.call_at(1.0, lambda: seen.append(len(ticker.called)))
    wire.run(1.5)
    assert (seen, ticker.called, wire.now) == ([2], [0.5, 0.5], 1.5)
    assert wire.run_until(lambda: len(ticker.called) == 3)
    assert wire.now == 2.0
    assert not wire.run_until(lambda: False, seconds=5.0)
