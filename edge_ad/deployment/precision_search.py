"""Which nodes must stay in floating point so that INT8 keeps its verdicts: measured one by one, then chosen greedily.

Graphs of a pipeline are exchanged one at a time, and only what follows a change is run again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.bias_correction import Corrections, corrections
from calibration.placement import ALL, Plan
from calibration.sensitivity import Cost, Unit, rank, shortest_prefix, units
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.bundle.graphs import EXPENSIVE, FP32_GRAPHS, GRAPHS, IMAGE
from edge_ad.config import MAX_FLIP
from edge_ad.deployment.int8 import Recipe, derive_int8, measuring_backend, view_of
from edge_ad.deployment.loss import Loss, check_finite, loss, weighted_error
from edge_ad.deployment.validation_images import ValidationImages, spread
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.protocol import Engine, Tensor
from edge_ad.errors import BadInput, require
from edge_ad.scoring import fuse
from edge_ad.utils.files import atomic_write

Images = NDArray[np.uint8]


class PartialPipeline:
    """Remembers, for each of ``images`` u8 [N, H, W, 3], every tensor of an FP32 ``pipeline``, which must stay open.

    ``reference`` holds its raw scores f32 [N, B]. ``raw`` gives those of a pipeline with other graphs in some places,
    each computed as on its target (``measuring_backend``). The pipeline runs on onnxruntime.
    """

    def __init__(self, pipeline: Pipeline, images: Sequence[NDArray[np.uint8]] | Images) -> None:
        self._pipeline = pipeline
        self._tensors: dict[str, Tensor] = {}
        for engine in pipeline.engines.values():
            for name in (*engine.inputs, *engine.outputs):
                self._tensors[name] = engine.bound(name)
        made = {name for engine in pipeline.engines.values() for name in engine.outputs} - {"map"}
        self._known: list[dict[str, NDArray[Any]]] = []
        raw = []
        for image in images:
            raw.append(pipeline.infer(image).raw)
            self._known.append({IMAGE: image[None], **{name: pipeline.tensor(name) for name in made}})
        self.reference: NDArray[np.float32] = np.stack(raw)

    def feeds(self, name: str, count: int) -> list[dict[str, NDArray[Any]]]:
        """Return the inputs of a graph for the first ``count`` images."""
        names = self._pipeline.engines[name].inputs
        fixed = {key: self._tensors[key].read() for key in names if key not in self._known[0]}
        return [{key: known.get(key, fixed.get(key)) for key in names} for known in self._known[:count]]  # type: ignore[misc]

    def raw(self, graphs: Mapping[str, bytes], hold: Collection[str] = ()) -> NDArray[np.float32]:
        """Return raw scores f32 [N, B] with ``graphs`` (ONNX bytes by name) in the place of the pipeline's own.

        Graphs named in ``hold`` keep the outputs of the reference, unless they are exchanged themselves.
        """
        own = self._pipeline.engines
        engines = {name: self._bound(name, data) for name, data in graphs.items() if name in own}
        try:
            return self._run({**{name: own[name] for name in self._after(engines, hold)}, **engines})
        finally:
            for engine in engines.values():
                engine.close()

    def _bound(self, name: str, graph: bytes) -> Engine:
        engine = measuring_backend([graph], getattr(self._pipeline.backend, "threads", None)).load(name, graph)
        for spec in (*engine.inputs.values(), *engine.outputs.values()):
            engine.bind(spec.name, self._tensors[spec.name])
        return engine

    def _after(self, changed: Collection[str], hold: Collection[str]) -> list[str]:
        """Return the unchanged graphs that read, directly or not, what a changed one gives."""
        touched = {output for name in changed for output in self._pipeline.engines[name].outputs}
        results = []
        for name, engine in self._pipeline.engines.items():
            if name not in changed and name not in hold and touched.intersection(engine.inputs):
                results.append(name)
                touched.update(engine.outputs)
        return results

    def _run(self, engines: Mapping[str, Engine]) -> NDArray[np.float32]:
        order = [engines[name] for name in self._pipeline.engines if name in engines]
        made = {name for engine in order for name in engine.outputs}
        given = {name for engine in order for name in engine.inputs} - made
        if not order or "raw" not in made:
            return self.reference.copy()
        raw = []
        for known in self._known:
            for name in given & set(known):
                self._tensors[name].write(known[name])
            for engine in order:
                engine.run()
            raw.append(self._tensors["raw"].read())
        return np.stack(raw).astype(np.float32)


SWAPPED = 3  # pairs of a good and an anomaly that may change their order while a plan is searched
CORRECTED = 12  # normal images that bias corrections are measured on
RANKED = 16  # images that single units are looked at on
MARGIN = 0.5  # of the budget: a plan must be better on the images that chose it than it must be on others
MAX_AUROC = 0.005
MAX_ERROR = 1.0  # rms of z: as much as normal images differ among themselves

Report = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """A plan for each graph with the bias corrections that fit it, what it loses, the cost of every unit alone and the
    units kept, in the order chosen.
    """

    plans: Mapping[str, Plan]
    corrections: Mapping[str, Corrections]
    loss: Loss
    costs: tuple[Cost, ...]
    in_float: tuple[Unit, ...]
    passed: bool


class Searcher:
    """Measures plans of one dialect on the images of a ``validation``. ``pipeline`` is FP32 and stays open meanwhile.
    """

    def __init__(self, bundle: Bundle, recipe: Recipe, target: str, validation: ValidationImages, *, pipeline: Pipeline) -> None:
        self._bundle, self._recipe, self._target = bundle, recipe, target
        self._validation = validation
        self._names = [name for name in pipeline.engines if name in recipe.ranges and name not in FP32_GRAPHS]
        self._partial = PartialPipeline(pipeline, validation.images)
        self._ranking = PartialPipeline(pipeline, spread(validation.images, RANKED))
        check_finite(fuse(self._partial.reference, bundle.statistics)[1], f"{bundle.path} in FP32")
        self._units: list[Unit] = []
        self._corrected: dict[tuple[str, tuple[str, ...]], Corrections] = {}
        for name in self._names:
            self._units += units(name, view_of(bundle, name), GRAPHS[name].max_units)

    def search(self, max_flip: float = MAX_FLIP, report: Report = lambda text: None) -> Search:
        """Return the cheapest plan found that stays within ``max_flip``, MAX_ERROR and MAX_AUROC, with some margin.

        ``passed`` is False where even everything in FP32 is not within it.
        """
        costs = self.costs(report)
        ranked = [cost.unit for cost in rank(costs)]
        results: dict[int, Loss] = {}

        def passes(retained: Sequence[Unit]) -> bool:
            measured = self.measure(self.plans(retained))
            results[len(retained)] = measured
            report(f"{self._target}: {len(retained)} of {len(ranked)} units in floating point: {describe_loss(measured)}")
            within = measured.expected <= MARGIN * max_flip and measured.auroc_loss <= self._auroc_limit()
            return measured.finite and within and measured.error <= MARGIN * MAX_ERROR

        retained = shortest_prefix(ranked, passes)
        chosen = ranked if retained is None else retained
        plans = self.plans(chosen)
        return Search(
            plans, self.corrections(plans), results[len(chosen)], tuple(rank(costs)), tuple(chosen), retained is not None
        )

    def costs(self, report: Report = lambda text: None) -> list[Cost]:
        """Return what each unit costs when it is quantised alone."""
        measured = []
        for number, unit in enumerate(self._units):
            alone = {name: Plan(self._hash(name), {self._target: self._others(name, unit)}) for name in self._names}
            raw = self._raw(self._ranking, alone, hold=EXPENSIVE)  # they take most of a frame
            measured.append(Cost(unit, *self._alone(raw)))
            error = measured[-1].loss
            report(f"{self._target}: {number + 1} of {len(self._units)} units looked at, {unit.name}: {error:.4f} z")
        return measured

    def measure(self, plans: Mapping[str, Plan]) -> Loss:
        """Return what the plans lose on all images, with biases corrected for them."""
        return self._loss(self._raw(self._partial, plans, biases=self.corrections(plans)))

    def corrections(self, plans: Mapping[str, Plan]) -> dict[str, Corrections]:
        """Return bias corrections by graph that fit the plans, measured on the normal images among the images."""
        results: dict[str, Corrections] = {}
        for name, plan in plans.items():
            keep = plan.keep.get(self._target, ())
            if plan.skips(self._target):
                continue
            if (name, keep) not in self._corrected:
                feeds = self._partial.feeds(name, min(CORRECTED, int((~self._validation.anomalous).sum())))
                model, ranges = self._bundle.graph(name), self._recipe.ranges[name]
                self._corrected[name, keep] = corrections(model, ranges, feeds, self._target, keep=keep)
            results[name] = self._corrected[name, keep]
        return results

    def plans(self, retained: Sequence[Unit]) -> dict[str, Plan]:
        """Return the plans that leave these units in floating point."""
        table: dict[str, Plan] = {}
        for name in self._names:
            own = [unit for unit in self._units if unit.graph == name]
            nodes = tuple(node for unit in own if unit in retained for node in unit.nodes)
            everything = bool(own) and all(unit in retained for unit in own)
            table[name] = Plan(self._hash(name), {self._target: (ALL,) if everything else nodes})
        return table

    def _others(self, name: str, unit: Unit) -> tuple[str, ...]:
        if unit.graph != name:
            return (ALL,)
        return tuple(node for other in self._units if other.graph == name and other != unit for node in other.nodes)

    def _raw(
        self,
        partial: PartialPipeline,
        plans: Mapping[str, Plan],
        hold: tuple[str, ...] = (),
        biases: Mapping[str, Corrections] | None = None,
    ) -> NDArray[np.float32]:
        recipe = Recipe(self._recipe.ranges, plans, {self._target: biases or {}})
        graphs = derive_int8(self._bundle, recipe, self._target)
        return partial.raw(graphs, hold)

    def _alone(self, raw: NDArray[np.float32]) -> tuple[float, int]:
        """Return the error of the score, in z, and the flips on the images that units are ranked on."""
        reference, bundle = self._ranking.reference, self._bundle
        flips = loss(reference, raw, np.zeros(len(raw), bool), bundle.statistics, thresholds=bundle.thresholds).flips
        return weighted_error(reference, raw, bundle.statistics), flips

    def _loss(self, raw: NDArray[np.float32]) -> Loss:
        bundle = self._bundle
        return loss(self._partial.reference, raw, self._validation.anomalous, bundle.statistics, thresholds=bundle.thresholds)

    def _auroc_limit(self) -> float:
        """Return the loss of AUROC that is allowed here; a few swapped pairs always are, where there are few pairs."""
        anomalies = int(self._validation.anomalous.sum())
        pairs = anomalies * (len(self._validation.anomalous) - anomalies)
        return max(MARGIN * MAX_AUROC, SWAPPED / max(pairs, 1))

    def _hash(self, name: str) -> str:
        return self._bundle.graph_sha256(name)


def describe_loss(measured: Loss) -> str:
    """Tell a loss in a few words."""
    score = measured.rows[-1]
    return (
        f"score error {score.rms:.3f} z, {measured.far_flips} flips of {measured.images}, "
        f"{measured.expected:.2%} expected, AUROC falls by {measured.auroc_loss:.4f}"
    )


def worst_nodes(costs: Sequence[Cost], count: int = 3) -> str:
    """Name the units that lose most when quantised alone."""
    return ", ".join(cost.unit.name for cost in sorted(costs, key=lambda cost: -cost.loss)[:count])


_HEADER = ("graph", "first_node", "nodes", "macs", "loss_z", "flips", "kept")


def require_plots() -> None:
    """Raise BadInput before minutes of work when matplotlib is missing."""
    require("matplotlib", extra="train", needed_by="edge-ad calibrate --table")


def write_report(folder: Path, bundle_path: Path) -> Path:
    """Write plan.json, and by dialect sensitivity-<dialect>.csv and .png, of a calibrated bundle; return ``folder``."""
    bundle = open_bundle(bundle_path)
    if bundle.quantisation is None:
        raise BadInput(f"{bundle_path} holds no plan: run `edge-ad calibrate {quote(str(bundle_path))} GOODS` first")
    plan = bundle.quantisation.plan
    atomic_write(folder / "plan.json", json.dumps(plan, indent=1) + "\n")
    for target, result in plan.get("sensitivity", {}).items():
        atomic_write(folder / f"sensitivity-{target}.csv", table(result["units"]))
        atomic_write(folder / f"sensitivity-{target}.png", plot(result["units"], target))
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
    for in_float, marker, label in ((True, "s", "stays in floating point"), (False, "o", "8 bits")):
        chosen = [unit for unit in units if unit["kept"] is in_float and unit["loss_z"] is not None]
        x, y = [max(unit["macs"], 1) / 1e6 for unit in chosen], [max(unit["loss_z"], 1e-5) for unit in chosen]
        axes.scatter(x, y, marker=marker, label=label, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="million multiplications", ylabel="score error alone, z", title=title)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
