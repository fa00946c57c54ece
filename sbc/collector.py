"""Python's garbage collector in a process that must not pause.

What a call is made of goes when the last reference goes (`tests/scenario/test_bug.py` holds that); the collector is
only there for the rare cycle. Left alone it walks every call in progress again and again, and each walk is a pause
of tens of milliseconds for all. So what has survived one look is not looked at again until nobody is talking, and of
what is new a sample is looked at each second: as long as there is no garbage in it, that is enough.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

YOUNG = 1000
"""Objects that are made, less those that went, in a sample: a look at them takes a millisecond at most."""
SAMPLE_S = 1.0
"""Between two samples."""
WHOLE_S = 3600.0
"""Between two looks at everything, when no call is there."""
LATEST_S = 4 * 3600.0
"""After this, calls or not."""
ASK_S = 60.0


def settle() -> None:
    """From now on only the young are looked at, once and not all of them."""
    gc.collect()
    sample()
    if _survived not in gc.callbacks:
        gc.callbacks.append(_survived)


def unsettle() -> None:
    """As Python does it by itself."""
    if _survived in gc.callbacks:
        gc.callbacks.remove(_survived)
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)


def sample() -> None:
    """Look at the next objects that are made; and at those behind them, as long as some are garbage."""
    gc.freeze()
    gc.set_threshold(YOUNG, 1_000_000, 1_000_000)


def whole() -> int:
    """Look at everything; returns how many objects were found that nobody could reach."""
    gc.unfreeze()
    found = gc.collect()
    gc.freeze()
    return found


def _survived(phase: str, info: Mapping[str, Any]) -> None:
    if phase == "stop" and info["generation"] == 0:
        gc.freeze()
        if not info["collected"]:
            gc.set_threshold(0)


async def attend(idle: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
    """Take samples, and look at everything once in a while, when `idle` says that nobody would notice."""
    last = asked = clock()
    while True:
        await asyncio.sleep(SAMPLE_S)
        sample()
        now = clock()
        if now - asked < ASK_S:
            continue
        asked = now
        if now - last >= LATEST_S or (now - last >= WHOLE_S and idle()):
            whole()
            last = now
