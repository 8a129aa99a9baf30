"""What a change leaves for the next run: two small files beside the store, each replaced as a whole.

One has the product that is judged. The other has the bundles that took the place of those that edge-ad.toml or the command line
goes on naming. Bundles are known by their sha256: a bundle named anew, which was never in use here, counts before this file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, sha256_file, sync_folder

_log = logging.getLogger(__name__)

MAX_EARLIER = 20
MAX_KNOWN = 200


def pointer_path(store: Path | None) -> Path | None:
    """Return the file of replaced bundles of a record: ``line.bundles.json`` beside ``line.sqlite``; None without one."""
    return None if store is None else store.with_suffix(".bundles.json")


def bundle_key(product: str, view: str) -> str:
    """Return under which name the bundle of a product, "" for a station without names, is known; of one of its views too."""
    return f"{product}/{view}" if view else product


def product_and_view(key: str) -> tuple[str, str]:
    """Return the product and the view of a ``bundle_key``; neither name can have a slash."""
    product, _, view = key.partition("/")
    return product, view


@dataclass(frozen=True)
class BundleFile:
    """A bundle: its ``file``, from the folder of the store, and its ``sha256``."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Deployed:
    """What a product is judged by: ``current``, what it was judged by before, the newest last, and who replaced it and why.

    ``known`` are the hashes of all bundles that were in use.
    """

    current: BundleFile
    earlier: tuple[BundleFile, ...]
    known: tuple[str, ...]
    kind: str
    by: str
    origin: str
    reason: str
    time: float = field(default_factory=time.time)


class BundlePointer:
    """Reads and writes the bundles in use of all products of a station, by ``bundle_key``.

    What is written is on the disk when a call returns, whole or not at all. BadInput where the file cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def entries(self) -> dict[str, Deployed]:
        """Return the products whose bundle was replaced; BadInput where the file is damaged: nobody can say what was in use."""
        if self.path is None or not self.path.exists():
            return {}
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): _parsed(entry) for name, entry in record["bundles"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{self.path}, which says what bundles are in use, cannot be read ({error}): move it away to judge by those that "
                "edge-ad.toml or the command names"
            ) from error

    def resolve(self, product: str, named: Path) -> Path:
        """Return the bundle that a product is judged by where ``named`` is the bundle that was given for it.

        BadInput where the bundle in use is gone or was changed: another one is never taken for it.
        """
        entry = self._in_place_of(product, named)
        if entry is None:
            return named
        path = self.locate(entry.current)
        _log.info("%s is judged by in the place of %s (%s by %s)", path, named, entry.kind, entry.by)
        return path

    def sha256_in_use(self, product: str, named: Path) -> str:
        """Return the sha256 of the bundle that ``resolve`` returns, even where its file is gone or was changed."""
        entry = self._in_place_of(product, named)
        return self._file(named).sha256 if entry is None else entry.current.sha256

    def _in_place_of(self, product: str, named: Path) -> Deployed | None:
        """Return what came in the place of a bundle that was named; None where that one itself is judged by."""
        entry = self.entries().get(product)
        if entry is None or not named.is_file():
            return None
        sha256 = sha256_file(named)
        if sha256 == entry.current.sha256:
            return None
        if sha256 not in entry.known:
            _log.warning("%s was never in use here, so it counts before %s in %s", named, entry.current.file, self.path)
            return None
        return entry

    def locate(self, bundle: BundleFile) -> Path:
        """Return the path of a bundle that was in use; BadInput where it is gone or has other contents."""
        assert self.path is not None
        path = Path(os.path.normpath(self.path.parent / bundle.file))
        if not path.is_file():
            raise BadInput(f"the bundle {path}, which {self.path} names, is gone: bring it back, or move that file away")
        if sha256_file(path) != bundle.sha256:
            raise BadInput(f"the bundle {path} was changed since {self.path} names it: bring it back, or move that file away")
        return path

    def replaced(
        self, product: str, before: Path, after: Path, *, by: str, origin: str, reason: str, used: str | None = None
    ) -> Deployed:
        """Return what is to be written for ``after`` in the place of ``before``, of which ``used`` is the sha256 that is judged by
        where its file may be another one by now.
        """
        new, entry = self._file(after), self.entries().get(product)
        old = self._file(before) if used is None else BundleFile(self._relative(before), used)
        earlier = entry.earlier if entry is not None and entry.current.sha256 == old.sha256 else ()
        known = dict.fromkeys((*(entry.known if entry is not None else ()), old.sha256, new.sha256))
        return Deployed(new, (*earlier, old)[-MAX_EARLIER:], tuple(known)[-MAX_KNOWN:], "replace", by, origin, reason)

    def rolled_back(self, product: str, *, by: str, origin: str, reason: str, used: str | None = None) -> Deployed:
        """Return what is to be written to go back by one; BadInput where nothing was replaced, or what is judged by, ``used``,
        did not come by a replacement: what was before another bundle was not before it.
        """
        entry, of = self.entries().get(product), f" of product {product}" if product else ""
        if entry is None or not entry.earlier:
            raise BadInput(f"the bundle{of} was not replaced here, so there is none to go back to")
        if used not in (None, entry.current.sha256):
            raise BadInput(
                f"the bundle{of} in use was named anew and took no other's place, so there is none to go back to: name the one "
                "you want by `edge-ad product replace`"
            )
        back = replace(entry, current=entry.earlier[-1], earlier=entry.earlier[:-1], kind="rollback", time=time.time())
        return replace(back, by=by, origin=origin, reason=reason)

    def write(self, product: str, entry: Deployed | None) -> None:
        """Keep what a product is judged by from now on; None: by what is named."""
        if self.path is None:
            raise BadInput("a bundle is replaced for good in a station that keeps a record: give --store FILE, or outputs")
        entries: dict[str, Deployed | None] = {**self.entries(), product: entry}
        record = {name: asdict(one) for name, one in entries.items() if one is not None}
        atomic_write(self.path, json.dumps({"bundles": record}, indent=1) + "\n")
        sync_folder(self.path.parent)

    def _file(self, path: Path) -> BundleFile:
        if not path.is_file():
            raise BadInput(f"the bundle {path} is gone: bring it back, or name another in edge-ad.toml")
        return BundleFile(self._relative(path), sha256_file(path))

    def _relative(self, path: Path) -> str:
        folder = Path.cwd() if self.path is None else self.path.resolve().parent
        return os.path.relpath(path.resolve(), folder)


def _parsed(entry: dict[str, Any]) -> Deployed:
    """Return an entry of the file; ValueError, KeyError or TypeError where it is none."""
    bundles = [BundleFile(**one) for one in (entry["current"], *entry["earlier"])]
    texts = [text for one in bundles for text in (one.file, one.sha256)] + [*entry["known"], entry["by"], entry["kind"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its values are no text")
    rest = {name: entry[name] for name in ("kind", "by", "origin", "reason", "time")}
    return Deployed(bundles[0], tuple(bundles[1:]), tuple(entry["known"]), **rest)


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
