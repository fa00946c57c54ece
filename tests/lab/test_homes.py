"""The homes are what they say: what a router does to UDP, seen with plain sockets from both ends."""

import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.homes import HOUSE, Home, Nat, Village
from tests.lab.namespaces import PUBLIC, SIDES, obstacle
from tests.lab.talk import Address, inside, udp

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine_with_routers")]

PORT = 7000


@pytest.fixture(scope="session")
def machine_with_routers(machine: None) -> None:
    """Skips when there is no nftables."""
    reason = obstacle("nft")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def village(machine_with_routers: None, tmp_path: Path) -> Iterator[Village]:
    """An Internet without homes."""
    with Village(tmp_path) as fresh:
        yield fresh


class Net:
    """Sockets of the test: `phone` in a home, `server` and `other` in the Internet."""

    def __init__(self, village: Village, home: Home) -> None:
        self._stack = ExitStack()
        hosts = SIDES[PUBLIC].peers
        self.phone = self._socket(village, home.room(), HOUSE[0])
        self.server = self._socket(village, PUBLIC, hosts[1])
        self.other = self._socket(village, PUBLIC, hosts[2])

    def _socket(self, village: Village, namespace: str, host: str) -> socket.socket:
        sock = inside(village.namespaces, namespace, lambda: udp(host, PORT))
        self._stack.callback(sock.close)
        return sock

    def close(self) -> None:
        """Close all sockets."""
        self._stack.close()


@pytest.fixture
def net(village: Village) -> Iterator[list[Net]]:
    """Nets that the test makes; closed after it."""
    nets: list[Net] = []
    yield nets
    for one in nets:
        one.close()


def got(sock: socket.socket, timeout_s: float = 1.0) -> tuple[bytes, Address] | None:
    """The next datagram and where it came from; None when none comes."""
    ready, _, _ = select.select([sock], [], [], timeout_s)
    if not ready:
        return None
    data, (host, port) = sock.recvfrom(2048)
    return data, (host, port)


def seen(one: socket.socket, other: socket.socket, data: bytes = b"hello") -> Address:
    """Send from one to the other; the address that it is seen from."""
    one.sendto(data, other.getsockname())
    came = got(other)
    assert came is not None and came[0] == data
    return came[1]


def build(village: Village, nets: list[Net], nat: Nat, mapping_s: int | None = None) -> tuple[Home, Net]:
    home = village.home("a", nat, mapping_s)
    nets.append(Net(village, home))
    return home, nets[-1]


@pytest.mark.parametrize("nat", Nat)
def test_answers_come_in_and_nothing_else(village: Village, net: list[Net], nat: Nat) -> None:
    """RFC 4787 s.5: filtering by address and port."""
    home, sockets = build(village, net, nat)
    mapped = seen(sockets.phone, sockets.server)
    assert mapped[0] == home.address
    sockets.server.sendto(b"answer", mapped)
    assert got(sockets.phone) == (b"answer", sockets.server.getsockname())
    sockets.other.sendto(b"stranger", mapped)
    assert got(sockets.phone, 0.2) is None
    elsewhere = inside(village.namespaces, PUBLIC, lambda: udp(SIDES[PUBLIC].peers[1], PORT + 1))
    with elsewhere:
        elsewhere.sendto(b"another port", mapped)
        assert got(sockets.phone, 0.2) is None


def test_a_cone_maps_alike_for_all(village: Village, net: list[Net]) -> None:
    home, sockets = build(village, net, Nat.CONE)
    assert seen(sockets.phone, sockets.server) == (home.address, PORT)
    assert seen(sockets.phone, sockets.other) == (home.address, PORT)


def test_a_symmetric_nat_maps_for_each_by_itself(village: Village, net: list[Net]) -> None:
    home, sockets = build(village, net, Nat.SYMMETRIC)
    one, other = seen(sockets.phone, sockets.server), seen(sockets.phone, sockets.other)
    assert one[0] == other[0] == home.address
    assert len({one[1], other[1], PORT}) == 3


def test_two_phones_with_one_port_get_two(village: Village, net: list[Net]) -> None:
    home, sockets = build(village, net, Nat.CONE)
    second = inside(village.namespaces, home.room(1), lambda: udp(HOUSE[1], PORT))
    with second:
        one, other = seen(sockets.phone, sockets.server), seen(second, sockets.server)
    assert one[0] == other[0] == home.address
    assert one[1] != other[1]


def test_a_mapping_dies_of_silence(village: Village, net: list[Net]) -> None:
    """With the timeout cut from 30 s to 1 s; traffic in time keeps it."""
    _, sockets = build(village, net, Nat.SYMMETRIC, mapping_s=1)
    mapped = seen(sockets.phone, sockets.server)
    for _ in range(3):
        time.sleep(0.6)
        assert seen(sockets.phone, sockets.server) == mapped
    time.sleep(2.5)
    sockets.server.sendto(b"too late", mapped)
    assert got(sockets.phone, 0.2) is None
    assert seen(sockets.phone, sockets.server) != mapped


@pytest.mark.parametrize("keep_address", [False, True])
def test_a_reboot_forgets_all(village: Village, net: list[Net], keep_address: bool) -> None:
    home, sockets = build(village, net, Nat.CONE)
    before = seen(sockets.phone, sockets.server)
    home.reboot(keep_address)
    assert (home.address == before[0]) == keep_address
    sockets.server.sendto(b"nobody knows", before)
    assert got(sockets.phone, 0.2) is None
    assert seen(sockets.phone, sockets.server)[0] == home.address
    sockets.server.sendto(b"again", (home.address, PORT))
    assert got(sockets.phone) is not None


def test_a_blocked_pinhole(village: Village, net: list[Net]) -> None:
    home, sockets = build(village, net, Nat.CONE)
    mapped = seen(sockets.phone, sockets.server)
    home.drop(f'iifname "wan" udp sport {PORT}')
    sockets.server.sendto(b"in", mapped)
    assert got(sockets.phone, 0.2) is None
    assert seen(sockets.phone, sockets.server) == mapped
    home.pass_all()
    sockets.server.sendto(b"in again", mapped)
    assert got(sockets.phone) is not None


def test_homes_do_not_reach_each_other_nor_what_is_private(village: Village) -> None:
    one, other = village.home("a"), village.home("b", Nat.SYMMETRIC)
    with ExitStack() as stack:
        a = stack.enter_context(inside(village.namespaces, one.room(), lambda: udp(HOUSE[0], PORT)))
        b = stack.enter_context(inside(village.namespaces, other.room(), lambda: udp(HOUSE[0], PORT)))
        a.sendto(b"neighbour", (other.address, PORT))
        assert got(b, 0.3) is None
    pinged = subprocess.run(
        village.namespaces.command(one.room(), "ping", "-c1", "-W1", SIDES["private"].border),
        capture_output=True, check=False,
    )  # fmt: skip
    assert pinged.returncode != 0
