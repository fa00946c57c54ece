"""Random SDP in random sequences of offer, answer, reject, drop and delete: what always holds of the anchor.

Nothing of one side's SDP but what the table in `signaling.sdp.rewrite` lets pass is in the other's; m= lines keep
their number and order; versions follow RFC 3264 s.8; no port belongs to two streams; all ports come back.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from media.ports import PortPool
from media.relay import PortPair, RelayEvent, StreamSpec
from sbc.anchor import LocalAnchor, Party
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.errors import PeerError
from signaling.sdp.parser import parse
from tests.harness.relay import FakeRelay

# Whatever a party says of itself holds one of these, and nothing that is ours or standard does.
CANARIES = ("canary", "198.18.", "2001:db8:cafe", "fd00:cafe")
# What an m= line that is not served may repeat to the party that offered it, and to nobody else.
ECHO = "sparrow"

HOSTS = (
    "198.18.0.1",
    "198.18.7.9",
    "2001:db8:cafe::1",
    "FD00:CAFE::5",
    "0.0.0.0",
    "::",
    "media.canary.example",
)
HEADS = (
    "audio {port} RTP/AVP 0 8 101",
    "audio {port} RTP/AVP 96 0",
    "audio {port} RTP/AVPF 96",
    "audio {port} RTP/SAVP 0",
    "audio {port}/2 RTP/AVP 0",
    "audio {port} RTP/AVP sparrow",
    "audio 0 RTP/AVP 0",
    "video {port} RTP/AVP 34 97",
    "image {port} udptl t38",
    "text {port} RTP/AVP 98",
    "message {port} TCP/MSRP sparrow",
    "sparrow {port} sparrow/sparrow sparrow",
    "application {port} UDP/DTLS/SCTP sparrow",
)
BELOW = (
    "y=nothing",
    "a=rtpmap:0 PCMU/8000",
    "a=rtpmap:96 opus/48000/2",
    "a=rtpmap:97 H264/90000",
    "a=rtpmap:97 x.canary/90000",
    "a=rtpmap:101 telephone-event/8000",
    "a=fmtp:101 0-15",
    "a=fmtp:96 server=198.18.5.5",
    "a=fmtp:96 path=2001:db8:cafe::9",
    "a=fmtp:97 url=a.canary.example",
    "a=ptime:20",
    "a=ptime:canary",
    "a=sendonly",
    "a=recvonly",
    "a=inactive",
    "a=rtcp-mux",
    "a=rtcp:5001",
    "a=rtcp:5001 IN IP4 198.18.3.3",
    "a=candidate:1 1 UDP 1 198.18.0.1 5000 typ host",
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:canary",
    "a=ssrc:1 cname:canary",
    "a=mid:canary",
    "a=label:canary",
    "a=group:BUNDLE canary",
    "a=canary:1",
    "a=T38FaxVersion:0",
    "a=T38VendorInfo:canary",
    "a=silenceSupp:canary.x - - - -",
    "i=canary",
    "k=clear:canary",
    "b=AS:64",
    "b=X-canary:1",
    "c=IN IP4 198.18.9.9",
    "c=IN IP4 0.0.0.0",
    "c=IN IP4 224.0.1.1/canary",
    "z=canary",
)
ABOVE = (
    "i=canary",
    "u=http://canary.example/",
    "e=canary@canary.example",
    "p=canary",
    "b=CT:1000",
    "b=canary:1",
    "k=clear:canary",
    "a=tool:canary",
    "a=group:BUNDLE canary",
    "a=sendonly",
    "a=inactive",
    "a=ice-lite",
)

LEGS = {
    "a": Party("a", "left", "198.18.0.1", nat=True),
    "b1": Party("b1", "right", "198.18.7.9"),
    "b2": Party("b2", "right", "2001:db8:cafe::1"),
    "b3": Party("b3", "left", None, nat=True),
}


@st.composite
def sessions(draw: st.DrawFn) -> bytes:
    # Half of them are what a plain phone says, so that sequences get somewhere.
    plain = draw(st.booleans())
    host = HOSTS[0] if plain else draw(st.sampled_from(HOSTS))
    family = "IP6" if ":" in host else "IP4"
    version = draw(st.integers(1, 3))
    lines = [
        "v=0",
        f"o=canary 424242{version} {version} IN {family} {host}",
        "s=canary",
        *draw(st.lists(st.sampled_from(ABOVE), max_size=3)),
        f"c=IN {family} {host}",
        "t=0 0",
    ]
    for place in range(2 if plain else draw(st.integers(0, 4))):
        port = draw(st.sampled_from((5000, 6002, 65535)))
        head = HEADS[0] if plain and place == 0 else draw(st.sampled_from(HEADS))
        lines.append("m=" + head.format(port=port))
        lines.extend(draw(st.lists(st.sampled_from(BELOW), max_size=5)))
    return "\r\n".join((*lines, "")).encode()


STEPS = st.tuples(
    st.sampled_from(
        (
            "offer",
            "offer",
            "answer",
            "answer",
            "answer",
            "reject",
            "drop",
            "settle",
            "mute",
            "fork",
            "fork",
            "turn",
        )
    ),
    st.booleans(),
    sessions(),
)


@dataclass
class Told:
    """What one leg was told last."""

    session_id: str
    version: int
    body: bytes


@dataclass
class Table:
    """An anchor, the two parties that talk, and what must be true of it."""

    pairs: int
    now: float = 0.0
    pending: tuple[Party, Party, int] | None = None
    answered: bool = False
    lines: int = 0
    b: Party = LEGS["b1"]
    offered: bytes = b""
    others: list[Party] = field(default_factory=list)  # who rings beside b
    holder: str = ""  # whose answer is in force
    told: dict[str, Told] = field(default_factory=dict)
    relay: FakeRelay = field(default_factory=FakeRelay)

    def __post_init__(self) -> None:
        last = 2 * self.pairs - 1
        self.pool = PortPool(
            {
                "left": ("203.0.113.1", 20000, 20000 + last),
                "right": ("10.0.0.1", 30000, 30000 + last),
                "right6": ("2001:db8:1::1", 30000, 30000 + last),
            },
            quarantine_s=0,
        )
        policy = MediaPolicy(
            {
                "left": (MediaAddress("left", "203.0.113.1"),),
                "right": (MediaAddress("right", "10.0.0.1"), MediaAddress("right6", "2001:db8:1::1")),
            }
        )
        self.anchor = LocalAnchor(self.pool, self.relay, policy, lambda: self.now)
        self.relay.on_event = self.hear

    def hear(self, event: RelayEvent) -> None:
        self.anchor.relay_event(event)

    def step(self, verb: str, from_a: bool, sdp: bytes) -> None:
        self.now += 1
        a = LEGS["a"]
        match verb:
            case "offer" if self.alone():
                source, target = (a, self.b) if from_a else (self.b, a)
                try:
                    out = self.anchor.offer("call", source, target, sdp)
                except PeerError as error:
                    assert error.status in (400, 488, 491, 503), error
                    if error.status == 491:
                        assert self.pending is not None and not self.answered
                    elif error.status == 503:
                        self.pending = None
                else:
                    count = len(parse(sdp).media)
                    self.pending, self.answered, self.offered = (source, target, count), False, sdp
                    self.check(out, target, max(count, self.lines), answer=False)
            case "fork" if self.pending is not None and self.pending[0] is a:
                self.fork(a, self.pending[2])
            case "turn" if self.others and self.pending is not None:
                self.others.append(self.b)
                self.b = self.others.pop(0)
                self.pending, self.answered = (a, self.b, self.pending[2]), False
            case "answer" if self.pending is not None:
                target, source, count = self.pending
                try:
                    out = self.anchor.answer("call", source, target, sdp)
                except PeerError as error:
                    assert error.status in (488, 502), error
                else:
                    self.answered, self.holder = True, self.b.leg
                    self.lines = max(self.lines, count)
                    self.check(out, target, count, answer=True)
            case "reject" if not self.others:
                self.anchor.reject("call")
                if not self.answered:
                    self.pending = None
            case "drop":
                self.anchor.drop("call", self.b.leg)
                self.told.pop(self.b.leg, None)
                if self.others and self.pending is not None:
                    self.b = self.others.pop()
                    self.pending, self.answered = (a, self.b, self.pending[2]), False
                else:
                    self.pending = None
                    names = ("b1", "b2", "b3")
                    self.b = LEGS[names[(names.index(self.b.leg) + 1) % 3]]
            case "settle" if self.alone():
                self.anchor.settle("call")
            case "mute":
                self.relay.mute = True
            case _:
                pass
        self.check_ports()

    def alone(self) -> bool:
        """Nobody rings beside b, or b has answered: then the others are given up."""
        if self.others and not (self.answered and self.holder == self.b.leg):
            return False
        for other in self.others:
            self.anchor.drop("call", other.leg)
            self.told.pop(other.leg, None)
        self.others.clear()
        return True

    def fork(self, a: Party, count: int) -> None:
        """The same offer goes to one more leg."""
        free = [LEGS[name] for name in ("b1", "b2", "b3") if LEGS[name] not in (self.b, *self.others)]
        if not free:
            return
        try:
            out = self.anchor.offer("call", a, free[0], self.offered)
        except PeerError as error:
            assert error.status in (488, 503), error
            return
        self.others.append(self.b)
        self.b = free[0]
        self.pending, self.answered = (a, self.b, count), False
        self.check(out, self.b, max(count, self.lines), answer=False)

    def check(self, out: bytes, target: Party, count: int, answer: bool) -> None:
        text = out.decode()
        for canary in CANARIES if answer else (*CANARIES, ECHO):
            assert canary not in text.lower(), text
        session = parse(out)
        assert len(session.media) == count
        head, _, body = out.partition(b"\r\n")[2].partition(b"\r\n")
        assert head.startswith(b"o=- ")
        origin = session.origin
        before = self.told.get(target.leg)
        if before is None:
            assert origin.version == "1"
        else:
            assert origin.session_id == before.session_id
            assert int(origin.version) == before.version + (body != before.body)
        self.told[target.leg] = Told(origin.session_id, int(origin.version), body)

    def check_ports(self) -> None:
        used: list[PortPair] = []
        for spec in self.streams():
            used.extend((spec.a.local, spec.b.local))
            for end in (spec.a, spec.b):
                assert end.remote is None or end.remote[0] not in ("0.0.0.0", "::", "media.canary.example")
        assert len(used) == len(set(used))
        assert len(used) <= self.pool.total_in_use()

    def streams(self) -> list[StreamSpec]:
        specs = dict(self.relay.streams)
        for number, side, end in self.relay.changes:
            if number in specs:
                spec = specs[number]
                specs[number] = replace(spec, a=end) if side == "a" else replace(spec, b=end)
        return list(specs.values())

    def end(self) -> None:
        if self.anchor.delete("call"):
            assert self.anchor.reap("call", self.now)
            self.anchor.take_report("call")
        assert self.relay.streams == {}
        assert self.pool.total_in_use() == 0
        assert len(self.anchor) == 0


@settings(max_examples=250, deadline=None)
@given(st.lists(STEPS, min_size=8, max_size=24), st.sampled_from((3, 50, 50)))
def test_any_sequence(steps: list[tuple[str, bool, bytes]], pairs: int) -> None:
    table = Table(pairs)
    for verb, from_a, sdp in steps:
        table.step(verb, from_a, sdp)
    table.end()
