"""The bounds of the transports and what they count when one is reached."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds of one node, over all its listeners; seconds and bytes.

    `connections` holds for accepted stream connections and, apart from them, for those that we opened, so that a
    flood of the former cannot take the way out. `partial_s` is how long one message may be under way (slow
    loris), `stalled_s` how long a peer may leave what we sent unread, `write_buffer_bytes` how much of it.
    """

    max_message_bytes: int = 65_535
    connections: int = 1000
    connections_per_source: int = 20
    idle_s: float = 600.0
    partial_s: float = 10.0
    connect_s: float = 4.0
    stalled_s: float = 10.0
    write_buffer_bytes: int = 262_144
    socket_buffer_bytes: int = 4_194_304
    flows: int = 16_384
    datagrams_per_wakeup: int = 64
    accepts_per_wakeup: int = 64


@dataclass(slots=True)
class TransportCounters:
    """Events of all transports since the start."""

    datagrams_received: int = 0
    datagrams_sent: int = 0
    send_blocked: int = 0  # socket buffer full: lost, SIP's timers repeat it
    send_failed: int = 0
    receive_errors: int = 0
    unreachable: int = 0  # ICMP errors of datagrams that we have sent
    oversized: int = 0
    keepalives: int = 0
    accepted: int = 0
    connected: int = 0
    connect_failed: int = 0
    refused_total: int = 0
    refused_source: int = 0
    refused_system: int = 0  # no file descriptor or memory left
    refused_connect: int = 0  # no more connections of our own allowed
    closed_idle: int = 0
    closed_partial: int = 0
    closed_stalled: int = 0
    closed_overflow: int = 0
    closed_framing: int = 0
    closed_by_peer: int = 0
    lost: int = 0
