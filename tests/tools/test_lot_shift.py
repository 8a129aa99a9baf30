"""The benchmark of a new lot on the miniature bundle: what is learned is not judged, and both bundles judge the rest."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "benchmarks" / "lot_shift.py"


def test_a_lot_is_drawn_learned_and_the_rest_judged_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, first, blob in (("good", 5000, False), ("blob", 6000, True)):
        folder = tmp_path / "set" / "test" / kind
        folder.mkdir(parents=True)
        for index in range(24 if kind == "good" else 8):
            image = np.clip(tiny_image(first + index, blob) * 1.4, 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(folder / f"{index:02}.png"), image[:, :, ::-1])
    bundle = make_tiny_bundle(tmp_path / "b.edgead")
    out = tmp_path / "figures.json"
    arguments = [str(bundle), "--set", str(tmp_path / "set"), "--images", "14", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert not ended.value.code
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert figures["images"] == {"learned": 14, "normal": 10, "anomalies": 8}
    assert figures["before"]["ng"] == 10
    assert figures["after"]["ng"] <= 3
    assert figures["after"]["auroc"][1] <= figures["after"]["auroc"][0] <= figures["after"]["auroc"][2]
    assert "before: NG 10 of 10 normal images (100.0%), found 8 of 8" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(bundle), "--set", str(tmp_path / "set"), "--images", "24"])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert refused.value.code == 2
    assert "has 24 normal and 8 anomalous test images: more than 24 normal ones" in capsys.readouterr().err
