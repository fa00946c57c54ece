"""An anchor over a real pool and a relay that only listens, and the SDP of a phone and of a PBX."""

from collections.abc import Callable
from pathlib import Path

from media.ports import PortPool
from media.relay import StreamSpec
from sbc.anchor import LocalAnchor, Party
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.sdp.parser import parse
from signaling.sdp.session import Media
from tests.harness.relay import FakeRelay

VECTORS = Path(__file__).parents[1] / "vectors" / "sdp"

A = Party("a", "public", "198.51.100.9", nat=True)
B1 = Party("b1", "private", "10.0.0.20")
B2 = Party("b2", "private", "10.0.0.21")
FAR = Party("b2", "trunks", "2001:db8:5::1")
THIRD = Party("b3", "trunks", "2001:db8:5::1")


def sdp(*media: str, host: str = "192.0.2.50", version: int = 1, name: str = "alice") -> bytes:
    """A session with these m= sections, each "audio 4000 RTP/AVP 0|a=sendonly"."""
    family = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o={name} 77 {version} IN {family} {host}", "s=x", f"c=IN {family} {host}", "t=0 0"]
    for section in media or ("audio 4000 RTP/AVP 0 8",):
        head, *below = section.split("|")
        lines.extend((f"m={head}", *below))
    return "\r\n".join((*lines, "")).encode()


PBX = "10.0.0.77"


def of_b(*media: str, host: str = PBX, version: int = 1) -> bytes:
    return sdp(*(media or ("audio 5000 RTP/AVP 0",)), host=host, version=version, name="pbx")


def media_of(data: bytes, place: int = 0) -> Media:
    return parse(data).media[place]


def host_of(data: bytes) -> str:
    return next(line.split()[-1] for line in parse(data).lines if line.startswith("c="))


def version_of(data: bytes) -> int:
    return int(parse(data).origin.version)


def direction_of(data: bytes, place: int = 0) -> str:
    names = ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive")
    (found,) = (line for line in media_of(data, place).lines if line in names)
    return found[2:]


class Bench:
    """An anchor over a real pool and a relay that only listens."""

    def __init__(
        self, policy: Callable[[MediaPolicy], MediaPolicy] = lambda policy: policy, last: int = 99
    ) -> None:
        self.now = 100.0
        self.pool = PortPool(
            {
                "public": ("203.0.113.10", 20000, 20000 + last),
                "private": ("10.0.0.1", 30000, 30000 + last),
                "private#2": ("2001:db8:a::1", 30000, 30000 + last),
                "trunks": ("2001:db8:b::1", 40000, 40000 + last),
            },
            quarantine_s=0,
        )
        self.relay = FakeRelay()
        self.ended: list[str] = []
        addresses = {
            "public": (MediaAddress("public", "203.0.113.99"),),
            "private": (MediaAddress("private", "10.0.0.1"), MediaAddress("private#2", "2001:db8:a::1")),
            "trunks": (MediaAddress("trunks", "2001:db8:b::1"),),
        }
        numbers = iter(range(1000, 100000, 1000))
        self.anchor = LocalAnchor(
            self.pool, self.relay, policy(MediaPolicy(addresses)), lambda: self.now, lambda: next(numbers)
        )
        self.relay.on_event = lambda event: self.ended.extend(self.anchor.relay_event(event))

    def offer(self, data: bytes | None = None, source: Party = A, target: Party = B1) -> bytes:
        return self.anchor.offer("c", source, target, data or sdp())

    def answer(self, data: bytes | None = None, source: Party = B1, target: Party = A) -> bytes:
        return self.anchor.answer("c", source, target, data or of_b())

    def call(self, offer: bytes | None = None, answer: bytes | None = None) -> tuple[bytes, bytes]:
        return self.offer(offer), self.answer(answer)

    @property
    def stream(self) -> StreamSpec:
        (stream,) = self.relay.streams.values()
        return stream

    def rules(self) -> list[str]:
        return [decision.rule for decision in self.anchor.take_decisions("c")]

    def at_rest(self) -> None:
        self.anchor.delete("c")
        assert len(self.anchor) == 0
        assert self.anchor.ports_in_use() == 0
        assert self.relay.streams == {}

    def changed(self, spec: StreamSpec) -> StreamSpec:
        """A stream as the relay has it after the changes."""
        ends = {"a": spec.a, "b": spec.b}
        for number, side, end in self.relay.changes:
            if number == spec.id:
                ends[side] = end
        return StreamSpec(spec.id, spec.call, spec.kind, ends["a"], ends["b"])
