"""Short-lived credentials for a TURN server that shares a secret with us (RFC 8656; the "REST API for access to TURN").

The user name says until when it is good, and the password is a keyed hash of it, so the server needs no list of users:
coturn has it as `use-auth-secret`, other servers likewise.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

MAX_USER = 128


@dataclass(frozen=True, slots=True)
class TurnCredentials:
    """What a phone or browser gives to the TURN server; `expires` in seconds since the epoch."""

    username: str
    password: str = field(repr=False)
    expires: int


def issue(secret: str, user: str, now: float, ttl_s: int) -> TurnCredentials:
    """Credentials for `user`, good for `ttl_s` seconds from `now` (since the epoch).

    Raises ValueError for a user that cannot stand in a user name: the ":" parts it from the time.
    """
    if not user or len(user) > MAX_USER or ":" in user or not user.isprintable() or " " in user:
        raise ValueError(f"a user has 1 to {MAX_USER} characters, without spaces and colons")
    expires = int(now) + ttl_s
    username = f"{expires}:{user}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return TurnCredentials(username, base64.b64encode(digest).decode(), expires)
