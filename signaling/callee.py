"""The called side of a call: how our INVITE is answered (RFC 3261 s.13.2, s.9.1)."""

from collections.abc import Callable

from signaling.authorizer import Authorizer
from signaling.dialog import Dialog
from signaling.errors import PeerError
from signaling.events import Answered, Offered, Progressed, Redirected, Rejected
from signaling.exchange import (
    SDP,
    Asked,
    Effect,
    LegSettings,
    Opened,
    Phase,
    Purpose,
    Raise,
    Role,
    SendAck,
    SendRequest,
    State,
    allows,
    answer_body,
    retry_after,
)
from signaling.flow import Address, Flow, host_port
from signaling.headers import parse_name_addr, qvalue, split_commas
from signaling.leg import Leg
from signaling.location import with_location
from signaling.message import Field, Request, Response
from signaling.passed_digest import challenges_of
from signaling.phrases import reason_phrase
from signaling.site import Site
from signaling.topology import carry_response
from signaling.uri import SipUri, parse_uri

# The peer makes early dialogs up: more than these share the last one.
MAX_FORKS = 16
MAX_CONTACTS = 10


class CalleeLeg(Leg):
    """The leg of the one who is called.

    `forks` has each early dialog by the peer's tag, in order, `early_sdp` what was answered in it, `declined`
    the ACK of each 2xx that came too late. `credentials` are those of a phone for its own registrar, whose challenges
    it gets to see; None for every other peer. `token` is what the caller may know the phone by that is called, alone.
    """

    __slots__ = ("credentials", "declined", "early_sdp", "forks", "offered", "token")

    forks: dict[str, Dialog]
    early_sdp: dict[str, bytes]
    declined: dict[str, Request]
    offered: Offered | None
    credentials: tuple[Field, ...] | None
    token: str

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
        authorizer: Authorizer | None = None,
        contact: str = "",
        credentials: tuple[Field, ...] | None = None,
        routes: tuple[str, ...] = (),
    ) -> "tuple[CalleeLeg, list[Effect]]":
        """A leg that calls `user` at `host` by `flow` with what the other leg offered.

        `contact` is the Request-URI of a phone: its own, to the letter (RFC 3261 s.16.6 step 2), or that of a service
        of help, which To names too (RFC 6881 s.9.2). `routes` is the route set that the INVITE begins with (RFC 3608
        s.6.1).
        """
        domain = f"[{host}]" if ":" in host else host
        userinfo = f"{user}@" if user else ""
        transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
        called = contact if contact.startswith("urn:") else f"sip:{userinfo}{domain}"
        dialog = Dialog(tag() + tag(), offered.caller.render(site), tag(), f"<{called}>", "")
        address: Address = (host, flow.remote[1])
        dialog.remote_target = contact or f"sip:{userinfo}{host_port(address)}{transport}"
        dialog.route_set = routes
        leg = cls(name, settings, site, flow, dialog, State.CALLING, tag)
        leg.owns_call_id = True
        leg.credentials, leg.token = credentials, ""
        if credentials is not None:
            leg.role = Role.REGISTRAR
        leg.forks, leg.early_sdp, leg.declined = {}, {}, {}
        leg.offered = offered
        leg.authorizer = authorizer
        effects: list[Effect] = [
            Opened(dialog.call_id, dialog.local_tag),
            leg._invite(offered, now),
        ]
        leg.opened.append(dialog.local_tag)
        return leg, effects

    def _named(self) -> str:
        """`token` when the phone has answered by its GRUU (RFC 5627 s.4.4.3), "" when it has none or wants none."""
        uri = parse_uri(self.dialog.remote_target) if self.token else None
        if not isinstance(uri, SipUri) or uri.param("gr") is None:
            return ""
        return self.token if uri.host.lower() == self.site.domain.lower() else ""

    def _invite(self, offered: Offered, now: float) -> SendRequest:
        fields = [*self._offer_fields(offered.carried), *(self.credentials or ())]
        body, kind = offered.sdp or b"", SDP
        if body:
            self.local_sdp = body
        if offered.location is not None:
            told, kind, body = with_location(offered.location, body, self.tag, self.site.contact[0])
            fields += told
        if body:
            fields.append(("Content-Type", kind))
        request = self.dialog.request("INVITE", fields, body)
        request.replace("Max-Forwards", str(offered.max_forwards))
        self.asked = Asked(self, Purpose.CALL, "INVITE", self.dialog.local_cseq, offered.sdp)
        if self.settings.trying_timeout_s:
            self.timers["trying"] = now + self.settings.trying_timeout_s
        if self.settings.no_answer_s:
            self.timers["no-answer"] = now + self.settings.no_answer_s
        return self._ask(self.asked, request, self.flow)

    def _call_response(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        status = response.status
        if status < 200:
            if self.state is not State.CALLING:
                return []
            self.timers.pop("trying", None)
            # 199 is for those who asked for it (RFC 6228 s.4).
            return [] if status in (100, 199) else self._provisional(response)
        if status < 300:
            return self._success(asked, response, now)
        if self.state not in (State.CALLING, State.CANCELLING):
            return []
        if self.state is State.CANCELLING:
            return self._end()
        if status == 422 and self.offered is not None:
            offered, self.offered = self.offered, None
            if self.session.lengthen(response):
                # RFC 4028 s.7.3: the same call once more, with an interval that the server accepts.
                return [self._invite(offered, now)]
        if 300 <= status < 400:
            carried = carry_response(response, self.site.trusted)
            contacts = contacts_of(response)
            return [Raise(Redirected(status, reason_phrase(status), contacts, (), carried)), *self._end()]
        retry, carried = retry_after(response), carry_response(response, self.site.trusted)
        challenge = () if self.credentials is None else challenges_of(response)
        rejected = Rejected(status, reason_phrase(status), "peer-rejected", carried, retry, challenge)
        return [Raise(rejected), *self._end()]

    def _provisional(self, response: Response) -> list[Effect]:
        tag = tag_of(response)
        sdp = None
        if self.asked is not None and self.asked.sdp is not None:
            # A body that we cannot read is no reason to lose the call: it rings without.
            sdp, _ = answer_body(response)
        early = self._fork(tag, response)
        if sdp is not None and tag in self.forks:
            self.early_sdp[tag] = sdp
        reason = reason_phrase(response.status)
        return [
            Raise(
                Progressed(response.status, reason, early, sdp, carry_response(response, self.site.trusted))
            )
        ]

    def _fork(self, tag: str, response: Response) -> int:
        """The number of the early dialog with the peer's `tag` (RFC 3261 s.12.1.2)."""
        if tag not in self.forks:
            if len(self.forks) >= MAX_FORKS:
                return MAX_FORKS - 1
            self.forks[tag] = self.dialog.fork(response)
        return list(self.forks).index(tag)

    def _dialog_of(self, request: Request) -> Dialog:
        if self.state not in (State.CALLING, State.CANCELLING):
            return self.dialog
        dialog = self.forks.get(request.from_tag or "")
        if dialog is None:
            raise PeerError(481, "Call/Transaction Does Not Exist", "no-such-dialog")
        return dialog

    def _success(self, asked: Asked, response: Response, now: float) -> list[Effect]:
        tag = tag_of(response)
        if self.dialog.confirmed and tag == self.dialog.remote_tag:
            return [] if asked.ack is None else [SendAck(asked.ack, self.destination(self))]
        if self.state not in (State.CALLING, State.CANCELLING):
            return self._decline(tag, asked, response)
        early = self._fork(tag, response)
        dialog = self.forks.get(tag) or self.dialog.fork(response)
        dialog.local_cseq = self.dialog.local_cseq
        dialog.learn_route(response)
        dialog.confirmed = True
        self.dialog = dialog
        self.timers.clear()
        early_sdp = self.early_sdp.get(tag)
        self.forks, self.early_sdp, self.offered = {}, {}, None
        asked.phase = Phase.ANSWERED
        if self.state is State.CANCELLING:
            # The 2xx crossed our CANCEL: accept and hang up (RFC 3261 s.9.1, s.15).
            return self._bye()
        self.state = State.UP
        sdp, fault = answer_body(response)
        if asked.sdp is not None:
            self.local_sdp = asked.sdp
            # Some callees answer in the 18x alone.
            sdp = sdp or early_sdp
        if sdp is None:
            # RFC 3261 s.13.2.2.4: an answer that cannot be used is acknowledged, then the dialog is ended.
            fault = fault or PeerError(502, "The 2xx has no SDP", "no-sdp-in-2xx")
            rejected = Rejected(fault.status, fault.reason, fault.rule)
            return [Raise(rejected), *self._bye()]
        self.remote_sdp = sdp
        self.remote_updates = allows(response, "UPDATE")
        self.session.answered(response, now)
        self._arm_session(now)
        effects: list[Effect] = [] if asked.sdp is None else [self._acknowledge(asked, b"")]
        carried = carry_response(response, self.site.trusted)
        return [*effects, Raise(Answered(early, sdp, carried, self._named()))]

    def _decline(self, tag: str, asked: Asked, response: Response) -> list[Effect]:
        """Another fork has won, or the call is over: accept and hang up (RFC 3261 s.13.2.2.4)."""
        ack = self.declined.get(tag)
        if ack is not None:
            return [SendAck(ack, self.flow)]
        if len(self.declined) >= MAX_FORKS:
            return []
        fork = self.dialog.fork(response)
        fork.local_cseq = asked.cseq
        accepted = self._ack(asked, fork, self.flow, b"")
        self.declined[tag] = accepted.request
        bye = fork.request("BYE", self._own("User-Agent"))
        asked_bye = Asked(self, Purpose.BYE_FORK, "BYE", fork.local_cseq)
        return [accepted, self._ask(asked_bye, bye, self.flow)]

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


def tag_of(response: Response) -> str:
    """The peer's tag in a response, empty where there is none to be read."""
    try:
        return response.to_tag or ""
    except PeerError:
        return ""


def contacts_of(response: Response) -> tuple[str, ...]:
    """The URIs that a 3xx names, the most wanted first (RFC 3261 s.8.1.3.4), bounded; malformed ones are left out."""
    contacts: list[tuple[int, str]] = []
    for line in response.get_all("Contact"):
        for value in split_commas(line)[:MAX_CONTACTS]:
            try:
                contact = parse_name_addr(value)
            except PeerError:
                continue
            contacts.append((qvalue(contact.param("q")), contact.uri_text))
    contacts.sort(key=lambda one: -one[0])
    return tuple(uri for _, uri in contacts[:MAX_CONTACTS])
