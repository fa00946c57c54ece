"""URIs as SIP uses them: sip and sips (RFC 3261 s.19.1), tel (RFC 3966), and any other as opaque text.

The parts are kept as written, escapes included (`unescape` gives the text that a person means), so that
`str(parse_uri(text))` is what came in. Host names are not looked at beyond their characters.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from config.frozen import frozen
from signaling.errors import ParseError

Params = tuple[tuple[str, str | None], ...]

MAX_URI = 4096
# RFC 3966 s.5.1.1: visual separators mean nothing in a telephone number.
SEPARATORS = str.maketrans("", "", "-.()")

# Single character classes only: these cannot backtrack, whatever the input.
_HOST = re.compile(r"[A-Za-z0-9._\-]+")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")
_USER = re.compile(r"[^\x00-\x20\x7f<>\"@\\]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_REST = re.compile(r"[^\x00-\x20\x7f<>\"]+")
_TEL = re.compile(r"\+?[0-9A-Fa-f*#().\-]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@frozen
class SipUri:
    """A sip or sips URI. `host` is without brackets for IPv6, `headers` is the text after "?", without it."""

    scheme: str
    user: str
    password: str | None
    host: str
    port: int | None
    params: Params = ()
    headers: str = ""

    def param(self, name: str) -> str | None:
        """The value of a URI parameter, "" when it has none, None when it is not there."""
        return find_param(self.params, name)

    def __str__(self) -> str:
        text = f"{self.scheme}:"
        if self.user or self.password is not None:
            text += self.user if self.password is None else f"{self.user}:{self.password}"
            text += "@"
        text += f"[{self.host}]" if ":" in self.host else self.host
        if self.port is not None:
            text += f":{self.port}"
        if self.params:
            text += write_params(self.params)
        return f"{text}?{self.headers}" if self.headers else text


@frozen
class TelUri:
    """A telephone number (RFC 3966), visual separators included as written."""

    number: str
    params: Params = ()

    @property
    def digits(self) -> str:
        """The number without visual separators (RFC 3966 s.5.1.1)."""
        return self.number.translate(SEPARATORS)

    def param(self, name: str) -> str | None:
        """The value of a parameter, "" when it has none, None when it is not there."""
        return find_param(self.params, name)

    def __str__(self) -> str:
        return f"tel:{self.number}{write_params(self.params)}"


@frozen
class OpaqueUri:
    """A URI of a scheme that we only pass on or refuse: urn, http, mailto, ..."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"


Uri = SipUri | TelUri | OpaqueUri
SERVICE = "service:sos"


def service_of(uri: Uri) -> str:
    """`urn:service:sos` with what is below it in lower case (RFC 5031), "" for every other URI."""
    if not isinstance(uri, OpaqueUri) or uri.scheme != "urn":
        return ""
    rest = uri.rest.lower()
    return f"urn:{rest}" if rest == SERVICE or rest.startswith(f"{SERVICE}.") else ""


@lru_cache(maxsize=1024)  # a call asks for the same few URIs, above all the Contact, a dozen times
def parse_uri(text: str) -> Uri:
    """The URI that `text` is. ParseError (400, "bad-uri") for one that RFC 3261 s.25.1 cannot mean."""
    if len(text) > MAX_URI:
        raise ParseError("URI too long", "bad-uri", 414)
    scheme, colon, rest = text.partition(":")
    lower = scheme.lower()
    if not colon or not rest:
        raise ParseError("URI without scheme", "bad-uri")
    if lower in ("sip", "sips"):
        return _sip(lower, rest)
    if lower == "tel":
        return _tel(rest)
    if not _SCHEME.fullmatch(scheme) or not _REST.fullmatch(rest):
        raise ParseError("malformed URI", "bad-uri")
    return OpaqueUri(lower, rest)


def _sip(scheme: str, rest: str) -> SipUri:
    # The user part may hold ";", "?" and "/" unescaped but never "@" (RFC 3261 s.25.1, RFC 4475 s.3.1.1.2).
    user, at, where = rest.partition("@")
    password: str | None = None
    if not at:
        user, where = "", rest
    else:
        if not _USER.fullmatch(user):
            raise ParseError("malformed user in URI", "bad-uri")
        if ":" in user:
            user, _, password = user.partition(":")
    if "%" in rest and _BAD_ESCAPE.search(rest):
        raise ParseError("malformed escape in URI", "bad-uri")
    headers = ""
    if "?" in where:
        where, _, headers = where.partition("?")
        if headers and not _REST.fullmatch(headers):
            raise ParseError("malformed headers in URI", "bad-uri")
    params: Params = ()
    if ";" in where:
        where, _, tail = where.partition(";")
        params = _params(tail)
    host, port = parse_host_port(where)
    return SipUri(scheme, user, password, host, port, params, headers)


def _tel(rest: str) -> TelUri:
    number, semicolon, tail = rest.partition(";")
    if not _TEL.fullmatch(number):
        raise ParseError("malformed telephone number", "bad-uri")
    return TelUri(number, _params(tail) if semicolon else ())


def _params(text: str) -> Params:
    if not _REST.fullmatch(text) or "@" in text:
        raise ParseError("malformed URI parameters", "bad-uri")
    params: list[tuple[str, str | None]] = []
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if not name:
            raise ParseError("malformed URI parameters", "bad-uri")
        params.append((name, value if equals else None))
    return tuple(params)


def parse_host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port` or `[IPv6]:port`; the host comes back without brackets."""
    if text[:1] == "[":
        host, bracket, tail = text[1:].partition("]")
        if not bracket or ":" not in host or not _IPV6.fullmatch(host) or (tail and tail[0] != ":"):
            raise ParseError("malformed IPv6 reference", "bad-host")
        return host, parse_port(tail[1:]) if tail else None
    host, colon, port = text.partition(":")
    if not _HOST.fullmatch(host):
        raise ParseError("malformed host", "bad-host")
    return host, parse_port(port) if colon else None


def parse_port(text: str) -> int:
    """A port number, 0 to 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or (port := int(text)) > 65535:
        raise ParseError("malformed port", "bad-port")
    return port


def find_param(params: Iterable[tuple[str, str | None]], name: str) -> str | None:
    """The value of parameter `name`, "" when it has none, None when it is not there; case is ignored."""
    for key, value in params:
        if key == name or key.lower() == name:
            return "" if value is None else value
    return None


def write_params(params: Iterable[tuple[str, str | None]]) -> str:
    """Parameters as they go on the wire, each with its semicolon."""
    return "".join([f";{name}" if value is None else f";{name}={value}" for name, value in params])


def unescape(text: str) -> str:
    """`text` without percent escapes (RFC 3261 s.19.1.2), bytes that are no UTF-8 kept as surrogates."""
    if "%" not in text:
        return text
    raw = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")
