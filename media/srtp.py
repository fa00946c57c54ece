"""SRTP of one end (RFC 3711), by pylibsrtp: what comes from it is opened, what goes to it is sealed.

A packet that is not authentic, or comes again, opens to nothing. pylibsrtp has no access to the roll-over counter (RFC
3711 s.3.3.1), so that nobody can take over from another `Context` where it was; and it seals no more than 1,356 octets.
"""

from pylibsrtp import Error, Policy, Session

# Names of RFC 4568 s.6.2 and RFC 7714 s.14.2.
PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}


class Context:
    """Both directions of an end; see `media.relay.Srtp`."""

    __slots__ = ("_ours", "_theirs")

    def __init__(self, suite: str, theirs: bytes, ours: bytes) -> None:
        profile = PROFILES[suite]
        self._theirs = Session(Policy(theirs, Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
        # What the other side sends twice is sealed once: two packets under one sequence number would share a key stream
        # (RFC 3711 s.9.1).
        self._ours = Session(Policy(ours, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile)) if ours else None

    def open(self, packet: bytes) -> bytes | None:
        """The RTP packet in a packet of theirs, None if it is not authentic."""
        try:
            return self._theirs.unprotect(packet)
        except (Error, ValueError):
            return None

    def seal(self, packet: bytes) -> bytes | None:
        """An RTP packet as it goes to them, None if that is not possible."""
        if self._ours is None:
            return None
        try:
            return self._ours.protect(packet)
        except (Error, ValueError):
            return None

    def open_rtcp(self, packet: bytes) -> bytes | None:
        """The compound packet in an SRTCP packet of theirs, None if it is not authentic."""
        try:
            return self._theirs.unprotect_rtcp(packet)
        except (Error, ValueError):
            return None

    def seal_rtcp(self, packet: bytes) -> bytes | None:
        """A compound packet as it goes to them, None if that is not possible."""
        if self._ours is None:
            return None
        try:
            return self._ours.protect_rtcp(packet)
        except (Error, ValueError):
            return None
