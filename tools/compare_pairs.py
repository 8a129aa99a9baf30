"""Compare student-teacher pairs: AUROC of local + global against multiply-accumulates and CPU latency, on real sets.

    python tools/compare_pairs.py train DATA... --out DIR [--pair NAME...] [--seed 0]
    python tools/compare_pairs.py table DIR [--reference full] [--plot pairs.png]

`train` learns every pair on every set with the product's own recipe and keeps the scores of the test split under
DIR/<set>/<pair>/; a finished one is skipped and an unfinished one goes on. `table` prints the figures with paired bootstrap
intervals against the reference and draws the Pareto plot.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edge_ad.data.layouts import load_dataset
from edge_ad.evaluation.auroc import auroc
from edge_ad.evaluation.bootstrap import auroc_difference, auroc_interval
from edge_ad.models.build import AnyTeacher, build_efficientad, build_teacher
from edge_ad.models.settings import TeacherSettings
from edge_ad.models.summary import count
from edge_ad.models.teachers import PdnTeacher
from edge_ad.presets import FAST, Preset, with_teacher
from edge_ad.training.augment import to_pixels
from edge_ad.training.device import Arithmetic, choose_arithmetic
from edge_ad.training.efficientad_recipe import EfficientADRecipe
from edge_ad.training.loop import fit
from edge_ad.training.pictures import Images, Pictures, load_pictures, read_all
from edge_ad.training.progress import Progress
from edge_ad.training.run_folder import RunFolder, fingerprint
from edge_ad.training.teacher import load_teacher, measure_channels

Floats = NDArray[np.float64]
TIMED = 60
CHUNK = 8


def _student(width: int) -> Preset:
    return replace(FAST, efficientad=replace(FAST.efficientad, student_width=width))


def _full() -> Preset:
    """EfficientAD-S as published, both networks 33-pixel PDNs on 56 x 56 cells, on a CPU's budget: batches of 2."""
    teacher = TeacherSettings(
        kind="pdn_small", taps=(), pooled_taps=(), regions=0, grid=56, token_grid=24, token_side=224
    )
    settings = replace(FAST.efficientad, student="pdn_small", decoder_sizes=(), hard_quantile=0.999)
    schedule = replace(FAST.efficientad_schedule, batch=2, rate=5e-4)
    return replace(FAST, teacher=teacher, efficientad=settings, efficientad_schedule=schedule)


class HalfPdn(PdnTeacher):
    """PDN-S on a picture of half the side: a quarter of the work, and a field of 66 pixels."""

    def raw(self, pixels: Tensor) -> Tensor:
        """Return un-normalised features f32 (B, 384, 32, 32) for 256 pixels."""
        out: Tensor = self.pdn(self.image(F.avg_pool2d(pixels, 2)))
        return out


PAIRS: dict[str, Callable[[], Preset]] = {
    "full": _full,
    "half pdn + compact": lambda: with_teacher(FAST, "pdn_small"),
    "pdn + compact": lambda: with_teacher(FAST, "pdn_small"),
    "lite0 + compact": lambda: FAST,
    "lite0 + compact 64": lambda: _student(64),
    "lite0 + compact 256": lambda: _student(256),
    "lite0 shallow + compact": lambda: replace(FAST, teacher=replace(FAST.teacher, taps=(2, 4))),
}


def main() -> None:
    """Read the command line and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="learn the pairs and keep their scores")
    train.add_argument("data", type=Path, nargs="+")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--pair", choices=list(PAIRS), nargs="+", default=list(PAIRS))
    train.add_argument("--seed", type=int, default=0)
    table = commands.add_parser("table", help="print figures and draw the plot")
    table.add_argument("out", type=Path)
    table.add_argument("--reference", choices=list(PAIRS), default="full")
    table.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.command == "train":
        for data in options.data:
            for pair in options.pair:
                learn(data, pair, options.out / data.name / pair.replace(" ", "_"), options.seed)
    else:
        tell(options.out, options.reference, options.plot)


def learn(data: Path, pair: str, out: Path, seed: int) -> None:
    """Train one pair on the goods of one set and write its scores and costs, unless they are there."""
    if (out / "scores.npz").exists():
        return
    preset, arithmetic, progress = PAIRS[pair](), choose_arithmetic(True), Progress()
    progress.say(f"{data.name}: {pair}")
    dataset = load_dataset(data, seed)
    pictures = load_pictures(dataset, preset.image_side, preset.anomalies, seed)
    teacher = _half(pair, load_teacher(preset, None, arithmetic.device))
    measure_channels(teacher, pictures.fit, arithmetic.device)
    torch.manual_seed(seed)
    model = build_efficientad(preset, teacher.channels)
    recipe = EfficientADRecipe(model, teacher, preset, pictures.fit, pictures.normalise, None, arithmetic)
    folder = RunFolder(out)
    folder.begin(fingerprint({"pair": pair, "settings": preset.settings(), "seed": seed, "data": str(data)}))
    began = time.monotonic()
    trace = fit(recipe, recipe.schedule.steps_for(len(pictures.fit)), folder, seed, progress)
    seconds = time.monotonic() - began
    model.eval()
    test = {
        kind: [item.path for item in dataset.test if item.kind == kind] for kind in ("good", "logical", "structural")
    }
    images: dict[str, Images] = {kind: read_all(paths, preset.image_side) for kind, paths in test.items() if paths}
    scores = score_all(recipe, preset, pictures, images, arithmetic)
    image = to_pixels(pictures.fit[:1], arithmetic.device)
    facts = {
        "pair": pair,
        "teacher_gmac": count(teacher, image)["gmac"],
        "student_gmac": count(model.student, image)["gmac"],
        "autoencoder_gmac": count(model.autoencoder, image)["gmac"],
        "steps": trace.steps,
        "kept_step": trace.best_step,
        "batch": preset.efficientad_schedule.batch,
        "seconds": round(seconds, 1),
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    np.savez(out / "scores.npz", **scores)
    folder.finish()


def score_all(
    recipe: EfficientADRecipe, preset: Preset, pictures: Pictures, images: dict[str, Images], arithmetic: Arithmetic
) -> dict[str, Any]:
    """Return local + global scores by kind, each normalised by unseen goods; also of goods and synthetic anomalies."""
    goods = raw_scores(recipe, preset, pictures.normalise, arithmetic)
    mean, std = goods.mean(axis=0), goods.std(axis=0)
    found = {
        "unseen": goods,
        "threshold": raw_scores(recipe, preset, pictures.threshold, arithmetic),
        "synthetic": raw_scores(recipe, preset, pictures.anomalies, arithmetic),
        **{kind: raw_scores(recipe, preset, batch, arithmetic) for kind, batch in images.items()},
    }
    return {kind: ((raw - mean) / std).mean(axis=1) for kind, raw in found.items()}


def raw_scores(recipe: EfficientADRecipe, preset: Preset, images: Images, arithmetic: Arithmetic) -> Floats:
    """Return f64 [N, 2]: the mean of the highest cells of the local and the global map, as the fusion graph takes them."""
    rows = []
    with torch.no_grad():
        for start in range(0, len(images), CHUNK):
            pixels = to_pixels(images[start : start + CHUNK], arithmetic.device)
            maps = recipe.model(pixels, recipe.teacher(pixels).features)
            # One per cent of the cells, whatever the grid.
            top = max(preset.fusion.top, maps[0].shape[-1] ** 2 // 100)
            rows.append(torch.stack([one.flatten(1).topk(top).values.mean(dim=1) for one in maps], dim=1))
    return np.asarray(torch.cat(rows).double().cpu().numpy())


def latency(pair: str) -> float:
    """Return the median milliseconds of teacher, student and autoencoder for one picture, as exported, on this CPU.

    Weights do not matter for it, so they are random.
    """
    import onnxruntime

    from edge_ad.export.graphs import EfficientADGraph, TeacherGraph
    from edge_ad.export.onnx_export import export_graph

    preset = PAIRS[pair]()
    image = np.random.default_rng(0).integers(0, 256, (1, preset.image_side, preset.image_side, 3), dtype=np.uint8)
    picture, outputs = torch.from_numpy(image), ("features", "tokens", "pooled")
    torch.manual_seed(0)
    teacher = _half(pair, build_teacher(preset)).eval()
    graph, model = TeacherGraph(teacher, outputs), build_efficientad(preset, teacher.channels).eval()
    with torch.no_grad():
        features = graph(picture)[0]
    maps = ("map_local", "map_global")
    graphs = (
        export_graph("teacher", graph, (picture,), ("image",), outputs),
        export_graph("efficientad", EfficientADGraph(model), (picture, features), ("image", "features"), maps),
    )
    sessions = [onnxruntime.InferenceSession(one.model, providers=["CPUExecutionProvider"]) for one in graphs]
    feeds: list[dict[str, Any]] = [{"image": image}, {"image": image, "features": features.numpy()}]
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        for session, feed in zip(sessions, feeds, strict=True):
            session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


def _half(pair: str, teacher: AnyTeacher) -> AnyTeacher:
    if pair.startswith("half"):
        teacher.__class__ = HalfPdn
    return teacher


def tell(out: Path, reference: str, plot: Path | None) -> None:
    """Print one Markdown table a set, with latencies taken now, and if asked draw AUROC against GMAC."""
    times = {name: latency(name) for name in PAIRS if any(_load(at / name.replace(" ", "_")) for at in out.iterdir())}
    points: dict[str, list[tuple[str, float, float]]] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        found = {name: _load(folder / name.replace(" ", "_")) for name in PAIRS}
        known = {name: entry for name, entry in found.items() if entry is not None}
        kind = next(
            (kind for kind in ("logical", "structural") if any(kind in scores for _, scores in known.values())), ""
        )
        if not known:
            continue
        print(f"\n{folder.name}, {kind}\n")
        print(
            f"| pair | GMAC teacher + student + autoencoder | ms | synthetic | AUROC | minus {reference} | steps x batch |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|")
        base = known.get(reference)
        for name, (facts, scores) in known.items():
            row = _row(facts, scores, base[1] if base else None, kind, times[name])
            print("| " + " | ".join([name, *row]) + " |")
            value = auroc(scores["good"], scores[kind])
            assert value is not None
            points.setdefault(folder.name, []).append((name, _gmac(facts), value))
    if plot is not None:
        draw(points, plot)


def _row(
    facts: dict[str, Any], scores: dict[str, Floats], base: dict[str, Floats] | None, kind: str, ms: float
) -> list[str]:
    own = scores["good"], scores[kind]
    interval = auroc_interval(*own)
    assert interval is not None
    difference = None if base is None else auroc_difference(own, (base["good"], base[kind]))
    unseen = np.concatenate([scores["unseen"], scores["threshold"]])
    synthetic = auroc(unseen, scores["synthetic"])
    parts = [f"{facts[f'{part}_gmac']:.2f}" for part in ("teacher", "student", "autoencoder")]
    return [
        f"{' + '.join(parts)} = {_gmac(facts):.2f}",
        f"{ms:.1f}",
        f"{synthetic:.3f}",
        f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]",
        "" if difference is None else f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]",
        f"{facts['steps']} x {facts['batch']}",
    ]


def _gmac(facts: dict[str, Any]) -> float:
    return float(facts["teacher_gmac"] + facts["student_gmac"] + facts["autoencoder_gmac"])


def _load(folder: Path) -> tuple[dict[str, Any], dict[str, Floats]] | None:
    if not (folder / "scores.npz").exists():
        return None
    with np.load(folder / "scores.npz", allow_pickle=False) as data:
        scores = {kind: data[kind] for kind in data.files}
    return json.loads((folder / "facts.json").read_text()), scores


def draw(points: dict[str, list[tuple[str, float, float]]], target: Path) -> None:
    """Draw AUROC against GMAC, one panel a set, the pairs that no other beats joined by a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(points), 3.8), layout="constrained")
    for number, (name, rows) in enumerate(points.items(), 1):
        axes = figure.add_subplot(1, len(points), number)
        best = [row for row in rows if not any(o[1] <= row[1] and o[2] >= row[2] and o != row for o in rows)]
        best.sort(key=lambda row: row[1])
        axes.plot([row[1] for row in best], [row[2] for row in best], color="#a8a29e", linewidth=1)
        for label, gmac, value in rows:
            axes.plot(gmac, value, "o", color="#1d4ed8")
            axes.annotate(label, (gmac, value), textcoords="offset points", xytext=(6, -3), fontsize=8)
        axes.set(xscale="log", xlabel="GMAC a picture", ylabel="AUROC, local + global", title=name)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.25, y=0.15)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
