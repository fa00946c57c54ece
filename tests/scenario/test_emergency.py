"""Calls for help: past limits and overload, to the number that a service has here, with the location."""

import pytest

from signaling.flow import Flow
from signaling.multipart import part_of, parts_of
from tests.harness.border import audio
from tests.harness.phones import RELAY, home


def test_emergency_calls_pass_limits_and_overload() -> None:
    _border, registrar, phone = home(RELAY + "limits: {max_calls: 2}\n")
    for number in range(2):
        phone.agent.call_id = f"call-{number}"
        phone.invite("200")
        registrar.agent.expect("INVITE")
    for to, fields, passes in (
        ("201", "", False),
        ("112", "", True),
        ("202", "Resource-Priority: esnet.0", True),
        ("203", "Resource-Priority: esnet.4", False),
    ):
        phone.agent.call_id = f"help-{to}"
        phone.invite(to, fields=fields)
        if passes:
            assert registrar.agent.expect("INVITE").uri.startswith(f"sip:{to}@")
        else:
            phone.agent.expect_answer(503)


def test_the_service_of_help_is_called_by_its_name() -> None:
    """RFC 5031: a route says which number that is."""
    config = RELAY.replace(
        "- {from: phones, to: pbx}",
        '- {from: phones, match: "^urn:service:sos", strip: 64, prepend: "112", to: pbx}\n  - {from: phones, to: pbx}',
    )
    border, registrar, phone = home(config)
    phone.agent.request(
        "INVITE", uri="urn:service:sos.fire", from_header=f"<{phone.aor}>;tag=u1", body=audio("192.168.1.5")
    )
    assert registrar.agent.expect("INVITE").uri == "sip:112@10.0.0.20:5060"
    (live,) = border.calls.live.values()
    assert any(one.rule == "emergency" for one in live.decisions)


@pytest.mark.parametrize(
    ("route", "called", "gets"),
    [
        ("", "urn:service:sos", "urn:service:sos"),
        ("", "URN:Service:SOS.Police", "urn:service:sos.police"),
        (r'match: "^urn:service:sos[.]fire$", strip: 64, prepend: "112"', "urn:service:sos.fire", "112"),
        ('match: "^112$", strip: 3, prepend: "urn:service:sos"', "tel:1-1-2", "urn:service:sos"),
        (
            'match: "^112$", strip: 3, prepend: "urn:service:sos"',
            "sip:112@sip.example.com",
            "urn:service:sos",
        ),
        ("", "urn:service:sos.x%0d%0aRoute:x", None),
        ("", "sip:urn%3Aservice%3Asos@sip.example.com", "urn%3Aservice%3Asos"),
    ],
)
def test_what_has_no_user_is_called_as_what_it_is(route: str, called: str, gets: str | None) -> None:
    """RFC 6881 s.9.2: a service is the Request-URI, and what To says; the dots of its name are no separators."""
    first = f"- {{from: phones, {route}, to: pbx}}\n  - {{from: phones, to: pbx}}" if route else ""
    config = RELAY.replace("- {from: phones, to: pbx}", first or "- {from: phones, to: pbx}")
    _border, registrar, phone = home(config)
    phone.agent.request("INVITE", uri=called, from_header=f"<{phone.aor}>;tag=u1", body=audio("192.168.1.5"))
    if gets is None:
        assert all(b"Route:x" not in one.encode() for one in registrar.agent.inbox)
        return
    invite = registrar.agent.expect("INVITE")
    if gets.startswith("urn:"):
        assert (invite.uri, invite.to.uri_text) == (gets, gets)
    else:
        assert invite.uri == f"sip:{gets}@10.0.0.20:5060"
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    ack = registrar.agent.expect("ACK")
    assert ack.uri == "sip:agent@10.0.0.20:5060"
    phone.agent.expect_answer(200)


@pytest.mark.source
def test_overload_lets_emergencies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    border, registrar, phone = home()
    late = border.calls.stateless.queue_age_s + 1
    receive = border.calls.receive

    def slow(data: bytes, flow: Flow, now: float) -> None:
        receive(data, flow, now, late)

    monkeypatch.setattr(border.calls, "receive", slow)
    phone.invite("200")
    assert "overload" in (phone.agent.expect_answer(503).get("Warning") or "")
    phone.agent.call_id = "help"
    phone.invite("112")
    registrar.agent.expect("INVITE")
    phone.agent.call_id = "help-2"
    phone.invite("300", fields="Resource-Priority: q735.2, ESNET.0")
    registrar.agent.expect("INVITE")
    phone.register()
    assert phone.agent.expect_answer(503).get("Retry-After")


LOCATION = """<?xml version="1.0"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="pres:alice@192.0.2.77"><tuple id="t"><status><geopriv>
<location-info><Point xmlns="http://www.opengis.net/gml"><pos>52.5163 13.3777</pos></Point></location-info>
</geopriv></status></tuple></presence>"""


@pytest.mark.parametrize("verify", ["count", "block"])
@pytest.mark.parametrize(("to", "crosses"), [("112", True), ("200", False)])
def test_the_location_of_an_emergency_call_crosses_and_of_no_other(
    to: str, crosses: bool, verify: str
) -> None:
    """RFC 6442: Geolocation with a PIDF-LO body beside the SDP, and a reference."""
    _border, registrar, phone = home(RELAY + f"topology: {{verify: {verify}}}\n")
    parts = (
        "--cut\r\nContent-Type: application/sdp\r\n\r\n"
        + audio("192.168.1.5")
        + "\r\n--cut\r\nContent-Type: application/pidf+xml\r\nContent-ID: <here@192.168.1.5>\r\n\r\n"
        + LOCATION
        + "\r\n--cut--\r\n"
    )
    phone.agent.request(
        "INVITE",
        uri=f"sip:{to}@sip.example.com",
        from_header=f"<{phone.aor}>;tag=e1",
        fields="Geolocation: <cid:here@192.168.1.5>, <https://lis.example.net/u/77>\r\nGeolocation-Routing: yes",
        body=parts,
        content_type="multipart/mixed; boundary=cut",
    )
    invite = registrar.agent.expect("INVITE")
    values = invite.get_all("Geolocation")
    if not crosses:
        assert values == [] and invite.content_type == "application/sdp"
        return
    assert values[1] == "<https://lis.example.net/u/77>" and invite.get("Geolocation-Routing") == "yes"
    assert "192.168" not in values[0], "the Content-ID is ours"
    kind = invite.get("Content-Type") or ""
    (location,) = parts_of(kind, invite.body, "application/pidf+xml")
    assert location.decode() == LOCATION
    sdp = part_of(kind, invite.body, "application/sdp")
    assert sdp is not None and b"c=IN IP4 10.0.0.1" in sdp and b"192.168" not in sdp
    assert f"Content-ID: {values[0].replace('cid:', '')}".encode() in invite.body
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    registrar.agent.expect("ACK")
    phone.agent.expect_answer(200)
