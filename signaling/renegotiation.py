"""How a session that stands is changed: re-INVITE and UPDATE (RFC 3261 s.14, RFC 3311, RFC 6141, RFC 4028 s.7.4).

`served` is the peer's INVITE or UPDATE until we have answered it and got the ACK, `asked` is ours until it is
answered and acknowledged. While either stands a further offer is glare (RFC 3261 s.14, RFC 3264 s.4). Nothing of an
exchange is in force before its 2xx: until then the old session and its timer stay (RFC 6141 s.2).
"""

import zlib
from abc import abstractmethod
from collections.abc import Sequence

from signaling import session_timer
from signaling.dialog import Dialog
from signaling.errors import PeerError
from signaling.events import Confirmed, UpdateAccepted, UpdateCancelled, Updated, UpdateRejected
from signaling.exchange import (
    SDP,
    Asked,
    CancelRequest,
    Effect,
    Phase,
    Purpose,
    Raise,
    Respond,
    Role,
    SendAck,
    SendRequest,
    Served,
    State,
    answer_body,
    crossing_status,
    retry_after,
    session_body,
)
from signaling.message import Field, Request, Response
from signaling.passed_digest import challenges_of, credentials_of
from signaling.phrases import reason_phrase
from signaling.topology import Carried, carry_request, carry_response, render
from signaling.transaction import ServerTx
from signaling.usage import Usage


class Renegotiable(Usage):
    """An INVITE usage whose session either side may change."""

    __slots__ = ()

    @abstractmethod
    def _request(
        self, purpose: Purpose, method: str, fields: Sequence[Field], body: bytes = b""
    ) -> SendRequest:
        """A request inside the dialog; what it is asked for is added to its `asked`."""

    # -- the peer's INVITE or UPDATE -----------------------------------------------------------------------

    def _update_received(self, tx: ServerTx, request: Request, now: float) -> list[Effect]:
        sdp = session_body(request)
        timer = session_timer.serve(request, self.settings.session_expires_s, self.settings.min_se_s)
        served = Served(tx, request, sdp, timer)
        if request.method == "UPDATE" and sdp is None:
            self.dialog.refresh_target(request)
            return [self._answer(served, b"", Carried(), now)]
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
        self.served = served
        if sdp is not None and sdp == self.remote_sdp and self.local_sdp is not None:
            # Nothing changes: a session refresh (RFC 4028 s.7.4), answered with what is in force.
            return [*effects, self._answer(served, self.local_sdp, Carried(), now)]
        shown = credentials_of(request) if self.role is Role.PHONE else ()
        carried = carry_request(request, self.site.trusted)
        return [*effects, Raise(Updated(sdp, request.method, carried, shown))]

    def _early_update(self, tx: ServerTx, request: Request, dialog: Dialog) -> list[Effect]:
        """A target refresh before the call stands; the offer of the INVITE is still to be answered."""
        if session_body(request) is not None or request.method == "INVITE":
            if self.served is not None:
                raise PeerError(500, "Server Internal Error", "update-under-way")  # RFC 3311 s.5.2
            raise PeerError(491, "Request Pending", "glare")
        dialog.refresh_target(request)
        return [self._respond(tx, 200, "OK", self._answer_fields(Carried()))]

    def _answer_update(self, event: UpdateAccepted | UpdateRejected, now: float) -> list[Effect]:
        """What the other side says to the update of the peer."""
        served = self.served
        if served is None or served.phase is not Phase.PENDING or self.state is not State.UP:
            return []
        if isinstance(event, UpdateAccepted):
            carried = event.carried if served.request.method == "INVITE" else Carried()
            return [self._answer(served, event.sdp or b"", carried, now)]
        self.served = None
        fields = [*self._own("Server"), *render(event.carried, self.site), self._warning(event.rule)]
        fields.extend(event.challenge)
        if event.retry_after_s is not None:
            fields.append(("Retry-After", str(event.retry_after_s)))
        return [self._respond(served.tx, event.status, event.reason, fields)]

    def _answer(self, served: Served, sdp: bytes, carried: Carried, now: float) -> Respond:
        """Our 2xx: what the peer asked for is in force. To an INVITE it is repeated until the ACK (s.13.3.1.4)."""
        self.session.agree(served.timer, now)
        self._arm_session(now)
        if served.sdp is not None:
            self.remote_sdp = served.sdp
        request = served.request
        invite = request.method == "INVITE"
        fields = self._answer_fields(carried)
        if invite:
            fields.extend(("Record-Route", value) for value in request.get_all("Record-Route"))
        fields.extend(session_timer.served_fields(self.session.timer, request))
        if sdp:
            fields.append(("Content-Type", SDP))
            self.local_sdp = sdp
        answer = self._respond(served.tx, 200, "OK", fields, sdp)
        if invite:
            served.response = answer.response
            served.phase = Phase.ANSWERED
            served.interval = self.settings.t1
            served.give_up_at = now + 64 * served.interval
            self.timers["ack"] = now + served.interval
        elif self.served is served:
            self.served = None
        return answer

    def _acknowledged(self, sdp: bytes | None) -> list[Effect]:
        """The peer has our 2xx; `sdp` is its answer to the offer that we made there."""
        self.served = None
        self.timers.pop("ack", None)
        return [Raise(Confirmed(sdp))]

    # -- our INVITE or UPDATE ------------------------------------------------------------------------------

    def _update(self, event: Updated, now: float) -> list[Effect]:
        """Carry the other side's update to the peer."""
        if self.state is not State.UP or self.asked is not None or self.served is not None:
            return [Raise(UpdateRejected(491, "Request Pending", "glare"))]
        by_update = event.sdp is not None and event.method == "UPDATE" and self.remote_updates
        method = "UPDATE" if by_update else "INVITE"
        shown = event.credentials if self.role is Role.REGISTRAR else ()
        sent = self._offer(Purpose.UPDATE, method, event.sdp, event.carried, now, shown)
        sent.asked.update = event
        return [sent]

    def _offer(
        self,
        purpose: Purpose,
        method: str,
        sdp: bytes | None,
        carried: Carried,
        now: float,
        credentials: Sequence[Field] = (),
    ) -> SendRequest:
        fields = [*self._offer_fields(carried), *credentials]
        if sdp:
            fields.append(("Content-Type", SDP))
        sent = self._request(purpose, method, fields, sdp or b"")
        sent.asked.sdp = sdp
        if method == "INVITE" or sdp:
            self.asked = sent.asked
        if method == "INVITE" and self.settings.no_answer_s:
            self.timers["reinvite"] = now + self.settings.no_answer_s
        return sent

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
        if asked.method != "INVITE":
            if asked is self.asked:
                self.asked = None
        elif asked.sdp is not None or fault is not None:
            effects.append(self._acknowledge(asked, b""))
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
            effects.append(Raise(UpdateAccepted(sdp, carry_response(response, self.site.trusted))))
        elif changed:
            # A refresh that the peer used to change its session: carry it on as if it had asked.
            effects.append(Raise(Updated(sdp, "INVITE")))
        return effects

    def _update_refused(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        """A failure of our INVITE or UPDATE; the session in force stays."""
        status = response.status
        longer = self.session.lengthen(response)
        challenge = challenges_of(response) if self.role is Role.REGISTRAR else ()
        if asked.purpose is Purpose.REFRESH and challenge:
            # It is there and knows the call; what it wants to see only the phone has.
            self.session.agree(self.session.timer, now)
            self._arm_session(now)
            return []
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
        status = status if challenge else crossing_status(status)
        reason, carried, retry = (
            reason_phrase(status),
            carry_response(response, self.site.trusted),
            retry_after(response),
        )
        return [Raise(UpdateRejected(status, reason, "peer-rejected", carried, retry, challenge))]

    def _acknowledge(self, asked: Asked, body: bytes) -> SendAck:
        """The ACK of our INVITE's 2xx; kept with the transaction, to be repeated when the 2xx is."""
        if body:
            self.local_sdp = body
        ack = self._ack(asked, self.dialog, self.destination(self), body)
        asked.ack = ack.request
        if self.asked is asked:
            self.asked = None
        return ack

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

    # -- the session timer ---------------------------------------------------------------------------------

    def _arm_session(self, now: float) -> None:
        timer = self.session.timer
        if timer is not None:
            self.timers["session"] = timer.due(now)
        else:
            self.timers.pop("session", None)
        if self.settings.dialog_check_s and "check" not in self.timers:
            self.timers["check"] = now + self.settings.dialog_check_s

    def _refresh(self, now: float) -> list[Effect]:
        """It is on us to refresh the session: by UPDATE where the peer has it, since that needs no SDP."""
        session = self.session
        if self.asked is not None or self.served is not None:
            self.timers["session"] = min(now + session.pause_s(), session.ends_at)
            return []
        self.timers["session"] = session.ends_at
        if self.remote_updates or self.local_sdp is None:
            return [self._offer(Purpose.REFRESH, "UPDATE", None, Carried(), now)]
        return [self._offer(Purpose.REFRESH, "INVITE", self.local_sdp, Carried(), now)]


def same_session(sdp: bytes, before: bytes | None) -> bool:
    """Whether two bodies say the same but for the version in o=, which some phones count on at every answer."""
    if before is None:
        return False
    return [line for line in sdp.splitlines() if line[:2] != b"o="] == [
        line for line in before.splitlines() if line[:2] != b"o="
    ]
