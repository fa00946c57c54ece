"""Two parties that talk through the relay, until the kernel forwards what they say."""

import asyncio

from media.relay import End
from tests.contract.relays import Bench, rtp_of
from tests.harness.rtp import RtpPeer

EVENTS = (101, "telephone-event", 8000)


async def talk(alice: RtpPeer, a: End, bob: RtpPeer, b: End, packets: int, interval_s: float = 0.002) -> None:
    """Both speak at once."""
    await asyncio.gather(
        alice.stream(rtp_of(a), packets, interval_s), bob.stream(rtp_of(b), packets, interval_s)
    )


async def descend(under_test: Bench, alice: RtpPeer, a: End, bob: RtpPeer, b: End, stream: int) -> None:
    """Speak until the kernel forwards both directions."""
    for _ in range(600):
        await talk(alice, a, bob, b, 2, 0.005)
        (row,) = await under_test.relay.query([stream])
        if row.a.in_kernel and row.b.in_kernel:
            return
    raise AssertionError("the stream does not go down")


async def descended(
    under_test: Bench, host_a: str = "127.0.0.1", host_b: str = "127.0.0.1"
) -> tuple[RtpPeer, End, RtpPeer, End, int]:
    """Alice and Bob, each with the end of ours, and the stream between them, which the kernel forwards."""
    alice, a, bob, b, stream = await under_test.between(host_a, host_b)
    await descend(under_test, alice, a, bob, b, stream)
    return alice, a, bob, b, stream


def numbers(peer: RtpPeer) -> list[int]:
    """The sequence numbers that a peer received."""
    return [int.from_bytes(packet[2:4], "big") for packet, _ in peer.received]
