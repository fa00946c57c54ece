"""`advertise: auto`: the address that peers reach us at, asked of STUN servers again and again.

    OwnAddresses.first()      asks once, before calls are taken; nobody waits longer than `FIRST_S`
    OwnAddresses.preview()    the same for what a reload brings along, before it comes into force
    OwnAddresses.run()        asks every `REFRESH_S`, and says when an answer differs from the one before
    OwnAddresses.apply()      a configuration that knows what has been learned

An address that was learned stays when servers fall silent: calls do not need them.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence

from config.model import AUTO, Config, Network
from nat.address import is_behind_nat
from nat.binding import BindingClient, State
from sbc.log import get_log
from sbc.names import resolver_for
from signaling.flow import Address
from signaling.resolver import ResolveError

REFRESH_S = 60.0
"""Time between two questions: so long a change of the address may stay unnoticed."""
RETRY_S = 10.0
"""The same after a question without an answer."""
FIRST_S = 3.0
"""How long the start waits for the first answer."""
MAX_ADDRESSES = 8
"""Addresses of STUN servers that are asked for one answer."""
_MAX_DATAGRAM = 2048


class NotFoundError(Exception):
    """No server told our address; the text says why."""


class OwnAddresses:
    """The addresses of the networks with `advertise: auto`.

    `changed(network, address)` is called from `run`, after `apply` knows the new address.
    """

    def __init__(
        self,
        config: Config,
        changed: Callable[[str, str], None],
        refresh_s: float = REFRESH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._networks = dict(config.networks)
        self._changed = changed
        self._refresh_s = refresh_s
        self._retry_s = retry_s
        self._learned: dict[str, str] = {}
        self._failing: set[str] = set()
        self._asked: dict[str, asyncio.Event] = {}
        self._askers: dict[str, asyncio.Task[None]] = {}
        self._renewed = asyncio.Event()
        self._log = get_log("sbc.own_address")

    def apply(self, config: Config, learned: Mapping[str, str] | None = None) -> Config:
        """The same configuration with the learned addresses, or those of `preview`."""
        known = self._learned if learned is None else learned
        networks = {
            name: network.model_copy(update={"learned": known[name]})
            if network.advertise == AUTO and name in known
            else network
            for name, network in config.networks.items()
        }
        return config.model_copy(update={"networks": networks})

    async def preview(self, config: Config, seconds: float = FIRST_S) -> dict[str, str]:
        """What `reconfigure` is to know: for networks whose question is another than before, it is asked now."""
        found = {
            name: address for name, address in self._learned.items() if self._asks_the_same(config, name)
        }

        async def ask_one(network: Network) -> None:
            with contextlib.suppress(NotFoundError):
                found[network.name] = (await find(network))[0]

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as questions:
                for name, network in config.networks.items():
                    if network.advertise == AUTO and not self._asks_the_same(config, name):
                        questions.create_task(ask_one(network))
        return found

    def _asks_the_same(self, config: Config, name: str) -> bool:
        before, after = self._networks.get(name), config.networks.get(name)
        return before is not None and after is not None and _question(before) == _question(after)

    def reconfigure(self, config: Config, learned: dict[str, str] | None = None) -> None:
        """Another configuration, or the same: who reloads it wants all addresses asked for now.

        `learned` is what `preview` has found out for it.
        """
        if learned is not None:
            self._learned = {name: learned[name] for name in config.networks if name in learned}
        self._networks = dict(config.networks)
        self._failing &= self._networks.keys()
        for event in self._asked.values():
            event.set()
        self._renewed.set()

    async def first(self, seconds: float = FIRST_S) -> None:
        """Ask for every address, until all have answered or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as questions:
                for name in self._networks:
                    questions.create_task(self._ask(name))
        self.warn()

    def warn(self) -> None:
        """Say which addresses are not known."""
        for name, network in self._networks.items():
            if network.advertise == AUTO and name not in self._learned:
                self._log.warning(
                    "own address not known yet: peers are told the local one",
                    network=name,
                    told=network.address,
                )

    async def run(self) -> None:
        """Ask for ever."""
        async with asyncio.TaskGroup() as askers:
            while True:
                for name, asker in list(self._askers.items()):
                    if name not in self._networks or asker.done():
                        self._askers.pop(name).cancel()
                        del self._asked[name]
                for name in self._networks.keys() - self._askers.keys():
                    self._asked[name] = asyncio.Event()
                    self._askers[name] = askers.create_task(self._keep_asking(name))
                self._renewed.clear()
                await self._renewed.wait()

    async def _keep_asking(self, name: str) -> None:
        # `first` has just asked; where it got no answer, the next question is due at once.
        pause: float | None = self._refresh_s if name in self._learned else 0.0
        asked = self._asked[name]
        while (network := self._networks.get(name)) is not None:
            if network.advertise != AUTO:
                pause = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await asked.wait()
            asked.clear()
            if name in self._networks:
                pause = self._refresh_s if await self._ask(name) else self._retry_s

    async def _ask(self, name: str) -> bool:
        """One question; whether it was answered."""
        network = self._networks[name]
        if network.advertise != AUTO:
            return True
        try:
            address, server = await find(network)
            before = self._learned.get(name)
            if before not in (None, address) and (await find(network))[0] != address:
                # A NAT with several addresses takes any of them: following each would help nobody.
                self._log.warning("own address is not steady", network=name, kept=before, seen=address)
                return True
        except NotFoundError as error:
            if name not in self._failing:
                self._failing.add(name)
                self._log.warning("own address not found", network=name, why=error)
            return False
        if name in self._failing:
            self._failing.discard(name)
            self._log.info("own address found again", network=name, address=address)
        now = self._networks.get(name)
        if address == before or now is None or _question(now) != _question(network):
            return True
        self._learned[name] = address
        self._log.info("own address", network=name, address=address, was=before or "-", server=server)
        if is_behind_nat(address) and not is_behind_nat(server):
            self._log.warning("own address is private: peers outside cannot reach it", network=name)
        self._changed(name, address)
        return True


async def find(network: Network) -> tuple[str, str]:
    """Our address as a STUN server of the network sees it, and that server. Raises NotFoundError."""
    servers, troubles = await _servers(network)
    if not servers:
        raise NotFoundError("; ".join(troubles))
    try:
        client = await ask(servers, network.address)
    except OSError as error:
        raise NotFoundError(f"{network.address}: {error.strerror}") from error
    if client.mapped is None or client.server is None:
        raise NotFoundError("; ".join((*troubles, *client.failures)))
    return client.mapped[0], client.server[0]


async def ask(servers: Sequence[Address], local: str) -> BindingClient:
    """Run a search to its end, from a port of `local` that the system chooses."""
    loop = asyncio.get_running_loop()
    client = BindingClient(servers, secrets.token_bytes)
    # Bound, so that a host with several addresses asks from the one that peers are to reach.
    with socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((local, 0))
        asks = client.begin(loop.time())
        while True:
            for one in asks:
                # No route now may be one at the next transmission.
                with contextlib.suppress(OSError):
                    sock.sendto(one.data, one.server)
            due = client.next_timer()
            if client.state is not State.ASKING or due is None:
                return client
            try:
                async with asyncio.timeout_at(due):
                    # `sock_recvfrom` does not suspend while data waits: a flood must not stop the loop.
                    await asyncio.sleep(0)
                    data, source = await loop.sock_recvfrom(sock, _MAX_DATAGRAM)
                asks = client.receive(data, (source[0], source[1]), loop.time())
            except TimeoutError:
                asks = client.handle_timer(loop.time())
            except OSError:
                asks = []  # ICMP: the server is not there; its timer says so in the end


async def _servers(network: Network) -> tuple[list[Address], list[str]]:
    """The addresses of the STUN servers of our family, and what was wrong with the others."""
    resolver = resolver_for(network)
    found: list[list[Address]] = []
    troubles: list[str] = []
    for server in network.stun_servers:
        try:
            hops = (await resolver.resolve(server.host, server.port, "udp")).hops
        except ResolveError as error:
            troubles.append(f"{server.host}: {error.reason}")
            continue
        same = [hop.address for hop in hops if (":" in hop.address[0]) == (":" in network.address)]
        if same:
            found.append(same)
        else:
            troubles.append(f"{server.host}: no address of the family of {network.address}")
    # One address of every server before the second of any.
    depth = max(map(len, found), default=0)
    mixed = [addresses[n] for n in range(depth) for addresses in found if n < len(addresses)]
    return mixed[:MAX_ADDRESSES], troubles


def _question(network: Network) -> tuple[object, ...]:
    return network.advertise, network.stun_servers, network.address
