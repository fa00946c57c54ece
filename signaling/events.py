"""Call events: what one leg tells the other. Nothing crosses the border unless one of these carries it.

An event has no addresses, tags or identifiers of the network it comes from: identities and header fields are
host-less (`signaling.topology`), `sdp` is a body that the anchor rewrites on the way, `early` is an opaque
number of an early dialog inside the call.
"""

from dataclasses import field, replace
from typing import assert_never

from config.frozen import frozen
from signaling.identity import Identity
from signaling.location import Location
from signaling.topology import NOTHING, Carried

Fields = tuple[tuple[str, str], ...]


@frozen
class Offered:
    """An INVITE that opens a call. `sdp` is None for a late offer (RFC 3264 s.5), `location` in emergencies only."""

    user: str
    caller: Identity
    called: Identity
    sdp: bytes | None
    carried: Carried
    max_forwards: int
    location: Location | None = None


@frozen
class Progressed:
    """A provisional answer above 100, of early dialog `early`; `sdp` is early media."""

    status: int
    reason: str
    early: int
    sdp: bytes | None = None
    carried: Carried = NOTHING


@frozen
class Answered:
    """A 2xx to the INVITE. `sdp` is the answer, or the offer when the INVITE had none.

    `named` is what the caller knows the phone by that has answered, when that wants to be called back there.
    """

    early: int
    sdp: bytes | None = None
    carried: Carried = NOTHING
    named: str = ""


@frozen
class Confirmed:
    """The ACK; `sdp` is the answer to an offer that the 2xx made."""

    sdp: bytes | None = None


@frozen
class Rejected:
    """The call or the update will not be. `rule` names why ("peer-rejected", "server-timeout").

    `challenge` is what the registrar of a phone asks it for, and nobody else.
    """

    status: int
    reason: str
    rule: str
    carried: Carried = NOTHING
    retry_after_s: int | None = None
    challenge: tuple[tuple[str, str], ...] = ()


@frozen
class Redirected:
    """A 3xx. `contacts` are URIs for policy to follow; only their `users` cross to the other leg."""

    status: int
    reason: str
    contacts: tuple[str, ...]
    users: tuple[str, ...] = ()
    carried: Carried = NOTHING


@frozen
class Updated:
    """A re-INVITE or an UPDATE that changes the session; `sdp` None asks the other side for an offer.

    `credentials`, here and below, are what a phone shows to its registrar, and to nobody else.
    """

    sdp: bytes | None
    method: str
    carried: Carried = NOTHING
    credentials: Fields = ()


@frozen
class UpdateAccepted:
    """A 2xx to an `Updated`: the answer, or the offer when the update had none."""

    sdp: bytes | None
    carried: Carried = NOTHING


@frozen
class UpdateRejected:
    """A failure of an `Updated`; the session in force stays (RFC 3261 s.14.1).

    `challenge`, here and below, is what the registrar of a phone asks it for, and nobody else.
    """

    status: int
    reason: str
    rule: str
    carried: Carried = NOTHING
    retry_after_s: int | None = None
    challenge: Fields = ()


@frozen
class UpdateCancelled:
    """The peer cancels the re-INVITE that is under way (RFC 6141 s.3.4); it is still to be answered."""

    carried: Carried = NOTHING


@frozen
class Informed:
    """A request inside the dialog that is no session change: INFO, MESSAGE, OPTIONS, NOTIFY."""

    number: int
    method: str
    content_type: str
    body: bytes
    carried: Carried = NOTHING
    credentials: Fields = ()


@frozen
class InformAnswered:
    """The final answer to the `Informed` with the same number."""

    number: int
    status: int
    reason: str
    content_type: str = ""
    body: bytes = b""
    carried: Carried = NOTHING
    challenge: Fields = ()


@frozen
class Released:
    """The leg is over. `cause` is a slug: "bye", "cancel", "no-ack", "session-timer", "media-silence"."""

    cause: str
    text: str = ""
    carried: Carried = field(default=NOTHING)
    credentials: Fields = ()


@frozen
class ReleaseAnswered:
    """What a registrar says to the BYE of its phone; without `challenge` that is over."""

    status: int
    reason: str
    challenge: Fields = ()


Event = (
    Offered
    | Progressed
    | Answered
    | Confirmed
    | Rejected
    | Redirected
    | Updated
    | UpdateAccepted
    | UpdateRejected
    | UpdateCancelled
    | Informed
    | InformAnswered
    | Released
    | ReleaseAnswered
)


def with_sdp(event: Event, sdp: bytes) -> Event:
    """The event with its SDP rewritten."""
    match event:
        case Answered():  # written out: every call has one
            return Answered(event.early, sdp, event.carried, event.named)
        case Progressed() | Confirmed() | Updated() | UpdateAccepted() | Offered():
            return replace(event, sdp=sdp)
        case Rejected() | Redirected() | UpdateRejected() | UpdateCancelled() | Informed():
            return event
        case InformAnswered() | Released() | ReleaseAnswered():
            return event
        case _:
            assert_never(event)
