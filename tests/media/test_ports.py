"""The port pool: exact capacity, quarantine, no pair given twice."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.ports import PoolExhausted, PortPool, Range, overlap
from media.relay import PortPair

THIRTY = {"public": ("127.0.0.1", 20000, 20059)}


def test_pairs_are_even_and_odd_on_the_bind_address() -> None:
    pair = PortPool(THIRTY).allocate("public", 0.0)
    assert pair == PortPair("public", "127.0.0.1", 20000, 20001)


@pytest.mark.parametrize(
    ("first", "last", "pairs"),
    [(20000, 20059, 30), (20001, 20059, 29), (20000, 20058, 29), (20001, 20002, 0)],
)
def test_capacity_is_exactly_the_pairs_in_the_range(first: int, last: int, pairs: int) -> None:
    pool = PortPool({"n": ("127.0.0.1", first, last)}, 0.0, random.Random(1).randrange)
    got = {pool.allocate("n", 0.0).rtp for _ in range(pairs)}
    assert len(got) == pairs == pool.size("n")
    assert all(port % 2 == 0 and first <= port < last for port in got)
    with pytest.raises(PoolExhausted) as caught:
        pool.allocate("n", 0.0)
    assert caught.value.network == "n"


def test_a_released_pair_rests_for_the_quarantine() -> None:
    pool = PortPool({"n": ("::1", 20000, 20001)}, 30.0)
    pool.release(pool.allocate("n", 0.0), 100.0)
    assert (pool.in_use("n"), pool.free("n", 129.9), pool.resting("n", 129.9)) == (0, 0, 1)
    with pytest.raises(PoolExhausted, match="1 resting"):
        pool.allocate("n", 129.9)
    assert pool.allocate("n", 130.0).rtp == 20000


def test_without_quarantine_a_pair_is_free_at_once_but_the_pool_rotates() -> None:
    pool = PortPool(THIRTY, 0.0)
    first = pool.allocate("public", 0.0)
    pool.release(first, 0.0)
    assert pool.free("public", 0.0) == 30
    assert pool.allocate("public", 0.0) != first


def test_a_second_release_is_an_error_and_changes_nothing() -> None:
    pool = PortPool(THIRTY, 0.0)
    pair = pool.allocate("public", 0.0)
    pool.release(pair, 0.0)
    with pytest.raises(ValueError, match="not in use"):
        pool.release(pair, 0.0)
    assert pool.free("public", 0.0) == 30


def test_an_order_that_is_picked_at_random_is_not_the_order_of_ports() -> None:
    pool = PortPool({"n": ("127.0.0.1", 20000, 20999)}, 0.0, random.Random(7).randrange)
    ports = [pool.allocate("n", 0.0).rtp for _ in range(500)]
    assert ports != sorted(ports)
    assert len(set(ports)) == 500


def test_overlapping_ranges_on_one_address_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        PortPool({"a": ("127.0.0.1", 20000, 20099), "b": ("127.0.0.1", 20098, 20200)})
    PortPool({"a": ("127.0.0.1", 20000, 20099), "b": ("127.0.0.2", 20000, 20099)})


def test_reload_keeps_pairs_in_use_and_resting() -> None:
    pool = PortPool(THIRTY, 10.0)
    kept, gone = pool.allocate("public", 0.0), pool.allocate("public", 0.0)
    pool.release(pool.allocate("public", 0.0), 0.0)
    pool.reconfigure({"public": ("127.0.0.1", 20000, 20001)}, 10.0)
    assert (pool.size("public"), pool.in_use("public"), pool.free("public", 5.0)) == (1, 2, 0)
    pool.release(gone, 5.0)
    pool.release(kept, 5.0)
    assert (pool.in_use("public"), pool.free("public", 15.0)) == (0, 1)


def test_reload_that_removes_a_network_still_takes_its_pairs_back() -> None:
    pool = PortPool(THIRTY, 0.0)
    pair = pool.allocate("public", 0.0)
    pool.reconfigure({"other": ("127.0.0.2", 20000, 20001)}, 0.0)
    assert pool.total_in_use() == 1
    pool.release(pair, 0.0)
    assert pool.total_in_use() == 0


def test_reload_that_renames_a_network_does_not_give_its_pairs_out_twice() -> None:
    pool = PortPool(THIRTY, 0.0)
    pair = pool.allocate("public", 0.0)
    pool.reconfigure({"outside": ("127.0.0.1", 20000, 20059)}, 0.0)
    assert pool.free("outside", 0.0) == 29
    assert all(pool.allocate("outside", 0.0).rtp != pair.rtp for _ in range(29))
    pool.release(pair, 0.0)
    assert pool.allocate("outside", 0.0).rtp == pair.rtp


@given(st.integers(0, 2**32), st.lists(st.booleans(), max_size=200), st.sampled_from([0.0, 3.0]))
def test_no_pair_is_ever_held_twice_nor_before_its_rest(
    seed: int, steps: list[bool], quarantine_s: float
) -> None:
    rng = random.Random(seed)
    pool = PortPool({"n": ("127.0.0.1", 20000, 20019)}, quarantine_s, rng.randrange)
    held: list[PortPair] = []
    released: dict[PortPair, float] = {}
    for now, take in enumerate(steps):
        if take:
            try:
                pair = pool.allocate("n", now)
            except PoolExhausted:
                assert pool.in_use("n") + pool.resting("n", now) == 10
                continue
            assert pair not in held
            assert now - released.get(pair, -99.0) >= quarantine_s
            held.append(pair)
        elif held:
            pair = held.pop(rng.randrange(len(held)))
            pool.release(pair, now)
            released[pair] = now
        assert pool.in_use("n") == len(held)
        assert pool.in_use("n") + pool.free("n", now) + pool.resting("n", now) == 10


# -- reloads that move ranges ------------------------------------------------------------------------------


def test_a_network_that_is_gone_has_ports_for_its_calls_and_the_one_in_its_place_knows() -> None:
    pool = PortPool({"old": ("127.0.0.1", 20000, 20005)}, 0.0)
    first = pool.allocate("old", 0.0)
    pool.reconfigure({"new": ("127.0.0.1", 20000, 20005)}, 0.0)
    second = pool.allocate("old", 0.0)
    third = pool.allocate("new", 0.0)
    assert {first.rtp, second.rtp, third.rtp} == {20000, 20002, 20004}
    assert (second.network, second.host) == ("old", "127.0.0.1")
    for network in ("old", "new"):
        with pytest.raises(PoolExhausted) as caught:
            pool.allocate(network, 0.0)
        assert (caught.value.network, pool.size(network)) == (network, 3)
    assert pool.holds("new", second.rtp) and pool.holds("old", third.rtp)
    pool.release(second, 0.0)
    assert pool.allocate("new", 0.0).rtp == second.rtp
    pool.release(first, 0.0)
    assert pool.allocate("old", 0.0).rtp == first.rtp


def test_what_rests_goes_on_to_rest_in_whatever_range_it_is() -> None:
    pool = PortPool({"a": ("127.0.0.1", 20000, 20003), "b": ("127.0.0.1", 20004, 20007)}, 30.0)
    pairs = [pool.allocate("a", 0.0) for _ in range(2)]
    pool.release(pairs[0], 10.0)
    pool.reconfigure({"a": ("127.0.0.1", 20004, 20007), "b": ("127.0.0.1", 20000, 20003)}, 30.0)
    with pytest.raises(PoolExhausted):
        pool.allocate("b", 39.9)
    assert pool.allocate("b", 40.0).rtp == pairs[0].rtp
    pool.release(pairs[1], 50.0)
    with pytest.raises(PoolExhausted):
        pool.allocate("b", 79.9)
    assert pool.allocate("b", 80.0).rtp == pairs[1].rtp


SPANS = st.sampled_from(
    [("h1", 20000, 20007), ("h1", 20008, 20013), ("h2", 20000, 20007), ("h2", 20004, 20009)]
)
LAYOUTS = st.dictionaries(st.sampled_from("abc"), SPANS, min_size=1, max_size=3).filter(
    lambda ranges: overlap(ranges) is None
)


@given(
    LAYOUTS,
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from("abc")),
            st.tuples(st.just("give"), st.integers(0, 50)),
            st.tuples(st.just("reload"), LAYOUTS),
        ),
        max_size=60,
    ),
    st.sampled_from([0.0, 2.0]),
)
def test_no_port_is_anybody_elses_through_any_reloads(
    ranges: dict[str, Range], steps: list[tuple[str, Any]], quarantine_s: float
) -> None:
    pool = PortPool(ranges, quarantine_s)
    names = set(ranges)
    held: list[PortPair] = []
    for now, (step, what) in enumerate(steps):
        if step == "take" and what in names:
            try:
                pair = pool.allocate(what, float(now))
            except PoolExhausted:
                continue
            assert (pair.host, pair.rtp) not in {(one.host, one.rtp) for one in held}
            held.append(pair)
        elif step == "give" and held:
            pool.release(held.pop(what % len(held)), float(now))
        elif step == "reload":
            pool.reconfigure(what, quarantine_s)
            ranges = what
            names |= set(what)
        assert pool.total_in_use() == len(held)
    for pair in held:
        pool.release(pair, 1000.0)
    assert pool.total_in_use() == 0
    for name in ranges:
        assert pool.free(name, 2000.0) == pool.size(name), "nothing is lost"
