"""Distillation by the command: it learns, survives a kill without a difference, and its weights serve as a teacher."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edge_ad.cli.app import main
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.training import distillation
from edge_ad.training.distillation import nearest
from edge_ad.training.teacher import load_teacher
from edge_ad.utils.files import sha256_file
from tests.data.folders import picture, save
from tests.fixtures.tiny_presets import TINY_PAPER

# A source of two strides, seeded; it kills its process at the call that KILL_AT names.
SOURCE = """
import os, signal, torch
from torch import nn

class Net(nn.Module):
    calls = 0
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.fine = nn.Conv2d(3, 6, 8, 8)
        self.coarse = nn.Conv2d(3, 10, 16, 16)
    def forward(self, image):
        Net.calls += 1
        if Net.calls == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), getattr(signal, os.environ["KILL_BY"]))
        return [self.fine(image), self.coarse(image)]
"""
# Checkpoints after every step, so that a kill loses little.
PROGRAM = """
import sys
from edge_ad.training import distillation, loop
loop.CHECKPOINT_SECONDS = 0.0
distillation.MEASURE_CROPS, distillation.HELD_OUT = 16, 9
from edge_ad.cli.app import main
from edge_ad.utils.supervision import leave
leave(main(sys.argv[1:]))
"""
STEPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distillation")
    (root / "small_source.py").write_text(SOURCE)
    for number in range(24):
        save(root / "photographs" / f"{number:03}.png", picture(number, (48, 56)))
    return root


def distil(place: Path, out: str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = [
        "distill-teacher",
        "photographs",
        "--source",
        "small_source:Net",
        "--out",
        out,
        "--json",
        f"{out}.json",
    ]
    sizes = ["--steps", str(STEPS), "--batch", "2", "--side", "64", "--terms", "made by the test"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, *sizes], cwd=place, text=True, capture_output=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    done = distil(place, "whole")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("whole/teacher_small.safetensors")
    return place / "whole"


@pytest.mark.slow
def test_a_distillation_that_was_killed_and_interrupted_goes_on_to_the_same_weights(place: Path, whole: Path) -> None:
    # One call probes the source, one measures the channels; then steps and validations take turns.
    for how, code in (("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)):
        stopped = distil(place, "stopped", KILL_AT="10", KILL_BY=how)
        assert stopped.returncode == code, stopped.stderr
        assert not (place / "stopped" / "teacher_small.safetensors").exists()
    steps = re.findall(r"teacher: resumed at step ([1-9]\d*)", stopped.stderr)
    resumed = distil(place, "stopped")
    assert resumed.returncode == 0, resumed.stderr
    steps += re.findall(r"teacher: resumed at step ([1-9]\d*)", resumed.stderr)
    assert len(steps) == 2
    assert int(steps[0]) < int(steps[1])
    assert (place / "stopped" / "teacher_small.safetensors").read_bytes() == (
        whole / "teacher_small.safetensors"
    ).read_bytes()
    first, second = (json.loads((place / f"{name}.json").read_text()) for name in ("stopped", "whole"))
    assert first["held_out_error"] == pytest.approx(second["held_out_error"], rel=0.01)


@pytest.mark.slow
def test_what_comes_of_it(place: Path, whole: Path) -> None:
    card = json.loads((whole / "teacher_small.json").read_text())
    assert card == json.loads((place / "whole.json").read_text())
    assert card["teacher"] == "pdn_small"
    assert card["source"] == "small_source:Net"
    assert card["photographs"] == {
        "learned": 15, "held_out": 9, "folders": ["photographs"], "terms": "made by the test"
    }  # fmt: skip
    assert (card["steps"], card["batch"], card["side"]) == (STEPS, 2, 64)
    assert card["sha256"] == sha256_file(whole / "teacher_small.safetensors")
    log = [json.loads(line) for line in (whole / "train.jsonl").read_text().splitlines()]
    held_out = [entry["unseen_goods"] for entry in log if "unseen_goods" in entry]
    assert held_out[-1] < held_out[0]  # it learns
    assert card["held_out_error"] == pytest.approx(min(held_out), abs=1e-6)
    page = (whole / "teacher.html").read_text()
    assert page.count("a patch and its neighbours") == 8
    assert "held-out error over steps" in page
    assert not (whole / "state").exists()


@pytest.mark.slow
def test_the_weights_serve_as_a_teacher(whole: Path) -> None:
    path = whole / "teacher_small.safetensors"
    state: dict[str, Any] = load_file(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    teacher = load_teacher(TINY_PAPER, path, torch.device("cpu"))
    reference = PatchDescriptionNetwork("small")
    reference.load_published(state)
    pixels = torch.rand(1, 3, 128, 128) * 255
    torch.testing.assert_close(teacher.raw(pixels), reference(teacher.image(pixels)))  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photographs", "--size", "large"], "--size is 'large': input should be 'small' or 'medium'"),
        (["photographs", "--side", "100"], "--side is 100: input should be a multiple of 32"),
        (["nowhere"], "nowhere holds no photograph"),
        (["photographs", "--source", "resnet"], "the source network 'resnet' is unknown"),
    ],
)
def test_bad_input_in_one_sentence(
    arguments: list[str], words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(distillation, "HELD_OUT", 9)
    assert main(["distill-teacher", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (place / "runs").exists()


def test_nearest_takes_one_cell_of_each_other_picture() -> None:
    bank = torch.zeros(7, 3, 2)
    bank[:, :, 0] = torch.arange(21.0).view(7, 3)
    found = nearest(bank, 3, 1)  # the value 10; images hold 3 i to 3 i + 2
    assert found == [(2, 2), (4, 0), (1, 2), (5, 0), (0, 2)]
    assert np.unique([picture for picture, _ in found]).size == 5
