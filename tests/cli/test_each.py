"""Categories with two commands: every one is trained once, and the table has a line for each and the means."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.synthetic.line import write_line
from tests.fixtures.tiny_presets import TINY, known

CATEGORIES = ("juice", "pins")
FIRST = CATEGORIES[:1]  # what the first command trains
PRESET = replace(TINY, anomalies=8)
COUNTS = {"train": 12, "validation": 2, "test_good": 4, "test_logical": 2, "test_structural": 2, "video_frames": 0}


def category(root: Path, name: str, seed: int) -> None:
    """Write one category in LOCO layout; the names of the trays' defects differ between lines by nothing."""
    write_line(root / "made", size=128, seed=seed, **COUNTS).rename(root / name)
    (root / "made").rmdir()


@pytest.mark.slow
def test_a_root_of_categories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "loco"
    root.mkdir()
    train = ["train", "loco", "--each", "--preset", "tiny", "--out", "runs", "--json", "train.json"]
    with known(PRESET):
        for seed, name in enumerate(FIRST):
            category(root, name, seed)
        assert main(train) == 0  # as far as a command came that was killed after one category
        first = {name: open_bundle(Path("runs") / name / f"{name}.edgead").sha256 for name in FIRST}
        for seed, name in enumerate(CATEGORIES[len(FIRST) :], start=len(FIRST)):
            category(root, name, seed)
        capsys.readouterr()
        assert main(train) == 0
    said = capsys.readouterr()
    assert said.out.split() == [f"runs/{name}/{name}.edgead" for name in CATEGORIES]
    assert re.findall(r"(\w+): already trained", said.err) == list(FIRST)
    trained = json.loads(Path("train.json").read_text())["categories"]
    assert list(trained) == list(CATEGORIES)
    assert {name: trained[name]["sha256"] for name in first} == first

    engine = ["--backend", "onnxruntime", "--precision", "fp32"]
    assert main(["evaluate", "runs", "loco", *engine, "--json", "figures.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[:1]][: len(CATEGORIES) + 2] == [
        "category",
        *CATEGORIES,
        "mean",
    ]
    figures = json.loads(Path("figures.json").read_text())
    assert list(figures["categories"]) == list(CATEGORIES)
    for kind in ("logical", "structural", "mean"):
        for key in ("image_auroc", "recall_at_1_percent", "logic_map"):
            values = [one[key][kind] for one in figures["categories"].values()]
            assert figures["mean"][key][kind] == pytest.approx(np.mean(values))
        values = [one["au_spro"]["0.05"][kind] for one in figures["categories"].values()]
        assert figures["mean"]["au_spro"]["0.05"][kind] == pytest.approx(np.mean(values))
    told = [float(value) for value in next(line for line in lines if line.startswith("mean")).split()[1:4]]
    expected = [figures["mean"]["image_auroc"][kind] for kind in ("logical", "structural", "mean")]
    assert told == pytest.approx(expected, abs=5e-4)
