"""Our relay, driven straight, without SIP: opens the calls of a load in the namespace that it is started in.

    python -m tests.bench.media.ours reference|kernel CALLS HOST_A HOST_B PHONE_A PHONE_B [KEY]

With KEY (hexadecimal) side a speaks SRTP. Writes one line of JSON when the streams are open, relays until its input
ends, and then tells the counters in another.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from media.fastpath.loader import FastPath
from media.relay import End, Learn, PortPair, Srtp, StreamSpec
from media.workers import WorkerRelay
from tests.bench.media.streams import RELAY_PORTS, Load

SUITE = "AES_CM_128_HMAC_SHA1_80"
CODECS = ((0, "PCMU", 8000), (101, "telephone-event", 8000))


def specs(load: Load, hosts: Sequence[str], phones: Sequence[str], key: str) -> list[StreamSpec]:
    """The streams of the relay: one for each call."""
    found = []
    srtp = Srtp(SUITE, bytes.fromhex(key), bytes.fromhex(key)[::-1]) if key else None
    for call in range(load.calls):
        rtp = RELAY_PORTS[0] + 2 * call
        a, b = (
            End(
                PortPair(name, host, rtp, rtp + 1),
                (phone, load.phone_port(call)),
                (phone, load.phone_port(call) + 1),
                learn=Learn.PORT,
                codecs=CODECS,
                srtp=srtp if name == "a" else None,
            )
            for name, host, phone in zip("ab", hosts, phones, strict=True)
        )
        found.append(StreamSpec(call + 1, f"c-{call:08x}", "rtp", a, b))
    return found


async def serve(kernel: bool, load: Load, hosts: Sequence[str], phones: Sequence[str], key: str) -> None:
    """Relay until standard input ends."""
    loop = asyncio.get_running_loop()
    relay = WorkerRelay(loop, fastpath=FastPath(hosts) if kernel else "")
    await relay.up()
    opened = specs(load, hosts, phones, key)
    for spec in opened:
        relay.open(spec)
    numbers = [spec.id for spec in opened]
    await relay.query(numbers)
    ports = [spec.a.local.rtp for spec in opened]
    print(json.dumps({"a": ports, "b": ports}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    counters = [each for one in await relay.query(numbers) for each in (one.a, one.b)]
    told = {
        "packets": sum(each.packets for each in counters),
        "forwarded": sum(each.forwarded for each in counters),
        "in_kernel": sum(each.in_kernel for each in counters),
        "dropped": sum(each.dropped for each in counters),
        "unauthentic": sum(each.unauthentic for each in counters),
        "strangers": sum(each.strangers for each in counters),
    }
    print(json.dumps(told), flush=True)
    await relay.stop()


if __name__ == "__main__":
    way, calls, *hosts = sys.argv[1:7]
    asyncio.run(serve(way == "kernel", Load(2 * int(calls), 0), hosts[:2], hosts[2:], "".join(sys.argv[7:8])))
