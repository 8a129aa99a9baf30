"""The images of a lot as a bundle sees them, and whether they may teach it: between the graphs and ``refit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, References
from edge_ad.bundle.graphs import (
    GRAPHS,
    LAVIT,
    MAP_TENSORS,
    MEMORY,
    MEMORY_CONSTANTS,
    graphs_of,
    memory_graph,
)
from edge_ad.bundle.references import reference_values, with_values
from edge_ad.data.images import read_image
from edge_ad.data.part_regions import Mask
from edge_ad.data.prepared import READERS
from edge_ad.data.synthetic_anomalies import FADES, fade, kind_at, origin_of, synthetic
from edge_ad.deployment.refit import BankPart, CellsPart, Described, GaussianPart, Part, refit_cells
from edge_ad.engines.offline import in_order, open_workers
from edge_ad.engines.pipeline import Pipeline
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.geometry.pose import NotLocated
from edge_ad.presets.presets import FusionSettings
from edge_ad.scoring import MAPS, Array, fuse, lies_above, rate_exceeded
from edge_ad.scoring.memory import Regions, banks_of
from edge_ad.scoring.memory import constants_of as bank_constants

Images = NDArray[np.uint8]

CHUNK = 16  # images whose features are held at once where nothing is learned from them
STRENGTHS = (1.0, *FADES)  # of synthetic anomalies, as the training shows them
COUNTS = (160, 48, 48)  # anomalies at each strength; a cascade needs as many as a training draws: its least rate is 1 / (n + 1)
MAX_RATIO, MAX_AWAY = 8.0, 0.9
"""Pooled features beyond both show another product: times the usual distance of normal images, and the distance of the mean
from theirs in lengths of that. A lot under other light, colour, focus or noise exceeds one of them at most
(docs/experiments/recalibration.md)."""
MIN_KNOWN = 4  # of the old lot: fewer say nothing of whether a new one is the same
MAX_ANOMALOUS = 0.5  # of the new images that may be NG before somebody confirms that they are normal


@dataclass(frozen=True, eq=False)
class Drawn:
    """Synthetic anomalies u8 [M, H, W, 3], their kinds, and the indices [M] of the normal images that they were drawn on."""

    images: Images
    kinds: tuple[str, ...]
    origins: NDArray[np.intp]


def draw_anomalies(normal: Images, seed: int, part: Mask | None, inspected: Mask | None = None) -> Drawn:
    """Draw anomalies on normal images u8 [N, H, W, 3]: COUNTS of them at STRENGTHS, several on an image where there are few.

    They lie on the ``part`` where it is ``inspected``.
    """
    full, kinds = synthetic(normal, COUNTS[0], seed, part, inspected=inspected)
    origins = np.array([origin_of(number, normal) for number in range(COUNTS[0])], np.intp)
    shown: list[Images] = []
    names: list[str] = []
    for strength, count in zip(STRENGTHS, COUNTS, strict=True):
        shown += [fade(normal[origin], after, strength) for origin, after in zip(origins[:count], full, strict=False)]
        names += [kind_at(kind, strength) for kind in kinds[:count]]
    return Drawn(np.stack(shown), tuple(names), np.concatenate([origins[:count] for count in COUNTS]))


def inputs_of(bundle: Bundle, paths: Iterable[Path]) -> Iterator[Images]:
    """Yield the inputs u8 [H, W, 3] of images whose part was located before, a few read ahead."""

    def read(path: Path) -> Images:
        prepared = bundle.geometry.prepare(bundle.geometry.region_of(read_image(path, bundle.image_bits)))
        if isinstance(prepared, NotLocated):
            raise BadInput(f"{path} was changed while it was read: start again")
        return prepared.image

    return in_order(read, paths, READERS)


CENTRE, PRECISION = "surprise_centre", "surprise_precision"  # of LAViT
CELL_MEAN, CELL_STD = "cell_mean", "cell_std"


def tapped(graph: bytes, *names: str) -> tuple[bytes, dict[str, str]]:
    """Return the graph of LAViT with more outputs, what each of the named references is subtracted from, and these outputs'
    names; references that it does not have are left out.
    """
    import onnx

    model, outputs = onnx.load_model_from_string(graph), {}
    constants = {constant: name for name, constant in GRAPHS[LAVIT].references}
    shapes = {entry.name: [side.dim_value for side in entry.type.tensor_type.shape.dim] for entry in model.graph.input}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Sub"]:
        name = constants.get(node.input[1], node.input[1])
        if name in names:
            outputs[name] = node.input[0]
            shape = shapes[node.input[1]]
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString()), outputs


class LotReader:
    """Runs a bundle's FP32 graphs once an image, and keeps what scores under other constants are computed from.

    ``jobs`` images are at work side by side (see ``open_workers``).
    """

    def __init__(self, bundle: Bundle, jobs: int | None = None) -> None:
        self._branches = bundle.statistics.branches
        graphs: dict[str, bytes] = {}
        self._taps: dict[str, str] = {}
        if LAVIT in bundle.graphs:
            graphs[LAVIT], self._taps = tapped(bundle.graph(LAVIT), CENTRE, CELL_MEAN)
        self._memory = _Whitening(bundle) if memory_graph(bundle.graphs) else None
        self._stack = ExitStack()
        workers = open_workers(bundle, "onnxruntime", "fp32", jobs=jobs, all_branches=True, graphs=graphs)
        self._workers = self._stack.enter_context(workers)
        branches = [branch for branch in MAPS if branch in self._workers.first.branches]
        self._maps = {branch: MAP_TENSORS[MAPS.index(branch)] for branch in branches}

    def describe(self, images: Sequence[Images] | Images, progress: Callable[[int, int], None] | None = None) -> Described:
        """Run images u8 [H, W, 3]; at least one."""
        rows: list[tuple[Array, dict[str, Array]]] = []
        for row in self._workers.map(images, lambda image: image, self._row):
            rows.append(row)
            if progress:
                progress(len(rows), len(images))
        names = rows[0][1]
        features = {name: np.stack([row[name] for _, row in rows]).astype(np.float32, copy=False) for name in names}
        return Described(np.stack([raw for raw, _ in rows]), features)

    def raw_of(
        self, images: Iterable[Images], parts: Sequence[Part], constants: Mapping[str, Mapping[str, Array]]
    ) -> Array:
        """Return raw scores f32 [N, B] of images by refitted constants of the parts."""
        rows, source = [np.zeros((0, len(self._branches)), np.float32)], iter(images)
        while chunk := list(islice(source, CHUNK)):
            described = self.describe(chunk)
            raw = described.raw.copy()
            for part in parts:
                raw[:, self._branches.index(part.branch)] = part.judge(described.features, constants[part.branch])[0]
            rows.append(raw)
        return np.concatenate(rows)

    def _row(self, pipeline: Pipeline, image: Images) -> tuple[Array, dict[str, Array]]:
        """Return the raw scores of an image f32 [B], and what they are computed from."""
        raw, tensor = pipeline.infer(image).raw, pipeline.tensor
        row = {"pooled": tensor("pooled")[0]} | {name: tensor(output).reshape(-1) for name, output in self._taps.items()}
        row |= {f"map {branch}": pipeline.counted_map(name) for branch, name in self._maps.items()}
        if self._memory is not None:
            row["white"] = self._memory.of(tensor(self._memory.reads)[0])
        return raw, row

    def __enter__(self) -> LotReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


class _Whitening:
    """What the graph of the memory does to features before it compares them."""

    def __init__(self, bundle: Bundle) -> None:
        name = memory_graph(bundle.graphs)
        assert name is not None
        (self.reads,) = GRAPHS[name].inputs[:1]
        matrix, offset = MEMORY_CONSTANTS[:2]
        constants = _constants(bundle.graph(name))
        if matrix not in constants:
            raise BadInput(f"the graph {name!r} of {bundle.path} has no constant {matrix}: train the bundle again")
        self._matrix = constants[matrix][:, :, 0, 0]
        self._offset = constants.get(offset, np.zeros(len(self._matrix), np.float32))

    def of(self, features: Array) -> Array:
        """Return whitened cells f32 [h, w, D] of features f32 [C, h, w]."""
        channels, height, width = features.shape
        white = features.reshape(channels, -1).T @ self._matrix.T + self._offset
        return np.asarray(white.reshape(height, width, -1), np.float32)


def _constants(graph: bytes) -> dict[str, Array]:
    """Return the constants of a graph by name."""
    import onnx
    from onnx import numpy_helper

    tensors = onnx.load_model_from_string(graph).graph.initializer
    return {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in tensors}


def _values(bundle: Bundle, name: str) -> dict[str, Array]:
    return reference_values(name, bundle.graph(name), bundle.references)


def parts_of(bundle: Bundle, forget: bool = False) -> list[Part]:
    """Return what of a bundle is refitted, of the branches that it has and that hold what a refit needs."""
    old = bundle.statistics
    parts: list[Part] = [GaussianPart("composition", "pooled", ("centre", "precision"), (old.centre, old.precision), forget)]
    if LAVIT in bundle.graphs:
        values = _values(bundle, LAVIT)
        if CENTRE in values:
            parts.append(GaussianPart("logic", CENTRE, (CENTRE, PRECISION), (values[CENTRE], values[PRECISION]), forget))
    memory = _memory_part(bundle, forget)
    return parts if memory is None else [*parts, memory]


def _memory_part(bundle: Bundle, forget: bool) -> Part | None:
    """Return what is refitted of the memory; None without one that counts and says what it holds."""
    name = memory_graph(bundle.graphs)
    counts = any(name in graphs_of(branch, bundle.graphs) for branch in bundle.statistics.active)
    reported = bundle.report.get(MEMORY, {})
    if name is None or not counts or not ("cells" in reported or "regions" in reported):
        return None
    top = FusionSettings(**bundle.settings.get("fusion", {})).top_of("memory")
    values, regions, factors = _values(bundle, name), regions_of(bundle), bundle.references.cell_factors("memory")
    if "memory_bank" in values:
        return BankPart(banks_of(values["memory_bank"]), regions, top, forget, factors=factors)
    if "memory_mean" in values:
        gaussians = values["memory_mean"][0].transpose(1, 2, 0), values["memory_roots"]
        return CellsPart(gaussians, regions, top, forget, factors=factors)
    raise BadInput(f"the graph {name!r} of {bundle.path} has neither cells nor Gaussians: train the bundle again")


def regions_of(bundle: Bundle) -> Regions:
    """Return the regions that the training reported."""
    try:
        values = bundle.report[MEMORY]["regions"]
        return Regions((*values["grid"],), (*values["size"],), values["overlap"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{bundle.path} does not report the regions of its memory: train it again") from error


def with_refitted(
    bundle: Bundle, constants: Mapping[str, Mapping[str, Array]], cells: tuple[Array, Array] | None
) -> tuple[dict[str, bytes], References]:
    """Return the references of a child, and its graphs that read them: in an older bundle they held them as constants."""
    values: dict[str, dict[str, Array]] = {LAVIT: dict(constants.get("logic", {}))}
    if cells is not None:
        values[LAVIT] |= {CELL_MEAN: cells[0], CELL_STD: cells[1]}
    if (memory := constants.get("memory")) is not None and (name := memory_graph(bundle.graphs)) is not None:
        values[name] = _memory_values(memory)
    graphs: dict[str, bytes] = {}
    references = bundle.references
    for name, new in values.items():
        if new:
            graphs[name], references = with_values(name, bundle.graph(name), references, new)
    return graphs, references


def _memory_values(memory: Mapping[str, Array]) -> dict[str, Array]:
    if "banks" in memory:
        return dict(zip(("memory_bank", "memory_norms"), bank_constants(memory["banks"]), strict=True))
    return {"memory_mean": np.ascontiguousarray(memory["mean"].transpose(2, 0, 1)[None]), "memory_roots": memory["roots"]}


def new_cells(bundle: Bundle, normal: Described, share: float, *, forget: bool) -> tuple[Array, Array] | None:
    """Return mean and deviation of the cells of the logic map, refitted; None where the graphs do not hold them."""
    if CELL_MEAN not in normal.features:
        return None
    values = _values(bundle, LAVIT)
    if CELL_STD not in values:
        return None
    return refit_cells((values[CELL_MEAN], values[CELL_STD]), normal.features[CELL_MEAN], share, forget=forget)


def likeness(bundle: Bundle, images: Described) -> tuple[float, float] | None:
    """Return by how much the pooled features of images differ from those of the bundle's normal images: how many times their
    distance is the usual one, by medians, and how far their mean is from the centre, in lengths of that. None where the
    bundle does not know its own.
    """
    column, centre = bundle.statistics.branches.index("composition"), bundle.statistics.centre
    known = bundle.raw_scores.get("normalise", np.zeros((0, len(bundle.statistics.branches)), np.float32))[:, column]
    usual, length = float(np.median(known)) if len(known) else 0.0, float(np.linalg.norm(centre))
    if usual <= 0 or length <= 0:
        return None
    away = float(np.linalg.norm(images.features["pooled"].mean(axis=0) - centre))
    return float(np.median(images.raw[:, column])) / usual, away / length


def anomalous(bundle: Bundle, raw: Array) -> int:
    """Return how many of the raw scores f32 [N, B] the bundle calls NG."""
    return int((fuse(raw, bundle.statistics)[1] > bundle.thresholds.ng).sum())


def check_product(bundle: Bundle, images: Described, where: str) -> None:
    """Raise BadInput for images of another product."""
    values = likeness(bundle, images)
    if values is not None and values[0] > MAX_RATIO and values[1] > MAX_AWAY:
        raise BadInput(
            f"{where} shows another product than {bundle.name}: its features lie {values[0]:.0f} times as far from the normal "
            f"images as those themselves, where a new lot lies within {MAX_RATIO:g} times; give images of the same part, or train"
        )


def check_normal(bundle: Bundle, raw: Array, where: str, yes: bool) -> None:
    """Raise BadInput where the bundle calls most images NG, unless ``yes``, somebody looked at them."""
    count = anomalous(bundle, raw)
    if count > MAX_ANOMALOUS * len(raw) and not yes:
        raise BadInput(
            f"{where}: {count} of {len(raw)} images are NG by the thresholds of {bundle.path.name}: look at them, take bad parts "
            "out, and add --yes if all others are normal parts of a new lot"
        )


def check_finite(bundle: Bundle, raw: Array, paths: Sequence[Path]) -> None:
    """Raise DeviceFault for raw scores f32 [N, B] of normal images that are not finite numbers."""
    for path, scores in zip(paths, raw, strict=False):
        for branch, score in zip(bundle.statistics.branches, scores, strict=True):
            if branch in bundle.statistics.active and not np.isfinite(score):
                raise DeviceFault(
                    f"branch {branch!r} of {bundle.path} gives {score} for the normal image {path}, not a finite number; "
                    "train the bundle again"
                )


def known_normal(bundle: Bundle, raw: Array) -> Array:
    """Return raw scores f32 [M, B] of the unseen normal images that set the thresholds of a bundle, each once, without those
    that are among the new images of scores ``raw`` f32 [N, B].
    """
    splits = [bundle.raw_scores.get(split, np.zeros((0, raw.shape[1]), np.float32)) for split in ("normalise", "threshold")]
    if lies_above(*(fuse(split, bundle.statistics)[1] for split in splits)):
        splits = splits[1:]  # training stopped by the first: they are no witnesses of what new images score
    rows: list[Array] = []
    for row in np.concatenate(splits):
        others = np.concatenate([raw, np.reshape(rows, (-1, raw.shape[1]))])
        if np.isfinite(row).all() and not np.isclose(row, others, rtol=1e-4, atol=1e-4).all(axis=1).any():
            rows.append(row)
    return np.stack(rows) if rows else splits[0][:0]


def has_moved(bundle: Bundle, known: Array, raw: Array) -> bool:
    """Whether the new images of raw scores ``raw`` f32 [N, B] show a lot that the bundle does not know: they score above its
    own unseen normal images ``known`` f32 [M, B], by ranks, or more of them are NG than its promise explains (one-sided, 5 %).

    A refit to few images, and thresholds from these alone, are worse than what many images gave: they must be needed.
    """
    old, new = (fuse(rows, bundle.statistics)[1] for rows in (known, raw))
    promised = bundle.thresholds.supported_ng
    rejected = int((~(new <= bundle.thresholds.ng)).sum())  # NaN does not pass
    if bundle.thresholds.goods and rate_exceeded(len(new), rejected, promised):  # thresholds set by hand promise nothing
        return True
    return len(known) < MIN_KNOWN or lies_above(old, new)


def check_sizes(bundle: Bundle, sizes: Iterable[str], where: str, yes: bool) -> None:
    """Raise BadInput for images of a size "WIDTHxHEIGHT" that the training has not seen, unless ``yes``."""
    known: dict[str, int] = bundle.report.get("sizes") or {}
    new = sorted(set(sizes).difference(known)) if known else []
    if new and not yes:
        raise BadInput(
            f"{where} holds images of {new[0]} pixels, but {bundle.path.name} was trained on {', '.join(sorted(known))}: capture "
            "them as those were, or add --yes if they show the same view"
        )
