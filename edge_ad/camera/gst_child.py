"""What gst-launch-1.0 does, for a pipeline that holds a password: its words come on standard input as a JSON list.

Run as a program of its own. Arguments of a process can be read by every user of the machine, standard input cannot. It
needs GStreamer's C library and the standard library of Python alone.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys

_PLAYING, _NULL = 4, 1
_EOS, _ERROR = 1, 2
_SLICE_NS = 100_000_000


class _GError(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", ctypes.c_char_p))


def main() -> int:
    """Run the pipeline until its end, an error (told on standard error) or SIGINT, then take it down."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    words = [word.encode() for word in json.load(sys.stdin)]
    try:
        gst = _library()
    except OSError as missing:
        print(f"ERROR: {missing}", file=sys.stderr)
        return 1
    gst.gst_init(None, None)
    error = ctypes.POINTER(_GError)()
    pipeline = gst.gst_parse_launchv((ctypes.c_char_p * (len(words) + 1))(*words, None), ctypes.byref(error))
    if error:
        return _error_text(error)
    try:
        gst.gst_element_set_state(pipeline, _PLAYING)
        return _follow(gst, gst.gst_element_get_bus(pipeline), asked)
    finally:
        gst.gst_element_set_state(pipeline, _NULL)


def _follow(gst: ctypes.CDLL, bus: int, asked: list[int]) -> int:
    while not asked:
        message = gst.gst_bus_timed_pop_filtered(bus, _SLICE_NS, _EOS | _ERROR)
        if not message:
            continue
        if not gst.gst_message_get_structure(message):  # an end has none
            return 0
        error, debug = ctypes.POINTER(_GError)(), ctypes.c_char_p()
        gst.gst_message_parse_error(message, ctypes.byref(error), ctypes.byref(debug))
        return _error_text(error)
    return 0


def _error_text(error: ctypes._Pointer[_GError]) -> int:
    text = error.contents.message or b"the pipeline failed"
    print(f"ERROR: {text.decode('utf-8', 'replace')}", file=sys.stderr, flush=True)
    return 1


def _library() -> ctypes.CDLL:
    gst = ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer = ctypes.c_void_p
    gst.gst_init.argtypes = [pointer, pointer]
    gst.gst_parse_launchv.argtypes, gst.gst_parse_launchv.restype = [pointer, pointer], pointer
    gst.gst_element_set_state.argtypes = [pointer, ctypes.c_int]
    gst.gst_element_get_bus.argtypes, gst.gst_element_get_bus.restype = [pointer], pointer
    gst.gst_bus_timed_pop_filtered.argtypes = [pointer, ctypes.c_uint64, ctypes.c_int]
    gst.gst_bus_timed_pop_filtered.restype = pointer
    gst.gst_message_get_structure.argtypes, gst.gst_message_get_structure.restype = [pointer], pointer
    gst.gst_message_parse_error.argtypes = [pointer, pointer, pointer]
    return gst


if __name__ == "__main__":
    sys.exit(main())
