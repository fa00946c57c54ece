"""Where SDP meets media: the verbs of the rtpengine ng protocol on one call (design.md s.3)."""

from dataclasses import dataclass
from typing import Protocol

from media.relay import StreamCounters
from sbc.decisions import Decision


@dataclass(frozen=True, slots=True)
class Party:
    """One side of an offer/answer exchange.

    `leg` is unique in the call ("a", "b1", "b2"), `network` the configured network, `peer` the host that the
    signalling of this leg comes from (for learning), `nat` whether policy expects NAT there.
    """

    leg: str
    network: str
    peer: str | None = None
    nat: bool = False


@dataclass(frozen=True, slots=True)
class MediaLine:
    """One stream for people: kind of media, codec in use, both parties' signalled addresses and our ports."""

    stream: int
    media: str
    codec: str
    a_signalled: str
    b_signalled: str
    a_local: str
    b_local: str
    a_direction: str
    b_direction: str


@dataclass(frozen=True, slots=True)
class MediaReport:
    """What the media of a call looks like; `counters` in the order of `lines`, empty until the relay answered."""

    lines: tuple[MediaLine, ...]
    counters: tuple[StreamCounters, ...] = ()


class Anchor(Protocol):
    """SDP in, SDP out. Raises PeerError (488, 503, 400) with the reason; then nothing has changed."""

    def offer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """An offer from `source`, rewritten for `target`. The session in force stays until the answer."""

    def answer(self, call: str, source: Party, target: Party, sdp: bytes) -> bytes:
        """The answer of `source` to the pending offer of `target`, rewritten for `target`; now in force."""

    def reject(self, call: str) -> None:
        """The pending offer was refused: what was in force stays, what was new is freed."""

    def drop(self, call: str, leg: str) -> None:
        """This leg will not come to be (failover): free what was made for it alone."""

    def delete(self, call: str) -> None:
        """The call is over. Final counters come with the relay's `Closed` events."""

    def query(self, call: str) -> MediaReport:
        """The lines of the call as they are now, without counters."""

    def take_decisions(self, call: str) -> list[Decision]:
        """The choices made since the last call of this (codec, nat, media), to be added to the record."""
