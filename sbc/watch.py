"""The guard at work: what the sides of a call have told, what may leave, and what comes of a message that may not.

What to look for is in `signaling/guard.py`; this is `topology: verify` (design.md s.4.1).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from sbc.answers import error_fields
from sbc.decisions import Decision
from sbc.record import CallRecord
from signaling.b2bua import Call
from signaling.call_effects import Effect as CallEffect
from signaling.errors import PeerError
from signaling.events import InformAnswered, Rejected, UpdateRejected
from signaling.exchange import Asked, Raise
from signaling.exchange import Effect as LegEffect
from signaling.guard import Guard, Secrets
from signaling.leg import Leg
from signaling.location import without_location
from signaling.message import Request, Response, respond
from signaling.phrases import reason_phrase, warning
from signaling.topology import Carried

MAX_PAST = 256
"""Calls that are over and whose legs the guard still knows the secrets of."""
LEAK = "topology-leak"
"""The reason id of a message that `topology: verify: block` has kept from leaving."""


@dataclass(slots=True, eq=False)
class Watched:
    """A call under guard: its record, and what was told by the caller's side ("a") and by that of all who are called
    ("b").
    """

    record: CallRecord
    told: dict[str, Secrets] = field(default_factory=dict)

    def of(self, name: str) -> Secrets:
        """What the side of leg `name` has told."""
        side = "a" if name == "a" else "b"
        told = self.told.get(side)
        if told is None:
            told = self.told[side] = Secrets()
        return told


class Watch:
    """Looks at what leaves for either side of any call, and remembers what each has told.

    `blocks`: a message is looked at before a transaction has it, and one that tells does not leave. `past` has the
    calls that are over, by id: a 2xx that comes too late is still answered, and that is looked at as well.
    """

    def __init__(self, stats: Counter[str], wall: Callable[[], float]) -> None:
        self.past: dict[str, Watched] = {}
        self._stats = stats
        self._wall = wall

    def configure(self, verify: str, own: Iterable[str]) -> None:
        """`verify` is the setting; `own` is what we may say to anybody."""
        self.blocks = verify == "block"
        self._verify = verify
        self._guard = Guard(own)

    def tell(self, watched: Watched, name: str, words: Iterable[str]) -> None:
        """The side of leg `name` knows these words."""
        if self._verify != "off":
            watched.of(name).tell(words)

    def learn(self, watched: Watched, name: str, message: Request | Response) -> None:
        """A message has come by leg `name`: what only its side may know is not for the other."""
        if self._verify != "off":
            self._guard.learn(watched.of(name), message)

    def over(self, watched: Watched) -> None:
        """The call is gone, but not all that its legs may have to say."""
        if watched.told:
            self.past[watched.record.id] = watched
            if len(self.past) > MAX_PAST:
                del self.past[next(iter(self.past))]

    def passes(self, watched: Watched | None, name: str, data: bytes) -> bool:
        """Whether the bytes may leave by leg `name`: they must hold nothing of the other side."""
        verify = self._verify
        if verify == "off" or watched is None:
            return True
        hearer, speaker = ("a", "b") if name == "a" else ("b", "a")
        secrets = watched.told.get(speaker)
        if secrets is None:
            return True
        leaks = self._guard.scan(secrets, data, watched.told.get(hearer))
        if leaks:  # the place of a caller in need crosses as it is
            leaks = self._guard.scan(secrets, without_location(data), watched.told.get(hearer))
        if not leaks:
            return True
        watched.record.leaks += len(leaks)
        self._stats["topology:leaks"] += len(leaks)
        watched.record.decide(
            Decision("topology", "topology.verify", (("leaked", ", ".join(leaks)),), verify),
            self._wall(),
        )
        return verify != "block"

    def withholds(self, watched: Watched | None, name: str, message: Request | Response) -> bool:
        """Whether a message must not leave. It is looked at before a transaction has it, which would repeat it."""
        return self.blocks and not self.passes(watched, name, message.encode())

    def courtesy(
        self, watched: Watched | None, name: str, fields: Sequence[tuple[str, str]]
    ) -> Sequence[tuple[str, str]]:
        """The fields of a message that must go all the same: none when they tell."""
        if fields and self.blocks:
            text = "\r\n".join(value for _, value in fields).encode("utf-8", "surrogateescape")
            return fields if self.passes(watched, name, text) else ()
        return fields


def instead(request: Request, withheld: Response, reference: str) -> Response:
    """What answers `request` in place of a response that must not leave."""
    fields = error_fields(PeerError(500, reason_phrase(500), LEAK), reference, 0)
    return respond(request, 500, reason_phrase(500), withheld.to_tag or LEAK, fields)


@dataclass(slots=True, eq=False)
class Unsent:
    """A message of `leg` that did not leave, and that somebody waits for: a request of ours, or (None) an answer that
    had to open the call.
    """

    leg: Leg
    asked: Asked | None
    request: Request | None

    def give_up(self, call: Call, now: float) -> list[CallEffect]:
        """Nothing comes of it: who waits for it is told."""
        if self.asked is None or self.request is None:
            unsaid = self.leg.unsaid()
            effects = call.hang_up(LEAK, "our answer would have told of the other side", now)
            return effects + call.on_leg(self.leg, unsaid, now)
        answer = respond(self.request, 500, reason_phrase(500), LEAK)
        told = [_named(effect, call.id) for effect in self.leg.response(self.asked, answer, now)]
        return call.on_leg(self.leg, told, now)


def _named(effect: LegEffect, reference: str) -> LegEffect:
    """A failure that is ours, with its reason id."""
    event = effect.event if isinstance(effect, Raise) else None
    if isinstance(event, Rejected | UpdateRejected):
        return Raise(replace(event, rule=LEAK))
    if isinstance(event, InformAnswered):
        carried = Carried((("Warning", warning(f"{LEAK} {reference}")),))
        return Raise(replace(event, carried=carried))
    return effect
