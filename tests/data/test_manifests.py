"""Manifests of cloud inspection services: what is read from them, and one sentence for each that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.data.datasets import DataSet, load_dataset, load_test
from edge_ad.data.images import read_mask
from edge_ad.data.manifests import read_manifest
from edge_ad.errors import BadInput
from edge_ad.evaluation.figures import read_channels
from tests.data.folders import goods, save, spot

COLOURS = {
    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
    "1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0},
    "2": {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.0},
}
Line = dict[str, Any]


def line(reference: str, anomalous: bool = False, mask: str | None = None) -> Line:
    """Return a line as the service exports it."""
    name = "anomaly" if anomalous else "normal"
    entry: Line = {
        "source-ref": reference,
        "anomaly-label": int(anomalous),
        "anomaly-label-metadata": {"class-name": name, "type": "groundtruth/image-classification", "confidence": 1},
    }
    if mask is not None:
        entry |= {"anomaly-mask-ref": mask, "anomaly-mask-ref-metadata": {"internal-color-map": COLOURS}}
    return entry


def write(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def service_export(root: Path, prefix: str = "", normal: int = 20) -> Path:
    """Write ``normal`` normal images and 3 anomalies with masks of two colours on white, and their manifest."""
    good = [line(f"{prefix}images/{path.name}") for path in goods(root / "images", normal)]
    bad = []
    for path in goods(root / "bad", 3, 600):
        mask = np.full((40, 60, 3), 255, np.uint8)
        mask[spot(path.stem) > 0] = (0x2C, 0xA0, 0x2C)
        mask[38:, 58:] = (0x1F, 0x77, 0xB4)
        save(root / "masks" / path.name, mask)
        bad.append(line(f"{prefix}bad/{path.name}", True, f"{prefix}masks/{path.name}"))
    return write(root / "caps.manifest", [*good, *bad])


def split_of(found: DataSet) -> list[Path]:
    return sorted([*found.normal.fit, *found.normal.normalise, *found.normal.threshold])


@pytest.mark.parametrize("prefix", ["", "s3://bucket/"])
def test_normal_images_are_split_and_anomalies_are_test_images(prefix: str, tmp_path: Path) -> None:
    result = load_dataset(service_export(tmp_path, prefix))
    assert (result.name, result.layout, result.root) == ("caps", "manifest", tmp_path)
    assert split_of(result) == sorted((tmp_path / "images").iterdir())
    assert (len(result.normal.fit), len(result.normal.normalise), len(result.normal.threshold)) == (14, 3, 3)
    assert [(item.path.name, item.kind, item.defect) for item in result.test] == [
        (f"00{number}.png", "structural", "anomaly") for number in range(3)
    ]
    uses = {(use.folder, use.count, use.use) for use in result.folders}
    assert uses == {("images", 20, "normal images for training"), ("bad", 3, "test: structural anomalies")}


def test_a_test_manifest_has_all_images_and_masks_without_their_background(tmp_path: Path) -> None:
    result = load_test(service_export(tmp_path, normal=2))
    assert [item.kind for item in result.test] == ["good", "good", "structural", "structural", "structural"]
    assert result.has_masks
    for item in result.test[2:]:
        expected = spot(item.path.stem)
        expected[38:, 58:] = 255  # the other colour is a defect, too
        np.testing.assert_array_equal(read_mask(item.masks[0], item.background), expected)
        (channel,) = read_channels(item, (40, 60), {})
        np.testing.assert_array_equal(channel.pixels, expected > 0)


@pytest.mark.parametrize(
    ("change", "is_normal"),
    [
        ({"anomaly-label": 0, "anomaly-label-metadata": None}, True),
        ({"anomaly-label": 1, "anomaly-label-metadata": {}}, False),
        ({"anomaly-label": 11, "anomaly-label-metadata": {"class-name": "Normal"}}, True),  # the number may be any
        ({"anomaly-label": 12, "anomaly-label-metadata": {"class-name": "anomaly"}}, False),
        ({"anomaly-label": 1, "anomaly-label-metadata": {"class-name": "defect"}}, False),
    ],
)
def test_labels(change: Line, is_normal: bool, tmp_path: Path) -> None:
    goods(tmp_path, 1)
    path = write(tmp_path / "one.manifest", [line("000.png") | change])
    assert [image.is_normal for image in read_manifest(path)] == [is_normal]


def test_byte_order_mark_blank_lines_absolute_paths_and_repeated_lines_are_allowed(tmp_path: Path) -> None:
    (image,) = goods(tmp_path / "elsewhere", 1)
    entry = json.dumps(line(str(image)))
    path = tmp_path / "one.JSONL"
    path.write_text(f"{entry}\r\n\r\n{entry}\n", encoding="utf-8-sig")
    assert [result.path for result in read_manifest(path)] == [image]


def test_a_mask_without_a_colour_map_is_black_where_there_is_no_defect(tmp_path: Path) -> None:
    goods(tmp_path, 1)
    save(tmp_path / "mask.png", spot("1"))
    entry = line("000.png", True, "mask.png") | {"anomaly-mask-ref-metadata": {"internal-color-map": {"1": {"class-name": "x"}}}}
    (image,) = read_manifest(write(tmp_path / "one.manifest", [entry]))
    assert image.mask is not None
    np.testing.assert_array_equal(read_mask(image.mask, image.background) > 0, spot("1") > 0)


def _change(entry: Line) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        write(root / "caps.manifest", [line("images/000.png"), line("images/001.png") | entry])

    return spoil


def _bytes(data: bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / "caps.manifest").write_bytes(data)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_change({"source-ref": "images/none.png"}), r"line 2: there is no file .*images/none\.png; copy it there"),
        (
            _change({"source-ref": "s3://bucket/line/a.png"}),
            r"line 2: 's3://bucket/line/a\.png' is not here: download its folder first, "
            r"`aws s3 cp --recursive s3://bucket/line .*/line`",
        ),
        (_change({"source-ref": "s3://bucket/../a.png"}), "leads out of the manifest's folder"),
        (_change({"source-ref": "https://a.example/a.png"}), "paths beside the manifest or s3:// are allowed"),
        (_change({"source-ref": 7}), "needs 'source-ref', the path of a file, but has 7"),
        (_change({"source-ref": ""}), "needs 'source-ref'"),
        (_change({"source-ref": "a\0b"}), "needs 'source-ref'"),
        (_change({"anomaly-label": 1}), "has the 'anomaly-label' 1 .* and the class name 'normal'; correct one"),
        (_change({"anomaly-label": 0, "anomaly-label-metadata": {"class-name": "defect"}}), "and the class name 'defect'"),
        (_change({"anomaly-label": True, "anomaly-label-metadata": {}}), "needs 'anomaly-label', 0 .* but has True"),
        (_change({"anomaly-label": [], "anomaly-label-metadata": {}}), r"but has \[\]"),
        (_change({"anomaly-label": 2, "anomaly-label-metadata": {}}), "but has 2; a labelling job"),
        (_change(line("images/000.png", True)), "line 2 gives .* another label than a line before"),
        (_change(line("bad/000.png", True, "masks/none.png")), "line 2: there is no file .*masks/none"),
        (
            _change(
                line("bad/000.png", True, "masks/000.png")
                | {"anomaly-mask-ref-metadata": {"internal-color-map": {"0": {"class-name": "BACKGROUND", "hex-color": "white"}}}}
            ),
            "like '#ffffff', but is 'white'",
        ),
        (_bytes(b'{"source-ref": \n'), "line 1 is not valid JSON"),
        (_bytes(b"[" * 100_000), "line 1 is not valid JSON"),
        (_bytes(b"[1]\n"), "must be a JSON object, but is a list"),
        (_bytes(b"\n"), "has no lines"),
        (_bytes(b"\xff\xfe\x00"), "JSON lines in UTF-8"),
        (_change(line("images/000.png")), r"caps\.manifest holds 1 good images"),
    ],
)
def test_bad_manifests_are_one_sentence(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = service_export(tmp_path, normal=12)
    spoil(tmp_path)
    with pytest.raises(BadInput, match=message):
        load_dataset(path)


def test_an_anomaly_without_a_mask_beside_others_is_refused_where_masks_are_needed(tmp_path: Path) -> None:
    path = service_export(tmp_path, normal=12)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    del lines[-1]["anomaly-mask-ref"]
    write(path, lines)
    assert len(load_dataset(path).test) == 3  # training needs no mask
    with pytest.raises(BadInput, match=r"bad/002\.png has no mask in the manifest"):
        load_test(path)


def test_a_file_of_another_name_states_how_a_manifest_is_called(tmp_path: Path) -> None:
    path = service_export(tmp_path).rename(tmp_path / "caps.txt")
    with pytest.raises(BadInput, match=r"is a file: name a folder .* or a manifest \(\*\.manifest, "):
        load_dataset(path)
