"""Machines named in messages: finding their names, taking them out of text, and the runtime guard of the border."""

import re
from collections.abc import Collection, Iterable

from signaling.message import Message, Request

HIDDEN = "hidden"
"""What stands where an address or a host name was."""
SHORTEST_HOST = 4
"""A shorter host name is found in innocent words; no address is that short."""
MAX_SECRETS = 256
MAX_SDP = 8192

# One expression over the lines that name machines. The user part is bounded: "sip:" may be repeated by the thousand.
_HOST = re.compile(
    r"(?:sips?:(?:[^@<>\s]{0,256}@)?|SIP[ \t]{0,8}/[ \t]{0,8}2\.0[ \t]{0,8}/[ \t]{0,8}\w{1,16}[ \t]+"
    r"|(?:received|maddr)=)\[?((?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]*|[0-9A-Za-z_][0-9A-Za-z_.\-]*)",
    re.IGNORECASE,
)
_NAMED_IN = ("Via", "Contact", "Record-Route", "Route", "Path", "Service-Route")
PUBLIC_NAMES = frozenset(("localhost", "anonymous.invalid", "0.0.0.0", "invalid", "unknown.invalid", "::"))


def hosts_of(message: Message) -> tuple[str, ...]:
    """Names and addresses of machines on the side that `message` came from, in lower case."""
    text = "\n".join(
        [value for name in (*_NAMED_IN, "From") for value in message.get_all(name)]
        + [message.uri if isinstance(message, Request) else ""]
    )
    call_id = message.get("Call-ID") or ""
    hosts = dict.fromkeys(host.lower() for host in _HOST.findall(text))
    at = call_id.partition("@")[2].lower()
    if at:
        hosts[at] = None
    return tuple(host for host in hosts if len(host) >= SHORTEST_HOST and host not in PUBLIC_NAMES)


_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_IPV6 = re.compile(
    r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){7}"
    r"|(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?::(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,6})?"
)


def without_hosts(text: str, hosts: Collection[str]) -> str:
    """`text` with IP addresses and `hosts` (in lower case) replaced."""
    if text.count(".") >= 3:
        text = _IPV4.sub(HIDDEN, text)
    if "::" in text or text.count(":") >= 7:
        text = _IPV6.sub(HIDDEN, text)
    if hosts:
        lower = text.lower()
        # Longest first: a domain inside the name of a host of it must not save the rest of the name.
        for host in sorted((host for host in hosts if host in lower), key=len, reverse=True):
            if len(host) >= SHORTEST_HOST:
                text = re.sub(re.escape(host), HIDDEN, text, flags=re.IGNORECASE)
    return text


_TOKEN_PARAM = re.compile(r";[ \t]{0,8}(?:tag|branch|gr)[ \t]{0,8}=[ \t]{0,8}([^;,>\s\"]+)", re.IGNORECASE)
_SDP_ADDRESS = re.compile(rb"\bIN IP[46] ([0-9A-Za-z:.\-]{2,255})")
_USER = re.compile(r"(?:sips?|tel):([^@;:<>\s]{1,256})", re.IGNORECASE)
_TOKEN_BYTE = re.compile(rb"[A-Za-z0-9_\-]")


class Guard:
    """Looks for things of one side in the bytes for the other (`topology: verify`). A net below the net: building
    messages anew is what hides; a hit is a bug of ours.

    `own` is what we may say to anybody: addresses, domains and user agents of our sites, hosts of trunks.
    """

    __slots__ = ("_own",)

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = frozenset(text.lower() for text in own)

    def learn(self, secrets: set[bytes], message: Message) -> None:
        """Add what `message` tells of the side that it came from: hosts, Call-ID, tags, branches, user agent.

        A host that the sender also calls by (Request-URI, To) is a domain that both sides know, and what equals a
        user part may cross as that.
        """
        if len(secrets) >= MAX_SECRETS:
            return
        own = self._own
        shared = message.get("To") or ""
        identities = [shared, message.get("From") or ""]
        if isinstance(message, Request):
            shared += f"<{message.uri}>"
            identities.append(message.uri)
        users = set(_USER.findall(" ".join(identities)))
        called = {host.lower() for host in _HOST.findall(shared)}
        found = {host for host in hosts_of(message) if host not in called}
        lines = [*message.get_all("Via"), message.get("From") or "", message.get("To") or ""]
        lines += message.get_all("Contact")
        found.update(_TOKEN_PARAM.findall("\n".join(lines)))
        for name in ("Call-ID", "User-Agent", "Server"):
            value = message.get(name)
            if value:
                found.add(value)
        if message.body and message.content_type == "application/sdp":
            found.update(host.decode("ascii") for host in _SDP_ADDRESS.findall(message.body[:MAX_SDP]))
        for text in found:
            known = text.lower() in own or text in users or text in PUBLIC_NAMES
            if len(text) >= SHORTEST_HOST and not known and len(secrets) < MAX_SECRETS:
                secrets.add(text.encode("utf-8", "surrogateescape"))

    def scan(self, secrets: Collection[bytes], outgoing: bytes) -> tuple[str, ...]:
        """Which of the other side's `secrets` stand in `outgoing` as words of their own."""
        found = [secret for secret in secrets if secret in outgoing]
        if not found:
            return ()
        return tuple(
            sorted(secret.decode("utf-8", "replace") for secret in found if _is_word(secret, outgoing))
        )


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
