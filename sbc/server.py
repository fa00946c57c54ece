"""`sbc run`: the process round the calls - sockets, timer, signals, reload, drain (design.md s.3, style.md s.3).

`Server` opens, changes and closes; `sbc.pump` drives what is open. It leaves nothing behind: when `run` returns,
every call has got its BYE and its CDR, and all sockets, worker processes and files are closed.
"""

import asyncio
import contextlib
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from config.load import examine
from config.model import Config
from config.problems import ConfigError
from media.fastpath.loader import FastPath, Unavailable, choose
from media.generations import Generations
from media.relay import StreamCounters, WorkerRestarted
from media.workers import WorkerRelay
from nat.binding import BindingServer
from nat.interfaces import resolve
from sbc import collector
from sbc.anchor import LocalAnchor
from sbc.calls import Calls
from sbc.control import ControlError, ControlServer
from sbc.journal import Journal
from sbc.log import LogFile, get_log
from sbc.media_policy import media_ranges, stun_hosts
from sbc.operator import Operator
from sbc.own_address import OwnAddresses
from sbc.phone_journal import PhoneJournal
from sbc.preflight import StartError, few_descriptors, modules
from sbc.pump import Pump
from sbc.record import CallRecord
from sbc.registration_effects import Happened
from sbc.reload import Reloader, open_cdr, transport_limits
from sbc.server_names import ServerNames
from sbc.sites import Sites
from sbc.store.bindings import BindingStore, users_of
from sbc.store.sqlite import StoreError
from sbc.supervision import Supervisor
from sbc.tokens import Tokens
from sbc.trunks import ServerDown
from sbc.turn import TurnNetworks, TurnRelay
from signaling.flow import Flow, host_port
from signaling.transport.udp import Glance
from signaling.transport.wires import ListenError, Wires

GOODBYE_S = 5.0
"""How long the peers may take to answer our BYEs at the end."""
POLL_S = 0.05
"""How often a drain looks whether the last call is gone."""
RETRY_S = 15.0
"""A name that could not be resolved is asked for again after this."""
CLOSE_S = 5.0
"""How long the relay workers may take to end."""


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
        self.log_file = log_file
        self._log = get_log("sbc.server")
        self.journal = Journal(get_log("sbc.calls"))
        self._phone_journal = PhoneJournal(get_log("sbc.phones"))
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._supervisor = Supervisor()
        self.loop = asyncio.get_running_loop()
        # First what may fail: a relay worker that was started has to be stopped.
        self.cdr = open_cdr(config)
        try:
            self.users = users_of(config)
            self.store = BindingStore(config, self.loop, self.bindings_stored)
        except StoreError as error:
            raise StartError(str(error)) from error
        self.kernel = _open_fastpath(config)
        media = config.media
        self.pump = pump = Pump(self.loop, self.journal, self)
        workers = WorkerRelay(
            self.loop,
            media.workers,
            dscp=media.dscp,
            fastpath=self.kernel,
            soon=pump.soon,
            pin=media.pin_workers,
        )
        self.relay = Generations(workers, self.loop)
        self.turn = TurnNetworks(config, self.loop, self._relay_address_changed)
        self.pool = self.turn.pool_for(media_ranges(config), config.timers.port_quarantine_s)
        streams = TurnRelay(self.relay, self.turn)
        self._anchor = LocalAnchor.of_config(config, self.pool, streams, time.monotonic)
        glance = Glance(pump.answers, pump.rearm)
        self.wires = Wires(
            Sites(config).listeners, pump.receive, pump.failed, transport_limits(config), glance, pump.refused
        )
        self.control: ControlServer | None = None
        self.calls = Calls(
            config,
            pump.send,
            self._anchor,
            wall=time.time,
            token=Tokens(),
            on_record=self._write_record,
            on_bug=self.journal.bug,
            on_event=self.journal.event,
            on_phone=self._phone_event,
            store=self.store.write if self.store.lasting else None,
            secret=self.store.secret,
            users=self.users,
        )
        pump.begin(self.wires, self.calls)
        streams.on_event = pump.relay_event
        self.relay.stun(stun_hosts(config))
        self.own_addresses = OwnAddresses(config, self._own_address_changed)
        self.names = ServerNames(self.calls, self.loop, self.pump.rearm)
        self._reloader = Reloader(self, adapt)
        self._stun = BindingServer()

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open everything, serve until `stop`, drain, close everything. Raises StartError; called once."""
        try:
            await self.own_addresses.first()
            await self.turn.first()
            await self.relay.up()
            self.control = self._open()
            with contextlib.closing(self.control):
                async with asyncio.TaskGroup() as tasks:
                    forever = (
                        self.control.serve(),
                        self._supervisor.keep_alive(self._status),
                        self.names.run(),
                        self.own_addresses.run(),
                        self.turn.run(),
                        self._reloader.attend(),
                        self._reloader.tidy_up(),
                        collector.attend(lambda: self.calls.idle),
                    )
                    running = [tasks.create_task(each) for each in forever]
                    self._announce()
                    await self._stopping.wait()
                    await self._drain()
                    for task in running:
                        task.cancel()
        finally:
            await self._close()

    def _open(self) -> ControlServer:
        try:
            self.wires.open()
            self.restore_phones()
            return ControlServer(self.config.control.socket, Operator(self).verbs())
        except (ListenError, ControlError) as error:
            raise StartError(str(error)) from error

    def restore_phones(self) -> None:
        """Take over the registrations of the store."""
        if self.users is not None and (stranded := self.users.stranded()):
            self._log.warning(
                "users cannot register: they have no hash for an algorithm of phones.digest",
                users=", ".join(stranded[:10]),
                count=len(stranded),
            )
        rows, self.store.rows = self.store.rows, []
        count = self.calls.phones.restore(rows, self.loop.time())
        if rows:
            self._log.info(
                "registrations are back", store=self.config.phones and self.config.phones.store, count=count
            )

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Drain and end. Asked a second time: do not wait for the calls. A third time: do not wait for BYEs."""
        if self._stopping.is_set():
            self._log.info("stop asked for again: ending the calls now")
            self._hastened.set()
        self._stopping.set()

    def _announce(self) -> None:
        for listener in self.wires.bound:
            self._log.info(
                "listening",
                network=listener.network,
                transport=listener.transport,
                local=host_port(listener.local),
            )
        relay = f"reference, {len(self.relay.pids)} workers"
        code = modules()
        self._log.info("ready", config=self.config.path, code=code, relay=relay, kernel=_kernel(self.kernel))
        self.pump.rearm()
        self._supervisor.tell("READY=1", f"STATUS={self._status()}")
        self.ready.set()

    async def _drain(self) -> None:
        self._supervisor.tell("STOPPING=1")
        self.calls.drain(self.loop.time())
        waiting = len(self.calls.live)
        self._log.info("stopping: new calls get 503", calls=waiting, drain_s=self.config.timers.drain_s)
        await self._until_idle(self.config.timers.drain_s, hasten=True)
        ended = self.calls.hang_up(self.loop.time(), cause="drain", text="the border is being stopped")
        self.pump.rearm()
        if ended:
            self._log.info("ended the calls that were left", calls=ended)
        await self._until_idle(GOODBYE_S, hasten=False)
        if not self.calls.idle:
            self._log.warning("stopped without the last answers", **dict(self.calls.leftovers()))

    async def _until_idle(self, seconds: float, hasten: bool) -> None:
        deadline = self.loop.time() + seconds
        while not self.calls.idle and self.loop.time() < deadline:
            if hasten and self._hastened.is_set():
                return
            await asyncio.sleep(POLL_S)

    async def _close(self) -> None:
        self.pump.stop()
        self.wires.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.relay.stop()
        except TimeoutError:
            self._log.warning("relay workers did not end in time")
        await self.turn.stop()
        self.calls.phones.close(self.loop.time())
        self.store.close()
        if self.cdr is not None:
            self.cdr.close()
        if self.ready.is_set():
            self._log.info("stopped")

    # -- what happens seldom -------------------------------------------------------------------------------

    def stun(self, data: bytes, flow: Flow) -> None:
        """STUN came to a SIP port."""
        # RFC 5626 s.4.4.2: STUN beside SIP on one UDP port, told apart by the first byte. With it a phone that has
        # registered keeps its flow alive, and takes silence for the loss of it.
        phones = self.config.phones
        proven = phones is not None and phones.outbound and bool(self.calls.phones.locations.on_flow(flow))
        # A listener that a reload has left open answers phones that registered there, and nobody else.
        network = self.config.networks.get(flow.network)
        if flow.reliable or not (proven or (network is not None and network.stun)):
            self._stun.dropped += 1
            return
        answer = self._stun.receive(data, flow.remote, self.loop.time(), proven)
        if answer is not None:
            self.wires.send(answer, flow)

    def attend(self) -> None:
        """Say what servers and registrations have done."""
        for event in self.calls.trunks.take_events():
            down = isinstance(event, ServerDown)
            if not down:
                self.calls.phones.server_up(event.trunk, self.loop.time())
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

    def restarted(self, event: WorkerRestarted) -> None:
        """Say that a relay worker has taken the place of another."""
        self._log.warning("relay worker restarted", worker=event.worker, streams=event.streams)

    def _phone_event(self, happened: Happened) -> None:
        self._phone_journal.happened(happened, self.loop.time())

    def bindings_stored(self, ticket: int, error: str | None) -> None:
        """The store has written, or could not."""
        self._phone_journal.stored(error)
        try:
            self.calls.phones.stored(ticket, error, self.loop.time())
        except Exception as bug:
            self.pump.broken("store", bug)
        self.pump.rearm()

    def _write_record(self, record: CallRecord) -> None:
        self.journal.ended(record, self.wall)
        if self.cdr is not None:
            self.cdr.write(record)

    # -- our own address -----------------------------------------------------------------------------------

    def _own_address_changed(self, network: str, address: str) -> None:
        """STUN has told another address than before: new calls have it, those in progress keep theirs."""
        self._readdress(self.own_addresses.apply(self.config))

    def _relay_address_changed(self, network: str, address: str) -> None:
        """A TURN relay has given us an address."""
        self._readdress(self.turn.apply(self.config))

    def _readdress(self, config: Config) -> None:
        self.config = config
        try:
            self.calls.reload(config, self.loop.time(), self.users)
        except Exception as error:
            self.pump.broken("another address", error)
        self.pump.rearm()

    # -- what the operator asks ----------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """Read the file again: the whole of it or nothing. The changes as lines; raises ControlError."""
        return await self._reloader.reload()

    def ask_reload(self) -> None:
        """The same soon; what comes of it goes to the log."""
        self._reloader.ask()

    def hang_up(self, call: str) -> None:
        """End one call by hand."""
        self.calls.hang_up(self.loop.time(), call, cause="operator", text="ended by the operator")
        self.pump.rearm()

    @property
    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def registrations(self) -> list[dict[str, object]]:
        """The phones that are registered: a row each."""
        return self.calls.phones.rows(self.loop.time())

    def counters(self, streams: list[int]) -> Awaitable[list[StreamCounters]]:
        """Figures of open streams, from the relay."""
        return self.relay.query(streams)

    def servers(self) -> list[dict[str, str]]:
        """The servers of the trunks as they are now: a row each."""
        return self.calls.trunks.status(self.loop.time())

    def registered(self) -> list[dict[str, str]]:
        """Our registrations at trunks as they are now: a row each."""
        return self.calls.outbound.status(self.loop.time())

    def counts(self) -> dict[str, int | str]:
        """Counters since the start: calls, transports, transactions, the log; and what forwards media in the kernel."""
        transports = {f"transport.{name}": count for name, count in asdict(self.wires.counters).items()}
        layer = asdict(self.calls.transactions.counters)
        transactions = {f"transactions.{name}": count for name, count in layer.items()}
        dropped = 0 if self.log_file is None else self.log_file.dropped
        stun = {"stun.answered": self._stun.answered, "stun.dropped": self._stun.dropped}
        media = {
            "media.streams": len(self.relay),
            "media.in_kernel": self.relay.in_kernel,
            "media.kernel": _kernel(self.kernel),
            "media.former_relays": self.relay.former,
        }
        return {
            "held.former_listeners": len(self.wires.retired),
            **self.calls.stats,
            **self.journal.bugs,
            **transports,
            **transactions,
            **stun,
            **media,
            "log.dropped": dropped,
        }

    def _status(self) -> str:
        phones = f", {len(self.calls.phones.locations)} registrations" if self.config.phones else ""
        return f"{len(self.calls.live)} calls{phones}"


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
    where = ", ".join(fastpath.interfaces) or "no interface"
    return "; ".join((f"{fastpath.way} on {where}", *fastpath.without))


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
    loop.add_signal_handler(signal.SIGHUP, server.ask_reload)
    collector.settle()
    _raise_descriptors()
    await server.run()


def _raise_descriptors() -> None:
    """The soft limit is for programs that use select(2) (see setrlimit(2), and the hard one is the operator's)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
