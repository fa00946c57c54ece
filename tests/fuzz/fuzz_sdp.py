"""Fuzz target: any bytes either parse or raise ParseError, and what parses survives writing and parsing.

    python -m tests.fuzz.fuzz_sdp [seconds] [seed]

Invariants, for every input:

1. `parse` returns a `Session` or raises ParseError, nothing else, and so does `describe` on what it returned.
2. `parse(session.encode()) == session`.
3. What `describe` keeps is whole lines of that m= section, or an fmtp of it without some parameters.
4. Our SDP that the anchor makes of it as an offer parses again, with as many m= lines.
"""

import random
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from media.ports import PortPool
from sbc.anchor import LocalAnchor, Party
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.errors import ParseError, PeerError
from signaling.sdp.offer_answer import describe
from signaling.sdp.parser import parse
from tests.harness.relay import FakeRelay

SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "vectors" / "sdp").glob("*.sdp"))]

BITS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"=",
    b":",
    b" ",
    b"/",
    b"a=",
    b"m=",
    b"c=IN IP4 ",
    b"c=IN IP6 ",
    b"o=",
    b"b=AS:",
    b"a=rtpmap:",
    b"a=rtcp:",
    b"a=fmtp:",
    b"65536",
    b"-1",
    b"99999999999999999999",
    b"224.0.0.1",
    b"::",
    b"0.0.0.0",
    b"\xff\xfe",
    "\u2028\u0661\xb2".encode(),
    b"%eth0",
)


def check(data: bytes) -> bool:
    """The invariants for one input; returns whether it parsed."""
    try:
        session = parse(data)
    except ParseError:
        return False
    assert parse(session.encode()) == session
    try:
        lines = describe(session)
    except ParseError:
        return True
    for line in lines:
        assert all(kept in line.media.lines or shortened(kept, line.media.lines) for kept in line.kept)
        assert not any("\r" in text or "\n" in text for text in line.kept)
    check_offer(data, len(lines))
    return True


def shortened(kept: str, lines: Collection[str]) -> bool:
    """Whether an a=fmtp is one of `lines` without some of its parameters."""
    head, _, rest = kept.partition(" ")
    words = {word.strip() for word in rest.split(";")}
    return head.startswith("a=fmtp:") and any(
        line.partition(" ")[0] == head
        and words <= {word.strip() for word in line.partition(" ")[2].split(";")}
        for line in lines
    )


def check_offer(data: bytes, count: int) -> None:
    """The anchor's side of it: an offer goes on with all its m= lines, or is refused, and nothing is left."""
    pool = PortPool({"x": ("192.0.2.1", 20000, 20099), "y": ("2001:db8::1", 20000, 20099)}, quarantine_s=0)
    addresses = (MediaAddress("x", "192.0.2.1"), MediaAddress("y", "2001:db8::1"))
    anchor = LocalAnchor(pool, FakeRelay(), MediaPolicy({"net": addresses}), lambda: 0.0)
    try:
        out = anchor.offer("c", Party("a", "net", "192.0.2.9", nat=True), Party("b1", "net"), data)
        assert len(parse(out).media) == count
    except PeerError as error:
        assert error.status == 488
    anchor.delete("c")
    assert pool.total_in_use() == 0


def mutations(seed: int) -> Iterator[bytes]:
    """Endless inputs made of the files of devices; the same for the same seed."""
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(0, 6)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0:
                    data[at:at] = chance.choice(BITS)
                case 1:
                    del data[at : at + chance.randint(1, 12)]
                case 2:
                    data[at : at + 1] = bytes((chance.randrange(256),))
                case 3:
                    other = chance.choice(SEEDS)
                    cut = chance.randrange(len(other))
                    data[at:at] = other[cut : cut + chance.randint(1, 80)]
                case 4:
                    lines = bytes(data).split(b"\r\n")
                    chance.shuffle(lines)
                    data[:] = b"\r\n".join(lines)
                case _:
                    piece = bytes(data[at : at + 30])
                    data[at:at] = piece * chance.choice((1, 2, 50))
        yield bytes(data)


def main(seconds: float, seed: int) -> None:
    """Run for so long and say what was done."""
    end = time.monotonic() + seconds
    tried = parsed = 0
    for data in mutations(seed):
        try:
            parsed += check(data)
        except Exception:
            print(f"seed {seed}, input {tried}: {data!r}", file=sys.stderr)
            raise
        tried += 1
        if time.monotonic() >= end:
            break
    print(f"{tried} inputs, {parsed} of them SDP, seed {seed}")


if __name__ == "__main__":
    numbers = [float(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 10.0, int(numbers[1]) if len(numbers) > 1 else time.time_ns() % 1_000_000)
