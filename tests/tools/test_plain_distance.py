"""The tool that compares a bundle with a distance that needs no training."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.engines.pipeline import Pipeline
from edge_ad.models.efficientnet_lite import EfficientNetLite
from edge_ad.scoring.statistics import fit_gaussian, mahalanobis
from edge_ad.training.images import Images, read_all
from edge_ad.training.teacher import lite_weights
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.fixtures.trained import write_dark_set
from tests.tools.loading import load_tool

WIDTHS = {"means, strides 4, 8 and 16": 24 + 40 + 112, "means, strides 4 to 32": 24 + 40 + 112 + 320}
WIDTHS["means and regions"] = WIDTHS["means, strides 4 to 32"] + 16 * 40


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/plain_distance")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight normal images to learn, four to judge, and four that are black where a part should be."""
    return write_dark_set(tmp_path_factory.mktemp("set"), (8, 4, 4))


def _means(images: Images) -> NDArray[np.float64]:
    """Means over the image of the blocks at strides 4, 8 and 16."""
    trunk = EfficientNetLite((2, 4, 10))
    trunk.load_published(lite_weights("lite0", "a test"))
    with torch.no_grad():
        stages = trunk.eval()(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    return np.concatenate([stage.mean(dim=(2, 3)).double().numpy() for stage in stages], axis=1)


def _slow_distance(learned: NDArray[np.float64], tested: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ledoit and Wolf (2004), written out over the samples, and the distance by solving for each image."""
    centred = learned - learned.mean(axis=0)
    count, width = centred.shape
    outer = [np.outer(row, row) for row in centred]
    sample = np.add.reduce(outer) / count
    target = np.trace(sample) / width * np.eye(width)
    spread = sum(np.sum((one - sample) ** 2) for one in outer) / count**2
    share = min(1.0, spread / np.sum((sample - target) ** 2))
    covariance = share * target + (1 - share) * sample
    offsets = tested - learned.mean(axis=0)
    return np.array([np.sqrt(one @ np.linalg.solve(covariance, one)) for one in offsets])


def test_the_distance_is_that_of_the_slow_formula(tool: ModuleType, root: Path) -> None:
    learned, tested = (read_all(list_images(root / part), 256) for part in ("train/good", "test/dark"))
    one, other = tool.features(learned, tested)["means, strides 4, 8 and 16"]
    result = mahalanobis(other, *fit_gaussian(one))
    assert one.shape[1] == 176
    np.testing.assert_allclose(result, _slow_distance(_means(learned), _means(tested)), rtol=1e-3)


def test_the_table_compares_bundle_and_distances(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    monkeypatch.setattr(sys, "argv", ["plain_distance.py", str(bundle), str(root)])
    assert tool.main() == 0
    heading, _, _, own, *rows = capsys.readouterr().out.splitlines()
    assert heading == f"{root.name}: 8 normal images to learn, 4 normal images and 4 anomalies to judge"
    with Pipeline(open_bundle(bundle)) as pipeline:
        goods, bad = (
            [pipeline.infer(resize(read_image(path), pipeline.image_size)).score for path in list_images(root / part)]
            for part in ("test/good", "test/dark")
        )
    value = np.mean([(b > g) + 0.5 * (b == g) for g in goods for b in bad])
    assert own.startswith(f"| bundle | | {value:.3f} [")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {name: int(width) for name, width, *_ in cells} == WIDTHS
    for _, _, plain, gain in cells:
        assert float(gain.split()[0]) == pytest.approx(value - float(plain.split()[0]), abs=1e-3)
        assert gain[0] in "+-"


def test_a_set_without_anomalies_is_reported(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    for part in ("train/good", "test/good"):
        shutil.copytree(root / part, tmp_path / "goods" / part)
    monkeypatch.setattr(sys, "argv", ["plain_distance.py", str(bundle), str(tmp_path / "goods")])
    assert tool.main() == 2
    assert "goods needs train/good, test/good and a folder of anomalies" in capsys.readouterr().err
