"""GRUUs (RFC 5627): those of `registrar: local`, one that names the phone and any number that do not; and in whose
domain those of a registrar behind us are written.

A temporary GRUU is its own proof: a nonce, the handle of the phone under a mask that only we can make, and a MAC. So
none is kept, no two of one phone look alike (RFC 5627 s.3.1.2), and all end when the phone changes its Call-ID.
"""

import hmac
from collections.abc import Collection

from signaling.errors import ParseError
from signaling.headers import quote
from signaling.uri import SipUri, parse_uri, unescape

PREFIX = "tgruu."
NONCE = 6
HANDLE = 8
_WHOLE = len(PREFIX) + 2 * (NONCE + HANDLE + HANDLE)


class Gruus:
    """The GRUUs of one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _mac(self, kind: bytes, data: bytes) -> bytes:
        return hmac.digest(self._secret, kind + data, "sha256")

    def handle(self, user: str, instance: str, call_id: str) -> str:
        """What stands for a phone inside its temporary GRUUs."""
        words = "".join([f"{len(word)}:{word}" for word in (user, instance, call_id)])
        return self._mac(b"handle", words.encode("utf-8", "surrogateescape"))[:HANDLE].hex()

    def temporary(self, handle: str, nonce: str) -> str:
        """The user part of a new temporary GRUU; `nonce` has 12 hexadecimal digits nobody has seen before."""
        seed = bytes.fromhex(nonce)
        mask = self._mac(b"mask", seed)
        hidden = bytes(a ^ b for a, b in zip(bytes.fromhex(handle), mask, strict=False))
        return f"{PREFIX}{(seed + hidden + self._mac(b'mac', seed + hidden)[:HANDLE]).hex()}"

    def open(self, user: str) -> str | None:
        """The handle in the user part of a temporary GRUU; None for anything that we did not make."""
        if len(user) != _WHOLE or not user.startswith(PREFIX):
            return None
        try:
            data = bytes.fromhex(user[len(PREFIX) :])
        except ValueError:
            return None
        seed, hidden, mac = data[:NONCE], data[NONCE : NONCE + HANDLE], data[NONCE + HANDLE :]
        if not hmac.compare_digest(mac, self._mac(b"mac", seed + hidden)[:HANDLE]):
            return None
        return bytes(a ^ b for a, b in zip(hidden, self._mac(b"mask", seed), strict=False)).hex()


def gruu_params(user: str, domain: str, instance: str, temporary: str) -> str:
    """The two parameters of a Contact that give a phone its GRUUs (RFC 5627 s.5.2)."""
    host = f"[{domain}]" if ":" in domain else domain
    name = instance.strip("<>")
    public, hidden = f"sip:{user}@{host};gr={name}", f"sip:{temporary}@{host};gr"
    return f";pub-gruu={quote(public)};temp-gruu={quote(hidden)}"


def gruu_in(text: str, domains: Collection[str] | None = None) -> SipUri | None:
    """The GRUU that `text` is, of one of the `domains` (in lower case) if they are given; None for everything else."""
    try:
        uri = parse_uri(text)
    except ParseError:
        return None
    if not isinstance(uri, SipUri) or uri.scheme != "sip" or uri.param("gr") is None:
        return None
    return uri if domains is None or uri.host.lower() in domains else None


def gruu_elsewhere(gruu: SipUri, user: str, domain: str) -> str:
    """The same GRUU as the registrar of `domain` knows it; "" when `user`, who is called there, is not its owner.

    A registrar knows its GRUUs by user part and gr alone, and gives them in the domain of its addresses of record
    (RFC 5627 s.5.1, s.5.4): ours are in the domain that the phones know.
    """
    if unescape(gruu.user) != unescape(user):
        return ""
    return str(SipUri("sip", gruu.user, None, domain, None, (("gr", gruu.param("gr") or None),)))
