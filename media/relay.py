"""The relay as the rest of the process sees it: one-way commands down, events and counters up."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Literal, Protocol

from config.frozen import frozen

Address = tuple[str, int]
Side = Literal["a", "b"]


# The voice hammer (RFC 5245 s.18.5.1, RFC 7675): media to a host that never asked for it. Whoever is there sends
# something within this time: RTP, or if it only listens a receiver report, four of which are due by then (RFC 3550
# s.6.2, one in 5 s). All seconds of sending to hosts that were not proven count, over all addresses of an end: an end
# that moves on to its next victim every now and then gains nothing.
UNHEARD_S = 20.0


class Learn(StrEnum):
    """How an end's source address is found (design.md s.4.6). Once found it is locked; see media/source.py."""

    OFF = "off"  # only the signalled address and port
    PORT = "port"  # the signalled address (`expect`), any port
    ANY = "any"  # any address within the window; `expect` wins over strangers where it is given


@frozen
class PortPair:
    """Two of our UDP ports, `rtp` even and `rtcp` the next one (RFC 3550 s.11), on the bind address `host`."""

    network: str
    host: str
    rtp: int
    rtcp: int

    def __hash__(self) -> int:
        return self.rtp  # few others have it, and it costs nothing


@frozen
class Srtp:
    """SRTP of an end (RFC 3711): `theirs` is the master key with its salt of what comes from it, `ours` of what goes to
    it (RFC 4568 s.6.1); without it nothing does. `suite` is one of `media.srtp.PROFILES`."""

    suite: str
    theirs: bytes = field(repr=False)
    ours: bytes = field(repr=False)


@frozen
class End:
    """One side of a stream.

    `remote` is where packets to this end go, None while unknown. `remote_rtcp` likewise for RTCP. With
    `rtcp_mux` RTCP uses the RTP port (RFC 5761). `expect` is the only host that learning trusts, where known.
    `receive`: packets that come from this end are forwarded (else counted and dropped). `send`: packets are
    forwarded to this end. `codecs` maps payload type to (encoding name, clock rate in Hz), for jitter and MOS.
    `epoch` grows whenever a new source is allowed to be learned again (address change, re-INVITE).
    `proven` are the hosts that surely asked for this media, such as the one that the signalling comes from; None
    takes every host for proven. Any other is sent to for a while only, unless it sends too: see `Withheld`.
    With `srtp` its packets, RTCP too, are opened and sealed; None: plain RTP. Opened ones alone are learned from.
    `events_up`: telephone-events (RFC 4733) that come from it are for the relay process, though the kernel forwards the
    rest.
    """

    local: PortPair
    remote: Address | None = None
    remote_rtcp: Address | None = None
    rtcp_mux: bool = False
    learn: Learn = Learn.OFF
    expect: str | None = None
    receive: bool = True
    send: bool = True
    codecs: tuple[tuple[int, str, int], ...] = ()
    epoch: int = 0
    proven: tuple[str, ...] | None = None
    srtp: Srtp | None = None
    events_up: bool = False


@frozen
class StreamSpec:
    """One m= line of one call: two ends. `kind` "rtp" or "udptl" (T.38: one port, no RTP checks, no RTCP).

    Silence limits in seconds, 0 switches one off: `start_s` without any packet since opening, `silence_s` after
    the last one. A stream is silent when neither side that may send (`receive`) sends. Their clocks, and the
    window of `window_s` in which sources may be learned, start again with every change of the stream. `unheard_s`:
    for so long packets go to hosts that are not proven, 0 for ever.
    """

    id: int
    call: str
    kind: Literal["rtp", "udptl"]
    a: End
    b: End
    window_s: float = 10.0
    start_s: float = 0.0
    silence_s: float = 0.0
    unheard_s: float = UNHEARD_S


@frozen
class Counters:
    """What came from one end (RTP unless the name says RTCP), cumulative since the stream was opened.

    `lost` by RFC 3550 s.A.3 (may be negative with duplicates), `jitter_ms` by s.A.8, `max_jitter_ms` its peak,
    `rtt_ms` between us and this end, from RTCP (s.6.4.1), or None, `mos` by ITU-T G.107 or None without RTP.
    `strangers`: packets from a source that is not ours. `muted`: packets that came while `receive` was false.
    `malformed`: not RTP at all. `source` the locked RTP source. `last_s` seconds since the last packet, None for
    never. `dropped`: lost in our own receive queue (they are part of `lost` too). `other_protocols`: STUN and
    DTLS from the source. `withheld`: not forwarded, since the other end never showed that it wants them.
    `stranger` is where the last of the strangers came from. `reports`: blocks in its RTCP on what it hears, and
    `reported_loss` the share that was lost on the way to it, as the last of them says (RFC 3550 s.6.4.1).
    `unauthentic`: SRTP and SRTCP packets that could not be opened: wrong key, forged, or come before.
    `in_kernel`: how many of those forwarded the kernel has forwarded by itself.
    """

    packets: int = 0
    bytes: int = 0
    forwarded: int = 0
    lost: int = 0
    jitter_ms: float = 0.0
    max_jitter_ms: float = 0.0
    reordered: int = 0
    resets: int = 0
    ssrc_changes: int = 0
    rtcp_packets: int = 0
    rtt_ms: float | None = None
    mos: float | None = None
    strangers: int = 0
    muted: int = 0
    malformed: int = 0
    payload_types: tuple[int, ...] = ()
    source: Address | None = None
    last_s: float | None = None
    dropped: int = 0
    other_protocols: int = 0
    withheld: int = 0
    stranger: Address | None = None
    reports: int = 0
    reported_loss: float | None = None
    in_kernel: int = 0
    unauthentic: int = 0


@frozen
class StreamCounters:
    """Counters of one stream: what came from end a and what came from end b."""

    id: int
    call: str
    a: Counters
    b: Counters


@frozen
class SourceLocked:
    """End `side` of a stream now has a known source."""

    stream: int
    call: str
    side: Side
    source: Address


@frozen
class Silence:
    """No packet for `seconds`; `ever` tells whether there had been any."""

    stream: int
    call: str
    seconds: float
    ever: bool


@frozen
class Withheld:
    """Nothing has come from the address that end `side` signalled, and nobody vouches for it: packets to it stop
    here, until one comes from there (somebody may have named a victim in c=)."""

    stream: int
    call: str
    side: Side
    address: Address


@frozen
class Layer:
    """What forwards a stream has changed: the kernel if `reason` is empty, else the relay process, and why."""

    stream: int
    call: str
    reason: str


@frozen
class Closed:
    """A stream is gone and its ports are free; the final counters."""

    stream: int
    call: str
    counters: StreamCounters


@frozen
class BindFailed:
    """A port of a stream could not be bound (somebody else has it)."""

    stream: int
    call: str
    reason: str


@frozen
class WorkerRestarted:
    """A relay worker died and was replaced; `streams`, of `calls`, were opened again on their ports."""

    worker: int
    streams: int
    calls: tuple[str, ...] = ()


RelayEvent = SourceLocked | Silence | Withheld | Layer | Closed | BindFailed | WorkerRestarted


class Relay(Protocol):
    """Opens, changes and closes streams. Commands return at once and are carried out in order."""

    on_event: Callable[[RelayEvent], None]

    def open(self, spec: StreamSpec) -> None:
        """Bind the ports of both ends and begin to relay."""

    def change(self, stream: int, side: Side, end: End) -> None:
        """Replace what is known of one end. A new `local` moves the end to other ports."""

    def limits(self, stream: int, start_s: float, silence_s: float) -> None:
        """Change the silence limits (a call on hold is silent by right)."""

    def close(self, stream: int) -> None:
        """Stop relaying; a `Closed` event follows."""

    def query(self, streams: Sequence[int]) -> Awaitable[list[StreamCounters]]:
        """Counters as of now; streams that are not open are left out."""
