"""SRTP at an end: it is opened and sealed, what is not authentic is nothing, and nothing leaves in the clear."""

import asyncio
import signal
from dataclasses import replace

import pytest
from pylibsrtp import Error, Policy, Session

from media.relay import Learn, SourceLocked, Srtp, WorkerRestarted
from media.srtp import PROFILES
from tests.contract.relays import MAKES, Bench, bench, end_for, rtcp_of, rtp_of
from tests.harness.rtp import Address, RtpPeer, receiver_report, rtp_packet, sender_report

pytestmark = pytest.mark.parametrize("make", MAKES)

HMAC, GCM = "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM"
LENGTHS = {HMAC: 30, "AES_CM_128_HMAC_SHA1_32": 30, "AEAD_AES_128_GCM": 28, GCM: 44}


def keys(suite: str, number: int = 0) -> Srtp:
    """Two keys that nobody else has."""
    size = LENGTHS[suite]
    return Srtp(suite, bytes(range(number, number + size)), bytes(range(number + 100, number + 100 + size)))


class Phone:
    """A peer that speaks SRTP, from its own point of view."""

    def __init__(self, peer: RtpPeer, srtp: Srtp) -> None:
        self.peer = peer
        profile = PROFILES[srtp.suite]
        self.out = Session(Policy(srtp.theirs, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))
        self.into = Session(Policy(srtp.ours, Policy.SSRC_ANY_INBOUND, srtp_profile=profile))

    def send(self, target: Address, payload: bytes = bytes(160)) -> bytes:
        """Send the next packet; what it is when it is opened."""
        peer = self.peer
        packet = rtp_packet(peer.seq, peer.timestamp, peer.ssrc, payload)
        peer.skip(1)
        peer.rtp.sendto(self.out.protect(packet), target)
        return packet

    @property
    def heard(self) -> list[bytes]:
        """What came, opened. Raises Error when something came that is not for us."""
        return [self.into.unprotect(packet) for packet, _ in self.peer.received]


def test_every_suite_has_a_length_here(make: str) -> None:
    assert set(LENGTHS) == set(PROFILES)


@pytest.mark.parametrize("suite", list(PROFILES))
def test_srtp_on_one_side_and_rtp_on_the_other(make: str, suite: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            phone = Phone(alice, keys(suite))
            a, b = end_for(alice, Learn.PORT, srtp=keys(suite)), end_for(bob)
            stream = await under_test.open(a, b)
            sent, answered = [], []
            for number in range(30):
                sent.append(phone.send(rtp_of(a), bytes([number]) * 160))
                answered.append(bob.send(rtp_of(b), bytes([200 - number]) * 160))
                await asyncio.sleep(0.002)
            await under_test.settle()
            assert [packet for packet, _ in bob.received] == sent
            assert not {packet for packet, _ in alice.received} & set(answered), "in the clear"
            assert phone.heard == answered
            from_a = await under_test.counters(stream, "a")
            assert (from_a.packets, from_a.forwarded, from_a.lost, from_a.unauthentic) == (30, 30, 0, 0)
            assert from_a.in_kernel == 0

    asyncio.run(call())


def test_srtp_on_both_sides_with_keys_of_their_own(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            phones = Phone(alice, keys(HMAC)), Phone(bob, keys(GCM, 40))
            a, b = end_for(alice, srtp=keys(HMAC)), end_for(bob, srtp=keys(GCM, 40))
            await under_test.open(a, b)
            sent = []
            for _ in range(20):
                sent.append(phones[0].send(rtp_of(a)))
                phones[1].send(rtp_of(b))
                await asyncio.sleep(0.002)
            await under_test.settle()
            assert phones[1].heard == sent
            assert len(phones[0].heard) == 20

    asyncio.run(call())


async def assert_nothing_passes(under_test: Bench, stream: int, bob: RtpPeer, packets: int) -> None:
    counters = await under_test.counters(stream, "a")
    assert (counters.packets, counters.forwarded, counters.unauthentic) == (0, 0, packets)
    assert bob.received == bob.received_rtcp == []
    assert under_test.happened(SourceLocked) == []


@pytest.mark.parametrize("learn", list(Learn))
def test_what_is_not_authentic_neither_passes_nor_is_learned_from(make: str, learn: Learn) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice, learn, srtp=keys(HMAC)), end_for(bob)
            stream = await under_test.open(a, b)
            other = Phone(alice, keys(HMAC, 7))
            for _ in range(10):
                alice.send(rtp_of(a))
                other.send(rtp_of(a))
            alice.rtcp.sendto(receiver_report(1), rtcp_of(a))
            await assert_nothing_passes(under_test, stream, bob, 21)

    asyncio.run(call())


def test_a_packet_that_comes_again_is_not_passed_on(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob, stranger = under_test.peer(), under_test.peer(), under_test.peer()
            phone = Phone(alice, keys(HMAC))
            a, b = end_for(alice, Learn.ANY, srtp=keys(HMAC)), end_for(bob)
            stream = await under_test.open(a, b)
            recorded = [phone.out.protect(rtp_packet(number, number * 160, 5)) for number in range(30)]
            for packet in recorded:
                alice.rtp.sendto(packet, rtp_of(a))
            await under_test.settle()
            for packet in recorded:
                alice.rtp.sendto(packet, rtp_of(a))
                stranger.rtp.sendto(packet, rtp_of(a))
            await under_test.settle()
            assert len(bob.received) == 30
            assert (await under_test.counters(stream, "a")).unauthentic == 60
            assert len(under_test.happened(SourceLocked)) == 1

    asyncio.run(call())


@pytest.mark.parametrize("mux", [False, True])
def test_rtcp_is_opened_and_sealed_too(make: str, mux: bool) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            phone = Phone(alice, keys(HMAC))
            a, b = end_for(alice, srtp=keys(HMAC), rtcp_mux=mux), end_for(bob)
            await under_test.open(a, b)
            phone.send(rtp_of(a))
            sock, target = (alice.rtp, rtp_of(a)) if mux else (alice.rtcp, rtcp_of(a))
            sock.sendto(phone.out.protect_rtcp(sender_report(0xA, 1e9, cname=b"alice@10.1.2.3")), target)
            bob.rtcp.sendto(sender_report(0xB, 1e9, cname=b"bob@10.1.2.4"), rtcp_of(b))
            await under_test.settle()
            ((to_bob, _),) = bob.received_rtcp
            assert to_bob.startswith(sender_report(0xA, 1e9)) and b"alice" not in to_bob
            ((to_alice, _),) = alice.received if mux else alice.received_rtcp
            opened = phone.into.unprotect_rtcp(to_alice)
            assert opened.startswith(sender_report(0xB, 1e9)) and b"bob" not in opened

    asyncio.run(call())


def test_from_the_change_to_srtp_on_nothing_goes_out_in_the_clear(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            a, b = end_for(alice), end_for(bob)
            stream = await under_test.open(a, b)
            await asyncio.gather(alice.stream(rtp_of(a), 20), bob.stream(rtp_of(b), 20))
            await under_test.settle()
            alice.received.clear()
            bob.received.clear()
            under_test.relay.change(stream, "a", replace(a, srtp=keys(HMAC)))
            await under_test.settle()
            phone = Phone(alice, keys(HMAC))
            sent = []
            for _ in range(10):
                sent.append(phone.send(rtp_of(a)))
                bob.send(rtp_of(b))
                alice.send(rtp_of(a))
            await under_test.settle()
            assert [packet for packet, _ in bob.received] == sent
            assert len(phone.heard) == 10
            # A re-INVITE that leaves the keys as they are goes on with them where they were.
            under_test.relay.change(stream, "a", replace(a, srtp=keys(HMAC), receive=False))
            bob.send(rtp_of(b))
            await under_test.settle()
            assert len(alice.received) == 11
            assert phone.into.unprotect(alice.received[-1][0])

    asyncio.run(call())


def test_a_new_worker_seals_nothing_with_the_keys_of_the_one_before(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(ssrc=0xA), under_test.peer(ssrc=0xB)
            phone = Phone(alice, keys(HMAC))
            a, b = end_for(alice, srtp=keys(HMAC)), end_for(bob)
            stream = await under_test.open(a, b)
            phone.send(rtp_of(a))
            bob.send(rtp_of(b))
            await under_test.until(lambda: alice.received and bob.received)
            under_test.signal(signal.SIGKILL)
            await under_test.until(lambda: under_test.happened(WorkerRestarted))
            await under_test.settle()
            under_test.relay.change(stream, "a", replace(a, learn=Learn.PORT, srtp=keys(HMAC)))
            bob.send(rtp_of(b))
            phone.send(rtp_of(a))
            await under_test.until(lambda: len(bob.received) == 2)
            assert len(alice.received) == 1, "the key stream would begin again"
            under_test.relay.change(stream, "a", replace(a, srtp=keys(HMAC, 50)))
            await under_test.settle()
            bob.send(rtp_of(b))
            await under_test.until(lambda: len(alice.received) == 2)
            assert Phone(alice, keys(HMAC, 50)).into.unprotect(alice.received[1][0])
            with pytest.raises(Error):
                phone.into.unprotect(alice.received[1][0])

    asyncio.run(call())


def test_packets_of_any_size_are_sealed_as_long_as_they_fit(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            alice, bob = under_test.peer(), under_test.peer()
            a, b = end_for(alice, srtp=keys(HMAC)), end_for(bob)
            stream = await under_test.open(a, b)
            sizes = (0, 160, 1344, 1600, 9000, 65495)
            for size in sizes:
                bob.send(rtp_of(b), bytes(size))
            await under_test.settle()
            assert [len(packet) for packet, _ in alice.received] == [12 + size + 10 for size in sizes[:-1]]
            assert (await under_test.counters(stream, "b")).forwarded == len(sizes) - 1

    asyncio.run(call())
