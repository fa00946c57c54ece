"""Real-time scheduling for the moment of a run: a load of 200,000 packets/s must be that on a busy machine too.

Phones, relay and the kernel's own threads for packets come before everybody else (sched(7), SCHED_RR). The threads are
first: were they behind the phones, their queue could overflow, and that would be taken for loss of the relay. The relay
is last: real phones do not wait when it has too much to do. A priority by niceness is not enough: beside other work it
left the phones 60 % of the pace. The phones have a processor each.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

from tests.bench.usage import come_first, softirq_threads

FIRST, SECOND, THIRD = 3, 2, 1


@contextlib.contextmanager
def kept(phones: Sequence[int], relay: Iterable[int]) -> Iterator[None]:
    """These processes, all their threads and what they start, keep their pace; as far as that is allowed."""
    processors = sorted(os.sched_getaffinity(0))
    for number, phone in enumerate(phones):
        os.sched_setaffinity(phone, {processors[number % len(processors)]})
    pids = dict.fromkeys(phones, SECOND) | dict.fromkeys(relay, THIRD)
    come_first(pids)
    kernel = softirq_threads()
    try:
        with contextlib.suppress(PermissionError):
            for thread in kernel:
                os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(FIRST))
            # The driver looks at the clock between two counts; what it starts is none of this.
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(FIRST))
            for pid, priority in pids.items():
                for task in os.listdir(f"/proc/{pid}/task"):
                    os.sched_setscheduler(int(task), os.SCHED_RR, os.sched_param(priority))
        yield
    finally:
        with contextlib.suppress(PermissionError):
            for thread in (0, *kernel):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
