"""The names of trunk servers, asked for again when their answers have aged or the configuration has changed."""

import asyncio
import contextlib
import math
from collections.abc import Callable

from sbc.calls import Calls
from sbc.log import get_log
from sbc.names import LOOKUPS, resolver_for
from sbc.trunks import Lookup
from signaling.resolver import ResolveError

RETRY_S = 15.0
"""A name that could not be resolved is asked for again after this."""


class ServerNames:
    """Asks for as long as it runs; `told` is called after answers have come."""

    def __init__(self, calls: Calls, loop: asyncio.AbstractEventLoop, told: Callable[[], None]) -> None:
        self._calls = calls
        self._loop = loop
        self._told = told
        self._changed = asyncio.Event()
        self._log = get_log("sbc.server")

    def look_again(self) -> None:
        """The configuration has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Ask for ever."""
        due: dict[Lookup, float] = {}
        slots = asyncio.Semaphore(LOOKUPS)
        while True:
            self._changed.clear()
            due = {lookup: due.get(lookup, 0.0) for lookup in self._calls.trunks.lookups}
            late = [lookup for lookup, at in due.items() if at <= self._loop.time()]
            async with asyncio.TaskGroup() as questions:
                for lookup in late:
                    questions.create_task(self._resolve(lookup, due, slots))
            self._told()
            pause = min((at for at in due.values()), default=math.inf) - self._loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause) if pause < math.inf else None):
                    await self._changed.wait()

    async def _resolve(self, lookup: Lookup, due: dict[Lookup, float], slots: asyncio.Semaphore) -> None:
        try:
            async with slots:
                network = self._calls.config.networks.get(lookup.network)
                if network is None:
                    return  # a reload has just taken it away, and asks for what is left
                found = await resolver_for(network).resolve(lookup.host, lookup.port, lookup.transport)
        except ResolveError as error:
            self._calls.trunks.unresolved(lookup, error.reason)
            due[lookup] = self._loop.time() + RETRY_S
            self._log.warning("server not found", trunk=lookup.trunk, server=lookup.host, why=error.reason)
            return
        hops = [(hop.transport, hop.address) for hop in found.hops]
        self._calls.trunks.resolved(lookup, hops, self._loop.time())
        due[lookup] = math.inf if found.ttl_s is None else self._loop.time() + found.ttl_s
