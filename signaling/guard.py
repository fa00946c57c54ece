"""Machines named in messages: finding their names, taking them out of text, and the runtime guard of the border."""

import re
from collections.abc import Collection, Iterable
from contextlib import suppress

from signaling.errors import ParseError
from signaling.headers import Via, parse_name_addr, parse_via, split_commas
from signaling.message import Message, Request, Response

HIDDEN = "hidden"
"""What stands where an address or a host name was."""
SHORTEST_HOST = 4
"""A shorter host name is found in innocent words; no address is that short."""
PUBLIC_NAMES = frozenset(("localhost", "anonymous.invalid", "0.0.0.0", "invalid", "unknown.invalid", "::"))
"""Hosts that say nothing of anybody."""
_ROUTES = ("Contact", "Record-Route", "Route", "Path")
_IDENTITIES = (
    "To", "P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID", "Diversion", "History-Info", "Referred-By",
)  # fmt: skip
_SIP = ("sip", "sips")
_TELLING = ("INVITE", "UPDATE")
MAX_SECRETS = 256
MAX_BRANCHES = 32
LONGEST_WORDS = 16
MAX_SDP = 8192
MAX_VALUES = 64
MAX_TEXT = 256

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
# Whole numbers below 256 only: +1.212.555.0100 is how some people write a telephone number.
_IPV4 = re.compile(rf"(?<![0-9]){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9])")
_IPV6 = re.compile(
    r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){7}"
    r"|(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?::(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?"
)
# What follows an escape is a word too: "%40" is an "@".
_WORD_BEGINS = r"(?:(?<![A-Za-z0-9_\-])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))"
_HOST_END = re.compile(r"[;>?:, \t]")
_SDP_ADDRESS = re.compile(rb"\bIN IP[46] ([0-9A-Za-z:.\-]{2,255})")
_TOKEN_BYTE = re.compile(rb"[A-Za-z0-9_\-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def host_in(uri: str) -> str:
    """The host of a SIP URI or of a value that holds one, in lower case; "" where none is found. Never raises.

    Cheaper than `parse_uri`, for whoever only looks for names. What a tel URI has there is a number.
    """
    _, _, rest = uri.partition("<")
    scheme, _, rest = (rest or uri).partition(":")
    if scheme not in _SIP and scheme.strip().lower() not in _SIP:
        return ""
    _, at, host = rest.partition("@")
    if not at:
        host = rest
    if host[:1] == "[":
        return host[1:].partition("]")[0].lower()
    end = _HOST_END.search(host)
    return (host if end is None else host[: end.start()]).lower()


def user_in(uri: str) -> str:
    """The user part or number of a URI or of a value that holds one. Never raises."""
    _, _, rest = uri.partition("<")
    scheme, _, rest = (rest or uri).partition(":")
    user, at, _ = rest.partition("@")
    if not at and scheme.lower() != "tel":
        return ""
    for mark in ";:>":
        if mark in user:
            user = user.partition(mark)[0]
    return user


def hosts_of(message: Message) -> tuple[str, ...]:
    """Names of machines on the side that `message` came from, in lower case."""
    return message.once("hosts", _hosts)


def _hosts(message: Message) -> tuple[str, ...]:
    machines = message.once("machines", _machines)
    hosts = dict.fromkeys(machines)
    if message.body:
        for host in message.once("media", _media_hosts):
            hosts[host.lower()] = None
    for host in machines:
        if host.count(".") >= 2 and host[-1:].isalpha():
            hosts[_domain_of(host)] = None
    for name in _IDENTITIES:
        if message.get(name) is not None:
            hosts.update(dict.fromkeys(_hosts_in_lines(message.get_all(name))))
    if isinstance(message, Request):
        hosts[host_in(message.uri)] = None
    # What has no letter is an address, which is found without being known, or a telephone number.
    return tuple(
        host for host in hosts if len(host) >= SHORTEST_HOST and host.islower() and host not in PUBLIC_NAMES
    )


def _media_hosts(message: Message) -> list[str]:
    """Addresses and names in the SDP of a message."""
    if message.content_type != "application/sdp":
        return []
    return [host.decode("ascii") for host in _SDP_ADDRESS.findall(message.body[:MAX_SDP])]


def _domain_of(host: str) -> str:
    """The domain that a machine is in, "" for none: others in it are its neighbours. "co.uk" is nobody's domain."""
    _, _, domain = host.partition(".")
    first, _, last = domain.partition(".")
    return "" if len(first) <= 3 and len(last) == 2 else domain


def domains_of(*uris: str) -> tuple[str, ...]:
    """Names of the machines in these URIs, and the domains that they are in, as `hosts_of`."""
    hosts: list[str] = []
    for uri in uris:
        host = host_in(uri)
        hosts += (host, _domain_of(host)) if host.count(".") >= 2 else (host,)
    return tuple(host for host in hosts if host.islower() and host not in PUBLIC_NAMES)


def _machines(message: Message) -> list[str]:
    hosts: list[str] = []
    try:  # noqa: SIM105  (a frame of the interpreter for each request)
        hosts.append(host_in(message.from_.uri_text))
    except ParseError:
        pass  # it is refused elsewhere
    for via in message.once("vias", _vias):
        hosts.append(via.host.lower())
        for name in ("received", "maddr"):
            value = via.param(name)
            if value:
                hosts.append(value.strip("[]").lower())
    return hosts + _reached(message)


def _reached(message: Message) -> list[str]:
    """Hosts where the sender says that he and his proxies are, and that of the Call-ID."""
    hosts = [(message.get("Call-ID") or "").partition("@")[2].lower()]
    for name in _ROUTES:
        if message.get(name) is not None:
            lines = message.get_all(name)
            if len(lines) == 1 and "," not in lines[0] and '"' not in lines[0]:
                hosts.append(host_in(lines[0]))
            else:
                hosts += _hosts_in_lines(lines)
    return hosts


def _hosts_in_lines(lines: list[str]) -> list[str]:
    hosts: list[str] = []
    for line in lines:
        for value in split_commas(line)[:MAX_VALUES]:
            uri = value
            if '"' in value:
                with suppress(ParseError):  # a display name may hold anything, brackets too
                    uri = parse_name_addr(value).uri_text
            hosts.append(host_in(uri))
    return hosts


def _vias(message: Message) -> list[Via]:
    vias: list[Via] = []
    lines = message.get_all("Via")
    try:
        if len(lines) == 1 and "," not in lines[0]:
            return [message.via]
        for line in lines[:MAX_VALUES]:
            vias += [parse_via(value) for value in split_commas(line)[:MAX_VALUES]]
    except ParseError:
        pass  # what is behind a broken Via is nobody's name
    return vias


def without_hosts(text: str, hosts: Collection[str], names: bool = True) -> str:
    """`text` with IP addresses and `hosts` (in lower case) replaced, as whole words; of a domain all names in it.

    Not `names`: words without a dot stay, whatever machine is called so. In a user part they are numbers and people.
    """
    if text.count(".") >= 3:
        text = _IPV4.sub(HIDDEN, text)
    if "::" in text or text.count(":") >= 7:
        text = _IPV6.sub(HIDDEN, text)
    lower = text.lower()
    named = [
        host for host in hosts if host in lower and len(host) >= SHORTEST_HOST and (names or "." in host)
    ]
    # Longest first: a domain inside the name of a host of it must not save the rest of the name.
    for host in sorted(named, key=len, reverse=True):
        above = r"(?:[A-Za-z0-9_\-]+\.)*" if "." in host else ""
        word = rf"{_WORD_BEGINS}{above}{re.escape(host)}(?![A-Za-z0-9_\-]|\.[A-Za-z0-9_\-])"
        text = re.sub(word, HIDDEN, text, flags=re.IGNORECASE)
    return text


def clean_text(text: str, hosts: Collection[str], names: bool = True) -> str:
    """`text` in one line, bounded, with IP addresses and `hosts` (lower case) replaced, as `without_hosts` does."""
    if not text:
        return text
    text = text[:MAX_TEXT]
    if not text.isprintable():
        text = _CONTROL.sub(" ", text)
    return without_hosts(text, hosts, names)


class Secrets:
    """What one side of a call has told: `lasting` are names, addresses and tags, `passing` the last branches, and
    `said` is what it may hear again whoever says it, and what is nobody's secret.
    """

    __slots__ = ("lasting", "passing", "said")

    def __init__(self) -> None:
        self.lasting: dict[str, bytes] = {}
        self.passing: dict[str, bytes] = {}
        self.said: set[str] = set()

    def tell(self, words: Iterable[str]) -> None:
        """This side knows these words."""
        if len(self.said) < MAX_SECRETS:
            self.said.update(words)

    def knows(self, text: str) -> bool:
        """Whether this side has told it itself."""
        return text in self.lasting or text in self.said or text in self.passing


class Guard:
    """Looks for things of one side in the bytes for the other (`topology: verify`). A net below the net: building
    messages anew is what hides; a hit is a bug of ours.

    `own` is what we may say to anybody: addresses, domains and user agents of our sites, hosts of trunks.
    """

    __slots__ = ("_own",)

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = PUBLIC_NAMES.union(text.lower() for text in own)

    def learn(self, secrets: Secrets, message: Request | Response) -> None:
        """Add what `message` tells of the side that it came from: hosts, Call-ID, tags, branches, user agent.

        A host that the sender also calls by (Request-URI, To) is a domain that both sides know, and what equals a
        user part may cross as that. Only what offers, answers or moves a session is looked at: other messages of a
        dialog name the same machines again.
        """
        if message.method not in _TELLING:
            return
        found = [message.get(name) or "" for name in ("Call-ID", "User-Agent", "Server")]
        if isinstance(message, Request):
            branches = [via.branch or "" for via in message.once("vias", _vias)]
            found += message.once("machines", _machines)
        elif message.status == 100:
            return  # its sender may be a proxy on the way, and repeats what we wrote
        else:
            # The hosts in Via and From of a response are ours.
            branches = [(message.get("Via") or "").partition(";branch=")[2].partition(";")[0]]
            found += _reached(message)
        try:  # noqa: SIM105  (a frame of the interpreter for each message)
            found += [message.from_tag or "", message.to_tag or ""]
        except ParseError:
            pass  # it will be refused; there is nothing to learn from it
        if message.body:
            found += message.once("media", _media_hosts)
        lasting, said, own = secrets.lasting, secrets.said, self._own
        innocent: set[str] | None = None
        for text in found:
            if text in lasting or text in said or len(text) < SHORTEST_HOST or text.lower() in own:
                continue
            if innocent is None:
                innocent = _innocent(message)
                secrets.tell(innocent)
            if text not in innocent and not _is_common(text):
                lasting[text] = text.encode("utf-8", "surrogateescape")
                if len(lasting) > MAX_SECRETS:
                    del lasting[next(iter(lasting))]
        passing = secrets.passing
        for text in branches:
            if text not in passing and len(text) >= SHORTEST_HOST:
                passing[text] = text.encode("utf-8", "surrogateescape")
                if len(passing) > MAX_BRANCHES:
                    del passing[next(iter(passing))]

    def scan(self, secrets: Secrets, outgoing: bytes, hearer: Secrets | None = None) -> tuple[str, ...]:
        """Which of the other side's `secrets` stand in `outgoing` as words of their own.

        What the `hearer` has told us itself is none: two homes may have the same private addresses.
        """
        found = [secret for secret in secrets.lasting.values() if secret in outgoing]
        found += [secret for secret in secrets.passing.values() if secret in outgoing]
        if not found:
            return ()
        leaks: list[str] = []
        for secret in found:
            text = secret.decode("utf-8", "surrogateescape")
            if (hearer is None or not hearer.knows(text)) and _is_word(secret, outgoing):
                leaks.append(secret.decode("utf-8", "replace"))
        return tuple(sorted(leaks))


def _is_common(text: str) -> bool:
    """Whether this is a word or two that may stand in any text, though somebody calls a machine so."""
    return len(text) < LONGEST_WORDS and text.replace(" ", "").isalpha()


def _innocent(message: Message) -> set[str]:
    """Words of a message that may stand in a message of the other side by right."""
    to = message.get("To") or ""
    words = {user_in(to), user_in(message.get("From") or ""), host_in(to)}
    if isinstance(message, Request):
        words |= {user_in(message.uri), host_in(message.uri)}
    return words


def _is_word(secret: bytes, text: bytes) -> bool:
    """Whether `secret` occurs other than inside a longer word: 10.0.0.1 is not in 10.0.0.12."""
    at = text.find(secret)
    while at >= 0:
        end = at + len(secret)
        before, after = text[at - 1 : at] if at else b"", text[end : end + 2]
        longer = after[:1] == b"." and _TOKEN_BYTE.match(after[1:])
        if not _TOKEN_BYTE.match(before) and not _TOKEN_BYTE.match(after) and not longer:
            return True
        at = text.find(secret, at + 1)
    return False
