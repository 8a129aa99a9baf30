"""The report of a distillation: error on held-out photographs over the steps, and nearest neighbours of patches."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_ad.evaluation.pictures import empty_figure, jpeg, png
from edge_ad.evaluation.report import STYLE
from edge_ad.files import atomic_write
from edge_ad.training.augment import to_pixels
from edge_ad.training.distillation_recipe import CHUNK, RIM, DistillationRecipe
from edge_ad.training.loop import Trace

QUERIES = 8
NEIGHBOURS = 5
PATCH = 66  # pixels of the source's picture that one cell of a PDN sees
SHOWN = 88
EVERY = 4  # cells between candidates


def write_report(folder: Path, recipe: DistillationRecipe, trace: Trace, card: dict[str, Any]) -> None:
    """Write ``folder``/teacher.html: the card, the loss curve, and what the teacher and its source find alike."""
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in card.items())
    parts = [
        f"<h1>{escape(str(card['teacher']))}</h1><table>{rows}</table>",
        "<h2>Error on held-out photographs</h2><p class=note>Mean squared error of normalised features; 1 is a constant.</p>"
        f'<img alt="held-out error over steps" src="{_curve(folder, trace)}">',
        "<h2>Nearest neighbours</h2><p class=note>A patch of a held-out photograph, then the patches of other held-out "
        f"photographs nearest to it: for the teacher ({NEIGHBOURS}), and for its source ({NEIGHBOURS}).</p>",
        *(f'<p><img alt="a patch and its neighbours" src="{row}"></p>' for row in neighbour_rows(recipe)),
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(str(card['teacher']))}</title>"
    atomic_write(folder / "teacher.html", f"{head}<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n")


def _curve(folder: Path, trace: Trace) -> str:
    figure, axes = empty_figure(7.0, 3.4)
    entries = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    # A killed run repeats the steps since its last checkpoint: the later entry counts.
    losses = {entry["step"]: entry["loss"] for entry in entries if entry.get("stage") == "teacher" and "loss" in entry}
    axes.plot(list(losses), list(losses.values()), color="#a8a29e", linewidth=0.8, label="batches")
    axes.plot(*zip(*trace.validations, strict=True), color="#1d4ed8", marker=".", label="held out")
    axes.set(xlabel="step", ylabel="mean squared error", ylim=(0, None))
    axes.legend(frameon=False)
    return png(figure)


def neighbour_rows(recipe: DistillationRecipe) -> list[str]:
    """Return one picture a query: the patch, its neighbours by the teacher, its neighbours by the source."""
    recipe.module.eval()
    taught, sought = [], []
    with torch.no_grad():
        for start in range(0, len(recipe.held_out), CHUNK):
            pixels = to_pixels(recipe.held_out[start : start + CHUNK], recipe.arithmetic.device)
            taught.append(_candidates(recipe.predict(pixels)))
            sought.append(_candidates(recipe.target(pixels)))
    features, targets = torch.cat(taught), torch.cat(sought)
    cells = features.shape[1]
    rng = np.random.default_rng(0)
    rows = []
    for picture in rng.permutation(len(features))[:QUERIES]:
        cell = int(rng.integers(cells))
        found = [_patch(recipe.held_out, int(picture), cell, cells)]
        for bank in (features, targets):
            found += [_patch(recipe.held_out, *place, cells) for place in nearest(bank, int(picture), cell)]
        gap = np.full((SHOWN, 12, 3), 255, np.uint8)
        rows.append(jpeg(np.hstack([found[0], gap, *found[1 : NEIGHBOURS + 1], gap, *found[NEIGHBOURS + 1 :]])))
    return rows


def nearest(bank: Tensor, picture: int, cell: int) -> list[tuple[int, int]]:
    """Return the (picture, cell) nearest to one cell of f32 (N, cells, C), one of each other picture."""
    distances = (bank - bank[picture, cell]).square().sum(dim=2)
    distances[picture] = torch.inf
    best, cells = distances.min(dim=1)
    order = best.argsort()[: min(NEIGHBOURS, len(bank) - 1)]
    return [(int(index), int(cells[index])) for index in order]


def _candidates(maps: Tensor) -> Tensor:
    return maps[:, :, ::EVERY, ::EVERY].flatten(2).transpose(1, 2).cpu()


def _patch(pictures: NDArray[np.uint8], picture: int, cell: int, cells: int) -> NDArray[np.uint8]:
    from edge_ad.data.images import resize

    across = round(cells**0.5)
    row, column = divmod(cell, across)
    image = pictures[picture]
    # A cell of the target stands every eight pixels; the PDN's first cell is the target's fifth.
    top, left = (min(max(0, 8 * (RIM + EVERY * at) + 4 - PATCH // 2), image.shape[0] - PATCH) for at in (row, column))
    return resize(np.ascontiguousarray(image[top : top + PATCH, left : left + PATCH]), (SHOWN, SHOWN))
