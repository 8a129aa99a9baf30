"""`edge-ad run --cascade`: fewer graphs for most parts, the same verdicts, and a sentence where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.bundle import open_bundle, write_bundle
from edge_ad.cli.app import main
from edge_ad.scoring import fuse
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that knows 60 anomalies like those that it will see, and a folder of normal images and anomalies."""
    from dataclasses import replace

    from edge_ad.engines.pipeline import Pipeline

    monkeypatch.chdir(tmp_path)
    contents = open_bundle(make_tiny_bundle(tmp_path / "first.edgead")).contents()
    with Pipeline(open_bundle(tmp_path / "first.edgead"), threads=1) as pipeline:
        raw = np.stack([pipeline.infer(tiny_image(500 + seed, blob=True)).raw for seed in range(60)])
    assert (fuse(raw, contents.statistics)[1] > contents.thresholds.warn).sum() > 50
    write_bundle(tmp_path / "part.edgead", replace(contents, raw_scores={**contents.raw_scores, "synthetic": raw}))
    (tmp_path / "pictures").mkdir()
    for seed in range(12):
        cv2.imwrite(f"pictures/{seed:02}.png", tiny_image(seed, blob=seed % 4 == 3)[:, :, ::-1])
    return tmp_path


def run(*flags: str) -> list[dict[str, object]]:
    words = ["run", "part.edgead", "--camera", "pictures", "--precision", "fp32", "--backend", "onnxruntime"]
    Path("events.jsonl").unlink(missing_ok=True)
    assert main([*words, "--events", "events.jsonl", *flags]) == 0
    return [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]


def test_the_verdicts_are_those_of_the_full_run(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, result = run(), run("--cascade", "0.05")
    assert "cascade: LAViT is left out below" in capsys.readouterr().err
    assert [one["verdict"] for one in result] == [one["verdict"] for one in full]
    short = [one for one in result if "logic" not in one["z"]]  # type: ignore[operator]
    assert short
    assert all(one["verdict"] == "OK" for one in short)
    for one, whole in zip(result, full, strict=True):
        if one not in short:
            assert (one["score"], one["z"], one["reason"]) == (whole["score"], whole["z"], whole["reason"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cascade", "0.001"], ["--cascade is 0.001", "support no rate below"]),
        (["--cascade", "2"], ["--cascade", "less than 1"]),
        (["--cascade", "0.05", "--tiles", "1x2", "--tile-goods", "pictures"], ["--cascade and --tiles exclude"]),
    ],
)
def test_what_it_refuses(station: Path, flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "part.edgead", "--camera", "pictures", "--precision", "fp32", *flags]) == 2
    output = capsys.readouterr().err
    for word in words:
        assert word in output
