"""The verdict on media: every rule is asked for by name, and a healthy stream alarms nobody."""

import dataclasses

import pytest

from media.relay import Counters
from sbc.media_verdict import MEDIA_RULES, Side, Stream, media_rule, stream_findings

GOOD = Counters(
    packets=250, bytes=43000, forwarded=250, jitter_ms=0.4, max_jitter_ms=2.0, mos=4.4, payload_types=(0,),
    source=("192.0.2.10", 4000), last_s=0.01,
)  # fmt: skip
SILENT = Counters()


def judge_stream(stream: Stream) -> list[str]:
    """The sentences on one stream."""
    return [finding.text for finding in stream_findings(stream)]


def side(
    name: str,
    counters: Counters = GOOD,
    signalled: str = "192.0.2.10:4000",
    sends: bool = True,
    receives: bool = True,
    helped: bool = False,
) -> Side:
    return Side(name, "public" if name == "A" else "private", signalled, counters, sends, receives, helped)


def stream(a: Side | None = None, b: Side | None = None, codec: str = "PCMU") -> Stream:
    return Stream("audio", codec, a or side("A"), b or side("B"))


def test_a_healthy_stream_is_one_calm_sentence() -> None:
    assert judge_stream(stream()) == ["Healthy: both directions carry audio."]


CASES: dict[str, tuple[Side, str]] = {
    "held": (side("A", sends=False), "On hold or one-way is said"),
    "no-rtp": (
        side("A", Counters(strangers=40, stranger=("192.0.2.10", 4001))),
        "40 packets came from A's own address (192.0.2.10:4001), and none of them is RTP to our RTP port: it sends"
        " RTCP alone (muted), STUN or DTLS (it waits for WebRTC), or RTP to the port of RTCP.",
    ),
    "sdp-rewritten": (
        dataclasses.replace(side("A", Counters(strangers=40)), origin="192.168.1.5"),
        "40 packets for A came from an address that is not the one it signalled (192.0.2.10:4000), and were dropped:"
        " its o= line says 192.168.1.5, so that something on the way has rewritten its SDP, and wrongly; switch the"
        " SIP ALG of its router off.",
    ),
    "nat-unhelped": (
        dataclasses.replace(
            side("A", Counters(strangers=40, stranger=("192.0.2.77", 999)), "192.168.1.5:4000"),
            origin="192.168.1.5",
            sip="192.0.2.77",
        ),
        "40 packets for A came from an address that is not the one it signalled (192.168.1.5:4000), but"
        " 192.0.2.77:999, and were dropped: the signalled one is private and A behind NAT;"
        " set nat: far-end on network public to let its address be learned.",
    ),
    "strangers-unhelped": (
        side("A", Counters(strangers=40)),
        "40 packets for A came from an address that is not the one it signalled (192.0.2.10:4000), and were"
        " dropped: a SIP ALG rewrote the address, or A is behind a symmetric NAT; set nat: far-end on network"
        " public to let its address be learned.",
    ),
    "strangers-only": (
        side("A", Counters(strangers=40), helped=True),
        "40 packets for A came from an address that is neither the one it signalled (192.0.2.10:4000) nor the"
        " one its SIP comes from, and were dropped: a SIP ALG, or media and SIP of A leave"
        " by different ways.",
    ),
    "only-rtcp": (
        side("A", Counters(rtcp_packets=3)),
        "A sends RTCP (3 packets) but no RTP: it is alive and reachable, and has muted its"
        " microphone or waits"
        " for something.",
    ),
    "not-rtp": (
        side("A", Counters(malformed=9)),
        "9 packets came from A, and none of them is RTP: does it send SRTP, T.38 or STUN"
        " to a plain RTP port?",
    ),
    "wrong-advertise": (
        dataclasses.replace(side("A", SILENT), told="198.51.100.7:20000", bound="10.0.0.4"),
        "Nothing has come from A (192.0.2.10:4000), which was told to send to 198.51.100.7:20000 while we listen on"
        " 10.0.0.4: does networks.public.advertise lead here, with all media ports?",
    ),
    "no-advertise": (
        dataclasses.replace(side("A", SILENT), told="10.0.0.4:20000"),
        "Nothing has come from A (192.0.2.10:4000), which was told to send to 10.0.0.4:20000, a private address: set"
        " networks.public.advertise to the one that leads here from there.",
    ),
    "private-unhelped": (
        side("A", SILENT, "192.168.1.5:4000"),
        "Nothing has come from A, whose address 192.168.1.5 is private; if A is behind"
        " NAT, set nat: far-end on"
        " network public.",
    ),
    "nat-not-opened": (
        side("A", SILENT, "192.168.1.5:4000", helped=True),
        "A's address 192.168.1.5 is private and nothing has come from it: A is behind NAT"
        " and has not opened its"
        " port.",
    ),
    "nothing": (
        side("A", SILENT),
        "Nothing has come from A (192.0.2.10:4000): it does not send, or a firewall"
        " between A and us stops it.",
    ),
    "elsewhere": (
        side("A", dataclasses.replace(GOOD, source=None, strangers=40)),
        "A was heard before, but 40 packets came from an address that is not the one it signalled last"
        " (192.0.2.10:4000), and were dropped: A has not gone where its last offer or answer said.",
    ),
    "moved": (
        side("A", dataclasses.replace(GOOD, last_s=7.2, strangers=300, stranger=("192.0.2.77", 999))),
        "Nothing has come from A at 192.0.2.10:4000 for 7 s, but 300 packets from 192.0.2.77:999, which were dropped:"
        " its router has started anew or its NAT forgets within the call; a re-INVITE of A would mend it.",
    ),
    "stopped": (
        side("A", dataclasses.replace(GOOD, last_s=7.2)),
        "A has stopped sending: nothing has come from it for 7 s, after 250 packets; it is muted, suppresses"
        " silence, or something between A and us stops it now.",
    ),
    "muted": (
        side("A", Counters(packets=7, muted=7)),
        "A sends, but all 7 packets came while it was not to send (hold), and were dropped.",
    ),
    "not-forwarded": (
        side("A", Counters(packets=7)),
        "A sends, but we do not know where B is, so that nothing could be forwarded.",
    ),
    "only-noise": (
        side("A", dataclasses.replace(GOOD, payload_types=(13,))),
        "A sends comfort noise only (250 packets): it is muted, or its microphone is dead.",
    ),
    "only-digits": (
        dataclasses.replace(
            side("A", dataclasses.replace(GOOD, payload_types=(13, 101))),
            formats=((0, "PCMU"), (101, "telephone-event")),
        ),
        "A sends digits (telephone-event) and no sound: its microphone is off or it has no codec that it can use.",
    ),
    "wrong-codec": (
        side("A", dataclasses.replace(GOOD, payload_types=(8,))),
        "A sends payload type 8 (PCMA), which was not negotiated (PCMU): B will probably not play it.",
    ),
    "rebound": (
        side(
            "A", dataclasses.replace(GOOD, packets=138, lost=53, strangers=55, stranger=("192.0.2.10", 4711))
        ),
        "A was heard with a gap: its NAT has given it another port in mid-call, and 55 packets were dropped until it"
        " was certain that 192.0.2.10:4000 is A.",
    ),
    "loss": (
        side("A", dataclasses.replace(GOOD, packets=90, lost=10)),
        "A is heard with gaps: 10.0% of its packets were lost between A and us.",
    ),
    "jitter": (
        side("A", dataclasses.replace(GOOD, jitter_ms=85.0)),
        "A's packets come unevenly: jitter of 85 ms, more than the buffers of most phones even out.",
    ),
    "poor": (side("A", dataclasses.replace(GOOD, mos=2.1)), "The sound from A is poor: MOS 2.1."),
    "healthy": (side("A"), "unused"),
}


def test_every_rule_has_a_case() -> None:
    assert set(CASES) | {"withheld", "unheard", "lost-beyond"} == {rule.name for rule in MEDIA_RULES}


@pytest.mark.parametrize("name", list(CASES))
def test_the_rule_speaks_for_its_case(name: str) -> None:
    source = CASES[name][0]
    assert media_rule(source, side("B"), stream(a=source)).name == name


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("held", "healthy")])
def test_what_works_is_said_first_then_what_does_not(name: str) -> None:
    source, sentence = CASES[name]
    assert judge_stream(stream(a=source)) == ["B sends, we forward.", sentence]


def test_media_that_nobody_asked_for_is_said_to_stop() -> None:
    withheld = side("A", dataclasses.replace(GOOD, withheld=500))
    silent = side("B", SILENT, "192.0.2.66:5000")
    sentence, reason = judge_stream(stream(withheld, silent))
    assert sentence.startswith(
        "A sends, and 500 of its packets were not passed on: B has never sent anything from 192.0.2.66:5000, which"
        " is not where its SIP comes from"
    )
    assert reason.startswith("Nothing has come from B")
    assert judge_stream(stream(withheld)) == ["Healthy: both directions carry audio."], "B has opened the way"


def test_what_a_phone_reports_tells_of_the_way_to_it() -> None:
    source = side("A", dataclasses.replace(GOOD, forwarded=500))
    for reports, rtcp, said in ((0, 3, "unheard"), (1, 3, "healthy"), (0, 0, "healthy")):
        sink = side("B", dataclasses.replace(GOOD, rtcp_packets=rtcp, reports=reports))
        assert media_rule(source, sink, stream(source, sink)).name == said
    for lost, said in ((0.3, "lost-beyond"), (0.0, "healthy"), (None, "healthy")):
        sink = side("B", dataclasses.replace(GOOD, rtcp_packets=3, reports=3, reported_loss=lost))
        assert media_rule(source, sink, stream(source, sink)).name == said
    # What was lost before it came to us is lost to B, too, and is said of the way to us.
    torn = side("A", dataclasses.replace(GOOD, packets=70, lost=30))
    sink = side("B", dataclasses.replace(GOOD, rtcp_packets=3, reports=3, reported_loss=0.31))
    assert media_rule(torn, sink, stream(torn, sink)).name == "loss"


def test_the_same_rules_look_at_the_other_direction() -> None:
    assert judge_stream(stream(b=side("B", SILENT, "10.0.0.7:4000"))) == [
        "A sends, we forward.",
        "Nothing has come from B, whose address 10.0.0.7 is private; if B is behind NAT,"
        " set nat: far-end on network"
        " private.",
    ]


def test_a_private_address_is_ordinary_where_ours_is_private_too() -> None:
    inside = dataclasses.replace(side("B", SILENT, "10.0.0.7:4000"), told="10.0.0.1:20000")
    assert media_rule(inside, side("A"), stream(b=inside)).name == "nothing"
    assert (
        media_rule(dataclasses.replace(inside, told="192.0.2.1:20000"), side("A"), stream()).name
        == "private-unhelped"
    )


def test_no_packets_at_all_names_both_sides() -> None:
    (sentence,) = judge_stream(stream(side("A", SILENT), side("B", SILENT, "192.0.2.20:5000")))
    assert sentence.startswith("No packets at all have come from either side")
    assert "A signalled 192.0.2.10:4000, B 192.0.2.20:5000" in sentence


def test_hold_is_no_fault() -> None:
    held = stream(side("A", sends=True, receives=False), side("B", SILENT, sends=False, receives=True))
    assert judge_stream(held) == [
        "A sends, we forward.",
        "B is silent by agreement: the session is on hold or one-way (B recvonly, A sendonly).",
    ]
    inactive = stream(
        side("A", SILENT, sends=False, receives=False), side("B", SILENT, sends=False, receives=False)
    )
    assert judge_stream(inactive) == ["On hold: neither side is to send audio."]


def test_strangers_beside_a_healthy_stream_are_an_aside() -> None:
    sprayed = stream(side("A", dataclasses.replace(GOOD, strangers=500)))
    assert judge_stream(sprayed) == [
        "Healthy: both directions carry audio.",
        "500 packets from strangers were dropped at A's port; its source is 192.0.2.10 port 4000.",
    ]
    few = stream(side("A", dataclasses.replace(GOOD, strangers=2)))
    assert judge_stream(few) == ["Healthy: both directions carry audio."]


def test_telephone_events_and_dynamic_types_alarm_nobody() -> None:
    digits = side("A", dataclasses.replace(GOOD, payload_types=(0, 13, 101)))
    assert judge_stream(stream(a=digits)) == ["Healthy: both directions carry audio."]


FORMATS = ((0, "PCMU"), (96, "opus"), (101, "telephone-event"))


@pytest.mark.parametrize(
    ("types", "name"),
    [
        ((97,), "wrong-codec"),
        ((8, 101), "wrong-codec"),
        ((0, 101), "healthy"),
        ((96, 13), "healthy"),
        ((8, 0), "healthy"),  # 8 may be of the time before a re-INVITE
        ((), "healthy"),
    ],
)
def test_payload_types_are_those_that_the_other_side_described(types: tuple[int, ...], name: str) -> None:
    source = side("A", dataclasses.replace(GOOD, payload_types=types))
    sink = dataclasses.replace(side("B"), formats=FORMATS)
    assert media_rule(source, sink, stream(source, sink)).name == name


@pytest.mark.parametrize(
    ("origin", "signalled", "rewritten"),
    [
        ("192.168.1.5", "192.0.2.10:4000", True),
        ("192.0.2.10", "192.168.1.5:4000", True),
        ("192.168.1.5", "192.168.1.5:4000", False),
        ("192.0.2.99", "192.0.2.10:4000", False),
        ("0.0.0.0", "192.168.1.5:4000", False),
        ("phone.example", "192.168.1.5:4000", False),
        ("", "192.168.1.5:4000", False),
        ("192.168.1.5", "", False),
    ],
)
def test_an_origin_that_does_not_fit_is_a_sign_of_rewriting(
    origin: str, signalled: str, rewritten: bool
) -> None:
    assert dataclasses.replace(side("A", SILENT, signalled), origin=origin).rewritten is rewritten


def test_a_stream_without_figures_is_not_judged() -> None:
    unknown = dataclasses.replace(stream(side("A", SILENT), side("B", SILENT)), media="video", counted=False)
    assert judge_stream(unknown) == ["The relay has no figures of the video stream."]


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("10.1.2.3:4", True),
        ("172.20.0.1:4", True),
        ("100.64.0.9:4", True),
        ("[fd00::1]:4", True),
        ("127.0.1.2:4", False),
        ("203.0.113.9:4", False),
        ("[2001:db8::1]:4", False),
        ("", False),
    ],
)
def test_private_addresses(address: str, private: bool) -> None:
    assert side("A", SILENT, address).private is private
