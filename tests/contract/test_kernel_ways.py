"""The kernel path and the machine around it: what tcpdump sees, routes, gateways, devices over devices."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from media.fastpath.loader import FastPath
from media.relay import End, Layer
from media.workers import WorkerRelay
from tests.contract import place
from tests.contract.relays import Bench, bench, end_for, free_pair, kernel, rtp_of
from tests.contract.speech import descend, descended, talk
from tests.harness import fastpath
from tests.harness.netns import ip
from tests.harness.rtp import RtpPeer


@kernel
def test_tcpdump_sees_the_packets_come_and_go(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "127.0.0.2", "127.0.0.3")
            rule = f"udp and (dst port {rtp_of(a)[1]} or src port {rtp_of(b)[1]})"
            dump = await asyncio.create_subprocess_exec(
                "tcpdump",
                "-i",
                "cable",
                "-n",
                "-l",
                "-v",
                "-c",
                "40",
                rule,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert dump.stderr is not None
            await dump.stderr.readline()
            before = (await under_test.counters(stream, "a")).in_kernel
            await alice.stream(rtp_of(a), 30)
            output, _ = await asyncio.wait_for(dump.communicate(), 20)
            assert (await under_test.counters(stream, "a")).in_kernel == before + 30
            text = output.decode()
            assert text.count(f"{alice.address[0]}.{alice.address[1]} > {place.OURS}") == 20
            assert text.count(f" > {bob.address[0]}.{bob.address[1]}") == 20
            # Expedited forwarding, and a time to live of its own.
            assert text.count("tos 0xb8, ttl 64, id 0") >= 20

    asyncio.run(call())


@kernel
def test_a_new_route_is_followed(make: str) -> None:
    """An MTU on the route to Bob: what is larger must come up to be cut, within a second or two of the change."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "127.0.0.2", "127.0.0.4")
            route = ["-n", place.BORDER, "route", "add", f"{bob.address[0]}/32", "dev", "cable", "mtu", "600"]
            await asyncio.to_thread(ip, *route)
            try:
                await asyncio.sleep(1.5)
                await descend(under_test, alice, a, bob, b, stream)
                before = (await under_test.counters(stream, "a")).in_kernel
                big = alice.send(rtp_of(a), bytes(900))
                await under_test.settle()
                assert bob.received[-1][0] == big
                assert (await under_test.counters(stream, "a")).in_kernel == before
            finally:
                await asyncio.to_thread(ip, "-n", place.BORDER, "route", "del", f"{bob.address[0]}/32")

    asyncio.run(call())


@contextlib.contextmanager
def device(kind: str) -> Iterator[tuple[str, str]]:
    """Another device over the cable, in both namespaces, with an address of ours and one of a peer; skips without.

    Of a bridge only the border has one: there the addresses are the bridge's, and the cable is its port.
    """
    over = {
        "macvlan": ["link", "add", "link", "cable", "name", "over", "type", "macvlan", "mode", "bridge"],
        "vlan": ["link", "add", "link", "cable", "name", "over", "type", "vlan", "id", "100"],
    }
    hosts = "10.98.0.1", "10.98.0.2"
    try:
        try:
            for name, host in zip((place.BORDER, place.PEERS), hosts, strict=True):
                ip("-n", name, *over[kind])
                ip("-n", name, "address", "add", f"{host}/24", "dev", "over")
                ip("-n", name, "link", "set", "over", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"machine: no {kind} devices: {error.stderr.strip()}")
        yield hosts
    finally:
        for name in (place.BORDER, place.PEERS):
            subprocess.run(["ip", "-n", name, "link", "del", "over"], capture_output=True, check=False)


@contextlib.asynccontextmanager
async def over_there(
    make: str, ours: str, peers: str, *attached: str, tcx: bool = True
) -> AsyncIterator[tuple[Bench, End, End]]:
    """A relay with the program at the addresses `attached`; the ends of Alice behind the cable, of Bob at `peers`."""
    path = FastPath(list(attached), fastpath.loadable(), tcx)
    relay = WorkerRelay(asyncio.get_running_loop(), 1, fastpath=path)
    under_test = Bench(relay, make)
    try:
        alice = under_test.peer("127.0.0.2")
        with place.among_peers(make):
            bob = RtpPeer(peers)
        under_test.peers.append(bob)
        a = end_for(alice)
        yield (
            under_test,
            a,
            replace(a, local=free_pair(ours), remote=bob.address, remote_rtcp=bob.rtcp_address),
        )
    finally:
        for peer in under_test.peers:
            peer.close()
        await relay.stop()


@kernel
@pytest.mark.parametrize("kind", ["macvlan", "vlan"])
def test_from_one_kind_of_device_to_another(make: str, kind: str) -> None:
    """Alice behind the cable, Bob behind a device over it: two interfaces, of which one may have a tag to put on."""

    async def call(ours: str, peers: str) -> None:
        async with over_there(make, ours, peers, place.OURS, ours) as (under_test, a, b):
            path = under_test.relay._fastpath
            assert path is not None and set(path.interfaces) == {"cable", "over"}
            alice, bob = under_test.peers
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            alice.received.clear()
            bob.received.clear()
            await talk(alice, a, bob, b, 50)
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 50
            assert {source for _, source in bob.received} == {rtp_of(b)}
            assert (await under_test.counters(stream, "b")).in_kernel >= 50

    with device(kind) as (ours, peers):
        asyncio.run(call(ours, peers))


@kernel
@pytest.mark.parametrize("tcx", [True, False])
def test_an_interface_that_vanishes_and_returns_has_the_program_again(make: str, tcx: bool) -> None:
    """It has another index then. Until it does the stream goes nowhere, and the path says which address it misses."""
    border = ["ip", "-n", place.BORDER]

    async def call(ours: str, peers: str) -> None:
        async with over_there(make, ours, peers, place.OURS, ours, tcx=tcx) as (under_test, a, b):
            path = under_test.relay._fastpath
            assert path is not None and path.way == ("tcx" if tcx else "clsact")
            alice, bob = under_test.peers
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            before = path.indexes
            # The same hardware address, so that the peers need not learn another.
            mac = (await run(*border, "link", "show", "over")).split("link/ether ")[1].split()[0]
            await run(*border, "link", "del", "over")
            await under_test.until(lambda: path.interfaces == ("cable",))
            assert list(path.without) == [f"no interface has the address {ours}"]
            await under_test.until(lambda: under_test.happened(Layer)[-1].reason)
            over = f"link add link cable name over address {mac} type macvlan mode bridge"
            await run(*border, *over.split())
            await run(*border, "address", "add", f"{ours}/24", "dev", "over")
            await run(*border, "link", "set", "over", "up")
            await under_test.until(lambda: path.interfaces == ("cable", "over"))
            assert path.indexes != before and not path.without
            so_far = (await under_test.counters(stream, "b")).in_kernel
            for _ in range(300):
                await talk(alice, a, bob, b, 2, 0.01)
                if (await under_test.counters(stream, "b")).in_kernel > so_far:
                    break
            else:
                raise AssertionError(under_test.happened(Layer))
            assert under_test.happened(Layer)[-1].reason == ""

    with device("macvlan") as (ours, peers):
        asyncio.run(call(ours, peers))
    assert "sbc_rtp" not in place.programs()


async def run(*command: str) -> str:
    """What a command says, without a pause for the relay."""
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return done.stdout


@kernel
def test_a_party_behind_an_interface_without_the_program_stays_in_user_space(make: str) -> None:
    async def call(ours: str, peers: str) -> None:
        async with over_there(make, ours, peers, place.OURS) as (under_test, a, b):
            alice, bob = under_test.peers
            await under_test.open(a, b)
            await talk(alice, a, bob, b, 20)
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 20
            (told,) = under_test.happened(Layer)
            assert told.reason == f"the kernel program is not attached to the interface towards {peers}"

    with device("macvlan") as (ours, peers):
        asyncio.run(call(ours, peers))


@kernel
@pytest.mark.parametrize("hop", [["via", "10.99.0.104"], ["via", "inet6", "fd99::102"]])
def test_by_way_of_a_gateway(make: str, hop: list[str]) -> None:
    """A gateway that is the peers' own namespace; of an IPv4 route it may have an IPv6 address (RFC 5549)."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, _ = await descended(under_test, "127.0.0.2", "127.0.0.3")
            bob.received.clear()
            await talk(alice, a, bob, b, 30)
            await under_test.settle()
            assert len(bob.received) == 30

    route = [f"{place.at(make, '127.0.0.3')}/32", *hop, "dev", "cable"]
    ip("-n", place.BORDER, "route", "add", *route)
    try:
        asyncio.run(call())
    finally:
        ip("-n", place.BORDER, "route", "del", *route)
