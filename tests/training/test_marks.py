"""Learn from marks, from the record to the bundle in use, by commands: recalibrated in small, and trained anew."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import cv2
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.store.next_run import BundlePointer, pointer_path
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.synthetic.line import render_tray
from tests.fixtures.tiny_presets import TINY, known
from tests.fixtures.trained import GOODS, Trained

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "benchmarks" / "feedback.py"
STORE = Path("line.sqlite")
SETTINGS = """[run]
store = "line.sqlite"
max_age_ms = 60000
[record]
lossless_ok_every = 1
free_gb = 0
[train]
preset = "tiny"
"""

pytestmark = pytest.mark.slow


def test_marks_bring_the_false_rejects_of_a_new_lot_down_and_a_defect_among_them_is_held_back(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    sizes = ["--parts", "20", "--marks", "12", "--test", "16", "--tint", "0.15", "--light", "1.15", "--poisoned", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(trained.bundle), *sizes, "--json", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not ended.value.code
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["before"]["rejected"] >= 12, "the lot has changed"
    assert figures["after"]["rejected"] <= figures["before"]["rejected"] / 2
    assert figures["usual"]["good"] == figures["before"]["good"] == figures["after"]["good"] == 16
    assert any(line.startswith("false rejects: champion 12, challenger ") for line in figures["improve"])
    assert any(line.startswith("the light of the lot is brought back") for line in figures["improve"])
    assert figures["poisoned"].keys() == {"defects", "held_back", "asked_for"}


def test_a_retraining_learns_the_known_images_and_the_marked_ones_and_takes_the_place_of_the_bundle(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained.bundle, "part.edgead")
    Path("edge-ad.toml").write_text(SETTINGS)
    Path("parts").mkdir()
    for number in range(12):
        assert cv2.imwrite(f"parts/{number:02}.png", render_tray(900 + number, size=128).image[:, :, ::-1])
    assert main(["run", "part.edgead", "--camera", "parts"]) == 0
    with Reader(STORE) as reader:
        ids = [event.id for event in reader.every(EventFilter())]
    for name in ids:
        assert main(["events", "mark", name, "good"]) == 0
    capsys.readouterr()
    with known(TINY):
        assert main(["improve", "part.edgead", "--retrain", str(trained.goods), "--margin", "1000", "--apply"]) == 0
    message = capsys.readouterr().out
    assert "false rejects: champion " in message
    new = open_bundle(BundlePointer(pointer_path(STORE)).resolve("", Path("part.edgead")))
    assert new.path != Path("part.edgead")
    assert new.parent is None, "trained, not recalibrated"
    assert sum(new.report["goods"].values()) == GOODS + 12
