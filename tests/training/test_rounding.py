"""Views in FP32 and INT8, and the Gaussians that learn from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.deployment.int8 import derive_int8, measuring_backend, recipe_of
from edge_ad.deployment.lot import CENTRE, tapped
from edge_ad.engines.pipeline import Pipeline
from edge_ad.training.statistics import Described, describe_views
from edge_ad.utils.progress import Progress
from tests.fixtures.calibrated import make_calibrated
from tests.fixtures.tiny_bundle import tiny_image
from tests.fixtures.trained import Trained

QUIET = Progress(shown=False)


def graphs_of(bundle: Bundle, dialect: str | None) -> dict[str, bytes]:
    return {} if dialect is None else derive_int8(bundle, recipe_of(bundle), dialect)


def opened(bundle: Bundle, dialect: str | None) -> Pipeline:
    """Open all branches in a dialect, computed as on its target."""
    graphs = graphs_of(bundle, dialect)
    return Pipeline(bundle, backend=measuring_backend(graphs.values()), graphs=graphs, all_branches=True)


def test_views_take_turns_with_the_dialects(tmp_path: Path) -> None:
    bundle = open_bundle(make_calibrated(tmp_path / "tiny.edgead"))
    views = np.stack([tiny_image(number) for number in range(5)])
    found = describe_views(bundle, views, QUIET)
    assert found.surprise is None  # this LAViT counts by L1
    expected = []
    for dialect, own in ((None, views[::3]), ("tensorrt", views[1::3]), ("cpu", views[2::3])):
        with opened(bundle, dialect) as pipeline:
            for view in own:
                pipeline.infer(view)
                expected.append(pipeline.tensor("pooled")[0])
    np.testing.assert_array_equal(found.pooled, np.stack(expected))


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Bundle:
    return open_bundle(trained.bundle)


@pytest.mark.slow
def test_the_surprise_of_a_view_has_the_distance_that_the_graph_tells(bundle: Bundle) -> None:
    """The square root of (v - c) P (v - c), with the dialect's own LAViT."""
    views = np.stack(list(bundle.golden.images[:3]))
    found = describe_views(bundle, views, QUIET)
    assert found.surprise is not None
    centre, precision = bundle.references.surprise_centre, bundle.references.surprise_precision
    away = found.surprise.astype(np.float64) - centre
    told = []
    for dialect, view in zip((None, "tensorrt", "cpu"), views, strict=True):
        with opened(bundle, dialect) as pipeline:
            told.append(float(pipeline.infer(view).raw[1]))
    np.testing.assert_allclose(np.sqrt(np.einsum("ni,ij,nj->n", away, precision, away)), told, rtol=1e-3)


@pytest.mark.slow
def test_another_gaussian_gives_another_distance_of_the_same_graph(bundle: Bundle) -> None:
    held = bundle.references
    assert held.surprise_centre is not None
    width = len(held.surprise_centre)
    centre, precision = np.full(width, 2.0, np.float32), np.eye(width, dtype=np.float32) * 4
    changed = replace(held, surprise_centre=centre, surprise_precision=precision)
    (view,) = bundle.golden.images[:1]
    graph, outputs = tapped(bundle.graph("lavit"), CENTRE)
    with Pipeline(bundle, graphs={"lavit": graph}, references=changed, all_branches=True) as pipeline:
        logic = float(pipeline.infer(view).raw[1])
        away = pipeline.tensor(outputs[CENTRE]).astype(np.float64) - 2.0
    assert logic == pytest.approx(2.0 * np.sqrt((away**2).sum()), rel=1e-4)
    with opened(bundle, None) as pipeline:
        assert pipeline.infer(view).raw[1] != logic


def test_described_without_a_surprise_stays_without() -> None:
    rows = np.ones((2, 3), np.float32)
    both = Described(rows, rows).joined(Described(rows, rows))
    assert both.surprise is not None
    assert both.pooled.shape == both.surprise.shape == (4, 3)
    assert Described(rows, None).joined(Described(rows, None)).surprise is None
