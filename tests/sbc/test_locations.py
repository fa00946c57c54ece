"""Bindings: found by user, token and flow, in the order of q, and gone when their time is over."""

from collections.abc import Callable
from typing import Any

import pytest

from sbc.binding import Binding, Row, binding_of, identity_of, row_of
from sbc.locations import SLACK_S, Locations
from signaling.flow import Flow

HOME = ("203.0.113.1", 40000)


def udp(port: int = 40000, host: str = "203.0.113.1") -> Flow:
    return Flow("public", "udp", ("192.0.2.10", 5060), (host, port))


def bound(
    user: str = "alice", contact: str = "sip:alice@10.1.1.5", port: int = 40000, **fields: object
) -> Binding:
    values: dict[str, Any] = {
        "user": user,
        "identity": identity_of(contact),
        "contact": contact,
        "token": f"token-{user}-{contact}",
        "flow": udp(port),
        "expires_at": 160.0,
        "call_id": "c1",
        "cseq": 1,
        **fields,
    }
    return Binding(**values)


def test_found_by_user_token_and_flow() -> None:
    locations = Locations()
    one = bound()
    locations.put(one)
    assert locations.of("alice") == (one,)
    assert locations.by_token(one.token) == (one,)
    assert locations.on_flow(udp()) == (one,)
    assert locations.on_flow(udp(40001)) == ()
    assert locations.of("bob") == ()


def test_the_preferred_come_first() -> None:
    """RFC 3261 s.20.10: q; of equals the one heard of last."""
    locations = Locations()
    low = bound(contact="sip:a@10.0.0.1", q=500, seen_at=9.0)
    old = bound(contact="sip:a@10.0.0.2", q=1000, seen_at=1.0)
    new = bound(contact="sip:a@10.0.0.3", q=1000, seen_at=2.0)
    for one in (low, old, new):
        locations.put(one)
    assert locations.of("alice") == (new, old, low)


def test_the_same_contact_takes_the_place_of_the_old_one() -> None:
    locations = Locations()
    old = bound()
    locations.put(old)
    fresh = bound(port=41000)
    assert locations.put(fresh) is old
    assert len(locations) == 1
    assert locations.on_flow(udp()) == ()
    assert locations.on_flow(udp(41000)) == (fresh,)


def test_expiry() -> None:
    locations = Locations()
    one = bound()
    locations.put(one)
    assert locations.next_timer() == 160.0
    assert locations.expire(159.9) == []
    locations.refresh(one, 300.0, 2, 150.0, None)
    assert locations.expire(160.0) == []
    assert locations.next_timer() == 300.0
    assert locations.expire(300.0) == [one]
    assert len(locations) == 0 and locations.on_flow(udp()) == () and locations.by_token(one.token) == ()


def test_many_refreshes_leave_nothing_behind() -> None:
    locations = Locations()
    one = bound()
    locations.put(one)
    for number in range(2000):
        locations.refresh(one, 200.0 + number, number, 100.0, None)
        locations.put(bound(port=42000 + number % 7))
    assert len(locations) == 1
    assert len(locations._wakeups) < 200


def test_a_tcp_binding_is_back_but_cannot_be_called() -> None:
    flow = Flow("public", "tcp", ("192.0.2.10", 5060), HOME, 17)
    again = binding_of(row_of(bound(flow=flow), 100.0, 1e6), 5.0, 1e6)
    assert again is not None and again.dead and again.flow.connection == 0
    locations = Locations()
    locations.put(again)
    assert locations.on_flow(flow) == (), "a connection with the number of an old one is not that one"


@pytest.mark.parametrize(
    "change", [lambda row: row[:-1], lambda row: (*row[:7], "no port", *row[8:])], ids=["short", "no number"]
)
def test_a_row_that_cannot_be_read_is_left_out(change: Callable[[Row], Row]) -> None:
    locations = Locations()
    assert locations.restore([change(row_of(bound(), 0.0, 1e6))], 0.0, 1e6) == 0
    assert [(c.user, c.row) for c in locations.take_changes(0.0, 1e6)] == [("alice", None)]


def test_restore_drops_what_has_run_out() -> None:
    rows = [row_of(bound(), 100.0, 1e6), row_of(bound("bob", expires_at=500.0), 100.0, 1e6)]
    locations = Locations()
    assert locations.restore(rows, 0.0, 1e6 + 100 + SLACK_S) == 1
    assert [one.user for one in locations.all()] == ["bob"]
    changes = locations.take_changes(0.0, 1e6)
    assert [(change.user, change.row) for change in changes] == [("alice", None)]


def test_changes_are_told_once_and_by_key() -> None:
    locations = Locations()
    one = bound()
    locations.put(one)
    locations.refresh(one, 170.0, 2, 110.0, None)
    changes = locations.take_changes(110.0, 1e6)
    assert len(changes) == 1 and changes[0].row is not None
    assert not locations.unsaved
    locations.remove(one)
    locations.remove(one)
    assert [change.row for change in locations.take_changes(111.0, 1e6)] == [None]


def test_a_lost_flow_is_dead_until_the_phone_is_heard() -> None:
    locations = Locations()
    one = bound()
    locations.put(one)
    assert locations.lost(udp(), "no answer") == [one]
    assert locations.lost(udp(), "no answer") == []
    assert one.dead == "no answer"
    locations.heard(one, 120.0)
    assert one.dead == ""


def test_bounded() -> None:
    locations = Locations(max_bindings=2)
    locations.put(bound("a"))
    assert not locations.full
    locations.put(bound("b"))
    assert locations.full


def test_who_registers_by_a_flow_brings_back_all_of_it() -> None:
    locations = Locations()
    alice, bob = bound(), bound("bob", "sip:bob@10.1.1.5")
    locations.put(alice)
    locations.put(bob)
    locations.lost(udp(), "no answer")
    locations.refresh(bob, 200.0, 2, 100.0, None)
    assert (alice.dead, bob.dead) == ("", "")
    locations.lost(udp(), "no answer")
    locations.put(bound("carol", "sip:carol@10.1.1.5"))
    assert (alice.dead, bob.dead) == ("", "")


def test_a_temporary_gruu_is_of_all_flows_of_a_phone() -> None:
    locations = Locations()
    one, other = (
        bound(identity="reg 1 x", gruu="g", seen_at=1.0),
        bound(identity="reg 2 x", gruu="g", seen_at=2.0),
    )
    locations.put(one)
    locations.put(other)
    assert locations.by_gruu("g") == (other, one)
    locations.remove(other)
    assert locations.by_gruu("g") == (one,)
    locations.remove(one)
    assert locations.by_gruu("g") == ()
