"""All graphs of a bundle as one ONNX file for programs that have ONNX Runtime and nothing of edge-ad.

The file has one input, the image at the bundle's size, and four outputs: ``score``, ``verdict``, ``map`` and ``z``.
Masks, statistics and thresholds are constants inside it. Graphs are joined by name as the pipeline joins them; names
inside a graph get its own name in front, so that two graphs may use the same. Nothing is simplified again: every graph
of a bundle was at its export, and a simplifier would fold the 8-bit weights of an INT8 graph back to floating point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from calibration.precision_sensitive import METADATA_KEY
from edge_ad import __version__
from edge_ad.bundle import Bundle
from edge_ad.bundle.graphs import DROPPABLE, FUSION, IMAGE, bound_constants, map_size, needed_graphs
from edge_ad.engines import engine_store
from edge_ad.engines.backends import check_precision
from edge_ad.engines.onnxruntime import OrtBackend
from edge_ad.engines.pipeline import Inference, Pipeline
from edge_ad.errors import BadInput, GateRefused
from edge_ad.events import Verdict
from edge_ad.geometry.colour import Gains
from edge_ad.geometry.zones import AppliedZones
from edge_ad.scoring import Thresholds
from edge_ad.utils.files import atomic_write, require_writable, sha256_bytes

SUFFIX = ".onnx"
OUTPUTS = ("score", "verdict", "map", "z")
VERDICTS: tuple[Verdict, ...] = ("OK", "WARN", "NG")  # by the number in the output ``verdict``
TOLERANCE = 1e-5  # of the largest magnitude on the golden images
METADATA_PREFIX = "edge_ad."

Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class OneFile:
    """What was written: ``errors`` by output are relative to its largest magnitude on the ``images`` golden images.

    ``locates`` says that whoever runs the file must locate the part and cut it out first.
    """

    path: Path
    sha256: str
    bytes: int
    precision: str
    graphs: tuple[str, ...]
    size: tuple[int, int]
    errors: dict[str, float]
    images: int
    locates: bool


def write_one_file(bundle: Bundle, path: Path, precision: str = "fp32", *, threads: int | None = None) -> OneFile:
    """Write the graphs of ``bundle`` in ``precision`` to ``path`` as one ONNX file, once it agrees with the pipeline.

    fp16 and int8 are the graphs of the engine that ``build-engine`` made and proved for onnxruntime. BadInput for a path
    that is no .onnx file or cannot be written, an unknown precision, and an engine that is missing or does not fit;
    GateRefused, with nothing written, where an output differs from the pipeline's by more than ``TOLERANCE``.
    """
    check_precision(precision)
    _check_path(path)
    backend = OrtBackend(threads)
    names = needed_graphs(bundle.graphs, bundle.statistics.active)
    built = _built_graphs(bundle, backend, precision, names)
    with Pipeline(bundle, precision=precision, backend=backend, graphs=built) as pipeline:
        graphs = {name: built[name] if name in built else bundle.graph(name) for name in names}
        data = merge(bundle, graphs, precision).SerializeToString()
        session = backend.load("of one file", data).session
        images = [bundle.geometry.in_camera_light(image) for image in bundle.golden.images]
        given = _stacked(session.run(list(OUTPUTS), {IMAGE: image[None]}) for image in images)
        results = [pipeline.infer(bundle.geometry.input_of(image)) for image in images]
    errors = compare(given, results, bundle.thresholds, bundle.geometry.zones)
    atomic_write(path, data)
    return OneFile(
        path=path,
        sha256=sha256_bytes(data),
        bytes=len(data),
        precision=precision,
        graphs=names,
        size=bundle.image_size,
        errors=errors,
        images=len(images),
        locates=bundle.geometry.locates,
    )


def _check_path(path: Path) -> None:
    if path.suffix != SUFFIX:
        raise BadInput(f"{path} must end in {SUFFIX}, by which other programs know the format; rename it")
    require_writable(path)


def _built_graphs(bundle: Bundle, backend: OrtBackend, precision: str, names: tuple[str, ...]) -> Mapping[str, bytes]:
    try:
        return engine_store.load(bundle, backend, precision, names)
    except BadInput as error:
        raise BadInput(f"{error}; a file is made of the engine for onnxruntime, so add --backend onnxruntime to it") from error


def _stacked(rows: Iterable[list[NDArray[Any]]]) -> Rows:
    return {name: np.stack(values) for name, values in zip(OUTPUTS, zip(*rows, strict=True), strict=True)}


def compare(
    given: Rows, results: Sequence[Inference], thresholds: Thresholds, zones: AppliedZones | None = None
) -> dict[str, float]:
    """Return the largest error of every output [G, ...] against the pipeline's results, relative to its largest magnitude.

    The score is a mean of z, so it shares the scale of z: near 0 its own would tell of rounding alone. Verdicts must be
    those of the file's own scores, since a golden image may lie on a threshold. GateRefused names the first output that
    is beyond the tolerance.
    """
    z, maps = np.stack([result.z for result in results]), np.stack([result.map[None, None] for result in results])
    scores = np.array([[result.score] for result in results])
    own = [zones.scores(heat[0, 0]) if zones is not None and thresholds.zones else {} for heat in given["map"]]
    pairs = zip(given["score"], own, strict=True)
    verdicts = np.array([[VERDICTS.index(thresholds.verdict_of_part(float(score), one))] for (score,), one in pairs])
    errors = {
        "score": _relative(given["score"], scores, np.abs(z).max()),
        "verdict": float(np.mean(given["verdict"] != verdicts)),
        "map": _relative(given["map"], maps, np.abs(maps).max()),
        "z": _relative(given["z"], z, np.abs(z).max()),
    }
    for name, error in errors.items():
        allowed = 0.0 if name == "verdict" else TOLERANCE
        if not error <= allowed:  # NaN, too
            raise GateRefused(
                f"output {name!r} of the file differs from the pipeline's by {error:.1e} on the golden images, and "
                f"{allowed:g} is allowed: nothing was written; build the engine again, or take --precision fp32"
            )
    return errors


def _relative(given: NDArray[Any], wanted: NDArray[Any], scale: float) -> float:
    return float(np.max(np.abs(given.astype(np.float64) - wanted)) / max(float(scale), 1e-6))


def merge(bundle: Bundle, graphs: Mapping[str, bytes], precision: str) -> onnx.ModelProto:
    """Return ``graphs`` of a bundle, by name in running order, as one checked model."""
    joined = _Joined(bound_constants(bundle.masks, bundle.statistics, bundle.references.arrays()))
    for name, data in graphs.items():
        joined.add(name, onnx.load_model_from_string(data))
    if bundle.geometry.zones is not None:
        joined.replace_ignored(bundle.geometry.zones)
    if bundle.geometry.gains is not None:
        joined.apply_gains(bundle.geometry.gains)
    zones = bundle.geometry.zones if bundle.thresholds.zones else None
    joined.add_verdict(bundle.thresholds, {} if zones is None else zones.zones.places(map_size(bundle.image_size)))
    model = joined.model(bundle.name)
    texts = {METADATA_PREFIX + key: value for key, value in metadata(bundle, precision, tuple(graphs)).items()}
    helper.set_model_props(model, texts | ({METADATA_KEY: "\n".join(joined.fp32_nodes)} if joined.fp32_nodes else {}))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadInput(f"the graphs of {bundle.path} make no valid model ({error}); train the bundle again") from error
    return model


def metadata(bundle: Bundle, precision: str, graphs: tuple[str, ...]) -> dict[str, str]:
    """Return what the file says of itself, JSON but for plain texts: all that a host program needs beside the graph."""
    geometry, thresholds = bundle.geometry, bundle.thresholds
    values, _ = geometry.state()
    height, width = bundle.image_size
    resize = "area where the image shrinks, linear where it grows"
    described = {
        "geometry": {**values, "input_size": [height, width], "locates": geometry.locates, "resize": resize},
        "thresholds": {"warn": thresholds.warn, "ng": thresholds.ng},
        "verdicts": list(VERDICTS),
        "branches": bundle.manifest["branches"],
        "weights": bundle.statistics.weight.tolist(),
        "graphs": list(graphs),
    }
    texts = {
        "version": __version__,
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256,
        "created": bundle.created,
        "preset": bundle.preset,
        "precision": precision,
    }
    return texts | {key: json.dumps(value) for key, value in described.items()}


class _Joined:
    """Nodes and constants of graphs that were joined so far.

    Tensors of the contract (`edge_ad.bundle.graphs`) keep their names, all others get that of their graph in front.
    """

    def __init__(self, constants: Mapping[str, NDArray[Any]]) -> None:
        self.fp32_nodes: list[str] = []
        self._constants = constants
        self._known: dict[str, onnx.ValueInfoProto] = {}  # tensors of the contract that are there
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, TensorProto] = {}
        self._opsets: dict[str, int] = {}
        self._ir_version = 0

    def add(self, name: str, model: onnx.ModelProto) -> None:
        """Add a graph; BadInput where an input is given by nothing, or an opset differs from that of the others."""
        if model.functions:
            model = inliner.inline_local_functions(model)
        self._take_versions(name, model)
        graph = model.graph
        own = {tensor.name for tensor in graph.initializer}
        inputs = [entry for entry in graph.input if entry.name not in own]
        for entry in inputs:
            self._provide(name, entry)
        interface = {entry.name for entry in (*inputs, *graph.output)} | {""}  # an optional input left out has no name
        asked = {prop.key: prop.value for prop in model.metadata_props}.get(METADATA_KEY, "").split("\n")

        def renamed(text: str) -> str:
            return text if text in interface else f"{name}/{text}"

        for number, node in enumerate(graph.node):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{name}/{node.name or number}"
            copy.input[:] = [renamed(text) for text in node.input]
            copy.output[:] = [renamed(text) for text in node.output]
            self._nodes.append(copy)
            if node.name and node.name in asked:
                self.fp32_nodes.append(copy.name)
        for tensor in graph.initializer:
            self._keep(tensor, renamed(tensor.name))
        for entry in graph.output:
            if entry.name in self._known:
                raise BadInput(f"graphs {name!r} and an earlier one both give {entry.name!r}; train the bundle again")
            self._known[entry.name] = entry

    def replace_ignored(self, zones: AppliedZones) -> None:
        """Let all graphs see the image with the mean of the normal images where it is ignored."""
        for node in self._nodes:
            node.input[:] = ["zones/image" if text == IMAGE else text for text in node.input]
        self._keep(numpy_helper.from_array(zones.ignored[None, ..., None]), "zones/ignored")
        self._keep(numpy_helper.from_array(zones.mean[None]), "zones/mean")
        inputs = ["zones/ignored", "zones/mean", IMAGE]
        self._nodes.insert(0, helper.make_node("Where", inputs, ["zones/image"], name="zones/Where"))

    def apply_gains(self, gains: Gains) -> None:
        """Let all that reads the image see every channel times its gain, rounded to even and cut to 0..255."""
        for node in self._nodes:
            node.input[:] = ["gains/image" if text == IMAGE else text for text in node.input]
        self._keep(numpy_helper.from_array(np.array(gains, np.float32)), "gains/factors")
        self._keep(numpy_helper.from_array(np.array(0, np.float32)), "gains/least")
        self._keep(numpy_helper.from_array(np.array(255, np.float32)), "gains/most")
        steps: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = [
            ("Cast", (IMAGE,), "gains/float", {"to": TensorProto.FLOAT}),
            ("Mul", ("gains/float", "gains/factors"), "gains/scaled", {}),
            ("Round", ("gains/scaled",), "gains/rounded", {}),
            ("Clip", ("gains/rounded", "gains/least", "gains/most"), "gains/cut", {}),
            ("Cast", ("gains/cut",), "gains/image", {"to": TensorProto.UINT8}),
        ]
        self._nodes[:0] = [
            helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes)
            for kind, inputs, output, attributes in steps
        ]

    def add_verdict(self, thresholds: Thresholds, places: Mapping[str, NDArray[np.intp]]) -> None:
        """Add the nodes of ``verdict``: the worst of the score, and of each zone with thresholds by its highest cell of ``map``."""
        self._add_level("score", thresholds, "verdict/whole" if thresholds.zones else "verdict", "verdict/")
        if thresholds.zones:
            self._keep(numpy_helper.from_array(np.array([-1], np.int64)), "verdict/flat")
            self._node("Reshape", ("map", "verdict/flat"), "verdict/cells")
            levels = [self._add_zone(f"verdict/zone{at}/", places[name], own) for at, (name, own) in enumerate(thresholds.zones)]
            self._node("Max", ("verdict/whole", *levels), "verdict")
        self._known["verdict"] = helper.make_tensor_value_info("verdict", TensorProto.INT32, [1])

    def _add_zone(self, prefix: str, places: NDArray[np.intp], own: Thresholds) -> str:
        """Add the level of a zone's highest cell, and return its name."""
        self._keep(numpy_helper.from_array(places.astype(np.int64)), f"{prefix}places")
        self._node("Gather", ("verdict/cells", f"{prefix}places"), f"{prefix}cells")
        self._node("ReduceMax", (f"{prefix}cells",), f"{prefix}score", keepdims=1)
        self._add_level(f"{prefix}score", own, f"{prefix}level", prefix)
        return f"{prefix}level"

    def _add_level(self, score: str, thresholds: Thresholds, output: str, prefix: str) -> None:
        """Add 2, less 1 for a score not above NG and 1 for one not above WARN.

        A score that is not a finite number is neither, and so NG. Thresholds are rounded down: a 32-bit score lies above
        the 64-bit threshold exactly where it lies above the largest 32-bit number that is not.
        """
        least = np.float32(np.finfo(np.float32).min)
        constants = {"ng": _floor32(thresholds.ng), "warn": _floor32(thresholds.warn), "least": least, "two": np.int32(2)}
        for name, value in constants.items():
            self._keep(numpy_helper.from_array(np.array([value])), f"{prefix}{name}")
        self._node("GreaterOrEqual", (score, f"{prefix}least"), f"{prefix}finite")
        self._node("LessOrEqual", (score, f"{prefix}ng"), f"{prefix}below_ng")
        self._node("LessOrEqual", (score, f"{prefix}warn"), f"{prefix}below_warn")
        self._node("And", (f"{prefix}below_ng", f"{prefix}finite"), f"{prefix}not_ng")
        self._node("And", (f"{prefix}below_warn", f"{prefix}finite"), f"{prefix}not_warn")
        for name in ("not_ng", "not_warn"):
            self._node("Cast", (f"{prefix}{name}",), f"{prefix}{name}_count", to=TensorProto.INT32)
        self._node("Sub", (f"{prefix}two", f"{prefix}not_ng_count"), f"{prefix}at_most_warn")
        self._node("Sub", (f"{prefix}at_most_warn", f"{prefix}not_warn_count"), output)

    def model(self, name: str) -> onnx.ModelProto:
        """Return the model with the outputs of one file, without what leads to none of them."""
        nodes, used = [], set(OUTPUTS)
        for node in reversed(self._nodes):
            if used.intersection(node.output):
                nodes.append(node)
                used.update(node.input)
        initialisers = [tensor for key, tensor in self._initialisers.items() if key in used]
        outputs = [self._known[key] for key in OUTPUTS]
        graph = helper.make_graph(nodes[::-1], name, [self._known[IMAGE]], outputs, initialisers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets.items()]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=self._ir_version)
        made.producer_name, made.producer_version = "edge-ad", __version__
        return made

    def _provide(self, graph: str, entry: onnx.ValueInfoProto) -> None:
        """Make sure of an input: a tensor that is there, the image, a constant, or zeros of a branch that is left out."""
        first = self._known.setdefault(entry.name, entry)
        if first is not entry or entry.name == IMAGE:
            return
        value = self._constants.get(entry.name)
        if value is None and graph == FUSION and entry.name in DROPPABLE:
            value = np.zeros([size.dim_value for size in entry.type.tensor_type.shape.dim], np.float32)
        if value is None:
            raise BadInput(f"graph {graph!r} needs {entry.name!r}, which no graph gives; train the bundle again")
        self._keep(numpy_helper.from_array(value), entry.name)

    def _take_versions(self, name: str, model: onnx.ModelProto) -> None:
        self._ir_version = max(self._ir_version, model.ir_version)
        for entry in model.opset_import:
            first = self._opsets.setdefault(entry.domain, entry.version)
            if first != entry.version:
                raise BadInput(f"graph {name!r} has opset {entry.version}, but others have {first}; train the bundle again")

    def _keep(self, tensor: TensorProto, name: str) -> None:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.name = name
        self._initialisers[name] = copy

    def _node(self, kind: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=f"verdict/{kind}_{output}", **attributes))


def _floor32(value: float) -> np.float32:
    """Return the largest 32-bit number that is not above ``value``."""
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    return rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf))
