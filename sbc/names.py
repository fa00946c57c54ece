"""The names of trunk servers turned into addresses: RFC 3263 with SRV, then what the host itself knows.

A face: it asks DNS. The answers are inputs of `sbc.trunks.Trunks`.
"""

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
from dns.rdtypes.IN.SRV import SRV

from sbc.trunks import Lookup
from signaling.flow import Address

Hop = tuple[str, Address]
"""(transport, address)."""

SIP_PORT = 5060
DEADLINE_S = 4.0
"""For one name, all questions together."""
SHORTEST_S = 30.0
LONGEST_S = 3600.0
HOSTS_S = 60.0
"""How long an answer of the host's own resolver is used, which does not tell its age."""
RETRY_S = 15.0
SRV_LIMIT = 8


class LookupFailed(Exception):
    """A name without an address; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Found:
    """The hops of a name in the order to be tried, and how long they are good for, in seconds."""

    hops: tuple[Hop, ...]
    good_s: float


class Names:
    """Resolves `Lookup`s. `families` are the address families that are of use: 4, 6 or both."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def find(self, lookup: Lookup, families: frozenset[int]) -> Found:
        """The hops of a name. Raises LookupFailed."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                # RFC 3263 s.4.2: an explicit port means no SRV.
                if lookup.port is None:
                    found = await self._by_srv(lookup, families)
                    if found is not None:
                        return found
                hops = await self._by_host(lookup, lookup.host, lookup.port or SIP_PORT, families)
        except TimeoutError as error:
            raise LookupFailed(f"no answer from DNS within {DEADLINE_S:g} s") from error
        if not hops:
            raise LookupFailed("the name has no address of a family that the network has")
        return Found(tuple((lookup.transport or "udp", address) for address in hops), HOSTS_S)

    async def _by_srv(self, lookup: Lookup, families: frozenset[int]) -> Found | None:
        for transport in (lookup.transport,) if lookup.transport else ("udp", "tcp"):
            records, good_s = await self._srv(f"_sip._{transport}.{lookup.host}")
            hops: list[Hop] = []
            for record in ordered(records, self._draw)[:SRV_LIMIT]:
                host = record.target.to_text(omit_final_dot=True)
                try:
                    addresses = await self._by_host(lookup, host, record.port, families)
                except LookupFailed:
                    continue
                hops.extend((transport, address) for address in addresses)
            if hops:
                return Found(tuple(hops), min(LONGEST_S, max(SHORTEST_S, good_s)))
        return None

    async def _srv(self, name: str) -> tuple[list[SRV], float]:
        try:
            if self._resolver is None:
                self._resolver = dns.asyncresolver.Resolver()
            answer = await self._resolver.resolve(name, dns.rdatatype.SRV, lifetime=DEADLINE_S / 2)
        except (dns.exception.DNSException, OSError):
            # No SRV, or nobody to ask: the host's own resolver has the next word.
            return [], 0.0
        records = [record for record in answer if isinstance(record, SRV) and record.target != dns.name.root]
        return records, float(answer.rrset.ttl if answer.rrset is not None else HOSTS_S)

    async def _by_host(self, lookup: Lookup, host: str, port: int, families: frozenset[int]) -> list[Address]:
        try:
            rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            raise LookupFailed(str(getattr(error, "strerror", None) or error)) from error
        addresses = dict.fromkeys((str(row[4][0]), port) for row in rows)
        return [address for address in addresses if (6 if ":" in address[0] else 4) in families]


def ordered(records: Sequence[SRV], draw: Callable[[], float]) -> list[SRV]:
    """By priority, and within one by chance in proportion to the weights (RFC 2782)."""
    result: list[SRV] = []
    for priority in sorted({record.priority for record in records}):
        rest = sorted((one for one in records if one.priority == priority), key=lambda one: one.weight)
        while rest:
            mark = draw() * sum(one.weight for one in rest)
            for one in rest:
                mark -= one.weight
                if mark <= 0:
                    break
            result.append(one)
            rest.remove(one)
    return result
