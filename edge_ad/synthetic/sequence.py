"""The order of trays on the synthetic line: seeds that never meet, and frames that can be had in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.synthetic.tray import GOOD, LOGICAL, STRUCTURAL, kind_of, render_tray

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
