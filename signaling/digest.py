"""Digest authentication (RFC 3261 s.22, RFC 7616, RFC 8760): challenges, credentials, and the nonces of a server.

Pure: randomness comes in as text that the caller makes, time as an argument. What a user's entry holds is HA1, the
hash of user, realm and password, so that no password need be kept.

Text between quotes is kept as it was written, escapes included: RFC 7616 s.3.4 hashes it like that, and it goes back
byte for byte. `userhash` and the -sess variants are never offered; a -sess challenge of somebody else is answered.
"""

import hashlib
import hmac
import re
from base64 import b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, replace
from enum import Enum

from config.frozen import frozen
from signaling.errors import ParseError
from signaling.headers import quote
from signaling.message import Message
from signaling.uri import SipUri, parse_uri

MAX_FIELD = 4096
# Of what goes back in every answer: realm, nonce, opaque.
MAX_ECHOED = 1024
MAX_PARAMS = 32
MAX_CHALLENGES = 8

Field = tuple[str, str]

_HASHES = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}
# What a user without HA1 is measured against: no hash of anything.
_NOBODY = {"SHA-512-256": "-" * 64, "SHA-256": "-" * 64, "MD5": "-" * 32}


def _works(name: str) -> bool:
    # An OpenSSL may lack SHA-512/256, and one in FIPS mode refuses MD5.
    try:
        hashlib.new(name)
    except ValueError:
        return False
    return True


ALGORITHMS = tuple(name for name, hashed in _HASHES.items() if _works(hashed))
"""What this machine can compute, strongest first (RFC 8760 s.2.3: the order in which they are offered)."""

# One "name = value" with what may stand before it: a comma, and the scheme that begins a challenge. Nothing is given
# back once it matched, so that no input makes it look twice.
_ITEM = re.compile(
    r"[ \t,]*+(?:([A-Za-z0-9\-.!%*_+`'~]++)[ \t]++(?!=))?([A-Za-z0-9\-.!%*_+`'~]++)[ \t]*+=[ \t]*+"
    r"(?:\"([^\"\\]*+(?:\\.[^\"\\]*+)*+)\"|([^\s\",]*+))[ \t]*+(?=,|$)",
    re.DOTALL,
)

_COUNT = re.compile(r"[0-9A-Fa-f]{1,8}")


@frozen
class Challenge:
    """What a 401 or 407 asks for. `algorithm` is "" where none was named, which means MD5."""

    realm: str
    nonce: str
    algorithm: str = ""
    session: bool = False
    qop: tuple[str, ...] = ()
    opaque: str | None = None
    stale: bool = False
    proxy: bool = False


@frozen
class Credentials:
    """What an Authorization or Proxy-Authorization says. `count` is the nonce count as written, "" without one."""

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str = ""
    session: bool = False
    qop: str = ""
    count: str = ""
    cnonce: str = ""
    opaque: str | None = None

    @property
    def nc(self) -> int:
        """The nonce count, 0 without one."""
        return int(self.count, 16) if self.count else 0


@frozen
class Account:
    """Who we are to a peer that challenges us. `realm` None: whatever realm that peer names."""

    username: str
    password: str = field(repr=False)
    realm: str | None = None


class Check(Enum):
    """What credentials are worth. All but `GOOD` are answered alike, but for `stale`."""

    GOOD = "good"
    STALE = (
        "stale"  # right, but the nonce is too old, not ours, or was used: asked again without asking the user
    )
    WRONG = "wrong"
    OTHER_URI = "other-uri"  # made for another Request-URI


# -- hashes ------------------------------------------------------------------------------------------------


def _hex(algorithm: str, text: str) -> str:
    return hashlib.new(_HASHES[algorithm], text.encode("utf-8", "surrogateescape")).hexdigest()


def ha1(user: str, realm: str, password: str, algorithm: str) -> str:
    """What is kept of a password: the hash of user, realm and password (RFC 7616 s.3.4.2)."""
    return _hex(algorithm, f"{user}:{realm}:{password}")


def compute(secret: str, credentials: Credentials, method: str, body: bytes = b"") -> str:
    """The response that belongs to `credentials` when HA1 is `secret` (RFC 7616 s.3.4.1, RFC 2069 without qop)."""
    algorithm = credentials.algorithm or "MD5"
    if credentials.session:
        secret = _hex(algorithm, f"{secret}:{credentials.nonce}:{credentials.cnonce}")
    second = f"{method}:{credentials.uri}"
    if credentials.qop == "auth-int":
        second += ":" + hashlib.new(_HASHES[algorithm], body).hexdigest()
    middle = credentials.nonce
    if credentials.qop:
        middle = f"{middle}:{credentials.count}:{credentials.cnonce}:{credentials.qop}"
    return _hex(algorithm, f"{secret}:{middle}:{_hex(algorithm, second)}")


# -- reading -----------------------------------------------------------------------------------------------


def parse_challenges(message: Message) -> list[Challenge]:
    """The digest challenges of a response that we can compute, in its order, bounded.

    What is malformed, of another scheme or of an unknown algorithm is left out (RFC 7616 s.3.3): among several a
    client takes what it understands.
    """
    found: list[Challenge] = []
    for name, proxy in (("WWW-Authenticate", False), ("Proxy-Authenticate", True)):
        for line in message.get_all(name)[:MAX_CHALLENGES]:
            for scheme, params in _schemes(line):
                if scheme == "digest" and len(found) < MAX_CHALLENGES:
                    challenge = _challenge(params, proxy)
                    if challenge is not None:
                        found.append(challenge)
    return found


def _schemes(line: str) -> list[tuple[str, dict[str, str]]]:
    """The challenges of one line, each with its parameters; what comes after a mistake is not read."""
    schemes: list[tuple[str, dict[str, str]]] = []
    position = count = 0
    if len(line) > MAX_FIELD:
        return schemes
    while position < len(line) and count < MAX_PARAMS * 2:
        item = _ITEM.match(line, position)
        if item is None:
            if line[position:].strip(" \t,") and schemes:
                schemes.pop()  # a challenge that is cut in the middle is none
            break
        scheme, name, quoted, plain = item.groups()
        if scheme is not None:
            schemes.append((scheme.lower(), {}))
        elif not schemes:
            break
        params = schemes[-1][1]
        name = name.lower()
        if name in params:
            params[""] = name  # said twice: nobody knows which is meant
        params[name] = plain if quoted is None else quoted
        position = item.end()
        count += 1
    return schemes


def _challenge(params: dict[str, str], proxy: bool) -> Challenge | None:
    named = params.get("algorithm", "")
    algorithm, session = _algorithm(named)
    nonce = params.get("nonce", "")
    if "" in params or "realm" not in params or not nonce or algorithm is None:
        return None
    qop = tuple(text.strip().lower() for text in params.get("qop", "").split(",") if text.strip())
    if qop and "auth" not in qop and "auth-int" not in qop:
        return None
    if max(len(params["realm"]), len(nonce), len(params.get("opaque", ""))) > MAX_ECHOED:
        return None
    stale = params.get("stale", "").lower() == "true"
    return Challenge(params["realm"], nonce, algorithm, session, qop, params.get("opaque"), stale, proxy)


def _algorithm(named: str) -> tuple[str | None, bool]:
    """The algorithm as we write it, None for one that we cannot compute, and whether it is a -sess variant."""
    if not named:
        return "" if "MD5" in ALGORITHMS else None, False
    name = named.upper()
    session = name.endswith("-SESS")
    if session:
        name = name[:-5]
    return name if name in ALGORITHMS else None, session


def parse_credentials(line: str) -> Credentials:
    """The digest credentials of one Authorization line. ParseError (400, "bad-credentials") for anything else."""
    if len(line) > MAX_FIELD:
        raise ParseError("credentials too long", "bad-credentials")
    params: dict[str, str] = {}
    position = 0
    while position < len(line):
        item = _ITEM.match(line, position)
        if item is None:
            if line[position:].strip(" \t,"):
                raise ParseError("malformed credentials", "bad-credentials")
            break
        scheme, name, quoted, plain = item.groups()
        name = name.lower()
        if (scheme is None) != bool(position) or name in params or len(params) >= MAX_PARAMS:
            raise ParseError("malformed credentials", "bad-credentials")
        if scheme is not None and scheme.lower() != "digest":
            raise ParseError("credentials of another scheme than Digest", "bad-credentials")
        params[name] = plain if quoted is None else quoted
        position = item.end()
    return _credentials(params)


def _credentials(params: Mapping[str, str]) -> Credentials:
    get = params.get
    algorithm, session = _algorithm(get("algorithm", ""))
    username, realm, nonce = get("username"), get("realm"), get("nonce")
    uri, response = get("uri"), get("response")
    qop = get("qop", "").lower()
    count = get("nc", "")
    if username is None or realm is None or not nonce or not uri or not response:
        raise ParseError("credentials without a part that they need", "bad-credentials")
    if algorithm is None or qop not in ("", "auth", "auth-int"):
        raise ParseError("credentials of an algorithm that was not offered", "bad-credentials")
    if get("userhash", "false").lower() != "false":
        raise ParseError("credentials with a hashed user, which was not offered", "bad-credentials")
    if qop:
        # RFC 7616 s.3.4: eight digits in lower case. Some write less, or capitals; they are hashed as written.
        if not _COUNT.fullmatch(count) or not int(count, 16):
            raise ParseError("malformed nonce count", "bad-credentials")
        if not get("cnonce"):
            raise ParseError("credentials without cnonce", "bad-credentials")
    return Credentials(
        username,
        realm,
        nonce,
        uri,
        response.lower(),
        algorithm,
        session,
        qop,
        count if qop else "",
        get("cnonce", ""),
        get("opaque"),
    )


def credentials_for(message: Message, realm: str, proxy: bool = False) -> Credentials | None:
    """The credentials that a request has for our realm, None where there are none (RFC 3261 s.22.3).

    Those for others, and lines that nobody can read, are not for us. ParseError when the one line that is there cannot
    be read: somebody means us and gets it wrong.
    """
    lines = message.get_all("Proxy-Authorization" if proxy else "Authorization")
    if len(lines) == 1:
        found = parse_credentials(lines[0])
        return found if found.realm == realm else None
    for line in lines[:MAX_CHALLENGES]:
        try:
            found = parse_credentials(line)
        except ParseError:
            continue
        if found.realm == realm:
            return found
    return None


# -- writing -----------------------------------------------------------------------------------------------


def write_challenge(challenge: Challenge) -> Field:
    """The header field of a challenge."""
    name = "Proxy-Authenticate" if challenge.proxy else "WWW-Authenticate"
    parts = [f'Digest realm="{challenge.realm}"', f'nonce="{challenge.nonce}"']
    if challenge.opaque is not None:
        parts.append(f'opaque="{challenge.opaque}"')
    if challenge.stale:
        parts.append("stale=true")
    if challenge.algorithm:
        parts.append(f"algorithm={challenge.algorithm}{'-sess' if challenge.session else ''}")
    if challenge.qop:
        parts.append(f'qop="{",".join(challenge.qop)}"')
    return name, ", ".join(parts)


def write_credentials(credentials: Credentials, proxy: bool) -> Field:
    """The header field of credentials. RFC 7616 s.3.4: algorithm, qop and nc go without quotes."""
    name = "Proxy-Authorization" if proxy else "Authorization"
    parts = [
        f"Digest username={quote(credentials.username)}",
        f'realm="{credentials.realm}"',
        f'nonce="{credentials.nonce}"',
        f'uri="{credentials.uri}"',
        f'response="{credentials.response}"',
    ]
    if credentials.algorithm:
        parts.append(f"algorithm={credentials.algorithm}{'-sess' if credentials.session else ''}")
    if credentials.opaque is not None:
        parts.append(f'opaque="{credentials.opaque}"')
    if credentials.qop:
        parts.append(f"qop={credentials.qop}, nc={credentials.count}")
    if credentials.cnonce:
        parts.append(f'cnonce="{credentials.cnonce}"')
    return name, ", ".join(parts)


def answer(
    challenge: Challenge, account: Account, method: str, uri: str, nc: int, cnonce: str, body: bytes = b""
) -> Field:
    """The header field that answers `challenge`; `uri` is the Request-URI as written."""
    qop = "auth" if "auth" in challenge.qop else "auth-int" if challenge.qop else ""
    made = Credentials(
        account.username,
        challenge.realm,
        challenge.nonce,
        uri,
        "",
        challenge.algorithm,
        challenge.session,
        qop,
        f"{nc:08x}" if qop else "",
        cnonce if qop or challenge.session else "",
        challenge.opaque,
    )
    secret = ha1(account.username, challenge.realm, account.password, challenge.algorithm or "MD5")
    return write_credentials(replace(made, response=compute(secret, made, method, body)), challenge.proxy)


def choose(challenges: Iterable[Challenge], account: Account) -> list[Challenge]:
    """The challenges that `account` answers: of each realm and kind the strongest (RFC 8760 s.2.4)."""
    chosen: dict[tuple[str, bool], Challenge] = {}
    for challenge in challenges:
        if account.realm is not None and challenge.realm != account.realm:
            continue
        key = (challenge.realm, challenge.proxy)
        before = chosen.get(key)
        if before is None or _rank(challenge) < _rank(before):
            chosen[key] = challenge
    return list(chosen.values())


def _rank(challenge: Challenge) -> int:
    return ALGORITHMS.index(challenge.algorithm or "MD5")


# -- the server's side -------------------------------------------------------------------------------------


class Nonces:
    """The nonces of a server: signed, so that none need be kept before its first good use.

    A nonce is the time it was made, a word of the caller's and a MAC by `key`, which the process makes at its start.
    The MAC is also of the `host` that asked: what one host was given is stale from any other, so that an answer to a
    challenge is of use to nobody who cannot get packets where it was sent to.
    After a restart every nonce is stale, and phones ask again by themselves. Of each nonce in use the counts seen are
    kept as a window, since two requests of a phone may overtake each other. When more than `max_nonces` are in use
    the oldest is forgotten, and whatever is not younger counts as stale from then on: nothing is accepted twice.
    """

    __slots__ = ("_floor", "_key", "_lifetime_us", "_max", "_seen")

    def __init__(self, key: bytes, lifetime_s: float = 300.0, max_nonces: int = 65_536) -> None:
        self._key = key
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._max = max_nonces
        # By nonce: when it was made, the highest count, and a bit for each of the 64 below it.
        self._seen: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._floor = -1

    def __len__(self) -> int:
        return len(self._seen)

    def make(self, salt: str, now: float, host: str = "") -> str:
        """A new nonce for `host`. `salt` tells apart those of one moment."""
        made = int(now * 1_000_000).to_bytes(8, "big") + salt.encode()[:16]
        return urlsafe_b64encode(self._mac(made, host) + made).decode().rstrip("=")

    def challenges(
        self,
        realm: str,
        salt: str,
        now: float,
        *,
        algorithms: Iterable[str] = ALGORITHMS,
        stale: bool = False,
        proxy: bool = False,
        host: str = "",
    ) -> list[Field]:
        """The header fields of a 401 (or 407 with `proxy`): one for each algorithm, the strongest first.

        Offer only what every user of the realm has an HA1 for: the offer must not depend on who asks.
        """
        nonce = self.make(salt, now, host)
        return [
            write_challenge(Challenge(realm, nonce, one, False, ("auth",), None, stale, proxy))
            for one in algorithms
        ]

    def check(
        self,
        credentials: Credentials,
        method: str,
        uri: str,
        secrets: Mapping[str, str] | None,
        now: float,
        own: Collection[str] = (),
        host: str = "",
    ) -> Check:
        """What `credentials` are worth for a request of `method` to `uri` from `host`.

        `secrets` is HA1 by algorithm, None for a user that is unknown: that takes as long, and ends as a wrong password
        does. `own` are hosts that all mean us, in lower case.
        """
        algorithm = credentials.algorithm or "MD5"
        secret = secrets.get(algorithm) if secrets else None
        response = compute(secret or _NOBODY[algorithm], credentials, method)
        right = hmac.compare_digest(
            response.encode(), credentials.response.encode("utf-8", "surrogateescape")
        )
        if not right or secret is None or credentials.session or credentials.qop == "auth-int":
            return Check.WRONG
        if not same_resource(credentials.uri, uri, own):
            return Check.OTHER_URI
        # Without qop there is no count: such a nonce is good once.
        return Check.GOOD if self._use(credentials.nonce, credentials.nc or 1, now, host) else Check.STALE

    def _use(self, nonce: str, nc: int, now: float, host: str) -> bool:
        known = self._seen.get(nonce)
        made = self._made(nonce, host)
        present = int(now * 1_000_000)
        if made is None or not 0 <= present - made <= self._lifetime_us:
            return False
        if known is None:
            if made <= self._floor:
                return False
            self._forget(present)
            self._seen[nonce] = (made, nc, 0)
            return True
        _, highest, window = known
        if nc > highest:
            shift = nc - highest
            window = ((window << shift) | (1 << (shift - 1))) & 0xFFFF_FFFF_FFFF_FFFF if shift <= 64 else 0
            self._seen[nonce] = (made, nc, window)
            return True
        bit = highest - nc - 1
        if bit < 0 or bit >= 64 or window >> bit & 1:
            return False
        self._seen[nonce] = (made, highest, window | 1 << bit)
        return True

    def _forget(self, present: int) -> None:
        """Make room for one more."""
        while self._seen:
            made, _, _ = next(iter(self._seen.values()))
            if len(self._seen) < self._max and present - made <= self._lifetime_us:
                return
            self._seen.popitem(last=False)
            self._floor = max(self._floor, made)

    def _made(self, nonce: str, host: str) -> int | None:
        """When a nonce of ours for `host` was made, in microseconds; None for one that is not."""
        if len(nonce) > 64 or not nonce.isascii():
            return None
        try:
            data = b64decode(nonce + "=" * (-len(nonce) % 4), b"-_", validate=True)
        except ValueError:
            return None
        if len(data) < 24 or not hmac.compare_digest(self._mac(data[16:], host), data[:16]):
            return None
        if urlsafe_b64encode(data).decode().rstrip("=") != nonce:
            return None  # unused bits of the last character must not make a second nonce of one
        return int.from_bytes(data[16:24], "big")

    def _mac(self, made: bytes, host: str) -> bytes:
        # What was made comes with its length: the two together read in one way only.
        return hmac.digest(self._key, bytes((len(made),)) + made + host.encode(), "sha256")[:16]


def same_resource(digest_uri: str, request_uri: str, own: Collection[str] = ()) -> bool:
    """Whether a digest made for `digest_uri` is good for `request_uri` (RFC 7616 s.3.4.6).

    User and host must be the same; hosts in `own` all mean us. Port and parameters may differ, since proxies on the way
    add and remove them; the nonce count keeps a digest from being used for a second request.
    """
    if digest_uri == request_uri:
        return True
    try:
        one, other = parse_uri(digest_uri), parse_uri(request_uri)
    except ParseError:
        return False
    if not isinstance(one, SipUri) or not isinstance(other, SipUri) or one.user != other.user:
        return False
    host, asked = one.host.lower(), other.host.lower()
    return host == asked or (host in own and asked in own)
