"""What `config.coverage` calls unreachable is never chosen by the router."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from config.coverage import unreachable
from config.model import Config, Network, Phones, Reject, Route, SipServer, Trunk
from sbc.decisions import Decision
from sbc.routing import CallRequest, Plan, Refusal, Router, ServersSnapshot, ServerView, Source, Target

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

REGISTERED = {"1", "12", "92"}


class Book:
    """The phones: users who are registered, each with one."""

    def registered(self, request: CallRequest, user: str, now: float) -> bool:
        return user in REGISTERED

    def targets(
        self, request: CallRequest, user: str, now: float
    ) -> tuple[tuple[Target, ...], Decision, Refusal | None]:
        target = Target("phones", "n1", "udp", ("10.0.1.9", 5060), "h", user)
        return (target,), Decision("routing", "phones", (), user), None


ROUTES = st.builds(
    Route,
    from_=st.sampled_from(["any", "n1", "n2", "t1", "t2", "t3", "phones"]),
    match=st.sampled_from(PATTERNS),
    from_match=st.sampled_from([None, None, "^1", "^12"]),
    to=st.lists(st.sampled_from(["t1", "t2", "t3", "phones"]), min_size=1, max_size=2).map(tuple),
) | st.builds(
    Route,
    from_=st.sampled_from(["any", "n1", "t1", "phones"]),
    match=st.sampled_from(PATTERNS),
    reject=st.just(Reject()),
) | st.builds(
    Route,
    from_=st.sampled_from(["any", "n2", "t1", "phones"]),
    match=st.sampled_from(PATTERNS),
    to=st.sampled_from([("phones",), ("phones", "t1"), ("t2", "phones")]),
    when=st.just("registered"),
    strip=st.sampled_from([0, 0, 1]),
    prepend=st.sampled_from(["", "", "9"]),
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> tuple[Route, ...]:
    """Routes of which one stands there twice: nearly always something is unreachable."""
    routes = draw(st.lists(ROUTES, min_size=2, max_size=5))
    first = draw(st.integers(0, len(routes) - 1))
    routes.insert(draw(st.integers(first + 1, len(routes))), routes[first])
    return tuple(routes)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_an_unreachable_route_never_decides(routes: tuple[Route, ...]) -> None:
    phones = Phones(network="n1", registrar="t3")
    config = Config(networks=NETWORKS, trunks=TRUNKS, phones=phones, routes=routes)
    dead = {f"routes[{verdict.route}]" for verdict in unreachable(config, routes)}
    assume(dead)
    router = Router(config)
    for source in (
        *(Source(network, None, "x") for network in NETWORKS),
        *(Source(trunk.network, trunk.name, "x") for trunk in TRUNKS.values()),
        Source("n1", None, "x", phone="12"),
    ):
        for user in NUMBERS:
            for caller in ("", "1", "12"):
                request = CallRequest(source, user, "h", caller)
                outcome, decisions = router.route(request, SERVERS, None, Book())
                if isinstance(outcome, Plan):
                    assert outcome.rule not in dead
                elif outcome.rule == "rejected-by-route":
                    assert decisions[-1].rule not in dead
