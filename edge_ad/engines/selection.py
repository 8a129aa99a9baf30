"""Which engine runs: what is asked for, else the last one that build-engine finished here; never a silent fall-back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.engines import artefacts
from edge_ad.engines.backends import check_backend, check_precision
from edge_ad.engines.board import is_jetson
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.streams import shared_backend
from edge_ad.errors import BadInput


def open_pipeline(
    bundle: Bundle,
    backend: str | None = None,
    precision: str | None = None,
    all_branches: bool = False,
    root: Path = Path("/"),
) -> Pipeline:
    """Open the pipeline of ``bundle`` on the engine that ``choose`` names."""
    chosen = choose(bundle, backend, precision, root)
    return Pipeline(bundle, precision=chosen.precision, backend=chosen.backend, all_branches=all_branches)


def open_pipelines(
    bundle: Bundle, backend: str | None = None, precision: str | None = None, count: int = 1
) -> Iterator[Pipeline]:
    """Yield ``count`` pipelines that run side by side (see ``Streams``); one alone is that of ``open_pipeline``."""
    chosen = choose(bundle, backend, precision)
    shared = shared_backend(chosen.backend, count) if count != 1 else None
    for _ in range(count):
        yield Pipeline(bundle, precision=chosen.precision, backend=shared or chosen.backend)


def choose(bundle: Bundle, backend: str | None, precision: str | None, root: Path = Path("/")) -> artefacts.Current:
    """Return backend and precision: as asked, else of ``current.json``, else onnxruntime fp32 (said on stderr).

    A Jetson without a finished engine, an unknown name, a missing package and int8 raise BadInput. ``root`` is the root
    of the file system that is looked at for signs of a Jetson.
    """
    if precision is not None:
        check_precision(precision)
    if backend is not None:
        check_backend(backend)
    if backend is not None and precision is not None:
        return artefacts.Current(backend, precision)
    built = artefacts.current(bundle)
    if built is not None and backend in (None, built.backend):
        return artefacts.Current(built.backend, precision or built.precision)
    if built is None and backend is None and is_jetson(root):
        raise BadInput(f"{bundle.path} has no engine for this Jetson: run `edge-ad build-engine --fp16`")
    chosen = artefacts.Current(backend or "onnxruntime", precision or "fp32")
    if precision is None:
        print(
            f"no finished engine of {bundle.path.name} fits: running {chosen.backend} {chosen.precision}; "
            "`edge-ad build-engine --fp16` makes one",
            file=sys.stderr,
        )
    return chosen
