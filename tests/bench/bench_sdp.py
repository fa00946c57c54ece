"""What SDP costs in CPU: parsing, reading, rewriting, and the anchor's share of a call.

    python -m tests.bench.bench_sdp

CPU microseconds, the best of several rounds. The budget is 40 us for parse, rewrite and serialise of a plain
audio SDP of about 300 bytes; the row "whole rewrite" is that.
"""

import time
from collections.abc import Callable
from pathlib import Path

from media.ports import PortPool
from media.relay import RelayEvent
from sbc.anchor import LocalAnchor, Party
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.sdp.offer_answer import describe, direction
from signaling.sdp.parser import parse
from signaling.sdp.rewrite import Section, body_after_origin, complete
from tests.harness.relay import FakeRelay

ROUNDS = 7
SIZE = 2000
BUDGET_US = 40.0

OFFER = (Path(__file__).parents[1] / "vectors" / "sdp" / "desk_phone.sdp").read_bytes()
ANSWER = (Path(__file__).parents[1] / "vectors" / "sdp" / "pbx_plain.sdp").read_bytes()
A = Party("a", "public", "198.51.100.9", nat=True)
B = Party("b1", "private", "10.0.0.20")


def best_us(operation: Callable[[], object]) -> float:
    """CPU time of one call of `operation`."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(SIZE):
            operation()
        best = min(best, (time.process_time() - start) / SIZE * 1e6)
    return best


def rewrite() -> bytes:
    """Parse, rewrite and serialise without the anchor."""
    (line,) = describe(parse(OFFER))
    way = direction(line.sends, line.receives)
    media = line.media
    section = Section(media.kind, 30000, media.proto, line.formats, "10.0.0.1", line.kept, way)
    return complete(1, 1, "10.0.0.1", body_after_origin("10.0.0.1", (), (section,)))


def anchor() -> LocalAnchor:
    """An anchor with room and a relay that does nothing."""
    pool = PortPool({"public": ("203.0.113.10", 20000, 29999), "private": ("10.0.0.1", 30000, 39999)}, 0)
    policy = MediaPolicy(
        {
            "public": (MediaAddress("public", "203.0.113.10"),),
            "private": (MediaAddress("private", "10.0.0.1"),),
        }
    )
    relay = FakeRelay()
    made = LocalAnchor(pool, relay, policy, time.monotonic)

    def hear(event: RelayEvent) -> None:
        made.relay_event(event)

    relay.on_event = hear
    return made


def main() -> None:
    """Print the table."""
    subject = anchor()

    def offered() -> None:
        subject.offer("c", A, B, OFFER)
        subject.reject("c")

    def called() -> None:
        subject.offer("c", A, B, OFFER)
        subject.answer("c", B, A, ANSWER)
        subject.take_decisions("c")
        subject.delete("c")

    subject.offer("held", A, B, OFFER)
    subject.answer("held", B, A, ANSWER)
    rows = [
        ("parse", best_us(lambda: parse(OFFER))),
        ("parse + describe", best_us(lambda: describe(parse(OFFER)))),
        (f"whole rewrite (budget {BUDGET_US:.0f})", best_us(rewrite)),
        ("anchor: offer, ports taken and freed", best_us(offered)),
        ("anchor: offer, answer, delete", best_us(called)),
        ("anchor: snapshot of a call", best_us(lambda: subject.snapshot("held"))),
    ]
    print(f"offer {len(OFFER)} bytes, answer {len(ANSWER)} bytes; CPU us, best of {ROUNDS} rounds of {SIZE}")
    for name, us in rows:
        print(f"  {name:40} {us:8.1f}")


if __name__ == "__main__":
    main()
