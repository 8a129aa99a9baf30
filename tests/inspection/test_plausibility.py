"""Finite nonsense: engines that give zeros, or the result of another image, never let a part pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.plausibility import SPREADS, UNKNOWN, Floors, Plausibility, floors_of
from edge_ad.scoring import BRANCHES, fuse
from tests.camera.pictures import noise, write_image
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.inspection.line import settings_of

DEFECTIVE = 121


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgead"))


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("defects")
    for index in range(DEFECTIVE):
        write_image(folder / f"{index:03}.png", tiny_image(91_000 + index, blob=True))
    return folder


Wrong = Callable[[Pipeline, Inference, Bundle], Inference]


def zeros(pipeline: Pipeline, right: Inference, bundle: Bundle) -> Inference:
    z, score = fuse(np.zeros((1, 5), np.float32), bundle.statistics)
    return replace(right, raw=np.zeros(5, np.float32), z=z[0], score=float(score[0]), map=right.map * 0)


def nearly_zeros(pipeline: Pipeline, right: Inference, bundle: Bundle) -> Inference:
    """Every image gives other scores, all far below those of normal images."""
    raw = (right.raw * np.float32(1e-3))[None]
    z, score = fuse(raw, bundle.statistics)
    return replace(right, raw=raw[0], z=z[0], score=float(score[0]))


@pytest.mark.parametrize("wrong", [zeros, nearly_zeros])
def test_an_engine_that_gives_nothing_lets_no_part_pass(
    wrong: Wrong, bundle: Bundle, defects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = judged(bundle, defects, monkeypatch, wrong)
    assert events
    assert {event.verdict for event in events} == {"NONE"}
    assert all((event.reason or "").startswith("engine: ") for event in events)


def test_a_result_that_is_never_written_again_lets_no_part_pass(
    bundle: Bundle, defects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer holds what a good part gave, just before the first defective one."""
    good = tiny_image(81_234)
    kept: list[Inference] = []

    def stuck(pipeline: Pipeline, right: Inference, bundle: Bundle) -> Inference:
        kept.append(right) if not kept else None
        return kept[0]

    folder = defects.parent / "stuck"
    folder.mkdir()
    write_image(folder / "0.png", good)
    for path in defects.iterdir():
        (folder / f"1{path.name}").write_bytes(path.read_bytes())
    events = judged(bundle, folder, monkeypatch, stuck)
    assert [event.verdict for event in events[:1]] == ["OK"]
    assert [event.reason for event in events[1:] if event.verdict != "NONE"] == []
    assert "another image to the last bit" in (events[1].reason or "")


def judged(bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Wrong) -> list[Event]:
    """Run a line whose engines go wrong after it has begun; the canary may end it."""
    events: list[Event] = []
    infer = Pipeline.infer
    begun = []

    def spoilt(self: Pipeline, image: NDArray[np.uint8]) -> Inference:
        right = infer(self, image)
        golden = any(np.array_equal(image, known) for known in bundle.golden.images)
        begun.append(True) if not golden else None
        return wrong(self, right, bundle) if begun else right

    monkeypatch.setattr(Pipeline, "infer", spoilt)
    try:
        inspect(bundle, str(folder), RunOptions(settings_of(), on_event=events.append))
    except DeviceFault as error:
        assert "self-test failed while running" in str(error)  # noqa: PT017 (only where the canary was quick)
    return events


def test_no_normal_image_is_implausible(bundle: Bundle) -> None:
    """Ten times as many normal images as the bundle knows, and the anomalies too."""
    known = sum(len(bundle.raw_scores[split]) for split in ("normalise", "threshold"))
    check = Plausibility(floors_of(bundle), bundle.statistics.active)
    with Pipeline(bundle) as pipeline:
        for seed in range(10 * known):
            for blob in (False, True):
                image = tiny_image(70_000 + seed, blob)
                assert check.fault(image, pipeline.infer(image), bundle.thresholds.ng) is None


def test_floors_by_hand(bundle: Bundle) -> None:
    """One branch with mean 10 and deviation 2: z from -1 to 3, median 0."""
    statistics = replace(
        bundle.statistics,
        mean=np.full(5, 10.0, np.float32),
        std=np.full(5, 2.0, np.float32),
        weight=np.array([0, 0, 1, 0, 0], np.float32),
    )
    raw = np.tile(np.array([8.0, 10.0, 16.0, 10.0, 10.0], np.float32)[:, None], (6, 5))  # 30 normal images
    made = object.__new__(Bundle)
    made.raw_scores, made.statistics = {"normalise": raw[:10], "threshold": raw[10:], "synthetic": raw - 99}, statistics
    floors = floors_of(made)
    assert (floors.score, floors.known) == pytest.approx((-SPREADS, -1.0))
    made.raw_scores = {"normalise": raw[:5]}
    assert floors_of(made).score == pytest.approx(-8.0), "few images: twice as far"
    made.raw_scores = {"normalise": raw[:15], "threshold": raw[:15]}
    assert floors_of(made).score == pytest.approx(-8.0), "15 images, which a recalibration names twice"
    made.raw_scores = {"synthetic": raw}
    assert floors_of(made).score == UNKNOWN


def inference(raw: float, map_seed: int = 0, z: float = 0.0, skipped: tuple[str, ...] = ()) -> Inference:
    values = np.full(5, raw, np.float32)
    heat = np.random.default_rng(map_seed).random((256, 256)).astype(np.float32)
    return Inference(values, np.full(5, z, np.float32), z, heat, {}, skipped)


def test_equal_results_of_different_pictures_are_nonsense_and_of_equal_ones_are_not() -> None:
    check = Plausibility(None, ("structure", "local"))
    first, second = noise(1, 256, 256), noise(2, 256, 256)
    assert check.fault(first, inference(1.5)) is None
    assert check.fault(first.copy(), inference(1.5)) is None
    changed = first.copy()
    changed[3, 4] ^= 1  # less than noise
    assert check.fault(changed, inference(1.5)) is None
    assert check.fault(second, inference(1.5, map_seed=7)) is None, "the map differs"
    assert check.fault(second, inference(1.25)) is None, "the scores differ"
    assert "to the last bit" in (check.fault(noise(3, 256, 256), inference(1.5)) or "")


def test_results_that_come_in_turn_are_nonsense() -> None:
    check = Plausibility(None, ("structure",))
    results = [check.fault(noise(count, 64, 64), inference(1.0 + count % 2, count % 2)) for count in range(8)]
    assert [fault is None for fault in results] == [True, True] + [False] * 6


def test_branches_that_did_not_run_are_not_asked() -> None:
    floors = Floors(-4.0, np.full(5, -4.0, np.float32), -1.0)
    check = Plausibility(floors, ("structure", "logic"))
    low = inference(1.0, 1)
    low.z[BRANCHES.index("global")] = -50.0  # a branch with weight 0
    assert check.fault(noise(1), low) is None
    low = inference(2.0, 2)
    low.z[BRANCHES.index("logic")] = -50.0
    assert check.fault(noise(2), replace(low, skipped=("logic",), score=-9.0)) is None  # as the cascade leaves it out
    assert "logic is -50.0" in (check.fault(noise(2), low) or "")
    assert check.fault(noise(2), replace(low, score=9.0), ng=4.0) is None, "an anomaly by another branch"
