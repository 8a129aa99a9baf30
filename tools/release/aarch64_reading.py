"""One machine's part of `aarch64.sh`: make a small bundle, read what engines, verdicts and outputs do, compare two readings.

    python -m tools.release.aarch64_reading make FOLDER [--frames 20]
    python -m tools.release.aarch64_reading read FOLDER [--camera URI] [--frames 20] [--precisions fp32 fp16 int8]
    python -m tools.release.aarch64_reading compare REFERENCE FOLDER

`read` expects a bundle `part.edgead` in FOLDER, calibrated where int8 is read, and leaves `reading.json` and the events of each
precision there. Without a camera it judges the images in `FOLDER/frames`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "fp16", "int8")
PACKAGES = ("edge-ad", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "pymodbus")
HOLD_MS = 500
# The guard notices the death of the inspector at once and has hold_ms at most; the rest is for a slow, emulated machine.
LATE_MS = 500
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Row:
    """What two readings of one precision differ by; ``fault`` says what is not allowed, None when all is equal."""

    precision: str
    frames: int
    verdicts: Mapping[str, int]
    largest: float
    rms: float
    fault: str | None


def make(folder: Path, frames: int) -> None:
    """Write the calibrated miniature bundle of the tests, with five branches, and frames for it, a third of them anomalous.

    The gate refuses networks as small as these in INT8 throughout. The plan that it proposes then is left as `plan.json`.
    """
    import cv2

    from edge_ad.bundle import open_bundle
    from edge_ad.deployment.build import build
    from tests.fixtures.calibrated import make_calibrated
    from tests.fixtures.tiny_bundle import tiny_image

    bundle = open_bundle(make_calibrated(folder / "part.edgead"))
    build(bundle, "int8")
    engines = folder / "part.edgead.engines"
    if (engines / "plan-cpu.json").exists():
        (engines / "plan-cpu.json").rename(folder / "plan.json")
    shutil.rmtree(engines)
    (folder / "frames").mkdir(exist_ok=True)
    for number in range(frames):
        image = tiny_image(7000 + number, blob=number % 3 == 2)
        cv2.imwrite(str(folder / "frames" / f"{number:04}.png"), image[:, :, ::-1])


def read(folder: Path, camera: str | None, frames: int, precisions: Sequence[str]) -> None:
    """Build and run every precision, then try the guard, and write down what came of it."""
    bundle = folder / "part.edgead"
    source = camera or str(folder / "frames")
    reading: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version()}
    reading["packages"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    steps: dict[str, dict[str, Any]] = {}
    reading |= {"precisions": list(precisions), "steps": steps}
    for name in precisions:
        report, events = folder / f"build-{name}.json", folder / f"{name}.jsonl"
        build = ["build-engine", str(bundle), f"--{name}", "--backend", "onnxruntime", "--json", str(report)]
        if name == "int8" and (folder / "plan.json").exists():
            build += ["--plan", str(folder / "plan.json")]
        run = ["run", str(bundle), "--camera", source, "--precision", name, "--max-frames", str(frames)]
        steps[f"build-engine --{name}"] = edge_ad(*build)
        steps[f"run, {name}"] = edge_ad(*run, "--events", str(events))
    steps["guard"] = guard(bundle, source)
    (folder / "reading.json").write_text(json.dumps(reading, indent=1) + "\n", encoding="utf-8")
    for name, step in steps.items():
        print(f"{name:<22}{step['seconds']:>7.1f} s  {'ok' if step['code'] == 0 else step['said']}", flush=True)


def edge_ad(*arguments: str) -> dict[str, Any]:
    """Run one command; return its exit code, the seconds it took and its last line."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "edge_ad", *arguments], capture_output=True, text=True, timeout=3600, check=False
    )
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return {
        "code": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "said": lines[-1] if lines else "",
    }


def guard(bundle: Path, camera: str) -> dict[str, Any]:
    """Let an inspector write good verdicts into a Modbus peer, kill it, and time how long the peer still sees a pass."""
    from tests.outputs.peers import WrittenPlc

    plc = WrittenPlc()
    alarm = f"modbus://127.0.0.1:{plc.port}"
    command = ["--camera", camera, "--realtime", "--hold-ms", str(HOLD_MS), "--alarm", alarm]
    started = time.monotonic()
    inspector = subprocess.Popen(
        [sys.executable, "-m", "edge_ad", "run", str(bundle), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        passed = wait(lambda: plc.bits()[0], started + PATIENCE_S, inspector)
        killed = time.monotonic()
        inspector.kill()
        fell = wait(lambda: not plc.bits()[0] and plc.bits()[1], killed + PATIENCE_S)
        held_ms = 1000.0 * (time.monotonic() - killed)
    finally:
        inspector.kill()
        inspector.wait()
        plc.close()
    output = f"the peer saw a reject and the fault {held_ms:.0f} ms after the kill (hold_ms {HOLD_MS})"
    if not passed:
        output = "the peer saw no pass"
    elif not fell:
        output = "the peer saw no reject after the inspector was killed"
    late = not (passed and fell) or held_ms > HOLD_MS + LATE_MS
    return {"code": int(late), "seconds": round(time.monotonic() - started, 1), "said": output}


def wait(true: Any, until: float, process: subprocess.Popen[str] | None = None) -> bool:
    """Return whether it came true before a moment of the monotonic clock, or before the process ended."""
    while time.monotonic() < until and (process is None or process.poll() is None):
        if true():
            return True
        time.sleep(0.002)
    return False


def events_of(folder: Path, precision: str) -> list[dict[str, Any]]:
    """Return the events of a run in the order of its frames."""
    path = folder / f"{precision}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda event: int(event["frame"]))


def differ(precision: str, reference: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Row:
    """Compare the events of two machines by the gate of the precision."""
    from edge_ad.deployment.precision_search import MAX_ERROR
    from edge_ad.engines.parity import TOLERANCE_SHARE, TOLERANCE_Z

    verdicts: dict[str, int] = {}
    for event in found:
        verdicts[event["verdict"]] = verdicts.get(event["verdict"], 0) + 1
    if not reference or [event["frame"] for event in reference] != [event["frame"] for event in found]:
        counts = f"{len(found)} events where the reference has {len(reference)}"
        return Row(precision, len(found), verdicts, math.inf, math.inf, counts)
    pairs = list(zip(reference, found, strict=True))
    errors = [abs(float(new["score"]) - float(old["score"])) for old, new in pairs]
    rms = max(
        math.sqrt(sum((new["z"][branch] - old["z"][branch]) ** 2 for old, new in pairs) / len(pairs))
        for branch in reference[0]["z"]
    )
    flips = [
        f"frame {old['frame']}: {new['verdict']} where the reference has {old['verdict']}"
        for old, new in pairs
        if old["verdict"] != new["verdict"]
    ]
    allowed = [max(TOLERANCE_Z, TOLERANCE_SHARE * abs(float(old["score"]))) for old, _ in pairs]
    fault = flips[0] if flips else None
    if fault is None and precision == "int8" and rms > MAX_ERROR:
        fault = f"a branch differs by {rms:.3f} z (rms, allowed {MAX_ERROR:g})"
    if fault is None and precision != "int8" and any(e > a for e, a in zip(errors, allowed, strict=True)):
        fault = f"scores differ by {max(errors):.3f} z (allowed {TOLERANCE_Z} z or {TOLERANCE_SHARE:.0%})"
    return Row(precision, len(found), dict(sorted(verdicts.items())), max(errors), rms, fault)


def compare(reference: Path, folder: Path) -> int:
    """Print both readings side by side; 1 when a step failed or something differs beyond the gate."""
    readings = [json.loads((place / "reading.json").read_text(encoding="utf-8")) for place in (reference, folder)]
    for one in readings:
        versions = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
        print(f"{one['machine']}: Python {one['python']}, {versions}")
    print(f"\n{'step':<22}" + "".join(f"{one['machine']:>12}" for one in readings))
    for name in readings[1]["steps"]:
        steps = [one["steps"][name] for one in readings]
        print(f"{name:<22}" + "".join(f"{step['seconds']:>10.1f} s" for step in steps))
    rows = [differ(name, events_of(reference, name), events_of(folder, name)) for name in readings[1]["precisions"]]
    print(f"\n{'precision':<11}{'frames':>7}{'largest score error':>21}{'largest rms of a branch':>25}  verdicts")
    for row in rows:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in row.verdicts.items())
        figures = f"{row.precision:<11}{row.frames:>7}{row.largest:>19.4f} z{row.rms:>23.4f} z"
        print(f"{figures}  {counts}: {row.fault or 'equal'}")
    print(f"guard: {readings[1]['steps']['guard']['said']}")
    broken = [
        f"{one['machine']}: {name}: {step['said']}"
        for one in readings
        for name, step in one["steps"].items()
        if step["code"]
    ]
    faults = [*broken, *(f"{row.precision}: {row.fault}" for row in rows if row.fault)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return int(bool(faults))


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    making = parts.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--frames", type=int, default=20)
    reading = parts.add_parser("read")
    reading.add_argument("folder", type=Path)
    reading.add_argument("--camera")
    reading.add_argument("--frames", type=int, default=20)
    reading.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    comparing = parts.add_parser("compare")
    comparing.add_argument("reference", type=Path)
    comparing.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.part == "compare":
        return compare(options.reference, options.folder)
    if options.part == "make":
        make(options.folder, options.frames)
    else:
        read(options.folder, options.camera, options.frames, options.precisions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
