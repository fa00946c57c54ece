"""GRUUs of a registrar behind us (RFC 5627): one that a phone was given leads to that phone, whoever calls it."""

import pytest

from signaling.headers import parse_name_addr
from signaling.identity import user_of
from signaling.message import Request
from signaling.uri import unescape
from tests.harness.border import Border, audio
from tests.harness.phones import RELAY, Phone, Registrar, rest, talked

NAME = "urn:uuid:00000000-0000-5000-8000-000000000009"
HIDDEN = "uloc-5f1c-1a2b"


class GruuRegistrar(Registrar):
    """One that names each phone, as Kamailio does: by the instance that we have told it."""

    def serve_gruu(self, name: str = NAME) -> Request:
        """Answer a REGISTER with a public and a temporary GRUU."""
        asked = self.agent.expect("REGISTER")
        assert "gruu" in (asked.get("Supported") or "")
        contact = parse_name_addr(asked.get("Contact") or "")
        user = parse_name_addr(asked.get("To") or "").uri_text
        self.contacts[user] = contact.uri_text
        self.agent.answer(
            asked,
            200,
            "OK",
            fields=f'Contact: <{contact.uri_text}>;expires=600;pub-gruu="{user};gr={name}"'
            f';temp-gruu="sip:{HIDDEN}@pbx.internal;gr"',
        )
        return asked


def enter(
    border: Border, registrar: GruuRegistrar, user: str, port: int, name: str = NAME
) -> tuple[Phone, list[str]]:
    """A phone that registers and asks for GRUUs; with those that it is given."""
    phone = Phone(border, user, port)
    phone.register(fields="Supported: gruu", contact=f'<{phone.contact}>;+sip.instance="<urn:uuid:{port}>"')
    registrar.serve_gruu(name)
    (contact,) = [
        one
        for one in phone.agent.expect_answer(200).contacts
        if one.param("+sip.instance") == f"<urn:uuid:{port}>"
    ]
    return phone, [contact.param("pub-gruu") or "", contact.param("temp-gruu") or ""]


@pytest.mark.parametrize("spelled", [False, True], ids=["as-given", "in-capitals"])
def test_a_gruu_is_one_at_the_registrar_too(spelled: bool) -> None:
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    _, gruus = enter(border, registrar, "alice", 40001)
    assert gruus == [f"sip:alice@sip.example.com;gr={NAME}", f"sip:{HIDDEN}@sip.example.com;gr"]
    bob = Phone(border, "bob", 40002)
    bob.register()
    registrar.serve()
    bob.agent.expect_answer(200)
    theirs = [f"sip:alice@pbx.internal;gr={NAME}", f"sip:{HIDDEN}@pbx.internal;gr"]
    for number, (gruu, wanted) in enumerate(zip(gruus, theirs, strict=True)):
        bob.agent.call_id = f"gruu-{number}"
        uri = gruu.replace("sip.example.com", "SIP.example.COM") if spelled else gruu
        bob.agent.request(
            "INVITE", uri=uri, from_header=f"<{bob.aor}>;tag=g{number}", body=audio("192.168.1.5")
        )
        invite = registrar.agent.expect("INVITE")
        assert invite.uri == wanted
        assert b"sip.example.com" not in invite.encode()
        registrar.agent.answer(invite, 486, "Busy Here")
        registrar.agent.expect("ACK")
        bob.agent.expect_answer(486)
    rest(border)


@pytest.mark.parametrize(
    "uri",
    [
        f"sip:alice@elsewhere.example;gr={NAME}",
        f"tel:+15551234;gr={NAME}",
        f"sip:alice@sip.example.com;user=phone;isub={NAME}",
    ],
)
def test_what_is_no_gruu_of_ours_is_a_user_at_the_registrar(uri: str) -> None:
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    phone, _ = enter(border, registrar, "alice", 40001)
    phone.agent.request("INVITE", uri=uri, from_header=f"<{phone.aor}>;tag=g1", body=audio("192.168.1.5"))
    assert ";" not in registrar.agent.expect("INVITE").uri


def test_a_number_that_a_route_has_changed_is_no_gruu() -> None:
    border = Border(RELAY.replace("{from: phones, to: pbx}", "{from: phones, to: pbx, prepend: '9'}"))
    registrar = GruuRegistrar(border)
    phone, gruus = enter(border, registrar, "alice", 40001)
    phone.agent.request(
        "INVITE", uri=gruus[0], from_header=f"<{phone.aor}>;tag=g1", body=audio("192.168.1.5")
    )
    assert registrar.agent.expect("INVITE").uri == "sip:9alice@10.0.0.20:5060"


def test_the_digest_of_a_phone_is_for_the_gruu_that_it_calls() -> None:
    """RFC 7616 s.3.4.6: the registrar compares; where it serves the phones' own domain the URI crosses as it is."""
    border = Border(RELAY.replace("servers: [", "domain: sip.example.com, servers: ["))
    registrar = GruuRegistrar(border)
    phone, gruus = enter(border, registrar, "alice", 40001)
    for number, (said, wanted) in enumerate(
        [
            (gruus[0], gruus[0]),
            (f"sip:alice@sip.example.com:5060;gr={NAME.upper()}", None),
            ("sip:alice@sip.example.com", gruus[0]),
        ]
    ):
        phone.agent.call_id = f"digest-{number}"
        phone.agent.request(
            "INVITE",
            uri=gruus[0],
            from_header=f"<{phone.aor}>;tag=g{number}",
            fields=f'Authorization: Digest username="alice", realm="r", nonce="n", uri="{said}", response="{0:032x}"',
            body=audio("192.168.1.5"),
        )
        assert registrar.agent.expect("INVITE").uri == (wanted or said)


def test_a_gruu_leads_to_its_phone_alone() -> None:
    """Where the registrar leaves it to us to find the phone, as a proxy before it might."""
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    other = NAME.replace("9", "7")
    first, _ = enter(border, registrar, "alice", 40001)
    second, _ = enter(border, registrar, "alice", 40003, other)
    registrar.agent.request("INVITE", uri=f"sip:alice@10.0.0.1:5060;gr={other}", body=audio("10.0.0.20"))
    first.agent.nothing()
    talked(border, registrar.agent, second.agent)
    registrar.agent.call_id = "nobody"
    registrar.agent.request("INVITE", uri="sip:alice@10.0.0.1:5060;gr=urn:uuid:8", body=audio("10.0.0.20"))
    first.agent.nothing()
    second.agent.nothing()


def test_a_phone_that_calls_itself_by_its_gruu_can_be_called_back_there() -> None:
    """RFC 5627 s.4.4: its Contact is one towards the registrar too, inside the call and outside."""
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    phone, gruus = enter(border, registrar, "alice", 40001)
    other, _ = enter(border, registrar, "alice", 40003, NAME.replace("9", "7"))
    phone.agent.raw(
        f"INVITE sip:200@sip.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bKgr1;rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <{phone.aor}>;tag=gr1\r\nTo: <sip:200@sip.example.com>\r\nCall-ID: gr1\r\n"
        f"CSeq: 1 INVITE\r\nContact: <{gruus[0]}>\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(audio('192.168.1.5'))}\r\n\r\n{audio('192.168.1.5')}"
    )
    invite = registrar.agent.expect("INVITE")
    contact = invite.contacts[0].uri_text
    assert (
        contact
        == registrar.contacts["sip:alice@pbx.internal"].replace(
            registrar.contacts["sip:alice@pbx.internal"].split("@")[0], contact.split("@")[0]
        )
        + ";gr"
    )
    registrar.agent.answer(invite, 200, "OK", sdp=audio("10.0.0.20", 4002))
    registrar.agent.expect("ACK")
    phone.agent.expect_answer(200)
    registrar.agent.inside("INFO", invite)
    assert phone.agent.expect("INFO").uri == gruus[0], "by its flow, and by the name that it gave"
    registrar.agent.call_id = "back"
    registrar.agent.request("INVITE", uri=contact, body=audio("10.0.0.20"))
    assert phone.agent.expect("INVITE").uri == phone.contact
    other.agent.nothing()


def test_a_phone_without_gruu_is_called_back_by_nobody() -> None:
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    phone, _ = enter(border, registrar, "alice", 40001)
    phone.invite("200")
    assert registrar.agent.expect("INVITE").contacts[0].uri_text == "sip:sbc@10.0.0.1:5060"


@pytest.mark.parametrize("answers_by", ["gruu", "contact", "of another"])
def test_a_phone_that_answers_by_its_gruu_can_be_called_back_there(answers_by: str) -> None:
    """RFC 5627 s.4.4.3: towards the registrar that has called it, our Contact is one as well."""
    border = Border(RELAY)
    registrar = GruuRegistrar(border)
    phone, gruus = enter(border, registrar, "alice", 40001)
    token = unescape(user_of(registrar.contacts["sip:alice@pbx.internal"]))
    registrar.call("alice")
    invite = phone.agent.expect("INVITE")
    shown = {"gruu": gruus[0], "contact": phone.contact, "of another": "sip:alice@example.net;gr=urn:uuid:9"}
    phone.agent.raw(
        "SIP/2.0 200 OK\r\n"
        + "".join(f"Via: {value}\r\n" for value in invite.get_all("Via"))
        + f"From: {invite.get('From')}\r\nTo: {invite.get('To')};tag=gr2\r\nCall-ID: {invite.call_id}\r\n"
        f"CSeq: {invite.get('CSeq')}\r\nContact: <{shown[answers_by]}>\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(audio('192.168.1.5', 4002))}\r\n\r\n{audio('192.168.1.5', 4002)}"
    )
    assert phone.agent.expect("ACK").uri == shown[answers_by]
    done = registrar.agent.expect_answer(200)
    contact = done.contacts[0].uri_text
    if answers_by != "gruu":
        assert contact == "sip:sbc@10.0.0.1:5060"
        return
    assert contact == f"sip:{token}@10.0.0.1:5060;gr"
    registrar.agent.ack(done)
    registrar.agent.inside("INFO", done)
    assert phone.agent.expect("INFO").uri == gruus[0]
    registrar.agent.call_id = "back"
    registrar.agent.request("INVITE", uri=contact, body=audio("10.0.0.20"))
    assert phone.agent.expect("INVITE").uri == phone.contact
