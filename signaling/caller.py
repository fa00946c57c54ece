"""The caller's side of a call: how an INVITE that came to us is answered (RFC 3261 s.13.3)."""

from collections.abc import Callable
from dataclasses import replace

from signaling import session_timer
from signaling.dialog import Dialog
from signaling.errors import PeerError
from signaling.events import Answered, Event, Offered, Progressed, Redirected, Rejected, Released
from signaling.exchange import (
    ALLOW,
    SDP,
    Effect,
    LegSettings,
    Opened,
    Raise,
    Respond,
    Served,
    State,
    allows,
    check_extensions,
    session_body,
)
from signaling.flow import Flow
from signaling.guard import hosts_of
from signaling.identity import carry_identity, user_part
from signaling.leg import Leg
from signaling.location import carry_location
from signaling.message import Request, respond
from signaling.site import Site
from signaling.topology import Carried, carry_request, render
from signaling.transaction import ServerTx
from signaling.uri import OpaqueUri, SipUri, Uri, parse_uri, service_of


def check_scheme(uri: Uri) -> None:
    """416 for a Request-URI that we cannot call (RFC 3261 s.8.2.2.1).

    A sips: URI asks for TLS on every hop (s.26.2.2): without it the call must fail, not go on in the clear.
    """
    if isinstance(uri, OpaqueUri) and not service_of(uri):
        raise PeerError(416, "Unsupported URI Scheme", "uri-scheme")
    if isinstance(uri, SipUri) and uri.scheme == "sips":
        raise PeerError(416, "Unsupported URI Scheme", "sips-without-tls")


class CallerLeg(Leg):
    """The leg of the one who calls. `early` has a dialog here for each early dialog of the other leg."""

    __slots__ = ("early",)

    early: dict[int, Dialog]

    @classmethod
    def invited(
        cls, name: str, settings: LegSettings, site: Site, flow: Flow, tx: ServerTx, tag: Callable[[], str]
    ) -> "tuple[CallerLeg, list[Effect]]":
        """The leg that a new INVITE opens. Raises PeerError for one that cannot be served."""
        request = tx.request
        uri = parse_uri(request.uri)
        check_scheme(uri)
        check_extensions(request)
        sdp = session_body(request)
        dialog = Dialog.of_request(request, tag())
        leg = cls(name, settings, site, flow, dialog, State.INVITED, tag)
        leg.early = {}
        timer = session_timer.serve(request, settings.session_expires_s, settings.min_se_s)
        leg.served = Served(tx, request, sdp, timer)
        leg.remote_sdp = sdp
        leg.remote_updates = allows(request, "UPDATE")
        hosts = hosts_of(request)
        hops = request.max_forwards
        offered = Offered(
            # A service is called by its name (RFC 5031); which number that is here is for a route to say.
            user_part(uri, hosts),
            carry_identity(request.from_, hosts),
            carry_identity(request.to, hosts),
            sdp,
            carry_request(request, site.trusted),
            69 if hops is None else hops - 1,
            carry_location(request),
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

    def _early_dialog(self, early: int, effects: list[Effect]) -> Dialog:
        """Our dialog for an early dialog of the other leg; the first is the leg's own (s.12.1)."""
        dialog = self.early.get(early)
        if dialog is None:
            dialog = self.dialog.sibling(self.tag()) if self.early else self.dialog
            self.early[early] = dialog
            if dialog is not self.dialog:
                self.opened.append(dialog.local_tag)
                effects.append(Opened(dialog.call_id, dialog.local_tag))
        return dialog

    def _dialog_of(self, request: Request) -> Dialog:
        if self.state is State.INVITED:
            for dialog in self.early.values():
                if dialog.local_tag == request.to_tag:
                    return dialog
        return self.dialog

    def _bye_received(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        if self.state is State.INVITED and len(self.early) > 1:
            # RFC 3261 s.15: a BYE in one of several early dialogs ends that one and not the call.
            kept = {early: one for early, one in self.early.items() if one.local_tag != request.to_tag}
            self.early = kept
            return [self._respond(tx, 200, "OK")]
        return super()._bye_received(tx, request, now)

    def _progress(self, event: Progressed) -> list[Effect]:
        served = self.served
        if self.state is not State.INVITED or served is None:
            return []
        effects: list[Effect] = []
        tag = self._early_dialog(event.early, effects).local_tag
        # An offer in an unreliable provisional answer is none (RFC 3261 s.13.2.1), so only answers cross.
        body = event.sdp or b"" if served.sdp is not None else b""
        fields = [("Contact", self._contact()), ("Allow", ALLOW), *self._own("Server")]
        fields.extend(
            ("Record-Route", value) for value in served.request.get_all("Record-Route")
        )  # RFC 3261 s.12.1.1
        if body:
            fields.append(("Content-Type", SDP))
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
        self.dialog = self._early_dialog(event.early, effects)
        self.dialog.confirmed = True
        self.state = State.UP
        self.early = {}
        if event.named:
            self.site = replace(self.site, gruu=event.named)
        effects.append(self._answer(served, event.sdp or b"", event.carried, now))
        return effects

    def _refuse(self, event: Rejected | Redirected) -> list[Effect]:
        served = self.served
        if self.state is not State.INVITED or served is None:
            return []
        fields = [*self._own("Server"), *render(event.carried, self.site)]
        if isinstance(event, Redirected):
            fields.extend(("Contact", self._contact(user)) for user in event.users)
        else:
            fields += [self._warning(event.rule), *event.challenge]
            if event.retry_after_s is not None:
                fields.append(("Retry-After", str(event.retry_after_s)))
        if event.status == 405:
            fields.append(("Allow", ALLOW))
        response = respond(served.request, event.status, event.reason, self.dialog.local_tag, fields)
        self.served = None
        return [Respond(served.tx, response), *self._end()]

    def cancelled(self, carried: Carried) -> list[Effect]:
        """A CANCEL for the peer's INVITE."""
        served = self.served
        if self.state is not State.INVITED or served is None:
            return super().cancelled(carried)
        response = respond(
            served.request, 487, "Request Terminated", self.dialog.local_tag, self._own("Server")
        )
        self.served = None
        return [
            Respond(served.tx, response),
            Raise(Released("cancel", "cancelled by the caller", carried)),
            *self._end(),
        ]
