"""baresip on both sides: real phones with their own jitter buffers, timers and habits hear each other."""

import time

import pytest

from tests.lab.border import configuration, server
from tests.lab.lab import FOUND, HZ, OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC
from tests.lab.phone import Phone

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine_with_phones")]

WAYS = [pytest.param(PUBLIC, id="inbound"), pytest.param(PRIVATE, id="outbound")]
WIRES = [
    pytest.param(("udp", 4), ("udp", 4), id="udp4-udp4"),
    pytest.param(("tcp", 4), ("udp", 6), id="tcp4-udp6"),
    pytest.param(("udp", 6), ("tcp", 6), id="udp6-tcp6"),
]


def pair(
    lab: Lab, origin: str, calling: tuple[str, int], called: tuple[str, int], nat: str = "none"
) -> tuple[Phone, Phone]:
    """(caller, callee), registered nowhere: the border is the caller's proxy and knows the callee as a trunk."""
    target = OTHER[origin]
    servers = [server(target, called[0], family=called[1])]
    lab.start(
        configuration(
            lab.namespaces,
            to_private=servers if target == PRIVATE else None,
            to_public=servers if target == PUBLIC else None,
            nat=nat,
        )
    )
    caller = lab.phone(origin, "alice", transport=calling[0], family=calling[1])
    callee = lab.phone(target, "bob", transport=called[0], family=called[1])
    return caller, callee


def assert_both_heard(caller: Phone, callee: Phone) -> None:
    for phone, other in ((caller, callee), (callee, caller)):
        assert phone.hears(other.hz) > FOUND
        assert phone.hears(phone.hz) < 0.01


@pytest.mark.parametrize(("calling", "called"), WIRES)
@pytest.mark.parametrize("origin", WAYS)
def test_phones_hear_each_other(
    lab: Lab, origin: str, calling: tuple[str, int], called: tuple[str, int]
) -> None:
    caller, callee = pair(lab, origin, calling, called)
    caller.dial(f"sip:bob@{lab.border_at(origin, calling[1])}")
    callee.await_established()
    time.sleep(2.5)
    caller.hang_up()
    caller.await_ended()
    callee.await_ended()
    lab.finish()
    assert_both_heard(caller, callee)


def test_callee_hangs_up(lab: Lab) -> None:
    caller, callee = pair(lab, PUBLIC, ("udp", 4), ("udp", 4))
    caller.dial(f"sip:bob@{lab.border_at(PUBLIC)}")
    callee.await_established()
    callee.hang_up()
    caller.await_ended()
    lab.finish()


@pytest.mark.parametrize("holding", ["caller", "callee"])
def test_hold_is_silent_and_resume_brings_the_sound_back(lab: Lab, holding: str) -> None:
    caller, callee = pair(lab, PUBLIC, ("udp", 4), ("udp", 4))
    caller.dial(f"sip:bob@{lab.border_at(PUBLIC)}")
    callee.await_established()
    time.sleep(1.5)
    holder = caller if holding == "caller" else callee
    holder.hold()
    time.sleep(1.5)
    holder.resume()
    time.sleep(2.0)
    caller.hang_up()
    callee.await_ended()
    lab.finish()
    assert_both_heard(caller, callee)
    # The sound after the pause: of the last second heard, each phone's recording ends with the other's tone.
    for phone, other in ((caller, callee), (callee, caller)):
        rate, samples = phone.recording()
        assert phone.hears_in(samples[-rate:], rate, other.hz) > FOUND


def test_phones_behind_a_border_that_expects_nat(lab: Lab) -> None:
    """With `nat: far-end` the source of the media is learned; the phones need not notice."""
    caller, callee = pair(lab, PUBLIC, ("udp", 4), ("udp", 4), nat="far-end")
    caller.dial(f"sip:bob@{lab.border_at(PUBLIC)}")
    callee.await_established()
    time.sleep(2.5)
    caller.hang_up()
    callee.await_ended()
    lab.finish()
    assert_both_heard(caller, callee)


def test_several_calls_one_after_the_other(lab: Lab) -> None:
    caller, callee = pair(lab, PUBLIC, ("udp", 4), ("udp", 4))
    for number in range(1, 4):
        caller.dial(f"sip:bob@{lab.border_at(PUBLIC)}")
        callee.await_established(number)
        time.sleep(1.5)
        caller.hang_up()
        caller.await_ended(number)
        callee.await_ended(number)
        assert callee.hears(HZ[PUBLIC]) > FOUND
    lab.finish()
