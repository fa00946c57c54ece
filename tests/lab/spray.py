"""A stranger: a host of the public network that sends RTP and RTCP to every media port, call or no call.

It plays as well as it can: every port gets a stream of its own with one SSRC and rising sequence numbers, which is
what a relay that learns sources looks for.
"""

import contextlib
import select
import socket
import struct
import threading
import time

from tests.harness.rtp import FRAME_SAMPLES, rtp_packet, sender_report
from tests.lab.capture import UDP, Packet
from tests.lab.lab import Lab
from tests.lab.namespaces import SIDES
from tests.lab.talk import Address, inside, packets_of, udp

SSRC = 0x5742414E
CANARY = b"stranger"
PORT = 45000
ROUND_S = 0.04


class Spray:
    """Sends from its start until `stop`; counts what comes back."""

    def __init__(self, lab: Lab, side: str, first: int, last: int, number: int = 2) -> None:
        self.address: Address = (lab.host(side, number=number), PORT)
        self.sent = 0
        self.got: list[bytes] = []
        self._targets = [(SIDES[side].border, port) for port in range(first, last + 1)]
        # One socket for RTP and one for RTCP, as a phone has them; what comes back comes to one of them.
        self._sockets: tuple[socket.socket, socket.socket] = inside(
            lab.namespaces, side, lambda: (udp(*self.address), udp(self.address[0], PORT + 1))
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        seq = 1
        due = time.monotonic()
        while not self._stopping.is_set():
            for port, target in enumerate(self._targets):
                if target[1] % 2 == 0:
                    packet = rtp_packet(seq, seq * FRAME_SAMPLES, SSRC + port, CANARY * 20)
                    self._put(self._sockets[0], packet, target)
                # RTCP also to RTP ports: with rtcp-mux it belongs there.
                report = sender_report(SSRC + port, time.time(), cname=CANARY)
                self._put(self._sockets[1], report, target)
            seq += 1
            due += ROUND_S
            while (left := due - time.monotonic()) > 0:
                self._listen(left)
            self._listen(0)

    def _listen(self, seconds: float) -> None:
        ready, _, _ = select.select(self._sockets, [], [], seconds)
        for sock in ready:
            with contextlib.suppress(OSError):  # ICMP: nobody has this port
                while True:
                    self.got.append(sock.recv(4096))

    def _put(self, sock: socket.socket, data: bytes, target: Address) -> None:
        with contextlib.suppress(OSError):
            sock.sendto(data, target)
            self.sent += 1


def injected(lab: Lab, side: str, hosts: set[str]) -> list[Packet]:
    """What of a stranger's reached these hosts: packets with its words, or with one of its SSRCs."""
    marks = [CANARY, *(struct.pack("!I", SSRC + port) for port in range(1000))]
    return [
        packet
        for packet in packets_of(lab, side)
        if packet.protocol == UDP
        and packet.destination[0] in hosts
        and (packet.payload[8:12] in marks or packet.payload[4:8] in marks or CANARY in packet.payload)
    ]


def returned(lab: Lab, side: str, host: str) -> list[Packet]:
    """What we sent to a stranger."""
    return [packet for packet in packets_of(lab, side) if packet.destination[0] == host]
