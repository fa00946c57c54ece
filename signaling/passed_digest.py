"""The digest between a phone and its registrar as it passes (RFC 3261 s.22): what the one asks and the other shows.

Nobody else gets to see either: who calls what here is for legs whose `Role` says that they are these two.
"""

from signaling.message import Field, Request, Response

CREDENTIALS = ("Authorization", "Proxy-Authorization")
CHALLENGES = ("WWW-Authenticate", "Proxy-Authenticate")
MAX_LINES = 8


def credentials_of(request: Request) -> tuple[Field, ...]:
    """What a phone shows of itself, verbatim."""
    return tuple((name, value) for name in CREDENTIALS for value in request.get_all(name)[:MAX_LINES])


def challenges_of(response: Response) -> tuple[Field, ...]:
    """What a 401 or 407 asks for, verbatim; nothing for every other response."""
    if response.status not in (401, 407):
        return ()
    return tuple((name, value) for name in CHALLENGES for value in response.get_all(name)[:MAX_LINES])
