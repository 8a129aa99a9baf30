"""How a training chooses and keeps the way from image to input."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_ad.config import Config, TrainTable
from edge_ad.data.datasets import DataSet, NormalSplit
from edge_ad.data.images import read_image, resize
from edge_ad.data.prepared import prepare_files, too_few
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import Image
from edge_ad.presets.presets import PAPER, PAPER_M, Preset
from edge_ad.synthetic.single_part import PartOptions, render_part
from edge_ad.training.distributed import ALONE
from edge_ad.training.geometry import choose, defect_scale, geometry_report, log_geometry, prepare_normal
from edge_ad.training.train import _Training
from edge_ad.utils.progress import Progress
from tests.fixtures.tiny_presets import TINY, TINY_PAPER, known

SIZE = (240, 320)
COUNT = 18


def part(seed: int, **options: Any) -> Image:
    return render_part(seed, PartOptions(kind="key", size=SIZE, **options)).image


def write(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def data_set(paths: list[Path], sizes: dict[str, int] | None = None) -> DataSet:
    """The first images to fit, then three to normalise and three for the threshold."""
    split = NormalSplit(tuple(paths[:-6]), tuple(paths[-6:-3]), tuple(paths[-3:]))
    return DataSet("parts", "flat", paths[0].parent, split, (), sizes=sizes or {"320x240": len(paths)})


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [write(folder / f"part_{seed:02}.png", part(seed)) for seed in range(COUNT)]


def replaced(parts: list[Path], folder: Path, images: dict[int, Image]) -> list[Path]:
    """Copy the parts, with other images in some places."""
    folder.mkdir()
    paths = [folder / path.name for path in parts]
    for number, (path, source) in enumerate(zip(paths, parts, strict=True)):
        write(path, images[number]) if number in images else shutil.copy(source, path)
    return paths


def run(dataset: DataSet, state: Path, table: TrainTable, preset: Preset = TINY, log: Callable[[str], None] = print) -> Any:
    return prepare_normal(dataset, table, preset, state, group=ALONE, log=log)


def test_parts_are_located_and_all_splits_are_cut_out(parts: list[Path], tmp_path: Path) -> None:
    chosen, images = run(data_set(parts), tmp_path, TrainTable(geometry="auto", pixels=8192))
    high, wide = chosen.geometry.size
    assert chosen.geometry.method == "foreground"
    assert wide > high  # the key is long, and lies level
    assert (len(images.fit), len(images.normalise), len(images.threshold)) == (12, 3, 3)
    assert images.fit.images.shape == (12, high, wide, 3)
    assert images.located == data_set(parts).normal
    expected = [chosen.geometry.prepare(read_image(path)) for path in parts[:12]]
    np.testing.assert_array_equal(images.fit.images, np.stack([one.image for one in expected]))
    # Frames are measured whole, for the check of the camera.
    side = round((high * wide) ** 0.5)
    assert {frame.size for frame in images.frames} == {(side, side)}
    assert len(images.frames) == 15
    assert all(chosen.geometry.expected.outside(pose) is None for pose in images.fit.poses)


def test_a_resumed_training_has_the_same_geometry_without_choosing(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, table = data_set(parts), TrainTable(geometry="foreground", pixels=8192)
    chosen, images = run(dataset, tmp_path, table)
    monkeypatch.setattr("edge_ad.training.geometry.choose", lambda *_: pytest.fail("it was chosen again"))
    again, same = run(dataset, tmp_path, table)
    assert again.dump() == chosen.dump()
    np.testing.assert_array_equal(same.fit.images, images.fit.images)


def test_synthetic_anomalies_get_the_outline_that_the_locator_knows(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("edge_ad.training.train.scoring_images", lambda *images, **options: given.update(options))
    table = TrainTable(preset="tiny", geometry="foreground", pixels=16_384)
    with known(TINY):
        training = _Training(parts[0].parent, tmp_path, Config(train=table), Progress(shown=False))
    training._images()
    np.testing.assert_array_equal(given["part"], training.geometry.part_mask())
    assert given["part"].any()


def test_square_is_the_whole_image_squashed_and_learns_nothing(parts: list[Path], tmp_path: Path) -> None:
    chosen, images = run(data_set(parts), tmp_path, TrainTable())
    assert (chosen.geometry.method, chosen.geometry.size) == ("square", (128, 128))
    np.testing.assert_array_equal(images.threshold.images[0], resize(read_image(parts[-3]), (128, 128)))


def test_a_normal_image_without_a_part_is_left_out_and_named(parts: list[Path], tmp_path: Path) -> None:
    empty = np.full((*SIZE, 3), (62, 70, 66), np.uint8)
    paths = replaced(parts, tmp_path / "images", {4: empty, 16: empty})
    chosen, images = run(data_set(paths), tmp_path / "state", TrainTable(geometry="foreground", pixels=8192))
    report, output = geometry_report(chosen, images), []
    log_geometry(chosen, images, output.append)
    assert report["unlocated"] == {"fit": 1, "normalise": 0, "threshold": 1}
    assert [name for name, _ in report["unlocated_images"]] == ["part_04.png", "part_16.png"]
    assert any("left out of fit, part_04.png: " in line for line in output)
    assert [path.name for path in images.located.threshold] == ["part_15.png", "part_17.png"]


def test_too_many_images_without_a_part_end_a_demanded_method_and_auto_takes_whole_images(
    parts: list[Path], tmp_path: Path
) -> None:
    empty = np.full((*SIZE, 3), (62, 70, 66), np.uint8)
    dataset = data_set(replaced(parts, tmp_path / "images", {15: empty, 16: empty}))
    with pytest.raises(BadInput, match=r"foreground leaves 2 of 3 normal images \(threshold\) without a pose \(part_15.png: .*"
                                       r"use --geometry auto or none"):
        run(dataset, tmp_path / "state", TrainTable(geometry="foreground", pixels=8192))
    chosen, images = run(dataset, tmp_path / "other", TrainTable(geometry="auto", pixels=8192))
    assert (chosen.geometry.method, chosen.geometry.size) == ("none", (64, 96))
    assert len(images.threshold) == 3
    assert "leaves 2 of 3 normal images (threshold)" in chosen.reason


@pytest.mark.parametrize(
    ("unlocated", "total", "expected"), [(0, 3, False), (1, 12, False), (2, 12, True), (2, 20, False), (1, 2, True), (0, 1, False)]
)
def test_the_rule_of_too_few(unlocated: int, total: int, expected: bool) -> None:
    """A tenth and one image are forgiven; two images must be left of several."""
    assert too_few(unlocated, total) == expected


SEVERAL = {"320x240": 12, "160x120": 6}


def test_images_of_several_sizes_are_squashed_by_auto(parts: list[Path]) -> None:
    chosen = choose(data_set(parts, SEVERAL), TrainTable(geometry="auto"), TINY, print)
    assert chosen.geometry.method == "square"
    assert chosen.reason == "the images have several sizes"


TOGETHER = "--anchor, once or twice, and --box"
DRAWN = {"anchors": ["1,1,20,20"], "box": "1,1,90,90"}


@pytest.mark.parametrize(
    ("table", "sizes", "words"),
    [
        ({"geometry": "foreground"}, SEVERAL, "--geometry foreground needs normal images of one size, but there are 12 of 320x240"),
        ({"anchors": ["1,1,20,20"]}, None, TOGETHER),
        ({"box": "1,1,20,20"}, None, TOGETHER),
        ({"geometry": "anchors"}, None, TOGETHER),
        ({**DRAWN, "geometry": "rigid"}, None, "--anchor needs --geometry anchors, but it is rigid"),
        ({**DRAWN, "anchors": ["1,1,20,20"] * 3}, None, "3 anchors were given: one or two"),
        ({**DRAWN, "anchors": ["1,1,4,20"]}, None, "--anchor is '1,1,4,20': write X,Y,WIDTH,HEIGHT in pixels, at least 8 x 8"),
        ({**DRAWN, "box": "one"}, None, "--box is 'one'"),
        ({"geometry": "square", "empty": Path("tests")}, None, "--empty serves to locate parts by their foreground, but"),
        ({"geometry": "auto", "empty": Path("tests/training")}, None, "--empty tests/training holds no image"),
    ],
)
def test_what_does_not_fit_is_reported_in_a_sentence(
    parts: list[Path], table: dict[str, Any], sizes: dict[str, int] | None, words: str
) -> None:
    with pytest.raises(BadInput) as caught:
        choose(data_set(parts, sizes), TrainTable(**table), TINY, print)
    assert str(caught.value).startswith(words)


def test_two_parts_and_parts_cut_by_the_border_are_refused_with_the_reason(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("two", {"count": 2, "length": 0.4}, "two parts"),
        ("cut", {"length": 1.4}, "a whole part stands out from the background in 0 of 6 images only"),
    ]
    for name, options, words in cases:
        paths = [write(tmp_path / name / f"{seed}.png", part(seed, **options)) for seed in range(12)]
        with pytest.raises(BadInput, match=words) as caught:
            choose(data_set(paths), TrainTable(geometry="foreground"), TINY, print)
        assert len(str(caught.value).splitlines()) == 1


def test_images_beyond_8_to_1_are_squashed_by_auto(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [write(tmp_path / f"{k}.png", rng.integers(0, 255, (40, 400, 3)).astype(np.uint8)) for k in range(12)]
    chosen = choose(data_set(paths, {"400x40": 12}), TrainTable(geometry="auto"), TINY, print)
    assert (chosen.geometry.method, chosen.geometry.size) == ("square", (128, 128))
    assert "8:1" in chosen.reason


def test_a_picture_smaller_than_the_input_is_reported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [write(tmp_path / f"{k}.png", rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)) for k in range(12)]
    chosen, images = run(data_set(paths, {"64x48": 12}), tmp_path / "state", TrainTable(geometry="none"))
    outputs: list[str] = []
    log_geometry(chosen, images, outputs.append)
    assert outputs[-1].startswith("warning: images of 64 x 48 pixels are smaller than the input")


def test_the_published_presets_take_squares_of_their_size_only(parts: list[Path]) -> None:
    assert (PAPER.geometry, PAPER_M.geometry) == ("square", "square")
    for table in (TrainTable(geometry="foreground"), TrainTable(pixels=65536)):
        with pytest.raises(BadInput, match="it is published for squares of 128"):
            choose(data_set(parts), table, TINY_PAPER, print)


def test_files_are_prepared_in_order_and_only_those_with_a_part_are_looked_at(parts: list[Path], tmp_path: Path) -> None:
    geometry = Geometry.square((32, 48))
    prepared = prepare_files(parts[:3], geometry, look=lambda frame, result: (frame.shape, result.image.shape))
    assert prepared.paths == tuple(parts[:3])
    assert prepared.seen == (((*SIZE, 3), (32, 48, 3)),) * 3
    assert prepare_files([], geometry).images.shape == (0, 32, 48, 3)


def whole(method: Any, image: tuple[int, int], size: tuple[int, int]) -> Geometry:
    return Geometry(method, image, size)


@pytest.mark.parametrize(
    ("geometry", "sizes", "defect", "preset", "shown", "pixels", "named"),
    [
        # 1000 x 500 pixels at 352 x 192: 0.352 across and 0.384 down. TINY's features have a cell each 8 pixels.
        (whole("none", (500, 1000), (192, 352)), {"1000x500": 9}, 24, TINY, 8.448, None, "8 are needed"),
        (whole("none", (500, 1000), (192, 352)), {"1000x500": 9}, 12, TINY, 4.224, 236_544, "2x2, or --pixels 236544, about"),
        (whole("none", (500, 1000), (192, 352)), {"1000x500": 9}, 7, TINY, 2.464, None, "a camera or lens"),
        # The largest image counts; 2048 x 8 / 12 = 1365.3 pixels need 43 steps of 32.
        (Geometry.square((128, 128)), {"512x256": 9, "2048x1024": 1}, 12, TINY, 0.75, 1376 * 1376, "--pixels 1893376"),
        (whole("none", (6000, 8000), (224, 288)), {"8000x6000": 9}, 9, TINY, 0.324, None, "no input of up to 4194304 pixels"),
        # 256 / 56 = 4.6 pixels a cell.
        (Geometry.square((256, 256)), {"1024x1024": 9}, 16, PAPER, 4.0, None, "preset fast"),
        (Geometry.square((256, 256)), {"1024x1024": 9}, 20, PAPER, 5.0, None, "5 are needed"),
    ],
)
def test_a_defect_under_one_cell_of_the_features_is_warned_of_with_what_suffices(
    geometry: Geometry, sizes: dict[str, int], defect: float, preset: Preset, shown: float, pixels: int | None, named: str
) -> None:
    scale = defect_scale(defect, geometry, sizes, poses=(), preset=preset)
    assert scale.shown == pytest.approx(shown)
    assert scale.pixels == pixels
    assert named in scale.message
    assert scale.message.startswith("warning: ") == (shown < scale.needed)


@pytest.mark.parametrize(
    ("frame", "tiles", "defect", "shown", "named"),
    [
        # 192 x 352 becomes 384 x 704: 0.704 of 1000 pixels.
        ((192, 352), (2, 2), 12, 8.448, "8 are needed"),
        ((192, 352), (2, 2), 11, 7.744, "--pixels "),  # and no other tiles: they are asked for already
        # 512 x 512 is half of 1024, 768 x 768 three quarters; 4.2 megapixels hold all of it.
        ((256, 256), None, 16, 4.0, "--tiles 2x2, or --pixels 262144, about 4.0 times"),
        ((256, 256), None, 11, 2.75, "--tiles 3x3, or --pixels 589824, about 9.0 times"),
        ((256, 256), None, 9, 2.25, "train with --pixels 861184, about 13.1 times"),
    ],
)
def test_tiles_count_and_are_recommended_where_they_suffice(
    frame: tuple[int, int], tiles: tuple[int, int] | None, defect: float, shown: float, named: str
) -> None:
    image = (500, 1000) if frame == (192, 352) else (1024, 1024)
    sizes = {f"{image[1]}x{image[0]}": 9}
    scale = defect_scale(defect, whole("none", image, frame), sizes, poses=(), preset=TINY, tiles=tiles)
    assert scale.shown == pytest.approx(shown)
    assert named in scale.message
    assert tiles is None or "--tiles" not in scale.message


def test_the_scale_of_a_located_part_is_that_of_its_cut_out(parts: list[Path], tmp_path: Path) -> None:
    """The key is turned anyhow; its length and twice the margin of 5 % of its height fill the width of the input."""
    chosen, images = run(data_set(parts), tmp_path, TrainTable(geometry="foreground", pixels=8192))
    sizes, poses, geometry = {"320x240": COUNT}, images.fit.poses, chosen.geometry
    scale = defect_scale(8.0, geometry, sizes, poses=poses, preset=TINY)
    widest = max(pose.width + 0.1 * min(pose.width, pose.height) for pose in poses)
    assert scale.scale == pytest.approx(geometry.size[1] / widest, rel=1e-3)
    assert scale.shown < 8
    assert scale.pixels is not None
    # What is recommended suffices.
    chosen, images = run(data_set(parts), tmp_path / "more", TrainTable(geometry="foreground", pixels=scale.pixels))
    assert math.prod(chosen.geometry.size) == scale.pixels
    assert defect_scale(8.0, chosen.geometry, sizes, poses=images.fit.poses, preset=TINY).pixels is None
