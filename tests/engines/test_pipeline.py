"""The pipeline on the tiny bundle: the numbers of plain sessions, no copy on a wire, no graph that is not needed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_ad.bundle import Bundle, open_bundle, write_bundle
from edge_ad.bundle.graphs import computed_branches, needed_graphs
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.protocol import Tensor
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.scoring import BRANCHES, fuse
from tests.fixtures.tiny_bundle import Reference, make_tiny_bundle, tiny_contents, tiny_image
from tests.fixtures.tiny_graphs import tiny_graphs

FIVE = BRANCHES[:5]  # of the tiny bundle, which is as the first bundles were


@pytest.fixture(scope="module", params=["fast", "paper"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    return open_bundle(make_tiny_bundle(folder / "tiny.edgead", preset=request.param))


def with_weight(folder: Path, *weight: float, preset: str = "fast") -> Bundle:
    return open_bundle(make_tiny_bundle(folder / "tiny.edgead", preset=preset, weight=weight))


def test_agrees_with_plain_sessions(bundle: Bundle) -> None:
    reference = Reference({name: bundle.graph(name) for name in bundle.graphs}, bundle.masks)
    with Pipeline(bundle, threads=1) as pipeline:
        for seed in range(6):
            image = tiny_image(seed, blob=seed % 2 == 1)
            result = pipeline.infer(image)
            raw = reference.raw(image, bundle.statistics.centre, bundle.statistics.precision)
            z, score = fuse(raw[None], bundle.statistics)
            np.testing.assert_allclose(result.raw, raw, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(result.z, z[0], rtol=1e-3, atol=2e-2)
            assert result.score == pytest.approx(score[0], rel=1e-3, abs=1e-2)
            np.testing.assert_allclose(pipeline.tensor("map_local"), reference.tensors(image)["map_local"], rtol=1e-4)


def test_an_inference_is_plain_and_stays_as_it_is(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline:
        first = pipeline.infer(tiny_image(1, blob=True))
        kept = first.raw.copy(), first.z.copy(), first.map.copy()
        second = pipeline.infer(tiny_image(2))
    assert first.raw.shape == first.z.shape == (5,)
    assert first.map.shape == (256, 256)
    assert {array.dtype for array in (first.raw, first.z, first.map)} == {np.dtype(np.float32)}
    assert isinstance(first.score, float)
    assert first.score > second.score
    for before, now in zip(kept, (first.raw, first.z, first.map), strict=True):
        np.testing.assert_array_equal(before, now)


def test_the_map_shows_where_the_blob_is(bundle: Bundle) -> None:
    image = tiny_image(3)
    image[40:56, 8:24] = 250
    with Pipeline(bundle, threads=1) as pipeline:
        heat = pipeline.infer(image).map
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 40 * 4 <= row < 56 * 4
    assert 8 * 4 <= column < 24 * 4


def test_stages_cover_upload_every_graph_and_download(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline:
        stages = pipeline.infer(tiny_image(0)).stages_ms
        assert list(stages) == ["upload", *pipeline.engines, "download"]
    assert all(value >= 0 for value in stages.values())


def test_no_copy_between_graphs(bundle: Bundle) -> None:
    """Every input that an earlier graph gives is the very tensor it writes, also as onnxruntime sees it."""
    with Pipeline(bundle, threads=1) as pipeline:
        pipeline.infer(tiny_image(0))
        written: dict[str, Tensor] = {}
        shared = 0
        for engine in pipeline.engines.values():
            for name in engine.inputs:
                if name in written:
                    assert engine.bound(name) is written[name]
                    shared += 1
            written |= {name: engine.bound(name) for name in engine.outputs}
            addresses = [value.data_ptr() for value in engine.binding.get_outputs()]  # type: ignore[attr-defined]
            assert addresses == [engine.bound(name).address for name in engine.outputs]
        # features; tokens twice; codes; pooled; and four maps with raw_logic into the fusion
        assert shared == 10
        before = {name: tensor.address for name, tensor in written.items()}
        pipeline.infer(tiny_image(1))
        assert {name: tensor.address for name, tensor in written.items()} == before


def test_the_image_is_uploaded_once_for_all_graphs(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline:
        users = [engine.bound("image") for engine in pipeline.engines.values() if "image" in engine.inputs]
    assert len(users) >= 2
    assert all(user is first for first, user in pairwise(users))


def test_constants_are_bound_from_the_bundle(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline:
        assert set(pipeline.constants) == {"masks", "quantiles", "centre", "precision", "mean", "std", "weight"}
        np.testing.assert_array_equal(pipeline.tensor("masks"), bundle.masks)
        for name, value in bundle.statistics.arrays().items():
            np.testing.assert_array_equal(pipeline.tensor(name), value)


@pytest.mark.parametrize(
    ("weight", "loaded", "branches"),
    [
        ((0, 0, 0, 0, 1), "teacher fusion", "composition"),
        ((0, 0, 0.5, 0.5, 0), "teacher efficientad fusion", "local global composition"),
        ((1, 0, 0, 0, 0), "teacher tokenizer fusion", "structure composition"),
        ((0, 1, 0, 0, 0), "teacher tokenizer lavit fusion", "structure logic composition"),
        ((0.2, 0.2, 0.2, 0.2, 0.2), "teacher efficientad tokenizer lavit fusion", " ".join(FIVE)),
    ],
)
def test_graphs_without_weight_are_not_loaded(
    tmp_path: Path, weight: tuple[float, ...], loaded: str, branches: str
) -> None:
    bundle = with_weight(tmp_path, *weight)
    image = tiny_image(5, blob=True)
    with Pipeline(bundle, threads=1) as pipeline, Pipeline(bundle, threads=1, all_branches=True) as everything:
        assert list(pipeline.engines) == loaded.split()
        assert pipeline.branches == tuple(branches.split())
        assert everything.branches == FIVE
        some, full = pipeline.infer(image), everything.infer(image)
    assert some.score == pytest.approx(full.score, rel=1e-5)
    for index, branch in enumerate(FIVE):
        assert some.raw[index] == (full.raw[index] if branch in branches.split() else 0.0)
    assert (full.raw > 0).all()


def test_the_second_pass_of_paper_runs_only_for_tokens(tmp_path: Path) -> None:
    bundle = with_weight(tmp_path, 0, 0, 1, 0, 0, preset="paper")
    with Pipeline(bundle, threads=1) as pipeline:
        assert list(pipeline.engines) == ["teacher", "efficientad", "fusion"]
    assert needed_graphs(bundle.graphs, ["structure"]) == ("teacher", "teacher_tokens", "tokenizer", "fusion")
    assert computed_branches(["teacher", "fusion", "tokenizer"]) == ("structure", "composition")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), r"the image is float32 \[64, 64, 3\]; allowed is uint8 \[64, 64, 3\] RGB"),
        (np.zeros((64, 32, 3), np.uint8), r"the image is uint8 \[64, 32, 3\]"),
        (np.zeros((64, 64), np.uint8), r"the image is uint8 \[64, 64\]"),
        (np.zeros((1, 64, 64, 3), np.uint8), r"the image is uint8 \[1, 64, 64, 3\]"),
        ([[0, 0, 0]], "the image is a list"),
    ],
)
def test_a_wrong_image_is_refused(bundle: Bundle, image: object, message: str) -> None:
    with Pipeline(bundle, threads=1) as pipeline, pytest.raises(BadInput, match=message):
        pipeline.infer(image)  # type: ignore[arg-type]


def test_an_image_that_is_a_view_is_taken(bundle: Bundle) -> None:
    image = tiny_image(7)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    with Pipeline(bundle, threads=1) as pipeline:
        np.testing.assert_array_equal(pipeline.infer(image[:, ::-1]).raw, pipeline.infer(mirrored).raw)


def test_unknown_tensor_and_closed_pipeline(bundle: Bundle) -> None:
    with Pipeline(bundle, threads=1) as pipeline, pytest.raises(BadInput, match=r"no tensor 'nothing' here.*map_local"):
        pipeline.tensor("nothing")
    pipeline.close()
    with pytest.raises(DeviceFault, match="closed"):
        pipeline.infer(tiny_image(0))


def test_graphs_can_be_given(bundle: Bundle) -> None:
    """Another seed is another teacher: the given graph is used in place of the bundle's."""
    other = {"efficientad": tiny_graphs(seed=9)["efficientad"]}
    with Pipeline(bundle, threads=1) as plain, Pipeline(bundle, threads=1, graphs=other) as changed:
        a, b = plain.infer(tiny_image(0)), changed.infer(tiny_image(0))
    assert a.raw[0] == b.raw[0]
    assert a.raw[2] != b.raw[2]


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        ({"teacher": "fusion"}, "'teacher' needs 'map_structure', which no graph gives"),
        ({"lavit": "teacher"}, "'lavit' and an earlier one both give 'features'"),
        ({"fusion": "efficientad"}, "'fusion' and an earlier one both give 'map_local'"),
    ],
)
def test_graphs_that_do_not_fit_together_are_refused(tmp_path: Path, swap: dict[str, str], message: str) -> None:
    graphs = tiny_graphs()
    bundle = with_weight(tmp_path, 0.2, 0.2, 0.2, 0.2, 0.2)
    with pytest.raises(BadInput, match=message):
        Pipeline(bundle, threads=1, graphs={name: graphs[other] for name, other in swap.items()})


def test_constants_of_another_shape_are_refused(tmp_path: Path) -> None:
    contents = replace(tiny_contents(), masks=np.ones((3, 16), np.float32))
    write_bundle(tmp_path / "b.edgead", contents)
    with pytest.raises(BadInput, match=r"wants masks float32 \[2, 16\], but the bundle holds float32 \[3, 16\]"):
        Pipeline(open_bundle(tmp_path / "b.edgead"), threads=1)


def test_an_image_size_that_the_graphs_do_not_have_is_refused(tmp_path: Path) -> None:
    contents = tiny_contents()
    golden = replace(contents.golden, images=contents.golden.images[:, :32])
    write_bundle(tmp_path / "b.edgead", replace(contents, image_size=(32, 64), golden=golden))
    with pytest.raises(BadInput, match=r"must have the tensor image uint8 \[1, 32, 64, 3\]"):
        Pipeline(open_bundle(tmp_path / "b.edgead"), threads=1)


def test_other_precisions_need_a_build(bundle: Bundle) -> None:
    with pytest.raises(BadInput, match="no fp16 engine for onnxruntime: run `edge-ad build-engine --fp16`"):
        Pipeline(bundle, precision="fp16")
