"""The tables of the terminal."""

import io

import pytest
from rich.console import Console

from sbc.live import calls_table, duration, print_once, print_trunks

ROW: dict[str, object] = {
    "id": "c-1", "state": "up", "source": "public", "caller": "alice", "target": "pbx", "called": "100",
    "lasted_s": 75.2, "codec": "PCMU", "cause": "", "mos": "4.4/4.4", "loss": "0.0/12.5", "packets": "3760/3290",
    "source_network": "public", "target_network": "private",
}  # fmt: skip


def console(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, color_system=None)


def shown(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_a_call_is_a_row() -> None:
    out = console()
    print_once({"calls": [ROW], "summary": "1 in progress"}, out)
    lines = shown(out).splitlines()
    assert lines[1].split() == [
        "c-1", "up", "1:15", "alice", "->", "100", "public", "->", "private/pbx", "PCMU", "3760/3290", "0.0/12.5",
        "4.4/4.4",
    ]  # fmt: skip
    assert lines[2].strip() == "1 in progress"


def test_a_row_at_80_columns_keeps_who_how_long_and_how_well() -> None:
    out = console(80)
    row = {**ROW, "id": "c-12345678", "state": "ringing", "lasted_s": 3725, "caller": "+4930123456789"}
    print_once({"calls": [row], "summary": ""}, out)
    lines = shown(out).splitlines()
    assert all(len(line) <= 80 for line in lines)
    for word in (
        "c-12345678",
        "ringing",
        "1:02:05",
        "+493012",
        "public -> pbx",
        "PCMU",
        "4.4/4.4",
    ):
        assert word in lines[1]


def test_the_end_is_a_column_when_there_is_one() -> None:
    out = console()
    print_once({"calls": [{**ROW, "cause": "media-silence"}], "summary": ""}, out)
    assert "media-silence" in shown(out)


def test_what_a_peer_wrote_is_neither_markup_nor_control() -> None:
    out = console()
    print_once({"calls": [{**ROW, "caller": "[red]x[/red]\x1b[2J"}]}, out)
    assert "[red]x[/red]?[2J" in shown(out)


def test_more_rows_than_fit_are_counted() -> None:
    out = console()
    out.print(calls_table({"calls": [ROW] * 5, "summary": ""}, limit=2))
    assert "3 more (sbc calls --json shows all)" in shown(out)


def test_trunks_are_rows() -> None:
    out = console()
    server = {"trunk": "pbx", "network": "private", "server": "udp 10.0.0.20:5060", "state": "down", "calls": 2,
              "why": "no answer to OPTIONS"}  # fmt: skip
    print_trunks({"servers": [server]}, out)
    assert "no answer to OPTIONS" in shown(out)
    assert "registered as" not in shown(out)


def test_registrations_at_trunks_are_rows_below() -> None:
    out = console()
    up = {"trunk": "one", "user": "4930", "server": "udp:192.0.2.1:5060", "state": "registered",
          "expires_s": "3590", "next_s": "3000", "why": ""}  # fmt: skip
    down = {"trunk": "two", "user": "4940", "server": "", "state": "failed", "expires_s": "", "next_s": "12",
            "why": "udp:192.0.2.2:5060: realm x: the credentials are wrong"}  # fmt: skip
    print_trunks({"servers": [], "registered": [up, down]}, out)
    text = shown(out)
    assert "3590 s" in text and "registered" in text and "4930" in text
    assert "credentials" in text and "12 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75.9, "1:15"), (3725, "1:02:05"), (None, ""), ("x", "")]
)
def test_durations(seconds: object, text: str) -> None:
    assert duration(seconds) == text
