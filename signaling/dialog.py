"""A dialog (RFC 3261 s.12): what two user agents keep of each other between requests."""

from collections.abc import Sequence
from typing import Any

from signaling.errors import ParseError, PeerError
from signaling.headers import parse_name_addr, split_commas, split_semicolons
from signaling.message import Message, Request, Response
from signaling.uri import SipUri, Uri, parse_uri

# RFC 3261 sets no bound on a route set; nothing real comes near this one.
MAX_ROUTES = 32


FIELDS = (
    "call_id",
    "confirmed",
    "local",
    "local_cseq",
    "local_tag",
    "remote",
    "remote_cseq",
    "remote_tag",
    "remote_target",
    "route_set",
)
"""What a dialog consists of."""


class Dialog:
    """Tags, CSeq numbers, remote target and route set of one dialog.

    `local` and `remote` are the To or From values without tag, as they go on the wire. `remote_cseq` is None
    until the peer has sent a request (s.12.1.2). A dialog is early while `confirmed` is False.
    """

    __slots__ = FIELDS

    def __init__(self, call_id: str, local: str, local_tag: str, remote: str, remote_tag: str) -> None:
        self.call_id = call_id
        self.local = local
        self.local_tag = local_tag
        self.remote = remote
        self.remote_tag = remote_tag
        self.local_cseq = 0
        self.remote_cseq: int | None = None
        self.remote_target = ""
        self.route_set: tuple[str, ...] = ()
        self.confirmed = False

    @classmethod
    def of_request(cls, request: Request, local_tag: str) -> "Dialog":
        """The dialog that our answer to `request` creates (s.12.1.1)."""
        local, remote = untagged(request.get("To") or ""), untagged(request.get("From") or "")
        dialog = cls(request.call_id, local, local_tag, remote, request.from_tag or "")
        dialog.remote_cseq = request.cseq.number
        routes = request.values("Record-Route")
        dialog.route_set = usable_routes(request)
        if len(dialog.route_set) != len(routes):
            raise PeerError(400, "Record-Route is malformed", "bad-record-route")
        target = usable_contact(request)
        if target is None:
            raise PeerError(400, "INVITE without usable Contact (RFC 3261 s.8.1.1.8)", "no-contact")
        dialog.remote_target = target
        return dialog

    def fork(self, response: Response) -> "Dialog":
        """The dialog that `response` to our INVITE creates beside this half-made one (s.12.1.2)."""
        dialog = Dialog(self.call_id, self.local, self.local_tag, self.remote, response.to_tag or "")
        dialog.local_cseq = self.local_cseq
        dialog.remote_target = self.remote_target
        dialog.learn_route(response)
        return dialog

    def sibling(self, local_tag: str) -> "Dialog":
        """Another early dialog that our answers to the same INVITE create (s.12.1.1)."""
        dialog = Dialog(self.call_id, self.local, local_tag, self.remote, self.remote_tag)
        dialog.remote_cseq = self.remote_cseq
        dialog.remote_target = self.remote_target
        dialog.route_set = self.route_set
        return dialog

    def learn_route(self, response: Response) -> None:
        """Route set and target as the answer to our INVITE gives them (s.12.1.2: in reverse order)."""
        self.route_set = tuple(reversed(usable_routes(response)))
        self.refresh_target(response)

    def refresh_target(self, message: Message) -> None:
        """Take the Contact as the new remote target (s.12.2.1.2, s.12.2.2). A broken one changes nothing."""
        target = usable_contact(message)
        if target is not None:
            self.remote_target = target

    def accept(self, request: Request) -> None:
        """Check and note the CSeq of a request inside the dialog (s.12.2.2): 500 when out of order.

        481 when the tags are not those of the dialog.
        """
        if request.to_tag != self.local_tag or (request.from_tag or "") != self.remote_tag:
            raise PeerError(481, "Call/Transaction Does Not Exist", "other-dialog")
        number = request.cseq.number
        if self.remote_cseq is not None and number < self.remote_cseq:
            raise PeerError(500, "CSeq out of order", "cseq-out-of-order")
        self.remote_cseq = number

    def request(
        self, method: str, fields: Sequence[tuple[str, str]], body: bytes = b"", cseq: int | None = None
    ) -> Request:
        """A request inside the dialog (s.12.2.1.1); ACK and CANCEL name the `cseq` of their INVITE."""
        if cseq is None:
            self.local_cseq += 1
            cseq = self.local_cseq
        uri, routes = self.next_hop()
        head = [
            ("Max-Forwards", "70"),
            ("From", f"{self.local};tag={self.local_tag}"),
            ("To", f"{self.remote};tag={self.remote_tag}" if self.remote_tag else self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
        ]
        head.extend(("Route", route) for route in routes)
        head.extend(fields)
        return Request(method, uri, head, body)

    def next_hop(self) -> tuple[str, tuple[str, ...]]:
        """Request-URI and Route values for the next request (s.12.2.1.1), a strict router first included."""
        routes = self.route_set
        if not routes:
            return self.remote_target, ()
        first = route_uri(routes[0])
        if isinstance(first, SipUri) and first.param("lr") is None:
            return str(first), (*routes[1:], f"<{self.remote_target}>")
        return self.remote_target, routes

    def destination(self) -> SipUri | None:
        """The URI whose host the next request goes to: first route, or the remote target."""
        uri = route_uri(self.route_set[0]) if self.route_set else parse_uri(self.remote_target)
        return uri if isinstance(uri, SipUri) else None

    def snapshot(self) -> dict[str, Any]:
        """The dialog as plain data; `restore` is the way back."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def restore(cls, data: dict[str, Any]) -> "Dialog":
        """The dialog that `snapshot` wrote."""
        dialog = cls(data["call_id"], data["local"], data["local_tag"], data["remote"], data["remote_tag"])
        dialog.local_cseq = data["local_cseq"]
        dialog.remote_cseq = data["remote_cseq"]
        dialog.remote_target = data["remote_target"]
        dialog.route_set = tuple(data["route_set"])
        dialog.confirmed = data["confirmed"]
        return dialog


def usable_contact(message: Message) -> str | None:
    """The URI of the first Contact, None where there is none that requests can be sent to."""
    try:
        for value in split_commas(message.get("Contact") or "")[:1]:
            text = parse_name_addr(value).uri_text
            parse_uri(text)
            return text
    except ParseError:
        pass  # what to do without one is for the caller to say
    return None


def usable_routes(message: Message) -> tuple[str, ...]:
    """The Record-Route values in their order, without those that no request could be sent to."""
    routes: list[str] = []
    for line in message.get_all("Record-Route"):
        try:
            for value in split_commas(line):
                if len(routes) == MAX_ROUTES:
                    return tuple(routes)  # thousands fit in a message, and each costs a URI
                if isinstance(route_uri(value), SipUri):
                    routes.append(value)
        except ParseError:
            continue
    return tuple(routes)


def route_uri(route: str) -> Uri:
    """The URI inside a Route or Record-Route value."""
    start = route.find("<")
    end = route.find(">", start)
    return parse_uri(route[start + 1 : end] if 0 <= start < end else route)


def untagged(value: str) -> str:
    """A From or To value without its tag parameter; other parameters stay (s.12.1.1 compares URIs only)."""
    before, close, behind = value.rpartition(">")
    if '"' in behind:
        address, *params = split_semicolons(value)
    else:  # nearly always, and three times as fast
        address, *params = behind.split(";")
        address = before + close + address
    return ";".join([address, *(one for one in params if one.partition("=")[0].strip().lower() != "tag")])
