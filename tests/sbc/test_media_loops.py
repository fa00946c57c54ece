"""Media that leads back to our own ports: a spiral through a proxy works, a loop is refused (sbc/media_loops.py)."""

from itertools import count

import pytest

from media.ports import PortPool
from media.relay import RelayEvent
from sbc.anchor import LocalAnchor, Party
from sbc.media_loops import MAX_HOPS
from sbc.media_policy import MediaAddress, MediaPolicy
from signaling.errors import PeerError
from signaling.sdp.parser import parse
from tests.harness.relay import FakeRelay

OURS = "10.0.0.1"
SHOWN = "203.0.113.99"
A = Party("a", "public", "198.51.100.9")
B = Party("b1", "private", "10.0.0.20")
# The registrar in the private network, which sends an INVITE back to us.
PROXY_IN = Party("a", "private", "10.0.0.20")


def sdp(host: str, port: int, rtcp: str = "", version: int = 1) -> bytes:
    lines = [
        f"v=0\r\no=x 7 {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    ]
    return "".join((*lines, f"a=rtcp:{rtcp}\r\n" if rtcp else "")).encode()


def address(data: bytes) -> tuple[str, int]:
    session = parse(data)
    host = next(line.split()[-1] for line in session.lines if line.startswith("c="))
    return host, session.media[0].port


class Bench:
    def __init__(self) -> None:
        self.pool = PortPool(
            {"public": ("192.168.1.10", 20000, 20099), "private": (OURS, 30000, 30099)}, quarantine_s=0
        )
        self.relay = FakeRelay()
        policy = MediaPolicy(
            {"public": (MediaAddress("public", SHOWN),), "private": (MediaAddress("private", OURS),)}
        )
        numbers = count(1)
        self.anchor = LocalAnchor(self.pool, self.relay, policy, lambda: 0.0, lambda: next(numbers))
        self.relay.on_event = self._take

    def _take(self, event: RelayEvent) -> None:
        self.anchor.relay_event(event)

    def offer(self, call: str, data: bytes, source: Party = A, target: Party = B) -> bytes:
        return self.anchor.offer(call, source, target, data)

    def answer(self, call: str, data: bytes, source: Party = B, target: Party = A) -> bytes:
        return self.anchor.answer(call, source, target, data)

    def spiral(self, turns: int) -> list[str]:
        """A call that the proxy sends back to us so many times before it goes to B; the calls that it takes."""
        calls = [f"c{number}" for number in range(turns + 1)]
        passed = self.offer(calls[0], sdp("198.51.100.9", 4000))
        for call in calls[1:]:
            passed = self.offer(call, passed, PROXY_IN)
        passed = sdp("10.0.0.77", 5000)
        for call in reversed(calls):
            passed = self.answer(call, passed, B, A if call == calls[0] else PROXY_IN)
        return calls

    def at_rest(self, *calls: str) -> None:
        for call in calls:
            self.anchor.delete(call)
        assert self.anchor.ports_in_use() == 0
        assert len(self.anchor.streams.loops) == 0, "nothing is remembered of what is over"


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("turns", [1, 3])
def test_a_call_that_a_proxy_sends_back_goes_through(bench: Bench, turns: int) -> None:
    calls = bench.spiral(turns)
    streams = list(bench.relay.streams.values())
    assert len(streams) == turns + 1
    last, first = streams[0], streams[-1]
    assert (first.a.remote, last.b.remote) == (("198.51.100.9", 4000), ("10.0.0.77", 5000))
    assert first.b.remote is not None and first.b.remote[0] == OURS
    bench.at_rest(*calls)


def test_our_own_end_of_a_spiral_needs_no_proof(bench: Bench) -> None:
    calls = bench.spiral(1)
    last, first = bench.relay.streams.values()
    assert first.b.proven is not None and OURS in first.b.proven
    assert last.a.proven is not None and OURS in last.a.proven
    assert last.b.proven == ("10.0.0.20",), "10.0.0.77 is not where the SIP comes from"
    bench.at_rest(*calls)


def test_a_spiral_may_change_in_mid_call(bench: Bench) -> None:
    calls = bench.spiral(1)
    passed = bench.offer(calls[0], sdp("198.51.100.9", 4002, version=2))
    passed = bench.offer(calls[1], passed, PROXY_IN)
    passed = bench.answer(calls[1], sdp("10.0.0.78", 5002, version=2), B, PROXY_IN)
    bench.answer(calls[0], passed)
    assert {change[2].remote for change in bench.relay.changes} >= {
        ("198.51.100.9", 4002),
        ("10.0.0.78", 5002),
    }
    bench.at_rest(*calls)


def test_both_sides_naming_our_ports_of_this_call_is_a_loop(bench: Bench) -> None:
    host, port = address(bench.offer("c", sdp(SHOWN, 20000)))
    assert (host, port) == (OURS, 30000)
    with pytest.raises(PeerError) as caught:
        bench.answer("c", sdp(OURS, port))
    assert (caught.value.status, caught.value.rule) == (482, "media-loop")
    assert bench.relay.streams == {}
    bench.at_rest("c")


def test_two_calls_that_name_each_other_are_a_loop(bench: Bench) -> None:
    to_b = [address(bench.offer(call, sdp("198.51.100.9", 4000))) for call in ("c", "d")]
    # What comes in at b of the one goes out at a of it, and so on: only with both pairs crossed it is closed.
    at_a = [
        address(bench.answer(call, sdp("10.0.0.77", 5000 + number))) for number, call in enumerate(("c", "d"))
    ]
    assert at_a[0][0] == SHOWN
    bench.offer("c", sdp(*at_a[1], version=2))
    bench.answer("c", sdp("10.0.0.77", 5000))
    # Now what comes to b of c goes on to a of d, and from there to 10.0.0.77: a chain. With d's b aimed at c's b ...
    bench.offer("d", sdp("198.51.100.9", 4000, version=2))
    with pytest.raises(PeerError) as caught:
        bench.answer("d", sdp(*to_b[0], version=2))
    assert caught.value.rule == "media-loop"
    assert {end for stream in bench.relay.streams.values() for end in (stream.b.remote,)} == {
        ("10.0.0.77", 5000),
        ("10.0.0.77", 5001),
    }, "what was in force stays"
    bench.anchor.reject("d")
    bench.at_rest("c", "d")


def test_rtcp_alone_can_be_a_loop(bench: Bench) -> None:
    bench.offer("c", sdp("198.51.100.9", 4000, rtcp=f"20001 IN IP4 {SHOWN}"))
    with pytest.raises(PeerError) as caught:
        bench.answer("c", sdp("10.0.0.77", 5000, rtcp=f"30001 IN IP4 {OURS}"))
    assert caught.value.rule == "media-loop"
    bench.at_rest("c")


def test_a_port_of_ours_that_nobody_has_is_refused(bench: Bench) -> None:
    bench.offer("c", sdp("198.51.100.9", 4000))
    with pytest.raises(PeerError) as caught:
        bench.answer("c", sdp(OURS, 30050))
    assert caught.value.rule == "media-loop"
    bench.at_rest("c")


def test_another_service_at_our_address_is_not_our_port(bench: Bench) -> None:
    bench.offer("c", sdp("198.51.100.9", 4000))
    bench.answer("c", sdp(OURS, 40000))
    (stream,) = bench.relay.streams.values()
    assert stream.b.remote == (OURS, 40000)
    bench.at_rest("c")


def test_a_chain_has_an_end(bench: Bench) -> None:
    with pytest.raises(PeerError) as caught:
        bench.spiral(MAX_HOPS + 1)
    assert "more than" in caught.value.reason
    bench.at_rest(*(f"c{number}" for number in range(MAX_HOPS + 2)))


def test_a_chain_is_measured_from_both_of_its_ends(bench: Bench) -> None:
    calls = bench.spiral(MAX_HOPS)
    # One more at the tail: B moves to the port of a new call.
    onward = bench.offer("tail", sdp("10.0.0.88", 6000), PROXY_IN)
    inward = address(bench.answer("tail", sdp("10.0.0.99", 7000), B, PROXY_IN))
    assert address(onward)[0] == OURS
    bench.offer(calls[-1], sdp(OURS, address_before(bench, calls), version=2), PROXY_IN)
    with pytest.raises(PeerError) as caught:
        bench.answer(calls[-1], sdp(*inward, version=2), B, PROXY_IN)
    assert "more than" in caught.value.reason
    bench.anchor.reject(calls[-1])
    bench.at_rest("tail", *calls)


def address_before(bench: Bench, calls: list[str]) -> int:
    """Where the last call of a spiral sends what B says: our port of the call before it."""
    last = next(stream for stream in bench.relay.streams.values() if stream.call == calls[-1])
    assert last.a.remote is not None
    return last.a.remote[1]
