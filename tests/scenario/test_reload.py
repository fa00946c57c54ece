"""Reloads in the middle of calls and registrations, over the in-memory wire: who goes on where, and who is refused."""

from collections.abc import Callable
from dataclasses import replace

from config.load import load
from config.model import Config
from sbc.binding import Row
from sbc.locations import Change
from sbc.media_policy import media_ranges
from signaling.message import Request, Response
from tests.harness.border import CONFIG, Agent, Border, audio, pair, picked_up, talking
from tests.harness.phones import LOCAL, RELAY, Phone, Registrar, home, talked

PUBLIC = "listen: [udp:5060, tcp:5060]\n    media_ports: 20000"
PRIVATE = "listen: [udp:5060, tcp:5060]\n    media_ports: 30000"


def renamed(text: str) -> str:
    """The same configuration, whose network `public` is called `outside`."""
    text = text.replace("public:\n", "outside:\n").replace("from: public", "from: outside")
    return text.replace("network: public", "network: outside")


def moved(text: str, listen: str, port: int) -> str:
    """The same, where one network listens on another port."""
    assert listen in text
    return text.replace(listen, listen.replace("udp:5060, tcp:5060", f"udp:{port}, tcp:{port}"))


def reload(border: Border, config: str | Config) -> None:
    fresh = load(config) if isinstance(config, str) else config
    border.pool.reconfigure(media_ranges(fresh), 0)
    border.calls.reload(fresh, border.now)


def with_media_moved(text: str) -> Config:
    """The configuration as `sbc.reload` marks it when media of `public` has got another address."""
    fresh = load(text)
    public = fresh.networks["public"].model_copy(update={"moves": 1})
    return fresh.model_copy(update={"networks": {**fresh.networks, "public": public}})


def known_as(agent: Agent, network: str) -> Agent:
    """What an agent sends comes from a network of another name now; it gets what is sent to either."""
    agent.flow = replace(agent.flow, network=network)
    agent.border.agents[network, agent.address] = agent
    return agent


def at_port(agent: Agent, port: int) -> Agent:
    """It talks to another port of ours."""
    agent.sbc = (agent.sbc[0], port)
    agent.flow = replace(agent.flow, local=agent.sbc)
    return agent


def held(border: Border) -> set[tuple[str, int]]:
    """The listeners that were taken away and are still in use."""
    former = {listener.local for listener in border.calls.sites.former}
    return {flow.local for flow in border.calls.flows_in_use()} & former


def hang_up(caller: Agent, callee: Agent, answer: Response) -> None:
    caller.inside("BYE", answer)
    bye = callee.expect("BYE")
    callee.answer(bye, 200, "OK")
    caller.expect_answer(200, "BYE")


def ringing(changes: Callable[[str], str] = str) -> tuple[Border, Agent, Agent, Request, Request]:
    """A border, a caller, whom it calls, the INVITE as it was sent and as it came; it rings."""
    border = Border(changes=changes)
    alice, bob = pair(border)
    sent = alice.invite()
    invite = bob.expect("INVITE")
    bob.answer(invite, 180, "Ringing")
    alice.expect_answer(180)
    return border, alice, bob, sent, invite


# -- listeners -------------------------------------------------------------------------------------------------


def test_a_listener_that_was_taken_away_takes_nothing_new_and_is_let_go_with_its_last_call() -> None:
    border, alice, bob, answer, invite = talking()
    stranger = border.agent("public", "203.0.113.99:5060")
    reload(border, moved(CONFIG, PUBLIC, 5070))
    for method in ("INVITE", "REGISTER", "OPTIONS", "MESSAGE"):
        stranger.request(method)
        assert "listener-closing" in (stranger.expect_answer(503).get("Warning") or "")
    assert border.calls.stats["refused:listener-closing"] == 3, "OPTIONS are not counted, refused or not"
    alice.inside("OPTIONS", answer)
    bob.answer(bob.expect("OPTIONS"), 200, "OK")
    alice.expect_answer(200)
    bob.inside("INFO", invite, body="Signal=1", content_type="application/dtmf-relay")
    alice.answer(alice.expect("INFO"), 200, "OK")
    bob.expect_answer(200)
    assert held(border) == {("203.0.113.10", 5060)}
    hang_up(alice, bob, answer)
    border.advance(40)
    # Refusals alone do not hold it: whoever keeps calling there would hold it for ever.
    stranger.invite()
    stranger.expect_answer(503)
    assert held(border) == set()
    border.calls.forget(border.calls.flows_in_use(), ())
    assert border.calls.sites.former == ()
    fresh = border.agent("public", "203.0.113.98:5060")
    assert fresh.sbc == ("203.0.113.10", 5070)
    fresh.invite()
    assert bob.expect("INVITE")


def test_a_call_that_rings_goes_on_by_its_old_listener() -> None:
    for ends_with in ("answer", "cancel", "refusal"):
        border, alice, bob, sent, invite = ringing()
        reload(border, moved(moved(CONFIG, PUBLIC, 5070), PRIVATE, 5080))
        alice.raw(sent.encode())
        alice.expect_answer(180)  # the answer of before, and no second call
        bob.nothing()
        if ends_with == "answer":
            answer = picked_up(alice, bob, invite)
            hang_up(alice, bob, answer)
        elif ends_with == "cancel":
            alice.cancel(sent)
            alice.expect_answer(200, "CANCEL")
            bob.answer(bob.expect("CANCEL"), 200, "OK")
            bob.answer(invite, 487)
            assert bob.expect("ACK")
            alice.expect_answer(487)
        else:
            bob.answer(invite, 486)
            assert bob.expect("ACK")
            alice.expect_answer(486)
            border.advance(0.6)
            alice.expect_answer(486)  # again, until it is acknowledged
            assert held(border) == {("203.0.113.10", 5060), ("10.0.0.1", 5060)}
            alice.raw(sent.encode().replace(b"INVITE", b"ACK"))
        border.at_rest()
        assert held(border) == set()


def test_a_listener_that_comes_back_takes_calls_again() -> None:
    border, alice, bob, answer, _ = talking()
    reload(border, moved(CONFIG, PUBLIC, 5070))
    reload(border, CONFIG)
    assert {listener.local[1] for listener in border.calls.sites.former} == {5070}
    other = border.agent("public", "203.0.113.98:5060")
    other.invite()
    assert bob.expect("INVITE")
    hang_up(alice, bob, answer)


def test_a_network_that_is_gone_keeps_its_calls_and_takes_no_new_targets() -> None:
    """The callee of a call in progress is in a network that is not configured any more."""
    border, alice, bob, answer, _ = talking()
    reload(
        border,
        "networks:\n  public: {address: 203.0.113.10, media_ports: 20000-20999}\n"
        "routes:\n  - {from: public, reject: {status: 480}}\nlimits: {max_calls: 200}\n",
    )
    bob_reinvites = audio("10.0.0.20", 4002, "sendonly", version=2)
    alice.inside("INFO", answer, body="Signal=1", content_type="application/dtmf-relay")
    bob.answer(bob.expect("INFO"), 200, "OK")
    alice.expect_answer(200)
    alice.inside("INVITE", answer, body=audio(alice.address[0], 4000, "sendonly", version=2))
    again = bob.expect("INVITE")
    assert "c=IN IP4 10.0.0.1\r\n" in again.body.decode()
    bob.answer(again, 200, "OK", sdp=bob_reinvites.replace("sendonly", "recvonly"))
    bob.expect("ACK")
    alice.ack(alice.expect_answer(200, "INVITE"))
    hang_up(alice, bob, answer)
    border.at_rest()


# -- names -----------------------------------------------------------------------------------------------------


def test_a_network_is_renamed_under_a_call() -> None:
    border, alice, bob, answer, invite = talking()
    reload(border, renamed(CONFIG))
    known_as(alice, "outside")
    alice.inside("INFO", answer, body="Signal=1", content_type="application/dtmf-relay")
    bob.answer(bob.expect("INFO"), 200, "OK")
    alice.expect_answer(200)
    bob.inside("BYE", invite)
    bye = alice.expect("BYE")
    alice.answer(bye, 200, "OK")
    bob.expect_answer(200, "BYE")
    border.at_rest()
    border.calls.forget(border.calls.flows_in_use(), ())
    assert (border.calls.sites.former, border.calls.transactions.former_names) == ((), {})


def test_a_network_is_renamed_while_it_rings() -> None:
    for who in ("caller", "callee"):
        border, alice, bob, sent, invite = ringing()
        text = renamed(CONFIG)
        if who == "callee":
            text = CONFIG.replace("private:\n", "inside:\n").replace("network: private", "network: inside")
        reload(border, text)
        if who == "caller":
            known_as(alice, "outside")
            alice.raw(sent.encode())
            alice.expect_answer(180)
        else:
            known_as(bob, "inside")
        assert len(border.calls.live) == 1
        answer = picked_up(alice, bob, invite)
        hang_up(alice, bob, answer)
        border.at_rest()


def test_a_caller_of_a_network_that_is_renamed_cancels() -> None:
    border, alice, bob, sent, invite = ringing()
    reload(border, renamed(CONFIG))
    known_as(alice, "outside")
    alice.cancel(sent)
    alice.expect_answer(200, "CANCEL")
    bob.answer(bob.expect("CANCEL"), 200, "OK")
    bob.answer(invite, 487)
    bob.expect("ACK")
    alice.expect_answer(487)


def test_another_network_is_not_the_same_for_a_rename_elsewhere() -> None:
    """A dialog of one network does not exist on another."""
    border, _, bob, answer, _ = talking()
    reload(border, renamed(CONFIG))
    thief = border.agent("private", "10.0.0.66:5060")
    thief.inside("BYE", answer)
    thief.expect_answer(481)
    bob.nothing()


# -- media -----------------------------------------------------------------------------------------------------


def test_a_call_that_wants_more_media_gets_it_where_it_began() -> None:
    border, alice, bob, answer, _ = talking()
    text = CONFIG.replace("address: 203.0.113.10", "address: 203.0.113.11").replace(
        "20000-20999", "24000-24999"
    )
    reload(border, with_media_moved(text))
    video = "m=video 4010 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    alice.inside("INVITE", answer, body=audio(alice.address[0], version=2) + video)
    again = bob.expect("INVITE")
    assert again.body.decode().count("m=") == 2
    bob.answer(again, 200, "OK", sdp=audio(bob.address[0], 4002, version=2) + video.replace("4010", "4012"))
    bob.expect("ACK")
    told = alice.expect_answer(200, "INVITE")
    alice.ack(told)
    text_of = told.body.decode()
    assert "c=IN IP4 203.0.113.10\r\n" in text_of and "203.0.113.11" not in text_of
    ports = [int(line.split()[1]) for line in text_of.splitlines() if line.startswith("m=")]
    assert len(set(ports)) == 2 and all(20000 <= port <= 20999 for port in ports)
    hang_up(alice, bob, answer)
    border.at_rest()
    assert border.pool.total_in_use() == 0


def test_a_call_without_an_offer_yet_gets_media_where_it_began() -> None:
    """Late offer: the media of the call begins after the reload that renames its network."""
    border = Border()
    alice, bob = pair(border)
    alice.invite(sdp="")
    invite = bob.expect("INVITE")
    reload(border, renamed(CONFIG))
    known_as(alice, "outside")
    bob.answer(invite, 200, "OK", sdp=audio(bob.address[0], 4002))
    offered = alice.expect_answer(200)
    assert "c=IN IP4 203.0.113.10\r\n" in offered.body.decode()
    alice.ack(offered, sdp=audio(alice.address[0]))
    assert b"m=audio" in bob.expect("ACK").body
    hang_up(alice, bob, offered)
    border.at_rest()
    assert border.pool.total_in_use() == 0


# -- phones ----------------------------------------------------------------------------------------------------


def test_a_registered_flow_outlives_its_listener() -> None:
    border, registrar, phone = home()
    reload(border, moved(RELAY, PUBLIC, 5070))
    registrar.call("alice")
    talked(border, registrar.agent, phone.agent)
    border.advance(70)
    assert held(border) == {("203.0.113.10", 5060)}
    phone.register()
    assert "listener-closing" in (phone.agent.expect_answer(503).get("Warning") or "")
    at_port(phone.agent, 5070)
    phone.register()
    registrar.serve()
    phone.agent.expect_answer(200)
    (binding,) = border.calls.phones.locations.all()
    assert binding.flow.local == ("203.0.113.10", 5070)
    border.advance(40)
    assert held(border) == set()


def test_a_registration_that_nobody_renews_holds_a_listener_until_it_runs_out() -> None:
    border, _, _ = home()
    reload(border, moved(RELAY, PUBLIC, 5070))
    border.advance(500)
    assert held(border) == {("203.0.113.10", 5060)}
    border.advance(200)
    assert held(border) == set()


def test_calls_from_the_registrar_come_where_it_was_told_until_it_is_told_anew() -> None:
    border, registrar, phone = home()
    told = registrar.contacts["sip:alice@pbx.internal"]
    assert told.endswith("@10.0.0.1:5060")
    border.advance(1)
    reload(border, moved(RELAY, PRIVATE, 5080))
    registrar.call("alice")
    talked(border, registrar.agent, phone.agent)
    border.advance(70)
    assert held(border) == {("10.0.0.1", 5060)}
    registrar.agent.invite("+15551234")
    assert "listener-closing" in (registrar.agent.expect_answer(503).get("Warning") or "")
    border.advance(40)
    registrar.agent.inbox.clear()
    phone.register()
    at_port(registrar.agent, 5080)
    registrar.serve()  # a refresh that would have been answered from memory
    phone.agent.expect_answer(200)
    assert registrar.contacts["sip:alice@pbx.internal"].endswith("@10.0.0.1:5080")
    border.advance(40)
    assert held(border) == set()


def test_the_network_of_the_phones_is_renamed() -> None:
    border, registrar, phone = home()
    reload(border, renamed(RELAY))
    known_as(phone.agent, "outside")
    registrar.call("alice")
    talked(border, registrar.agent, phone.agent)
    phone.invite("100")
    talked(border, phone.agent, registrar.agent)
    phone.register()
    phone.agent.expect_answer(200)
    assert [one.flow.network for one in border.calls.phones.locations.all()] == ["outside"]
    border.advance(40)
    border.calls.forget(border.calls.flows_in_use(), ())
    assert border.calls.sites.former == ()


def test_phones_whose_network_is_gone_are_not_called() -> None:
    border, registrar, phone = home()
    text = RELAY.replace("  public:\n", "  other:\n").replace("203.0.113.10", "203.0.113.12")
    text = text.replace("network: public", "network: other").replace("from: public", "from: other")
    reload(border, text)
    border.calls.forget((), ())
    reload(border, text)
    (binding,) = border.calls.phones.locations.all()
    assert binding.dead == "the address that it registered at is not ours any more"
    registrar.call("alice")
    phone.agent.nothing()


def test_the_registrar_changes_between_a_trunk_and_ourselves() -> None:
    border, registrar, phone = home()
    waiting = Phone(border, "bob", 40002)
    waiting.register()
    registrar.agent.expect("REGISTER")
    reload(border, LOCAL)
    assert "registrar-gone" in (waiting.agent.expect_answer(503).get("Warning") or "")
    phone.authorized("a-secret")
    (binding,) = border.calls.phones.locations.all()
    assert binding.upstream is None
    reload(border, RELAY)
    registrar.agent.inbox.clear()
    phone.register()
    registrar.serve()
    phone.agent.expect_answer(200)
    (binding,) = border.calls.phones.locations.all()
    assert binding.upstream is not None


def test_another_trunk_becomes_the_registrar_and_is_told_at_the_next_refresh() -> None:
    border, _, phone = home()
    text = RELAY.replace("trunks:\n", 'trunks:\n  new: {network: private, servers: ["sip:10.0.0.21"]}\n')
    border.advance(1)
    reload(border, text.replace("registrar: pbx", "registrar: new"))
    other = Registrar.__new__(Registrar)
    other.agent, other.contacts = border.agent("private", "10.0.0.21:5060"), {}
    phone.register()
    other.serve()
    phone.agent.expect_answer(200)


def test_phones_that_are_taken_out_hold_nothing() -> None:
    border, _, _ = home()
    plain = "\n".join(line for line in RELAY.splitlines() if "phones" not in line)
    reload(border, moved(plain, PUBLIC, 5070))
    assert len(border.calls.phones.locations) == 0
    border.advance(40)
    assert held(border) == set()
    assert border.calls.next_timer() is None


def test_another_store_gets_what_the_first_had() -> None:
    border, registrar, _ = home()
    phones = border.calls.phones
    written: dict[tuple[str, str], Row | None] = {}

    def write(ticket: int, changes: tuple[Change, ...]) -> None:
        for change in changes:
            written[change.user, change.identity] = change.row
        phones.stored(ticket, None, border.now)

    bob = Phone(border, "bob", 40002)
    bob.register()
    registrar.serve()
    bob.agent.expect_answer(200)
    secret, tokens = phones.secret, {one.user: one.token for one in phones.locations.all()}
    phones.keep(write, b"of the file")
    reload(border, RELAY)
    phones.restore([], border.now)
    assert sorted(user for user, _ in written if user) == ["alice", "bob"]
    assert phones.secret == secret, "contacts that the registrar knows are made of it"
    # A file of before, with an older registration of alice and one of carol.
    alice = next(list(row) for (user, _), row in written.items() if user == "alice" and row is not None)
    assert phones.locations.of("alice")[0].token == tokens["alice"] == alice[3]
    carol = ["carol", *alice[1:3], "tok", *alice[4:9], 40099, *alice[10:]]
    alice[3] = "an older token"
    phones.restore([tuple(alice), tuple(carol)], border.now)
    assert {one.user: one.token for one in phones.locations.all()} == {**tokens, "carol": "tok"}
    registrar.call("bob")
    assert bob.agent.expect("INVITE")
