"""Files are whole or absent; the newest bundle is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, newest_bundle, require_writable, sha256_bytes, sha256_file

# FIPS 180-2, appendix B.1: the digest of "abc".
SHA256_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_bytes_and_file_match_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == SHA256_ABC


def test_sha256_of_a_file_longer_than_a_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8200  # about 2 MiB: three reads
    (tmp_path / "long").write_bytes(data)
    assert sha256_file(tmp_path / "long") == sha256_bytes(data)


@pytest.mark.parametrize(("data", "expected"), [("größer", "größer".encode()), (b"\x00\x01", b"\x00\x01"), ("", b"")])
def test_atomic_write_makes_folders_and_leaves_nothing_else(tmp_path: Path, data: str | bytes, expected: bytes) -> None:
    path = tmp_path / "a" / "b" / "file"
    atomic_write(path, data)
    assert path.read_bytes() == expected
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, "old and longer")
    atomic_write(path, "new")
    assert path.read_text() == "new"


def test_atomic_write_to_an_impossible_place_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot write"):
        atomic_write(tmp_path / "file" / "below", "data")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot write"):
        atomic_write(tmp_path / "folder", "data")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_newest_bundle_is_the_last_written(tmp_path: Path) -> None:
    for name, moment in (("a/old", 100), ("b/new", 300), ("c/middle", 200)):
        path = tmp_path / f"{name}.edgead"
        path.parent.mkdir()
        path.touch()
        os.utime(path, (moment, moment))
    assert newest_bundle(tmp_path).name == "new.edgead"


def test_without_a_bundle_the_message_states_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="edge-ad train"):
        newest_bundle(tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("folder", "it is a folder; name a file"),
        ("file/inside.json", "is no folder; choose another place"),
        ("/proc/figures.json", "choose a folder that can be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_reported_before_the_work(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=sentence):
        require_writable(tmp_path / name)


def test_asking_whether_a_place_can_be_written_leaves_nothing_there(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "figures.json")
    require_writable(None)
    assert list(tmp_path.iterdir()) == []
