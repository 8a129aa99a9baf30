"""The file of bundles in use: what counts after a restart, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.store.next_run import BundlePointer, pointer_path
from edge_ad.utils.files import sha256_file

WHO = {"by": "anna", "origin": "command", "reason": "lot 7"}


@pytest.fixture
def pointer(tmp_path: Path) -> BundlePointer:
    for name in "abcd":
        (tmp_path / f"{name}.edgead").write_text(name)
    return BundlePointer(pointer_path(tmp_path / "line.sqlite"))


def replace(pointer: BundlePointer, folder: Path, before: str, after: str, product: str = "") -> None:
    pointer.write(product, pointer.replaced(product, folder / f"{before}.edgead", folder / f"{after}.edgead", **WHO))


def test_the_named_bundle_counts_until_it_is_replaced_and_again_after_the_rollback(pointer: BundlePointer, tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.edgead" for name in "abc")
    assert pointer.resolve("", a) == a
    replace(pointer, tmp_path, "a", "b")
    replace(pointer, tmp_path, "b", "c")
    assert pointer.resolve("", a) == c
    assert pointer.resolve("other", a) == a
    for expected in (b, a):
        pointer.write("", pointer.rolled_back("", **WHO))
        assert pointer.resolve("", a) == expected
    assert pointer.resolve("", c) == a, "the newest under runs/ may be one that was rolled back"
    with pytest.raises(BadInput, match="was not replaced here"):
        pointer.rolled_back("", **WHO)


def test_a_bundle_that_was_never_in_use_counts_where_it_is_named(pointer: BundlePointer, tmp_path: Path) -> None:
    replace(pointer, tmp_path, "a", "b")
    assert pointer.resolve("", tmp_path / "d.edgead") == tmp_path / "d.edgead"


def test_a_rollback_goes_to_no_bundle_but_the_one_that_was_in_use_before(pointer: BundlePointer, tmp_path: Path) -> None:
    a, b, used = tmp_path / "a.edgead", tmp_path / "b.edgead", sha256_file(tmp_path / "a.edgead")
    a.write_text("trained anew under the same name while the line judges by what was there")
    pointer.write("", pointer.replaced("", a, b, used=used, **WHO))
    with pytest.raises(BadInput, match="was changed"):
        pointer.locate(pointer.rolled_back("", used=sha256_file(b), **WHO).current)
    with pytest.raises(BadInput, match="named anew"):  # what was before b is not what was before d
        pointer.rolled_back("", used=sha256_file(tmp_path / "d.edgead"), **WHO)


def test_bundles_are_known_by_their_contents_wherever_the_station_is_moved(pointer: BundlePointer, tmp_path: Path) -> None:
    replace(pointer, tmp_path / "", "a", "b")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (*tmp_path.glob("*.edgead"), *tmp_path.glob("*.json")):
        (moved / path.name).write_bytes(path.read_bytes())
        path.unlink()
    assert BundlePointer(moved / "line.bundles.json").resolve("", moved / "a.edgead") == moved / "b.edgead"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "b.edgead").unlink(), "is gone"),
        (lambda folder: (folder / "b.edgead").write_text("half"), "was changed"),
        (lambda folder: (folder / "line.bundles.json").write_text('{"bundles": {"": {"cur'), "cannot be read"),
        (lambda folder: (folder / "line.bundles.json").write_text('{"bundles": {"": {}}}'), "cannot be read"),
        (lambda folder: (folder / "line.bundles.json").write_text("[]"), "cannot be read"),
    ],
)
def test_another_bundle_is_never_taken_for_the_one_in_use(
    pointer: BundlePointer, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    replace(pointer, tmp_path, "a", "b")
    spoil(tmp_path)
    with pytest.raises(BadInput, match=message):
        pointer.resolve("", tmp_path / "a.edgead")


def test_without_a_record_nothing_is_replaced_for_good(tmp_path: Path) -> None:
    pointer = BundlePointer(pointer_path(None))
    (tmp_path / "a.edgead").write_text("a")
    assert pointer.resolve("", tmp_path / "a.edgead") == tmp_path / "a.edgead"
    with pytest.raises(BadInput, match="keeps a record"):
        pointer.write("", None)
