"""CPU per relayed packet of a relay worker, and what a held stream and its control cost.

    python -m tests.bench.bench_relay [streams ...]

The generator and sink run in a process of their own; the worker's CPU is what the scheduler charged it
(/proc/PID/schedstat, nanoseconds, interrupts that delivered its packets on loopback included).
"""

import asyncio
import multiprocessing
import resource
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

from media.ports import PortPool
from media.relay import Closed, End, Learn, PortPair, RelayEvent, StreamSpec
from media.workers import WorkerRelay
from tests.harness.rtp import rtp_packet

PACKETS_PER_S = 50
TICKS_PER_S = 1000
SECONDS = 8.0
WARM_UP_S = 1.0
CODECS = ((0, "PCMU", 8000), (101, "telephone-event", 8000))


def generate(targets: Sequence[int], source: socket.socket, sink: socket.socket, stop: Event) -> None:
    """Send 50 packets a second to every target, evenly spread, and read what arrives at the sink."""
    sink.setblocking(False)
    packets = [
        [rtp_packet(seq, seq * 160, stream + 1) for seq in range(1000)] for stream in range(len(targets))
    ]
    slots = TICKS_PER_S // PACKETS_PER_S
    scratch = bytearray(2048)
    tick = 0
    begin = time.monotonic()
    while not stop.is_set():
        seq, slot = divmod(tick, slots)
        for stream in range(slot, len(targets), slots):
            source.sendto(packets[stream][seq % 1000], ("127.0.0.1", targets[stream]))
        try:
            while True:
                sink.recv_into(scratch)
        except BlockingIOError:
            pass
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


def specs(streams: int, pool: PortPool, source: int, sink: int) -> list[StreamSpec]:
    """Streams from one sending socket to one sink."""
    result = []
    for number in range(1, streams + 1):
        a = End(pool.allocate("a", 0.0), ("127.0.0.1", source), ("127.0.0.1", source + 1), codecs=CODECS)
        b = End(pool.allocate("b", 0.0), ("127.0.0.1", sink), ("127.0.0.1", sink + 1), codecs=CODECS)
        result.append(StreamSpec(number, f"c-{number:08x}", "rtp", a, b))
    return result


async def relay_cpu(streams: int) -> None:
    """Print the cost per packet at this load."""
    loop = asyncio.get_running_loop()
    relay = WorkerRelay(loop, 1)
    pool = PortPool({"a": ("127.0.0.1", 20000, 23999), "b": ("127.0.0.1", 24000, 27999)})
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        source.bind(("127.0.0.1", 0))
        sink.bind(("127.0.0.1", 0))
        await asyncio.sleep(0.3)
        pid = relay.pids[0]
        assert pid is not None
        before_kib = rss_kib(pid)
        opened = specs(streams, pool, source.getsockname()[1], sink.getsockname()[1])
        for spec in opened:
            relay.open(spec)
        ids = [spec.id for spec in opened]
        await relay.query(ids)
        context = multiprocessing.get_context("fork")
        stop = context.Event()
        targets = [spec.a.local.rtp for spec in opened]
        generator = context.Process(target=generate, args=(targets, source, sink, stop), daemon=True)
        generator.start()
        await asyncio.sleep(WARM_UP_S)
        first = sum(each.a.forwarded for each in await relay.query(ids))
        cpu = cpu_s(pid)
        await asyncio.sleep(SECONDS)
        cpu = cpu_s(pid) - cpu
        last = await relay.query(ids)
        packets = sum(each.a.forwarded for each in last) - first
        lost = sum(each.a.lost for each in last)
        kib = (rss_kib(pid) - before_kib) / streams
        stop.set()
        generator.join()
        print(
            f"{streams} streams: {packets / SECONDS:.0f} packets/s, {cpu / packets * 1e6:.2f} us of worker CPU each"
            f" ({100 * cpu / SECONDS:.0f} % of a core), {lost} lost; worker {before_kib} KiB + {kib:.1f} KiB a stream"
        )
    await relay.stop()


async def control_cost(calls: int = 2000, at_once: int = 50) -> None:
    """Print what open, two changes and close with its final counters cost the signalling process."""
    loop = asyncio.get_running_loop()
    relay = WorkerRelay(loop, 1)
    closed = 0

    def count(event: RelayEvent) -> None:
        nonlocal closed
        closed += isinstance(event, Closed)

    relay.on_event = count
    pool = PortPool({"a": ("127.0.0.1", 20000, 23999), "b": ("127.0.0.1", 24000, 27999)}, 0.0)
    await asyncio.sleep(0.3)
    pid = relay.pids[0]
    assert pid is not None
    worker = cpu_s(pid)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for begin in range(0, calls, at_once):
        held: list[tuple[int, PortPair, PortPair]] = []
        for number in range(begin, begin + at_once):
            a = End(pool.allocate("a", 0.0), ("127.0.0.1", 9), codecs=CODECS, learn=Learn.PORT)
            b = End(pool.allocate("b", 0.0), codecs=CODECS)
            relay.open(StreamSpec(number, f"c-{number:08x}", "rtp", a, b))
            held.append((number, a.local, b.local))
            await asyncio.sleep(0)
        for number, _, local in held:
            relay.change(number, "b", End(local, ("127.0.0.1", 9), codecs=CODECS, epoch=1))
            await asyncio.sleep(0)
        for number, local, _ in held:
            relay.change(number, "a", End(local, ("127.0.0.1", 9), codecs=CODECS, epoch=1))
            await asyncio.sleep(0)
        for number, a_local, b_local in held:
            relay.close(number)
            pool.release(a_local, 0.0)
            pool.release(b_local, 0.0)
            await asyncio.sleep(0)
        while closed < begin + at_once:
            await asyncio.sleep(0.001)
    after = resource.getrusage(resource.RUSAGE_SELF)
    ours = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"control of a call (ports, open, 2 changes, close, counters), not batched: {ours / calls * 1e6:.0f} us"
        f" in the signalling process, {(cpu_s(pid) - worker) / calls * 1e6:.0f} us in the worker"
    )
    await relay.stop()


async def main(streams: Sequence[int]) -> None:
    """Run everything."""
    await control_cost()
    for number in streams:
        await relay_cpu(number)


if __name__ == "__main__":
    asyncio.run(main([int(argument) for argument in sys.argv[1:]] or [100, 400]))
