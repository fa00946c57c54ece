"""Who may send to a port: learning and locking of a media source (design.md s.4.6, RFC 4961, RFC 7362).

A source ranks by why it is believed:

NAMED     exactly the signalled address and port: locks with its first packet, in every mode;
EXPECTED  the signalled host or `expect` with another port, unless learning is off: their packets pass at
          once, FREE_PACKETS of them at most, and it locks after PROBATION consistent ones;
ANYONE    any other host, in mode "any" only: nothing passes before it locks, which takes PROBATION consistent
          packets inside the window, and where `expect` is given only in the second half of the window, so
          that the expected host has the first word.

The window runs from the opening or the last change of the stream, and bounds learning from hosts that nobody
named. A host that signalling did name may begin late (a muted phone) and is learned when it does. A higher
rank displaces a lower one at any time; a lower or equal one never displaces, with one exception, NAT
rebinding: the same host goes on with the same SSRC and sequence from another port after the old port fell
silent. Everything else is a stranger: dropped, counted, never answered.
"""

from collections.abc import Callable
from typing import Final

Sockaddr = tuple[str, int] | tuple[str, int, int, int]
"""An address as the socket gives it: two items for IPv4, four for IPv6."""

# One packet is no proof that somebody talks to us: a scanner sends one to every port. Five in sequence (100 ms) are.
PROBATION = 5
FREE_PACKETS = 5
# Loss within the probation must not start it again.
MAX_GAP = 8
# Bounds what a spray from many ports can make us remember.
MAX_CANDIDATES = 64
REBIND_SILENCE_S = 1.0

STRANGER: Final = 0
PASS: Final = 1
LOCKED: Final = 2
UNPROVEN: Final = 3

_NOBODY = -1
_ANYONE = 0
_EXPECTED = 1
_NAMED = 2


class Candidate:
    """A source on probation."""

    __slots__ = ("at", "count", "seq", "ssrc")

    def __init__(self, ssrc: int, seq: int, at: float) -> None:
        self.ssrc = ssrc
        self.seq = seq
        self.count = 1
        self.at = at


class SourceGate:
    """The source of one end's RTP. The fast path of the relay compares with `source` and asks here otherwise."""

    __slots__ = (
        "_candidates",
        "_expect",
        "_free",
        "_learn",
        "_named",
        "_rank",
        "_since",
        "_window_s",
        "epoch",
        "source",
    )

    def __init__(self, window_s: float, now: float) -> None:
        self.source: Sockaddr | None = None
        self.epoch = 0
        self._window_s = window_s
        self._since = now
        self._learn = "off"
        self._named: Sockaddr | None = None
        self._expect: str | None = None
        self._rank = _NOBODY
        self._free = FREE_PACKETS
        self._candidates: dict[Sockaddr, Candidate] | None = None

    def configure(self, learn: str, named: Sockaddr | None, expect: str | None, epoch: int) -> None:
        """Set the policy. A new epoch, or with learning off a new address, forgets the source."""
        if epoch != self.epoch or (learn == "off" and self.source is not None and self.source != named):
            self.forget()
        self.epoch = epoch
        self._learn = learn
        self._named = named
        if expect is None and named is not None:
            expect = named[0]
        self._expect = expect

    def restart_window(self, now: float) -> None:
        """The stream has changed (an answer came): whoever was let in without being named must prove it again."""
        self._since = now
        if self._rank == _ANYONE:
            self.forget()
        elif self.source is None:
            self._free = FREE_PACKETS

    def forget(self) -> None:
        """Unlock; what follows is a new epoch."""
        self.source = None
        self._rank = _NOBODY
        self._free = FREE_PACKETS
        self._candidates = None

    def restore(self, source: Sockaddr) -> None:
        """Take a source as locked that was learned before the worker was replaced."""
        self._lock(source, max(self._rank_of(source), _ANYONE))

    def admit(
        self,
        source: Sockaddr,
        ssrc: int,
        seq: int,
        now: float,
        heard: float,
        follows: Callable[[int, int], bool],
    ) -> int:
        """Judge a valid packet that is not from the locked source: STRANGER, PASS or LOCKED (now locked).

        `heard` is when the locked source was last heard, `follows` tells whether (SSRC, sequence number) would
        continue its stream. For UDPTL the SSRC is 0 and the sequence number its own.
        """
        rank = self._rank_of(source)
        if rank == _NOBODY:
            return STRANGER
        locked = self.source
        if locked is not None and rank <= self._rank:
            rebinding = (
                rank >= _EXPECTED
                and source[0] == locked[0]
                and now - heard >= REBIND_SILENCE_S
                and follows(ssrc, seq)
            )
            if rebinding and self._proven(source, ssrc, seq, now):
                self._lock(source, rank)
                return LOCKED
            return STRANGER
        if rank == _NAMED:
            self._lock(source, rank)
            return LOCKED
        if rank == _ANYONE:
            age = now - self._since
            if age > self._window_s or (self._expect is not None and age < self._window_s / 2):
                return STRANGER
        if self._proven(source, ssrc, seq, now):
            self._lock(source, rank)
            return LOCKED
        if rank == _EXPECTED and self._free > 0:
            self._free -= 1
            return PASS
        return STRANGER

    def _rank_of(self, source: Sockaddr) -> int:
        if source == self._named:
            return _NAMED
        if self._learn == "off":
            return _NOBODY
        if source[0] == self._expect or (self._named is not None and source[0] == self._named[0]):
            return _EXPECTED
        return _ANYONE if self._learn == "any" else _NOBODY

    def _lock(self, source: Sockaddr, rank: int) -> None:
        self.source = source
        self._rank = rank
        self._candidates = None

    def _proven(self, source: Sockaddr, ssrc: int, seq: int, now: float) -> bool:
        candidates = self._candidates
        if candidates is None:
            candidates = self._candidates = {}
        candidate = candidates.get(source)
        if candidate is None:
            if len(candidates) >= MAX_CANDIDATES:
                # Whoever has shown only one packet makes room, so that a spray cannot keep a real sender out.
                stalest = min(candidates.items(), key=lambda item: (item[1].count > 1, item[1].at))
                del candidates[stalest[0]]
            candidates[source] = Candidate(ssrc, seq, now)
            return False
        step = (seq - candidate.seq) & 0xFFFF
        if candidate.ssrc != ssrc or step > MAX_GAP:
            candidate.ssrc = ssrc
            candidate.count = 1
        elif step:
            # A repeated packet (fax gateways send each several times) neither helps nor harms.
            candidate.count += 1
        candidate.seq = seq
        candidate.at = now
        return candidate.count >= PROBATION


class RtcpGate:
    """The source of one end's RTCP: the signalled address, or any port of the host that RTP comes from.

    Phones behind one NAT share a host. So RTCP from a port that nobody named has to prove first that it belongs to this
    end; one packet that does is enough, since there is one in five seconds.
    """

    __slots__ = ("_heard", "_learn", "_named", "source")

    def __init__(self) -> None:
        self.source: Sockaddr | None = None
        self._learn = "off"
        self._named: Sockaddr | None = None
        self._heard = 0.0

    def configure(self, learn: str, named: Sockaddr | None) -> None:
        """Set the policy; with learning off a new address forgets the source."""
        self._learn = learn
        self._named = named
        if learn == "off" and self.source != named:
            self.source = None

    def follow(self, rtp: Sockaddr | None) -> None:
        """RTP has another source now: RTCP of another host is not believed any longer."""
        if self.source is not None and (rtp is None or rtp[0] != self.source[0]):
            self.source = None

    def judge(self, source: Sockaddr, rtp: Sockaddr | None, now: float) -> int:
        """Judge RTCP from `source`: PASS, UNPROVEN (when it proves itself it may) or STRANGER.

        `rtp` is the locked RTP source. What may pass and is valid is to `lock`.
        """
        if source == self.source:
            return PASS
        if rtp is not None and rtp[0] != source[0]:
            return STRANGER
        if source == self._named:
            return PASS
        if self._learn == "off" or rtp is None:
            return STRANGER
        if self.source is not None and now - self._heard < REBIND_SILENCE_S:
            return STRANGER
        return UNPROVEN

    def lock(self, source: Sockaddr, now: float) -> None:
        """Valid RTCP from a source that may pass has come."""
        self.source = source
        self._heard = now
