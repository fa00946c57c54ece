"""Where calls come in: whether we are too late for one, whom it is from, whether it may come in, and where it goes.

`Reception` asks policy (`sbc.routing`, `sbc.phonebook`, `sbc.admission`) about each INVITE that is in no dialog, and
gives a call to the switchboard or a refusal to the peer. What becomes of the call is no business of its.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from config.model import Config
from sbc.admission import Admission, Emergencies
from sbc.anchor import Party
from sbc.answers import in_dialog, rejection
from sbc.buckets import TokenBucket
from sbc.outbound import Outbound
from sbc.own_number import callers_of
from sbc.phonebook import Caller
from sbc.phones import Phones, sender_of
from sbc.record import CallRecord
from sbc.routing import CallRequest, Refusal, Router, Source
from sbc.sites import Sites
from sbc.switchboard import Live, Switchboard
from sbc.trunks import Trunks
from signaling.b2bua import Call
from signaling.call_effects import OnLeg
from signaling.caller import CallerLeg
from signaling.errors import PeerError
from signaling.events import Offered
from signaling.exchange import Opened, Raise
from signaling.flow import Flow
from signaling.identity import user_of
from signaling.message import Request, respond
from signaling.transaction import ServerTx, Transactions
from signaling.uri import SipUri, parse_uri, unescape
from signaling.usage import same_flow

_CREDENTIALS = re.compile(rb"\r\nauthorization[ \t]*:", re.IGNORECASE)
UNREGISTERED = "unregistered emergencies"
"""What calls for help of phones that are not registered are counted as, beside the trunks: no trunk is named so."""
WRITTEN_PER_S = 10.0
"""Calls a second that are refused by a limit with a record of it; what comes beyond is refused unread, and counted."""
EMERGENCY_SHARE = 2
"""Calls for help pass `limits.max_calls` until there are so many times as many calls in all."""


class Reception:
    """What comes to one process and belongs to no call yet. While it is `draining` no call comes in."""

    def __init__(
        self,
        transactions: Transactions,
        board: Switchboard,
        phones: Phones,
        *,
        wall: Callable[[], float],
        token: Callable[[int], str],
        tag: Callable[[], str],
    ) -> None:
        self.draining = False
        self._written = TokenBucket(WRITTEN_PER_S, WRITTEN_PER_S, 0.0)
        self._transactions = transactions
        self._board = board
        self._phones = phones
        self._wall = wall
        self._token = token
        self._tag = tag

    def configure(
        self,
        config: Config,
        sites: Sites,
        router: Router,
        trunks: Trunks,
        outbound: Outbound,
        now: float | None = None,
    ) -> None:
        """What is asked about calls to come; a reload, at `now`, gives nobody a new allowance."""
        self._max_calls = config.limits.max_calls
        self._max_call_s = config.timers.max_call_s
        self._sites = sites
        self._router = router
        self._trunks = trunks
        self._outbound = outbound
        emergencies, admission = Emergencies(config), Admission(config)
        if now is not None:
            emergencies.adopt(self._emergencies)
            admission.adopt(self.admission, now)
        self._emergencies: Emergencies = emergencies
        self.admission: Admission = admission

    def can_wait(self, data: bytes, flow: Flow, now: float) -> bool:
        """Whether a raw message is refused when we are late: new calls but those for help, and registrations."""
        if data.startswith(b"INVITE "):
            # One that is served already is none to refuse, even when its 100 was lost.
            if in_dialog(data) or self._transactions.repeats(data, flow):
                return False
            return not self._emergencies.looks_like_one(data, lambda: self.knows(flow, now), now)
        if not data.startswith(b"REGISTER "):
            return False
        # A phone of ours that shows its credentials has cost us a challenge already; anybody can write the header.
        return _CREDENTIALS.search(data) is None or not self._phones.locations.anybody(flow)

    def no_room(self, data: bytes, flow: Flow, now: float) -> Refusal | None:
        """Why a raw INVITE is refused by a limit; None also for one that has to be read to tell, or is written down."""
        refusal = self.admission.no_room(flow.remote[0], now, self._board.in_progress)
        if (
            refusal is None
            or self.draining
            or in_dialog(data)
            or self._emergencies.may_be_one(data)
            or self._transactions.repeats(data, flow) is not False
            or self._written.take(now)
        ):
            return None
        return refusal

    def knows(self, flow: Flow, now: float) -> bool:
        """Whether a trunk sends by this flow, or a phone that is registered."""
        if self._phones.locations.anybody(flow):
            return True
        source, _ = self._router.source_of(flow, self._trunks.snapshot(now))
        return source.trunk is not None

    def receive(self, tx: ServerTx, request: Request, flow: Flow, now: float) -> None:
        """An INVITE that is in no dialog."""
        board = self._board
        source, decision = self._router.source_of(flow, self._trunks.snapshot(now))
        source, decision = self._outbound.source_of(request.uri, source, decision)
        caller = None
        if source.trunk is None:
            caller, challenge = self._phones.caller(flow, request, now, self._cries_for_help(request))
            if challenge:
                # No call yet, so no record of one: the phone has not said who it is (RFC 3261 s.22.3).
                answer = respond(request, 407, "Proxy Authentication Required", self._tag(), challenge)
                board.put_out(self._transactions.respond(tx, answer, now))
                return
        wall = self._wall()
        record = board.new_record(f"c-{self._token(4)}", wall)
        record.decide(decision, wall)
        live = Live(None, record)
        try:
            uri = parse_uri(request.uri)
            source, emergency = self._admit(request, source, caller, record, now)
            site = self._sites.site(flow) if caller is None else self._sites.of_phone(flow)
            leg, effects = CallerLeg.invited("a", board.settings, site, flow, tx, self._tag)
        except PeerError as error:
            record.add_leg("a", flow, None, request.call_id)
            record.caller, record.called = user_of(request.from_.uri_text), user_of(request.uri)
            record.trace(wall, "a", "<", request, None)
            board.refuse(tx, error, record.id, now, live)
            record.end(self._wall(), "sbc", error.rule, error.reason, error.status, error.rule)
            board.complete(record)
            return
        tx.owner = leg
        offered = next(effect.event for effect in effects if isinstance(effect, Raise))
        assert isinstance(offered, Offered)
        if not emergency and offered.location is not None:
            offered = replace(offered, location=None)
        call = Call(record.id, leg, offered, self._max_call_s)
        board.open(live, leg, call, Party("a", flow.network, flow.remote[0], self._sites.nat(flow.network)))
        leg.authorizer = board.accounts.of(source.trunk)
        if source.phone:
            leg.destination = same_flow
            live.phones["a"] = source.phone
        board.occupy(live, source.trunk)
        if caller is not None and caller.refusal is not None:
            board.occupy(live, UNREGISTERED)
        record.add_leg("a", flow, source.trunk, request.call_id)
        record.caller, record.called = offered.caller.user, offered.user
        board.on_event("came", record)
        board.learn(live, leg, request)
        board.run(live, [OnLeg(leg, effect) for effect in effects if isinstance(effect, Opened)], now)
        host, gruu = (uri.host, uri.param("gr")) if isinstance(uri, SipUri) else ("", None)
        own: tuple[Flow, ...] = ()
        called = self._phones.called_by_registrar(source, offered.user)
        if called:
            own = callers_of(request, sender_of(request), called, board.dialogs, board.calls.values())
        wanted = CallRequest(source, offered.user, host, offered.caller.user, emergency, gruu, flow, own)
        outcome, decisions = self._router.route(
            wanted, self._trunks.snapshot(now), board.on_trunk, self._phones.book, now
        )
        for choice in decisions:
            record.decide(choice, wall)
        if isinstance(outcome, Refusal):
            board.run(live, call.refuse(rejection(outcome), now), now)
        else:
            board.run(live, call.begin(self._phones.routed(outcome.targets, flow, request, source), now), now)

    def _admit(
        self, request: Request, source: Source, caller: Caller | None, record: CallRecord, now: float
    ) -> tuple[Source, bool]:
        """Who calls, as routing knows him, and whether he calls for help. PeerError for who may not come in."""
        wall = record.started
        # RFC 4412 s.4.7.1: a priority is what somebody known may claim; anybody can write the header.
        known = source.trunk is not None or (caller is not None and bool(caller.user))
        priorities = request.values("Resource-Priority") if known else ()
        emergency = self._emergencies.is_one(unescape(user_of(request.uri)), priorities)
        if caller is not None:
            record.decide(caller.decision, wall)
            if caller.refusal is not None:
                self._let_in(caller.refusal, source, emergency, record, now)
            source = replace(source, phone=caller.user)
        if request.max_forwards == 0:
            raise PeerError(483, "Too Many Hops", "too-many-hops")
        # Who calls for help passes the limits, but thousands of them are none: they would take down all calls.
        calls = self._board.in_progress
        passes = emergency and calls < EMERGENCY_SHARE * self._max_calls
        busy = self._board.on_trunk[source.trunk] if source.trunk is not None else 0
        refusal, admitted = self.admission.admit(source, now, calls, busy, self.draining, passes)
        record.decide(admitted, wall)
        if refusal is not None:
            raise PeerError(refusal.status, refusal.reason, refusal.rule, refusal.retry_after_s)
        return source, emergency

    def _cries_for_help(self, request: Request) -> bool:
        """Whether whoever calls is let in: nobody asks him for a password first."""
        return self._emergencies.unregistered and self._emergencies.is_one(unescape(user_of(request.uri)), ())

    def _let_in(
        self, refused: Refusal, source: Source, emergency: bool, record: CallRecord, now: float
    ) -> None:
        """A phone that may not call may call for help. PeerError for any other call, and where there are too many."""
        refusal: Refusal | None = refused
        if emergency:
            calls = self._board.on_trunk[UNREGISTERED]
            refusal, decision = self._emergencies.admit_unregistered(source.host, calls, refused, now)
            record.decide(decision, record.started)
        if refusal is not None:
            raise PeerError(refusal.status, refusal.reason, refusal.rule, refusal.retry_after_s)
