"""Where a caller is (RFC 6442): the Geolocation of an emergency call, by value or by reference, for the other side.

It crosses as the caller wrote it, since help depends on it: PIDF-LO bodies (RFC 4119) under Content-IDs of ours, and
references to a location server. Nothing of it crosses in other calls.
"""

import re
from collections.abc import Callable

from config.frozen import frozen
from signaling.errors import ParseError, PeerError
from signaling.headers import parse_name_addr
from signaling.message import Field, Request
from signaling.multipart import parts_of

PIDF = "application/pidf+xml"
MAX_PARTS = 4
MAX_BYTES = 32_768
MAX_REFERENCES = 4


@frozen
class Location:
    """Bodies and URIs that say where a caller is; `routing` is Geolocation-Routing (RFC 6442 s.4.2), "" for none."""

    bodies: tuple[bytes, ...]
    references: tuple[str, ...] = ()
    routing: str = ""


def carry_location(request: Request) -> Location | None:
    """The location in a request, None where there is none or none that can be used. Never raises."""
    if request.get("Geolocation") is None:
        return None
    bodies: list[bytes] = []
    kind = request.content_type
    try:
        if kind == PIDF:
            bodies.append(request.body)
        elif kind == "multipart/mixed":
            bodies = parts_of(request.get("Content-Type") or "", request.body, PIDF)[:MAX_PARTS]
    except PeerError:
        bodies = []
    if sum(map(len, bodies)) > MAX_BYTES:
        bodies = []
    references: list[str] = []
    for value in request.values("Geolocation"):
        try:
            uri = parse_name_addr(value).uri_text
        except ParseError:
            continue
        if uri.lower().startswith(("https:", "http:", "sip:", "sips:", "pres:")) and len(uri) <= 512:
            references.append(uri)
    routing = (request.get("Geolocation-Routing") or "").strip().lower()
    if not bodies and not references:
        return None
    return Location(
        tuple(bodies), tuple(references[:MAX_REFERENCES]), routing if routing in ("yes", "no") else ""
    )


def with_location(
    location: Location, sdp: bytes, tag: Callable[[], str], host: str
) -> tuple[list[Field], str, bytes]:
    """The fields, the Content-Type and the body of a request that has `sdp` (empty: none) and `location`.

    `tag` makes unguessable text, `host` is ours.
    """
    domain = f"[{host}]" if ":" in host else host
    values = [f"<{uri}>" for uri in location.references]
    parts: list[bytes] = []
    if sdp:
        parts.append(b"Content-Type: application/sdp\r\n\r\n" + sdp)
    for body in location.bodies:
        cid = f"{tag()}@{domain}"
        values.insert(0, f"<cid:{cid}>")
        head = f"Content-Type: {PIDF}\r\nContent-ID: <{cid}>\r\nContent-Disposition: by-reference;handling=optional"
        parts.append(head.encode() + b"\r\n\r\n" + body)
    fields = [("Geolocation", value) for value in values]
    fields += [("Geolocation-Routing", location.routing)] if location.routing else []
    if not location.bodies:
        return fields, "application/sdp" if sdp else "", sdp
    boundary = _boundary(tag, parts)
    mark = b"--" + boundary.encode()
    whole = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    return fields, f"multipart/mixed;boundary={boundary}", whole


_LOCATED = b"\r\nGeolocation: "
_PART = re.compile(
    rb"\r\nContent-Type: application/pidf\+xml\r\n.*?(?=\r\n--part-[^\r\n]*(?:\r\n|\Z))", re.DOTALL
)
_LINE = re.compile(rb"\r\nGeolocation: [^\r\n]*")


def without_location(data: bytes) -> bytes:
    """A message of ours without what `with_location` put there: that may name machines of the caller."""
    if _LOCATED not in data:
        return data
    return _LINE.sub(b"", _PART.sub(b"", data))


def _boundary(tag: Callable[[], str], parts: list[bytes]) -> str:
    while True:
        boundary = f"part-{tag()}"
        if not any(boundary.encode() in part for part in parts):
            return boundary
