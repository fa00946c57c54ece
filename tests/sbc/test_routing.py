"""Routes, sources and redirects: the first route that fits decides, and everything looked at is recorded."""

from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load
from config.model import Route
from sbc.routing import (
    MAX_CONSIDERED,
    MAX_MATCHED,
    MAX_REDIRECTS,
    MAX_TARGETS,
    CallRequest,
    Health,
    Plan,
    Refusal,
    Router,
    ServersSnapshot,
    ServerView,
    Source,
    Target,
)
from sbc.trunks import Trunks
from signaling.flow import Address, Flow
from signaling.uri import SipUri, parse_uri

CONFIG = """
limits: {max_calls: 400}
networks:
  public: {address: 203.0.113.10, address6: "2001:db8:1::10", media_ports: 20000-20999, nat: far-end}
  private: {address: 10.0.0.1, media_ports: 30000-30999}
trunks:
  carrier:
    network: public
    servers: ["sip:198.51.100.7", "sip:198.51.100.8:5080;transport=tcp"]
    from: [198.51.100.0/24, "2001:db8::/32"]
  backup: {network: public, servers: ["sip:192.0.2.9"], from: [198.51.100.128/25], nat: none}
  pbx: {network: private, servers: ["sip:10.0.0.20"], from: [10.0.0.0/24], failover_on: [500, 503]}
"""
ROUTES = """
routes:
  - {from: pbx, match: "^0900", reject: {status: 403, reason: Premium}}
  - {from: pbx, match: "^0", strip: 1, prepend: "+49", to: [carrier, backup]}
  - {from: carrier, to: pbx}
  - {from: private, from_match: "^7", to: carrier}
"""


@lru_cache
def router(routes: str = ROUTES, config: str = CONFIG) -> tuple[Router, ServersSnapshot]:
    loaded = load(config + routes)
    return Router(loaded), Trunks(loaded).snapshot(0.0)


def flow(network: str, host: str, port: int = 5060, transport: str = "udp") -> Flow:
    return Flow(network, transport, ("203.0.113.10", 5060), (host, port))


def call(network: str, trunk: str | None, user: str = "100", caller: str = "200") -> CallRequest:
    return CallRequest(Source(network, trunk, "10.0.0.20"), user, "10.0.0.1", caller)


def plan(outcome: Plan | Refusal) -> Plan:
    assert isinstance(outcome, Plan), outcome
    return outcome


def refusal(outcome: Plan | Refusal) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    return outcome


def with_health(
    servers: ServersSnapshot, trunk: str, *healths: Health, back_s: float | None = None
) -> ServersSnapshot:
    views = tuple(
        replace(view, health=health, back_s=back_s)
        for view, health in zip(servers.trunks[trunk], healths, strict=True)
    )
    return ServersSnapshot({**servers.trunks, trunk: views}, servers.unresolved, servers.sources)


# -- who sent it


@pytest.mark.parametrize(
    ("network", "host", "trunk", "rule"),
    [
        ("public", "198.51.100.7", "carrier", "trunks.carrier.servers"),
        ("public", "198.51.100.99", "carrier", "trunks.carrier.from"),
        ("public", "198.51.100.200", "backup", "trunks.backup.from"),  # the longer prefix
        ("public", "2001:db8::1", "carrier", "trunks.carrier.from"),
        ("public", "::ffff:198.51.100.99", "carrier", "trunks.carrier.from"),
        ("public", "192.0.2.1", None, "trunks"),
        ("public", "10.0.0.20", None, "trunks"),  # the address of a server in another network
        ("private", "10.0.0.20", "pbx", "trunks.pbx.servers"),
        ("private", "2001:db8::1", None, "trunks"),
    ],
)
def test_source(network: str, host: str, trunk: str | None, rule: str) -> None:
    routes, servers = router()
    source, decision = routes.source_of(flow(network, host), servers)
    assert source == Source(network, trunk, host)
    assert (decision.stage, decision.rule) == ("source", rule)
    assert host in str(decision.compared)


def test_server_address_wins_over_the_longer_prefix() -> None:
    config = CONFIG.replace('"sip:192.0.2.9"', '"sip:198.51.100.55"').replace(
        "[198.51.100.128/25]", "[198.51.100.7/32]"
    )
    routes, servers = router(config=config)
    assert routes.source_of(flow("public", "198.51.100.7"), servers)[0].trunk == "carrier"
    assert routes.source_of(flow("public", "198.51.100.55"), servers)[0].trunk == "backup"


def test_trunks_on_one_host_are_told_apart_by_port() -> None:
    config = CONFIG.replace('"sip:192.0.2.9"', '"sip:198.51.100.7:5090"')
    routes, servers = router(config=config)
    assert routes.source_of(flow("public", "198.51.100.7", 5090), servers)[0].trunk == "backup"
    assert routes.source_of(flow("public", "198.51.100.7", 5060), servers)[0].trunk == "carrier"
    # A TCP connection comes from any port: the first one in the file.
    assert routes.source_of(flow("public", "198.51.100.7", 41234, "tcp"), servers)[0].trunk == "carrier"


# -- which route


def test_first_route_that_fits_decides_and_the_others_say_why_not() -> None:
    routes, servers = router()
    outcome, decisions = routes.route(call("private", "pbx", "030123"), servers)
    assert plan(outcome).rule == "routes[1]"
    first, second, *_ = decisions
    assert first.rule == "routes[0]"
    assert first.compared == (("match", "^0900"), ("called", "030123"))
    assert "does not fit" in first.outcome
    assert second.rule == "routes[1]"
    assert dict(second.compared) == {
        "from": "pbx", "source": "trunk pbx in network private", "match": "^0", "called": "030123",
        "strip": "1", "prepend": "+49",
    }  # fmt: skip
    assert [one.rule for one in decisions[2:]] == ["trunks.carrier.servers", "trunks.backup.servers"]


def test_targets_are_the_servers_in_order_with_what_the_trunk_says() -> None:
    routes, servers = router()
    targets = plan(routes.route(call("private", "pbx", "030123"), servers)[0]).targets
    assert targets[0] == Target(
        "carrier", "public", "udp", ("198.51.100.7", 5060), "198.51.100.7", "+4930123", frozenset({503}),
        "pass", True,
    )  # fmt: skip
    assert [(one.trunk, one.transport, one.address) for one in targets[1:]] == [
        ("carrier", "tcp", ("198.51.100.8", 5080)),
        ("backup", "udp", ("192.0.2.9", 5060)),
    ]
    assert targets[2].nat is False, "the trunk's own word goes before the network's"
    to_pbx = plan(routes.route(call("public", "carrier"), servers)[0]).targets[0]
    assert (to_pbx.failover_on, to_pbx.nat) == (frozenset({500, 503}), False)


def test_reject_route() -> None:
    routes, servers = router()
    outcome, decisions = routes.route(call("private", "pbx", "0900123"), servers)
    assert refusal(outcome) == Refusal(403, "Premium", "rejected-by-route")
    assert decisions[-1].rule == "routes[0]"


def test_caller_pattern() -> None:
    routes, servers = router()
    assert plan(routes.route(call("private", None, "5", caller="71"), servers)[0]).rule == "routes[3]"
    outcome, decisions = routes.route(call("private", None, "5", caller="81"), servers)
    assert refusal(outcome).rule == "no-route"
    assert ("caller", "81") in decisions[3].compared


def test_unknown_source_fits_its_network_and_any_only() -> None:
    routes, servers = router("routes: [{from: carrier, to: pbx}, {from: pbx, to: carrier}]")
    outcome, decisions = routes.route(call("public", None), servers)
    assert (refusal(outcome).status, refusal(outcome).rule) == (403, "no-route-for-source")
    assert len(decisions) == 3
    assert decisions[0].compared == (("from", "carrier"), ("source", "no trunk in network public"))
    for name in ("any", "public"):
        routes, servers = router(f"routes: [{{from: {name}, to: pbx}}]")
        assert plan(routes.route(call("public", None), servers)[0]).targets[0].trunk == "pbx"


def test_no_route_for_the_number_is_404() -> None:
    routes, servers = router()
    outcome, decisions = routes.route(call("private", "pbx", "5"), servers)
    assert (refusal(outcome).status, refusal(outcome).rule) == (404, "no-route")
    assert decisions[-1].outcome == "404 no-route"
    assert ("called", "5") in decisions[-1].compared


def test_no_refusal_names_anything_of_ours() -> None:
    """The reason phrase is seen by strangers."""
    routes, servers = router()
    down = with_health(servers, "pbx", Health.DOWN)
    for outcome in (
        routes.route(call("public", None), servers)[0],
        routes.route(call("private", "pbx", "5"), servers)[0],
        routes.route(call("public", "carrier"), down)[0],
    ):
        for secret in ("pbx", "carrier", "10.0", "198.51", "private"):
            assert secret not in refusal(outcome).reason


# -- loops


def test_call_does_not_go_back_where_it_came_from() -> None:
    routes, servers = router("routes: [{from: any, to: carrier}, {from: any, to: pbx}]")
    outcome, decisions = routes.route(call("public", "carrier"), servers)
    assert plan(outcome).rule == "routes[1]"
    assert any(one.outcome.startswith("passed over: the call came from there") for one in decisions)
    assert {one.trunk for one in plan(outcome).targets} == {"pbx"}


def test_only_a_loop_left_is_482() -> None:
    routes, servers = router("routes: [{from: public, to: carrier}]")
    assert refusal(routes.route(call("public", "carrier"), servers)[0]).status == 482
    assert plan(routes.route(call("public", "backup"), servers)[0]).targets[0].trunk == "carrier"


def test_a_route_may_ask_for_the_loop() -> None:
    routes, servers = router("routes: [{from: carrier, to: carrier}]")
    assert plan(routes.route(call("public", "carrier"), servers)[0]).targets[0].trunk == "carrier"


# -- health


def test_server_that_is_down_is_left_out() -> None:
    routes, servers = router()
    servers = with_health(servers, "carrier", Health.DOWN, Health.UP)
    targets = plan(routes.route(call("private", "pbx", "01"), servers)[0]).targets
    assert [one.address[0] for one in targets] == ["198.51.100.8", "192.0.2.9"]


def test_suspect_server_comes_last_of_all() -> None:
    routes, servers = router()
    servers = with_health(servers, "carrier", Health.SUSPECT, Health.UP)
    targets = plan(routes.route(call("private", "pbx", "01"), servers)[0]).targets
    assert [one.address[0] for one in targets] == ["198.51.100.8", "192.0.2.9", "198.51.100.7"]


def test_suspects_alone_are_tried() -> None:
    routes, servers = router()
    servers = with_health(servers, "pbx", Health.SUSPECT)
    assert len(plan(routes.route(call("public", "carrier"), servers)[0]).targets) == 1


@pytest.mark.parametrize("health", [Health.DOWN, Health.BUSY])
def test_all_servers_down_is_503_with_retry_after(health: Health) -> None:
    routes, servers = router()
    servers = with_health(servers, "pbx", health, back_s=17.2)
    outcome, decisions = routes.route(call("public", "carrier"), servers)
    assert refusal(outcome) == Refusal(503, "No Server Is Up", "servers-down", 17)
    assert decisions[-1].compared == (("udp 10.0.0.20:5060", str(health)),)


def test_names_without_address_are_503_and_named_in_the_decision() -> None:
    routes, servers = router(config=CONFIG.replace("sip:10.0.0.20", "sip:pbx.example"))
    outcome, decisions = routes.route(call("public", "carrier"), servers)
    assert (refusal(outcome).status, refusal(outcome).rule) == (503, "servers-unresolved")
    assert refusal(outcome).retry_after_s
    assert decisions[-1].compared[0][0] == "pbx.example"


def test_full_trunk_is_passed_over() -> None:
    config = CONFIG.replace("carrier:\n", "carrier:\n    max_calls: 2\n")
    routes, servers = router(config=config)
    request = call("private", "pbx", "01")
    assert plan(routes.route(request, servers, {"carrier": 1})[0]).targets[0].trunk == "carrier"
    outcome, decisions = routes.route(request, servers, {"carrier": 2})
    assert plan(outcome).targets[0].trunk == "backup"
    assert (("calls", "2"), ("max_calls", "2")) in [one.compared for one in decisions]
    emergency = replace(request, emergency=True)
    assert plan(routes.route(emergency, servers, {"carrier": 2})[0]).targets[0].trunk == "carrier"


def test_only_full_trunks_is_503() -> None:
    config = CONFIG.replace("pbx: {", "pbx: {max_calls: 1, ")
    routes, servers = router(config=config)
    outcome = refusal(routes.route(call("public", "carrier"), servers, {"pbx": 1})[0])
    assert (outcome.status, outcome.rule) == (503, "trunk-max-calls")
    assert outcome.retry_after_s


# -- numbers


@pytest.mark.parametrize(
    ("user", "host", "sent"),
    [
        ("0301", "x", "+49301"),
        ("0", "x", "+49"),
        ("0%33%30", "x", "+4930"),  # escaped digits are digits (RFC 3261 s.19.1.4)
        ("0a%20b", "x", "+49a%20b"),
        ("030;phone-context=+1", "x", "+4930;phone-context=+1"),
        ("030-(12).3", "", "+4930123"),  # a tel: URI (RFC 3966 s.5.1.1)
        ("0%FF", "x", "+49%FF"),
    ],
)
def test_strip_and_prepend(user: str, host: str, sent: str) -> None:
    routes, servers = router()
    request = CallRequest(Source("private", "pbx", "10.0.0.20"), user, host)
    assert plan(routes.route(request, servers)[0]).targets[0].user == sent


@given(st.text(max_size=40))
def test_rewritten_user_is_always_fit_for_a_uri(user: str) -> None:
    routes, servers = router("routes: [{from: any, strip: 1, prepend: '9', to: pbx}]")
    outcome, _ = routes.route(CallRequest(Source("public", None, "192.0.2.1"), user, "h"), servers)
    sent = plan(outcome).targets[0].user
    uri = parse_uri(f"sip:{sent}@pbx.example")
    assert isinstance(uri, SipUri)
    assert uri.host == "pbx.example"


# -- bounds


def test_what_is_recorded_of_very_many_routes_is_bounded() -> None:
    config = load(CONFIG + "routes: [{from: any, to: pbx}]")
    many = tuple(Route(match=f"^{number:05}$", to=("pbx",)) for number in range(2000))
    config = config.model_copy(update={"routes": many})
    routes, servers = Router(config), Trunks(config).snapshot(0.0)
    _, decisions = routes.route(call("public", "carrier", "x"), servers)
    assert len(decisions) == MAX_CONSIDERED + 2
    assert decisions[-2].outcome == f"{2000 - MAX_CONSIDERED} more do not fit"
    outcome, decisions = routes.route(call("public", "carrier", "01999"), servers)
    assert plan(outcome).rule == "routes[1999]"
    assert len(decisions) == MAX_CONSIDERED + 2


def test_targets_are_bounded() -> None:
    routes, servers = router()
    views = tuple(ServerView("h", "udp", (f"10.0.1.{number}", 5060)) for number in range(40))
    many = ServersSnapshot({**servers.trunks, "pbx": views})
    assert len(plan(routes.route(call("public", "carrier"), many)[0]).targets) == MAX_TARGETS


# -- redirects


def redirected(*contacts: str) -> list[tuple[str, Address, str]]:
    routes, servers = router()
    target = plan(routes.route(call("public", "carrier"), servers)[0]).targets[0]
    return [(one.transport, one.address, one.user) for one in routes.redirected(target, contacts)]


def test_contacts_of_a_redirect_are_followed_in_order() -> None:
    assert redirected("sip:7@10.0.0.99:5080", "sip:10.0.0.98;transport=tcp") == [
        ("udp", ("10.0.0.99", 5080), "7"),
        ("tcp", ("10.0.0.98", 5060), "100"),
    ]


@pytest.mark.parametrize(
    "contact",
    [
        "sip:7@evil.example",
        "sips:7@10.0.0.99",
        "mailto:a@b",
        "sip:7@127.0.0.1:22",
        "sip:7@169.254.169.254:80;transport=tcp",
        "sip:7@255.255.255.255",
        "sip:7@[::ffff:10.0.0.1];transport=tcp",
        "sip:7@[2001:db8::7]",
        "sip:7@10.0.0.99:0",
        "sip:7@224.0.0.1",
        "sip:7@0.0.0.0",
        "sip:7@10.0.0.9;transport=tls",
        "sip:100@10.0.0.20",  # where it has just been
        "nonsense",
    ],
)
def test_unusable_contact(contact: str) -> None:
    assert redirected(contact) == []


def test_redirect_to_the_same_server_for_another_user_is_followed() -> None:
    assert redirected("sip:101@10.0.0.20") == [("udp", ("10.0.0.20", 5060), "101")]


@pytest.mark.parametrize(
    "contact", ["tel:+491", "sip:+491@10.0.0.1", "sip:+491@203.0.113.10:5080;transport=tcp"]
)
def test_a_redirect_to_a_number_or_to_us_calls_it_by_the_same_server(contact: str) -> None:
    assert redirected(contact) == [("udp", ("10.0.0.20", 5060), "+491")]
    assert redirected("sip:100@10.0.0.1") == []  # whom it has just been asked for


def test_a_trunk_outside_does_not_aim_us_at_private_networks() -> None:
    routes, servers = router()
    target = plan(routes.route(call("private", "pbx", "0123"), servers)[0]).targets[0]
    assert target.network == "public"
    assert routes.redirected(target, ["sip:7@10.0.0.20", "sip:7@192.168.1.1", "sip:7@127.0.0.1"]) == ()


def test_redirects_are_bounded_and_unique() -> None:
    contacts = [f"sip:1@10.0.9.{number % 100}" for number in range(1, 300)]
    assert len(redirected(*contacts)) == MAX_REDIRECTS
    assert len(redirected("sip:1@10.0.9.1", "sip:1@10.0.9.1")) == 1


@pytest.mark.parametrize("caller", [False, True])
def test_a_user_of_no_sane_length_is_not_given_to_patterns(caller: bool) -> None:
    core, servers = router('\nroutes:\n  - {from: public, match: "^1*$", to: pbx}\n')

    def outcome_of(length: int) -> Plan | Refusal:
        user, other = ("1", "1" * length) if caller else ("1" * length, "1")
        return core.route(call("public", None, user, other), servers)[0]

    assert isinstance(outcome_of(MAX_MATCHED), Plan)
    found = refusal(outcome_of(MAX_MATCHED + 1))
    assert (found.status, found.rule) == (404, "user-too-long")
