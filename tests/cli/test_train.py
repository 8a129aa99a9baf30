"""`edge-ad train`: what it refuses, in one sentence each, and a category trained as published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.engines.pipeline import Pipeline
from edge_ad.models.pdn import PatchDescriptionNetwork
from edge_ad.training.teacher import describe, load_teacher
from tests.data.folders import goods
from tests.fixtures.tiny_presets import TINY_PAPER, known


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit code 2 and one sentence; return the sentence."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    *before, last = output.err.splitlines()
    assert last.startswith("error: ")
    assert not [line for line in before if "error" in line.lower() or "Traceback" in line]
    return last


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BAD: dict[str, tuple[list[str], list[str]]] = {
    "no data at all": ([], ["no data", "edge-ad.toml", "edge-ad init"]),
    "a missing folder": (["nowhere"], ["nowhere does not exist"]),
    "a file": (["note.txt"], ["note.txt is a file"]),
    "an empty folder": (["empty"], ["holds no images"]),
    "nine normal images": (["nine"], ["holds 9 good images", "at least 10"]),
    "nine normal images and a broken one": (
        ["nearly"],
        ["holds 9 good images", "1 more cannot be used; the first:", "at least 10"],
    ),
    "anomalies only": (["set/test/logical_anomalies"], ["anomalies only", "good parts"]),
    "an unknown preset": (["twelve", "--preset", "quick"], ["'quick' is unknown", "demo, fast, paper"]),
    "rates the wrong way round": (["twelve", "--target-ng", "0.2"], ["0 < NG <= WARN < 1", "NG 0.2"]),
    "missing weights": (["twelve", "--preset", "paper", "--teacher", "t.pth"], ["no weights at t.pth", "--teacher"]),
    "no weights named": (["twelve", "--preset", "paper-m"], ["no weights of the teacher pdn_medium", "--teacher FILE"]),
    "missing defects": (["twelve", "--defects", "bad"], ["--defects bad is not a folder"]),
    "a missing list of images": (["twelve", "--exclude", "x.txt"], ["cannot read the list of excluded images x.txt", "--review"]),
    "an excluded image that is not there": (["twelve", "--exclude", "note.txt"], ["note.txt, line 1,", "has no such file"]),
    "no steps": (["twelve", "--steps", "0"], ["--steps", "greater than or equal to 1"]),
    "no masks": (["twelve", "--masks", "0"], ["--masks", "greater than or equal to 1"]),
    "an unknown value": (["twelve", "--setting", "masks.cuont=4"], ["no 'cuont'", "did you mean 'count'?"]),
    "no category": (["twelve", "--each"], ["holds no category with train/good"]),
    "a part of one": (["twelve", "--part", "1/2"], ["--part", "add --each"]),
    "a part beyond": (["root", "--each", "--part", "3/2"], ["--part is '3/2'", "1 <= I <= N"]),
    "a root of categories": (["root"], ["holds the categories cable", "name one of them"]),
    "no folder to write to": (["twelve", "--out", "note.txt/run"], ["cannot write"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = BAD[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    goods(tmp_path / "nine", 9)
    whole = goods(tmp_path / "nearly", 9)[0].read_bytes()
    (tmp_path / "nearly" / "cut.png").write_bytes(whole[: len(whole) // 2])
    goods(tmp_path / "twelve", 12)
    goods(tmp_path / "set" / "test" / "logical_anomalies", 12)
    goods(tmp_path / "root" / "cable" / "train" / "good", 12)
    output = refused(["train", *arguments], capsys)
    for word in words:
        assert word in output


@pytest.mark.slow
def test_a_category_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--each over a root of one category; a PDN teacher from a file, labelled defects, images for the penalty."""
    goods(tmp_path / "root" / "cable" / "train" / "good", 16)
    goods(tmp_path / "others", 3, 400)
    for kind, first in (("bent", 700), ("missing", 800)):
        goods(tmp_path / "bad" / kind, 4, first)
    torch.manual_seed(0)
    state = PatchDescriptionNetwork("small").layers.state_dict()
    torch.save(state, tmp_path / "teacher_small.pth")
    options = ["--teacher", "teacher_small.pth", "--defects", "bad", "--penalty", "others", "--steps", "2"]
    with known(TINY_PAPER):
        arguments = ["train", "root", "--each", "--preset", "tiny-paper", "--json", "facts.json", *options]
        assert main(arguments) == 0
    path = Path("runs/cable/cable.edgead")
    assert capsys.readouterr().out.split() == [str(path)]
    facts = json.loads(Path("facts.json").read_text())["categories"]["cable"]
    bundle = open_bundle(path)
    assert facts["sha256"] == bundle.sha256
    assert (bundle.preset, bundle.report["layout"]) == ("tiny-paper", "mvtec")
    assert "teacher_tokens" in bundle.graphs
    assert len(bundle.raw_scores["synthetic"]) == 8
    teacher = load_teacher(TINY_PAPER, tmp_path / "teacher_small.pth", torch.device("cpu"))
    with Pipeline(bundle, all_branches=True) as pipeline:
        image = bundle.golden.images[0]
        np.testing.assert_allclose(pipeline.infer(image).raw, bundle.golden.raw[0], rtol=1e-3, atol=1e-4)
        tokens, pooled = describe(teacher, image[None], TINY_PAPER, torch.device("cpu"))
        np.testing.assert_allclose(pipeline.tensor("tokens"), tokens.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(pipeline.tensor("pooled"), pooled.numpy(), rtol=1e-3, atol=1e-3)
