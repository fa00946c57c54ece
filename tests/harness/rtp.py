"""A small RTP endpoint for tests: paced sending, a PCMU tone, tone detection by Goertzel, RTCP reports."""

import asyncio
import math
import socket
import struct
from collections.abc import Collection, Sequence

Address = tuple[str, int]

RATE_HZ = 8000
FRAME_SAMPLES = 160
PTIME_S = 0.02
_HEADER = struct.Struct("!BBHII")
_NTP_UNIX_S = 2208988800


def rtp_packet(
    seq: int,
    timestamp: int,
    ssrc: int,
    payload: bytes = bytes(160),
    payload_type: int = 0,
    marker: bool = False,
) -> bytes:
    """One RTP packet (RFC 3550 s.5.1)."""
    second = payload_type | (0x80 if marker else 0)
    return _HEADER.pack(0x80, second, seq & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def sender_report(ssrc: int, ntp_s: float, blocks: Sequence[bytes] = (), cname: bytes = b"") -> bytes:
    """A sender report, with an SDES CNAME where given (RFC 3550 s.6.4.1, s.6.5)."""
    ntp = int((ntp_s + _NTP_UNIX_S) * 65536) << 16
    body = struct.pack("!IQIII", ssrc, ntp & 0xFFFFFFFFFFFFFFFF, 0, 0, 0) + b"".join(blocks)
    return _report(200, len(blocks), body) + (description(ssrc, cname) if cname else b"")


def receiver_report(ssrc: int, blocks: Sequence[bytes] = (), cname: bytes = b"") -> bytes:
    """A receiver report, with an SDES CNAME where given (RFC 3550 s.6.4.2)."""
    body = struct.pack("!I", ssrc) + b"".join(blocks)
    return _report(201, len(blocks), body) + (description(ssrc, cname) if cname else b"")


def report_block(ssrc: int, lsr: int = 0, dlsr_s: float = 0.0, lost: int = 0) -> bytes:
    """A report block about `ssrc`; `lsr` is the NTP middle of the sender report that it answers."""
    return struct.pack("!IIIIII", ssrc, lost & 0xFFFFFF, 0, 0, lsr, int(dlsr_s * 65536))


def ntp_middle(ntp_s: float) -> int:
    """The middle 32 bits of an NTP timestamp, as LSR carries them."""
    return int((ntp_s + _NTP_UNIX_S) * 65536) & 0xFFFFFFFF


def description(ssrc: int, cname: bytes) -> bytes:
    """An SDES packet with one chunk."""
    chunk = struct.pack("!I", ssrc) + bytes((1, len(cname))) + cname
    chunk += bytes(4 - len(chunk) % 4)
    return _report(202, 1, chunk)


def _report(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


# G.711 mu-law


def encode_pcmu(samples: Sequence[int]) -> bytes:
    """16-bit samples as PCMU."""
    encoded = bytearray()
    for sample in samples:
        sign = 0x80 if sample < 0 else 0
        magnitude = min(abs(sample), 32635) + 132
        exponent = magnitude.bit_length() - 8
        encoded.append(~(sign | exponent << 4 | magnitude >> (exponent + 3) & 0x0F) & 0xFF)
    return bytes(encoded)


def decode_pcmu(data: bytes) -> list[int]:
    """PCMU as 16-bit samples."""
    return [_DECODED[byte] for byte in data]


def _decode_byte(byte: int) -> int:
    byte = ~byte & 0xFF
    magnitude = (((byte & 0x0F) << 3) + 132 << (byte >> 4 & 7)) - 132
    return -magnitude if byte & 0x80 else magnitude


_DECODED = [_decode_byte(byte) for byte in range(256)]


class Tone:
    """A sine as PCMU frames of 20 ms, in phase from one frame to the next."""

    def __init__(self, hz: float, amplitude: int = 12000) -> None:
        self._step = 2 * math.pi * hz / RATE_HZ
        self._amplitude = amplitude
        self._at = 0

    def frame(self) -> bytes:
        """The next 160 samples."""
        first, self._at = self._at, self._at + FRAME_SAMPLES
        return encode_pcmu([int(self._amplitude * math.sin(self._step * n)) for n in range(first, self._at)])


def tone_share(payload: bytes, hz: float) -> float:
    """The share of the power of PCMU audio that lies at `hz`, 0 to 1 (Goertzel)."""
    samples = decode_pcmu(payload)
    power = sum(sample * sample for sample in samples)
    if not samples or not power:
        return 0.0
    coefficient = 2 * math.cos(2 * math.pi * hz / RATE_HZ)
    before = last = 0.0
    for sample in samples:
        before, last = last, sample + coefficient * last - before
    at_hz = last * last + before * before - coefficient * last * before
    return 2 * at_hz / (len(samples) * power)


def has_tone(payload: bytes, hz: float) -> bool:
    """Whether most of what can be heard is a tone of `hz`."""
    return tone_share(payload, hz) > 0.5


class RtpPeer:
    """A phone's media side: an RTP and an RTCP socket, what came, and a counter of what went."""

    def __init__(self, host: str = "127.0.0.1", ssrc: int = 0x1234, payload_type: int = 0) -> None:
        self.ssrc = ssrc
        self.payload_type = payload_type
        self.seq = 1000
        self.timestamp = 50000
        self.received: list[tuple[bytes, Address]] = []
        self.received_rtcp: list[tuple[bytes, Address]] = []
        self._loop = asyncio.get_running_loop()
        self.rtp = _bound(host)
        self.rtcp = _bound(host)
        self._loop.add_reader(self.rtp, self._read, self.rtp, self.received)
        self._loop.add_reader(self.rtcp, self._read, self.rtcp, self.received_rtcp)

    @property
    def address(self) -> Address:
        """Where RTP to this peer goes."""
        return _address(self.rtp)

    @property
    def rtcp_address(self) -> Address:
        """Where RTCP to this peer goes."""
        return _address(self.rtcp)

    def send(self, target: Address, payload: bytes = bytes(160)) -> bytes:
        """Send the next packet in sequence; returns it."""
        packet = rtp_packet(self.seq, self.timestamp, self.ssrc, payload, self.payload_type)
        self.skip(1)
        self.rtp.sendto(packet, target)
        return packet

    def skip(self, packets: int) -> None:
        """Go on in sequence without sending: the network has lost them."""
        self.seq = (self.seq + packets) & 0xFFFF
        self.timestamp = (self.timestamp + packets * FRAME_SAMPLES) & 0xFFFFFFFF

    async def stream(
        self,
        target: Address,
        packets: int,
        interval_s: float = 0.002,
        tone: Tone | None = None,
        lost: Collection[int] = (),
    ) -> None:
        """Send `packets` at a steady pace; those whose index is in `lost` only take their sequence number."""
        start = self._loop.time()
        for index in range(packets):
            if index in lost:
                self.skip(1)
            else:
                self.send(target, tone.frame() if tone is not None else bytes(160))
            await asyncio.sleep(max(0.0, start + (index + 1) * interval_s - self._loop.time()))

    def audio(self) -> bytes:
        """The payloads received so far, in order of arrival."""
        return b"".join(packet[12:] for packet, _ in self.received)

    def close(self) -> None:
        """Close both sockets."""
        for sock in (self.rtp, self.rtcp):
            self._loop.remove_reader(sock)
            sock.close()

    @staticmethod
    def _read(sock: socket.socket, into: list[tuple[bytes, Address]]) -> None:
        while True:
            try:
                data, address = sock.recvfrom(65536)
            except OSError:
                return
            into.append((data, (address[0], address[1])))


def _bound(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


def _address(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port
