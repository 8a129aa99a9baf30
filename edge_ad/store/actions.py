"""What people and PLCs did to a line, such as a pause: one JSON line each, in a file beside the store.

The file is the state too: the last line of a kind says how the line stands, after a restart and after a kill.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.utils.files import is_at, sync_folder
from edge_ad.utils.text import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Action:
    """What was done, by whom, from where, why, and when (seconds since 1970 UTC); ``details`` belong to the kind."""

    kind: str
    by: str
    origin: str
    reason: str
    time: float = field(default_factory=time.time)
    details: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return who and why, for people."""
        origin = f" ({self.origin})" if self.origin and self.origin != self.by.lower() else ""
        return f"by {self.by}{origin}{f': {self.reason}' if self.reason else ''}"


def actions_path(store: Path) -> Path:
    """Return the file of actions of a store: ``line.actions.jsonl`` beside ``line.sqlite``."""
    return store.with_suffix(".actions.jsonl")


class ActionLog:
    """Appends actions; each is on the disk when ``append`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, action: Action) -> None:
        """Write one action; OSError where the disk refuses. A line that an earlier crash tore is closed first."""
        line = json.dumps(asdict(action), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                data = b"\n" + line if torn else line
                if os.write(handle, data) != len(data):
                    raise OSError(None, "the disk took only a part of it")
                os.fsync(handle)
                if not is_at(handle, self.path):
                    raise OSError(None, "it was removed meanwhile")
            finally:
                os.close(handle)
            if new:
                sync_folder(self.path.parent)

    def keep(self, action: Action) -> bool:
        """Write one action; False, logged, where the disk refuses."""
        try:
            self.append(action)
        except OSError as error:
            _log.error("a %s cannot be stored in %s: %s", action.kind, self.path, error.strerror or error)
            return False
        return True

    def actions(self) -> Iterator[Action]:
        """Yield all actions, the oldest first; lines that are torn or foreign count for nothing. BadInput where they
        cannot be read.
        """
        try:
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as error:
            raise BadInput(
                f"the actions {self.path} cannot be read: {error.strerror}; let this user read them"
            ) from error
        for line in lines:
            try:
                yield Action(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue

    def last(self, kinds: Collection[str]) -> Action | None:
        """Return the newest action of some kinds."""
        return next((action for action in reversed(list(self.actions())) if action.kind in kinds), None)


def action_row(action: Action) -> str:
    """Return an action as a line of the table of events: its kind stands in the place of the verdict."""
    moment = datetime.fromtimestamp(action.time).isoformat(" ", "milliseconds")
    return f"{'':<8}  {moment:<23}  {action.kind:<7}  {printable(action.describe())[:110]}"
