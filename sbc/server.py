"""`sbc run`: the process round the calls - sockets, timer, signals, reload, drain (design.md s.3, style.md s.3).

`Server` performs what the cores decide and arms the one timer. It leaves nothing behind: when `run` returns,
every call has got its BYE and its CDR, and all sockets, worker processes and files are closed.
"""

import asyncio
import contextlib
import math
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from config.diff import difference, needs_restart
from config.load import examine
from config.model import Config
from config.problems import ConfigError
from media.fastpath.loader import FastPath, Unavailable, choose
from media.relay import RelayEvent, StreamCounters, WorkerRestarted
from media.workers import WorkerRelay
from nat.binding import BindingServer
from nat.interfaces import resolve
from nat.stun import is_stun
from sbc import collector
from sbc.anchor import LocalAnchor
from sbc.calls import Calls
from sbc.cdr import CdrWriter
from sbc.control import ControlError, ControlServer
from sbc.journal import Journal
from sbc.log import LogFile, get_log
from sbc.media_policy import media_ranges, stun_hosts
from sbc.names import LOOKUPS, resolver_for
from sbc.operator import Operator
from sbc.own_address import OwnAddresses
from sbc.phone_journal import PhoneJournal
from sbc.preflight import StartError, few_descriptors, modules, summary
from sbc.record import CallRecord
from sbc.registration_effects import Happened
from sbc.sites import Sites
from sbc.store.bindings import BindingStore, users_of
from sbc.store.sqlite import StoreError
from sbc.supervision import Supervisor
from sbc.tokens import Tokens
from sbc.trunks import Lookup, ServerDown
from sbc.turn import TurnNetworks, TurnRelay
from signaling.flow import Flow, host_port
from signaling.resolver import ResolveError
from signaling.transport.limits import TransportLimits
from signaling.transport.wires import ListenError, Wires

GOODBYE_S = 5.0
"""How long the peers may take to answer our BYEs at the end."""
POLL_S = 0.05
"""How often a drain looks whether the last call is gone."""
RETRY_S = 15.0
"""A name that could not be resolved is asked for again after this."""
CLOSE_S = 5.0
"""How long the relay workers may take to end."""
TIMER_GRAIN_S = 0.05
"""Timers may be as late as this, a tenth of T1 (RFC 3261 s.17.1.1.1): what is due in it is done in one go."""


class Server:
    """One running SBC. `run` serves until `stop` is called; `ready` is set once calls are taken.

    `adapt` is applied to what a reload reads, as the caller applied it to `config`.
    """

    def __init__(
        self,
        config: Config,
        log_file: LogFile | None = None,
        adapt: Callable[[Config], Config] = lambda config: config,
    ) -> None:
        self.config = config
        self.ready = asyncio.Event()
        self._log = get_log("sbc.server")
        self._log_file = log_file
        self._adapt = adapt
        self._journal = Journal(get_log("sbc.calls"))
        self._phone_journal = PhoneJournal(get_log("sbc.phones"))
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._names_changed = asyncio.Event()
        self._supervisor = Supervisor()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        # First what may fail: a relay worker that was started has to be stopped.
        self._cdr = _open_cdr(config.log.cdr)
        try:
            self._users = users_of(config)
            self._store = BindingStore(config, self._loop, self._bindings_stored)
        except StoreError as error:
            raise StartError(str(error)) from error
        self._fastpath = _open_fastpath(config)
        self._relay = WorkerRelay(
            self._loop, config.media.workers, dscp=config.media.dscp, fastpath=self._fastpath
        )
        self._turn = TurnNetworks(config, self._loop, self._relay_address_changed)
        self._pool = self._turn.pool_for(media_ranges(config), config.timers.port_quarantine_s)
        streams = TurnRelay(self._relay, self._turn) if self._turn else self._relay
        self._anchor = LocalAnchor.of_config(config, self._pool, streams, self._loop.time)
        self._wires = Wires(Sites(config).listeners, self._receive, self._failed, _transport_limits(config))
        self.calls = Calls(
            config,
            self._send,
            self._anchor,
            wall=time.time,
            token=Tokens(),
            on_record=self._write_record,
            on_bug=self._journal.bug,
            on_event=self._journal.event,
            on_phone=self._phone_event,
            store=self._store.write if self._store.lasting else None,
            secret=self._store.secret,
            users=self._users,
        )
        streams.on_event = self._relay_event
        self._relay.stun(stun_hosts(config))
        self._own_addresses = OwnAddresses(config, self._own_address_changed)
        self._stun = BindingServer()

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open everything, serve until `stop`, drain, close everything. Raises StartError; called once."""
        try:
            await self._own_addresses.first()
            await self._turn.first()
            await self._relay.up()
            with contextlib.closing(self._open()) as control:
                async with asyncio.TaskGroup() as tasks:
                    attending = tasks.create_task(control.serve())
                    living = tasks.create_task(self._supervisor.keep_alive(self._status))
                    asking = tasks.create_task(self._resolve_names())
                    looking = tasks.create_task(self._own_addresses.run())
                    keeping = tasks.create_task(self._turn.run())
                    tidying = tasks.create_task(collector.attend(lambda: self.calls.idle))
                    self._announce()
                    await self._stopping.wait()
                    await self._drain()
                    for task in (attending, living, asking, looking, keeping, tidying):
                        task.cancel()
        finally:
            await self._close()

    def _open(self) -> ControlServer:
        try:
            self._wires.open()
            self._restore_phones()
            return ControlServer(self.config.control.socket, Operator(self).verbs())
        except (ListenError, ControlError) as error:
            raise StartError(str(error)) from error

    def _restore_phones(self) -> None:
        if self._users is not None and (stranded := self._users.stranded()):
            self._log.warning(
                "users cannot register: they have no hash for an algorithm of phones.digest",
                users=", ".join(stranded[:10]),
                count=len(stranded),
            )
        rows, self._store.rows = self._store.rows, []
        count = self.calls.phones.restore(rows, self._loop.time())
        if rows:
            self._log.info(
                "registrations are back", store=self.config.phones and self.config.phones.store, count=count
            )

    def stop(self) -> None:
        """Drain and end. Asked a second time: do not wait for the calls. A third time: do not wait for BYEs."""
        if self._stopping.is_set():
            self._log.info("stop asked for again: ending the calls now")
            self._hastened.set()
        self._stopping.set()

    def _announce(self) -> None:
        for listener in self._wires.bound:
            self._log.info(
                "listening",
                network=listener.network,
                transport=listener.transport,
                local=host_port(listener.local),
            )
        relay = f"reference, {len(self._relay.pids)} workers"
        code = modules()
        self._log.info(
            "ready", config=self.config.path, code=code, relay=relay, kernel=_kernel(self._fastpath)
        )
        self._rearm()
        self._supervisor.tell("READY=1", f"STATUS={self._status()}")
        self.ready.set()

    async def _drain(self) -> None:
        self._supervisor.tell("STOPPING=1")
        self.calls.drain(self._loop.time())
        waiting = len(self.calls.live)
        self._log.info("stopping: new calls get 503", calls=waiting, drain_s=self.config.timers.drain_s)
        await self._until_idle(self.config.timers.drain_s, hasten=True)
        ended = self.calls.hang_up(self._loop.time(), cause="drain", text="the border is being stopped")
        self._rearm()
        if ended:
            self._log.info("ended the calls that were left", calls=ended)
        await self._until_idle(GOODBYE_S, hasten=False)
        if not self.calls.idle:
            self._log.warning("stopped without the last answers", **dict(self.calls.leftovers()))

    async def _until_idle(self, seconds: float, hasten: bool) -> None:
        deadline = self._loop.time() + seconds
        while not self.calls.idle and self._loop.time() < deadline:
            if hasten and self._hastened.is_set():
                return
            await asyncio.sleep(POLL_S)

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wires.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._relay.stop()
        except TimeoutError:
            self._log.warning("relay workers did not end in time")
        await self._turn.stop()
        self._store.close()
        if self._cdr is not None:
            self._cdr.close()
        if self.ready.is_set():
            self._log.info("stopped")

    # -- names of trunk servers ----------------------------------------------------------------------------

    async def _resolve_names(self) -> None:
        """Look up the names of trunk servers, again when the answers have aged or the configuration has changed."""
        due: dict[Lookup, float] = {}
        slots = asyncio.Semaphore(LOOKUPS)
        while True:
            lookups = self.calls.trunks.lookups
            due = {lookup: due.get(lookup, 0.0) for lookup in lookups}
            late = [lookup for lookup, at in due.items() if at <= self._loop.time()]
            async with asyncio.TaskGroup() as questions:
                for lookup in late:
                    questions.create_task(self._resolve(lookup, due, slots))
            self._rearm()
            self._names_changed.clear()
            pause = min((at for at in due.values()), default=math.inf) - self._loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause) if pause < math.inf else None):
                    await self._names_changed.wait()

    async def _resolve(self, lookup: Lookup, due: dict[Lookup, float], slots: asyncio.Semaphore) -> None:
        resolver = resolver_for(self.config.networks[lookup.network])
        try:
            async with slots:
                found = await resolver.resolve(lookup.host, lookup.port, lookup.transport)
        except ResolveError as error:
            self.calls.trunks.unresolved(lookup, error.reason)
            due[lookup] = self._loop.time() + RETRY_S
            self._log.warning("server not found", trunk=lookup.trunk, server=lookup.host, why=error.reason)
            return
        hops = [(hop.transport, hop.address) for hop in found.hops]
        self.calls.trunks.resolved(lookup, hops, self._loop.time())
        due[lookup] = math.inf if found.ttl_s is None else self._loop.time() + found.ttl_s

    # -- what comes in -------------------------------------------------------------------------------------

    def _send(self, data: bytes, flow: Flow) -> None:
        if self._log.debugging:
            self._journal.sent(data, flow, self._known())
        self._wires.send(data, flow)

    def _receive(self, data: bytes, flow: Flow, age_s: float) -> None:
        if data[0] < 4 and is_stun(data):
            self._answer_stun(data, flow)
            return
        debugging = self._log.debugging
        if debugging:
            self._journal.begin(data, flow, age_s)
        try:
            self.calls.receive(data, flow, self._loop.time(), age_s)
        # The one broad except of this loop: a bug outside of any call must not end every call.
        except Exception as error:
            self._broken("message", error, **_named(flow))
        if debugging:
            self._journal.finish(self._known())
        self._rearm()

    def _answer_stun(self, data: bytes, flow: Flow) -> None:
        # RFC 5626 s.4.4.2: STUN beside SIP on one UDP port, told apart by the first byte. With it a phone that has
        # registered keeps its flow alive, and takes silence for the loss of it.
        phones = self.config.phones
        proven = phones is not None and phones.outbound and bool(self.calls.phones.locations.on_flow(flow))
        if flow.reliable or not (proven or self.config.networks[flow.network].stun):
            self._stun.dropped += 1
            return
        answer = self._stun.receive(data, flow.remote, self._loop.time(), proven)
        if answer is not None:
            self._wires.send(answer, flow)

    def _known(self) -> list[CallRecord]:
        return [*self.calls.live.values(), *reversed(self.calls.recent)]

    def _failed(self, flow: Flow) -> None:
        try:
            self.calls.transport_failed(flow, self._loop.time())
        except Exception as error:
            self._broken("transport failure", error, **_named(flow))
        self._rearm()

    def _relay_event(self, event: RelayEvent) -> None:
        if isinstance(event, WorkerRestarted):
            self._log.warning("relay worker restarted", worker=event.worker, streams=event.streams)
        try:
            self.calls.relay_event(event, self._loop.time())
        except Exception as error:
            self._broken("relay event", error, event=type(event).__name__)
        self._rearm()

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self.calls.handle_timer(self._loop.time())
        except Exception as error:
            self._broken("timer", error)
        self._rearm()

    def _rearm(self) -> None:
        for event in self.calls.trunks.take_events():
            down = isinstance(event, ServerDown)
            if not down:
                self.calls.phones.server_up(event.trunk, self._loop.time())
            tell = self._log.warning if down else self._log.info
            tell(
                f"server is {'down' if down else 'up'}",
                trunk=event.trunk,
                server=f"{event.transport}:{host_port(event.address)}",
                why=event.why,
            )
        for registration in self.calls.outbound.take_events():
            tell = self._log.info if registration.up else self._log.warning
            tell(
                "registered at trunk" if registration.up else "registration at trunk failed",
                trunk=registration.trunk,
                server=registration.server,
                why=registration.why,
            )
        timer = self._timer
        if timer is not None and timer.when() <= self._loop.time() + TIMER_GRAIN_S:
            return  # Whatever is due before it can wait for it.
        due = self.calls.next_timer()
        if due is None:
            return
        at = math.ceil(due / TIMER_GRAIN_S) * TIMER_GRAIN_S
        if timer is not None:
            # Waking too early costs a look; cancelling at every message costs more, and fills the loop's heap.
            if timer.when() <= at:
                return
            timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _phone_event(self, happened: Happened) -> None:
        self._phone_journal.happened(happened, self._loop.time())

    def _bindings_stored(self, ticket: int, error: str | None) -> None:
        self._phone_journal.stored(error)
        try:
            self.calls.phones.stored(ticket, error, self._loop.time())
        except Exception as bug:
            self._broken("store", bug)
        self._rearm()

    def _broken(self, what: str, error: Exception, **fields: object) -> None:
        self.calls.stats[f"bug:{type(error).__name__}"] += 1
        self._journal.bug(error, met_by=what, **fields)

    def _write_record(self, record: CallRecord) -> None:
        self._journal.ended(record, self.wall)
        if self._cdr is not None:
            self._cdr.write(record)

    # -- our own address -----------------------------------------------------------------------------------

    def _own_address_changed(self, network: str, address: str) -> None:
        """STUN has told another address than before: new calls have it, those in progress keep theirs."""
        self._readdress(self._own_addresses.apply(self.config), network, address)

    def _relay_address_changed(self, network: str, address: str) -> None:
        """A TURN relay has given us an address."""
        self._readdress(self._turn.apply(self.config), network, address)

    def _readdress(self, config: Config, network: str, address: str) -> None:
        self.config = config
        try:
            self.calls.reload(config, self._loop.time(), self._users)
        except Exception as error:
            self._broken("another address", error, network=network, address=address)
        self._rearm()

    # -- what the operator asks ----------------------------------------------------------------------------

    def reload(self) -> list[str]:
        """Read the file again: the whole of it or nothing. The changes as lines; raises ControlError."""
        report = examine(self.config.path)
        if report.config is None:
            raise ControlError("\n".join(["nothing was changed:", *map(str, report.problems)]))
        try:
            fresh = self._turn.apply(self._own_addresses.apply(self._adapt(resolve(report.config))))
            users = users_of(fresh)
        except (ConfigError, StoreError) as error:
            raise ControlError(f"nothing was changed:\n{error}") from error
        changes = difference(self.config, fresh)
        hindrances = needs_restart(changes)
        if hindrances:
            raise ControlError("\n".join(["nothing was changed:", *map(str, hindrances)]))
        try:
            cdr = _open_cdr(fresh.log.cdr)
            if self._log_file is not None:
                self._log_file.change(fresh.log.level, fresh.log.file)
                self._log_file.reopen()
        except OSError as error:
            raise ControlError(f"nothing was changed: {error.filename}: {error.strerror}") from error
        self._pool.reconfigure(media_ranges(fresh), fresh.timers.port_quarantine_s)
        self._relay.stun(stun_hosts(fresh))
        self.calls.reload(fresh, self._loop.time(), users)
        self._users = users
        self.config, old_cdr, self._cdr = fresh, self._cdr, cdr
        self._names_changed.set()
        self._own_addresses.reconfigure(fresh)
        if old_cdr is not None:
            old_cdr.close()
        self._rearm()
        for change in changes:
            self._log.info("reloaded", change=change)
        return [
            f"{fresh.path}: reloaded, {summary(fresh)}",
            *(map(str, changes) if changes else ["no difference"]),
        ]

    def hang_up(self, call: str) -> None:
        """End one call by hand."""
        self.calls.hang_up(self._loop.time(), call, cause="operator", text="ended by the operator")
        self._rearm()

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def registrations(self) -> list[dict[str, object]]:
        """The phones that are registered: a row each."""
        return self.calls.phones.rows(self._loop.time())

    def counters(self, streams: list[int]) -> Awaitable[list[StreamCounters]]:
        """Figures of open streams, from the relay."""
        return self._relay.query(streams)

    def servers(self) -> list[dict[str, str]]:
        """The servers of the trunks as they are now: a row each."""
        return self.calls.trunks.status(self._loop.time())

    def registered(self) -> list[dict[str, str]]:
        """Our registrations at trunks as they are now: a row each."""
        return self.calls.outbound.status(self._loop.time())

    def counts(self) -> dict[str, int | str]:
        """Counters since the start: calls and refusals, transports, the log; and what forwards media in the kernel."""
        transports = {f"transport.{name}": count for name, count in asdict(self._wires.counters).items()}
        dropped = 0 if self._log_file is None else self._log_file.dropped
        stun = {"stun.answered": self._stun.answered, "stun.dropped": self._stun.dropped}
        media = {
            "media.streams": len(self._relay),
            "media.in_kernel": self._relay.in_kernel,
            "media.kernel": _kernel(self._fastpath),
        }
        return {
            **self.calls.stats,
            **self._journal.bugs,
            **transports,
            **stun,
            **media,
            "log.dropped": dropped,
        }

    def _status(self) -> str:
        phones = f", {len(self.calls.phones.locations)} registrations" if self.config.phones else ""
        return f"{len(self.calls.live)} calls{phones}"


def _named(flow: Flow) -> dict[str, object]:
    return {"network": flow.network, "transport": flow.transport, "peer": host_port(flow.remote)}


def _open_cdr(path: str | None) -> CdrWriter | None:
    return CdrWriter(path) if path is not None else None


def _open_fastpath(config: Config) -> FastPath | str:
    hosts = [host for host, *_ in media_ranges(config).values()]
    try:
        return choose(config.media.fastpath, hosts)
    except Unavailable as error:
        raise StartError(f"media.fastpath is on, and cannot be: {error}; write auto or off") from error


def _kernel(fastpath: FastPath | str) -> str:
    """What the kernel forwards, for the log."""
    if isinstance(fastpath, str):
        return f"off: {fastpath}" if fastpath else "off"
    return (
        f"{fastpath.way} on {', '.join(fastpath.interfaces)}{''.join(f'; {why}' for why in fastpath.without)}"
    )


def _transport_limits(config: Config) -> TransportLimits:
    limits = config.limits
    return TransportLimits(
        max_message_bytes=limits.max_message_bytes,
        connections=limits.tcp_connections,
        connections_per_source=limits.tcp_connections_per_source,
        idle_s=limits.tcp_idle_s,
    )


def serve(path: str) -> int:
    """`sbc run FILE`: the exit status."""
    report = examine(path)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.config is None:
        return 1
    try:
        config = resolve(report.config)
        log_file = LogFile(config.log.level, config.log.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"sbc: log.file {report.config.log.file}: {error.strerror}", file=sys.stderr)
        return 1
    with contextlib.closing(log_file):
        for warning in few_descriptors(config):
            get_log("sbc.server").warning(warning)
        try:
            asyncio.run(_serve(config, log_file))
        except StartError as error:
            get_log("sbc.server").error(f"cannot start: {error}")
            return 1
    return 0


async def _serve(config: Config, log_file: LogFile) -> None:
    server = Server(config, log_file)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, server)
    collector.settle()
    _raise_descriptors()
    await server.run()


def _reload(server: Server) -> None:
    """SIGHUP: nobody waits for an answer, so it goes to the log."""
    try:
        server.reload()
    except ControlError as error:
        for line in str(error).splitlines():
            get_log("sbc.server").error("reload refused", reason=line)


def _raise_descriptors() -> None:
    """The soft limit is for programs that use select(2) (see setrlimit(2), and the hard one is the operator's)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
