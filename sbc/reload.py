"""A reload: the whole configuration is swapped, or nothing of it (`sbc reload`, SIGHUP).

First everything new is made ready beside what runs: sockets are bound, files opened, relay workers and TURN relays
started, addresses asked for. If anything of that cannot be had, all of it is let go again. Otherwise it comes into
force at once. Calls in progress, registered flows and transactions go on with what they began with; what of that is
not configured any more is looked after here until nobody uses it, and closed.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.diff import difference
from config.load import examine
from config.model import Config, Network
from config.problems import ConfigError, Problem
from media.fastpath.loader import FastPath, Unavailable, choose
from media.ports import overlap
from media.workers import WorkerRelay
from nat.interfaces import resolve
from sbc.cdr import CdrWriter
from sbc.control import ControlError, ControlSocket
from sbc.log import get_log
from sbc.media_policy import media_ranges, stun_hosts
from sbc.preflight import few_descriptors, summary
from sbc.sites import Sites
from sbc.store.bindings import BindingStore, path_of, users_of
from sbc.store.sqlite import StoreError
from sbc.users import Users
from signaling.flow import Listener, host_port
from signaling.transport.limits import TransportLimits
from signaling.transport.wires import ListenError, Staged, Unbound, cause_of

if TYPE_CHECKING:
    from sbc.server import Server

SWEEP_S = 1.0
"""How often it is looked whether what a reload has left over is still in use."""
SHARE = 50
"""With very many phones less often: looking takes one part in so many of the time at most."""


@dataclass(slots=True)
class Ready:
    """What a reload has made ready. None: what there is stays."""

    users: Users | None
    cdr: CdrWriter | None
    wires: Staged
    control: ControlSocket | None
    store: BindingStore | None
    relay: WorkerRelay | None
    kernel: FastPath | str
    learned: dict[str, str]


class Reloader:
    """Reloads of one server, one at a time. `adapt` is applied to what the file says."""

    def __init__(self, server: "Server", adapt: Callable[[Config], Config]) -> None:
        self._server = server
        self._adapt = adapt
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._reloaded = asyncio.Event()
        self._reloads = 0
        # Names of networks that there are or were: their pools may still be in use.
        self._names = set(server.config.networks)
        self._log = get_log("sbc.server")

    # -- asked for -----------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Reload soon. Nobody waits for an answer, so it goes to the log."""
        self._asked.set()

    async def attend(self) -> None:
        """Do what was asked for, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.reload()
            except ControlError as error:
                for line in str(error).splitlines():
                    self._log.error("reload refused", reason=line)

    async def reload(self) -> list[str]:
        """Read the file again: the whole of it or nothing. The changes as lines; raises ControlError."""
        async with self._lock:
            server = self._server
            self._reloads += 1
            fresh, users = self._read()
            changes = difference(server.config, fresh)
            async with contextlib.AsyncExitStack() as undo:
                ready = await self._make_ready(fresh, users, undo)
                if server.stopping:
                    raise ControlError("nothing was changed: the SBC is being stopped")
                self._turn_log(fresh)
                undo.pop_all()
            self._come_into_force(fresh, ready)
        for change in changes:
            self._log.info("reloaded", change=change)
        for warning in few_descriptors(fresh):
            self._log.warning(warning)
        return [
            f"{fresh.path}: reloaded, {summary(fresh)}",
            *(map(str, changes) if changes else ["no difference"]),
        ]

    def _read(self) -> tuple[Config, Users | None]:
        report = examine(self._server.config.path)
        if report.config is None:
            raise _refusal(*map(str, report.problems))
        try:
            fresh = self._numbered(self._adapt(resolve(report.config)))
            users = users_of(fresh)
        except (ConfigError, StoreError) as error:
            raise _refusal(str(error)) from error
        clash = overlap(media_ranges(fresh))
        if clash is not None:
            raise _refusal(clash)
        return fresh, users

    def _numbered(self, fresh: Config) -> Config:
        """The same, where networks whose media moves have other pools of ports than calls in progress have."""
        networks: dict[str, Network] = {}
        for name, network in fresh.networks.items():
            before = self._server.config.networks.get(name)
            moves = self._reloads if name in self._names else 0
            if before is not None and _place_of_media(before) == _place_of_media(network):
                moves = before.moves
            networks[name] = network.model_copy(update={"moves": moves})
        return fresh.model_copy(update={"networks": networks})

    # -- made ready ----------------------------------------------------------------------------------------

    async def _make_ready(self, fresh: Config, users: Users | None, undo: contextlib.AsyncExitStack) -> Ready:
        """Everything that can fail. `undo` lets go of it."""
        server = self._server
        wires, control = self._bind(fresh, undo)
        cdr = _open_cdr(fresh)
        if cdr is not None:
            undo.callback(cdr.close)
        store = None
        if path_of(fresh) != server.store.path:
            store = self._open_store(fresh)
            undo.callback(store.close)
        relay, kernel = self._start_relay(fresh, undo)
        learned = await server.own_addresses.preview(fresh)
        undo.callback(self._forget_turn)
        await server.turn.prepare(fresh)
        if relay is not None:
            await relay.up()
        return Ready(users, cdr, wires, control, store, relay, kernel, learned)

    def _bind(self, fresh: Config, undo: contextlib.AsyncExitStack) -> tuple[Staged, ControlSocket | None]:
        server = self._server
        problems = _unusable(fresh, server.config)
        wires: Staged | None = None
        try:
            wires = server.wires.stage(Sites(fresh).listeners)
            undo.callback(wires.abandon)
        except ListenError as error:
            problems += [_not_bound(fresh, unbound) for unbound in error.problems]
        control = None
        if fresh.control.socket != server.config.control.socket:
            try:
                control = ControlSocket(fresh.control.socket)
                undo.callback(control.close)
            except ControlError as error:
                problems.append(_problem(fresh, "control.socket", str(error).removeprefix("control.socket ")))
        if problems or wires is None:
            raise _refusal(*map(str, problems))
        return wires, control

    def _open_store(self, fresh: Config) -> BindingStore:
        server = self._server
        try:
            return BindingStore(fresh, server.loop, server.bindings_stored, server.calls.phones.secret)
        except StoreError as error:
            raise _refusal(_problem(fresh, "phones.store", str(error))) from error

    def _start_relay(
        self, fresh: Config, undo: contextlib.AsyncExitStack
    ) -> tuple[WorkerRelay | None, FastPath | str]:
        """Other workers where the configuration wants other ones, and what they leave to the kernel."""
        server, media, before = self._server, fresh.media, self._server.config.media
        hosts, hosts_before = (
            [host for host, *_ in media_ranges(one).values()] for one in (fresh, server.config)
        )
        workers = (media.workers, media.pin_workers, media.dscp) != (
            before.workers,
            before.pin_workers,
            before.dscp,
        )
        kernel = media.fastpath != before.fastpath or (media.fastpath != "off" and hosts != hosts_before)
        if not workers and not kernel:
            return None, server.kernel
        try:
            # Their own, since that of the others goes with them.
            fastpath = choose(media.fastpath, hosts)
        except Unavailable as error:
            wrong = f"it is on, and cannot be: {error}; write auto or off"
            raise _refusal(_problem(fresh, "media.fastpath", wrong)) from error
        if not workers and isinstance(fastpath, str) and isinstance(server.kernel, str):
            return None, fastpath
        if isinstance(fastpath, FastPath):
            undo.callback(fastpath.close)
        try:
            relay = WorkerRelay(
                server.loop,
                media.workers,
                dscp=media.dscp,
                fastpath=fastpath,
                soon=server.pump.soon,
                pin=media.pin_workers,
            )
        except OSError as error:
            wrong = f"relay processes cannot be started: {cause_of(error)}"
            raise _refusal(_problem(fresh, "media.workers", wrong)) from error
        undo.push_async_callback(relay.stop)
        return relay, fastpath

    def _forget_turn(self) -> None:
        self._server.turn.reconfigure(self._server.config)

    def _turn_log(self, fresh: Config) -> None:
        """The log goes on where the configuration says; the last thing that can fail."""
        log_file, before = self._server.log_file, self._server.config.log
        if log_file is None:
            return
        try:
            log_file.change(fresh.log.level, fresh.log.file)
            log_file.reopen()
        except OSError as error:
            log_file.change(before.level, before.file)
            raise _refusal(_problem(fresh, "log.file", f"{error.filename}: {error.strerror}")) from error
        finally:
            self._server.journal.heed()

    # -- in force ------------------------------------------------------------------------------------------

    def _come_into_force(self, fresh: Config, ready: Ready) -> None:
        """Nothing in here waits or can fail."""
        server, now = self._server, self._server.loop.time()
        before = set(server.wires.bound)
        server.own_addresses.reconfigure(fresh, ready.learned)
        fresh = server.turn.apply(server.own_addresses.apply(fresh))
        server.wires.change(ready.wires, transport_limits(fresh))
        if ready.relay is not None:
            server.relay.succeed(ready.relay)
        server.kernel = ready.kernel
        server.relay.stun(stun_hosts(fresh))
        server.turn.reconfigure(fresh)
        server.pool.reconfigure(media_ranges(fresh), fresh.timers.port_quarantine_s)
        store, server.store = server.store, ready.store or server.store
        phones = server.calls.phones
        if ready.store is not None:
            phones.keep(ready.store.write if ready.store.lasting else None, ready.store.secret)
        server.calls.reload(fresh, now, ready.users)
        server.users = ready.users
        if ready.store is not None:
            server.restore_phones()
            # It writes what waits, which may take a while.
            server.loop.run_in_executor(None, store.close)
        server.config, cdr, server.cdr = fresh, server.cdr, ready.cdr
        if cdr is not None:
            cdr.close()
        if ready.control is not None and server.control is not None:
            server.control.move(ready.control)
        self._names.update(fresh.networks)
        self._tell_listeners(before)
        server.names.look_again()
        server.pump.rearm()
        self._reloaded.set()

    def _tell_listeners(self, before: set[Listener]) -> None:
        for listener in self._server.wires.bound:
            if listener not in before:
                self._log.info("listening", **_named(listener))
        for listener in self._server.wires.retired:
            if listener in before:
                self._log.info("listener takes nothing new any more", **_named(listener))

    # -- left over -----------------------------------------------------------------------------------------

    async def tidy_up(self) -> None:
        """Close what a reload has left over when it is not in use any more; for ever."""
        server = self._server
        while True:
            await self._reloaded.wait()
            self._reloaded.clear()
            pause = SWEEP_S
            while self._has_left_over:
                await asyncio.sleep(pause)
                began = server.loop.time()
                self._sweep()
                pause = max(SWEEP_S, SHARE * (server.loop.time() - began))
                await server.relay.sweep()

    @property
    def _has_left_over(self) -> bool:
        server = self._server
        return bool(
            server.wires.retired or server.calls.sites.former or server.relay.former or server.turn.leaving
        )

    def _sweep(self) -> None:
        server = self._server
        flows = server.calls.flows_in_use()
        for listener in server.wires.release(flows):
            self._log.info("listener closed", **_named(listener))
        server.calls.forget(flows, server.wires.retired)
        server.turn.sweep()


# -- what is wrong ---------------------------------------------------------------------------------------------


def _refusal(*problems: object) -> ControlError:
    return ControlError("\n".join(["nothing was changed:", *map(str, problems)]))


def _problem(config: Config, key: str, message: str) -> Problem:
    return Problem(config.path, *config.position(key), key, message)


def _not_bound(config: Config, unbound: Unbound) -> Problem:
    """Where the file wants a listener that cannot be opened."""
    listener = unbound.listener
    network = config.networks[listener.network]
    key = f"networks.{network.name}.listen"
    for number, listen in enumerate(network.listen):
        if (listen.transport, listen.port) == (listener.transport, listener.local[1]):
            key = f"{key}[{number}]"
            break
    if unbound.number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        key = f"networks.{network.name}.{'address6' if listener.local[0] == network.address6 else 'address'}"
    where = f"{listener.transport}:{host_port(listener.local)}"
    return _problem(config, key, f"cannot listen on {where}: {unbound.cause}")


def _unusable(config: Config, before: Config) -> list[Problem]:
    """Addresses for media that cannot be bound; those for SIP show themselves."""
    known = {host for network in before.networks.values() for host in network.media_addresses}
    problems = []
    for network in config.networks.values():
        for host in network.media_addresses:
            if host in known or host in network.sip_addresses:
                continue
            try:
                with socket.socket(
                    socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
                ) as probe:
                    probe.bind((host, 0))
            except OSError as error:
                name = "media_address6" if host == network.media_address6 else "media_address"
                wrong = f"cannot bind media ports of {host}: {cause_of(error)}"
                problems.append(_problem(config, f"networks.{network.name}.{name}", wrong))
    return problems


def _open_cdr(config: Config) -> CdrWriter | None:
    try:
        return open_cdr(config)
    except OSError as error:
        raise _refusal(_problem(config, "log.cdr", f"{error.filename}: {error.strerror}")) from error


# -- what a configuration says ---------------------------------------------------------------------------------


def open_cdr(config: Config) -> CdrWriter | None:
    """The file for call records. Raises OSError."""
    return CdrWriter(config.log.cdr) if config.log.cdr is not None else None


def transport_limits(config: Config) -> TransportLimits:
    """The bounds of SIP's transports."""
    limits = config.limits
    return TransportLimits(
        max_message_bytes=limits.max_message_bytes,
        connections=limits.tcp_connections,
        connections_per_source=limits.tcp_connections_per_source,
        idle_s=limits.tcp_idle_s,
    )


def _place_of_media(network: Network) -> tuple[object, ...]:
    turn = network.turn
    return network.media_addresses, None if turn is None else (turn.server, network.address)


def _named(listener: Listener) -> dict[str, object]:
    return {
        "network": listener.network,
        "transport": listener.transport,
        "local": host_port(listener.local),
    }
