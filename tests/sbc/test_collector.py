"""The collector looks at what is young once, and at everything when nobody is talking."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from sbc import collector


class Knot:
    """Refers to itself, so only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    collector.settle()
    yield
    collector.unsettle()
    gc.set_threshold(*before)
    gc.collect()


def test_what_survived_is_not_looked_at_again() -> None:
    frozen = gc.get_freeze_count()
    kept = [Knot() for _ in range(1000)]
    gc.collect(0)
    assert gc.get_freeze_count() >= frozen + len(kept)
    assert len(gc.get_objects(generation=1)) + len(gc.get_objects(generation=2)) < 1000


def test_cycles_among_the_young_are_freed() -> None:
    gc.collect(0)
    for _ in range(500):
        Knot()
    assert gc.collect(0) >= 500


def test_the_next_are_looked_at_only_if_there_was_garbage() -> None:
    looks: list[int] = []

    def look(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            looks.append(info["collected"])

    gc.callbacks.insert(0, look)
    try:
        kept: list[list[int]] = [[] for _ in range(5 * collector.YOUNG)]
        assert looks == [0]  # a clean sample is enough
        collector.sample()
        made = 10 * collector.YOUNG
        for _ in range(made):
            Knot()
        assert sum(looks) > made / 2  # as long as there is garbage, nothing is left out
        assert len(looks) > 5
        del kept
    finally:
        gc.callbacks.remove(look)


def test_everything_is_looked_at_in_the_end() -> None:
    old = [Knot() for _ in range(1000)]
    gc.collect(0)
    old.clear()
    assert gc.collect(0) < 1000
    assert collector.whole() >= 1000


@pytest.mark.parametrize(("idle", "hours", "freed"), [(True, 2, True), (False, 2, False), (False, 25, True)])
def test_when(idle: bool, hours: int, freed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "ASK_S", 0.0)
    monkeypatch.setattr(collector, "SAMPLE_S", 0.0)
    now = iter([0.0, *[hours * 3600.0] * 1000])
    old = [Knot() for _ in range(1000)]
    gc.collect(0)
    old.clear()

    async def for_a_while() -> None:
        task = asyncio.create_task(collector.attend(lambda: idle, lambda: next(now)))
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(for_a_while())
    assert (collector.whole() < 1000) is freed
