"""The caller's side of a call: how an INVITE that came to us is answered (RFC 3261 s.13.3)."""

from collections.abc import Callable

from signaling import session_timer
from signaling.dialog import Dialog
from signaling.events import Answered, Event, Offered, Progressed, Redirected, Rejected, Released
from signaling.exchange import (
    ALLOW,
    SDP,
    Effect,
    LegSettings,
    Opened,
    Phase,
    Raise,
    Respond,
    Served,
    State,
    allows,
    check_extensions,
    session_body,
)
from signaling.flow import Flow
from signaling.leg import Leg
from signaling.message import respond
from signaling.topology import Carried, Site, carry_identity, carry_request, clean_user, hosts_of, render
from signaling.transaction import ServerTx
from signaling.uri import SipUri, TelUri, parse_uri


class CallerLeg(Leg):
    """The leg of the one who calls. `early` has our tag for each early dialog of the other leg."""

    __slots__ = ("early",)

    early: dict[int, str]

    @classmethod
    def invited(
        cls, name: str, settings: LegSettings, site: Site, flow: Flow, tx: ServerTx, tag: Callable[[], str]
    ) -> "tuple[CallerLeg, list[Effect]]":
        """The leg that a new INVITE opens. Raises PeerError for one that cannot be served."""
        request = tx.request
        check_extensions(request)
        sdp = session_body(request)
        dialog = Dialog.of_request(request, tag())
        leg = cls(name, settings, site, flow, dialog, State.INVITED, tag)
        leg.early = {}
        leg.timer = session_timer.serve(request, settings.session_expires_s, settings.min_se_s)
        leg.served = Served(tx, request, sdp is not None)
        leg.remote_sdp = sdp
        leg.remote_updates = allows(request, "UPDATE")
        uri = parse_uri(request.uri)
        user = uri.user if isinstance(uri, SipUri) else uri.number if isinstance(uri, TelUri) else ""
        hosts = hosts_of(request)
        hops = request.max_forwards
        offered = Offered(
            clean_user(user, hosts),
            carry_identity(request.from_, hosts),
            carry_identity(request.to, hosts),
            sdp,
            carry_request(request),
            69 if hops is None else hops - 1,
        )
        leg.opened.append(dialog.local_tag)
        return leg, [Opened(dialog.call_id, dialog.local_tag), Raise(offered)]

    def deliver(self, event: Event, now: float) -> list[Effect]:
        """An event of the other leg."""
        match event:
            case Progressed():
                return self._progress(event)
            case Answered():
                return self._accept(event, now)
            case Rejected() | Redirected():
                return self._refuse(event)
            case _:
                return super().deliver(event, now)

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
