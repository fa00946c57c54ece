"""The kernel program for tests: compiled once a run, or the machine's reason why there is none."""

import functools
import tempfile
from pathlib import Path

import pytest

from media.fastpath.build import build
from media.fastpath.loader import obstacle


@functools.cache
def _compiled() -> tuple[tempfile.TemporaryDirectory[str], str | None]:
    directory = tempfile.TemporaryDirectory(prefix="fastpath-")
    return directory, build(Path(directory.name) / "rtp.bpf.o")


def compiled() -> Path:
    """The object file; skips the test where there is no compiler."""
    directory, failure = _compiled()
    if failure is not None and "not installed" in failure:
        pytest.skip(f"machine: {failure}")
    assert failure is None, failure
    return Path(directory.name) / "rtp.bpf.o"


def loadable() -> Path:
    """The object file; skips the test where this process may not load it, too."""
    path = compiled()
    reason = obstacle(path)
    if reason is not None and ("CAP_BPF" in reason or "no bpf system call" in reason):
        pytest.skip(f"machine: {reason}")
    assert reason is None, reason
    return path
