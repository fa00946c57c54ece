"""Run as somebody who is not root and has a few capabilities, as a service manager starts a daemon."""

import ctypes
import os
import struct

CAP_NET_ADMIN = 12
CAP_BPF = 39

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_LAST = 40
_VERSION_3 = 0x20080522


def become_nobody(*capabilities: int) -> None:
    """This process is user 65534 from now on, with these capabilities. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    for capability in range(_LAST + 1):
        if capability not in capabilities:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    bits = sum(1 << capability for capability in capabilities)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=IIIIII", low, low, 0, high, high, 0))
    if libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
