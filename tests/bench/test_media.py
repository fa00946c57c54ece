"""The media bench counts right: small loads through no relay, ours, and one that spoils the streams on purpose."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.bench.media import losses, table
from tests.bench.media.bench import obstacle
from tests.bench.media.engines import BORDER, WAYS, Way
from tests.bench.media.measure import Result, run
from tests.bench.media.place import PHONES, Place
from tests.bench.media.streams import RELAY_PORTS, Load
from tests.lab.namespaces import SBC

SMALL = Load(20, 1.0)

# Of each stream it drops one packet in ten, sends one in ten twice and one in ten after the next. With one more
# argument it sends everything so many seconds later instead.
CROOKED = """
import selectors, socket, sys, time
calls, host_a, host_b, phone_a, phone_b, first = int(sys.argv[1]), *sys.argv[2:6], int(sys.argv[6])
ports = [int(port) for port in sys.argv[7].split(",")]
chosen = selectors.DefaultSelector()
def opened(host, port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, port))
    return sock
for call in range(calls):
    a, b = opened(host_a, first + 2 * call), opened(host_b, first + 2 * call)
    chosen.register(a, selectors.EVENT_READ, (b, (phone_b, ports[call])))
    chosen.register(b, selectors.EVENT_READ, (a, (phone_a, ports[call])))
print("ready", flush=True)
held, late = {}, []
while True:
    while late and late[0][0] <= time.monotonic():
        _, out, to, data = late.pop(0)
        out.sendto(data, to)
    for key, _ in chosen.select(0.01 if len(sys.argv) > 8 else None):
        data = key.fileobj.recv(2048)
        out, to = key.data
        if len(sys.argv) > 8:
            late.append((time.monotonic() + float(sys.argv[8]), out, to, data))
            continue
        time.sleep(0.0002)
        tenth = data[3] % 10
        if tenth == 1:
            continue
        if tenth == 3:
            held[key.fd] = data
            continue
        out.sendto(data, to)
        if tenth == 2:
            out.sendto(data, to)
        if key.fd in held:
            out.sendto(held.pop(key.fd), to)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    with Place(tmp_path_factory.mktemp("media")) as fresh:
        yield fresh


@contextlib.contextmanager
def crooked(place: Place, load: Load, *late_s: str) -> Iterator[Way]:
    phones = ",".join(str(load.phone_port(call)) for call in range(load.calls))
    arguments = [str(load.calls), *BORDER, *PHONES.values(), str(RELAY_PORTS[0]), phones, *late_s]
    process = place.start(SBC, "crooked", [sys.executable, "-c", CROOKED, *arguments])
    process.await_text("ready")
    ports = [RELAY_PORTS[0] + 2 * call for call in range(load.calls)]
    try:
        yield Way((ports, ports), [process.pid])
    finally:
        process.stop(9)


@pytest.mark.parametrize("way", ["direct", "reference"])
def test_nothing_is_lost_in_a_small_load(place: Place, way: str) -> None:
    result = run(place, WAYS[way].make, SMALL)
    assert result.sent == 20 * 50
    assert (result.lost, result.reordered, result.doubled, result.places) == (0, 0, 0, {})
    assert 0 < result.p50_us <= result.p99_us <= result.max_us
    assert (result.relay_us > 0) == (way == "reference")
    assert result.machine_us > result.relay_us
    if way == "reference":
        whole = sum(2 * (SMALL.packets - SMALL.first(call)) for call in range(SMALL.calls))
        assert result.counters["forwarded"] == whole, "those of the warm-up too"


def test_what_a_relay_does_to_the_streams_is_counted(place: Place) -> None:
    result = run(place, crooked, SMALL)
    # The sequence numbers 50 to 99 of 20 streams have five of each kind.
    assert result.lost == 20 * 5
    assert result.places == {"relay": 20 * 5} and result.lost_by_relay == 20 * 5
    assert result.doubled == 20 * 5
    assert result.reordered == 20 * 5
    assert result.p99_us > 15000, "what was held back waited for the next packet, 20 ms later"
    assert not result.carried


# A relay that never reads: nearly all stays in the queues of its sockets, which are too small for it.
DEAF = """
import socket, sys, time
calls, host_a, host_b, first = int(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
opened = []
for call in range(calls):
    for host in (host_a, host_b):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.bind((host, first + 2 * call))
        opened.append(sock)
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def deaf(place: Place, load: Load) -> Iterator[Way]:
    arguments = [str(load.calls), *BORDER, str(RELAY_PORTS[0])]
    process = place.start(SBC, "deaf", [sys.executable, "-c", DEAF, *arguments])
    process.await_text("ready")
    ports = [RELAY_PORTS[0] + 2 * call for call in range(load.calls)]
    try:
        yield Way((ports, ports), [process.pid])
    finally:
        process.stop(9)


def test_what_the_queues_of_a_relay_do_not_take_is_told_from_what_it_loses(place: Place) -> None:
    result = run(place, deaf, SMALL)
    assert result.lost == result.sent == 1000 == result.lost_by_relay
    # The warm-up has filled them; a stream or two are past it when the counting begins.
    assert result.places["relay queue"] > 900 and set(result.places) <= {"relay queue", "relay"}


def test_what_comes_late_is_not_lost(place: Place) -> None:
    """A side of phones that got no processor for longer than the other one needs: it catches up, and is waited for; so
    are its packets, which a relay has for another while."""

    @contextlib.contextmanager
    def stopped(place: Place, load: Load) -> Iterator[Way]:
        with crooked(place, load, "0.2") as way:
            before = len(place._processes)

            def stop() -> None:
                while len(place._processes) < before + 2:
                    time.sleep(0.01)
                time.sleep(1.5)
                for number in (signal.SIGSTOP, signal.SIGCONT):
                    place._processes[before].popen.send_signal(number)
                    time.sleep(1.5)

            thread = threading.Thread(target=stop)
            thread.start()
            yield way
            thread.join()

    result = run(place, stopped, SMALL)
    assert result.late_ms > 800
    assert (result.sent, result.lost, result.doubled) == (1000, 0, 0)


def test_where_packets_were_lost() -> None:
    before = dict.fromkeys(("backlog", "cable", "relay queue", "relay send", "sink"), 10)
    after = before | {"backlog": 13, "sink": 11}
    assert losses.places(before, after, 0, 9) == {"backlog": 3, "sink": 1, "relay": 5}
    assert losses.places(before, after, 2, 4) == {"sent": 2, "backlog": 3, "sink": 1}
    assert losses.places(before, before, 0, 0) == {}


def result(relay_us: float, machine_us: float, lost: int = 0, rate: float = 50000.0, **places: int) -> Result:
    figures = (relay_us, machine_us, 0.5, 10.0, 20.0, 30.0, 0.0)
    return Result(Load(1000, 4.0), 200000, lost, 0, 0, rate, *figures, {}, places)


def test_the_table_takes_the_direct_run_off_and_compares() -> None:
    lines = table.rows(
        "1000 x RTP",
        [
            table.Row("direct", (result(0.0, 5.0), result(0.0, 4.0), result(0.0, 9.0))),
            table.Row("reference", (result(6.0, 12.0), result(5.0, 10.0), result(6.0, 17.0))),
            table.Row("kernel", absent="no kernel 6.6"),
            table.Row(
                "rtpengine",
                (
                    result(8.0, 15.0, lost=7, sink=7),
                    result(8.0, 14.0, rate=40000.0),
                    result(8.0, 18.0, lost=1, relay=1),
                ),
                most=20000,
            ),
        ],
    )
    assert lines == [
        "| 1000 x RTP | direct | - | - | 5.00 (4.00 to 9.00) | - | 10, 20, 30 | 0 of 600000 | 50,000/s |",
        "| 1000 x RTP | reference | 6.00 | 0.75 | 7.00 (6.00 to 8.00) | 0.70 | 10, 20, 30 | 0 of 600000 | 50,000/s |",
        "| 1000 x RTP | kernel | no kernel 6.6 | | | | | | |",
        "| 1000 x RTP | rtpengine | 8.00 | 1.00 | 10.00 (9.00 to 10.00) | 1.00 | 10, 20, 30 | "
        "8 of 600000 (sink 7, relay 1) | no; 20,000/s |",
    ]
