"""What a call asks of the process that carries it: the effects of `signaling.b2bua.Call`, in order."""

from typing import Literal

from config.frozen import frozen
from signaling.events import Offered
from signaling.exchange import Effect as LegEffect
from signaling.hunt import Target
from signaling.leg import Leg


@frozen
class OnLeg:
    """An effect of one leg."""

    leg: Leg
    effect: LegEffect


@frozen
class Dial:
    """Make the leg `name` towards `target` with what was offered; answered by `dialled` or `not_dialled`."""

    name: str
    target: Target
    offered: Offered


@frozen
class Cross:
    """Rewrite `sdp`, an offer or an answer of `source`, for `target`."""

    kind: Literal["offer", "answer"]
    source: Leg
    target: Leg
    sdp: bytes


@frozen
class RejectOffer:
    """The offer that crossed last was refused: the media session in force stays."""


@frozen
class SettleMedia:
    """The answer that crossed last was the final one: nothing more is kept for another."""


@frozen
class DropLeg:
    """The media made for this leg is not needed."""

    name: str


@frozen
class Follow:
    """A 3xx to leg `name` is to be followed: turn its contacts into targets; answered by `followed`."""

    name: str
    target: Target
    contacts: tuple[str, ...]


@frozen
class Milestone:
    """Something for the call's record: "ringing", "answered", or how a target ended: it did not take the call
    ("tried"), or another one was faster ("lost")."""

    what: Literal["ringing", "answered", "tried", "lost"]
    leg: str
    status: int = 0
    reason: str = ""
    rule: str = ""
    retry_after_s: int | None = None
    target: Target | None = None


@frozen
class Finished:
    """The call is over; the legs may still have goodbyes to say. `by` is "a", "b" or "sbc"."""

    by: str
    cause: str
    text: str
    status: int


@frozen
class Gone:
    """No leg is left: forget the call."""


Effect = OnLeg | Dial | Cross | RejectOffer | SettleMedia | DropLeg | Follow | Milestone | Finished | Gone
