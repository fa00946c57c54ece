"""What the registration cores want done."""

from config.frozen import frozen
from sbc.register_request import Registering
from sbc.routing import ServerView
from signaling.flow import Flow
from signaling.message import Request, Response
from signaling.transaction import ServerTx


@frozen
class Asking:
    """A REGISTER that waits for its answer."""

    tx: ServerTx
    request: Request
    flow: Flow
    reading: Registering


@frozen
class Reply:
    """Answer the phone."""

    tx: ServerTx
    response: Response


@frozen
class Relayed:
    """A REGISTER on its way to a registrar behind us: the `number` of the attempt, and who is to be tried next."""

    number: int
    asking: Asking
    trunk: str
    server: ServerView
    others: tuple[ServerView, ...]
    deadline: float


@frozen
class Forward:
    """Send `request` to the server of `relayed`, and hand back what becomes of it with `relayed`."""

    relayed: Relayed
    request: Request


@frozen
class Persist:
    """Write what has changed in the locations, then call `stored(ticket)`."""

    ticket: int


@frozen
class Happened:
    """For the log: `what` is registered, moved, removed, expired, kept, dead or refused, `why` what else there is.

    `before` is the flow that a phone which moved had until now.
    """

    what: str
    user: str
    flow: Flow | None
    why: str = ""
    before: Flow | None = None


Effect = Reply | Forward | Persist | Happened
