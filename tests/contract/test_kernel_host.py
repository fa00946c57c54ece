"""The kernel path and the rest of the host: IPsec policies, routing rules, queues, tags, and what policy keeps out."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from media.fastpath import bpf, elf, ipsec
from media.fastpath.loader import FastPath
from media.fastpath.offload import IPSEC, UNKNOWN_IPSEC, priority
from media.relay import Layer, WorkerRestarted
from tests.contract import place
from tests.contract.relays import Bench, bench, end_for, kernel, rtp_of
from tests.contract.speech import EVENTS, descend, descended, numbers, talk
from tests.harness import fastpath
from tests.harness.netns import inside, ip
from tests.harness.rtp import RtpPeer, receiver_report, rtp_packet
from tests.media.fastpath.kernel import frame

# linux/socket.h, linux/if_packet.h
SOL_PACKET = 263
PACKET_AUXDATA = 8
VLAN_VALID = 1 << 4


async def forwarded(under_test: Bench, stream: int) -> int:
    """Packets of end a that the kernel has forwarded so far."""
    return (await under_test.counters(stream, "a")).in_kernel


# IPsec


@contextlib.contextmanager
def policy(
    direction: str, source: str, target: str, *more: str, asks: bool = True, priority: int = 0
) -> Iterator[None]:
    """An IPsec policy. One that asks has no keys: what it holds for cannot leave, and is not taken in clear."""
    selector = ["src", source, "dst", target, *more, "dir", direction]
    gateway = place.OURS6 if ":" in target else place.OURS
    template = ["tmpl", "src", gateway, "dst", gateway, "proto", "esp", "mode", "transport"] if asks else []
    ip("-n", place.BORDER, "xfrm", "policy", "add", *selector, "priority", str(priority), *template)
    try:
        yield
    finally:
        ip("-n", place.BORDER, "xfrm", "policy", "delete", *selector)


@kernel
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_policy_that_comes_later_is_heeded(make: str, direction: str) -> None:
    """Nothing leaves in clear that must not, and nothing comes in; when the policy is gone the kernel has it again."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "127.0.0.2", "127.0.0.3")
            who = {"out": (place.OURS, bob.address[0]), "in": (alice.address[0], place.OURS)}[direction]
            with policy(direction, *who):
                await under_test.until(lambda: under_test.happened(Layer)[-1].reason == IPSEC)
                before, heard = await forwarded(under_test, stream), len(bob.received)
                await alice.stream(rtp_of(a), 30)
                await under_test.settle()
                assert (await forwarded(under_test, stream), len(bob.received)) == (before, heard)
            # What is asked of one direction keeps that one up, and Bob was heard all the time.
            await descend(under_test, alice, a, bob, b, stream)
            await talk(alice, a, bob, b, 30)
            await asyncio.sleep(1.2)
            await talk(alice, a, bob, b, 30)
            assert await forwarded(under_test, stream) > before
            assert under_test.happened(Layer)[-1].reason == ""

    asyncio.run(call())


@kernel
def test_policies_for_others_do_no_harm(make: str) -> None:
    async def call() -> None:
        with (
            policy("out", place.OURS, "192.0.2.9"),
            policy("out", "192.0.2.0/24", "198.51.100.0/24"),
            policy("in", "0.0.0.0/0", place.OURS, "proto", "tcp"),
            policy(
                "out", place.OURS, place.at(make, "127.0.0.3"), "proto", "udp", "sport", "500", "dport", "500"
            ),
            policy("out", "fd99::/64", "fd99::/64"),
        ):
            async with bench(make) as under_test:
                await descended(under_test, "127.0.0.2", "127.0.0.3")

    asyncio.run(call())


@kernel
def test_a_policy_that_comes_first_and_asks_nothing_exempts_its_packets(make: str) -> None:
    """A tunnel for everything, and the networks of the parties are let out of it; then no longer."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between("127.0.0.2", "127.0.0.3")
            ways = {"out": (place.OURS, "0.0.0.0/0"), "in": ("0.0.0.0/0", place.OURS)}
            with contextlib.ExitStack() as stack:
                for direction, who in ways.items():
                    stack.enter_context(policy(direction, *who, "proto", "udp", priority=20))
                with contextlib.ExitStack() as exemptions:
                    for direction, who in ways.items():
                        exemptions.enter_context(policy(direction, *who, asks=False, priority=10))
                    await descend(under_test, alice, a, bob, b, stream)
                    await talk(alice, a, bob, b, 30)
                await under_test.until(lambda: under_test.happened(Layer)[-1].reason == IPSEC)

    asyncio.run(call())


@kernel
def test_one_policy_for_ports_is_for_the_streams_that_have_them(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            ends = [(end_for(alice), end_for(bob)) for _ in range(2)]
            port = str(rtp_of(ends[0][1])[1])
            with policy("out", place.OURS, bob.address[0], "proto", "udp", "sport", port):
                kept, free = [await under_test.open(*pair) for pair in ends]
                await descend(under_test, alice, ends[1][0], bob, ends[1][1], free)
                await talk(alice, ends[0][0], bob, ends[0][1], 20)
                await under_test.settle()
                assert await forwarded(under_test, kept) == 0
            assert {each.stream: each.reason for each in under_test.happened(Layer)} == {
                kept: IPSEC,
                free: "",
            }

    asyncio.run(call())


@kernel
def test_where_all_that_no_policy_allows_is_blocked_nothing_is_left_to_the_kernel(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "127.0.0.2", "127.0.0.3")
            try:
                ip("-n", place.BORDER, "xfrm", "policy", "setdefault", "out", "block")
                await under_test.until(lambda: under_test.happened(Layer)[-1].reason == UNKNOWN_IPSEC)
            finally:
                ip("-n", place.BORDER, "xfrm", "policy", "setdefault", "out", "accept")
            await descend(under_test, alice, a, bob, b, stream)

    asyncio.run(call())


@kernel
def test_too_many_policies_are_as_good_as_one_for_all(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipsec, "MAX_POLICIES", 2)
    with contextlib.ExitStack() as stack:
        for number in range(3):
            found = ipsec.Policies()
            assert found.found is not None and len(found.found) == number
            found.close()
            stack.enter_context(policy("out", place.OURS, f"192.0.2.{number}"))
        found = ipsec.Policies()
        assert found.found is None
        found.close()


# Routes


@kernel
@pytest.mark.parametrize("selector", ["ipproto udp sport", "tos 0x18"])
def test_a_rule_that_comes_later_is_followed(make: str, selector: str) -> None:
    """Another table with a smaller MTU towards Bob: what is larger must come up to be cut."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "127.0.0.2", "127.0.0.4")
            rule = [*selector.split(), *([str(rtp_of(b)[1])] if "sport" in selector else []), "lookup", "77"]
            route = [f"{bob.address[0]}/32", "dev", "cable", "mtu", "600", "table", "77"]
            await asyncio.to_thread(ip, "-n", place.BORDER, "route", "add", *route)
            await asyncio.to_thread(ip, "-n", place.BORDER, "rule", "add", *rule)
            try:
                await asyncio.sleep(1.5)
                await descend(under_test, alice, a, bob, b, stream)
                before = await forwarded(under_test, stream)
                big = alice.send(rtp_of(a), bytes(900))
                await under_test.settle()
                assert bob.received[-1][0] == big
                assert await forwarded(under_test, stream) == before
            finally:
                await asyncio.to_thread(ip, "-n", place.BORDER, "rule", "del", *rule)
                await asyncio.to_thread(ip, "-n", place.BORDER, "route", "del", *route)

    asyncio.run(call())


# Queues


# Counts what leaves by an interface and is at least 150 bytes long by its priority, modulo 16 (linux/bpf.h: struct
# __sk_buff begins with `len`, `priority` is at 32):
#   r0 = -1; if skb->len < 150 exit; *(r10 - 4) = skb->priority & 15; r0 = lookup(map, r10 - 4); if r0 ++*r0;
#   r0 = -1; exit
COUNT = struct.pack(
    "=" + "BBhi" * 14,
    *(0xB7, 0x00, 0, -1),
    *(0x61, 0x12, 0, 0),
    *(0xA5, 0x02, 12, 150),
    *(0x61, 0x12, 32, 0),
    *(0x57, 0x02, 0, 15),
    *(0x63, 0x2A, -4, 0),
    *(0xBF, 0xA2, 0, 0),
    *(0x07, 0x02, 0, -4),
    *(0x18, 0x01, 0, 0),
    *(0x00, 0x00, 0, 0),
    *(0x85, 0x00, 0, 1),
    *(0x15, 0x00, 2, 0),
    *(0xB7, 0x01, 0, 1),
    *(0xDB, 0x10, 0, 0),
) + struct.pack("=" + "BBhi" * 2, 0xB7, 0x00, 0, -1, 0x95, 0x00, 0, 0)
TCX_EGRESS = 47


@contextlib.contextmanager
def priorities(device: str) -> Iterator[Callable[[], dict[int, int]]]:
    """How many packets of each priority have left by a device of this namespace."""
    by_priority = bpf.create_map(elf.MapDefinition("by_priority", 2, 4, 8, 16, 0))
    program = bpf.load(
        elf.Program(COUNT, ((8 * 8, "by_priority"),), (), b"GPL"), {"by_priority": by_priority}, "count"
    )
    link = bpf._system.run(28, "IIIIII", program, socket.if_nametoindex(device), TCX_EGRESS, 0, 0, 0)

    def told() -> dict[int, int]:
        found = {
            int.from_bytes(key, "little"): int.from_bytes(value, "little")
            for key, value in by_priority.items()
        }
        return {key: count for key, count in found.items() if count}

    try:
        yield told
    finally:
        os.close(link)
        os.close(program)
        by_priority.close()


@kernel
@pytest.mark.parametrize("hosts", [("127.0.0.2", "127.0.0.3"), ("::1", "::2")])
def test_the_queues_on_the_way_out_see_one_priority(make: str, hosts: tuple[str, str]) -> None:
    """Of what the process forwards, and then of what the kernel does."""
    family = socket.AF_INET6 if ":" in hosts[0] else socket.AF_INET

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(hosts[0]), under_test.peer(hosts[1])
            a, b = end_for(alice), end_for(bob)
            with priorities("cable") as told:
                stream = await under_test.open(a, b)
                await descend(under_test, alice, a, bob, b, stream)
                await talk(alice, a, bob, b, 50)
                both = (await under_test.relay.query([stream]))[0]
                assert both.a.forwarded > both.a.in_kernel >= 50
                assert told() == {priority(family, 46 << 2): both.a.forwarded + both.b.forwarded}

    asyncio.run(call())


# Tags


class Wire:
    """Frames of the peers' own making on the cable, and whether those that come have a tag."""

    def __init__(self) -> None:
        with inside(place.PEERS):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._sock.bind(("cable", 0))
            self._ours = _mac()
        with inside(place.BORDER):
            self._theirs = _mac()
        self._sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._sock.setblocking(False)

    def send(self, packet: bytes, tag: int | None = None) -> None:
        """Send a frame of `tests.media.fastpath.kernel` to the border, with an 802.1Q tag."""
        middle = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
        self._sock.send(self._theirs + self._ours + middle + packet[12:])

    def tags(self, port: int) -> list[bool]:
        """Of the frames that came for a UDP port so far: whether each had a tag."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, notes, _, address = self._sock.recvmsg(65536, 256)
                (_, _, note) = notes[0]
                tagged = bool(struct.unpack_from("=I", note)[0] & VLAN_VALID) or data[12:14] == b"\x81\x00"
                if address[2] != socket.PACKET_OUTGOING and data[36:38] == port.to_bytes(2, "big"):
                    found.append(tagged)
        return found

    def close(self) -> None:
        self._sock.close()


def _mac() -> bytes:
    shown = subprocess.run(["ip", "-j", "link", "show", "cable"], capture_output=True, text=True, check=True)
    return bytes.fromhex(json.loads(shown.stdout)[0]["address"].replace(":", ""))


@kernel
def test_tagged_frames(make: str) -> None:
    """802.1Q frames on the wire itself, since this does not need a VLAN device, which not every kernel has.

    A tag with a number is of a VLAN that is not here; tag 0 is only a priority, and does not cross.
    """

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, _, stream = await descended(under_test, "127.0.0.2", "127.0.0.3")
            wire = Wire()
            try:

                def say(tag: int | None) -> None:
                    packet = rtp_packet(alice.seq, alice.timestamp, alice.ssrc)
                    wire.send(frame(alice.address, rtp_of(a), packet), tag)

                before, heard = await forwarded(under_test, stream), len(bob.received)
                say(None)
                alice.skip(1)
                assert (await forwarded(under_test, stream), len(bob.received)) == (before + 1, heard + 1)
                for tag in (100, 0xA064, 4095):
                    say(tag)
                from_a = await under_test.counters(stream, "a")
                assert (from_a.in_kernel, len(bob.received)) == (before + 1, heard + 1)
                wire.tags(0)
                for tag in (0, 0xA000):
                    say(tag)
                    alice.skip(1)
                after = await under_test.counters(stream, "a")
                assert (after.in_kernel, len(bob.received)) == (before + 3, heard + 3)
                assert after.packets == from_a.packets + 2
                assert wire.tags(bob.address[1]) == [False, False]
            finally:
                wire.close()

    asyncio.run(call())


# What policy keeps out of it, and many at once


@kernel
def test_digits_come_up_where_policy_wants_it(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            codecs = ((0, "PCMU", 8000), EVENTS)
            a = replace(end_for(alice), codecs=codecs, events_up=True)
            b = replace(end_for(bob), codecs=codecs)
            stream = await under_test.open(a, b)
            await descend(under_test, alice, a, bob, b, stream)
            for who, end, side, by_kernel in ((alice, a, "a", 0), (bob, b, "b", 8)):
                before = (await under_test.relay.query([stream]))[0]
                who.payload_type = 101
                await who.stream(rtp_of(end), 8)
                who.payload_type = 0
                await under_test.settle()
                after = (await under_test.relay.query([stream]))[0]
                assert getattr(after, side).in_kernel - getattr(before, side).in_kernel == by_kernel
                assert getattr(after, side).forwarded - getattr(before, side).forwarded == 8
            await descend(under_test, alice, a, bob, b, stream)
            assert numbers(bob) == list(range(1000, 1000 + len(bob.received)))

    asyncio.run(call())


STREAMS = 50


@kernel
def test_after_a_crash_many_streams_go_down_again_at_once(make: str) -> None:
    """Each in its order, and none twice."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer("127.0.0.2"), under_test.peer("127.0.0.3")
            ends, streams = [], []
            for _ in range(STREAMS):
                # One after the other, since a port is free for the next until it is bound.
                ends.append((end_for(alice), end_for(bob)))
                streams.append(await under_test.open(*ends[-1]))
            seq = 0

            async def until_down() -> None:
                nonlocal seq
                deadline = time.monotonic() + 30
                while under_test.relay.in_kernel < STREAMS:
                    assert time.monotonic() < deadline, under_test.relay.in_kernel
                    for number, (a, b) in enumerate(ends):
                        packet = rtp_packet(seq, seq * 160, number)
                        alice.rtp.sendto(packet, rtp_of(a))
                        bob.rtp.sendto(packet, rtp_of(b))
                    seq += 1
                    await asyncio.sleep(0.02)

            await until_down()
            pid = under_test.relay.pids[0]
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            assert under_test.relay.in_kernel == 0
            await under_test.settle()
            begun = seq
            await until_down()
            await under_test.settle()
            path = under_test.relay._fastpath
            assert path is not None and len(list(path.flows.items())) == 2 * STREAMS
            for peer in (alice, bob):
                for number in range(STREAMS):
                    heard = [seq for seq, ssrc in _heard(peer) if ssrc == number and seq >= begun]
                    assert heard == sorted(set(heard)) and heard[-1] == seq - 1
            assert len(await under_test.relay.query(streams)) == STREAMS

    asyncio.run(call())


def _heard(peer: RtpPeer) -> list[tuple[int, int]]:
    fields = (struct.unpack_from("!H4xI", packet, 2) for packet, _ in peer.received)
    return [(seq, ssrc) for seq, ssrc in fields]


@kernel
def test_tcpdump_sees_ipv6_come_and_go(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await descended(under_test, "::1", "::2")
            rule = f"udp and (dst port {rtp_of(a)[1]} or src port {rtp_of(b)[1]})"
            dump = await asyncio.create_subprocess_exec(
                *("tcpdump", "-i", "cable", "-n", "-l", "-v", "-c", "40", rule),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert dump.stderr is not None
            await dump.stderr.readline()
            before = await forwarded(under_test, stream)
            await alice.stream(rtp_of(a), 30)
            output, _ = await asyncio.wait_for(dump.communicate(), 20)
            assert await forwarded(under_test, stream) == before + 30
            text = output.decode()
            assert text.count(f"{alice.address[0]}.{alice.address[1]} > {place.OURS6}") == 20
            # Expedited forwarding, and a hop limit of its own.
            sent = [line for line in text.splitlines() if f" > {bob.address[0]}.{bob.address[1]}" in line]
            assert len(sent) == 20 and all("class 0xb8" in line and "hlim 64" in line for line in sent)

    asyncio.run(call())


# IPv6, packet by packet (IPv4: tests/lab/test_fastpath.py)

STUN = struct.pack("!HHI", 1, 0, 0x2112A442) + bytes(12)
# RFC 8200 s.4.6: destination options, of padding only. The kernel fills in the first octet.
OPTIONS = b"\x00\x00\x01\x04" + bytes(4)
IPV6_KINDS: dict[str, tuple[Callable[[int], bytes], str, bool]] = {
    "rtp": (lambda seq: rtp_packet(seq, 0, 6), "in_kernel", True),
    "telephone-event": (lambda seq: rtp_packet(seq, 0, 6, bytes(4), 101), "in_kernel", True),
    "rtp with marker": (lambda seq: rtp_packet(seq, 0, 6, marker=True), "in_kernel", True),
    "stun": (lambda seq: STUN, "other_protocols", False),
    "dtls": (lambda seq: b"\x16\xfe\xfd" + bytes(40), "other_protocols", False),
    "zrtp": (lambda seq: b"\x10\x00\x00\x01ZRTP" + bytes(40), "malformed", False),
    "rtcp on the port of rtp": (lambda seq: receiver_report(6), "malformed", False),
    "rtp version 1": (lambda seq: b"\x40" + rtp_packet(seq, 0, 6)[1:], "malformed", False),
    "too short": (lambda seq: b"\x80\x00\x00", "malformed", False),
    "another port": (lambda seq: rtp_packet(seq, 0, 6), "strangers", False),
    "payload type 96": (lambda seq: rtp_packet(seq, 0, 6, payload_type=96), "forwarded", True),
    "fragments": (lambda seq: rtp_packet(seq, 0, 6, bytes(2500)), "forwarded", True),
    "destination options": (lambda seq: rtp_packet(seq, 0, 6), "forwarded", True),
}
COUNTERS = ("in_kernel", "forwarded", "other_protocols", "malformed", "strangers")


@kernel
def test_every_kind_of_ipv6_packet_goes_where_it_must(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob, other = under_test.peer("::1"), under_test.peer("::2"), under_test.peer("::1")
            codecs = ((0, "PCMU", 8000), EVENTS)
            a, b = replace(end_for(alice), codecs=codecs), replace(end_for(bob), codecs=codecs)
            stream = await under_test.open(a, b)
            for name, (made, counter, arrives) in IPV6_KINDS.items():
                # Down again after what came up.
                deadline = time.monotonic() + 20
                while True:
                    so_far = await forwarded(under_test, stream)
                    await talk(alice, a, bob, b, 2, 0.005)
                    if await forwarded(under_test, stream) == so_far + 2:
                        break
                    assert time.monotonic() < deadline, name
                before, heard = (await under_test.counters(stream, "a")), len(bob.received)
                packet = made(alice.seq)
                who = other if name == "another port" else alice
                if "options" in name:
                    who.rtp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, OPTIONS)
                who.rtp.sendto(packet, rtp_of(a))
                if "options" in name:
                    who.rtp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"")
                after = await under_test.counters(stream, "a")
                changed = {
                    each: getattr(after, each) - getattr(before, each)
                    for each in COUNTERS
                    if getattr(after, each) != getattr(before, each)
                }
                # What the kernel forwards is forwarded as well.
                assert changed == {counter: 1} | ({"forwarded": 1} if counter == "in_kernel" else {}), name
                assert [data for data, _ in bob.received[heard:]] == [packet] * arrives, name

    asyncio.run(call())


@kernel
def test_two_paths_of_one_process_do_not_take_each_other_away(make: str) -> None:
    """A reload that gives media other addresses starts a second one; the first stays for the calls that are on it."""
    first, second = (FastPath([place.OURS], fastpath.loadable(), tcx=False) for _ in range(2))
    assert len(place.handles()) == 2
    first.close()
    assert len(place.handles()) == 1
    third = FastPath([place.OURS], fastpath.loadable(), tcx=False)
    assert len(place.handles()) == 2
    for path in (second, third):
        path.close()
    assert place.handles() == []
