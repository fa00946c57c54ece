"""The compiled program, and a kernel that takes it; tests that need them are skipped with the machine's reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from media.fastpath.build import build
from media.fastpath.loader import Loaded, obstacle
from tests.media.fastpath.kernel import Kernel


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object file, compiled for this run."""
    out = tmp_path_factory.mktemp("fastpath") / "rtp.bpf.o"
    failure = build(out)
    if failure is not None and "not installed" in failure:
        pytest.skip(f"machine: {failure}")
    assert failure is None, failure
    return out


@pytest.fixture
def kernel(compiled: Path) -> Iterator[Kernel]:
    """The program in this kernel, attached to nothing."""
    reason = obstacle(compiled)
    if reason is not None and "CAP_BPF" in reason:
        pytest.skip(f"machine: {reason}")
    loaded = Loaded(compiled)
    yield Kernel(loaded)
    loaded.close()
