"""Who rings at once, who next, and whose failure counts (RFC 3261 s.16.6, s.16.7 step 6)."""

from dataclasses import dataclass

import pytest

from signaling.events import Redirected, Rejected
from signaling.hunt import Branch, Hunt, rank


@dataclass(frozen=True)
class Place:
    """A target."""

    trunk: str = "phones"
    contact: str = "sip:a@host"
    group: int = 0
    ring_s: float = 0.0
    failover_on: frozenset[int] = frozenset()
    redirects: str = "pass"


def phone(group: int, ring_s: float = 0.0) -> Place:
    return Place(group=group, ring_s=ring_s)


def server(trunk: str, group: int = 0) -> Place:
    return Place(trunk, "", group)


def rejected(status: int, rule: str = "peer-rejected") -> Rejected:
    return Rejected(status, "Reason", rule, retry_after_s=30 if status == 503 else None)


def shape(branches: list[Branch]) -> list[tuple[str, int]]:
    """The name of each branch, and how many servers it has in reserve."""
    return [(branch.name, len(branch.rest)) for branch in branches]


def test_without_groups_there_is_one_branch_with_everything_in_reserve() -> None:
    hunt = Hunt([server("pbx"), server("pbx"), server("carrier")])
    assert shape(hunt.next_group(0.0)) == [("b1", 2)]
    assert not hunt.more


def test_neighbours_of_one_group_ring_at_once() -> None:
    hunt = Hunt([phone(1), phone(1), phone(2), server("pbx"), server("carrier"), phone(1)])
    first = hunt.next_group(0.0)
    assert shape(first) == [("b1", 0), ("b2", 0)]
    assert shape(hunt.next_group(0.0)) == [("b3", 0)]
    assert shape(hunt.next_group(0.0)) == [("b4", 1)]
    assert shape(hunt.next_group(0.0)) == [("b5", 0)]
    assert hunt.next_group(0.0) == []


def test_servers_of_one_trunk_are_one_branch_of_a_group() -> None:
    hunt = Hunt([server("pbx", 1), server("pbx", 1), phone(1), server("carrier", 1), phone(1)])
    assert shape(hunt.next_group(0.0)) == [("b1", 1), ("b2", 0), ("b3", 0), ("b4", 0)]


def test_the_next_server_gets_the_next_name_and_rings_anew() -> None:
    hunt = Hunt([Place("pbx", "", 1, 20.0), Place("pbx", "", 1, 20.0), phone(2)])
    (first,) = hunt.next_group(100.0)
    assert hunt.next_timer() == 120.0
    second = hunt.again(first, 110.0)
    assert (second.name, second.group, list(hunt.branches)) == ("b2", 1, ["b2"])
    assert (hunt.next_timer(), hunt.overdue(129.0), hunt.overdue(130.0)) == (130.0, [], [second])


def test_nobody_is_hurried_when_nobody_waits() -> None:
    hunt = Hunt([phone(1, 20.0), phone(2, 20.0)])
    hunt.next_group(0.0)
    assert hunt.next_timer() == 20.0
    hunt.branches.clear()
    hunt.next_group(20.0)
    assert hunt.next_timer() is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [(603, 302), (302, 404), (404, 500), (415, 404), (486, 480), (486, 408), (486, 401), (500, 700)],
)
def test_what_is_better(better: int, worse: int) -> None:
    if worse == 700:  # there is no such class: it counts as 6xx does
        assert rank(rejected(worse)) < rank(rejected(better))
    else:
        assert rank(rejected(better)) < rank(rejected(worse))


def failed(*events: Rejected | Redirected) -> Hunt:
    hunt = Hunt([phone(1)] * len(events))
    for branch, event in zip(hunt.next_group(0.0), events, strict=True):
        hunt.failed(branch, event)
    return hunt


def test_503_of_one_of_many_is_no_503_of_ours() -> None:
    verdict = failed(rejected(503), rejected(503)).verdict().event
    assert isinstance(verdict, Rejected)
    assert (verdict.status, verdict.reason, verdict.retry_after_s) == (500, "Server Internal Error", None)
    alone = failed(rejected(503)).verdict().event
    assert isinstance(alone, Rejected)
    assert (alone.status, alone.retry_after_s) == (503, 30)


def test_whose_failure_it_was() -> None:
    assert failed(rejected(486)).verdict().by == "b"
    assert failed(rejected(480, "no-answer")).verdict().by == "sbc"
    assert failed(Redirected(302, "Moved", ())).verdict().by == "b"
    hunt = Hunt([phone(1)])
    (branch,) = hunt.next_group(0.0)
    hunt.failed(branch, rejected(503), local=True)
    assert hunt.verdict().by == "sbc"


def test_challenge_of_a_peer_is_between_it_and_us() -> None:
    verdict = failed(rejected(401), rejected(407)).verdict()
    assert isinstance(verdict.event, Rejected)
    assert (verdict.event.status, verdict.event.rule, verdict.by) == (403, "trunk-wants-credentials", "sbc")


def test_nobody_to_ask() -> None:
    hunt = Hunt([])
    assert hunt.next_group(0.0) == []
    verdict = hunt.verdict().event
    assert isinstance(verdict, Rejected) and (verdict.status, verdict.rule) == (503, "no-target")
