"""SIP messages: header fields in order and verbatim, typed when asked for (RFC 3261 s.7).

A folded line is unfolded to one space (s.7.3.1 says that they mean the same); nothing else of a value changes.
Text is UTF-8 with surrogateescape, so that bytes that are no UTF-8 survive. Typed properties are parsed on first
access and raise ParseError.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, Self, TypeVar

from signaling.errors import ParseError, UsageError
from signaling.headers import (
    CSeq,
    NameAddr,
    Via,
    is_token,
    parse_cseq,
    parse_name_addr,
    parse_via,
    split_commas,
    tag_of,
)

T = TypeVar("T")
Field = tuple[str, str]

# RFC 3261 s.7.3.3 and the IANA registry of SIP header fields.
COMPACT = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "n": "Identity-Info",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
    "y": "Identity",
}
_COMMON = (
    "Accept", "Accept-Encoding", "Accept-Language", "Alert-Info", "Allow", "Authorization", "Call-Info",
    "Content-Disposition", "CSeq", "Date", "Diversion", "Expires", "Geolocation", "History-Info", "In-Reply-To",
    "Max-Forwards", "Min-Expires", "Min-SE", "MIME-Version", "Organization", "P-Asserted-Identity",
    "P-Preferred-Identity", "P-Charging-Vector", "Path", "Priority", "Privacy", "Proxy-Authenticate",
    "Proxy-Authorization", "Proxy-Require", "RAck", "Reason", "Record-Route", "Replaces", "Reply-To", "Require",
    "Resource-Priority", "Retry-After", "Route", "RSeq", "Server", "Timestamp", "Unsupported", "User-Agent",
    "User-to-User", "Warning", "WWW-Authenticate",
)  # fmt: skip
_NOT_OF_VIA = ("from", "to", "from-tag", "to-tag", "cseq", "media-type")
KEYS: dict[str, str] = {
    **{
        spelling: name.lower()
        for name in (*_COMMON, *COMPACT.values())
        for spelling in (name, name.lower(), name.upper())
    },
    **{spelling: name.lower() for letter, name in COMPACT.items() for spelling in (letter, letter.upper())},
}
"""Spellings of well-known header names -> the key they are found by; everything else goes through `key_of`."""


def key_of(name: str) -> str:
    """The key of a header name: lower case, compact forms written out."""
    return KEYS.get(name) or KEYS.get(name.lower()) or name.lower()


class Message:
    """What requests and responses share: header fields in order, and a body.

    What was looked up or typed once is kept until one of the methods below changes the fields.
    """

    __slots__ = ("_first", "_lines", "_repeated", "_typed", "body")

    def __init__(self, fields: Iterable[Field], body: bytes = b"") -> None:
        self._lines = list(fields)
        self.body = body
        # By key: the first value, and all of them where there are several. None: not collected.
        self._first: dict[str, str] | None = None
        self._repeated: dict[str, list[str]] = {}
        self._typed: dict[str, Any] = {}

    def adopt(self, first: dict[str, str], repeated: dict[str, list[str]]) -> None:
        """Take the first value of each key, and all values of those that repeat, as the parser found them."""
        self._first = first
        self._repeated = repeated

    @property
    def fields(self) -> Sequence[Field]:
        """(name, value) of every line as it came or as it will go."""
        return self._lines

    # -- lookup --------------------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """The first line of this name, verbatim."""
        key = KEYS.get(name) or key_of(name)
        first = self._first
        if first is not None:
            return first.get(key)
        # A message of ours is asked once or twice on its way out: looking is cheaper than collecting.
        for field, value in self._lines:
            if field == name or (KEYS.get(field) or key_of(field)) == key:
                return value
        return None

    def get_all(self, name: str) -> list[str]:
        """Every line of this name, in order, verbatim."""
        key = KEYS.get(name) or key_of(name)
        first = self._first
        if first is None:
            return [
                value
                for field, value in self._lines
                if field == name or (KEYS.get(field) or key_of(field)) == key
            ]
        found = self._repeated.get(key)
        if found is not None:
            return list(found)
        value = first.get(key)
        return [] if value is None else [value]

    def values(self, name: str) -> list[str]:
        """Every value of this name: lines split at their commas (RFC 3261 s.7.3.1)."""
        lines = self.get_all(name)
        if not lines:
            return lines
        if len(lines) == 1:
            return split_commas(lines[0])
        return [value for line in lines for value in split_commas(line)]

    def has_any(self, keys: Set[str]) -> bool:
        """Whether there is a line of one of these names, given as keys (`key_of`)."""
        if self._first is None:
            return any(key_of(name) in keys for name, _ in self._lines)
        return not keys.isdisjoint(self._first)

    # -- change --------------------------------------------------------------------------------------------

    def add(self, name: str, value: str) -> None:
        """A line at the end."""
        self._lines.append((name, value))
        self._changed()

    def prepend(self, name: str, value: str) -> None:
        """A line at the top, so above those of the same name."""
        self._lines.insert(0, (name, value))
        self._changed()

    def replace(self, name: str, value: str) -> None:
        """One line of this name in the place of the first; added where there is none."""
        positions = self._positions(name)
        if not positions:
            self.add(name, value)
            return
        self._lines[positions[0]] = (name, value)
        for position in reversed(positions[1:]):
            del self._lines[position]
        self._changed()

    def replace_first(self, name: str, value: str) -> None:
        """The first line of this name with another value; the others stay. Nothing where there is none."""
        key = key_of(name)
        for position, (field, _) in enumerate(self._lines):
            if (KEYS.get(field) or key_of(field)) == key:
                self._lines[position] = (field, value)
                break
        else:
            return
        typed = self._typed
        if key == "via":
            # Every request gets its Via completed: what else was read of it stays.
            self._typed = {one: typed[one] for one in _NOT_OF_VIA if one in typed}
        else:
            typed.clear()
        if self._first is not None:
            self._first[key] = value
            if key in self._repeated:
                self._repeated[key][0] = value

    def remove(self, name: str) -> None:
        """No line of this name."""
        for position in reversed(self._positions(name)):
            del self._lines[position]
        self._changed()

    def _positions(self, name: str) -> list[int]:
        key = key_of(name)
        return [
            position
            for position, (field, _) in enumerate(self._lines)
            if (KEYS.get(field) or key_of(field)) == key
        ]

    def _changed(self) -> None:
        self._first = None
        self._repeated = {}
        self._typed = {}

    def once(self, key: str, make: Callable[[Self], T]) -> T:
        """What `make` finds in this message, kept under `key` until a field changes."""
        known: T | None = self._typed.get(key)
        if known is None:
            known = self._typed[key] = make(self)
        return known

    # -- typed ---------------------------------------------------------------------------------------------

    def _read(self, key: str, read: Callable[[str], T]) -> T:
        known: T | None = self._typed.get(key)
        if known is None:
            value = self.get(key)
            if value is None:
                raise ParseError(f"no {key} field", f"missing-{key}")
            known = self._typed[key] = read(value)
        return known

    @property
    def via(self) -> Via:
        """The topmost Via value."""
        return self._read("via", _first_via)

    @property
    def from_(self) -> NameAddr:
        """The From value."""
        return self._read("from", parse_name_addr)

    @property
    def to(self) -> NameAddr:
        """The To value."""
        return self._read("to", parse_name_addr)

    @property
    def from_tag(self) -> str | None:
        """The tag of From, None where there is none; cheaper than `from_.tag`."""
        known: str | None = self._typed.get("from-tag")
        if known is None:
            known = self._typed["from-tag"] = tag_of(self.get("From") or "") or ""
        return known or None

    @property
    def to_tag(self) -> str | None:
        """The tag of To, None where there is none; cheaper than `to.tag`."""
        known: str | None = self._typed.get("to-tag")
        if known is None:
            known = self._typed["to-tag"] = tag_of(self.get("To") or "") or ""
        return known or None

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        value = self.get("Call-ID")
        if not value:
            raise ParseError("no Call-ID", "missing-call-id")
        return value

    @property
    def cseq(self) -> CSeq:
        """The CSeq value."""
        return self._read("cseq", parse_cseq)

    @property
    def contacts(self) -> list[NameAddr]:
        """Every Contact value."""
        return self._addresses("Contact")

    @property
    def routes(self) -> list[NameAddr]:
        """Every Route value, topmost first."""
        return self._addresses("Route")

    @property
    def record_routes(self) -> list[NameAddr]:
        """Every Record-Route value, topmost first."""
        return self._addresses("Record-Route")

    def _addresses(self, name: str) -> list[NameAddr]:
        return [parse_name_addr(value) for value in self.values(name)]

    @property
    def max_forwards(self) -> int | None:
        """Max-Forwards (RFC 3261 s.20.22), None where there is none."""
        value = self.get("Max-Forwards")
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) <= 4) or int(value) > 255:
            raise ParseError("malformed Max-Forwards", "bad-max-forwards")
        return int(value)

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, "" where there is none."""
        known: str | None = self._typed.get("media-type")
        if known is None:
            known = (self.get("Content-Type") or "").partition(";")[0].strip().lower()
            self._typed["media-type"] = known
        return known

    # -- serialising ---------------------------------------------------------------------------------------

    @property
    def start_line(self) -> str:
        """The request or status line, without its CRLF."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """The bytes for the wire; Content-Length is right and last. UsageError for a value with a line break."""
        lines = [self.start_line]
        lines += [
            f"{name}: {value}"
            for name, value in self._lines
            if (len(name) != 14 and len(name) != 1) or key_of(name) != "content-length"
        ]
        # Whatever a value holds, it must not become a header of its own. One look at all of them is the cheapest.
        whole = "".join(lines)
        if "\n" in whole or "\r" in whole:
            raise UsageError("a header value holds a line break")
        body = self.body
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body

    def _content(self) -> list[Field]:
        return [
            (key_of(name), value) for name, value in self._lines if key_of(name) != "content-length"
        ]  # the length follows from the body

    def __hash__(self) -> int:
        raise TypeError("a message can change, so it has no hash")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.start_line}>"


class Request(Message):
    """A request. `uri` is the Request-URI as written."""

    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str, fields: Iterable[Field], body: bytes = b"") -> None:
        Message.__init__(self, fields, body)
        self.method = method
        self.uri = uri

    @property
    def start_line(self) -> str:
        """The request line, without its CRLF."""
        return f"{self.method} {self.uri} SIP/2.0"

    def __eq__(self, other: object) -> bool:
        """Same method, URI, fields (names without regard to case, Content-Length apart) and body."""
        if not isinstance(other, Request):
            return NotImplemented
        return (
            self.method == other.method
            and self.uri == other.uri
            and self.body == other.body
            and self._content() == other._content()
        )

    __hash__ = Message.__hash__


class Response(Message):
    """A response. `status` is from 100 to 699."""

    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str, fields: Iterable[Field], body: bytes = b"") -> None:
        Message.__init__(self, fields, body)
        self.status = status
        self.reason = reason

    @property
    def method(self) -> str:
        """The method that CSeq names, "" where it names none."""
        known: str | None = self._typed.get("method")
        if known is None:
            known = self._typed["method"] = (self.get("CSeq") or "").rpartition(" ")[2]
        return known

    @property
    def start_line(self) -> str:
        """The status line, without its CRLF."""
        return f"SIP/2.0 {self.status} {self.reason}"

    def __eq__(self, other: object) -> bool:
        """Same status, reason, fields (names without regard to case, Content-Length apart) and body."""
        if not isinstance(other, Response):
            return NotImplemented
        return (
            self.status == other.status
            and self.reason == other.reason
            and self.body == other.body
            and self._content() == other._content()
        )

    __hash__ = Message.__hash__


def respond(
    request: Request,
    status: int,
    reason: str,
    to_tag: str | None,
    extra: Sequence[Field] = (),
    body: bytes = b"",
) -> Response:
    """A response to `request` (RFC 3261 s.8.2.6.2): Via, From, To, Call-ID and CSeq are copied.

    `to_tag` is put on the To where it has none; `extra` fields follow. A 100 repeats Timestamp (s.8.2.6.1).
    """
    fields = [("Via", value) for value in request.get_all("Via")]
    to = request.get("To") or ""
    if to_tag is not None and request.to_tag is None:
        to = f"{to};tag={to_tag}"
    fields += [
        ("From", request.get("From") or ""),
        ("To", to),
        ("Call-ID", request.get("Call-ID") or ""),
        ("CSeq", request.get("CSeq") or ""),
    ]
    if status == 100:
        fields += [("Timestamp", value) for value in request.get_all("Timestamp")[:1]]
    fields += extra
    return Response(status, reason, fields, body)


def _first_via(value: str) -> Via:
    return parse_via(split_commas(value)[0] if "," in value else value)


def check_name(name: str) -> str:
    """The key of a header name as it came from the wire. ParseError if it is no token (RFC 3261 s.25.1)."""
    if not is_token(name):
        raise ParseError("malformed header name", "bad-header")
    return key_of(name)
