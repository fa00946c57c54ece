"""Header values with structure (RFC 3261 s.20, s.25.1): name-addr, Via, CSeq, parameters, lists."""

import re

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.uri import Params, Uri, find_param, parse_host_port, parse_uri, write_params

WS = " \t"

_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
_COMMON_TOKENS = frozenset(
    ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "UPDATE", "PRACK", "INFO", "UDP", "TCP", "TLS")
)
# A display name that needs no quotes (RFC 3261 s.25.1: *(token LWS)).
_PLAIN_DISPLAY = re.compile(r"[A-Za-z0-9\-.!%*_+`'~ ]*")
# What ends or begins quoted and bracketed text. A backslash takes the next character with it.
_MARK = re.compile(r'\\.|["<>,;]', re.DOTALL)
_QUOTE_MARK = re.compile(r'\\.|"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@frozen
class NameAddr:
    """A From, To, Contact, Route, ... value: display name without quotes, URI as written, header parameters."""

    display: str
    uri_text: str
    params: Params = ()

    @property
    def uri(self) -> Uri:
        """The URI, parsed. ParseError if it is none."""
        return parse_uri(self.uri_text)

    @property
    def tag(self) -> str | None:
        """The tag parameter (RFC 3261 s.19.3), None where there is none."""
        for name, value in self.params:
            if name == "tag":
                return value or None
        return None

    def param(self, name: str) -> str | None:
        """The value of a header parameter without quotes, "" when it has none, None when it is not there."""
        value = find_param(self.params, name)
        return unquote(value) if value else value

    def __str__(self) -> str:
        if self.uri_text == "*":
            return "*"
        display = f"{write_display(self.display)} " if self.display else ""
        return f"{display}<{self.uri_text}>{write_params(self.params)}"


@frozen
class Via:
    """One Via value (RFC 3261 s.20.42). `host` is without brackets for IPv6."""

    transport: str
    host: str
    port: int | None
    params: Params = ()

    @property
    def branch(self) -> str | None:
        """The branch parameter, None where there is none."""
        for name, value in self.params:
            if name == "branch":
                return value or None
        return None

    def param(self, name: str) -> str | None:
        """The value of a parameter, "" when it has none, None when it is not there."""
        return find_param(self.params, name)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {host}{port}{write_params(self.params)}"


@frozen
class CSeq:
    """Number and method of a request in its dialog (RFC 3261 s.20.16)."""

    number: int
    method: str

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


def is_token(text: str) -> bool:
    """Whether `text` is a token of RFC 3261 s.25.1."""
    return text in _COMMON_TOKENS or _TOKEN.fullmatch(text) is not None


def split_commas(text: str) -> list[str]:
    """The values of one header line, stripped: commas count outside quotes and angle brackets only."""
    if "," not in text:
        return [text.strip(WS)] if text else []
    if '"' not in text and "<" not in text:
        return [part for piece in text.split(",") if (part := piece.strip(WS))]
    return _split(text, ",")


def split_semicolons(text: str) -> list[str]:
    """A value and its parameters: semicolons count outside quotes and angle brackets only."""
    return _split(text, ";") if '"' in text or "<" in text else text.split(";")


def _split(text: str, separator: str) -> list[str]:
    parts: list[str] = []
    begin = 0
    quoted = bracketed = False
    for mark in _MARK.finditer(text):
        char = mark[0]
        if quoted:
            quoted = char != '"'
        elif char == '"':
            quoted = not bracketed
        elif char == "<":
            bracketed = True
        elif char == ">":
            bracketed = False
        elif char == separator and not bracketed:
            parts.append(text[begin : mark.start()].strip(WS))
            begin = mark.end()
    parts.append(text[begin:].strip(WS))
    return [part for part in parts if part]


def tag_of(value: str) -> str | None:
    """The tag of a From or To value. What else the value holds is not looked at unless it has quotes behind the URI.

    ParseError for a value with such quotes that is no address.
    """
    params = value.rpartition(">")[2]
    if '"' in params:
        return parse_name_addr(value).tag
    _, found, rest = params.partition(";tag=")
    if found:
        return rest.partition(";")[0].strip(WS) or None
    if "=" not in params:
        return None
    # Written otherwise: "; Tag = x".
    return dict(reversed(parse_params(params.partition(";")[2]))).get("tag") or None


def parse_params(text: str) -> Params:
    """Header parameters `a=1;b;c="x"`: names in lower case, values as written (quotes included) or None."""
    params: list[tuple[str, str | None]] = []
    for piece in split_semicolons(text):
        name, equals, value = piece.partition("=")
        name = name.strip(WS)
        if name:
            params.append((name.lower(), value.strip(WS) if equals else None))
        elif equals:
            raise ParseError("parameter without name", "bad-params")
    return tuple(params)


def parse_name_addr(text: str) -> NameAddr:
    """A name-addr or addr-spec with its header parameters. ParseError (400, "bad-address")."""
    text = text.strip(WS)
    display = ""
    begin = text.find("<")
    if begin > 0:
        if text[0] == '"':
            close = _closing_quote(text)
            begin = text.find("<", close)
            if begin < 0 or text[close + 1 : begin].strip(WS):
                raise ParseError("display name without address", "bad-address")
            display = _unescaped(text[1:close])
        else:
            display = text[:begin].rstrip(WS)
            if '"' in display:
                begin = -1  # no display name: the bracket is inside a quoted parameter
    if begin < 0:
        # RFC 3261 s.20.10: without angle brackets the parameters are the header's, not the URI's.
        uri_text, semicolon, rest = text.partition(";")
        uri_text = uri_text.rstrip(WS)
        if not uri_text or '"' in uri_text or "<" in uri_text or ">" in uri_text:
            raise ParseError("malformed address", "bad-address")
        return NameAddr("", uri_text, parse_params(rest) if semicolon else ())
    end = text.find(">", begin)
    if end <= begin + 1:
        raise ParseError("address without closing bracket", "bad-address")
    uri_text = text[begin + 1 : end]
    rest = text[end + 1 :]
    if not rest:
        return NameAddr(display, uri_text)
    if rest.startswith(";tag=") and rest.find(";", 5) < 0 and '"' not in rest and "<" not in rest:
        return NameAddr(display, uri_text, (("tag", rest[5:].strip(WS)),))
    if rest[0] != ";":
        rest = rest.lstrip(WS)
        if rest[:1] not in ("", ";"):
            raise ParseError("text after the address", "bad-address")
    return NameAddr(display, uri_text, parse_params(rest[1:]))


def parse_via(text: str) -> Via:
    """One Via value. ParseError (400, "bad-via")."""
    head, semicolon, rest = text.partition(";")
    if head.startswith("SIP/2.0/"):
        transport, _, sent_by = head[8:].partition(" ")
        sent_by = sent_by.strip(WS)
        spaced = not transport or " " in sent_by or "\t" in head
    else:
        spaced = True
    if spaced:
        # RFC 3261 s.25.1 allows white space round the slashes and the colon (RFC 4475 s.3.1.1.1).
        parts = head.split("/", 2)
        if len(parts) != 3 or parts[0].strip(WS).upper() != "SIP" or not is_token(parts[1].strip(WS)):
            raise ParseError("malformed Via", "bad-via")
        words = parts[2].split(None, 1)
        if len(words) != 2:
            raise ParseError("Via without host", "bad-via")
        transport, sent_by = words[0], "".join(words[1].split())
    if not is_token(transport):
        raise ParseError("malformed transport in Via", "bad-via")
    host, port = parse_host_port(sent_by)
    return Via(transport.upper(), host, port, parse_params(rest) if semicolon else ())


def parse_cseq(text: str) -> CSeq:
    """A CSeq value. ParseError (400, "bad-cseq")."""
    words = text.split()
    if len(words) != 2:
        raise ParseError("malformed CSeq", "bad-cseq")
    number, method = words
    if not (number.isascii() and number.isdigit() and len(number) <= 10):
        raise ParseError("malformed CSeq number", "bad-cseq")
    value = int(number)
    # RFC 3261 s.8.1.1.5: less than 2**31.
    if value >= 2**31 or not is_token(method):
        raise ParseError("malformed CSeq", "bad-cseq")
    return CSeq(value, method)


def _closing_quote(text: str, begin: int = 0) -> int:
    close = text.find('"', begin + 1)
    if close >= 0 and text.find("\\", begin + 1, close) < 0:
        return close
    for mark in _QUOTE_MARK.finditer(text, begin + 1):
        if mark[0] == '"':
            return mark.start()
    raise ParseError("quoted text without end", "bad-address")


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def unquote(text: str) -> str:
    """A quoted string without quotes and escapes; anything else as it is."""
    if len(text) >= 2 and text[0] == '"' and text[-1] == '"':
        return _unescaped(text[1:-1])
    return text


def quote(text: str) -> str:
    """`text` as a quoted string (RFC 3261 s.25.1)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_display(display: str) -> str:
    """A display name as it goes on the wire: quoted when it is more than tokens."""
    return display if _PLAIN_DISPLAY.fullmatch(display) and display == display.strip() else quote(display)


def qvalue(text: str | None) -> int:
    """How much a contact is wanted, in thousandths (RFC 3261 s.25.1 `qvalue`). One that is malformed counts as 1."""
    if not text:
        return 1000
    whole, _, part = text.partition(".")
    if whole not in ("0", "1") or not (part + "0").isdigit() or len(part) > 3 or not part.isascii():
        return 1000
    return min(1000, int(whole) * 1000 + int((part + "000")[:3]))
