"""What may cross the border, as a list; nothing else does (RFC 5853 s.3.1, design.md s.4.1).

A message is never copied. `carry_request`, `carry_response` and `carry_body` take out of a message of one side what
`HEADERS` lets cross, as values without any host (who somebody is: `signaling.identity`); `render` writes them for the
other side as its `Site` wants to see us. Free text crosses in display names, user parts, Subject and instant messages
only, with addresses and host names of its side taken out; all other text is made anew from its number.

`HEADERS` is the documentation: every header field of the IANA registry that a call may meet, and what becomes of it.
A field that is not there is dropped.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Literal
from urllib.parse import quote as escape

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.guard import clean_text, hosts_of, without_hosts
from signaling.headers import parse_name_addr, parse_params, split_commas, unquote
from signaling.identity import Identity, Party, carry_identity
from signaling.message import KEYS, Message, Request, Response, key_of
from signaling.phrases import Q850, SIP, WARNINGS, reason_phrase, warning
from signaling.site import Site
from signaling.uri import Params, SipUri, parse_uri, unescape

ASSERTED = ("P-Asserted-Identity", "Remote-Party-ID", "P-Preferred-Identity")
"""What says who somebody is, and is for the trusted to say: From does too, and is checked."""
MAX_VALUES = 16
MAX_BODY = 8192

CarriedValue = str | Party


@frozen
class Carried:
    """What a message lets cross: names and host-less values, in their order."""

    fields: tuple[tuple[str, CarriedValue], ...] = ()

    def get(self, name: str) -> CarriedValue | None:
        """The first value of this name."""
        return next((value for field, value in self.fields if field == name), None)


NOTHING = Carried()


def carry_request(request: Request, trusted: bool = True) -> Carried:
    """What a request lets cross. A value that is malformed does not cross; ParseError is never raised.

    What its sender asserts of who it is does not cross either, unless the sender is `trusted`.
    """
    return _carry(request, _REQUEST if trusted else _STRANGERS_REQUEST)


def carry_response(response: Response, trusted: bool = True) -> Carried:
    """What a response lets cross, as `carry_request`."""
    return _carry(response, _RESPONSE if trusted else _STRANGERS_RESPONSE)


def _carry(message: Message, table: dict[str, "Row"]) -> Carried:
    if not message.has_any(table.keys()):
        return NOTHING
    hosts: Collection[str] | None = None
    out: list[tuple[str, CarriedValue]] = []
    for name, text in message.fields:
        row = table.get(KEYS.get(name) or key_of(name))
        if row is None or row.carry is None or len(out) >= 4 * MAX_VALUES:
            continue
        if hosts is None:
            hosts = hosts_of(message)
        try:
            # The headers that carry one text are not lists, whatever commas the text has.
            values = [text] if row.carry is _text else split_commas(text)[:MAX_VALUES]
            for value in values:
                carried = row.carry(value, hosts)
                if carried is not None:
                    out.append((row.name, carried))
        except ParseError:
            continue
    return Carried(tuple(out)) if out else NOTHING


def render(carried: Carried, site: Site) -> list[tuple[str, str]]:
    """The header fields for a message to `site`."""
    private = not site.trusted and any(
        name == "Privacy" and value in ("id", "user", "header") for name, value in carried.fields
    )
    return [
        (name, value if isinstance(value, str) else _seen_by(site, value).render(site))
        for name, value in carried.fields
        if not (private and name in ASSERTED)
    ]


def _seen_by(site: Site, party: Party) -> Party:
    """A party of the history that wants to be private is nobody to whom is not trusted (RFC 7044 s.7.3)."""
    if site.trusted or "Privacy=" not in party.headers or party.headers.endswith("Privacy=none"):
        return party
    return Party(Identity("Anonymous", "anonymous"), "", party.params)


# -- what each header field becomes -------------------------------------------------------------------------

Carry = Callable[[str, Collection[str]], CarriedValue | None]


def _party(value: str, hosts: Collection[str]) -> CarriedValue | None:
    return Party(carry_identity(parse_name_addr(value), hosts))


_DIGITS = re.compile(r"[0-9]{1,10}")
_INDEX = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,20}")
_CAUSE_IN_URI = re.compile(r"(?:^|&)reason=(sip|q\.850)%3Bcause%3D([0-9]{1,3})", re.IGNORECASE)
_PRIVACY_IN_URI = re.compile(r"(?:^|&)privacy=([a-z]+(?:(?:%3B|;)[a-z]+){0,6})(?:&|$)", re.IGNORECASE)
_DIVERSIONS = frozenset(
    ("unknown", "user-busy", "no-answer", "unavailable", "unconditional", "time-of-day", "do-not-disturb",
     "deflection", "follow-me", "out-of-service", "away")
)  # fmt: skip


def _kept(params: Params, allowed: dict[str, re.Pattern[str] | frozenset[str]]) -> Params:
    kept: list[tuple[str, str | None]] = []
    for name, value in params:
        test, text = allowed.get(name), unquote(value or "").lower()
        if test is not None and (text in test if isinstance(test, frozenset) else test.fullmatch(text)):
            kept.append((name, text))
    return tuple(kept)


_DIVERSION_PARAMS: dict[str, re.Pattern[str] | frozenset[str]] = {
    "reason": _DIVERSIONS, "counter": _DIGITS, "limit": _DIGITS, "screen": frozenset(("yes", "no")),
    "privacy": frozenset(("full", "name", "uri", "off")),
}  # fmt: skip
_HISTORY_PARAMS: dict[str, re.Pattern[str] | frozenset[str]] = {
    "index": _INDEX, "rc": _INDEX, "mp": _INDEX, "np": _INDEX,
}  # fmt: skip
_REMOTE_PARTY_PARAMS: dict[str, re.Pattern[str] | frozenset[str]] = {
    "party": frozenset(("calling", "called")), "screen": frozenset(("yes", "no")),
    "id-type": frozenset(("subscriber", "user", "term")),
    "privacy": frozenset(("full", "name", "uri", "off")),
}  # fmt: skip


def _diversion(value: str, hosts: Collection[str]) -> CarriedValue | None:
    parsed = parse_name_addr(value)
    return Party(carry_identity(parsed, hosts), "", _kept(parsed.params, _DIVERSION_PARAMS))


def _remote_party(value: str, hosts: Collection[str]) -> CarriedValue | None:
    parsed = parse_name_addr(value)
    return Party(carry_identity(parsed, hosts), "", _kept(parsed.params, _REMOTE_PARTY_PARAMS))


def _history(value: str, hosts: Collection[str]) -> CarriedValue | None:
    """RFC 7044: the index and, out of the headers that the URI embeds, the number of the reason (s.5)."""
    parsed = parse_name_addr(value)
    uri = parse_uri(parsed.uri_text)
    embedded = uri.headers if isinstance(uri, SipUri) else ""
    parts = [f"Reason={match[1]}%3Bcause%3D{match[2]}" for match in _CAUSE_IN_URI.finditer(embedded)][:2]
    wished = _PRIVACY_IN_URI.search(embedded)
    words = None if wished is None else _privacy(unescape(wished[1]), hosts)
    if words is not None:
        parts.append(f"Privacy={escape(str(words))}")
    identity = carry_identity(parsed, hosts)
    cause = uri.param("cause") if isinstance(uri, SipUri) else None
    if cause is not None and _DIGITS.fullmatch(cause):
        identity = Identity(
            identity.display, identity.user, identity.tel, (*identity.params, ("cause", cause))
        )
    return Party(identity, "?" + "&".join(parts) if parts else "", _kept(parsed.params, _HISTORY_PARAMS))


def _reason(value: str, hosts: Collection[str]) -> CarriedValue | None:
    """RFC 3326: protocol and cause; the text is the standard one (it may have named a machine)."""
    protocol, _, rest = value.partition(";")
    params = dict(parse_params(rest))
    cause = params.get("cause") or ""
    if not (cause.isascii() and cause.isdigit() and len(cause) <= 3):
        return None
    kind = protocol.strip().upper()
    texts = {"SIP": SIP, "Q.850": Q850, "PREEMPTION": {}, "STIR": {}}.get(kind)
    if texts is None:
        return None
    name = {"PREEMPTION": "Preemption"}.get(kind, kind)
    # A 200 in a CANCEL is a call that somebody else picked up (RFC 3326 s.3.1).
    text = "Call completed elsewhere" if (kind, cause) == ("SIP", "200") else texts.get(int(cause))
    location = unquote(params.get("location") or "").upper()
    return (
        f"{name};cause={int(cause)}"
        + (f';text="{text}"' if text else "")
        + (f";location={location}" if location in _LOCATIONS else "")
    )


_LOCATIONS = frozenset(("U", "LPN", "LN", "TN", "RLN", "RPN", "INTL", "BI"))  # RFC 8606 s.4


def _warning(value: str, hosts: Collection[str]) -> CarriedValue | None:
    """RFC 3261 s.20.43: the code; agent and text become ours."""
    code = value[:3]
    if not (code.isascii() and code.isdigit()) or value[3:4] != " " or int(code) not in WARNINGS:
        return None
    return warning(WARNINGS[int(code)], int(code))


def _text(value: str, hosts: Collection[str]) -> CarriedValue | None:
    return clean_text(value, hosts) or None


def _one_of(*words: str) -> Carry:
    """Carry values that are one of these words, without regard to case."""
    known = {word.lower(): word for word in words}

    def carry(value: str, hosts: Collection[str]) -> CarriedValue | None:
        return known.get(value.partition(";")[0].strip().lower())

    return carry


EVENTS = (
    "message-summary", "talk", "hold", "refer", "conference", "dialog", "check-sync", "ua-profile", "reg",
)  # fmt: skip
"""The event packages (RFC 6665) whose NOTIFY may cross."""
_PRIVACY = frozenset(("none", "header", "session", "user", "id", "critical", "history"))


def _privacy(value: str, hosts: Collection[str]) -> CarriedValue | None:
    words = [word for part in value.split(";") if (word := part.strip().lower()) in _PRIVACY]
    return ";".join(words) or None


def _matching(pattern: str) -> Carry:
    """Carry values that a bounded pattern matches as a whole."""
    compiled = re.compile(pattern)

    def carry(value: str, hosts: Collection[str]) -> CarriedValue | None:
        return value if compiled.fullmatch(value) and without_hosts(value, hosts) == value else None

    return carry


_PRIORITIES = (
    r"(?:dsn|drsn|rts|crts|q735|ets|wps|esnet|mcpttp|mcpttq)(?:-[0-9]{6})?\."
    r"(?:[0-9]{1,2}|routine|priority|immediate|flash|flash-override|flash-override-override)"
)
_ALERT = r"<urn:alert:(?:service|source|priority|duration|delay|locale)(?::[a-z0-9\-]{1,32}){1,4}>"
_LANGUAGE = r"(?:\*|[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8}){0,3})[ \t]{0,4}(?:;[ \t]{0,4}q=[01](?:\.[0-9]{1,3})?)?"
# RFC 7433: hexadecimal, with parameters from a short list. What the two applications put there is theirs.
_USER_TO_USER = (
    r"[0-9A-Fa-f]{1,256}"
    r"(?:;(?:encoding=hex|purpose=isdn-uui|purpose=isdn-network|purpose=isdn-interwork|content=isdn-uui)){0,3}"
)

Fate = Literal["crosses", "rewritten", "ours", "dropped"]
"""Unchanged, or cleaned and bounded only; with hosts and texts replaced; made by the leg for its own dialog; gone."""
Where = Literal["request", "response", "both"]


@frozen
class Row:
    """What becomes of one header field."""

    name: str
    fate: Fate
    how: str
    where: Where = "both"
    carry: Carry | None = None


def _ours(names: str, how: str) -> Iterator[Row]:
    return (Row(name, "ours", how) for name in names.split())


def _dropped(names: str, how: str) -> Iterator[Row]:
    return (Row(name, "dropped", how) for name in names.split())


HEADERS: tuple[Row, ...] = (
    Row("P-Asserted-Identity", "rewritten", "host becomes the site's domain; not of phones (RFC 3325)", "both", _party),
    Row("P-Preferred-Identity", "rewritten", "as P-Asserted-Identity", "request", _party),
    Row("Remote-Party-ID", "rewritten", "as P-Asserted-Identity; known params", "both", _remote_party),
    Row("Diversion", "rewritten", "host becomes the site's domain; known params (RFC 5806)", "both", _diversion),
    Row("History-Info", "rewritten", "host, as above; index and cause numbers (RFC 7044)", "both", _history),
    Row("Referred-By", "rewritten", "host becomes the site's domain; cid dropped (RFC 3892)", "request", _party),
    Row("Reason", "rewritten", "protocol and cause; the text is the standard one (RFC 3326)", "both", _reason),
    Row("Warning", "rewritten", "code; agent and text are ours (RFC 3261 s.20.43)", "response", _warning),
    Row("Subject", "crosses", "addresses and host names of its side taken out", "request", _text),
    Row("Privacy", "crosses", "known words (RFC 3323, RFC 3325, RFC 7044)", "both", _privacy),
    Row("Priority", "crosses", "known words", "request",
        _one_of("emergency", "urgent", "normal", "non-urgent", "psap-callback")),
    Row("Resource-Priority", "crosses", "registered namespaces (RFC 4412)", "request", _matching(_PRIORITIES)),
    Row("Accept-Language", "crosses", "language tags", "request", _matching(_LANGUAGE)),
    Row("Alert-Info", "crosses", "urn:alert only (RFC 7462)", "both", _matching(_ALERT)),
    Row("User-to-User", "crosses", "hexadecimal only (RFC 7433)", "both", _matching(_USER_TO_USER)),
    Row("Answer-Mode", "crosses", "Manual or Auto (RFC 5373)", "request", _one_of("Manual", "Auto")),
    Row("P-Early-Media", "crosses", "known words (RFC 5009)", "both",
        _one_of("supported", "sendrecv", "sendonly", "recvonly", "inactive", "gated")),
    Row("Info-Package", "crosses", "a token (RFC 6086)", "request", _matching(r"[A-Za-z0-9\-]{1,32}")),
    Row("Event", "crosses", "the package, without parameters", "request", _one_of(*EVENTS)),
    Row("Subscription-State", "crosses", "the state", "request", _one_of("active", "pending", "terminated")),
    *_ours("Via From To Call-ID CSeq Contact Max-Forwards Route Record-Route Content-Length Content-Type",
           "belongs to the dialog or transaction of one side"),
    *_ours("Allow Supported Require Unsupported Accept User-Agent Server", "says what we are"),
    *_ours("Session-Expires Min-SE RSeq RAck Expires Timestamp", "agreed with each side by itself"),
    *_ours("Retry-After", "the number goes with the refusal itself, its comment does not"),
    *_ours("Allow-Events Recv-Info", "says what we are"),
    *_ours("Geolocation Geolocation-Routing",
           "crosses with its body in emergency calls only (RFC 6442); the location is as the caller wrote it"),
    *_dropped("Call-Info Error-Info Geolocation-Error Icon",
              "a URI that leads into the other network, or to a body that stays behind"),
    *_dropped("Authorization Proxy-Authorization WWW-Authenticate Proxy-Authenticate Authentication-Info "
              "Proxy-Authentication-Info", "bound to realm and URI of one side"),
    *_dropped("Replaces Join Target-Dialog In-Reply-To Same-Session Session-ID Refer-To Refer-Sub",
              "names a dialog of one side"),
    *_dropped("Identity Identity-Info", "its certificate URL names the signer's network (RFC 8224)"),
    *_dropped("Organization Date MIME-Version Content-Disposition Content-Encoding Content-Language "
              "Content-ID Accept-Encoding Reply-To",
              "says something of the sender's machine or of a body that we make anew"),
    *_dropped("Proxy-Require Path Service-Route Request-Disposition Accept-Contact Reject-Contact Max-Breadth "
              "Feature-Caps Flow-Timer Security-Client Security-Server Security-Verify SIP-ETag SIP-If-Match",
              "for proxies and registrars of one side"),
    *_dropped("P-Charging-Vector P-Charging-Function-Addresses P-Access-Network-Info P-Visited-Network-ID "
              "P-Associated-URI P-Called-Party-ID P-Profile-Key P-Served-User P-User-Database P-DCS-Trace-Party-ID "
              "P-Media-Authorization P-Answer-State P-Refused-URI-List P-Private-Network-Indication Relayed-Charge "
              "Cellular-Network-Info Restoration-Info Service-Interact-Info",
              "names of the inside of one network"),
)  # fmt: skip

_REQUEST = {row.name.lower(): row for row in HEADERS if row.carry and row.where != "response"}
_RESPONSE = {row.name.lower(): row for row in HEADERS if row.carry and row.where != "request"}
_STRANGERS_REQUEST = {name: row for name, row in _REQUEST.items() if row.name not in ASSERTED}
_STRANGERS_RESPONSE = {name: row for name, row in _RESPONSE.items() if row.name not in ASSERTED}


def describe() -> str:
    """`HEADERS` as a table for people (Markdown)."""
    lines = ["| header field | fate | how | in |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.name} | {row.fate} | {row.how} | {row.where} |" for row in HEADERS]
    return "\n".join(lines) + "\n"


# -- bodies -------------------------------------------------------------------------------------------------

_SIGNAL = re.compile(r"[0-9A-Da-d*#!]{1}")
_SUMMARY = re.compile(
    r"(Voice-Message|Fax-Message|Pager-Message|Multimedia-Message|Text-Message|None)[ \t]{0,4}:[ \t]{0,4}"
    r"([0-9]{1,6}/[0-9]{1,6}(?:[ \t]{0,4}\([0-9]{1,6}/[0-9]{1,6}\))?)",
    re.IGNORECASE,
)
_FAST_UPDATE = (
    '<?xml version="1.0" encoding="utf-8"?>\r\n<media_control><vc_primitive><to_encoder><picture_fast_update/>'
    "</to_encoder></vc_primitive></media_control>\r\n"
)


def carry_body(content_type: str, body: bytes, hosts: Collection[str] = ()) -> tuple[str, bytes] | None:
    """A body of a request inside the dialog, made anew for the other side; None for one that may not cross (415).

    Takes and gives a media type and content. SDP is no business of this function.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        return "", b""
    carry = _BODIES.get(kind)
    if carry is None or len(body) > MAX_BODY:
        return None
    made = carry(body.decode("utf-8", "replace"), hosts)
    return None if made is None else (_BODY_TYPES.get(kind, kind), made.encode("utf-8", "replace"))


def _plain(text: str, hosts: Collection[str]) -> str | None:
    return without_hosts(text, hosts)


def _sipfrag(text: str, hosts: Collection[str]) -> str | None:
    """RFC 3515 s.2.4.5: the status line, its phrase the standard one."""
    words = text.split("\r\n", 1)[0].split(" ", 2)
    if len(words) < 2 or words[0] != "SIP/2.0" or not re.fullmatch(r"[1-6][0-9]{2}", words[1]):
        return None
    return f"SIP/2.0 {words[1]} {reason_phrase(int(words[1]))}\r\n"


def _dtmf_relay(text: str, hosts: Collection[str]) -> str | None:
    values = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition("=") for line in text.splitlines()[:8])
    }
    signal, duration = values.get("signal", ""), values.get("duration", "")
    if not _SIGNAL.fullmatch(signal):
        return None
    lasting = f"Duration={int(duration)}\r\n" if re.fullmatch(r"[0-9]{1,5}", duration) else ""
    return f"Signal={signal}\r\n{lasting}"


def _dtmf(text: str, hosts: Collection[str]) -> str | None:
    signal = text.strip()
    return signal if _SIGNAL.fullmatch(signal) else None


def _fast_update(text: str, hosts: Collection[str]) -> str | None:
    return _FAST_UPDATE if "picture_fast_update" in text else None


def _summary(text: str, hosts: Collection[str]) -> str | None:
    """RFC 3842 s.5.2: counts, without the account that they are for."""
    lines = [line.strip() for line in text.splitlines()[:32]]
    waiting = next(
        (
            line.partition(":")[2].strip().lower()
            for line in lines
            if line.lower().startswith("messages-waiting:")
        ),
        "",
    )
    if waiting not in ("yes", "no"):
        return None
    counts = [f"{match[1]}: {match[2]}\r\n" for line in lines if (match := _SUMMARY.fullmatch(line))]
    return f"Messages-Waiting: {waiting}\r\n" + "".join(counts)


_BODIES: dict[str, Callable[[str, Collection[str]], str | None]] = {
    "text/plain": _plain,
    "message/sipfrag": _sipfrag,
    "application/dtmf-relay": _dtmf_relay,
    "application/dtmf": _dtmf,
    "application/media_control+xml": _fast_update,
    "application/simple-message-summary": _summary,
}
_BODY_TYPES = {"message/sipfrag": "message/sipfrag;version=2.0", "text/plain": "text/plain;charset=utf-8"}
