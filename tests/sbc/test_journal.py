"""What the log says of calls: a line for each event, whose a message is, a bug once in full."""

import io
from collections.abc import Iterator

import pytest

from sbc import journal
from sbc.journal import REFUSALS_PER_S, Journal, call_id_of
from sbc.log import LogFile, get_log
from sbc.record import CallRecord
from signaling.flow import Flow
from tests.harness.border import Border, audio, established, hang_up, pair


class Written:
    """A log that is read back."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.file = LogFile("info", None, self.stream)
        self.journal = Journal(get_log("sbc.test"))

    def lines(self) -> list[str]:
        """Without the time, which the formatter's own test looks at."""
        found = [line.partition(" ")[2] for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return found

    def border(self, config: str | None = None) -> Border:
        border = Border() if config is None else Border(config)
        border.calls.board.on_event = self.journal.event
        return border


@pytest.fixture
def written() -> Iterator[Written]:
    log = Written()
    yield log
    log.file.close()


def end(written: Written, border: Border) -> CallRecord:
    record = border.records[-1]
    written.journal.ended(record, record.ended_at or 0.0)
    return record


def test_a_call_is_a_line_for_each_event(written: Written) -> None:
    border = written.border()
    alice, bob = pair(border)
    answer, _ = established(border, alice, bob)
    border.advance(10)
    hang_up(border, alice, bob, answer)
    call = end(written, border).id
    assert written.lines() == [
        f"INFO call came call={call} leg=a caller=100 called=200 network=public peer=udp:203.0.113.77:5070",
        f"INFO call ringing call={call} leg=b1 after_s=0.000",
        f"INFO call answered call={call} leg=b1 trunk=pbx server=udp:10.0.0.20:5060 after_s=0.000",
        f"INFO call ended call={call} leg=- by=a cause=bye status=200 lasted_s=10.000",
    ]


def test_ringing_is_said_once(written: Written) -> None:
    border = written.border()
    alice, bob = pair(border)
    alice.invite()
    invite = bob.expect("INVITE")
    bob.answer(invite, 180, "Ringing")
    bob.answer(invite, 183, "Session Progress", sdp=audio("10.0.0.20"))
    assert [line.split(" call=")[0] for line in written.lines()] == ["INFO call came", "INFO call ringing"]


def test_a_server_that_does_not_take_a_call_is_named(written: Written) -> None:
    border = written.border()
    alice, bob = pair(border)
    alice.invite()
    bob.answer(bob.expect("INVITE"), 486, "Busy Here")
    alice.expect_answer(486)
    border.at_rest()
    call = end(written, border).id
    _, tried, failed = written.lines()
    assert tried == (
        f"INFO server did not take the call call={call} leg=b1 trunk=pbx server=udp:10.0.0.20:5060"
        ' status=486 reason="Busy Here" rule=peer-rejected'
    )
    assert failed.startswith(f"INFO call failed call={call} leg=- by=b cause=peer-rejected status=486")


def test_a_server_without_an_answer_is_a_warning(written: Written) -> None:
    border = written.border()
    alice, _ = pair(border)
    alice.invite()
    border.advance(70)
    assert any(
        line.startswith("WARNING server did not take the call") and "rule=server-timeout" in line
        for line in written.lines()
    )


def test_a_refused_call_tells_its_rule(written: Written) -> None:
    border = written.border()
    border.agent("private", "10.9.9.9:5060").invite()
    border.advance(70)
    call = end(written, border).id
    assert written.lines()[-1] == (
        f'INFO call refused call={call} leg=a status=403 reason="No Route For This Source"'
        " rule=no-route-for-source caller=100 called=200 network=private peer=udp:10.9.9.9:5060"
    )


def test_a_full_border_is_a_warning_and_a_flood_is_summed_up(written: Written) -> None:
    record = CallRecord("c-1", 100.0)
    record.end(100.0, "sbc", "max-calls", "Too Many Calls", 503, "max-calls")
    for _ in range(REFUSALS_PER_S + 5):
        written.journal.ended(record, 100.5)
    lines = written.lines()
    assert len(lines) == REFUSALS_PER_S
    assert lines[0].startswith('WARNING call refused call=c-1 leg=a status=503 reason="Too Many Calls"')
    written.journal.ended(record, 101.0)
    assert written.lines()[0].endswith("refusals_not_logged=5")


def test_leaks_are_a_warning(written: Written) -> None:
    record = CallRecord("c-1", 100.0)
    record.answered(101.0, "b1")
    record.leaks = 2
    record.end(110.0, "a", "bye", "", 200, "bye")
    written.journal.ended(record, 110.0)
    warning, _ = written.lines()
    assert warning.startswith("WARNING topology: parts of the other side were about to leave call=c-1")
    assert 'leaks=2 see="sbc explain c-1"' in warning


def test_messages_are_marked_with_their_call_and_leg(written: Written) -> None:
    written.file.change("debug", None)
    written.journal.heed()
    border = written.border()
    alice, _ = pair(border)

    def hear(data: bytes, flow: Flow) -> bool:
        written.journal.sent(data, flow, list(border.calls.live.values()))
        return False

    border.lose = hear
    # Whose an INVITE is can be told only after it was taken: until then nothing is written.
    written.journal.begin(
        b"INVITE sip:200@203.0.113.10 SIP/2.0\r\nCall-ID: " + alice.call_id.encode(), alice.flow, 0.0
    )
    alice.invite()
    (came,) = written.lines()
    assert came.startswith("INFO call came")
    (call,) = border.calls.live
    written.journal.finish(list(border.calls.live.values()))
    titles = [line for line in written.lines() if line.startswith("DEBUG ")]
    assert [title.split(" network=")[0] for title in titles] == [
        f"DEBUG < INVITE sip:200@203.0.113.10 SIP/2.0 call={call} leg=a",
        f"DEBUG > SIP/2.0 100 Trying call={call} leg=a",
        f"DEBUG > INVITE sip:200@10.0.0.20:5060 SIP/2.0 call={call} leg=b1",
    ]
    border.advance(0.6)
    again = next(line for line in written.lines() if line.startswith("DEBUG "))
    assert again.startswith(f"DEBUG > INVITE sip:200@10.0.0.20:5060 SIP/2.0 call={call} leg=b1")


@pytest.mark.parametrize(
    ("data", "call_id"),
    [
        (b"BYE x SIP/2.0\r\nCall-ID: a@b\r\n\r\n", "a@b"),
        (b"BYE x SIP/2.0\r\ni : a\r\n\r\n", "a"),
        (b"BYE x SIP/2.0\r\nTo: x\r\n\r\nCall-ID: body", ""),
        (b"", ""),
    ],
)
def test_the_call_id_of_a_raw_message(data: bytes, call_id: str) -> None:
    assert call_id_of(data) == call_id


@pytest.mark.source
def test_what_is_known_of_calls_is_bounded(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that are refused before they have a second leg are known by what they came with."""
    monkeypatch.setattr(journal, "NAMES_LIMIT", 10)
    written.file.change("debug", None)
    written.journal.heed()
    flow = Flow("public", "udp", ("203.0.113.10", 5060), ("203.0.113.77", 5070))
    for number in range(50):
        record = CallRecord(f"c-{number}", 0.0)
        record.add_leg("a", flow, None, f"call{number}")
        written.journal.event("came", record)
        assert len(written.journal._names) <= 10


def test_a_bug_has_its_traceback_once_and_is_counted(written: Written) -> None:
    for _ in range(100):
        try:
            raise ValueError("odd")
        except ValueError as error:
            written.journal.bug(error, met_by="timer")
    text = written.stream.getvalue()
    assert text.count("Traceback") == 1
    assert text.count("a bug of ours, again") == 2
    assert "times=100 met_by=timer" in text
    (kind,) = written.journal.bugs
    assert kind.startswith("bug.ValueError at test_journal.py:")
    assert written.journal.bugs[kind] == 100
