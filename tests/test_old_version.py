"""What the version before the packages were redrawn has written still opens, builds, runs and gives the same scores."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.config import load_config
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.store.reader import Reader

ROOT = Path(__file__).parents[1]
STATION = Path(__file__).parent / "fixtures" / "old_version" / "station.zip"

# On another processor sums are taken in another order. The longest is a convolution of n = 192 products with
# sum |w x| <= 8, so that a feature errs by 5 sqrt(n) 2^-24 8 = 3.3e-5 (a probabilistic bound of rounding, factor 5); two
# of them, apart by 0.065 at least, are squared: 2 * 2 * 3.3e-5 / 0.065 = 2.0e-3 of the raw score.
RAW_TOLERANCE = 2e-3


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the old version, unpacked and entered."""
    with zipfile.ZipFile(STATION) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_processor(recorded: dict[str, Any]) -> bool:
    """Tell whether the scores were recorded by this model of processor, its vector units and this onnxruntime."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = sorted(flag for flag in fields.get("flags", "").split() if flag.startswith(("avx", "amx", "fma")))
    mine = {"machine": platform.machine(), "model": fields.get("model name", ""), "flags": flags}
    return {**mine, "onnxruntime": onnxruntime.__version__} == recorded


def infer_all(bundle: Any) -> dict[str, Inference]:
    """Return what FP32 on onnxruntime in one thread gives for every image of the folder."""
    with Pipeline(bundle, threads=1, all_branches=True) as pipeline:
        return {
            path.name: pipeline.infer(np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1]))
            for path in Path("images").iterdir()
        }


def test_old_bundle_gives_the_same_scores(station: Path) -> None:
    """Bit for bit on the processor and onnxruntime that recorded them, within ``RAW_TOLERANCE`` on any other."""
    recorded = json.loads(Path("scores.json").read_text())
    exact = is_processor(recorded["processor"])
    bundle = open_bundle(Path("tiny.edgead"))
    results = infer_all(bundle)
    assert sorted(results) == [row["image"] for row in recorded["images"]]
    for row in recorded["images"]:
        result = results[row["image"]]
        raw, z = (np.array([float.fromhex(text) for text in row[key]], dtype=np.float32) for key in ("raw", "z"))
        score = float.fromhex(row["score"])
        limit = np.zeros(5) if exact else RAW_TOLERANCE * np.abs(raw)
        z_limit = limit / bundle.statistics.std
        assert np.all(np.abs(result.raw - raw) <= limit)
        assert np.all(np.abs(result.z - z) <= z_limit)
        assert abs(result.score - score) <= z_limit @ bundle.statistics.weight


# The gate refuses INT8 of efficientad in this bundle, and did so in the old version.
@pytest.mark.parametrize(("precision", "options"), [("fp16", []), ("int8", ["--keep-fp32", "efficientad"])])
def test_old_bundle_builds_an_engine(
    station: Path, precision: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("edge-ad.toml").unlink()  # it asks for fp32 and keeps the teacher there
    assert main(["build-engine", "tiny.edgead", f"--{precision}", "--backend", "onnxruntime", *options]) == 0
    assert "accepted" in capsys.readouterr().out
    bundle = open_bundle(Path("tiny.edgead"))
    with Pipeline(bundle, precision=precision, threads=1) as pipeline:
        assert np.isfinite(pipeline.infer(bundle.golden.images[0]).score)


def test_old_settings_are_read_with_the_same_values(station: Path) -> None:
    recorded = json.loads(Path("settings.json").read_text())
    settings = load_config().model_dump(mode="json", exclude_unset=True)
    assert {table: {key: settings[table][key] for key in recorded[table]} for table in recorded} == recorded


def summary(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a listed event shares with the line that was written beside it."""
    return row["camera"], row["part"], row["verdict"], round(row["score"], 6), row["z"], row["reason"]


def test_old_record_is_read_and_a_new_run_appends_to_it(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    assert main(["events", "--json", "old.json"]) == 0
    listed = {row["id"]: row for row in json.loads(Path("old.json").read_text())}
    assert {row["id"]: summary(row) for row in old} == {key: summary(row) for key, row in listed.items()}
    command = [sys.executable, "-m", "edge_ad", "run", "tiny.edgead"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with Reader(Path("runs/line.sqlite")) as reader:
        assert reader.evidence == Path("runs/line.evidence")
    assert main(["events", "--json", "new.json"]) == 0
    rows = json.loads(Path("new.json").read_text())
    assert len(rows) == 2 * len(old)
    assert {row["id"] for row in old} < {row["id"] for row in rows}
    assert [row["verdict"] for row in rows[::-1]] == 2 * [row["verdict"] for row in old]
    pictures = Path("runs/line.evidence").rglob("*_map.jpg")
    assert {path.name.split("_")[2] for path in pictures} == {row["id"] for row in rows}


def test_old_journal_and_evidence_make_a_lost_index_anew(station: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/line.sqlite").unlink()
    assert main(["events", "rebuild"]) == 0
    assert main(["events", "--json", "again.json"]) == 0
    old = [json.loads(line)["id"] for line in Path("events.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in json.loads(Path("again.json").read_text())) == sorted(old)
