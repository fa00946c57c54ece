"""The calls of a process: SIP messages in, SIP messages out, and what happens between (design.md s.1).

`Calls` is what comes in: messages, media events, time, and what an operator asks. It finds the call that they are
for, asks policy about a new one, and has `sbc.switchboard` carry out what the call makes of them. It does no I/O
itself: bytes go out by `send`, time and bytes come in as arguments, so the in-memory wire of the tests and
`sbc simulate` run this very code.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from config.model import Config
from media.relay import BindFailed, Layer, RelayEvent, Silence, Withheld, WorkerRestarted
from sbc.admission import Admission, Emergencies
from sbc.anchor import LocalAnchor, MediaReport, Party
from sbc.answers import (
    OPTIONS_ANSWER,
    RETRY_AFTER_S,
    bug_answer,
    error_fields,
    in_dialog,
    outside,
    ping_request,
    raw_fields,
    rejection,
)
from sbc.decisions import Decision
from sbc.keepalive import KeepAlive
from sbc.media_policy import MediaPolicy
from sbc.outbound import Asked as Registering
from sbc.outbound import Outbound, SendRegister
from sbc.phones import Phones, Store
from sbc.record import CallRecord
from sbc.registration_effects import Happened, Relayed
from sbc.registrations import Answer
from sbc.routing import CallRequest, Refusal, Router
from sbc.sites import Sites
from sbc.switchboard import REPORT_S, Live, Switchboard, dialog_key
from sbc.trunks import Ping, Trunks
from sbc.users import Users
from signaling.b2bua import Call, user_of
from signaling.b2bua import State as CallState
from signaling.call_effects import OnLeg
from signaling.caller import CallerLeg
from signaling.errors import ParseError, PeerError
from signaling.events import Offered
from signaling.exchange import Asked, Opened, Raise
from signaling.flow import Flow
from signaling.leg import Leg
from signaling.message import Request, Response, respond
from signaling.parser import ParseLimits, parse, refuse
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
from signaling.uri import SipUri, parse_uri, unescape
from signaling.usage import same_flow

__all__ = ["REPORT_S", "Calls"]

MAGIC = "z9hG4bK"
_CREDENTIALS = re.compile(rb"\r\nauthorization[ \t]*:", re.IGNORECASE)
EMERGENCY_SHARE = 2
"""Calls for help pass `limits.max_calls` until there are so many times as many calls in all."""


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
        self.draining = False
        self._send = send
        self._wall = wall
        self._token = token
        self._secret = secret
        self.on_bug = on_bug
        self._serving: Live | None = None  # whose effects are being carried out, should a bug show
        self._return_paths = ReturnPaths()
        self.transactions = Transactions(
            TimerValues(config.timers.t1_ms / 1000, config.timers.t2_ms / 1000, config.timers.t4_ms / 1000),
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
        self._configure(config, users)

    def _configure(self, config: Config, users: Users | None, now: float | None = None) -> None:
        self.config = config
        self.sites = Sites(config)
        self.router = Router(config)
        self.trunks = Trunks(config)
        self.admission = Admission(config)
        self.emergencies = Emergencies(config)
        self.board.configure(config, self.sites, self.router, self.trunks)
        if self._secret is None and any(trunk.register_ is not None for trunk in config.trunks.values()):
            self._secret = self._token(32).encode()
        self.outbound = Outbound(config, self.sites, self.board.accounts, self._token, self._secret)
        self.phones.configure(config, self.sites, self.trunks, users, now)
        self.transactions.max_transactions = config.limits.max_transactions
        self.transactions.symmetric = self.sites.symmetric
        limits = config.limits
        self.parse_limits = ParseLimits(
            max_message_bytes=limits.max_message_bytes, max_headers=limits.max_headers
        )
        self.queue_age_s = limits.queue_age_ms / 1000

    def _tag(self) -> str:
        return self._token(6)

    def _advertised(self, flow: Flow) -> tuple[str, int]:
        return self.sites.advertised(flow)

    # -- faces ---------------------------------------------------------------------------------------------

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
        """Swap the configuration; calls in progress keep the numbers they began with, phones stay registered."""
        trunks, admission, outbound = self.trunks, self.admission, self.outbound
        self._configure(config, users, now)
        self.trunks.adopt(trunks, now)
        self.admission.adopt(admission, now)
        self._register(self.outbound.adopt(outbound, now), now)
        self.anchor.configure(MediaPolicy.of_config(config))

    def drain(self, now: float) -> None:
        """Refuse new calls from now on, and tell the trunks where we are registered."""
        self.draining = True
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

    def receive(self, data: bytes, flow: Flow, now: float, age_s: float = 0.0) -> None:
        """One SIP message as it came; `age_s` is how long it waited for us."""
        if age_s > self.queue_age_s and self._can_wait(data, flow):
            # RFC 7339 s.1, RFC 3261 s.21.5.4: refusing must stay cheaper than serving.
            self._refuse_raw(
                data, flow, 503, "Service Unavailable", "overload", self.phones.retry_after_s(data, now)
            )
            return
        try:
            message = parse(data, self.parse_limits)
            if isinstance(message, Request):
                answer = self._answer_at_once(message, flow, now)
                if answer is not None:
                    self._perform(self.transactions.answer(message, flow, *answer), now)
                    return
            self._perform(self.transactions.receive(message, flow, now), now)
        except ParseError as error:
            self._refuse_raw(data, flow, error.status, error.reason, error.rule)

    def _answer_at_once(self, request: Request, flow: Flow, now: float) -> Answer | None:
        """The answer that needs no transaction, so that nobody fills our memory by asking (RFC 3261 s.8.2.7)."""
        if request.method == "OPTIONS":
            return OPTIONS_ANSWER if request.to_tag is None else None
        return self.phones.challenge(request, flow, now) if request.method == "REGISTER" else None

    def _can_wait(self, data: bytes, flow: Flow) -> bool:
        """Whether a raw message is refused when we are late: new calls but those for help, and registrations."""
        if data.startswith(b"INVITE "):
            return not in_dialog(data) and not self.emergencies.looks_like_one(data)
        if not data.startswith(b"REGISTER "):
            return False
        # A phone of ours that shows its credentials has cost us a challenge already; anybody can write the header.
        return _CREDENTIALS.search(data) is None or not self.phones.locations.on_flow(flow)

    def _refuse_raw(
        self, data: bytes, flow: Flow, status: int, reason: str, rule: str, retry_after_s: int = RETRY_AFTER_S
    ) -> None:
        self.stats[f"refused:{rule}"] += 1
        answer = refuse(data, status, reason, raw_fields(status, rule, retry_after_s))
        if answer is not None:
            self._send(answer, flow)

    def transport_failed(self, flow: Flow, now: float) -> None:
        """Bytes for this flow cannot be sent."""
        self.phones.transport_failed(flow, now)
        self._perform(self.transactions.transport_failed(flow, now), now)

    def _perform(self, effects: Sequence[TransactionEffect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._send(effect.data, effect.flow)
                continue
            self._serving = None
            try:
                self._dispatch(effect, now)
            except ParseError as error:
                live = self._take_serving()
                if not isinstance(effect, RequestReceived) or live is None or live.call is None:
                    raise
                # The call has begun to serve it: whatever it holds is let go, and nobody waits for an answer.
                fields = error_fields(error, live.record.id, 0)
                answer = respond(effect.request, error.status, error.reason, self._tag(), fields)
                self._perform(self.transactions.respond(effect.tx, answer, now), now)
                self.stats[f"refused:{error.rule}"] += 1
                self.board.run(live, live.call.hang_up(error.rule, error.reason, now), now)
            except Exception as error:
                if isinstance(effect, RequestReceived):
                    self._perform(self.transactions.respond(effect.tx, bug_answer(effect.request), now), now)
                self._broken(error, now)

    def _take_serving(self) -> Live | None:
        live, self._serving = self._serving, None
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
            case Transmit():
                self._send(effect.data, effect.flow)

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
            if request.method == "INVITE":
                self._new_call(tx, request, flow, now)
            else:
                self._outside(tx, request, flow, now)
            return
        known = self._dialog(request, tag, flow)
        if known is None:
            self._answer(tx, PeerError(481, "Call/Transaction Does Not Exist", "no-such-dialog"), "-", now)
            return
        live, leg = known
        self._serving = live
        tx.owner = leg
        self._learn(live, leg, request)
        try:
            effects = leg.request(tx, request, now)
        except PeerError as error:
            self._answer(tx, error, live.record.id, now, live, leg)
            return
        if live.call is not None:
            self.board.run(live, live.call.on_leg(leg, effects, now), now)

    def _learn(self, live: Live, leg: Leg, message: Request | Response) -> None:
        """A message of a peer, before anything is made of it."""
        if leg.name in live.phones:
            self.phones.distrust(message)
        self.board.learn(live, leg, message)

    def _dialog(self, request: Request, tag: str, flow: Flow) -> tuple[Live, Leg] | None:
        """The call and leg of a request with our `tag`; a dialog of one network does not exist on another."""
        known = self.board.dialogs.get(dialog_key(request.call_id, tag))
        if known is None or known[1].flow.network != flow.network:
            return None
        self._return_paths.prove(flow.network, flow.remote[0])
        self.board.heard(known[1], flow)
        return known

    def _outside(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        """A request outside any dialog that is no call (RFC 3261 s.11, s.8.2.1)."""
        if request.method != "REGISTER" or not self.phones.register(tx, request, flow, now):
            self._answer(tx, outside(request.method), "-", now)

    def _response(self, tx: ClientTx, response: Response, now: float) -> None:
        asked = tx.owner
        if isinstance(asked, Ping):
            if response.status >= 200:
                self.trunks.answered(asked, response.status, now)
            return
        if isinstance(asked, Relayed):
            self.phones.answered(asked, response, now)
            return
        if isinstance(asked, KeepAlive):
            if response.status >= 200:
                self.phones.kept(asked, now)
            return
        if isinstance(asked, Registering):
            self._register(self.outbound.answered(asked, response, self.trunks.snapshot(now), now), now)
            return
        if not isinstance(asked, Asked):
            return
        if response.status >= 200:
            # Nothing is left to cancel; and the two must not keep each other alive until the collector comes.
            asked.tx = None
        live = self.board.owners.get(asked.leg)
        if live is None or live.call is None:
            # The leg is gone, but every 2xx still wants its ACK, and that of another fork a BYE after it
            # (RFC 3261 s.13.2.2.4).
            self.board.see_off(asked.leg.response(asked, response, now), now)
            return
        self._serving = live
        self._learn(live, asked.leg, response)
        effects = asked.leg.response(asked, response, now)
        self.board.run(live, live.call.on_leg(asked.leg, effects, now), now)

    def _ack(self, request: Request, flow: Flow, now: float) -> None:
        known = self._dialog(request, request.to_tag or "", flow)
        if known is None:
            self.stats["stray-ack"] += 1
            return
        live, leg = known
        self._serving = live
        self._learn(live, leg, request)
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
            self._serving = live
            self._learn(live, leg, request)
            self.board.run(live, live.call.on_leg(leg, leg.cancelled(carry_request(request)), now), now)

    def _failed(self, tx: ClientTx | ServerTx, cause: str, now: float) -> None:
        owner = tx.owner
        if isinstance(owner, Ping):
            self.trunks.unanswered(owner, cause, now)
            return
        if isinstance(owner, Registering):
            self._register(self.outbound.failed(owner, cause, self.trunks.snapshot(now), now), now)
            return
        if isinstance(owner, Relayed):
            self.phones.failed(owner, cause, now)
            return
        if isinstance(owner, KeepAlive):
            self.phones.lost(owner)
            return
        if not isinstance(owner, Asked):
            return
        owner.tx = None
        live = self.board.owners.get(owner.leg)
        if live is not None and live.call is not None:
            self._serving = live
            effects = owner.leg.failed(owner, cause, now)
            self.board.run(live, live.call.on_leg(owner.leg, effects, now), now)

    def _answer(
        self,
        tx: ServerTx,
        error: PeerError,
        reference: str,
        now: float,
        live: Live | None = None,
        leg: Leg | None = None,
    ) -> None:
        """Answer a request with what was wrong, and with what RFC 3261 s.21 wants beside it."""
        self.stats[f"refused:{error.rule}"] += 1
        request = tx.request
        fields = error_fields(error, reference, self.board.settings.min_se_s)
        tag = request.to_tag or (leg.dialog.local_tag if leg is not None else self._token(6))
        response = respond(request, error.status, error.reason, tag, fields)
        effects = self.transactions.respond(tx, response, now)
        if live is None:
            self._perform(effects, now)
        else:
            self.board.transmit(live, leg, response, effects)

    # -- a new call ----------------------------------------------------------------------------------------

    def _new_call(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        wall = self._wall()
        source, decision = self.router.source_of(flow, self.trunks.snapshot(now))
        source, decision = self.outbound.source_of(request.uri, source, decision)
        caller = None
        if source.trunk is None:
            caller, challenge = self.phones.caller(flow, request, now)
            if challenge:
                # No call yet, so no record of one: the phone has not said who it is (RFC 3261 s.22.3).
                answer = respond(request, 407, "Proxy Authentication Required", self._token(6), challenge)
                self._perform(self.transactions.respond(tx, answer, now), now)
                return
        record = CallRecord(
            f"c-{self._token(4)}", wall, self.config.limits.trace_messages, self.config.log.trace
        )
        live = Live(None, record)
        board = self.board
        try:
            record.decide(decision, wall)
            uri = parse_uri(request.uri)
            # RFC 4412 s.4.7.1: a priority is what somebody known may claim; anybody can write the header.
            known = source.trunk is not None or (caller is not None and bool(caller.user))
            priorities = request.values("Resource-Priority") if known else ()
            emergency = self.emergencies.is_one(unescape(user_of(request.uri)), priorities)
            if caller is not None:
                record.decide(caller.decision, wall)
                if caller.refusal is not None:
                    refused = caller.refusal
                    raise PeerError(refused.status, refused.reason, refused.rule)
                source = replace(source, phone=caller.user)
            if request.max_forwards == 0:
                raise PeerError(483, "Too Many Hops", "too-many-hops")
            # Who calls for help passes the limits, but thousands of them are none: they would take down all calls.
            ceiling = EMERGENCY_SHARE * self.config.limits.max_calls
            busy = board.on_trunk[source.trunk] if source.trunk is not None else 0
            refusal, admitted = self.admission.admit(
                source, now, board.in_progress, busy, self.draining, emergency and board.in_progress < ceiling
            )
            record.decide(admitted, wall)
            if refusal is not None:
                raise PeerError(refusal.status, refusal.reason, refusal.rule, refusal.retry_after_s)
            leg, effects = CallerLeg.invited("a", board.settings, self.sites.site(flow), flow, tx, self._tag)
        except PeerError as error:
            record.add_leg("a", flow, None, request.call_id)
            record.caller, record.called = user_of(request.from_.uri_text), user_of(request.uri)
            record.trace(wall, "a", "<", request, None)
            self._answer(tx, error, record.id, now, live, None)
            record.end(self._wall(), "sbc", error.rule, error.reason, error.status, error.rule)
            board.complete(record)
            return
        tx.owner = leg
        leg.authorizer = board.accounts.of(source.trunk)
        offered = next(effect.event for effect in effects if isinstance(effect, Raise))
        assert isinstance(offered, Offered)
        if not emergency and offered.location is not None:
            offered = replace(offered, location=None)
        call = Call(record.id, leg, offered, self.config.timers.max_call_s)
        board.open(live, leg, call, Party("a", flow.network, flow.remote[0], self.sites.nat(flow.network)))
        if source.phone:
            leg.destination = same_flow
            live.phones["a"] = source.phone
        self._serving = live
        record.add_leg("a", flow, source.trunk, request.call_id)
        board.occupy(live, source.trunk)
        record.caller, record.called = offered.caller.user, offered.user
        board.on_event("came", record)
        board.learn(live, leg, request)
        board.run(live, [OnLeg(leg, effect) for effect in effects if isinstance(effect, Opened)], now)
        wanted = CallRequest(
            source,
            offered.user,
            uri.host if isinstance(uri, SipUri) else "",
            offered.caller.user,
            emergency,
            uri.param("gr") if isinstance(uri, SipUri) else None,
        )
        outcome, decisions = self.router.route(
            wanted, self.trunks.snapshot(now), board.on_trunk, self.phones.book, now
        )
        for choice in decisions:
            record.decide(choice, wall)
        if isinstance(outcome, Refusal):
            board.run(live, call.refuse(rejection(outcome), now), now)
        else:
            targets = self.phones.routed(outcome.targets, flow, request, source)
            board.run(live, call.begin(targets, now), now)

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
        board = self.board
        self._perform(self.transactions.handle_timer(now), now)
        for live in board.wakeups.due(now):
            if live.call is not None:
                self._serving = live
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
