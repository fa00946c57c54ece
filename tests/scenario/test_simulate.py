"""What `sbc simulate` says is what happens: the same decisions, and byte for byte the same first messages."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from config.problems import ConfigError
from sbc.simulate import simulate, stand_ins
from signaling.flow import Flow
from signaling.message import Request
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
    try:
        border = Border(config)
    except ConfigError:
        reject()  # a route that another shadows, say
    simulation = simulate(border.config, network, uri, source, caller, transport)
    for found in stand_ins(border.config):
        border.calls.trunks.resolved(found.lookup, found.hops, border.now)
    border.calls.receive(simulation.invite, simulation.flow, border.now)
    records = [*border.calls.live.values(), *border.records]
    assert len(records) == 1
    record, simulated = records[0], simulation.record
    assert [replace(decision, at=0.0) for decision in record.decisions] == simulated.decisions
    assert (record.id, record.final_status, record.final_rule) == (
        simulated.id,
        simulated.final_status,
        simulated.final_rule,
    )
    assert [(tried.leg, tried.trunk, tried.address, tried.user) for tried in record.targets] == [
        (tried.leg, tried.trunk, tried.address, tried.user) for tried in simulated.targets
    ]
    expected = without_session_id([(sent.data, sent.flow) for sent in simulation.sent])
    assert without_session_id(border.sent) == expected
    assert len(border.sent) > 0


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
