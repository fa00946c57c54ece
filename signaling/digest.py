"""Digest authentication (RFC 3261 s.22, RFC 7616, RFC 8760): challenges, credentials, and the nonces of a server.

Pure: randomness comes in as text that the caller makes, time as an argument. What a user's entry holds is HA1, the
hash of user, realm and password, so that no password need be kept.

Text between quotes is kept as it was written, escapes included: RFC 7616 s.3.4 hashes it like that, and it goes back
byte for byte. `userhash` and the -sess variants are never offered; a -sess challenge of somebody else is answered.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import field, replace
from enum import Enum
from functools import partial
from hashlib import blake2s
from importlib import import_module
from typing import Final, Protocol

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


class _Hash(Protocol):
    def hexdigest(self) -> str: ...


def _hasher(name: str) -> Callable[[bytes], _Hash]:
    # The interpreter's own where it has one: OpenSSL looks up its algorithm anew each time, which takes several times
    # as long as to hash what we hash.
    for module in (f"_{name}", "_sha2"):
        try:
            found: Callable[[bytes], _Hash] = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        return found
    return partial(hashlib.new, name)


_HASHERS = {name: _hasher(hashed) for name, hashed in _HASHES.items() if name in ALGORITHMS}

# One "name = value" with what may stand before it: a comma, and the scheme that begins a challenge. Nothing is given
# back once it matched, so that no input makes it look twice.
_ITEM = re.compile(
    r"[ \t,]*+(?:([A-Za-z0-9\-.!%*_+`'~]++)[ \t]++(?!=))?([A-Za-z0-9\-.!%*_+`'~]++)[ \t]*+=[ \t]*+"
    r"(?:\"([^\"\\]*+(?:\\.[^\"\\]*+)*+)\"|([^\s\",]*+))[ \t]*+(?=,|$)",
    re.DOTALL,
)

_COUNT = re.compile(r"[0-9A-Fa-f]{1,8}")
_NAMES: Final = frozenset(
    ("username", "realm", "nonce", "uri", "response", "algorithm", "cnonce", "opaque", "qop", "nc")
)
_COUNTS = 0xFFFF_FFFF
_WINDOW = 0xFFFF_FFFF_FFFF_FFFF
SPANS = 16
"""Parts of its lifetime by which nonces are forgotten."""


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
    return _HASHERS[algorithm](text.encode("utf-8", "surrogateescape")).hexdigest()


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
        second += ":" + _HASHERS[algorithm](body).hexdigest()
    middle = credentials.nonce
    if credentials.qop:
        middle = f"{middle}:{credentials.count}:{credentials.cnonce}:{credentials.qop}"
    return _hex(algorithm, f"{secret}:{middle}:{_hex(algorithm, second)}")


def right(params: Mapping[str, str], secret: str, algorithm: str, method: str) -> bool:
    """Whether what `plain_params` has read, with qop "auth", is the answer of who knows the HA1 `secret`."""
    second = _hex(algorithm, f"{method}:{params['uri']}")
    first = f"{secret}:{params['nonce']}:{params['nc']}:{params['cnonce']}:auth:{second}"
    return hmac.compare_digest(_hex(algorithm, first), params["response"])


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
    params = plain_params(line)
    return _credentials(spelled_params(line) if params is None else params)


def spelled_params(line: str) -> dict[str, str]:
    """The parameters of an Authorization line in whatever way it is written."""
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
    return params


def plain_params(line: str) -> dict[str, str] | None:
    """The parameters of an Authorization line that is written as nearly all are, None for any other.

    Each name a known one, in lower case and once; nothing escaped, no comma between quotes, all of it ASCII.
    """
    if not line.startswith("Digest ") or not line.isascii() or "\\" in line or len(line) > MAX_FIELD:
        return None
    pieces = line[7:].split(",")
    if len(pieces) > MAX_PARAMS:
        return None
    names = _NAMES
    params: dict[str, str] = {}
    for piece in pieces:
        name, _, value = piece.strip(" ").partition("=")
        if name not in names or name in params or len(value) < 1:
            return None
        if value[0] == '"':
            if len(value) < 2 or value[-1] != '"':
                return None
            value = value[1:-1]
            if '"' in value:
                return None
        elif not value.isalnum() and value not in _HASHES:
            return None
        params[name] = value
    return params


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
    the oldest are forgotten, and whatever is not younger counts as stale from then on: nothing is accepted twice.
    """

    __slots__ = ("_count", "_floor", "_key", "_lifetime_us", "_max", "_seen", "_span_us")

    def __init__(self, key: bytes, lifetime_s: float = 300.0, max_nonces: int = 65_536) -> None:
        self._key = key if len(key) <= 32 else blake2s(key).digest()
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._span_us = self._lifetime_us // SPANS + 1
        self._max = max_nonces
        # By when they were made, in spans, so that the old ones go all at once. Of each the highest count, and above
        # its 32 bits one for each of the 64 counts below it: most are used once, which is the number 1.
        self._seen: dict[int, dict[str, int]] = {}
        self._count = 0
        self._floor = -1

    def __len__(self) -> int:
        return self._count

    def make(self, salt: str, now: float, host: str = "") -> str:
        """A new nonce for `host`. `salt`, up to 16 letters and digits, tells apart those of one moment."""
        made = f"{int(now * 1_000_000):016x}{salt[:16]}"
        return made + self._mac(made, host)

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
        good = hmac.compare_digest(response.encode(), credentials.response.encode("utf-8", "surrogateescape"))
        if not good or secret is None or credentials.session or credentials.qop == "auth-int":
            return Check.WRONG
        if not same_resource(credentials.uri, uri, own):
            return Check.OTHER_URI
        # Without qop there is no count: such a nonce is good once.
        return Check.GOOD if self.use(credentials.nonce, credentials.nc or 1, now, host) else Check.STALE

    def use(self, nonce: str, nc: int, now: float, host: str) -> bool:
        """Count `nc` of this nonce as used; False for one that is not good, or not any more."""
        made = self.made(nonce, now, host)
        if made is None:
            return False
        span = made // self._span_us
        seen = self._seen.get(span)
        known = 0 if seen is None else seen.get(nonce, 0)
        if known == 0:
            if made <= self._floor:
                return False
            if seen is None or self._count >= self._max:
                self._make_room(int(now * 1_000_000) - self._lifetime_us)
                seen = self._seen.setdefault(span, {})
            seen[nonce] = nc
            self._count += 1
            return True
        assert seen is not None
        highest, window = known & _COUNTS, known >> 32
        if nc > highest:
            shift = nc - highest
            window = ((window << shift) | (1 << (shift - 1))) & _WINDOW if shift <= 64 else 0
            highest = nc
        else:
            below = highest - nc - 1
            if below < 0 or below >= 64 or window >> below & 1:
                return False
            window |= 1 << below
        seen[nonce] = window << 32 | highest
        return True

    def made(self, nonce: str, now: float, host: str) -> int | None:
        """When a nonce of ours for `host` that is still good was made, in microseconds; None for any other."""
        if not 48 <= len(nonce) <= 64 or not nonce.isascii():
            return None
        head = nonce[:-32]
        if not hmac.compare_digest(self._mac(head, host), nonce[-32:]):
            return None
        made = int(head[:16], 16)
        return made if 0 <= int(now * 1_000_000) - made <= self._lifetime_us else None

    def _make_room(self, oldest: int) -> None:
        """Forget what is older than `oldest`, and as much more as is needed for one more."""
        first = oldest // self._span_us
        while self._seen:
            span = min(self._seen)
            if span >= first and self._count < self._max:
                return
            gone = self._seen.pop(span)
            self._count -= len(gone)
            self._floor = max(self._floor, *[int(nonce[:16], 16) for nonce in gone])

    def _mac(self, made: str, host: str) -> str:
        # Neither a time nor a salt has a space: the two together read in one way only.
        return blake2s(f"{made} {host}".encode(), key=self._key, digest_size=16).hexdigest()


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
