"""What an m= line becomes on both sides: hold, RTCP, and whose packets are believed (RFC 3264)."""

from dataclasses import replace

import pytest

from config.load import load
from media.relay import Learn
from sbc.media_policy import MediaPolicy, trust
from signaling.sdp.session import parse_connection
from tests.harness.anchored import B1, PBX, VECTORS, A, Bench, direction_of, host_of, media_of, of_b, sdp


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
    stream = bench.changed(before)
    assert stream.a.receive == stream.b.send == (onward == "sendonly" and answer != "inactive")
    assert not stream.b.receive and not stream.a.send
    assert bench.relay.limited[before.id] == (0.0, 0.0)  # nobody need speak
    if host == "0.0.0.0":
        assert stream.a.remote == before.a.remote
    resumed = bench.offer(sdp(version=3))
    assert direction_of(resumed) == "sendrecv"
    assert media_of(resumed).port == media_of(held).port
    bench.answer(of_b(version=3))
    assert bench.relay.limited[before.id] == (60.0, 60.0)
    bench.at_rest()


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
    assert bench.changed(before).a.epoch == 1
    bench.at_rest()


def test_digits_of_a_network_are_for_the_relay_process_where_policy_says_so() -> None:
    yaml = "networks:\n  public: {address: 203.0.113.10, telephone_event: process}\n  private: {address: 10.0.0.1}\n"
    events_up = MediaPolicy.of_config(load(yaml, {})).events_up
    assert events_up == {"public"}
    bench = Bench(lambda policy: replace(policy, events_up=events_up))
    bench.call()
    assert (bench.stream.a.events_up, bench.stream.b.events_up) == (True, False)
    bench.at_rest()
