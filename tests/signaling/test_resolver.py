"""RFC 3263 over a scripted DNS: which transport, which server, in which order, and within which bounds."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.resolver import (
    MAX_HOPS,
    MAX_QUERIES,
    MAX_RECORDS,
    MAX_TTL_S,
    MIN_TTL_S,
    Answer,
    DnsQuery,
    Hop,
    Kind,
    Naptr,
    Record,
    Resolution,
    ResolveError,
    Resolver,
    Srv,
    hosts_addresses,
    literal_address,
    weighted,
)

T = TypeVar("T")
Zone = dict[tuple[str, Kind], tuple[Record, ...]]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class Dns:
    """A DNS that is a dictionary."""

    def __init__(self, zone: Zone, ttl_s: float = 300.0) -> None:
        self.zone = zone
        self.ttl_s = ttl_s
        self.asked: list[tuple[str, Kind]] = []
        self.broken: set[Kind] = set()

    async def __call__(self, name: str, kind: Kind) -> Answer:
        self.asked.append((name, kind))
        if kind in self.broken:
            raise ResolveError("the DNS did not answer", "dns-timeout")
        return Answer(self.zone.get((name, kind), ()), self.ttl_s)


def resolve(
    zone: Zone | Dns,
    host: str = "sip.example",
    port: int | None = None,
    transport: str | None = None,
    **settings: Any,
) -> Resolution:
    query = zone if isinstance(zone, Dns) else Dns(zone)
    settings = {"families": (4,), "chance": lambda: 0.0, "hosts": "/nonexistent", **settings}
    return run(Resolver(query, **settings).resolve(host, port, transport))


A1: Zone = {("sip.example", "A"): ("192.0.2.1",)}
FULL: Zone = {
    ("sip.example", "NAPTR"): (
        Naptr(50, 50, "s", "SIPS+D2T", "_sips._tcp.sip.example"),
        Naptr(90, 50, "s", "SIP+D2T", "_sip._tcp.sip.example"),
        Naptr(100, 50, "S", "sip+d2u", "_sip._udp.sip.example"),
    ),
    ("_sip._tcp.sip.example", "SRV"): (Srv(10, 0, 5070, "t.example"),),
    ("_sip._udp.sip.example", "SRV"): (Srv(20, 0, 5060, "late.example"), Srv(10, 0, 5080, "u.example")),
    ("t.example", "A"): ("192.0.2.2",),
    ("u.example", "A"): ("192.0.2.3", "192.0.2.4"),
    ("late.example", "A"): ("192.0.2.5",),
}


# -- literals and the hosts file


@pytest.mark.parametrize(
    ("host", "port", "transport", "hop"),
    [
        ("192.0.2.1", None, None, Hop("udp", ("192.0.2.1", 5060))),
        ("192.0.2.1", 5080, "tcp", Hop("tcp", ("192.0.2.1", 5080))),
        ("2001:DB8::1", None, None, Hop("udp", ("2001:db8::1", 5060))),
        ("[2001:db8::1]", 1, None, Hop("udp", ("2001:db8::1", 1))),
    ],
)
def test_literal_needs_no_question(host: str, port: int | None, transport: str | None, hop: Hop) -> None:
    dns = Dns({})
    assert resolve(dns, host, port, transport) == Resolution((hop,), None)
    assert dns.asked == []


@pytest.mark.parametrize("text", ["sip.example", "1.2.3", "1.2.3.4.5", "::g", "", "fe80::1%eth0%x"])
def test_no_literal(text: str) -> None:
    assert literal_address(text) is None


def test_hosts_file_goes_before_the_dns(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.0.1 localhost\n# 192.0.2.8 pbx\n192.0.2.9  Pbx.Example pbx # ours\n2001:db8::9 pbx\nnonsense pbx\n\n"
    )
    dns = Dns(A1)
    assert resolve(dns, "PBX.", hosts=str(hosts)).hops == (Hop("udp", ("192.0.2.9", 5060)),)
    assert resolve(dns, "pbx", 5070, "tcp", hosts=str(hosts), families=(6, 4)).hops == (
        Hop("tcp", ("192.0.2.9", 5070)),
        Hop("tcp", ("2001:db8::9", 5070)),
    )
    assert dns.asked == []
    assert hosts_addresses(str(tmp_path / "missing"), "pbx") == ()


# -- the procedure of RFC 3263 s.4


def test_port_means_addresses_only() -> None:
    dns = Dns({**FULL, **A1})
    assert resolve(dns, port=5090).hops == (Hop("udp", ("192.0.2.1", 5090)),)
    assert dns.asked == [("sip.example", "A")]


def test_transport_means_its_srv() -> None:
    dns = Dns(FULL)
    assert resolve(dns, transport="tcp").hops == (Hop("tcp", ("192.0.2.2", 5070)),)
    assert ("sip.example", "NAPTR") not in dns.asked


def test_naptr_chooses_the_transport_of_the_lowest_order_that_we_speak() -> None:
    assert resolve(FULL).hops == (Hop("tcp", ("192.0.2.2", 5070)),)
    assert resolve(FULL, transports=("udp",)).hops == (
        Hop("udp", ("192.0.2.3", 5080)),
        Hop("udp", ("192.0.2.4", 5080)),
        Hop("udp", ("192.0.2.5", 5060)),
    )


def test_naptr_preference_orders_within_an_order() -> None:
    zone = dict(FULL)
    zone["sip.example", "NAPTR"] = (
        Naptr(10, 20, "s", "SIP+D2T", "_sip._tcp.sip.example"),
        Naptr(10, 10, "s", "SIP+D2U", "_sip._udp.sip.example"),
    )
    assert [hop.transport for hop in resolve(zone).hops] == ["udp", "udp", "udp", "tcp"]


@pytest.mark.parametrize(
    "useless",
    [
        Naptr(1, 1, "u", "SIP+D2U", "_sip._tcp.sip.example"),
        Naptr(1, 1, "s", "E2U+sip", "_sip._tcp.sip.example"),
        Naptr(1, 1, "s", "SIP+D2S", "_sip._tcp.sip.example"),
        Naptr(1, 1, "s", "SIP+D2U", "."),
    ],
)
def test_without_usable_naptr_srv_of_every_transport_in_our_order(useless: Naptr) -> None:
    zone = dict(FULL)
    zone["sip.example", "NAPTR"] = (useless,)
    assert [hop.transport for hop in resolve(zone).hops] == ["udp", "udp", "udp", "tcp"]
    assert next(hop.transport for hop in resolve(zone, transports=("tcp", "udp")).hops) == "tcp"


def test_without_srv_the_addresses_of_the_name() -> None:
    dns = Dns(A1)
    assert resolve(dns).hops == (Hop("udp", ("192.0.2.1", 5060)),)
    assert [kind for _, kind in dns.asked] == ["NAPTR", "SRV", "SRV", "A"]
    assert resolve(A1, transport="tcp").hops == (Hop("tcp", ("192.0.2.1", 5060)),)


def test_service_that_is_decidedly_not_there() -> None:
    """RFC 2782: the target "." is not the same as no record: the name's own addresses are not tried."""
    zone: Zone = {**A1, ("_sip._udp.sip.example", "SRV"): (Srv(0, 0, 0, "."),)}
    with pytest.raises(ResolveError):
        resolve(zone, transport="udp")


def test_families_in_our_order() -> None:
    zone: Zone = {**A1, ("sip.example", "AAAA"): ("2001:db8::1",)}
    v4, v6 = Hop("udp", ("192.0.2.1", 5060)), Hop("udp", ("2001:db8::1", 5060))
    assert resolve(zone, port=5060, families=(6, 4)).hops == (v6, v4)
    assert resolve(zone, port=5060, families=(4,)).hops == (v4,)
    assert resolve(zone, port=5060, families=(6,)).hops == (v6,)


def test_trailing_dot_is_no_part_of_the_name() -> None:
    assert resolve(A1, "sip.example.", 5060).hops


# -- failure and bounds


def test_nothing_found_is_an_error_that_says_so() -> None:
    with pytest.raises(ResolveError) as caught:
        resolve({})
    assert (caught.value.status, caught.value.rule) == (503, "name-not-resolved")


def test_dns_that_cannot_do_naptr_and_srv_may_have_addresses() -> None:
    dns = Dns(A1)
    dns.broken = {"NAPTR", "SRV"}
    assert resolve(dns).hops == (Hop("udp", ("192.0.2.1", 5060)),)


def test_broken_dns_is_told_from_a_name_without_addresses() -> None:
    dns = Dns({})
    dns.broken = {"NAPTR", "SRV", "A"}
    with pytest.raises(ResolveError) as caught:
        resolve(dns)
    assert caught.value.rule == "dns-timeout"


def test_dns_that_never_answers_ends_at_the_deadline() -> None:
    async def silent(name: str, kind: Kind) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ResolveError) as caught:
        run(Resolver(silent, hosts="/nonexistent", deadline_s=0.0).resolve("sip.example"))
    assert caught.value.rule == "dns-timeout"


def test_hops_records_and_questions_are_bounded() -> None:
    many = tuple(f"192.0.{n >> 8}.{n & 255}" for n in range(1000))
    assert len(resolve({("sip.example", "A"): many}, port=1).hops) == MAX_RECORDS
    fan: Zone = {
        ("_sip._udp.sip.example", "SRV"): tuple(Srv(1, 1, 5060, f"h{n}.example") for n in range(1000))
    }
    full: Zone = {
        (f"h{n}.example", "A"): (f"10.0.{n >> 8}.{n & 255}", f"10.1.{n >> 8}.{n & 255}") for n in range(1000)
    }
    assert len(resolve({**fan, **full}, transport="udp").hops) == MAX_HOPS
    dns = Dns(
        {("sip.example", "NAPTR"): tuple(Naptr(1, n, "s", "SIP+D2U", f"s{n}.example") for n in range(1000))}
    )
    for n in range(1000):
        dns.zone[f"s{n}.example", "SRV"] = tuple(Srv(1, 1, 5060, f"h{n}-{m}.example") for m in range(1000))
    with pytest.raises(ResolveError) as caught:
        resolve(dns)
    assert caught.value.rule == "dns-too-deep"
    assert len(dns.asked) == MAX_QUERIES


def test_same_hop_is_there_once() -> None:
    zone: Zone = {
        ("_sip._udp.sip.example", "SRV"): (Srv(1, 0, 5060, "h.example"), Srv(2, 0, 5060, "h.example")),
        ("h.example", "A"): ("192.0.2.1",),
    }
    assert len(resolve(zone, transport="udp").hops) == 1


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0.0, MIN_TTL_S), (60.0, 60.0), (1e6, MAX_TTL_S)])
def test_ttl_is_kept_within_reason(ttl_s: float, kept_s: float) -> None:
    assert resolve(Dns(A1, ttl_s), port=5060).ttl_s == kept_s


# -- the order of SRV records


def fixed(at: float) -> Callable[[], float]:
    return lambda: at


def test_weights_are_followed() -> None:
    records = [Srv(1, 10, 1, "ten"), Srv(1, 30, 1, "thirty"), Srv(1, 0, 1, "zero")]
    steps = 4100
    first = Counter(weighted(records, fixed(n / steps))[0].target for n in range(steps))
    assert first["zero"] == pytest.approx(100, abs=2)  # 1 of 41
    assert first["ten"] == pytest.approx(1000, abs=2)
    assert first["thirty"] == pytest.approx(3000, abs=2)


RECORDS = st.lists(
    st.builds(Srv, st.integers(0, 3), st.integers(0, 65535), st.just(1), st.text("abc", max_size=3)),
    max_size=12,
)


@given(RECORDS, st.floats(0.0, 1.0, exclude_max=True))
def test_every_record_is_there_once_and_priorities_rise(records: list[Srv], at: float) -> None:
    ordered = weighted(records, lambda: at)
    assert Counter(ordered) == Counter(records)
    assert [one.priority for one in ordered] == sorted(one.priority for one in records)


# -- dnspython


class Stub(dns.asyncresolver.Resolver):
    """Answers with records in the presentation format, or raises."""

    def __init__(
        self, answer: Callable[[dns.name.Name, str], list[str] | type[Exception]], ttl_s: int = 120
    ) -> None:
        super().__init__(configure=False)
        self.answer = answer
        self.ttl_s = ttl_s

    async def resolve(self, qname: Any, rdtype: Any = "A", *args: Any, **kwargs: Any) -> dns.resolver.Answer:
        kind = dns.rdatatype.to_text(rdtype)
        found = self.answer(qname, kind)
        if isinstance(found, type):
            raise found
        response = dns.message.make_response(dns.message.make_query(qname, kind))
        if found:
            response.answer.append(dns.rrset.from_text_list(qname, self.ttl_s, "IN", kind, found))
        parsed = dns.message.from_wire(response.to_wire())
        assert isinstance(parsed, dns.message.QueryMessage)
        return dns.resolver.Answer(qname, rdtype, dns.rdataclass.IN, parsed)


def ask(kind: Kind, answer: list[str] | type[Exception]) -> Answer:
    return run(DnsQuery(1.0, Stub(lambda name, wanted: answer))("sip.example", kind))


def test_records_of_dnspython() -> None:
    both = ask("A", ["192.0.2.1", "192.0.2.2"])
    # dnspython writes a set of records in an order of its own.
    assert (set(both.records), both.ttl_s) == ({"192.0.2.1", "192.0.2.2"}, 120.0)
    assert ask("AAAA", ["2001:DB8::1"]).records == ("2001:db8::1",)
    assert ask("SRV", ["10 20 5070 h.example."]).records == (Srv(10, 20, 5070, "h.example"),)
    assert ask("SRV", ["0 0 0 ."]).records == (Srv(0, 0, 0, "."),)
    assert ask("NAPTR", ['10 20 "s" "SIP+D2U" "" _sip._udp.example.']).records == (
        Naptr(10, 20, "s", "SIP+D2U", "_sip._udp.example"),
    )


@pytest.mark.parametrize("empty", [dns.resolver.NXDOMAIN, []])
def test_no_such_name_is_an_empty_answer(empty: list[str] | type[Exception]) -> None:
    assert ask("A", empty).records == ()


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (dns.exception.Timeout, "dns-timeout"),
        (dns.resolver.NoNameservers, "dns-failed"),
        (OSError, "dns-failed"),
        (dns.exception.DNSException, "dns-failed"),
    ],
)
def test_failure_of_the_dns_is_one_exception(error: type[Exception], rule: str) -> None:
    with pytest.raises(ResolveError) as caught:
        ask("A", error)
    assert caught.value.rule == rule


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_resolve_error(host: str) -> None:
    resolver = Resolver(DnsQuery(1.0, Stub(lambda name, kind: [])), hosts="/nonexistent")
    try:
        run(resolver.resolve(host))
    except ResolveError:
        return
    assert literal_address(host) is not None
