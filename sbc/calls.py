"""The calls of a process: SIP messages in, SIP messages out, and what happens between (design.md s.1).

`Calls` is what comes in: messages, media events, time, and what an operator asks. It finds the call that they are
for and has `sbc.switchboard` carry out what the call makes of them. A new call goes to `sbc.reception`, and what is
answered without being kept to `sbc.stateless`. It does no I/O itself: bytes go out by `send`, time and bytes come in
as arguments, so the in-memory wire of the tests and `sbc simulate` run this very code.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from config.model import Config
from media.relay import BindFailed, Layer, RelayEvent, Silence, Withheld, WorkerRestarted
from sbc.anchor import LocalAnchor, MediaReport
from sbc.answers import (
    bug_answer,
    closing,
    outside,
    ping_request,
)
from sbc.decisions import Decision
from sbc.keepalive import KeepAlive
from sbc.media_policy import MediaPolicy
from sbc.outbound import Asked as Registering
from sbc.outbound import Outbound, SendRegister
from sbc.phones import Phones, Store
from sbc.reception import Reception
from sbc.record import CallRecord
from sbc.registration_effects import Happened, Relayed
from sbc.routing import Router
from sbc.sites import Sites
from sbc.stateless import Stateless
from sbc.switchboard import REPORT_S, Live, Switchboard, dialog_key
from sbc.trunks import Ping, Trunks
from sbc.users import Users
from signaling.b2bua import State as CallState
from signaling.errors import ParseError, PeerError
from signaling.exchange import Asked
from signaling.flow import Flow, Listener
from signaling.leg import Leg
from signaling.message import Request, Response
from signaling.parser import ParseLimits, parse
from signaling.return_path import ReturnPaths
from signaling.topology import carry_request
from signaling.transaction import (
    AckReceived,
    CancelReceived,
    ClientTx,
    RequestReceived,
    ResponseReceived,
    ServerTx,
    TimerValues,
    TransactionFailed,
    Transactions,
    Transmit,
)
from signaling.transaction import Effect as TransactionEffect

__all__ = ["REPORT_S", "Calls"]

MAGIC = "z9hG4bK"


class Calls:
    """All calls of one process.

    `send` puts bytes on the wire, `wall` gives seconds since the epoch for records, `token` makes unguessable
    identifiers (bytes of randomness in, text out), `on_record` gets the record of each call when it is complete,
    `on_event` the record at what happens on the way: "came", "ringing", "answered", "tried" (a server that did not
    take the call). `on_bug` gets an exception that is our own fault: the one call that met it is ended. Without
    `on_bug` it is raised. `on_phone` hears of registrations, `store` writes them and `phones.stored` has to follow,
    `secret` is what their names are made of and `users` those of `registrar: local` (None: what the file has).
    """

    def __init__(
        self,
        config: Config,
        send: Callable[[bytes, Flow], None],
        anchor: LocalAnchor,
        *,
        wall: Callable[[], float],
        token: Callable[[int], str],
        on_record: Callable[[CallRecord], None],
        on_bug: Callable[[Exception], None] | None = None,
        on_event: Callable[[str, CallRecord], None] = lambda event, record: None,
        on_phone: Callable[[Happened], None] = lambda happened: None,
        store: Store | None = None,
        secret: bytes | None = None,
        users: Users | None = None,
    ) -> None:
        self.anchor = anchor
        self.stats: Counter[str] = Counter()
        self._send = send
        self._wall = wall
        self._token = token
        self._secret = secret
        self.on_bug = on_bug
        self._return_paths = ReturnPaths()
        self._media_policy = MediaPolicy.of_config(config)
        self.transactions = Transactions(
            _timers(config),
            branch=lambda: MAGIC + token(8),
            advertised=self._advertised,
            tag=self._tag,
            return_paths=self._return_paths,
        )
        self.board = Switchboard(
            config,
            self.transactions,
            anchor,
            self.stats,
            send=send,
            wall=wall,
            tag=self._tag,
            on_record=on_record,
            on_event=on_event,
        )
        self.phones = Phones(
            self.transactions,
            self.stats,
            send=send,
            perform=self._perform,
            wall=wall,
            token=token,
            store=store,
            secret=secret,
            on_happened=on_phone,
            on_moved=self.board.moved,
        )
        self.reception = Reception(
            self.transactions, self.board, self.phones, wall=wall, token=token, tag=self._tag
        )
        self.stateless = Stateless(self.transactions, self.phones, self.reception, self.stats, send=send)
        self._configure(config, users)

    def _configure(self, config: Config, users: Users | None, now: float | None = None) -> None:
        self.config = config
        self.sites: Sites = Sites(config, None if now is None else self.sites)
        self.router = Router(config)
        self.trunks = Trunks(config)
        self.board.configure(config, self.sites, self.router, self.trunks)
        if self._secret is None and any(trunk.register_ is not None for trunk in config.trunks.values()):
            self._secret = self._token(32).encode()
        self.outbound = Outbound(config, self.sites, self.board.accounts, self._token, self._secret)
        self.phones.configure(config, self.sites, self.trunks, users, now)
        self.reception.configure(config, self.sites, self.router, self.trunks, self.outbound, now)
        self.transactions.max_transactions = config.limits.max_transactions
        self.transactions.symmetric = self.sites.symmetric
        self.transactions.former_names = self.sites.former_names
        self.transactions.retime(_timers(config))
        limits = config.limits
        self._parse_limits = ParseLimits(
            max_message_bytes=limits.max_message_bytes, max_headers=limits.max_headers
        )
        self.stateless.configure(config, self.sites, self._parse_limits)

    def _tag(self) -> str:
        return self._token(6)

    def _advertised(self, flow: Flow) -> tuple[str, int]:
        return self.sites.advertised(flow)

    # -- faces ---------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether new calls are refused since we are about to end."""
        return self.reception.draining

    @property
    def recent(self) -> deque[CallRecord]:
        """The records of the last calls that are complete."""
        return self.board.recent

    @property
    def live(self) -> Mapping[str, CallRecord]:
        """The records of the calls in progress by their ids."""
        return {name: live.record for name, live in self.board.calls.items()}

    @property
    def closing(self) -> list[CallRecord]:
        """The records of the calls that are over and wait for their last media figures."""
        return [live.record for live, _ in self.board.closing.values()]

    @property
    def idle(self) -> bool:
        """Whether no call is left, not even one that waits for its last answer or its media figures."""
        return not self.board.calls and not self.board.closing and self.outbound.idle

    def leftovers(self) -> dict[str, int]:
        """What is still held; all zero when the process is at rest."""
        return {
            "calls": len(self.board.calls),
            "closing": len(self.board.closing),
            "dialogs": len(self.board.dialogs),
            "transactions": len(self.transactions),
            "media_sessions": len(self.anchor),
            "ports": self.anchor.ports_in_use(),
        }

    def media(self, call: str) -> MediaReport:
        """The media of a live call, without counters."""
        return self.anchor.query(call)

    def reload(self, config: Config, now: float, users: Users | None = None) -> None:
        """Swap the configuration; calls in progress keep the numbers they began with, phones stay registered.

        What goes by listeners that are not configured any more is in `flows_in_use`; see `forget`.
        """
        trunks, outbound = self.trunks, self.outbound
        self._configure(config, users, now)
        for leg in self.board.owners:
            leg.flow = self.sites.new_name(leg.flow)
        self.trunks.adopt(trunks, now)
        self._register(self.outbound.adopt(outbound, now), now)
        left = {listener.network for listener in self.sites.former}
        self._media_policy = MediaPolicy.of_config(config).beside(self._media_policy, left)
        self.anchor.configure(self._media_policy)

    def flows_in_use(self) -> list[Flow]:
        """The flows by listeners of earlier configurations that calls, registrations and transactions still need."""
        left = {listener.local for listener in self.sites.former}
        flows = [leg.flow for leg in self.board.owners] + self.transactions.flows()
        return [flow for flow in flows if flow.local in left] + self.phones.flows(left)

    def forget(self, in_use: Sequence[Flow], still_open: Sequence[Listener]) -> None:
        """What no flow needs any more, of listeners that an earlier configuration had, is not ours any more."""
        self.sites.forget(in_use, still_open)
        self.transactions.former_names = self.sites.former_names

    def drain(self, now: float) -> None:
        """Refuse new calls from now on, and tell the trunks where we are registered."""
        self.reception.draining = True
        self._register(self.outbound.leave(now), now)

    def hang_up(self, now: float, call: str | None = None, cause: str = "drain", text: str = "") -> int:
        """BYE to both sides of one call or of all; returns how many."""
        chosen = (
            [self.board.calls[call]]
            if call in self.board.calls
            else []
            if call
            else list(self.board.calls.values())
        )
        for live in chosen:
            if live.call is not None:
                self.board.run(live, live.call.hang_up(cause, text or cause, now), now)
        return len(chosen)

    # -- written down --------------------------------------------------------------------------------------

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """Every settled call as plain data (design.md s.4.4); calls in the middle of something are left out."""
        return self.board.snapshot(now)

    def restore(self, calls: Sequence[dict[str, Any]], now: float) -> None:
        """Take over the calls that `snapshot` wrote: their streams are opened again on the same ports."""
        for data in calls:
            self.board.restore(data, now)

    # -- from the wire -------------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float, age_s: float = 0.0, glanced: bool = False) -> None:
        """One SIP message as it came; `age_s` is how long it waited for us. `glanced`: `stateless` has seen it."""
        if not glanced and self.stateless.answers(data, flow, now, age_s):
            return
        try:
            message = parse(data, self._parse_limits)
            if isinstance(message, Request) and self.stateless.answers_request(message, data, flow, now):
                return
            self._perform(self.transactions.receive(message, flow, now), now)
        except ParseError as error:
            self.stateless.refuse(data, flow, error.status, error.reason, error.rule, now)

    def unreachable(self, quoted: bytes, flow: Flow, now: float) -> None:
        """The network says that what begins with `quoted` did not arrive at the other end of `flow`."""
        self._perform(self.transactions.unreachable(quoted, flow, now), now)

    def transport_failed(self, flow: Flow, now: float) -> None:
        """Bytes for this flow cannot be sent."""
        self.phones.transport_failed(flow)
        self._perform(self.transactions.transport_failed(flow, now), now)

    def _perform(self, effects: Sequence[TransactionEffect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._send(effect.data, effect.flow)
                continue
            self.board.serving = None
            try:
                self._dispatch(effect, now)
            except ParseError as error:
                live = self._take_serving()
                if not isinstance(effect, RequestReceived) or live is None or live.call is None:
                    raise
                # The call has begun to serve it: whatever it holds is let go, and nobody waits for an answer.
                self.board.refuse(effect.tx, error, live.record.id, now)
                self.board.run(live, live.call.hang_up(error.rule, error.reason, now), now)
            except Exception as error:
                if isinstance(effect, RequestReceived):
                    answer = bug_answer(effect.request)
                    self.board.put_out(self.transactions.respond(effect.tx, answer, now))
                self._broken(error, now)

    def _take_serving(self) -> Live | None:
        live, self.board.serving = self.board.serving, None
        return live

    def _dispatch(self, effect: TransactionEffect, now: float) -> None:
        match effect:
            case RequestReceived():
                self._request(effect.tx, effect.request, effect.flow, now)
            case ResponseReceived():
                self._response(effect.tx, effect.response, now)
            case AckReceived():
                self._ack(effect.request, effect.flow, now)
            case CancelReceived():
                self._cancel(effect.tx, effect.request, now)
            case TransactionFailed():
                self._failed(effect.tx, effect.cause, now)

    def _broken(self, error: Exception, now: float) -> None:
        """A bug of ours: it ends the one call that met it, and nothing else (style.md s.7)."""
        live = self._take_serving()
        self.stats[f"bug:{type(error).__name__}"] += 1
        if live is not None and live.call is not None:
            try:
                self.board.carry_out(live, live.call.hang_up("bug", "an error of the SBC itself", now), now)
            except Exception:
                self.board.forget(live, now)
        if self.on_bug is None:
            raise error
        self.on_bug(error)

    def _request(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        tag = request.to_tag
        if tag is None:
            if self.sites.is_former(flow) and not self.phones.promised(request, flow):
                tx.holds = False
                self.board.refuse(tx, closing(), "-", now)
            elif request.method == "INVITE":
                self.reception.receive(tx, request, flow, now)
            elif request.method != "REGISTER" or not self.phones.register(tx, request, flow, now):
                self.board.refuse(tx, outside(request.method), "-", now)
            return
        known = self._dialog(request, tag, flow)
        if known is None:
            error = PeerError(481, "Call/Transaction Does Not Exist", "no-such-dialog")
            self.board.refuse(tx, error, "-", now)
            return
        live, leg = known
        tx.owner = leg
        self.board.learn(live, leg, request)
        try:
            effects = leg.request(tx, request, now)
        except PeerError as error:
            self.board.refuse(tx, error, live.record.id, now, live, leg)
            return
        if live.call is not None:
            self.board.run(live, live.call.on_leg(leg, effects, now), now)

    def _dialog(self, request: Request, tag: str, flow: Flow) -> tuple[Live, Leg] | None:
        """The call and leg of a request with our `tag`; a dialog of one network does not exist on another."""
        known = self.board.dialogs.get(dialog_key(request.call_id, tag))
        if known is None or not self.sites.same_network(known[1].flow, flow):
            return None
        self._return_paths.prove(flow.network, flow.remote[0])
        self.board.heard(known[1], flow)
        return known

    def _response(self, tx: ClientTx, response: Response, now: float) -> None:
        final = response.status >= 200
        match tx.owner:
            case Asked() as asked:
                leg = asked.leg
                if final:
                    # Nothing is left to cancel; and the two must not keep each other alive until the collector comes.
                    asked.tx = None
                live = self.board.owners.get(leg)
                if live is None or live.call is None:
                    # The leg is gone, but every 2xx still wants its ACK, and that of another fork a BYE after it
                    # (RFC 3261 s.13.2.2.4).
                    self.board.see_off(leg, leg.response(asked, response, now), now)
                    return
                self.board.learn(live, leg, response)
                self.board.run(live, live.call.on_leg(leg, leg.response(asked, response, now), now), now)
            case Relayed() as relayed:
                self.phones.answered(relayed, response, now)
            case Registering() as registering:
                servers = self.trunks.snapshot(now)
                self._register(self.outbound.answered(registering, response, servers, now), now)
            case KeepAlive() as keep if final:
                self.phones.kept(keep, now)
            case Ping() as ping if final:
                self.trunks.answered(ping, response.status, now)

    def _ack(self, request: Request, flow: Flow, now: float) -> None:
        known = self._dialog(request, request.to_tag or "", flow)
        if known is None:
            self.stats["stray-ack"] += 1
            return
        live, leg = known
        self.board.learn(live, leg, request)
        if live.call is not None:
            try:
                effects = leg.ack(request)
            except PeerError as error:
                self.board.run(live, live.call.hang_up(error.rule, error.reason, now), now)
                return
            self.board.run(live, live.call.on_leg(leg, effects, now), now)

    def _cancel(self, tx: ServerTx, request: Request, now: float) -> None:
        leg = tx.owner
        if not isinstance(leg, Leg):
            return
        live = self.board.owners.get(leg)
        if live is not None and live.call is not None:
            self.board.learn(live, leg, request)
            carried = carry_request(request, leg.site.trusted)
            self.board.run(live, live.call.on_leg(leg, leg.cancelled(carried), now), now)

    def _failed(self, tx: ClientTx | ServerTx, cause: str, now: float) -> None:
        match tx.owner:
            case Asked() as asked:
                asked.tx = None
                live = self.board.owners.get(asked.leg)
                if live is not None and live.call is not None:
                    self.board.serving = live
                    effects = asked.leg.failed(asked, cause, now)
                    self.board.run(live, live.call.on_leg(asked.leg, effects, now), now)
            case Relayed() as relayed:
                self.phones.failed(relayed, cause, now)
            case Registering() as registering:
                servers = self.trunks.snapshot(now)
                self._register(self.outbound.failed(registering, cause, servers, now), now)
            case KeepAlive() as keep:
                self.phones.lost(keep)
            case Ping() as ping:
                self.trunks.unanswered(ping, cause, now)

    # -- media and time ------------------------------------------------------------------------------------

    def relay_event(self, event: RelayEvent, now: float) -> None:
        """What the relay tells of a stream."""
        board = self.board
        for call_id in self.anchor.relay_event(event):
            board.report(call_id)
        if isinstance(event, BindFailed | Withheld | Layer) and event.call in board.calls:
            board.note(board.calls[event.call])
        elif isinstance(event, WorkerRestarted):
            for call_id in event.calls:
                if call_id in board.calls:
                    board.calls[call_id].record.decide(_relay_restarted(event), self._wall())
        elif isinstance(event, Silence):
            live = board.calls.get(event.call)
            # Early media may be silent: while it rings, `timers.no_answer_s` watches over the call.
            if live is not None and live.call is not None and live.call.state is CallState.UP:
                cause = "media-silence" if event.ever else "media-never"
                text = f"no media for {event.seconds:.0f} s"
                board.run(live, live.call.hang_up(cause, text, now), now)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        board = self.board
        due = self.transactions.next_timer()
        timers = (
            self.trunks.next_timer(),
            board.wakeups.next(),
            self.phones.next_timer(),
            self.outbound.next_timer(),
        )
        for at in timers:
            if at is not None and (due is None or at < due):
                due = at
        if board.closing:
            # In the order in which they are due: each waits equally long.
            _, at = next(iter(board.closing.values()))
            if due is None or at < due:
                due = at
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        board = self.board
        self._perform(self.transactions.handle_timer(now), now)
        for live in board.wakeups.due(now):
            if live.call is not None:
                board.serving = live
                try:
                    board.run(live, live.call.handle_timer(now), now)
                except Exception as error:
                    self._broken(error, now)
        for call_id in [call_id for call_id, (_, at) in board.closing.items() if at <= now]:
            self.anchor.reap(call_id, now)
            board.report(call_id)
        for ping in self.trunks.handle_timer(now):
            self._ping(ping, now)
        self.phones.handle_timer(now)
        self._register(self.outbound.handle_timer(self.trunks.snapshot(now), now), now)

    def _register(self, sends: Sequence[SendRegister], now: float) -> None:
        for send in sends:
            _, effects = self.transactions.send_request(send.request, send.flow, send.asked, now)
            self._perform(effects, now)

    def _ping(self, ping: Ping, now: float) -> None:
        flow = self.sites.flow_to(ping.network, ping.transport, ping.address)
        if flow is None:
            return
        request = ping_request(ping, self.sites.site(flow), self._token(6), self._token(12))
        _, effects = self.transactions.send_request(request, flow, ping, now)
        self._perform(effects, now)


def _relay_restarted(event: WorkerRestarted) -> Decision:
    return Decision(
        "media",
        "media-relay-restarted",
        (("worker", str(event.worker)), ("streams", str(event.streams))),
        "its relay worker died; the streams go on at the same ports, their counters begin again",
    )


def _timers(config: Config) -> TimerValues:
    timers = config.timers
    return TimerValues(timers.t1_ms / 1000, timers.t2_ms / 1000, timers.t4_ms / 1000)
