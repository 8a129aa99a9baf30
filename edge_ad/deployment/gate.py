"""The INT8 gate: an engine against its FP32 reference on many images, refused when verdicts flip, scores err or AUROC
falls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.placement import Plan
from edge_ad.bundle import Bundle
from edge_ad.config import MAX_FLIP
from edge_ad.deployment.int8 import SCHEMA, Recipe
from edge_ad.deployment.loss import NEAR, Loss, check_finite, loss
from edge_ad.deployment.precision_search import MAX_AUROC, MAX_ERROR, Search, Searcher, worst_nodes
from edge_ad.deployment.validation_images import (
    ValidationImages,
    labelled_validation_images,
    make_validation_images,
    spread,
)
from edge_ad.engines import engine_store
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput
from edge_ad.scoring import fuse
from edge_ad.utils.files import atomic_write

SEARCHED = 8  # normal images that the search for a better plan looks at, with their views and anomalies


@dataclass(frozen=True)
class Gate:
    """What the gate measured, by set of images (``proof``, and ``labelled`` if one was given), and its budget.

    ``zone_flips`` are verdicts of zones that flip, and of how many images, by the name of the zone.
    """

    losses: dict[str, Loss]
    max_flip: float
    zone_flips: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def refused(self) -> str | None:
        """The first thing that is beyond the budget, None when all is within it."""
        for name, current in self.losses.items():
            if not current.finite:
                return f"scores on the {name} images are not finite numbers"
            if current.rate > self.max_flip:
                flips = f"{current.far_flips} of {current.images} {name} verdicts flip"
                return f"{flips} ({current.rate:.2%}, allowed {self.max_flip:.2%})"
            worst = max(current.rows, key=lambda row: row.rms)
            if worst.rms > MAX_ERROR:
                return f"{worst.branch} errs by {worst.rms:.2f} z on the {name} images (rms, allowed {MAX_ERROR:g})"
            fallen = [row for row in current.rows if row.auroc_loss > MAX_AUROC and row.fall_is_clear]
            if fallen:
                worst = max(fallen, key=lambda row: row.auroc_loss)
                return f"AUROC of {worst.branch} on the {name} images falls by {worst.auroc_loss:.4f} (allowed {MAX_AUROC})"
        for zone, (count, of) in self.zone_flips.items():
            if count > self.max_flip * of:
                return f"{count} of {of} verdicts of zone {zone} flip ({count / of:.2%}, allowed {self.max_flip:.2%})"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; what is not a finite number becomes null."""
        return {
            "max_flip": self.max_flip,
            "max_error_z": MAX_ERROR,
            "max_auroc_loss": MAX_AUROC,
            **{name: _plain(tensor_range) for name, tensor_range in self.losses.items()},
            **({"zones": {name: list(counts) for name, counts in self.zone_flips.items()}} if self.zone_flips else {}),
        }


def measure_gate(
    candidate: Pipeline,
    reference: Pipeline,
    bundle: Bundle,
    max_flip: float = MAX_FLIP,
    *,
    labelled: Path | None = None,
    seed: int = 0,
) -> Gate:
    """Judge every proof image with both pipelines; BadInput for a bundle without proof images or a bad labelled set."""
    sets = {"proof": validation_images_of(bundle, seed=seed)}
    if labelled is not None:
        sets["labelled"] = labelled_validation_images(labelled, bundle.geometry, bundle.image_bits)
    losses, zones = {}, _ZoneFlips(bundle)
    for name, validation in sets.items():
        rows = [[zones.read(p.infer(image)) for image in validation.images] for p in (reference, candidate)]
        exact, result = (np.stack([raw for raw, _ in row]) for row in rows)
        before, after = ([scores for _, scores in row] for row in rows)
        zones.add(before, after, validation.anomalous)
        check_finite(fuse(exact, bundle.statistics)[1], f"{bundle.path} in FP32")
        losses[name] = loss(exact, result, validation.anomalous, bundle.statistics, thresholds=bundle.thresholds)
    return Gate(losses, max_flip, zones.flips)


class _ZoneFlips:
    """Counts verdicts of the zones of a bundle that two pipelines give differently.

    Those do not count whose reference lies within NEAR of a threshold, in deviations of normal images in that zone.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._zones, self._thresholds = bundle.geometry.zones, bundle.thresholds.zones
        self.flips: dict[str, tuple[int, int]] = {}

    def read(self, result: Inference) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Return the raw scores of an image and those of its zones; its map is not kept."""
        return result.raw, {} if self._zones is None or not self._thresholds else self._zones.scores(result.map)

    def add(
        self, before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]], anomalous: NDArray[np.bool_]
    ) -> None:
        """Count what zones score before and after on the same images."""
        for name, own in self._thresholds:
            exact, result = (np.array([row[name] for row in rows]) for rows in (before, after))
            levels = [np.where(np.isfinite(one), (one > own.warn).astype(int) + (one > own.ng), 3) for one in (exact, result)]
            near = NEAR * float(np.std(exact[~anomalous]))
            far = np.minimum(np.abs(exact - own.ng), np.abs(exact - own.warn)) > near
            flips, images = self.flips.get(name, (0, 0))
            self.flips[name] = flips + int((far & (levels[0] != levels[1])).sum()), images + len(exact)


def validation_images_of(bundle: Bundle, normal_count: int | None = None, seed: int = 0) -> ValidationImages:
    """Return the proof images of a bundle, made from ``normal_count`` of its normal images (all by default); BadInput
    without any.
    """
    if bundle.quantisation is None:
        raise BadInput(f"{bundle.path} holds no proof images: run `edge-ad calibrate {quote(str(bundle.path))} GOODS` first")
    stored = bundle.quantisation.proof
    chosen = stored if normal_count is None else spread(stored, normal_count)
    return make_validation_images(chosen, seed=seed, geometry=bundle.geometry)


def explain_int8(
    bundle: Bundle, recipe: Recipe, target: str, reason: str, *, reference: Pipeline, max_flip: float
) -> str:
    """Say why an INT8 engine is refused, which nodes are worst, and where the plan lies that would pass, if there is
    one.
    """
    validation = validation_images_of(bundle, SEARCHED, seed=1)
    result = Searcher(bundle, recipe, target, validation, pipeline=reference).search(max_flip)
    worst = worst_nodes(result.costs)
    if not result.passed:
        return f"the int8 engine is refused: {reason}; worst are {worst}; no plan passes, so use --fp16"
    path = engine_store.engines_folder(bundle.path) / f"plan-{target}.json"
    write_plan(path, result, target)
    return (
        f"the int8 engine is refused: {reason}; worst are {worst}; a plan with {len(result.in_float)} of {len(result.costs)} "
        f"parts in floating point passes on {result.loss.images} images: "
        f"`edge-ad build-engine {quote(str(bundle.path))} --int8 --plan {quote(str(path))}`"
    )


def write_plan(path: Path, search: Search, target: str) -> None:
    """Write the plan of a search as a file that build-engine takes with --plan."""
    plans: dict[str, Plan] = dict(search.plans)
    value = {
        "schema": SCHEMA,
        "graphs": {name: plan.to_json() for name, plan in plans.items()},
        "corrections": {target: dict(search.corrections)},
    }
    atomic_write(path, json.dumps(value, indent=1) + "\n")


def _plain(current: Loss) -> dict[str, Any]:
    return {
        "images": current.images,
        "flips": current.flips,
        "far_flips": current.far_flips,
        "expected_flips": current.expected,
        "branches": {
            row.branch: {
                "bias_z": _finite(row.bias),
                "rms_z": _finite(row.rms),
                "largest_z": _finite(row.largest),
                "auroc_fp32": row.auroc_reference,
                "auroc": row.auroc,
            }
            for row in current.rows
        },
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
