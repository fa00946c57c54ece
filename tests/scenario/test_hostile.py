"""A hostile peer: what it writes into its messages must not aim ours, nor reach a call that is not its own."""

import pytest

from signaling.flow import Address
from signaling.message import Response
from signaling.return_path import UNPROVEN_REPEATS
from tests.harness.border import Agent, Border, audio, calling, established, hang_up, pair, talking


def bye_goes_to(border: Border, alice: Agent, bob: Agent, contact: str) -> Address:
    """Where our BYE goes after a re-INVITE of alice with that Contact."""
    answer, invite = established(border, alice, bob)
    host = alice.host
    alice.host = contact
    alice.inside("UPDATE", answer)
    alice.host = host
    assert alice.expect_answer(200).cseq.method == "UPDATE"
    bob.inside("BYE", invite)
    flow = next(flow for data, flow in border.sent if data.startswith(b"BYE "))
    assert flow.network == "public", "never out of the other network's listener"
    border.advance(70)
    return flow.remote


@pytest.mark.parametrize(
    "contact",
    [
        "127.0.0.1",
        "127.8.8.8:22",
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "224.0.1.75",
        "240.0.0.1",
        "169.254.169.254:80",
        "203.0.113.10:5060",  # our own listener here
        "10.0.0.1:5060",  # our own listener on the other network
        "10.0.0.20:5060",  # a server of the other network
        "192.168.1.1",
        "198.51.100.9:0",
    ],
)
def test_contact_cannot_aim_our_requests_at_what_is_not_a_peer(contact: str) -> None:
    border = Border()
    alice, bob = pair(border)
    assert bye_goes_to(border, alice, bob, contact) == alice.address


@pytest.mark.parametrize("contact", ["999.1.2.3", "1.2.3.4.5", "2130706433", "127.1", "1..2", "0177.0.0.1"])
def test_what_only_looks_like_an_address_is_never_given_to_a_socket(contact: str) -> None:
    # socket.sendto would ask the DNS for it, and the whole process would wait for the answer.
    border = Border()
    alice, bob = pair(border)
    assert bye_goes_to(border, alice, bob, contact) == alice.address


def test_contact_elsewhere_among_the_peers_is_followed() -> None:
    border = Border()
    alice, bob = pair(border)
    assert bye_goes_to(border, alice, bob, "198.51.100.8:5070") == ("198.51.100.8", 5070)


def test_record_route_cannot_aim_our_requests_at_our_own_machine() -> None:
    border = Border()
    alice, bob = pair(border)
    alice.invite(fields="Record-Route: <sip:127.0.0.1:8080;lr>")
    invite = bob.expect("INVITE")
    bob.answer(invite, 486)
    bob.expect("ACK")
    assert isinstance(alice.next(), Response)
    assert all(flow.remote in (alice.address, bob.address) for _, flow in border.sent)
    border.at_rest()


@pytest.mark.parametrize("method", ["BYE", "INVITE", "UPDATE", "INFO"])
def test_a_dialog_cannot_be_reached_from_the_other_network(method: str) -> None:
    border, alice, bob, answer, _ = talking()
    mallory = border.agent("private", "10.0.0.66:5060")
    mallory.cseq = 500
    mallory.inside(method, answer)
    assert mallory.expect_answer(481).cseq.method == method
    bob.nothing()
    alice.nothing()
    hang_up(border, alice, bob, answer)
    border.at_rest()


def test_an_ack_from_the_other_network_answers_nothing() -> None:
    border, alice, bob, invite = calling()
    bob.answer(invite, 200, "OK", sdp=audio(bob.address[0], 4002))
    answer = alice.expect_answer(200)
    mallory = border.agent("private", "10.0.0.66:5060")
    mallory.inside("ACK", answer, cseq=answer.cseq.number)
    border.advance(0.6)
    assert alice.expect_answer(200), "our 2xx goes on until alice has acknowledged it"
    border.advance(70)
    border.at_rest()


@pytest.mark.parametrize("port", [5060, 5999])
def test_an_invite_cannot_be_cancelled_from_another_host(port: int) -> None:
    border = Border()
    alice, bob = pair(border)
    invite = alice.invite()
    bob.expect("INVITE")
    mallory = border.agent("public", f"198.51.100.66:{port}")
    mallory.cancel(invite)
    bob.nothing()
    alice.nothing()
    assert mallory.expect_answer(481).cseq.method == "CANCEL"
    alice.cancel(invite)
    assert alice.expect_answer(200).cseq.method == "CANCEL"
    alice.expect_answer(487)
    border.advance(70)


def to(border: Border, agent: Agent, start: bytes) -> int:
    """How many messages that begin so went to `agent`."""
    return sum(flow.remote == agent.address and data.startswith(start) for data, flow in border.sent)


@pytest.mark.parametrize("status", [200, 404])
def test_a_forged_source_is_not_flooded_with_answers(status: int) -> None:
    # Nobody at that address has asked for anything: the INVITE was forged. 3261 has us repeat the answer for 32 s.
    border = Border()
    victim, bob = pair(border)
    sent = victim.invite()
    bob.answer(bob.expect("INVITE"), status, sdp=audio(bob.address[0]) if status == 200 else "")
    border.advance(70)
    assert to(border, victim, b"SIP/2.0 %d" % status) <= 1 + UNPROVEN_REPEATS
    out = sum(len(data) for data, flow in border.sent if flow.remote == victim.address)
    assert out < 8 * len(sent.encode())
    border.advance(70)
    border.at_rest()


@pytest.mark.parametrize("status", [200, 404])
def test_who_has_shown_that_he_is_there_gets_every_repetition(status: int) -> None:
    border, alice, bob, answer, _ = talking()
    hang_up(border, alice, bob, answer)
    alice.call_id, alice.cseq = "second", 1
    alice.invite()
    bob.answer(bob.expect("INVITE"), status, sdp=audio(bob.address[0]) if status == 200 else "", tag="second")
    before = to(border, alice, b"SIP/2.0 %d" % status)
    border.advance(32)
    assert to(border, alice, b"SIP/2.0 %d" % status) - before >= 9
    border.advance(70)


def test_an_ack_with_a_guessed_tag_proves_nothing() -> None:
    border = Border()
    victim, bob = pair(border)
    invite = victim.invite()
    bob.answer(bob.expect("INVITE"), 200, sdp=audio(bob.address[0]))
    victim.raw(
        f"ACK {invite.uri} SIP/2.0\r\nVia: SIP/2.0/UDP {victim.host};branch=z9hG4bKforged;rport\r\n"
        f"From: {invite.get('From')}\r\nTo: {invite.get('To')};tag=guessed\r\nCall-ID: {invite.call_id}\r\n"
        f"CSeq: {invite.cseq.number} ACK\r\nContent-Length: 0\r\n\r\n"
    )
    border.advance(70)
    assert to(border, victim, b"SIP/2.0 200") <= 1 + UNPROVEN_REPEATS
