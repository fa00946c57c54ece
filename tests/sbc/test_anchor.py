"""The local anchor: offers and answers across the border, ports, versions, holds, failover (RFC 3264, RFC 6337)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from media.ports import PortPool
from media.relay import BindFailed, Closed, Counters, Learn, SourceLocked, StreamCounters, StreamSpec
from sbc.anchor import ADVERTISED, LocalAnchor, MediaReport, Party
from sbc.media_policy import MediaAddress, MediaPolicy, trust
from signaling.errors import ParseError, PeerError, UsageError
from signaling.sdp.parser import parse
from signaling.sdp.session import Media, parse_connection
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


# -- hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "host", "onward", "answer", "back"),
    [
        ("audio 4000 RTP/AVP 0|a=sendonly", "192.0.2.50", "sendonly", "recvonly", "recvonly"),
        ("audio 4000 RTP/AVP 0|a=inactive", "192.0.2.50", "inactive", "inactive", "inactive"),
        ("audio 4000 RTP/AVP 0", "0.0.0.0", "sendonly", "recvonly", "recvonly"),
        ("audio 4000 RTP/AVP 0|a=inactive", "0.0.0.0", "inactive", "inactive", "inactive"),
        ("audio 4000 RTP/AVP 0|a=sendonly", "192.0.2.50", "sendonly", "sendrecv", "recvonly"),
        ("audio 4000 RTP/AVP 0|a=sendonly", "192.0.2.50", "sendonly", "inactive", "inactive"),
    ],
)
def test_hold_in_all_forms(
    bench: Bench, section: str, host: str, onward: str, answer: str, back: str
) -> None:
    """RFC 6337 s.5.3; an answer stays within what was offered (RFC 3264 s.6.1)."""
    bench.call()
    before = bench.stream
    held = bench.offer(sdp(section, host=host, version=2))
    assert direction_of(held) == onward
    assert host_of(held) == "10.0.0.1"
    assert direction_of(bench.answer(of_b(f"audio 5000 RTP/AVP 0|a={answer}", version=2))) == back
    stream = changed(bench, before)
    assert stream.a.receive == stream.b.send == (onward == "sendonly" and answer != "inactive")
    assert not stream.b.receive and not stream.a.send
    assert bench.relay.limited[before.id] == (3600.0, 3600.0)
    if host == "0.0.0.0":
        assert stream.a.remote == before.a.remote
    resumed = bench.offer(sdp(version=3))
    assert direction_of(resumed) == "sendrecv"
    assert media_of(resumed).port == media_of(held).port
    bench.answer(of_b(version=3))
    assert bench.relay.limited[before.id] == (60.0, 60.0)
    bench.at_rest()


def changed(bench: Bench, spec: StreamSpec) -> StreamSpec:
    """The stream as the relay has it after the changes."""
    ends = {"a": spec.a, "b": spec.b}
    for number, side, end in bench.relay.changes:
        if number == spec.id:
            ends[side] = end
    return StreamSpec(spec.id, spec.call, spec.kind, ends["a"], ends["b"])


def test_a_first_offer_on_hold(bench: Bench) -> None:
    offer, _ = bench.call((VECTORS / "hold_rfc2543.sdp").read_bytes())
    assert direction_of(offer) == "sendonly"
    end = bench.stream.a
    assert (end.remote, end.learn, end.expect) == (None, Learn.PORT, A.peer)
    bench.at_rest()


# -- RTCP --------------------------------------------------------------------------------------------------


def test_rtcp_mux_is_offered_onward_only_if_it_was_offered(bench: Bench) -> None:
    offer = bench.offer()
    assert "a=rtcp-mux" not in media_of(offer).lines
    bench.anchor.reject("c")
    offer = bench.offer(sdp("audio 4000 RTP/AVP 0|a=rtcp-mux"))
    assert "a=rtcp-mux" in media_of(offer).lines
    answer = bench.answer()
    assert "a=rtcp-mux" in media_of(answer).lines, "accepted though the other side did not"
    assert bench.stream.a.rtcp_mux and not bench.stream.b.rtcp_mux
    again = bench.offer(of_b(version=2), source=B1, target=A)
    assert "a=rtcp-mux" in media_of(again).lines, "the caller uses it already"
    bench.at_rest()


def test_rtcp_mux_on_the_answering_side(bench: Bench) -> None:
    bench.call(sdp("audio 4000 RTP/AVP 0|a=rtcp-mux"), of_b("audio 5000 RTP/AVP 0|a=rtcp-mux"))
    assert bench.stream.b.rtcp_mux
    assert bench.stream.b.remote_rtcp == (PBX, 5000)
    bench.at_rest()


def test_rtcp_mux_that_was_not_offered_is_not_believed(bench: Bench) -> None:
    bench.call(answer=of_b("audio 5000 RTP/AVP 0|a=rtcp-mux"))
    assert not bench.stream.b.rtcp_mux
    bench.at_rest()


def test_rtcp_attribute_is_ours_where_there_was_one(bench: Bench) -> None:
    offer, answer = bench.call(
        sdp("audio 4000 RTP/AVP 0|a=rtcp:4444"), of_b("audio 5000 RTP/AVP 0|a=rtcp:5555 IN IP4 10.0.0.78")
    )
    assert "a=rtcp:30001" in media_of(offer).lines
    assert "a=rtcp:20001" in media_of(answer).lines
    assert bench.stream.b.remote_rtcp == ("10.0.0.78", 5555)
    bench.at_rest()


# -- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connection", "peer", "nat", "expected"),
    [
        ("IN IP4 192.0.2.1", "192.0.2.9", False, (Learn.PORT, "192.0.2.1", True)),
        ("IN IP4 192.168.0.5", "192.0.2.9", False, (Learn.PORT, "192.168.0.5", False)),
        ("IN IP4 192.168.0.5", "10.0.0.20", False, (Learn.PORT, "192.168.0.5", True)),
        ("IN IP4 192.168.0.5", None, False, (Learn.PORT, "192.168.0.5", True)),
        ("IN IP4 127.0.0.1", "10.0.0.20", False, (Learn.PORT, "127.0.0.1", False)),
        ("IN IP4 127.0.0.1", "127.0.0.1", False, (Learn.PORT, "127.0.0.1", True)),
        ("IN IP4 169.254.169.254", "192.0.2.9", False, (Learn.PORT, "169.254.169.254", False)),
        ("IN IP4 10.0.0.20", "2001:db8::9", True, (Learn.PORT, "10.0.0.20", False)),
        ("IN IP6 ::1", "192.0.2.9", True, (Learn.PORT, "::1", False)),
        ("IN IP4 192.0.2.9", "192.0.2.9", True, (Learn.PORT, "192.0.2.9", True)),
        ("IN IP4 192.168.0.5", "192.0.2.9", True, (Learn.PORT, "192.0.2.9", False)),
        ("IN IP4 192.168.0.5", None, True, (Learn.ANY, None, False)),
        ("IN IP4 192.0.2.1", "192.0.2.9", True, (Learn.PORT, "192.0.2.9", True)),
        ("IN IP4 192.0.2.1", None, True, (Learn.ANY, None, True)),
        ("IN IP6 2001:db8::5", "192.0.2.9", True, (Learn.PORT, "2001:db8::5", True)),
        ("IN IP6 2001:DB8::5", "2001:db8:0::5", True, (Learn.PORT, "2001:db8::5", True)),
        ("IN IP4 media.example.com", "192.0.2.9", False, (Learn.PORT, "192.0.2.9", False)),
        ("IN IP4 media.example.com", None, True, (Learn.OFF, None, False)),
        ("IN IP4 0.0.0.0", "192.0.2.9", True, (Learn.PORT, "192.0.2.9", False)),
    ],
)
def test_whose_packets_are_believed(
    connection: str, peer: str | None, nat: bool, expected: tuple[Learn, str | None, bool]
) -> None:
    found = trust(parse_connection(connection), peer, nat)
    assert (found.learn, found.expect, found.reachable) == expected


def test_rtcp_is_not_aimed_at_another_network(bench: Bench) -> None:
    bench.call(
        sdp("audio 4000 RTP/AVP 0|a=rtcp:4444 IN IP4 10.0.0.20", host=A.peer or ""),
        of_b("audio 5000 RTP/AVP 0|a=rtcp:5555 IN IP4 127.0.0.1"),
    )
    assert (bench.stream.a.remote, bench.stream.a.remote_rtcp) == ((A.peer, 4000), None)
    assert (bench.stream.b.remote, bench.stream.b.remote_rtcp) == ((PBX, 5000), None)
    bench.at_rest()


@pytest.mark.parametrize("port", [1, 53, 1023])
def test_media_is_not_aimed_at_the_ports_of_services(bench: Bench, port: int) -> None:
    bench.call(sdp(f"audio {port} RTP/AVP 0", host=A.peer or ""))
    assert (bench.stream.a.remote, bench.stream.a.remote_rtcp) == (None, None)
    assert bench.stream.a.expect == A.peer, "it is sent to once it has sent"
    bench.at_rest()


def test_a_phone_behind_nat_is_sent_nothing_before_it_is_learned(bench: Bench) -> None:
    bench.call(sdp(host="192.168.1.7"))
    end = bench.stream.a
    assert (end.remote, end.remote_rtcp, end.learn, end.expect) == (None, None, Learn.PORT, A.peer)
    nat = [decision for decision in bench.anchor.take_decisions("c") if decision.stage == "nat"]
    assert "private" in nat[0].outcome
    assert ("signalled", "192.168.1.7:4000") in nat[0].compared
    bench.at_rest()


def test_an_address_change_begins_a_new_epoch_when_it_is_answered(bench: Bench) -> None:
    bench.call()
    bench.offer(sdp(host="192.0.2.60", version=2))
    assert bench.relay.changes == []
    bench.answer()
    ((_, side, end),) = bench.relay.changes
    assert (side, end.remote, end.epoch) == ("a", ("192.0.2.60", 4000), 1)
    bench.at_rest()


def test_a_new_description_from_behind_nat_may_mean_a_new_binding(bench: Bench) -> None:
    bench.call(sdp(host="192.168.1.7"))
    before = bench.stream
    bench.call(sdp(host="192.168.1.7"))
    assert bench.relay.changes == [], "a refresh is none"
    bench.call(sdp(host="192.168.1.7", version=2))
    assert changed(bench, before).a.epoch == 1
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
    muted = changed(bench, before)
    assert (muted.b.remote, muted.b.receive, muted.b.send) == (None, False, False)
    bench.offer(target=B2)
    answer = bench.answer(of_b(host="10.0.0.88"), source=B2)
    assert media_of(answer).port == media_of(early).port
    stream = changed(bench, before)
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
    stream = changed(bench, before)
    assert (stream.b.remote, stream.b.local.rtp) == (("10.0.0.88", 5004), offered)
    assert stream.b.epoch > before.b.epoch
    assert stream.a.local == before.a.local
    assert list(bench.relay.streams) == [before.id], (
        "what the caller sends goes to the same port all the time"
    )
    bench.anchor.settle("c")
    bench.anchor.drop("c", "b1")
    assert changed(bench, before) == stream, "the loser takes nothing of the winner along"
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
    assert changed(bench, before).b.local.rtp == offered
    bench.at_rest()


def test_early_media_goes_from_one_target_to_the_other_and_back(bench: Bench) -> None:
    ports = [media_of(bench.offer(target=target)).port for target in (B1, B2)]
    bench.answer()
    before = bench.stream
    for source, host, port in ((B2, "10.0.0.88", ports[1]), (B1, "10.0.0.77", ports[0])):
        bench.answer(of_b(host=host), source=source)
        assert changed(bench, before).b.local.rtp == port
    bench.anchor.drop("c", "b1")
    muted = changed(bench, before)
    assert (muted.b.remote, muted.b.receive) == (None, False)
    bench.answer(of_b(host="10.0.0.88"), source=B2)
    assert changed(bench, before).b.remote == ("10.0.0.88", 5000)
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


# -- ports and the end -------------------------------------------------------------------------------------


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
