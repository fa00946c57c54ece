"""The streams that the relay has: ports, final counters, and the end of calls."""

import pytest

from media.relay import Closed, Counters, StreamCounters
from sbc.anchor import MediaReport
from sbc.media_policy import MediaPolicy
from signaling.errors import PeerError
from tests.harness.anchored import B1, PBX, VECTORS, A, Bench, sdp


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_exhausted_pool_is_503_and_leaks_nothing() -> None:
    bench = Bench(last=3)  # two pairs per network
    with pytest.raises(PeerError) as caught:
        bench.offer(sdp(*["audio 4000 RTP/AVP 0"] * 3))
    assert (caught.value.status, caught.value.rule) == (503, "media-ports-exhausted")
    assert bench.rules() == ["media-ports-exhausted"]
    assert bench.anchor.ports_in_use() == 0
    bench.call()
    with pytest.raises(PeerError):
        bench.offer(sdp(*["audio 4000 RTP/AVP 0"] * 3, version=2))
    assert bench.anchor.ports_in_use() == 2
    assert bench.stream.b.remote == (PBX, 5000)
    bench.at_rest()


def test_ports_are_free_when_the_relay_has_closed_the_streams(bench: Bench) -> None:
    bench.call()
    stream = bench.stream
    bench.relay.mute = True
    assert bench.anchor.delete("c")
    assert (bench.anchor.ports_in_use(), len(bench.anchor)) == (2, 1)
    counters = StreamCounters(stream.id, "c", Counters(packets=5), Counters(packets=6))
    assert list(bench.anchor.relay_event(Closed(stream.id, "c", counters))) == ["c"]
    assert bench.anchor.ports_in_use() == 0
    report = bench.anchor.take_report("c")
    assert report.counters == (counters,)
    assert [line.stream for line in report.lines] == [stream.id]
    assert len(bench.anchor) == 0
    assert bench.anchor.take_report("c") == MediaReport(())


def test_streams_of_the_past_are_in_the_last_report(bench: Bench) -> None:
    bench.call()
    bench.offer((VECTORS / "fax_gateway.sdp").read_bytes(), source=B1, target=A)
    bench.answer(sdp("image 4010 udptl t38"), source=A, target=B1)
    bench.relay.mute = True
    assert bench.anchor.delete("c")
    assert bench.anchor.reap("c", bench.now)
    report = bench.anchor.take_report("c")
    assert [line.codec for line in report.lines] == ["PCMU", "T.38"]
    assert [counters.id for counters in report.counters] == [line.stream for line in report.lines]
    bench.at_rest()


def test_a_worker_that_never_answers_is_not_waited_for(bench: Bench) -> None:
    bench.call()
    stream = bench.stream
    bench.relay.mute = True
    bench.anchor.delete("c")
    assert bench.anchor.reap("c", bench.now)
    assert not bench.anchor.reap("c", bench.now)
    assert bench.anchor.ports_in_use() == 0
    late = StreamCounters(stream.id, "c", Counters(), Counters())
    assert bench.anchor.relay_event(Closed(stream.id, "c", late)) == ()
    assert len(bench.anchor.take_report("c").lines) == 1
    bench.at_rest()


def test_a_full_pool_takes_ports_of_a_call_that_has_just_ended() -> None:
    bench = Bench(last=1)
    bench.call()
    stream = bench.stream
    bench.relay.mute = True
    bench.anchor.delete("c")
    bench.anchor.offer("next", A, B1, sdp())
    assert bench.anchor.ports_in_use() == 2
    counters = StreamCounters(stream.id, "c", Counters(), Counters())
    assert list(bench.anchor.relay_event(Closed(stream.id, "c", counters))) == ["c"]
    assert bench.anchor.ports_in_use() == 2, "they belong to the next call now"
    bench.anchor.take_report("c")
    bench.anchor.delete("next")
    bench.at_rest()


def test_a_call_that_never_had_a_stream_has_nothing_to_wait_for(bench: Bench) -> None:
    bench.offer()
    assert not bench.anchor.delete("c")
    assert not bench.anchor.delete("c")
    bench.at_rest()


def test_a_new_policy_is_for_new_calls(bench: Bench) -> None:
    bench.call()
    bench.anchor.configure(MediaPolicy({"public": (), "private": ()}, codecs=("opus",)))
    bench.offer(sdp(version=2))
    bench.answer()
    with pytest.raises(PeerError):
        bench.anchor.offer("d", A, B1, sdp())
    bench.anchor.delete("d")
    bench.at_rest()
