"""Python's garbage collector in a process that must not pause.

What a call is made of goes when the last reference goes (`tests/scenario/test_bug.py` holds that); the collector is
only there for the rare cycle. Left alone it walks every call in progress again and again, and each walk is a pause
of tens of milliseconds for all. So what has survived one look is not looked at again until nobody is talking.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

YOUNG = 10_000
"""Objects that are made, less those that went, between two looks at the young: a look takes a millisecond or two."""
WHOLE_S = 3600.0
"""Between two looks at everything, when no call is there."""
LATEST_S = 4 * 3600.0
"""After this, calls or not."""
ASK_S = 60.0


def settle() -> None:
    """From now on only the young are looked at, once."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 1_000_000, 1_000_000)
    if _survived not in gc.callbacks:
        gc.callbacks.append(_survived)


def unsettle() -> None:
    """As Python does it by itself."""
    if _survived in gc.callbacks:
        gc.callbacks.remove(_survived)
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)


def whole() -> int:
    """Look at everything; returns how many objects were found that nobody could reach."""
    gc.unfreeze()
    found = gc.collect()
    gc.freeze()
    return found


def _survived(phase: str, info: Mapping[str, Any]) -> None:
    if phase == "stop" and info["generation"] == 0:
        gc.freeze()


async def attend(idle: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
    """Look at everything once in a while, when `idle` says that nobody would notice."""
    last = clock()
    while True:
        await asyncio.sleep(ASK_S)
        waited = clock() - last
        if waited >= LATEST_S or (waited >= WHOLE_S and idle()):
            whole()
            last = clock()
