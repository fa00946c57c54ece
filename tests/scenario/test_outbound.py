"""We register at a trunk, and calls come and go by that registration, over the in-memory wire."""

import pytest

from config.load import load
from signaling.digest import compute, ha1, parse_credentials
from signaling.headers import parse_name_addr
from signaling.message import Message, Request
from tests.harness.border import CONFIG, Agent, Border, audio

REALM, USER, PASSWORD = "carrier.example", "account", "correct horse"


def registering(
    text: str, servers: str = '"sip:198.51.100.7", "sip:198.51.100.8"', user: str = "4930"
) -> str:
    return text.replace(
        'carrier: {network: public, servers: ["sip:198.51.100.7"], from: [198.51.100.0/24]}',
        f"carrier: {{network: public, servers: [{servers}], domain: carrier.example, "
        f'credentials: {{username: {USER}, password: "{PASSWORD}"}}, register: {{user: "{user}"}}}}',
    ).replace("{from: public, to: pbx}", "{from: carrier, to: pbx}")


def registrar(border: Border, address: str = "198.51.100.7:5060") -> Agent:
    return border.agent("public", address)


def challenge(agent: Agent, request: Request, nonce: str = "n1") -> None:
    line = f'WWW-Authenticate: Digest realm="{REALM}", nonce="{nonce}", algorithm=SHA-256, qop="auth"'
    agent.answer(request, 401, "Unauthorized", fields=line)


def verified(request: Request) -> Request:
    given = parse_credentials(request.get("Authorization") or "")
    secret = ha1(USER, REALM, PASSWORD, "SHA-256")
    assert compute(secret, given, request.method) == given.response
    return request


def contact_of(request: Request) -> str:
    return parse_name_addr(request.get("Contact") or "").uri_text


def come_up(border: Border, agent: Agent) -> str:
    """We register, challenged once; the URI of our contact."""
    border.advance(0.1)
    challenge(agent, agent.expect("REGISTER"))
    request = verified(agent.expect("REGISTER"))
    contact = contact_of(request)
    agent.answer(request, 200, "OK", fields=f"Expires: 3600\r\nContact: <{contact}>;expires=3600")
    agent.nothing()
    return contact


def states(border: Border) -> list[str]:
    return [row["state"] for row in border.calls.outbound.status(border.now)]


def test_it_registers_at_the_start_and_refreshes() -> None:
    border = Border(changes=registering)
    agent = registrar(border)
    contact = come_up(border, agent)
    assert states(border) == ["registered"]
    border.advance(3600 * 0.79)
    agent.nothing()
    while not agent.inbox:
        border.advance(1)
    request = verified(agent.expect("REGISTER"))
    assert contact_of(request) == contact
    agent.answer(request, 200, "OK", fields=f"Contact: <{contact}>;expires=3600")
    assert states(border) == ["registered"]


def test_a_call_to_our_contact_comes_from_the_trunk_whatever_host_sends_it() -> None:
    border = Border(changes=registering)
    agent, bob = registrar(border), border.agent("private", "10.0.0.20:5060")
    contact = come_up(border, agent)
    media_node = border.agent("public", "192.0.2.200:5060")
    media_node.request("INVITE", uri=contact, body=audio("192.0.2.200"))
    invite = bob.expect("INVITE")
    assert invite.uri.startswith("sip:4930@")
    assert "line=" not in invite.encode().decode()
    bob.answer(invite, 486, "Busy Here")
    media_node.expect_answer(486)
    border.advance(70)
    (decision,) = [one for one in border.records[-1].decisions if one.stage == "source"]
    assert decision.rule == "trunks.carrier.register"
    assert border.records[-1].source_trunk == "carrier"


def test_a_call_from_nowhere_is_still_from_nowhere() -> None:
    border = Border(changes=registering)
    agent, stranger = registrar(border), border.agent("public", "192.0.2.200:5060")
    come_up(border, agent)
    stranger.request("INVITE", uri="sip:4930@203.0.113.10;line=0123456789abcdef", body=audio("192.0.2.200"))
    stranger.expect_answer(403)


def test_a_call_to_the_trunk_uses_the_nonce_of_the_registration() -> None:
    border = Border(changes=registering)
    agent, alice = registrar(border), border.agent("private", "10.0.0.20:5060")
    come_up(border, agent)
    alice.invite(to="0301234")
    invite = verified(agent.expect("INVITE"))
    assert parse_credentials(invite.get("Authorization") or "").nc == 2
    agent.answer(invite, 486, "Busy Here")
    alice.expect_answer(486)


def test_the_next_server_when_the_first_says_nothing() -> None:
    border = Border(changes=registering)
    first, second = registrar(border), registrar(border, "198.51.100.8:5060")
    border.advance(0.1)
    first.expect("REGISTER")
    border.advance(10)
    request = second.expect("REGISTER")
    challenge(second, request)
    second.answer(verified(second.expect("REGISTER")), 200, "OK", fields="Expires: 600")
    assert states(border) == ["registered"]
    assert border.calls.outbound.status(border.now)[0]["server"] == "udp:198.51.100.8:5060"


class Answering(list[Message]):
    """The inbox of an agent that says 200 to everything."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def append(self, message: Message) -> None:
        """A message that came."""
        assert isinstance(message, Request)
        self.agent.answer(message, 200, "OK")


def test_pings_that_fail_move_it() -> None:
    border = Border(
        changes=lambda text: registering(text).replace(
            "domain: carrier.example,",
            "domain: carrier.example, check: {options_every_s: 20, timeout_s: 1, down_after: 1},",
        )
    )
    first, second = registrar(border), registrar(border, "198.51.100.8:5060")
    first.inbox = Answering(first)
    border.advance(0.1)
    assert states(border) == ["registered"]
    border.agents.pop(("public", first.address))
    second_asked: list[Request] = []
    for _ in range(250):
        border.advance(0.1)
        for message in second.inbox:
            assert isinstance(message, Request)
            if message.method == "OPTIONS":
                second.answer(message, 200, "OK")
            else:
                second_asked.append(message)
        second.inbox.clear()
    assert second_asked, "the first answers no OPTIONS any more"
    assert second_asked[0].method == "REGISTER"


def test_it_is_taken_back_at_the_end() -> None:
    border = Border(changes=registering)
    agent = registrar(border)
    contact = come_up(border, agent)
    assert border.calls.idle
    border.calls.drain(border.now)
    assert not border.calls.idle
    request = verified(agent.expect("REGISTER"))
    assert request.get("Expires") == "0"
    assert contact_of(request) == contact
    agent.answer(request, 200, "OK")
    assert border.calls.idle
    border.at_rest()


def test_a_registrar_that_is_gone_does_not_hold_us_up() -> None:
    border = Border(changes=registering)
    come_up(border, registrar(border))
    border.calls.drain(border.now)
    border.advance(2.1)
    assert border.calls.idle
    border.at_rest()


def test_a_reload_that_changes_the_user() -> None:
    border = Border(changes=registering)
    agent = registrar(border)
    come_up(border, agent)
    border.calls.reload(load(registering(CONFIG, user="4940")), border.now)
    gone = agent.expect("REGISTER")
    assert gone.get("Expires") == "0" and "4930" in (gone.get("To") or "")
    agent.answer(gone, 200, "OK")
    border.advance(0.1)
    fresh = agent.expect("REGISTER")
    assert "4940" in (fresh.get("To") or "")
    assert border.calls.idle


def test_a_reload_that_changes_nothing() -> None:
    border = Border(changes=registering)
    agent = registrar(border)
    come_up(border, agent)
    border.calls.reload(load(registering(CONFIG)), border.now)
    border.advance(0.1)
    agent.nothing()
    assert states(border) == ["registered"]


def test_another_address_of_ours_is_registered_and_the_old_one_taken_back() -> None:
    """`advertise: auto` has found that it changed."""
    border = Border(changes=registering)
    agent = registrar(border)
    old = come_up(border, agent)
    public = border.calls.config.networks["public"].model_copy(update={"advertise": "203.0.113.99"})
    networks = {**border.calls.config.networks, "public": public}
    border.calls.reload(border.calls.config.model_copy(update={"networks": networks}), border.now)
    gone = agent.expect("REGISTER")
    assert (gone.get("Expires"), contact_of(gone)) == ("0", old)
    agent.answer(gone, 200, "OK")
    border.advance(0.1)
    fresh = agent.expect("REGISTER")
    assert "@203.0.113.99" in contact_of(fresh)
    assert "@203.0.113.99" not in old


@pytest.mark.parametrize("status", [401, 407, 423, 200, 302, 503, 600])
def test_nonsense_from_the_registrar(status: int) -> None:
    border = Border(changes=registering)
    agent = registrar(border)
    for _ in range(40):
        border.advance(5)
        while agent.inbox:
            message = agent.inbox.pop(0)
            assert isinstance(message, Request)
            agent.answer(
                message,
                status,
                fields="WWW-Authenticate: nonsense\r\nMin-Expires: -1\r\nRetry-After: soon\r\nExpires: x",
            )
    # Not counting what the transactions repeat.
    sent = {data.partition(b"CSeq: ")[2][:8] for data, _ in border.sent if data.startswith(b"REGISTER")}
    assert len(sent) < 30, "it does not become a flood"


def test_a_stranger_that_challenges_our_register_gets_nothing() -> None:
    """The registrar answers 401 from a server of the trunk only; its 302 leads nowhere."""
    border = Border(changes=registering)
    agent, stranger = registrar(border), border.agent("public", "192.0.2.200:5060")
    border.advance(0.1)
    agent.answer(agent.expect("REGISTER"), 302, "Moved", fields="Contact: <sip:192.0.2.200>")
    border.advance(60)
    stranger.nothing()
    assert states(border) == ["failed"]


def test_an_address_of_ours_that_changes_is_told_to_the_registrar() -> None:
    """What STUN finds out anew comes by a reload (`networks.*.advertise: auto`)."""
    border = Border(changes=registering)
    agent = registrar(border)
    contact = come_up(border, agent)
    text = registering(CONFIG).replace(
        "address: 203.0.113.10\n", "address: 203.0.113.10\n    advertise: 203.0.113.99\n"
    )
    border.calls.reload(load(text), border.now)
    border.advance(0.1)
    challenge(agent, agent.expect("REGISTER"))
    fresh = contact_of(agent.expect("REGISTER"))
    assert fresh == contact.replace("203.0.113.10", "203.0.113.99")


def test_two_accounts_at_one_carrier() -> None:
    """Both trunks have the same servers: a call belongs to the one whose contact it came to."""
    text = registering(CONFIG)
    first = next(line for line in text.splitlines() if line.strip().startswith("carrier:"))
    second = first.replace("carrier: {", "spare: {").replace("4930", "4940").replace(USER, "other")
    border = Border(text.replace(first, f"{first}\n{second}").replace("{from: carrier,", "{from: spare,"))
    agent, bob = registrar(border), border.agent("private", "10.0.0.20:5060")
    border.advance(0.1)
    contacts = {}
    for _ in range(2):
        request = agent.expect("REGISTER")
        contacts["4940" in (request.get("To") or "")] = contact_of(request)
        agent.answer(request, 200, "OK", fields="Expires: 3600")
    agent.request("INVITE", uri=contacts[True], body=audio("198.51.100.7"))
    bob.answer(bob.expect("INVITE"), 486, "Busy Here")
    agent.expect_answer(486)
    agent.call_id += "-2"
    agent.request("INVITE", uri=contacts[False], body=audio("198.51.100.7"))
    agent.expect_answer(403)
    border.advance(70)
    assert [record.source_trunk for record in border.records] == ["spare", "carrier"]
