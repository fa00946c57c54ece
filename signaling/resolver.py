"""Where the servers of a name are: RFC 3263 over NAPTR, SRV, A and AAAA.

`Resolver.resolve` is the procedure, bounded in time, queries and answers; `DnsQuery` asks the DNS by dnspython.
A literal address needs neither. Names of the hosts file win over the DNS, as people expect of their machine.
"""

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.NAPTR
import dns.rdtypes.IN.SRV
import dns.resolver

from signaling.errors import PeerError
from signaling.flow import Address

Kind = Literal["NAPTR", "SRV", "A", "AAAA"]

DEADLINE_S = 5.0
"""For a whole name with all its queries."""
QUERY_S = 1.5
"""For one query: a resolver that swallows NAPTR must leave time for the rest."""
SIP_PORT = 5060
MAX_RECORDS = 16
"""Records of one answer that are used."""
MAX_HOPS = 16
MAX_QUERIES = 40
"""Queries for one name: a hostile zone must not make us ask for ever."""
MIN_TTL_S = 5.0
MAX_TTL_S = 3600.0
HOSTS_TTL_S = 60.0
HOSTS_LIMIT = 256 * 1024

# RFC 3263 s.4.1: NAPTR service field -> transport. Only what we speak.
SERVICES = {"SIP+D2U": "udp", "SIP+D2T": "tcp"}


@dataclass(frozen=True, slots=True)
class Naptr:
    """A NAPTR record (RFC 3403)."""

    order: int
    preference: int
    flags: str
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


Record = Naptr | Srv | str
"""A and AAAA records are their address as text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The records of one query, none when there are none, and how long they may be kept."""

    records: tuple[Record, ...]
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Hop:
    """Where to send: transport and address."""

    transport: str
    address: Address


@dataclass(frozen=True, slots=True)
class Resolution:
    """The hops of a name in the order in which they are to be tried. `ttl_s` None: a literal, good for ever."""

    hops: tuple[Hop, ...]
    ttl_s: float | None = None


class ResolveError(PeerError):
    """A name that leads nowhere. RFC 3263 s.4.3: as if the server had answered 503."""

    def __init__(self, reason: str, rule: str = "name-not-resolved") -> None:
        super().__init__(503, reason, rule)


Query = Callable[[str, Kind], Awaitable[Answer]]


class Resolver:
    """Resolves names of servers.

    `query` asks the DNS and raises ResolveError when it fails (an empty answer is no failure). `transports` are
    those that we have, preferred first; `families` of IP (4, 6) that we can reach. `chance` gives a number in
    [0, 1) for the weights of SRV.
    """

    def __init__(
        self,
        query: Query | None = None,
        *,
        transports: Sequence[str] = ("udp", "tcp"),
        families: Sequence[Literal[4, 6]] = (4, 6),
        chance: Callable[[], float] = random.random,
        hosts: str = "/etc/hosts",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._query = query if query is not None else DnsQuery()
        self._transports = tuple(transports)
        self._families = tuple(families)
        self._chance = chance
        self._hosts = hosts
        self._deadline_s = deadline_s

    async def resolve(self, host: str, port: int | None = None, transport: str | None = None) -> Resolution:
        """The hops of `host`; raises ResolveError, after `deadline_s` at the latest."""
        literal = literal_address(host)
        if literal is not None:
            return Resolution((Hop(transport or "udp", (literal, port or SIP_PORT)),))
        local = hosts_addresses(self._hosts, host)
        local = tuple(one for one in local if (6 if ":" in one else 4) in self._families)
        if local:
            hops = tuple(Hop(transport or "udp", (one, port or SIP_PORT)) for one in local)
            return Resolution(hops[:MAX_HOPS], HOSTS_TTL_S)
        search = _Search(self._query, self._transports, self._families, self._chance)
        try:
            async with asyncio.timeout(self._deadline_s):
                hops = await search.server(host.rstrip("."), port, transport)
        except TimeoutError:
            raise ResolveError(
                f"the DNS did not answer within {self._deadline_s:g} s", "dns-timeout"
            ) from None
        if not hops:
            raise search.trouble or ResolveError("the name has no address")
        return Resolution(hops, min(MAX_TTL_S, max(MIN_TTL_S, search.ttl_s)))


class _Search:
    """The resolution of one name: counts its queries and keeps the shortest TTL."""

    def __init__(
        self,
        query: Query,
        transports: tuple[str, ...],
        families: tuple[Literal[4, 6], ...],
        chance: Callable[[], float],
    ) -> None:
        self.ttl_s = MAX_TTL_S
        self.trouble: ResolveError | None = None
        self._query = query
        self._transports = transports
        self._families = families
        self._chance = chance
        self._queries = 0

    async def server(self, host: str, port: int | None, transport: str | None) -> tuple[Hop, ...]:
        """RFC 3263 s.4.1 and s.4.2."""
        if port is not None:
            return await self._addresses(transport or "udp", host, port)
        if transport is not None:
            services = [(transport, f"_sip._{transport}.{host}")]
        else:
            services = await self._naptr(host)
            if not services:
                services = [(name, f"_sip._{name}.{host}") for name in self._transports]
        hops: list[Hop] = []
        found = False
        for name, service in services:
            records = await self._srv(service)
            found = found or records is not None
            for record in records or ():
                hops.extend(await self._addresses(name, record.target, record.port))
                if len(hops) >= MAX_HOPS:
                    return _unique(hops)
        if found:
            return _unique(hops)
        # s.4.2: no SRV at all, so the name itself has the addresses.
        return await self._addresses(transport or "udp", host, SIP_PORT)

    async def _naptr(self, host: str) -> list[tuple[str, str]]:
        records = [one for one in await self._ask(host, "NAPTR") if isinstance(one, Naptr)]
        usable = sorted(
            (one.order, one.preference, SERVICES[one.service.upper()], one.replacement)
            for one in records
            if one.flags.lower() == "s"
            and SERVICES.get(one.service.upper()) in self._transports
            and one.replacement not in ("", ".")
        )
        # RFC 3403 s.4.1: once an order has something for us, higher ones are not looked at.
        return [(name, where) for order, _, name, where in usable if order == usable[0][0]]

    async def _srv(self, service: str) -> list[Srv] | None:
        """The records in the order to try them; None when there are none."""
        records = [one for one in await self._ask(service, "SRV") if isinstance(one, Srv)]
        if not records:
            return None
        # RFC 2782: a single "." as target says that the service is decidedly not there.
        return weighted([one for one in records if one.target not in ("", ".") and one.port], self._chance)

    async def _addresses(self, transport: str, host: str, port: int) -> tuple[Hop, ...]:
        hops: list[Hop] = []
        for family in self._families:
            kind: Kind = "AAAA" if family == 6 else "A"
            for record in await self._ask(host, kind):
                if isinstance(record, str):
                    hops.append(Hop(transport, (record, port)))
        return tuple(hops[:MAX_HOPS])

    async def _ask(self, name: str, kind: Kind) -> tuple[Record, ...]:
        self._queries += 1
        if self._queries > MAX_QUERIES:
            self.trouble = ResolveError("the name leads to too many others", "dns-too-deep")
            return ()
        try:
            answer = await self._query(name, kind)
        except ResolveError as error:
            # A zone or a resolver that cannot do NAPTR or SRV may still have addresses: on with the next step.
            self.trouble = error
            return ()
        if answer.records:
            self.ttl_s = min(self.ttl_s, answer.ttl_s)
        return answer.records[:MAX_RECORDS]


def weighted(records: Sequence[Srv], chance: Callable[[], float]) -> list[Srv]:
    """SRV records in the order to try them: by priority, within it at random by weight (RFC 2782)."""
    ordered: list[Srv] = []
    for priority in sorted({one.priority for one in records}):
        # Those of weight 0 first, so that they have a small chance of being chosen first.
        left = sorted((one for one in records if one.priority == priority), key=lambda one: one.weight > 0)
        while left:
            mark = chance() * (sum(one.weight for one in left) + 1)
            running = 0
            for position, one in enumerate(left):
                running += one.weight
                if running >= int(mark):
                    ordered.append(left.pop(position))
                    break
    return ordered


def literal_address(host: str) -> str | None:
    """`host` in its usual spelling when it is an IP address, in brackets or without; None for a name."""
    try:
        return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return None


def hosts_addresses(path: str, host: str) -> tuple[str, ...]:
    """The addresses of a name in a hosts file (hosts(5)); none when the file cannot be read."""
    wanted = host.rstrip(".").lower()
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            text = file.read(HOSTS_LIMIT)
    except OSError:
        return ()
    found: list[str] = []
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        literal = literal_address(address)
        if literal is not None and wanted in (name.lower() for name in names):
            found.append(literal)
    return tuple(dict.fromkeys(found))


def _unique(hops: Sequence[Hop]) -> tuple[Hop, ...]:
    return tuple(dict.fromkeys(hops))[:MAX_HOPS]


class DnsQuery:
    """Queries by dnspython to the servers of resolv.conf, each within `deadline_s`."""

    def __init__(
        self, deadline_s: float = QUERY_S, resolver: dns.asyncresolver.Resolver | None = None
    ) -> None:
        self._deadline_s = deadline_s
        self._resolver = resolver

    async def __call__(self, name: str, kind: Kind) -> Answer:
        """The records of `name`; ResolveError when the DNS fails."""
        try:
            if self._resolver is None:
                # Reads resolv.conf; here and not at start, so that a host without DNS can serve literals.
                self._resolver = dns.asyncresolver.Resolver()
            answer = await self._resolver.resolve(
                dns.name.from_text(name),
                dns.rdatatype.from_text(kind),
                raise_on_no_answer=False,
                lifetime=self._deadline_s,
                search=False,
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Answer((), MIN_TTL_S)
        except dns.exception.Timeout:
            raise ResolveError("the DNS did not answer", "dns-timeout") from None
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise ResolveError(f"the DNS failed for {kind}: {_first_line(error)}", "dns-failed") from None
        if answer.rrset is None:
            return Answer((), MIN_TTL_S)
        records = (_record(one) for one in list(answer.rrset)[:MAX_RECORDS])
        return Answer(tuple(one for one in records if one is not None), float(answer.rrset.ttl))


def _record(data: object) -> Record | None:
    match data:
        case dns.rdtypes.IN.NAPTR.NAPTR():
            return Naptr(
                data.order,
                data.preference,
                data.flags.decode("ascii", "replace"),
                data.service.decode("ascii", "replace"),
                data.replacement.to_text(omit_final_dot=True),
            )
        case dns.rdtypes.IN.SRV.SRV():
            return Srv(data.priority, data.weight, data.port, data.target.to_text(omit_final_dot=True))
        case dns.rdtypes.IN.A.A() | dns.rdtypes.IN.AAAA.AAAA():
            return str(data.address)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
