"""The local anchor: offers and answers across the border, families, codecs, versions, lines (RFC 3264, RFC 6337)."""

from pathlib import Path

import pytest

from sbc.anchor import Party
from sbc.media_policy import MediaPolicy
from signaling.errors import ParseError, PeerError, UsageError
from signaling.sdp.parser import parse
from tests.harness.anchored import (
    B1,
    B2,
    FAR,
    PBX,
    VECTORS,
    A,
    Bench,
    direction_of,
    host_of,
    media_of,
    of_b,
    sdp,
    version_of,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- what crosses ------------------------------------------------------------------------------------------


def test_a_call_is_anchored_on_both_sides(bench: Bench) -> None:
    offer, answer = bench.call()
    assert host_of(offer) == "10.0.0.1"
    assert media_of(offer).port == 30000
    assert host_of(answer) == "203.0.113.99", "the advertised address, not the bound one"
    assert media_of(answer).port == 20000
    stream = bench.stream
    assert (stream.a.local.host, stream.a.local.rtp, stream.a.local.rtcp) == ("203.0.113.10", 20000, 20001)
    assert stream.b.remote == (PBX, 5000)
    assert stream.b.remote_rtcp == (PBX, 5001)
    assert stream.a.codecs == ((0, "PCMU", 8000),), "the caller sends what the answer describes"
    assert stream.b.codecs == ((0, "PCMU", 8000), (8, "PCMA", 8000))
    bench.at_rest()


def test_names_and_subjects_do_not_cross(bench: Bench) -> None:
    offer = bench.offer((VECTORS / "conference_phone.sdp").read_bytes())
    for secret in (
        b"boardroom",
        b"Board Room",
        b"10.20.30.40",
        b"corp.example",
        b"555",
        b"1716301",
        b"0004f2",
    ):
        assert secret not in offer
    assert b"a=rtpmap:115 G7221/32000" in offer
    assert b"b=AS:2048" in offer


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.sdp")), ids=lambda path: path.stem)
def test_what_devices_send_keeps_its_lines_and_loses_its_addresses(path: Path) -> None:
    bench = Bench()
    data = path.read_bytes()
    session = parse(data)
    try:
        out = bench.offer(data)
    except PeerError as error:
        assert path.stem in ("browser", "secure_phone", "carrier_ipv6")
        assert error.status == 488
    else:
        assert [media.kind for media in parse(out).media] == [media.kind for media in session.media]
        for line in session.lines + tuple(line for media in session.media for line in media.lines):
            if line.startswith(("c=", "o=", "a=candidate", "a=ssrc", "a=path")):
                assert line.split()[-1].encode() not in out
    bench.at_rest()


def test_secure_lines_are_refused_with_a_reason(bench: Bench) -> None:
    with pytest.raises(PeerError) as caught:
        bench.offer((VECTORS / "secure_phone.sdp").read_bytes())
    assert (caught.value.status, caught.value.rule) == (488, "srtp-not-supported")
    assert bench.rules() == ["srtp-not-supported"]
    bench.at_rest()


def test_the_plain_alternative_to_a_secure_line_is_used(bench: Bench) -> None:
    offer = bench.offer((VECTORS / "optional_secure_phone.sdp").read_bytes())
    assert [media.port for media in parse(offer).media] == [0, 30000]
    answer = bench.answer(of_b("audio 0 RTP/SAVP 8", "audio 5000 RTP/AVP 8"))
    assert [(media.port, media.proto) for media in parse(answer).media] == [
        (0, "RTP/SAVP"),
        (20000, "RTP/AVP"),
    ]
    bench.at_rest()


def test_m_lines_hold_their_places(bench: Bench) -> None:
    lines = (
        "message 2855 TCP/MSRP *",
        "audio 4000 RTP/AVP 0",
        "video 0 RTP/AVP 34",
        "application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "video 4002 RTP/AVP 34",
    )
    offer = bench.offer(sdp(*lines))
    assert [(media.kind, bool(media.port)) for media in parse(offer).media] == [
        ("message", False),
        ("audio", True),
        ("video", False),
        ("application", False),
        ("video", True),
    ]
    # A peer that leaves out what it does not want, against RFC 3264 s.6, has refused it.
    answer = bench.answer(of_b("message 0 TCP/MSRP *", "audio 5000 RTP/AVP 0"))
    assert [media.port for media in parse(answer).media] == [0, 20000, 0, 0, 0]
    assert media_of(answer, 3).formats == ("webrtc-datachannel",)
    assert len(bench.relay.streams) == 1
    bench.at_rest()


def test_an_answer_with_more_lines_than_offered_is_the_answerers_fault(bench: Bench) -> None:
    bench.offer()
    with pytest.raises(PeerError) as caught:
        bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34"))
    assert (caught.value.status, caught.value.rule) == (502, "sdp-line-count")
    with pytest.raises(PeerError) as caught:
        bench.answer(b"v=0\r\nnonsense")
    assert caught.value.status == 502
    bench.answer()
    bench.at_rest()


def test_a_bad_offer_changes_nothing(bench: Bench) -> None:
    with pytest.raises(ParseError):
        bench.offer(b"nonsense")
    assert len(bench.anchor) == 0
    bench.call()
    with pytest.raises(ParseError):
        bench.offer(b"v=0\r\no=-\r\n")
    assert bench.stream.b.remote == (PBX, 5000)
    bench.at_rest()


def test_many_streams_are_too_many(bench: Bench) -> None:
    offer = bench.offer(sdp(*["audio 4000 RTP/AVP 0"] * 12))
    assert [bool(media.port) for media in parse(offer).media] == [True] * 8 + [False] * 4
    assert bench.rules() == ["too-many-streams"] * 4
    bench.at_rest()


# -- families ----------------------------------------------------------------------------------------------


def test_an_ipv4_phone_calls_an_ipv6_trunk(bench: Bench) -> None:
    offer = bench.offer(target=FAR)
    assert host_of(offer) == "2001:db8:b::1"
    assert "IN IP6 2001:db8:b::1" in offer.decode().split("\r\n")[1]
    answer = bench.answer(of_b(host="2001:db8:5::77"), source=FAR)
    assert host_of(answer) == "203.0.113.99"
    assert bench.stream.b.remote == ("2001:db8:5::77", 5000)
    bench.at_rest()


def test_a_network_with_two_families_answers_in_that_of_the_offer(bench: Bench) -> None:
    bench.offer(of_b(host="2001:db8:9::5"), source=B1, target=A)
    answer = bench.answer(sdp(), source=A, target=B1)
    assert host_of(answer) == "2001:db8:a::1"
    again = bench.offer(sdp(version=2), source=A, target=B1)
    assert host_of(again) == "2001:db8:a::1", "the family of the existing SDP"
    bench.at_rest()


def test_a_peer_whose_sip_is_ipv6_is_offered_ipv6(bench: Bench) -> None:
    offer = bench.offer(target=Party("b1", "private", "2001:db8:9::5"))
    assert host_of(offer) == "2001:db8:a::1"
    bench.at_rest()


def test_a_family_that_we_do_not_have_is_refused(bench: Bench) -> None:
    with pytest.raises(PeerError) as caught:
        bench.offer(sdp(host="2001:db8::50"))
    assert (caught.value.status, caught.value.rule) == (488, "media-family")
    bench.offer()
    with pytest.raises(PeerError) as caught:
        bench.answer(of_b(host="2001:db8::77"))
    assert (caught.value.status, caught.value.rule) == (488, "media-family")
    bench.at_rest()


def test_a_caller_that_moves_to_the_other_family_gets_other_ports(bench: Bench) -> None:
    bench.offer(of_b(), source=B1, target=A)
    bench.answer(sdp(), source=A, target=B1)
    before = bench.stream
    bench.offer(of_b(host="2001:db8:9::5", version=2), source=B1, target=A)
    answer = bench.answer(sdp(), source=A, target=B1)
    assert host_of(answer) == "2001:db8:a::1"
    number, side, end = bench.relay.changes[-1]
    assert (number, side, end.local.network) == (before.id, "b", "private#2")
    assert end.epoch == before.b.epoch + 1
    assert bench.pool.in_use("private") == 1, "until the relay has closed the stream that left it"
    bench.at_rest()


# -- codecs ------------------------------------------------------------------------------------------------


def test_codec_policy() -> None:
    bench = Bench(lambda policy: MediaPolicy(policy.addresses, codecs=("pcma", "G722")))
    offer = bench.offer((VECTORS / "desk_phone.sdp").read_bytes())
    assert media_of(offer).formats == ("9", "8", "101")
    assert bench.rules() == ["media.codecs"]
    bench.answer(of_b("audio 5000 RTP/AVP 8"))
    bench.at_rest()


def test_no_common_codec_names_both_lists() -> None:
    bench = Bench(lambda policy: MediaPolicy(policy.addresses, codecs=("opus",)))
    with pytest.raises(PeerError) as caught:
        bench.offer()
    assert (caught.value.status, caught.value.rule) == (488, "no-common-codec")
    assert "PCMU, PCMA" in caught.value.reason and "OPUS" in caught.value.reason
    assert bench.rules() == ["media.codecs", "no-common-codec"]
    bench.at_rest()


def test_an_answer_with_a_codec_that_policy_took_away_is_refused() -> None:
    bench = Bench(lambda policy: MediaPolicy(policy.addresses, codecs=("PCMA",)))
    bench.offer()
    with pytest.raises(PeerError) as caught:
        bench.answer(of_b("audio 5000 RTP/AVP 0"))
    assert caught.value.rule == "no-common-codec"
    bench.at_rest()


# -- versions ----------------------------------------------------------------------------------------------


def test_the_version_grows_only_when_our_sdp_changes(bench: Bench) -> None:
    first, _ = bench.call()
    same = bench.offer(sdp(version=2))
    bench.answer(of_b(version=2))
    assert same == first
    held = bench.offer(sdp("audio 4000 RTP/AVP 0 8|a=sendonly", version=3))
    assert version_of(held) == version_of(first) + 1
    assert parse(held).origin.session_id == parse(first).origin.session_id
    assert direction_of(bench.answer(of_b("audio 5000 RTP/AVP 0|a=recvonly", version=3))) == "recvonly"
    resumed = bench.offer(sdp(version=4))
    assert version_of(resumed) == version_of(first) + 2
    bench.at_rest()


def test_legs_have_session_ids_of_their_own(bench: Bench) -> None:
    offer, answer = bench.call()
    ids = {parse(data).origin.session_id for data in (offer, answer)}
    assert len(ids) == 2
    assert "77" not in ids
    bench.at_rest()


def test_a_refused_offer_has_used_its_version(bench: Bench) -> None:
    first, _ = bench.call()
    refused = bench.offer(sdp("audio 4000 RTP/AVP 0 8|a=inactive", version=2))
    bench.anchor.reject("c")
    again = bench.offer(sdp(version=3))
    assert [version_of(data) for data in (first, refused, again)] == [1, 2, 3]
    bench.at_rest()


# -- repeated, rejected, late ------------------------------------------------------------------------------


def test_an_early_answer_and_a_final_one_of_another_phone(bench: Bench) -> None:
    bench.offer()
    early = bench.answer(of_b(host="10.0.0.71"))
    assert bench.stream.b.remote == ("10.0.0.71", 5000)
    final = bench.answer(of_b(host="10.0.0.72"))
    assert early == final
    ((_, side, end),) = bench.relay.changes
    assert (side, end.remote, end.epoch) == ("b", ("10.0.0.72", 5000), 1)
    bench.answer(of_b(host="10.0.0.72"))
    assert len(bench.relay.changes) == 1, "the same again changes nothing"
    bench.at_rest()


def test_a_later_answer_may_accept_what_an_earlier_one_refused(bench: Bench) -> None:
    bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34"))
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34"))
    assert len(bench.relay.streams) == 1
    answer = bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34"))
    assert media_of(answer, 1).port == 20002
    assert len(bench.relay.streams) == 2
    bench.at_rest()


def test_settling_frees_the_ports_of_refused_lines(bench: Bench) -> None:
    bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34"))
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34"))
    assert bench.anchor.ports_in_use() == 4
    bench.anchor.settle("c")
    assert bench.anchor.ports_in_use() == 2
    late = bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34"))
    assert media_of(late, 1).port == 0
    bench.at_rest()


def test_sdp_that_answers_nothing_any_more_changes_nothing(bench: Bench) -> None:
    """A 200 whose SDP repeats the 183's after an UPDATE (RFC 6337 s.3.1.1)."""
    bench.call()
    bench.offer(of_b(host="10.0.0.72", version=2), source=B1, target=A)
    bench.answer(sdp(), source=A, target=B1)
    changes = len(bench.relay.changes)
    assert version_of(bench.answer()) == 1
    assert len(bench.relay.changes) == changes
    bench.at_rest()


def test_a_rejected_offer_leaves_the_session_in_force(bench: Bench) -> None:
    bench.call()
    before = bench.anchor.query("c")
    bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34", host="192.0.2.61", version=2))
    assert bench.anchor.ports_in_use() == 4
    bench.anchor.reject("c")
    assert bench.anchor.ports_in_use() == 2
    assert bench.anchor.query("c") == before
    assert bench.relay.changes == []
    bench.anchor.reject("c")
    bench.at_rest()


def test_the_offer_to_the_last_that_is_left_can_be_rejected(bench: Bench) -> None:
    """Offered to two, of whom one has been dropped: the other is the one in question."""
    bench.offer()
    bench.offer(target=B2)
    bench.anchor.drop("c", "b2")
    bench.anchor.reject("c")
    assert bench.anchor.ports_in_use() == 0
    bench.offer(of_b(), source=B1, target=A)
    bench.answer(sdp(), source=A, target=B1)
    bench.at_rest()


def test_offers_of_both_sides_at_once_are_glare(bench: Bench) -> None:
    bench.call()
    bench.offer(sdp(version=2))
    with pytest.raises(PeerError) as caught:
        bench.offer(of_b(version=2), source=B1, target=A)
    assert caught.value.status == 491
    bench.answer()
    bench.at_rest()


def test_a_late_offer_comes_from_the_other_side(bench: Bench) -> None:
    offer = bench.offer(of_b(), source=B1, target=A)
    assert host_of(offer) == "203.0.113.99"
    answer = bench.answer(sdp(), source=A, target=B1)
    assert host_of(answer) == "10.0.0.1"
    assert bench.stream.b.remote == (PBX, 5000)
    bench.at_rest()


def test_answers_without_offers_are_our_own_mistake(bench: Bench) -> None:
    with pytest.raises(UsageError):
        bench.answer()
    bench.offer()
    with pytest.raises(UsageError):
        bench.answer(source=B2)
    bench.at_rest()


# -- lines come and go -------------------------------------------------------------------------------------


def test_ports_of_unchanged_streams_stay(bench: Bench) -> None:
    first, _ = bench.call()
    with_video = bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34", version=2))
    assert media_of(with_video).port == media_of(first).port
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34", version=2))
    assert len(bench.relay.streams) == 2
    without = bench.offer(sdp("audio 4000 RTP/AVP 0", "video 0 RTP/AVP 34", version=3))
    assert [media.port for media in parse(without).media] == [media_of(first).port, 0]
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 0 RTP/AVP 34", version=3))
    assert len(bench.relay.streams) == 1
    assert bench.anchor.ports_in_use() == 2
    again = bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4004 RTP/AVP 34", version=4))
    assert media_of(again, 1).port != 0
    bench.answer(of_b("audio 5000 RTP/AVP 0", "video 5004 RTP/AVP 34", version=4))
    assert len(bench.relay.streams) == 2
    bench.at_rest()


def test_an_offer_that_leaves_out_a_line_in_use_is_refused(bench: Bench) -> None:
    """RFC 3264 s.8: the number of m= lines never shrinks."""
    bench.call(
        sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34"),
        of_b("audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34"),
    )
    with pytest.raises(PeerError) as caught:
        bench.offer(sdp(version=2))
    assert (caught.value.status, caught.value.rule) == (488, "sdp-line-count")
    bench.at_rest()


def test_who_answered_without_a_line_goes_on_without_it(bench: Bench) -> None:
    bench.call(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34"), of_b("audio 5000 RTP/AVP 0"))
    held = bench.offer(of_b("audio 5000 RTP/AVP 0|a=sendonly", version=2), source=B1, target=A)
    assert [(media.kind, bool(media.port)) for media in parse(held).media] == [
        ("audio", True),
        ("video", False),
    ]
    answer = bench.answer(
        sdp("audio 4000 RTP/AVP 0|a=recvonly", "video 0 RTP/AVP 34", version=2), source=A, target=B1
    )
    assert len(parse(answer).media) == 1
    both = bench.offer(sdp("audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34", version=3))
    assert [bool(media.port) for media in parse(both).media] == [True, True]
    bench.answer(of_b("audio 5000 RTP/AVP 0", version=3))
    bench.at_rest()


def test_fax_in_the_place_of_audio_and_back(bench: Bench) -> None:
    bench.call()
    audio = bench.stream
    fax = (VECTORS / "fax_gateway.sdp").read_bytes()
    offer = bench.offer(fax, source=B1, target=A)
    assert media_of(offer).kind == "image" and media_of(offer).proto == "udptl"
    assert b"VendorInfo" not in offer and b"a=T38FaxUdpEC:t38UDPRedundancy" in offer
    bench.anchor.reject("c")
    assert bench.stream == audio, "a phone that cannot fax keeps talking"
    bench.offer(fax, source=B1, target=A)
    bench.answer(sdp("image 4010 udptl t38|a=T38FaxVersion:0"), source=A, target=B1)
    assert [stream.kind for stream in bench.relay.streams.values()] == ["udptl"]
    assert bench.stream.b.remote == ("198.51.100.30", 16400)
    assert bench.stream.b.remote_rtcp is None
    assert bench.anchor.query("c").lines[0].codec == "T.38"
    bench.offer(of_b(version=9), source=B1, target=A)
    bench.answer(sdp(version=9), source=A, target=B1)
    assert [stream.kind for stream in bench.relay.streams.values()] == ["rtp"]
    bench.at_rest()


def test_only_the_first_stream_speaks_for_the_silence_of_the_call(bench: Bench) -> None:
    bench.call(
        sdp("audio 0 RTP/AVP 0", "audio 4000 RTP/AVP 0", "video 4002 RTP/AVP 34"),
        of_b("audio 0 RTP/AVP 0", "audio 5000 RTP/AVP 0", "video 5002 RTP/AVP 34"),
    )
    limits = [(stream.start_s, stream.silence_s) for stream in bench.relay.streams.values()]
    assert limits == [(60.0, 60.0), (0.0, 0.0)]
    bench.at_rest()


def test_a_kind_of_media_that_was_not_offered_is_no_answer(bench: Bench) -> None:
    bench.offer()
    with pytest.raises(PeerError) as caught:
        bench.answer(of_b("image 5000 udptl t38"))
    assert caught.value.rule == "sdp-kind-changed"
    bench.at_rest()
