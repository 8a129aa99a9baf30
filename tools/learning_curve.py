"""How few steps are enough? `python tools/learning_curve.py DATA --out DIR [--shares 0.05 0.1 0.25 0.5 1] [--plot FILE]`

Trains a preset with a share of its steps for every network, its schedule shortened as a whole, and reads the test split after
each: AUROC of the fusion and of every branch against steps. DATA is a set in MVTec LOCO AD or MVTec AD layout. A training
that was stopped goes on, one that is finished is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_ad.files import atomic_write
from edge_ad.presets import Preset, Schedule, preset_named
from edge_ad.scoring import BRANCHES

NETWORKS = ("tokenizer", "lavit", "efficientad")
ENOUGH = 0.99  # of the AUROC after all steps


def main() -> None:
    """Read the command line, train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    preset = preset_named(options.preset)
    points = []
    for share in sorted(options.shares):
        points.append(measure(options, preset, share))
        atomic_write(options.out / "curve.json", json.dumps(points, indent=1) + "\n")
    print("\n".join(table(points)))
    if options.plot:
        draw(points, options.plot)


def schedules(preset: Preset) -> dict[str, Schedule]:
    """Return the schedule of every network."""
    return {name: getattr(preset, f"{name}_schedule") for name in NETWORKS}


def settings(preset: Preset, share: float) -> list[str]:
    """Return the settings that shorten every schedule; what counts epochs is shortened in epochs."""
    found = []
    for name, schedule in schedules(preset).items():
        unit = "steps" if schedule.steps else "epochs"
        found += ["--setting", f"{name}_schedule.{unit}={max(1, round(share * getattr(schedule, unit)))}"]
        if schedule.validate_every:
            found += ["--setting", f"{name}_schedule.validate_every={max(1, round(share * schedule.validate_every))}"]
    return found


def measure(options: argparse.Namespace, preset: Preset, share: float) -> dict[str, Any]:
    """Train with a share of the steps and evaluate, or read what an earlier run found."""
    out = options.out / f"{share:g}"
    report = out / "evaluation.json"
    if not report.exists():
        words = ["--preset", preset.name, "--seed", options.seed, "--out", out]
        if not list(out.glob("*.edgead")):
            edge_ad("train", options.data, *words, *settings(preset, share))
        (bundle,) = out.glob("*.edgead")
        exact = ["--precision", "fp32", "--backend", "onnxruntime"]
        edge_ad("evaluate", bundle, options.data, *exact, "--report", out / "report", "--json", report)
    found = json.loads(report.read_text())
    steps = {
        name: max(1, round(share * (schedule.steps or schedule.epochs))) for name, schedule in schedules(preset).items()
    }
    auroc = {name: known(found["branches"][name]) for name in BRANCHES}
    return {"share": share, "steps": steps, "auroc": {"all": known(found["image_auroc"]), **auroc}}


def known(auroc: dict[str, float | None]) -> float | None:
    """Return the mean over the kinds that the test split has."""
    values = [value for kind, value in auroc.items() if kind != "mean" and value is not None]
    return sum(values) / len(values) if values else None


def edge_ad(*words: object) -> None:
    """Run a command of edge-ad; its error is the tool's."""
    done = subprocess.run([sys.executable, "-m", "edge_ad", *map(str, words)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def enough(points: list[dict[str, Any]], name: str) -> float | None:
    """Return the least share of the steps after which an AUROC is ENOUGH of that after all of them."""
    last = points[-1]["auroc"][name]
    return next((point["share"] for point in points if point["auroc"][name] >= ENOUGH * last), None) if last else None


def table(points: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: a row a share, and the share that is enough."""
    names = list(points[0]["auroc"])
    lines = [
        f"| share of the steps | {' / '.join(NETWORKS)} | {' | '.join(names)} |",
        "|--:|--:|" + "--:|" * len(names),
    ]
    for point in points:
        values = [point["auroc"][name] for name in names]
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        lines.append(
            f"| {point['share']:g} | {' / '.join(str(n) for n in point['steps'].values())} | {' | '.join(cells)} |"
        )
    cells = [f"{share:g}" if (share := enough(points, name)) is not None else "" for name in names]
    return [*lines, f"| reaches {ENOUGH:.0%} of the last row at | | {' | '.join(cells)} |"]


def draw(points: list[dict[str, Any]], target: Path) -> None:
    """Draw AUROC against the share of the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in points[0]["auroc"]:
        values = [point["auroc"][name] for point in points]
        if None not in values:
            width = 2.5 if name == "all" else 1.0
            axes.plot([point["share"] for point in points], values, "o-", label=name, linewidth=width)
    axes.set(xscale="log", xlabel="share of the preset's steps", ylabel="AUROC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
