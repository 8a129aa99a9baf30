"""What the tools about training make of what they measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_ad.overrides import with_values
from edge_ad.presets import DEMO, FAST, PAPER
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def curve() -> ModuleType:
    return load_tool("learning_curve")


@pytest.fixture(scope="module")
def epoch() -> ModuleType:
    return load_tool("epoch_speed")


def test_every_schedule_is_shortened_as_a_whole(curve: ModuleType) -> None:
    for preset in (FAST, DEMO, PAPER):
        values = tuple(word for word in curve.settings(preset, 0.1) if word != "--setting")
        short = with_values(preset, values)
        for name in curve.NETWORKS:
            old, new = getattr(preset, f"{name}_schedule"), getattr(short, f"{name}_schedule")
            assert (new.steps, new.epochs) == (round(old.steps / 10), round(old.epochs / 10))
            assert new.validate_every == round(old.validate_every / 10)
            assert (new.batch, new.rate) == (old.batch, old.rate)


def test_the_table_says_which_share_is_enough(curve: ModuleType) -> None:
    def point(share: float, value: float) -> dict[str, Any]:
        return {
            "share": share,
            "steps": {"tokenizer": 1, "lavit": 2, "efficientad": 3},
            "auroc": {"all": value, "logic": None},
        }

    points = [point(0.1, 0.90), point(0.5, 0.985), point(1.0, 0.99)]
    assert curve.enough(points, "all") == 0.5
    assert curve.enough(points, "logic") is None
    lines = curve.table(points)
    assert lines[2] == "| 0.1 | 1 / 2 / 3 | 0.900 |  |"
    assert lines[-1] == "| reaches 99% of the last row at | | 0.5 |  |"
    assert curve.known({"logical": 0.9, "structural": None, "mean": None}) == 0.9
    assert curve.known({"logical": 0.9, "structural": 0.7, "mean": 0.8}) == pytest.approx(0.8)


def test_the_time_of_a_step_comes_from_the_log(epoch: ModuleType, tmp_path: Path) -> None:
    log = [
        {"time": 100.0, "stage": "lavit", "step": 10, "loss": 1.0},
        {"time": 104.0, "stage": "lavit", "step": 20, "loss": 1.0},
        {"time": 104.5, "stage": "lavit", "step": 20, "unseen_goods": 1.0},
        {"time": 110.0, "stage": "efficientad", "step": 10, "loss": 1.0},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log) + '{"half a li')
    found = epoch.entries(tmp_path)
    assert found == log
    assert epoch.step_seconds(found, "lavit") == pytest.approx(0.4)
    assert not epoch.finished(found, 20)
    assert epoch.finished([*found, {"time": 120.0, "stage": "efficientad", "step": 20, "loss": 1.0}], 20)


def test_an_epoch_is_the_sum_over_the_networks(epoch: ModuleType) -> None:
    """1,000 goods in batches of 16, 16 and 8: 62.5, 62.5 and 125 steps."""
    rows = [
        {"processes": 1, "step_s": {"tokenizer": 0.8, "lavit": 0.4, "efficientad": 0.4}},
        {"processes": 2, "step_s": {"tokenizer": 0.4, "lavit": 0.25, "efficientad": 0.2}},
        {"processes": 1, "step_s": {"tokenizer": 0.8, "lavit": 0.4, "efficientad": 0.4}},
        {"processes": 2, "step_s": {"tokenizer": 0.4, "lavit": 0.25, "efficientad": 0.2}},
    ]
    found = epoch.summary(rows, FAST)
    assert found["tokenizer"]["ratio"] == 2.0
    assert found["epoch"]["one_s"] == pytest.approx(50 + 25 + 50)
    assert found["epoch"]["ratio"] == pytest.approx(125 / (25 + 15.625 + 25), abs=1e-4)
    assert epoch.table(found, 2)[-1] == "| 1,000 goods once, all networks | 125 | 66 | 1.90 |"
