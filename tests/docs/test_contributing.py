"""The worked examples of CONTRIBUTING.md: the code on the page is what runs here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.outputs import delivery
from tests.docs.documents import ROOT, blocks
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ONNX = tuple(int(part) for part in onnx.__version__.split(".")[:2])


def example(name: str) -> Any:
    """Run the block that defines ``name`` and return it."""
    (text,) = [block.text for block in blocks(PAGE) if re.search(rf"^(class|def) {name}\b", block.text, re.M)]
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, f"CONTRIBUTING.md: {name}", "exec", dont_inherit=True), space)
    return space[name]


@pytest.mark.skipif(ONNX < (1, 22), reason="the reference evaluator of ONNX before 1.22 takes minutes to resize")
def test_the_backend_gives_the_scores_of_onnxruntime(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "tiny.edgead"))
    with Pipeline(bundle) as known, Pipeline(bundle, backend=example("ReferenceBackend")(), graphs={}) as new:
        for seed, blob in ((1, False), (2, True)):
            wanted, result = (pipeline.infer(tiny_image(seed, blob)) for pipeline in (known, new))
            np.testing.assert_allclose(result.raw, wanted.raw, rtol=1e-4, atol=1e-5)
            assert result.score == pytest.approx(wanted.score, abs=1e-3)


def test_the_output_is_found_by_its_scheme_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = example("CountFile")
    entry = type("Entry", (), {"name": "count", "load": lambda self: kind})()
    monkeypatch.setattr(delivery.importlib.metadata, "entry_points", lambda **_: [entry])
    output = delivery.make_output(f"count:{tmp_path / 'counts.json'}")
    for verdict in ("OK", "NG", "OK"):
        output.open()
        output.deliver(json.dumps({"id": "x", "verdict": verdict}))
        output.close()
    assert json.loads((tmp_path / "counts.json").read_text()) == {"OK": 2, "NG": 1}
    (table,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
    assert f'"{delivery.GROUP}"' in table


def test_the_trial_of_a_branch_distinguishes_a_useful_one_from_noise() -> None:
    gain = example("earns_its_place")
    rng = np.random.default_rng(0)
    z_normal, z_anomalies = rng.normal(size=(60, 2)), rng.normal(1.0, 1.0, (80, 2))
    kinds = ["dent", "scratch"] * 40
    useful, noise = gain(z_normal, z_anomalies, kinds, rng.normal(size=60), rng.normal(3.0, 1.0, 80))
    assert useful > max(noise, 0.01)
    useless, _ = gain(z_normal, z_anomalies, kinds, rng.normal(size=60), rng.normal(size=80))
    assert useless < 0.01


def apply(diff: str, root: Path) -> None:
    """Change files under ``root``: the lines before a change must stand in their file exactly once."""
    for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
        name, text = part.split("\n", 1)
        path = root / name
        for hunk in text.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
            content = path.read_text(encoding="utf-8")
            assert content.count(old) == 1, f"{name}: {old}"
            path.write_text(content.replace(old, new), encoding="utf-8")


def patch(word: str) -> str:
    """Return the change on the page that has this word in it."""
    (diff,) = [block.text for block in blocks(PAGE) if block.language == "diff" and word in block.text]
    return diff


OPTION = """
import sys
from edge_ad.cli.app import main
codes = [main(words.split()) for words in sys.argv[1:]]
print(codes)
"""


def test_an_option_is_one_line_beside_its_use(tmp_path: Path) -> None:
    for name in ("edge_ad", "calibration"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    apply(patch("shift"), tmp_path)
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    (tmp_path / "edge-ad.toml").write_text('[run]\nshift = "early"\ncamera = "synthetic://line?frames=1&size=64"\n')
    calls = [f"run {bundle}", f"run {bundle} --shift late", "run --shift " + 21 * "x", "run --help"]
    done = subprocess.run(
        [sys.executable, "-c", OPTION, *calls],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("shift ")] == ["shift early", "shift late"]
    assert "Name of the shift, printed first." in " ".join(done.stdout.split())
    assert "error: --shift is 'xxxxxxxxxxxxxxxxxxxxx': string should have at most 20 characters" in done.stderr
    assert lines[-1] == "[0, 0, 2, 0]"


@pytest.mark.slow
def test_a_seventh_branch_needs_only_the_places_of_the_page(tmp_path: Path) -> None:
    for name in ("edge_ad", "calibration", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    apply(patch("brightness"), tmp_path)
    old = make_tiny_bundle(tmp_path / "five.edgead")
    command = [sys.executable, "-m", "tests.docs.seventh_branch", str(old)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "seven branches"


def test_the_places_that_the_page_names_exist() -> None:
    for path in re.findall(r"`((?:edge_ad|tests|docs|tools)/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists(), path
