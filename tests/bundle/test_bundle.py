"""Bundle files: what goes in comes out, and every way to spoil one gives one sentence."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.bundle import BundleContents, References, open_bundle, write_bundle
from edge_ad.bundle.safe_zip import dump_npz, dump_state, pack
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Geometry
from edge_ad.utils.files import sha256_bytes
from tests.fixtures.calibrated import make_calibrated
from tests.fixtures.plain_bundle import NOON, make_plain_bundle, named, plain_contents


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_plain_bundle(tmp_path_factory.mktemp("bundle") / "tray.edgead")


def assert_equal(a: BundleContents, b: BundleContents) -> None:
    for name in ("name", "preset", "settings", "image_size", "parent", "graphs", "thresholds"):
        assert getattr(a, name) == getattr(b, name), name
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (a.masks, b.masks),
        (a.golden.images, b.golden.images),
        (a.golden.raw, b.golden.raw),
    ]
    pairs += [(array, b.statistics.arrays()[name]) for name, array in a.statistics.arrays().items()]
    assert list(a.raw_scores) == list(b.raw_scores)
    pairs += [(array, b.raw_scores[name]) for name, array in a.raw_scores.items()]
    for left, right in pairs:
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_what_goes_in_comes_out(path: Path) -> None:
    bundle = open_bundle(path)
    assert_equal(bundle.contents(), plain_contents())
    assert bundle.graphs == ("teacher", "lavit", "fusion")
    assert bundle.sha256 == sha256_bytes(path.read_bytes())
    assert bundle.created == "2024-05-01T12:00:00Z"
    assert bundle.report == {"losses": [0.5, 0.25], "where": os.path.join("x", "y"), "table": [0, 1, 2]}
    assert bundle.manifest["members"]["graphs/teacher.onnx"] == {"sha256": sha256_bytes(named(b"t" * 300)), "bytes": 305}
    with pytest.raises(BadInput, match="no graph 'tokenizer'; it has teacher, lavit, fusion"):
        bundle.graph("tokenizer")


def test_a_bundle_without_a_geometry_squashes_whole_images(path: Path) -> None:
    geometry = open_bundle(path).geometry
    assert (geometry.method, geometry.size, geometry.locates) == ("square", plain_contents().image_size, False)
    assert open_bundle(path).contents().geometry is None


def test_a_geometry_is_kept(tmp_path: Path) -> None:
    geometry = Geometry("none", (480, 640), plain_contents().image_size)
    write_bundle(tmp_path / "tray.edgead", replace(plain_contents(), geometry=geometry), NOON)
    assert open_bundle(tmp_path / "tray.edgead").geometry == geometry
    assert open_bundle(tmp_path / "tray.edgead").contents().geometry == geometry


def test_references_are_kept_and_absent_where_graphs_hold_them(path: Path, tmp_path: Path) -> None:
    bank = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    references = References(memory_bank=bank, memory_norms=bank.sum(axis=2, keepdims=True))
    write_bundle(tmp_path / "tray.edgead", replace(plain_contents(), references=references), NOON)
    result = open_bundle(tmp_path / "tray.edgead")
    for held in (result.references, result.contents().references):
        assert list(held.arrays()) == ["memory_bank", "memory_norms"]
        np.testing.assert_array_equal(held.arrays()["memory_bank"], bank)
    assert open_bundle(path).references.arrays() == {}
    assert "references.npz" not in open_bundle(path).manifest["members"]


def test_a_geometry_of_another_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"geometry.npz makes inputs of \[32, 999\], but 'image_size' is"):
        write_bundle(tmp_path / "tray.edgead", replace(plain_contents(), geometry=Geometry.square((32, 999))), NOON)


@pytest.mark.parametrize("data", [b"", b"PK", dump_state({}, {}, "x"), dump_npz({"a": np.zeros(3)})])
def test_a_damaged_geometry_is_refused(data: bytes, path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    manifest["members"]["geometry.npz"] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    (tmp_path / "tray.edgead").write_bytes(
        pack({"manifest.json": json.dumps(manifest).encode(), **members, "geometry.npz": data})
    )
    with pytest.raises(BadInput, match=r"geometry\.npz.*train"):
        open_bundle(tmp_path / "tray.edgead")


@pytest.mark.parametrize(("report", "bits"), [({}, 16), ({"image_bits": 12}, 12), ({"image_bits": 16}, 16)])
def test_it_states_how_16_bit_images_are_read(tmp_path: Path, report: dict[str, Any], bits: int) -> None:
    write_bundle(tmp_path / "tray.edgead", replace(plain_contents(), report=report), NOON)
    assert open_bundle(tmp_path / "tray.edgead").image_bits == bits


@pytest.mark.parametrize("bits", [8, 11, "12", None, 0])
def test_an_unknown_depth_of_images_is_refused(tmp_path: Path, bits: object) -> None:
    write_bundle(tmp_path / "tray.edgead", replace(plain_contents(), report={"image_bits": bits}), NOON)
    with pytest.raises(BadInput, match="where 10, 12, 14 or 16 are known: train it again"):
        _ = open_bundle(tmp_path / "tray.edgead").image_bits


def test_equal_contents_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    sha256 = write_bundle(tmp_path / "again.edgead", open_bundle(path).contents(), NOON)
    assert sha256 == open_bundle(path).sha256
    assert (tmp_path / "again.edgead").read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["again.edgead"]


def test_members_can_be_packed_again_by_other_tools(path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.edgead", "w", zipfile.ZIP_DEFLATED) as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    assert_equal(open_bundle(tmp_path / "b.edgead").contents(), plain_contents())


def test_a_graph_swapped_after_opening_is_noticed(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.edgead"
    copy.write_bytes(path.read_bytes())
    bundle = open_bundle(copy)
    write_bundle(copy, plain_contents(graphs={"teacher": b"evil", "lavit": b"", "fusion": b""}), NOON)
    with pytest.raises(BadInput, match="changed while in use"):
        bundle.graph("teacher")


def test_what_belongs_to_int8_stays_in_the_file_until_asked_for(tmp_path: Path) -> None:
    path = make_calibrated(tmp_path / "b.edgead")
    bundle, other = open_bundle(path), open_bundle(path)
    assert "quantisation" not in vars(bundle)
    held = bundle.quantisation
    assert held is not None
    assert held.proof.shape == (8, *bundle.image_size, 3)
    assert bundle.quantisation is held
    write_bundle(path, replace(bundle.contents(), quantisation=replace(held, proof=held.proof[1:])))
    with pytest.raises(BadInput, match=r"changed while in use: 'proof\.npz' no longer has its hash; start again"):
        _ = other.quantisation


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_never_crash_or_load_something_else(
    flips: list[tuple[float, int]], path: Path, tmp_path: Path
) -> None:
    data = bytearray(path.read_bytes())
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    flipped = tmp_path / "b.edgead"
    flipped.write_bytes(data)
    try:
        bundle = open_bundle(flipped)
    except BadInput:
        return
    assert_equal(bundle.contents(), plain_contents())  # only dates and the like, which nobody reads, were hit


REFUSED_CONTENTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "a/b"}, "'name' must be"),
    ({"image_size": (8, 0)}, "'image_size' must be"),
    ({"image_size": (8, 8)}, "golden.npz: images has shape"),
    ({"graphs": {"teacher": b""}}, "lacks the graph 'fusion'"),
    ({"graphs": {"teacher": b"", "fusion": b"", "x": b""}}, "unknown graph 'x'"),
    ({"masks": np.zeros((2, 4))}, "masks.npy is float64"),
    ({"raw_scores": {}}, "raw_scores.npz is empty"),
    ({"raw_scores": {"a/b": np.zeros((2, 5), np.float32)}}, "split 'a/b'"),
    ({"raw_scores": {"normalise": np.zeros((2, 5))}}, "float64, but must be float32"),
    ({"parent": "x"}, "'parent' must be"),
    ({"report": {"loss": float("nan")}}, "the report cannot be written as JSON"),
    ({"settings": {"x": object()}}, "object has no JSON form"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_CONTENTS)
def test_what_could_not_be_opened_is_not_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        write_bundle(tmp_path / "b.edgead", plain_contents(**changes))
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())
