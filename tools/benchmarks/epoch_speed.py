"""How much faster is a pass over the normal images with two processes?

    python tools/benchmarks/epoch_speed.py --json speed.json [--turns 3]

Trains a preset for a few steps a network, once by one process that is pinned to one core and once by torchrun with one
process a core, in turns, and compares the time of a step from the log. It wants an idle machine. What is measured is
kept in the JSON file: the same command again goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from edge_ad.presets.presets import Preset, preset_named
from edge_ad.utils.files import atomic_write

NETWORKS = ("tokenizer", "lavit", "efficientad")
WARM = 10  # steps that do not count
GOODS = 60


def main() -> None:
    """Read the command line, measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder of normal images (default: synthetic trays)")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--steps", type=int, default=60, help=f"of each network, the first {WARM} for warming up")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.steps < 2 * WARM or options.steps % WARM:
        parser.error(f"--steps is {options.steps}, but must be a multiple of {WARM} and at least {2 * WARM}")
    facts = {name: str(getattr(options, name)) for name in ("data", "preset", "steps", "processes")}
    record: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {**facts, "rows": []}
    if {name: record[name] for name in facts} != facts:
        parser.error(f"{options.json} holds a measurement with other options: name another file")
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or trays(Path(folder) / "goods")
        while len(record["rows"]) < 2 * options.turns:
            processes = (1, options.processes)[len(record["rows"]) % 2]
            seconds = measure(data, Path(folder) / str(len(record["rows"])), options, processes)
            record["rows"].append({"processes": processes, "step_s": seconds})
            atomic_write(options.json, json.dumps(record, indent=1) + "\n")
    record["summary"] = summary(record["rows"], preset_named(options.preset))
    atomic_write(options.json, json.dumps(record, indent=1) + "\n")
    print("\n".join(table(record["summary"], options.processes)))


def trays(folder: Path) -> Path:
    """Write synthetic normal images, whose pixels do not matter here."""
    import cv2

    from edge_ad.synthetic.line import render_tray

    folder.mkdir(parents=True)
    for number in range(GOODS):
        cv2.imwrite(str(folder / f"{number:03}.png"), render_tray(number).image[:, :, ::-1])
    return folder


def measure(data: Path, out: Path, options: argparse.Namespace, processes: int) -> dict[str, float]:
    """Return the seconds of a step of every network; the training is ended when its last network has learned."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < processes:
        raise SystemExit(f"{processes} processes need as many cores, but this process may use {len(cores)}")
    start = ["-m", "edge_ad"]
    if processes > 1:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *start]
    arguments = ["train", str(data), "--preset", options.preset, "--geometry", "square"]
    arguments += ["--steps", str(options.steps), "--out", str(out)]
    running = subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, cores[:processes])), sys.executable, *start, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not finished(log := entries(out), options.steps):
            if running.poll() is not None:
                raise SystemExit(f"the training ended with exit code {running.returncode}")
            time.sleep(0.5)
    finally:
        # torchrun gives its processes groups of their own and ends them when it is asked to end itself.
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
    return {name: step_seconds(log, name) for name in NETWORKS}


def entries(out: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the log of losses so far."""
    path = out / "train.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def finished(log: list[dict[str, Any]], steps: int) -> bool:
    """Whether the last network has taken its last step."""
    return any(entry["stage"] == NETWORKS[-1] and entry.get("step") == steps and "loss" in entry for entry in log)


def step_seconds(log: list[dict[str, Any]], network: str) -> float:
    """Return the mean seconds of a step after the warm-up, from the times of the log."""
    own = [entry for entry in log if entry["stage"] == network and "loss" in entry]
    return float((own[-1]["time"] - own[0]["time"]) / (own[-1]["step"] - own[0]["step"]))


def summary(rows: list[dict[str, Any]], preset: Preset) -> dict[str, Any]:
    """Return the median seconds a step of both, their ratio a network, and the ratio of a pass over 1,000 normal images."""
    result: dict[str, Any] = {}
    passes = [0.0, 0.0]
    most = max(row["processes"] for row in rows)
    for name in NETWORKS:
        one, several = (median(row["step_s"][name] for row in rows if row["processes"] == count) for count in (1, most))
        batch = getattr(preset, f"{name}_schedule").batch
        passes = [passes[0] + 1000 * one / batch, passes[1] + 1000 * several / batch]
        result[name] = {"one_s": round(one, 4), "several_s": round(several, 4), "ratio": round(one / several, 4)}
    return {**result, "epoch": {"one_s": passes[0], "several_s": passes[1], "ratio": round(passes[0] / passes[1], 4)}}


def table(found: dict[str, Any], processes: int) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| | one process, s | {processes} processes, s | ratio |", "|---|--:|--:|--:|"]
    for name in NETWORKS:
        row = found[name]
        lines.append(f"| step of {name} | {row['one_s']:.3f} | {row['several_s']:.3f} | {row['ratio']:.2f} |")
    row = found["epoch"]
    return [
        *lines,
        f"| 1,000 normal images once, all networks | {row['one_s']:.0f} | {row['several_s']:.0f} | {row['ratio']:.2f} |",
    ]


if __name__ == "__main__":
    main()
