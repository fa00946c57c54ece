"""`topology: verify` when something leaks: a tag of one side in a text that crosses, in every kind of message."""

import pytest

from signaling.message import Request, Response
from tests.harness.border import CONFIG, Agent, Border, audio, pair
from tests.harness.phones import LOCAL, Phone

MODES = ("off", "count", "block")
DTMF = "application/dtmf-relay"


def guarded(verify: str) -> tuple[Border, Agent, Agent]:
    border = Border(f"{CONFIG}topology: {{verify: {verify}}}\n")
    return border, *pair(border)


def up(verify: str) -> tuple[Border, Agent, Agent, Response, Request]:
    border, alice, bob = guarded(verify)
    alice.invite()
    got = bob.expect("INVITE")
    bob.answer(got, 200, sdp=audio(bob.address[0]))
    answer = alice.expect_answer(200)
    alice.ack(answer)
    bob.expect("ACK")
    return border, alice, bob, answer, got


def sent_to(border: Border, network: str) -> list[bytes]:
    return [data for data, flow in border.sent if flow.network == network]


def leaks(border: Border) -> int:
    return border.calls.stats["topology:leaks"]


def warned(response: Response) -> bool:
    return "topology-leak" in (response.get("Warning") or "")


@pytest.mark.parametrize("verify", MODES)
def test_invite(verify: str) -> None:
    border, alice, bob = guarded(verify)
    alice.invite(fields=f"Subject: {alice.tag}")
    border.advance(3)
    crossed = [data for data in sent_to(border, "private") if alice.tag.encode() in data]
    if verify == "block":
        assert crossed == []
        assert bob.inbox == []
        assert warned(alice.expect_answer(500))
        assert border.records[0].final_rule == "topology-leak"
    else:
        assert crossed != []
        assert bob.expect("INVITE").get("Subject") == alice.tag
    assert leaks(border) == (0 if verify == "off" else 1)
    if verify == "block":
        border.at_rest()


@pytest.mark.parametrize("verify", MODES)
@pytest.mark.parametrize("status", [180, 200, 486])
def test_answer(verify: str, status: int) -> None:
    border, alice, bob = guarded(verify)
    alice.invite()
    told = f'P-Asserted-Identity: "{bob.tag}" <sip:200@pbx.lan>'
    bob.answer(bob.expect("INVITE"), status, sdp=audio(bob.address[0]) if status == 200 else "", fields=told)
    crossed = [data for data in sent_to(border, "public") if bob.tag.encode() in data]
    if verify != "block":
        assert len(crossed) == 1
        assert alice.expect_answer(status)
        assert leaks(border) == (0 if verify == "off" else 1)
        return
    if status == 180:
        alice.nothing()
    else:
        assert warned(alice.expect_answer(500))
    if status == 200:
        bob.expect("ACK")
        bob.answer(bob.expect("BYE"), 200)
        assert border.calls.idle, "nobody waits for the ACK of a 2xx that did not leave"
    border.advance(40)
    assert not any(isinstance(message, Request) for message in alice.inbox), "there is no dialog to end"
    assert not any(bob.tag.encode() in data for data in sent_to(border, "public"))
    assert leaks(border) > 0


@pytest.mark.parametrize("verify", MODES)
def test_request_inside(verify: str) -> None:
    border, alice, bob, answer, _ = up(verify)
    alice.inside("INFO", answer, body="Signal=1\r\n", content_type=DTMF, fields=f"Subject: {alice.tag}")
    border.advance(20)
    crossed = [data for data in sent_to(border, "private") if alice.tag.encode() in data]
    if verify == "block":
        assert crossed == []
        bob.nothing()
        assert warned(alice.expect_answer(500))
        assert leaks(border) == 1
    else:
        assert crossed != []
        assert bob.expect("INFO").get("Subject") == alice.tag
        assert leaks(border) == (0 if verify == "off" else 1)


@pytest.mark.parametrize("verify", MODES)
def test_reinvite_leaves_the_call_as_it_was(verify: str) -> None:
    _, alice, bob, answer, _ = up(verify)
    alice.inside(
        "INVITE",
        answer,
        body=audio(alice.address[0], direction="sendonly", version=2),
        fields=f"Subject: {alice.tag}",
    )
    if verify != "block":
        assert bob.expect("INVITE").get("Subject") == alice.tag
        return
    bob.nothing()
    assert warned(alice.expect_answer(500))
    alice.inside("INFO", answer, body="Signal=1\r\n", content_type=DTMF)
    bob.answer(bob.expect("INFO"), 200)
    alice.expect_answer(200)


@pytest.mark.parametrize("verify", MODES)
def test_answer_to_a_reinvite(verify: str) -> None:
    """The other side has the new session already, so that the call cannot go on as it was."""
    border, alice, bob, answer, _ = up(verify)
    alice.inside("INVITE", answer, body=audio(alice.address[0], direction="sendonly", version=2))
    told = f'P-Asserted-Identity: "{bob.tag}" <sip:200@pbx.lan>'
    bob.answer(bob.expect("INVITE"), 200, sdp=audio(bob.address[0], 4000, "recvonly", version=2), fields=told)
    bob.expect("ACK")
    if verify != "block":
        assert alice.expect_answer(200, "INVITE")
        return
    assert warned(alice.expect_answer(500, "INVITE"))
    for agent in (alice, bob):
        agent.answer(agent.expect("BYE"), 200)
        agent.nothing()
    assert border.calls.idle
    assert border.records[0].final_rule == "topology-leak"


@pytest.mark.parametrize("verify", MODES)
def test_bye(verify: str) -> None:
    """It does not leave, but the call ends here all the same."""
    border, alice, bob, answer, _ = up(verify)
    alice.inside("BYE", answer, fields=f'Diversion: "{alice.tag}" <sip:1@h>')
    alice.expect_answer(200)
    if verify == "block":
        bob.nothing()
        border.at_rest()
        assert not any(alice.tag.encode() in data for data in sent_to(border, "private"))
    else:
        assert alice.tag in (bob.expect("BYE").get("Diversion") or "")
    assert leaks(border) == (0 if verify == "off" else 1)


@pytest.mark.parametrize("verify", MODES)
def test_cancel_goes_without_what_leaks(verify: str) -> None:
    border, alice, bob = guarded(verify)
    invite = alice.invite()
    got = bob.expect("INVITE")
    bob.answer(got, 180)
    told = f'P-Asserted-Identity: "{alice.tag}" <sip:1@h>'
    alice.raw(
        f"CANCEL {invite.uri} SIP/2.0\r\nVia: {invite.get('Via')}\r\nMax-Forwards: 70\r\n{told}\r\n"
        f"From: {invite.get('From')}\r\nTo: {invite.get('To')}\r\nCall-ID: {invite.call_id}\r\n"
        f"CSeq: {invite.cseq.number} CANCEL\r\nContent-Length: 0\r\n\r\n"
    )
    cancel = bob.expect("CANCEL")
    shown = cancel.get("P-Asserted-Identity")
    assert (shown is None) == (verify == "block")
    assert leaks(border) == (0 if verify == "off" else 1)


@pytest.mark.parametrize("verify", ["count", "block"])
def test_two_homes_with_the_same_private_address(verify: str) -> None:
    """Each names 192.168.178.20 in its Contact: what a phone has told of itself it may hear."""
    border = Border(LOCAL + f"topology: {{verify: {verify}}}\n")
    home = "192.168.178.20:5060"
    alice, bob = (
        Phone(border, "alice", 5101, host="192.0.2.77"),
        Phone(border, "bob", 5102, host="192.0.2.88"),
    )
    alice.contact, bob.contact = f"sip:alice@{home}", f"sip:bob@{home}"
    alice.authorized("a-secret")
    bob.authorized("b-secret")
    alice.agent.host = home
    alice.agent.request(
        "INVITE",
        uri="sip:bob@sip.example.com",
        from_header=f"<{alice.aor}>;tag=c1",
        body=audio("192.168.178.20"),
        fields="Allow: INVITE",
    )
    assert bob.agent.expect("INVITE").uri == bob.contact
    assert border.calls.stats["topology:leaks"] == 0
