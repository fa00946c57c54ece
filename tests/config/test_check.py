"""Whole-file checks on configurations made in code; the messages are in the golden files."""

from ipaddress import ip_network

import pytest

from config.check import PACKAGES, check, foreign_packages
from config.coverage import unreachable
from config.load import examine
from config.model import Config, Listen, Network, Phones, PortRange, Route, SipServer, Trunk


def server(host: str) -> SipServer:
    return SipServer(uri=f"sip:{host}", host=host)


def config(*routes: Route, **changes: object) -> Config:
    return Config(
        networks={
            "public": Network(name="public", address="203.0.113.10"),
            "private": Network(name="private", address="10.0.0.1"),
        },
        trunks={
            "carrier": Trunk(name="carrier", network="public", servers=(server("198.51.100.10"),)),
            "pbx": Trunk(name="pbx", network="private", servers=(server("10.0.0.20"),)),
        },
        routes=routes or (Route(from_="public", to=("pbx",)), Route(from_="private", to=("carrier",))),
    ).model_copy(update=changes)


def keys(problems: Config) -> list[str]:
    return [f"{problem.level} {problem.key}" for problem in check(problems)]


def with_private(**changes: object) -> Config:
    base = config()
    private = base.networks["private"].model_copy(update=changes)
    return base.model_copy(update={"networks": {**base.networks, "private": private}})


def test_a_good_configuration_has_no_problems() -> None:
    assert check(config()) == []


@pytest.mark.parametrize(
    ("first", "last", "pairs"),
    [
        (20000, 20001, 1),
        (20000, 20002, 1),
        (20001, 20002, 0),
        (20001, 20003, 1),
        (20000, 39999, 10000),
        (1, 65535, 32767),
    ],
)
def test_pairs_are_even_and_the_next(first: int, last: int, pairs: int) -> None:
    ports = PortRange(first=first, last=last)
    assert ports.pairs == pairs
    assert pairs == len([port for port in range(first, last) if port % 2 == 0])


def test_exactly_enough_pairs_are_enough() -> None:
    limits = config().limits.model_copy(update={"max_calls": 30})
    for last, wanted in ((20059, []), (20057, ["error networks.private.media_ports"])):
        changed = with_private(media_ports=PortRange(first=20000, last=last))
        assert keys(changed.model_copy(update={"limits": limits})) == wanted


@pytest.mark.parametrize(
    ("changes", "clash"),
    [
        ({"address": "203.0.113.10"}, True),
        ({"address": "0.0.0.0", "advertise": "10.0.0.1"}, True),
        ({"address": "::", "advertise": "fd00::1"}, False),
        ({"address": "203.0.113.10", "listen": (Listen(transport="tcp", port=5070),)}, False),
        ({"address6": "fd00::1"}, False),
    ],
)
def test_listeners_meet_by_address_port_and_transport(changes: dict[str, object], clash: bool) -> None:
    changed = with_private(media_ports=PortRange(first=40000, last=49999), **changes)
    assert any("already taken" in problem.message for problem in check(changed)) is clash


def test_tcp_ports_do_not_meet_media_ports() -> None:
    assert (
        keys(with_private(listen=(Listen(transport="tcp", port=25060), Listen(transport="udp", port=5060))))
        == []
    )
    assert keys(with_private(listen=(Listen(transport="udp", port=39999),))) == [
        "error networks.private.listen"
    ]


def test_two_networks_on_one_unresolved_interface_share_an_address() -> None:
    base = config()
    networks = {
        name: network.model_copy(update={"address": "", "interface": "eth0"})
        for name, network in base.networks.items()
    }
    messages = [problem.message for problem in check(base.model_copy(update={"networks": networks}))]
    assert any("already taken" in message for message in messages)
    assert any("overlaps" in message for message in messages)


def test_sources_overlap_only_within_a_network() -> None:
    base = config()

    def claims(network: str, prefix: str) -> list[str]:
        carrier = base.trunks["carrier"].model_copy(update={"from_": (ip_network("192.0.2.0/24"),)})
        other = Trunk(
            name="other",
            network=network,
            servers=(SipServer(uri="sip:x", host="x"),),
            from_=(ip_network(prefix),),
        )
        trunks = {"carrier": carrier, "pbx": base.trunks["pbx"], "other": other}
        return keys(base.model_copy(update={"trunks": trunks}))

    assert claims("public", "192.0.2.0/24") == ["error trunks.other.from"]
    assert claims("public", "192.0.2.7/32") == ["warning trunks.other.from"]
    assert claims("public", "192.0.0.0/16") == ["warning trunks.other.from"]
    assert claims("private", "192.0.2.0/24") == []
    assert claims("private", "192.0.2.7/32") == []
    assert claims("public", "192.0.3.0/24") == []


def route(from_: str, match: str | None = None, from_match: str | None = None) -> Route:
    return Route(from_=from_, match=match, from_match=from_match, to=("carrier", "pbx"))


@pytest.mark.parametrize(
    ("earlier", "later", "shadowed"),
    [
        (route("any"), route("pbx"), True),
        (route("public"), route("carrier"), True),
        (route("carrier"), route("public"), False),  # peers of the network that are no trunk are left
        (route("public"), route("private"), False),
        (route("public"), route("any"), False),
        (route("any", "^1"), route("any"), False),
        (route("any", "^1"), route("any", "^1"), True),
        (route("any", "^1"), route("any", "^12"), True),
        (route("any", "^12"), route("any", "^1"), False),
        (route("any", "^1"), route("any", "^1[23]$"), True),
        (route("any", "^1$"), route("any", "^12"), False),
        (route("any", "^12"), route("any", "^12?"), False),  # the 2 may be missing
        (route("any", "^1.*"), route("any", "^12"), True),
        (route("any", r"^\+"), route("any", r"^\+49"), True),
        (route("any", r"^\d"), route("any", r"^\d4"), False),  # true, but not seen
        (route("any", "^1"), route("any", "^1|^2"), False),
        (route("any", "1"), route("any", "^1"), False),  # true, but not seen
        (route("any", None, "^1"), route("any", "^1", None), False),
        (route("any", None, "^1"), route("any", "^1", "^12"), True),
        (route("nobody"), route("nobody"), False),
    ],
)
def test_a_route_is_shadowed_by_a_wider_one_above_it(earlier: Route, later: Route, shadowed: bool) -> None:
    routes = (earlier, later)
    verdicts = list(unreachable(config(*routes), routes))
    assert [(verdict.route, verdict.taken_by) for verdict in verdicts] == ([(1, (0,))] if shadowed else [])


def test_a_call_is_not_sent_back_so_the_next_route_has_it() -> None:
    to_pbx, back = Route(to=("pbx",)), Route(from_="pbx", to=("pbx",))
    from_pbx = Route(from_="pbx", to=("carrier",))
    for routes, wanted in (
        ((to_pbx, from_pbx), []),
        ((Route(to=("pbx", "carrier")), from_pbx), [1]),
        ((back, from_pbx), [1]),
        ((to_pbx, to_pbx), [1]),
    ):
        assert [verdict.route for verdict in unreachable(config(*routes), routes)] == wanted


def with_phones(*routes: Route) -> Config:
    return config(*routes, phones=Phones(network="public", registrar="pbx"))


def test_a_phone_may_call_another() -> None:
    everybody, inwards = Route(to=("phones",)), Route(from_="phones", to=("pbx",))
    from_phones = Route(from_="phones", match="^1", to=("pbx",))
    for routes, wanted in (
        ((everybody, inwards), [1]),
        ((Route(from_="public", to=("pbx",)), inwards), [1]),
        ((inwards, Route(from_="public", to=("pbx",))), []),
        ((Route(from_="carrier", to=("pbx",)), inwards), []),
        ((inwards, from_phones), [1]),
    ):
        assert [verdict.route for verdict in unreachable(with_phones(*routes), routes)] == wanted


def test_who_is_not_registered_is_left_to_the_routes_below() -> None:
    registered = Route(from_="pbx", to=("phones",), when="registered")
    always = Route(from_="pbx", to=("phones",))
    stripped = registered.model_copy(update={"strip": 1})
    for routes, wanted in (
        ((registered, always), []),
        ((always, registered), [1]),
        ((registered, registered), [1]),
        ((registered, stripped), []),
    ):
        assert [verdict.route for verdict in unreachable(with_phones(*routes), routes)] == wanted


def test_several_routes_together_leave_nothing() -> None:
    routes = (route("private"), route("public"), route("any", "^1"))
    (verdict,) = unreachable(config(*routes), routes)
    assert (verdict.route, verdict.taken_by) == (2, (0, 1))


def test_nothing_is_said_about_what_was_taken_out() -> None:
    report = examine(
        """\
networks:
  public: {address: nonsense}
  private: {address: 10.0.0.1}
trunks:
  carrier: {network: public, servers: "sip:198.51.100.10"}
  pbx: {network: private, servers: nonsense}
routes:
  - {from: public, to: pbx}
  - {from: pbx, match: "(", to: carrier}
""",
        {},
    )
    assert [problem.key for problem in report.problems] == [
        "networks.public.address",
        "trunks.pbx.servers",
        "routes[1].match",
    ]


def test_another_distribution_with_our_names_is_a_problem() -> None:
    owners = {
        "media": ["border_sbc", "media-tools"],
        "config": ["config"],
        "yaml": ["PyYAML"],
        "sbc": ["border-sbc"],
    }
    problems = foreign_packages(owners)
    assert [problem.key for problem in problems] == ["media", "config"]
    assert "media-tools" in str(problems[0])


def test_this_environment_is_ours() -> None:
    assert {problem.key for problem in foreign_packages()} <= set(PACKAGES)


def test_every_prefix_of_a_family_that_the_network_lacks_is_named() -> None:
    trunk = (
        config()
        .trunks["carrier"]
        .model_copy(update={"from_": (ip_network("2001:db8:1::/48"), ip_network("2001:db8:2::/48"))})
    )
    wrong = config(trunks={**config().trunks, "carrier": trunk})
    messages = [problem.message.partition(" ")[0] for problem in check(wrong) if problem.key.endswith("from")]
    assert messages == ["2001:db8:1::/48", "2001:db8:2::/48"]
