"""The figures of a test set as plain text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_ad.data.folders import FolderUse, folders_table


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
    told = ", ".join(f"{count} {kind}" for kind, count in images.items())
    lines = [
        f"{figures['bundle']['name']} on {figures['data']}: {told}; {figures['backend']} {figures['precision']}",
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
    return "\n".join(lines + counts_told(figures))


def _why_empty(images: dict[str, int]) -> list[str]:
    """Say why there is no AUROC: it compares normal images with anomalies, and one of them is missing."""
    normal, anomalies = images["good"], sum(count for kind, count in images.items() if kind != "good")
    if normal and anomalies:
        return []
    lacks = "anomalies: put them into test/<name of the defect>" if normal else "normal images: put them into test/good"
    return [f"no AUROC, because the set has no {lacks}", ""]


def drift_rows(drift: dict[str, Any]) -> list[list[str]]:
    """Return a head and one row a disturbance: change of the score, of z by branch, and goods then NG."""
    branches = list(next(iter(drift.values()))["z"])
    rows = [["goods when disturbed", "score", *branches, "NG", "before"]]
    for name, values in drift.items():
        changes = [values["score"], *values["z"].values()]
        told = ["-" if value is None else f"{value:+.2f}" for value in changes]
        rows.append([name, *told, f"{values['count']} of {values['of']}", str(values["before"]["count"])])
    return rows


def counts_told(figures: dict[str, Any]) -> list[str]:
    """Return sentences that tell rejected goods and found anomalies in counts."""
    goods, thresholds = figures["false_reject"], figures["thresholds"]
    told = [
        f"goods: {goods['count']} of {goods['of']} NG (above {thresholds['ng']:.3g}), "
        f"{goods['warn_count']} of {goods['of']} NG or WARN (above {thresholds['warn']:.3g})"
    ]
    for kind, found in figures["found"].items():
        if found is not None:
            told.append(
                f"{kind} anomalies: {found['count']} of {found['of']} NG, "
                f"{found['warn_count']} of {found['of']} NG or WARN"
            )
    if suspects := figures["suspect_masks"]:
        told.append(
            f"masks that look inverted (they mark more than half, and the map is lower there): {len(suspects)}, the first "
            f"{suspects[0]}; a mask must be above 0 on the defect and 0 elsewhere"
        )
    return told


def categories_table(each: dict[str, Any]) -> str:
    """Return the text that `edge-ad evaluate RUNS ROOT` prints: one line a category, and the means."""
    rows = [["category", "logical", "structural", "mean", "without composition", "AU-sPRO 0.05", "goods NG"]]
    for name, figures in [*each["categories"].items(), ("mean", each["mean"])]:
        goods = figures["false_reject"]
        rows.append(
            [
                name,
                *_cells(figures["image_auroc"], ("logical", "structural", "mean")),
                *_cells(figures["auroc_without_composition"], ("mean",)),
                *_cells(figures["au_spro"]["0.05"], ("mean",)),
                f"{goods['count']} of {goods['of']}",
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
