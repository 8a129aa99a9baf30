"""The report of an evaluation: one HTML page that carries its images in itself.

The figures of a test set as plain text tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.data.folders import FolderUse, folders_table
from edge_ad.evaluation.figures import ANOMALIES, KINDS, TestScores, z_scores
from edge_ad.evaluation.plots import beside, heat_range, histogram, roc_plot
from edge_ad.scoring import BRANCHES, Statistics, Thresholds
from edge_ad.utils.files import atomic_write


def figures_table(figures: dict[str, Any]) -> str:
    """Return the text that `edge-ad evaluate` prints for one test set."""
    images = figures["images"]
    kinds = ("logical", "structural", "mean")
    rows: list[list[str]] = [["AUROC", *kinds, "weight"]]
    rows.append(["all branches", *_cells(figures["image_auroc"], kinds), ""])
    rows += [[name.replace("_", " "), *_cells(values, kinds), ""] for name, values in figures["subsets"].items()]
    for branch, values in figures["branches"].items():
        rows.append([f"  {branch}", *_cells(values, kinds), f"{figures['weights'][branch]:.2f}"])
    rows += [[f"  without {branch}", *_cells(values, kinds), ""] for branch, values in figures["without"].items()]
    rows.append(["recall at 1 % false rejects", *_cells(figures["recall_at_1_percent"], kinds), ""])
    rows.append(["logic map inside defects, times chance", *_cells(figures["logic_map"], kinds), ""])
    message = ", ".join(f"{count} {kind}" for kind, count in images.items())
    lines = [
        f"{figures['bundle']['name']} on {figures['data']}: {message}; {figures['backend']} {figures['precision']}",
        folders_table([FolderUse(**use) for use in figures["folders"]]),
        "",
        *_why_empty(images),
    ]
    lines += [_aligned(rows), ""]
    if any(value is not None for values in figures["au_spro"].values() for value in values.values()):
        spro = [["AU-sPRO at", *kinds]]
        spro += [[f"  FPR {limit}", *_cells(values, kinds)] for limit, values in figures["au_spro"].items()]
        lines += [_aligned(spro), ""]
    if figures["drift"]:
        lines += [_aligned(drift_rows(figures["drift"])), ""]
    return "\n".join(lines + describe_counts(figures))


def _why_empty(images: dict[str, int]) -> list[str]:
    """Say why there is no AUROC: it compares normal images with anomalies, and one of them is missing."""
    normal, anomalies = images["good"], sum(count for kind, count in images.items() if kind != "good")
    if normal and anomalies:
        return []
    lacks = "anomalies: put them into test/<name of the defect>" if normal else "normal images: put them into test/good"
    return [f"no AUROC, because the set has no {lacks}", ""]


def drift_rows(drift: dict[str, Any]) -> list[list[str]]:
    """Return a head and one row a disturbance: change of the score, of z by branch, and normal images then NG."""
    branches = list(next(iter(drift.values()))["z"])
    rows = [["normal images when disturbed", "score", *branches, "NG", "before"]]
    for name, values in drift.items():
        changes = [values["score"], *values["z"].values()]
        messages = ["-" if value is None else f"{value:+.2f}" for value in changes]
        rows.append([name, *messages, f"{values['count']} of {values['of']}", str(values["before"]["count"])])
    return rows


def describe_counts(figures: dict[str, Any]) -> list[str]:
    """Return sentences that tell rejected normal images and found anomalies in counts."""
    rejects, thresholds = figures["false_reject"], figures["thresholds"]
    messages = [
        f"normal images: {rejects['count']} of {rejects['of']} NG (above {thresholds['ng']:.3g}), "
        f"{rejects['warn_count']} of {rejects['of']} NG or WARN (above {thresholds['warn']:.3g})"
    ]
    for kind, result in figures["found"].items():
        if result is not None:
            messages.append(
                f"{kind} anomalies: {result['count']} of {result['of']} NG, "
                f"{result['warn_count']} of {result['of']} NG or WARN"
            )
    if sum(figures["unlocated"].values()):
        missing = ", ".join(f"{count} of {figures['images'][kind]} {kind}" for kind, count in figures["unlocated"].items() if count)
        messages.append(f"parts not located: {missing}; none of them passes, so they count as NG and as the highest score")
    if suspects := figures["suspect_masks"]:
        messages.append(
            f"masks that look inverted (they mark more than half, and the map is lower there): {len(suspects)}, the first "
            f"{suspects[0]}; a mask must be above 0 on the defect and 0 elsewhere"
        )
    return messages


def categories_table(each: dict[str, Any]) -> str:
    """Return the text that `edge-ad evaluate RUNS ROOT` prints: one line a category, and the means."""
    rows = [["category", "logical", "structural", "mean", "without composition", "AU-sPRO 0.05", "normal images NG"]]
    for name, figures in [*each["categories"].items(), ("mean", each["mean"])]:
        rejects = figures["false_reject"]
        rows.append(
            [
                name,
                *_cells(figures["image_auroc"], ("logical", "structural", "mean")),
                *_cells(figures["auroc_without_composition"], ("mean",)),
                *_cells(figures["au_spro"]["0.05"], ("mean",)),
                f"{rejects['count']} of {rejects['of']}",
            ]
        )
    return _aligned(rows)


def _cells(values: dict[str, float | None], keys: Sequence[str]) -> list[str]:
    return [number(values.get(key)) for key in keys]


def number(value: float | None) -> str:
    """Return a figure with three decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


SHOWN = 8
"""Images in each gallery."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c1917; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .9rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid #e7e5e4; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; } img { max-width: 100%; }
figure { margin: 0; } figcaption { font-size: .85rem; max-width: 38rem; } .note { color: #57534e; }
"""


def write_report(
    path: Path,
    figures: dict[str, Any],
    scores: TestScores,
    statistics: Statistics,
    *,
    thresholds: Thresholds,
    name: str,
) -> None:
    """Write the page for ``figures`` (as evaluate returns them) of the test set ``name`` to ``path``."""
    z = z_scores(scores, statistics)
    by_kind: dict[str, Any] = {kind: scores.score[scores.of(kind)] for kind in KINDS}
    bundle = figures["bundle"]
    parts = [
        f"<h1>{escape(bundle['name'])} on {escape(name)}</h1>",
        f"<p class=note>Preset {escape(bundle['preset'])}, "
        f"{escape(figures['backend'])} {escape(figures['precision'])}; "
        f"bundle {escape(bundle['path'])}, sha256 {escape(bundle['sha256'][:16])}; "
        + ", ".join(f"{count} {kind}" for kind, count in figures["images"].items())
        + ".</p>",
        "".join(f"<p>{escape(sentence)}.</p>" for sentence in describe_counts(figures)),
        f"<p class=note>What the thresholds promise: {escape(thresholds.describe())}.</p>",
        "<h2>Image AUROC</h2>" + _auroc_table(figures),
        "<p class=note>In brackets: 95 % bootstrap interval over images. Mean: of logical and structural.</p>",
        f'<div class=row><img alt="ROC curves" src="{roc_plot(by_kind)}">'
        f'<img alt="Scores by kind" src="{histogram(by_kind, thresholds)}"></div>',
        _spro_section(figures),
        "<h2>Branches</h2>" + _branch_table(figures) + _without_table(figures) + _branch_plots(scores, z),
        _drift_section(figures),
        _galleries(scores, z, statistics, thresholds),
    ]
    title = escape(f"{bundle['name']} on {name}")
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    atomic_write(path, page + "\n".join(parts) + "</html>\n")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _auroc_table(figures: dict[str, Any]) -> str:
    confidence = figures["confidence"]
    rows = [_with_interval("all branches", figures["image_auroc"], confidence["image_auroc"])]
    for name, values in figures["subsets"].items():
        known = confidence["auroc_without_composition"] if name == "without_composition" else {}
        rows.append(_with_interval(name.replace("_", " "), values, known))
    rows.append(_with_interval("recall at 1 % false rejects", figures["recall_at_1_percent"], {}))
    return _table(["", *ANOMALIES, "mean"], rows)


def _with_interval(name: str, values: dict[str, float | None], intervals: dict[str, Any]) -> list[str]:
    cells = [name]
    for kind in ANOMALIES:
        interval = intervals.get(kind)
        message = f" [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else ""
        cells.append(number(values[kind]) + message)
    return [*cells, number(values["mean"])]


def _branch_table(figures: dict[str, Any]) -> str:
    rows = [
        [branch, *(number(values[kind]) for kind in ANOMALIES), f"{figures['weights'][branch]:.2f}"]
        for branch, values in figures["branches"].items()
    ]
    return _table(["AUROC of each branch", *ANOMALIES, "weight"], rows)


def _without_table(figures: dict[str, Any]) -> str:
    rows = [
        [f"without {branch}", *(number(values[key]) for key in (*ANOMALIES, "mean"))]
        for branch, values in figures["without"].items()
    ]
    return _table(["AUROC of the fusion lacking one branch", *ANOMALIES, "mean"], rows)


def _drift_section(figures: dict[str, Any]) -> str:
    if not figures["drift"]:
        return ""
    head, *rows = drift_rows(figures["drift"])
    note = (
        "<p class=note>Mean change of the score, and of z by branch, when normal images are disturbed; NG then and before.</p>"
    )
    return "<h2>Drift</h2>" + note + _table(head, rows)


def _spro_section(figures: dict[str, Any]) -> str:
    if all(value is None for values in figures["au_spro"].values() for value in values.values()):
        return "<h2>AU-sPRO</h2><p>This set has no masks, so where the maps point was not measured.</p>"
    rows = [
        [limit, *(number(values[key]) for key in (*ANOMALIES, "mean"))] for limit, values in figures["au_spro"].items()
    ]
    logic = ["times chance", *(number(figures["logic_map"][key]) for key in (*ANOMALIES, "mean"))]
    table = _table(["up to a false positive rate of", *ANOMALIES, "mean"], rows)
    return "<h2>AU-sPRO</h2>" + table + _table(["mass of the logic map inside defects", *ANOMALIES, "mean"], [logic])


def _branch_plots(scores: TestScores, z: Any) -> str:
    plots = []
    for index, branch in enumerate(BRANCHES[: z.shape[1]]):
        values: dict[str, Any] = {kind: z[scores.of(kind), index] for kind in KINDS}
        plots.append(f'<img alt="z of {branch}" src="{histogram(values, title=f"z of {branch}")}">')
    return "<div class=row>" + "".join(plots) + "</div>"


def _galleries(scores: TestScores, z: Any, statistics: Statistics, thresholds: Thresholds) -> str:
    order = np.argsort(scores.score, kind="stable")
    good = np.array([item.kind == "good" for item in scores.items])
    verdicts = [scores.verdict(index, thresholds) for index in range(len(scores.items))]
    missed = [int(i) for i in order if not good[i] and verdicts[i] != "NG"]
    alarms = [int(i) for i in order[::-1] if good[i] and verdicts[i] != "OK"]
    caught = [int(i) for i in order[::-1] if not good[i] and verdicts[i] == "NG"]
    sections = (
        ("Worst misses", "Anomalies that are not NG, the least suspicious first.", missed),
        ("Worst false alarms", "Normal images that are NG or WARN, the most suspicious first.", alarms),
        ("Found anomalies", "Spread evenly from the highest score down.", _spread(caught)),
        ("Goods", "The least suspicious first.", [int(i) for i in order if good[i]][:2]),
    )
    limits = heat_range([one for index, one in enumerate(scores.maps) if index not in scores.unlocated] or scores.maps)
    html = []
    for title, note, indices in sections:
        shown = "".join(_figure(scores, z, statistics, thresholds, limits=limits, index=index) for index in indices[:SHOWN])
        count = f" ({len(indices)}, {SHOWN} shown)" if len(indices) > SHOWN else ""
        html.append(f"<h2>{title}{count}</h2><p class=note>{note}</p><div class=row>{shown or '<p>None.</p>'}</div>")
    return "".join(html)


def _spread(indices: list[int]) -> list[int]:
    positions = np.unique(np.linspace(0, len(indices) - 1, min(SHOWN, len(indices))).round().astype(int))
    return [indices[position] for position in positions]


def _figure(
    scores: TestScores,
    z: Any,
    statistics: Statistics,
    thresholds: Thresholds,
    *,
    limits: tuple[float, float],
    index: int,
) -> str:
    item, score = scores.items[index], float(scores.score[index])
    parts = ", ".join(f"{branch} {z[index, k]:+.1f}" for k, branch in enumerate(statistics.branches) if statistics.weight[k] > 0)
    missing = scores.unlocated.get(index)
    verdict = f"NONE, not located: {missing}" if missing else f"{scores.verdict(index, thresholds)}, score {score:.2f} ({parts})"
    caption = f"{item.defect}/{item.path.name}: {verdict}"
    pixels = beside(item, scores.maps[index], limits, scores.transform(index), roi=scores.roi)
    image = f'<img alt="{escape(item.path.name)}" src="{pixels}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
