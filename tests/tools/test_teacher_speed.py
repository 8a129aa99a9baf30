"""The tool that times the teachers alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.tools.loading import load_tool


def test_the_small_teacher_runs_in_both_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool("teacher_speed")
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
    options = ["--presets", "fast", "--threads", "1", "2", "--turns", "3"]
    monkeypatch.setattr(sys, "argv", ["teacher_speed.py", str(tmp_path), *options])
    tool.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| `efficientnet_lite0` of `fast`", str(n)] for n in (1, 2)]
    for row in rows:
        plain, short, ratio = map(float, re.findall(r"[\d.]+(?= \|)", row)[-3:])
        assert plain > 0 < short
        assert ratio == pytest.approx(plain / short, rel=0.05)


def test_a_folder_without_pictures_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool("teacher_speed")
    monkeypatch.setattr(sys, "argv", ["teacher_speed.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    assert ended.value.code == 2
    assert f"{tmp_path} holds no picture" in capsys.readouterr().err
