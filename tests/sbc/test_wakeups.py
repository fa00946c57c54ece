"""When which call wants to be woken."""

from itertools import pairwise

from sbc.wakeups import FEW, Wakeups, apart


class Sleeper:
    """A call that only sleeps."""

    def __init__(self) -> None:
        self.armed: float | None = None


def test_the_earliest_is_due_first() -> None:
    wakeups: Wakeups[Sleeper] = Wakeups()
    one, two = Sleeper(), Sleeper()
    wakeups.arm(one, 20.0)
    wakeups.arm(two, 10.0)
    assert wakeups.next() == 10.0
    assert list(wakeups.due(15.0)) == [two]
    assert wakeups.next() == 20.0
    assert list(wakeups.due(25.0)) == [one]
    assert wakeups.next() is None


def test_only_an_earlier_time_moves_an_entry() -> None:
    wakeups: Wakeups[Sleeper] = Wakeups()
    one = Sleeper()
    wakeups.arm(one, 20.0)
    wakeups.arm(one, 30.0)
    assert wakeups.next() == 20.0
    wakeups.arm(one, 5.0)
    assert wakeups.next() == 5.0
    assert list(wakeups.due(100.0)) == [one], "once, although two entries were made"


def test_what_is_disarmed_is_not_woken() -> None:
    wakeups: Wakeups[Sleeper] = Wakeups()
    one = Sleeper()
    wakeups.arm(one, 20.0)
    wakeups.arm(one, None)
    assert wakeups.next() is None
    assert list(wakeups.due(100.0)) == []


def test_one_that_is_armed_again_while_it_is_served_comes_again() -> None:
    wakeups: Wakeups[Sleeper] = Wakeups()
    one = Sleeper()
    wakeups.arm(one, 1.0)
    seen = 0
    for sleeper in wakeups.due(10.0):
        seen += 1
        if seen < 3:
            wakeups.arm(sleeper, 1.0 + seen)
    assert seen == 3


def test_entries_of_the_gone_do_not_pile_up() -> None:
    wakeups: Wakeups[Sleeper] = Wakeups()
    staying = Sleeper()
    wakeups.arm(staying, 1e6)
    for number in range(10_000):
        gone = Sleeper()
        wakeups.arm(gone, 1000.0 + number)
        wakeups.disarm(gone)
    assert len(wakeups) <= 2 * FEW + 2
    assert wakeups.next() == 1e6


def test_turns_are_spread_evenly_however_many_there_are() -> None:
    for turns in (2, 10, 1000):
        shares = sorted(apart(turn) for turn in range(turns))
        gaps = [after - before for before, after in pairwise([*shares, shares[0] + 1.0])]
        assert max(gaps) < 3 / turns and min(gaps) > 0.3 / turns
