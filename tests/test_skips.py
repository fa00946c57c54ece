"""The rule of tests/conftest.py: in CI a skipped test fails, unless the machine is the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parent / "conftest.py"
ONE = "import pytest\n@pytest.mark.skip(reason={reason!r})\ndef test_it() -> None: ...\n"
WHOLE = "import pytest\npytest.skip({reason!r}, allow_module_level=True)\n"
INSIDE = "import pytest\ndef test_it() -> None:\n    pytest.skip({reason!r})\n"
EXPECTED = (
    "import pytest\n@pytest.mark.xfail(strict=True, reason={reason!r})\ndef test_it() -> None: assert False\n"
)


def exit_status(tmp_path: Path, source: str, reason: str, ci: str) -> int:
    """Of a pytest that runs this source below our conftest."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(source.format(reason=reason))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(CONFTEST.parents[1])},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    ).returncode


@pytest.mark.parametrize("source", [ONE, WHOLE, INSIDE])
def test_skip_without_a_reason_of_the_machine_fails_in_ci(tmp_path: Path, source: str) -> None:
    assert exit_status(tmp_path, source, "not today", ci="true") not in (0, 5)


@pytest.mark.parametrize("source", [ONE, WHOLE, INSIDE])
def test_skip_for_the_machine_is_allowed_in_ci(tmp_path: Path, source: str) -> None:
    assert exit_status(tmp_path, source, "machine: no sipp", ci="true") in (0, 5)


@pytest.mark.parametrize("source", [ONE, WHOLE, INSIDE])
def test_skip_at_home_is_allowed(tmp_path: Path, source: str) -> None:
    assert exit_status(tmp_path, source, "not today", ci="") in (0, 5)


def test_expected_failure_is_not_a_skip(tmp_path: Path) -> None:
    assert exit_status(tmp_path, EXPECTED, "known", ci="true") == 0
