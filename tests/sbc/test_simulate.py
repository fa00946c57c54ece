"""`sbc simulate`: its text for people, and that what it shows is what would leave.

`tests/golden/simulate/NAME.txt` is the text of a case of `CASES`. After a wanted change of it
`python -m tests.sbc.test_simulate` writes the texts again; read the difference before committing it.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import load
from sbc.names import Found
from sbc.simulate import Simulation, address_of, lookups_of, simulate, stand_ins
from signaling.errors import PeerError
from signaling.flow import Flow
from tests.harness.border import Border

GOLDEN = Path(__file__).parents[1] / "golden" / "simulate"
CONFIG = """
networks:
  public:
    address: 203.0.113.10
    address6: 2001:db8:1::10
    listen: [udp:5060, tcp:5060]
    media_ports: 20000-20999
    nat: far-end
    domain: sbc.public.example
  private: {address: 10.0.0.1, listen: [tcp:5060, udp:5060], media_ports: 30000-30999}
trunks:
  carrier: {network: public, servers: ["sip:sip.carrier.example"], from: [198.51.100.0/24, "2001:db8:2::/48"]}
  pbx: {network: private, servers: ["sip:10.0.0.20", "sip:10.0.0.21;transport=tcp"]}
routes:
  - {from: carrier, match: "^\\\\+", strip: 1, to: pbx}
  - {from: public, match: "^9", reject: {status: 403, reason: Not a customer}}
  - {from: public, match: "^1", to: pbx}
  - {from: pbx, match: "^0", strip: 1, prepend: "+49", to: carrier}
limits: {max_calls: 200}
"""
CASES: dict[str, dict[str, str]] = {
    "passed": {"network": "public", "uri": "sip:100@sbc.public.example", "source": "203.0.113.77:5070"},
    "no-route": {"network": "public", "uri": "sip:200@sbc.public.example"},
    "rejected": {"network": "public", "uri": "sip:900@sbc.public.example"},
    "by-name": {"network": "private", "uri": "sip:030123@10.0.0.1", "source": "10.0.0.20"},
    "tcp-ipv6": {
        "network": "public", "uri": "sip:+4930@sbc.public.example", "source": "[2001:db8:2::5]:5071",
        "caller": "+44123", "transport": "tcp",
    },
}  # fmt: skip


def simulated(name: str) -> Simulation:
    case = CASES[name]
    return simulate(
        load(CONFIG), case["network"], case["uri"], case.get("source"), case.get("caller", "caller"),
        case.get("transport", "udp"),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_as_agreed(name: str) -> None:
    assert simulated(name).text(100) + "\n" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_a_message_fits_the_width(name: str) -> None:
    long = [line for line in simulated(name).text(80).splitlines() if len(line) > 80 and line[0] not in "<>"]
    assert long == []


def test_what_the_dns_said_is_used_and_told() -> None:
    config = load(CONFIG)
    (lookup,) = lookups_of(config)
    known = Found(lookup, (("tcp", ("198.51.100.99", 5080)),))
    found = simulate(config, "private", "sip:030123@10.0.0.1", "10.0.0.20", names=[known])
    assert found.sent[-1].flow.remote == ("198.51.100.99", 5080)
    assert "trunk carrier: sip.carrier.example is tcp 198.51.100.99:5080" in found.text()
    nobody = simulate(
        config, "private", "sip:030123@10.0.0.1", "10.0.0.20", names=[Found(lookup, why="the name has no address")]
    )  # fmt: skip
    assert "sip.carrier.example is not found: the name has no address" in nobody.text()
    assert nobody.record.final_status == 503


def test_stand_ins_are_addresses_for_documentation_of_a_family_that_we_have() -> None:
    (found,) = stand_ins(load(CONFIG))
    assert found.hops == (("udp", ("198.51.100.2", 5060)),)
    ipv6 = CONFIG.replace(
        "    address: 203.0.113.10\n    address6: 2001:db8:1::10", "    address: 2001:db8:1::10"
    )
    (found,) = stand_ins(load(ipv6.replace("198.51.100.0/24, ", "")))
    assert found.hops == (("udp", ("2001:db8:ffff::1", 5060)),)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 5060)),
        ("192.0.2.1:5070", ("192.0.2.1", 5070)),
        ("2001:DB8::1", ("2001:db8::1", 5060)),
        ("[2001:db8::1]:5070", ("2001:db8::1", 5070)),
    ],
)
def test_sources_are_read(text: str, address: tuple[str, int]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["phone.example", "192.0.2.1:0", "192.0.2.1:70000", "[::1", "", "1.2.3"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(PeerError, match="is no address"):
        address_of(text) if text != "[::1" else address_of("[::1x]")


# What is random in real life: identifiers, and the session id in our SDP with its length.
_RANDOM = (
    (re.compile(rb"\b0{4,}[0-9a-f]+"), b"T"),
    (re.compile(rb"(?m)^o=\S+ \d+ \d+"), b"o="),
    (re.compile(rb"(?m)^Content-Length: \d+"), b"Content-Length: N"),
)


def plain(data: bytes) -> bytes:
    for pattern, text in _RANDOM:
        data = pattern.sub(text, data)
    return data


@settings(max_examples=60, deadline=None)
@given(
    network=st.sampled_from(["public", "private"]),
    user=st.from_regex(r"[+0-9a-z]{1,12}", fullmatch=True),
    host=st.sampled_from(["203.0.113.77", "198.51.100.7", "10.0.0.20", "10.0.0.99", "2001:db8:2::9"]),
    port=st.integers(1, 65535),
    transport=st.sampled_from(["udp", "tcp"]),
)
def test_what_is_shown_is_what_would_leave(
    network: str, user: str, host: str, port: int, transport: str
) -> None:
    """The same INVITE at a border that lives: the same decisions, the same messages to the same places."""
    source = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = simulate(load(CONFIG), network, f"sip:{user}@203.0.113.10", source, transport=transport)
    except PeerError as error:
        assert error.rule == "no-listener"
        return
    border = Border(CONFIG)
    for name in found.names:
        border.calls.trunks.resolved(name.lookup, name.hops, border.now)
    border.calls.receive(found.invite, found.flow, border.now)
    shown: list[tuple[bytes, Flow]] = [(plain(one.data), one.flow) for one in found.sent]
    assert [(plain(data), flow) for data, flow in border.sent] == shown
    (record,) = border.calls.live.values() or border.records
    decided = [(one.stage, one.rule, one.compared, one.outcome) for one in record.decisions]
    assert decided == [(one.stage, one.rule, one.compared, one.outcome) for one in found.record.decisions]


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        (GOLDEN / f"{case}.txt").write_text(simulated(case).text(100) + "\n")


PHONES = """
networks:
  public: {address: 192.0.2.10, listen: [udp:5060], media_ports: 20000-20099}
  private: {address: 10.0.0.1, listen: [udp:5060], media_ports: 30000-30099}
trunks: {pbx: {network: private, servers: ["sip:10.0.0.20"]}}
phones: {network: public, registrar: pbx, store: null}
routes: [{from: phones, to: pbx}, {from: pbx, to: phones}]
limits: {max_calls: 10}
"""


def test_a_phone_that_is_registered_calls_and_another_one_is_told_to_register() -> None:
    config = load(PHONES)
    found = simulate(config, "public", "sip:200@x.invalid", caller="alice", registered=["alice"])
    assert "Passed to pbx" in found.outcome()
    found = simulate(config, "public", "sip:200@x.invalid", caller="bob", registered=["alice"])
    assert "has to register" in found.outcome()


def test_a_registered_phone_is_called() -> None:
    found = simulate(load(PHONES), "private", "sip:bob@10.0.0.1", "10.0.0.20", registered=["bob"])
    assert found.sent[-1].data.startswith(b"INVITE sip:bob@203.0.113.2:5060 ")
    with pytest.raises(PeerError, match="no phones"):
        simulate(
            load(
                "\n".join(line for line in PHONES.splitlines() if "phones" not in line)
                + "\nroutes: [{from: any, to: pbx}]\n"
            ),
            "private",
            "sip:b@x",
            registered=["bob"],
        )
