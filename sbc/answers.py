"""Answers of our own: refusals with their reason id, requests that belong to no call (RFC 3261 s.8.2, s.21)."""

from sbc.routing import Refusal
from sbc.trunks import Ping
from signaling.errors import PeerError
from signaling.events import Rejected
from signaling.exchange import ALLOW, KNOWN, SDP, SUPPORTED
from signaling.flow import host_port
from signaling.message import Field, Request, Response, respond
from signaling.phrases import warning
from signaling.site import Site
from signaling.topology import EVENTS

Answer = tuple[int, str, list[Field]]
"""Status, reason and fields of an answer."""
# A peer that is refused for a passing cause is told to come back after this (RFC 3261 s.14.2, s.21.5.4).
RETRY_AFTER_S = 2
OPTIONS_ANSWER: Answer = 200, "OK", [("Allow", ALLOW), ("Accept", SDP), ("Supported", SUPPORTED)]
"""What we can do (RFC 3261 s.11.2): status, reason and fields."""
CLOSING_ANSWER: Answer = 503, "Service Unavailable", [("Warning", warning("listener-closing -"))]
"""To OPTIONS where `closing` is the refusal: without Retry-After, since nobody will be there then."""
INSIDE_ONLY = ("BYE", "UPDATE", "INFO", "NOTIFY", "PRACK", "CANCEL")
"""Methods that mean nothing outside a dialog."""


def error_fields(error: PeerError, reference: str, min_se_s: int) -> list[tuple[str, str]]:
    """The fields of a refusal: the reason id (design.md s.4.2), and what its status wants beside it.

    `reference` is the id of the call that it belongs to, "-" for none.
    """
    fields = [("Warning", warning(f"{error.rule} {reference}"))]
    match error.status:
        case 405 | 501:
            fields.append(("Allow", ALLOW))
        case 415:
            fields.append(("Accept", SDP))
        case 420:
            fields.append(("Unsupported", ", ".join(error.extensions)))
        case 422:
            fields.append(("Min-SE", str(min_se_s)))
        case 489:
            fields.append(("Allow-Events", ", ".join(EVENTS)))  # RFC 6665 s.8.2.2
        case 500 | 503:
            fields.append(("Retry-After", str(error.retry_after_s or RETRY_AFTER_S)))
    return fields


def raw_fields(status: int, rule: str, retry_after_s: int = RETRY_AFTER_S) -> list[tuple[str, str]]:
    """The same for a message that is refused without having been parsed."""
    fields = [("Warning", warning(rule))]
    if status == 503:
        fields.append(("Retry-After", str(retry_after_s)))
    return fields


def closing() -> PeerError:
    """Why nothing new is taken by a listener that a reload took away and old calls still use."""
    return PeerError(503, "Service Unavailable", "listener-closing")


def outside(method: str) -> PeerError:
    """Why a request outside any dialog is not served; INVITE and OPTIONS are."""
    if method in INSIDE_ONLY:
        return PeerError(481, "Call/Transaction Does Not Exist", "no-such-dialog")
    if method in KNOWN:
        return PeerError(405, "Method Not Allowed", "method-not-allowed")
    return PeerError(501, "Not Implemented", "unknown-method")


def rejection(refusal: Refusal) -> Rejected:
    """A refusal of policy as the caller's leg is told."""
    return Rejected(refusal.status, refusal.reason, refusal.rule, retry_after_s=refusal.retry_after_s)


def bug_answer(request: Request) -> Response:
    """What a request gets that met a bug of ours. After a final answer the transaction passes over it."""
    fields = [("Warning", warning("bug"))]
    return respond(request, 500, "Server Internal Error", request.to_tag or "bug", fields)


def ping_request(ping: Ping, site: Site, tag: str, call_id: str) -> Request:
    """OPTIONS to a server of a trunk (RFC 3261 s.11)."""
    uri = f"sip:{host_port(ping.address)}"
    fields = [
        ("Max-Forwards", "70"),
        ("From", f"<sip:sbc@{site.domain}>;tag={tag}"),
        ("To", f"<{uri}>"),
        ("Call-ID", call_id),
        ("CSeq", "1 OPTIONS"),
        ("Contact", f"<sip:sbc@{host_port(site.contact)}>"),
    ]
    return Request("OPTIONS", uri, fields)


def in_dialog(data: bytes) -> bool:
    """Whether a raw request has a To tag, without parsing it."""
    head = data.partition(b"\r\n\r\n")[0]
    for mark in (b"\r\nTo:", b"\r\nt:", b"\r\nTO:", b"\r\nto:", b"\r\nT:"):
        start = head.find(mark)
        if start >= 0:
            end = head.find(b"\r\n", start + 2)
            return b";tag=" in head[start : end if end >= 0 else len(head)].replace(b" ", b"")
    return False
