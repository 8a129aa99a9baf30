"""The run folder of a training over several processes: the first one alone touches it, the others are told."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge_ad.errors import BadInput
from edge_ad.training.distributed import ALONE, Team
from edge_ad.training.run_folder import RunFolder, choose_folder


@dataclass(frozen=True)
class TeamFolder(RunFolder):
    """A RunFolder that only the first process of ``team`` reads and writes."""

    team: Team = ALONE

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings from this folder: the first process does; its BadInput is raised in all."""
        held = super().held
        with contextlib.ExitStack() as stack:
            self.team.from_lead(lambda: stack.enter_context(held()))
            yield

    def begin(self, mark: str) -> bool:
        """Start or resume, and tell all processes which it is."""
        begin = super().begin
        return self.team.from_lead(lambda: b"resumed" if begin(mark) else b"new") == b"resumed"

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one object to train.jsonl."""
        if self.team.leads:
            super().log(entry)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write tensors and plain values under ``name``."""
        if self.team.leads:
            super().save(name, state)

    def load(self, name: str) -> dict[str, Any] | None:
        """Read what ``save`` wrote, in all processes, wherever they run."""
        load = super().load
        data = self.team.from_lead(lambda: _packed(load(name)))
        if data is None:
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        return found

    def finish(self) -> None:
        """Remove the checkpoints."""
        if self.team.leads:
            super().finish()


def team_folder(team: Team, out: Path | None, mark: str) -> RunFolder:
    """Return the folder of the training with this ``mark``; BadInput where the processes see different goods or settings."""
    if team.size == 1:
        return choose_folder(out, mark)
    told = team.from_lead(lambda: f"{mark} {choose_folder(out, mark).path}".encode())
    theirs, _, path = (told or b"").decode().partition(" ")
    if theirs != mark:
        raise BadInput(
            f"process {team.rank} sees other goods, settings or hardware than process 0: "
            "give every machine the same folder of goods, options and version"
        )
    return TeamFolder(Path(path), team)


def _packed(state: dict[str, Any] | None) -> bytes | None:
    if state is None:
        return None
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()
