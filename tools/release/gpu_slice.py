"""What can be tried on a real NVIDIA card without TensorRT: the real pycuda and driver, a double of TensorRT in our stream.

Run by gpu_slice.sh; `--fake` runs the same over the fake driver of the tests. Prints a line for each check and writes all
of it as JSON. Exit 1 where a check failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from edge_ad.bundle import Bundle, open_bundle  # noqa: E402
from edge_ad.engines.pipeline import Inference, Pipeline  # noqa: E402
from edge_ad.engines.tensorrt.backend import TrtBackend  # noqa: E402
from edge_ad.engines.tensorrt.cuda import Device  # noqa: E402
from edge_ad.errors import DeviceFault  # noqa: E402
from tests.fixtures.tensorrt_double import make_tensorrt  # noqa: E402

LOST = 3
# Writes where nothing is: the driver finds out when the stream is waited for.
ILLEGAL_KERNEL = b""".version 7.0
.target sm_75
.address_size 64
.visible .entry touch() {
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 16;
    st.global.u32 [%rd1], 1;
    ret;
}
"""


class Slice:
    """The checks and what they found. ``frames``: how many images are compared in each of the long checks."""

    def __init__(self, bundle: Bundle, frames: int, fake: bool) -> None:
        self.bundle, self.frames, self.fake = bundle, frames, fake
        self.found: dict[str, dict[str, Any]] = {}

    def check(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run one check; whatever it raises is its failure, and the others go on."""
        began = time.monotonic()
        try:
            facts, failure = work(), None
        except Exception as error:
            facts, failure = {}, f"{type(error).__name__}: {' '.join(str(error).split())}"
        gc.collect()
        skipped = facts.pop("skipped", None)
        result = "failed" if failure else "skipped" if skipped else "ok"
        seconds = round(time.monotonic() - began, 2)
        self.found[name] = {"result": result, "seconds": seconds, **facts, "why": failure or skipped}
        message = failure or skipped or ", ".join(f"{key} {value}" for key, value in facts.items())
        print(f"{result:8}{name}: {message} ({seconds} s)", flush=True)

    def picture(self, seed: int) -> NDArray[np.uint8]:
        """Return an image of noise and light of the bundle's size."""
        rng = np.random.default_rng(seed)
        height, width = self.bundle.image_size
        ground = rng.integers(0, 200, (1, width, 3)) + rng.integers(0, 56, (height, width, 3))
        return np.asarray(ground, np.uint8)

    def opened(self, integrated: bool | None = None) -> Pipeline:
        """Return a pipeline over the double; ``integrated`` overrides what the card says of itself."""
        device = Device()
        if integrated is not None:
            device.integrated = integrated
        graphs = {name: self.bundle.graph(name) for name in self.bundle.graphs}
        return Pipeline(self.bundle, backend=TrtBackend(make_tensorrt(), device), graphs=graphs)

    def doctor(self) -> dict[str, Any]:
        """Do what `edge-ad doctor` tries of a GPU: a MiB there and back."""
        from edge_ad.system.trial import outcome

        done = outcome("gpu", "")
        require(bool(done["ok"]), str(done["found"]))
        return dict(done["facts"])

    def compared(self, integrated: bool) -> dict[str, Any]:
        """Compare frames with ONNX Runtime to the bit, captured and by plain calls."""
        with self.opened(integrated) as pipeline, Pipeline(self.bundle, threads=1) as reference:
            frame: Any = pipeline._frame
            require(frame.replayed, f"the frame was not captured: {frame.why_not}")
            times = [self._same(pipeline, reference, seed)["replay"] for seed in range(self.frames)]
            frame._device.release(frame._graph.close)
            frame._graph = None
            for seed in range(self.frames // 10):
                self._same(pipeline, reference, seed)
        return {
            "frames": self.frames,
            "plain": self.frames // 10,
            "replay_ms_median": round(float(np.median(times)), 3),
        }

    def _same(self, pipeline: Pipeline, reference: Pipeline, seed: int) -> dict[str, float]:
        image = self.picture(seed)
        result, wanted = pipeline.infer(image), reference.infer(image)
        require(same(result, wanted), f"frame {seed} differs from ONNX Runtime")
        return result.stages_ms

    def threads(self) -> dict[str, Any]:
        """Judge in four threads in turn, and in two at a time on a pipeline each."""
        scores: dict[str, list[float]] = {}

        def work(name: str, pipeline: Pipeline) -> None:
            scores[name] = [pipeline.infer(self.picture(seed)).score for seed in range(20)]

        with self.opened() as first, self.opened() as second:
            work("here", first)
            for number in range(4):
                run_all([(f"turn {number}", first)], work)
            run_all([("first", first), ("second", second)], work)
        require(all(result == scores["here"] for result in scores.values()), "threads gave other scores")
        return {"threads": 6}

    def openings(self) -> dict[str, Any]:
        """Open and close 50 times; free memory of the device and resident memory stay flat."""
        device = Device()
        marks: list[tuple[int, int]] = []
        for number in range(50):
            with self.opened() as pipeline:
                pipeline.infer(self.picture(0))
            del pipeline
            if number in (9, 49):
                gc.collect()
                with device.active():
                    marks.append((device.free_memory(), resident()))
        device.close()
        lost, grown = marks[0][0] - marks[1][0], marks[1][1] - marks[0][1]
        require(lost <= 0, f"{lost} bytes of device memory are gone")
        require(grown < 32 << 20, f"resident memory grew by {grown >> 20} MiB")
        return {"openings": 50, "device_bytes_lost": lost, "resident_grown_kib": grown >> 10}

    def memory_ends(self) -> dict[str, Any]:
        """Take nearly all memory, ask for more than is left, give it back, and go on."""
        device = Device()
        with device.active():
            held = device.allocate(device.free_memory() - (48 << 20))
        message = fault(lambda: allocate(device, 1 << 30))
        device.release(held.free)
        device.close()
        require("no memory left" in message, f"it said {message!r}")
        with self.opened() as pipeline, Pipeline(self.bundle, threads=1) as reference:
            self._same(pipeline, reference, 0)
        return {"said": message[:60]}

    def lost(self) -> dict[str, Any]:
        """Meet an illegal address in a child: one sentence, exit 3, no abort."""
        extra = {"FAKE_CUDA_FAIL": "cuStreamSynchronize:30:700:sticky"} if self.fake else {}
        done = self._child("--child", "illegal", environment=extra)
        sentence = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        require(done.returncode == LOST, f"exit {done.returncode}: {done.stdout[-200:]}{done.stderr[-200:]}")
        require(len(sentence) == 1, f"it said {done.stdout!r}")
        return {"exit": done.returncode, "said": sentence[0][:110]}

    def sanitized(self) -> dict[str, Any]:
        """Run 20 frames under compute-sanitizer."""
        tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
        if tool is None or self.fake:
            return {"skipped": "a fake driver runs no kernels" if self.fake else "compute-sanitizer is not installed"}
        done = self._child("--child", "frames", before=[tool, "--leak-check", "full"])
        errors = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "LEAK SUMMARY" in line]
        require(done.returncode == 0, f"exit {done.returncode}: {done.stdout[-300:]}")
        require(any("0 errors" in line for line in errors), f"it said {errors}")
        return {"said": "; ".join(line.strip("= ") for line in errors)}

    def _child(
        self, *arguments: str, before: list[str] | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [*(before or []), sys.executable, __file__, str(self.bundle.path), *arguments]
        command += ["--fake"] if self.fake else []
        held = {**os.environ, **(environment or {})}
        return subprocess.run(command, capture_output=True, text=True, env=held, check=False, timeout=240)

    def all(self) -> None:
        """Run every check."""
        self.check("doctor", self.doctor)
        self.check("frames, memory of its own", lambda: self.compared(False))
        self.check("frames, memory shared with the host", lambda: self.compared(True))
        self.check("threads", self.threads)
        self.check("50 openings", self.openings)
        self.check("memory ends", self.memory_ends)
        self.check("an illegal address", self.lost)
        self.check("compute-sanitizer", self.sanitized)


def require(true: bool, why: str) -> None:
    """Raise RuntimeError with ``why`` unless ``true``."""
    if not true:
        raise RuntimeError(why)


def same(found: Inference, wanted: Inference) -> bool:
    """Return whether two results are equal to the bit."""
    return found.score == wanted.score and all(
        np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("raw", "z", "map")
    )


def run_all(pairs: list[tuple[str, Pipeline]], work: Callable[[str, Pipeline], None]) -> None:
    """Run ``work`` on each pair, each in a thread, at the same time."""
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def allocate(device: Device, size: int) -> None:
    """Allocate device memory in the context of ``device``."""
    with device.active():
        device.allocate(size)


def fault(work: Callable[[], None]) -> str:
    """Return the words of the DeviceFault that ``work`` raises."""
    try:
        work()
    except DeviceFault as error:
        return str(error)
    return "nothing"


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def child(held: Slice, what: str) -> int:
    """Judge 20 images; ``illegal`` breaks the device in the midst of them."""
    try:
        with held.opened() as pipeline:
            for seed in range(20):
                if what == "illegal" and seed == 10 and not held.fake:
                    touch_nothing(pipeline)
                pipeline.infer(held.picture(seed))
    except DeviceFault as error:
        print(f"error: {error}", flush=True)
        return LOST
    return 0


def touch_nothing(pipeline: Pipeline) -> None:
    """Enqueue a kernel that writes to an address where nothing is."""
    device: Any = pipeline.backend.device  # type: ignore[attr-defined]
    with device.active():
        module = device.driver.module_from_buffer(ILLEGAL_KERNEL)
        module.get_function("touch")(block=(1, 1, 1), grid=(1, 1), stream=device.stream)


def main() -> int:
    """Return 0 when no check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--child", choices=["illegal", "frames"])
    chosen = parser.parse_args()
    if chosen.fake:
        from tests.fixtures.fake_gpu import load_once

        sys.modules.update(load_once()[1])
    held = Slice(open_bundle(chosen.bundle), chosen.frames, chosen.fake)
    if chosen.child:
        return child(held, chosen.child)
    held.all()
    results = [row["result"] for row in held.found.values()]
    message = {result: results.count(result) for result in ("ok", "skipped", "failed")}
    print(", ".join(f"{count} {result}" for result, count in message.items()))
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"fake": chosen.fake, "summary": message, "checks": held.found}, indent=1) + "\n"
        )
    return 1 if message["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
