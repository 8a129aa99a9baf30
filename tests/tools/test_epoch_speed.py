"""What the comparison of one and two training processes makes of the log."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from edge_ad.presets.presets import FAST
from tests.tools.loading import load_tool


@pytest.fixture(scope="module")
def epoch() -> ModuleType:
    return load_tool("benchmarks/epoch_speed")


def test_the_time_of_a_step_comes_from_the_log(epoch: ModuleType, tmp_path: Path) -> None:
    log = [
        {"time": 100.0, "stage": "lavit", "step": 10, "loss": 1.0},
        {"time": 104.0, "stage": "lavit", "step": 20, "loss": 1.0},
        {"time": 104.5, "stage": "lavit", "step": 20, "unseen_goods": 1.0},
        {"time": 110.0, "stage": "efficientad", "step": 10, "loss": 1.0},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log) + '{"half a li')
    result = epoch.entries(tmp_path)
    assert result == log
    assert epoch.step_seconds(result, "lavit") == pytest.approx(0.4)
    assert not epoch.finished(result, 20)
    assert epoch.finished([*result, {"time": 120.0, "stage": "efficientad", "step": 20, "loss": 1.0}], 20)


def test_an_epoch_is_the_sum_over_the_networks(epoch: ModuleType) -> None:
    """1,000 normal images in batches of 16, 16 and 8: 62.5, 62.5 and 125 steps."""
    rows = [
        {"processes": 1, "step_s": {"tokenizer": 0.8, "lavit": 0.4, "efficientad": 0.4}},
        {"processes": 2, "step_s": {"tokenizer": 0.4, "lavit": 0.25, "efficientad": 0.2}},
        {"processes": 1, "step_s": {"tokenizer": 0.8, "lavit": 0.4, "efficientad": 0.4}},
        {"processes": 2, "step_s": {"tokenizer": 0.4, "lavit": 0.25, "efficientad": 0.2}},
    ]
    result = epoch.summary(rows, FAST)
    assert result["tokenizer"]["ratio"] == 2.0
    assert result["epoch"]["one_s"] == pytest.approx(50 + 25 + 50)
    assert result["epoch"]["ratio"] == pytest.approx(125 / (25 + 15.625 + 25), abs=1e-4)
    assert epoch.table(result, 2)[-1] == "| 1,000 normal images once, all networks | 125 | 66 | 1.90 |"
