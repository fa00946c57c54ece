"""Fuzz target: whatever bytes come to a media port, in whatever order, from whomever.

Invariants: nothing raises; only packets of the locked source, or the few of an expected one, are counted as
received; what crosses as RTCP parses again and holds no byte of a name; counters stay on their scales.

    python -m tests.fuzz.fuzz_rtp [seconds] [seed]
"""

import random
import socket
import sys
import time
from typing import cast

from media import demux, rtcp, rtp
from media.forwarder import Forwarder
from media.sockets import Sockets
from media.source import LOCKED, PASS, STRANGER, RtcpGate, SourceGate
from media.stream import Port, RelayStream
from tests.harness.rtp import Address, receiver_report, report_block, rtp_packet, sender_report

SECRET = b"alice@10.20.30.40"
SOURCES = [("192.0.2.1", 4000), ("192.0.2.1", 4002), ("198.51.100.7", 4000), ("203.0.113.9", 1)]


def seeds() -> list[bytes]:
    """Well-formed packets to begin from."""
    block = report_block(2, 3, 1.0)
    return [
        rtp_packet(1, 160, 7),
        rtp_packet(2, 320, 7, b"\xbe\xde\x00\x01" + bytes(8), 96, True),
        sender_report(7, 1e9, [block], SECRET),
        receiver_report(7, [block, block], SECRET),
        b"\x81\xcb\x00\x05" + bytes(4) + b"\x0f" + b"gone home".ljust(15, b"\0"),
        b"\x80\xcc\x00\x02" + bytes(4) + b"NAME",
        b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
        b"\x16\xfe\xfd" + bytes(20),
    ]


def mutate(packet: bytes, rng: random.Random) -> bytes:
    """Cut, stretch, join or flip."""
    data = bytearray(packet)
    for _ in range(rng.randrange(4)):
        match rng.randrange(5):
            case 0 if data:
                data[rng.randrange(len(data))] = rng.choice(
                    (0, 1, 0x7F, 0x80, 0xC8, 0xFF, rng.randrange(256))
                )
            case 1:
                del data[rng.randrange(len(data) + 1) :]
            case 2:
                data += rng.randbytes(rng.randrange(12))
            case 3:
                data += rng.choice(seeds())
            case 4 if len(data) > 4:
                data[:4] = bytes((data[0] ^ 1 << rng.randrange(8), data[1])) + rng.randbytes(2)
    return bytes(data)


def kinds(compound: bytes) -> list[int]:
    """The packet types in a valid compound packet."""
    found = []
    while compound:
        found.append(compound[1])
        compound = compound[4 + 4 * int.from_bytes(compound[2:4], "big") :]
    return found


def check_rtcp(data: bytes) -> None:
    """What crosses is RTCP again, names nobody, and is a fixed point."""
    first = rtcp.parse(data, lambda name: b"x" * 16)
    if first is None or not first.forward:
        return
    # Feedback and extended reports are measurements in any format: their bodies cross as they are.
    opaque = any(205 <= kind <= 207 for kind in kinds(first.forward))
    assert opaque or SECRET not in first.forward
    again = rtcp.parse(first.forward, lambda name: b"x" * 16)
    assert again is not None and again.forward == first.forward
    assert again.echoes == first.echoes and again.sent == first.sent
    assert len(first.forward) <= len(data) + 24 * 31 * (1 + len(data) // 8)


def check_stream(rng: random.Random, packets: int) -> None:
    """One port under fire: gate and statistics as the relay uses them."""
    gate = SourceGate(10.0, 0.0)
    control = RtcpGate()
    seen = rtp.Reception()
    learn = rng.choice(("off", "port", "any"))
    gate.configure(learn, rng.choice((None, SOURCES[0])), rng.choice((None, SOURCES[1][0])), 0)
    control.configure(learn, rng.choice((None, SOURCES[0])))
    accepted = 0
    now = 0.0
    for _ in range(packets):
        data = mutate(rng.choice(seeds()), rng)
        source = rng.choice(SOURCES)
        now += rng.random() * 0.2
        kind = demux.classify(data, len(data))
        if kind == demux.RTCP:
            before = control.source
            verdict = control.judge(source, gate.source, now)
            if verdict != STRANGER:
                assert gate.source is None or gate.source[0] == source[0] or before == source
                assert verdict == PASS or (learn != "off" and gate.source is not None)
                control.lock(source, now)
        elif kind == demux.RTP:
            first, seq, timestamp, ssrc = rtp.HEADER.unpack_from(data)
            assert rtp.plausible(first)
            if source != gate.source:
                if not rtp.valid(data, len(data)):
                    continue
                verdict = gate.admit(source, ssrc, seq, now, seen.heard, seen.follows)
                if verdict == STRANGER:
                    continue
                assert learn != "off" or source == SOURCES[0]
                assert verdict == PASS or (verdict == LOCKED and gate.source == source)
            seen.receive(len(data), first, seq, timestamp, ssrc, now)
            accepted += 1
    assert seen.packets == accepted
    assert seen.packets == 0 or seen.expected >= 1
    assert seen.lost <= seen.expected and 0 <= seen.jitter <= seen.max_jitter <= rtp.DISCONTINUITY_S
    assert all(0 <= payload_type < 128 for payload_type in seen.payload_types())


class Wire:
    """A socket without a network: what comes is what was put there, what goes is noted."""

    def __init__(self) -> None:
        self.coming: list[tuple[bytes, Address]] = []
        self.sent: list[tuple[bytes, Address]] = []

    def recvfrom_into(self, buffer: bytearray) -> tuple[int, Address]:
        if not self.coming:
            raise BlockingIOError
        data, source = self.coming.pop()
        buffer[: len(data)] = data
        return len(data), source

    recv_into = None

    def sendto(self, data: bytes | memoryview, target: Address) -> int:
        self.sent.append((bytes(data), target))
        return len(data)


def check_forwarder(rng: random.Random, packets: int) -> None:
    """The relay's own way of a packet between two ends of which one has SRTP, both, or neither."""
    forwarder = Forwarder(lambda event: None, Sockets(lambda event: None, 0, 100))
    stream = RelayStream(1, False, 10.0, 0.0, 0.0)
    wires = []
    for end, host in ((stream.a, "10.0.0.1"), (stream.b, "10.0.0.2")):
        learn, mux = rng.choice(("off", "port", "any")), rng.random() < 0.5
        secure = ("AES_CM_128_HMAC_SHA1_80", bytes(30), bytes(30)) if rng.random() < 0.3 else None
        named, codecs = rng.choice(SOURCES), ((0, "PCMU", 8000),)
        rest = (None, rng.random() < 0.9, True, codecs, 0, None, secure, False)
        end.configure((host, 2, 3, named, named, mux, learn, *rest), forwarder.buffer)
        pair = Wire(), Wire()
        end.rtp_port, end.rtcp_port = (
            Port(end, cast("socket.socket", wire), (host, 2 + kind), kind) for kind, wire in enumerate(pair)
        )
        end.aim()
        wires.append(pair)
    now = 0.0
    for _ in range(packets):
        end, pair = rng.choice(((stream.a, wires[0]), (stream.b, wires[1])))
        now += rng.random() * 0.2
        kind = rng.randrange(2)
        pair[kind].coming.append((mutate(rng.choice(seeds()), rng), rng.choice(SOURCES)))
        port = end.rtcp_port if kind else end.rtp_port
        assert port is not None
        if kind:
            forwarder.receive_rtcp(port, now)
        else:
            assert forwarder.receive(port, now)
    for end, pair in ((stream.a, wires[1]), (stream.b, wires[0])):
        counted = end.reception.packets
        assert end.forwarded <= counted and (end.receive or end.forwarded == 0)
        assert end.secure is None or counted == end.rtcp_packets == 0, "nobody had the key"
        assert len(pair[0].sent) + len(pair[1].sent) <= end.forwarded + end.rtcp_packets
        assert all(target in SOURCES for _, target in pair[0].sent + pair[1].sent)


def run(seconds: float, seed: int) -> int:
    """Fuzz for a while; the number of rounds."""
    rng = random.Random(seed)
    rounds = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(50):
            check_rtcp(mutate(rng.choice(seeds()), rng))
        check_stream(rng, rng.randrange(200))
        check_forwarder(rng, rng.randrange(200))
        rounds += 1
    return rounds


if __name__ == "__main__":
    chosen = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {chosen}")
    print(f"{run(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, chosen)} rounds")
