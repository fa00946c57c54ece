"""A test of the kernel path runs in the namespace of the border."""

from collections.abc import Iterator

import pytest

from tests.contract import place
from tests.harness import fastpath
from tests.harness.netns import inside
from tests.lab.namespaces import obstacle


@pytest.fixture(scope="session")
def cable() -> Iterator[None]:
    """The two namespaces; skips where this machine cannot have them."""
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
    fastpath.loadable()
    try:
        place.build()
        yield
    finally:
        place.remove()


@pytest.fixture(autouse=True)
def _in_place(request: pytest.FixtureRequest) -> Iterator[None]:
    make = request.node.callspec.params.get("make") if hasattr(request.node, "callspec") else None
    if make != "kernel":
        yield
        return
    request.getfixturevalue("cable")
    with inside(place.BORDER):
        yield
