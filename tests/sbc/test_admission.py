"""Limits on new calls: who is refused, with what, and which numbers the decision names."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load
from config.model import Config
from sbc.admission import Admission, Emergencies, Spread
from sbc.buckets import MAX_SOURCES
from sbc.routing import Source
from signaling.uri import unescape

CONFIG = """
limits: {max_calls: 10, calls_per_s: 0, calls_per_s_per_source: 0}
networks:
  public: {address: 203.0.113.10}
  private: {address: 10.0.0.1}
trunks:
  carrier: {network: public, servers: ["sip:198.51.100.7"], max_calls: 3}
  pbx: {network: private, servers: ["sip:10.0.0.20"]}
routes: [{from: carrier, to: pbx}, {from: pbx, to: carrier}]
timers: {drain_s: 20}
"""
CARRIER = Source("public", "carrier", "198.51.100.7")
STRANGER = Source("public", None, "192.0.2.1")


def config(calls_per_s: float = 0, per_source: float = 0) -> Config:
    text = CONFIG.replace("calls_per_s: 0", f"calls_per_s: {calls_per_s}")
    return load(text.replace("calls_per_s_per_source: 0", f"calls_per_s_per_source: {per_source}"))


def source(number: int) -> Source:
    return Source("public", None, f"192.0.{number >> 8 & 255}.{number & 255}")


def admitted(admission: Admission, source: Source, now: float, emergency: bool = False) -> bool:
    refusal, decision = admission.admit(source, now, 0, 0, emergency=emergency)
    assert (refusal is None) == (decision.outcome == "admitted")
    if refusal is not None:
        assert refusal.status == 503
        assert refusal.retry_after_s is not None and 1 <= refusal.retry_after_s <= 60
        assert refusal.rule in decision.outcome
    return refusal is None


def test_call_within_all_limits() -> None:
    refusal, decision = Admission(config()).admit(CARRIER, 0.0, 9, 2)
    assert refusal is None
    assert decision.compared == (("calls", "9 of 10"), ("calls of carrier", "2 of 3"))


def test_too_many_calls() -> None:
    refusal, decision = Admission(config()).admit(STRANGER, 0.0, 10, 0)
    assert refusal is not None
    assert (refusal.status, refusal.rule, decision.rule) == (503, "max-calls", "limits.max_calls")
    assert decision.compared == (("calls", "10 of 10"),)
    assert refusal.retry_after_s


def test_too_many_calls_of_a_trunk() -> None:
    admission = Admission(config())
    refusal, decision = admission.admit(CARRIER, 0.0, 5, 3)
    assert refusal is not None
    assert (refusal.status, refusal.rule, decision.rule) == (
        503,
        "trunk-max-calls",
        "trunks.carrier.max_calls",
    )
    assert admission.admit(Source("private", "pbx", "10.0.0.20"), 0.0, 5, 3)[0] is None


def test_draining_refuses_even_emergencies() -> None:
    refusal, decision = Admission(config()).admit(CARRIER, 0.0, 0, 0, True, emergency=True)
    assert refusal is not None
    assert (refusal.status, refusal.rule, refusal.retry_after_s) == (503, "draining", 20)
    assert decision.stage == "admission"


def test_emergency_passes_every_limit() -> None:
    admission = Admission(config(1, 1))
    for _ in range(5):
        refusal, decision = admission.admit(CARRIER, 0.0, 99, 99, emergency=True)
        assert refusal is None
        assert decision.rule == "emergency"
    assert not admitted(admission, CARRIER, 0.0), "but it uses up what the others had"


def test_rate_of_all_together() -> None:
    admission = Admission(config(5))
    assert [admitted(admission, source(number), 100.0) for number in range(7)] == [True] * 5 + [False] * 2
    assert [admitted(admission, source(number), 100.4) for number in range(3)] == [True] * 2 + [False]
    assert sum(admitted(admission, source(number), 200.0) for number in range(9)) == 5, (
        "no more than one second's worth"
    )


def test_rate_below_one_a_second() -> None:
    admission = Admission(config(0.25))
    assert admitted(admission, STRANGER, 0.0)
    refusal, decision = admission.admit(STRANGER, 1.0, 0, 0)
    assert refusal is not None
    assert refusal.retry_after_s == 3
    assert decision.compared[-1] == ("tokens", "0.25 of 0.25/s")
    assert not admitted(admission, STRANGER, 3.9)
    assert admitted(admission, STRANGER, 4.0)


def test_flood_of_one_source_leaves_the_others_alone() -> None:
    admission = Admission(config(10, 2))
    flood = [admitted(admission, STRANGER, 50.0) for _ in range(100)]
    assert sum(flood) == 2
    assert [admitted(admission, source(number), 50.0) for number in range(8)] == [True] * 8


def test_source_rate_names_the_source() -> None:
    admission = Admission(config(0, 1))
    admission.admit(STRANGER, 0.0, 0, 0)
    refusal, decision = admission.admit(STRANGER, 0.0, 0, 0)
    assert refusal is not None
    assert (refusal.rule, decision.rule) == ("source-rate", "limits.calls_per_s_per_source")
    assert decision.compared[-1] == ("tokens of 192.0.2.1", "0.00 of 1/s")


def test_ipv6_subscriber_is_one_source() -> None:
    admission = Admission(config(0, 1))
    assert admitted(admission, Source("public", None, "2001:db8:0:1::1"), 0.0)
    assert not admitted(admission, Source("public", None, "2001:db8:0:1:ffff::2"), 0.0)
    assert admitted(admission, Source("public", None, "2001:db8:0:2::1"), 0.0)
    assert admitted(admission, Source("public", None, "::ffff:192.0.2.1"), 0.0)
    assert not admitted(admission, Source("public", None, "192.0.2.1"), 0.0)


def test_table_of_sources_is_bounded() -> None:
    admission = Admission(config(0, 1))
    admission.admit(source(1), 0.0, 0, 0)
    for number in range(2, MAX_SOURCES + 1):
        admission.admit(source(number), 0.0, 0, 0)
    assert not admitted(admission, source(1), 0.0), "used again, so it is not the oldest"
    for number in range(MAX_SOURCES + 1, MAX_SOURCES + 500):
        admission.admit(source(number), 0.0, 0, 0)
    assert len(admission) == MAX_SOURCES
    assert not admitted(admission, source(1), 0.0)
    assert admitted(admission, source(2), 0.0), "the oldest was forgotten"


def test_reload_gives_nobody_a_full_bucket() -> None:
    old = Admission(config(4, 2))
    assert [admitted(old, STRANGER, 0.0) for _ in range(3)] == [True, True, False]
    fresh = Admission(config(4, 2))
    fresh.adopt(old, 0.0)
    assert not admitted(fresh, STRANGER, 0.0)
    assert [admitted(fresh, source(number), 0.0) for number in range(3)] == [True, True, False]


def test_reload_may_switch_rates_on_and_off() -> None:
    old = Admission(config(4, 2))
    admitted(old, STRANGER, 0.0)
    off = Admission(config())
    off.adopt(old, 1.0)
    assert all(admitted(off, STRANGER, 1.0) for _ in range(50))
    on = Admission(config(4, 2))
    on.adopt(off, 2.0)
    assert [admitted(on, STRANGER, 2.0) for _ in range(3)] == [True, True, False]


@given(
    st.floats(0.1, 50.0),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=80),
)
def test_never_more_than_the_rate_and_its_burst(rate: float, gaps: list[float]) -> None:
    admission = Admission(config(rate))
    now, passed = 10.0, 0
    for gap in gaps:
        now += gap
        passed += admitted(admission, STRANGER, now)
    assert passed <= math.floor(max(1.0, rate) + (now - 10.0) * rate + 1e-6)


@given(st.floats(0.1, 50.0), st.integers(1, 60))
def test_who_waits_as_long_as_told_comes_in(rate: float, calls: int) -> None:
    admission = Admission(config(rate))
    for _ in range(calls):
        refusal, _ = admission.admit(STRANGER, 7.0, 0, 0)
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert admitted(admission, STRANGER, 7.0 + refusal.retry_after_s)
            return


@pytest.mark.parametrize("now", [5.0, 4.0])
def test_time_that_stands_still_or_goes_back_gives_nothing(now: float) -> None:
    admission = Admission(config(1))
    assert admitted(admission, STRANGER, 5.0)
    assert not admitted(admission, STRANGER, now)


EMERGENCY = """
networks: {public: {address: 192.0.2.1, listen: [udp:5060], media_ports: 20000-20099}}
trunks: {pbx: {network: public, servers: ["sip:192.0.2.9"]}}
routes: [{from: any, to: pbx}]
limits: {max_calls: 10}
emergency: {numbers: ["112", "911"], priority: [esnet.0, ets.1]}
"""


@pytest.mark.parametrize(
    ("start", "field", "passes"),
    [
        ("INVITE sip:112@example.com SIP/2.0", "", True),
        ("INVITE sip:112;phone-context=+49@example.com SIP/2.0", "", True),
        ("INVITE tel:911 SIP/2.0", "", True),
        ("INVITE tel:9-1.1 SIP/2.0", "", True),
        ("INVITE sip:(1)12@example.com SIP/2.0", "", True),
        ("INVITE sip:%311%32@example.com SIP/2.0", "", True),
        ("INVITE sip:%341%32@example.com SIP/2.0", "", False),
        ("INVITE urn:service:sos SIP/2.0", "", True),
        ("INVITE urn:service:sos.police SIP/2.0", "", True),
        ("INVITE urn:service:sosnot SIP/2.0", "", False),
        ("INVITE sip:1120@example.com SIP/2.0", "", False),
        ("INVITE sip:200@112.example.com SIP/2.0", "", False),
        ("INVITE sip:200@example.com SIP/2.0", "Resource-Priority: esnet.0", True),
        ("INVITE sip:200@example.com SIP/2.0", "resource-priority : q735.1, ETS.1", True),
        ("INVITE sip:200@example.com SIP/2.0", "Resource-Priority: esnet.01", False),
        ("INVITE sip:200@example.com SIP/2.0", "Subject: Resource-Priority: esnet.0", False),
    ],
)
def test_emergencies_are_seen_without_parsing_as_with(start: str, field: str, passes: bool) -> None:
    emergencies = Emergencies(load(EMERGENCY))
    extra = f"{field}\r\n" if field else ""
    data = f"{start}\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{extra}\r\n".encode()
    assert emergencies.looks_like_one(data, lambda: True, 0.0) is passes
    uri = start.split()[1]
    user = uri if uri.startswith("urn") else uri.partition(":")[2].partition("@")[0]
    values = [one.strip() for one in field.partition(":")[2].split(",")] if "riority" in field[:18] else []
    assert emergencies.is_one(unescape(user), values) is passes


def test_without_emergency_numbers_nothing_is_one() -> None:
    emergencies = Emergencies(load(EMERGENCY.partition("emergency:")[0]))
    assert not emergencies.is_one("112", ["esnet.0"]) and not emergencies.is_one("urn:service:sos", [])
    assert not emergencies.looks_like_one(b"INVITE sip:112@x SIP/2.0\r\n", lambda: True, 0.0)


def test_those_who_find_the_bucket_empty_come_back_one_after_the_other() -> None:
    spread = Spread(10)
    waits = [spread.take(f"192.0.2.{number}", 100.0) for number in range(60)]
    assert waits[:10] == [None] * 10
    later = [wait for wait in waits[10:] if wait is not None]
    assert later == sorted(later) and len(later) == 50 and 5 <= later[-1] <= 6


def test_the_queue_is_bounded_and_moves_on() -> None:
    spread = Spread(1)
    for number in range(1000):
        spread.take(f"192.0.{number // 250}.{number % 250}", 100.0)
    assert spread.later(100.0) == 300
    assert spread.later(1000.0) == 1


def test_no_rate_lets_everybody_in() -> None:
    spread = Spread(0)
    assert [spread.take("192.0.2.1", 1.0) for _ in range(50)] == [None] * 50
    assert spread.later(1.0) == 1
