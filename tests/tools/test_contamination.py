"""The tool that plants anomalies among normal images and counts which are listed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.config import Config
from edge_ad.data.datasets import load_dataset, load_test
from edge_ad.data.images import list_images, read_image
from edge_ad.engines.pipeline import Pipeline
from edge_ad.scoring.auroc import auroc
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.fixtures.tiny_presets import TINY, known
from tests.fixtures.trained import write_dark_set
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/contamination")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen normal images, and three test images that are black where a part should be."""
    return write_dark_set(tmp_path_factory.mktemp("set"), (18, 2, 3), slice(30, 100))


def test_images_of_the_test_set_are_planted_and_listed(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    arguments = [str(root), "--from", "test", "--share", "10", "--preset", "tiny", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["contamination.py", *arguments])
    with known(TINY):
        assert tool.main() == 0
    (figures,) = json.loads(out.read_text())
    assert (figures["planted"], figures["found"], figures["top"], figures["clean"]) == (2, 2, 2, 18)  # 10 % of 18
    assert figures["missed"] == []
    row = capsys.readouterr().out.splitlines()[-1]
    assert row == f"| {root.name} | test | 1 | 10 % | 2 of 2 | 2 of 2 | {figures['clean_listed']} of 18 |"


def test_synthetic_anomalies_take_the_place_of_their_images(tool: ModuleType, root: Path, tmp_path: Path) -> None:
    planted = [tool.plant(tool.Trial(root, "synthetic", strength, 10.0, 0), tmp_path / str(strength)) for strength in (1, 0.5)]
    assert planted[0] == planted[1]  # the same anomalies in the same images
    assert len(planted[0]) == 2
    names = [path.name for path in list_images(root / "train/good")]
    assert [path.name for path in list_images(tmp_path / "1" / "train" / "good")] == names
    for name in names:
        before, full, half = (
            read_image(folder / "train/good" / name).astype(int) for folder in (root, tmp_path / "1", tmp_path / "0.5")
        )
        assert (full == before).all() == (name not in planted[0])
        assert np.abs(half - (before + full) / 2).max() <= 1


def test_trainings_differ_by_what_they_leave_out_and_none_is_judged_by_planted_images(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainings themselves are stood in for: what each is given is looked at."""
    folder, scratch = tmp_path / root.name, tmp_path / "scratch"
    scratch.mkdir()
    planted = tool.plant(tool.Trial(root, "test", 1.0, 10.0, 0), folder)
    trained: dict[Path, set[str]] = {}

    def train(data: Path, out: Path, settings: Config, *, progress: bool) -> Path:
        trained[out] = {path.name for path in load_dataset(data, 0, settings.train.exclude).excluded}
        return out

    def evaluate(bundle: Path, data: Path) -> dict[str, Any]:
        items = [item.path.resolve() for item in load_test(data).test]
        assert not {path.resolve() for path in (folder / "train" / "good").iterdir()} & set(items)
        assert len(items) == 2 + 3 - len(planted)
        return {"image_auroc": {"structural": float(len(trained[bundle]))}}

    monkeypatch.setattr(tool, "train", train)
    monkeypatch.setattr(tool, "evaluate", evaluate)
    confirmed = {sorted(planted)[0]}
    found = tool.aurocs(root, folder, scratch, confirmed, planted, preset="tiny")
    assert trained == {scratch / "clean": set(planted), scratch / "contaminated": set(), scratch / "corrected": confirmed}
    assert {name: values["structural"] for name, values in found.items()} == {"clean": 2, "contaminated": 0, "corrected": 1}


def test_a_set_with_too_few_images_is_refused(
    tool: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["contamination.py", str(root), "--images", "5"])
    assert tool.main() == 2
    assert "holds 5 images: more than 8 are needed" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["contamination.py", str(root), "--from", "test", "--share", "50"])
    assert tool.main() == 2
    assert "has 3 anomalous test images, but 9 are to be planted" in capsys.readouterr().err


def test_two_bundles_are_compared_on_what_was_not_planted(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bundle twice: no difference, and its own AUROC without the two planted images."""
    path, folder, out = make_tiny_bundle(tmp_path / "tiny.edgead"), tmp_path / "kept", tmp_path / "figures.json"
    asked = [str(root), "--from", "test", "--share", "10"]
    kept = ["--plant", str(folder), "--bundles", str(path), str(path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["contamination.py", *asked, *kept])
    assert tool.main() == 0
    result = json.loads(out.read_text())
    planted = {file.resolve() for file in (folder / "train" / "good").iterdir() if file.name.startswith("planted")}
    assert (len(planted), result["planted"], result["good"], result["anomalies"]) == (2, 2, 2, 1)
    assert result["difference"] == [0, 0, 0]
    opened = open_bundle(path)
    with Pipeline(opened, all_branches=True) as pipeline:
        scores = [
            [pipeline.infer(opened.geometry.prepare(read_image(file)).image).score for file in list_images(root / "test" / part)
             if file.resolve() not in planted]
            for part in ("good", "dark")
        ]  # fmt: skip
    assert result["clean"]["auroc"] == pytest.approx(auroc(*scores), abs=1e-6)
    assert result["contaminated"]["anomalies_ng"] == sum(score > opened.thresholds.ng for score in scores[1])
    assert "contaminated less clean: +0.0000 [+0.0000, +0.0000], 2 anomalies learned as normal" in capsys.readouterr().out
