"""What an SDP says line by line: RFC 3264, codecs, directions, RTCP, and what is refused."""

from pathlib import Path

import pytest

from signaling.errors import ParseError
from signaling.sdp.offer_answer import Codec, Line, Use, describe, direction, disabled, session_bandwidth
from signaling.sdp.parser import parse

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"


def lines_of(name: str, *allowed: str) -> list[Line]:
    return describe(parse((VECTORS / f"{name}.sdp").read_bytes()), frozenset(allowed) if allowed else None)


def audio(*below: str, above: str = "c=IN IP4 192.0.2.1", media: str = "audio 4000 RTP/AVP 0 8") -> Line:
    text = "\r\n".join(("v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", above, f"m={media}", *below, ""))
    return describe(parse(text.encode()))[0]


def test_a_plain_phone() -> None:
    (line,) = lines_of("desk_phone")
    assert line.use is Use.RTP
    assert line.connection is not None and line.connection.host == "192.168.1.44"
    assert line.rtcp == ("192.168.1.44", 11781)
    assert (line.sends, line.receives) == (True, True)
    assert line.codecs[0] == Codec(9, "G722", 8000)
    assert line.formats == ("9", "0", "8", "18", "101")
    assert "a=fmtp:18 annexb=no" in line.kept


def test_static_payload_types_need_no_rtpmap() -> None:
    assert audio().codecs == (Codec(0, "PCMU", 8000), Codec(8, "PCMA", 8000))


def test_policy_takes_formats_with_all_that_speaks_of_them() -> None:
    (line,) = lines_of("desk_phone", "PCMA", "PCMU")
    assert line.formats == ("0", "8", "101")
    assert line.removed == ("G722", "G729")
    assert not [text for text in line.kept if ":18" in text or ":9" in text]


def test_digits_are_kept_but_are_no_codec() -> None:
    (line,) = lines_of("desk_phone", "OPUS")
    assert line.use is Use.REFUSED
    assert line.refusal is not None
    assert line.refusal.rule == "no-common-codec"
    assert "G722" in line.refusal.reason and "OPUS" in line.refusal.reason


@pytest.mark.parametrize(
    ("name", "uses", "rules"),
    [
        ("browser", [Use.REFUSED, Use.REFUSED], ["srtp-not-supported", "media-not-supported"]),
        ("secure_phone", [Use.REFUSED], ["srtp-not-supported"]),
        ("optional_secure_phone", [Use.REFUSED, Use.RTP], ["srtp-not-supported", None]),
        ("opportunistic_bundle", [Use.RTP, Use.RTP, Use.REFUSED], [None, None, "media-not-supported"]),
        ("fax_gateway", [Use.UDPTL], [None]),
        ("fax_beside_audio", [Use.DISABLED, Use.UDPTL], [None, None]),
        ("conference_phone", [Use.RTP, Use.DISABLED], [None, None]),
        ("realtime_text", [Use.RTP, Use.RTP], [None, None]),
        ("multicast", [Use.REFUSED, Use.RTP], ["media-address", None]),
    ],
)
def test_which_lines_are_served(name: str, uses: list[Use], rules: list[str | None]) -> None:
    lines = lines_of(name)
    assert [line.use for line in lines] == uses
    assert [line.refusal and line.refusal.rule for line in lines] == rules


@pytest.mark.parametrize("name", ["sendrecv", "sendonly", "recvonly", "inactive"])
def test_direction_at_both_levels(name: str) -> None:
    assert direction(*flags(audio(f"a={name}"))) == name
    assert direction(*flags(audio(above=f"c=IN IP4 192.0.2.1\r\na={name}"))) == name
    assert direction(*flags(audio("a=sendrecv", above=f"c=IN IP4 192.0.2.1\r\na={name}"))) == "sendrecv"


def flags(line: Line) -> tuple[bool, bool]:
    return line.sends, line.receives


@pytest.mark.parametrize("zero", ["IN IP4 0.0.0.0", "IN IP6 ::"])
@pytest.mark.parametrize(
    ("said", "meant"), [("sendrecv", "sendonly"), ("recvonly", "inactive"), ("inactive", "inactive")]
)
def test_zero_connection_is_hold(zero: str, said: str, meant: str) -> None:
    """RFC 6337 s.5.3, RFC 3264 s.8.4."""
    line = audio(f"a={said}", above=f"c={zero}")
    assert direction(*flags(line)) == meant
    assert line.rtcp is None


@pytest.mark.parametrize(
    ("attribute", "rtcp"),
    [
        ("a=rtcp:5000", ("192.0.2.1", 5000)),
        ("a=rtcp:5000 IN IP4 192.0.2.9", ("192.0.2.9", 5000)),
        ("a=rtcp:0", None),
        ("a=rtcp:99999", None),
        ("a=rtcp:9 IN IP4 0.0.0.0", None),
        ("a=rtcp:5000 IN IP4 224.0.0.1", None),
    ],
)
def test_rtcp_attribute(attribute: str, rtcp: tuple[str, int] | None) -> None:
    line = audio(attribute)
    assert line.rtcp == rtcp
    assert line.rtcp_said


def test_the_last_port_has_no_next_one_for_rtcp() -> None:
    assert audio(media="audio 65535 RTP/AVP 0").rtcp is None


def test_a_host_name_says_no_address() -> None:
    line = audio(above="c=IN IP4 media.example.com")
    assert line.connection is not None and line.connection.named
    assert line.rtcp is None


@pytest.mark.parametrize(
    "attribute",
    [
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA",
        "a=candidate:1 1 UDP 1 192.168.1.1 4000 typ host",
        "a=ice-ufrag:abcd",
        "a=fingerprint:sha-256 AA:BB",
        "a=setup:actpass",
        "a=mid:0",
        "a=label:1",
        "a=ssrc:1 cname:alice@host",
        "a=T38VendorInfo:0 0 0",
        "a=T38FaxVersion:0",
        "a=x-anything:1",
        "a=ptime:192.168.1.1",
        "a=fmtp:0 server=192.168.1.1",
        "a=fmtp:0 server=host.corp",
        "a=fmtp:0 user=a@b",
        "a=fmtp:0 server=2001:db8:0:1::2",
        "a=fmtp:99 x=1",
        "a=rtcp-fb:99 nack",
        "a=rtpmap:0 host.corp.example/8000",
        "a=rtpmap:0 10.0.0.1/8000",
        "a=silenceSupp:on host.corp - - -",
        "a=silenceSupp:gw7 - - - -",
        "a=silenceSupp:on 700 gw7 - -",
        "a=rtcp-xr:gw7",
        "a=rtcp-xr:voip-metrics gw7",
        "a=rtcp-fb:0 gw7",
        "a=rtcp-fb:0 nack gw7",
        "a=fmtp:0 host=gw7",
        "a=fmtp:0 gw7=1",
        "a=fmtp:0 gw7",
        "a=fmtp:0 mode=gw7",
        "a=fmtp:0 mode=1,gw7",
        "a=fmtp:0 bitrate=10.0.0.1",
        "a=fmtp:0 sprop-parameter-sets=gw7.lan",
        "a=rtpmap:0 canary-gw7/8000",
        "b=X-hidden:1",
        "b=AS:many",
        "k=clear:key",
        "i=a title",
        "y=new",
    ],
)
def test_what_may_not_cross(attribute: str) -> None:
    assert audio(attribute).kept == ()


@pytest.mark.parametrize(
    "attribute",
    [
        "b=AS:64",
        "b=TIAS:64000",
        "b=RR:0",
        "b=RS:0",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 G722.1/16000/1",
        "a=fmtp:0 br=5.9-24.4; bw=nb-swb",
        "a=fmtp:0 0-15,66,70",
        "a=fmtp:0 0/0",
        'a=fmtp:0 vbr=vad;mode="1,any"',
        "a=fmtp:0 CIF=1 QCIF=1 MAXBR=3840",
        "a=fmtp:0 profile-level-id=42E01F;sprop-parameter-sets=Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==",
        "a=fmtp:0 profile-level-id=1;config=40002420;mode=AAC-hbr;SizeLength=13",
        "a=rtcp-fb:* ccm fir",
        "a=rtcp-fb:0 nack",
        "a=ptime:20",
        "a=maxptime:150",
        "a=framerate:29.97",
        "a=silenceSupp:off - - - -",
        "a=silenceSupp:on 700 standard Fixed Noise 40",
        "a=rtcp-xr:pkt-loss-rle=300 stat-summary=loss,dup,jitt,TTL voip-metrics",
        "a=rtcp-fb:0 trr-int 100",
        "a=rtcp-fb:0 ccm tmmbr smaxpr=120",
        "a=rtcp-fb:0 nack pli",
        "a=fmtp:0 mode-set=0,2,4,7;octet-align=1",
        "a=rtcp-xr:rcvr-rtt=all:10000 stat-summary=loss",
    ],
)
def test_what_may_cross(attribute: str) -> None:
    assert audio(attribute).kept == (attribute,)


@pytest.mark.parametrize(
    ("said", "crosses"),
    [
        ("annexb=no; Server=gw7", "annexb=no"),
        ("x-secret=5;mode=20;gw7", "mode=20"),
        ("mode=gw7;mode-set=0,2;", "mode-set=0,2"),
    ],
)
def test_parameters_of_a_format_cross_one_by_one(said: str, crosses: str) -> None:
    """RFC 8866 s.6.15 lets them be anything: only those that are known may."""
    assert audio(f"a=fmtp:0 {said}").kept == (f"a=fmtp:0 {crosses}",)


def test_the_operator_may_let_another_encoding_cross() -> None:
    data = parse(
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        b"m=audio 4000 RTP/AVP 0 97\r\na=rtpmap:97 Own-Codec/8000\r\n"
    )
    assert describe(data)[0].kept == ()
    (line,) = describe(data, frozenset({"PCMU", "OWN-CODEC"}))
    assert line.kept == ("a=rtpmap:97 Own-Codec/8000",)


def test_of_two_names_for_a_payload_type_the_one_of_a_host_is_dropped() -> None:
    good, bad = "a=rtpmap:97 H264/90000", "a=rtpmap:97 x.canary/90000"
    for below in ((good, bad), (bad, good)):
        assert audio(*below, media="audio 4000 RTP/AVP 0 97").kept == (good,)


def test_fax_attributes_in_any_case() -> None:
    (line,) = lines_of("fax_gateway")
    assert len(line.kept) == 9
    assert lines_of("fax_beside_audio")[1].kept[0] == "a=t38faxversion:0"


def test_bandwidth_of_the_session() -> None:
    session = parse((VECTORS / "conference_phone.sdp").read_bytes())
    assert session_bandwidth(session) == ["b=AS:2048"]
    assert "b=TIAS:64000" in describe(session)[0].kept


@pytest.mark.parametrize("below", ["c=IN IP4 999.1.1.1", "c=nonsense"])
def test_a_connection_that_makes_no_sense(below: str) -> None:
    with pytest.raises(ParseError):
        audio(below)


def test_a_line_in_use_needs_a_connection_but_a_disabled_one_does_not() -> None:
    with pytest.raises(ParseError) as caught:
        audio(above="t=0 0")
    assert caught.value.rule == "sdp-no-connection"
    assert audio(above="t=0 0", media="audio 0 RTP/AVP 0").use is Use.DISABLED


def test_formats_that_are_no_payload_types_are_dropped() -> None:
    assert audio(media="audio 4000 RTP/AVP 0 128 x -1 8").formats == ("0", "8")


@pytest.mark.parametrize(
    ("media", "onward"),
    [
        ("audio 4000 RTP/SAVP 0 8", "audio RTP/SAVP 0 8"),
        ("application 5 UDP/DTLS/SCTP webrtc-secret", "application UDP/DTLS/SCTP *"),
        ("message 5 TCP/MSRP secret", "message TCP/MSRP *"),
        ("hosts.corp 5 secret/proto secret", "application UDP *"),
        ("image 5 UDPTL t38", "image udptl t38"),
        ("audio 5 RTP/AVP secret", "audio RTP/AVP 0"),
    ],
)
def test_a_line_that_is_not_served_keeps_its_place_and_tells_nothing(media: str, onward: str) -> None:
    line = audio(media=media)
    section = disabled(line, onward=True)
    assert section.port == 0
    assert f"{section.kind} {section.proto} {' '.join(section.formats)}" == onward
    back = disabled(line, onward=False)
    kind, _, proto, formats = media.split(" ", 3)
    assert (back.kind, back.port, back.proto, list(back.formats)) == (kind, 0, proto, formats.split())
