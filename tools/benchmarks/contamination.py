"""Are anomalies among the normal images listed? `python tools/benchmarks/contamination.py ROOT ... --out contamination.json`

Plants anomalies among the images of ROOT/train/good, in a scratch folder of links, and runs the review of `edge-ad train
--review` on it. By default each planted image is a normal one with a synthetic anomaly in its place, at every --strength of
its difference; `--from test` plants random anomalous images of ROOT/test beside the normal ones: log such a reading. Prints
which share of the planted and of the other images is listed, and how many planted ones stand among as many of the most
unlike as were planted. `--train` also trains on the clean, the contaminated and the corrected folder and evaluates each on
ROOT/test without what was planted.

Long trainings are better run by themselves: `--plant FOLDER` only fills FOLDER/train/good as a trial would (of one ROOT, share,
strength and draw), and `--bundles CLEAN CONTAMINATED` compares two bundles on ROOT/test without what that trial planted: AUROC of
each, their difference with its paired bootstrap interval, and the counts of NG.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.config import Config, TrainTable
from edge_ad.data.datasets import load_test
from edge_ad.data.images import list_images, read_image, resize
from edge_ad.data.synthetic_anomalies import KINDS, make_anomaly
from edge_ad.engines.offline import open_workers
from edge_ad.errors import BadInput
from edge_ad.evaluation.evaluate import evaluate
from edge_ad.evaluation.figures import judge_all
from edge_ad.scoring.auroc import auroc, auroc_difference
from edge_ad.training.review import review
from edge_ad.training.train import chosen_preset, train

Image = NDArray[np.uint8]
DRAWN_SIDE = 512  # pixels of the longer side that an anomaly is drawn at
OTHERS = 8  # other normal images that give patches
SHARES, STRENGTHS = (1.0, 2.0, 5.0, 10.0), (1.0, 0.5)


@dataclass(frozen=True)
class Row:
    """What one review listed: ``missed`` holds the kinds of the planted images that it did not, ``top`` how many planted
    ones are among as many of the most unlike.
    """

    name: str
    source: str
    strength: float
    share: float
    draw: int
    planted: int
    found: int
    top: int
    clean: int
    clean_listed: int
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What is planted in which set: ``strength`` counts for synthetic anomalies, ``share`` is in percent of the images."""

    root: Path
    source: str
    strength: float
    share: float
    draw: int

    @property
    def rng(self) -> np.random.Generator:
        """The draws of this trial; strengths plant the same anomalies in the same images."""
        return np.random.default_rng([self.draw, round(self.share * 100)])

    def count(self, images: int) -> int:
        """How many images are planted."""
        return max(1, round(self.share / 100 * images))


def main() -> int:
    """Read the command line, run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+", metavar="ROOT", help="a set with train/good")
    parser.add_argument("--from", dest="source", choices=("synthetic", "test"), default="synthetic")
    parser.add_argument("--share", type=float, nargs="+", default=SHARES, help="percent of the images that are planted")
    parser.add_argument("--strength", type=float, nargs="+", default=STRENGTHS, help="of synthetic anomalies")
    parser.add_argument("--draws", type=int, default=1, help="repetitions with other anomalies")
    parser.add_argument("--images", type=int, help="take so many normal images at most")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--train", action="store_true", help="train and evaluate as well, three trainings a trial")
    parser.add_argument("--plant", type=Path, metavar="FOLDER", help="plant what the first trial plants, and do no more")
    parser.add_argument("--bundles", type=Path, nargs=2, metavar="BUNDLE", help="a clean and a contaminated one to compare")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    first = Trial(options.roots[0], options.source, options.strength[0], options.share[0], 0)
    if options.plant or options.bundles:
        return one_trial(first, options)
    strengths = options.strength if options.source == "synthetic" else (1.0,)
    results = []
    try:
        for root in options.roots:
            for strength in strengths:
                for share in options.share:
                    for draw in range(options.draws):
                        trial = Trial(root, options.source, strength, share, draw)
                        results.append(run(trial, preset=options.preset, images=options.images, trained=options.train))
                        print(results[-1], file=sys.stderr, flush=True)
                        if options.out:
                            options.out.write_text(json.dumps(results, indent=1) + "\n")
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table([Row(**{name: result[name] for name in Row.__dataclass_fields__}) for result in results])))
    for result in results:
        for name, values in result.get("auroc", {}).items():
            known = ", ".join(f"{kind} {value:.4f}" for kind, value in values.items() if value is not None)
            print(f"AUROC of {result['name']}, {result['share']:g} % planted, draw {result['draw']}, {name}: {known}")
    return 0


def one_trial(trial: Trial, options: argparse.Namespace) -> int:
    """Plant the images of a trial in a folder that is kept, or compare two bundles by it; return the exit code."""
    try:
        if options.plant:
            planted = plant(trial, options.plant, options.images)
            print(f"{options.plant}: {len(planted)} images planted, {', '.join(sorted(planted))}")
        if options.bundles:
            result = compared(trial, *options.bundles, images=options.images)
            print("\n".join(describe_comparison(result)))
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def compared(trial: Trial, clean: Path, contaminated: Path, *, images: int | None = None) -> dict[str, Any]:
    """Return AUROC and counts of NG of both bundles on ROOT/test without what the trial plants, and their difference."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / trial.root.name
        planted = originals(folder, plant(trial, folder, images))
    items = [item for item in load_test(trial.root).test if item.path.resolve() not in planted]
    good = np.array([item.kind == "good" for item in items])
    rows, sides = {}, {}
    for name, path in (("clean", clean), ("contaminated", contaminated)):
        bundle = open_bundle(path)
        with open_workers(bundle, "onnxruntime", "fp32", all_branches=True) as workers:
            score = judge_all(workers, items, geometry=bundle.geometry).score
        sides[name] = score[good], score[~good]
        ng = [int((side > bundle.thresholds.ng).sum()) for side in sides[name]]
        rows[name] = {"auroc": auroc(*sides[name]), "good_ng": ng[0], "anomalies_ng": ng[1]}
    difference = auroc_difference(sides["contaminated"], sides["clean"])
    assert difference is not None
    counts = {"planted": len(planted), "good": int(good.sum()), "anomalies": int((~good).sum())}
    return {"set": trial.root.name, **counts, **rows, "difference": [difference.value, difference.low, difference.high]}


def describe_comparison(result: dict[str, Any]) -> list[str]:
    """Return the figures of ``compared`` as a table and a sentence."""
    heads = (result["set"], "AUROC", f"normal images NG of {result['good']}", f"anomalies NG of {result['anomalies']}")
    rows = [f"| {' | '.join(heads)} |", "|---|--:|--:|--:|"]
    for name in ("clean", "contaminated"):
        row = result[name]
        rows.append(f"| {name} | {row['auroc']:.4f} | {row['good_ng']} | {row['anomalies_ng']} |")
    value, low, high = result["difference"]
    learned = f"{result['planted']} anomalies learned as normal"
    return [*rows, f"contaminated less clean: {value:+.4f} [{low:+.4f}, {high:+.4f}], {learned}"]


def originals(folder: Path, planted: dict[str, str]) -> set[Path]:
    """Return the files behind the links that were planted in ``folder``; copies have none."""
    good = folder / "train" / "good"
    return {(good / name).resolve() for name in planted if (good / name).is_symlink()}


def run(trial: Trial, *, preset: str, images: int | None = None, trained: bool = False) -> dict[str, Any]:
    """Plant, review and count; with ``trained`` the AUROC of the three trainings stands under "auroc"."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / trial.root.name
        planted = plant(trial, folder, images)
        listed, order = reviewed(folder, Path(scratch) / "look", preset)
        normal = len(list_images(folder / "train" / "good")) - len(planted)
        row = Row(
            trial.root.name, trial.source, trial.strength, trial.share, trial.draw,
            planted=len(planted),
            found=len(planted.keys() & listed),
            top=len(planted.keys() & set(order[: len(planted)])),
            clean=normal,
            clean_listed=len(listed - planted.keys()),
            missed=tuple(sorted(kind for name, kind in planted.items() if name not in listed)),
        )  # fmt: skip
        result = asdict(row)
        if trained:
            result["auroc"] = aurocs(trial.root, folder, Path(scratch), planted.keys() & listed, planted, preset=preset)
    return result


def plant(trial: Trial, folder: Path, images: int | None = None) -> dict[str, str]:
    """Fill ``folder``/train/good with links to the normal images and with planted ones; return the kinds of these by name."""
    source = trial.root / "train" / "good"
    normal = list_images(source) if source.is_dir() else []
    normal = normal[:images]
    if len(normal) <= OTHERS:
        raise BadInput(f"{source} holds {len(normal)} images: more than {OTHERS} are needed")
    target = folder / "train" / "good"
    target.mkdir(parents=True)
    if trial.source == "test":
        planted = dict(_from_test(trial, target, len(normal)))
    else:
        planted = dict(_synthetic(trial, target, normal))
    for path in normal:
        if path.name not in planted:
            (target / path.name).symlink_to(path.resolve())
    return planted


def _from_test(trial: Trial, target: Path, normal: int) -> Iterator[tuple[str, str]]:
    anomalies = [item for item in load_test(trial.root).test if item.kind != "good"]
    count = trial.count(normal)
    if len(anomalies) < count:
        raise BadInput(f"{trial.root} has {len(anomalies)} anomalous test images, but {count} are to be planted")
    for number, index in enumerate(trial.rng.permutation(len(anomalies))[:count]):
        item = anomalies[int(index)]
        name = f"planted_{number:03}{item.path.suffix}"
        (target / name).symlink_to(item.path.resolve())
        yield name, item.defect


def _synthetic(trial: Trial, target: Path, normal: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Put anomalies into the places of random normal images; kinds take turns."""
    rng = trial.rng
    order = rng.permutation(len(normal))
    first = int(rng.integers(len(KINDS)))
    for number, index in enumerate(order[: trial.count(len(normal))]):
        path, kind = normal[int(index)], KINDS[(first + number) % len(KINDS)]
        others = [normal[int(other)] for other in rng.permutation(len(normal))[: OTHERS + 1] if other != index][:OTHERS]
        image = with_anomaly(read_image(path), [read_image(other) for other in others], rng, kind, strength=trial.strength)
        # PNG bytes whatever the name: how a file is read follows from its bytes.
        encoded = cv2.imencode(".png", np.ascontiguousarray(image[:, :, ::-1]))[1]
        (target / path.name).write_bytes(encoded.tobytes())
        yield path.name, kind


def with_anomaly(image: Image, others: Sequence[Image], rng: np.random.Generator, kind: str, *, strength: float) -> Image:
    """Return ``image`` u8 [H, W, 3] with ``strength`` of the difference that an anomaly makes, drawn at DRAWN_SIDE."""
    scale = min(1.0, DRAWN_SIDE / max(image.shape[:2]))
    size = (max(32, round(image.shape[0] * scale)), max(32, round(image.shape[1] * scale)))
    small = resize(image, size)
    drawn = make_anomaly(small, [resize(other, size) for other in others], rng, kind)[0]
    change = drawn.astype(np.float32) - small
    whole = cv2.resize(change, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(np.rint(image + strength * whole), 0, 255), np.uint8)


def reviewed(folder: Path, out: Path, preset: str) -> tuple[set[str], list[str]]:
    """Return the names of the listed images, and names in the order of the list and of what comes next."""
    options = TrainTable(preset=preset)
    review(folder, out, options, chosen_preset(options), weights=None, progress=False)
    lines = (out / "exclude.txt").read_text(encoding="utf-8").splitlines()
    listed = [Path(line).name for line in lines if line and not line.startswith("#")]
    after = [Path(line[2:]).name for line in lines if line.startswith("# train/good/")]
    return set(listed), [*listed, *after]


def aurocs(
    root: Path, folder: Path, scratch: Path, confirmed: set[str], planted: dict[str, str], *, preset: str
) -> dict[str, dict[str, float | None]]:
    """Return the AUROC by kind on ROOT/test, without planted images, of trainings without any planted image, with all of them, and
    without those that a person would have confirmed.
    """
    hidden = originals(folder, planted)
    for item in load_test(root).test:
        if item.path.resolve() not in hidden:
            link = folder / item.path.relative_to(root.resolve())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(item.path.resolve())
    result = {}
    for name, excluded in (("clean", set(planted)), ("contaminated", set()), ("corrected", confirmed)):
        listed = scratch / f"{name}.txt"
        listed.write_text("".join(f"train/good/{one}\n" for one in sorted(excluded)), encoding="utf-8")
        options = Config(train=TrainTable(preset=preset, exclude=listed))
        bundle = train(folder, scratch / name, options, progress=False)
        result[name] = evaluate(bundle, folder)["image_auroc"]
    return result


def table(rows: Sequence[Row]) -> list[str]:
    """Return the trials as a table, repetitions added up."""
    lines = ["| set | from | strength | share | planted listed | among the first | others listed |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|")
    groups: dict[tuple[str, str, float, float], Row] = {}
    for row in rows:
        key = (row.name, row.source, row.strength, row.share)
        old = groups.get(key)
        groups[key] = row if old is None else replace(
            old, planted=old.planted + row.planted, found=old.found + row.found, top=old.top + row.top,
            clean=old.clean + row.clean, clean_listed=old.clean_listed + row.clean_listed,
        )  # fmt: skip
    for (name, source, strength, share), row in groups.items():
        found, top = (f"{value} of {row.planted}" for value in (row.found, row.top))
        cells = [name, source, f"{strength:g}", f"{share:g} %", found, top, f"{row.clean_listed} of {row.clean}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
