"""Text from outside made fit for the record and for other programs: the one door it comes in through.

Wall-clock times as text.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

MAX_PART_ID = 64
MAX_NAME = 500
MAX_REASON = 2000

# Controls, line separators, marks that reverse the direction of writing, and halves of surrogate pairs.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def storable(text: str, max_length: int = MAX_REASON) -> str:
    r"""Return text that UTF-8 can hold, on one line, at most ``max_length`` characters long.

    A byte that was no UTF-8 in a file name is shown as ``\xe4``, other unfit characters as ``\x1b`` or ``\u2028``; what
    is too long ends in an ellipsis.
    """
    cut = text if len(text) <= max_length else text[: max_length - 1] + "…"
    escaped = _UNFIT.sub(_escape, cut)
    return escaped if len(escaped) <= max_length else escaped[: max_length - 1] + "…"


def part_id(received: str | bytes) -> str:
    r"""Return the id of a part as a trigger sent it: without control characters (a scanner frames its codes with them).

    A byte that is no UTF-8 is shown as ``\xe4``, so that two ids which differ in it alone stay different.
    """
    text = received.decode("utf-8", "backslashreplace") if isinstance(received, bytes) else received
    plain = _CONTROLS.sub("", text).replace("\ufeff", "").strip()
    return storable(plain[:MAX_PART_ID])[:MAX_PART_ID]


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text: a file name with other bytes can be opened by Python, but not by every library.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def format_time(seconds: float) -> str:
    """Return seconds since 1970 as text in UTC with milliseconds (RFC 3339)."""
    moment = EPOCH + timedelta(seconds=seconds)  # fromtimestamp refuses times before 1970 on some systems
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
