"""Solar cells as folders: who trains, who tests, and that the labels between good and anomalous are left out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_ad.data.datasets import load_dataset
from tests.tools.loading import load_tool

PROBABILITIES = np.array([0.0] * 20 + [0.33, 0.66] + [1.0] * 3 + [0.0])
CELLS = np.array(["mono"] * 25 + ["poly"])


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the package, whose photographs are not ours to keep: cell i is noise of seed i."""
    images = np.stack(
        [np.random.default_rng(number).integers(0, 256, (40, 40), np.uint8) for number in range(len(CELLS))]
    )
    utils = ModuleType("elpv_dataset.utils")
    utils.load_dataset = lambda: (images, PROBABILITIES, CELLS)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elpv_dataset", ModuleType("elpv_dataset"))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", utils)


@pytest.mark.parametrize("split", ["shuffled", "early"])
def test_the_folders_are_a_set_that_train_reads(
    split: str, photographs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["elpv_folders.py", str(tmp_path / "mono"), "--split", split])
    load_tool("benchmarks/elpv_folders").main()
    result = {folder: [path.stem for path in sorted((tmp_path / "mono" / folder).iterdir())] for folder in
             ("train/good", "test/good", "test/defective")}  # fmt: skip
    assert result["test/defective"] == ["cell0022", "cell0023", "cell0024"]
    assert sorted(result["train/good"] + result["test/good"]) == [f"cell{number:04d}" for number in range(20)]
    assert len(result["train/good"]) == 12
    assert (result["train/good"] == [f"cell{number:04d}" for number in range(12)]) == (split == "early")
    assert "3 in test/defective, 8 in test/good, 12 in train/good" in capsys.readouterr().out
    assert len(load_dataset(tmp_path / "mono", 0).test) == 8 + 3
