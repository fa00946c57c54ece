"""The media of one call whose targets fail or fork; what is told of it, and written down."""

import json

import pytest

from media.relay import BindFailed, SourceLocked
from sbc.anchor import ADVERTISED, MediaReport
from signaling.errors import PeerError, UsageError
from signaling.sdp.parser import parse
from tests.harness.anchored import B1, B2, FAR, PBX, THIRD, A, Bench, host_of, media_of, of_b, sdp, version_of


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- failover ----------------------------------------------------------------------------------------------


def test_failover_keeps_the_callers_ports(bench: Bench) -> None:
    bench.offer()
    bench.anchor.drop("c", "b1")
    assert bench.pool.in_use("private") == 0
    assert bench.pool.in_use("public") == 1
    offer = bench.offer(target=FAR)
    assert host_of(offer) == "2001:db8:b::1"
    answer = bench.answer(of_b(host="2001:db8:5::77"), source=FAR)
    assert media_of(answer).port == 20000
    bench.at_rest()


def test_failover_after_early_media(bench: Bench) -> None:
    bench.offer()
    early = bench.answer()
    before = bench.stream
    bench.anchor.drop("c", "b1")
    muted = bench.changed(before)
    assert (muted.b.remote, muted.b.receive, muted.b.send) == (None, False, False)
    bench.offer(target=B2)
    answer = bench.answer(of_b(host="10.0.0.88"), source=B2)
    assert media_of(answer).port == media_of(early).port
    stream = bench.changed(before)
    assert stream.b.remote == ("10.0.0.88", 5000)
    assert stream.b.epoch > before.b.epoch
    assert stream.b.local != before.b.local, "what the first one still sends must not reach the caller"
    assert stream.a.local == before.a.local
    bench.at_rest()


def test_the_last_target_fails(bench: Bench) -> None:
    bench.offer()
    bench.anchor.drop("c", "b1")
    bench.offer(target=B2)
    bench.anchor.drop("c", "b2")
    bench.anchor.drop("c", "b2")
    bench.at_rest()


# -- forking -----------------------------------------------------------------------------------------------


def test_targets_that_ring_at_once_have_ports_of_their_own_and_share_those_of_the_caller(
    bench: Bench,
) -> None:
    ports = [media_of(bench.offer(target=target)).port for target in (B1, B2, THIRD)]
    assert len(set(ports)) == 3
    assert (bench.pool.in_use("public"), bench.anchor.ports_in_use()) == (1, 4)
    answer = bench.answer(of_b(host="10.0.0.88"), source=B2)
    assert media_of(answer).port == 20000
    assert (bench.stream.b.remote, bench.stream.b.local.rtp) == (("10.0.0.88", 5000), ports[1])
    bench.anchor.settle("c")
    bench.anchor.drop("c", "b1")
    bench.anchor.drop("c", "b3")
    assert bench.anchor.ports_in_use() == 2
    bench.at_rest()


def test_early_media_of_one_target_and_the_answer_of_another(bench: Bench) -> None:
    """RFC 3261 s.13.2.2.4: two dialogs, and each has its own answer to the offer."""
    bench.offer()
    offered = media_of(bench.offer(target=B2)).port
    early = bench.answer()
    before = bench.stream
    answer = bench.answer(of_b("audio 5004 RTP/AVP 8", host="10.0.0.88"), source=B2)
    assert media_of(answer).port == media_of(early).port == 20000
    assert media_of(answer).formats == ("8",)
    stream = bench.changed(before)
    assert (stream.b.remote, stream.b.local.rtp) == (("10.0.0.88", 5004), offered)
    assert stream.b.epoch > before.b.epoch
    assert stream.a.local == before.a.local
    assert list(bench.relay.streams) == [before.id], (
        "what the caller sends goes to the same port all the time"
    )
    bench.anchor.settle("c")
    bench.anchor.drop("c", "b1")
    assert bench.changed(before) == stream, "the loser takes nothing of the winner along"
    bench.at_rest()


def test_a_target_that_takes_the_place_of_another_beside_early_media(bench: Bench) -> None:
    bench.offer()
    bench.offer(target=B2)
    bench.answer()
    before = bench.stream
    bench.anchor.drop("c", "b2")
    offered = media_of(bench.offer(target=FAR)).port
    assert bench.relay.changes == [], "the early media of the other goes on"
    bench.answer(of_b(host="2001:db8:5::77"), source=FAR)
    assert bench.changed(before).b.local.rtp == offered
    bench.at_rest()


def test_early_media_goes_from_one_target_to_the_other_and_back(bench: Bench) -> None:
    ports = [media_of(bench.offer(target=target)).port for target in (B1, B2)]
    bench.answer()
    before = bench.stream
    for source, host, port in ((B2, "10.0.0.88", ports[1]), (B1, "10.0.0.77", ports[0])):
        bench.answer(of_b(host=host), source=source)
        assert bench.changed(before).b.local.rtp == port
    bench.anchor.drop("c", "b1")
    muted = bench.changed(before)
    assert (muted.b.remote, muted.b.receive) == (None, False)
    bench.answer(of_b(host="10.0.0.88"), source=B2)
    assert bench.changed(before).b.remote == ("10.0.0.88", 5000)
    bench.at_rest()


def test_one_target_wants_the_line_that_another_gave_up(bench: Bench) -> None:
    two = sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34")
    bench.offer(two)
    bench.offer(two, target=B2)
    both = of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34")
    bench.answer(both)
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34"))
    answer = bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34", host="10.0.0.88"), source=B2)
    assert [line.port > 0 for line in parse(answer).media] == [True, False], "its ports rest"
    bench.anchor.settle("c")
    bench.anchor.drop("c", "b1")
    bench.at_rest()


def test_a_bad_answer_of_one_target_leaves_the_others(bench: Bench) -> None:
    bench.offer()
    bench.offer(target=B2)
    with pytest.raises(PeerError):
        bench.answer(of_b("audio 5000 RTP/SAVP 0"), source=B2)
    bench.anchor.drop("c", "b2")
    assert media_of(bench.answer()).port == 20000
    bench.at_rest()


# -- what is told ------------------------------------------------------------------------------------------


def test_the_report_of_a_call_in_progress(bench: Bench) -> None:
    bench.call(sdp("audio 4000 RTP/AVP 0|a=sendonly"), of_b("audio 5000 RTP/AVP 0|a=recvonly"))
    (line,) = bench.anchor.query("c").lines
    assert (line.media, line.codec) == ("audio", "PCMU")
    assert (line.a_signalled, line.b_signalled) == ("192.0.2.50:4000", f"{PBX}:5000")
    assert (line.a_local, line.b_local) == ("203.0.113.99:20000", "10.0.0.1:30000")
    assert (line.a_direction, line.b_direction) == ("sendonly", "recvonly")
    assert bench.anchor.query("none") == MediaReport(())
    bench.at_rest()


def test_decisions_are_given_once(bench: Bench) -> None:
    bench.call()
    decisions = bench.anchor.take_decisions("c")
    assert [decision.stage for decision in decisions] == ["nat", "nat", "media", "nat"]
    assert decisions[-1].rule == ADVERTISED
    assert bench.anchor.take_decisions("c") == []
    bench.anchor.relay_event(BindFailed(bench.stream.id, "c", "address in use"))
    assert bench.rules() == ["media-bind-failed"]
    assert bench.anchor.take_decisions("none") == []
    bench.at_rest()


def test_a_call_can_be_written_down_and_taken_over(bench: Bench) -> None:
    """design.md s.4.4: versions, ports, learned sources."""
    offer, _ = bench.call(
        sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34", host="192.168.1.7"),
        of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34"),
    )
    before = bench.stream
    bench.anchor.relay_event(SourceLocked(before.id, "c", "a", ("198.51.100.9", 61000)))
    plain = json.loads(json.dumps(bench.anchor.snapshot("c")))
    later = Bench()
    later.anchor.restore(plain)
    with pytest.raises(UsageError):
        later.anchor.restore(plain)
    stream = later.stream
    assert (stream.a.local, stream.b.local) == (before.a.local, before.b.local)
    assert stream.a.remote == ("198.51.100.9", 61000), "where the phone was found to be"
    assert later.anchor.ports_in_use() == 2
    later.anchor.offer("other", A, B1, sdp())
    assert later.anchor.ports_in_use() == 4
    same = later.offer(sdp("audio 4000 RTP/AVP 0", "video 0 RTP/AVP 34", version=2))
    assert media_of(same).port == media_of(offer).port
    assert version_of(same) == version_of(offer) + 1
    assert parse(same).origin.session_id == parse(offer).origin.session_id
    later.answer(of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34", version=2))
    later.anchor.delete("other")
    later.at_rest()
    with pytest.raises(UsageError):
        later.anchor.snapshot("c")
    bench.at_rest()
