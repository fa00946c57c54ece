"""Keep-alives: one for each flow, paced, by kind; a phone that falls silent is found out."""

from collections import Counter
from typing import Any

import pytest

from sbc.binding import Binding, identity_of
from sbc.keepalive import MISSES, NO_ANSWER, KeepAlive, KeepAlives
from sbc.locations import Locations
from signaling.flow import Flow


def bound(port: int = 40000, transport: str = "udp", user: str = "alice", **fields: Any) -> Binding:
    contact = f"sip:{user}@192.168.1.5:{port}"
    flow = Flow(
        "public", transport, ("192.0.2.10", 5060), ("203.0.113.7", port), 0 if transport == "udp" else 7
    )
    values: dict[str, Any] = {"nat": "Via says 192.168.1.5", **fields}
    return Binding(user, identity_of(contact), contact, f"t{user}{port}", flow, 10_000.0, "c", 1, **values)


def keeping(mode: str, *bindings: Binding, every_s: float = 25.0) -> KeepAlives:
    locations = Locations()
    keeps = KeepAlives(locations, mode, every_s)
    for binding in bindings:
        locations.put(binding)
        keeps.watch(binding, 0.0)
    return keeps


def sent(keeps: KeepAlives, until: float, answer: bool = True) -> list[tuple[float, KeepAlive]]:
    found = []
    while (due := keeps.next_timer()) is not None and due <= until:
        for keep in keeps.handle_timer(due):
            found.append((due, keep))
            if keep.kind == "options":
                if answer:
                    keeps.answered(keep, due)
                else:
                    keeps.unanswered(keep)
    return found


@pytest.mark.parametrize(
    ("mode", "binding", "kind"),
    [
        ("auto", bound(), "options"),
        ("auto", bound(nat=""), "off"),
        ("auto", bound(transport="tcp"), "crlf"),
        ("auto", bound(transport="tcp", outbound=True), "off"),
        ("crlf", bound(), "crlf"),
        ("options", bound(nat=""), "options"),
        ("expiry", bound(), "off"),
        ("off", bound(), "off"),
    ],
)
def test_by_kind(mode: str, binding: Binding, kind: str) -> None:
    keeps = keeping(mode, binding)
    assert {keep.kind for _, keep in sent(keeps, 60.0)} == ({kind} - {"off"})


def test_paced_and_not_in_bursts() -> None:
    keeps = keeping("crlf", *(bound(40000 + number) for number in range(500)))
    times = [at for at, _ in sent(keeps, 75.0)]
    assert len(times) == pytest.approx(1500, abs=5)
    per_second = Counter(int(at) for at in times if 0 <= at < 75)
    assert max(per_second.values()) <= 24 and min(per_second.values()) >= 16


def test_one_for_each_flow() -> None:
    keeps = keeping("crlf", bound(), bound(user="bob"))
    assert len(sent(keeps, 24.9)) == 1


def test_one_that_is_alive_on_a_flow_holds_it_open() -> None:
    dead, alive = bound(), bound(user="bob")
    keeps = keeping("crlf", dead, alive)
    dead.dead = NO_ANSWER
    assert len(sent(keeps, 100.0)) == 4 and len(keeps) == 1
    alive.dead = NO_ANSWER
    assert sent(keeps, 200.0) == [] and len(keeps) == 0


def test_a_phone_that_used_to_answer_and_falls_silent_is_dead() -> None:
    one = bound()
    keeps = keeping("auto", one)
    sent(keeps, 30.0)
    assert len(sent(keeps, 30.0 + 25 * (MISSES + 5), answer=False)) == MISSES
    assert one.dead == NO_ANSWER
    assert len(keeps) == 0 and keeps.next_timer() is None


def test_a_phone_that_never_answers_gets_crlf_and_lives() -> None:
    one = bound()
    keeps = keeping("auto", one)
    kinds = [keep.kind for _, keep in sent(keeps, 200.0, answer=False)]
    assert kinds[:3] == ["options", "options", "crlf"] and one.dead == ""


def test_no_second_options_while_one_is_under_way() -> None:
    keeps = keeping("options", bound())
    count = 0
    while (due := keeps.next_timer()) is not None and due <= 200.0:
        count += len(keeps.handle_timer(due))
    assert count == 1


def test_a_flow_without_bindings_is_let_go() -> None:
    locations = Locations()
    keeps = KeepAlives(locations, "crlf", 25.0)
    one = bound()
    locations.put(one)
    keeps.watch(one, 0.0)
    locations.remove(one)
    assert sent(keeps, 100.0) == [] and len(keeps) == 0


def test_a_late_timer_sends_one_and_keeps_the_plan() -> None:
    keeps = keeping("crlf", bound())
    first = keeps.next_timer()
    assert first is not None
    assert len(keeps.handle_timer(first + 100.0)) == 1
    due = keeps.next_timer()
    assert due is not None and (due - first) % 25.0 == pytest.approx(0.0, abs=1e-6)
