"""The synthetic line as files: LOCO layout, masks with defect ids, video and truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.errors import BadInput
from edge_ad.synthetic import line

DEFECTS = line.LOGICAL + line.STRUCTURAL


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    calls: list[tuple[int, int]] = []
    counts = {"train": 3, "validation": 2, "test_good": 2, "test_logical": 7, "test_structural": 4}
    root = line.write_line(
        tmp_path_factory.mktemp("line"),
        **counts,
        size=96,
        seed=1,
        video_frames=20,
        hold=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    return root, calls


def test_layout_is_that_of_loco(written: tuple[Path, list[tuple[int, int]]]) -> None:
    root, calls = written
    assert root.name == "kit_tray"
    results = [path.parent.relative_to(root) for path in root.rglob("*.png")]
    pictures = Counter(str(folder) for folder in results if "ground_truth" not in folder.parts)
    assert pictures == {
        "train/good": 3,
        "validation/good": 2,
        "test/good": 2,
        "test/logical_anomalies": 7,
        "test/structural_anomalies": 4,
    }
    assert calls == [(done, 38) for done in range(1, 39)]


def test_masks_carry_the_defect_id(written: tuple[Path, list[tuple[int, int]]]) -> None:
    root, _ = written
    config = json.loads((root / "defects_config.json").read_text())
    names = {entry["pixel_value"]: entry["defect_name"] for entry in config}
    assert sorted(names.values()) == sorted(DEFECTS)
    for kind, expected in (("logical_anomalies", line.LOGICAL), ("structural_anomalies", line.STRUCTURAL)):
        for path in sorted((root / "test" / kind).glob("*.png")):
            masks = list((root / "ground_truth" / kind / path.stem).glob("*.png"))
            assert [mask.name for mask in masks] == ["000.png"]
            values = set(np.unique(cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)))
            (value,) = values - {0}
            assert names[int(value)] == expected[int(path.stem) % len(expected)]


def test_saturation_follows_the_picture_size() -> None:
    by_name = {entry["defect_name"]: entry for entry in line.defects_config(512)}
    assert by_name["missing"]["saturation_threshold"] == 4 * 450
    assert by_name["missing"]["relative_saturation"] is False
    assert by_name["dent"]["saturation_threshold"] == 1.0
    assert by_name["dent"]["relative_saturation"] is True


def test_pictures_are_the_trays_of_their_seeds(written: tuple[Path, list[tuple[int, int]]]) -> None:
    root, _ = written
    stored = cv2.imread(str(root / "test/logical_anomalies/004.png"))
    tray = line.render_tray(line.split_seed(1, "test_logical", 4), line.LOGICAL[4], 96)
    assert np.array_equal(stored[..., ::-1], tray.image)


def test_video_keeps_every_pixel_and_its_truth(written: tuple[Path, list[tuple[int, int]]]) -> None:
    root, _ = written
    truth = [json.loads(row) for row in (root / line.TRUTH_NAME).read_text().splitlines()]
    video = cv2.VideoCapture(str(root / line.VIDEO_NAME))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    for row, (image, expected) in zip(truth, line.line_frames(20, seed=1, size=96, hold=2), strict=True):
        result, frame = video.read()
        assert result
        assert np.array_equal(frame[..., ::-1], image)
        assert row == expected
        assert set(row) == {"frame", "part", "kind", "defect", "seed"}
    assert not video.read()[0]
    assert not list(root.glob(".part*"))


def test_a_folder_with_pictures_is_refused(written: tuple[Path, list[tuple[int, int]]]) -> None:
    root, _ = written
    with pytest.raises(BadInput, match="already holds images"):
        line.write_line(root.parent, train=1)


@pytest.mark.parametrize(("arguments", "message"), [({"train": -1}, "-1 images for train"), ({"fps": 0}, "above 0")])
def test_bad_counts_are_reported(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        line.write_line(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_video_leaves_no_half_file(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        line.write_line(
            tmp_path,
            train=0,
            validation=0,
            test_good=0,
            test_logical=0,
            test_structural=0,
            size=64,
            video_frames=9,
            progress=stop,
        )
    assert not list(tmp_path.rglob("*video*"))
