"""Which product a station judges, as a restart must know it: a small file beside the store, replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, sync_folder

_log = logging.getLogger(__name__)


def choice_path(store: Path | None) -> Path | None:
    """Return the file of the chosen product of a record: ``line.product.json`` beside ``line.sqlite``; None without one."""
    return None if store is None else store.with_suffix(".product.json")


class Choice:
    """Where the choice of a product is kept: a small file beside the record, replaced as a whole."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def made(self) -> bool:
        """Whether a choice was ever made here, be it that none can be read now or that a change was under way."""
        return self._path is not None and self._path.exists()

    def begins_with(self, first: str | None) -> str | None:
        """Return the product that a run begins with: the chosen one, ``first`` where none was ever chosen, else None."""
        return self.read() if self.made else first

    def read(self) -> str | None:
        """Return the product that was acknowledged last, None where there was none or a change was under way."""
        if self._path is None or not self._path.exists():
            return None
        try:
            product = json.loads(self._path.read_text(encoding="utf-8"))["product"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("the chosen product cannot be read from %s (%s): none is chosen", self._path, error)
            return None
        return product if isinstance(product, str) else None

    def write(self, product: str | None) -> None:
        """Keep the choice; where the disk refuses, void the old one. BadInput where neither can be done."""
        if self._path is None:
            return
        try:
            atomic_write(self._path, json.dumps({"product": product, "time": time.time()}) + "\n")
        except BadInput:
            try:
                with contextlib.suppress(FileNotFoundError), self._path.open("r+") as file:
                    file.truncate(0)  # needs no space: a restart comes up with none
            except OSError as error:
                raise BadInput(f"the choice of a product cannot be kept in {self._path}: {error.strerror}") from error
            if product is not None:
                raise
        sync_folder(self._path.parent)
