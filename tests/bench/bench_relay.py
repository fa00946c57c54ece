"""CPU per relayed packet of a relay worker, and what a held stream and its control cost.

    python -m tests.bench.bench_relay [calls ...]

A call is two RTP streams of 50 packets/s, one from each side. The generator and sink run in a process of their
own; the worker's CPU is what the scheduler charged it (/proc/PID/schedstat, nanoseconds, interrupts that
delivered its packets on loopback included).
"""

import asyncio
import contextlib
import multiprocessing
import resource
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

from media.ports import PortPool
from media.relay import Closed, End, Learn, RelayEvent, StreamSpec
from media.workers import WorkerRelay
from tests.harness.rtp import rtp_packet

PACKETS_PER_S = 50
TICKS_PER_S = 1000
SECONDS = 8.0
WARM_UP_S = 1.0
CODECS = ((0, "PCMU", 8000), (101, "telephone-event", 8000))


def generate(
    targets: Sequence[int], alice: socket.socket, bob: socket.socket, stop: Event, back: Sequence[int] = ()
) -> None:
    """Send 50 packets a second from Alice to every target and from Bob to every port in `back`, evenly spread,
    and read what comes."""
    alice.setblocking(False)
    bob.setblocking(False)
    packets = [rtp_packet(seq, seq * 160, 7) for seq in range(2000)]
    slots = TICKS_PER_S // PACKETS_PER_S
    scratch = bytearray(2048)
    tick = 0
    begin = time.monotonic()
    while not stop.is_set():
        seq, slot = divmod(tick, slots)
        for talker, ports in ((alice, targets), (bob, back)):
            for call in range(slot, len(ports), slots):
                talker.sendto(packets[seq % 2000], ("127.0.0.1", ports[call]))
        for sink in (alice, bob):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sink.recv_into(scratch)
        tick += 1
        time.sleep(max(0.0, begin + tick / TICKS_PER_S - time.monotonic()))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a single-threaded process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def rss_kib(pid: int) -> int:
    """Resident memory that belongs to the process alone."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if ":" in line[:20]
    )
    return sum(int(fields[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))


def specs(calls: int, pool: PortPool, alice: int, bob: int) -> list[StreamSpec]:
    """Calls between two sockets that play all phones."""
    result = []
    for number in range(1, calls + 1):
        a = End(pool.allocate("a", 0.0), ("127.0.0.1", alice), ("127.0.0.1", alice + 1), codecs=CODECS)
        b = End(pool.allocate("b", 0.0), ("127.0.0.1", bob), ("127.0.0.1", bob + 1), codecs=CODECS)
        result.append(StreamSpec(number, f"c-{number:08x}", "rtp", a, b))
    return result


@contextlib.contextmanager
def traffic(
    towards_a: Sequence[int], towards_b: Sequence[int], alice: socket.socket, bob: socket.socket
) -> Iterator[None]:
    """Packets both ways on all calls, from a process of its own."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    generator = context.Process(target=generate, args=(towards_a, alice, bob, stop, towards_b), daemon=True)
    generator.start()
    try:
        yield
    finally:
        stop.set()
        generator.join()


@contextlib.contextmanager
def phones() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that play all phones."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alice,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bob,
    ):
        alice.bind(("127.0.0.1", 0))
        bob.bind(("127.0.0.1", 0))
        yield alice, bob


async def relay_cpu(calls: int) -> None:
    """Print the cost per packet at this load."""
    relay = WorkerRelay(asyncio.get_running_loop(), 1)
    pool = PortPool({"a": ("127.0.0.1", 20000, 23999), "b": ("127.0.0.1", 24000, 27999)})
    with phones() as (alice, bob):
        await asyncio.sleep(0.3)
        pid = relay.pids[0]
        assert pid is not None
        before_kib = rss_kib(pid)
        opened = specs(calls, pool, alice.getsockname()[1], bob.getsockname()[1])
        for spec in opened:
            relay.open(spec)
        ids = [spec.id for spec in opened]
        await relay.query(ids)
        ports_a, ports_b = [each.a.local.rtp for each in opened], [each.b.local.rtp for each in opened]
        with traffic(ports_a, ports_b, alice, bob):
            await asyncio.sleep(WARM_UP_S)
            first = sum(each.a.forwarded + each.b.forwarded for each in await relay.query(ids))
            cpu = cpu_s(pid)
            await asyncio.sleep(SECONDS)
            cpu = cpu_s(pid) - cpu
            last = await relay.query(ids)
        packets = sum(each.a.forwarded + each.b.forwarded for each in last) - first
        lost = sum(each.a.lost + each.b.lost for each in last)
        kib = (rss_kib(pid) - before_kib) / calls
    await relay.stop()
    print(
        f"{calls} calls: {packets / SECONDS:.0f} packets/s, {cpu / packets * 1e6:.2f} us of worker CPU each"
        f" ({100 * cpu / SECONDS:.0f} % of a core), {lost} lost; worker {before_kib} KiB + {kib:.1f} KiB a call"
    )


def own_cpu_s() -> float:
    """Seconds of CPU of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def control_cost(calls: int = 2000, at_once: int = 50) -> None:
    """Print what open, two changes and close with its final counters cost the signalling process.

    Every command has a turn of the event loop to itself, as when it comes from a SIP message; what the bare
    turns cost is subtracted.
    """
    loop = asyncio.get_running_loop()
    relay = WorkerRelay(loop, 1)
    closed = 0
    all_closed = asyncio.Event()

    def count(event: RelayEvent) -> None:
        nonlocal closed
        closed += isinstance(event, Closed)
        if closed % at_once == 0:
            all_closed.set()

    relay.on_event = count
    pool = PortPool({"a": ("127.0.0.1", 20000, 23999), "b": ("127.0.0.1", 24000, 27999)}, 0.0)
    await asyncio.sleep(0.3)
    pid = relay.pids[0]
    assert pid is not None
    turns = own_cpu_s()
    for _ in range(4 * calls):
        await asyncio.sleep(0)
    turns = own_cpu_s() - turns
    worker, ours = cpu_s(pid), own_cpu_s()
    for begin in range(0, calls, at_once):
        all_closed.clear()
        held: list[tuple[int, End, End]] = []
        for number in range(begin, begin + at_once):
            a = End(pool.allocate("a", 0.0), ("127.0.0.1", 9), codecs=CODECS, learn=Learn.PORT)
            b = End(pool.allocate("b", 0.0), codecs=CODECS)
            relay.open(StreamSpec(number, f"c-{number:08x}", "rtp", a, b))
            held.append((number, a, b))
            await asyncio.sleep(0)
        for number, _, b in held:
            relay.change(number, "b", End(b.local, ("127.0.0.1", 9), codecs=CODECS, epoch=1))
            await asyncio.sleep(0)
        for number, a, _ in held:
            relay.change(number, "a", End(a.local, ("127.0.0.1", 9), codecs=CODECS, epoch=1))
            await asyncio.sleep(0)
        for number, a, b in held:
            relay.close(number)
            pool.release(a.local, 0.0)
            pool.release(b.local, 0.0)
            await asyncio.sleep(0)
        await all_closed.wait()
    ours = own_cpu_s() - ours - turns
    print(
        f"control of a call (ports, open, 2 changes, close, counters), not batched: {ours / calls * 1e6:.0f} us"
        f" in the signalling process, {(cpu_s(pid) - worker) / calls * 1e6:.0f} us in the worker"
    )
    await relay.stop()


async def main(calls: Sequence[int]) -> None:
    """Run everything."""
    await control_cost()
    for number in calls:
        await relay_cpu(number)


if __name__ == "__main__":
    asyncio.run(main([int(argument) for argument in sys.argv[1:]] or [50, 200]))
