"""Per-tile statistics: what is usual in each tile, and thresholds on the worst tile of a part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_ad.bundle import Bundle
from edge_ad.camera.frames import Image
from edge_ad.data.images import list_images, read_image
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput
from edge_ad.files import atomic_write
from edge_ad.inspection.view import View
from edge_ad.scoring import Array, Statistics, Thresholds, choose_thresholds, fuse, normalise_statistics

MINIMUM_GOODS = 10
_MAP_SIDE = 256


@dataclass(frozen=True, eq=False)
class TileStatistics:
    """``mean`` and ``std`` f32[T,5] of the raw scores of goods by tile, and thresholds on the worst tile of a part."""

    mean: Array
    std: Array
    thresholds: Thresholds

    def judge(self, raw: Array, statistics: Statistics) -> tuple[Array, Array]:
        """Return z [T,5] and score [T] of the raw scores f32[T,5] of all tiles of one part."""
        z, score = zip(
            *(
                fuse(raw[tile : tile + 1], replace(statistics, mean=self.mean[tile], std=self.std[tile]))
                for tile in range(len(raw))
            ),
            strict=True,
        )
        return np.concatenate(z), np.concatenate(score)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "thresholds": self.thresholds.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TileStatistics:
        """Build from ``to_json``."""
        mean, std = np.asarray(value["mean"], np.float32), np.asarray(value["std"], np.float32)
        return cls(mean, std, Thresholds.from_json(value["thresholds"]))


def combine(inferences: Sequence[Inference], view: View, tiles: TileStatistics, statistics: Statistics) -> Inference:
    """Return one Inference for all tiles: raw, z and score of the worst one, the maps put together, times summed."""
    z, score = tiles.judge(np.stack([inference.raw for inference in inferences]), statistics)
    # A score that is not finite must not be hidden by an ordinary one.
    worst = int(np.argmax(np.where(np.isfinite(score), score, np.inf)))
    whole = np.zeros((_MAP_SIDE, _MAP_SIDE), np.float32)
    for inference, box in zip(inferences, view.grid.boxes(_MAP_SIDE, _MAP_SIDE), strict=True):
        height, width = whole[box].shape
        whole[box] = cv2.resize(inference.map, (width, height), interpolation=cv2.INTER_AREA)
    stages = {name: sum(one.stages_ms.get(name, 0.0) for one in inferences) for name in inferences[0].stages_ms}
    return Inference(inferences[worst].raw, z[worst], float(score[worst]), whole, stages)


def measure_tiles(
    pipeline: Pipeline, bundle: Bundle, view: View, goods: Sequence[Image], seed: int = 0
) -> TileStatistics:
    """Measure every tile of goods u8[H,W,3]: a seeded half gives mean and deviation, the other half the thresholds.

    The weights stay those of the bundle. BadInput for fewer than 10 goods or a region that does not fit them.
    """
    if len(goods) < MINIMUM_GOODS:
        raise BadInput(
            f"per-tile statistics need at least {MINIMUM_GOODS} pictures of goods, but there are {len(goods)}"
        )
    for image in goods:
        if fault := view.fault(image):
            raise BadInput(f"a picture of a good does not fit: {fault}")
    raw = np.stack(
        [np.stack([pipeline.infer(tile).raw for tile in view.cut(image, bundle.image_size)]) for image in goods]
    )
    order = np.random.default_rng(seed).permutation(len(goods))
    fit, hold = raw[order[: len(goods) // 2]], raw[order[len(goods) // 2 :]]
    pairs = [normalise_statistics(fit[:, tile]) for tile in range(raw.shape[1])]
    mean, std = np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])
    found = TileStatistics(mean, std, bundle.thresholds)
    worst = [float(found.judge(part, bundle.statistics)[1].max()) for part in hold]
    old = bundle.thresholds
    return replace(found, thresholds=choose_thresholds(worst, old.target_ng, old.target_warn))


def load_tiles(pipeline: Pipeline, bundle: Bundle, view: View, folder: Path) -> TileStatistics:
    """Return the statistics for this bundle, view, engine and folder of goods, measured once and kept beside the bundle.

    They are kept in ``<bundle>.tiles/<key>.json``, where the key is a hash of all that decides them.
    """
    paths = list_images(folder)
    facts = {
        "bundle": bundle.sha256,
        "engine": [pipeline.backend.name, pipeline.precision],
        **view.describe(),
        "goods": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths],
    }
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    kept = bundle.path.with_name(f"{bundle.path.name}.tiles") / f"{key}.json"
    if kept.exists():
        try:
            return TileStatistics.from_json(json.loads(kept.read_text()))
        except (OSError, ValueError, KeyError, TypeError, BadInput):
            pass  # damaged: measured again
    found = measure_tiles(pipeline, bundle, view, [read_image(path, bundle.image_bits) for path in paths])
    atomic_write(kept, json.dumps({**facts, **found.to_json()}, indent=1) + "\n")
    return found
