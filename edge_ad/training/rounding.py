"""Gaussians that allow for noise and for INT8 (ours): disturbed views of goods, some in FP32 and some through rounded graphs.

A Mahalanobis distance magnifies what goods never show, and goods in FP32 never show an error of rounding. Learned from
rounded views too, composition and surprise err less in INT8, and find synthetic anomalies no worse.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from calibration.placement import DIALECTS
from edge_ad.bundle import Bundle, BundleContents, open_bundle, write_bundle
from edge_ad.engines.calibrate import CalibrateOptions, with_quantisation
from edge_ad.engines.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.engines.pipeline import Pipeline
from edge_ad.scoring import fit_gaussian
from edge_ad.training.pictures import Images, Pictures
from edge_ad.training.progress import Progress
from edge_ad.training.scores import blank_statistics

CENTRE, PRECISION = "model.surprise.centre", "model.surprise.precision"  # constants of the graph of LAViT
TURNS = (None, *DIALECTS)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Described:
    """What the Gaussians learn from: pooled features f32 [N, D] of goods, and their surprise f32 [N, E] where it has one."""

    pooled: Array
    surprise: Array | None

    def joined(self, other: Described) -> Described:
        """Return both."""
        surprise = self.surprise
        if surprise is not None and other.surprise is not None:
            surprise = np.concatenate([surprise, other.surprise])
        return Described(np.concatenate([self.pooled, other.pooled]), surprise)


def learn_rounding(
    contents: BundleContents,
    exact: Described,
    pictures: Pictures,
    views: Images,
    scratch: Path,
    options: CalibrateOptions,
    progress: Progress,
) -> tuple[BundleContents, CalibrateOptions]:
    """Return ``contents`` with Gaussians of ``exact`` goods and of ``views`` u8 [N, S, S, 3], and ``options`` with the bias
    corrections that were measured on the way; both as they are without views.
    """
    if not len(views):
        return contents, options
    calibrated = with_quantisation(contents, scratch, pictures.fit, pictures.threshold, options, progress.say)
    assert calibrated.quantisation is not None
    write_bundle(scratch, calibrated)
    described = exact.joined(describe_views(open_bundle(scratch), views, progress))
    scratch.unlink()
    graphs = dict(contents.graphs)
    if described.surprise is not None:
        graphs["lavit"] = with_surprise(graphs["lavit"], *fit_gaussian(described.surprise))
    found = replace(contents, graphs=graphs, statistics=blank_statistics(described.pooled))
    return found, replace(options, corrections=calibrated.quantisation.plan["corrections"])


def describe_views(bundle: Bundle, views: Images, progress: Progress) -> Described:
    """Describe ``views`` by the graphs of a calibrated bundle: a third in FP32, a third by each dialect of INT8."""
    recipe, began = recipe_of(bundle), time.monotonic()
    surprising = _constant(_parsed(bundle.graph("lavit")), CENTRE) is not None
    pooled: list[Array] = []
    surprise: list[Array] = []
    for turn, dialect in enumerate(TURNS):
        graphs = {} if dialect is None else derive_int8(bundle, recipe, dialect)
        if surprising:
            graphs["lavit"], name = _tapped(graphs.get("lavit") or bundle.graph("lavit"))
        backend = measuring_backend(graphs.values())
        with Pipeline(bundle, backend=backend, graphs=graphs, all_branches=True) as pipeline:
            for view in views[turn :: len(TURNS)]:
                pipeline.infer(view)
                pooled.append(pipeline.tensor("pooled")[0])
                if surprising:
                    surprise.append(pipeline.tensor(name))
                progress.step("views", len(pooled), len(views), began)
    return Described(np.stack(pooled), np.stack(surprise) if surprise else None)


def with_surprise(lavit: bytes, centre: Array, precision: Array) -> bytes:
    """Return the graph of LAViT with another Gaussian of the surprise: ``centre`` f32 [E], ``precision`` f32 [E, E]."""
    model = _parsed(lavit)
    for name, value in ((CENTRE, centre), (PRECISION, precision)):
        held = _constant(model, name)
        if held is None or tuple(held.dims) != value.shape:
            raise ValueError(f"the graph of LAViT has no constant {name} of shape {list(value.shape)}")
        held.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return bytes(model.SerializeToString())


def _tapped(lavit: bytes) -> tuple[bytes, str]:
    """Return the graph with one more output, the surprise before its centre is taken off, and that output's name."""
    model = _parsed(lavit)
    name = next(node.input[0] for node in model.graph.node if node.op_type == "Sub" and node.input[1] == CENTRE)
    width = _constant(model, CENTRE).dims[0]  # type: ignore[union-attr]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [width]))
    return bytes(model.SerializeToString()), name


def _constant(model: ModelProto, name: str) -> TensorProto | None:
    return next((held for held in model.graph.initializer if held.name == name), None)


def _parsed(data: bytes) -> ModelProto:
    return onnx.load_model_from_string(data)
