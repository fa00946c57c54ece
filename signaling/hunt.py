"""Who is asked to take a call, at once and one after the other (RFC 3261 s.16.6, s.16.7, as far as a B2BUA is one).

Targets come in groups: those of one group ring at once, each in a `Branch`, and the next group is tried when all
of them have failed. A branch may have several servers, which are tried in turn. A hunt ends with a 2xx, with a
6xx, or when nobody is left; then the best of the failures is the answer.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from signaling.callee import MAX_FORKS
from signaling.events import Offered, Redirected, Rejected
from signaling.exchange import crossing_status
from signaling.leg import Leg
from signaling.phrases import reason_phrase

UNREACHABLE = ("server-timeout", "server-unreachable")
MAX_REDIRECTED = 5


class Target(Protocol):
    """One place to send the call to, as policy chose it."""

    @property
    def trunk(self) -> str:
        """Its name for people."""

    @property
    def failover_on(self) -> frozenset[int]:
        """Final answers that make the call go on to the next target."""

    @property
    def redirects(self) -> str:
        """ "follow" or "pass" for 3xx answers."""

    @property
    def contact(self) -> str:
        """The Request-URI of a phone, empty for a server."""

    @property
    def group(self) -> int:
        """Neighbours of one group ring at once; those of group 0 are tried one after the other."""

    @property
    def spare(self) -> bool:
        """Whether it is another way to the place before it, to be gone when that way fails."""

    @property
    def ring_s(self) -> float:
        """How long it may ring while another group waits, in seconds; 0 for as long as it likes."""


@dataclass(slots=True, eq=False)
class Branch:
    """A target that is being tried as leg `name`, and the servers that may be tried in its place.

    `leg` is None until it is dialled. `ring_until` is when the next group's turn comes.
    """

    name: str
    number: int
    target: Target
    group: int
    rest: deque[Target]
    leg: Leg | None = None
    ring_until: float | None = None

    def early(self, number: int) -> int:
        """What an early dialog of the leg is called among those of all branches."""
        return number + MAX_FORKS * (self.number - 1)


@dataclass(slots=True)
class Failure:
    """How a branch has ended; `by` is "b" when the peer said so, else "sbc". `local`: by a lack of our own."""

    event: Rejected | Redirected
    by: str
    local: bool = False


class Hunt:
    """The search for somebody who takes what is `offered`. `branches` are those that ring, by the names of legs."""

    __slots__ = ("_best", "_failed", "_redirected", "_targets", "_tried", "branches", "early", "offered")

    def __init__(self, targets: Sequence[Target], offered: Offered) -> None:
        self.offered = offered
        self.branches: dict[str, Branch] = {}
        self.early = ""  # the branch whose early media the caller hears
        self._redirected = 0
        self._targets = deque(targets)
        self._tried = 0
        self._failed = 0
        self._best: Failure | None = None

    def next_group(self, now: float) -> list[Branch]:
        """The branches that are to ring now; empty when nobody is left."""
        targets = self._targets
        if not targets:
            return []
        group = targets[0].group
        lines: list[deque[Target]] = []
        while targets and targets[0].group == group:
            target = targets.popleft()
            # The servers of one trunk are one place to call. So is everything that does not ring at once.
            server = not target.contact and bool(lines) and target.trunk == lines[-1][0].trunk
            if lines and (not group or target.spare or server):
                lines[-1].append(target)
            else:
                lines.append(deque((target,)))
        return [self._start(line.popleft(), group, line, now) for line in lines]

    def _start(self, target: Target, group: int, rest: deque[Target], now: float) -> Branch:
        self._tried += 1
        ring_until = now + target.ring_s if target.ring_s and self._targets else None
        branch = Branch(f"b{self._tried}", self._tried, target, group, rest, None, ring_until)
        self.branches[branch.name] = branch
        return branch

    def again(self, branch: Branch, now: float) -> Branch:
        """The next server in the place of one that did not take the call."""
        del self.branches[branch.name]
        return self._start(branch.rest.popleft(), branch.group, branch.rest, now)

    def stop(self, branch: Branch) -> None:
        """Nobody else is to ring, neither after this branch nor in its place."""
        branch.rest.clear()
        self._targets.clear()

    def branch_of(self, leg: Leg) -> Branch | None:
        """The branch that rings as `leg`; None when it was given up."""
        branch = self.branches.get(leg.name)
        return branch if branch is not None and branch.leg is leg else None

    def plays(self, branch: Branch) -> bool:
        """Whether the caller hears the early media of this branch. One can be heard at a time: the first."""
        if self.early not in self.branches:
            self.early = branch.name
        return self.early == branch.name

    def follows(self, branch: Branch) -> bool:
        """Whether policy is to be asked where the redirect of this branch leads, and not too often."""
        if branch.target.redirects != "follow" or self._redirected >= MAX_REDIRECTED:
            return False
        self._redirected += 1
        return True

    def failed(
        self, branch: Branch, event: Rejected | Redirected, now: float, local: bool = False
    ) -> list[Branch] | Failure:
        """A branch has come to its end, `local` by a lack of our own: who is to ring now, none while others still do.

        The verdict when the hunt is over: when nobody is left, or one has declined for all (RFC 3261 s.16.7 step 5).
        """
        unreachable = isinstance(event, Rejected) and event.rule in UNREACHABLE
        goes_on = unreachable or event.status in branch.target.failover_on
        if goes_on and branch.rest:
            return [self.again(branch, now)]
        del self.branches[branch.name]
        self._failed += 1
        by = "sbc" if local or (isinstance(event, Rejected) and event.rule != "peer-rejected") else "b"
        best = self._best
        if best is None or rank(event) < rank(best.event):
            self._best = Failure(event, by, local)
        if event.status < 600:
            if self.branches:
                return []
            if self._targets and (goes_on or branch.group):
                return self.next_group(now)
        return self.verdict()

    def verdict(self) -> Failure:
        """What the caller is told when nobody takes the call."""
        best = self._best
        if best is None:
            return Failure(Rejected(503, "Service Unavailable", "no-target"), "sbc")
        event = best.event
        if isinstance(event, Redirected):
            return best
        if event.challenge:
            return best
        if event.status in (401, 407):
            # The challenge is between the trunk and us; the caller has no credentials for it.
            return Failure(Rejected(403, "Forbidden", "trunk-wants-credentials"), "sbc")
        status = crossing_status(event.status)
        if status == 503 and self._failed > 1 and not best.local:
            # RFC 3261 s.16.7 step 6: one that is overloaded says nothing of us, and the caller would avoid us.
            return Failure(replace(event, status=500, reason=reason_phrase(500), retry_after_s=None), best.by)
        if status != event.status:
            return Failure(replace(event, status=status, reason=reason_phrase(status)), best.by)
        return best

    def next_timer(self) -> float | None:
        """When a branch has rung for long enough."""
        times = [one.ring_until for one in self.branches.values() if one.ring_until is not None]
        return min(times) if times else None

    def overdue(self, now: float) -> list[Branch]:
        """The branches that have."""
        return [one for one in self.branches.values() if one.ring_until is not None and one.ring_until <= now]


# Among 4xx: what the caller can do something about comes first, what says only that nobody was there comes last.
_TELLING = frozenset({415, 420, 484, 488})
_MUTE = frozenset({401, 407, 408, 430, 480, 487})


def rank(event: Rejected | Redirected) -> tuple[int, int]:
    """How good an answer it is for the caller, the least is the best (RFC 3261 s.16.7 step 6)."""
    status = event.status
    family = 0 if status >= 600 else status // 100
    return family, 0 if status in _TELLING else 2 if status in _MUTE else 1
