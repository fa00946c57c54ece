"""The called side of a call: how our INVITE is answered (RFC 3261 s.13.2, s.9.1)."""

from collections.abc import Callable

from signaling import session_timer
from signaling.dialog import Dialog
from signaling.events import Answered, Offered, Progressed, Redirected, Rejected
from signaling.exchange import (
    ALLOW,
    SDP,
    SUPPORTED,
    Asked,
    Effect,
    LegSettings,
    Opened,
    Phase,
    Purpose,
    Raise,
    SendAck,
    SendRequest,
    State,
    allows,
    retry_after,
    session_body,
)
from signaling.flow import Address, Flow, host_port
from signaling.leg import Leg
from signaling.message import Response
from signaling.topology import Site, carry_response, reason_phrase, render

# A server that wants longer sessions than this is not asked again.
MAX_MIN_SE_S = 86_400


class CalleeLeg(Leg):
    """The leg of the one who is called. `forks` has the peer's tag of each early dialog, in order."""

    __slots__ = ("forks", "offered")

    forks: list[str]
    offered: Offered | None

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
    ) -> "tuple[CalleeLeg, list[Effect]]":
        """A leg that calls `user` at `host` by `flow` with what the other leg offered."""
        domain = f"[{host}]" if ":" in host else host
        userinfo = f"{user}@" if user else ""
        transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
        dialog = Dialog(tag() + tag(), offered.caller.render(site), tag(), f"<sip:{userinfo}{domain}>", "")
        address: Address = (host, flow.remote[1])
        dialog.remote_target = f"sip:{userinfo}{host_port(address)}{transport}"
        leg = cls(name, settings, site, flow, dialog, State.CALLING, tag)
        leg.forks = []
        leg.offered = offered
        effects: list[Effect] = [
            Opened(dialog.call_id, dialog.local_tag),
            leg._invite(offered, settings.min_se_s, now),
        ]
        leg.opened.append(dialog.local_tag)
        return leg, effects

    def _invite(self, offered: Offered, min_se_s: int, now: float) -> SendRequest:
        wanted_s = self.settings.session_expires_s
        interval_s = max(wanted_s, min_se_s) if wanted_s else 0
        fields = [
            ("Contact", self._contact()),
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            *self._own("User-Agent"),
            *session_timer.asked_fields(interval_s, min_se_s, None),
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
        if status == 422 and self.offered is not None:
            wanted = session_timer.min_se(response)
            offered, self.offered = self.offered, None
            if wanted is not None and self.settings.min_se_s < wanted <= MAX_MIN_SE_S:
                # RFC 4028 s.7.3: the same call once more, with an interval that the server accepts.
                return [self._invite(offered, wanted, now)]
        if 300 <= status < 400:
            contacts = tuple(contact.uri_text for contact in response.contacts[:10])
            carried = carry_response(response)
            return [
                Raise(Redirected(status, reason_phrase(response.status), contacts, (), carried)),
                *self._end(),
            ]
        retry = retry_after(response)
        return [
            Raise(
                Rejected(
                    status, reason_phrase(response.status), "peer-rejected", carry_response(response), retry
                )
            ),
            *self._end(),
        ]

    def _provisional(self, response: Response) -> list[Effect]:
        asked = self.asked
        sdp = session_body(response) if asked is not None and asked.offer else None
        if sdp is not None:
            self.remote_sdp = sdp
        early = self._fork(response.to.tag or "")
        return [
            Raise(
                Progressed(
                    response.status, reason_phrase(response.status), early, sdp, carry_response(response)
                )
            )
        ]

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
        self.offered = None
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

    def _call_failed(self, cause: str) -> list[Effect]:
        if self.state is State.CANCELLING:
            return self._end()
        if self.state is not State.CALLING:
            return []
        rule = "server-timeout" if cause == "timeout" else "server-unreachable"
        status, reason = (408, "Request Timeout") if cause == "timeout" else (503, "Service Unavailable")
        return [Raise(Rejected(status, reason, rule)), *self._end()]

    def _timer(self, name: str, now: float) -> list[Effect]:
        if name == "trying":
            rejected = Rejected(408, "Request Timeout", "server-timeout")
        elif name == "no-answer":
            rejected = Rejected(480, "Temporarily Unavailable", "no-answer")
        elif name == "cancel":
            return self._end()
        else:
            return super()._timer(name, now)
        del self.timers[name]
        return [Raise(rejected), *self._release((), now)]
