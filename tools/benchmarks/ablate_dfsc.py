"""Does DFSC help? `python tools/benchmarks/ablate_dfsc.py OUT ROOT... [--trays] [--seeds 0 1 2]`

Trains EfficientAD alone, on `fast`'s networks at a small input, on normal images of every ROOT/train/good and on rendered
trays: without DFSC, with a fixed margin of 2, and with margins from a warm-up, at several quantiles. Each training judges
unseen normal images and synthetic anomalies made from them, at full and at half strength, by the branches local and global
and by the sum of their z scores. OUT keeps one file a training and is resumed; the tables compare each case with `off` by a
paired bootstrap over the unseen images, each drawn with the anomalies that were made from it. No test image is read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.data.images import list_images, resize
from edge_ad.data.synthetic_anomalies import LOGICAL_KINDS
from edge_ad.models.build import AnyTeacher, build_efficientad
from edge_ad.models.efficientad import EfficientAD
from edge_ad.presets.networks import DfscSettings
from edge_ad.presets.presets import FAST, Preset
from edge_ad.scoring.pooling import highest_mean
from edge_ad.synthetic.line import split_seed
from edge_ad.synthetic.tray import render_tray
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Images, ScoringImages, read_all, scoring_images
from edge_ad.training.loop import choose_arithmetic, fit
from edge_ad.training.recipes import EfficientADRecipe
from edge_ad.training.run_folder import RunFolder
from edge_ad.training.teacher import load_teacher, measure_channels
from edge_ad.utils.progress import Progress

Floats = NDArray[np.float64]
QUANTILES = (0.5, 0.9, 0.99, 0.999)
FACTORS = (1.0, 1.5)
MAX_FIT, MAX_UNSEEN, ANOMALIES = 200, 60, 160
LINE_SEED, TRAYS = 9, 240
BRANCHES = ("local", "global", "both")
DRAWS = 2000


def cases() -> dict[str, DfscSettings]:
    """Return the settings to compare by their names, plain EfficientAD first."""
    results = {"off": DfscSettings("off")}
    results |= {f"fixed 2, q {quantile:g}": DfscSettings(quantile=quantile) for quantile in QUANTILES}
    for factor in FACTORS:
        warm = {f"c {factor:g}, q {q:g}": DfscSettings(quantile=q, warm_margin=factor) for q in QUANTILES}
        results |= warm
    return results


def normal_images(root: Path | None, side: int) -> Images:
    """Return the normal images of a set, or rendered trays, as squares of ``side`` pixels."""
    if root is not None:
        return read_all(list_images(root / "train" / "good"), side)
    trays = (render_tray(split_seed(LINE_SEED, "train", index)).image for index in range(TRAYS))
    return np.stack([resize(tray, (side, side)) for tray in trays])


def parted(images: Images) -> ScoringImages:
    """Return some of the images to learn, others with anomalies made from them; three eighths or 60 are unseen."""
    order = np.random.default_rng(0).permutation(len(images))
    unseen = min(MAX_UNSEEN, 3 * len(images) // 8)
    normalise, learned = images[order[:unseen]], images[order[unseen : unseen + MAX_FIT]]
    return scoring_images((learned, normalise, normalise[:1]), ANOMALIES, 0)


def scores(model: EfficientAD, teacher: AnyTeacher, images: Images) -> Floats:
    """Return the raw scores [N, 2] of local and global: the mean of their highest cells."""
    results = []
    for start in range(0, len(images), 32):
        with torch.no_grad():
            pixels = to_pixels(images[start : start + 32], torch.device("cpu"))
            maps = model(pixels, teacher(pixels).features)
        flat = [one.flatten(1).float().numpy() for one in maps]
        results.append(np.stack([highest_mean(one, max(3, one.shape[1] // 100)) for one in flat], axis=1))
    return np.concatenate(results).astype(np.float64)


def trained(images: ScoringImages, teacher: AnyTeacher, preset: Preset, seed: int) -> tuple[EfficientAD, dict[str, Any]]:
    """Train the networks of one case and return them with what the training reports."""
    torch.manual_seed(seed)
    model = build_efficientad(preset, teacher.channels, images.fit.shape[1:3])
    arithmetic = choose_arithmetic(preset.low_precision)
    recipe = EfficientADRecipe(model, teacher, preset, images.fit, unseen=images.normalise, others=None, arithmetic=arithmetic)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.begin("ablation")
        trace = fit(recipe, preset.efficientad_schedule.steps, run, seed, progress=Progress(shown=False))
    model.eval()
    return model, {"margin": trace.settled, "means": trace.means, "fell_back": trace.fell_back}


def one_case(images: ScoringImages, teacher: AnyTeacher, preset: Preset, seed: int, *, target: Path) -> None:
    """Train, judge and write the scores of unseen normal images and of anomalies."""
    began = time.monotonic()
    model, report = trained(images, teacher, preset, seed)
    rows = [scores(model, teacher, part) for part in (images.normalise, images.anomalies, images.faded(0.5))]
    report["seconds"] = round(time.monotonic() - began, 1)
    values = {"normal": rows[0].tolist(), "anomalies": np.concatenate(rows[1:]).tolist()}
    values |= {"kinds": [*images.kinds] * 2, "origins": [*images.origins] * 2}
    target.write_text(json.dumps({**report, **values}))


def measure(out: Path, sets: dict[str, Path | None], chosen: dict[str, DfscSettings], options: argparse.Namespace) -> None:
    """Run what is missing in ``out``, the cases of one seed on all sets before the next seed."""
    schedule = replace(FAST.efficientad_schedule, steps=options.steps, batch=options.batch, validate_every=0)
    prepared: dict[str, tuple[ScoringImages, AnyTeacher]] = {}
    for name, root in sets.items():
        images = parted(normal_images(root, options.side))
        teacher = load_teacher(FAST, None, torch.device("cpu"))
        measure_channels(teacher, images.fit, torch.device("cpu"))
        prepared[name] = images, teacher
    for seed, case, name in ((s, c, n) for s in options.seeds for c in chosen for n in sets):
        target = out / f"{name} {case} seed {seed}.json"
        if not target.exists():
            efficientad = replace(FAST.efficientad, dfsc=chosen[case])
            preset = replace(FAST, efficientad=efficientad, efficientad_schedule=schedule)
            one_case(*prepared[name], preset, seed, target=target)
            print(target.stem, flush=True)


def pairs(normal: Floats, anomalies: Floats, origins: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return how often anomalies made from image o score above normal image n, [n, o] summed over them, and their counts [o]."""
    wins = (normal[:, None] < anomalies) + 0.5 * (normal[:, None] == anomalies)
    table = np.zeros((len(normal), len(normal)))
    np.add.at(table.T, origins, wins.T)
    return table, np.bincount(origins, minlength=len(normal)).astype(np.float64)


def drawn_aurocs(table: Floats, counts: Floats) -> Floats:
    """Return the AUROC, then that of each of DRAWS bootstrap draws of images, the same for every case; NaN without anomalies."""
    images = len(table)
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), DRAWS)
    weights = np.concatenate([np.ones((1, images)), drawn])
    shown = weights @ counts
    results: Floats = np.einsum("dn,no,do->d", weights, table, weights, optimize=True) / (images * np.where(shown, shown, np.nan))
    return results


def aurocs(path: Path) -> dict[tuple[str, str], Floats]:
    """Return AUROC and draws by branch and kind of anomaly of one training."""
    data = json.loads(path.read_text())
    normal, anomalies = np.array(data["normal"]), np.array(data["anomalies"])
    centre, spread = normal.mean(axis=0), normal.std(axis=0)
    normal, anomalies = (normal - centre) / spread, (anomalies - centre) / spread
    logical = np.isin(data["kinds"], LOGICAL_KINDS)
    results = {}
    for branch, weight in zip(BRANCHES, ((1, 0), (0, 1), (1, 1)), strict=True):
        for kind, rows in (("logical", logical), ("structural", ~logical)):
            origins = np.array(data["origins"])[rows]
            results[branch, kind] = drawn_aurocs(*pairs(normal @ weight, anomalies[rows] @ weight, origins))
    return results


def table(out: Path, sets: list[str], seeds: list[int]) -> Iterator[str]:
    """Yield a table for each branch and kind of anomaly: the AUROC of `off`, and what each other case adds to it.

    Cells are means over the seeds that both cases have, with the 95 % interval of the draws and the number of seeds.
    """
    read = {path.stem: aurocs(path) for path in sorted(out.glob("*.json"))}
    for branch, kind in itertools.product(BRANCHES, ("logical", "structural")):
        yield f"\n| {branch}, {kind} | {' | '.join(sets)} |\n|---{'|---' * len(sets)}|"
        for case in cases():
            cells = []
            for name in sets:
                both = [[f"{name} {one} seed {seed}" for one in (case, "off")] for seed in seeds]
                found = [[read[stem][branch, kind] for stem in stems] for stems in both if all(stem in read for stem in stems)]
                cells.append(gain(found, plain=case == "off") if found else "-")
            yield f"| {case} | {' | '.join(cells)} |"
    yield f"\n| active share (margin) | {' | '.join(sets)} |\n|---{'|---' * len(sets)}|"
    for case in cases():
        paths = [[path for seed in seeds if (path := out / f"{name} {case} seed {seed}.json").exists()] for name in sets]
        yield f"| {case} | {' | '.join(activity(one) if one else '-' for one in paths)} |"


def gain(found: list[list[Floats]], *, plain: bool) -> str:
    """Return the mean AUROC, or the mean gain with its interval, of [seeds][case and `off`] values and draws."""
    case, off = np.mean(found, axis=0)
    if plain:
        return f"{off[0]:.3f} ({len(found)})"
    low, high = np.nanquantile((case - off)[1:], [0.025, 0.975])
    return f"{case[0] - off[0]:+.3f} [{low:+.3f}, {high:+.3f}] ({len(found)})"


def activity(paths: list[Path]) -> str:
    """Return the mean share of active novel features of some trainings, from a warm-up also with its mean margin."""
    data = [json.loads(path.read_text()) for path in paths]
    if not all(one["margin"] for one in data):
        return f"{np.mean([one['means']['hinge_active'] for one in data]):.3f}"
    margin, active, first = (np.mean([one["margin"][key] for one in data]) for key in ("margin", "active", "first_active"))
    return f"{first:.2f} at first, {active:.2f} ({margin:.1f})"


def main() -> None:
    """Read the command line, measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("roots", type=Path, nargs="*", help="sets with train/good")
    parser.add_argument("--trays", action="store_true", help="rendered trays as a further set")
    parser.add_argument("--cases", nargs="*", choices=list(cases()), default=list(cases()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Path | None] = {root.name: root for root in options.roots} | ({"trays": None} if options.trays else {})
    measure(options.out, sets, {name: cases()[name] for name in options.cases}, options)
    print("\n".join(table(options.out, list(sets), options.seeds)))


if __name__ == "__main__":
    main()
