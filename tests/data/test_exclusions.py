"""The list of images that a training leaves out: what it takes, and one sentence for each line it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.data.datasets import load_dataset
from edge_ad.data.exclusions import entry_of, exclusions_text, read_exclusions
from edge_ad.data.folders import FolderUse
from edge_ad.errors import BadInput
from tests.data.folders import goods, mvtec


def _names(root: Path, exclude: Path) -> list[str]:
    return [path.name for path in load_dataset(root, exclude=exclude).excluded]


def test_named_images_take_part_in_no_split(tmp_path: Path) -> None:
    paths = goods(tmp_path / "caps", 14)
    listed = tmp_path / "exclude.txt"
    listed.write_bytes(b"\xef\xbb\xbf# a comment\r\n" + f"{paths[3].name}\r\n  {paths[5].name}  \n\n{paths[3].name}".encode())
    result = load_dataset(tmp_path / "caps", exclude=listed)
    left = {path.name for part in ("fit", "normalise", "threshold") for path in getattr(result.normal, part)}
    assert left == {path.name for path in paths} - {paths[3].name, paths[5].name}
    assert [path.name for path in result.excluded] == [paths[3].name, paths[5].name]
    assert FolderUse(".", 2, f"left out: excluded by {listed}") in result.folders


def test_paths_are_relative_to_the_data_folder_or_absolute(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    first, second, third = sorted((root / "train" / "good").iterdir())[:3]
    listed = tmp_path / "exclude.txt"
    listed.write_text(f"train/good/{first.name}\ntrain/../train/good/{second.name}\n{third.resolve()}\n")
    assert _names(root, listed) == [first.name, second.name, third.name]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train/good/999.png", ["line 2, names train/good/999.png", "has no such file"]),
        ("../elsewhere.png", ["names ../elsewhere.png", "outside the data folder"]),
        ("/etc/hostname", ["outside the data folder"]),
        ("test/good/000.png", ["no normal image of", "to train on"]),
        ("train/good", ["has no such file"]),
        (300 * "x", ["line 2, names xxx", "x..., but", "has no such file"]),
        ("\udcff.png", ["names \\udcff.png", "has no such file"]),
    ],
)
def test_a_line_that_names_no_normal_image_is_refused(line: str, words: list[str], tmp_path: Path) -> None:
    root, listed = mvtec(tmp_path / "bottle"), tmp_path / "exclude.txt"
    listed.write_bytes(f"# one\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(BadInput) as refused:
        load_dataset(root, exclude=listed)
    assert all(word in str(refused.value) for word in [str(listed), *words])
    str(refused.value).encode()


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_list_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    goods(tmp_path / "caps", 12)
    with pytest.raises(BadInput, match="cannot read the list of excluded images"):
        load_dataset(tmp_path / "caps", exclude=tmp_path / name)


def test_too_few_images_left_are_refused(tmp_path: Path) -> None:
    paths, listed = goods(tmp_path / "caps", 12), tmp_path / "exclude.txt"
    listed.write_text("\n".join(path.name for path in paths[:2]))
    assert len(load_dataset(tmp_path / "caps", exclude=listed).excluded) == 2
    listed.write_text("\n".join(path.name for path in paths[:3]))
    with pytest.raises(BadInput, match="holds 9 good images without the 3 excluded ones; at least 10 are needed"):
        load_dataset(tmp_path / "caps", exclude=listed)


def test_what_is_written_is_read_back_with_the_next_ones_kept(tmp_path: Path) -> None:
    root = tmp_path / "caps"
    names = [" #.png", " spaced .png", "plain.png", "next.png", b"\xff.png".decode(errors="surrogateescape"), "old.png", "a\nb.png"]
    images = [root / name for name in names]
    entries = [entry_of(image, root) for image in images]
    listed = tmp_path / "exclude.txt"
    listed.write_bytes(exclusions_text([*entries[:3], entries[4], entries[6]], [entries[3]], [entries[5]], of=20))
    assert read_exclusions(listed, root, images) == {images[index] for index in (0, 1, 2, 4, 5)}
    assert b"5 of 20 normal images look unlike the others" in listed.read_bytes()
