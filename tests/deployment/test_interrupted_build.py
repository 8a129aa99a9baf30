"""Builds that end in the middle: a real SIGINT and a real SIGKILL on a real TensorRT for RTX build leave nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.engines import engine_store
from tests.fixtures.tiny_bundle import make_tiny_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is made for x86-64 alone")
from tests.fixtures.rtx_build import RtxBackend, compiled

ROOT = Path(__file__).parents[2]
LIMIT = 300.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_tiny_bundle(tmp_path / "tiny.edgead")


def start(path: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fixtures.rtx_build", str(path), what]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_compiling(path: Path, sent: signal.Signals) -> None:
    child = start(path, "build")
    assert child.stdout is not None
    assert child.stdout.readline() == "compiling teacher\n"
    child.send_signal(sent)
    message, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == -sent
    assert "storing" not in message
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_killed_while_storing(path: Path) -> None:
    """At any time the engines are whole or absent; what is left beside them goes with the next build."""
    child = start(path, "kill")
    message, errors = child.communicate(timeout=LIMIT)
    assert child.returncode == 0, errors
    lines = message.splitlines()
    assert lines[-1] == "stored 5"
    assert int(lines[-2].split()[1]) > 0
    folder = engine_store.engines_folder(path)
    assert {entry.name for entry in folder.iterdir()} == {"current.json", "tensorrt-fp16"}
    suffixes = {entry.suffix for entry in (folder / "tensorrt-fp16").iterdir()}
    assert suffixes == {".engine", ".json"}


def test_the_same_code_compiles_without_a_gpu(path: Path) -> None:
    bundle = open_bundle(path)
    engines = compiled(bundle, "fp32")
    assert set(engines) == set(bundle.graphs)
    assert all(len(data) > 10_000 for data in engines.values())
    assert RtxBackend.version in RtxBackend.trt.__version__
