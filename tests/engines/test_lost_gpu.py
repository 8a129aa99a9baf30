"""A GPU that is lost while `edge-ad run` works: NONE, outputs at reject, exit 3, and the next start works again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.engines import engine_store
from edge_ad.engines.tensorrt.backend import TrtBackend
from tests.camera.pictures import write_image
from tests.fixtures.fake_gpu import fake_gpu
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_image
from tests.outputs.peers import WrittenPlc

ROOT = Path(__file__).parents[2]
FRAMES = 40
PASS, REJECT = 0, 1


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, its engines and images of good parts."""
    folder = tmp_path_factory.mktemp("lost")
    bundle = open_bundle(make_tiny_bundle(folder / "tiny.edgead"))
    patch = pytest.MonkeyPatch()
    with patch.context() as patched, fake_gpu(patched):
        backend = TrtBackend()
        engine_store.store(bundle, backend, "fp16", {name: bundle.graph(name) for name in bundle.graphs})
        engine_store.make_current(bundle, "tensorrt", "fp16")
        backend.close()
    (folder / "pictures").mkdir()
    for number in range(FRAMES):
        write_image(folder / "pictures" / f"{number:03d}.png", tiny_image(2000 + number))
    return folder


def run(station: Path, work: Path, plc: WrittenPlc, **environment: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Return exit code, stderr without pycuda's warnings, and the events."""
    events = work / "events.jsonl"
    events.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fixtures.on_fake_gpu", "run", str(station / "tiny.edgead")),
            *("--camera", str(station / "pictures"), "--events", str(events)),
            *("--alarm", f"modbus://127.0.0.1:{plc.port}"),
        ],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("PyCUDA WARNING", "cu"))]
    return done.returncode, "\n".join(lines), [json.loads(line) for line in events.read_text().splitlines()]


@pytest.mark.parametrize("integrated", ["1", "0"], ids=["integrated", "discrete"])
def test_a_gpu_lost_in_a_frame(station: Path, tmp_path: Path, integrated: str) -> None:
    """An illegal address is met where the frame is waited for; every later call of the driver answers the same."""
    report = tmp_path / "report.json"
    held = {"FAKE_CUDA_INTEGRATED": integrated, "FAKE_CUDA_REPORT": str(report)}
    plc = WrittenPlc(coils={PASS: True})
    code, message, events = run(station, tmp_path, plc, FAKE_CUDA_FAIL="cuStreamSynchronize:40:700:sticky", **held)
    assert code == 3, message
    assert message.count("error: ") == 1
    assert "the GPU does not work: cuStreamSynchronize failed: an illegal memory access was encountered" in message
    assert "Traceback" not in message
    assert [event["verdict"] for event in events][-1] == "NONE"
    assert 1 < len(events) < FRAMES
    assert "NONE" not in {event["verdict"] for event in events[:-1]}
    assert plc.bits()[PASS : REJECT + 1] == [False, True]
    counted = json.loads(report.read_text())
    assert (counted["lost"], counted["live_blocks"], counted["damaged_guards"]) == (700, 0, 0)
    assert counted["abandoned_contexts"] == 0

    code, message, events = run(station, tmp_path, plc, **held)
    assert code == 0, message
    assert len(events) == FRAMES
    assert "NONE" not in {event["verdict"] for event in events}
    plc.close()
