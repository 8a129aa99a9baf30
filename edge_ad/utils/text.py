"""Text from outside made fit for the record and for other programs, times as text, and credentials kept out of both."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection
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


def printable(text: str) -> str:
    """Return text with a question mark for every character that a terminal may take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


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


HIDDEN = "***"

# Up to the last @: a password may hold any character, also an unescaped slash, blank or @. Better to hide too much.
# One slash is enough: a URL that was taken for a path has lost the other.
_AUTHORITY = re.compile(r"(:/{1,2}).*@", re.DOTALL)
_PLAIN_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:@/?#\s]+)(?::\d+)?")
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/{1,2}")
_NAMED = re.compile(
    r"(?i)\b((?:[a-z]+[-_])?(?:user(?:name)?|user-?id|login|pass(?:word|wd|phrase)?|pwd|pw|token|secret|auth|key))"
    r"(\s*=\s*)(?:\"[^\"]*\"|'[^']*'|[^\s&;,!]*)"
)


def redact(text: str) -> str:
    """Return ``text`` with ``***`` for all before the last ``@`` of every URL, and for values of ``password=`` and the
    like.
    """
    return _NAMED.sub(rf"\1\2{HIDDEN}", _AUTHORITY.sub(rf"\1{HIDDEN}@", text))


def redact_uri(uri: str, plain: Collection[str] = ()) -> str:
    """Return a single URI redacted, wrong ones too: all before the last ``@`` even where the slashes are missing, and
    every value of its query but those of the names in ``plain``.
    """
    before, at, after = uri.rpartition("@")
    if at:
        scheme = _SCHEME.match(before)
        uri = f"{scheme[0] if scheme else ''}{HIDDEN}@{after}"
    location, mark, query = uri.partition("?")
    shown = []
    for item in query.split("&") if mark else ():
        name, equals, _ = item.partition("=")
        shown.append(item if name in plain else f"{name}={HIDDEN}" if equals else HIDDEN)
    return f"{redact(location)}{mark}{'&'.join(shown)}"


def redact_values(text: str, secrets: tuple[str, ...]) -> str:
    """Return ``text`` redacted and with every one of ``secrets`` replaced, longest first; empty ones do not count."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return redact(text)


def split_credentials(url: str) -> tuple[str, str, str]:
    """Return user, password and the URL without them; user and password are unescaped, empty where there are none.

    They end at the last ``@`` of the part before the first slash. Without one there, a URL that does not begin with
    HOST or HOST:PORT is taken for one whose password holds an unescaped slash, and they end at the last ``@`` of all.
    """
    scheme, mark, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    if end < 0 and not _PLAIN_HOST.fullmatch(authority):
        end = rest.rfind("@")
    if not mark or end < 0:
        return "", "", url
    user, _, password = rest[:end].partition(":")
    return urllib.parse.unquote(user), urllib.parse.unquote(password), f"{scheme}://{rest[end + 1 :]}"


def join_credentials(user: str, password: str, url: str) -> str:
    """Return the URL with user and password, escaped so that every player splits them as meant."""
    if not user and not password:
        return url
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{urllib.parse.quote(user, safe='')}:{urllib.parse.quote(password, safe='')}@{rest}"


def user_name() -> str:
    """Return the name of the user, or the number where nothing gives it a name, as in a container."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
