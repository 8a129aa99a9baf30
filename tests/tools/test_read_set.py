"""The tool that reads a set branch by branch and moves normal images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.data.datasets import TestItem
from edge_ad.data.images import list_images, read_image
from edge_ad.engines.pipeline import Pipeline
from edge_ad.evaluation.figures import TestScores
from edge_ad.scoring.auroc import auroc
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.fixtures.trained import write_dark_set
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/read_set")


def test_each_branch_is_read_alone_and_left_out(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, bundle = tmp_path / "set", make_tiny_bundle(tmp_path / "tiny.edgead")
    write_dark_set(root, (4, 4, 4))
    out = tmp_path / "reading.json"
    monkeypatch.setattr(sys, "argv", ["read_set.py", str(bundle), "--set", str(root), "--out", str(out)])
    assert tool.main() == 0
    result = json.loads(out.read_text())
    opened = open_bundle(bundle)
    with Pipeline(opened, all_branches=True) as pipeline:
        good, bad = (
            np.stack([pipeline.infer(opened.geometry.prepare(read_image(path)).image).raw.copy()  # type: ignore[union-attr]
                      for path in list_images(root / part)])
            for part in ("test/good", "test/dark")
        )
    for index, name in enumerate(("structure", "logic", "local", "global", "composition")):
        assert result["branches"][name]["anomalies"][0] == pytest.approx(auroc(good[:, index], bad[:, index]), abs=1e-4)
        assert f"without {name}" in result["branches"]
    assert result["moved"]["as they are"]["images"] == 4
    assert f"| composition | {result['branches']['composition']['anomalies'][0]:.3f} [" in capsys.readouterr().out


def test_an_image_without_a_part_is_the_worst(tool: ModuleType, tmp_path: Path) -> None:
    statistics = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead")).statistics
    raw = np.stack([statistics.mean, np.zeros_like(statistics.mean), statistics.mean + 100 * statistics.std])
    items = tuple(TestItem(tmp_path / f"{index}.png", "good", "", ()) for index in range(3))
    scores = TestScores(items, raw, np.zeros(3, np.float32), (), (), unlocated={1: "nothing is in view"})
    result = tool.subset_score(tool.z_scores(scores, statistics), statistics, ("composition",))
    assert result.argmax() == 1
    np.testing.assert_allclose(result[[0, 2]], [0, 100], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [("as they are", 50, 40), ("shifted right by 2 %", 50, 42), ("shifted left by 2 %", 50, 38), ("shifted down by 2 %", 52, 40),
     ("shifted up by 2 %", 48, 40), ("turned left by 2 degrees", 50, 40), ("larger by 2 %", 50, 40), ("smaller by 2 %", 50, 40)],
)
def test_images_move_by_two_percent_and_two_degrees(tool: ModuleType, name: str, row: int, column: int) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[50, 40] = 255
    # About the middle (99.5, 49.5), the point 59.5 left of it: 2 degrees are 2.08 pixels, 2 % are 1.19.
    y, x = {"turned left by 2 degrees": (2, 0), "larger by 2 %": (0, -1), "smaller by 2 %": (0, 1)}.get(name, (0, 0))
    moved = tool.movements()[name](image)[..., 0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (row + y, column + x)


def test_a_shift_blurs_nothing(tool: ModuleType) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)  # 2 % are 9.6 pixels
    moved = tool.movements()["shifted right by 2 %"](image)
    np.testing.assert_array_equal(moved[:, 10:], image[:, :-10])


def test_nothing_to_read_is_reported(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["read_set.py", str(tmp_path / "tiny.edgead")])
    assert tool.main() == 2
    assert "name a set (--set) or a folder of normal images (--normal)" in capsys.readouterr().err
