"""Real-time scheduling for the moment of a run: a load of 200,000 packets/s must be that on a busy machine too.

Phones, relay and the kernel's own threads for packets come before everybody else (sched(7), SCHED_RR), the threads
first: were they behind the phones, their queue could overflow, and that would be taken for loss of the relay. A
priority by niceness is not enough: beside other work it left the phones 60 % of the pace.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator

from tests.bench.usage import come_first, softirq_threads

FIRST, SECOND = 3, 2


@contextlib.contextmanager
def kept(pids: Iterable[int]) -> Iterator[None]:
    """These processes, all their threads and what they start, keep their pace; as far as that is allowed."""
    pids = list(pids)
    come_first(pids)
    kernel = softirq_threads()
    try:
        with contextlib.suppress(PermissionError):
            for thread in kernel:
                os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(FIRST))
            # The driver looks at the clock between two counts; what it starts is none of this.
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(FIRST))
            for pid in pids:
                for task in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setscheduler(int(task), os.SCHED_RR, os.sched_param(SECOND))
        yield
    finally:
        with contextlib.suppress(PermissionError):
            for thread in (0, *kernel):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
