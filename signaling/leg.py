"""One side of a call: SIP outside, call events inside (RFC 3261 s.13-15, RFC 3311, RFC 3264 s.4).

A leg is told of SIP by `invited`, `request`, `ack`, `cancelled`, `response` and `failed`, of time by
`handle_timer`, and of the other leg by `deliver`. Each returns effects in order; `Raise` is an event for the
other side.

Offer and answer: `served` is the peer's INVITE or UPDATE until we have answered it and got the ACK, `asked`
is ours until it is answered and acknowledged. While either stands a further offer is glare (RFC 3261 s.14).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
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
from signaling.flow import Address, Flow, host_port
from signaling.message import Message, Request, Response, respond
from signaling.multipart import part_of
from signaling.session_timer import SessionTimer
from signaling.topology import (
    Carried,
    Site,
    carry_body,
    carry_identity,
    carry_request,
    carry_response,
    render,
)
from signaling.transaction import ClientTx, ServerTx
from signaling.uri import SipUri, TelUri, parse_uri

ALLOWED = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO", "UPDATE", "MESSAGE", "NOTIFY")
ALLOW = ", ".join(ALLOWED)
INSIDE = ("INFO", "MESSAGE", "OPTIONS", "NOTIFY")
KNOWN = (*ALLOWED, "REGISTER", "PRACK", "SUBSCRIBE", "REFER", "PUBLISH")
SUPPORTED = "timer"
SDP = "application/sdp"
# A peer that re-INVITEs while we still work on its last one is told to come back (RFC 3261 s.14.2).
RETRY_AFTER_S = 2


class State(Enum):
    """Where a leg stands."""

    INVITED = "invited"  # the peer's INVITE has no final answer yet
    CALLING = "calling"  # our INVITE has no final answer yet
    CANCELLING = "cancelling"  # we gave up our INVITE; its final answer is outstanding
    UP = "up"
    LAST_ACK = "last-ack"  # to be released, but our 2xx has no ACK yet (RFC 3261 s.15)
    RELEASING = "releasing"  # our BYE has no answer yet
    ENDED = "ended"


class Purpose(Enum):
    """What a request of ours is for."""

    CALL = "call"
    UPDATE = "update"  # carries an `Updated` of the other leg
    REFRESH = "refresh"  # session timer
    INFORM = "inform"  # carries an `Informed` of the other leg
    CHECK = "check"  # is the peer still there?
    BYE = "bye"


class Phase(Enum):
    """How far an INVITE (or UPDATE) has come."""

    PENDING = "pending"  # no final answer yet
    ANSWERED = "answered"  # 2xx, the ACK is outstanding


@dataclass(slots=True, eq=False)
class Asked:
    """A request of ours and the owner of its client transaction; `number` is that of an `Informed`."""

    leg: "Leg"
    purpose: Purpose
    method: str
    cseq: int
    offer: bool = False
    number: int = 0
    phase: Phase = Phase.PENDING
    tx: ClientTx | None = None
    ack: Request | None = None


@dataclass(slots=True, eq=False)
class Served:
    """An INVITE or UPDATE of the peer; `response` is our 2xx while it waits for the ACK."""

    tx: ServerTx
    request: Request
    offer: bool
    phase: Phase = Phase.PENDING
    response: Response | None = None
    interval: float = 0.0
    retry_at: float = 0.0
    give_up_at: float = 0.0


@dataclass(frozen=True, slots=True)
class LegSettings:
    """The numbers a leg works by, in seconds; 0 switches a timer off."""

    t1: float = 0.5
    t2: float = 4.0
    trying_timeout_s: float = 4.0
    no_answer_s: float = 180.0
    session_expires_s: int = 1800
    min_se_s: int = 90
    dialog_check_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Open a client transaction for `request`; its owner is `asked`."""

    asked: Asked
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class SendAck:
    """Send the ACK of a 2xx (RFC 3261 s.13.2.2.4): no transaction."""

    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer a server transaction."""

    tx: ServerTx
    response: Response


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel the client transaction of `asked` (RFC 3261 s.9.1)."""

    asked: Asked
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """Requests with this Call-ID and this To tag belong to the leg from now on."""

    call_id: str
    tag: str


@dataclass(frozen=True, slots=True)
class Raise:
    """Tell the other leg."""

    event: Event


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come from this leg."""


Effect = SendRequest | SendAck | Respond | CancelRequest | Opened | Raise | Ended


class Leg:
    """One side of a call. `name` is unique in the call ("a", "b1")."""

    __slots__ = (
        "_informs",
        "asked",
        "destination",
        "dialog",
        "early",
        "flow",
        "forks",
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
        self.early: dict[int, str] = {}  # caller's side: our tag for each early dialog of the other leg
        self.forks: list[str] = []  # called side: the peer's tag of each early dialog
        self.opened: list[str] = []  # our tags that Opened has announced
        self.local_sdp: bytes | None = None
        self.remote_sdp: bytes | None = None
        self.remote_updates = False
        self.timer: SessionTimer | None = None
        self.timers: dict[str, float] = {}
        self.destination: Callable[[Leg], Flow] = same_flow
        self.reference = ""
        self._informs: dict[int, tuple[ServerTx, Request]] = {}

    # -- the caller's side ---------------------------------------------------------------------------------

    @classmethod
    def invited(
        cls, name: str, settings: LegSettings, site: Site, flow: Flow, tx: ServerTx, tag: Callable[[], str]
    ) -> "tuple[Leg, list[Effect]]":
        """The leg that a new INVITE opens. Raises PeerError for one that cannot be served."""
        request = tx.request
        check_extensions(request)
        sdp = session_body(request)
        dialog = Dialog.of_request(request, tag())
        leg = cls(name, settings, site, flow, dialog, State.INVITED, tag)
        leg.timer = session_timer.serve(request, settings.session_expires_s, settings.min_se_s)
        leg.served = Served(tx, request, sdp is not None)
        leg.remote_sdp = sdp
        leg.remote_updates = allows(request, "UPDATE")
        uri = parse_uri(request.uri)
        user = uri.user if isinstance(uri, SipUri) else uri.number if isinstance(uri, TelUri) else ""
        hops = request.max_forwards
        offered = Offered(
            user,
            carry_identity(request.from_),
            carry_identity(request.to),
            sdp,
            carry_request(request),
            69 if hops is None else hops - 1,
        )
        leg.opened.append(dialog.local_tag)
        return leg, [Opened(dialog.call_id, dialog.local_tag), Raise(offered)]

    def _early_tag(self, early: int, effects: list[Effect]) -> str:
        """Our To tag for an early dialog of the other leg; the first is the dialog's own (s.12.1)."""
        tag = self.early.get(early)
        if tag is None:
            tag = self.tag() if self.early else self.dialog.local_tag
            self.early[early] = tag
            if tag != self.dialog.local_tag:
                self.opened.append(tag)
                effects.append(Opened(self.dialog.call_id, tag))
        return tag

    def _answer_fields(self, carried: Carried) -> list[tuple[str, str]]:
        fields = [("Contact", self._contact()), ("Allow", ALLOW), ("Supported", SUPPORTED)]
        fields.extend(self._own("Server"))
        fields.extend(render(carried, self.site))
        return fields

    def _progress(self, event: Progressed) -> list[Effect]:
        served = self.served
        if self.state is not State.INVITED or served is None:
            return []
        effects: list[Effect] = []
        tag = self._early_tag(event.early, effects)
        # An offer in an unreliable provisional answer is none (RFC 3261 s.13.2.1), so only answers cross.
        body = event.sdp or b"" if served.offer else b""
        fields = [("Contact", self._contact()), ("Allow", ALLOW), *self._own("Server")]
        fields.extend(
            ("Record-Route", value) for value in served.request.get_all("Record-Route")
        )  # RFC 3261 s.12.1.1
        if body:
            fields.append(("Content-Type", SDP))
            self.local_sdp = body
        fields.extend(render(event.carried, self.site))
        effects.append(
            Respond(served.tx, respond(served.request, event.status, event.reason, tag, fields, body))
        )
        return effects

    def _accept(self, event: Answered, now: float) -> list[Effect]:
        served = self.served
        if self.state is not State.INVITED or served is None:
            return []
        effects: list[Effect] = []
        self.dialog.local_tag = self._early_tag(event.early, effects)
        self.dialog.confirmed = True
        self.state = State.UP
        self.early = {}
        # Some callees send their answer only in the 183; ours repeats it in the 2xx (RFC 3261 s.13.2.1).
        body = event.sdp or self.local_sdp or b""
        effects.append(self._answer_invite(served, body, event.carried, now))
        self._arm_session(now)
        return effects

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

    def _refuse(self, event: Rejected | Redirected) -> list[Effect]:
        served = self.served
        if self.state is not State.INVITED or served is None:
            return []
        fields = [*self._own("Server"), *render(event.carried, self.site)]
        if isinstance(event, Redirected):
            fields.extend(("Contact", self._contact(user)) for user in event.users)
        else:
            fields.append(self._warning(event.rule))
            if event.retry_after_s is not None:
                fields.append(("Retry-After", str(event.retry_after_s)))
        if event.status == 405:
            fields.append(("Allow", ALLOW))
        response = respond(served.request, event.status, event.reason, self.dialog.local_tag, fields)
        return [Respond(served.tx, response), *self._end()]

    def cancelled(self, carried: Carried) -> list[Effect]:
        """A CANCEL for the peer's INVITE; after a final answer it has no effect (RFC 3261 s.9.2)."""
        served = self.served
        if served is None or served.phase is not Phase.PENDING:
            return []
        if self.state is State.INVITED:
            response = respond(
                served.request, 487, "Request Terminated", self.dialog.local_tag, self._own("Server")
            )
            return [
                Respond(served.tx, response),
                Raise(Released("cancel", "cancelled by the caller", carried)),
                *self._end(),
            ]
        # A re-INVITE is already on its way to the other side and will be answered with what that side says:
        # a 487 now would leave the two sides with different sessions.
        return []

    # -- the called side -----------------------------------------------------------------------------------

    @classmethod
    def calling(
        cls,
        name: str,
        settings: LegSettings,
        site: Site,
        flow: Flow,
        host: str,
        user: str,
        offered: Offered,
        tag: Callable[[], str],
        now: float,
    ) -> "tuple[Leg, list[Effect]]":
        """A leg that calls `user` at `host` by `flow` with what the other leg offered."""
        domain = f"[{host}]" if ":" in host else host
        userinfo = f"{user}@" if user else ""
        transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
        dialog = Dialog(tag() + tag(), offered.caller.render(site), tag(), f"<sip:{userinfo}{domain}>", "")
        address: Address = (host, flow.remote[1])
        dialog.remote_target = f"sip:{userinfo}{host_port(address)}{transport}"
        leg = cls(name, settings, site, flow, dialog, State.CALLING, tag)
        effects = [Opened(dialog.call_id, dialog.local_tag), leg._invite(offered, now)]
        leg.opened.append(dialog.local_tag)
        return leg, effects

    def _invite(self, offered: Offered, now: float) -> SendRequest:
        fields = [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("User-Agent"),
            *session_timer.asked_fields(self.settings.session_expires_s, self.settings.min_se_s, None),
            *render(offered.carried, self.site),
        ]
        body = offered.sdp or b""
        if body:
            fields.append(("Content-Type", SDP))
            self.local_sdp = body
        request = self.dialog.request("INVITE", fields, body)
        request.replace("Max-Forwards", str(offered.max_forwards))
        self.asked = Asked(self, Purpose.CALL, "INVITE", self.dialog.local_cseq, bool(body))
        if self.settings.trying_timeout_s:
            self.timers["trying"] = now + self.settings.trying_timeout_s
        if self.settings.no_answer_s:
            self.timers["no-answer"] = now + self.settings.no_answer_s
        return SendRequest(self.asked, request, self.flow)

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
            return self._lost(asked, response.status, response.reason, now)
        if asked.purpose is Purpose.INFORM:
            content_type, body = carry_body(response.content_type, response.body) or ("", b"")
            carried = carry_response(response)
            return [
                Raise(
                    InformAnswered(
                        asked.number, response.status, response.reason, content_type, body, carried
                    )
                )
            ]
        if asked.purpose is Purpose.CHECK:
            return []
        return self._update_response(asked, response, now)

    def _call_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        status = response.status
        if status < 200:
            if self.state is not State.CALLING:
                return []
            self.timers.pop("trying", None)
            return [] if status == 100 else self._provisional(response)
        if status < 300:
            return self._success(asked, response, now)
        if self.state not in (State.CALLING, State.CANCELLING):
            return []
        if self.state is State.CANCELLING:
            return self._end()
        if 300 <= status < 400:
            contacts = tuple(contact.uri_text for contact in response.contacts[:10])
            carried = carry_response(response)
            return [Raise(Redirected(status, response.reason, contacts, (), carried)), *self._end()]
        retry = retry_after(response)
        return [
            Raise(Rejected(status, response.reason, "peer-rejected", carry_response(response), retry)),
            *self._end(),
        ]

    def _provisional(self, response: Response) -> list[Effect]:
        asked = self.asked
        sdp = session_body(response) if asked is not None and asked.offer else None
        if sdp is not None:
            self.remote_sdp = sdp
        early = self._fork(response.to.tag or "")
        return [Raise(Progressed(response.status, response.reason, early, sdp, carry_response(response)))]

    def _fork(self, tag: str) -> int:
        """The number of the early dialog with the peer's `tag`; bounded, since the peer makes them up."""
        if tag not in self.forks:
            if len(self.forks) >= 16:
                return 0
            self.forks.append(tag)
        return self.forks.index(tag)

    def _success(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        tag = response.to.tag or ""
        if self.dialog.confirmed and tag == self.dialog.remote_tag:
            return [] if asked.ack is None else [SendAck(asked.ack, self.destination(self))]
        if self.state is not State.CALLING:
            # Another fork has won, or we gave up: accept and hang up (RFC 3261 s.13.2.2.4, s.9.1).
            return self._decline_success(asked, response)
        dialog = self.dialog
        dialog.remote_tag = tag
        dialog.confirmed = True
        dialog.learn_route(response)
        self.state = State.UP
        self.timers.clear()
        self.remote_updates = allows(response, "UPDATE")
        sdp = session_body(response)
        self.timer = session_timer.agreed(response)
        self._arm_session(now)
        asked.phase = Phase.ANSWERED
        early = self._fork(tag)
        effects: list[Effect] = []
        if asked.offer:
            effects.append(self._acknowledge(asked, b""))
            if sdp is None:
                sdp = self.remote_sdp if len(self.forks) == 1 else None
        if sdp is not None:
            self.remote_sdp = sdp
        self.forks = []
        effects.append(Raise(Answered(early, sdp, carry_response(response))))
        return effects

    def _decline_success(self, asked: Asked, response: Response) -> list[Effect]:
        if self.state is State.CANCELLING:
            dialog = self.dialog
            dialog.remote_tag = response.to.tag or ""
            dialog.confirmed = True
            dialog.learn_route(response)
            self.timers.clear()
            return [self._acknowledge(asked, b""), *self._bye(())]
        fork = self.dialog.fork(response)
        ack = fork.request("ACK", [], cseq=asked.cseq)
        bye = fork.request("BYE", self._own("User-Agent"))
        flow = self.flow
        return [
            SendAck(ack, flow),
            SendRequest(Asked(self, Purpose.BYE, "BYE", fork.local_cseq), bye, flow),
        ]

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
            if self.state is State.CANCELLING:
                return self._end()
            if self.state is not State.CALLING:
                return []
            rule = "server-timeout" if cause == "timeout" else "server-unreachable"
            status, reason = (408, "Request Timeout") if cause == "timeout" else (503, "Service Unavailable")
            return [Raise(Rejected(status, reason, rule)), *self._end()]
        if asked.purpose is Purpose.BYE:
            return self._end() if self.state is State.RELEASING else []
        if self.state is not State.UP:
            return []
        return self._lost(asked, 408, "Request Timeout", now)

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
            body = carry_body(request.content_type, request.body)
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
                    UpdateRejected(status, response.reason, "peer-rejected", carry_response(response), retry)
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
            case Progressed():
                return self._progress(event)
            case Answered():
                return self._accept(event, now)
            case Rejected() | Redirected():
                return self._refuse(event)
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
                raise UsageError("a leg is offered a call by Leg.calling")
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
                return self._refuse(Rejected(480, "Temporarily Unavailable", "released"))
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
        if name == "trying":
            rejected = Rejected(408, "Request Timeout", "server-timeout")
            return [Raise(rejected), *self._release((), now)]
        if name == "no-answer":
            rejected = Rejected(480, "Temporarily Unavailable", "no-answer")
            return [Raise(rejected), *self._release((), now)]
        if name == "cancel":
            return self._end()
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
        cls, data: dict[str, Any], settings: LegSettings, site: Site, tag: Callable[[], str], now: float
    ) -> "Leg":
        """The leg that `snapshot` wrote. A stream connection is opened again on demand."""
        local, remote = data["local"], data["remote"]
        flow = Flow(data["network"], data["transport"], (local[0], local[1]), (remote[0], remote[1]))
        leg = cls(data["name"], settings, site, flow, Dialog.restore(data["dialog"]), State.UP, tag)
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


def check_extensions(request: Request) -> None:
    """420 for an extension that the peer requires and we do not have (RFC 3261 s.8.2.2.3)."""
    unknown = [value for value in request.values("Require") if value.lower() not in ("", "timer")]
    if unknown:
        raise PeerError(420, "Bad Extension", "unsupported:" + ",".join(unknown)[:80])


def session_body(message: Message) -> bytes | None:
    """The SDP of a message, None where there is no body; 415 for a body that we cannot serve (s.8.2.3)."""
    if not message.body:
        return None
    if message.get("Content-Encoding"):
        raise PeerError(415, "Unsupported Media Type", "content-encoding")
    kind = message.content_type
    if kind == SDP:
        return message.body
    if kind == "multipart/mixed":
        return part_of(message.get("Content-Type") or "", message.body, SDP)
    if "handling=optional" in (message.get("Content-Disposition") or "").replace(" ", "").lower():
        return None
    raise PeerError(415, "Unsupported Media Type", "unknown-body")


def allows(message: Message, method: str) -> bool:
    """Whether the sender lists `method` in Allow."""
    return method in message.values("Allow")


def retry_after(response: Response) -> int | None:
    """The seconds of a Retry-After field, if it has a usable one (RFC 3261 s.20.33)."""
    text = (response.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
