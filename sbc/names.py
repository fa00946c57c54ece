"""The names of trunk servers: asking the DNS for them, a few at a time."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from config.model import Config, Network
from sbc.trunks import Lookup
from signaling.flow import Address
from signaling.resolver import ResolveError, Resolver

LOOKUPS = 8
"""Names that are asked for at a time: a hundred trunks must not flood the resolver of the host."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a lookup: (transport, address) in the order in which they are to be tried, or `why` not."""

    lookup: Lookup
    hops: tuple[tuple[str, Address], ...] = ()
    why: str = ""


def resolver_for(network: Network) -> Resolver:
    """A resolver for servers in `network`: only transports and address families that we have there."""
    return Resolver(
        transports=tuple(dict.fromkeys(listen.transport for listen in network.listen)),
        families=tuple({6 if ":" in address else 4: None for address in network.sip_addresses}),
    )


async def look_up(config: Config, lookups: Iterable[Lookup]) -> list[Found]:
    """Ask for all of them; each answers or fails within the resolver's deadline."""
    slots = asyncio.Semaphore(LOOKUPS)

    async def ask(lookup: Lookup) -> Found:
        async with slots:
            try:
                resolver = resolver_for(config.networks[lookup.network])
                found = await resolver.resolve(lookup.host, lookup.port, lookup.transport)
            except ResolveError as error:
                return Found(lookup, why=error.reason)
        return Found(lookup, tuple((hop.transport, hop.address) for hop in found.hops))

    async with asyncio.TaskGroup() as questions:
        asked = [questions.create_task(ask(lookup)) for lookup in lookups]
    return [task.result() for task in asked]
