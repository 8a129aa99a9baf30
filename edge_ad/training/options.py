"""The preset that the settings of a training come to, and the files that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from edge_ad.config import TrainTable
from edge_ad.data.folders import list_nested
from edge_ad.errors import BadInput
from edge_ad.presets.networks import TeacherKind
from edge_ad.presets.presets import Preset, preset_named, with_teacher, with_values


def penalty_paths(folder: Path | None) -> list[Path]:
    """Return the images of other things in a folder, if one is named; BadInput when it holds none."""
    if folder is None:
        return []
    paths = list_nested(folder)
    if not paths:
        raise BadInput(f"--penalty {folder} holds no image: name a folder of images of other things")
    return paths


def chosen_preset(options: TrainTable) -> Preset:
    """Return the named preset with the single values, the number of masks and of steps that the options give."""
    named = preset_named(options.preset)
    kind = teacher_kind(options.teacher)
    preset = with_steps(with_values(with_teacher(named, kind) if kind else named, options.setting), options.steps)
    return preset if options.masks is None else replace(preset, masks=replace(preset.masks, count=options.masks))


def teacher_kind(teacher: str | None) -> TeacherKind | None:
    """Return the kind that ``--teacher`` names, or None for a file or nothing."""
    return next((kind for kind in get_args(TeacherKind) if kind == teacher), None)


def teacher_file(teacher: str | None) -> Path | None:
    """Return the file of weights that ``--teacher`` names, or None for a kind or nothing."""
    return None if teacher is None or teacher_kind(teacher) else Path(teacher)


def with_steps(preset: Preset, steps: int | None) -> Preset:
    """Return the preset with every network trained for ``steps`` batches, if given."""
    if steps is None:
        return preset
    return replace(
        preset,
        tokenizer_schedule=replace(preset.tokenizer_schedule, steps=steps),
        lavit_schedule=replace(preset.lavit_schedule, steps=steps),
        efficientad_schedule=replace(preset.efficientad_schedule, steps=steps),
    )
