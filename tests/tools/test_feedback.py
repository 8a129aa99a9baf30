"""The benchmark of marks, in small: a lot changes, marks are learned by commands, and defects among them are held back."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.fixtures.trained import Trained

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "benchmarks" / "feedback.py"


@pytest.mark.slow
def test_marks_bring_the_false_rejects_of_a_new_lot_down_and_a_defect_among_them_is_told(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    sizes = ["--parts", "30", "--marks", "20", "--test", "20", "--tint", "0.2", "--light", "1.2"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(trained.bundle), *sizes, "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not ended.value.code
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["before"]["rejected"] >= 12, "the lot has changed"
    assert figures["after"]["rejected"] <= figures["before"]["rejected"] / 2
    assert figures["before"]["good"] == figures["after"]["good"] == 20
    assert any(line.startswith("false rejects: champion 20, challenger ") for line in figures["improve"])
    assert figures["poisoned"].keys() == {"defects", "held_back", "asked_for"}
