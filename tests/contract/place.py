"""Where the contract suite runs: on loopback, or for the kernel path in two namespaces with a cable between them.

Loopback cannot be redirected from, so for the kernel path the test process moves into the namespace of the border, and
only the peers' sockets are made in the other one. Tests name hosts as on loopback; `at` says what they are.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

from media.fastpath import bpf
from media.fastpath.loader import survey
from tests.harness.netns import inside, ip

BORDER = f"contract{os.getpid()}-border"
PEERS = f"contract{os.getpid()}-peers"

OURS, OURS6 = "10.99.0.1", "fd99::1"
# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17

_NUMBERS = (1, 2, 3, 4, 66, 67)

# What a test calls a host, and the host of a peer behind the cable.
_HOSTS = {f"127.0.0.{number}": f"10.99.0.{100 + number}" for number in _NUMBERS} | {
    "::1": "fd99::101",
    "::2": "fd99::102",
}


def build() -> None:
    """Make the namespaces."""
    for name in (BORDER, PEERS):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "cable", "netns", BORDER, "type", "veth", "peer", "name", "cable", "netns", PEERS)
    ip("-n", BORDER, "address", "add", f"{OURS}/24", "dev", "cable")
    ip("-n", BORDER, "address", "add", f"{OURS6}/64", "dev", "cable", "nodad")
    for host in _HOSTS.values():
        length, flags = ("64", ["nodad"]) if ":" in host else ("24", [])
        ip("-n", PEERS, "address", "add", f"{host}/{length}", "dev", "cable", *flags)
    for name in (BORDER, PEERS):
        ip("-n", name, "link", "set", "cable", "up")
    with inside(BORDER):
        _sum_up("cable")
        _meet(list(_HOSTS.values()))


def _meet(hosts: list[str]) -> None:
    """Wait until the neighbours are known: for a second after a link comes up, questions for them may be lost."""
    deadline = time.monotonic() + 20
    for host in hosts:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while "lladdr" not in _neighbour(host):
                assert time.monotonic() < deadline, f"{host} does not answer"
                sock.sendto(b"", (host, 9))
                time.sleep(0.02)


def _neighbour(host: str) -> str:
    shown = subprocess.run(["ip", "neighbour", "show", host], capture_output=True, text=True, check=True)
    return shown.stdout


def _sum_up(device: str) -> None:
    """No checksum offload on what leaves by a device (ethtool -K tx off).

    A cable between namespaces passes packets on without any checksum, and nobody would notice a wrong one. Now it is
    computed where they leave, and the peers check it.
    """
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
    request = struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)


def remove() -> None:
    """Remove them, as far as they are there."""
    for name in (BORDER, PEERS):
        if os.path.exists(f"/run/netns/{name}"):
            ip("netns", "del", name)


def at(make: str, host: str) -> str:
    """The host that a test calls `host`."""
    return _HOSTS.get(host, host) if make == "kernel" else host


def ours(host: str) -> str:
    """Our address towards a peer."""
    if host not in _HOSTS.values():
        return host
    return OURS6 if ":" in host else OURS


@contextlib.contextmanager
def among_peers(make: str) -> Iterator[None]:
    """Sockets made here are those of peers."""
    if make == "kernel":
        with inside(PEERS):
            yield
    else:
        yield


def programs() -> str:
    """What is attached to the cable's end in this namespace, as ip(8) and tc(8) tell it."""
    shown = subprocess.run(
        ["tc", "filter", "show", "dev", "cable", "ingress"], capture_output=True, text=True, check=True
    )
    return shown.stdout


def handles() -> list[str]:
    """By what tc(8) tells our filters there apart."""
    return re.findall(r"handle (0x[0-9a-f]+) sbc_rtp", programs())


def attached() -> int:
    """How many programs there are on the ingress of the cable."""
    ((interface,), _) = survey([OURS])
    return bpf.attached(interface.ifindex)
