"""Who rings at once, who next, and whose failure counts (RFC 3261 s.16.6, s.16.7 step 6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from signaling.events import Offered, Redirected, Rejected
from signaling.hunt import MAX_REDIRECTED, Branch, Failure, Hunt, rank
from signaling.identity import Identity
from signaling.topology import NOTHING


@dataclass(frozen=True)
class Place:
    """A target."""

    trunk: str = "phones"
    contact: str = "sip:a@host"
    group: int = 0
    ring_s: float = 0.0
    failover_on: frozenset[int] = frozenset()
    redirects: str = "pass"
    spare: bool = False


def phone(group: int, ring_s: float = 0.0) -> Place:
    return Place(group=group, ring_s=ring_s)


def server(trunk: str, group: int = 0) -> Place:
    return Place(trunk, "", group)


def hunting(targets: Sequence[Place]) -> Hunt:
    return Hunt(targets, Offered("200", Identity(), Identity(), b"offer", NOTHING, 70))


def rejected(status: int, rule: str = "peer-rejected") -> Rejected:
    return Rejected(status, "Reason", rule, retry_after_s=30 if status == 503 else None)


def shape(branches: list[Branch] | Failure) -> list[tuple[str, int]]:
    """The name of each branch, and how many servers it has in reserve."""
    assert isinstance(branches, list)
    return [(branch.name, len(branch.rest)) for branch in branches]


def test_without_groups_there_is_one_branch_with_everything_in_reserve() -> None:
    hunt = hunting([server("pbx"), server("pbx"), server("carrier")])
    assert shape(hunt.next_group(0.0)) == [("b1", 2)]
    assert hunt.next_group(0.0) == []


def test_neighbours_of_one_group_ring_at_once() -> None:
    hunt = hunting([phone(1), phone(1), phone(2), server("pbx"), server("carrier"), phone(1)])
    first = hunt.next_group(0.0)
    assert shape(first) == [("b1", 0), ("b2", 0)]
    assert shape(hunt.next_group(0.0)) == [("b3", 0)]
    assert shape(hunt.next_group(0.0)) == [("b4", 1)]
    assert shape(hunt.next_group(0.0)) == [("b5", 0)]
    assert hunt.next_group(0.0) == []


def test_servers_of_one_trunk_are_one_branch_of_a_group() -> None:
    hunt = hunting([server("pbx", 1), server("pbx", 1), phone(1), server("carrier", 1), phone(1)])
    assert shape(hunt.next_group(0.0)) == [("b1", 1), ("b2", 0), ("b3", 0), ("b4", 0)]


def test_the_next_server_gets_the_next_name_and_rings_anew() -> None:
    hunt = hunting([Place("pbx", "", 1, 20.0), Place("pbx", "", 1, 20.0), phone(2)])
    (first,) = hunt.next_group(100.0)
    assert hunt.next_timer() == 120.0
    second = hunt.again(first, 110.0)
    assert (second.name, second.group, list(hunt.branches)) == ("b2", 1, ["b2"])
    assert (hunt.next_timer(), hunt.overdue(129.0), hunt.overdue(130.0)) == (130.0, [], [second])


def test_nobody_is_hurried_when_nobody_waits() -> None:
    hunt = hunting([phone(1, 20.0), phone(2, 20.0)])
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


def test_a_status_to_fail_over_on_goes_to_the_next_server_whatever_its_class() -> None:
    fallible = [Place(name, "", failover_on=frozenset({302, 500})) for name in ("pbx", "carrier", "last")]
    hunt = hunting(fallible)
    (first,) = hunt.next_group(0.0)
    assert shape(hunt.failed(first, Redirected(302, "Moved", ()), 1.0)) == [("b2", 1)]
    assert shape(hunt.failed(hunt.branches["b2"], rejected(500), 2.0)) == [("b3", 0)]
    verdict = hunt.failed(hunt.branches["b3"], rejected(486), 3.0)
    assert isinstance(verdict, Failure) and verdict.event.status == 486


def test_the_next_group_waits_until_the_last_of_this_one_has_failed() -> None:
    hunt = hunting([phone(1), phone(1), phone(2)])
    first, second = hunt.next_group(0.0)
    assert hunt.failed(first, rejected(486), 1.0) == []
    assert shape(hunt.failed(second, rejected(480), 2.0)) == [("b3", 0)]


def test_one_who_declines_for_all_ends_the_hunt_while_others_ring() -> None:
    hunt = hunting([phone(1), phone(1), phone(2)])
    first, _ = hunt.next_group(0.0)
    verdict = hunt.failed(first, rejected(603), 1.0)
    assert isinstance(verdict, Failure) and verdict.event.status == 603


def test_after_a_lack_of_our_own_nobody_else_rings() -> None:
    hunt = hunting([server("pbx"), server("carrier")])
    (branch,) = hunt.next_group(0.0)
    hunt.stop(branch)
    verdict = hunt.failed(branch, rejected(503, "server-timeout"), 1.0, local=True)
    assert isinstance(verdict, Failure) and (verdict.event.status, verdict.by) == (503, "sbc")


def test_the_first_who_plays_something_is_heard_as_long_as_he_rings() -> None:
    hunt = hunting([phone(1), phone(1)])
    first, second = hunt.next_group(0.0)
    assert [hunt.plays(branch) for branch in (second, first, second)] == [True, False, True]
    hunt.failed(second, rejected(486), 1.0)
    assert hunt.plays(first)


def test_redirects_are_followed_a_few_times() -> None:
    follow = Place(redirects="follow")
    hunt = hunting([follow])
    (branch,) = hunt.next_group(0.0)
    assert [hunt.follows(branch) for _ in range(MAX_REDIRECTED + 1)] == [True] * MAX_REDIRECTED + [False]
    other = hunting([phone(1)])
    assert not other.follows(other.next_group(0.0)[0])


def failed(*events: Rejected | Redirected) -> Hunt:
    hunt = hunting([phone(1)] * len(events))
    for branch, event in zip(hunt.next_group(0.0), events, strict=True):
        hunt.failed(branch, event, 1.0)
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
    hunt = hunting([phone(1)])
    (branch,) = hunt.next_group(0.0)
    hunt.failed(branch, rejected(503), 1.0, local=True)
    assert hunt.verdict().by == "sbc"


def test_challenge_of_a_peer_is_between_it_and_us() -> None:
    verdict = failed(rejected(401), rejected(407)).verdict()
    assert isinstance(verdict.event, Rejected)
    assert (verdict.event.status, verdict.event.rule, verdict.by) == (403, "trunk-wants-credentials", "sbc")


def test_nobody_to_ask() -> None:
    hunt = hunting([])
    assert hunt.next_group(0.0) == []
    verdict = hunt.verdict().event
    assert isinstance(verdict, Rejected) and (verdict.status, verdict.rule) == (503, "no-target")
