"""The log of registrations: one line for what changes, bounded, and the store's trouble once."""

import io
from collections.abc import Iterator

import pytest

from sbc.log import LogFile, get_log
from sbc.phone_journal import LINES_PER_S, PhoneJournal
from sbc.registration_effects import Happened
from signaling.flow import Flow

FLOW = Flow("public", "udp", ("192.0.2.10", 5060), ("203.0.113.7", 40000))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    text = io.StringIO()
    file = LogFile("info", None, text)
    yield text
    file.close()


def journal() -> PhoneJournal:
    return PhoneJournal(get_log("sbc.test"))


def test_what_changes_has_a_line(lines: io.StringIO) -> None:
    written = journal()
    written.happened(Happened("registered", "alice", FLOW, "Via says 192.168.1.5"), 1.0)
    written.happened(Happened("refused", "bob", FLOW, "wrong-password"), 1.0)
    said = lines.getvalue()
    assert "phone registered" in said and "alice" in said and "203.0.113.7:40000" in said
    assert "WARNING" in said.splitlines()[1]


def test_a_flood_is_counted(lines: io.StringIO) -> None:
    written = journal()
    for _ in range(LINES_PER_S + 30):
        written.happened(Happened("registered", "alice", FLOW), 1.5)
    assert len(lines.getvalue().splitlines()) == LINES_PER_S
    written.happened(Happened("registered", "alice", FLOW), 2.0)
    assert "phones_not_logged=30" in lines.getvalue().splitlines()[-1]


def test_trouble_with_the_store_is_said_once(lines: io.StringIO) -> None:
    written = journal()
    for error in (None, "disk is full", "disk is full", None, None):
        written.stored(error)
    assert [line.split()[1] for line in lines.getvalue().splitlines()] == ["ERROR", "INFO"]
