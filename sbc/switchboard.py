"""The calls in progress, what the process keeps with each, and what the effects of a call do (design.md s.1).

`Switchboard` performs: it hands messages to the transactions, asks the anchor, dials, keeps the record. What comes
from the wire and when is `sbc.calls`; what may leave is `sbc.watch`.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from config.model import Config
from sbc.accounts import Accounts, challenge_decision
from sbc.anchor import LocalAnchor, Party
from sbc.answers import error_fields
from sbc.decisions import Decision
from sbc.record import CallRecord
from sbc.routing import Router, Target
from sbc.sites import Sites, leg_settings
from sbc.trunks import Trunks
from sbc.wakeups import Wakeups
from sbc.watch import Unsent, Watch, Watched, instead
from signaling.b2bua import Call
from signaling.call_effects import (
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
)
from signaling.call_effects import Effect as CallEffect
from signaling.callee import CalleeLeg
from signaling.errors import PeerError
from signaling.events import Offered
from signaling.exchange import (
    CancelRequest,
    Challenged,
    Ended,
    Opened,
    Raise,
    Respond,
    Role,
    SendAck,
    SendRequest,
)
from signaling.exchange import Effect as LegEffect
from signaling.flow import Flow, host_port
from signaling.guard import host_in
from signaling.leg import Leg
from signaling.message import Request, Response, respond
from signaling.transaction import Effect as TransactionEffect
from signaling.transaction import ServerTx, Transactions, Transmit
from signaling.usage import same_flow

# How long the relay may take to report the final counters of a call before the CDR is written without them.
REPORT_S = 2.0


@dataclass(slots=True, eq=False)
class Live:
    """A call and what the process keeps with it. `phones` has the users of those legs that are phones, `armed` is when
    it is to be woken. `call` and `watched` are None for one that was refused before it was any.
    """

    call: Call | None
    record: CallRecord
    parties: dict[str, Party] = field(default_factory=dict)
    watched: Watched | None = None
    trunks: list[str] = field(default_factory=list)
    phones: dict[str, str] = field(default_factory=dict)
    armed: float | None = None


class Switchboard:
    """The calls of one process and their effects.

    `calls` has them by id, `closing` those that are over and wait for their last media figures, `dialogs` and
    `owners` find the call of a message. `in_progress` and `on_trunk` count what the limits count: calls that are
    not over, though their legs may still say goodbye. `serving` is the call that something has come for last, should
    a bug show.
    """

    def __init__(
        self,
        config: Config,
        transactions: Transactions,
        anchor: LocalAnchor,
        stats: Counter[str],
        *,
        send: Callable[[bytes, Flow], None],
        wall: Callable[[], float],
        tag: Callable[[], str],
        on_record: Callable[[CallRecord], None],
        on_event: Callable[[str, CallRecord], None],
    ) -> None:
        self.calls: dict[str, Live] = {}
        self.closing: dict[str, tuple[Live, float]] = {}
        self.dialogs: dict[str, tuple[Live, Leg]] = {}
        self.owners: dict[Leg, Live] = {}
        self.wakeups: Wakeups[Live] = Wakeups()
        self.serving: Live | None = None
        self.in_progress = 0
        self.on_trunk: Counter[str] = Counter()
        self.recent: deque[CallRecord] = deque(maxlen=config.limits.recent_calls)
        self._unsent: list[tuple[Live, Unsent]] = []
        self.on_event = on_event
        self._transactions = transactions
        self._anchor = anchor
        self._watch = Watch(stats, wall)
        self._stats = stats
        self._send = send
        self._wall = wall
        self._tag = tag
        self._on_record = on_record

    def configure(self, config: Config, sites: Sites, router: Router, trunks: Trunks) -> None:
        """What calls are dialled and guarded by from now on."""
        self.settings = leg_settings(config)
        if self.recent.maxlen != config.limits.recent_calls:
            self.recent = deque(self.recent, maxlen=config.limits.recent_calls)
        self._config = config
        self._watch.configure(config.topology.verify, sites.own)
        self._sites = sites
        self._router = router
        self._trunks = trunks
        self.accounts = Accounts(config, trunks, self._tag)

    # -- a call comes and goes -----------------------------------------------------------------------------

    def new_record(self, name: str, started: float) -> CallRecord:
        """The record of a call that begins."""
        return CallRecord(name, started, self._config.limits.trace_messages, self._config.log.trace)

    def open(self, live: Live, leg: Leg, call: Call, party: Party) -> None:
        """A call has come on `leg`."""
        self.serving = live
        name = live.record.id
        live.call = call
        live.watched = Watched(live.record)
        live.parties["a"] = party
        self.calls[name] = live
        self.in_progress += 1
        self.own(live, leg)
        self._watch.tell(live.watched, "a", (leg.flow.remote[0],))

    def own(self, live: Live, leg: Leg) -> None:
        """A leg is of this call from now on."""
        leg.reference = live.record.id
        leg.destination = self._sites.destination
        self.owners[leg] = live

    def moved(self, user: str, before: Flow, after: Flow) -> None:
        """A phone of `user` has another flow: its calls go on there (RFC 5626 s.4.2.1, a NAT that forgot its mapping).

        Those of others who share the flow stay where they are: who registers says nothing about them.
        """
        old, new = before.remote[0], after.remote[0]
        for leg, live in self.owners.items():
            if leg.flow == before and live.phones.get(leg.name) == user:
                leg.flow = after
                party = live.parties.get(leg.name)
                if party is not None and new != old:
                    live.parties[leg.name] = replace(party, peer=new)
                    self._anchor.moved(live.record.id, leg.name, old, new)
                    self.note(live)

    def heard(self, leg: Leg, flow: Flow) -> None:
        """A request in the dialog of `leg` came by `flow`: a phone whose NAT gave it another port is reached there."""
        before = leg.flow
        if (
            flow != before
            and leg.destination is same_flow
            and flow.remote[0] == before.remote[0]
            and (flow.transport, flow.local) == (before.transport, before.local)
        ):
            leg.flow = flow

    def occupy(self, live: Live, trunk: str | None) -> None:
        """Count the call for `trunks.*.max_calls` until it is over."""
        if trunk is not None and trunk not in live.trunks:
            live.trunks.append(trunk)
            self.on_trunk[trunk] += 1

    def forget(self, live: Live, now: float) -> None:
        """Drop a call that cannot even be hung up: its peers will find out by their own timers."""
        self._finished(live, Finished("sbc", "bug", "an error of the SBC itself", 500), now)
        for leg in [leg for leg, owner in self.owners.items() if owner is live]:
            self._leg_ended(leg)
        self._gone(live)

    def complete(self, record: CallRecord) -> None:
        """Nothing more will be added to this record."""
        if record.final_status in (401, 407) and record.end_by != "sbc":
            # The registrar has asked a phone who it is; the call comes again with the answer.
            self._stats["challenged"] += 1
            return
        self.recent.append(record)
        self._on_record(record)

    def report(self, call_id: str) -> None:
        """The relay has told the last figures of a call that is over, or is waited for no longer."""
        closing = self.closing.pop(call_id, None)
        if closing is not None:
            closing[0].record.media = self._anchor.take_report(call_id)
            self.complete(closing[0].record)

    def note(self, live: Live) -> None:
        """What the anchor has decided belongs to the record."""
        for decision in self._anchor.take_decisions(live.record.id):
            live.record.decide(decision, self._wall())

    # -- written down --------------------------------------------------------------------------------------

    def snapshot(self, now: float) -> list[dict[str, Any]]:
        """Every settled call as plain data (design.md s.4.4); calls in the middle of something are left out."""
        return [
            {
                "call": live.call.snapshot(now),
                "media": self._anchor.snapshot(name),
                "parties": [
                    [party.leg, party.network, party.peer, party.nat] for party in live.parties.values()
                ],
                "phones": dict(live.phones),
                "caller": live.record.caller,
                "called": live.record.called,
                "started": live.record.started,
            }
            for name, live in self.calls.items()
            if live.call is not None and live.call.settled
        ]

    def restore(self, data: dict[str, Any], now: float) -> None:
        """Take over one call that `snapshot` wrote: its streams are opened again on the same ports."""
        legs = [
            Leg.restore(leg, self.settings, self._sites.site, self._tag, now) for leg in data["call"]["legs"]
        ]
        call = Call.restore(data["call"], legs[0], legs[1], now)
        record = self.new_record(call.id, data["started"])
        record.caller, record.called = data["caller"], data["called"]
        live = Live(call, record, watched=Watched(record))
        live.phones.update(data.get("phones", {}))
        for name, network, peer, nat in data["parties"]:
            live.parties[name] = Party(name, network, peer, nat)
        self.calls[call.id] = live
        self.in_progress += 1
        self._anchor.restore(data["media"])
        for leg, kept in zip(legs, data["call"]["legs"], strict=True):
            leg.authorizer = self.accounts.of(kept.get("account"))
            if leg.name in live.phones:
                leg.site = self._sites.of_phone(leg.flow)
            self.own(live, leg)
            self.dialogs[dialog_key(leg.dialog.call_id, leg.dialog.local_tag)] = (live, leg)
            record.add_leg(leg.name, leg.flow, None, leg.dialog.call_id)
        record.answered(data["started"], legs[1].name)
        self._arm(live)

    # -- effects of a call ---------------------------------------------------------------------------------

    def run(self, live: Live, effects: Sequence[CallEffect], now: float) -> None:
        """Carry out what an input to a call has caused, and set its timer."""
        self.carry_out(live, effects, now)
        while self._unsent:
            owner, unsent = self._unsent.pop()
            if owner.call is not None:
                self.carry_out(owner, unsent.give_up(owner.call, now), now)
                self._arm(owner)
        self._arm(live)

    def _arm(self, live: Live) -> None:
        self.wakeups.arm(live, None if live.call is None else live.call.next_timer())

    def carry_out(self, live: Live, effects: Sequence[CallEffect], now: float) -> None:
        """Carry out effects; those that ask something are answered to the call at once."""
        for effect in effects:
            match effect:
                case OnLeg():
                    self._on_leg(live, effect, now)
                case Cross():
                    self.carry_out(live, self._cross(live, effect, now), now)
                case Dial():
                    self.carry_out(live, self._dial(live, effect, now), now)
                case Follow():
                    self.carry_out(live, self._follow(live, effect, now), now)
                case SettleMedia():
                    self._anchor.settle(live.record.id)
                case RejectOffer():
                    self._anchor.reject(live.record.id)
                    self.note(live)
                case DropLeg():
                    self._anchor.drop(live.record.id, effect.name)
                    live.parties.pop(effect.name, None)
                    live.phones.pop(effect.name, None)
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
                if self._watch.withholds(live.watched, leg.name, request):
                    self._unsent.append((live, Unsent(leg, effect.asked, request)))
                    return
                tx, sent = self._transactions.send_request(request, effect.flow, effect.asked, now)
                effect.asked.tx = tx
                self.transmit(live, leg, request, sent, self._watch.blocks)
            case SendAck():
                sent = self._transactions.send_ack(effect.request, effect.flow)
                self.transmit(live, leg, effect.request, sent)
            case Respond():
                self._respond(live, leg, effect, now)
            case CancelRequest():
                if effect.asked.tx is not None:
                    fields = self._watch.courtesy(live.watched, leg.name, effect.fields)
                    sent = self._transactions.cancel(effect.asked.tx, fields, now)
                    self.put_out(sent, live.watched, leg.name)
            case Opened():
                self.dialogs[dialog_key(effect.call_id, effect.tag)] = (live, leg)
            case Challenged():
                kept = live.record.leg(leg.name)
                decision = challenge_decision(effect, None if kept is None else kept.trunk)
                live.record.decide(decision, self._wall())
            case Ended():
                self._leg_ended(leg)
            case Raise():
                pass  # the call has seen it

    def _respond(self, live: Live, leg: Leg, effect: Respond, now: float) -> None:
        tx, response = effect.tx, effect.response
        if self._watch.withholds(live.watched, leg.name, response):
            if response.status < 200:
                return  # the final answer is still to come
            if response.status < 300 and tx.request.method == "INVITE":
                self._unsent.append((live, Unsent(leg, None, None)))
            response = instead(tx.request, response, live.record.id)
        sent = self._transactions.respond(tx, response, now)
        self.transmit(live, leg, response, sent, self._watch.blocks)

    def _leg_ended(self, leg: Leg) -> None:
        for tag in leg.opened:
            self.dialogs.pop(dialog_key(leg.dialog.call_id, tag), None)
        self.owners.pop(leg, None)

    def transmit(
        self,
        live: Live,
        leg: Leg | None,
        message: Request | Response,
        effects: Sequence[TransactionEffect],
        looked_at: bool = False,
    ) -> None:
        """Send what a transaction made of `message`, after the guard has looked at it and the record has it.

        What we send ourselves makes a transaction do nothing but transmit. `looked_at`: it was not withheld.
        """
        name = leg.name if leg is not None else "a"
        for effect in effects:
            if isinstance(effect, Transmit):
                live.record.trace(self._wall(), name, ">", message, effect.data)
                if looked_at or self._watch.passes(live.watched, name, effect.data):
                    self._send(effect.data, effect.flow)

    def refuse(
        self,
        tx: ServerTx,
        error: PeerError,
        reference: str,
        now: float,
        live: Live | None = None,
        leg: Leg | None = None,
    ) -> None:
        """Answer a request with what was wrong, and with what RFC 3261 s.21 wants beside it."""
        self._stats[f"refused:{error.rule}"] += 1
        request = tx.request
        tag = request.to_tag or (leg.dialog.local_tag if leg is not None else self._tag())
        fields = error_fields(error, reference, self.settings.min_se_s)
        response = respond(request, error.status, error.reason, tag, fields)
        effects = self._transactions.respond(tx, response, now)
        if live is None:
            self.put_out(effects)
        else:
            self.transmit(live, leg, response, effects)

    def see_off(self, leg: Leg, effects: Sequence[LegEffect], now: float) -> None:
        """What a leg that has ended still has to say to its peer."""
        watched = self._watch.past.get(leg.reference)
        for effect in effects:
            match effect:
                case SendAck():
                    sent = self._transactions.send_ack(effect.request, effect.flow)
                    self.put_out(sent, watched, leg.name)
                case SendRequest():
                    if self._watch.withholds(watched, leg.name, effect.request):
                        continue
                    asked = effect.asked
                    asked.tx, sent = self._transactions.send_request(effect.request, effect.flow, asked, now)
                    self.put_out(sent, watched, leg.name)
                case _:
                    pass  # nobody is left to be told

    def put_out(
        self, effects: Sequence[TransactionEffect], watched: Watched | None = None, name: str = "a"
    ) -> None:
        """Send what a transaction made by itself: to leg `name` of a call, or for none."""
        for effect in effects:
            if isinstance(effect, Transmit) and self._watch.passes(watched, name, effect.data):
                self._send(effect.data, effect.flow)

    def learn(self, live: Live, leg: Leg, message: Request | Response) -> None:
        """A message of a peer belongs to the record, and what only its side may know to the guard."""
        self.serving = live
        live.record.trace(self._wall(), leg.name, "<", message, None)
        if live.watched is not None:
            self._watch.learn(live.watched, leg.name, message)

    def _dial(self, live: Live, dial: Dial, now: float) -> Sequence[CallEffect]:
        call, target = live.call, dial.target
        assert call is not None and isinstance(target, Target)
        if not call.awaits(dial.name):
            return []
        flow = target.flow or self._sites.flow_to(target.network, target.transport, target.address)
        live.record.try_target(dial.name, target, self._wall())
        self.occupy(live, target.trunk)
        if flow is None:
            family = "IPv6" if ":" in target.address[0] else "IPv4"
            reason = f"no {target.transport} listener for {family} on network {target.network}"
            return call.not_dialled(dial.name, PeerError(500, reason, "no-listener"), now)
        offered = dial.offered
        party = Party(dial.name, target.network, target.address[0], target.nat)
        live.parties[dial.name] = party
        sdp = offered.sdp
        try:
            if sdp is not None:
                sdp = self._anchor.offer(call.id, live.parties["a"], party, sdp)
            else:
                self._anchor.reserve(call.id, live.parties["a"], party)
        except PeerError as error:
            return call.not_dialled(dial.name, error, now)
        finally:
            self.note(live)
        to_send = Offered(
            target.user,
            offered.caller,
            offered.called,
            sdp,
            offered.carried,
            offered.max_forwards,
            offered.location,
        )
        site = self._sites.site(flow) if target.flow is None else self._sites.of_phone(flow)
        if target.domain:
            site = replace(site, domain=target.domain)
        if target.gruu and target.flow is None:
            site = replace(site, gruu=target.gruu)
        try:
            leg, effects = CalleeLeg.calling(
                dial.name, self.settings, site, flow, target.host, target.user, to_send,
                self._tag, now, self.accounts.of(target.trunk), target.contact, target.credentials, target.routes,
            )  # fmt: skip
        except PeerError as error:
            # What leads there cannot be used: a route that a registrar gave, a contact. Not the caller's fault.
            return call.not_dialled(dial.name, PeerError(500, error.reason, error.rule), now)
        self.own(live, leg)
        if live.watched is not None:
            said = (flow.remote[0], target.address[0], host_in(target.contact))
            self._watch.tell(live.watched, dial.name, said)
        if target.flow is not None:
            leg.destination = same_flow  # it is reached by no other way than the one that it registered by
            live.phones[dial.name] = target.user
        if target.registrar:
            leg.role, leg.token = Role.PHONE, target.gruu
        live.record.add_leg(dial.name, flow, target.trunk, leg.dialog.call_id)
        return call.dialled(leg, effects, now)

    def _follow(self, live: Live, follow: Follow, now: float) -> Sequence[CallEffect]:
        """Targets out of a 3xx's contacts: literal addresses in the network of the trunk that sent it."""
        call, old = live.call, follow.target
        assert call is not None and isinstance(old, Target)
        targets = self._router.redirected(old, follow.contacts)
        shown = ", ".join(host_port(target.address) for target in targets) or "none usable"
        live.record.decide(
            Decision(
                "redirect", f"trunks.{old.trunk}.redirects", (("contacts", str(len(follow.contacts))),), shown
            ),
            self._wall(),
        )
        return call.followed(follow.name, targets, now)

    def _cross(self, live: Live, cross: Cross, now: float) -> Sequence[CallEffect]:
        call = live.call
        assert call is not None
        source, target = live.parties[cross.source.name], live.parties[cross.target.name]
        rewrite = self._anchor.offer if cross.kind == "offer" else self._anchor.answer
        try:
            sdp = rewrite(call.id, source, target, cross.sdp)
        except PeerError as error:
            return call.not_crossed(error, now)
        finally:
            self.note(live)
        return call.crossed(sdp, now)

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
                self._anchor.listen_anew(live.record.id)
            case "tried":
                live.record.tried(milestone.leg, milestone.status, milestone.reason, milestone.rule, wall)
                self.on_event("tried", live.record)
                if isinstance(milestone.target, Target):
                    self._trunks.attempted(
                        milestone.target, milestone.status, milestone.rule, now, milestone.retry_after_s
                    )
            case "lost":
                live.record.tried(milestone.leg, milestone.status, milestone.reason, milestone.rule, wall)

    def _finished(self, live: Live, finished: Finished, now: float) -> None:
        wall = self._wall()
        live.record.end(wall, finished.by, finished.cause, finished.text, finished.status, finished.cause)
        live.record.media = self._anchor.query(live.record.id)
        if finished.by == "sbc" and finished.status >= 400:
            self._stats[f"refused:{finished.cause}"] += 1
        self.in_progress -= 1
        for trunk in live.trunks:
            self.on_trunk[trunk] -= 1
        live.trunks.clear()
        if self._anchor.delete(live.record.id):
            self.closing[live.record.id] = (live, now + REPORT_S)
        else:
            self.complete(live.record)

    def _gone(self, live: Live) -> None:
        self.calls.pop(live.record.id, None)
        self.wakeups.disarm(live)
        live.call = None
        if live.watched is not None:
            self._watch.over(live.watched)
        live.parties.clear()
        live.phones.clear()


def dialog_key(call_id: str, tag: str) -> str:
    """What a request inside a dialog is found by: Call-ID and our tag."""
    return f"{call_id}\n{tag}"
