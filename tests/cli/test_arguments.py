"""Which of the paths of a command is the bundle, and which the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.cli.arguments import bundle_and_folder
from edge_ad.errors import BadInput

NEW, OLD, GOOD, SET = Path("runs/new.edgead"), Path("old.edgead"), Path("good"), Path("set")
MANIFEST = Path("test.manifest")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newest bundle, one with another ending, and a folder."""
    monkeypatch.chdir(tmp_path)
    for file in (NEW, OLD, MANIFEST, Path("copy.zip")):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    GOOD.mkdir()


@pytest.mark.parametrize(
    ("paths", "configured", "expected"),
    [
        ([GOOD], None, (NEW, GOOD)),
        ([GOOD], SET, (NEW, GOOD)),
        ([OLD, GOOD], SET, (OLD, GOOD)),
        ([MANIFEST], None, (NEW, MANIFEST)),
        ([OLD, MANIFEST], None, (OLD, MANIFEST)),
        ([OLD], SET, (OLD, SET)),
        ([Path("copy.zip")], SET, (Path("copy.zip"), SET)),
        ([], SET, (NEW, SET)),
        ([Path("runs"), GOOD], None, (Path("runs"), GOOD)),
    ],
)
def test_what_is_not_named_is_the_newest_bundle_or_the_configured_folder(
    paths: list[Path], configured: Path | None, expected: tuple[Path, Path]
) -> None:
    assert bundle_and_folder(paths, "evaluate", "test set", configured) == expected


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([OLD, GOOD, GOOD], "edge-ad evaluate takes a bundle and a test set, but 3 paths were given"),
        ([GOOD, OLD], "good is a folder: the bundle comes first, `edge-ad evaluate old.edgead good`"),
        ([OLD], "old.edgead is a bundle: add the test set, `edge-ad evaluate old.edgead FOLDER`"),
        ([], "there is no test set: name one, or put `path` under [data]"),
    ],
)
def test_other_paths_are_refused_with_what_to_write(paths: list[Path], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        bundle_and_folder(paths, "evaluate", "test set")
    assert words in str(caught.value)
