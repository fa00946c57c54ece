"""How our SDP is written, and that the table of what may cross is the one that is documented."""

from signaling.sdp import rewrite
from signaling.sdp.parser import parse
from signaling.sdp.rewrite import Section, body_after_origin, complete


def test_every_attribute_that_may_cross_is_in_the_documented_table() -> None:
    table = (rewrite.__doc__ or "").lower().split()
    for name in (*rewrite.ATTRIBUTES, *rewrite.FAX_ATTRIBUTES):
        assert name.lower() in table, name
    for name in rewrite.BANDWIDTHS:
        assert name.lower() in (rewrite.__doc__ or "").lower()


def test_both_address_families_in_one_session() -> None:
    sections = [
        Section("audio", 4000, "RTP/AVP", ("0",), "192.0.2.1", ("a=ptime:20",), "sendrecv"),
        Section("video", 4002, "RTP/AVP", ("34",), "2001:db8::1", (), "recvonly", rtcp=4003, rtcp_mux=True),
        Section("message", 0, "TCP/MSRP", ("*",)),
    ]
    body = body_after_origin("192.0.2.1", ["b=AS:64"], sections)
    assert complete(7, 3, "192.0.2.1", body).decode().split("\r\n") == [
        "v=0",
        "o=- 7 3 IN IP4 192.0.2.1",
        "s=-",
        "c=IN IP4 192.0.2.1",
        "b=AS:64",
        "t=0 0",
        "m=audio 4000 RTP/AVP 0",
        "a=ptime:20",
        "a=sendrecv",
        "m=video 4002 RTP/AVP 34",
        "c=IN IP6 2001:db8::1",
        "a=recvonly",
        "a=rtcp:4003",
        "a=rtcp-mux",
        "m=message 0 TCP/MSRP *",
        "",
    ]
    assert len(parse(complete(7, 3, "192.0.2.1", body)).media) == 3
