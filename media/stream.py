"""An open stream as a worker holds it: two ends with their ports, policy and counters."""

import math
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from media import quality, rtcp, rtp
from media.source import RtcpGate, Sockaddr, SourceGate

if TYPE_CHECKING:
    from media.srtp import Context

# What a worker hears is `media.relay.End` as a tuple, in this order.
EndTuple = tuple[
    str,  # bind address
    int,  # RTP port
    int,  # RTCP port
    tuple[str, int] | None,  # remote
    tuple[str, int] | None,  # remote_rtcp
    bool,  # rtcp_mux
    str,  # learn
    str | None,  # expect
    bool,  # receive
    bool,  # send
    tuple[tuple[int, str, int], ...],  # codecs
    int,  # epoch
    tuple[str, ...] | None,  # proven
    tuple[str, bytes, bytes] | None,  # srtp: suite, theirs, ours
    bool,  # events_up
]

# `media.relay.Counters` as a tuple, in its order.
CountersTuple = tuple[Any, ...]

Event = tuple[Any, ...]
"""What a worker tells; see `media.reference.Reference`."""

# RFC 3551 s.6: what a stream without rtpmap for its payload type is, for the quality estimate.
STATIC_NAMES = {
    0: "PCMU",
    3: "GSM",
    4: "G723",
    8: "PCMA",
    9: "G722",
    10: "L16",
    11: "L16",
    15: "G728",
    18: "G729",
}

# Linux include/uapi/asm-generic/socket.h and linux/sock_diag.h: one getsockopt tells what the queue dropped,
# where SO_RXQ_OVFL would need recvmsg with ancillary data for every packet.
_SO_MEMINFO = 55
_SK_MEMINFO_DROPS = 8

# What a port is for.
RTP_PORT: Final = 0
RTCP_PORT: Final = 1
DIRECT_PORT: Final = 2


class Port:
    """One bound UDP socket of an end.

    A direct port is a second socket on the RTP port, connected to the locked source, its `remote`. The kernel gives it
    the packets of that source and the unconnected one all others; a packet then costs a fifth less, since neither
    does the kernel look for a route nor Python translate two addresses. The unconnected socket has to stay:
    without it the kernel would answer strangers with ICMP errors.
    """

    __slots__ = ("end", "kind", "local", "recv_into", "recvfrom_into", "remote", "served_at", "sock")

    def __init__(self, end: "RelayEnd", sock: socket.socket, local: tuple[str, int], kind: int) -> None:
        self.end = end
        self.sock = sock
        self.recvfrom_into: Callable[[bytearray], tuple[int, Sockaddr]] = sock.recvfrom_into
        self.recv_into: Callable[[bytearray], int] = sock.recv_into
        self.local = local
        self.kind = kind
        self.remote: Sockaddr | None = None
        self.served_at = -1.0

    def dropped(self) -> int:
        """Packets that the kernel dropped because our queue was full."""
        info = self.sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _SK_MEMINFO_DROPS + 4)
        return int.from_bytes(info[4 * _SK_MEMINFO_DROPS :], sys.byteorder)


class RelayEnd:
    """One end of an open stream: its ports, its policy, its counters."""

    __slots__ = (
        "attempts",
        "begun",
        "codecs",
        "direct",
        "dropped",
        "events_up",
        "family",
        "flow",
        "forwarded",
        "gate",
        "heard",
        "in_kernel",
        "local",
        "malformed",
        "muted",
        "mux",
        "other",
        "other_protocols",
        "patience_s",
        "proven",
        "receive",
        "reception",
        "reported_loss",
        "reports",
        "round_trip",
        "rtcp_gate",
        "rtcp_packets",
        "rtcp_port",
        "rtp_port",
        "secure",
        "send",
        "send_direct",
        "sent_before",
        "side",
        "signalled",
        "signalled_rtcp",
        "srtp",
        "stranger",
        "strangers",
        "stream",
        "target",
        "udptl",
        "unauthentic",
        "withheld",
        "withholding",
    )

    # For mypyc, which otherwise knows that these are always there.
    __deletable__ = ("other", "stream")
    other: "RelayEnd"

    def __init__(
        self, stream: "RelayStream", side: str, window_s: float, unheard_s: float, now: float
    ) -> None:
        self.stream = stream
        self.udptl = stream.udptl
        self.side = side
        self.gate = SourceGate(window_s, now)
        self.rtcp_gate = RtcpGate()
        self.reception = rtp.Reception()
        self.round_trip = rtcp.RoundTrip()
        self.rtp_port: Port | None = None
        self.direct: Port | None = None
        self.send_direct: Callable[[bytes | memoryview], int] | None = None
        self.rtcp_port: Port | None = None
        self.local = ("", 0, 0)
        self.family = socket.AF_INET
        self.target: Sockaddr | None = None
        self.signalled: Sockaddr | None = None
        self.signalled_rtcp: Sockaddr | None = None
        self.mux = False
        self.receive = True
        self.send = True
        self.events_up = False
        self.codecs: tuple[tuple[int, str, int], ...] = ()
        self.forwarded = 0
        # While the kernel forwards what comes from this end, its key in the kernel's table.
        self.flow: bytes | None = None
        self.in_kernel = 0
        # Whether it had begun when it was last asked, and how often it was put down in vain since the last tick.
        self.begun = False
        self.attempts = 0
        self.strangers = 0
        self.stranger: Sockaddr | None = None
        self.muted = 0
        self.malformed = 0
        self.other_protocols = 0
        self.rtcp_packets = 0
        self.reports = 0
        self.reported_loss: float | None = None
        self.dropped = 0
        self.srtp: tuple[str, bytes, bytes] | None = None
        self.secure: Context | None = None
        self.unauthentic = 0
        # Hosts that need no proof, and hosts that gave one.
        self.proven: tuple[str, ...] | None = None
        self.heard: tuple[str, ...] = ()
        # Seconds for which packets may yet go to hosts that are not proven.
        self.patience_s = unheard_s or math.inf
        self.sent_before = 0
        self.withholding = False
        self.withheld = 0

    def configure(self, spec: EndTuple, buffer: bytearray) -> None:
        """Take over everything but the ports. `buffer` is where packets will lie."""
        (host, rtp_port, rtcp_port, remote, remote_rtcp, self.mux, learn, expect) = spec[:8]
        (self.receive, self.send, codecs, epoch, proven, srtp, self.events_up) = spec[8:]
        self.local = (host, rtp_port, rtcp_port)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.signalled = sockaddr(self.family, remote)
        self.signalled_rtcp = sockaddr(self.family, remote_rtcp)
        self.heard = tuple(host for host in self.heard if host in self._signalled_hosts())
        self.proven = None if proven is None else tuple(host_of(self.family, host) for host in proven)
        if expect is not None:
            named = sockaddr(self.family, (expect, 1))
            expect = named[0] if named else None
        if epoch != self.gate.epoch:
            self.rtcp_gate.follow(None)
        self.gate.configure(learn, self.signalled, expect, epoch)
        self.rtcp_gate.configure(learn, self.signalled_rtcp)
        if codecs != self.codecs:
            self.codecs = codecs
            self.reception.codecs(codecs)
        if srtp != self.srtp:
            # The same keys go on where they are: a counter that began again would repeat a key stream.
            self.srtp = srtp
            self.secure = None if srtp is None else _context(*srtp, buffer)
        self.aim()

    def aim(self) -> None:
        """Say where RTP to this end goes: the locked source (RFC 4961), before that the signalled address."""
        self.target = (self.gate.source or self.signalled) if self.send and self.rtp_port else None
        exhausted = self.patience_s <= 0
        self.withholding = exhausted and self.gate.source is None and not self._may_send_to(self.signalled)
        if self.withholding:
            self.target = None
        self.send_direct = None
        if self.direct is not None and self.target is not None and self.target == self.direct.remote:
            self.send_direct = self.direct.sock.send

    def payload_types(self, tick_s: float) -> tuple[int, int]:
        """Those for the kernel, as bitmaps: audio or video on a clock of `tick_s` with events, and without."""
        timed = events = 0
        for payload_type, name, hz in self.codecs:
            if not 0 <= payload_type < 128:
                continue
            if name.lower() == "telephone-event":
                events |= 0 if self.events_up else 1 << payload_type
            elif hz > 0 and 1.0 / hz == tick_s:
                timed |= 1 << payload_type
        return timed | events, timed

    def rtcp_target(self) -> Sockaddr | None:
        """Where RTCP to this end goes: from where it comes, before that where it was signalled."""
        if self.mux:
            source, signalled = self.gate.source, self.signalled
        else:
            source, signalled = self.rtcp_gate.source, self.signalled_rtcp
        if source is None and self.patience_s <= 0 and not self._may_send_to(signalled):
            return None
        return source or signalled

    def hear(self, source: Sockaddr) -> None:
        """A packet that is believed came from `source`: if that is a host that was signalled, it is there."""
        host = source[0]
        if self.proven is not None and host not in self.heard and host in self._signalled_hosts():
            self.heard += (host,)
            self.aim()

    def unproven(self, seconds: float) -> Sockaddr | None:
        """Called every so many seconds: the address that is not sent to any longer from now on, if there is one."""
        if self.proven is None or self.patience_s <= 0:
            return None
        sent = self.other.forwarded + self.other.rtcp_packets
        if sent == self.sent_before:
            return None
        self.sent_before = sent
        for source, signalled in (
            (self.gate.source, self.signalled),
            (self.rtcp_gate.source, None if self.mux else self.signalled_rtcp),
        ):
            if source is None and not self._may_send_to(signalled):
                self.patience_s -= seconds
                self.aim()
                return signalled if self.patience_s <= 0 else None
        return None

    def _may_send_to(self, address: Sockaddr | None) -> bool:
        if self.proven is None or address is None:
            return True
        return address[0] in self.proven or address[0] in self.heard

    def _signalled_hosts(self) -> tuple[str, ...]:
        return tuple(each[0] for each in (self.signalled, self.signalled_rtcp) if each is not None)

    def refuse(self, source: Sockaddr) -> None:
        """Count a packet of a stranger."""
        self.strangers += 1
        self.stranger = source

    def counters(self, now: float) -> CountersTuple:
        """What came from this end so far."""
        seen = self.reception
        dropped = self.dropped + sum(
            port.dropped() for port in (self.rtp_port, self.rtcp_port, self.direct) if port
        )
        rtt_ms = None if self.round_trip.seconds is None else self.round_trip.seconds * 1000
        mos = None
        if seen.packets and not self.udptl:
            name = next((codec[1] for codec in self.codecs if codec[0] == seen.payload_type), None)
            name = name or STATIC_NAMES.get(seen.payload_type, "")
            loss = max(0, seen.lost) / max(1, seen.expected)
            mos = quality.mos(quality.rating(name, loss, seen.jitter * 1000, rtt_ms))
        source = self.gate.source
        return (
            seen.packets,
            seen.bytes,
            self.forwarded,
            0 if self.udptl else seen.lost,
            seen.jitter * 1000,
            seen.max_jitter * 1000,
            seen.reordered,
            seen.resets,
            seen.ssrc_changes,
            self.rtcp_packets,
            rtt_ms,
            mos,
            self.strangers,
            self.muted,
            self.malformed,
            seen.payload_types(),
            source[:2] if source else None,
            now - seen.heard if seen.packets else None,
            dropped,
            self.other_protocols,
            self.withheld,
            self.stranger[:2] if self.stranger else None,
            self.reports,
            self.reported_loss,
            self.in_kernel,
            self.unauthentic,
        )


class RelayStream:
    """An open stream: two ends and its silence limits."""

    __slots__ = ("a", "b", "id", "layer", "quiet_since", "reported", "silence_s", "start_s", "udptl")

    def __init__(self, number: int, udptl: bool, window_s: float, unheard_s: float, now: float) -> None:
        self.id = number
        self.udptl = udptl
        self.a = RelayEnd(self, "a", window_s, unheard_s, now)
        self.b = RelayEnd(self, "b", window_s, unheard_s, now)
        self.a.other = self.b
        self.b.other = self.a
        self.start_s = 0.0
        self.silence_s = 0.0
        self.quiet_since = now
        self.reported = False
        # Why the kernel does not forward it, "" when it does, None when that is not decided.
        self.layer: str | None = None

    def part(self) -> None:
        """The stream is closed. Without cycles its memory is free now, and the collector never has to look for it."""
        for end in (self.a, self.b):
            del end.other, end.stream

    def silence(self, now: float) -> tuple[float, bool] | None:
        """(seconds without a packet, whether there ever was one) if that is over the limit, else None.

        An end that is muted is not asked to send; if both are, both count. Any change of the stream starts
        the clock again: a call that leaves hold gets its whole time.
        """
        a, b = self.a, self.b
        heard_a = a.reception.heard if a.receive or not b.receive else 0.0
        heard_b = b.reception.heard if b.receive or not a.receive else 0.0
        ever = a.reception.packets > 0 or b.reception.packets > 0
        limit = self.silence_s if ever else self.start_s
        quiet = now - max(heard_a, heard_b, self.quiet_since)
        if limit <= 0 or quiet < limit:
            self.reported = False
            return None
        return quiet, ever


def _context(suite: str, theirs: bytes, ours: bytes, buffer: bytearray) -> "Context":
    # A worker without SRTP does without the library, too.
    from media.srtp import Context  # noqa: PLC0415

    return Context(suite, theirs, ours, buffer)


def host_of(family: int, host: str) -> str:
    """A host as recvfrom tells it; "" if it is no address of that family."""
    address = sockaddr(family, (host, 1))
    return "" if address is None else address[0]


def sockaddr(family: int, address: tuple[str, int] | None) -> Sockaddr | None:
    """`address` as recvfrom tells it; None if there is nothing to send to (0.0.0.0, port 0, other family).

    Only literals: a name would make sendto ask the DNS, on the packet path.
    """
    if address is None:
        return None
    host, port = address
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None
    if packed == bytes(len(packed)) or not 0 < port < 65536:
        return None
    # Of an IPv4 address inet_pton takes one spelling only.
    return (socket.inet_ntop(family, packed), port, 0, 0) if family == socket.AF_INET6 else (host, port)
