"""What the kernel says of its clock: whether a time service disciplines it."""

from __future__ import annotations

import ctypes

_UNSYNCHRONISED = 0x0040  # STA_UNSYNC of timex.h
_TIME_ERROR = 5
_STRUCT_BYTES = 512  # timex is 208 bytes on 64-bit Linux


def kernel_clock() -> bool | None:
    """Return whether the kernel's clock is disciplined, by ``adjtimex`` asked to change nothing; None where it is not there.

    Every time service (chrony, systemd-timesyncd, ntpd, a PTP client) tells the kernel through this call.
    """
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    buffer = (ctypes.c_ulong * (_STRUCT_BYTES // ctypes.sizeof(ctypes.c_ulong)))()
    state = int(adjtimex(ctypes.byref(buffer)))
    if state < 0:
        return None
    # timex: unsigned int modes; long offset, freq, maxerror, esterror; int status; ...
    status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value
    return state != _TIME_ERROR and not status & _UNSYNCHRONISED
