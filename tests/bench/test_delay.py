"""The delay that a system adds is read from a recording of both of its sides."""

import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.bench.delay import told

CALLER, OUTSIDE, INSIDE, CALLEE = "127.77.1.2", "127.77.1.1", "127.77.2.1", "127.77.2.2"


def packet(at_ms: float, source: str, destination: str, text: str) -> bytes:
    udp = struct.pack("!HHHH", 5060, 5060, 8 + len(text), 0) + text.encode()
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    frame = (
        bytes(12) + b"\x08\x00" + head + IPv4Address(source).packed + IPv4Address(destination).packed + udp
    )
    return struct.pack("<IIII", 1_700_000_000, round(at_ms * 1000), len(frame), len(frame)) + frame


def recording(path: Path, *packets: bytes) -> Path:
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(packets))
    return path


def call(number: int, at_ms: float, there_ms: float, callee_ms: float, back_ms: float) -> list[bytes]:
    out, within = f"\r\nCall-ID: out{number}\r\n", f"\r\nCall-ID: in{number}\r\n"
    passed = at_ms + there_ms
    rang = passed + callee_ms
    return [
        packet(at_ms, CALLER, OUTSIDE, f"INVITE sip:1@x SIP/2.0{out}"),
        packet(at_ms + 0.1, OUTSIDE, CALLER, f"SIP/2.0 100 Trying{out}"),
        packet(passed, INSIDE, CALLEE, f"INVITE sip:1@y SIP/2.0{within}"),
        packet(rang, CALLEE, INSIDE, f"SIP/2.0 180 Ringing{within}"),
        packet(rang + back_ms, OUTSIDE, CALLER, f"SIP/2.0 180 Ringing{out}"),
        packet(rang + back_ms + 5, OUTSIDE, CALLER, f"SIP/2.0 180 Ringing{out}"),
    ]


def test_the_callees_own_time_is_taken_off(tmp_path: Path) -> None:
    packets = [one for number in range(99) for one in call(number, number * 9, 0.5, 2.0, 0.25)]
    packets += call(99, 950, 6.5, 2.0, 0.25)
    found = told(recording(tmp_path / "x.pcap", *packets), (CALLER, OUTSIDE), (INSIDE, CALLEE), 100)
    assert found.p50 == pytest.approx(0.75, abs=0.01)
    assert 5.0 < found.p99 <= 6.75


def test_a_call_that_did_not_ring_is_no_figure(tmp_path: Path) -> None:
    packets = call(0, 1, 0.5, 2.0, 0.25)[:4]
    with pytest.raises(AssertionError, match="0 of 1"):
        told(recording(tmp_path / "x.pcap", *packets), (CALLER, OUTSIDE), (INSIDE, CALLEE), 1)
