"""The lab itself: it has no way past the border, and it sees what it is there to see."""

from pathlib import Path

import pytest

from tests.lab import sipp
from tests.lab.capture import Capture, leaks, secrets_of
from tests.lab.namespaces import PRIVATE, PUBLIC, SIDES, Namespaces
from tests.lab.sound import heard, tone, write_alaw

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("machine")]


def test_neither_side_has_a_way_to_the_other(tmp_path: Path) -> None:
    with Namespaces(tmp_path) as namespaces:
        for side, other in ((PUBLIC, PRIVATE), (PRIVATE, PUBLIC)):
            assert namespaces.reaches(side, SIDES[side].border)
            assert namespaces.reaches(side, SIDES[side].border6)
            for address in (SIDES[other].peer, SIDES[other].peer6, SIDES[other].border, SIDES[other].border6):
                assert not namespaces.reaches(side, address)


def test_nothing_is_left_on_the_machine(tmp_path: Path) -> None:
    with Namespaces(tmp_path) as namespaces:
        process = namespaces.start(PUBLIC, "sleeper", ["sleep", "60"])
        names = [namespaces.full_name(name) for name in (PUBLIC, PRIVATE)]
        assert all(Path(f"/run/netns/{name}").exists() for name in names)
    assert not process.running
    assert not any(Path(f"/run/netns/{name}").exists() for name in names)


def test_a_router_in_place_of_the_border_is_found_out(tmp_path: Path) -> None:
    """The same call without an SBC: audio passes, and so does everything that ought to be hidden."""
    audio = write_alaw(tmp_path / "tone.alaw", tone(400, 5.0))
    with Namespaces(tmp_path, routed=True) as namespaces:
        captures = {side: Capture(namespaces, side) for side in SIDES}
        callee = sipp.callee(namespaces, PRIVATE, "uas_call")
        words = sipp.Words(agent="a-public-phone", audio=audio, hold_ms=1500)
        target = f"{SIDES[PRIVATE].peer}:5060"
        sipp.caller(namespaces, PUBLIC, "uac_call", target, words=words).done()
        callee.done()
        for capture in captures.values():
            capture.stop()
    assert heard(captures[PRIVATE].audio(SIDES[PRIVATE].peer), 400) > 0.9
    secrets = secrets_of(captures[PUBLIC].messages()) | {SIDES[PUBLIC].peer}
    found = "\n".join(leaks(captures[PRIVATE].packets(), secrets))
    for secret in ("a-public-phone", SIDES[PUBLIC].peer, "uac1", "z9hG4bK"):
        assert secret in found


def test_a_scenario_that_is_not_kept_to_is_a_failure(tmp_path: Path) -> None:
    """SIPp against nobody: the harness must not take that for a success."""
    with Namespaces(tmp_path, routed=True) as namespaces:
        options = ("-max_retrans", "1", "-recv_timeout", "1500")
        target = f"{SIDES[PRIVATE].peer}:5060"
        caller = sipp.caller(namespaces, PUBLIC, "uac_options", target, options=options)
        with pytest.raises(AssertionError, match="exit status"):
            caller.done()
