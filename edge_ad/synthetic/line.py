"""The synthetic line: rendered kit trays with fixed rules, as a data set in LOCO layout and as a video with its truth.

A tray is wholly given by its seed. The seeds of line ``s`` (0 or more) are ``s * 2**32`` plus 0 for train, 100,000 for
validation, 200,000 for good test trays, 300,000 for logical and 400,000 for structural anomalies (each up to 100,000
trays), and plus 1,000,000 and more for the video, so that no two splits and no two lines share a tray.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.sequence import SPLITS, FrameTruth, line_frame, line_frames, part_defect, split_seed
from edge_ad.synthetic.tray import GOOD, LOGICAL, STRUCTURAL, Tray, kind_of, render_tray, tray_scene
from edge_ad.utils.files import atomic_write

__all__ = [
    "CATEGORY",
    "GOOD",
    "LOGICAL",
    "STRUCTURAL",
    "TRUTH_NAME",
    "VIDEO_NAME",
    "FrameTruth",
    "Tray",
    "defects_config",
    "kind_of",
    "line_frame",
    "line_frames",
    "part_defect",
    "render_tray",
    "split_seed",
    "tray_scene",
    "write_line",
]

CATEGORY = "kit_tray"
# FFV1 keeps every pixel: a lossy codec would smooth the trays, and they would no longer look like the normal images of train.
VIDEO_NAME = "video.mkv"
_VIDEO_CODEC = "FFV1"
TRUTH_NAME = "video_truth.jsonl"
# Pixels of one part in an image of 256 x 256: finding that much of a logical defect counts as finding all of it.
_ONE_OBJECT = 450

_FOLDERS = {
    "train": "train/good",
    "validation": "validation/good",
    "test_good": "test/good",
    "test_logical": "test/logical_anomalies",
    "test_structural": "test/structural_anomalies",
}

Progress = Callable[[int, int], None]


def write_line(out: Path, *, train: int = 240, validation: int = 40, test_good: int = 100, test_logical: int = 60,
               test_structural: int = 40, size: int = 256, seed: int = 0, video_frames: int = 400, hold: int = 1,
               anomaly_rate: float = 0.5, fps: float = 10.0, progress: Progress | None = None) -> Path:
    """Write the line of ``seed`` in LOCO layout under ``out/kit_tray`` and return that folder.

    Counts are trays a split; anomalies take the defects in turn. ``video_frames`` frames (0: no video) go to
    ``video.mkv`` and their truth, one JSON object a line, to ``video_truth.jsonl``. ``progress(done, total)`` is called
    after each image. A folder that already holds images is refused (BadInput): old and new trays would mix.
    """
    counts = dict(zip(SPLITS, (train, validation, test_good, test_logical, test_structural), strict=True))
    _check_counts({**counts, "video": video_frames})
    if fps <= 0:
        raise BadInput(f"{fps} frames a second: choose a rate above 0, such as 10")
    root = Path(out) / CATEGORY
    if any(root.rglob("*.png")):
        raise BadInput(f"{root} already holds images: choose another folder or delete it first")
    total, done = sum(counts.values()) + video_frames, 0
    for split, count in counts.items():
        for index in range(count):
            _write_tray(root, split, index, size, seed=seed)
            done += 1
            if progress is not None:
                progress(done, total)
    atomic_write(root / "defects_config.json", json.dumps(defects_config(size), indent=2) + "\n")
    if video_frames:
        shifted = _shifted(progress, done, total)
        _write_video(root, video_frames, seed, size, anomaly_rate=anomaly_rate, hold=hold, fps=fps, progress=shifted)
    return root


def defects_config(size: int = 256) -> list[dict[str, Any]]:
    """Return the LOCO description of every defect: name, pixel value in the masks, saturation.

    Structural defects saturate when all of them is found, logical ones at the area of one part.
    """
    area = max(1, round(_ONE_OBJECT * (size / 256) ** 2))
    return [
        {
            "defect_name": name,
            "pixel_value": _pixel_value(name),
            "saturation_threshold": area if name in LOGICAL else 1.0,
            "relative_saturation": name in STRUCTURAL,
        }
        for name in LOGICAL + STRUCTURAL
    ]


def _pixel_value(defect: str) -> int:
    return 255 - (LOGICAL + STRUCTURAL).index(defect)


def _check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 0:
            raise BadInput(f"{count} images for {name}: choose 0 or more")


def _split_defect(split: str, index: int) -> str:
    if split == "test_logical":
        return LOGICAL[index % len(LOGICAL)]
    if split == "test_structural":
        return STRUCTURAL[index % len(STRUCTURAL)]
    return GOOD


def _write_tray(root: Path, split: str, index: int, size: int, *, seed: int) -> None:
    """Write one image and, for an anomaly, its mask with the pixel value of its defect."""
    tray = render_tray(split_seed(seed, split, index), _split_defect(split, index), size)
    name = f"{index:03d}"
    folder = Path(_FOLDERS[split])
    _write_png(root / folder / f"{name}.png", np.ascontiguousarray(tray.image[..., ::-1]))
    if tray.kind != "good":
        value = np.where(tray.mask > 0, _pixel_value(tray.defect), 0).astype(np.uint8)
        _write_png(root / "ground_truth" / folder.name / name / "000.png", value)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise BadInput(f"cannot encode {path} as PNG: install another build of opencv-python-headless")
    atomic_write(path, data.tobytes())


def _shifted(progress: Progress | None, start: int, total: int) -> Progress:
    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(start + done, total)

    return report


def _write_video(root: Path, frames: int, seed: int, size: int, *, anomaly_rate: float, hold: int, fps: float,
                 progress: Progress) -> None:
    """Write the video and its truth; the video gets its name only when it is whole."""
    path, part = root / VIDEO_NAME, root / f".part-{VIDEO_NAME}"
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*_VIDEO_CODEC), fps, (size, size))
    if not writer.isOpened():
        raise BadInput(f"this OpenCV cannot write {_VIDEO_CODEC} video to {path}: pip install opencv-python-headless")
    lines: list[str] = []
    try:
        for image, truth in line_frames(frames, seed, size, anomaly_rate, hold=hold):
            writer.write(np.ascontiguousarray(image[..., ::-1]))
            lines.append(json.dumps(truth))
            progress(len(lines), frames)
        writer.release()
        os.replace(part, path)
    finally:
        writer.release()
        part.unlink(missing_ok=True)
    atomic_write(root / TRUTH_NAME, "\n".join(lines) + "\n")
