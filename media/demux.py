"""What a datagram on a media port is, told from its first bytes (RFC 7983 s.7, RFC 5761 s.4)."""

from typing import Final

RTP: Final = 0
RTCP: Final = 1
STUN: Final = 2
DTLS: Final = 3
UNKNOWN: Final = 4


def classify(data: bytes | bytearray | memoryview, size: int) -> int:
    """The kind of the first `size` bytes of `data`: RTP, RTCP, STUN, DTLS or UNKNOWN. Never raises.

    RTP and RTCP here mean version 2 and at least the fixed header (12 and 8 bytes), not more.
    """
    if size < 2:
        return UNKNOWN
    first = data[0]
    if 128 <= first <= 191:
        # RFC 5761 s.4: RTCP packet types 192-223 collide with RTP payload types 64-95 and marker set.
        if 192 <= data[1] <= 223:
            return RTCP if size >= 8 else UNKNOWN
        return RTP if size >= 12 else UNKNOWN
    if first <= 3:
        return STUN if size >= 20 else UNKNOWN
    if 20 <= first <= 63:
        return DTLS if size >= 13 else UNKNOWN
    return UNKNOWN
