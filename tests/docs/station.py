"""A station in miniature for the commands of the documentation, and stand-ins for what is not here."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_ad.bundle import write_bundle
from edge_ad.config import Config
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.store.reader import EventFilter, Reader
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents, tiny_image

# Flags whose values name things that a test machine does not have, and what stands in for them.
CAMERA = "synthetic://line?frames=12&size=64&anomalies=0&seed=3&fps=200"
LIVE = re.compile(r"\d+$|/dev/|file:///dev/|(rtsps?|csi|genicam|aravis|gst):|synthetic://")
EVENT = re.compile(r"[0-9a-f]{8}")  # an id as the pages show it
SETTINGS = f'[data]\npath = "data/good"\n[run]\ncamera = ["{CAMERA}"]\n'
# Pages whose commands work on more than that.
SETTINGS_OF = {
    "docs/howto/views.md": '[run]\nmax_age_ms = 60000\n[part]\nviews = ["top", "side"]\n'
    + "".join(f'[view.{view}]\ncamera = "data/parts/{view}"\nbundle = "part.edgead"\n' for view in ("top", "side")),
    "docs/howto/products.md": SETTINGS + "".join(f'[product.{name}]\nbundle = "part.edgead"\n' for name in ("cap-red", "cap-blue")),
}
OTHERS = {"--alarm": "modbus-server://127.0.0.1:0", "--web": "127.0.0.1:0", "--count": "6", "--frames": "6"}


def make_template(folder: Path) -> Path:
    """Write normal images, labelled sets and a calibrated bundle: everything that the pages call by name."""
    for place in ("share", "stick"):
        (folder / place).mkdir()
    for number in range(24):
        for place in ("data/good", "data/new-goods", "data/part/train/good", "data/products/cap/train/good"):
            _write(folder / place / f"{number:03}.png", 2000 + number)
    for number in range(6):
        for place in ("data/part/test/good", "data/products/cap/test/good"):
            _write(folder / place / f"{number:03}.png", 5000 + number)
        for place in ("data/part/test/spot", "data/products/cap/test/spot", "data/defects/spot"):
            _write(folder / place / f"{number:03}.png", 5100 + number, blob=True)
    for number in range(12):
        for place, first in (("data/parts/top", 5200), ("data/parts/side", 5300)):
            _write(folder / place / f"{number:03}.png", first + number)
    for number in range(3):
        _write(folder / "data/empty" / f"{number}.png", 7000 + number)
    sets = ("loco_juice_bottle", "mvtec_bottle", "mono_shuffled", "mono_early", "contaminated/loco_juice_bottle")
    for copy in (*(f"sets/{name}" for name in sets), "data/bottle"):
        shutil.copytree(folder / "data/part", folder / copy)
    shutil.copytree(folder / "data/good", folder / "photographs")
    _write_manifests(folder / "data")
    _write_drawings(folder)
    for place in ("blue", "side"):  # what takes another's place; before the newest bundle
        (folder / "runs" / place).mkdir(parents=True)
        make_tiny_bundle(folder / "runs" / place / "cap-new.edgead", 9)
    bundle = folder / "runs/station-1/part.edgead"
    bundle.parent.mkdir(parents=True)
    contents, (learned, held) = tiny_contents(), (_goods(6000, 16), _goods(2030, 8))
    options = CalibrateOptions(search=False)
    scratch = folder / "scratch.edgead"
    write_bundle(bundle, with_quantisation(replace(contents, name="part"), scratch, learned, held, options=options, report=print))
    shutil.copy(bundle, folder / "part.edgead")
    video = cv2.VideoWriter(str(folder / "line.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for number in range(6):
        video.write(tiny_image(8000 + number))
    video.release()
    return folder


def _goods(first: int, count: int) -> NDArray[np.uint8]:
    return np.stack([tiny_image(first + number) for number in range(count)])


def _write_drawings(folder: Path) -> None:
    """Write a polygon on a miniature image as labelme and as a drawing program would."""
    shape = {"label": "ignore clock", "points": [[0, 0], [16, 0], [16, 12], [0, 12]], "shape_type": "polygon"}
    (folder / "labelme.json").write_text(json.dumps({"shapes": [shape], "imageWidth": 64, "imageHeight": 64}))
    (folder / "drawing.svg").write_text('<svg viewBox="0 0 64 64"><polygon points="0,0 16,0 16,12 0,12"/></svg>')


def _write_manifests(data: Path) -> None:
    """Write the manifests of a cloud service: all normal images for training, some with the defects for the test."""
    normal = [{"source-ref": f"good/{number:03}.png", "anomaly-label": 0} for number in range(24)]
    defects = [{"source-ref": f"defects/spot/{number:03}.png", "anomaly-label": 1} for number in range(6)]
    for name, entries in (("train", normal), ("test", normal[:6] + defects)):
        (data / f"{name}.manifest").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def _write(path: Path, seed: int, blob: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), tiny_image(seed, blob)[:, :, ::-1])


def stand_ins(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command with cameras, outputs and public addresses replaced, and captures into a new folder."""
    flag = ""
    for word in words:
        if word.startswith("--") and "=" in word:
            name, value = word.split("=", 1)
            yield f"{name}={_stand_in(name, value)}"
        else:
            yield _stand_in(flag, word)
        flag = word if word.startswith("--") else ""
    if words[:1] == ("capture",):
        yield from ("--out", "data/captured")


def _stand_in(flag: str, value: str) -> str:
    if EVENT.fullmatch(value):
        with Reader(Path("runs/line.sqlite")) as reader:
            return next(iter(reader.every(EventFilter()))).id
    if flag == "--camera" and LIVE.match(value):
        return CAMERA
    return OTHERS.get(flag, value).replace("runs/.../", "runs/station-1/")


def quick_training(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Let `train` check its options and data, and then hand over a bundle that was made before."""
    from edge_ad.data.datasets import load_dataset
    from edge_ad.presets.presets import PRESETS
    from edge_ad.training import train as module

    def train(data: Path, out: Path | None, settings: Config, *, keep_finished: bool = False) -> Path:
        load_dataset(data, settings.train.seed)
        assert settings.train.preset in PRESETS
        target = (out or Path("runs/20260101-120000")) / f"{data.name}.edgead"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle, target)
        return target

    monkeypatch.setattr(module, "train", train)
