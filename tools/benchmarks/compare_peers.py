"""Compare with other libraries on this machine.

    python tools/benchmarks/compare_peers.py DATA --out DIR --photos PHOTOS [--minutes 120]

Each peer gets an environment of its own under DIR/venvs, made once: anomalib 2.7 (EfficientAD-S in torch and as ONNX in
onnxruntime, PatchCore) and anomavision 3.6 (PaDiM). DATA is a set in MVTec LOCO AD or MVTec AD layout; PHOTOS are the
images of other things that anomalib's EfficientAD needs. The capped training takes --minutes. It wants an idle machine.
What is measured is kept as JSON under DIR: the same command again goes on from there and ends with the table in
DIR/table.md, the plot in DIR/peers.png and everything in DIR/peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from peers.report import middle_turns, plot, tables

from edge_ad.utils.board import machine
from edge_ad.utils.files import atomic_write

SCRIPTS = Path(__file__).parent / "peers"
PACKAGES = {
    "anomalib": ["torch==2.13.0", "torchvision==0.28.0", "anomalib==2.7.0", "onnx", "onnxscript", "onnxruntime==1.31.1"],
    "anomavision": [
        "torch==2.13.0", "torchvision==0.28.0", "numpy==1.26.4", "opencv-python-headless==4.11.0.86", "easydict==1.13",
        "matplotlib", "onnx", "onnxruntime", "onnxscript", "pillow", "pydantic", "pyyaml", "scikit-image", "scikit-learn",
        "tqdm",
    ],
}  # fmt: skip
# It pins a web framework and a converter that no measurement needs, so it is installed without what it asks for.
ALONE = {"anomavision": "anomavision==3.6.2"}
BRANCHES = ("whole", "efficientad", "structure", "logic", "composition")
STARTS = 3
TURNS = 3


@dataclass(frozen=True)
class Contender:
    """A script of tools/benchmarks/peers, the environment that it runs in ("" is our own), and the forms that are timed."""

    name: str
    script: str
    venv: str
    forms: tuple[str, ...]
    learns: str = ""


CONTENDERS = (
    Contender("anomalib-efficientad", "anomalib_efficientad.py", "anomalib", ("torch", "onnx")),
    Contender("anomalib-patchcore", "anomalib_patchcore.py", "anomalib", ("torch",)),
    Contender("anomavision-padim", "anomavision_padim.py", "anomavision", ("torch",)),
    Contender("ours-efficientad", "ours.py", "", (), "efficientad"),
    Contender("ours", "ours.py", "", tuple(f"{part}-{p}" for part in BRANCHES for p in ("fp32", "int8")), "whole"),
)


class Comparison:
    """Runs what is missing; every result is a JSON file under ``out``/<contender>."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out.resolve()
        self.cores = str(len(os.sched_getaffinity(0)))

    def python(self, venv: str) -> Path:
        """Return the interpreter of an environment, which is made if it is not there."""
        if not venv:
            return Path(sys.executable)
        folder = self.out / "venvs" / venv
        python, stamp = folder / "bin" / "python", folder / "complete"
        if not stamp.exists():
            log_progress(f"environment of {venv}")
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, *PACKAGES[venv]], check=True)
            if venv in ALONE:
                subprocess.run([*install, "--no-deps", ALONE[venv]], check=True)
            stamp.write_text("\n".join(PACKAGES[venv]) + "\n")
        return python

    def command(self, contender: Contender, verb: str, form: str = "") -> list[str]:
        """Return the command line of a contender's script."""
        options = self.options
        words = [self.python(contender.venv), SCRIPTS / contender.script, verb, "--data", options.data.resolve()]
        words += ["--out", self.out / contender.name, "--minutes", options.minutes, "--frames", options.frames]
        words += ["--teacher", self.out / "teacher.pt", "--backbone", self.out / "lite0.pt"]
        words += ["--photos", self.out / "photos", "--steps", options.steps]
        return [str(word) for word in [*words, *(["--form", form] if form else [])]]

    def environment(self, contender: Contender) -> dict[str, str]:
        """Return the variables of a contender: all cores, no progress bars, and torchvision's operators for a peer."""
        shared = {**os.environ, "OMP_NUM_THREADS": self.cores, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        return {**shared, "PYTHONPATH": str(SCRIPTS / "stub")} if contender.venv else shared

    def run(self) -> None:
        """Measure everything that is not there yet, each kind in turn so that the contenders share the machine's mood."""
        self.prepare()
        chosen = [one for one in CONTENDERS if not self.options.only or one.name in self.options.only]
        for contender in chosen:
            self.once(contender, "learn", self.learn)
        for turn in range(1, TURNS + 1):
            for contender in chosen:
                for form in self.forms(contender):
                    self.once(contender, f"speed-{form}.{turn}", self.speed, form, str(turn))
        for contender in chosen:
            for form in self.forms(contender):
                if form.partition("-")[0] in ("torch", "onnx", "whole"):
                    self.once(contender, f"start-{form}", self.start, form)
        for contender in chosen:
            for form in self.forms(contender):
                if form.startswith("whole-"):
                    precision = form.removeprefix("whole-")
                    self.once(contender, f"line-{precision}", self.line, precision)

    def forms(self, contender: Contender) -> list[str]:
        """Return the forms to time: without INT8 where its gate refused."""
        learned = self.out / contender.name / "learn.json"
        gate = json.loads(learned.read_text()).get("int8_gate") if learned.exists() else None
        return [form for form in contender.forms if gate != "refused" or not form.endswith("int8")]

    def once(self, contender: Contender, measure: str, action: Any, *arguments: str) -> None:
        """Measure, unless it was done; what fails is told and left out."""
        if (self.out / contender.name / f"{measure}.json").exists():
            return
        log_progress(f"{contender.name}: {measure}")
        try:
            action(contender, *arguments)
        except subprocess.CalledProcessError as error:
            log_progress(f"  failed with exit code {error.returncode}: see {self.log(contender)}")

    def log(self, contender: Contender) -> Path:
        """Return the file that takes what a contender prints."""
        return self.out / f"{contender.name}.log"

    def call(self, contender: Contender, words: list[str]) -> None:
        """Run a script to its end, its output in the log."""
        with self.log(contender).open("ab") as log:
            subprocess.run(words, env=self.environment(contender), stdout=log, stderr=log, check=True)

    def learn(self, contender: Contender) -> None:
        """Train a contender."""
        self.call(contender, self.command(contender, "learn", contender.learns))

    def speed(self, contender: Contender, form: str, turn: str) -> None:
        """Time images, once more in every turn since a machine's clock moves by a tenth or two within minutes."""
        self.call(contender, self.command(contender, "speed", form))
        folder = self.out / contender.name
        os.replace(folder / f"speed-{form}.json", folder / f"speed-{form}.{turn}.json")

    def start(self, contender: Contender, form: str) -> None:
        """Time the way from the start of the process to the first score."""
        words, seconds = self.command(contender, "start", form), []
        for _ in range(STARTS):
            began = time.perf_counter()
            with self.log(contender).open("ab") as log:
                process = subprocess.Popen(
                    words, env=self.environment(contender), stdout=subprocess.PIPE, stderr=log, text=True
                )
                assert process.stdout is not None
                result = any(line.startswith("score") for line in process.stdout)
                seconds.append(time.perf_counter() - began)
                if process.wait() or not result:
                    raise subprocess.CalledProcessError(process.returncode, words)
        self.keep(contender, f"start-{form}", {"first_score_s": round(median(seconds), 2)})

    def line(self, contender: Contender, precision: str) -> None:
        """Time `edge-ad run` from its start to the first event in its file, and read its memory at the end."""
        folder = self.out / contender.name
        bundle, events = next(iter(sorted((folder / "bundle").glob("*.edgead")))), folder / "events.jsonl"
        camera = self.options.data.resolve() / "test" / "good"
        words = [
            "run",
            bundle,
            "--camera",
            camera,
            "--events",
            events,
            "--precision",
            precision,
            "--backend",
            "onnxruntime",
        ]
        seconds, memory = [], []
        for _ in range(STARTS):
            events.unlink(missing_ok=True)
            began = time.perf_counter()
            with self.log(contender).open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "edge_ad", *map(str, words)], stdout=log, stderr=log, cwd=folder
                )
                done, status, usage = 0, 0, None
                while not done and not (events.exists() and events.stat().st_size):
                    done, status, usage = os.wait4(process.pid, os.WNOHANG)
                    time.sleep(0.002)
                seconds.append(time.perf_counter() - began)
                if not done:
                    _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, words)
            memory.append(usage.ru_maxrss * 1024 / 1e6)
        result = {"first_verdict_s": round(median(seconds), 2), "peak_mb": round(max(memory), 1)}
        self.keep(contender, f"line-{precision}", result)

    def keep(self, contender: Contender, measure: str, values: dict[str, Any]) -> None:
        """Write a result down."""
        atomic_write(self.out / contender.name / f"{measure}.json", json.dumps(values, indent=1) + "\n")

    def prepare(self) -> None:
        """Give both sides the same weights, and anomalib its photographs in one class."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / "lite0.pt").exists():
            import torch
            from safetensors.torch import load_file

            from edge_ad.training.teacher import lite_weights
            from edge_ad.weights import weights_of

            teacher = load_file(weights_of("pdn_small"))
            torch.save({name: value.float() for name, value in teacher.items()}, self.out / "teacher.pt")
            torch.save(lite_weights("lite0", "tools/benchmarks/compare_peers.py"), self.out / "lite0.pt")
        target = self.out / "photos" / "all"
        if not target.exists():
            photos = sorted(
                path for path in self.options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
            )
            if not photos:
                raise SystemExit(f"error: --photos {self.options.photos} holds no image: name a folder of images")
            target.mkdir(parents=True)
            for number, path in enumerate(photos[:4096]):
                (target / f"{number:04}{path.suffix.lower()}").symlink_to(path.resolve())

    def results(self) -> dict[str, Any]:
        """Return all that is measured so far."""
        result: dict[str, Any] = {
            "machine": {**machine(), "cores": int(self.cores), "python": platform.python_version()},
            "data": self.options.data.resolve().name,
            "minutes": self.options.minutes,
            "packages": {**PACKAGES, **{name: [*PACKAGES[name], one] for name, one in ALONE.items()}},
        }
        for contender in CONTENDERS:
            # The course of a training that may still go on; what came of it is in learn.json.
            files = [path for path in sorted((self.out / contender.name).glob("*.json")) if path.stem != "course"]
            result[contender.name] = middle_turns({path.stem: json.loads(path.read_text()) for path in files})
        return result


def log_progress(text: str) -> None:
    """Tell what is done now."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, measure, and write table, plot and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--photos", type=Path, required=True, help="images of other things, for anomalib's EfficientAD"
    )
    parser.add_argument("--minutes", type=float, default=120.0, help="of the capped training")
    parser.add_argument("--frames", type=int, default=200, help="images that are timed")
    parser.add_argument("--steps", type=int, default=0, help="a trial: so few steps of our own trainings")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in CONTENDERS], help="measure only these now")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    if not (options.data / "test" / "good").is_dir():
        raise SystemExit(f"error: {options.data} has no test/good: name a set in MVTec LOCO AD or MVTec AD layout")
    comparison = Comparison(options)
    comparison.run()
    result = comparison.results()
    text = tables(result)
    atomic_write(options.out / "peers.json", json.dumps(result, indent=1) + "\n")
    atomic_write(options.out / "table.md", text)
    plot(result, options.out / "peers.png")
    print(text)


if __name__ == "__main__":
    main()
