"""Pooling chosen at the end of a training: the fusion graph, the settings, the report and all raw scores follow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edge_ad.bundle.graphs import FUSION
from edge_ad.presets.presets import FAST, PAPER, FusionSettings
from edge_ad.scoring import BRANCHES, MAPS
from edge_ad.training.statistics import Measured, Scored, _with_chosen_tops, _witnesses
from edge_ad.utils.progress import Progress
from tests.fixtures.plain_bundle import plain_contents

GRID, WIDTH = 16, 6
FUSION_SETTINGS = FusionSettings(top=30)


def scored(count: int, seed: int, height: float = 0.0) -> Scored:
    """Return maps of noise in which one cell of map ``local`` is higher, and their raw scores."""
    random = np.random.default_rng(seed)
    maps = [random.normal(size=(count, GRID * GRID)).astype(np.float32) for _ in MAPS]
    maps[MAPS.index("local")][np.arange(count), random.integers(0, GRID * GRID, count)] += np.float32(height)
    blank = Scored(np.zeros((count, len(BRANCHES)), np.float32), tuple(maps))
    return blank.repooled(FUSION_SETTINGS, MAPS)


def measured() -> Measured:
    """Return 40 normal images, 5 for the threshold, 80 anomalies and the same fainter."""
    random = np.random.default_rng(5)
    inputs = {f"map_{name}": random.normal(size=(1, 1, GRID, GRID)) for name in (*MAPS, "logic")}
    inputs |= {"raw_logic": random.normal(size=1), "pooled": random.normal(size=(1, WIDTH))}
    typed = {name: value.astype(np.float32) for name, value in inputs.items()}
    return Measured(scored(40, 0), scored(5, 1), scored(80, 2, 8.0), {0.5: scored(80, 3, 4.0)}, typed)


def chosen(**changes: Any) -> tuple[Any, Measured]:
    """Return contents and scores after the choice."""
    arguments = {"given": (), "seed": 0, "progress": Progress(False), "fusion": FUSION_SETTINGS, **changes}
    fusion = arguments.pop("fusion")
    contents = replace(plain_contents(), image_size=(256, 256))
    return _with_chosen_tops(contents, measured(), ("one", "two") * 40, replace(FAST, fusion=fusion), **arguments)


def test_a_supported_choice_is_in_settings_report_graph_and_raw_scores() -> None:
    contents, after = chosen()
    before = measured()
    top = contents.settings["fusion"]["local_top"]
    assert top in (1, 3)
    assert contents.settings["fusion"]["global_top"] == 0
    assert contents.settings["image_side"] == 256
    assert {name: row["top"] for name, row in contents.report["pooling"].items()} == {
        "structure": 3, "local": top, "global": 30, "memory": 30,
    }  # fmt: skip
    local = BRANCHES.index("local")
    for part in ("normalise", "threshold", "anomalies"):
        old, new = getattr(before, part), getattr(after, part)
        expected = np.sort(old.maps[MAPS.index("local")], axis=1)[:, -top:].mean(axis=1)
        np.testing.assert_allclose(new.raw[:, local], expected, rtol=1e-5)
        others = [index for index in range(len(BRANCHES)) if index != local]
        np.testing.assert_array_equal(new.raw[:, others], old.raw[:, others])
    np.testing.assert_allclose(after.shown().raw[80:], after.faded[0.5].raw)


def test_the_exported_fusion_computes_the_chosen_raw_scores() -> None:
    contents, after = chosen()
    session = onnxruntime.InferenceSession(contents.graphs[FUSION], providers=["CPUExecutionProvider"])
    feed = {
        **after.fusion_inputs,
        **{f"map_{name}": after.anomalies.maps[index][:1].reshape(1, 1, GRID, GRID) for index, name in enumerate(MAPS)},
        "quantiles": np.tile(np.float32([0, 1]), (len(MAPS), 1)),
        "centre": np.zeros(WIDTH, np.float32),
        "precision": np.eye(WIDTH, dtype=np.float32),
        "mean": np.zeros(len(BRANCHES), np.float32),
        "std": np.ones(len(BRANCHES), np.float32),
        "weight": np.full(len(BRANCHES), 1 / len(BRANCHES), np.float32),
    }
    raw = session.run(["raw"], feed)[0]
    for name in MAPS:
        column = BRANCHES.index(name)
        assert raw[column] == pytest.approx(float(after.anomalies.raw[0, column]), rel=1e-5)


def test_without_support_nothing_changes_but_the_report() -> None:
    contents, after = chosen(fusion=replace(FUSION_SETTINGS, local_top=1))
    assert contents.graphs == plain_contents().graphs
    assert contents.report["pooling"]["local"]["top"] == 1
    np.testing.assert_array_equal(after.normalise.raw, measured().normalise.raw)


@pytest.mark.parametrize(
    ("given", "open_maps"),
    [
        ((), set(MAPS)),
        (("fusion.local_top",), set(MAPS) - {"local"}),
        (("fusion.structure_top", "hvq.codes"), set(MAPS) - {"structure"}),
        (("fusion.top",), {"structure"}),
    ],
)
def test_what_the_user_sets_is_not_chosen(given: tuple[str, ...], open_maps: set[str]) -> None:
    assert {name for name in MAPS if FusionSettings().may_choose(name, given)} == open_maps


def test_published_presets_and_switched_off_choices_choose_nothing() -> None:
    assert not any(PAPER.fusion.may_choose(name, ()) for name in MAPS)
    assert not any(FusionSettings(choose_top=False).may_choose(name, ()) for name in MAPS)
    assert not FusionSettings(structure_pool=4).may_choose("structure", ())
    assert not chosen(fusion=replace(FUSION_SETTINGS, choose_top=False))[0].report["pooling"]


@pytest.mark.parametrize(("lower", "kept"), [(0.0, 40), (2.0, 25)])
def test_images_that_training_stopped_by_set_no_threshold_where_they_score_lower(
    lower: float, kept: int, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    scores[:15] -= lower
    np.testing.assert_array_equal(_witnesses(scores, 15, Progress(True)), scores[40 - kept :])
    assert ("15 of the unseen normal images" in "".join(capsys.readouterr())) == (kept == 25)
