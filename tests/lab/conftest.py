"""Fixtures of the lab; all of it is skipped with the machine's reason where it cannot run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.namespaces import obstacle


@pytest.fixture(scope="session")
def machine() -> None:
    """Skips when this machine has no namespaces or no SIPp."""
    reason = obstacle("sipp", "tcpdump", "ss")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def machine_with_phones(machine: None) -> None:
    """Skips when there is no baresip either."""
    reason = obstacle("baresip")
    if reason:
        pytest.skip(reason)


@pytest.fixture
def lab(machine: None, tmp_path: Path) -> Iterator[Lab]:
    """A fresh lab, without an SBC yet."""
    with Lab(tmp_path) as fresh:
        yield fresh
