"""What the end of a training chooses from the networks that it trained: the memory's variant, and which maps standardise errors.

The teacher and the networks see the unseen normal images and the anomalies once for all of it: standardising is a linear
change of errors after the training, so both readings of a map come from the same pass. Each anomaly is shown at one strength
only: every one at every strength would cost more than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_ad.deployment.validation_images import evenly, spread
from edge_ad.models.build import AnyTeacher, build_standardise
from edge_ad.models.efficientad import EfficientAD, error_map
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.teachers import TeacherOutput
from edge_ad.presets.networks import Size
from edge_ad.presets.presets import FusionSettings, Preset
from edge_ad.scoring.pooling import highest_mean
from edge_ad.scoring.weights import Trial
from edge_ad.training.augment import VIEWED, to_pixels
from edge_ad.training.images import Images, ScoringImages

MAX_NORMAL = 128  # unseen normal images, and
MAX_SHOWN = 192  # anomalies that choices are made by
CHUNK = 16
PLAIN, STANDARDISED = "plain", "standardised"

Scores = NDArray[np.float32]
Reader = Callable[[Tensor, TeacherOutput], Mapping[str, Scores]]
"""Raw scores f32 [n, V] of a batch by what is chosen, a column a variant, the default first: from its pixels and what the
teacher makes of them."""


def read_trials(
    teacher: AnyTeacher,
    images: ScoringImages,
    readers: Sequence[Reader],
    *,
    seed: int,
    device: torch.device,
    more: Images | None = None,
) -> dict[str, Trial]:
    """Return, by what is chosen, the trial of its variants on unseen normal images, ``more`` versions of them and anomalies."""
    shown, kinds = images.shown_once(MAX_SHOWN)
    normal, count = _versions(images.normalise, more)
    everything = np.concatenate([normal, shown])
    rows: dict[str, list[Scores]] = {}
    for start in range(0, len(everything), CHUNK):
        pixels = to_pixels(everything[start : start + CHUNK], device)
        with torch.no_grad():
            described = teacher(pixels)
            for name, scores in (pair for reader in readers for pair in reader(pixels, described).items()):
                rows.setdefault(name, []).append(scores)
    scores_of = {name: np.concatenate(parts).astype(np.float64) for name, parts in rows.items()}
    rows_of = {name: (scores[: len(normal)], scores[len(normal) :]) for name, scores in scores_of.items()}
    return {name: Trial(*scores, kinds, seed, images=count) for name, scores in rows_of.items()}


def _versions(unseen: Images, more: Images | None) -> tuple[Images, int]:
    """Return at most MAX_NORMAL of ``unseen`` images, each with its versions after it, and how many images these are.

    ``more`` holds the images that have versions, evenly spread over all, once in a version after the other. Versions of an
    image are no further evidence: a trial draws them together.
    """
    known = spread(unseen, VIEWED)
    if more is None or not len(more):
        known = spread(unseen, MAX_NORMAL)
        return known, len(known)
    stacked = np.stack([known, *np.split(more, len(more) // len(known))], axis=1)
    chosen = stacked[evenly(len(stacked), min(len(stacked), max(1, MAX_NORMAL // stacked.shape[1])))]
    return chosen.reshape(-1, *unseen.shape[1:]), len(chosen)


def chosen_variant(trial: Trial, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return which of the variants to take, and the figures that decided: gains over the first, and what they must exceed."""
    alone = np.eye(len(names))
    first, default, others = names[0], alone[0], len(names) - 1
    aurocs = {name: round(trial.macro(weight), 4) for name, weight in zip(names, alone, strict=True)}
    gains = {
        f"{name} over {first}": [round(trial.gain(weight, default)[0], 4), round(trial.needed(weight, default, others), 4)]
        for name, weight in zip(names[1:], alone[1:], strict=True)
    }
    return names[trial.choose(alone)], {"auroc": aurocs, "gains": gains}


def describe_figures(figures: Mapping[str, Any]) -> str:
    """Return the figures of ``chosen_variant`` in one line: the AUROC of each variant, and what decided against the first."""
    (first, auroc), *others = figures["auroc"].items()
    parts = [f"AUROC {first} {auroc:.3f}"]
    for name, value in others:
        gain, needed = figures["gains"][f"{name} over {first}"]
        parts.append(f"{name} {value:.3f} ({gain:+.3f}, more than {needed:.3f} needed)")
    return ", ".join(parts)


def offer_standardise(
    preset: Preset, given: Collection[str], tokenizer: HvqTokenizer, efficientad: EfficientAD, *, channels: int, image_size: Size
) -> None:
    """Let the networks that may choose standardise their errors against a teacher of ``channels``; they have to learn them."""
    device = next(tokenizer.parameters()).device
    if preset.may_standardise("hvq", given):
        tokenizer.standardise = build_standardise(tokenizer.head.out_features, tokenizer.grid)[0].to(device)
    if preset.may_standardise("efficientad", given):
        pair = build_standardise(channels, preset.feature_grid(image_size))
        efficientad.standardise = nn.ModuleList(pair).to(device)


def standardise_readers(
    preset: Preset, given: Collection[str], tokenizer: HvqTokenizer, efficientad: EfficientAD
) -> list[Reader]:
    """Return what reads the maps that may choose, as they are and standardised."""
    fusion, readers = preset.fusion, list[Reader]()

    def structure(pixels: Tensor, described: TeacherOutput) -> dict[str, Scores]:
        out = tokenizer(described.tokens)
        maps = [tokenizer.error_map(out, described.tokens, module) for module in (None, tokenizer.standardise)]
        return {"structure": _pooled(maps, fusion, "structure")}

    def student(pixels: Tensor, described: TeacherOutput) -> dict[str, Scores]:
        assert efficientad.standardise is not None
        errors = efficientad.errors(pixels, described.features)
        return {
            name: _pooled([error_map(one, None), error_map(one, module)], fusion, name)
            for name, one, module in zip(("local", "global"), errors, efficientad.standardise, strict=True)
        }

    if preset.may_standardise("hvq", given):
        readers.append(structure)
    if preset.may_standardise("efficientad", given):
        readers.append(student)
    return readers


def _pooled(maps: Sequence[Tensor], fusion: FusionSettings, name: str) -> Scores:
    flat = [one.flatten(1).float().cpu().numpy() for one in maps]
    return np.stack([highest_mean(one, fusion.top_of(name)) for one in flat], axis=1)


def with_standardised(
    preset: Preset, trials: Mapping[str, Trial], tokenizer: HvqTokenizer, efficientad: EfficientAD
) -> tuple[Preset, dict[str, Any]]:
    """Leave standardised what the trials support, and return the preset that says so, and the report.

    ``efficientad.standardise`` is on where one of its two maps is standardised; the report says which.
    """
    report, chosen = {}, {}
    for name in ("structure", "local", "global"):
        if name in trials:
            variant, figures = chosen_variant(trials[name], (PLAIN, STANDARDISED))
            chosen[name], report[name] = variant == STANDARDISED, {"variant": variant, **figures}
    hvq, student = preset.hvq, preset.efficientad
    if "structure" in chosen:
        tokenizer.standardise = tokenizer.standardise if chosen["structure"] else None
        hvq = replace(hvq, standardise=chosen["structure"])
    if "local" in chosen:
        assert efficientad.standardise is not None
        pair = zip(efficientad.standardise, (chosen["local"], chosen["global"]), strict=True)
        some = chosen["local"] or chosen["global"]
        efficientad.standardise = nn.ModuleList(one if use else nn.Identity() for one, use in pair) if some else None
        student = replace(student, standardise=some)
    return replace(preset, hvq=hvq, efficientad=student), report
