"""What the doctor tries, each in a process of its own: the same calls that `edge-ad run` will make.

Run as ``python -m edge_ad.system.trial NAME`` with the target, a JSON string, on stdin, so that the credentials of a
camera are in no process list. The last line of stdout is the outcome as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_ad.errors import BadInput, DeviceFault, EdgeAdError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edge_ad.engines.protocol import Backend, Engine

FIRST_FRAME_S = 15.0
_PINNED_BYTES = 1 << 20
_OPSET, _IR_VERSION = 17, 8  # older than what any supported runtime reads
_TOLERANCE = 1e-3


def opencv(target: str) -> tuple[str, dict[str, Any]]:
    """Silence OpenCV as every camera does, open a file that is no video, and turn an image of it into RGB."""
    import numpy as np

    from edge_ad.camera.opencv import build_details, quiet, to_rgb

    import cv2  # isort: skip  (after edge_ad.camera.opencv, which sets what OpenCV reads once)

    with quiet():
        cv2.VideoCapture("/nonexistent.avi").release()
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 0] = 255
    encoded, data = cv2.imencode(".png", blue)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if encoded else None
    if decoded is None or to_rgb(decoded)[0, 0].tolist() != [0, 0, 255]:
        raise BadInput(f"OpenCV {cv2.__version__} gave a wrong image back: install it again")
    return build_details(), {"version": cv2.__version__}


def camera(target: str) -> tuple[str, dict[str, Any]]:
    """Take the first frame of a camera URI."""
    from edge_ad.camera.frames import BadFrame, Frame
    from edge_ad.camera.sources import open_source

    began = time.monotonic()
    source = open_source(target)
    try:
        reason = "it gave no frame"
        while time.monotonic() - began < FIRST_FRAME_S:
            read = source.read(0.25)
            if isinstance(read, Frame):
                return _frame_facts(source, read, time.monotonic() - began)
            reason = read.reason if isinstance(read, BadFrame) else getattr(read, "reason", None) or reason
        raise DeviceFault(f"no frame within {FIRST_FRAME_S:g} s: {reason}")
    finally:
        source.close()


def _frame_facts(source: Any, frame: Any, seconds: float) -> tuple[str, dict[str, Any]]:
    height, width = frame.image.shape[:2]
    settings = getattr(source, "settings", None)
    pixels = getattr(settings, "pixel_format", None)
    details = {
        "width": width,
        "height": height,
        "pixel_format": pixels,
        "fps": source.fps,
        "first_frame_s": round(seconds, 3),
    }
    rate = f", {source.fps:g} a second" if source.fps else ""
    return f"{width} x {height}{f' {pixels}' if pixels else ''}{rate}, first frame after {seconds:.2f} s", details


def gpu(target: str) -> tuple[str, dict[str, Any]]:
    """Allocate pinned and device memory, copy there and back, compare and free."""
    import numpy as np

    from edge_ad.engines.tensorrt.cuda import Device

    device = Device()
    with device.active():
        there, back = device.allocate_pinned(_PINNED_BYTES), device.allocate_pinned(_PINNED_BYTES)
        memory = device.allocate(_PINNED_BYTES)
        there.array[:] = np.arange(_PINNED_BYTES, dtype=np.uint32).astype(np.uint8)
        device.upload(memory.address, there.array)
        device.download(back.array, memory.address)
        device.synchronize()
        same = bool(np.array_equal(there.array, back.array))
        free = device.free_memory()
        for piece in (there, back, memory):
            piece.free()
    if not same:
        raise DeviceFault("a MiB came back from the GPU changed: see `sudo dmesg`")
    details = {"device": device.name, "sm": device.sm, "cuda": device.cuda, "integrated": device.integrated, "free": free}
    return f"a MiB to {device.name} and back, {free / 2**30:.1f} GiB free", details


def graph_onnxruntime(target: str) -> tuple[str, dict[str, Any]]:
    """Run a small graph on ONNX Runtime as the engines are run."""
    from edge_ad.engines.onnxruntime import OrtBackend

    backend = OrtBackend(1)
    return _judge_graph(backend, backend.load("trial", trial_graph()))


def graph_tensorrt(target: str) -> tuple[str, dict[str, Any]]:
    """Build a small graph with TensorRT, load it and run it as the engines are run."""
    from edge_ad.engines.tensorrt.backend import TrtBackend
    from edge_ad.engines.tensorrt.build import build_engine

    backend = TrtBackend()
    began = time.monotonic()
    with backend.device.active():
        plan = build_engine(backend.trt, trial_graph(), "fp32", "trial")
    built = time.monotonic() - began
    result, details = _judge_graph(backend, backend.load("trial", plan))
    return f"{result}, built in {built:.1f} s", {**details, "build_s": round(built, 2)}


def trial_graph() -> bytes:
    """Return a model of u8[1,8,8,3] pixels: cast, transposed, convolved, rectified and averaged to f32[1,4,1,1]."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["mixed"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["mixed"], ["kept"]),
        helper.make_node("GlobalAveragePool", ["kept"], ["score"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 4, 1, 1])
    weight = numpy_helper.from_array(np.asarray(_weight(), np.float32), "weight")
    graph = helper.make_graph(nodes, "trial", [image], [score], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def _weight() -> npt.NDArray[np.float32]:
    import numpy as np

    return (np.arange(12, dtype=np.float32).reshape(4, 3, 1, 1) - 5.0) / 8.0


def _judge_graph(backend: Backend, engine: Engine) -> tuple[str, dict[str, Any]]:
    """Run the graph on an image and compare with NumPy."""
    import numpy as np

    pixels = (np.arange(192) * 37 % 256).astype(np.uint8).reshape(1, 8, 8, 3)
    image = backend.allocate(engine.inputs["image"])
    score = backend.allocate(engine.outputs["score"])
    engine.bind("image", image)
    engine.bind("score", score)
    image.write(pixels)
    began = time.perf_counter()
    engine.run()
    took = (time.perf_counter() - began) * 1000.0
    result = score.read().reshape(4)
    mixed = pixels.reshape(64, 3).astype(np.float64) @ _weight().reshape(4, 3).astype(np.float64).T
    expected = np.maximum(mixed, 0.0).mean(axis=0)
    off = float(np.abs(result - expected).max() / np.abs(expected).max())
    engine.close()
    backend.close()
    if not off <= _TOLERANCE:
        raise DeviceFault(f"{backend.name} {backend.version} computes a small graph wrong, by {off:.2g} of its range")
    details = {"backend": backend.name, "version": backend.version, "difference": off, "run_ms": round(took, 3)}
    return f"{backend.version} ran a small graph, {off:.1g} from NumPy", details


TRIALS: Mapping[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "opencv": opencv,
    "camera": camera,
    "gpu": gpu,
    "graph onnxruntime": graph_onnxruntime,
    "graph tensorrt": graph_tensorrt,
}


def outcome(name: str, target: str) -> dict[str, Any]:
    """Return what came of a trial: ``ok``, ``found``, ``code`` (2 or 3 where it is not ok), ``facts``."""
    try:
        result, details = TRIALS[name](target)
    except EdgeAdError as error:
        return {"ok": False, "found": str(error), "code": error.exit_code, "facts": {}}
    except ImportError as error:
        return {"ok": False, "found": f"{type(error).__name__}: {error}", "code": 2, "facts": {}}
    except Exception as error:
        message = " ".join(str(error).split())
        # OpenCV needs no device: what it lacks has to be installed.
        code = 2 if name == "opencv" else 3
        return {"ok": False, "found": f"{type(error).__name__}: {message}", "code": code, "facts": {}}
    return {"ok": True, "found": result, "code": 0, "facts": details}


def main() -> None:
    """Try what the first argument names on the target that stdin holds."""
    result = outcome(sys.argv[1], json.loads(sys.stdin.read() or '""'))
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
