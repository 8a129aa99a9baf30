"""The plan of a bundle for a person: a file to edit, a table of loss against cost, and a plot of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from edge_ad.bundle import open_bundle
from edge_ad.errors import BadInput, require
from edge_ad.files import atomic_write

_HEADER = ("graph", "first_node", "nodes", "macs", "loss_z", "flips", "kept")


def require_plots() -> None:
    """Raise BadInput before minutes of work when matplotlib is missing."""
    require("matplotlib", extra="train", needed_by="edge-ad calibrate --table")


def write_report(folder: Path, bundle_path: Path) -> Path:
    """Write plan.json, and by dialect sensitivity-<dialect>.csv and .png, of a calibrated bundle; return ``folder``."""
    bundle = open_bundle(bundle_path)
    if bundle.quantisation is None:
        raise BadInput(f"{bundle_path} holds no plan: run `edge-ad calibrate {bundle_path} GOODS` first")
    plan = bundle.quantisation.plan
    atomic_write(folder / "plan.json", json.dumps(plan, indent=1) + "\n")
    for dialect, found in plan.get("sensitivity", {}).items():
        atomic_write(folder / f"sensitivity-{dialect}.csv", table(found["units"]))
        atomic_write(folder / f"sensitivity-{dialect}.png", plot(found["units"], dialect))
    return folder


def table(units: list[dict[str, Any]]) -> str:
    """Return units as CSV, those most worth keeping in floating point first."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_HEADER)
    for unit in units:
        nodes = unit["nodes"]
        writer.writerow(
            [unit["graph"], nodes[0], len(nodes), unit["macs"], unit["loss_z"], unit["flips"], unit["kept"]]
        )
    return stream.getvalue()


def plot(units: list[dict[str, Any]], title: str) -> bytes:
    """Return a PNG: for each unit the loss in z of quantising it alone, against the multiplications it takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kept, marker, label in ((True, "s", "stays in floating point"), (False, "o", "8 bits")):
        chosen = [unit for unit in units if unit["kept"] is kept and unit["loss_z"] is not None]
        x, y = [max(unit["macs"], 1) / 1e6 for unit in chosen], [max(unit["loss_z"], 1e-5) for unit in chosen]
        axes.scatter(x, y, marker=marker, label=label, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="million multiplications", ylabel="score error alone, z", title=title)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
