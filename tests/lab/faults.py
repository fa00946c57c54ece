"""Calls with one thing wrong: a `Speaker` that misbehaves as told, and calls from wherever it stands.

A call goes from A, at any `Spot`, to B in the private network. SIPp signals on both sides; the media is made here.
"""

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from tests.harness.rtp import FRAME_SAMPLES, Tone, receiver_report, report_block, rtp_packet, sender_report
from tests.harness.rtp import tone_share as share_of_tone
from tests.lab import sipp
from tests.lab.border import Border
from tests.lab.homes import HOUSE, Home
from tests.lab.lab import Lab
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES
from tests.lab.talk import PTIME_S, Address, filled, inside, ports_of, rows, sdp, udp

UNEVEN = frozenset({"jitter", "poor"})
"""What explain says, and rightly so, of media that a busy machine sends by fits and starts."""
HZ = {"a": 400, "b": 1000}
RTCP_EVERY_S = 0.3
MEDIA_PORT = 41000


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a phone is: a namespace, its address there, and host:port of the border as it calls it."""

    namespace: str
    host: str
    border: str

    @classmethod
    def public(cls, port: int = 5060, number: int = 0) -> "Spot":
        """On the Internet, at the border's listener of that port."""
        side = SIDES[PUBLIC]
        return cls(PUBLIC, side.peers[number], f"{side.border}:{port}")

    @classmethod
    def private(cls, number: int = 0) -> "Spot":
        """In the private network."""
        side = SIDES[PRIVATE]
        return cls(PRIVATE, side.peers[number], f"{side.border}:5060")

    @classmethod
    def at(cls, home: Home, port: int = 5060, number: int = 0) -> "Spot":
        """In a home."""
        return cls(home.room(number), HOUSE[number], f"{SIDES[PUBLIC].border}:{port}")


def nothing(packet: bytes, number: int) -> list[bytes]:
    """All packets are lost."""
    return []


def every(packet: bytes, number: int) -> list[bytes]:
    """As it should be."""
    return [packet]


def gaps(packet: bytes, number: int) -> list[bytes]:
    """Three of ten are lost."""
    return [] if number % 10 in (2, 5, 6) else [packet]


@dataclass(slots=True)
class Manner:
    """How a speaker speaks. `passes` makes packets of a packet and its number."""

    payload_type: int = 0
    payload: bytes | None = None
    passes: Callable[[bytes, int], list[bytes]] = every
    rtcp: bool = True
    rtp: bool = True
    frames: int = 1
    """So many frames of 20 ms in a packet."""
    burst: int = 1
    """So many packets at once, then a pause of as many packet times."""
    rtcp_port_for_rtp: bool = False


class Speaker:
    """The media of one phone, on sockets of its own; it keeps what it hears and reports on it as a phone does."""

    def __init__(self, lab: Lab, spot: Spot, name: str, port: int = MEDIA_PORT) -> None:
        self.address: Address = (spot.host, port)
        self.manner = Manner()
        self.target: Address | None = None
        self.heard: list[tuple[float, bytes]] = []
        self._ssrc = 0x2000000 + port + (0 if name == "a" else 1 << 20)
        self._frame = Tone(HZ[name]).frame()
        self._number = 0
        self._reported = 0
        self._waiting: list[bytes] = []
        self._sockets = inside(
            lab.namespaces, spot.namespace, lambda: (udp(spot.host, port), udp(spot.host, port + 1))
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def speak(self, target: Address, manner: Manner | None = None) -> None:
        """Send to `target` from now on."""
        self.manner = manner or Manner()
        self.target = target

    def hush(self) -> None:
        """Send nothing more."""
        self.target = None

    def hears(self, name: str, since: float = 0.0) -> float:
        """The share of somebody's tone in what came."""
        audio = b"".join(data[12:] for at, data in self.heard if at >= since)
        return share_of_tone(audio, HZ[name]) if len(audio) >= 10 * FRAME_SAMPLES else 0.0

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._stopping.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        due = report = time.monotonic()
        while not self._stopping.is_set():
            ready, _, _ = select.select(self._sockets, [], [], max(0.0, due - time.monotonic()))
            for sock in ready:
                with contextlib.suppress(OSError):
                    data = sock.recv(4096)
                    if sock is self._sockets[0]:
                        self.heard.append((time.monotonic(), data))
            now = time.monotonic()
            if now >= due:
                due += PTIME_S
                self._speak()
            if now >= report:
                report = now + RTCP_EVERY_S
                self._report()

    def _speak(self) -> None:
        manner, target = self.manner, self.target
        self._number += 1
        if target is None or not manner.rtp:
            return
        if self._number % manner.frames:
            return
        number = self._number // manner.frames
        packet = rtp_packet(
            number,
            self._number * FRAME_SAMPLES,
            self._ssrc,
            self._frame * manner.frames if manner.payload is None else manner.payload,
            manner.payload_type,
        )
        self._waiting += manner.passes(packet, number)
        if number % manner.burst == 0:
            sock, port = self._sockets[0], target[1]
            if manner.rtcp_port_for_rtp:
                sock, port = self._sockets[1], port + 1
            for one in self._waiting:
                self._put(sock, one, (target[0], port))
            self._waiting.clear()

    def _report(self) -> None:
        if self.target is None or not self.manner.rtcp:
            return
        blocks = self._blocks()
        if self.manner.rtp:
            packet = sender_report(self._ssrc, time.time(), blocks, cname=b"a")
        else:
            packet = receiver_report(self._ssrc, blocks, cname=b"a")
        self._put(self._sockets[1], packet, (self.target[0], self.target[1] + 1))

    def _blocks(self) -> list[bytes]:
        """A report on what was heard since the last one (RFC 3550 s.6.4.1, s.A.3)."""
        since, self._reported = self.heard[self._reported :], len(self.heard)
        if not self.heard:
            return []
        block = bytearray(report_block(int.from_bytes(self.heard[-1][1][8:12], "big")))
        if len(since) > 1:
            first, last = (int.from_bytes(data[2:4], "big") for _, data in (since[0], since[-1]))
            expected = (last - first & 0xFFFF) + 1
            block[4] = max(0, expected - len(since)) * 256 // expected & 0xFF
        return [bytes(block)]

    @staticmethod
    def _put(sock: socket.socket, data: bytes, target: Address) -> None:
        # An ICMP error of an earlier packet, or a filter in the way: a phone does not care either.
        with contextlib.suppress(OSError):
            sock.sendto(data, target)


@dataclass(slots=True)
class Joined:
    """A call that is up, and the two that speak in it. `ours`: where A and B are to send."""

    lab: Lab
    id: str
    ours: dict[str, Address]
    a: Speaker
    b: Speaker
    parties: list[sipp.Sipp] = field(default_factory=list)

    def speak(self, a: Manner | None = None, b: Manner | None = None) -> None:
        """Both begin, each in its manner."""
        self.a.speak(self.ours["a"], a)
        self.b.speak(self.ours["b"], b)

    def found(self) -> dict[str, str]:
        """The findings of `sbc explain` on the media, by side; "" is both."""
        return findings(self.lab.border, self.id)

    def end(self) -> dict[str, str]:
        """Hang up; the findings after the end."""
        if any(str(row["id"]) == self.id for row in rows(self.lab.border)):
            self.lab.border.ask("hangup", call=self.id)
        for party in self.parties:
            party.done(15)
        self.close()
        return self.found()

    def close(self) -> None:
        """Both are silent for good, and their user agents gone."""
        self.a.close()
        self.b.close()
        for party in self.parties:
            party.process.stop(9)


def findings(border: Border, call: str) -> dict[str, str]:
    """Side -> id of what explain says of the media; "call" -> how the call stands."""
    data = cast("dict[str, Any]", border.ask("explain", call=call)["data"])
    first, *media = data["findings"]
    found: dict[str, str] = {"call": str(first["id"])}
    for one in media:
        # The first finding on a side counts, what follows are asides.
        found.setdefault(str(one["side"]), str(one["id"]))
    return found


def _await_call(border: Border, before: set[str], timeout_s: float = 20.0) -> str:
    """The id of a call that is up and was not there `before`."""
    deadline = time.monotonic() + timeout_s
    while True:
        for row in rows(border):
            if row["state"] == "up" and str(row["id"]) not in before:
                return str(row["id"])
        assert time.monotonic() < deadline, f"no new call is up: {rows(border)}"
        time.sleep(0.02)


def connect(
    lab: Lab,
    at: Spot,
    number: int,
    *,
    offer: str | None = None,
    answer: str | None = None,
    second_offer: str | None = None,
    second_answer: str | None = None,
    after_ms: int = 500,
    to: Spot | None = None,
    speaks_at: Spot | None = None,
    port: int = MEDIA_PORT,
) -> Joined:
    """A call from `at` to the private side, up; with `second_offer` changed `after_ms` later.

    `speaks_at` is where the media of A comes from, if not from there. `number` makes its files its own.
    """
    to = to or Spot.private()
    a, b = Speaker(lab, speaks_at or at, "a", port), Speaker(lab, to, "b", port)
    before = {str(row["id"]) for row in rows(lab.border)}
    offer, answer = offer or sdp(*a.address), answer or sdp(*b.address)
    words = {"offer": offer, "answer": answer, "second": second_offer or second_answer or answer}
    directory = lab.directory / f"fault-{number}"
    directory.mkdir()
    try:
        callee = sipp.callee(
            lab.namespaces,
            to.namespace,
            filled(directory, "uas_talk", {**words, "second": second_answer or answer}),
            local=to.host,
            words=sipp.Words(agent="callee", caller="bob", ring_ms=20),
            name=f"fault-b-{number}",
        )
        caller = sipp.caller(
            lab.namespaces,
            at.namespace,
            filled(directory, "uac_talk_again" if second_offer else "uac_talk", words),
            at.border,
            local=at.host,
            words=sipp.Words(agent="caller", hold_ms=after_ms),
            port=5062,
            name=f"fault-a-{number}",
        )
        call = _await_call(lab.border, before)
        both = ports_of(lab.border, call, PUBLIC)
    except BaseException:
        a.close()
        b.close()
        raise
    return Joined(lab, call, {"a": both[PUBLIC], "b": both[PRIVATE]}, a, b, [caller, callee])
