"""What `sbc simulate` says is what happens: the same decisions, and byte for byte the same first messages."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from config.problems import ConfigError
from sbc.binding import Binding
from sbc.simulate import flow_from, invite_from, phone_of, simulate, stand_ins
from signaling.digest import Account, parse_challenges
from signaling.digest import answer as digest
from signaling.errors import PeerError
from signaling.flow import Flow, host_port
from signaling.message import Request, Response
from signaling.parser import parse
from tests.harness.border import Border

SERVERS = ("sip:10.0.0.20", "sip:10.0.0.21:5080", "sip:10.0.0.22;transport=tcp", "sip:pbx.example")
MATCHES = (
    "",
    r", match: '^\+'",
    ", match: '^2'",
    ", match: '^0049'",
    ", from_match: '^caller'",
    ", from_match: '^7'",
)
REWRITES = ("", ", strip: 1", ", prepend: '00'", ", strip: 2, prepend: '+'")
GOALS = (
    "to: pbx", "to: backup", "to: [pbx, backup]", "to: carrier", "reject: {status: 603, reason: Go away}",
)  # fmt: skip
NETWORK_KEYS = (
    "", "    nat: far-end\n", "    domain: sbc.example\n", "    user_agent: Border\n", "    advertise: 192.0.2.99\n",
)  # fmt: skip
URIS = (
    "sip:200@203.0.113.10", "sip:+4930123@carrier.example", "tel:+4930123", "sip:0049301@10.0.0.1:5060",
    "sip:203.0.113.10", "sip:a.name@[2001:db8::1]", "sip:200@203.0.113.10;user=phone",
)  # fmt: skip
SOURCES = (None, "203.0.113.77", "198.51.100.7:5060", "10.0.0.20", "10.0.0.99:9999", "192.0.2.1:1")
# The number of an SDP session (RFC 8866 s.5.2) is drawn at random, and the length goes with its digits.
# `Border` and `simulate` number what is random otherwise, in as many digits.
TOKEN = re.compile(rb"(?<![0-9a-f])0[0-9a-f]{7,}(?![0-9a-f])")
DOMAIN = "sbc.example"
SESSION_ID = re.compile(rb"(?<=\r\no=- )\d+|(?<=\r\nContent-Length: )\d+")


@st.composite
def configurations(draw: Any) -> str:
    """Two networks, three trunks and some routes."""
    servers = draw(st.lists(st.sampled_from(SERVERS), min_size=1, max_size=3, unique=True))
    backup = draw(st.sampled_from(SERVERS))
    routes = draw(
        st.lists(
            st.builds(
                "  - {{from: {}, {}{}{}}}\n".format,
                st.sampled_from(("any", "public", "private", "pbx", "carrier")),
                st.sampled_from(GOALS),
                st.sampled_from(MATCHES),
                st.sampled_from(REWRITES),
            ),
            min_size=1,
            max_size=4,
        )
    )
    keys = draw(st.lists(st.sampled_from(NETWORK_KEYS), max_size=2, unique=True))
    extra = draw(
        st.sampled_from(("", "limits: {max_calls: 1, calls_per_s: 5}\n", "topology: {verify: block}\n"))
    )
    timers = draw(
        st.sampled_from(("", "timers: {session_expires_s: 0}\n", "timers: {session_expires_s: 600}\n"))
    )
    codecs = draw(st.sampled_from(("", "media: {codecs: [PCMA]}\n", "media: {codecs: [G729]}\n")))
    return (
        "networks:\n  public:\n    address: 203.0.113.10\n    listen: [udp:5060, tcp:5060]\n"
        f"    media_ports: 20000-29999\n{''.join(keys)}"
        "  private:\n    address: 10.0.0.1\n    listen: [udp:5060, tcp:5060]\n    media_ports: 30000-39999\n"
        f"trunks:\n  pbx: {{network: private, servers: [{', '.join(map(repr, servers))}], from: [10.0.0.0/24]}}\n"
        f"  backup: {{network: private, servers: [{backup!r}]}}\n"
        "  carrier: {network: public, servers: ['sip:198.51.100.7'], from: [198.51.100.0/24], max_calls: 3}\n"
        f"routes:\n{''.join(routes)}{extra}{timers}{codecs}"
    )


def without_session_id(sent: list[tuple[bytes, Flow]]) -> list[tuple[bytes, Flow]]:
    return [(SESSION_ID.sub(b"0", data), flow) for data, flow in sent]


def same_tokens(sent: list[tuple[bytes, Flow]]) -> list[tuple[bytes, Flow]]:
    """The same with our own tokens counted anew: to register has used some up."""
    seen: dict[bytes, bytes] = {}

    def name(found: re.Match[bytes]) -> bytes:
        return seen.setdefault(found[0], b"token-%d" % len(seen))

    return [(TOKEN.sub(name, data), flow) for data, flow in sent]


def register(border: Border, phone: Binding, number: int) -> None:
    """A phone registers with whoever the registrar is: with us by digest, or with the one behind us."""
    way = phone.flow
    agent = border.agent(way.network, host_port(way.remote), way.transport)
    agent.flow = way

    def ask(cseq: int, credentials: str = "") -> Response:
        agent.raw(
            f"REGISTER sip:{DOMAIN} SIP/2.0\r\nMax-Forwards: 70\r\n"
            f"Via: SIP/2.0/{way.transport.upper()} {host_port(way.remote)};branch={agent.branch()};rport\r\n"
            f"From: <sip:{phone.user}@{DOMAIN}>;tag=r\r\nTo: <sip:{phone.user}@{DOMAIN}>\r\n"
            f"Call-ID: register-{number}\r\nCSeq: {cseq} REGISTER\r\n"
            f"Contact: <{phone.contact}>;expires=3600\r\n{credentials}Content-Length: 0\r\n\r\n"
        )
        data, to_registrar = border.sent[-1]
        if data.startswith(b"REGISTER "):
            request = parse(data)
            fields = [*(f"Via: {via}" for via in request.get_all("Via")), f"To: {request.get('To')};tag=pbx"]
            fields += [f"{name}: {request.get(name)}" for name in ("From", "Call-ID", "CSeq")]
            fields.append(f"Contact: <{request.contacts[0].uri_text}>;expires=3600")
            text = "\r\n".join(("SIP/2.0 200 OK", *fields, "Content-Length: 0", "", ""))
            border.calls.receive(text.encode(), to_registrar, border.now)
        answer = agent.next()
        assert isinstance(answer, Response)
        return answer

    answer = ask(1)
    if answer.status == 401:
        account = Account(phone.user, "a-secret")
        name, value = digest(parse_challenges(answer)[0], account, "REGISTER", f"sip:{DOMAIN}", 1, "cn")
        answer = ask(2, f"{name}: {value}\r\n")
    assert answer.status == 200, answer.encode()


def the_same(
    config: str,
    network: str,
    uri: str,
    source: str | None,
    caller: str,
    transport: str,
    registered: Sequence[str] = (),
) -> None:
    """What is simulated is what leaves when that INVITE comes."""
    try:
        border = Border(config)
    except ConfigError:
        reject()  # a route that another shadows, say
    try:
        flow = flow_from(border.config, network, source, transport)
    except PeerError:
        reject()  # no listener of that family
    for found in stand_ins(border.config):
        border.calls.trunks.resolved(found.lookup, found.hops, border.now)
    for number, user in enumerate(registered, 1):
        register(border, phone_of(border.config, user, flow if user == caller else None, number), number)
    border.sent.clear()
    border.calls.receive(invite_from(flow, uri, caller), flow, border.now)
    records = [*border.calls.live.values(), *border.records]
    try:
        simulation = simulate(border.config, network, uri, source, caller, transport, registered=registered)
    except PeerError as error:
        assert (error.rule, records) == ("refused", [])
        assert [data[:12] for data, _ in border.sent] == [b"SIP/2.0 100 ", b"SIP/2.0 407 "]
        return
    assert len(records) == 1
    record, simulated = records[0], simulation.record
    assert [replace(decision, at=0.0) for decision in record.decisions] == simulated.decisions
    assert (record.final_status, record.final_rule) == (simulated.final_status, simulated.final_rule)
    assert [(tried.leg, tried.trunk, tried.address, tried.user) for tried in record.targets] == [
        (tried.leg, tried.trunk, tried.address, tried.user) for tried in simulated.targets
    ]
    sent, expected = border.sent, [(sent.data, sent.flow) for sent in simulation.sent]
    if registered:
        sent, expected = same_tokens(sent), same_tokens(expected)
    assert without_session_id(sent) == without_session_id(expected)
    assert len(border.sent) > 0


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    configurations(),
    st.sampled_from(("public", "private")),
    st.sampled_from(URIS),
    st.sampled_from(SOURCES),
    st.sampled_from(("caller", "700", "+4930")),
    st.sampled_from(("udp", "tcp")),
)
def test_simulation_is_what_really_leaves(
    config: str, network: str, uri: str, source: str | None, caller: str, transport: str
) -> None:
    the_same(config, network, uri, source, caller, transport)


USERS = "{alice: {password: a-secret, numbers: ['+4930123']}, bob: {password: a-secret}}"


@st.composite
def families(draw: Any) -> str:
    """Networks and trunks of both address families in every mixture, and phones."""

    def some(*among: str) -> str:
        return ", ".join(map(repr, draw(st.lists(st.sampled_from(among), min_size=1, unique=True))))

    def network(name: str, addresses: list[str], ports: str) -> str:
        keys = draw(st.sampled_from(("", "    nat: far-end\n", f"    domain: {DOMAIN}\n")))
        listen = draw(st.sampled_from(("udp:5060, tcp:5060", "tcp:5060, udp:5060")))
        where = "\n    address6: ".join(map(repr, addresses))
        return f"  {name}:\n    address: {where}\n    listen: [{listen}]\n    media_ports: {ports}\n{keys}"

    def trunk(name: str, network: str, of_v4: tuple[str, str], of_v6: tuple[str, str], family: str) -> str:
        sips = [sip for sip, one in ((of_v4[0], "4"), (of_v6[0], "6")) if one in family]
        nets = [net for net, one in ((of_v4[1], "4"), (of_v6[1], "6")) if one in family]
        servers = some(*sips, f"{sips[0]}:5080;transport=tcp", f"sip:{name}.example")
        return (
            f"  {name}: {{network: {network}, servers: [{servers}], from: [{', '.join(map(repr, nets))}]}}\n"
        )

    def addresses(family: str, ipv4: str, ipv6: str) -> list[str]:
        return [address for address, one in ((ipv4, "4"), (ipv6, "6")) if one in family]

    public, private = draw(st.tuples(*[st.sampled_from(("4", "6", "46"))] * 2))
    goals = ("to: pbx", "to: carrier", "to: phones, when: registered", "to: phones, match: '^[ab]'")
    first = draw(st.sampled_from(("", *(f"  - {{from: public, {goal}}}\n" for goal in goals))))
    goals = ("to: pbx", "to: carrier", "to: phones", "to: [carrier, pbx]")
    last = draw(st.sampled_from([f"  - {{from: any, {goal}}}\n" for goal in goals]))
    registrar, calls = draw(
        st.sampled_from(
            [("pbx", "registered"), ("pbx", "any")]
            + [(f"local, users: {USERS}", calls) for calls in ("registered", "any", "challenge")]
        )
    )
    fork = draw(st.sampled_from(("parallel", "serial")))
    return (
        f"networks:\n{network('public', addresses(public, '203.0.113.10', '2001:db8::10'), '20000-29999')}"
        f"{network('private', addresses(private, '10.0.0.1', 'fd00::1'), '30000-39999')}trunks:\n"
        + trunk("pbx", "private", ("sip:10.0.0.20", "10.0.0.0/24"), ("sip:[fd00::20]", "fd00::/64"), private)
        + trunk(
            "carrier",
            "public",
            ("sip:198.51.100.7", "198.51.100.0/24"),
            ("sip:[2001:db8:2::7]", "2001:db8:2::/48"),
            public,
        )
        + f"phones: {{network: public, registrar: {registrar}, store: null, keepalive: off, calls: {calls},"
        f" fork: {fork}, domain: {DOMAIN}}}\nroutes:\n{first}{last}"
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    families(),
    st.sampled_from(("public", "private")),
    st.sampled_from(
        (*URIS, "sip:alice@sbc.example", "sip:bob@10.0.0.1", "tel:+4930123", "sip:no@[2001:db8::10]")
    ),
    st.sampled_from((*SOURCES, "[2001:db8::77]:5070", "[2001:db8:2::7]", "[fd00::20]", "fd00::99")),
    st.sampled_from(("caller", "alice", "bob", "+4930123")),
    st.sampled_from(("udp", "tcp")),
    st.lists(st.sampled_from(("alice", "bob")), max_size=2, unique=True),
)
def test_simulation_is_what_leaves_with_phones_and_both_families(
    config: str,
    network: str,
    uri: str,
    source: str | None,
    caller: str,
    transport: str,
    registered: list[str],
) -> None:
    the_same(config, network, uri, source, caller, transport, registered)


@pytest.mark.parametrize(
    ("uri", "user"),
    [
        ("tel:+4930123", "+4930123"),
        ("sip:+4930123@carrier.example", "+4930123"),
        ("sip:200@203.0.113.10", "200"),
    ],
)
def test_what_is_dialled_is_what_leaves(uri: str, user: str) -> None:
    simulation = simulate(Border().config, "public", uri)
    sent = parse(next(sent.data for sent in simulation.sent if sent.data.startswith(b"INVITE")))
    assert isinstance(sent, Request)
    assert sent.uri.startswith(f"sip:{user}@")
    assert simulation.record.called == user


def test_simulation_leaves_nothing_behind_and_opens_nothing() -> None:
    border = Border()
    before = border.calls.leftovers()
    simulation = simulate(border.config, "public", "sip:200@203.0.113.10")
    assert [sent.data.split(b" ", 1)[0] for sent in simulation.sent] == [b"SIP/2.0", b"INVITE"]
    assert border.calls.leftovers() == before
    assert border.sent == []
