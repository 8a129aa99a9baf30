"""Measure the promise of the thresholds on the synthetic line: 20 lines, each with normal images of its own.

For every line: normal images to fit and to normalise, 400 for the threshold and 2,000 that nothing has seen. By default
the scorer is the branch composition alone (the teacher's pooled features and a Mahalanobis distance), which trains in
seconds; with --bundle a trained bundle gives the fused score. Statistics, fusion, thresholds and verdicts are those of
edge-ad. Scores are kept in --cache, so that a stopped measurement goes on.

With n normal images for the threshold and the rank k of the score that is taken, the rate of an exchangeable new normal
image above it is Beta(n + 1 - k, k), so the count among m unseen normal images is beta-binomial. (Vovk, Conditional
validity of inductive conformal predictors, 2012.)

With --tolerance composition learns from copies disturbed within it, and thresholds come from disturbed versions too. The unseen
normal images are judged undisturbed, in a random state each, and with every axis at its limits.

    python tools/benchmarks/threshold_promise.py --cache promise --jobs 2
    python tools/benchmarks/threshold_promise.py --cache promise-demo --bundle runs/demo/training/kit_tray.edgead
    python tools/benchmarks/threshold_promise.py --cache promise --tolerance default --threshold 100 --unseen 200

With --compare the rules are compared on the raw scores that bundles hold of unseen normal images and of anomalies: many
times some of the images (and half of the anomalies) set thresholds, and the others are judged. The weights stay those
of the bundle. --fresh scores so many new trays of the synthetic line instead of the images that the bundle knows.

    python tools/benchmarks/threshold_promise.py --compare runs/*/*.edgead
    python tools/benchmarks/threshold_promise.py --compare runs/demo/training/kit_tray.edgead --fresh 800 --draws 200
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.bundle.safe_zip import dump_npz, load_npz
from edge_ad.data.tolerance import Disturbance, Tolerance
from edge_ad.errors import EdgeAdError
from edge_ad.geometry.pose import NotLocated
from edge_ad.presets.presets import FAST
from edge_ad.scoring import (
    OperatingPoint,
    Statistics,
    Thresholds,
    choose_operating_point,
    choose_thresholds,
    cross_normalised,
    fit_gaussian,
    fuse,
    mahalanobis,
    normalise_statistics,
    weighted,
)
from edge_ad.synthetic.line import render_tray, split_seed
from edge_ad.utils.files import atomic_write, sha256_bytes

Scores = NDArray[np.float32]
Images = NDArray[np.uint8]
TARGETS = (0.01, 0.05)
CHUNK = 16
LEVEL = 0.95


@dataclass(frozen=True)
class Plan:
    """How many normal images a line gives to each purpose, the side of an image in pixels, and the bundle that scores, if any."""

    fit: int = 200
    normalise: int = 40
    threshold: int = 400
    unseen: int = 2000
    size: int = 256
    bundle: str = ""
    tolerance: str = "none"

    @property
    def mark(self) -> str:
        """A name for everything that decides the scores; the bundle counts by its content."""
        facts = {**asdict(self), "bundle": open_bundle(Path(self.bundle)).sha256 if self.bundle else ""}
        if self.tolerance == "none":
            del facts["tolerance"]  # scores that were kept before there was one
        return sha256_bytes(json.dumps(facts, sort_keys=True).encode())[:12]


def goods(line: int, first: int, count: int, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield good trays of a line by their number in its training split."""
    for index in range(first, first + count):
        yield render_tray(split_seed(line, "train", index), size=size).image


def pooled_goods(line: int, plan: Plan) -> Scores:
    """Return what the teacher says of every good of a line f32 [N, D], with one thread: the jobs share the cores."""
    import torch

    from edge_ad.training.teacher import describe, load_teacher

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device = torch.device("cpu")
        teacher = load_teacher(FAST, None, device)
        total = plan.fit + plan.normalise + plan.threshold + plan.unseen
        pooled = []
        for start in range(0, total, CHUNK):
            trays = list(goods(line, start, min(CHUNK, total - start), plan.size))
            pooled.append(describe(teacher, np.stack(trays), FAST, device)[1].numpy())
        return np.concatenate(pooled)
    finally:
        torch.set_num_threads(threads)  # other sums of the process keep their order


def composition_scores(line: int, plan: Plan) -> tuple[Scores, Scores]:
    """Fit the branch composition on a line and return the fused scores of threshold normal images and of unseen normal images."""
    rows = pooled_goods(line, plan)
    cuts = np.cumsum([plan.fit, plan.normalise, plan.threshold])
    fit, normalise, threshold, unseen = np.split(rows, cuts)
    score = composition_scorer(fit, normalise)
    return score(threshold), score(unseen)


def composition_scorer(fit: Scores, normalise: Scores) -> Callable[[Scores], Scores]:
    """Return what makes fused scores [N] of pooled features f32 [N, D] by the branch composition alone."""
    centre, precision = fit_gaussian(fit)

    def raw(some: Scores) -> Scores:
        found = np.zeros((len(some), 5), np.float32)
        found[:, 4] = mahalanobis(some, centre, precision)
        return found

    mean, std = normalise_statistics(raw(normalise))
    weight = np.array([0, 0, 0, 0, 1], np.float32)
    quantiles = np.tile(np.array([0, 1], np.float32), (3, 1))
    statistics = Statistics(quantiles, centre, precision, mean, std, weight)
    return lambda some: fuse(raw(some), statistics)[1]


def tolerant_scores(line: int, plan: Plan, cache: Path) -> dict[str, Scores]:
    """Return by state, an axis at a limit, ``random`` or ``undisturbed``, the fused scores of threshold images [N] and
    of unseen ones [M] one after the other, from the cache or computed and kept; composition has learned from disturbed copies.
    """
    path = cache / f"{plan.mark}-{line:04d}.npz"
    if path.exists():
        return load_npz(path.read_bytes(), str(path))
    import torch

    from edge_ad.training.augment import with_moved
    from edge_ad.training.teacher import describe, load_teacher
    from edge_ad.training.tolerance import with_tolerance

    torch.set_num_threads(1)
    tolerance, device = Tolerance.parse(plan.tolerance), torch.device("cpu")
    preset, teacher = with_tolerance(FAST, tolerance, located=False), load_teacher(FAST, None, torch.device("cpu"))

    def pooled(images: Images) -> Scores:
        parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        return np.concatenate([describe(teacher, part, preset, device)[1].numpy() for part in parts])

    total = plan.fit + plan.normalise + plan.threshold + plan.unseen
    trays = np.stack(list(goods(line, 0, total, plan.size)))
    fit, rest = trays[: plan.fit], trays[plan.fit + plan.normalise :]
    learned = pooled(with_moved(fit, preset, line, tolerance))
    score = composition_scorer(learned, pooled(trays[plan.fit : plan.fit + plan.normalise]))
    found = {state: score(pooled(images)) for state, images in states(rest, tolerance, line)}
    cache.mkdir(parents=True, exist_ok=True)
    atomic_write(path, dump_npz(found))
    print(f"line {line}: {len(rest)} normal images scored in {len(found)} states", file=sys.stderr, flush=True)
    return found


def states(images: Images, tolerance: Tolerance, seed: int) -> Iterator[tuple[str, Images]]:
    """Yield ``images`` u8 [N, H, W, 3] undisturbed, in two random states each, and with every axis at each of its limits."""
    rng = np.random.default_rng([seed, 11])

    def changed(drawn: Sequence[Disturbance]) -> Images:
        return np.stack([one.degrade(one.move(image), rng) for image, one in zip(images, drawn, strict=True)])

    yield "undisturbed", images
    for number in (1, 2):
        yield f"random_{number}", changed([tolerance.draw(rng) for _ in images])
    for axis, limits in tolerance.corners().items():
        for number, limit in enumerate(limits, 1):
            yield f"{axis}_{number}", changed([limit] * len(images))


def main_tolerance(plan: Plan, lines: Sequence[int], cache: Path, json_path: Path | None) -> int:
    """Measure thresholds under a tolerance, print the rate of unseen normal images that are NG by state, and return 0 when
    every mean is within two standard errors of what is promised, else 4.
    """
    from edge_ad.training.tolerance import tolerant_thresholds

    rows, kept = [], True
    draws = [tolerant_scores(line, plan, cache) for line in lines]
    names = list(draws[0])
    for target in TARGETS:
        rates = np.empty((len(draws), len(names)))
        promised = max(target, 1 / (plan.threshold + 1))
        for row, found in enumerate(draws):
            known = np.stack([found[name][: plan.threshold] for name in names], axis=1)
            thresholds = tolerant_thresholds(known, (target, target), [name.partition("_")[0] for name in names[1:]])
            rates[row] = [(found[name][plan.threshold :] > thresholds.ng).mean() for name in names]
        errors = rates.std(axis=0, ddof=1) / math.sqrt(len(draws))
        for name, mean, error in zip(names, rates.mean(axis=0), errors, strict=True):
            most = promised * (1 if name.partition("_")[0] in ("undisturbed", "random") else 2)
            holds = bool(mean <= most + 2 * error)
            kept &= holds
            verdict = "kept" if holds else "NOT KEPT"
            print(f"target {target:.0%}, {name}: {mean:.3%} +- {2 * error:.3%}, promised {most:.2%}: {verdict}")
            figures = {"mean": float(mean), "error": float(error), "promised": most}
            rows.append({"target": target, "state": name, **figures, "kept": holds})
    if json_path:
        atomic_write(
            json_path, json.dumps({"plan": asdict(plan), "lines": list(lines), "states": rows}, indent=2) + "\n"
        )
    return 0 if kept else 4


def bundle_scores(line: int, plan: Plan) -> tuple[Scores, Scores]:
    """Return the fused scores that a bundle gives to threshold normal images and to unseen normal images of a line."""
    from edge_ad.engines.pipeline import Pipeline

    found = []
    bundle = open_bundle(Path(plan.bundle))
    with Pipeline(bundle, threads=1) as pipeline:
        for tray in goods(line, plan.fit + plan.normalise, plan.threshold + plan.unseen, plan.size):
            prepared = bundle.geometry.prepare(tray)
            # A part that is not located does not pass.
            found.append(np.inf if isinstance(prepared, NotLocated) else pipeline.infer(prepared.image).score)
    scores = np.array(found, np.float32)
    return scores[: plan.threshold], scores[plan.threshold :]


def line_scores(line: int, plan: Plan, cache: Path) -> tuple[Scores, Scores]:
    """Return the scores of a line from the cache, or compute and keep them."""
    path = cache / f"{plan.mark}-{line:04d}.npz"
    if path.exists():
        holds = load_npz(path.read_bytes(), str(path))
        return holds["threshold"], holds["unseen"]
    threshold, unseen = (bundle_scores if plan.bundle else composition_scores)(line, plan)
    cache.mkdir(parents=True, exist_ok=True)
    atomic_write(path, dump_npz({"threshold": threshold, "unseen": unseen}))
    print(f"line {line}: {len(threshold)} + {len(unseen)} normal images scored", file=sys.stderr, flush=True)
    return threshold, unseen


@dataclass(frozen=True)
class Promise:
    """What came of one target over several draws of normal images.

    ``counts`` are unseen normal images above the threshold, one a draw, of ``unseen`` each; ``mean`` and ``error`` the
    mean rate and its standard error; ``inside`` the counts within ``interval`` (95 % of the beta-binomial, ends
    included).
    """

    target: float
    supported: float
    counts: tuple[int, ...]
    unseen: int
    mean: float
    error: float
    interval: tuple[int, int]
    inside: int

    @property
    def holds(self) -> bool:
        """Whether the mean is within two standard errors of the rate, and at least 17 of 20 counts within the interval.
        """
        return self.mean <= self.supported + 2 * self.error and self.inside * 20 >= 17 * len(self.counts)


def measure(draws: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], target: float) -> Promise:
    """Return what thresholds for ``target`` do: each draw is the fused scores (threshold normal images [n], unseen
    normal images [m]).

    All draws must have the same counts, or ValueError. The thresholds are those of `edge-ad train`.
    """
    sizes = {(np.size(threshold), np.size(unseen)) for threshold, unseen in draws}
    if len(sizes) != 1:
        raise ValueError(f"draws must have the same numbers of normal images, but have {sorted(sizes)}")
    normal, unseen = next(iter(sizes))
    counts, supported = [], target
    for threshold_scores, unseen_scores in draws:
        chosen = choose_thresholds(threshold_scores, target, target)
        supported = chosen.supported_ng
        counts.append(sum(chosen.verdict(float(score)) == "NG" for score in np.ravel(np.asarray(unseen_scores))))
    rates = np.array(counts) / unseen
    error = float(rates.std(ddof=1) / math.sqrt(len(rates))) if len(rates) > 1 else math.inf
    low, high = count_interval(normal, unseen, supported)
    inside = sum(low <= count <= high for count in counts)
    return Promise(target, supported, tuple(counts), unseen, float(rates.mean()), error, (low, high), inside)


def count_interval(normal_count: int, unseen: int, rate: float, level: float = LEVEL) -> tuple[int, int]:
    """Return the least and greatest count of ``unseen`` above a threshold for ``rate`` from ``normal_count``, tails
    left out.

    At most (1 - ``level``) / 2 of the beta-binomial lies below the one and above the other.
    """
    above = max(1, math.floor(rate * (normal_count + 1) + 1e-9))
    shares = np.cumsum([_share(count, unseen, above, normal_count + 1 - above) for count in range(unseen + 1)])
    tail = (1 - level) / 2
    low = int(np.searchsorted(shares, tail, "right"))
    high = int(np.searchsorted(shares, 1 - tail, "left"))
    return low, min(high, unseen)


def _share(count: int, total: int, a: float, b: float) -> float:
    def beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return math.exp(ways + beta(count + a, total - count + b) - beta(a, b))


def describe_promise(found: Promise) -> str:
    """Return the result of one target in a sentence."""
    low, high = found.interval
    return (
        f"target {found.target:.0%}: mean rate {found.mean:.3%} +- {2 * found.error:.3%} (2 standard errors), "
        f"{found.inside} of {len(found.counts)} counts within {low} to {high} of {found.unseen}: "
        f"{'kept' if found.holds else 'NOT KEPT'}"
    )


SPLIT = "split"
RULES = (SPLIT, "promise", "balanced", "cost:10", "cost:30", "cost:100")
SIZES = ("4+4", "10+8", "31+25", "60+60", "70%")


@dataclass(frozen=True)
class Pool:
    """Raw scores of unseen normal images f32 [N, B], those of anomalies by strength f32 [M, B], and the ``weight`` of branches."""

    normal: Scores
    anomalies: dict[str, Scores]
    weight: Scores

    @classmethod
    def of(cls, path: Path, fresh: int = 0, size: int = 256) -> Pool:
        """Return what a bundle holds, or the scores of ``fresh`` trays that it has not seen in place of its normal images."""
        bundle = open_bundle(path)
        raw, weight = bundle.raw_scores, bundle.statistics.weight
        normal = np.unique(np.concatenate([raw["normalise"], raw["threshold"]]), axis=0)  # some bundles hold all in both
        shown = {split: raw[split] for split in ("synthetic", "synthetic_50", "synthetic_25") if len(raw.get(split, ())) > 1}
        return cls(fresh_scores(path, fresh, size) if fresh else normal, shown, weight)

    def numbers(self, text: str) -> tuple[int, int]:
        """Read how many images normalise and how many set the threshold under the rule SPLIT: 10+8, or 70% of all in halves."""
        if text.endswith("%"):
            count = int(float(text[:-1]) / 100 * len(self.normal))
            return count // 2, count - count // 2
        first, _, second = text.partition("+")
        return int(first), int(second)


def fresh_scores(path: Path, count: int, size: int) -> Scores:
    """Return the raw scores f32 [N, B] that a bundle gives to good trays of a line that it has not seen; all branches run."""
    from edge_ad.engines.pipeline import Pipeline

    bundle, rows = open_bundle(path), []
    with Pipeline(bundle, threads=1, all_branches=True) as pipeline:
        for tray in goods(1000, 0, count, size):
            prepared = bundle.geometry.prepare(tray)
            if not isinstance(prepared, NotLocated):
                rows.append(pipeline.infer(prepared.image).raw.copy())
    return np.stack(rows)


def compare(pool: Pool, sizes: tuple[int, int], draws: int, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return by rule f64 [draws, 2 + strengths]: what is promised, the rate of the other normal images that are NG, and the
    share found of the other half of the anomalies, by strength.
    """
    random = np.random.default_rng(seed)
    rows: dict[str, list[list[float]]] = {rule: [] for rule in RULES}
    for _ in range(draws):
        order = random.permutation(len(pool.normal))
        chosen, others = pool.normal[order[: sum(sizes)]], pool.normal[order[sum(sizes) :]]
        halves = {name: np.array_split(random.permutation(raw), 2) for name, raw in pool.anomalies.items()}
        for rule in RULES:
            used = chosen[: sizes[0]] if rule == SPLIT else chosen
            mean, std = normalise_statistics(used)

            def score(raw: Scores, mean: Scores = mean, std: Scores = std) -> Scores:
                return weighted((raw - mean) / std, pool.weight)

            known = score(chosen[sizes[0] :]) if rule == SPLIT else weighted(cross_normalised(chosen), pool.weight)
            thresholds = _thresholds(rule, known, {name: score(pair[0]) for name, pair in halves.items()})
            found = [float((score(pair[1]) > thresholds.ng).mean()) for pair in halves.values()]
            rows[rule].append([thresholds.supported_ng, float((score(others) > thresholds.ng).mean()), *found])
    return {rule: np.array(values) for rule, values in rows.items()}


def _thresholds(rule: str, known: Scores, shown: dict[str, Scores]) -> Thresholds:
    return choose_operating_point(known, shown, OperatingPoint.parse("promise" if rule == SPLIT else rule))


def print_comparison(pools: dict[str, Pool], sizes: str, draws: int) -> list[dict[str, object]]:
    """Print the rules as means over those pools that have images enough, and return the figures by pool."""
    figures: list[dict[str, object]] = []
    by_rule: dict[str, list[NDArray[np.float64]]] = {rule: [] for rule in RULES}
    for name, pool in pools.items():
        numbers = pool.numbers(sizes)
        if min(numbers) < 2 or sum(numbers) + 10 > len(pool.normal):
            continue
        for rule, rows in compare(pool, numbers, draws).items():
            by_rule[rule].append(rows)
            figures.append({"bundle": name, "sizes": sizes, "rule": rule, "mean": rows.mean(axis=0).round(5).tolist()})
    if not figures:
        print(f"{sizes}: no bundle has so many unseen normal images")
        return []
    print(f"{sizes}, {len(by_rule[SPLIT])} bundles: rule, promised, mean rate NG, its deviation, 90 % of draws below, found")
    for rule, several in by_rule.items():
        rates = [rows[:, 1] for rows in several]
        mean = [float(np.mean([rows[:, column].mean() for rows in several])) for column in range(several[0].shape[1])]
        spread = float(np.mean([rate.std(ddof=1) for rate in rates]))
        ninth = float(np.mean([np.quantile(rate, 0.9) for rate in rates]))
        found = ", ".join(f"{share:.1%}" for share in mean[2:])
        print(f"  {rule:<9} {mean[0]:6.2%} {mean[1]:6.2%} {spread:6.2%} {ninth:6.2%}  {found}")
    return figures


def main_comparison(chosen: argparse.Namespace) -> int:
    """Compare the rules on bundles."""
    pools = {str(path): Pool.of(path, chosen.fresh, chosen.size) for path in chosen.compare}
    rows = [row for sizes in chosen.sizes for row in print_comparison(pools, sizes, chosen.draws)]
    if chosen.json:
        atomic_write(chosen.json, json.dumps({"draws": chosen.draws, "rows": rows}, indent=2) + "\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a sentence a target, and return 0 when both promises are kept, else 4; with --compare print the rules."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="lines, each one draw of normal images")
    parser.add_argument("--first", type=int, default=1000, help="seed of the first line")
    for name in ("fit", "normalise", "threshold", "unseen", "size"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    parser.add_argument("--bundle", default="", help="a trained bundle instead of the branch composition")
    parser.add_argument("--tolerance", default=Plan.tolerance, help="as that of edge-ad train; one job")
    parser.add_argument("--cache", type=Path, default=Path("promise"), help="folder of kept scores")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--compare", type=Path, nargs="+", help="compare the rules on the raw scores of these bundles")
    parser.add_argument("--fresh", type=int, default=0, help="with --compare: score so many new trays instead")
    parser.add_argument("--draws", type=int, default=100, help="with --compare: draws of images")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="with --compare: images, such as 10+8 or 70%%")
    chosen = parser.parse_args(arguments)
    if chosen.compare:
        try:
            return main_comparison(chosen)
        except EdgeAdError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    plan = Plan(
        chosen.fit, chosen.normalise, chosen.threshold, chosen.unseen, chosen.size, chosen.bundle, chosen.tolerance
    )
    lines = range(chosen.first, chosen.first + chosen.seeds)
    one = partial(line_scores, plan=plan, cache=chosen.cache)
    try:
        if chosen.tolerance != "none":
            return main_tolerance(plan, lines, chosen.cache, chosen.json)
        if chosen.jobs > 1:
            with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
                draws = pool.map(one, lines, chunksize=1)
        else:
            draws = [one(line) for line in lines]
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    results = [measure(draws, target) for target in TARGETS]
    for result in results:
        print(describe_promise(result))
    if chosen.json:
        rows = [{**asdict(result), "kept": result.holds} for result in results]
        atomic_write(
            chosen.json, json.dumps({"plan": asdict(plan), "lines": list(lines), "targets": rows}, indent=2) + "\n"
        )
    return 0 if all(result.holds for result in results) else 4


if __name__ == "__main__":
    sys.exit(main())
