"""The samples of docs/host print what the pipeline says: in Python, and compiled in C++ and C# where that can be done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import onnx
import pytest

from edge_ad.bundle import open_bundle
from edge_ad.deployment.one_file import write_one_file
from edge_ad.engines.pipeline import Pipeline
from edge_ad.geometry.geometry import Prepared
from tests.docs.documents import ROOT
from tests.fixtures import host_toolchain
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image

HOST = ROOT / "docs" / "host"
# As large as the input, whole multiples of it, other ratios, smaller, and smaller along one side.
SIZES = [(64, 64), (128, 128), (192, 320), (100, 90), (480, 640), (65, 63), (31, 29), (40, 300), (300, 40), (64, 200)]
Sample = Callable[..., "subprocess.CompletedProcess[str]"]


def run(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)


def python(folder: Path) -> Sample:
    return lambda *words: run([sys.executable, str(HOST / "python" / "judge.py"), *words])


def cpp(folder: Path) -> Sample:
    if reason := host_toolchain.missing("cmake", "g++"):
        pytest.skip(reason)
    options = [f"-DONNXRUNTIME_ROOT={host_toolchain.FOLDER}", "-DCMAKE_CXX_FLAGS=-Werror"]
    for words in (["-S", str(HOST / "cpp"), "-B", str(folder / "build"), *options], ["--build", str(folder / "build")]):
        done = run(["cmake", *words])
        assert done.returncode == 0, done.stdout + done.stderr
    return lambda *words: run([str(folder / "build" / "judge"), *words])


def csharp(folder: Path) -> Sample:
    """Compile with mono: no registry that these tests may use has the .NET SDK, which Judge.csproj is for."""
    if reason := host_toolchain.missing("mcs", "mono"):
        pytest.skip(reason)
    program = folder / "judge.exe"
    sources = [*sorted((HOST / "csharp").glob("*.cs")), *host_toolchain.binding()]
    options = ["-langversion:latest", "-unsafe", "-warn:0", "-d:NETSTANDARD2_0", f"-out:{program}"]
    done = run(["mcs", *options, *map(str, sources)])
    assert done.returncode == 0, done.stdout + done.stderr
    library = str(host_toolchain.FOLDER / "lib")
    return lambda *words: run(["mono", str(program), *words], LD_LIBRARY_PATH=library)


SAMPLES = [
    pytest.param(python, "png", id="python"),
    pytest.param(cpp, "png", id="cpp", marks=pytest.mark.slow),
    pytest.param(csharp, "bmp", id="csharp", marks=pytest.mark.slow),
]


def locating(path: Path) -> str:
    """Return a copy of a file that says of itself that parts must be located."""
    model = onnx.load(path)
    (entry,) = [prop for prop in model.metadata_props if prop.key == "edge_ad.geometry"]
    entry.value = json.dumps(json.loads(entry.value) | {"locates": True})
    onnx.save(model, path.with_name("locating.onnx"))
    return str(path.with_name("locating.onnx"))


@pytest.mark.parametrize(("build", "suffix"), SAMPLES)
def test_a_sample_prints_score_and_verdict_of_the_pipeline(
    build: Callable[[Path], Sample], suffix: str, tmp_path: Path
) -> None:
    bundle = open_bundle(make_tiny_bundle(tmp_path / "part.edgead"))
    model = write_one_file(bundle, tmp_path / "part.onnx").path
    paths, expected = [], []
    with Pipeline(bundle) as pipeline:
        for number, size in enumerate(SIZES):
            image = tiny_image(9100 + number, blob=number % 3 == 2, size=size)
            prepared = bundle.geometry.prepare(image)
            assert isinstance(prepared, Prepared)
            expected.append(pipeline.infer(prepared.image).score)
            paths.append(str(tmp_path / f"{number}.{suffix}"))
            assert cv2.imwrite(paths[-1], image[:, :, ::-1])
    judge = build(tmp_path)
    done = judge(str(model), *paths)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == paths
    assert [float(row[1]) for row in rows] == pytest.approx(expected, abs=1e-3)
    assert [row[2] for row in rows] == [bundle.thresholds.verdict(score) for score in expected]
    assert {row[2] for row in rows} >= {"OK", "NG"}

    model_that_locates = locating(model)
    assert judge(model_that_locates, paths[0]).stdout == done.stdout.splitlines(keepends=True)[0]  # it has the input's size
    refused = judge(model_that_locates, paths[1])
    assert refused.returncode != 0
    assert "takes a part that was located and cut out upright, 64 x 64 pixels" in refused.stderr
