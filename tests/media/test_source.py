"""Learning a media source (design.md s.4.6), mode by mode, in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.source import (
    FREE_PACKETS,
    LOCKED,
    MAX_CANDIDATES,
    PASS,
    PROBATION,
    STRANGER,
    UNPROVEN,
    RtcpGate,
    Sockaddr,
    SourceGate,
)

NAMED = ("192.0.2.1", 4000)
SAME_HOST = ("192.0.2.1", 61000)
STRANGE = ("198.51.100.9", 4000)
PUBLIC = ("203.0.113.7", 61000)


class Line:
    """A gate and a source that sends one consistent stream per address."""

    def __init__(self, learn: str, expect: str | None = None, named: Sockaddr | None = NAMED) -> None:
        self.gate = SourceGate(10.0, 0.0)
        self.gate.configure(learn, named, expect, 0)
        self.seq: dict[Sockaddr, int] = {}

    def send(self, source: Sockaddr, packets: int = 1, now: float = 1.0, heard: float = 1.0) -> list[int]:
        verdicts = []
        for _ in range(packets):
            seq = self.seq[source] = self.seq.get(source, 0) + 1
            if source == self.gate.source:
                verdicts.append(PASS)
            else:
                verdicts.append(
                    self.gate.admit(source, hash(source), seq, now, heard, lambda ssrc, seq: False)
                )
        return verdicts


@pytest.mark.parametrize("learn", ["off", "port", "any"])
def test_the_signalled_address_locks_at_once_in_every_mode(learn: str) -> None:
    line = Line(learn)
    assert line.send(NAMED) == [LOCKED]
    assert line.send(STRANGE, 20) + line.send(SAME_HOST, 20) == [STRANGER] * 40
    assert line.gate.source == NAMED


def test_off_means_this_address_and_no_other() -> None:
    line = Line("off")
    assert line.send(SAME_HOST, 20) + line.send(STRANGE, 20) == [STRANGER] * 40
    assert Line("off", named=None).send(STRANGE, 20) == [STRANGER] * 20


def test_port_learns_another_port_of_the_signalled_host() -> None:
    line = Line("port")
    assert line.send(STRANGE, 20) == [STRANGER] * 20
    assert line.send(SAME_HOST, 6) == [PASS] * (PROBATION - 1) + [LOCKED, PASS]


def test_port_learns_from_the_expected_host_however_late() -> None:
    line = Line("port", expect=PUBLIC[0], named=("10.0.0.5", 4000))
    assert line.send(PUBLIC, PROBATION, now=1000.0)[-1] == LOCKED


def test_port_learns_from_the_signalled_host_beside_the_expected_one() -> None:
    line = Line("port", expect=PUBLIC[0], named=(SAME_HOST[0], 9))
    assert line.send(STRANGE, 20) == [STRANGER] * 20
    assert line.send(SAME_HOST, PROBATION)[-1] == LOCKED


def test_any_learns_a_stranger_only_after_its_probation_and_lets_nothing_pass_before() -> None:
    line = Line("any", named=None)
    assert line.send(STRANGE, 6) == [STRANGER] * (PROBATION - 1) + [LOCKED, PASS]


def test_any_learns_no_stranger_after_the_window() -> None:
    line = Line("any", named=None)
    assert line.send(STRANGE, 20, now=10.1) == [STRANGER] * 20


def test_any_gives_the_expected_host_the_first_word() -> None:
    line = Line("any", expect=PUBLIC[0], named=("10.0.0.5", 4000))
    assert line.send(STRANGE, 20, now=4.9) == [STRANGER] * 20
    assert line.send(PUBLIC, PROBATION, now=4.9)[-1] == LOCKED
    assert line.send(STRANGE, 20, now=6.0) == [STRANGER] * 20


def test_the_expected_host_takes_over_from_a_learned_stranger() -> None:
    line = Line("any", expect=PUBLIC[0], named=("10.0.0.5", 4000))
    assert line.send(STRANGE, PROBATION, now=6.0)[-1] == LOCKED
    assert line.send(PUBLIC, PROBATION, now=60.0)[-1] == LOCKED
    assert line.send(STRANGE, 20, now=61.0) == [STRANGER] * 20


def test_a_change_of_the_stream_makes_a_learned_stranger_prove_itself_again() -> None:
    line = Line("any", named=None)
    line.send(STRANGE, PROBATION)
    line.gate.restart_window(20.0)
    assert line.gate.source is None
    assert line.send(STRANGE, PROBATION, now=21.0)[-1] == LOCKED


def test_a_change_of_the_stream_keeps_an_expected_source() -> None:
    line = Line("port")
    line.send(SAME_HOST, PROBATION)
    line.gate.restart_window(20.0)
    assert line.gate.source == SAME_HOST


def test_a_new_epoch_forgets() -> None:
    line = Line("port")
    line.send(SAME_HOST, PROBATION)
    line.gate.configure("port", NAMED, None, 1)
    assert line.gate.source is None
    assert line.send(("192.0.2.1", 61002), PROBATION)[-1] == LOCKED


def test_the_same_epoch_keeps_the_source_though_the_address_changes() -> None:
    line = Line("port")
    line.send(SAME_HOST, PROBATION)
    line.gate.configure("port", ("192.0.2.1", 5000), None, 0)
    assert line.gate.source == SAME_HOST


def test_with_learning_off_a_new_address_is_a_new_source() -> None:
    line = Line("off")
    line.send(NAMED)
    line.gate.configure("off", STRANGE, None, 0)
    assert (line.send(NAMED), line.send(STRANGE)) == ([STRANGER], [LOCKED])


def test_a_probation_survives_loss_but_not_another_stream() -> None:
    gate = SourceGate(10.0, 0.0)
    gate.configure("any", None, None, 0)
    follows = bool

    def admit(ssrc: int, seq: int) -> int:
        return gate.admit(STRANGE, ssrc, seq, 1.0, 0.0, lambda ssrc, seq: follows(False))

    assert [admit(1, seq) for seq in (1, 2, 4, 9, 10)][-1] == LOCKED
    gate.forget()
    assert [admit(1, seq) for seq in (1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5)] == [STRANGER] * 10 + [LOCKED]
    gate.forget()
    assert [admit(ssrc, 5) for ssrc in range(50)] == [STRANGER] * 50
    assert [admit(1, 9) for _ in range(50)] == [STRANGER] * 50


def test_rebinding_needs_silence_the_same_host_and_the_same_stream() -> None:
    line = Line("port")
    line.send(NAMED)
    gate = line.gate

    def admit(source: Sockaddr, seq: int, quiet_s: float, same_stream: bool) -> int:
        return gate.admit(source, 7, seq, 100.0, 100.0 - quiet_s, lambda ssrc, seq: same_stream)

    assert {admit(SAME_HOST, seq, 0.5, True) for seq in range(10)} == {STRANGER}
    assert {admit(SAME_HOST, seq, 5.0, False) for seq in range(10)} == {STRANGER}
    assert {admit(STRANGE, seq, 5.0, True) for seq in range(10)} == {STRANGER}
    assert [admit(SAME_HOST, seq, 5.0, True) for seq in range(PROBATION)][-1] == LOCKED
    assert gate.source == SAME_HOST


def test_a_spray_from_many_ports_is_bounded_and_does_not_keep_a_sender_out() -> None:
    line = Line("any", named=None)
    verdicts: list[int] = []
    for turn in range(PROBATION):
        for port in range(30):
            line.gate.admit(
                (STRANGE[0], 1000 + turn * 100 + port), port, port, 1.0 + turn, 0.0, lambda s, q: False
            )
        verdicts += line.send(PUBLIC, now=1.0 + turn)
    assert verdicts[-1] == LOCKED
    line = Line("any", named=None)
    for port in range(1000, 60000, 7):
        line.gate.admit((STRANGE[0], port), 1, 1, 1.0, 0.0, lambda s, q: False)
    assert len(line.gate._candidates or ()) <= MAX_CANDIDATES


@given(
    st.sampled_from(["off", "port", "any"]),
    st.lists(
        st.tuples(st.sampled_from([STRANGE, PUBLIC, SAME_HOST]), st.integers(0, 3), st.integers(0, 65535)),
        max_size=200,
    ),
)
def test_no_more_than_the_allowed_packets_pass_before_a_lock(
    learn: str, packets: list[tuple[tuple[str, int], int, int]]
) -> None:
    gate = SourceGate(10.0, 0.0)
    gate.configure(learn, ("192.0.2.1", 4000), None, 0)
    passed = 0
    for source, ssrc, seq in packets:
        verdict = gate.admit(source, ssrc, seq, 1.0, 1.0, lambda ssrc, seq: False)
        if verdict == LOCKED:
            assert gate.source == source and learn != "off"
            break
        passed += verdict == PASS
    assert passed <= FREE_PACKETS
    if learn == "off":
        assert passed == 0 and gate.source is None


def test_rtcp_comes_from_the_signalled_address_or_the_host_of_rtp() -> None:
    gate = RtcpGate()
    gate.configure("port", ("192.0.2.1", 4001))
    assert gate.judge(("192.0.2.1", 61001), None, 1.0) == STRANGER
    assert gate.judge(("192.0.2.1", 4001), None, 1.0) == PASS
    assert gate.source is None, "no more than judged"
    gate.lock(("192.0.2.1", 4001), 1.0)
    gate.follow(PUBLIC)
    assert gate.source is None
    assert gate.judge(("192.0.2.1", 4001), PUBLIC, 2.0) == STRANGER
    assert gate.judge((PUBLIC[0], 61001), PUBLIC, 2.0) == UNPROVEN, (
        "any phone behind that NAT may have sent it"
    )
    gate.lock((PUBLIC[0], 61001), 2.0)
    assert gate.judge((PUBLIC[0], 61001), PUBLIC, 2.5) == PASS
    assert gate.judge((PUBLIC[0], 61003), PUBLIC, 2.5) == STRANGER
    assert gate.judge(STRANGE, PUBLIC, 2.5) == STRANGER
    assert gate.judge((PUBLIC[0], 61003), PUBLIC, 4.0) == UNPROVEN


def test_rtcp_with_learning_off_is_only_the_signalled_address() -> None:
    gate = RtcpGate()
    gate.configure("off", ("192.0.2.1", 4001))
    assert gate.judge(("192.0.2.1", 4003), NAMED, 1.0) == STRANGER
    assert gate.judge(("192.0.2.1", 4001), NAMED, 1.0) == PASS
