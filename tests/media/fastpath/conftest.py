"""The compiled program, and a kernel that takes it; tests that need them are skipped with the machine's reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from media.fastpath.loader import Loaded
from tests.harness import fastpath
from tests.media.fastpath.kernel import Kernel


@pytest.fixture
def compiled() -> Path:
    """The object file, compiled for this run."""
    return fastpath.compiled()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The program in this kernel, attached to nothing."""
    loaded = Loaded(fastpath.loadable())
    yield Kernel(loaded)
    loaded.close()
