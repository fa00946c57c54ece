"""The kernel program run on single packets, without an interface (BPF_PROG_TEST_RUN)."""

import socket
import struct
import time

from media.fastpath import bpf, table
from media.fastpath.loader import Loaded
from media.rtp import Reception
from tests.harness.rtp import rtp_packet

Address = tuple[str, int]

PASSED = 0xFFFFFFFF
"""TC_ACT_UNSPEC: to the next program and at last to the socket."""
FORWARDED = 7
"""TC_ACT_REDIRECT."""

US, PEER = ("203.0.113.1", 20000), ("203.0.113.21", 4000)
FAR_US, FAR_PEER = ("10.77.0.1", 30000), ("10.77.0.31", 5000)
US6, PEER6 = ("2001:db8:a::1", 20000), ("2001:db8:a::21", 4000)
FAR_US6, FAR_PEER6 = ("fd77::1", 30000), ("fd77::31", 5000)


class Kernel:
    """The program with one worker's table of flows."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.table = table.FlowTable(loaded.flows, loaded.leases, 3)
        self.table.renew(time.monotonic())

    def put(
        self,
        seen: Reception,
        *,
        six: bool = False,
        allowed: tuple[int, ...] = (0, 101),
        timed: tuple[int, ...] = (0,),
        mtu: int = 1500,
        tos: int = 184,
        incoming: int = 1,
        priority: int = 0,
    ) -> bytes:
        """Forward what comes from PEER to US on to FAR_PEER; the key."""
        us, peer, far_us, far_peer = (US6, PEER6, FAR_US6, FAR_PEER6) if six else (US, PEER, FAR_US, FAR_PEER)
        flow = table.key(us, peer)
        course = table.Course(incoming, far_us, far_peer, far_peer[0], 1, mtu, tos, priority)
        bits = table.bitmap(allowed), table.bitmap(timed)
        self.table.put(table.Entry(flow, course, *bits, 1 / 8000, seen.state()))
        return flow

    def run(self, frame: bytes, gso_bytes: int = 0) -> tuple[int, bytes]:
        """The program's verdict on a frame (of several packets of `gso_bytes`), and the frame after it."""
        done = bpf.test_run(self.loaded.program, frame, gso_bytes=gso_bytes)
        return done.result, done.packet


def reception(packets: int = 1, seq: int = 100, ssrc: int = 0xABCD, payload_type: int = 0) -> Reception:
    """What a relay knows after some packets; the next has sequence number `seq` + `packets`."""
    seen = Reception()
    now = time.monotonic() - 0.02 * packets
    for index in range(packets):
        seen.receive(172, 0x8000 | payload_type, seq + index & 0xFFFF, 160 * index, ssrc, now + 0.02 * index)
    return seen


def ones_complement(data: bytes) -> int:
    """The Internet checksum's sum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(source: str, target: str, udp_bytes: int) -> bytes:
    """RFC 768 and RFC 8200 s.8.1."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    return (
        socket.inet_pton(family, source)
        + socket.inet_pton(family, target)
        + struct.pack("!II", udp_bytes, 17)
    )


def frame(
    source: Address = PEER,
    target: Address = US,
    payload: bytes = rtp_packet(101, 160, 0xABCD),
    *,
    checksum: bool = True,
    ttl: int = 57,
    tos: int = 0x48,
    fragment: int = 0,
    options: bytes = b"",
    protocol: int = 17,
    trailer: bytes = b"",
    udp_length: int | None = None,
    first: int = 0x45,
) -> bytes:
    """An Ethernet frame with a UDP datagram. `fragment` is the fragment field of IPv4, `options` its options."""
    length = 8 + len(payload) if udp_length is None else udp_length
    udp = struct.pack("!HHHH", source[1], target[1], length, 0) + payload
    if checksum:
        total = ~ones_complement(pseudo_header(source[0], target[0], len(udp)) + udp) & 0xFFFF
        udp = udp[:6] + (total or 0xFFFF).to_bytes(2, "big") + udp[8:]
    if ":" in source[0]:
        ip = struct.pack("!IHBB", 0x60000000 | tos << 20 | 0x12345, len(options) + len(udp), protocol, ttl)
        ip += socket.inet_pton(socket.AF_INET6, source[0]) + socket.inet_pton(socket.AF_INET6, target[0])
        return bytes(12) + b"\x86\xdd" + ip + options + udp + trailer
    head = first + len(options) // 4
    size = 20 + len(options) + len(udp)
    ip = struct.pack("!BBHHHBBH", head, tos, size, 0x7777, fragment, ttl, protocol, 0)
    ip += socket.inet_aton(source[0]) + socket.inet_aton(target[0]) + options
    ip = ip[:10] + (~ones_complement(ip) & 0xFFFF).to_bytes(2, "big") + ip[12:]
    return bytes(12) + b"\x08\x00" + ip + udp + trailer


def check_sums(data: bytes) -> None:
    """Asserts that both checksums of a frame without options are right, but for a UDP checksum that is absent."""
    if data[12:14] == b"\x08\x00":
        ip, udp = data[14:34], data[34:]
        assert ones_complement(ip) == 0xFFFF
        source, target = socket.inet_ntoa(ip[12:16]), socket.inet_ntoa(ip[16:20])
        if udp[6:8] == b"\0\0":
            return
    else:
        ip, udp = data[14:54], data[54:]
        source = socket.inet_ntop(socket.AF_INET6, ip[8:24])
        target = socket.inet_ntop(socket.AF_INET6, ip[24:40])
    assert udp[6:8] != b"\0\0"
    assert ones_complement(pseudo_header(source, target, len(udp)) + udp) == 0xFFFF
