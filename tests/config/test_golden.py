"""Faulty files and what is said about each, word for word.

`tests/golden/config/NN-name.yaml` is the file, `NN-name.txt` what `examine` reports. After a wanted change of a
message: `python -m tests.config.test_golden` writes the texts again; read the difference before committing it.
"""

import os
import re
from pathlib import Path

import pytest

from config.load import examine

GOLDEN = Path(__file__).parents[1] / "golden" / "config"
SECRET = "horse-battery-staple"
FILES = sorted(GOLDEN.glob("*.yaml"))
PLACE = re.compile(r"[0-9]{2,3}-[a-z0-9-]+\.yaml:[1-9][0-9]*:[1-9][0-9]*: ")


def report(file: Path) -> str:
    """What is said about one file, with its path relative to the folder."""
    here = Path.cwd()
    os.chdir(GOLDEN)
    try:
        found = examine(file.name, {"SBC_TEST_SECRET": SECRET})
    finally:
        os.chdir(here)
    verdict = "refused" if found.config is None else "accepted"
    return "".join(f"{problem}\n" for problem in found.problems) + f"{verdict}\n"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_mistake_is_reported_with_its_place(file: Path) -> None:
    text = report(file)
    assert text == file.with_suffix(".txt").read_text()
    *problems, _ = text.splitlines()
    assert problems, "a golden file is there for a problem"
    assert all(PLACE.match(line) for line in problems)
    assert SECRET not in text


def test_there_are_enough_faulty_files() -> None:
    refused = [file for file in FILES if file.with_suffix(".txt").read_text().endswith("refused\n")]
    assert len(refused) >= 40


def test_no_text_is_left_over() -> None:
    assert {file.stem for file in FILES} == {file.stem for file in GOLDEN.glob("*.txt")}


if __name__ == "__main__":
    for each in FILES:
        each.with_suffix(".txt").write_text(report(each))
