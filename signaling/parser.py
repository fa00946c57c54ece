"""From bytes to messages (RFC 3261 s.7, s.18.3): datagrams, streams, and the answer to what is no message.

Everything is bounded by `ParseLimits` and linear in the size of the input; ParseError is all that is raised.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from signaling.errors import ParseError
from signaling.headers import WS, is_token
from signaling.message import KEYS, Field, Request, Response, check_name

MANDATORY_IN_ORDER = ("via", "from", "to", "call-id", "cseq")
MANDATORY = frozenset(MANDATORY_IN_ORDER)
# RFC 3261 s.7.3.1: fields that are no list may stand once only; of these, two would make us guess.
SINGLE = frozenset(("from", "to", "call-id", "cseq", "max-forwards", "content-length", "content-type"))

_URI_CHARS = re.compile(r"[^\x00-\x20\x7f<>\"]+")
_CONTENT_LENGTH = re.compile(
    rb"\r\n(?:content-length|l)[ \t]*:(?:[ \t]|\r\n[ \t])*(\d{1,10})[ \t]*(?=\r\n)", re.IGNORECASE
)
_TO_TAG = re.compile(rb";[ \t]*tag[ \t]*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """How much of a message we are willing to look at, in bytes and lines."""

    max_message_bytes: int = 65535
    max_header_bytes: int = 32768
    max_headers: int = 128
    max_line: int = 8192


DEFAULT_LIMITS = ParseLimits()


def parse(data: bytes, limits: ParseLimits = DEFAULT_LIMITS) -> Request | Response:
    """The message that a datagram holds, or one that `Framer` has cut out of a stream.

    Bytes behind Content-Length are dropped, fewer are an error (s.18.3). ParseError carries 400, 505 (version)
    or 513 (size).
    """
    if len(data) > limits.max_message_bytes:
        raise ParseError("Message Too Large", "message-too-large", 513)
    if data[:1] == b"\r":
        data = data.lstrip(b"\r\n")  # s.7.5: CRLF before the start line is ignored
    end = data.find(b"\r\n\r\n", 0, limits.max_header_bytes + 4)
    if end < 0:
        if not data:
            raise ParseError("empty datagram", "empty")
        if len(data) > limits.max_header_bytes:
            raise ParseError("Message Too Large", "headers-too-large", 513)
        raise ParseError("no empty line after the headers", "truncated")
    lines = data[:end].decode("utf-8", "surrogateescape").split("\r\n")
    if len(lines) > limits.max_headers + 1:
        lines = _bounded(lines, limits)
    if end > limits.max_line and max(map(len, lines)) > limits.max_line:
        raise ParseError("header line too long", "line-too-long", 513)
    start = lines[0]
    del lines[0]
    fields: list[Field] = []
    first: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = KEYS.get(name)
        if key is None or not colon:
            if line[:1] in (" ", "\t"):
                return _refolded([start, *lines], data[end + 4 :], limits)
            name = name.rstrip(WS)
            if not colon:
                raise ParseError("header line without colon", "bad-header")
            key = check_name(name)
        value = value.strip(WS)
        fields.append((name, value))
        if key not in first:
            first[key] = value
        elif key in repeated:
            repeated[key].append(value)
        else:
            repeated[key] = [first[key], value]
    # A lone CR or LF would become a line break for whoever reads the value after us.
    whole = "".join(lines)
    if "\n" in whole or "\r" in whole or "\n" in start or "\r" in start:
        raise ParseError("lone CR or LF in the headers", "bad-line-break")
    message = _message(start, fields, first, repeated, data[end + 4 :])
    message.adopt(first, repeated)
    if isinstance(message, Request) and message.cseq.method != message.method:
        raise ParseError("CSeq method differs from the request's", "cseq-method")
    return message


def _bounded(lines: list[str], limits: ParseLimits) -> list[str]:
    """The lines unfolded, when they look like too many. 513 if they are."""
    unfolded = _unfold(lines)
    if len(unfolded) > limits.max_headers + 1:
        raise ParseError("too many header fields", "too-many-headers", 513)
    return lines


def _unfold(lines: list[str]) -> list[str]:
    """Every line that starts with white space joined to the one before, by one space (s.7.3.1)."""
    groups: list[list[str]] = []
    for line in lines:
        if line[:1] in (" ", "\t"):
            if len(groups) < 2:
                raise ParseError("folded start line", "bad-start-line")
            groups[-1].append(line.strip(WS))
        else:
            groups.append([line.rstrip(WS) if groups else line])
    return [" ".join(part for part in group if part) for group in groups]


def _refolded(lines: list[str], body: bytes, limits: ParseLimits) -> Request | Response:
    """The same message with its folded lines unfolded."""
    unfolded = _unfold(lines)
    text = "\r\n".join(unfolded).encode("utf-8", "surrogateescape")
    return parse(text + b"\r\n\r\n" + body, limits)


def _message(
    start: str, fields: list[Field], first: dict[str, str], repeated: dict[str, list[str]], body: bytes
) -> Request | Response:
    if not first.keys() >= MANDATORY:
        missing = next(key for key in MANDATORY_IN_ORDER if key not in first)
        raise ParseError(f"no {missing} field", f"missing-{missing}")
    for key in repeated:
        if key in SINGLE:
            raise ParseError(f"more than one {key} field", f"repeated-{key}")
    length = first.get("content-length")
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 10):
            raise ParseError("malformed Content-Length", "bad-content-length")
        size = int(length)
        if size != len(body):
            if size > len(body):
                raise ParseError("body shorter than Content-Length", "truncated")
            body = body[:size]
    return _status(start, fields, body) if start.startswith("SIP/") else _request(start, fields, body)


def _request(start: str, fields: list[Field], body: bytes) -> Request:
    words = start.split(" ")
    if len(words) != 3:
        raise ParseError("malformed request line", "bad-request-line")
    method, uri, version = words
    if version != "SIP/2.0" and version.upper() != "SIP/2.0":
        if version.upper().startswith("SIP/"):
            raise ParseError("Version Not Supported", "bad-version", 505)
        raise ParseError("malformed request line", "bad-request-line")
    if not is_token(method) or not _URI_CHARS.fullmatch(uri) or ":" not in uri:
        raise ParseError("malformed request line", "bad-request-line")
    return Request(method, uri, fields, body)


def _status(start: str, fields: list[Field], body: bytes) -> Response:
    version, _, rest = start.partition(" ")
    code, _, reason = rest.partition(" ")
    if version.upper() != "SIP/2.0":
        raise ParseError("unknown version", "bad-version", 505)
    if not (len(code) == 3 and code.isascii() and code.isdigit() and "100" <= code <= "699"):
        raise ParseError("malformed status line", "bad-status-line")
    return Response(int(code), reason, fields, body)


# -- answering without parsing ------------------------------------------------------------------------------

_COPIED = {
    b"via": b"Via", b"v": b"Via", b"from": b"From", b"f": b"From", b"to": b"To", b"t": b"To",
    b"call-id": b"Call-ID", b"i": b"Call-ID", b"cseq": b"CSeq",
}  # fmt: skip
_ANSWERABLE = frozenset(_COPIED.values())
MAX_REFUSED_BYTES = 8192


def refuse(data: bytes, status: int, reason: str, extra: Sequence[Field] = ()) -> bytes | None:
    """The answer `status` to a request that is not worth or not able to be parsed; None if it is none.

    ACK and responses are never answered (s.17, s.8.2.7), nor a request that lacks what an answer must have
    (s.8.2.6.2). The To tag is computed from the request, so that a retransmission gets the same.
    """
    data = data[: MAX_REFUSED_BYTES * 2].lstrip(b"\r\n")
    end = data.find(b"\r\n\r\n")
    lines = data[: end if end >= 0 else MAX_REFUSED_BYTES].split(b"\r\n")
    start = lines[0]
    if start[:4].upper() in (b"SIP/", b"ACK ") or b" SIP/" not in start.upper():
        return None
    copied: list[tuple[bytes, bytes]] = []
    seen: set[bytes] = set()
    current = b""
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):
            if current:
                name, value = copied[-1]
                copied[-1] = (name, value + b" " + line.strip(b" \t"))
            continue
        raw, colon, value = line.partition(b":")
        current = _COPIED.get(raw.strip(b" \t").lower(), b"")
        if not colon or not current or (current != b"Via" and current in seen):
            current = b""
            continue
        seen.add(current)
        copied.append((current, value.strip(b" \t")))
    if not seen >= _ANSWERABLE:
        return None
    return _refusal(copied, status, reason, extra)


def _refusal(
    copied: list[tuple[bytes, bytes]], status: int, reason: str, extra: Sequence[Field]
) -> bytes | None:
    lines = [f"SIP/2.0 {status} {reason}".encode("utf-8", "surrogateescape")]
    seed = b"".join(value for name, value in copied if name in (b"Call-ID", b"CSeq"))
    for name, value in copied:
        if name == b"To" and not _TO_TAG.search(value):
            lines.append(b"To: %b;tag=%08x" % (value, zlib.crc32(seed)))
        else:
            lines.append(name + b": " + value)
    lines.extend(f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in extra)
    lines.append(b"Content-Length: 0\r\n\r\n")
    answer = b"\r\n".join(lines)
    # A lone CR or LF in what is copied would forge a header of our answer.
    if answer.count(b"\n") != len(lines) + 1 or answer.count(b"\r") != len(lines) + 1:
        return None
    return answer


# -- streams ------------------------------------------------------------------------------------------------


class KeepAlive(Enum):
    """CRLF between messages (RFC 5626 s.3.5.1): a PING wants one CRLF back, a PONG nothing."""

    PING = b"\r\n\r\n"
    PONG = b"\r\n"


class Framer:
    """Cuts a stream into messages by Content-Length (RFC 3261 s.18.3). Its memory is bounded by the limits.

    A stream that is out of step cannot be read on: `feed` raises ParseError, now or, when there were whole
    messages before the fault, at the next call; `error` tells at once. `rest` holds the faulty bytes, which
    `refuse` may be able to answer.
    """

    __slots__ = ("_buffer", "_limits", "_need", "_scanned", "error")

    def __init__(self, limits: ParseLimits = DEFAULT_LIMITS) -> None:
        self.error: ParseError | None = None
        self._limits = limits
        self._buffer = bytearray()
        self._scanned = 0  # no end of headers before this
        self._need = 0  # size of the message at the front, 0 while its headers are incomplete

    @property
    def rest(self) -> bytes:
        """What has come and is not yet a message."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[bytes | KeepAlive]:
        """Whole messages and keep-alives that `data` completes. ParseError when the stream makes no sense."""
        out: list[bytes | KeepAlive] = []
        try:
            if self.error is not None:
                raise self.error
            self._buffer += data
            while (item := self._next()) is not None:
                # A row of pings gets one answer: more would only serve whoever wants us to write.
                if item is not KeepAlive.PING or not out or out[-1] is not item:
                    out.append(item)
        except ParseError as error:
            self.error = error
            if not out:
                raise
        return out

    def _next(self) -> bytes | KeepAlive | None:
        buffer = self._buffer
        if not self._need:
            if buffer[:1] == b"\r":
                return self._keep_alive()
            end = buffer.find(b"\r\n\r\n", self._scanned, self._limits.max_header_bytes + 4)
            if end < 0:
                if len(buffer) >= self._limits.max_header_bytes + 4:
                    raise ParseError("Message Too Large", "headers-too-large", 513)
                self._scanned = max(0, len(buffer) - 3)
                return None
            self._need = end + 4 + self._content_length(end)
            if self._need > self._limits.max_message_bytes:
                raise ParseError("Message Too Large", "message-too-large", 513)
        if len(buffer) < self._need:
            return None
        message = bytes(buffer[: self._need])
        del buffer[: self._need]
        self._need = self._scanned = 0
        return message

    def _keep_alive(self) -> KeepAlive | None:
        buffer = self._buffer
        if buffer[:4] == b"\r\n\r\n":
            del buffer[:4]
            return KeepAlive.PING
        if len(buffer) < 4 and b"\r\n\r\n".startswith(bytes(buffer)):
            return None  # the half of a ping, perhaps
        if buffer[:2] == b"\r\n":
            del buffer[:2]
            return KeepAlive.PONG
        raise ParseError("lone CR between messages", "bad-line-break")

    def _content_length(self, end: int) -> int:
        lengths = set(_CONTENT_LENGTH.findall(self._buffer, 0, end + 2))
        if len(lengths) != 1:
            # s.18.3: mandatory on streams; two that differ would let a message hide inside another.
            raise ParseError("stream message without one Content-Length", "no-content-length")
        return int(lengths.pop())
