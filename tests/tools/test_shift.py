"""The tool that disturbs images and counts the verdicts."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.camera.measure import measure_reference
from edge_ad.data.datasets import load_dataset
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput
from edge_ad.scoring.auroc import auroc
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.fixtures.trained import CORRUPT, write_dark_set, write_goods
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmarks/shift")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four normal test images, and three that are black where a part should be."""
    return write_dark_set(tmp_path_factory.mktemp("set"), (1, 4, 3))


def test_verdicts_are_those_of_the_disturbed_images(
    tool: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = make_tiny_bundle(tmp_path / "tiny.edgead"), tmp_path / "out" / "shift"
    arguments = ["--case", str(path), str(root), "--only", "light", "--at", "light=20", "--out", str(out), "--unchecked"]
    monkeypatch.setattr(sys, "argv", ["shift.py", *arguments])
    assert tool.main() == 0
    undisturbed, light = json.loads(out.with_suffix(".json").read_text())
    bundle = open_bundle(path)
    scores: dict[str, list[float]] = {}
    with Pipeline(bundle) as pipeline:
        for part in ("good", "dark"):
            scores[part] = []
            for number, file in enumerate(list_images(root / "test" / part)):
                image = resize(read_image(file), pipeline.image_size).astype(np.float32) * (0.8 if number % 2 else 1.2)
                scores[part].append(pipeline.infer(np.clip(np.rint(image), 0, 255).astype(np.uint8)).score)
    assert (light["disturbance"], light["strength"], light["unit"], light["normal"], light["anomalies"]) == ("light", 20, "%", 4, 3)
    assert light["normal_ng"] == sum(score > bundle.thresholds.ng for score in scores["good"])
    assert light["anomalies_ng"] == sum(score > bundle.thresholds.ng for score in scores["dark"])
    assert light["auroc"] == pytest.approx(auroc(np.array(scores["good"]), np.array(scores["dark"])), abs=1e-6)
    assert (undisturbed["disturbance"], undisturbed["reasons"]) == ("none", {})
    assert out.with_suffix(".md").read_text() == capsys.readouterr().out
    assert out.with_suffix(".png").exists() == (importlib.util.find_spec("matplotlib") is not None)


def test_what_the_camera_check_refuses_is_none_with_its_reason(tool: ModuleType, root: Path, tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    images = [resize(read_image(path), bundle.image_size) for path in list_images(root / "test/good")]
    bundle.report["health_reference"] = measure_reference(images * 2).to_json()
    with Pipeline(bundle) as pipeline:
        station = tool.Station(bundle, pipeline)
        none, blur = tool.measure(station, "tiny", (images, []), {"blur": (3.0,)})
    assert (none.normal_none, none.reasons) == (0, {})
    assert (blur.normal_none, blur.normal_ng, blur.reasons) == (4, 0, {"blurred": 4})
    assert blur.auroc is None


def test_strengths_mean_what_their_units_say(tool: ModuleType) -> None:
    light = tool.variations("light", 10)
    assert [one.disturbance.gain[0] for one in light] == pytest.approx([1.1, 0.9])
    assert tool.variations("shift", 0)[0].disturbance == tool.Disturbance()
    grey = np.full((61, 81, 3), 200, np.uint8)
    (vignetting,) = tool.variations("vignetting", 30)
    darker = vignetting.frame(grey)
    # The corners lose 30 %; half way to them, where the square of the distance is a quarter, it is 7.5 %.
    assert (darker[0, 0, 0], darker[30, 40, 0], darker[15, 20, 0]) == (140, 200, 185)
    (jpeg,) = tool.variations("jpeg", 40)
    noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (jpeg.frame(noisy) != noisy).any()
    np.testing.assert_allclose(jpeg.frame(grey), grey, atol=2)


@pytest.mark.parametrize(("sign", "share"), [(0, 0.05), (1, -0.05)])
def test_another_lens_moves_a_point_along_its_radius(tool: ModuleType, sign: int, share: float) -> None:
    frame = np.zeros((201, 201, 3), np.uint8)
    frame[38:43, 38:43] = 255  # 60 pixels left of and above the middle
    seen = tool.variations("lens", 5)[sign].frame(frame)[:, :, 0].astype(float)
    rows, columns = np.nonzero(seen > 127)
    half = math.hypot(200, 200) / 2
    # A pixel at distance r shows what lay at r (1 + share r^2), in half diagonals: found where that is 60 pixels along an axis.
    offset = next(x for x in np.arange(50, 70, 0.01) if x * (1 + share * 2 * (x / half) ** 2) >= 60)
    assert (rows.mean(), columns.mean()) == pytest.approx((100 - offset, 100 - offset), abs=0.6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "light=much"], "write NAME=VALUE,VALUE"),
        (["--at", "fog=1"], "no disturbance 'fog'"),
        (["--at", "lens=80"], "the strength of lens is 80, and 0 to 50"),
        (["--at", "light=90"], "beyond what the method supports"),
    ],
)
def test_strengths_that_cannot_be_are_refused_at_once(
    arguments: list[str], words: str, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shift.py", "--case", "none.edgead", "nowhere", *arguments])
    assert tool.main() == 2
    assert words in capsys.readouterr().err


def _listed(folder: Path, names: list[str]) -> Path:
    path = folder / "exclude.txt"
    path.write_text("\n".join(names))
    return path


def test_unseen_images_are_those_that_the_training_held_back(tool: ModuleType, tmp_path: Path) -> None:
    (write_goods(tmp_path / "goods", 20) / CORRUPT).unlink()
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    normal, anomalies = tool.read_images(tmp_path / "goods", bundle, unseen=True, count=30)
    assert (len(normal), anomalies) == (6, [])  # 15 % twice
    # With images left out the split is another one: then these are unseen, not those of all images.
    bundle.report["excluded"] = [f"tray_{number:03}.png" for number in range(6)]
    held_back = load_dataset(tmp_path / "goods", exclude=_listed(tmp_path, bundle.report["excluded"])).normal
    assert tool.unseen_of(tmp_path / "goods", bundle) == sorted([*held_back.normalise, *held_back.threshold])
    empty = tmp_path / "empty"
    (empty / "test" / "dark").mkdir(parents=True)
    (empty / "test" / "dark" / "1.png").write_bytes((tmp_path / "goods" / "tray_001.png").read_bytes())
    with pytest.raises(BadInput, match="holds no normal images to disturb"):
        tool.read_images(empty, bundle, unseen=False, count=3)
