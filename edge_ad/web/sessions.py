"""Sessions of the dashboard: the random secret that seals their cookies, and which of them a logout has ended."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_ad.web.address import Tokens

SECRET_BYTES = 32
MAX_ENDED = 4096
LARGEST_FILE = 1 << 20


class Sessions:
    """Seals the cookies of sessions; for any thread.

    With ``path`` the secret and what was ended are in a file that only this user may read, so that a restart ends no
    session and brings none back; without one, or where it cannot be written, they last as long as this object. Seals
    are bound to the tokens too: other tokens end all sessions.
    """

    def __init__(self, keys: Tokens, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._tokens = f"{keys.full}\0{keys.read}".encode()
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._ended: dict[str, int] = {}
        self._read_at: int | None = None
        with self._lock:
            self._read()
            if self._read_at is None:
                self._write()

    def seal(self, text: str) -> str:
        """Return the seal of the text of a session."""
        with self._lock:
            self._read()
            key = hmac.new(self._secret, self._tokens, hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def ended(self, session: str) -> bool:
        """Whether a logout has ended this session."""
        with self._lock:
            self._read()
            return session in self._ended

    def end(self, session: str, until: int) -> None:
        """End a session that would have lasted ``until``."""
        with self._lock:
            self._read()
            now = self._clock()
            self._ended = {name: end for name, end in self._ended.items() if end > now}
            if len(self._ended) >= MAX_ENDED:  # with another secret no session is left that could come back
                self._secret, self._ended = secrets.token_bytes(SECRET_BYTES), {}
            self._ended[session] = until
            self._write()

    def _read(self) -> None:
        """Take over what another process has written."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            changed = os.stat(self._path).st_mtime_ns
            if changed == self._read_at:
                return
            with self._path.open("rb") as stream:
                result = json.loads(stream.read(LARGEST_FILE))
            secret = bytes.fromhex(result["secret"])
            ended = {str(name): int(end) for name, end in result["ended"].items()}
            if len(secret) == SECRET_BYTES:
                self._secret, self._ended, self._read_at = secret, ended, changed

    def _write(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            handle, temporary = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)  # mode 0600
            try:
                with os.fdopen(handle, "w") as stream:
                    json.dump({"secret": self._secret.hex(), "ended": self._ended}, stream)
                os.replace(temporary, self._path)
                self._read_at = os.stat(self._path).st_mtime_ns
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)


def sessions_file(store: Path) -> Path:
    """Return where the sessions of a record are kept: ``line.sessions`` beside ``line.sqlite``."""
    return store.with_suffix(".sessions")
