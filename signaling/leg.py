"""One side of a call: SIP outside, call events inside (RFC 3261 s.12-15, RFC 3311, RFC 3264 s.4).

A leg is told of SIP by `request`, `ack`, `cancelled`, `response` and `failed`, of time by `handle_timer`, and of
the other leg by `deliver`. Each returns effects in order; `Raise` is an event for the other side. `Leg` is what
both sides are once the call stands; `signaling.caller` and `signaling.callee` add how it comes to that.

Offer and answer: `served` is the peer's INVITE or UPDATE until we have answered it and got the ACK, `asked`
is ours until it is answered and acknowledged. While either stands a further offer is glare (RFC 3261 s.14).
Nothing of an exchange is in force before its 2xx: until then the old session and its timer stay (RFC 6141 s.2).
"""

import zlib
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, assert_never

from signaling import session_timer
from signaling.dialog import Dialog
from signaling.errors import PeerError, UsageError
from signaling.events import (
    Answered,
    Confirmed,
    Event,
    InformAnswered,
    Informed,
    Offered,
    Progressed,
    Redirected,
    Rejected,
    Released,
    UpdateAccepted,
    UpdateCancelled,
    Updated,
    UpdateRejected,
)
from signaling.exchange import (
    ALLOW,
    INSIDE,
    KNOWN,
    SDP,
    SUPPORTED,
    Asked,
    CancelRequest,
    Effect,
    Ended,
    LegSettings,
    Phase,
    Purpose,
    Raise,
    Respond,
    SendAck,
    SendRequest,
    Served,
    State,
    answer_body,
    check_extensions,
    crossing_status,
    retry_after,
    session_body,
)
from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.topology import (
    Carried,
    Site,
    carry_body,
    carry_request,
    carry_response,
    hosts_of,
    reason_phrase,
    render,
)
from signaling.transaction import ServerTx
from signaling.usage import Usage


class Leg(Usage):
    """One side of a call. `name` is unique in the call ("a", "b1")."""

    __slots__ = ()

    # -- responses to our requests -------------------------------------------------------------------------

    def response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to a request of ours. What is wrong with one is taken as a failure of the request."""
        if response.status not in (401, 407) or not self._wanted(asked):
            return self._response(asked, response, now)
        noted, again = self._challenged(asked, response, now)
        if again is not None:
            # Only the call itself is worth a line each time: a long one may be challenged at every refresh.
            return [noted, again] if asked.purpose is Purpose.CALL else [again]
        failed = self._response(asked, response, now)
        return failed if asked.purpose is Purpose.CHECK else [noted, *failed]

    def _wanted(self, asked: Asked) -> bool:
        """Whether a request of ours still matters, so that it is worth being sent again."""
        match asked.purpose:
            case Purpose.CALL:
                return self.state is State.CALLING
            case Purpose.BYE:
                return self.state is State.RELEASING
            case Purpose.BYE_FORK:
                return True
            case Purpose.UPDATE | Purpose.REFRESH | Purpose.INFORM | Purpose.CHECK:
                return self.state is State.UP and asked.phase is Phase.PENDING
            case _:
                assert_never(asked.purpose)

    def _response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        if asked.purpose is Purpose.CALL:
            return self._call_response(asked, response, now)
        if response.status < 200 or asked.purpose is Purpose.BYE_FORK:
            return []
        if asked.purpose is Purpose.BYE:
            return self._end() if self.state is State.RELEASING else []
        if asked.ack is not None and 200 <= response.status < 300:
            return [SendAck(asked.ack, self.destination(self))]
        if self.state is not State.UP:
            if asked.method == "INVITE" and response.status < 300:
                return [self._acknowledge(asked, b"")]
            return []
        if response.status in (408, 481) and not (asked.method == "NOTIFY" and response.status == 481):
            # RFC 5057 s.5.1: 481 to a NOTIFY is about a subscription and leaves the call alone.
            return self._lost(asked, response.status, reason_phrase(response.status), now)
        if asked.purpose is Purpose.INFORM:
            nothing = ("", b"")
            kind, body = carry_body(response.content_type, response.body, hosts_of(response)) or nothing
            status, carried = crossing_status(response.status), carry_response(response)
            return [Raise(InformAnswered(asked.number, status, reason_phrase(status), kind, body, carried))]
        if asked.purpose is Purpose.CHECK:
            return []
        return self._update_response(asked, response, now)

    def _call_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to the INVITE that opened the call: only the called side has one."""
        return []

    def _acknowledge(self, asked: Asked, body: bytes) -> SendAck:
        """The ACK of our INVITE's 2xx; kept with the transaction, to be repeated when the 2xx is."""
        if body:
            self.local_sdp = body
        ack = self._ack(asked, self.dialog, self.destination(self), body)
        asked.ack = ack.request
        if self.asked is asked:
            self.asked = None
        return ack

    def failed(self, asked: Asked, cause: str, now: float) -> list[Effect]:
        """A client transaction got no answer: `cause` is "timeout" or "transport"."""
        if asked.phase is Phase.CHALLENGED:
            return []  # its ACK could not be sent; what counts is the request in its place
        if asked.purpose is Purpose.CALL:
            return self._call_failed(cause)
        if asked.purpose is Purpose.BYE:
            return self._end() if self.state is State.RELEASING else []
        if self.state is not State.UP or asked.purpose is Purpose.BYE_FORK:
            return []
        return self._lost(asked, 408, "Request Timeout", now)

    def _call_failed(self, cause: str) -> list[Effect]:
        """The INVITE that opened the call got no answer: only the called side has one."""
        return []

    def cancelled(self, carried: Carried) -> list[Effect]:
        """A CANCEL of the peer: after a final answer it has no effect (RFC 3261 s.9.2).

        A re-INVITE is on its way to the other side, so that is where it is cancelled; what that side says is the
        answer. A 487 now could leave the two sides with different sessions.
        """
        if self.served is None or self.served.phase is not Phase.PENDING or self.state is not State.UP:
            return []
        return [Raise(UpdateCancelled(carried))]

    def _lost(self, asked: Asked, status: int, reason: str, now: float) -> list[Effect]:
        """The peer has no such dialog, or is gone (RFC 3261 s.12.2.1.2): tell who asked, then hang up."""
        effects: list[Effect] = []
        if asked is self.asked:
            self.asked = None
        if asked.purpose is Purpose.UPDATE:
            effects.append(Raise(UpdateRejected(status, reason, "peer-lost")))
        elif asked.purpose is Purpose.INFORM:
            effects.append(Raise(InformAnswered(asked.number, status, reason)))
        cause = "session-timer" if asked.purpose is Purpose.REFRESH else "peer-lost"
        effects.append(Raise(Released(cause, f"no answer to {asked.method}: {status} {reason}")))
        effects.extend(self._end() if status == 481 else self._release((), now))
        return effects

    # -- inside the dialog ---------------------------------------------------------------------------------

    def request(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        """A request inside the dialog. Raises PeerError with the answer for one that cannot be served."""
        dialog = self._dialog_of(request)
        dialog.accept(request)
        method = request.method
        if method == "BYE":
            return self._bye_received(tx, request)
        if self.state in (State.RELEASING, State.LAST_ACK, State.ENDED):
            raise PeerError(481, "Call/Transaction Does Not Exist", "call-is-over")
        check_extensions(request)
        if method in ("INVITE", "UPDATE"):
            if self.state is State.UP:
                return self._update_received(tx, request, now)
            return self._early_update(tx, request, dialog)
        if method in INSIDE:
            return [Raise(self._informs.open(tx, request))]
        if method in KNOWN:
            raise PeerError(405, "Method Not Allowed", "method-not-allowed")
        raise PeerError(501, "Not Implemented", "unknown-method")

    def _dialog_of(self, request: Request) -> Dialog:
        """The dialog that a request is in; before the call stands there may be several (s.12.1)."""
        return self.dialog

    def _bye_received(self, tx: ServerTx, request: Request) -> list[Effect]:
        if self.state in (State.CALLING, State.CANCELLING):
            # RFC 3261 s.15: who is called sends no BYE before its 2xx.
            raise PeerError(481, "Call/Transaction Does Not Exist", "bye-before-answer")
        effects: list[Effect] = [Respond(tx, self._reply(request, 200, "OK"))]
        if self.state is State.RELEASING:
            return [*effects, *self._end()]
        if self.state is State.ENDED:
            return effects
        effects.extend(self._close())
        effects.append(Raise(Released("bye", "hung up", carry_request(request))))
        return [*effects, *self._end()]

    def _early_update(self, tx: ServerTx, request: Request, dialog: Dialog) -> list[Effect]:
        """A target refresh before the call stands; the offer of the INVITE is still to be answered."""
        if session_body(request) is not None or request.method == "INVITE":
            if self.served is not None:
                raise PeerError(500, "Server Internal Error", "update-under-way")  # RFC 3311 s.5.2
            raise PeerError(491, "Request Pending", "glare")
        dialog.refresh_target(request)
        return [Respond(tx, self._reply(request, 200, "OK", self._answer_fields(Carried())))]

    def _update_received(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        sdp = session_body(request)
        timer = session_timer.serve(request, self.settings.session_expires_s, self.settings.min_se_s)
        served = Served(tx, request, sdp, timer)
        if request.method == "UPDATE" and sdp is None:
            self.dialog.refresh_target(request)
            self._agree(served, now)
            return [Respond(tx, self._reply(request, 200, "OK", self._refresh_fields(request)))]
        effects: list[Effect] = []
        before = self.served
        if before is not None and before.phase is Phase.ANSWERED and before.sdp is not None:
            # RFC 5407 s.3.1.5: who offers again has got our answer, though its ACK is lost.
            effects.extend(self._acknowledged(None))
        if self.asked is not None:
            # Our own offer is under way: glare (RFC 3261 s.14.2, RFC 3311 s.5.2).
            raise PeerError(491, "Request Pending", "glare")
        if self.served is not None:
            raise PeerError(500, "Server Internal Error", "update-under-way")
        self.dialog.refresh_target(request)
        if sdp is not None and sdp == self.remote_sdp and self.local_sdp is not None:
            # Nothing changes: a session refresh (RFC 4028 s.7.4), answered with what is in force.
            if request.method == "INVITE":
                self.served = served
                return [*effects, self._answer_invite(served, self.local_sdp, Carried(), now)]
            self._agree(served, now)
            fields = [*self._refresh_fields(request), ("Content-Type", SDP)]
            return [*effects, Respond(tx, self._reply(request, 200, "OK", fields, self.local_sdp))]
        self.served = served
        return [*effects, Raise(Updated(sdp, request.method, carry_request(request)))]

    def ack(self, request: Request) -> list[Effect]:
        """The ACK of our 2xx."""
        served = self.served
        if served is None or served.phase is not Phase.ANSWERED:
            return []
        if request.cseq.number != served.request.cseq.number or request.from_tag != self.dialog.remote_tag:
            return []
        if self.state is State.LAST_ACK or served.sdp is not None:
            return self._acknowledged(None)
        # An offer of ours without answer: the session cannot stand (RFC 3261 s.13.2.2.4).
        released = Released("no-answer-in-ack", "the ACK brought no answer to our offer")
        try:
            self.remote_sdp = sdp = session_body(request)
        except PeerError as error:
            sdp, released = None, Released(error.rule, error.reason)
        effects = self._acknowledged(sdp)
        return effects if sdp is not None else [*effects, Raise(released), *self._bye(())]

    def _acknowledged(self, sdp: bytes | None) -> list[Effect]:
        self.served = None
        self.timers.pop("ack", None)
        return self._bye(self.farewell) if self.state is State.LAST_ACK else [Raise(Confirmed(sdp))]

    def _update(self, event: Updated, now: float) -> list[Effect]:
        """Carry the other side's update to the peer."""
        if self.state is not State.UP or self.asked is not None or self.served is not None:
            return [Raise(UpdateRejected(491, "Request Pending", "glare"))]
        by_update = event.sdp is not None and event.method == "UPDATE" and self.remote_updates
        method = "UPDATE" if by_update else "INVITE"
        return [self._offer(Purpose.UPDATE, method, event.sdp, event.carried, now, event)]

    def _offer(
        self,
        purpose: Purpose,
        method: str,
        sdp: bytes | None,
        carried: Carried,
        now: float,
        update: Updated | None = None,
    ) -> SendRequest:
        fields = [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("User-Agent"),
            *self.session.fields(),
            *render(carried, self.site),
        ]
        if sdp:
            fields.append(("Content-Type", SDP))
        request = self.dialog.request(method, fields, sdp or b"")
        asked = Asked(self, purpose, method, self.dialog.local_cseq, sdp, update=update)
        if method == "INVITE" or sdp:
            self.asked = asked
        if method == "INVITE" and self.settings.no_answer_s:
            self.timers["reinvite"] = now + self.settings.no_answer_s
        return self._ask(asked, request, self.destination(self))

    def _update_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        if asked.method == "INVITE":
            self.timers.pop("reinvite", None)
        if response.status >= 300:
            if asked is self.asked:
                self.asked = None
            return self._update_refused(asked, response, now)
        self.dialog.refresh_target(response)
        self.session.answered(response, now)
        self._arm_session(now)
        sdp, fault = answer_body(response)
        if sdp is None and fault is None and (asked.sdp is not None or asked.method == "INVITE"):
            fault = PeerError(502, "The 2xx has no SDP", "no-sdp-in-2xx")
        asked.phase = Phase.ANSWERED
        effects: list[Effect] = []
        if asked.method == "INVITE" and (asked.sdp is not None or fault is not None):
            effects.append(self._acknowledge(asked, b""))
        elif asked.method != "INVITE" and asked is self.asked:
            self.asked = None
        if fault is not None:
            if asked.purpose is Purpose.UPDATE:
                effects.append(Raise(UpdateRejected(fault.status, fault.reason, fault.rule)))
            return effects
        if asked.sdp is not None:
            self.local_sdp = asked.sdp
        changed = sdp is not None and not same_session(sdp, self.remote_sdp)
        if sdp is not None:
            self.remote_sdp = sdp
        if asked.purpose is Purpose.UPDATE:
            effects.append(Raise(UpdateAccepted(sdp, carry_response(response))))
        elif changed:
            # A refresh that the peer used to change its session: carry it on as if it had asked.
            effects.append(Raise(Updated(sdp, "INVITE")))
        return effects

    def _update_refused(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A failure of our INVITE or UPDATE; the session in force stays."""
        status = response.status
        longer = self.session.lengthen(response)
        if asked.purpose is Purpose.REFRESH:
            by_update = asked.method == "UPDATE" and status in (405, 501)
            if by_update:
                self.remote_updates = False
            wait_s = self.session.pause_s(retry_after(response))
            if status == 491:
                # RFC 3261 s.14.1: 2.1 to 4 s for the owner of the Call-ID, up to 2 s for the other.
                dice = zlib.crc32(self.tag().encode()) % 191 / 100
                wait_s = 2.1 + dice if self.owns_call_id else dice
            self.timers["session"] = now + (0.0 if longer or by_update else wait_s)
            return []
        if longer and asked.update is not None:
            return self._update(asked.update, now)
        status = crossing_status(status)
        reason, carried, retry = reason_phrase(status), carry_response(response), retry_after(response)
        return [Raise(UpdateRejected(status, reason, "peer-rejected", carried, retry))]

    def _answer_update(self, event: UpdateAccepted | UpdateRejected, now: float) -> list[Effect]:
        served = self.served
        if served is None or served.phase is not Phase.PENDING or self.state is not State.UP:
            return []
        if isinstance(event, UpdateRejected):
            self.served = None
            fields = [*self._own("Server"), *render(event.carried, self.site), self._warning(event.rule)]
            if event.retry_after_s is not None:
                fields.append(("Retry-After", str(event.retry_after_s)))
            return [Respond(served.tx, self._reply(served.request, event.status, event.reason, fields))]
        if served.request.method == "INVITE":
            return [self._answer_invite(served, event.sdp or b"", event.carried, now)]
        self.served = None
        self._agree(served, now)
        fields = self._refresh_fields(served.request)
        if event.sdp:
            fields.append(("Content-Type", SDP))
            self.local_sdp = event.sdp
        return [Respond(served.tx, self._reply(served.request, 200, "OK", fields, event.sdp or b""))]

    def _inform(self, event: Informed) -> list[Effect]:
        if self.state is not State.UP:
            return [Raise(InformAnswered(event.number, 480, "Temporarily Unavailable"))]
        fields = [*self._own("User-Agent"), *render(event.carried, self.site)]
        if event.method == "NOTIFY":
            fields.append(("Contact", self._contact()))
        if event.body:
            fields.append(("Content-Type", event.content_type))
        request = self.dialog.request(event.method, fields, event.body)
        asked = Asked(self, Purpose.INFORM, event.method, self.dialog.local_cseq, number=event.number)
        return [self._ask(asked, request, self.destination(self))]

    def _answer_inform(self, event: InformAnswered) -> list[Effect]:
        pending = self._informs.close(event.number)
        if pending is None or self.state is State.ENDED:
            return []
        tx, request = pending
        fields = [*self._own("Server"), *render(event.carried, self.site)]
        if request.method == "OPTIONS" and event.status < 300:
            fields.extend([("Allow", ALLOW), ("Accept", SDP), ("Supported", SUPPORTED)])
        if event.body:
            fields.append(("Content-Type", event.content_type))
        return [Respond(tx, self._reply(request, event.status, event.reason, fields, event.body))]

    # -- the other leg, time, and the end ------------------------------------------------------------------

    def deliver(self, event: Event, now: float) -> list[Effect]:
        """An event of the other leg, its SDP already rewritten for this one."""
        match event:
            case Progressed() | Answered() | Rejected() | Redirected():
                return []  # the caller's side alone is still to be answered
            case Confirmed():
                if self.asked is not None and self.asked.phase is Phase.ANSWERED:
                    return [self._acknowledge(self.asked, event.sdp or b"")]
                return []
            case Updated():
                return self._update(event, now)
            case UpdateAccepted() | UpdateRejected():
                return self._answer_update(event, now)
            case UpdateCancelled():
                return self._cancel_update(event)
            case Informed():
                return self._inform(event)
            case InformAnswered():
                return self._answer_inform(event)
            case Released():
                return self._release(tuple(render(event.carried, self.site)), now)
            case Offered():
                raise UsageError("a call is offered by making a CalleeLeg")
            case _:
                assert_never(event)

    def _release(self, fields: tuple[tuple[str, str], ...], now: float) -> list[Effect]:
        """Bring the leg to its end from wherever it is."""
        match self.state:
            case State.CALLING:
                self.state = State.CANCELLING
                self.farewell = fields
                # RFC 3261 s.9.1: a peer that never answers the cancelled INVITE is given up.
                self.timers = {"cancel": now + 64 * self.settings.t1}
                return [CancelRequest(self.asked, fields)] if self.asked is not None else self._end()
            case State.UP:
                if self.served is not None and self.served.phase is Phase.ANSWERED:
                    # RFC 3261 s.15: the callee sends no BYE before the ACK.
                    self.state = State.LAST_ACK
                    self.farewell = fields
                    return self._close()
                return self._bye(fields)
            case State.INVITED:
                return self.deliver(Rejected(480, "Temporarily Unavailable", "released"), now)
            case State.CANCELLING | State.LAST_ACK | State.RELEASING | State.ENDED:
                return []
            case _:
                assert_never(self.state)

    def _bye(self, fields: Sequence[tuple[str, str]]) -> list[Effect]:
        self.state = State.RELEASING
        self.timers.clear()
        effects = self._close()
        bye = self.dialog.request("BYE", [*self._own("User-Agent"), *fields])
        asked = Asked(self, Purpose.BYE, "BYE", self.dialog.local_cseq)
        effects.append(self._ask(asked, bye, self.destination(self)))
        return effects

    def _end(self) -> list[Effect]:
        effects = self._close()
        self.state = State.ENDED
        self.timers.clear()
        self.served = None
        return [*effects, Ended()]

    def _close(self) -> list[Effect]:
        """What is under way ends with the dialog: the peer's requests (RFC 3261 s.15.1.2) and ours."""
        effects: list[Effect] = []
        pending = self._informs.close_all()
        served, asked = self.served, self.asked
        if served is not None and served.phase is Phase.PENDING:
            pending.append((served.tx, served.request))
            self.served = None
        for tx, request in pending:
            effects.append(Respond(tx, self._reply(request, 487, "Request Terminated")))
        self.asked = None
        if asked is not None and asked.method == "INVITE" and asked.ack is None:
            if asked.phase is Phase.ANSWERED:
                effects.append(self._acknowledge(asked, b""))
            elif asked.purpose is not Purpose.CALL:
                # Its transaction would wait for a final answer for ever.
                effects.append(self._cancel(asked, ()))
        return effects

    def _cancel_update(self, event: UpdateCancelled) -> list[Effect]:
        asked = self.asked
        if asked is None or asked.purpose is not Purpose.UPDATE or asked.phase is not Phase.PENDING:
            return []
        if asked.method != "INVITE":
            return []
        return [self._cancel(asked, tuple(render(event.carried, self.site)))]

    def _cancel(self, asked: Asked, fields: tuple[tuple[str, str], ...]) -> CancelRequest:
        asked.phase = Phase.CANCELLED
        return CancelRequest(asked, fields)

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return min(self.timers.values()) if self.timers else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        for name in [name for name, at in self.timers.items() if at <= now]:
            if self.timers.get(name, inf) <= now:
                effects.extend(self._timer(name, now))
        return effects

    def _timer(self, name: str, now: float) -> list[Effect]:
        del self.timers[name]
        if name == "ack":
            return self._ack_due(now)
        if name == "check":
            return self._check(now)
        if name == "reinvite":
            # RFC 3261 s.16.8 has timer C for an INVITE without a final answer; so has a re-INVITE here.
            return [] if self.asked is None else [self._cancel(self.asked, ())]
        return self._session_due(now)

    def _ack_due(self, now: float) -> list[Effect]:
        served = self.served
        if served is None or served.response is None:
            return []
        if now >= served.give_up_at:
            self.served = None
            if self.state is State.LAST_ACK:
                return self._bye(self.farewell)
            return [Raise(Released("no-ack", "our 2xx was never acknowledged")), *self._bye(())]
        served.interval = min(2 * served.interval, self.settings.t2)
        served.retry_at = min(now + served.interval, served.give_up_at)
        self.timers["ack"] = served.retry_at
        # RFC 3261 s.13.3.1.4: repeated over every transport, since a proxy behind it may be on UDP.
        return [Respond(served.tx, served.response)]

    def _check(self, now: float) -> list[Effect]:
        if self.state is not State.UP:
            return []
        self.timers["check"] = now + self.settings.dialog_check_s
        request = self.dialog.request("OPTIONS", self._own("User-Agent"))
        asked = Asked(self, Purpose.CHECK, "OPTIONS", self.dialog.local_cseq)
        return [self._ask(asked, request, self.destination(self))]

    def _session_due(self, now: float) -> list[Effect]:
        session, timer = self.session, self.session.timer
        if timer is None or self.state is not State.UP:
            return []
        if timer.refresher == "remote" or now >= session.ends_at:
            released = Released("session-timer", f"no refresh within {timer.interval_s} s")
            return [Raise(released), *self._release((), now)]
        if self.asked is not None or self.served is not None:
            self.timers["session"] = min(now + session.pause_s(), session.ends_at)
            return []
        self.timers["session"] = session.ends_at
        if self.remote_updates or self.local_sdp is None:
            return [self._offer(Purpose.REFRESH, "UPDATE", None, Carried(), now)]
        return [self._offer(Purpose.REFRESH, "INVITE", self.local_sdp, Carried(), now)]

    # -- written down --------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """An established leg as plain data (design.md s.4.4); None of an exchange under way is kept."""
        return {
            "name": self.name,
            "network": self.flow.network,
            "transport": self.flow.transport,
            "local": list(self.flow.local),
            "remote": list(self.flow.remote),
            "dialog": self.dialog.snapshot(),
            "local_sdp": text_of(self.local_sdp),
            "remote_sdp": text_of(self.remote_sdp),
            "remote_updates": self.remote_updates,
            "session": self.session.snapshot(),
            "owns_call_id": self.owns_call_id,
            "account": None if self.authorizer is None else self.authorizer.name,
        }

    @classmethod
    def restore(
        cls,
        data: dict[str, Any],
        settings: LegSettings,
        site: Callable[[Flow], Site],
        tag: Callable[[], str],
        now: float,
    ) -> "Leg":
        """The leg that `snapshot` wrote. A stream connection is opened again on demand."""
        local, remote = data["local"], data["remote"]
        flow = Flow(data["network"], data["transport"], (local[0], local[1]), (remote[0], remote[1]))
        leg = cls(data["name"], settings, site(flow), flow, Dialog.restore(data["dialog"]), State.UP, tag)
        for name in ("local_sdp", "remote_sdp"):
            text = data[name]
            setattr(leg, name, None if text is None else text.encode("utf-8", "surrogateescape"))
        leg.remote_updates = data["remote_updates"]
        leg.owns_call_id = data["owns_call_id"]
        leg.session.restore(data["session"], now)
        leg.opened.append(leg.dialog.local_tag)
        leg._arm_session(now)
        return leg


def same_session(sdp: bytes, before: bytes | None) -> bool:
    """Whether two bodies say the same but for the version in o=, which some phones count on at every answer."""
    if before is None:
        return False
    return [line for line in sdp.splitlines() if line[:2] != b"o="] == [
        line for line in before.splitlines() if line[:2] != b"o="
    ]


def text_of(body: bytes | None) -> str | None:
    """A body as text that can be written down and turned back."""
    return None if body is None else body.decode("utf-8", "surrogateescape")
