"""All graphs of a bundle wired once: a frame is one upload, one run of each graph and one small download.

The cascade (ours) runs the cheap branches first: LAViT is left out while the others leave no doubt that a part is OK.
No raw score of LAViT lies below 0, so the score with a raw score of 0 in its place is the least that the whole can be.
Below a limit on that least score a part is called OK and LAViT, the dearest graph, does not run. Every other part is
judged in full, so a part that the cascade calls WARN or NG is called so by the full run too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, References
from edge_ad.bundle.graphs import (
    DROPPABLE,
    EXPENSIVE,
    FUSION,
    IMAGE,
    RESULTS,
    TEACHER,
    ZONE_PREFIX,
    bound_constants,
    computed_branches,
    expensive_branches,
    map_size,
    needed_graphs,
)
from edge_ad.engines import engine_store
from edge_ad.engines.backends import open_backend
from edge_ad.engines.protocol import Backend, Engine, FrameExecutor, Tensor, TensorSpec, check_image
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.scoring import BRANCHES, Statistics, Thresholds, fuse


@dataclass(frozen=True, eq=False)
class Inference:
    """What one frame gives.

    ``raw`` and ``z`` f32 [B] in branch order (a branch that is not computed has raw 0 and weight 0), the fused
    ``score``, the anomaly ``map`` f32 [h, w] in the aspect ratio of the image (256 x 256 of a square), and
    ``stages_ms``: milliseconds of upload, every graph, download. ``skipped`` are branches that a cascade left out this
    time: their raw is 0 and ``score`` is the least it can be.
    """

    raw: NDArray[np.float32]
    z: NDArray[np.float32]
    score: float
    map: NDArray[np.float32]
    stages_ms: dict[str, float]
    skipped: tuple[str, ...] = ()


class Pipeline:
    """The graphs of a bundle on one backend. Use it with ``with``, or ``close`` it; not for several threads at a time.

    ``precision`` other than fp32, and tensorrt, need engines that ``build-engine`` made, unless ``graphs`` gives them
    (by graph name; on onnxruntime ONNX bytes, and the bundle's own where a name is absent). Graphs whose branches all
    have weight 0 are not loaded unless ``all_branches``. ``references`` take the place of the bundle's own. ``backend`` is
    a name, or a backend that this pipeline closes.
    ``threads`` defaults to the physical cores. Anything that does not fit raises BadInput.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        backend: str | Backend = "onnxruntime",
        threads: int | None = None,
        all_branches: bool = False,
        graphs: Mapping[str, bytes] | None = None,
        references: References | None = None,
    ) -> None:
        self.precision = precision
        self.backend: Backend = open_backend(backend, threads) if isinstance(backend, str) else backend
        self.image_size = bundle.image_size
        names = needed_graphs(bundle.graphs, BRANCHES if all_branches else bundle.statistics.active)
        if graphs is None:
            graphs = engine_store.load(bundle, self.backend, precision, names)
        self._tensors: dict[str, Tensor] = {}
        self._frame: FrameExecutor | None = None
        self._engines: dict[str, Engine] = {}
        bound = bundle.references if references is None else references
        self._constants = bound_constants(bundle.masks, bundle.statistics, bound.arrays())
        try:
            for name in names:
                self._add(name, graphs[name] if name in graphs else bundle.graph(name))
            self._check_ends()
            results = [self._tensors[name] for name in RESULTS]
            self._frame = self.backend.frame(self._engines, self._tensors[IMAGE], results)
        except BaseException:
            self.close()
            raise
        self.branches = computed_branches(self._engines, bundle.graphs)

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The loaded engines by graph name, in running order."""
        return MappingProxyType(self._engines)

    @property
    def constants(self) -> tuple[str, ...]:
        """The names of the tensors bound from the bundle."""
        return tuple(name for name in self._constants if name in self._tensors)

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Run every graph on ``image`` u8 [H, W, 3] RGB of ``image_size``; BadInput for another shape or dtype."""
        checked = check_image(image, self.image_size)
        if self._frame is None:
            raise DeviceFault("the pipeline is closed; open it again")
        return self.collect(self._frame.run(checked[None]))

    def collect(self, stages: Mapping[str, float]) -> Inference:
        """Return what the last frame left; reading it counts as download."""
        start = perf_counter()
        raw, z, score, fused = (self._tensors[name].read() for name in RESULTS)
        taken = stages.get("download", 0.0) + (perf_counter() - start) * 1000.0
        return Inference(raw, z, float(score[0]), fused[0, 0], {**stages, "download": taken})

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a copy of the last value of a tensor, such as ``map_local`` or ``pooled``; BadInput without one.

        On a GPU DeviceFault once the pipeline is closed.
        """
        if name not in self._tensors:
            raise BadInput(f"there is no tensor {name!r} here; there are {', '.join(sorted(self._tensors))}")
        return self._tensors[name].read()

    def counted_map(self, name: str) -> NDArray[Any]:
        """Return the last value of a map f32 [h * w] as the fusion reads it: with the factors of zones, where there are any."""
        values, zone = self.tensor(name).reshape(-1), ZONE_PREFIX + name.removeprefix("map_")
        return values * self.tensor(zone).reshape(-1) if zone in self._tensors else values

    def close(self) -> None:
        """Free all engines and their memory; calling it again does nothing."""
        if self._frame is not None:
            self._frame.close()
            self._frame = None
        for engine in self._engines.values():
            engine.close()
        self.backend.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, name: str, graph: bytes) -> None:
        """Load a graph, bind its inputs to what is there already and its outputs to new tensors."""
        engine = self.backend.load(name, graph)
        self._engines[name] = engine
        for spec in engine.inputs.values():
            engine.bind(spec.name, self._tensors.get(spec.name) or self._source(name, spec))
        for spec in engine.outputs.values():
            if spec.name in self._tensors:
                raise BadInput(f"graphs {name!r} and an earlier one both give {spec.name!r}; train the bundle again")
        self._exchange([engine.outputs[result] for result in RESULTS if result in engine.outputs])
        for spec in engine.outputs.values():
            engine.bind(spec.name, self._tensors.get(spec.name) or self._new(spec))

    def _source(self, graph: str, spec: TensorSpec) -> Tensor:
        """Make an input that no graph gives: the image, a constant of the bundle, or zeros of a dropped branch."""
        dropped = graph == FUSION and spec.name in DROPPABLE
        if spec.name != IMAGE and spec.name not in self._constants and not dropped:
            raise BadInput(f"graph {graph!r} needs {spec.name!r}, which no graph gives; train the bundle again")
        value = self._constants.get(spec.name)
        if value is not None and (value.shape != spec.shape or str(value.dtype) != spec.dtype):
            raise BadInput(
                f"graph {graph!r} wants {spec}, but the bundle holds {value.dtype} {list(value.shape)}; train it again"
            )
        if spec.name == IMAGE:
            return self._exchange([spec])[0]
        tensor = self._new(spec)
        if value is not None:
            tensor.write(value)
        return tensor

    def _new(self, spec: TensorSpec) -> Tensor:
        tensor = self.backend.allocate(spec)
        self._tensors[spec.name] = tensor
        return tensor

    def _exchange(self, specs: list[TensorSpec]) -> list[Tensor]:
        tensors = self.backend.exchange(specs) if specs else []
        self._tensors.update({tensor.spec.name: tensor for tensor in tensors})
        return tensors

    def _check_ends(self) -> None:
        """Check the image and the results against the contract, so that ``infer`` need not."""
        height, width = self.image_size
        count = len(self._constants["weight"])  # of branches
        ends = (
            TensorSpec(IMAGE, "uint8", (1, height, width, 3)),
            TensorSpec("raw", "float32", (count,)),
            TensorSpec("z", "float32", (count,)),
            TensorSpec("score", "float32", (1,)),
            TensorSpec("map", "float32", (1, 1, *map_size(self.image_size))),
        )
        for wanted in ends:
            actual = self._tensors.get(wanted.name)
            if actual is None or actual.spec != wanted:
                message = "nothing of that name" if actual is None else str(actual.spec)
                raise BadInput(f"the graphs of a bundle must have the tensor {wanted}, but have {message}; train it again")


SKIPPED = expensive_branches()  # none of their raw scores may lie below 0
USUAL = 0.95  # of the normal images: what is less usual than these is judged in full


def min_scores(raw: NDArray[np.float32], statistics: Statistics) -> NDArray[np.float32]:
    """Return the least that the scores f32 [N] of ``raw`` f32 [N, B] can be before LAViT has run."""
    without = raw.copy()
    without[:, [BRANCHES.index(branch) for branch in SKIPPED]] = 0.0
    return fuse(without, statistics)[1]


def limit_of(bundle: Bundle, thresholds: Thresholds, rate: float) -> float:
    """Return the least score below which LAViT is left out.

    Of anomalies like the synthetic ones of the training that the full run calls WARN or NG, on average at most ``rate``
    come out as OK: m known ones support no rate below 1 / (m + 1) (split conformal), and less is refused with BadInput.
    Real anomalies may be unlike them, so the limit is never above what ``USUAL`` of the threshold's normal images
    reach.
    """
    raw = _known(bundle, "synthetic")
    result = raw[fuse(raw, bundle.statistics)[1] > thresholds.warn] if len(raw) else raw
    allowed = math.floor(rate * (len(result) + 1)) - 1
    if allowed < 0:
        raise BadInput(
            f"--cascade is {rate:g}, but the {len(result)} anomalies that the bundle knows support no rate below "
            f"{1 / (len(result) + 1):.2g}: allow more, or leave --cascade out"
        )
    by_anomalies = float(np.sort(min_scores(result, bundle.statistics))[allowed])
    return min(by_anomalies, _usual(bundle), thresholds.warn)


def _usual(bundle: Bundle) -> float:
    normal = _known(bundle, "threshold")
    if not len(normal):
        return math.inf
    return float(np.sort(min_scores(normal, bundle.statistics))[math.ceil(USUAL * len(normal)) - 1])


def _known(bundle: Bundle, split: str) -> NDArray[np.float32]:
    """Return the raw scores of a split f32 [N, B], none where the bundle does not have it."""
    return bundle.raw_scores.get(split, np.zeros((0, len(bundle.statistics.branches)), np.float32))


class Cascade:
    """A pipeline that runs LAViT only where the verdict is open. It closes nothing: the pipeline is the caller's.

    ``thresholds`` gives those in force; the limit follows them. BadInput for a pipeline without LAViT or on a GPU,
    where the whole frame is one recorded graph.
    """

    def __init__(self, pipeline: Pipeline, bundle: Bundle, rate: float, thresholds: Callable[[], Thresholds]) -> None:
        engines, left_out = pipeline.engines, [name for name in EXPENSIVE if name in pipeline.engines]
        if not left_out:
            raise BadInput(
                f"--cascade has nothing to leave out: the branch {' and '.join(SKIPPED)} has weight 0 in this bundle"
            )
        if pipeline.backend.name != "onnxruntime":
            raise BadInput(f"--cascade runs on onnxruntime, not on {pipeline.backend.name}: leave it out")
        self._pipeline, self._bundle, self._rate, self._thresholds = pipeline, bundle, rate, thresholds
        self._known: tuple[Thresholds, float] | None = None
        self.image_size, self.branches = pipeline.image_size, pipeline.branches
        image = engines[TEACHER].bound(IMAGE)
        results = [engines[FUSION].bound(name) for name in RESULTS]
        self._expensive = [engines[name].bound(output) for name in left_out for output in engines[name].outputs]
        cheap = {name: engine for name, engine in engines.items() if name not in left_out}
        rest = {name: engines[name] for name in (*left_out, FUSION)}
        self._cheap = pipeline.backend.frame(cheap, image, results)
        self._rest = pipeline.backend.frame(rest, image, results)

    @property
    def limit(self) -> float:
        """The least score below which LAViT is left out, for the thresholds in force."""
        now = self._thresholds()
        if self._known is None or self._known[0] is not now:
            try:
                self._known = (now, limit_of(self._bundle, now, self._rate))
            except BadInput:  # new thresholds, above which too few known anomalies lie: everything is judged in full
                self._known = (now, -math.inf)
        return self._known[1]

    def infer(self, image: NDArray[np.uint8]) -> Inference:
        """Judge ``image`` as the pipeline does, or without LAViT; then ``skipped`` names its branch."""
        for tensor in self._expensive:
            tensor.write(np.zeros(tensor.spec.shape, tensor.spec.dtype))
        stages = self._cheap.run(image[None])
        result = self._pipeline.collect(stages)
        if result.score < self.limit:
            return replace(result, skipped=SKIPPED)
        more = self._rest.run(image[None])
        both = {name: stages.get(name, 0.0) + more.get(name, 0.0) for name in {**stages, **more}}
        return self._pipeline.collect(both)
