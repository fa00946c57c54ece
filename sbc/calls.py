"""The calls of a process: SIP messages in, SIP messages out, and what happens between (design.md s.1).

`Calls` performs the effects of the cores: it owns the transactions, the live calls and their timers, asks policy
and the anchor, and keeps each call's record. It does no I/O itself: bytes go out by `send`, time and bytes come
in as arguments, so the in-memory wire of the tests and `sbc simulate` run this very code.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.model import Config
from media.relay import BindFailed, RelayEvent, Silence, WorkerRestarted
from sbc.admission import Admission
from sbc.anchor import LocalAnchor, MediaReport, Party
from sbc.answers import (
    OPTIONS_FIELDS,
    bug_answer,
    error_fields,
    in_dialog,
    outside,
    ping_request,
    raw_fields,
    rejection,
)
from sbc.decisions import Decision
from sbc.media_policy import MediaPolicy
from sbc.record import CallRecord
from sbc.routing import CallRequest, Refusal, Router, Target
from sbc.sites import Sites, leg_settings
from sbc.trunks import Ping, Trunks
from sbc.wakeups import Wakeups
from signaling.b2bua import (
    Call,
    Cross,
    Dial,
    DropLeg,
    Finished,
    Follow,
    Gone,
    Milestone,
    OnLeg,
    RejectOffer,
    SettleMedia,
    user_of,
)
from signaling.b2bua import Effect as CallEffect
from signaling.b2bua import State as CallState
from signaling.callee import CalleeLeg
from signaling.caller import CallerLeg
from signaling.errors import ParseError, PeerError
from signaling.events import Offered
from signaling.exchange import (
    Asked,
    CancelRequest,
    Ended,
    Opened,
    Raise,
    Respond,
    SendAck,
    SendRequest,
)
from signaling.flow import Flow, host_port
from signaling.leg import Leg
from signaling.message import Request, Response, respond
from signaling.parser import ParseLimits, parse, refuse
from signaling.return_path import ReturnPaths
from signaling.topology import Guard, Site, carry_request
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
from signaling.uri import SipUri, parse_uri

MAGIC = "z9hG4bK"
# How long the relay may take to report the final counters of a call before the CDR is written without them.
REPORT_S = 2.0


@dataclass(slots=True, eq=False)
class Live:
    """A call and what the process keeps with it. `armed` is when it is to be woken."""

    call: Call | None
    record: CallRecord
    parties: dict[str, Party] = field(default_factory=dict)
    secrets: dict[str, set[bytes]] = field(default_factory=dict)
    trunks: list[str] = field(default_factory=list)
    armed: float | None = None


class Calls:
    """All calls of one process.

    `send` puts bytes on the wire, `wall` gives seconds since the epoch for records, `token` makes unguessable
    identifiers (bytes of randomness in, text out), `on_record` gets the record of each call when it is complete,
    `on_event` the record at what happens on the way: "came", "ringing", "answered", "tried" (a server that did not
    take the call). `on_bug` gets an exception that is our own fault: the one call that met it is ended. Without
    `on_bug` it is raised.
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
    ) -> None:
        self.anchor = anchor
        self.stats: Counter[str] = Counter()
        self.recent: deque[CallRecord] = deque(maxlen=config.limits.recent_calls)
        self.draining = False
        self._send = send
        self._wall = wall
        self._token = token
        self._on_record = on_record
        self.on_event = on_event
        self.on_bug = on_bug
        self._serving: Live | None = None  # whose effects are being carried out, should a bug show
        self._live: dict[str, Live] = {}
        self._closing: dict[str, tuple[Live, float]] = {}
        self._dialogs: dict[str, tuple[Live, Leg]] = {}
        self._live_of: dict[Leg, Live] = {}
        self._wakeups: Wakeups[Live] = Wakeups()
        # What counts for the limits: calls that are not over, though their legs may still say goodbye.
        self._in_progress = 0
        self._on_trunk: Counter[str] = Counter()
        self._configure(config)
        self._return_paths = ReturnPaths()
        self.transactions = Transactions(
            TimerValues(config.timers.t1_ms / 1000, config.timers.t2_ms / 1000, config.timers.t4_ms / 1000),
            branch=lambda: MAGIC + token(8),
            advertised=self._advertised,
            tag=self._tag,
            max_transactions=config.limits.max_transactions,
            symmetric=self.sites.symmetric,
            return_paths=self._return_paths,
        )

    def _configure(self, config: Config) -> None:
        self.config = config
        self.sites = Sites(config)
        self.router = Router(config)
        self.trunks = Trunks(config)
        self.admission = Admission(config)
        self.guard = Guard(self.sites.own)
        self.settings = leg_settings(config)
        limits = config.limits
        self.parse_limits = ParseLimits(
            max_message_bytes=limits.max_message_bytes, max_headers=limits.max_headers
        )
        self.queue_age_s = limits.queue_age_ms / 1000

    def _tag(self) -> str:
        return self._token(6)

    def _site_of(self, flow: Flow) -> Site:
        return self.sites.site(flow)

    def _advertised(self, flow: Flow) -> tuple[str, int]:
        return self.sites.advertised(flow)

    # -- faces ---------------------------------------------------------------------------------------------

    @property
    def live(self) -> Mapping[str, CallRecord]:
        """The records of the calls in progress by their ids."""
        return {name: live.record for name, live in self._live.items()}

    @property
    def closing(self) -> list[CallRecord]:
        """The records of the calls that are over and wait for their last media figures."""
        return [live.record for live, _ in self._closing.values()]

    @property
    def idle(self) -> bool:
        """Whether no call is left, not even one that waits for its last answer or its media figures."""
        return not self._live and not self._closing

    def leftovers(self) -> dict[str, int]:
        """What is still held; all zero when the process is at rest."""
        return {
            "calls": len(self._live),
            "closing": len(self._closing),
            "dialogs": len(self._dialogs),
            "transactions": len(self.transactions),
            "media_sessions": len(self.anchor),
            "ports": self.anchor.ports_in_use(),
        }

    def media(self, call: str) -> MediaReport:
        """The media of a live call, without counters."""
        return self.anchor.query(call)

    def reload(self, config: Config, now: float) -> None:
        """Swap the configuration; calls in progress keep the numbers they began with."""
        trunks, admission = self.trunks, self.admission
        self._configure(config)
        self.trunks.adopt(trunks, now)
        self.admission.adopt(admission, now)
        self.anchor.configure(MediaPolicy.of_config(config))
        self.transactions.max_transactions = config.limits.max_transactions
        self.transactions.symmetric = self.sites.symmetric

    def drain(self, now: float) -> None:
        """Refuse new calls from now on."""
        self.draining = True

    def hang_up(self, now: float, call: str | None = None, cause: str = "drain", text: str = "") -> int:
        """BYE to both sides of one call or of all; returns how many."""
        chosen = [self._live[call]] if call in self._live else [] if call else list(self._live.values())
        for live in chosen:
            if live.call is not None:
                self._run(live, live.call.hang_up(cause, text or cause, now), now)
        return len(chosen)

    # -- written down --------------------------------------------------------------------------------------

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """Every settled call as plain data (design.md s.4.4); calls in the middle of something are left out."""
        return [
            {
                "call": live.call.snapshot(now),
                "media": self.anchor.snapshot(name),
                "parties": [
                    [party.leg, party.network, party.peer, party.nat] for party in live.parties.values()
                ],
                "caller": live.record.caller,
                "called": live.record.called,
                "started": live.record.started,
            }
            for name, live in self._live.items()
            if live.call is not None and live.call.settled
        ]

    def restore(self, calls: Sequence[dict[str, Any]], now: float) -> None:
        """Take over the calls that `snapshot` wrote: their streams are opened again on the same ports."""
        for data in calls:
            legs = [
                Leg.restore(leg, self.settings, self._site_of, self._tag, now) for leg in data["call"]["legs"]
            ]
            call = Call.restore(data["call"], legs[0], legs[1], now)
            record = CallRecord(
                call.id, data["started"], self.config.limits.trace_messages, self.config.log.trace
            )
            record.caller, record.called = data["caller"], data["called"]
            live = Live(call, record)
            for name, network, peer, nat in data["parties"]:
                live.parties[name] = Party(name, network, peer, nat)
            self._live[call.id] = live
            self._in_progress += 1
            self.anchor.restore(data["media"])
            for leg in legs:
                leg.reference = call.id
                leg.destination = self.sites.destination
                self._live_of[leg] = live
                self._dialogs[dialog_key(leg.dialog.call_id, leg.dialog.local_tag)] = (live, leg)
                record.add_leg(leg.name, leg.flow, None, leg.dialog.call_id)
            record.answered(data["started"], legs[1].name)
            self._arm(live)

    # -- from the wire -------------------------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float, age_s: float = 0.0) -> None:
        """One SIP message as it came; `age_s` is how long it waited for us."""
        if age_s > self.queue_age_s and data.startswith(b"INVITE ") and not in_dialog(data):
            # RFC 7339 s.1, RFC 3261 s.21.5.4: refusing must stay cheaper than serving.
            self._refuse_raw(data, flow, 503, "Service Unavailable", "overload")
            return
        try:
            message = parse(data, self.parse_limits)
            self._perform(self.transactions.receive(message, flow, now), now)
        except ParseError as error:
            self._refuse_raw(data, flow, error.status, error.reason, error.rule)

    def _refuse_raw(self, data: bytes, flow: Flow, status: int, reason: str, rule: str) -> None:
        self.stats[f"refused:{rule}"] += 1
        answer = refuse(data, status, reason, raw_fields(status, rule))
        if answer is not None:
            self._send(answer, flow)

    def transport_failed(self, flow: Flow, now: float) -> None:
        """Bytes for this flow cannot be sent."""
        self._perform(self.transactions.transport_failed(flow, now), now)

    def _perform(self, effects: Sequence[TransactionEffect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                self._send(effect.data, effect.flow)
                continue
            self._serving = None
            try:
                self._dispatch(effect, now)
            except ParseError:
                raise
            except Exception as error:
                if isinstance(effect, RequestReceived):
                    self._perform(self.transactions.respond(effect.tx, bug_answer(effect.request), now), now)
                self._broken(error, now)

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
        live, self._serving = self._serving, None
        self.stats[f"bug:{type(error).__name__}"] += 1
        if live is not None and live.call is not None:
            try:
                self._carry_out(live, live.call.hang_up("bug", "an error of the SBC itself", now), now)
            except Exception:
                self._forget(live, now)
        if self.on_bug is None:
            raise error
        self.on_bug(error)

    def _forget(self, live: Live, now: float) -> None:
        """Drop a call that cannot even be hung up: its peers will find out by their own timers."""
        self._finished(live, Finished("sbc", "bug", "an error of the SBC itself", 500), now)
        for leg in [leg for leg, owner in self._live_of.items() if owner is live]:
            self._leg_ended(leg)
        self._gone(live)

    def _request(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        tag = request.to_tag
        if tag is None:
            if request.method == "INVITE":
                self._new_call(tx, request, flow, now)
            else:
                self._outside(tx, request, now)
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
            self._run(live, live.call.on_leg(leg, effects, now), now)

    def _dialog(self, request: Request, tag: str, flow: Flow) -> tuple[Live, Leg] | None:
        """The call and leg of a request with our `tag`; a dialog of one network does not exist on another."""
        known = self._dialogs.get(dialog_key(request.call_id, tag))
        if known is None or known[1].flow.network != flow.network:
            return None
        self._return_paths.prove(flow.network, flow.remote[0])
        return known

    def _outside(self, tx: ServerTx, request: Request, now: float) -> None:
        """A request outside any dialog that is no call (RFC 3261 s.11, s.8.2.1)."""
        if request.method == "OPTIONS":
            answer = respond(request, 200, "OK", self._token(6), OPTIONS_FIELDS)
            self._perform(self.transactions.respond(tx, answer, now), now)
        else:
            self._answer(tx, outside(request.method), "-", now)

    def _response(self, tx: ClientTx, response: Response, now: float) -> None:
        asked = tx.owner
        if isinstance(asked, Ping):
            if response.status >= 200:
                self.trunks.answered(asked, response.status, now)
            return
        if not isinstance(asked, Asked):
            return
        if response.status >= 200:
            # Nothing is left to cancel; and the two must not keep each other alive until the collector comes.
            asked.tx = None
        live = self._live_of.get(asked.leg)
        if live is None or live.call is None:
            # The call is gone, but a repeated 2xx still wants its ACK (RFC 3261 s.13.2.2.4).
            if asked.ack is not None and 200 <= response.status < 300:
                self._perform(self.transactions.send_ack(asked.ack, tx.flow), now)
            return
        self._serving = live
        self._learn(live, asked.leg, response)
        effects = asked.leg.response(asked, response, now)
        self._run(live, live.call.on_leg(asked.leg, effects, now), now)

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
                self._run(live, live.call.hang_up(error.rule, error.reason, now), now)
                return
            self._run(live, live.call.on_leg(leg, effects, now), now)

    def _cancel(self, tx: ServerTx, request: Request, now: float) -> None:
        leg = tx.owner
        if not isinstance(leg, Leg):
            return
        live = self._live_of.get(leg)
        if live is not None and live.call is not None:
            self._serving = live
            self._learn(live, leg, request)
            self._run(live, live.call.on_leg(leg, leg.cancelled(carry_request(request)), now), now)

    def _failed(self, tx: ClientTx | ServerTx, cause: str, now: float) -> None:
        owner = tx.owner
        if isinstance(owner, Ping):
            self.trunks.unanswered(owner, cause, now)
            return
        if not isinstance(owner, Asked):
            return
        owner.tx = None
        live = self._live_of.get(owner.leg)
        if live is not None and live.call is not None:
            self._serving = live
            effects = owner.leg.failed(owner, cause, now)
            self._run(live, live.call.on_leg(owner.leg, effects, now), now)

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
        fields = error_fields(error, reference, self.settings.min_se_s)
        tag = request.to_tag or (leg.dialog.local_tag if leg is not None else self._token(6))
        response = respond(request, error.status, error.reason, tag, fields)
        self._transmit(live, leg, response, self.transactions.respond(tx, response, now), now)

    # -- a new call ----------------------------------------------------------------------------------------

    def _new_call(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        wall = self._wall()
        record = CallRecord(
            f"c-{self._token(4)}", wall, self.config.limits.trace_messages, self.config.log.trace
        )
        live = Live(None, record)
        try:
            source, decision = self.router.source_of(flow, self.trunks.snapshot(now))
            record.decide(decision, wall)
            if request.max_forwards == 0:
                raise PeerError(483, "Too Many Hops", "too-many-hops")
            busy = self._on_trunk[source.trunk] if source.trunk is not None else 0
            refusal, admitted = self.admission.admit(source, now, self._in_progress, busy, self.draining)
            record.decide(admitted, wall)
            if refusal is not None:
                raise PeerError(refusal.status, refusal.reason, refusal.rule, refusal.retry_after_s)
            leg, effects = CallerLeg.invited("a", self.settings, self.sites.site(flow), flow, tx, self._tag)
        except PeerError as error:
            record.add_leg("a", flow, None, request.call_id)
            record.caller, record.called = user_of(request.from_.uri_text), user_of(request.uri)
            record.trace(wall, "a", "<", request, None)
            self._answer(tx, error, record.id, now, live, None)
            record.end(self._wall(), "sbc", error.rule, error.reason, error.status, error.rule)
            self._complete(record)
            return
        tx.owner = leg
        leg.reference = record.id
        leg.destination = self.sites.destination
        offered = next(effect.event for effect in effects if isinstance(effect, Raise))
        assert isinstance(offered, Offered)
        live.call = Call(record.id, leg, offered, self.config.timers.max_call_s)
        live.parties["a"] = Party("a", flow.network, flow.remote[0], self.sites.nat(flow.network))
        self._live[record.id] = live
        self._in_progress += 1
        self._live_of[leg] = live
        self._serving = live
        record.add_leg("a", flow, source.trunk, request.call_id)
        self._occupy(live, source.trunk)
        record.caller, record.called = offered.caller.user, offered.user
        self.on_event("came", record)
        self._learn(live, leg, request)
        self._run(live, [OnLeg(leg, effect) for effect in effects if isinstance(effect, Opened)], now)
        uri = parse_uri(request.uri)
        wanted = CallRequest(
            source, offered.user, uri.host if isinstance(uri, SipUri) else "", offered.caller.user, False
        )
        outcome, decisions = self.router.route(wanted, self.trunks.snapshot(now), self._on_trunk)
        for choice in decisions:
            record.decide(choice, wall)
        if isinstance(outcome, Refusal):
            self._run(live, live.call.refuse(rejection(outcome), now), now)
        else:
            self._run(live, live.call.begin(outcome.targets, now), now)

    def _occupy(self, live: Live, trunk: str | None) -> None:
        """Count the call for `trunks.*.max_calls` until it is over."""
        if trunk is not None and trunk not in live.trunks:
            live.trunks.append(trunk)
            self._on_trunk[trunk] += 1

    def _dial(self, live: Live, dial: Dial, now: float) -> Sequence[CallEffect]:
        call, target = live.call, dial.target
        assert call is not None and isinstance(target, Target)
        flow = self.sites.flow_to(target.network, target.transport, target.address)
        live.record.try_target(dial.name, target, self._wall())
        self._occupy(live, target.trunk)
        if flow is None:
            family = "IPv6" if ":" in target.address[0] else "IPv4"
            reason = f"no {target.transport} listener for {family} on network {target.network}"
            return call.not_dialled(PeerError(500, reason, "no-listener"), now)
        offered = dial.offered
        party = Party(dial.name, target.network, target.address[0], target.nat)
        live.parties[dial.name] = party
        sdp = offered.sdp
        try:
            if sdp is not None:
                sdp = self.anchor.offer(call.id, live.parties["a"], party, sdp)
        except PeerError as error:
            return call.not_dialled(error, now)
        finally:
            self._note(live)
        to_send = Offered(
            target.user, offered.caller, offered.called, sdp, offered.carried, offered.max_forwards
        )
        leg, effects = CalleeLeg.calling(
            dial.name, self.settings, self.sites.site(flow), flow, target.host, target.user, to_send,
            self._tag, now,
        )  # fmt: skip
        leg.reference = live.record.id
        leg.destination = self.sites.destination
        self._live_of[leg] = live
        live.record.add_leg(dial.name, flow, target.trunk, leg.dialog.call_id)
        return call.dialled(leg, effects, now)

    def _follow(self, live: Live, follow: Follow, now: float) -> Sequence[CallEffect]:
        """Targets out of a 3xx's contacts: literal addresses in the network of the trunk that sent it."""
        call, old = live.call, follow.target
        assert call is not None and isinstance(old, Target)
        targets = self.router.redirected(old, follow.contacts)
        shown = ", ".join(host_port(target.address) for target in targets) or "none usable"
        live.record.decide(
            Decision(
                "redirect", f"trunks.{old.trunk}.redirects", (("contacts", str(len(follow.contacts))),), shown
            ),
            self._wall(),
        )
        if not targets:
            return call.not_followed(now)
        return call.begin(targets, now)

    # -- effects of a call ---------------------------------------------------------------------------------

    def _run(self, live: Live, effects: Sequence[CallEffect], now: float) -> None:
        self._carry_out(live, effects, now)
        self._arm(live)

    def _arm(self, live: Live) -> None:
        self._wakeups.arm(live, None if live.call is None else live.call.next_timer())

    def _carry_out(self, live: Live, effects: Sequence[CallEffect], now: float) -> None:
        for effect in effects:
            match effect:
                case OnLeg():
                    self._on_leg(live, effect, now)
                case Cross():
                    self._carry_out(live, self._cross(live, effect, now), now)
                case Dial():
                    self._carry_out(live, self._dial(live, effect, now), now)
                case Follow():
                    self._carry_out(live, self._follow(live, effect, now), now)
                case SettleMedia():
                    self.anchor.settle(live.record.id)
                case RejectOffer():
                    self.anchor.reject(live.record.id)
                    self._note(live)
                case DropLeg():
                    self.anchor.drop(live.record.id, effect.name)
                case Milestone():
                    self._milestone(live, effect, now)
                case Finished():
                    self._finished(live, effect, now)
                case Gone():
                    self._gone(live)

    def _on_leg(self, live: Live, on_leg: OnLeg, now: float) -> None:
        leg, effect = on_leg.leg, on_leg.effect
        match effect:
            case SendRequest():
                request = effect.request
                tx, sent = self.transactions.send_request(request, effect.flow, effect.asked, now)
                effect.asked.tx = tx
                self._transmit(live, leg, request, sent, now)
            case SendAck():
                self._transmit(
                    live, leg, effect.request, self.transactions.send_ack(effect.request, effect.flow), now
                )
            case Respond():
                response = effect.response
                self._transmit(live, leg, response, self.transactions.respond(effect.tx, response, now), now)
            case CancelRequest():
                if effect.asked.tx is not None:
                    self._perform(self.transactions.cancel(effect.asked.tx, effect.fields, now), now)
            case Opened():
                self._dialogs[dialog_key(effect.call_id, effect.tag)] = (live, leg)
            case Ended():
                self._leg_ended(leg)
            case Raise():
                pass  # the call has seen it

    def _leg_ended(self, leg: Leg) -> None:
        for tag in leg.opened:
            self._dialogs.pop(dialog_key(leg.dialog.call_id, tag), None)
        self._live_of.pop(leg, None)

    def _transmit(
        self,
        live: Live | None,
        leg: Leg | None,
        message: Request | Response,
        effects: Sequence[TransactionEffect],
        now: float,
    ) -> None:
        """Send what a transaction made of `message`, after the guard has looked at it and the record has it."""
        if live is not None:
            name = leg.name if leg is not None else "a"
            for effect in effects:
                if isinstance(effect, Transmit):
                    live.record.trace(self._wall(), name, ">", message, effect.data)
                    if not self._guarded(live, name, effect.data):
                        return
        self._perform(effects, now)

    def _guarded(self, live: Live, name: str, data: bytes) -> bool:
        """Whether the bytes may leave (design.md s.4.1): they must hold nothing of the other side."""
        verify = self.config.topology.verify
        if verify == "off":
            return True
        mine = name == "a"
        for other, secrets in live.secrets.items():
            if (other == "a") != mine:
                leaks = self.guard.scan(secrets, data)
                if leaks:
                    live.record.leaks += len(leaks)
                    self.stats["topology:leaks"] += len(leaks)
                    live.record.decide(
                        Decision("topology", "topology.verify", (("leaked", ", ".join(leaks)),), verify),
                        self._wall(),
                    )
                    return verify != "block"
        return True

    def _learn(self, live: Live, leg: Leg, message: Request | Response) -> None:
        live.record.trace(self._wall(), leg.name, "<", message, None)
        if self.config.topology.verify != "off":
            self.guard.learn(live.secrets.setdefault("a" if leg.name == "a" else "b", set()), message)

    def _cross(self, live: Live, cross: Cross, now: float) -> Sequence[CallEffect]:
        call = live.call
        assert call is not None
        source, target = live.parties[cross.source.name], live.parties[cross.target.name]
        rewrite = self.anchor.offer if cross.kind == "offer" else self.anchor.answer
        try:
            sdp = rewrite(call.id, source, target, cross.sdp)
        except PeerError as error:
            return call.not_crossed(error, now)
        finally:
            self._note(live)
        return call.crossed(sdp, now)

    def _note(self, live: Live) -> None:
        for decision in self.anchor.take_decisions(live.record.id):
            live.record.decide(decision, self._wall())

    def _milestone(self, live: Live, milestone: Milestone, now: float) -> None:
        wall = self._wall()
        match milestone.what:
            case "ringing":
                first = live.record.ringing_at is None
                live.record.rang(wall)
                if first:
                    self.on_event("ringing", live.record)
            case "answered":
                live.record.answered(wall, milestone.leg)
                self.on_event("answered", live.record)
                self.anchor.listen_anew(live.record.id)
            case "tried":
                live.record.tried(milestone.leg, milestone.status, milestone.reason, milestone.rule, wall)
                self.on_event("tried", live.record)
                call = live.call
                if call is not None and isinstance(call.target, Target):
                    self.trunks.attempted(
                        call.target, milestone.status, milestone.rule, now, milestone.retry_after_s
                    )

    def _finished(self, live: Live, finished: Finished, now: float) -> None:
        wall = self._wall()
        live.record.end(wall, finished.by, finished.cause, finished.text, finished.status, finished.cause)
        live.record.media = self.anchor.query(live.record.id)
        if finished.by == "sbc" and finished.status >= 400:
            self.stats[f"refused:{finished.cause}"] += 1
        self._in_progress -= 1
        for trunk in live.trunks:
            self._on_trunk[trunk] -= 1
        live.trunks.clear()
        if self.anchor.delete(live.record.id):
            self._closing[live.record.id] = (live, now + REPORT_S)
        else:
            self._complete(live.record)

    def _complete(self, record: CallRecord) -> None:
        self.recent.append(record)
        self._on_record(record)

    def _gone(self, live: Live) -> None:
        self._live.pop(live.record.id, None)
        self._wakeups.disarm(live)
        live.call = None
        live.secrets.clear()
        live.parties.clear()

    # -- media and time ------------------------------------------------------------------------------------

    def relay_event(self, event: RelayEvent, now: float) -> None:
        """What the relay tells of a stream."""
        for call_id in self.anchor.relay_event(event):
            self._report(call_id)
        if isinstance(event, BindFailed) and event.call in self._live:
            self._note(self._live[event.call])
        elif isinstance(event, WorkerRestarted):
            for call_id in event.calls:
                if call_id in self._live:
                    self._live[call_id].record.decide(_relay_restarted(event), self._wall())
        elif isinstance(event, Silence):
            live = self._live.get(event.call)
            # Early media may be silent: while it rings, `timers.no_answer_s` watches over the call.
            if live is not None and live.call is not None and live.call.state is CallState.UP:
                cause = "media-silence" if event.ever else "media-never"
                text = f"no media for {event.seconds:.0f} s"
                self._run(live, live.call.hang_up(cause, text, now), now)

    def _report(self, call_id: str) -> None:
        closing = self._closing.pop(call_id, None)
        if closing is not None:
            closing[0].record.media = self.anchor.take_report(call_id)
            self._complete(closing[0].record)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        due = self.transactions.next_timer()
        for at in (self.trunks.next_timer(), self._wakeups.next()):
            if at is not None and (due is None or at < due):
                due = at
        if self._closing:
            # In the order in which they are due: each waits equally long.
            _, at = next(iter(self._closing.values()))
            if due is None or at < due:
                due = at
        return due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._perform(self.transactions.handle_timer(now), now)
        for live in self._wakeups.due(now):
            if live.call is not None:
                self._serving = live
                try:
                    self._run(live, live.call.handle_timer(now), now)
                except Exception as error:
                    self._broken(error, now)
        for call_id in [call_id for call_id, (_, at) in self._closing.items() if at <= now]:
            self.anchor.reap(call_id, now)
            self._report(call_id)
        for ping in self.trunks.handle_timer(now):
            self._ping(ping, now)

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


def dialog_key(call_id: str, tag: str) -> str:
    """What a request inside a dialog is found by: Call-ID and our tag."""
    return f"{call_id}\n{tag}"
