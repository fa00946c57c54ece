"""What may leave, call by call; whole calls that leak are in tests/scenario/test_guard_at_work.py."""

from collections import Counter

import pytest

from sbc.record import CallRecord
from sbc.watch import MAX_PAST, Watch, Watched, instead
from signaling.message import Request, Response

TOLD = "alices-own-host"


def watch(verify: str) -> tuple[Watch, Watched]:
    one = Watch(Counter(), lambda: 1000.0)
    one.configure(verify, ())
    watched = Watched(CallRecord("c-1", 1000.0))
    one.learn(watched, "a", invite(f"x@{TOLD}"))
    return one, watched


def invite(call_id: str = "c@h", subject: str = "") -> Request:
    fields = [
        ("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1"), ("From", "<sip:a@192.0.2.1>;tag=f"), ("To", "<sip:b@h>"),
        ("Call-ID", call_id), ("CSeq", "1 INVITE"), ("Subject", subject),
    ]  # fmt: skip
    return Request("INVITE", "sip:b@h", fields)


@pytest.mark.parametrize(("verify", "passes", "found"), [("off", 1, 0), ("count", 1, 1), ("block", 0, 1)])
def test_what_a_side_has_told_passes_to_the_other_as_configured(verify: str, passes: int, found: int) -> None:
    one, watched = watch(verify)
    assert one.passes(watched, "b2", TOLD.encode()) == bool(passes)
    assert watched.record.leaks == len(watched.record.decisions) == found
    assert one.passes(watched, "a", TOLD.encode()), "it may hear what it has said itself"


@pytest.mark.parametrize(("verify", "withheld"), [("off", False), ("count", False), ("block", True)])
def test_a_message_is_withheld_only_where_that_blocks(verify: str, withheld: bool) -> None:
    one, watched = watch(verify)
    assert one.withholds(watched, "b1", invite(subject=TOLD)) == withheld
    assert not one.withholds(None, "b1", invite(subject=TOLD)), "what is of no call has told nothing"


def test_what_must_go_goes_without_its_courtesies() -> None:
    one, watched = watch("block")
    harmless, telling = (("Reason", "SIP;cause=200"),), (("Reason", f'SIP;cause=200;text="{TOLD}"'),)
    assert one.courtesy(watched, "b1", harmless) == harmless
    assert one.courtesy(watched, "b1", telling) == ()
    counting, watched = watch("count")
    assert counting.courtesy(watched, "b1", telling) == telling


def test_an_answer_that_is_withheld_keeps_its_tag() -> None:
    answer = instead(invite(), Response(200, "OK", [("To", "<sip:b@h>;tag=ours")]), "c-1")
    assert (answer.status, answer.to_tag) == (500, "ours")
    assert answer.get("Warning") == '399 sbc "topology-leak c-1"'


def test_the_last_calls_are_known_when_they_are_over() -> None:
    one, _ = watch("block")
    silent = Watched(CallRecord("silent", 1000.0))
    one.over(silent)
    assert one.past == {}, "nothing was told in it"
    calls = [Watched(CallRecord(f"c-{number}", 1000.0)) for number in range(MAX_PAST + 1)]
    for call in calls:
        one.tell(call, "a", ("192.0.2.1",))
        one.over(call)
    assert list(one.past.values()) == calls[1:]
