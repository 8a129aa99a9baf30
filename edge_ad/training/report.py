"""What a training says of its data, graphs and scores: lines for the terminal, and entries of the bundle's report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import BundleContents
from edge_ad.data.component_anomalies import FAMILIES, family_of
from edge_ad.data.datasets import DataSet
from edge_ad.data.exclusions import entry_of, shown
from edge_ad.data.folders import folders_table
from edge_ad.data.tolerance import Tolerance
from edge_ad.export.graphs import ExportedGraph
from edge_ad.scoring import BRANCHES, Statistics, fuse
from edge_ad.scoring.auroc import auroc

Log = Callable[[str], None]


def log_dataset(dataset: DataSet, preset: str, log: Log) -> None:
    """Say how the normal images are divided, from which folders they come, and what is unusual about them."""
    normal = dataset.normal
    log(
        f"{dataset.name}: {len(normal.fit)} normal images to learn, {len(normal.normalise)} to stop by and "
        f"{len(normal.threshold)} more to normalise and for the thresholds ({dataset.layout} layout), preset {preset}"
    )
    log(f"images in {dataset.root}:\n{folders_table(dataset.folders)}")
    if dataset.excluded:
        log(f"{len(dataset.excluded)} normal images are excluded, {shown(dataset.excluded[0].name)} the first")
    if dataset.bits < 16:
        log(
            f"no value of the 16-bit images is above {(1 << dataset.bits) - 1}: they are read as {dataset.bits} "
            f"bits, and so will evaluate and run read the 16-bit images of this product"
        )
    if len(dataset.sizes) > 1:
        mixed = ", ".join(f"{count} of {size}" for size, count in dataset.sizes.items())
        log(f"images have several sizes and are all resized to one: {mixed}")


def dataset_report(dataset: DataSet, seed: int, changed: Sequence[str]) -> dict[str, Any]:
    """Return what the bundle's report says of the data, with the ``seed`` and the settings ``changed`` by the user."""
    normal = dataset.normal
    return {
        "layout": dataset.layout,
        "image_bits": dataset.bits,
        "folders": [vars(use) for use in dataset.folders],
        "goods": {"fit": len(normal.fit), "normalise": len(normal.normalise), "threshold": len(normal.threshold)},
        "sizes": dict(dataset.sizes),
        "skipped": [[path.name, reason] for path, reason in dataset.skipped],
        "excluded": [shown(entry_of(path, dataset.root)) for path in dataset.excluded],
        "seed": seed,
        "changed": list(changed),
    }


def codebooks_message(codebooks: Mapping[str, Mapping[str, float | int]], codes: int) -> str:
    """Return one line on how normal images use the ``codes`` of each level."""
    levels = "; ".join(
        f"{level}: perplexity {use['perplexity']:g}, {use['unused']} unused, {use['revived']} revived"
        for level, use in codebooks.items()
    )
    return f"codebooks of {codes} codes, by level: {levels}"


def export_report(graphs: Sequence[ExportedGraph]) -> dict[str, dict[str, float]]:
    """Return the errors of the exported graphs against torch."""
    return {
        graph.name: {"relative_error": graph.relative_error, "absolute_error": graph.absolute_error} for graph in graphs
    }


def log_export(graphs: Sequence[ExportedGraph], log: Log) -> None:
    """Say the size and the error of every exported graph."""
    for graph in graphs:
        log(
            f"  {graph.name:<15} {len(graph.model) / 2**20:6.1f} MiB, max abs error {graph.absolute_error:.1e}, "
            f"{graph.relative_error:.1e} of its range"
        )


def family_report(
    normal: NDArray[np.float32], anomalies: NDArray[np.float32], kinds: Sequence[str], statistics: Statistics
) -> dict[str, dict[str, Any]]:
    """Return, by family of synthetic anomaly, its kinds, how many there are, and the mean over kinds of the AUROC of each branch
    and of the score.
    """
    columns = {**dict(zip(BRANCHES, normal.T, strict=True)), "score": fuse(normal, statistics)[1]}
    shown = {**dict(zip(BRANCHES, anomalies.T, strict=True)), "score": fuse(anomalies, statistics)[1]}
    names, result = np.asarray(kinds), dict[str, dict[str, Any]]()
    for family in FAMILIES:
        own = [kind for kind in dict.fromkeys(kinds) if family_of(kind) == family]
        if own:
            values = {
                name: [auroc(columns[name], shown[name][names == kind]) or 0.0 for kind in own] for name in columns
            }
            means = {name: round(float(np.mean(value)), 4) for name, value in values.items()}
            result[family] = {"kinds": len(own), "anomalies": int(np.isin(names, own).sum()), "auroc": means}
    return result


def log_families(report: Mapping[str, Any], log: Log) -> None:
    """Say how each branch and the score tell each family of synthetic anomaly; nothing where there is one alone."""
    if len(report) < 2:
        return
    log("AUROC by family of synthetic anomaly, faint ones included; the families weigh equally")
    for family, row in report.items():
        log(f"  {family:<12} {row['anomalies']:4d}  " + "  ".join(f"{name} {value:.3f}" for name, value in row["auroc"].items()))


def log_scores(contents: BundleContents, log: Log) -> None:
    """Say weight and AUROC of each branch, and what the thresholds promise."""
    log("branch        weight  AUROC on unseen normal images and synthetic anomalies, and on faded ones")
    for branch, row in contents.report["branches"].items():
        values = ("    -" if row[key] is None else f"{row[key]:.3f}" for key in ("auroc_synthetic", "auroc_faded"))
        log(f"  {branch:<12} {row['weight']:5.2f}  {'  '.join(values)}")
    log_families(contents.report.get("families", {}), log)
    log(contents.thresholds.describe())
    if "tolerance" in contents.report:
        log_tolerance(contents.report["tolerance"], log)


HOPELESS = 0.1  # of the faint anomalies: an axis whose threshold loses more is a matter of image quality


def log_tolerance(report: Mapping[str, Any], log: Log) -> None:
    """Say what each axis of a tolerance costs in recall on faint synthetic anomalies, and which no threshold can mend."""
    recall = report["none"]["recall"]
    heads = "  ".join(f"at {float(share):.0%}" for share in recall)
    log(f"tolerance ({report['images']} unseen images in {report['versions']} versions): NG threshold, recall of anomalies {heads}")
    log(f"  {'none':<9} {report['none']['ng']:7.3f}  " + "  ".join(f"{value:6.1%}" for value in recall.values()))
    for axis, row in [*report["axes"].items(), ("all", report["all"])]:
        lost = "  ".join(f"{-value:+6.1%}" for value in row["recall_lost"].values())
        log(f"  {axis:<9} {row['ng']:7.3f}  {lost}")
    lost_most = {axis: max(row["recall_lost"].values(), default=0.0) for axis, row in report["axes"].items() if axis != "random"}
    dear = [axis for axis, lost_share in lost_most.items() if lost_share > HOPELESS]
    if dear:
        narrowed = replace(Tolerance(**report["limits"]), **{dear[0]: 0.0})
        log(
            f"no threshold mends {', '.join(dear)}: at its limit it looks like a faint defect; keep it steadier on the line, "
            f"or narrow the tolerance, such as --tolerance {narrowed.option}"
        )
    if report["unseen"]:
        log(
            f"  {', '.join(report['unseen'])} frames are not told apart: normal images differ as much by themselves, so beyond the "
            f"tolerance such frames are judged too"
        )
    if report["unlocated"]:
        log(f"  in {report['unlocated']} disturbed images the part was not located; they count as undisturbed")
