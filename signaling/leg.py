"""One side of a call: SIP outside, call events inside (RFC 3261 s.12-15).

A leg is told of SIP by `request`, `ack`, `cancelled`, `response` and `failed`, of time by `handle_timer`, and of
the other leg by `deliver`. Each returns effects in order; `Raise` is an event for the other side. `Leg` is what
both sides are once the call stands; `signaling.caller` and `signaling.callee` add how it comes to that, and
`signaling.renegotiation` has how the session is changed while it lasts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, assert_never

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
    ReleaseAnswered,
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
    Role,
    SendAck,
    SendRequest,
    State,
    check_extensions,
    crossing_status,
    session_body,
)
from signaling.flow import Flow
from signaling.guard import domains_of, hosts_of
from signaling.message import Field, Request, Response
from signaling.passed_digest import challenges_of, credentials_of
from signaling.phrases import reason_phrase
from signaling.renegotiation import Renegotiable
from signaling.site import Site
from signaling.topology import Carried, carry_body, carry_request, carry_response, render
from signaling.transaction import ServerTx

LEAVE_S = 4.0
"""How long the BYE of a phone waits for its registrar, and a registrar that asks for the phone's answer."""
MAX_CHALLENGED = 3


class Leg(Renegotiable):
    """One side of a call. `name` is unique in the call ("a", "b1")."""

    __slots__ = ()

    # -- responses to our requests -------------------------------------------------------------------------

    def response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to a request of ours. What is wrong with one is taken as a failure of the request."""
        if response.status not in (401, 407) or not self._wanted(asked):
            return self._response(asked, response, now)
        if self.role is Role.REGISTRAR and self.authorizer is None and asked.purpose is not Purpose.CALL:
            return self._response(asked, response, now)  # its phone has what it asks for
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
            return self._bye_answered(response, now) if self.state is State.RELEASING else []
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
            challenge = challenges_of(response) if self.role is Role.REGISTRAR else ()
            status = response.status if challenge else crossing_status(response.status)
            reason, carried = reason_phrase(status), carry_response(response, self.site.trusted)
            return [Raise(InformAnswered(asked.number, status, reason, kind, body, carried, challenge))]
        if asked.purpose is Purpose.CHECK:
            return []
        return self._update_response(asked, response, now)

    def _call_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to the INVITE that opened the call: only the called side has one."""
        return []

    def failed(self, asked: Asked, cause: str, now: float) -> list[Effect]:
        """A client transaction got no answer: `cause` is "timeout" or "transport"."""
        if asked.phase is Phase.CHALLENGED:
            return []  # its ACK could not be sent; what counts is the request in its place
        if asked.purpose is Purpose.CALL:
            return self._call_failed(cause)
        if asked.purpose is Purpose.BYE:
            return self._parted() if self.state is State.RELEASING else []
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
            return self._bye_received(tx, request, now)
        if self.state in (State.RELEASING, State.LEAVING, State.LAST_ACK, State.ENDED):
            raise PeerError(481, "Call/Transaction Does Not Exist", "call-is-over")
        check_extensions(request)
        if method in ("INVITE", "UPDATE"):
            if self.state is State.UP:
                return self._update_received(tx, request, now)
            return self._early_update(tx, request, dialog)
        if method in INSIDE:
            known = domains_of(self.dialog.remote_target, *self.dialog.route_set) if request.body else ()
            informed = self._informs.open(tx, request, self.site.trusted, known)
            if self.role is Role.PHONE:
                informed = replace(informed, credentials=credentials_of(request))
            return [Raise(informed)]
        if method in KNOWN:
            raise PeerError(405, "Method Not Allowed", "method-not-allowed")
        raise PeerError(501, "Not Implemented", "unknown-method")

    def _dialog_of(self, request: Request) -> Dialog:
        """The dialog that a request is in; before the call stands there may be several (s.12.1)."""
        return self.dialog

    def _bye_received(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        if self.state in (State.CALLING, State.CANCELLING):
            # RFC 3261 s.15: who is called sends no BYE before its 2xx.
            raise PeerError(481, "Call/Transaction Does Not Exist", "bye-before-answer")
        if self.role is Role.PHONE and self.state in (State.UP, State.LEAVING) and self.parting is None:
            return self._leave(tx, request, now)
        effects: list[Effect] = [self._respond(tx, 200, "OK")]
        if self.state is State.RELEASING:
            return [*effects, *self._parted()]
        if self.state in (State.LEAVING, State.ENDED):
            return effects
        effects.extend(self._close())
        effects.append(Raise(Released("bye", "hung up", carry_request(request, self.site.trusted))))
        return [*effects, *self._end()]

    # -- a phone hangs up, and its registrar may ask who it is -----------------------------------------------

    def _leave(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        """The BYE of a phone is answered when its registrar has answered ours, unless that takes too long."""
        effects = self._close()
        self.served = None
        self.state, self.parting = State.LEAVING, tx
        self.timers = {"leave": now + LEAVE_S}
        carried = carry_request(request, self.site.trusted)
        return [*effects, Raise(Released("bye", "hung up", carried, credentials_of(request)))]

    def _left(self, event: ReleaseAnswered | Released, now: float) -> list[Effect]:
        """What the registrar says to that, or that it is gone."""
        tx, self.parting = self.parting, None
        challenge = event.challenge if isinstance(event, ReleaseAnswered) else ()
        if not isinstance(event, ReleaseAnswered) or not challenge:
            return [*([] if tx is None else [self._respond(tx, 200, "OK")]), *self._end()]
        if tx is None:
            return []
        self.timers = {"leave": now + LEAVE_S}
        return [self._respond(tx, event.status, event.reason, [*self._own("Server"), *challenge])]

    def _bye_answered(self, response: Response, now: float) -> list[Effect]:
        challenge = challenges_of(response) if self.role is Role.REGISTRAR else ()
        if not challenge or self.challenged >= MAX_CHALLENGED:
            return self._parted()
        self.challenged += 1
        # Should the phone give up, or we have hung up ourselves, nobody has what it asks for.
        self.timers = {"leave": now + LEAVE_S}
        return [Raise(ReleaseAnswered(response.status, reason_phrase(response.status), challenge))]

    def _parted(self) -> list[Effect]:
        """The peer has no call any more."""
        over = [Raise(ReleaseAnswered(200, "OK"))] if self.role is Role.REGISTRAR else []
        return [*over, *self._end()]

    def ack(self, request: Request) -> list[Effect]:
        """The ACK of our 2xx."""
        served = self.served
        if served is None or served.phase is not Phase.ANSWERED:
            return []
        if request.cseq.number != served.request.cseq.number or request.from_tag != self.dialog.remote_tag:
            return []
        if self.state is State.LAST_ACK:
            return self._bye()
        if served.sdp is not None:
            return self._acknowledged(None)
        # An offer of ours without answer: the session cannot stand (RFC 3261 s.13.2.2.4).
        released = Released("no-answer-in-ack", "the ACK brought no answer to our offer")
        try:
            self.remote_sdp = sdp = session_body(request)
        except PeerError as error:
            sdp, released = None, Released(error.rule, error.reason)
        effects = self._acknowledged(sdp)
        return effects if sdp is not None else [*effects, Raise(released), *self._bye()]

    def unsaid(self) -> list[Effect]:
        """Our 2xx to an INVITE did not leave, the peer got a failure in its place: there is no ACK to wait for."""
        served, self.served = self.served, None
        self.timers.pop("ack", None)
        if served is None or served.request.to_tag is not None:
            return []  # a re-INVITE that fails leaves the dialog as it was (RFC 3261 s.14.1)
        return self._end()

    def _inform(self, event: Informed) -> list[Effect]:
        if self.state is not State.UP:
            return [Raise(InformAnswered(event.number, 480, "Temporarily Unavailable"))]
        fields = [*self._own("User-Agent"), *render(event.carried, self.site)]
        if self.role is Role.REGISTRAR:
            fields.extend(event.credentials)
        if event.method == "NOTIFY":
            fields.append(("Contact", self._contact()))
        if event.body:
            fields.append(("Content-Type", event.content_type))
        sent = self._request(Purpose.INFORM, event.method, fields, event.body)
        sent.asked.number = event.number
        return [sent]

    def _answer_inform(self, event: InformAnswered) -> list[Effect]:
        tx = self._informs.close(event.number)
        if tx is None or self.state is State.ENDED:
            return []
        fields = [*self._own("Server"), *render(event.carried, self.site), *event.challenge]
        if tx.request.method == "OPTIONS" and event.status < 300:
            fields.extend([("Allow", ALLOW), ("Accept", SDP), ("Supported", SUPPORTED)])
        if event.body:
            fields.append(("Content-Type", event.content_type))
        return [self._respond(tx, event.status, event.reason, fields, event.body)]

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
                if self.state is State.LEAVING:
                    return self._left(event, now)
                shown = event.credentials if self.role is Role.REGISTRAR else ()
                return self._release((*render(event.carried, self.site), *shown), now)
            case ReleaseAnswered():
                return self._left(event, now) if self.state is State.LEAVING else []
            case Offered():
                raise UsageError("a call is offered by making a CalleeLeg")
            case _:
                assert_never(event)

    def _release(self, fields: tuple[tuple[str, str], ...], now: float) -> list[Effect]:
        """Bring the leg to its end from wherever it is; `fields` go with its last request."""
        match self.state:
            case State.CALLING:
                self.state = State.CANCELLING
                self.farewell = fields
                # RFC 3261 s.9.1: a peer that never answers the cancelled INVITE is given up.
                self.timers = {"cancel": now + 64 * self.settings.t1}
                return [CancelRequest(self.asked, fields)] if self.asked is not None else self._end()
            case State.UP:
                self.farewell = fields
                if self.served is not None and self.served.phase is Phase.ANSWERED:
                    # RFC 3261 s.15: the callee sends no BYE before the ACK.
                    self.state = State.LAST_ACK
                    return self._close()
                return self._bye()
            case State.INVITED:
                return self.deliver(Rejected(480, "Temporarily Unavailable", "released"), now)
            case State.RELEASING if "leave" in self.timers:
                # The phone has what it was asked for.
                self.farewell = fields
                return self._bye()
            case State.CANCELLING | State.LAST_ACK | State.RELEASING | State.LEAVING | State.ENDED:
                return []
            case _:
                assert_never(self.state)

    def _bye(self) -> list[Effect]:
        self.state = State.RELEASING
        self.timers.clear()
        effects = self._close()
        self.served = None
        effects.append(self._request(Purpose.BYE, "BYE", [*self._own("User-Agent"), *self.farewell]))
        return effects

    def _request(
        self, purpose: Purpose, method: str, fields: Sequence[Field], body: bytes = b""
    ) -> SendRequest:
        request = self.dialog.request(method, fields, body)
        asked = Asked(self, purpose, method, self.dialog.local_cseq)
        return self._ask(asked, request, self.destination(self))

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
            pending.append(served.tx)
            self.served = None
        for tx in pending:
            effects.append(self._respond(tx, 487, "Request Terminated"))
        self.asked = None
        if asked is not None and asked.method == "INVITE" and asked.ack is None:
            if asked.phase is Phase.ANSWERED:
                effects.append(self._acknowledge(asked, b""))
            elif asked.purpose is not Purpose.CALL:
                # Its transaction would wait for a final answer for ever.
                effects.append(self._cancel(asked, ()))
        return effects

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
        if name == "leave":
            tx, self.parting = self.parting, None
            return [*([] if tx is None else [self._respond(tx, 200, "OK")]), *self._end()]
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
            if self.state is State.LAST_ACK:
                return self._bye()
            return [Raise(Released("no-ack", "our 2xx was never acknowledged")), *self._bye()]
        served.interval = min(2 * served.interval, self.settings.t2)
        self.timers["ack"] = min(now + served.interval, served.give_up_at)
        # RFC 3261 s.13.3.1.4: repeated over every transport, since a proxy behind it may be on UDP.
        return [Respond(served.tx, served.response)]

    def _check(self, now: float) -> list[Effect]:
        if self.state is not State.UP:
            return []
        self.timers["check"] = now + self.settings.dialog_check_s
        return [self._request(Purpose.CHECK, "OPTIONS", self._own("User-Agent"))]

    def _session_due(self, now: float) -> list[Effect]:
        timer = self.session.timer
        if timer is None or self.state is not State.UP:
            return []
        if timer.refresher == "local" and now < self.session.ends_at:
            return self._refresh(now)
        released = Released("session-timer", f"no refresh within {timer.interval_s} s")
        return [Raise(released), *self._release((), now)]

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
            "role": str(self.role),
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
        leg.role = Role(data.get("role", "peer"))
        leg.session.restore(data["session"], now)
        leg.opened.append(leg.dialog.local_tag)
        leg._arm_session(now)
        return leg


def text_of(body: bytes | None) -> str | None:
    """A body as text that can be written down and turned back."""
    return None if body is None else body.decode("utf-8", "surrogateescape")
