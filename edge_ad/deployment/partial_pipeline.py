"""The graphs of a pipeline with some of them exchanged, where only what follows a change is run again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle.graphs import IMAGE
from edge_ad.deployment.int8 import measuring_backend
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.protocol import Engine, Tensor

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
