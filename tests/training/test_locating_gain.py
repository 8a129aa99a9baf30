"""What locating brings on synthetic anomalies, and that a locator which hides them is not taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_ad.config import TrainTable
from edge_ad.data.datasets import DataSet, NormalSplit
from edge_ad.geometry.cut_out import choose_size, transform_of
from edge_ad.geometry.fit import fit_geometry
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import Pose
from edge_ad.scoring.weights import Trial
from edge_ad.synthetic.single_part import PartOptions, render_part
from edge_ad.training.geometry import ChosenGeometry, choose
from edge_ad.training.locating_gain import LocatingGain, LocatingTrial, _drawn_back, _gain, _in_order
from edge_ad.training.teacher import load_teacher
from tests.fixtures.tiny_presets import TINY

SIZE, COUNT = (240, 320), 16
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("keys")
    result = [folder / f"{seed:02}.png" for seed in range(COUNT)]
    for seed, path in enumerate(result):
        cv2.imwrite(str(path), render_part(seed, PartOptions(kind="key", size=SIZE)).image[:, :, ::-1])
    return result


@pytest.fixture(scope="module")
def trial() -> LocatingTrial:
    few = replace(TINY, memory=replace(TINY.memory, cells=64))
    return LocatingTrial(load_teacher(few, None, CPU), few, CPU, 16, 0)


def test_parts_at_any_angle_show_more_anomalies_located(paths: list[Path], trial: LocatingTrial) -> None:
    images = [cv2.imread(str(path))[:, :, ::-1] for path in paths]
    located = fit_geometry([np.ascontiguousarray(image) for image in images], method="foreground", pixels=4096).geometry
    whole = Geometry("none", SIZE, choose_size(SIZE[1], SIZE[0], 4096))
    gain = trial.measure(located, whole, paths[:10], paths[10:])
    assert gain is not None
    assert gain.located > gain.whole
    assert not gain.harms
    assert gain.images == 6
    assert trial.measure(located, whole, paths[:10], paths[10:13]) is None  # too few to say anything


def test_whole_images_must_be_better_beyond_doubt() -> None:
    rng = np.random.default_rng(3)
    normal, anomalies, kinds = rng.normal(0, 1, (30, 4)), rng.normal(0, 1, (60, 4)), ["a", "b"] * 30
    assert not _gain(Trial(normal, anomalies, kinds, 0), 30).harms
    anomalies[:, 3] += 3  # the second variant in whole images sees what the others do not
    gain = _gain(Trial(normal, anomalies, kinds, 0), 30)
    assert gain.harms
    assert gain.whole > 0.95
    assert gain.located < 0.7
    anomalies[:, 0] += 3
    assert not _gain(Trial(normal, anomalies, kinds, 0), 30).harms


def test_an_anomaly_of_the_cut_out_lies_at_its_place_in_the_frame() -> None:
    frame = np.full((*SIZE, 3), 100, np.uint8)
    transform = transform_of(Pose(160.0, 120.0, 90.0, 100.0, 50.0), SIZE, (50, 100))
    change = np.zeros((50, 100, 3), np.float32)
    change[20:30, 80:90] = 200  # the right end of the part, clipped at white
    drawn = _drawn_back(frame, change, transform)
    x, y = transform.to_image(np.array([[84.5, 24.5]]))[0]
    assert drawn[round(y), round(x)].tolist() == [255] * 3
    assert (drawn != 100).any(axis=2).sum() == pytest.approx(100, abs=45)  # a turn blurs its border
    assert abs(y - 120) > abs(x - 160)  # a quarter turn: what was right is above or below


def test_kinds_follow_the_images_that_anomalies_were_made_from() -> None:
    # Anomaly number n is made from image n % 2.
    assert _in_order(["a0", "b1", "c0", "d1", "e0"], 2)[:5] == ("a0", "c0", "e0", "b1", "d1")


class Harmful:
    """A trial in which whole images are better."""

    def measure(self, *_: object) -> LocatingGain:
        return LocatingGain(0.6, 0.9, 0.02, 8, harms=True)


def test_auto_takes_whole_images_where_locating_hides_anomalies(paths: list[Path]) -> None:
    data = DataSet("keys", "flat", paths[0].parent, NormalSplit(tuple(paths[:12]), (), ()), (), sizes={"320x240": 12})
    options, harmful = TrainTable(geometry="auto", pixels=8192), Harmful()
    chosen = choose(data, options, TINY, print, trial=harmful)  # type: ignore[arg-type]
    assert chosen.geometry.method == "none"
    assert "whole images tell more than foreground" in chosen.reason
    assert ChosenGeometry.load(chosen.dump()).gain == chosen.gain
    asked = choose(data, replace_geometry(options, "foreground"), TINY, print, trial=harmful)  # type: ignore[arg-type]
    assert asked.geometry.method == "foreground"  # what a user asks for is taken as it is
    assert asked.gain is None


def replace_geometry(options: TrainTable, geometry: str) -> TrainTable:
    return options.model_copy(update={"geometry": geometry})
