"""An INVITE usage (RFC 5057 s.3): what a leg keeps between messages, and how it answers its peer."""

from collections.abc import Callable, Sequence

from signaling.authorizer import NO_CREDENTIALS, STRANGER, Authorizer, realms_of
from signaling.dialog import Dialog
from signaling.exchange import (
    ALLOW,
    SDP,
    SUPPORTED,
    Asked,
    Challenged,
    LegSettings,
    Phase,
    Purpose,
    Respond,
    Role,
    SendAck,
    SendRequest,
    Served,
    State,
)
from signaling.flow import Flow, host_port
from signaling.informs import Informs
from signaling.message import Field, Request, Response, respond
from signaling.phrases import warning
from signaling.session_timer import SessionClock
from signaling.site import Site
from signaling.topology import Carried, render
from signaling.transaction import ServerTx


class Usage:
    """The state of one leg. `signaling.leg` says what happens to it."""

    __slots__ = (
        "_informs",
        "asked",
        "authorizer",
        "challenged",
        "destination",
        "dialog",
        "farewell",
        "flow",
        "local_sdp",
        "name",
        "opened",
        "owns_call_id",
        "parting",
        "reference",
        "remote_sdp",
        "remote_updates",
        "role",
        "served",
        "session",
        "settings",
        "site",
        "state",
        "tag",
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
        self.session = SessionClock(settings.session_expires_s, settings.min_se_s)
        self.owns_call_id = False
        self.farewell: tuple[tuple[str, str], ...] = ()  # fields of a BYE that waits for the ACK
        self.timers: dict[str, float] = {}
        self.destination: Callable[[Usage], Flow] = same_flow
        self.authorizer: Authorizer | None = None  # our account at this peer
        self.reference = ""
        self.role = Role.PEER
        self.parting: ServerTx | None = None  # the BYE of a phone that its registrar has not answered
        self.challenged = 0  # how often a registrar has asked at the end who the phone is
        self._informs = Informs()

    # -- requests, and challenges to them (RFC 3261 s.22) ---------------------------------------------------

    def _ask(self, asked: Asked, request: Request, flow: Flow) -> SendRequest:
        """Send a request, with credentials where the peer has asked for them before."""
        if self.authorizer is not None:
            asked.attempt = self.authorizer.attempt(request, flow)
        return SendRequest(asked, request, flow)

    def _challenged(
        self, asked: Asked, response: Response, now: float
    ) -> tuple[Challenged, SendRequest | None]:
        """A 401 or 407: what the record is told, and the request once more when we have what it asks for."""
        realm, authorizer, attempt = realms_of(response), self.authorizer, asked.attempt
        if authorizer is None or attempt is None:
            why = NO_CREDENTIALS if authorizer is None else STRANGER
            return Challenged(asked.method, response.status, realm, why), None
        cseq = asked.cseq + 1 if asked.purpose is Purpose.BYE_FORK else self.dialog.local_cseq + 1
        made, request, why = authorizer.again(attempt, response, cseq)
        noted = Challenged(asked.method, response.status, realm, why)
        if made is None:
            return noted, None
        if asked.purpose is not Purpose.BYE_FORK:
            self.dialog.local_cseq = cseq
        again = asked.again(cseq, made)
        asked.phase = Phase.CHALLENGED
        if self.asked is asked:
            self.asked = again
        if asked.purpose is Purpose.CALL and self.settings.trying_timeout_s:
            self.timers["trying"] = now + self.settings.trying_timeout_s
        return noted, SendRequest(again, request, made.flow)

    def _ack(self, asked: Asked, dialog: Dialog, flow: Flow, body: bytes) -> SendAck:
        """The ACK of a 2xx; it has the credentials of its INVITE (RFC 3261 s.22.1), if it goes to the same peer."""
        fields = [("Content-Type", SDP)] if body else []
        if asked.attempt is not None and self.authorizer is not None and self.authorizer.serves(flow):
            fields.extend(asked.attempt.credentials)
        return SendAck(dialog.request("ACK", fields, body, cseq=asked.cseq), flow)

    # -- answers -------------------------------------------------------------------------------------------

    def _respond(
        self, tx: ServerTx, status: int, reason: str, fields: Sequence[Field] = (), body: bytes = b""
    ) -> Respond:
        return Respond(tx, respond(tx.request, status, reason, self.dialog.local_tag, fields, body))

    def _offer_fields(self, carried: Carried) -> list[Field]:
        """Of our INVITE or UPDATE."""
        return [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("User-Agent"),
            *self._timer_fields(),
            *render(carried, self.site),
        ]

    def _timer_fields(self) -> list[Field]:
        fields = self.session.fields()
        if self.role is Role.REGISTRAR and self.session.timer is None:
            # One that asks at every request who the phone is would ask at our refreshes, too: let it refresh.
            fields = [
                (name, f"{value};refresher=uas" if name == "Session-Expires" else value)
                for name, value in fields
            ]
        return fields

    def _answer_fields(self, carried: Carried) -> list[Field]:
        """Of our 2xx to an INVITE or UPDATE."""
        return [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("Server"),
            *render(carried, self.site),
        ]

    def _contact(self, user: str = "") -> str:
        site = self.site
        transport = "" if site.transport == "udp" else f";transport={site.transport}"
        gr = ";gr" if site.gruu and not user else ""
        return f"<sip:{user or site.gruu or 'sbc'}@{host_port(site.contact)}{transport}{gr}>"

    def _warning(self, rule: str) -> Field:
        return "Warning", warning(f"{rule} {self.reference}")

    def _own(self, name: str) -> list[Field]:
        agent = self.site.user_agent
        return [(name, agent)] if agent else []


def same_flow(leg: Usage) -> Flow:
    """Requests inside the dialog go where the INVITE came from or went."""
    return leg.flow
