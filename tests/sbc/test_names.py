"""Names of trunk servers: order by RFC 2782, and the host's own resolver for names without SRV."""

import asyncio

import pytest
from dns.rdata import from_text
from dns.rdtypes.IN.SRV import SRV

from sbc.names import Found, LookupFailed, Names, ordered
from sbc.trunks import Lookup


def srv(text: str) -> SRV:
    record = from_text("IN", "SRV", text)
    assert isinstance(record, SRV)
    return record


def targets(records: list[SRV]) -> list[str]:
    return [record.target.to_text(omit_final_dot=True) for record in records]


def test_priority_comes_first() -> None:
    records = [srv("20 0 5060 c."), srv("10 0 5060 a."), srv("15 0 5060 b.")]
    assert targets(ordered(records, lambda: 0.5)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("draw", "first"), [(0.0, "light"), (0.05, "light"), (0.5, "heavy"), (0.99, "heavy")]
)
def test_weights_share_the_first_place(draw: float, first: str) -> None:
    records = [srv("1 90 5060 heavy."), srv("1 10 5060 light.")]
    assert targets(ordered(records, lambda: draw))[0] == first


def test_all_records_stay_whatever_is_drawn() -> None:
    records = [srv(f"1 {weight} 5060 h{weight}.") for weight in (0, 1, 5, 0)]
    assert len(ordered(records, lambda: 0.999)) == 4
    assert ordered([], lambda: 0.5) == []


def find(lookup: Lookup, families: frozenset[int]) -> Found:
    return asyncio.run(Names().find(lookup, families))


def test_a_name_of_the_hosts_file_with_a_port() -> None:
    found = find(Lookup("pbx", "private", "sip:localhost:5070", "localhost", 5070, "tcp"), frozenset({4}))
    assert ("tcp", ("127.0.0.1", 5070)) in found.hops
    assert all(":" not in address[0] for _, address in found.hops)


def test_a_name_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(LookupFailed):
        find(Lookup("pbx", "private", "sip:x", "name.invalid", 5060, "udp"), frozenset({4, 6}))
