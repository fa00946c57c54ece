"""What `config.coverage` calls unreachable is never chosen by the router."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from config.coverage import unreachable
from config.model import Config, Network, Reject, Route, SipServer, Trunk
from sbc.routing import CallRequest, Plan, Router, ServersSnapshot, ServerView, Source

NETWORKS = {
    "n1": Network(name="n1", address="10.0.1.1"),
    "n2": Network(name="n2", address="10.0.2.1"),
}
TRUNKS = {
    name: Trunk(name=name, network=network, servers=(SipServer(uri=f"sip:{host}", host=host),))
    for name, network, host in (("t1", "n1", "10.0.1.2"), ("t2", "n2", "10.0.2.2"), ("t3", "n2", "10.0.2.3"))
}
SERVERS = ServersSnapshot(
    trunks={
        name: (ServerView(trunk.servers[0].host, "udp", (trunk.servers[0].host, 5060)),)
        for name, trunk in TRUNKS.items()
    }
)
PATTERNS = [None, "", "^1", "^12", "^12$", "^1.*", r"^1\+", "^12?", "^[12]", "2", "^1|^2", ".*"]
NUMBERS = ["", "1", "12", "123", "1+", "2", "21", "+1"]

ROUTES = st.builds(
    Route,
    from_=st.sampled_from(["any", "n1", "n2", "t1", "t2", "t3"]),
    match=st.sampled_from(PATTERNS),
    from_match=st.sampled_from([None, None, "^1", "^12"]),
    to=st.lists(st.sampled_from(["t1", "t2", "t3"]), min_size=1, max_size=2).map(tuple),
) | st.builds(
    Route,
    from_=st.sampled_from(["any", "n1", "t1"]),
    match=st.sampled_from(PATTERNS),
    reject=st.just(Reject()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROUTES, min_size=2, max_size=5).map(tuple))
def test_an_unreachable_route_never_decides(routes: tuple[Route, ...]) -> None:
    config = Config(networks=NETWORKS, trunks=TRUNKS, routes=routes)
    dead = {f"routes[{verdict.route}]" for verdict in unreachable(config, routes)}
    assume(dead)
    router = Router(config)
    for source in [Source(network, None, "x") for network in NETWORKS] + [
        Source(trunk.network, trunk.name, "x") for trunk in TRUNKS.values()
    ]:
        for user in NUMBERS:
            for caller in ("", "1", "12"):
                request = CallRequest(source, user, "h", caller)
                outcome, decisions = router.route(request, SERVERS)
                if isinstance(outcome, Plan):
                    assert outcome.rule not in dead
                elif outcome.rule == "rejected-by-route":
                    assert decisions[-1].rule not in dead
