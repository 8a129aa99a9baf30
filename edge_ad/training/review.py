"""`train --review`: normal images that look unlike the others, shown for a person to confirm before they are left out.

Nothing is left out here. The page shows what is listed and what comes next; the list beside it is what `--exclude` reads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from shlex import quote
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edge_ad.config import TrainTable
from edge_ad.data.datasets import DataSet, load_dataset
from edge_ad.data.exclusions import LIST_NAME, entry_of, exclusions_text, shown
from edge_ad.data.near_duplicates import near_duplicate_groups, thumbnail
from edge_ad.data.prepared import Unlocated
from edge_ad.deployment.validation_images import spread
from edge_ad.errors import BadInput
from edge_ad.evaluation.plots import jpeg
from edge_ad.evaluation.report import STYLE
from edge_ad.models.build import AnyTeacher
from edge_ad.presets.presets import Preset
from edge_ad.scoring.contamination import RELATIVE, WHOLE, Contamination, find_contamination, robust_deviations
from edge_ad.scoring.memory import Array, whitening_of
from edge_ad.training.augment import to_pixels
from edge_ad.training.geometry import log_geometry, prepare_normal
from edge_ad.training.images import Images
from edge_ad.training.locating_gain import LocatingTrial
from edge_ad.training.loop import choose_arithmetic
from edge_ad.training.memory import cells_of, whitened
from edge_ad.training.report import log_dataset
from edge_ad.training.teacher import load_teacher
from edge_ad.utils.files import atomic_write
from edge_ad.utils.progress import Progress

PAGE_NAME = "review.html"
CHUNK = 16
WIDTH = 96  # directions of whitened features
SAMPLE = 64  # images that the whitening is measured on
MAX_CELLS = 600_000  # of all images; where there are more, 2 x 2 are averaged
NEXT = 12  # images behind the listed ones that are shown as well
MAX_SHOWN = 200  # figures in the page
NAMED = 50  # images that the bundle's report names
WARNED = 4.0  # deviations from which a training warns: clean sets have some above the cut, and few above this
SIDE = 300  # pixels of the longer side of a thumbnail
PLAIN = 3.0  # deviations from which brightness and sharpness are named
MARK = (255, 60, 60)


@dataclass(frozen=True, eq=False)
class Reviewed:
    """Images u8 [N, H, W, 3] with their files, and how unlike the others each is."""

    images: Images
    paths: tuple[Path, ...]
    contamination: Contamination
    root: Path

    def report(self) -> dict[str, Any]:
        """Return what the bundle's report says."""
        listed = self.contamination.listed
        scores = self.contamination.scores
        named = [[shown(entry_of(self.paths[index], self.root)), round(float(scores[index]), 2)] for index in listed[:NAMED]]
        return {"count": len(listed), "of": len(self.paths), "cut": self.contamination.cut, "images": named}

    def warning(self, data: Path, exclude: Path | None = None) -> str | None:
        """Return one line about images that look plainly unlike the others, None without any; ``data`` and ``exclude`` as for
        the command.
        """
        plain = [index for index in self.contamination.listed if self.contamination.scores[index] > WARNED]
        if not plain:
            return None
        again = f"edge-ad train {quote(str(data))}" + ("" if exclude is None else f" --exclude {quote(str(exclude))}")
        first = shown(entry_of(self.paths[plain[0]], self.root))
        return (
            f"warning: {len(plain)} of {len(self.paths)} normal images look plainly unlike the others, {first} the most; "
            f"`{again} --review` shows them"
        )


def look(
    teacher: AnyTeacher, images: Images, paths: Sequence[Path], root: Path, *, device: torch.device, seed: int,
    progress: Progress | None = None,
) -> Reviewed:
    """Compare ``images`` u8 [N, H, W, 3] of the files ``paths`` with each other by the features of the frozen teacher."""
    whitening = _whitening(teacher, spread(images, SAMPLE), device)
    cells, pooled, began = [], [], time.monotonic()
    grid: tuple[int, int] | None = None
    for start in range(0, len(images), CHUNK):
        features, described = _described(teacher, images[start : start + CHUNK], device)
        if grid is None:
            grid = (features.shape[1], features.shape[2])
        coarse = len(images) * grid[0] * grid[1] > MAX_CELLS
        cells.append(whitened(_halved(features) if coarse else features, whitening))
        pooled.append(described)
        if progress is not None:
            progress.step("comparing", min(start + CHUNK, len(images)), len(images), began)
    groups = near_duplicate_groups(np.stack([thumbnail(image) for image in images]))
    contamination = find_contamination(np.concatenate(cells), np.concatenate(pooled), seed, groups)
    return Reviewed(images, tuple(paths), contamination, root)


def _described(teacher: AnyTeacher, images: Images, device: torch.device) -> tuple[Array, Array]:
    """Return features f32 [n, h, w, C] and pooled features f32 [n, P]."""
    with torch.no_grad():
        out = teacher(to_pixels(images, device))
    return cells_of(out.features), out.pooled.float().cpu().numpy()


def _whitening(teacher: AnyTeacher, sample: Images, device: torch.device) -> tuple[Array, Array]:
    """Return a centre [C] and a matrix [D, C] that standardise the channels and whiten them."""
    parts = [_described(teacher, sample[start : start + CHUNK], device)[0] for start in range(0, len(sample), CHUNK)]
    cells = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    scale = np.maximum(cells.std(axis=0), 1e-6)
    centre, matrix = whitening_of(cells / scale, WIDTH)
    return centre * scale, matrix / scale


def _halved(features: Array) -> Array:
    """Return the means f32 [n, h/2, w/2, C] of 2 x 2 cells."""
    count, high, wide, channels = features.shape
    even = features[:, : high // 2 * 2, : wide // 2 * 2]
    blocks = even.reshape(count, high // 2, 2, wide // 2, 2, channels)
    return np.asarray(blocks.mean(axis=(2, 4)), np.float32)


def review(
    data: Path, out: Path | None, options: TrainTable, preset: Preset, *, weights: Path | None, progress: bool = True
) -> dict[str, Any]:
    """Look at the normal images in ``data``, write the page and the list into ``out``, and return what was found.

    The object has "page", "list" and what the bundle's report says. BadInput for data or options that cannot be used, and
    where ``out`` has a list already, which a person may have corrected.
    """
    folder = _folder(out)
    reporter = Progress(shown=progress)
    dataset = load_dataset(data, options.seed, options.exclude)
    arithmetic = choose_arithmetic(preset.low_precision)
    reporter.shown &= arithmetic.group.is_main_process
    teacher = load_teacher(preset, weights, arithmetic.device)
    log_dataset(dataset, preset.name, reporter.log)
    trial = LocatingTrial(teacher, preset, arithmetic.device, dataset.bits, options.seed)  # as a training chooses
    with tempfile.TemporaryDirectory() as state:
        chosen, normal = prepare_normal(
            dataset, options, preset, Path(state), group=arithmetic.group, log=reporter.log, trial=trial
        )
    log_geometry(chosen, normal, reporter.log)
    splits = normal.splits.values()
    paths = tuple(path for split in splits for path in split.paths)
    unlocated = tuple(one for split in splits for one in split.unlocated)
    images = np.concatenate([split.images for split in splits])
    reviewed = look(
        teacher, images, paths, dataset.root, device=arithmetic.device, seed=options.seed, progress=reporter
    )
    if arithmetic.group.is_main_process:
        _write(folder, data, dataset, reviewed, unlocated=unlocated, log=reporter.log)
    return {"page": str(folder / PAGE_NAME), "list": str(folder / LIST_NAME), **reviewed.report()}


def _folder(out: Path | None) -> Path:
    """Return the folder to write into; BadInput where it holds a list."""
    if out is None:
        return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-review"
    if (out / LIST_NAME).exists():
        raise BadInput(f"{out / LIST_NAME} is there already and may hold your corrections: move it away, or name another --out")
    return out


def _write(
    folder: Path, data: Path, dataset: DataSet, reviewed: Reviewed, *, unlocated: Unlocated, log: Callable[[str], None]
) -> None:
    contamination, root = reviewed.contamination, dataset.root
    listed, count = contamination.listed, len(reviewed.paths)
    after = [int(index) for index in contamination.order if index not in set(listed)][:NEXT]
    entries = [[entry_of(reviewed.paths[index], root) for index in part] for part in (listed, after)]
    before = [entry_of(path, root) for path in dataset.excluded]
    atomic_write(folder / PAGE_NAME, page(reviewed, dataset.name, listed=listed, after=after, unlocated=unlocated))
    atomic_write(folder / LIST_NAME, exclusions_text(entries[0], entries[1], before, of=count))
    log(f"{len(listed)} of {count} normal images look unlike the others; nothing was left out")
    log(f"look at {folder / PAGE_NAME}, delete the lines of good parts from {folder / LIST_NAME}, and train with")
    log(f"  edge-ad train {quote(str(data))} --exclude {quote(str(folder / LIST_NAME))}")


def page(reviewed: Reviewed, name: str, *, listed: Sequence[int], after: Sequence[int], unlocated: Unlocated) -> str:
    """Return the page as HTML that carries its images in itself."""
    plain = _plain_reasons(reviewed.images)
    mean = np.rint(np.mean(spread(reviewed.images, SAMPLE), axis=0, dtype=np.float32)).astype(np.uint8)
    sections = (
        ("Listed", f"They stand in {LIST_NAME}: delete the lines of parts that are good.", listed),
        ("Next", f"They are trained on. In {LIST_NAME} their lines begin with #: take it away to leave one out.", after),
    )
    parts = [
        f"<h1>{escape(name)}: {len(listed)} of {len(reviewed.paths)} normal images look unlike the others</h1>",
        "<p class=note>Nothing was left out yet. The number is by how many deviations an image is more unlike the others than "
        "their middle; the frame marks the place that differs most. Images are shown as a training sees them.</p>",
        f'<figure><img alt="mean" src="{jpeg(_thumbnail(mean))}"><figcaption>The mean of the normal images</figcaption></figure>',
    ]
    for title, note, indices in sections:
        figures = "".join(_figure(reviewed, index, plain[index]) for index in indices[:MAX_SHOWN])
        count = f"{len(indices)}, {MAX_SHOWN} shown" if len(indices) > MAX_SHOWN else str(len(indices))
        parts.append(f"<h2>{title} ({count})</h2><p class=note>{note}</p><div class=row>{figures or '<p>None.</p>'}</div>")
    if unlocated:
        rows = "".join(f"<li>{escape(shown(path.name))}: {escape(reason)}</li>" for path, reason in unlocated)
        parts.append(f"<h2>Not located ({len(unlocated)})</h2><p class=note>A training leaves them out anyway.</p><ul>{rows}</ul>")
    title = escape(f"Review of {name}")
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    return head + "\n".join(parts) + "</html>\n"


def _figure(reviewed: Reviewed, index: int, plain: str) -> str:
    contamination, path = reviewed.contamination, reviewed.paths[index]
    name = escape(shown(entry_of(path, reviewed.root)))
    row, column = (int(value) for value in contamination.places[index])
    image = _thumbnail(reviewed.images[index], ((row + 0.5) / contamination.grid[0], (column + 0.5) / contamination.grid[1]))
    caption = f"{name}<br>{contamination.scores[index]:.1f}: {escape(reason_of(contamination, index))}{escape(plain)}"
    return f'<figure><img alt="{name}" src="{jpeg(image)}"><figcaption>{caption}</figcaption></figure>'


def reason_of(contamination: Contamination, index: int) -> str:
    """Return in words what is unlike the others."""
    kind = contamination.kind(index)
    if kind == WHOLE:
        return "the image as a whole is unlike the others"
    row, column = contamination.places[index]
    rows = ("upper", "middle", "lower")[int(3 * row // contamination.grid[0])]
    columns = ("left", "centre", "right")[int(3 * column // contamination.grid[1])]
    place = "centre" if (rows, columns) == ("middle", "centre") else f"{rows} {columns}"
    if kind == RELATIVE:
        return f"a place that hardly varies differs ({place})"
    return f"a place differs from the same place of the others ({place})"


def _plain_reasons(images: Images) -> list[str]:
    """Return for each image what of its light and focus is unusual, in words; mostly nothing."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    light = np.array([float(one.mean()) for one in grey])
    sharp = np.array([float(cv2.Laplacian(one, cv2.CV_32F).std()) for one in grey])
    change = light - np.median(light)
    reasons = [""] * len(images)
    for index in np.flatnonzero(robust_deviations(np.abs(change) + 1.0) > PLAIN):
        reasons[index] += f"; {abs(change[index]):.0f} grey levels {'brighter' if change[index] > 0 else 'darker'} than most"
    for index in np.flatnonzero(robust_deviations(1 / np.maximum(sharp, 1e-3)) > PLAIN):
        reasons[index] += "; less sharp than most"
    return reasons


def _thumbnail(image: Images, place: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Return an image u8 [H, W, 3] with SIDE pixels on its longer side, with a frame around a place (shares of both sides)."""
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8).copy()
    if place is not None:
        y, x, half = round(place[0] * size[1]), round(place[1] * size[0]), SIDE // 12
        cv2.rectangle(small, (x - half, y - half), (x + half, y + half), (0, 0, 0), 4)
        cv2.rectangle(small, (x - half, y - half), (x + half, y + half), MARK, 2)
    return small
