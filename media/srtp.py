"""SRTP of one end (RFC 3711): packets are opened and sealed where they lie, by the libsrtp that pylibsrtp carries.

Below pylibsrtp's classes, that is: those copy each packet four times and take none of more than 1,356 octets. There is
no access to the roll-over counter (RFC 3711 s.3.3.1), so that nobody can take over from another `Context` where it was.
"""

from importlib import import_module
from typing import Any

from pylibsrtp import Policy, Session

# Names of RFC 4568 s.6.2 and RFC 7714 s.14.2.
PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
TRAILER = 160
"""What sealing adds at most: the tag, the index of SRTCP, and the MKI that libsrtp reserves room for."""

_binding: Any = import_module("pylibsrtp._binding")
_ffi, _lib = _binding.ffi, _binding.lib
_protect, _unprotect = _lib.srtp_protect, _lib.srtp_unprotect
_protect_rtcp, _unprotect_rtcp = _lib.srtp_protect_rtcp, _lib.srtp_unprotect_rtcp


class Context:
    """Both directions of an end, see `media.relay.Srtp`. Packets are at the beginning of `buffer`.

    The methods take a size and return the one that the packet then has, 0 when it is nothing: not authentic, a
    repetition, or not to be sealed.
    """

    __slots__ = ("_at", "_in", "_length", "_out", "_room", "_sessions")

    def __init__(self, suite: str, theirs: bytes, ours: bytes, buffer: bytearray) -> None:
        profile = PROFILES[suite]
        incoming = Session(Policy(theirs, Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
        # What the other side sends twice is sealed once: two packets under one sequence number would share a key stream
        # (RFC 3711 s.9.1).
        outgoing = Session(Policy(ours, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile)) if ours else None
        # They free what the pointers below point to.
        self._sessions = incoming, outgoing
        self._in: Any = incoming._srtp[0]
        self._out: Any = None if outgoing is None else outgoing._srtp[0]
        self._at = _ffi.from_buffer(buffer)
        self._length = _ffi.new("int *")
        self._room = len(buffer) - TRAILER

    def open(self, size: int) -> int:
        """An SRTP packet of theirs becomes RTP."""
        length = self._length
        length[0] = size
        if _unprotect(self._in, self._at, length):
            return 0
        size = length[0]
        return size

    def seal(self, size: int) -> int:
        """An RTP packet becomes one for them."""
        if self._out is None or size > self._room:
            return 0
        length = self._length
        length[0] = size
        if _protect(self._out, self._at, length):
            return 0
        size = length[0]
        return size

    def open_rtcp(self, size: int) -> int:
        """An SRTCP packet of theirs becomes RTCP."""
        length = self._length
        length[0] = size
        if _unprotect_rtcp(self._in, self._at, length):
            return 0
        size = length[0]
        return size

    def seal_rtcp(self, size: int) -> int:
        """A compound packet becomes one for them."""
        if self._out is None or size > self._room:
            return 0
        length = self._length
        length[0] = size
        if _protect_rtcp(self._out, self._at, length):
            return 0
        size = length[0]
        return size
