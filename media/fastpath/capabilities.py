"""Capabilities (capabilities(7)) that a relay process was started with and does not need.

It reads what strangers send, and whoever takes it over must find nothing in it: CAP_NET_ADMIN above all. Its sockets
need none unless media ports are privileged ones, and questions for routes need none either.
"""

import contextlib
import ctypes
import errno
import os
import struct

from media.fastpath import table
from media.fastpath.bpf import Map

# linux/capability.h, linux/prctl.h
CAP_BPF = 39
_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def shed(leases: int | None, kept: int) -> None:
    """Give up everything but the set `kept`, and CAP_BPF if without it this kernel refuses the map behind `leases`.

    Since Linux 5.19 descriptors of maps are enough, before it depends on kernel.unprivileged_bpf_disabled. Raises
    OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # Before Linux 4.3 there is no ambient set.
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if leases is not None:
        with contextlib.suppress(PermissionError):
            # Permitted, not effective: as long as that is tried out.
            _set(libc, kept, kept | 1 << CAP_BPF)
            if not _usable(leases):
                _set(libc, kept | 1 << CAP_BPF, kept | 1 << CAP_BPF)
                return
    _set(libc, kept, kept)


def _usable(leases: int) -> bool:
    try:
        Map(leases, table.SLOT_BYTES, table.LEASE_BYTES).lookup(bytes(table.SLOT_BYTES))
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def _set(libc: ctypes.CDLL, effective: int, permitted: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    mask = 0xFFFFFFFF
    data = struct.pack("=IIIIII", effective & mask, permitted & mask, 0, effective >> 32, permitted >> 32, 0)
    if libc.capset(header, ctypes.create_string_buffer(data, len(data))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
