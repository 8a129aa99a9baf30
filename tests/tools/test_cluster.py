"""Many categories on a cluster: the Slurm script hands over the right part, the Ray job tries again what may end well."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from edge_ad.cli import app
from edge_ad.cli.train import _part_of
from tests.tools.loading import TOOLS, load_tool


@pytest.fixture
def ray_train() -> ModuleType:
    return load_tool("ray_train")


def test_the_parts_are_all_categories_once() -> None:
    names = [Path(name) for name in "abcdefg"]
    for count in range(1, 9):
        parts = [_part_of(names, f"{number}/{count}") for number in range(1, count + 1)]
        assert sorted(path for part in parts for path in part) == names
    assert _part_of(names, None) == names


def test_the_slurm_script_hands_over_its_part(tmp_path: Path) -> None:
    command = tmp_path / "edge-ad"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    place = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "5", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", str(TOOLS / "train_array.sbatch"), "the root", "runs", "--preset", "demo"],
        env={**os.environ, **place}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "train", "the root", "--each", "--part", "2/5", "--out", "runs", "--preset", "demo",
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "error"), [(0, None), (2, ValueError), (3, RuntimeError), (130, RuntimeError)])
def test_ray_tries_again_only_what_may_end_well(
    ray_train: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception] | None
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(app, "main", lambda arguments: asked.append(arguments) or code)
    if error is None:
        ray_train.train_part("1/3", ["train", "root"])
    else:
        with pytest.raises(error, match=f"train root --part 1/3 ended with exit code {code}"):
            ray_train.train_part("1/3", ["train", "root"])
    assert asked == [["train", "root", "--part", "1/3"]]


@pytest.mark.slow
def test_ray_trains_every_category(ray_train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    root = tmp_path / "root"
    for name in ("one", "two"):
        (root / name / "train" / "good").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["ray_train.py", str(root), "--out", str(tmp_path / "runs"), "--machine-cpus", "1"])
    assert ray_train.main() == 1  # both folders are empty: bad input, told and not tried again
