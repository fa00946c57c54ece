"""Calls whose media is made by the test itself: SIPp signals, a `Voice` on either side sends and listens.

A socket belongs to the network namespace of the thread that made it, for good. So the test makes sockets in the
namespaces of the lab and uses them as if they were its own.
"""

import contextlib
import ctypes
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from tests.harness.rtp import FRAME_SAMPLES, Tone, rtp_packet, sender_report, tone_share
from tests.lab import sipp
from tests.lab.border import Border, ControlError
from tests.lab.capture import Packet, read_pcap
from tests.lab.lab import HZ, OTHER, Lab
from tests.lab.namespaces import SIDES, Namespaces

T = TypeVar("T")
Address = tuple[str, int]
PTIME_S = 0.02
RTCP_EVERY_S = 0.3
MEDIA = {side: 41000 for side in SIDES}
"""Where the voices listen unless a test says otherwise; RTCP on the next port."""
_CLONE_NEWNET = 0x40000000


def inside(namespaces: Namespaces, namespace: str, make: Callable[[], T]) -> T:
    """Call `make` on a thread of a namespace."""
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = os.open(f"/run/netns/{namespaces.full_name(namespace)}", os.O_RDONLY)
            try:
                if libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def udp(host: str, port: int) -> socket.socket:
    """A bound UDP socket."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((host, port))
    sock.setblocking(False)
    return sock


@dataclass(frozen=True, slots=True)
class Heard:
    """A datagram that came."""

    at: float
    data: bytes
    source: Address


class Voice:
    """The media of one phone. It sends to `rtp` and `rtcp` while they are set, and keeps all that comes."""

    def __init__(self, lab: Lab, side: str, port: int | None = None, number: int = 0) -> None:
        host = lab.host(side, number=number)
        self.address: Address = (host, MEDIA[side] if port is None else port)
        self.hz = HZ[side]
        self.rtp: Address | None = None
        self.rtcp: Address | None = None
        self.payload_type = 0
        self.heard: list[Heard] = []
        self.heard_rtcp: list[Heard] = []
        self._ssrc = 0x10000000 + self.address[1] + (0 if side == "public" else 0x1000000)
        self._seq = 100
        self._frame = Tone(self.hz).frame()  # of whole periods: it can be repeated
        self._sockets = inside(
            lab.namespaces, side, lambda: (udp(host, self.address[1]), udp(host, self.address[1] + 1))
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def talk(self, target: Address | None, rtcp: bool = True) -> None:
        """Send RTP to `target` and RTCP to the port after it; None: be silent."""
        self.rtp = target
        self.rtcp = (target[0], target[1] + 1) if target and rtcp else None

    def hears(self, side: str, since: float = 0.0) -> float:
        """The share of the tone of a side in what came, and 0 for silence."""
        audio = b"".join(one.data[12:] for one in self.heard if one.at >= since)
        return tone_share(audio, HZ[side]) if len(audio) >= 10 * FRAME_SAMPLES else 0.0

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
                self._take(sock)
            now = time.monotonic()
            if now >= due:
                due += PTIME_S
                self._send()
            if now >= report:
                report = now + RTCP_EVERY_S
                if self.rtcp is not None:
                    self._put(self._sockets[1], sender_report(self._ssrc, time.time(), cname=b"a"), self.rtcp)

    def _send(self) -> None:
        self._seq += 1
        if self.rtp is not None:
            packet = rtp_packet(
                self._seq, self._seq * FRAME_SAMPLES, self._ssrc, self._frame, self.payload_type
            )
            self._put(self._sockets[0], packet, self.rtp)

    @staticmethod
    def _put(sock: socket.socket, data: bytes, target: Address) -> None:
        # An ICMP error of an earlier packet, or a filter in the way: a phone does not care either.
        with contextlib.suppress(OSError):
            sock.sendto(data, target)

    def _take(self, sock: socket.socket) -> None:
        into = self.heard if sock is self._sockets[0] else self.heard_rtcp
        while True:
            try:
                data, source = sock.recvfrom(4096)
            except OSError:
                return
            into.append(Heard(time.monotonic(), data, (source[0], source[1])))


def sdp(
    host: str,
    port: int,
    *,
    formats: str = "0",
    way: str = "",
    version: int = 1,
    rtpmap: tuple[str, ...] = ("0 PCMU/8000",),
) -> str:
    """A session description with one audio line."""
    lines = [
        "v=0",
        f"o=lab 4711{port} {version} IN IP4 {host}",
        "s=-",
        f"c=IN IP4 {host}",
        "t=0 0",
        f"m=audio {port} RTP/AVP {formats}",
        *(f"a=rtpmap:{one}" for one in rtpmap),
        *([f"a={way}"] if way else []),
    ]
    return "\n      ".join(lines)


@dataclass(slots=True)
class Talk:
    """A call in progress: its id and our ports on both sides."""

    id: str
    ours: dict[str, Address]
    parties: list[sipp.Sipp] = field(default_factory=list)

    def done(self) -> None:
        """Wait for the end of both user agents."""
        for party in self.parties:
            party.done(15)


def place(
    lab: Lab,
    origin: str,
    *,
    offer: str | None = None,
    answer: str | None = None,
    second_offer: str | None = None,
    second_answer: str | None = None,
    after_ms: int = 500,
    number: int = 1,
) -> Talk:
    """A call from `origin` to the other side, up; with `second_offer` it is changed `after_ms` later."""
    target = OTHER[origin]
    before = {str(row["id"]) for row in rows(lab.border)}
    offer = offer or sdp(lab.host(origin), MEDIA[origin])
    answer = answer or sdp(lab.host(target), MEDIA[target])
    words = {"offer": offer, "answer": answer, "second": second_offer or second_answer or answer}
    callee = sipp.callee(
        lab.namespaces,
        target,
        filled(lab.directory, "uas_talk", {**words, "second": second_answer or answer}),
        words=sipp.Words(agent=f"callee-of-{target}", caller="bob", ring_ms=50),
        name=f"talk-{target}-{number}",
    )
    caller = sipp.caller(
        lab.namespaces,
        origin,
        filled(lab.directory, "uac_talk_again" if second_offer else "uac_talk", words),
        lab.border_at(origin),
        words=sipp.Words(agent=f"caller-of-{origin}", hold_ms=after_ms),
        port=5062,
        name=f"talk-{origin}-{number}",
    )
    call = next(one for one in await_calls(lab.border, "up", len(before) + 1) if one not in before)
    ours = ports_of(lab.border, call, origin)
    return Talk(call, ours, [caller, callee])


def filled(directory: Path, name: str, words: dict[str, str]) -> str:
    """The scenario with our words in it; as `sipp` wants it, without the suffix."""
    text = (sipp.SCENARIOS / f"{name}.xml").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    file = directory / f"filled-{name}.xml"
    file.write_text(text)
    return str(file.with_suffix(""))


def rows(border: Border, verb: str = "calls", key: str = "calls") -> list[dict[str, Any]]:
    """The table that a verb of the control socket answers."""
    return cast("list[dict[str, Any]]", border.ask(verb)[key])


def await_calls(border: Border, state: str, count: int = 1, timeout_s: float = 40.0) -> list[str]:
    """The ids of `count` calls in a state, once there are so many."""
    deadline = time.monotonic() + timeout_s
    while True:
        table = rows(border)
        found = [str(row["id"]) for row in table if row["state"] == state]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, f"{len(found)} calls {state}, not {count}: {table}"
        time.sleep(0.03)


def hang_up_all(border: Border) -> None:
    """End whatever calls there are."""
    for row in rows(border):
        with contextlib.suppress(ControlError):
            border.ask("hangup", call=row["id"])


def ports_of(border: Border, call: str, origin: str) -> dict[str, Address]:
    """Where the border wants the media of each side."""
    (line,) = media_of(border, call)
    return {origin: _address(str(line["a_local"])), OTHER[origin]: _address(str(line["b_local"]))}


def media_of(border: Border, call: str) -> list[dict[str, Any]]:
    """The streams of a call with their counters of this moment."""
    data = cast("dict[str, Any]", border.ask("explain", call=call)["data"])
    return cast("list[dict[str, Any]]", data["media"])


def verdict_of(border: Border, call: str) -> str:
    """What `sbc explain` concludes, in one line."""
    data = cast("dict[str, Any]", border.ask("explain", call=call)["data"])
    return " ".join(cast("list[str]", data["verdict"]))


def packets_of(lab: Lab, side: str) -> list[Packet]:
    """What was seen on a side, after `stop_recording`."""
    return list(read_pcap(lab.directory / f"{side}.pcap"))


def assert_no_traceback(border: Border) -> None:
    """Nothing that the program or its workers wrote is a traceback, and no bug was counted."""
    text = border.process.text
    for word in ("Traceback", "bug of ours"):
        at = text.find(word)
        assert at < 0, text[max(0, at - 1000) : at + 2000]


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)
