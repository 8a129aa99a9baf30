"""A whole training on parts that are cut out in their own aspect ratio, up to engines that pass their gates."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.bundle.graphs import map_size
from edge_ad.config import Config, TrainTable
from edge_ad.data.images import read_image
from edge_ad.deployment.build import build
from edge_ad.deployment.validation_images import make_validation_images
from edge_ad.engines.pipeline import Pipeline
from edge_ad.geometry.geometry import Prepared
from edge_ad.synthetic.single_part import PartOptions, render_part
from edge_ad.training.train import train
from tests.fixtures.tiny_presets import TINY, known

pytestmark = pytest.mark.slow

COUNT = 30


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "keys"
    folder.mkdir()
    for seed in range(COUNT):
        image = render_part(seed, PartOptions(kind="key", size=(240, 320))).image
        assert cv2.imwrite(str(folder / f"part_{seed:02}.png"), image[:, :, ::-1])
    return folder


@pytest.fixture(scope="module")
def bundle(parts: Path) -> Bundle:
    settings = Config(train=TrainTable(preset="tiny", geometry="foreground", pixels=16_384))
    with known(TINY):
        return open_bundle(train(parts, parts.parent / "run", settings, progress=False))


def test_a_long_part_makes_a_long_input_and_grids_of_its_shape(bundle: Bundle) -> None:
    high, wide = bundle.image_size
    assert wide > high
    assert high % 32 == wide % 32 == 0
    assert bundle.masks.shape == (2, high * wide // 256)
    assert bundle.golden.images.shape[1:] == (high, wide, 3)
    assert bundle.report["export"]["lavit"]["relative_error"] < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_pass_their_gates_and_judge_a_part(bundle: Bundle, parts: Path, precision: str) -> None:
    report = build(bundle, precision, threads=1)
    assert report.refusal is None
    assert bundle.quantisation is not None
    proof = make_validation_images(bundle.quantisation.proof)
    if report.gate is not None:
        assert report.gate.losses["proof"].images == len(proof.images)
    prepared = bundle.geometry.prepare(read_image(parts / "part_00.png"))
    assert isinstance(prepared, Prepared)
    with Pipeline(bundle, precision=precision, threads=1) as pipeline, Pipeline(bundle, threads=1) as exact:
        result, expected = pipeline.infer(prepared.image), exact.infer(prepared.image)
    assert result.map.shape == map_size(bundle.image_size)
    assert np.isfinite(result.map).all()
    assert result.score == pytest.approx(expected.score, abs=1.0)
