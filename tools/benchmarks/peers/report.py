"""The Markdown tables and the plot of a comparison, from what was measured alone."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

REFERENCE = ("anomalib-efficientad", "onnx")
NAMES = {
    "anomalib-efficientad torch": "anomalib EfficientAD-S, torch",
    "anomalib-efficientad onnx": "anomalib EfficientAD-S, ONNX in onnxruntime",
    "anomalib-patchcore torch": "anomalib PatchCore, Lite0, 1 % coreset, torch",
    "anomavision-padim torch": "anomavision PaDiM, ResNet-18, torch",
    "ours whole": "edge-ad `fast`, all three methods",
    "ours efficientad": "edge-ad EfficientAD (local + global)",
    "ours structure": "edge-ad HVQ-Trans (structure)",
    "ours logic": "edge-ad LAViT (logic)",
    "ours composition": "edge-ad Mahalanobis (composition)",
}
NO_WEIGHTS = ("anomavision-padim",)  # random backbone: its AUROC says nothing


def middle_turns(measures: dict[str, Any]) -> dict[str, Any]:
    """Return turns ``speed-FORM.N`` as one ``speed-FORM``: that of the middle median, with all medians and the largest memory."""
    result: dict[str, Any] = {}
    turns: dict[str, list[dict[str, Any]]] = {}
    for measure, values in measures.items():
        name, dot, _ = measure.partition(".")
        if dot:
            turns.setdefault(name, []).append(values)
        else:
            result[name] = values
    for name, measured in turns.items():
        ordered = sorted(measured, key=lambda values: float(values["latency_ms"]["p50"]))
        result[name] = {
            **ordered[(len(ordered) - 1) // 2],
            "peak_mb": max(values["peak_mb"] for values in measured),
            "p50_turns": [values["latency_ms"]["p50"] for values in ordered],
        }
    return result


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each contender and form that was timed."""
    result = []
    for contender, measures in found.items():
        if not isinstance(measures, dict):
            continue
        for measure, values in measures.items():
            if not measure.startswith("speed-"):
                continue
            form = measure.removeprefix("speed-")
            start = measures.get(f"start-{form}", {}).get("first_score_s")
            result.append(
                {
                    "name": label(contender, form),
                    "key": (contender, form),
                    "auroc": None if contender in NO_WEIGHTS else values.get("auroc"),
                    "p50": values["latency_ms"]["p50"],
                    "turns": values.get("p50_turns", []),
                    "p99": values["latency_ms"]["p99"],
                    "start": start,
                    "peak_mb": values["peak_mb"],
                }
            )
    order = {name: number for number, name in enumerate(NAMES.values())}
    return sorted(
        result, key=lambda row: (order.get(row["name"].rpartition(", ")[0], order.get(row["name"], 99)), row["name"])
    )


def label(contender: str, form: str) -> str:
    """Return how a row is called."""
    part, _, precision = form.rpartition("-")
    if contender == "ours":
        return f"{NAMES[f'ours {part}']}, {precision.upper()}"
    return NAMES.get(f"{contender} {form}", f"{contender} {form}")


def tables(found: dict[str, Any]) -> str:
    """Return everything as Markdown."""
    measured = rows(found)
    by_key = {row["key"]: row for row in measured}
    onnx, torch = by_key.get(REFERENCE), by_key.get((REFERENCE[0], "torch"))
    machine = found["machine"]
    lines = [
        f"{found['data']}, 256 x 256, {machine['cores']} cores of {machine['processor']}, Python {machine['python']}, batch 1.",
        _ours(found),
        "",
        "| contender | AUROC | p50 ms (of all turns) | p99 ms | x anomalib ONNX | x anomalib torch | first score s | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in measured:
        ratios = [f"{other['p50'] / row['p50']:.2f}" if other else "" for other in (onnx, torch)]
        cells = [_number(row["auroc"], 3), f"{row['p50']:.1f}{_spread(row['turns'])}", f"{row['p99']:.1f}", *ratios]
        cells += [_number(row["start"], 2), f"{row['peak_mb']:.0f}"]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_line_table(found), *_training_table(found)]) + "\n"


def _ours(found: dict[str, Any]) -> str:
    learned = found.get("ours", {}).get("learn", {})
    if not learned:
        return "edge-ad: preset `fast`."
    weights = ", ".join(f"{weight:g}" for weight in learned["weights"])
    return (
        f"edge-ad: preset `fast`, R = {learned['masks']} masks, weights {weights} (structure, logic, local, global, "
        f"composition), trained in {learned['train_s'] / 60:.1f} min; INT8 gate {learned['int8_gate']}."
    )


def _line_table(found: dict[str, Any]) -> list[str]:
    lines = [
        f"| `edge-ad run`, {form.upper()} | {values['first_verdict_s']:.2f} | {values['peak_mb']:.0f} |"
        for form in ("fp32", "int8")
        if (values := found.get("ours", {}).get(f"line-{form}"))
    ]
    return ["| the line | first verdict s | peak MB |", "|---|--:|--:|", *lines, ""] if lines else []


def _training_table(found: dict[str, Any]) -> list[str]:
    learned = {name: found.get(name, {}).get("learn") for name in ("anomalib-efficientad", "ours-efficientad")}
    target = best(learned["anomalib-efficientad"])
    lines = [
        "| training of EfficientAD | batch | step ms | ms an image | time s | AUROC at the end | "
        f"s to anomalib's best ({_number(target, 3)}) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, values in learned.items():
        if not values:
            continue
        step, (seconds, _, last) = median(values["steps_ms"]), values["curve"][-1]
        reached = None if target is None else time_to(values["curve"], target)
        title = "anomalib EfficientAD-S" if name.startswith("anomalib") else "edge-ad `fast`"
        lines.append(
            f"| {title} | {values['batch']} | {step:.0f} | {step / values['batch']:.0f} | {seconds:.0f} | {last:.3f} | "
            f"{'not reached' if reached is None else f'{reached:.0f}'} |"
        )
    return lines if len(lines) > 2 else []


def best(learned: dict[str, Any] | None) -> float | None:
    """Return the highest AUROC of a training's course."""
    return max((value for _, _, value in learned["curve"]), default=None) if learned else None


def time_to(curve: list[list[float]], target: float) -> float | None:
    """Return the seconds after which a course first reaches an AUROC, or None."""
    return next((seconds for seconds, _, value in curve if value >= target), None)


def _spread(turns: list[float]) -> str:
    return f" ({turns[0]:.1f} to {turns[-1]:.1f})" if len(turns) > 1 else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plot(found: dict[str, Any], target: Path) -> None:
    """Draw the median latencies, and the AUROC of the two EfficientADs against the seconds of training."""
    from matplotlib.figure import Figure

    measured = [
        row for row in rows(found) if row["key"][0] != "ours" or row["key"][1].startswith(("whole", "efficientad"))
    ]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [row["name"] for row in measured][::-1]
    ours = [row["key"][0] == "ours" for row in measured][::-1]
    left.barh(names, [row["p50"] for row in measured][::-1], color=["#1d4ed8" if own else "#a8a29e" for own in ours])
    left.set(xscale="log", xlim=(1, None), xlabel="milliseconds an image (p50)")
    for name, colour, title in (
        ("anomalib-efficientad", "#a8a29e", "anomalib"),
        ("ours-efficientad", "#1d4ed8", "edge-ad"),
    ):
        curve = found.get(name, {}).get("learn", {}).get("curve", [])
        right.plot([point[0] for point in curve], [point[2] for point in curve], "o-", color=colour, label=title)
    right.set(xscale="log", xlabel="seconds of training", ylabel="AUROC of EfficientAD alone")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)
