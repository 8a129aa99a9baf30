"""Whether the logic map points at defects: the share of its mass inside their masks against the share of their area."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.images import read_mask
from edge_ad.data.layouts import TestItem
from edge_ad.evaluation.figures import ANOMALIES, Figures, with_mean
from edge_ad.evaluation.scores import Floats, TestScores


def logic_figures(scores: TestScores) -> Figures:
    """Return {"logical", "structural", "mean"}: the mean over images with masks of ``mass_factor`` of the logic map.

    The map holds what stands out from goods, so a picture in which nothing does points nowhere and counts 0; 1 is
    chance. None for a kind without masks, or when the branch was not computed.
    """
    found: Figures = {}
    for kind in ANOMALIES:
        factors = []
        for index in scores.of(kind) if scores.logic else ():
            item = scores.items[index]
            if item.masks:
                factors.append(mass_factor(np.maximum(scores.logic[index], 0.0), union(item)))
        found[kind] = float(np.mean(factors)) if factors else None
    return with_mean(found)


def suspect_masks(scores: TestScores) -> list[str]:
    """Return the images whose masks mark more than half of them while the fused map is lower there than elsewhere.

    Such a mask is likely to be inverted: 0 on the defect.
    """
    found = []
    for item, heat in zip(scores.items, scores.maps, strict=True):
        if not item.masks:
            continue
        defect = union(item)
        if 0.5 < defect.mean() < 1.0 and mass_factor(heat - heat.min(), defect) < 1.0:
            found.append(str(item.path))
    return found


def mass_factor(heat: Floats, defect: npt.NDArray[np.bool_]) -> float:
    """Return (share of the mass of ``heat`` f32 [n, n] >= 0 inside ``defect``) / (share of its area); 0 without mass.

    ``defect`` is bool [H, W] with at least one pixel; a cell of the map that it covers in part counts by that part.
    """
    covered = cv2.resize(defect.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    mass = float(heat.sum())
    return float((heat * covered).sum()) / mass / float(covered.mean()) if mass > 0 else 0.0


def union(item: TestItem) -> npt.NDArray[np.bool_]:
    """Return the pixels of all masks of an image, bool [H, W]."""
    masks = [read_mask(path) > 0 for path in item.masks]
    return np.asarray(np.logical_or.reduce(masks))
