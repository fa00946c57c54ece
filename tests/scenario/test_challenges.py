"""Challenges of a trunk that we have credentials for (RFC 3261 s.22), and of everybody else (CVE-2021-41158)."""

import pytest

from signaling.digest import parse_credentials
from signaling.flow import Flow
from tests.harness.border import CONFIG, Border, audio, established, hang_up
from tests.harness.carrier import (
    PASSWORD,
    REALM,
    Carrier,
    alice_of,
    border_of,
    call_up,
    decisions,
    no_credentials,
    with_credentials,
)


@pytest.mark.parametrize("status", [401, 407])
def test_an_invite_is_answered_for_and_the_caller_notices_nothing(status: int) -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border, status=status)
    alice.invite()
    invite = carrier.challenged("INVITE")
    alice.nothing()
    carrier.agent.answer(invite, 180, "Ringing")
    ringing = alice.expect_answer(180)
    carrier.agent.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4002))
    carrier.verify(carrier.agent.expect("ACK"))
    answer = alice.expect_answer(200)
    no_credentials(ringing, answer)
    alice.ack(answer)
    alice.inside("BYE", answer)
    bye = carrier.agent.expect("BYE")
    carrier.verify(bye)
    carrier.agent.answer(bye, 200, "OK")
    no_credentials(alice.expect_answer(200, "BYE"))
    border.at_rest()
    assert decisions(border) == [("answered with credentials", REALM)]
    record = border.records[-1]
    assert record.leaks == 0 and PASSWORD not in repr([one.to_json() for one in record.legs])


def test_every_request_inside_the_dialog_is_answered_for() -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    answer, _ = call_up(border, alice, carrier)
    # A new nonce for each, as some servers do it; the old one is tried first.
    for number, method in enumerate(("INVITE", "UPDATE", "INFO", "OPTIONS", "MESSAGE", "BYE"), 2):
        carrier.nonce = f"nonce-{number}"
        offer = audio("10.0.0.20", 4000, "sendonly" if method == "INVITE" else "sendrecv", version=number)
        if method in ("INVITE", "UPDATE"):
            alice.inside(method, answer, body=offer)
        elif method == "BYE":
            alice.inside(method, answer)
        else:
            alice.inside(method, answer, body="Signal=1", content_type="application/dtmf-relay")
        again = carrier.challenged(method)
        assert carrier.counts[-1] == (carrier.nonce, 1)
        sdp = audio("198.51.100.7", 4002, version=number) if method in ("INVITE", "UPDATE") else ""
        carrier.agent.answer(again, 200, "OK", sdp=sdp)
        if method == "INVITE":
            alice.ack(alice.expect_answer(200, method))
            carrier.verify(carrier.agent.expect("ACK"))
        else:
            no_credentials(alice.expect_answer(200, method))
    border.at_rest()


def test_a_call_of_the_trunk_is_answered_for_too() -> None:
    """The trunk calls us, and challenges our BYE."""
    border = border_of()
    carrier, bob = Carrier(border, status=401), alice_of(border)
    _, invite = established(border, carrier.agent, bob)
    bob.inside("BYE", invite)
    bye = carrier.challenged("BYE")
    carrier.agent.answer(bye, 200, "OK")
    bob.expect_answer(200, "BYE")
    border.at_rest()


def test_the_nonce_is_used_again_by_the_next_call() -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    answer, _ = call_up(border, alice, carrier)
    second = border.agent("private", "10.0.0.20:5070")
    second.invite()
    invite = carrier.agent.expect("INVITE")
    carrier.verify(invite)
    assert carrier.counts == [("nonce-1", 1), ("nonce-1", 2)]
    carrier.agent.answer(invite, 486, "Busy Here")
    carrier.agent.expect("ACK")
    second.expect_answer(486)
    alice.inside("BYE", answer)
    bye = carrier.agent.expect("BYE")
    carrier.verify(bye)
    assert carrier.counts[-1] == ("nonce-1", 3)
    carrier.agent.answer(bye, 200, "OK")
    border.at_rest()


@pytest.mark.parametrize("more", [", stale=true", ""])
def test_an_old_nonce_is_replaced(more: str) -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    answer, _ = call_up(border, alice, carrier)
    carrier.nonce = "nonce-2"
    alice.inside("BYE", answer)
    bye = carrier.challenged("BYE", more=more)
    assert carrier.counts[-1] == ("nonce-2", 1)
    carrier.agent.answer(bye, 200, "OK")
    border.at_rest()


def test_a_wrong_password_is_tried_once_for_a_nonce() -> None:
    border = border_of(password="wrong")
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    carrier.challenge(carrier.agent.expect("INVITE"))
    carrier.challenge(carrier.agent.expect("INVITE"))
    carrier.agent.nothing()
    refused = alice.expect_answer(403)
    assert "trunk-wants-credentials" in (refused.get("Warning") or "")
    no_credentials(refused)
    border.at_rest()
    assert decisions(border) == [
        ("answered with credentials", REALM),
        ("no credentials fit: the credentials are wrong", REALM),
    ]


def test_a_wrong_password_is_tried_twice_at_most() -> None:
    """A server that makes a nonce for each answer must not keep us busy."""
    border = border_of(password="wrong")
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    for number in range(3):
        carrier.nonce = f"nonce-{number}"
        carrier.challenge(carrier.agent.expect("INVITE"), more=", stale=true")
    carrier.agent.nothing()
    alice.expect_answer(403)
    border.at_rest()


def test_after_a_refusal_the_nonce_is_not_used_unasked() -> None:
    border = border_of(password="wrong")
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    for _ in range(2):
        carrier.challenge(carrier.agent.expect("INVITE"))
    alice.expect_answer(403)
    border.at_rest()
    alice.call_id += "-2"
    alice.invite()
    no_credentials(carrier.agent.expect("INVITE"))


def test_another_realm_is_not_answered() -> None:
    border = border_of(realm="other.example")
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    carrier.challenge(carrier.agent.expect("INVITE"))
    carrier.agent.nothing()
    alice.expect_answer(403)
    border.at_rest()
    assert decisions(border) == [
        ("no credentials fit: the credentials are for realm other.example", REALM),
    ]


def test_the_realm_that_is_asked_for_is_answered() -> None:
    border = border_of(realm=REALM)
    alice, carrier = alice_of(border), Carrier(border)
    answer, _ = call_up(border, alice, carrier)
    alice.inside("BYE", answer)
    bye = carrier.agent.expect("BYE")
    carrier.verify(bye)
    carrier.agent.answer(bye, 200, "OK")
    border.at_rest()


def test_without_credentials_the_record_says_who_wanted_some() -> None:
    border = Border()
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    carrier.challenge(carrier.agent.expect("INVITE"))
    alice.expect_answer(403)
    border.at_rest()
    assert decisions(border) == [("no credentials fit: no credentials are configured", REALM)]
    (decision,) = [one for one in border.records[-1].decisions if one.stage == "credentials"]
    assert decision.rule == "trunks.carrier.credentials"


def test_a_proxy_and_the_server_behind_it_both_challenge() -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    carrier.challenge(carrier.agent.expect("INVITE"))
    second = carrier.agent.expect("INVITE")
    carrier.verify(second)
    behind = 'WWW-Authenticate: Digest realm="pbx.carrier.example", nonce="n", algorithm=SHA-256, qop="auth"'
    carrier.agent.answer(second, 401, "Unauthorized", fields=behind)
    carrier.agent.expect("ACK")
    third = carrier.agent.expect("INVITE")
    carrier.verify(third)
    given = parse_credentials(third.get("Authorization") or "")
    assert (given.realm, given.algorithm, given.nc) == ("pbx.carrier.example", "SHA-256", 1)
    carrier.agent.answer(third, 486, "Busy Here")
    alice.expect_answer(486)
    border.at_rest()


class TestStrangers:
    """Whoever is not a server of the trunk gets no Authorization, whatever it asks and however it came to be asked."""

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "OPTIONS", "MESSAGE", "NOTIFY", "BYE"])
    def test_a_host_that_the_trunk_names_in_its_contact(self, method: str) -> None:
        """The 200 of the trunk says that the dialog goes on elsewhere (another host of its network)."""
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        stranger = Carrier(border, "198.51.100.99:5060")
        alice.invite()
        invite = carrier.challenged("INVITE")
        carrier.agent.host = "198.51.100.99:5060"  # what its Contact says
        carrier.agent.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4002))
        no_credentials(stranger.agent.expect("ACK"))
        answer = alice.expect_answer(200)
        alice.ack(answer)
        if method in ("INVITE", "UPDATE"):
            alice.inside(method, answer, body=audio("10.0.0.20", 4000, "sendonly", version=2))
        elif method == "BYE":
            alice.inside(method, answer)
        else:
            alice.inside(
                method, answer, body="Signal=1", content_type="application/dtmf-relay", fields="Event: talk"
            )
        request = stranger.agent.expect(method)
        no_credentials(request)
        stranger.challenge(request)
        stranger.agent.nothing()
        carrier.agent.nothing()
        no_credentials(alice.expect_answer(200 if method == "BYE" else 403, method))
        if method == "INVITE":
            alice.inside("ACK", answer, cseq=alice.cseq)
        if method != "BYE":
            alice.inside("BYE", answer)
            stranger.agent.answer(stranger.agent.expect("BYE"), 200, "OK")
            alice.expect_answer(200, "BYE")
        border.at_rest()
        why = "no credentials fit: the challenge does not come from a server of the trunk"
        assert decisions(border)[1:] == [(why, REALM)]
        self.nothing_went_to(border, "198.51.100.99")

    def test_a_host_that_the_trunk_redirects_to(self) -> None:
        border = border_of(more=" redirects: follow,")
        alice, carrier = alice_of(border), Carrier(border)
        stranger = Carrier(border, "198.51.100.99:5060")
        alice.invite()
        invite = carrier.challenged("INVITE")
        moved = "Contact: <sip:200@198.51.100.99>"
        carrier.agent.host = "198.51.100.99"
        carrier.agent.answer(invite, 302, "Moved", fields=moved)
        carrier.agent.expect("ACK")
        asked = stranger.agent.expect("INVITE")
        no_credentials(asked)
        stranger.challenge(asked)
        stranger.agent.nothing()
        alice.expect_answer(403)
        border.at_rest()
        self.nothing_went_to(border, "198.51.100.99")

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE", "INFO", "MESSAGE", "OPTIONS", "BYE"])
    def test_the_other_party_of_the_call(self, method: str) -> None:
        """The callee on the private side asks for the credentials that the carrier would get."""
        border = border_of()
        bob = Carrier(border, "198.51.100.99:5060")
        bob.agent, carrier = alice_of(border), Carrier(border)
        answer, _ = established(border, carrier.agent, bob.agent)
        if method in ("INVITE", "UPDATE"):
            carrier.agent.inside(method, answer, body=audio("198.51.100.7", 4000, "sendonly", version=2))
        elif method == "BYE":
            carrier.agent.inside(method, answer)
        else:
            carrier.agent.inside(method, answer, body="Signal=1", content_type="application/dtmf-relay")
        request = bob.agent.expect(method)
        no_credentials(request)
        bob.challenge(request)
        bob.agent.nothing()
        no_credentials(carrier.agent.expect_answer(200 if method == "BYE" else 403, method))
        self.nothing_went_to(border, "10.0.0.20")

    def test_a_trunk_without_credentials_beside_one_that_has_some(self) -> None:
        text = with_credentials(CONFIG).replace(
            "  pbx:", '  other: {network: public, servers: ["sip:198.51.100.50"]}\n  pbx:'
        )
        border = Border(text.replace("{from: pbx, to: carrier}", "{from: pbx, to: other}"))
        alice, other = alice_of(border), Carrier(border, "198.51.100.50:5060")
        alice.invite()
        other.challenge(other.agent.expect("INVITE"))
        other.agent.nothing()
        alice.expect_answer(403)
        border.at_rest()

    @staticmethod
    def nothing_went_to(border: Border, host: str) -> None:
        for data, flow in border.sent:
            assert flow.remote[0] != host or b"uthorization" not in data


class TestWhileItIsAnswered:
    def test_cancel_before_the_challenge(self) -> None:
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        invite = alice.invite()
        first = carrier.agent.expect("INVITE")
        carrier.agent.answer(first, 100, "Trying")
        alice.cancel(invite)
        cancel = carrier.agent.expect("CANCEL")
        carrier.agent.answer(cancel, 200, "OK")
        carrier.challenge(first)
        carrier.agent.nothing()
        alice.expect_answer(200, "CANCEL")
        alice.expect_answer(487)
        border.at_rest()

    def test_cancel_after_the_challenge(self) -> None:
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        invite = alice.invite()
        again = carrier.challenged("INVITE")
        carrier.agent.answer(again, 100, "Trying")
        alice.cancel(invite)
        cancel = carrier.agent.expect("CANCEL")
        assert cancel.cseq.number == again.cseq.number
        assert cancel.via.branch == again.via.branch
        no_credentials(cancel)
        carrier.agent.answer(cancel, 200, "OK")
        carrier.agent.answer(again, 487, "Request Terminated")
        carrier.agent.expect("ACK")
        alice.expect_answer(200, "CANCEL")
        alice.expect_answer(487)
        border.at_rest()

    def test_cancel_of_a_re_invite_before_its_challenge(self) -> None:
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        answer, _ = call_up(border, alice, carrier)
        carrier.nonce = "nonce-2"
        again = alice.inside("INVITE", answer, body=audio("10.0.0.20", 4000, "sendonly", version=2))
        request = carrier.agent.expect("INVITE")
        carrier.agent.answer(request, 100, "Trying")
        alice.cancel(again)
        carrier.agent.answer(carrier.agent.expect("CANCEL"), 200, "OK")
        carrier.challenge(request)
        carrier.agent.nothing()
        alice.expect_answer(200, "CANCEL")
        alice.expect_answer(403)
        alice.inside("BYE", answer)
        carrier.agent.answer(carrier.agent.expect("BYE"), 200, "OK")
        border.at_rest()

    def test_hanging_up_while_a_re_invite_is_answered_for(self) -> None:
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        answer, _ = call_up(border, alice, carrier)
        carrier.nonce = "nonce-2"
        alice.inside("INVITE", answer, body=audio("10.0.0.20", 4000, "sendonly", version=2))
        request = carrier.agent.expect("INVITE")
        carrier.agent.answer(request, 100, "Trying")
        alice.inside("BYE", answer)
        assert {carrier.agent.next().start_line.split()[0] for _ in range(2)} == {"CANCEL", "BYE"}
        carrier.challenge(request)
        carrier.agent.nothing()
        border.advance(70)
        assert not any(border.calls.leftovers().values())

    def test_nobody_answers_the_second_time(self) -> None:
        """The server falls silent after its challenge: the call goes to the next one, which challenges too."""
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        spare = Carrier(border, "198.51.100.8:5060")
        alice.invite()
        carrier.challenged("INVITE")
        border.advance(4.1)
        invite = spare.challenged("INVITE")
        spare.agent.answer(invite, 200, "OK", sdp=audio("198.51.100.8", 4002))
        spare.agent.expect("ACK")
        answer = alice.expect_answer(200)
        alice.ack(answer)
        alice.inside("BYE", answer)
        spare.agent.answer(spare.agent.expect("BYE"), 200, "OK")
        border.at_rest()

    def test_a_503_after_the_challenge_goes_on_to_the_next_server(self) -> None:
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        spare = Carrier(border, "198.51.100.8:5060")
        alice.invite()
        carrier.agent.answer(carrier.challenged("INVITE"), 503, "Service Unavailable")
        invite = spare.agent.expect("INVITE")
        no_credentials(invite)  # the nonce of the other server is worth nothing here
        spare.challenge(invite)
        spare.verify(spare.agent.expect("INVITE"))

    def test_a_lost_401_comes_again(self) -> None:
        """The repeated challenge of the first INVITE is acknowledged and has no other effect."""
        border = border_of()
        alice, carrier = alice_of(border), Carrier(border)
        alice.invite()
        first = carrier.agent.expect("INVITE")
        carrier.challenge(first)
        again = carrier.agent.expect("INVITE")
        carrier.challenge(first)
        carrier.agent.nothing()
        carrier.agent.answer(again, 486, "Busy Here")
        carrier.agent.expect("ACK")
        alice.expect_answer(486)
        border.at_rest()

    def test_the_ack_of_the_challenge_cannot_be_sent(self) -> None:
        border = Border(changes=lambda text: with_credentials(text).replace('.7"', '.7;transport=tcp"'))
        alice = alice_of(border)
        carrier = Carrier(border)
        carrier.agent = border.agent("public", "198.51.100.7:5060", "tcp")
        alice.invite()
        again = carrier.challenged("INVITE")
        flow = carrier.agent.flow
        # The connection of the first transaction breaks, that of the second is another one.
        border.calls.transport_failed(Flow(flow.network, "tcp", flow.local, flow.remote), border.now)
        assert again is not None
        border.advance(40)
        border.at_rest()


def test_a_fork_that_loses_is_released_with_credentials() -> None:
    """Two phones behind the trunk answer; the BYE to the second is challenged."""
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    invite = carrier.challenged("INVITE")
    carrier.agent.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4002), tag="one")
    carrier.agent.expect("ACK")
    carrier.agent.answer(invite, 200, "OK", sdp=audio("198.51.100.7", 4004), tag="two")
    carrier.verify(carrier.agent.expect("ACK"))
    bye = carrier.agent.expect("BYE")
    carrier.verify(bye)
    assert bye.to.tag == "two"
    carrier.nonce = "nonce-2"
    carrier.challenge(bye, more=", stale=true")
    again = carrier.agent.expect("BYE")
    carrier.verify(again)
    assert again.cseq.number == bye.cseq.number + 1
    carrier.agent.answer(again, 200, "OK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    alice.inside("BYE", answer)
    carrier.agent.answer(carrier.agent.expect("BYE"), 200, "OK")
    border.at_rest()


def test_a_session_refresh_is_answered_for() -> None:
    border = Border(
        changes=lambda text: with_credentials(text) + "timers: {session_expires_s: 90, min_se_s: 90}\n"
    )
    alice, carrier = alice_of(border), Carrier(border)
    alice.invite()
    invite = carrier.challenged("INVITE")
    carrier.agent.answer(
        invite, 200, "OK", sdp=audio("198.51.100.7", 4002), fields="Session-Expires: 90;refresher=uac"
    )
    carrier.agent.expect("ACK")
    answer = alice.expect_answer(200)
    alice.ack(answer)
    carrier.nonce = "nonce-2"
    border.advance(45.2)
    again = carrier.challenged("UPDATE")
    carrier.agent.answer(again, 200, "OK", fields="Session-Expires: 90;refresher=uac")
    border.advance(1)
    alice.inside("BYE", answer)
    carrier.agent.answer(carrier.agent.expect("BYE"), 200, "OK")
    border.advance(70)


def test_after_a_restart_the_call_still_has_its_credentials() -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    answer, _ = call_up(border, alice, carrier)
    taken = border.calls.snapshot(border.now)
    fresh = border_of()
    fresh.now = border.now
    fresh.calls.restore(taken, fresh.now)
    alice.border = carrier.agent.border = fresh
    fresh.agents = border.agents
    carrier.nonce = "nonce-2"
    alice.inside("BYE", answer)
    bye = carrier.challenged("BYE")
    carrier.agent.answer(bye, 200, "OK")
    assert PASSWORD not in repr(taken)


def test_credentials_of_the_caller_stay_on_its_side() -> None:
    border = border_of()
    alice, carrier = alice_of(border), Carrier(border)
    given = 'Digest username="a", realm="r", nonce="n", uri="sip:x", response="0123456789abcdef"'
    lines = f"Authorization: {given}\r\nProxy-Authorization:\t{given}"
    alice.invite(fields=lines)
    no_credentials(carrier.agent.expect("INVITE"))


def test_hang_up_helper_still_works_without_challenges() -> None:
    border = border_of()
    alice, bob = alice_of(border), border.agent("public", "198.51.100.7:5060")
    answer, _ = established(border, alice, bob)
    hang_up(border, alice, bob, answer)
