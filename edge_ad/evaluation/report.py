"""The report of an evaluation: one HTML page that carries its pictures in itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.evaluation.figures import ANOMALIES, KINDS
from edge_ad.evaluation.pictures import beside, heat_range, histogram, roc_plot
from edge_ad.evaluation.scores import TestScores
from edge_ad.evaluation.tables import counts_told, drift_rows, number
from edge_ad.files import atomic_write
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse

SHOWN = 8
"""Pictures in each gallery."""

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
    thresholds: Thresholds,
    name: str,
) -> None:
    """Write the page for ``figures`` (as evaluate returns them) of the test set ``name`` to ``path``."""
    z, _ = fuse(scores.raw, statistics)
    by_kind: dict[str, Any] = {kind: scores.score[scores.of(kind)] for kind in KINDS}
    bundle = figures["bundle"]
    parts = [
        f"<h1>{escape(bundle['name'])} on {escape(name)}</h1>",
        f"<p class=note>Preset {escape(bundle['preset'])}, "
        f"{escape(figures['backend'])} {escape(figures['precision'])}; "
        f"bundle {escape(bundle['path'])}, sha256 {escape(bundle['sha256'][:16])}; "
        + ", ".join(f"{count} {kind}" for kind, count in figures["images"].items())
        + ".</p>",
        "".join(f"<p>{escape(sentence)}.</p>" for sentence in counts_told(figures)),
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
        told = f" [{interval['low']:.3f}, {interval['high']:.3f}]" if interval else ""
        cells.append(number(values[kind]) + told)
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
        "<p class=note>Mean change of the score, and of z by branch, when goods are disturbed; NG then and before.</p>"
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
    for index, branch in enumerate(BRANCHES):
        values: dict[str, Any] = {kind: z[scores.of(kind), index] for kind in KINDS}
        plots.append(f'<img alt="z of {branch}" src="{histogram(values, title=f"z of {branch}")}">')
    return "<div class=row>" + "".join(plots) + "</div>"


def _galleries(scores: TestScores, z: Any, statistics: Statistics, thresholds: Thresholds) -> str:
    order = np.argsort(scores.score, kind="stable")
    good = np.array([item.kind == "good" for item in scores.items])
    missed = [int(i) for i in order if not good[i] and scores.score[i] <= thresholds.ng]
    alarms = [int(i) for i in order[::-1] if good[i] and scores.score[i] > thresholds.warn]
    caught = [int(i) for i in order[::-1] if not good[i] and scores.score[i] > thresholds.ng]
    sections = (
        ("Worst misses", "Anomalies that are not NG, the least suspicious first.", missed),
        ("Worst false alarms", "Goods that are NG or WARN, the most suspicious first.", alarms),
        ("Found anomalies", "Spread evenly from the highest score down.", _spread(caught)),
        ("Goods", "The least suspicious first.", [int(i) for i in order if good[i]][:2]),
    )
    limits = heat_range(scores.maps)
    html = []
    for title, note, indices in sections:
        shown = "".join(_figure(scores, z, statistics, thresholds, limits, index) for index in indices[:SHOWN])
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
    limits: tuple[float, float],
    index: int,
) -> str:
    item, score = scores.items[index], float(scores.score[index])
    parts = ", ".join(f"{branch} {z[index, k]:+.1f}" for k, branch in enumerate(BRANCHES) if statistics.weight[k] > 0)
    caption = f"{item.defect}/{item.path.name}: {thresholds.verdict(score)}, score {score:.2f} ({parts})"
    picture = beside(item, scores.maps[index], limits)
    image = f'<img alt="{escape(item.path.name)}" src="{picture}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
