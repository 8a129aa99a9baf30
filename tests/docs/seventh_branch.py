"""Run in a copy of the product that has the branch of CONTRIBUTING.md: export untrained networks, write a bundle, run it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from calibration.placement import DIALECTS
from edge_ad.bundle import Bundle, BundleContents, Golden, References, open_bundle, write_bundle
from edge_ad.config import CalibrateTable
from edge_ad.deployment.build import build
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.deployment.derive import derive
from edge_ad.engines.pipeline import Pipeline
from edge_ad.export.graphs import export_all
from edge_ad.models.lavit import bank_of
from edge_ad.scoring import BRANCHES, Thresholds
from edge_ad.training.statistics import blank_statistics
from tests.fixtures.tiny_bundle import tiny_image
from tests.fixtures.tiny_presets import TINY, untrained

SIDE = TINY.image_side
IMAGES = np.stack([tiny_image(seed, blob=seed > 2, size=(SIDE, SIDE)) for seed in range(4)])
BRIGHTNESS = IMAGES.mean(axis=(1, 2, 3), dtype=np.float64)


def untrained_contents() -> BundleContents:
    """Return a bundle of random networks whose branches count equally."""
    masks = bank_of(TINY.masks, TINY.teacher.token_grid)
    networks = untrained(TINY)
    with torch.no_grad():
        pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
        pooled = networks.teacher(pixels).pooled.numpy()
    exported = export_all(networks, TINY, torch.from_numpy(masks), torch.from_numpy(IMAGES[:1]))
    return BundleContents(
        name="seventh",
        preset=TINY.name,
        settings={},
        image_size=(SIDE, SIDE),
        parent=None,
        graphs={graph.name: graph.model for graph in exported},
        references=References.from_arrays(*(graph.references for graph in exported)),
        masks=masks,
        statistics=blank_statistics(pooled),
        thresholds=Thresholds(warn=1e6, ng=2e6),
        raw_scores={"threshold": np.zeros((1, len(BRANCHES)), np.float32)},
        golden=Golden(IMAGES[:1], np.zeros((1, len(BRANCHES)), np.float32)),
        report={},
    )


def scored(bundle: Bundle, **options: bool) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return the raw scores of the images, the branches and the graphs that are run."""
    with Pipeline(bundle, **options) as pipeline:
        raw = np.stack([pipeline.infer(image).raw for image in IMAGES])
        return raw, pipeline.branches, list(pipeline.engines)


def main(old: Path) -> None:
    """Check a bundle with the seventh branch, one whose weight of it is 0, and the ``old`` one of five branches."""
    contents = untrained_contents()
    write_bundle(Path("seven.edgead"), contents)
    raw, branches, graphs = scored(open_bundle("seven.edgead"))
    assert branches == (*BRANCHES[:6], "brightness")
    assert "brightness" in graphs
    np.testing.assert_allclose(raw[:, 6], BRIGHTNESS, rtol=1e-5)

    weight = np.array([1 / 6] * 6 + [0.0], np.float32)
    dropped = replace(contents, statistics=replace(contents.statistics, weight=weight))
    write_bundle(Path("dropped.edgead"), dropped)
    without, branches, graphs = scored(open_bundle("dropped.edgead"))
    assert branches == BRANCHES[:6]
    assert "brightness" not in graphs
    np.testing.assert_array_equal(without[:, 6], 0.0)
    np.testing.assert_array_equal(without[:, :6], raw[:, :6])

    proven = replace(contents, golden=Golden(IMAGES[:1], raw[:1]))
    options = CalibrateOptions(CalibrateTable(images=2), search=False, corrections={dialect: {} for dialect in DIALECTS})
    seven = with_quantisation(proven, Path("scratch.edgead"), IMAGES, IMAGES, options=options, report=lambda text: None)
    write_bundle(Path("seven.edgead"), seven)
    bundle = open_bundle("seven.edgead")
    assert bundle.quantisation is not None
    assert "brightness" in bundle.quantisation.ranges
    assert "brightness" in derive(bundle, "fp16")
    assert build(bundle, "fp32").refusal is None

    five = open_bundle(old)
    assert five.statistics.branches == BRANCHES[:5]
    with Pipeline(five, all_branches=True) as pipeline:
        image = five.golden.images[0]
        np.testing.assert_allclose(pipeline.infer(image).raw, five.golden.raw[0], rtol=1e-4)
    print("seven branches")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
