"""What a leg exchanges with the wire: its requests, the peer's, and its effects."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from config.frozen import frozen
from signaling.authorizer import Attempt
from signaling.errors import PeerError
from signaling.events import Event, Updated
from signaling.flow import Flow
from signaling.headers import is_token
from signaling.message import Message, Request, Response
from signaling.multipart import part_of
from signaling.session_timer import SessionTimer
from signaling.transaction import ClientTx, ServerTx

if TYPE_CHECKING:
    from signaling.leg import Leg

ALLOWED = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "INFO", "UPDATE", "MESSAGE", "NOTIFY")
ALLOW = ", ".join(ALLOWED)
INSIDE = ("INFO", "MESSAGE", "OPTIONS", "NOTIFY")
KNOWN = (*ALLOWED, "REGISTER", "PRACK", "SUBSCRIBE", "REFER", "PUBLISH")
SUPPORTED = "timer"
MAX_UNKNOWN = 8
SDP = "application/sdp"


class State(Enum):
    """Where a leg stands."""

    INVITED = "invited"  # the peer's INVITE has no final answer yet
    CALLING = "calling"  # our INVITE has no final answer yet
    CANCELLING = "cancelling"  # we gave up our INVITE; its final answer is outstanding
    UP = "up"
    LAST_ACK = "last-ack"  # to be released, but our 2xx has no ACK yet (RFC 3261 s.15)
    RELEASING = "releasing"  # our BYE has no answer yet
    LEAVING = "leaving"  # the BYE of a phone has no answer yet: its registrar may want to see who it is
    ENDED = "ended"


class Role(StrEnum):
    """Whose leg it is: a phone and its registrar settle between themselves who the phone is."""

    PEER = "peer"  # anybody: what it asks for is answered by us or by nobody
    PHONE = "phone"
    REGISTRAR = "registrar"


OTHER_ROLE = {Role.PEER: Role.PEER, Role.PHONE: Role.REGISTRAR, Role.REGISTRAR: Role.PHONE}


class Purpose(Enum):
    """What a request of ours is for."""

    CALL = "call"
    UPDATE = "update"  # carries an `Updated` of the other leg
    REFRESH = "refresh"  # session timer
    INFORM = "inform"  # carries an `Informed` of the other leg
    CHECK = "check"  # is the peer still there?
    BYE = "bye"
    BYE_FORK = "bye-fork"  # ends a dialog beside that of the leg


class Phase(Enum):
    """How far an INVITE (or UPDATE) has come."""

    PENDING = "pending"  # no final answer yet
    ANSWERED = "answered"  # 2xx, the ACK is outstanding
    CANCELLED = "cancelled"  # by us; the final answer is outstanding
    CHALLENGED = "challenged"  # by 401 or 407; the same request with credentials has taken its place


class Asked:
    """A request of ours and the owner of its client transaction.

    `sdp` is the offer in it, `number` that of an `Informed`, `update` the event that it carries, `attempt` what
    answers a challenge needs of it, where there are credentials for the peer.
    """

    # Written out: a compiled data class needs the types of its fields when its module is loaded, and `Leg`
    # comes after this one.
    __slots__ = (
        "ack",
        "attempt",
        "cseq",
        "leg",
        "method",
        "number",
        "phase",
        "purpose",
        "sdp",
        "tx",
        "update",
    )

    def __init__(
        self,
        leg: "Leg",
        purpose: Purpose,
        method: str,
        cseq: int,
        sdp: bytes | None = None,
    ) -> None:
        self.leg = leg
        self.purpose = purpose
        self.method = method
        self.cseq = cseq
        self.sdp = sdp
        self.number = 0
        self.update: Updated | None = None
        self.phase = Phase.PENDING
        self.tx: ClientTx | None = None
        self.ack: Request | None = None
        self.attempt: Attempt | None = None

    def again(self, cseq: int, attempt: Attempt) -> "Asked":
        """The same once more, in a transaction of its own."""
        twin = Asked(self.leg, self.purpose, self.method, cseq, self.sdp)
        twin.number, twin.update = self.number, self.update
        twin.phase, twin.ack, twin.attempt = self.phase, self.ack, attempt
        return twin


@dataclass(slots=True, eq=False)
class Served:
    """An INVITE or UPDATE of the peer.

    `sdp` is the offer in it, `timer` what our 2xx will agree to, `response` that 2xx while it waits for the ACK.
    """

    tx: ServerTx
    request: Request
    sdp: bytes | None
    timer: SessionTimer | None
    phase: Phase = Phase.PENDING
    response: Response | None = None
    interval: float = 0.0
    give_up_at: float = 0.0


@frozen
class LegSettings:
    """The numbers a leg works by, in seconds; 0 switches a timer off."""

    t1: float = 0.5
    t2: float = 4.0
    trying_timeout_s: float = 4.0
    no_answer_s: float = 180.0
    session_expires_s: int = 1800
    min_se_s: int = 90
    dialog_check_s: float = 0.0


@frozen
class SendRequest:
    """Open a client transaction for `request`; its owner is `asked`."""

    asked: Asked
    request: Request
    flow: Flow


@frozen
class SendAck:
    """Send the ACK of a 2xx (RFC 3261 s.13.2.2.4): no transaction."""

    request: Request
    flow: Flow


@frozen
class Respond:
    """Answer a server transaction."""

    tx: ServerTx
    response: Response


@frozen
class CancelRequest:
    """Cancel the client transaction of `asked` (RFC 3261 s.9.1)."""

    asked: Asked
    fields: tuple[tuple[str, str], ...]


@frozen
class Opened:
    """Requests with this Call-ID and this To tag belong to the leg from now on."""

    call_id: str
    tag: str


@frozen
class Challenged:
    """For the call's record: a request of `method` was challenged. `outcome` is empty when it is answered."""

    method: str
    status: int
    realm: str
    outcome: str


@frozen
class Raise:
    """Tell the other leg."""

    event: Event


@frozen
class Ended:
    """Nothing more will come from this leg."""


Effect = SendRequest | SendAck | Respond | CancelRequest | Opened | Challenged | Raise | Ended


def check_extensions(request: Request, known: Collection[str] = (SUPPORTED,)) -> None:
    """420 for an extension that the peer requires and that is not `known` here (RFC 3261 s.8.2.2.3)."""
    unknown = [value for value in request.values("Require") if value and value.lower() not in known]
    if not all(map(is_token, unknown)):
        raise PeerError(400, "Require is malformed", "bad-require")
    if unknown:
        raise PeerError(420, "Bad Extension", "bad-extension", extensions=tuple(unknown[:MAX_UNKNOWN]))


def session_body(message: Message) -> bytes | None:
    """The SDP of a message, None where there is no body; 415 for a body that we cannot serve (s.8.2.3)."""
    if not message.body:
        return None
    if (message.get("Content-Encoding") or "identity").lower() != "identity":
        raise PeerError(415, "Unsupported Media Type", "content-encoding")
    kind = message.content_type
    if kind == SDP:
        return message.body
    if kind == "multipart/mixed":
        return part_of(message.get("Content-Type") or "", message.body, SDP)
    if "handling=optional" in (message.get("Content-Disposition") or "").replace(" ", "").lower():
        return None
    raise PeerError(415, "Unsupported Media Type", "unknown-body")


def answer_body(response: Response) -> tuple[bytes | None, PeerError | None]:
    """The SDP of a response, and what is wrong with its body: a response cannot be refused."""
    try:
        return session_body(response), None
    except PeerError as error:
        return None, PeerError(502, error.reason, error.rule)


# Answers that are between the peer and us alone: the other side has nothing to answer them with, as what they ask for
# has to be in our own request. They stay in their class: as it is, the call is not taken there, and nobody is to
# believe that a server has failed (RFC 3261 s.21.4, s.21.5).
_OURS_ALONE = {401: 403, 407: 403, 420: 488, 421: 488, 422: 488, 423: 480, 439: 480, 494: 403}


def crossing_status(status: int) -> int:
    """The status of a failure as the other side is told it."""
    return _OURS_ALONE.get(status, status)


def allows(message: Message, method: str) -> bool:
    """Whether the sender lists `method` in Allow."""
    return method in message.values("Allow")


def retry_after(response: Response) -> int | None:
    """The seconds of a Retry-After field, if it has a usable one (RFC 3261 s.20.33)."""
    text = (response.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
