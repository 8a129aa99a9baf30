"""The folder of one training: losses as JSONL, checkpoints that survive a kill, finished stages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, require_writable, sha256_bytes
from edge_ad.utils.locks import lock_file

STATE = "state"
FINGERPRINT = "fingerprint.json"
LOCK = ".training.lock"
ADVICE = "wait for it, end it, or choose another --out"


def fingerprint(details: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that decides a training's result."""
    return sha256_bytes(json.dumps(details, sort_keys=True).encode())


def file_sizes(paths: Sequence[Path]) -> list[list[str | int]]:
    """Return each file with its size, by which a fingerprint knows it."""
    return [[str(path), path.stat().st_size] for path in paths]


@dataclass(frozen=True)
class RunFolder:
    """Where one training keeps its log and its state."""

    path: Path

    @property
    def state(self) -> Path:
        """Folder of checkpoints, removed when the bundle is written."""
        return self.path / STATE

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings from this folder; BadInput names the process that has it.

        Two of them would write the same checkpoints, and the first to finish would remove those of the other.
        """
        require_writable(self.path / LOCK)
        release = lock_file(self.path / LOCK, f"the training folder {self.path}", ADVICE)
        try:
            yield
        finally:
            release()

    def begin(self, mark: str) -> bool:
        """Start or resume: return whether finished work with the same ``mark`` is here; BadInput for another's."""
        known = _mark_of(self.path)
        if known is not None and known != mark:
            raise BadInput(
                f"{self.path} holds an unfinished training with other data or settings: "
                f"choose another --out, or delete {self.state}"
            )
        if known is None:
            shutil.rmtree(self.state, ignore_errors=True)  # checkpoints without a fingerprint may be anybody's
            atomic_write(self.state / FINGERPRINT, json.dumps({"sha256": mark}) + "\n")
        return known is not None

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one object to train.jsonl."""
        with (self.path / "train.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": round(time.time(), 3), **entry}) + "\n")

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write tensors and plain values under ``name``, whole or not at all."""
        target = self.state / f"{name}.pt"
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read what ``save`` wrote, or None; a damaged file is reported and made anew."""
        target = self.state / f"{name}.pt"
        if not target.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(target, weights_only=True, map_location="cpu")
        except Exception as error:
            raise BadInput(
                f"the checkpoint {target} cannot be read ({reason_of(error)}): delete it to start that stage again"
            ) from error
        return state

    def finish(self) -> None:
        """Remove the checkpoints."""
        shutil.rmtree(self.state, ignore_errors=True)


def choose_folder(out: Path | None, mark: str, runs: Path = Path("runs")) -> RunFolder:
    """Return ``out``, or the newest unfinished run with the same mark, or a new folder named by the time."""
    if out is not None:
        return RunFolder(out)
    unfinished = [path.parent.parent for path in runs.glob(f"*/{STATE}/{FINGERPRINT}")]
    same = sorted((path for path in unfinished if _mark_of(path) == mark), key=lambda path: path.stat().st_mtime)
    if same:
        return RunFolder(same[-1])
    stem = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = runs / stem, 1
    while path.exists():
        path, number = runs / f"{stem}-{number}", number + 1
    return RunFolder(path)


def reason_of(error: Exception) -> str:
    """Return the first line of a message of torch, whose others advise to run code from the file."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def to_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dict to the CPU."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _mark_of(path: Path) -> str | None:
    try:
        mark: str = json.loads((path / STATE / FINGERPRINT).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mark
