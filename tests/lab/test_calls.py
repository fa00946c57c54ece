"""SIPp calls across the border: every transport and address family, both ways, both sides hear each other."""

import time

import pytest

from tests.lab.border import configuration, server
from tests.lab.lab import OTHER, Lab
from tests.lab.namespaces import PRIVATE, PUBLIC

pytestmark = pytest.mark.lab

WAYS = [
    pytest.param(PUBLIC, id="inbound"),
    pytest.param(PRIVATE, id="outbound"),
]
WIRES = [
    pytest.param(("udp", 4), ("udp", 4), id="udp4-udp4"),
    pytest.param(("tcp", 4), ("tcp", 4), id="tcp4-tcp4"),
    pytest.param(("udp", 6), ("udp", 6), id="udp6-udp6"),
    pytest.param(("tcp", 6), ("tcp", 6), id="tcp6-tcp6"),
    pytest.param(("udp", 4), ("tcp", 6), id="udp4-tcp6"),
    pytest.param(("tcp", 6), ("udp", 4), id="tcp6-udp4"),
    pytest.param(("udp", 6), ("udp", 4), id="udp6-udp4"),
    pytest.param(("tcp", 4), ("udp", 4), id="tcp4-udp4"),
]


def towards(lab: Lab, side: str, *uris: str, trunk: str = "", timers: dict[str, object] | None = None) -> str:
    """A configuration whose calls to `side` go to these servers."""
    servers = list(uris)
    return configuration(
        lab.namespaces,
        to_private=servers if side == PRIVATE else None,
        to_public=servers if side == PUBLIC else None,
        trunk=trunk,
        timers=timers,
    )


@pytest.mark.parametrize(("calling", "called"), WIRES)
@pytest.mark.parametrize("origin", WAYS)
def test_call_with_audio_both_ways(
    lab: Lab, origin: str, calling: tuple[str, int], called: tuple[str, int]
) -> None:
    target = OTHER[origin]
    lab.start(towards(lab, target, server(target, called[0], family=called[1])))
    assert not lab.namespaces.reaches(PUBLIC, lab.host(PRIVATE))
    assert not lab.namespaces.reaches(PRIVATE, lab.host(PUBLIC))
    callee = lab.callee(target, transport=called[0], family=called[1], audio=True)
    caller = lab.caller(origin, transport=calling[0], family=calling[1], audio=True, hold_ms=1800)
    caller.done()
    callee.done()
    lab.finish()
    families = {origin: calling[1], target: called[1]}
    lab.assert_heard(families[PUBLIC], families[PRIVATE])


@pytest.mark.parametrize("origin", WAYS)
@pytest.mark.parametrize(
    ("caller", "callee"),
    [
        ("uac_call_released", "uas_call_release"),
        ("uac_late_offer", "uas_late_offer"),
        ("uac_hold", "uas_hold"),
        ("uac_cancel", "uas_cancelled"),
        ("uac_call", "uas_early_media"),
    ],
)
def test_course_of_a_call(lab: Lab, origin: str, caller: str, callee: str) -> None:
    lab.start()
    answering = lab.callee(OTHER[origin], callee)
    lab.caller(origin, caller).done()
    answering.done()
    lab.finish(refused=1 if caller == "uac_cancel" else 0)


@pytest.mark.parametrize("status", [404, 486, 503, 603])
def test_refusal_is_relayed_with_its_class(lab: Lab, status: int) -> None:
    lab.start()
    callee = lab.callee(PRIVATE, "uas_refuse", status=status)
    lab.caller(PUBLIC, "uac_refused", status=status).done()
    callee.done()
    lab.finish(refused=1)


def test_redirection_is_passed_without_the_address_of_the_other_side(lab: Lab) -> None:
    lab.start()
    callee = lab.callee(
        PRIVATE, "uas_refuse", status=302, extra=f"Contact: <sip:carol@{lab.host(PRIVATE, number=1)}>"
    )
    lab.caller(PUBLIC, "uac_refused", status=302).done()
    callee.done()
    lab.finish(refused=1)


def test_redirection_is_followed_when_asked_to(lab: Lab) -> None:
    lab.start(towards(lab, PRIVATE, server(PRIVATE), trunk=", redirects: follow"))
    first = lab.callee(
        PRIVATE, "uas_refuse", status=302, extra=f"Contact: <sip:carol@{lab.host(PRIVATE, number=1)}:5060>"
    )
    second = lab.callee(PRIVATE, "uas_call", number=1)
    lab.caller(PUBLIC).done()
    first.done()
    second.done()
    lab.finish(refused=1)


def test_next_server_is_tried_when_the_first_refuses(lab: Lab) -> None:
    lab.start(towards(lab, PRIVATE, server(PRIVATE), server(PRIVATE, number=1)))
    first = lab.callee(PRIVATE, "uas_refuse", status=503)
    second = lab.callee(PRIVATE, "uas_call", number=1)
    lab.caller(PUBLIC).done()
    first.done()
    second.done()
    lab.finish(refused=1)


def test_next_server_is_tried_when_the_first_is_silent(lab: Lab) -> None:
    lab.start(
        towards(lab, PRIVATE, server(PRIVATE), server(PRIVATE, number=1), timers={"trying_timeout_s": 1})
    )
    second = lab.callee(PRIVATE, "uas_call", number=1)
    lab.caller(PUBLIC).done()
    second.done()
    lab.finish()


def test_options_to_the_border_are_answered(lab: Lab) -> None:
    lab.start()
    lab.caller(PUBLIC, "uac_options", calls=3).done()
    assert lab.border.leftovers() == {}


def test_calls_beyond_the_limit_get_503(lab: Lab) -> None:
    lab.start(configuration(lab.namespaces, limits={"max_calls": 1}))
    callee = lab.callee(PRIVATE)
    first = lab.caller(PUBLIC, hold_ms=2500)
    _await_calls(lab, 1)
    lab.caller(PUBLIC, "uac_refused", status=503, port=5064).done()
    first.done()
    callee.done()
    lab.finish()


def test_caller_that_never_acknowledges_is_hung_up_on(lab: Lab) -> None:
    lab.start()
    callee = lab.callee(PRIVATE)
    lab.caller(PUBLIC, "uac_no_ack").done(70)
    callee.done(70)
    lab.finish()


def _await_calls(lab: Lab, count: int) -> None:
    deadline = time.monotonic() + 40
    while lab.border.stats()["held.calls"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
