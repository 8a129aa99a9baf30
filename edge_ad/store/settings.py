"""What a person may set about the record."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.store.retention import Limits


@dataclass(frozen=True)
class RecordSettings:
    """Where pictures and journal go, which pictures are kept and for how long.

    ``evidence``: the folder, None for one beside the store (``line.evidence`` for ``line.sqlite``). ``ok_every``: one
    in so many OK events keeps its pictures, chosen by its id; 0 keeps none. WARN, NG and NONE always do. ``required``:
    nothing passes while events cannot be stored.
    """

    evidence: Path | None = None
    ok_every: int = 100
    limits: Limits = Limits()
    required: bool = False

    def __post_init__(self) -> None:
        if self.ok_every < 0:
            raise BadInput(f"ok_every is {self.ok_every}: allowed are 1 and more, and 0 for no pictures of OK")

    def folder(self, store: Path) -> Path:
        """Return the folder of evidence that belongs to a store."""
        return self.evidence if self.evidence is not None else store.with_suffix(".evidence")

    def prepare(self, store: Path) -> Path:
        """Return the folder, made where there is none; BadInput when it cannot be. A full disk is told later."""
        folder = self.folder(store)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                reason = error.strerror or error
                raise BadInput(
                    f"evidence cannot be kept in {folder}: {reason}; name a folder that can be written with --evidence"
                ) from error
        return folder
