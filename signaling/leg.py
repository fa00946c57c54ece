"""One side of a call: SIP outside, call events inside (RFC 3261 s.12-15, RFC 3311, RFC 3264 s.4).

A leg is told of SIP by `request`, `ack`, `cancelled`, `response` and `failed`, of time by `handle_timer`, and of
the other leg by `deliver`. Each returns effects in order; `Raise` is an event for the other side. `Leg` is what
both sides are once the call stands; `signaling.caller` and `signaling.callee` add how it comes to that.

Offer and answer: `served` is the peer's INVITE or UPDATE until we have answered it and got the ACK, `asked`
is ours until it is answered and acknowledged. While either stands a further offer is glare (RFC 3261 s.14).
"""

from collections.abc import Callable, Sequence
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
    check_extensions,
    retry_after,
    session_body,
)
from signaling.flow import Flow, host_port
from signaling.message import Request, Response, respond
from signaling.session_timer import SessionTimer
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


class Leg:
    """One side of a call. `name` is unique in the call ("a", "b1")."""

    __slots__ = (
        "_informs",
        "asked",
        "destination",
        "dialog",
        "flow",
        "local_sdp",
        "name",
        "opened",
        "reference",
        "remote_sdp",
        "remote_updates",
        "served",
        "settings",
        "site",
        "state",
        "tag",
        "timer",
        "timers",
    )

    def __init__(
        self,
        name: str,
        settings: LegSettings,
        site: Site,
        flow: Flow,
        dialog: Dialog,
        state: State,
        tag: Callable[[], str],
    ) -> None:
        self.name = name
        self.settings = settings
        self.site = site
        self.flow = flow
        self.dialog = dialog
        self.state = state
        self.tag = tag
        self.asked: Asked | None = None
        self.served: Served | None = None
        self.opened: list[str] = []  # our tags that Opened has announced
        self.local_sdp: bytes | None = None
        self.remote_sdp: bytes | None = None
        self.remote_updates = False
        self.timer: SessionTimer | None = None
        self.timers: dict[str, float] = {}
        self.destination: Callable[[Leg], Flow] = same_flow
        self.reference = ""
        self._informs: dict[int, tuple[ServerTx, Request]] = {}

    # -- responses to our requests -------------------------------------------------------------------------

    def response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to a request of ours. Raises PeerError when it cannot be made sense of."""
        if asked.purpose is Purpose.CALL:
            return self._call_response(asked, response, now)
        if response.status < 200:
            return []
        if asked.purpose is Purpose.BYE:
            return self._end() if self.state is State.RELEASING else []
        if asked.ack is not None and 200 <= response.status < 300:
            return [SendAck(asked.ack, self.destination(self))]
        if self.state is not State.UP:
            if asked.method == "INVITE" and response.status < 300:
                return [self._acknowledge(asked, b"")]
            return []
        if response.status in (408, 481):
            return self._lost(asked, response.status, reason_phrase(response.status), now)
        if asked.purpose is Purpose.INFORM:
            content_type, body = carry_body(response.content_type, response.body, hosts_of(response)) or (
                "",
                b"",
            )
            carried = carry_response(response)
            return [
                Raise(
                    InformAnswered(
                        asked.number,
                        response.status,
                        reason_phrase(response.status),
                        content_type,
                        body,
                        carried,
                    )
                )
            ]
        if asked.purpose is Purpose.CHECK:
            return []
        return self._update_response(asked, response, now)

    def _call_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A response to the INVITE that opened the call: only the called side has one."""
        return []

    def _acknowledge(self, asked: Asked, body: bytes) -> SendAck:
        """The ACK of our INVITE's 2xx; kept with the transaction, to be repeated when the 2xx is."""
        fields = [("Content-Type", SDP)] if body else []
        if body:
            self.local_sdp = body
        asked.ack = self.dialog.request("ACK", fields, body, cseq=asked.cseq)
        if self.asked is asked:
            self.asked = None
        return SendAck(asked.ack, self.destination(self))

    def failed(self, asked: Asked, cause: str, now: float) -> list[Effect]:
        """A client transaction got no answer: `cause` is "timeout" or "transport"."""
        if asked.purpose is Purpose.CALL:
            return self._call_failed(cause)
        if asked.purpose is Purpose.BYE:
            return self._end() if self.state is State.RELEASING else []
        if self.state is not State.UP:
            return []
        return self._lost(asked, 408, "Request Timeout", now)

    def _call_failed(self, cause: str) -> list[Effect]:
        """The INVITE that opened the call got no answer: only the called side has one."""
        return []

    def cancelled(self, carried: Carried) -> list[Effect]:
        """A CANCEL of the peer.

        A re-INVITE is already on its way to the other side and will be answered with what that side says: a
        487 now would leave the two sides with different sessions.
        """
        return []

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
        self.dialog.accept(request)
        method = request.method
        if method == "BYE":
            return self._bye_received(tx, request)
        if self.state in (State.RELEASING, State.LAST_ACK, State.ENDED):
            raise PeerError(481, "Call/Transaction Does Not Exist", "call-is-over")
        check_extensions(request)
        if method in ("INVITE", "UPDATE"):
            return self._update_received(tx, request, now)
        if method in INSIDE:
            body = carry_body(request.content_type, request.body, hosts_of(request))
            if body is None:
                raise PeerError(415, "Unsupported Media Type", "unknown-body")
            if len(self._informs) >= 16:
                raise PeerError(500, "Too many requests at once", "informs-at-once")
            number = max(self._informs, default=0) + 1
            self._informs[number] = (tx, request)
            return [Raise(Informed(number, method, body[0], body[1], carry_request(request)))]
        if method in KNOWN:
            raise PeerError(405, "Method Not Allowed", "method-not-allowed")
        raise PeerError(501, "Not Implemented", "unknown-method")

    def _bye_received(self, tx: ServerTx, request: Request) -> list[Effect]:
        if self.state in (State.CALLING, State.CANCELLING):
            # RFC 3261 s.15: who is called sends no BYE before its 2xx.
            raise PeerError(481, "Call/Transaction Does Not Exist", "bye-before-answer")
        effects: list[Effect] = [Respond(tx, self._reply(request, 200, "OK"))]
        if self.state is State.RELEASING:
            return [*effects, *self._end()]
        if self.state is State.ENDED:
            return effects
        served = self.served
        if served is not None and served.phase is Phase.PENDING:
            # RFC 3261 s.15.1.2: requests that are pending are answered 487.
            answer = respond(served.request, 487, "Request Terminated", self.dialog.local_tag)
            effects.append(Respond(served.tx, answer))
        for pending, asking in self._informs.values():
            effects.append(Respond(pending, self._reply(asking, 487, "Request Terminated")))
        if self.asked is not None and self.asked.phase is Phase.ANSWERED:
            effects.append(self._acknowledge(self.asked, b""))
        effects.append(Raise(Released("bye", "hung up", carry_request(request))))
        return [*effects, *self._end()]

    def _update_received(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        sdp = session_body(request)
        if request.method == "UPDATE" and sdp is None:
            self._refresh_served(request, now)
            return [Respond(tx, self._reply(request, 200, "OK", self._refresh_fields(request)))]
        if self.state is not State.UP or self.asked is not None:
            # Our own offer is under way: glare (RFC 3261 s.14.2, RFC 3311 s.5.2).
            raise PeerError(491, "Request Pending", "glare")
        if self.served is not None:
            raise PeerError(500, "Server Internal Error", "update-under-way")
        self._refresh_served(request, now)
        served = Served(tx, request, sdp is not None)
        if sdp is not None and sdp == self.remote_sdp and self.local_sdp is not None:
            # Nothing changes: a session refresh (RFC 4028 s.7.4), answered with what is in force.
            if request.method == "INVITE":
                self.served = served
                return [self._answer_invite(served, self.local_sdp, Carried(), now)]
            fields = [*self._refresh_fields(request), ("Content-Type", SDP)]
            return [Respond(tx, self._reply(request, 200, "OK", fields, self.local_sdp))]
        self.served = served
        return [Raise(Updated(sdp, request.method, carry_request(request)))]

    def _refresh_served(self, request: Request, now: float) -> None:
        timer = session_timer.serve(request, self.settings.session_expires_s, self.settings.min_se_s)
        self.dialog.refresh_target(request)
        self.timer = timer
        self._arm_session(now)

    def _refresh_fields(self, request: Request) -> list[tuple[str, str]]:
        return [*self._answer_fields(Carried()), *session_timer.served_fields(self.timer, request)]

    def _reply(
        self,
        request: Request,
        status: int,
        reason: str,
        fields: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Response:
        return respond(request, status, reason, self.dialog.local_tag, fields, body)

    def ack(self, request: Request) -> list[Effect]:
        """The ACK of our 2xx."""
        served = self.served
        if served is None or served.phase is not Phase.ANSWERED:
            return []
        if request.cseq.number != served.request.cseq.number:
            return []
        self.served = None
        self.timers.pop("ack", None)
        if self.state is State.LAST_ACK:
            return self._bye(())
        sdp = None if served.offer else session_body(request)
        if sdp is not None:
            self.remote_sdp = sdp
        elif not served.offer:
            # An offer of ours without answer: the session cannot stand (RFC 3261 s.13.2.2.4).
            released = Released("no-answer-in-ack", "the ACK brought no answer to our offer")
            return [Raise(Confirmed(None)), Raise(released), *self._bye(())]
        return [Raise(Confirmed(sdp))]

    def _answer_fields(self, carried: Carried) -> list[tuple[str, str]]:
        fields = [("Contact", self._contact()), ("Allow", ALLOW), ("Supported", SUPPORTED)]
        fields.extend(self._own("Server"))
        fields.extend(render(carried, self.site))
        return fields

    def _answer_invite(self, served: Served, body: bytes, carried: Carried, now: float) -> Effect:
        """Our 2xx to an INVITE, to be repeated until the ACK (RFC 3261 s.13.3.1.4)."""
        fields = self._answer_fields(carried)
        fields.extend(("Record-Route", value) for value in served.request.get_all("Record-Route"))
        fields.extend(session_timer.served_fields(self.timer, served.request))
        if body:
            fields.append(("Content-Type", SDP))
            self.local_sdp = body
        served.response = respond(served.request, 200, "OK", self.dialog.local_tag, fields, body)
        served.phase = Phase.ANSWERED
        served.interval = self.settings.t1
        served.retry_at = now + served.interval
        served.give_up_at = now + 64 * self.settings.t1
        self.timers["ack"] = served.retry_at
        return Respond(served.tx, served.response)

    def _update(self, event: Updated, now: float) -> list[Effect]:
        """Carry the other side's update to the peer."""
        if self.state is not State.UP or self.asked is not None or self.served is not None:
            return [Raise(UpdateRejected(491, "Request Pending", "glare"))]
        by_update = event.sdp is not None and event.method == "UPDATE" and self.remote_updates
        return [
            self._offer(Purpose.UPDATE, "UPDATE" if by_update else "INVITE", event.sdp, event.carried, now)
        ]

    def _offer(
        self, purpose: Purpose, method: str, sdp: bytes | None, carried: Carried, now: float
    ) -> SendRequest:
        interval = self.timer.interval_s if self.timer is not None else self.settings.session_expires_s
        fields = [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("User-Agent"),
            *session_timer.asked_fields(interval, self.settings.min_se_s, self.timer),
            *render(carried, self.site),
        ]
        if sdp:
            fields.append(("Content-Type", SDP))
        request = self.dialog.request(method, fields, sdp or b"")
        asked = Asked(self, purpose, method, self.dialog.local_cseq, bool(sdp))
        if method == "INVITE" or sdp:
            self.asked = asked
        if sdp and purpose is Purpose.UPDATE:
            self.local_sdp = sdp
        return SendRequest(asked, request, self.destination(self))

    def _update_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        status = response.status
        if status >= 300:
            if asked is self.asked:
                self.asked = None
            if asked.purpose is Purpose.REFRESH:
                if self.timer is not None:
                    # 491 or a passing fault: again soon, well before the session expires.
                    self.timers["session"] = now + min(10.0, self.timer.interval_s / 8)
                return []
            retry = retry_after(response)
            return [
                Raise(
                    UpdateRejected(
                        status,
                        reason_phrase(response.status),
                        "peer-rejected",
                        carry_response(response),
                        retry,
                    )
                )
            ]
        self.dialog.refresh_target(response)
        self.timer = session_timer.agreed(response) or self.timer
        self._arm_session(now)
        sdp = session_body(response)
        asked.phase = Phase.ANSWERED
        effects: list[Effect] = []
        if asked.method == "INVITE":
            if asked.offer:
                effects.append(self._acknowledge(asked, b""))
        elif asked is self.asked:
            self.asked = None
        changed = sdp is not None and sdp != self.remote_sdp
        if sdp is not None:
            self.remote_sdp = sdp
        if asked.purpose is Purpose.UPDATE:
            effects.append(Raise(UpdateAccepted(sdp, carry_response(response))))
        elif changed:
            # A refresh that the peer used to change its session: carry it on as if it had asked.
            effects.append(Raise(Updated(sdp, "INVITE")))
        return effects

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
        return [SendRequest(asked, request, self.destination(self))]

    def _answer_inform(self, event: InformAnswered) -> list[Effect]:
        pending = self._informs.pop(event.number, None)
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
                # RFC 3261 s.9.1: a peer that never answers the cancelled INVITE is given up.
                self.timers = {"cancel": now + 64 * self.settings.t1}
                return [CancelRequest(self.asked, fields)] if self.asked is not None else self._end()
            case State.UP:
                effects: list[Effect] = []
                if self.asked is not None and self.asked.phase is Phase.ANSWERED:
                    effects.append(self._acknowledge(self.asked, b""))
                if self.served is not None:
                    if self.served.phase is Phase.ANSWERED:
                        self.state = State.LAST_ACK
                        return effects
                    effects.append(
                        Respond(self.served.tx, self._reply(self.served.request, 487, "Request Terminated"))
                    )
                return [*effects, *self._bye(fields)]
            case State.INVITED:
                return self.deliver(Rejected(480, "Temporarily Unavailable", "released"), now)
            case State.CANCELLING | State.LAST_ACK | State.RELEASING | State.ENDED:
                return []
            case _:
                assert_never(self.state)

    def _bye(self, fields: Sequence[tuple[str, str]]) -> list[Effect]:
        self.state = State.RELEASING
        self.timers.clear()
        effects: list[Effect] = [
            Respond(tx, self._reply(request, 487, "Request Terminated"))
            for tx, request in self._informs.values()
        ]
        self._informs.clear()
        bye = self.dialog.request("BYE", [*self._own("User-Agent"), *fields])
        asked = Asked(self, Purpose.BYE, "BYE", self.dialog.local_cseq)
        effects.append(SendRequest(asked, bye, self.destination(self)))
        return effects

    def _end(self) -> list[Effect]:
        self.state = State.ENDED
        self.timers.clear()
        self.asked = None
        self.served = None
        self._informs.clear()
        return [Ended()]

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return min(self.timers.values()) if self.timers else None

    def handle_timer(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        for name in [name for name, at in self.timers.items() if at <= now]:
            if name in self.timers:
                effects.extend(self._timer(name, now))
        return effects

    def _timer(self, name: str, now: float) -> list[Effect]:
        del self.timers[name]
        if name == "ack":
            return self._ack_due(now)
        if name == "check":
            return self._check(now)
        return self._session_due(now)

    def _ack_due(self, now: float) -> list[Effect]:
        served = self.served
        if served is None or served.response is None:
            return []
        if now >= served.give_up_at:
            self.served = None
            if self.state is State.LAST_ACK:
                return self._bye(())
            return [Raise(Released("no-ack", "our 2xx was never acknowledged")), *self._bye(())]
        served.interval = min(2 * served.interval, self.settings.t2)
        served.retry_at = min(now + served.interval, served.give_up_at)
        self.timers["ack"] = served.retry_at
        # RFC 3261 s.13.3.1.4: repeated over every transport, since a proxy behind it may be on UDP.
        return [Respond(served.tx, served.response)]

    def _check(self, now: float) -> list[Effect]:
        self.timers["check"] = now + self.settings.dialog_check_s
        request = self.dialog.request("OPTIONS", self._own("User-Agent"))
        asked = Asked(self, Purpose.CHECK, "OPTIONS", self.dialog.local_cseq)
        return [SendRequest(asked, request, self.destination(self))]

    def _arm_session(self, now: float) -> None:
        if self.timer is not None:
            self.timers["session"] = self.timer.due(now)
        else:
            self.timers.pop("session", None)
        if self.settings.dialog_check_s and "check" not in self.timers:
            self.timers["check"] = now + self.settings.dialog_check_s

    def _session_due(self, now: float) -> list[Effect]:
        timer = self.timer
        if timer is None or self.state is not State.UP:
            return []
        if timer.refresher == "remote":
            released = Released("session-timer", f"no refresh within {timer.interval_s} s")
            return [Raise(released), *self._release((), now)]
        if self.asked is not None or self.served is not None:
            self.timers["session"] = now + min(10.0, timer.interval_s / 8)
            return []
        # Should the refresh fail without an answer, its transaction's timeout ends the leg.
        self.timers["session"] = now + timer.interval_s / 2
        if self.remote_updates:
            return [self._offer(Purpose.REFRESH, "UPDATE", None, Carried(), now)]
        return [self._offer(Purpose.REFRESH, "INVITE", self.local_sdp, Carried(), now)]

    def _contact(self, user: str = "sbc") -> str:
        site = self.site
        transport = "" if site.transport == "udp" else f";transport={site.transport}"
        return f"<sip:{user}@{host_port(site.contact)}{transport}>"

    def _warning(self, rule: str) -> tuple[str, str]:
        """The reason id of a refusal (design.md s.4.2), as RFC 3261 s.20.43 lets a server say it."""
        return "Warning", f'399 sbc "{rule} {self.reference}"'

    def _own(self, name: str) -> list[tuple[str, str]]:
        agent = self.site.user_agent
        return [(name, agent)] if agent else []

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
            "local_sdp": None
            if self.local_sdp is None
            else self.local_sdp.decode("utf-8", "surrogateescape"),
            "remote_sdp": None
            if self.remote_sdp is None
            else self.remote_sdp.decode("utf-8", "surrogateescape"),
            "remote_updates": self.remote_updates,
            "timer": None if self.timer is None else [self.timer.interval_s, self.timer.refresher],
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
        if data["timer"] is not None:
            leg.timer = SessionTimer(data["timer"][0], data["timer"][1])
        leg.opened.append(leg.dialog.local_tag)
        leg._arm_session(now)
        return leg


def same_flow(leg: Leg) -> Flow:
    """Requests inside the dialog go where the INVITE came from or went."""
    return leg.flow
