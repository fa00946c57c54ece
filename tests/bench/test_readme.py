"""The figures go where the front page has a place for them, the table of media among them."""

from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.media import bench as media


def test_the_tables_replace_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{bench.BEGIN}old\n{bench.END}\nbelow\n")
    monkeypatch.setattr(bench, "README", readme)
    monkeypatch.setattr(bench, "missing", lambda *programs: [])
    monkeypatch.setattr(bench, "come_first", lambda pids=(): None)
    monkeypatch.setattr(media, "obstacle", lambda: None)
    monkeypatch.setattr(media, "report", lambda *wanted: ["| load |", "| --- |", "| 200 x RTP |"])
    assert bench.main(["--only", "media", "--readme"]) == 0
    above, table, below = readme.read_text().partition("| load |\n| --- |\n| 200 x RTP |\n")
    assert above.startswith("above\n<!-- make bench -->\n| measure |") and below.endswith("-->\nbelow\n")
    assert table and "old" not in readme.read_text()


def test_without_root_or_compiler_there_is_no_table_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "missing", lambda *programs: [])
    monkeypatch.setattr(bench, "come_first", lambda pids=(): None)
    monkeypatch.setattr(media, "obstacle", lambda: "machine: network namespaces need root")
    assert bench.main(["--only", "media"]) == 0
    assert "Media bench: machine: network namespaces need root." in capsys.readouterr().out
