"""Routes, addresses and their changes, asked of the kernel in a namespace of the test's own."""

import os
import time
from collections.abc import Iterator

import pytest

from media.fastpath import ways
from media.fastpath.loader import survey
from media.fastpath.netlink import Address, Hop, Netlink, canonical, owner_of
from media.fastpath.ways import Ways
from tests.harness.netns import inside, ip
from tests.lab.namespaces import obstacle

NAME = f"netlink{os.getpid()}"


def find(known: Ways, local: str, remote: str) -> Hop | str:
    """The way of a packet between any two ports."""
    return known.find((local, 20000), (remote, 4000))


@pytest.fixture
def net() -> Iterator[int]:
    """A namespace with an Ethernet device `out` (its far end in the same place); the test is in it. Its index."""
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    ip("netns", "add", NAME)
    try:
        ip("-n", NAME, "link", "set", "lo", "up")
        ip("-n", NAME, "link", "add", "out", "type", "veth", "peer", "name", "far")
        ip("-n", NAME, "address", "add", "192.0.2.1/24", "dev", "out")
        ip("-n", NAME, "address", "add", "2001:db8::1/64", "dev", "out", "nodad")
        for device in ("out", "far"):
            ip("-n", NAME, "link", "set", device, "up")
        with inside(NAME):
            netlink = Netlink()
            yield netlink.owners()["192.0.2.1"]
            netlink.close()
    finally:
        ip("netns", "del", NAME)


def test_a_neighbour_is_its_own_next_hop(net: int) -> None:
    assert find(Ways(), "192.0.2.1", "192.0.2.9") == Hop(net, "192.0.2.9", 1500)
    assert find(Ways(), "2001:db8::1", "2001:db8::9") == Hop(net, "2001:db8::9", 1500)


def test_a_gateway_is_the_next_hop(net: int) -> None:
    ip("-n", NAME, "route", "add", "default", "via", "192.0.2.254")
    ip("-n", NAME, "-6", "route", "add", "default", "via", "2001:db8::ff", "mtu", "1280")
    assert find(Ways(), "192.0.2.1", "198.51.100.7") == Hop(net, "192.0.2.254", 1500)
    assert find(Ways(), "2001:db8::1", "2001:db8:1::7") == Hop(net, "2001:db8::ff", 1280)


def test_the_gateway_of_an_ipv4_route_may_be_ipv6(net: int) -> None:
    """RFC 5549."""
    ip("-n", NAME, "route", "add", "198.51.100.0/24", "via", "inet6", "2001:db8::ff", "dev", "out")
    assert find(Ways(), "192.0.2.1", "198.51.100.7") == Hop(net, "2001:db8::ff", 1500)


def test_policy_routing_goes_by_our_address(net: int) -> None:
    ip("-n", NAME, "address", "add", "192.0.2.2/24", "dev", "out")
    ip("-n", NAME, "route", "add", "default", "via", "192.0.2.253", "table", "7")
    ip("-n", NAME, "rule", "add", "from", "192.0.2.2", "table", "7")
    assert find(Ways(), "192.0.2.2", "198.51.100.7") == Hop(net, "192.0.2.253", 1500)
    assert (
        find(Ways(), "192.0.2.1", "198.51.100.7")
        == "no route to 198.51.100.7 ([Errno 101] Network is unreachable)"
    )


def test_policy_routing_goes_by_dscp_protocol_and_ports(net: int) -> None:
    """As the routes of sockets do: with their type of service, and where any rule asks for ports with those."""
    for number, gateway in ((7, "192.0.2.253"), (8, "192.0.2.254")):
        ip("-n", NAME, "route", "add", "default", "via", gateway, "table", str(number))
    ip("-n", NAME, "rule", "add", "tos", "0x18", "table", "7")
    remote = ("198.51.100.7", 4000)
    assert Ways(0xB8).find(("192.0.2.1", 20000), remote) == Hop(net, "192.0.2.253", 1500)
    plain = Ways()
    assert str(plain.find(("192.0.2.1", 20000), remote)).startswith("no route to 198.51.100.7")
    ip("-n", NAME, "rule", "add", "ipproto", "udp", "sport", "20000-20999", "dport", "4000", "table", "8")
    deadline = time.monotonic() + 5
    while not plain.changed():
        assert time.monotonic() < deadline
    assert plain.find(("192.0.2.1", 20000), remote) == Hop(net, "192.0.2.254", 1500)
    for local, other in ((21000, 4000), (20000, 4002)):
        assert str(plain.find(("192.0.2.1", local), ("198.51.100.7", other))).startswith("no route")
    ip("-n", NAME, "rule", "add", "ipproto", "tcp", "table", "7")
    ip("-n", NAME, "rule", "del", "ipproto", "udp", "sport", "20000-20999", "dport", "4000", "table", "8")
    while not isinstance(plain.find(("192.0.2.1", 20000), remote), str):
        plain.changed()
        assert time.monotonic() < deadline


def test_ways_go_by_ports_only_where_a_rule_does(net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def route(_: Netlink, local: Address, remote: Address, tos: int, ports: bool) -> Hop:
        asked.append(ports)
        return Hop(net, remote[0], 1500)

    monkeypatch.setattr(Netlink, "route", route)
    known = Ways()
    for number in range(50):
        known.find(("192.0.2.1", 20000 + number), ("192.0.2.9", 4000))
    assert asked == [False]
    ip("-n", NAME, "-6", "rule", "add", "dport", "4000", "table", "7")
    deadline = time.monotonic() + 5
    while not known.changed():
        assert time.monotonic() < deadline
    for number in range(50):
        known.find(("192.0.2.1", 20000 + number), ("192.0.2.9", 4000))
    assert asked == [False, *[True] * 50]
    # Likewise where ports choose between several routes.
    monkeypatch.setattr(Netlink, "rules_of_ports", lambda _: False)
    asked.clear()
    with open("/proc/sys/net/ipv4/fib_multipath_hash_policy", "w") as file:
        file.write("1")
    Ways().find(("192.0.2.1", 20000), ("192.0.2.9", 4000))
    assert asked == [True]


@pytest.mark.parametrize(
    ("local", "remote", "reason"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1 is this machine itself"),
        ("192.0.2.1", "127.0.0.1", "127.0.0.1 is this machine itself"),
        ("127.0.0.1", "127.0.0.2", "127.0.0.2 is this machine itself"),
        ("192.0.2.1", "192.0.2.255", "no unicast route to 192.0.2.255"),
        ("192.0.2.1", "224.0.0.1", "no unicast route to 224.0.0.1"),
        ("192.0.2.77", "192.0.2.9", "no interface has the address 192.0.2.77"),
        ("2001:db8::1", "::1", "::1 is this machine itself"),
    ],
)
def test_other_ways_are_told_why_not(net: int, local: str, remote: str, reason: str) -> None:
    assert find(Ways(), local, remote) == reason


def test_a_blackhole_is_no_way(net: int) -> None:
    ip("-n", NAME, "route", "add", "blackhole", "198.51.100.0/24")
    assert str(find(Ways(), "192.0.2.1", "198.51.100.7")).startswith("no route to 198.51.100.7")


def test_ways_are_remembered_until_something_changes(net: int) -> None:
    known = Ways()
    before = find(known, "192.0.2.1", "192.0.2.9")
    assert not known.changed()
    ip("-n", NAME, "link", "set", "out", "mtu", "900")
    deadline = time.monotonic() + 5
    while not known.changed():
        assert find(known, "192.0.2.1", "192.0.2.9") == before
        assert time.monotonic() < deadline
    assert find(known, "192.0.2.1", "192.0.2.9") == Hop(net, "192.0.2.9", 900)
    assert not known.changed()
    known.close()


def test_all_ways_are_asked_for_again_in_turn(net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a router told of its MTU is a change that nobody is notified of."""
    known = Ways()
    hosts = [f"192.0.2.{number}" for number in range(2, 92)]
    for host in hosts:
        find(known, "192.0.2.1", host)
    known.changed()
    monkeypatch.setattr(known._changes, "happened", lambda: False)
    asked: list[str] = []

    def route(_: Netlink, local: Address, remote: Address, tos: int, ports: bool) -> Hop:
        asked.append(remote[0])
        return Hop(net, remote[0], 576)

    monkeypatch.setattr(Netlink, "route", route)
    rounds = [known.changed() for _ in range(ways.ROUNDS)]
    assert rounds[0] and set(asked) == set(hosts)
    assert len(asked) <= 4 * ways.ROUNDS
    assert find(known, "192.0.2.1", hosts[0]) == Hop(net, hosts[0], 576)


def test_a_change_of_routes_is_dealt_with_in_parts(net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MAX_ASKED", 40)
    known = Ways()
    hosts = [f"192.0.2.{number}" for number in range(2, 102)]
    for host in hosts:
        find(known, "192.0.2.1", host)
    ip("-n", NAME, "link", "set", "out", "mtu", "900")
    rounds = 0
    while any(way.mtu != 900 for way in known._known.values() if isinstance(way, Hop)):
        known.changed()
        rounds += 1
        assert rounds < 50
    assert rounds >= 3


def test_a_multitude_of_peers_is_not_remembered(net: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "MAX_WAYS", 50)
    known = Ways()
    for number in range(1, 200):
        assert isinstance(find(known, "192.0.2.1", f"192.0.2.{1 + number}"), Hop)
        assert len(known._known) <= 50


def test_interfaces_are_found_by_any_spelling_of_an_address(net: int) -> None:
    suited, without = survey(["2001:DB8:0:0::1", "192.0.2.1"])
    assert ([interface.name for interface in suited], without) == (["out"], [])
    assert canonical("2001:DB8:0:0::1") == "2001:db8::1"


def test_all_of_127_is_on_the_loopback() -> None:
    """It lists 127.0.0.1 alone; another interface may have one of them for itself."""
    owners = {"127.0.0.1": 1, "127.0.9.9": 4, "192.0.2.1": 2}
    found = [owner_of(owners, host) for host in ("127.0.1.1", "127.0.9.9", "192.0.2.1", "192.0.2.2", "::1")]
    assert found == [1, 4, 2, 0, 0]
    assert owner_of({}, "127.0.1.1") == 0, "a namespace whose loopback is down has none of them"
