"""A worker that a command upsets: nobody suffers whom the command is not about."""

import asyncio
from pathlib import Path

import pytest

from media.relay import BindFailed, Layer
from tests.contract.relays import bench, end_for, rtp_of

pytestmark = pytest.mark.parametrize("make", ["reference"])


@pytest.mark.parametrize("name", ["stun", "fastpath", "library"])
def test_a_command_that_fails_is_not_taken_for_one_of_a_stream(make: str, name: str) -> None:
    """The first argument of these is a number here, and that of a stream by chance."""

    async def call() -> None:
        async with bench(make) as under_test:
            alice, a, bob, b, stream = await under_test.between("127.0.0.2", "127.0.0.3")
            rest = ("x", None, 5) if name == "fastpath" else ()
            under_test.relay._tell(under_test.relay._workers[0], (name, stream, *rest))
            await asyncio.gather(alice.stream(rtp_of(a), 5), bob.stream(rtp_of(b), 5))
            await under_test.settle()
            assert len(alice.received) == len(bob.received) == 5
            assert under_test.happened(BindFailed) == []
            reasons = [told.reason for told in under_test.happened(Layer)]
            assert len(reasons) == (name == "fastpath")
            assert all(each.startswith("a relay process cannot use the kernel's table: ") for each in reasons)

    asyncio.run(call())


def test_a_command_of_a_stream_that_fails_fails_the_stream(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            a, b = end_for(under_test.peer()), end_for(under_test.peer())
            stream = await under_test.open(a, b)
            under_test.relay._tell(under_test.relay._workers[0], ("change", stream, "a", ()))
            await under_test.until(lambda: under_test.happened(BindFailed))
            assert [failed.stream for failed in under_test.happened(BindFailed)] == [stream]

    asyncio.run(call())


def test_a_worker_can_do_no_more_than_any_user(make: str) -> None:
    async def call() -> None:
        async with bench(make) as under_test:
            await under_test.relay.up()
            (pid,) = under_test.relay.pids
            status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
            sets = dict(line.split() for line in status.splitlines() if line.startswith("Cap"))
            left = {int(sets[each], 16) for each in ("CapInh:", "CapPrm:", "CapEff:", "CapAmb:")}
            # CAP_NET_BIND_SERVICE: media ports may be below 1024.
            assert left <= {0, 1 << 10}

    asyncio.run(call())
