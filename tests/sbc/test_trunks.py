"""Health of servers: pings, thresholds, what calls teach, names, and a reload in the middle of it."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import load
from sbc.routing import CallRequest, Health, Plan, Router, Source, Target
from sbc.trunks import MAX_ADDRESSES, MAX_BUSY_S, SUSPECT_S, Lookup, Ping, ServerDown, ServerUp, Trunks

START = 5000.0
CONFIG = """
limits: {max_calls: 100}
networks:
  public: {address: 203.0.113.10, media_ports: 20000-20999}
trunks:
  one:
    network: public
    servers: ["sip:192.0.2.1", "sip:192.0.2.2:5080;transport=tcp"]
    check: {options_every_s: 30, timeout_s: 4, down_after: 2, up_after: 2}
  two: {network: public, servers: ["sip:192.0.2.3"]}
routes:
  - {from: one, to: two}
  - {from: two, to: one}
"""
NAMED = CONFIG.replace('"sip:192.0.2.3"', '"sip:two.example", "sip:three.example:5090;transport=tcp"')


def trunks(config: str = CONFIG) -> Trunks:
    return Trunks(load(config))


class Clock:
    """Drives a `Trunks` from timer to timer; `answer` says what becomes of a ping (None: no answer)."""

    def __init__(self, machine: Trunks, now: float = START) -> None:
        self.machine = machine
        self.now = now
        self.pings: list[tuple[float, Ping]] = []
        self.dead: set[str] = set()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.machine.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            for ping in self.machine.handle_timer(self.now):
                self.pings.append((self.now, ping))
                if ping.address[0] not in self.dead:
                    self.machine.answered(ping, 200, self.now)
        self.now = end

    def health(self, trunk: str) -> list[Health]:
        return [view.health for view in self.machine.snapshot(self.now).trunks[trunk]]


def target(trunk: str = "two", host: str = "192.0.2.3") -> Target:
    return Target(trunk, "public", "udp", (host, 5060), host, "1")


# -- without pings


def test_without_checks_there_is_no_timer_and_all_are_up() -> None:
    machine = trunks(
        CONFIG.replace("check: {options_every_s: 30, timeout_s: 4, down_after: 2, up_after: 2}", "")
    )
    assert machine.next_timer() is None
    assert machine.handle_timer(START) == []
    assert machine.next_timer() is None
    views = machine.snapshot(START).trunks
    assert [(view.transport, view.address) for view in views["one"]] == [
        ("udp", ("192.0.2.1", 5060)),
        ("tcp", ("192.0.2.2", 5080)),
    ]
    assert all(view.health is Health.UP for some in views.values() for view in some)


def test_interval_zero_is_no_check() -> None:
    assert trunks(CONFIG.replace("options_every_s: 30", "options_every_s: 0")).next_timer() is None


def test_snapshot_stays_the_same_object_until_something_changes() -> None:
    machine = trunks()
    first = machine.snapshot(START)
    assert machine.snapshot(START + 1000) is first
    machine.attempted(target(), 408, "server-timeout", START)
    assert machine.snapshot(START) is not first
    assert first.trunks["two"][0].health is Health.UP


def test_sources_know_the_servers() -> None:
    assert trunks().snapshot(START).sources == {
        ("public", "192.0.2.1"): ((5060, "one"),),
        ("public", "192.0.2.2"): ((5080, "one"),),
        ("public", "192.0.2.3"): ((5060, "two"),),
    }


# -- pings


def test_pings_keep_their_period_for_every_server() -> None:
    clock = Clock(trunks())
    clock.run(299)
    by_server = Counter(ping.address for _, ping in clock.pings)
    assert set(by_server) == {("192.0.2.1", 5060), ("192.0.2.2", 5080)}
    assert set(by_server.values()) == {10}
    times = [at for at, ping in clock.pings if ping.address[0] == "192.0.2.1"]
    assert {round(b - a, 6) for a, b in itertools.pairwise(times)} == {30.0}
    ping = clock.pings[0][1]
    assert (ping.trunk, ping.network, ping.transport) == ("one", "public", "udp")


def test_pings_are_spread_over_the_period() -> None:
    servers = ", ".join(f'"sip:192.0.2.{number}"' for number in range(10, 40))
    clock = Clock(trunks(CONFIG.replace('"sip:192.0.2.1", "sip:192.0.2.2:5080;transport=tcp"', servers)))
    clock.run(299)
    in_a_second = Counter(int(at) for at, _ in clock.pings)
    assert max(in_a_second.values()) <= 2
    assert sum(in_a_second.values()) == pytest.approx(300, abs=1)


def test_server_goes_down_and_up_by_the_thresholds() -> None:
    clock = Clock(trunks())
    clock.dead = {"192.0.2.1"}
    clock.run(20)
    assert clock.health("one") == [Health.UP, Health.UP], "one failed ping is not two"
    clock.run(20)
    assert clock.health("one") == [Health.DOWN, Health.UP]
    view = clock.machine.snapshot(clock.now).trunks["one"][0]
    assert view.why == "no answer to OPTIONS, 2 times in a row"
    assert view.back_s is not None and 0 < view.back_s <= 30
    assert clock.machine.take_events() == [
        ServerDown("one", "sip:192.0.2.1", "udp", ("192.0.2.1", 5060), view.why)
    ]
    clock.dead = set()
    clock.run(30)
    assert clock.health("one") == [Health.DOWN, Health.UP], "one answered ping is not two"
    clock.run(30)
    assert clock.health("one") == [Health.UP, Health.UP]
    assert clock.machine.take_events() == [
        ServerUp("one", "sip:192.0.2.1", "udp", ("192.0.2.1", 5060), "answered 200 to OPTIONS")
    ]
    assert clock.machine.take_events() == []


def test_failures_must_be_in_a_row() -> None:
    clock = Clock(trunks())
    clock.run(1)
    for _ in range(6):
        clock.dead = {"192.0.2.1"}
        clock.run(30)
        clock.dead = set()
        clock.run(30)
    assert clock.health("one") == [Health.UP, Health.UP]


@pytest.mark.parametrize(
    ("status", "alive"),
    [(200, True), (404, True), (405, True), (481, True), (500, True), (408, False), (503, False)],
)
def test_any_answer_is_life_but_those_of_a_proxy_for_the_dead(status: int, alive: bool) -> None:
    machine = trunks(CONFIG.replace("down_after: 2", "down_after: 1"))
    ping = machine.handle_timer(START)[0]
    machine.answered(ping, status, START)
    assert (machine.snapshot(START).trunks["one"][0].health is Health.UP) == alive


def test_transport_failure_counts_at_once() -> None:
    machine = trunks(CONFIG.replace("down_after: 2", "down_after: 1"))
    ping = machine.handle_timer(START)[0]
    machine.unanswered(ping, "transport", START + 0.1)
    view = machine.snapshot(START + 0.1).trunks["one"][0]
    assert (view.health, view.why) == (Health.DOWN, "cannot be reached")


def test_answer_after_the_timeout_is_late() -> None:
    machine = trunks(CONFIG.replace("down_after: 2", "down_after: 1").replace("up_after: 2", "up_after: 1"))
    ping = machine.handle_timer(START)[0]
    machine.handle_timer(START + 4)
    machine.answered(ping, 200, START + 4.1)
    machine.unanswered(ping, "timeout", START + 32)  # timer F of the transaction
    assert machine.snapshot(START + 5).trunks["one"][0].health is Health.DOWN
    assert len(machine.take_events()) == 1


def test_late_timer_does_not_bunch_the_pings() -> None:
    clock = Clock(trunks())
    clock.run(10)
    clock.now += 3600  # the process was stopped for an hour
    before = len(clock.pings)
    clock.run(0.5)
    assert len(clock.pings) - before <= 2
    clock.run(29)
    assert len(clock.pings) - before <= 4


# -- what calls teach


@pytest.mark.parametrize("rule", ["server-timeout", "server-unreachable"])
def test_call_without_answer_makes_a_server_suspect_for_a_while(rule: str) -> None:
    machine = trunks()
    machine.attempted(target(), 408, rule, START)
    assert machine.snapshot(START + SUSPECT_S - 0.1).trunks["two"][0].health is Health.SUSPECT
    assert machine.snapshot(START + SUSPECT_S).trunks["two"][0].health is Health.UP


def test_answer_to_a_call_clears_the_suspicion() -> None:
    machine = trunks()
    machine.attempted(target(), 408, "server-timeout", START)
    machine.attempted(target(), 486, "peer-rejected", START + 1)
    assert machine.snapshot(START + 1).trunks["two"][0].health is Health.UP


def test_503_with_retry_after_is_obeyed_within_reason() -> None:
    machine = trunks()
    machine.attempted(target(), 503, "peer-rejected", START, 20.0)
    view = machine.snapshot(START).trunks["two"][0]
    assert (view.health, view.back_s) == (Health.BUSY, 20.0)
    assert machine.snapshot(START + 20).trunks["two"][0].health is Health.UP
    machine.attempted(target(), 503, "peer-rejected", START, 86400.0)
    assert machine.snapshot(START + MAX_BUSY_S).trunks["two"][0].health is Health.UP


def test_503_without_retry_after_says_nothing() -> None:
    machine = trunks()
    machine.attempted(target(), 503, "peer-rejected", START)
    assert machine.snapshot(START).trunks["two"][0].health is Health.UP


def test_busy_is_not_shortened_by_a_timeout() -> None:
    machine = trunks()
    machine.attempted(target(), 503, "peer-rejected", START, 100.0)
    machine.attempted(target(), 408, "server-timeout", START + 1)
    assert machine.snapshot(START + 50).trunks["two"][0].health is Health.BUSY


def test_failed_call_brings_one_ping_forward() -> None:
    clock = Clock(trunks())
    clock.run(20)
    before = len(clock.pings)
    for _ in range(5):
        clock.machine.attempted(target("one", "192.0.2.1"), 408, "server-timeout", clock.now)
    clock.run(1)
    assert [ping.address[0] for _, ping in clock.pings[before:]] == ["192.0.2.1"]
    clock.run(30)
    times = [at for at, ping in clock.pings if ping.address[0] == "192.0.2.1"]
    assert times[-1] - times[0] == pytest.approx(30), "the plan is kept"


def test_unknown_target_is_no_error() -> None:
    trunks().attempted(target("gone", "192.0.2.99"), 408, "server-timeout", START)


# -- names


def test_names_are_asked_for_and_used_when_resolved() -> None:
    machine = trunks(NAMED)
    two, three = machine.lookups
    assert two == Lookup("two", "public", "sip:two.example", "two.example", None, None)
    assert (three.port, three.transport) == (5090, "tcp")
    snapshot = machine.snapshot(START)
    assert snapshot.trunks["two"] == ()
    assert [name for name, _ in snapshot.unresolved["two"]] == ["two.example", "three.example"]
    machine.resolved(three, [("tcp", ("192.0.2.30", 5090))], START)
    machine.resolved(two, [("udp", ("192.0.2.20", 5060)), ("tcp", ("192.0.2.21", 5060))], START)
    snapshot = machine.snapshot(START)
    assert [(view.host, view.address[0]) for view in snapshot.trunks["two"]] == [
        ("two.example", "192.0.2.20"), ("two.example", "192.0.2.21"), ("three.example", "192.0.2.30"),
    ]  # fmt: skip
    assert snapshot.unresolved == {}
    assert snapshot.sources["public", "192.0.2.20"] == ((5060, "two"),)


def test_failed_lookup_keeps_what_is_known() -> None:
    machine = trunks(NAMED)
    lookup = machine.lookups[0]
    machine.unresolved(lookup, "the DNS did not answer")
    assert dict(machine.snapshot(START).unresolved["two"])["two.example"] == "the DNS did not answer"
    machine.resolved(lookup, [("udp", ("192.0.2.20", 5060))], START)
    machine.unresolved(lookup, "the DNS did not answer")
    assert machine.snapshot(START).trunks["two"][0].address[0] == "192.0.2.20"


def test_address_that_stays_keeps_its_health() -> None:
    machine = trunks(NAMED)
    lookup = machine.lookups[0]
    machine.resolved(lookup, [("udp", ("192.0.2.20", 5060))], START)
    machine.attempted(target("two", "192.0.2.20"), 408, "server-timeout", START)
    machine.resolved(lookup, [("udp", ("192.0.2.22", 5060)), ("udp", ("192.0.2.20", 5060))], START)
    assert [view.health for view in machine.snapshot(START).trunks["two"]] == [Health.UP, Health.SUSPECT]


def test_pings_of_a_name_follow_its_addresses() -> None:
    config = NAMED.replace("two: {", "two: {check: {options_every_s: 10}, ")
    clock = Clock(trunks(config))
    lookup = clock.machine.lookups[0]
    clock.run(1)
    clock.machine.resolved(lookup, [("udp", ("192.0.2.20", 5060))], clock.now)
    clock.run(20)
    assert sum(ping.address[0] == "192.0.2.20" for _, ping in clock.pings) == 2
    clock.machine.resolved(lookup, [("udp", ("192.0.2.21", 5060))], clock.now)
    before = len(clock.pings)
    clock.run(20)
    later = {ping.address[0] for _, ping in clock.pings[before:]}
    assert "192.0.2.21" in later and "192.0.2.20" not in later


def test_addresses_of_a_name_are_bounded() -> None:
    machine = trunks(NAMED)
    machine.resolved(machine.lookups[0], [("udp", (f"192.0.2.{n}", 5060)) for n in range(50, 90)], START)
    assert len(machine.snapshot(START).trunks["two"]) == MAX_ADDRESSES


def test_answer_to_an_old_question_is_ignored() -> None:
    machine = trunks(NAMED)
    old = replace(machine.lookups[0], host="old.example")
    machine.resolved(old, [("udp", ("192.0.2.66", 5060))], START)
    machine.unresolved(old, "no")
    assert machine.snapshot(START).trunks["two"] == ()


def test_unresolved_name_refuses_and_resolved_one_routes() -> None:
    config = load(NAMED)
    machine, router = Trunks(config), Router(config)
    request = CallRequest(Source("public", "one", "192.0.2.1"), "1", "h")
    assert not isinstance(router.route(request, machine.snapshot(START))[0], Plan)
    machine.resolved(machine.lookups[0], [("udp", ("192.0.2.20", 5060))], START)
    plan = router.route(request, machine.snapshot(START))[0]
    assert isinstance(plan, Plan)
    assert plan.targets[0].host == "two.example"


# -- reload


def test_reload_keeps_health_names_and_the_ping_in_flight() -> None:
    config = NAMED.replace("two: {", "two: {check: {options_every_s: 10}, ")
    clock = Clock(trunks(config))
    clock.machine.resolved(clock.machine.lookups[0], [("udp", ("192.0.2.20", 5060))], START)
    clock.dead = {"192.0.2.1"}
    clock.run(40)
    assert clock.health("one")[0] is Health.DOWN
    flying = [ping for ping in clock.machine.handle_timer(clock.now + 22) if ping.address[0] != "192.0.2.1"]
    clock.now += 22
    fresh = trunks(config.replace("sip:192.0.2.2:5080;transport=tcp", "sip:192.0.2.9"))
    fresh.adopt(clock.machine, clock.now)
    clock.machine = fresh
    assert clock.health("one") == [Health.DOWN, Health.UP]
    assert [view.address[0] for view in fresh.snapshot(clock.now).trunks["two"]] == ["192.0.2.20"]
    for ping in flying:
        fresh.answered(ping, 200, clock.now)
    before = len(clock.pings)
    clock.dead = set()
    clock.run(90)
    assert {ping.address[0] for _, ping in clock.pings[before:]} == {"192.0.2.1", "192.0.2.9", "192.0.2.20"}
    assert clock.health("one") == [Health.UP, Health.UP]


def test_reload_that_switches_pings_off_brings_all_back() -> None:
    clock = Clock(trunks())
    clock.dead = {"192.0.2.1"}
    clock.run(60)
    fresh = trunks(CONFIG.replace("options_every_s: 30", "options_every_s: 0"))
    fresh.adopt(clock.machine, clock.now)
    assert fresh.next_timer() is None
    assert fresh.snapshot(clock.now).trunks["one"][0].health is Health.UP


def test_reload_before_the_first_timer() -> None:
    old, fresh = trunks(), trunks()
    fresh.adopt(old, START)
    clock = Clock(fresh)
    clock.run(31)
    assert len({ping.address for _, ping in clock.pings}) == 2


def test_status_rows_for_the_operator() -> None:
    machine = trunks(NAMED)
    machine.resolved(machine.lookups[0], [("udp", ("192.0.2.20", 5060))], START)
    machine.attempted(target("two", "192.0.2.20"), 408, "server-timeout", START)
    assert machine.status(START)[1:] == [
        {"trunk": "one", "network": "public", "server": "tcp 192.0.2.2:5080", "state": "up", "why": ""},
        {
            "trunk": "two", "network": "public", "server": "two.example (udp 192.0.2.20:5060)", "state": "suspect",
            "why": "no answer to a call",
        },
        {
            "trunk": "two", "network": "public", "server": "three.example", "state": "unresolved",
            "why": "not looked up yet",
        },
    ]  # fmt: skip


# -- whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "fail", "attempt", "busy", "wait", "reload"]), st.floats(0.01, 40.0)
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_pings_go_on_and_the_heap_stays_small(steps: list[tuple[str, float]]) -> None:
    config = load(CONFIG)
    machine, now, flying = Trunks(config), START, list[Ping]()
    last = START
    for what, amount in steps:
        match what:
            case "answer" if flying:
                machine.answered(flying.pop(), 200, now)
            case "fail" if flying:
                machine.unanswered(flying.pop(), "transport", now)
            case "attempt":
                machine.attempted(target("one", "192.0.2.1"), 408, "server-timeout", now)
            case "busy":
                machine.attempted(target("one", "192.0.2.1"), 503, "peer-rejected", now, amount)
            case "reload":
                fresh = Trunks(config)
                fresh.adopt(machine, now)
                machine = fresh
            case _:
                now += amount
                sent = machine.handle_timer(now)
                assert len(sent) <= 2, "at most one ping for each server at a time"
                flying.extend(sent)
                last = now if sent else last
                assert now - last <= 90
        due = machine.next_timer()
        assert due is not None and due <= now + 30
        assert len(machine._wakeups) <= 2 * len(steps) + 8
        assert {view.address[0] for view in machine.snapshot(now).trunks["one"]} == {"192.0.2.1", "192.0.2.2"}
