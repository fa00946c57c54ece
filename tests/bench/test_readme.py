"""The figures go where the front page has a place for them, the table of media among them."""

from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.media import bench as media


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A front page with both places filled, and loads that take no time."""
    page = tmp_path / "README.md"
    page.write_text(
        "above\n"
        "<!-- make bench -->\nold calls\n<!-- end of make bench -->\n"
        "between\n"
        "<!-- media bench -->\nold media\n<!-- end of media bench -->\n"
        "below\n"
    )
    monkeypatch.setattr(bench, "README", page)
    monkeypatch.setattr(bench, "missing", lambda *programs: [])
    monkeypatch.setattr(bench, "come_first", lambda pids=(): None)
    monkeypatch.setattr(bench, "_measure", lambda part, wanted, alone: [f"| {part} |"])
    monkeypatch.setattr(media, "obstacle", lambda: None)
    monkeypatch.setattr(media, "report", lambda *wanted: ["| load |", "| --- |", "| 200 x RTP |"])
    return page


CALLS = "<!-- make bench -->\n| measure |"
PACKETS = "<!-- media bench -->\n| load |\n| --- |\n| 200 x RTP |\n"


@pytest.mark.parametrize(
    ("only", "new", "kept"),
    [
        ("media", [PACKETS], ["old calls"]),
        ("calls,memory", [CALLS, "| calls |\n| memory |\n"], ["old media"]),
        ("calls,media", [CALLS, "| calls |\n", PACKETS], []),
    ],
)
def test_the_figures_of_a_run_replace_those_of_its_kind(
    readme: Path, only: str, new: list[str], kept: list[str]
) -> None:
    assert bench.main(["--only", only, "--readme"]) == 0
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("-->\nbelow\n")
    assert all(each in text for each in new)
    assert [each for each in ("old calls", "old media") if each in text] == kept
    assert text.count("Noise: ") == 2 - len(kept)


def test_what_could_not_be_measured_leaves_what_was(readme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "obstacle", lambda: "machine: network namespaces need root")
    before = readme.read_text()
    assert bench.main(["--only", "media", "--readme"]) == 0
    assert readme.read_text() == before


def test_the_front_page_has_both_places() -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    for place in (bench.PLACE, bench.MEDIA_PLACE):
        assert 0 < page.index(f"<!-- {place} -->\n") < page.index(f"<!-- end of {place} -->")


def test_without_root_or_compiler_there_is_no_table_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "missing", lambda *programs: [])
    monkeypatch.setattr(bench, "come_first", lambda pids=(): None)
    monkeypatch.setattr(media, "obstacle", lambda: "machine: network namespaces need root")
    assert bench.main(["--only", "media"]) == 0
    assert "Media bench: machine: network namespaces need root." in capsys.readouterr().out
