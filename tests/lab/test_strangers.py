"""Strangers: a third host that sprays media at us, callers without a route, garbage and slow or huge TCP.

None of it may reach a phone, get an answer that it should not, or hurt a call; all of it is counted.
"""

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab import sipp
from tests.lab.border import configuration
from tests.lab.lab import FOUND, OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES
from tests.lab.spray import Spray, injected, returned
from tests.lab.talk import (
    Voice,
    assert_no_traceback,
    inside,
    media_of,
    place,
    rows,
    sdp,
    udp,
    verdict_of,
)

pytestmark = pytest.mark.lab

FIRST, LAST = 20000, 20039


@pytest.fixture(autouse=True)
def no_traceback(lab: Lab) -> Iterator[None]:
    """Whatever strangers send, the program must not fall over it."""
    yield
    assert_no_traceback(lab.border)


@dataclass(frozen=True, slots=True)
class Case:
    """How the phone of the public side behaves under the spray."""

    nat: str
    offer: str | None = None
    late_s: float = 0.3
    window_s: float = 10.0


BEHIND_NAT = sdp("192.168.9.9", 4000)
CASES = [
    pytest.param(Case("none"), id="plain"),
    pytest.param(Case("far-end"), id="far-end"),
    pytest.param(Case("far-end", BEHIND_NAT), id="far-end-private-address"),
    # The phone says nothing until the second half of the window, when other hosts could be learned.
    pytest.param(Case("far-end", BEHIND_NAT, 1.6, 2.0), id="far-end-late"),
]


@pytest.mark.parametrize("case", CASES)
def test_media_of_a_stranger_goes_nowhere(lab: Lab, case: Case) -> None:
    border = lab.start(
        configuration(
            lab.namespaces,
            nat=case.nat,
            media_ports=f"{FIRST}-{LAST}",
            limits={"max_calls": 4},
            timers={"learn_window_s": case.window_s},
        )
    )
    stranger = Spray(lab, PUBLIC, FIRST, LAST)
    voices = {side: Voice(lab, side) for side in SIDES}
    time.sleep(0.2)
    call = place(lab, PUBLIC, offer=case.offer)
    voices[PRIVATE].talk(call.ours[PRIVATE])
    time.sleep(case.late_s)
    voices[PUBLIC].talk(call.ours[PUBLIC])
    time.sleep(0.3)
    since = time.monotonic()
    time.sleep(1.0)
    heard = {side: voices[side].hears(OTHER[side], since) for side in SIDES}
    counters = media_of(border, call.id)[0]
    said = verdict_of(border, call.id)
    border.ask("hangup", call=call.id)
    call.done()
    time.sleep(0.2)
    stranger.stop()
    for voice in voices.values():
        voice.close()
    assert border.leftovers() == {}
    lab.stop_recording()

    phones = {host for side in SIDES.values() for host in side.peers} - {stranger.address[0]}
    through = [packet for side in SIDES for packet in injected(lab, side, phones)]
    back = returned(lab, PUBLIC, stranger.address[0])
    print(
        f"{stranger.sent} packets of a stranger: {len(through)} reached a phone, {len(back)} were sent to it,"
        f" {counters['a']['strangers']} counted at A; {said}"
    )
    assert through == []
    assert back == [] and stranger.got == []
    assert counters["a"]["strangers"] > 20
    # Nobody but the phones was heard, and none of their packets got lost.
    assert heard[PUBLIC] > FOUND and heard[PRIVATE] > FOUND, heard
    for end in ("a", "b"):
        assert counters[end]["lost"] == 0 and counters[end]["ssrc_changes"] == 0, counters[end]
    assert "packets from strangers were dropped at A's port" in said


# -- SIP --------------------------------------------------------------------------------------------------------

STRANGER = 2
"""The user agent of the public side that belongs to no trunk in these tests."""


def closed(lab: Lab, limits: dict[str, object] | None = None) -> str:
    """A configuration that knows one caller of the public side only."""
    text = configuration(lab.namespaces, limits=limits)
    known = f'"{lab.host(PUBLIC)}/32"'
    return text.replace(f'"{SIDES[PUBLIC].prefix}"', known).replace(f', "{SIDES[PUBLIC].prefix6}"', "")


def test_callers_without_a_route_are_refused_with_a_reason(lab: Lab) -> None:
    """403 for who belongs to nobody, 404 for a number that leads nowhere."""
    border = lab.start(
        closed(lab).replace("{from: carrier, to: pbx}", '{from: carrier, match: "^1", to: pbx}')
    )
    for number, dialled, status, rule in (
        (STRANGER, "1000", 403, "no-route-for-source"),
        (0, "9000", 404, "no-route"),
    ):
        sipp.caller(
            lab.namespaces, PUBLIC, "uac_refused", lab.border_at(PUBLIC), local=lab.host(PUBLIC, number=number),
            number=dialled, words=sipp.Words(agent="scanner", status=status), name=f"refused-{status}",
        ).done()  # fmt: skip
        row = rows(border, "recent")[0]
        assert (row["status"], row["cause"]) == (status, rule)
        assert f"Rejected with {status}" in verdict_of(border, row["id"])
    assert border.leftovers(refused=2) == {}
    lab.stop_recording()
    for status, rule in ((403, "no-route-for-source"), (404, "no-route")):
        answer = next(text for text in lab.messages(PUBLIC) if text.startswith(f"SIP/2.0 {status}"))
        assert f'Warning: 399 sbc "{rule} c-' in answer
    assert not [text for text in lab.messages(PRIVATE) if text.startswith("INVITE")]


def garbage(seed: int) -> list[bytes]:
    """Datagrams that are no SIP, or nearly."""
    dice = random.Random(seed)
    invite = (
        b"INVITE sip:1000@203.0.113.1 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.23:5099;branch=z9hG4bK-x\r\n"
        b"From: <sip:x@y>;tag=1\r\nTo: <sip:1000@203.0.113.1>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n"
    )
    cut = [invite[: dice.randrange(len(invite))] for _ in range(100)]
    bent = []
    for _ in range(200):
        copy = bytearray(invite)
        for _ in range(dice.randrange(1, 8)):
            copy[dice.randrange(len(copy))] = dice.randrange(256)
        bent.append(bytes(copy))
    noise = [dice.randbytes(dice.randrange(1, 1400)) for _ in range(200)]
    return [*cut, *bent, *noise, b"", b"\0" * 65000, b"INVITE " * 9000, b"\r\n" * 30000]


def test_garbage_and_greedy_connections_are_dropped_and_counted(lab: Lab) -> None:
    limits: dict[str, object] = {"tcp_connections_per_source": 5, "max_message_bytes": 8000}
    border = lab.start(closed(lab, limits))
    host = lab.host(PUBLIC, number=STRANGER)
    address = (SIDES[PUBLIC].border, 5060)

    def connect() -> socket.socket:
        sock = socket.socket()
        sock.bind((host, 0))
        sock.settimeout(30)
        sock.connect(address)
        return sock

    slow = inside(lab.namespaces, PUBLIC, connect)
    slow.sendall(b"INVITE sip:1000@203.0.113.1 SIP/2.0\r\nVia: SIP/2.0/TCP 203.0.113.23\r\nX: ")
    slow_since = time.monotonic()

    call = place(lab, PUBLIC)
    voices = {side: Voice(lab, side) for side in SIDES}
    for side in SIDES:
        voices[side].talk(call.ours[side])

    datagrams = inside(lab.namespaces, PUBLIC, lambda: udp(host, 5099))
    for number, datagram in enumerate(garbage(seed=4711)):
        datagrams.sendto(datagram, address)
        if number % 20 == 0:
            time.sleep(0.01)

    huge = inside(lab.namespaces, PUBLIC, connect)
    closed_huge = swallowed(huge, b"INVITE sip:1000@203.0.113.1 SIP/2.0\r\n" + b"X-Long: " + b"y" * 200_000)
    body = inside(lab.namespaces, PUBLIC, connect)
    closed_body = swallowed(
        body, b"OPTIONS sip:203.0.113.1 SIP/2.0\r\nContent-Length: 999999999\r\n\r\n" + b"z" * 100_000
    )
    many = [inside(lab.namespaces, PUBLIC, connect) for _ in range(8)]
    time.sleep(0.2)
    stats = border.stats()
    print({name: count for name, count in stats.items() if count and not name.startswith("held.")})
    assert closed_huge and closed_body
    assert stats["transport.refused_source"] >= 3
    assert stats["transport.closed_framing"] >= 2
    for sock in (*many, huge, body):
        sock.close()

    # The call has not noticed, and another one can be made.
    counters = media_of(border, call.id)[0]
    assert counters["a"]["lost"] == counters["b"]["lost"] == 0
    assert voices[PUBLIC].hears(PRIVATE) > FOUND
    border.ask("hangup", call=call.id)
    call.done()
    for voice in voices.values():
        voice.close()
    again = place(lab, PRIVATE, number=2)
    border.ask("hangup", call=again.id)
    again.done()

    # Whoever begins a message and does not go on loses the connection (partial_s of the transport).
    slow.settimeout(60)
    assert at_end(slow)
    print(f"slow connection closed after {time.monotonic() - slow_since:.1f} s")
    slow.close()
    assert border.stats()["transport.closed_partial"] == 1
    assert border.leftovers(refused=500) == {}


def swallowed(sock: socket.socket, data: bytes) -> bool:
    """Send all of it as far as the other end takes it; whether that closed the connection."""
    try:
        sock.sendall(data)
    except OSError:
        return True
    return at_end(sock)


def at_end(sock: socket.socket) -> bool:
    """Whether the other end closes the connection within the timeout of the socket."""
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
