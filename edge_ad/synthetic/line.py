"""What the synthetic line shows in which order: as a data set in MVTec LOCO AD's layout, as a video, and as a belt on which trays
come in, stop, are looked at and leave.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import GOOD, LOGICAL, STRUCTURAL, Tray, kind_of, render_tray, tray_scene
from edge_ad.utils.files import atomic_write

SPLITS: tuple[str, ...] = ("train", "validation", "test_good", "test_logical", "test_structural")
SPLIT_CAPACITY = 100_000
VIDEO_START = 1_000_000
SEEDS_PER_LINE = 2**32
DEFECTS: tuple[str, ...] = LOGICAL + STRUCTURAL

_BLOCK = 20
_ORDER_STREAM, _DEFECT_STREAM = 11, 12


class FrameTruth(TypedDict):
    """What one frame shows: frame and part from 0, kind, defect (``"good"`` for none) and seed of the tray."""

    frame: int
    part: int
    kind: str
    defect: str
    seed: int


def split_seed(line_seed: int, split: str, index: int) -> int:
    """Return the seed of tray ``index`` (below 100,000) of a split of a line."""
    if split not in SPLITS:
        raise BadInput(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= index < SPLIT_CAPACITY:
        raise BadInput(f"tray {index} of split {split} is out of range: a split holds 0 to {SPLIT_CAPACITY:,} trays")
    return _line_start(line_seed) + SPLITS.index(split) * SPLIT_CAPACITY + index


def part_defect(part: int, line_seed: int, anomaly_rate: float) -> str:
    """Return the defect of a part of the video, or ``"good"``.

    Every 20 consecutive parts hold their exact share of anomalies in a random order, and the defects take turns, each
    once in ten anomalies: 400 parts at a rate of 0.5 are 200 good ones and 20 of each of the ten defects.
    """
    _check_rate(anomaly_rate)
    block, index = divmod(part, _BLOCK)
    before, after = (int(np.floor(start * _BLOCK * anomaly_rate + 1e-9)) for start in (block, block + 1))
    order = np.random.default_rng([_line_start(line_seed), _ORDER_STREAM, block]).permutation(_BLOCK)
    rank = int(order[index])
    if rank >= after - before:
        return GOOD
    turn, position = divmod(before + rank, len(DEFECTS))
    names = np.random.default_rng([_line_start(line_seed), _DEFECT_STREAM, turn]).permutation(len(DEFECTS))
    return DEFECTS[int(names[position])]


def line_frame(index: int, seed: int, size: int = 256, anomaly_rate: float = 0.5,
               *,
               hold: int = 1) -> tuple[NDArray[np.uint8], FrameTruth]:
    """Return frame ``index`` of the endless video of line ``seed``: the image u8[size,size,3] RGB and its truth.

    Each tray stays still for ``hold`` frames, which differ by sensor noise. Equal arguments give equal frames.
    """
    if hold < 1 or index < 0:
        raise BadInput(f"frame {index} with hold {hold}: choose a frame of 0 or more and a hold of 1 or more")
    part, exposure = divmod(index, hold)
    defect = part_defect(part, seed, anomaly_rate)
    tray_seed = _line_start(seed) + VIDEO_START + part % (SEEDS_PER_LINE - VIDEO_START)
    tray = render_tray(tray_seed, defect, size, exposure)
    truth = FrameTruth(frame=index, part=part, kind=kind_of(defect), defect=defect, seed=tray_seed)
    return tray.image, truth


def line_frames(frames: int | None, seed: int, size: int = 256, anomaly_rate: float = 0.5,
                *,
                hold: int = 1) -> Iterator[tuple[NDArray[np.uint8], FrameTruth]]:
    """Yield the first ``frames`` frames of line ``seed`` (without end for None) as line_frame returns them."""
    if frames is not None and frames < 0:
        raise BadInput(f"{frames} frames: choose 0 or more")
    index = 0
    while frames is None or index < frames:
        yield line_frame(index, seed, size, anomaly_rate, hold=hold)
        index += 1


def _check_rate(anomaly_rate: float) -> None:
    if not 0.0 <= anomaly_rate <= 1.0:
        raise BadInput(f"anomaly rate {anomaly_rate} is out of range: choose 0 to 1")


def _line_start(line_seed: int) -> int:
    if line_seed < 0:
        raise BadInput(f"line seed {line_seed} is negative: choose 0 or more")
    return line_seed * SEEDS_PER_LINE


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
    write_png(root / folder / f"{name}.png", np.ascontiguousarray(tray.image[..., ::-1]))
    if tray.kind != "good":
        value = np.where(tray.mask > 0, _pixel_value(tray.defect), 0).astype(np.uint8)
        write_png(root / "ground_truth" / folder.name / name / "000.png", value)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write u8[H,W,3] in BGR order, or a mask u8[H,W], atomically."""
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


BeltState = Literal["empty", "entering", "settled", "leaving"]

_TIMES, _BELT, _NOISE = 21, 22, 23
_COLOUR = (66, 74, 70)
_MAX_TRAYS = 3  # drawn trays that are kept


class BeltTruth(TypedDict):
    """What one frame shows: ``part`` from 0 (None on the empty belt), its kind and defect, and what it does."""

    frame: int
    part: int | None
    state: BeltState
    kind: str
    defect: str


class Belt:
    """``parts`` trays of line ``seed`` on a belt, ``size`` pixels a side; frames can be had in any order.

    Before each tray and after the last one the belt is empty for 3 to 9 frames, in every other gap standing still; a
    tray comes in over 4 to 7 frames, lies still for ``still`` to ``still`` + 5 frames and leaves over 4 to 7. Frames of
    a resting tray differ by sensor noise only. Equal arguments give equal frames. BadInput for values out of range.
    """

    def __init__(self, parts: int, seed: int, size: int = 256, anomaly_rate: float = 0.5, *, still: int = 10) -> None:
        if not 1 <= parts <= 1_000_000 or seed < 0 or not 3 <= still <= 1000:
            raise BadInput(
                f"a belt of {parts} parts, seed {seed}, {still} still frames: allowed are 1 to 1,000,000 parts, seeds "
                "of 0 or more and 3 to 1,000 still frames"
            )
        self.parts = parts
        self._seed, self._size, self._rate = seed, size, anomaly_rate
        rng = np.random.default_rng([seed, _TIMES])
        # Rows: empty, entering, settled, leaving; the last part is a gap alone.
        self._times = rng.integers((3, 4, still, 4), (10, 8, still + 6, 8), (parts + 1, 4))
        self._times[-1, 1:] = 0
        self._ends = np.cumsum(self._times.sum(axis=1))
        self._drawn: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._texture = self._draw_belt()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def truth(self, index: int) -> BeltTruth:
        """Return what frame ``index`` shows."""
        part, state, _ = self._position(index)
        if state == "empty":
            return BeltTruth(frame=index, part=None, state=state, kind=GOOD, defect=GOOD)
        defect = part_defect(part, self._seed, self._rate)
        return BeltTruth(frame=index, part=part, state=state, kind=kind_of(defect), defect=defect)

    def frame(self, index: int) -> tuple[NDArray[np.uint8], BeltTruth]:
        """Return frame ``index`` (below ``len``): the image u8[size,size,3] RGB and its truth."""
        part, state, share = self._position(index)
        size = self._size
        way = {"empty": -size, "entering": round((share - 1) * size), "settled": 0, "leaving": round(share * size)}
        offset = way[state]
        pixels = self._empty(part, state, share, offset)
        if state != "empty":
            tray = self._tray(part)
            left, right = max(offset, 0), min(offset + size, size)
            pixels[:, left:right] = tray[:, left - offset : right - offset]
        noise = np.random.default_rng([self._seed, _NOISE, index]).normal(0.0, 1.6, pixels.shape)
        image = np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
        return image, self.truth(index)

    def _position(self, index: int) -> tuple[int, BeltState, float]:
        """Return the part, its state and how much of that state is over (0 to 1)."""
        if not 0 <= index < len(self):
            raise BadInput(f"frame {index} of a belt of {len(self)} frames: choose 0 to {len(self) - 1}")
        part = bisect_right(self._ends, index)
        since = index - (int(self._ends[part - 1]) if part else 0)
        states: tuple[BeltState, ...] = ("empty", "entering", "settled", "leaving")
        for state, length in zip(states, self._times[part], strict=True):
            if since < length:
                return part, state, (since + 1) / (int(length) + 1)
            since -= int(length)
        raise AssertionError(f"frame {index} lies in no state")

    def _empty(self, part: int, state: BeltState, share: float, offset: int) -> NDArray[np.float32]:
        """Return the belt without trays; it moves with them, and in every other gap it stands still."""
        size = self._size
        moved = offset if state != "empty" else -size + (0 if part % 2 else int(share * size) % size)
        return np.roll(self._texture, moved, axis=1).astype(np.float32)

    def _draw_belt(self) -> NDArray[np.float32]:
        rng = np.random.default_rng([self._seed, _BELT])
        coarse = rng.normal(0.0, 5.0, (-(-self._size // 16), -(-self._size // 16), 1))
        grain = np.kron(coarse, np.ones((16, 16, 1)))[: self._size, : self._size]
        fine = rng.normal(0.0, 3.0, (self._size, self._size, 1))
        return (np.array(_COLOUR, np.float32) + grain + fine).astype(np.float32)

    def _tray(self, part: int) -> NDArray[np.uint8]:
        if part not in self._drawn:
            seed = self._seed * SEEDS_PER_LINE + VIDEO_START + part
            self._drawn[part] = render_tray(seed, part_defect(part, self._seed, self._rate), self._size).image
            while len(self._drawn) > _MAX_TRAYS:
                self._drawn.popitem(last=False)
        return self._drawn[part]
