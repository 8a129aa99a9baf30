"""What a person sees when TensorRT cannot be used: one sentence on stderr, exit 2 or 3, nothing written.

The device is a fake one (see tests/fixtures/fake_gpu.py).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main
from edge_ad.engines import engine_store
from edge_ad.engines.tensorrt.backend import TrtBackend
from tests.fixtures.fake_gpu import FakeGpu, fake_gpu
from tests.fixtures.tiny_bundle import make_tiny_bundle

BUILD = ["build-engine", "tiny.edgead", "--fp16", "--backend", "tensorrt"]
RUN = ["benchmark", "tiny.edgead", "--frames", "1"]


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_tiny_bundle(tmp_path / "tiny.edgead")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def refused(arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert told in errors


def fails(name: str, words: str) -> Callable[[FakeGpu], None]:
    return lambda gpu: gpu.trt.fail.update({name: words})


@pytest.mark.parametrize(
    ("version", "change", "code", "message"),
    [
        (
            "8.6.2.3",
            lambda gpu: None,
            2,
            "TensorRT 8.6.2.3 is too old: 10.3 or newer is needed; upgrade a Jetson to JetPack",
        ),
        ("10.3.0", lambda gpu: gpu.fail("cuInit", code=100), 3, "the GPU does not start: cuInit failed: no CUDA-capable device"),
        ("10.3.0", lambda gpu: gpu.configure(memory=200 << 20), 3, "only 200 MiB of memory are free"),
        ("10.3.0", fails("build", "Error Code 2: OutOfMemory"), 3, "too little free memory: close other programs"),
        (
            "10.3.0",
            fails("build", "no implementation"),
            3,
            "cannot build the graph 'teacher' in fp16: no implementation",
        ),
        ("10.3.0", fails("enqueue", ""), 3, "graph 'teacher' failed in TensorRT"),
    ],
)
def test_a_build_that_cannot_be(
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    change: Callable[[FakeGpu], None],
    code: int,
    message: str,
) -> None:
    with fake_gpu(monkeypatch, version) as gpu:
        change(gpu)
        refused(BUILD, code, message, capsys)
    assert not (station / "tiny.edgead.engines").exists()


def test_packages_that_are_missing(
    station: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_gpu(monkeypatch):
        monkeypatch.setitem(sys.modules, "pycuda.driver", None)
        refused(BUILD, 2, "the tensorrt backend needs the package 'pycuda.driver'", capsys)
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        refused(BUILD, 2, "tensorrt", capsys)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda folder, gpu: setattr(gpu.trt, "__version__", "10.13.3"), 2, "'10.16.2', but here it is '10.13.3'; rebuild"),
        (lambda folder, gpu: cut(folder / "lavit.engine"), 2, "lavit.engine is not the file that build-engine wrote"),
        (lambda folder, gpu: (folder / "lavit.engine").unlink(), 2, "cannot read the engine"),
        (lambda folder, gpu: gpu.trt.fail.update(load="Magic tag"), 2, "Magic tag; build it again with"),
        (lambda folder, gpu: gpu.trt.fail.update(context="x"), 3, "cannot make room to run the engine 'teacher'"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_run(
    station: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path, FakeGpu], None],
    code: int,
    message: str,
) -> None:
    with fake_gpu(monkeypatch) as gpu:
        bundle = open_bundle(station / "tiny.edgead")
        folder = engine_store.store(bundle, TrtBackend(), "fp16", {name: bundle.graph(name) for name in bundle.graphs})
        engine_store.make_current(bundle, "tensorrt", "fp16")
        change(folder, gpu)
        refused(RUN, code, message, capsys)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_ctrl_c_ends_with_130_and_nothing_is_written(
    station: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_gpu(monkeypatch) as gpu:
        builder = gpu.trt.Builder
        build = builder.build_serialized_network

        def interrupted(self: object, network: object, config: object) -> object:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # as a step of a real build takes its time
            return build(self, network, config)

        monkeypatch.setattr(builder, "build_serialized_network", interrupted)
        assert main(BUILD) == 130
        assert "stopping after this step" in capsys.readouterr().err
    assert not (station / "tiny.edgead.engines").exists()
