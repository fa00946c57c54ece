"""What was on the wire of one side: SIP messages and RTP out of a tcpdump file, and the search for foreign words.

The file is read here and not by tshark: the search must see every byte of every packet, not only what a
dissector understands.
"""

import array
import ipaddress
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import Namespaces, Process
from tests.lab.sound import from_alaw, from_ulaw

UDP = 17
TCP = 6


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet that carries UDP or TCP."""

    at: float
    protocol: int
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


class Capture:
    """tcpdump on one namespace, from `start` to `stop`; then the packets can be read."""

    def __init__(self, namespaces: Namespaces, namespace: str) -> None:
        self.file = namespaces.directory / f"{namespace}.pcap"
        self._process: Process = namespaces.start(
            namespace,
            f"tcpdump-{namespace}",
            # -U: packets are written as they come; -Z root: tcpdump must not give up the right to write here.
            [
                "tcpdump",
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-B",
                "8192",
                "-s",
                "0",
                "-i",
                "eth0",
                "-w",
                str(self.file),
            ],
        )
        self._process.await_text("listening on")

    def stop(self) -> "Capture":
        """End the recording, after the packets on their way."""
        time.sleep(0.2)
        self._process.stop(2)
        return self

    def packets(self) -> list[Packet]:
        """Every UDP and TCP packet of the recording."""
        return list(read_pcap(self.file))

    def messages(self) -> list[str]:
        """The SIP messages, a TCP segment counted as one."""
        return [
            packet.payload.decode(errors="replace")
            for packet in self.packets()
            if b"SIP/2.0" in packet.payload[:2000]
        ]

    def audio(self, destination: str) -> "array.array[int]":
        """The samples of all G.711 packets to an address, in the order of their arrival."""
        samples: array.array[int] = array.array("h")
        for packet in self.packets():
            if packet.protocol != UDP or packet.destination[0] != destination:
                continue
            payload = packet.payload
            if len(payload) < 12 or payload[0] >> 6 != 2 or 192 <= payload[1] <= 223:
                continue
            body = payload[12 + 4 * (payload[0] & 0x0F) :]
            match payload[1] & 0x7F:
                case 0:
                    samples.extend(from_ulaw(body))
                case 8:
                    samples.extend(from_alaw(body))
        return samples


# What names one side to the other. Session ids and user names of SDP are as telling as addresses.
_SECRETS = (
    re.compile(r"^(?:Call-ID|i)[ \t]*:[ \t]*(\S+)", re.M | re.I),
    re.compile(r"^(?:User-Agent|Server)[ \t]*:[ \t]*([^\r\n]+?)[ \t]*\r?$", re.M | re.I),
    re.compile(r";tag=([^;\s>]+)", re.I),
    re.compile(r";branch=([^;,\s]+)", re.I),
    re.compile(r"^o=\S+ (\d{5,}) ", re.M),
)


def secrets_of(messages: list[str]) -> set[str]:
    """Call-IDs, tags, branches, user agents and SDP session ids of one side's messages."""
    found: set[str] = set()
    for message in messages:
        for pattern in _SECRETS:
            found.update(match for match in pattern.findall(message) if len(match) >= 4)
    return found


def leaks(packets: list[Packet], secrets: set[str]) -> list[str]:
    """Which of the other side's secrets occur in these packets, each with where it was found first."""
    found: list[str] = []
    for secret in sorted(secrets):
        # 10.0.0.1 occurs in 10.0.0.12: an address counts only as a whole.
        pattern = re.compile(rb"(?<![\w.:])" + re.escape(secret.encode()) + rb"(?![\w])", re.I)
        for packet in packets:
            match = pattern.search(packet.payload)
            if match:
                begin = max(0, match.start() - 60)
                context = packet.payload[begin : match.end() + 20].decode(errors="replace")
                found.append(f"{secret!r} in a packet to {packet.destination}: ...{context!r}...")
                break
    return found


def read_pcap(file: Path) -> Iterator[Packet]:
    """The packets of a pcap file with Ethernet frames."""
    data = file.read_bytes()
    if len(data) < 24:
        return
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, length, _ = struct.unpack_from(f"{order}IIII", data, at)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        packet = _packet(seconds + fraction / 1e6, frame)
        if packet is not None:
            yield packet


def _packet(at: float, frame: bytes) -> Packet | None:
    kind, ip = frame[12:14], frame[14:]
    if kind == b"\x08\x00" and len(ip) >= 20:
        header = (ip[0] & 0x0F) * 4
        protocol = ip[9]
        source, destination = _v4(ip[12:16]), _v4(ip[16:20])
        body = ip[header : int.from_bytes(ip[2:4], "big")]
    elif kind == b"\x86\xdd" and len(ip) >= 40:
        protocol = ip[6]
        source, destination = _v6(ip[8:24]), _v6(ip[24:40])
        body = ip[40 : 40 + int.from_bytes(ip[4:6], "big")]
    else:
        return None
    if protocol not in (UDP, TCP) or len(body) < 8:
        return None
    ports = struct.unpack_from("!HH", body)
    payload = body[8:] if protocol == UDP else body[(body[12] >> 4) * 4 :]
    return Packet(at, protocol, (source, ports[0]), (destination, ports[1]), payload)


def _v4(octets: bytes) -> str:
    return ".".join(str(octet) for octet in octets)


def _v6(octets: bytes) -> str:
    return str(ipaddress.IPv6Address(octets))
