"""`distill-teacher`: photographs and a source network -> the weights of a PDN and their model card, resumable.

Recipe of a teacher: a PDN learns the patch features of a source network on random crops of photographs.

Batzner, Heckler and König, EfficientAD (arXiv 2303.14535), section 3.1 and the appendix on pretraining. Ours: crops
instead of whole images, so that a few thousand photographs give millions of patches, and the PDN without padding, as it
is used later.

The report of a distillation: error on held-out photographs over the steps, and nearest neighbours of patches.
"""

from __future__ import annotations

import json
import time
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edge_ad import __version__
from edge_ad.config import DistillTable
from edge_ad.errors import BadInput
from edge_ad.evaluation.plots import empty_figure, jpeg, png
from edge_ad.evaluation.report import STYLE
from edge_ad.models.pdn import LearningPdn, PatchDescriptionNetwork
from edge_ad.models.teachers import ImageNetNormalise, PatchFeatures
from edge_ad.presets.presets import Schedule
from edge_ad.training.augment import to_pixels
from edge_ad.training.images import Photographs, find_photographs, split_photographs
from edge_ad.training.loop import Arithmetic, Trace, choose_arithmetic, fit
from edge_ad.training.run_folder import RunFolder, choose_folder, fingerprint
from edge_ad.training.teacher import Source, load_source
from edge_ad.utils.files import atomic_write, sha256_bytes
from edge_ad.utils.progress import Progress, clock

CHUNK = 16
RIM = 4  # cells of the target's grid that no patch inside the image describes


class DistillationRecipe:
    """Batches of random crops; the source sees them at twice the side, so that its stride of 8 is the PDN's of 4."""

    name = "teacher"

    def __init__(
        self,
        pdn: LearningPdn,
        source: Source,
        photographs: Photographs,
        held_out: NDArray[np.uint8],
        *,
        side: int,
        schedule: Schedule,
        arithmetic: Arithmetic,
    ) -> None:
        device = arithmetic.device
        self.schedule, self.arithmetic, self.side = schedule, arithmetic, side
        self.photographs, self.held_out = photographs, held_out
        self.pdn, self.image = pdn, ImageNetNormalise().to(device)
        self.module: nn.Module = pdn.to(device)
        self.source = source.to(device)
        self.patches = PatchFeatures(source.widths).to(device)
        for module in (self.module, self.source):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def measure(self, crops: int, seed: int) -> None:
        """Set mean and deviation of every target channel from ``crops`` random crops."""
        rng = np.random.default_rng([seed, 12])
        raw = [self._raw_target(self._pixels(self._crops(rng, CHUNK))) for _ in range(-(-crops // CHUNK))]
        stacked = torch.cat([part.double().transpose(0, 1).flatten(1).cpu() for part in raw], dim=1)
        mean, std = stacked.mean(dim=1).float(), stacked.std(dim=1, correction=0).float()
        self.patches.normalise.set(mean.to(self.arithmetic.device), std.to(self.arithmetic.device))

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Cut a batch of random crops."""
        return self._crops(rng, self.schedule.batch)

    def learn(self, crops: NDArray[np.uint8]) -> dict[str, Tensor]:
        """Compute the loss of one batch."""
        return {"loss": self._loss(self._pixels(crops))}

    def validate(self) -> float:
        """Return the mean squared error on held-out photographs; 1.0 is what a constant would reach."""
        total = 0.0
        for start in range(0, len(self.held_out), CHUNK):
            pixels = self._pixels(self.held_out[start : start + CHUNK])
            total += float(self._loss(pixels)) * len(pixels)
        return total / len(self.held_out)

    def target(self, pixels: Tensor) -> Tensor:
        """Return the source's normalised patch features f32 (B, 384, s, s) for pixels of twice the PDN's side."""
        out: Tensor = self.patches.normalise(self._raw_target(pixels))
        return out

    def predict(self, pixels: Tensor) -> Tensor:
        """Return what the PDN makes of the same pixels, at half their side."""
        small = F.avg_pool2d(pixels, 2)
        with self.arithmetic.autocast():
            out: Tensor = self.module(self.image(small).contiguous(memory_format=torch.channels_last))
        return out.float()

    def _loss(self, pixels: Tensor) -> Tensor:
        return F.mse_loss(self.predict(pixels), self.target(pixels))

    def _raw_target(self, pixels: Tensor) -> Tensor:
        with torch.no_grad(), self.arithmetic.autocast():
            layers = self.source(pixels.contiguous(memory_format=torch.channels_last))
            raw = self.patches.raw(layers)
        return raw[:, :, RIM:-RIM, RIM:-RIM].float()

    def _crops(self, rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
        return self.photographs.random_crops(count, 2 * self.side, rng)

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        return to_pixels(images, self.arithmetic.device)


HELD_OUT = 64
MEASURE_CROPS = 512


# The published schedule for a GPU; a CPU takes smaller crops, fewer steps and a higher rate.
GPU = {"steps": 60_000, "batch": 16, "side": 256, "rate": 1e-3}
CPU = {"steps": 4_800, "batch": 8, "side": 128, "rate": 2e-3}


def distill(roots: list[Path], options: DistillTable, progress: Progress) -> Path:
    """Train a teacher on the photographs under ``roots`` and return the weights' path, <out>/teacher_<size>.safetensors.

    Beside it stand the model card (JSON) and a report (HTML). The same call after a kill goes on where it stopped.
    Raises BadInput for photographs, a source or options that cannot be used.
    """
    return _Distillation(roots, options, progress).run()


class _Distillation:
    def __init__(self, roots: list[Path], options: DistillTable, progress: Progress) -> None:
        self.began, self.options, self.progress = time.monotonic(), options, progress
        self.arithmetic: Arithmetic = choose_arithmetic(True)
        if self.arithmetic.group.size > 1:
            # Its batch normalisation sees one process' crops only.
            raise BadInput("a teacher is distilled by one process: start edge-ad distill-teacher without torchrun")
        defaults = GPU if self.arithmetic.device.type == "cuda" else CPU
        given = {key: getattr(options, key) for key in defaults}
        self.plan: dict[str, Any] = {**defaults, **{key: value for key, value in given.items() if value is not None}}
        self.roots, paths = roots, find_photographs(roots)
        self.learned, self.held_out = split_photographs(paths, options.seed, HELD_OUT)
        self.source = load_source(options.source)
        details = {
            "version": __version__,
            "options": options.model_dump(exclude={"out"}),
            "plan": self.plan,
            "photographs": [[str(path), path.stat().st_size] for path in paths],
            "arithmetic": self.arithmetic.name,
        }
        self.mark = fingerprint(details)
        self.folder: RunFolder = choose_folder(options.out, self.mark)

    def run(self) -> Path:
        """Distil, and return the weights; BadInput while another process distils into the same folder."""
        with self.folder.locked():
            return self._run()

    def _run(self) -> Path:
        plan, report = self.plan, self.progress.log
        if self.folder.begin(self.mark):
            report(f"going on with the unfinished distillation in {self.folder.path}")
        report(
            f"{len(self.learned)} photographs to learn from, {len(self.held_out)} held out; source {self.options.source}, "
            f"{plan['steps']} steps of {plan['batch']} crops of {plan['side']} pixels ({self.arithmetic.name})"
        )
        recipe = self._recipe()
        recipe.measure(MEASURE_CROPS, self.options.seed)
        trace = fit(recipe, plan["steps"], self.folder, self.options.seed, progress=self.progress)
        pdn = recipe.pdn.cpu().eval().folded()
        target = self.folder.path / f"teacher_{self.options.size}.safetensors"
        card = self._card(trace)
        write_weights(target, pdn, card)
        self._report(recipe, trace, card)
        self.folder.finish()
        report(
            f"held-out error {trace.best:.4f} after {trace.best_step} steps, {clock(time.monotonic() - self.began)}: {target}"
        )
        return target

    def _recipe(self) -> DistillationRecipe:
        plan, side = self.plan, int(self.plan["side"])
        torch.manual_seed(self.options.seed)
        every = max(1, plan["steps"] // 30)
        schedule = Schedule(
            plan["steps"], plan["batch"], plan["rate"], weight_decay=1e-5, warm_up=0.05, validate_every=every
        )
        held_out = Photographs(self.held_out).central_crops(2 * side)
        photographs = Photographs(self.learned)
        pdn = LearningPdn(self.options.size)
        return DistillationRecipe(pdn, self.source, photographs, held_out, side=side, schedule=schedule, arithmetic=self.arithmetic)

    def _card(self, trace: Trace) -> dict[str, Any]:
        return {
            "teacher": f"pdn_{self.options.size}",
            "source": self.options.source,
            "photographs": {
                "learned": len(self.learned),
                "held_out": len(self.held_out),
                "folders": [root.name for root in self.roots],
                "terms": self.options.terms or "not stated",
            },
            **self.plan,
            "seed": self.options.seed,
            "arithmetic": self.arithmetic.name,
            "held_out_error": trace.best,
            "kept_step": trace.best_step,
            "made_with": f"edge-ad {__version__}, torch {torch.__version__}",
        }

    def _report(self, recipe: DistillationRecipe, trace: Trace, card: dict[str, Any]) -> None:

        write_report(self.folder.path, recipe, trace, card)


def write_weights(target: Path, pdn: PatchDescriptionNetwork, card: dict[str, Any]) -> None:
    """Write a PDN as half-precision safetensors with keys conv1..convN, and its card beside it with their SHA-256."""
    from safetensors.torch import save

    names = [f"conv{number}" for number in range(1, len(pdn.convolutions()) + 1)]
    state = {
        f"{name}.{part}": getattr(conv, part).detach().half().contiguous()
        for name, conv in zip(names, pdn.convolutions(), strict=True)
        for part in ("weight", "bias")
    }
    # One entry: the order of several would differ from run to run, and with it the file's SHA-256.
    data = save(state, metadata={"card": json.dumps(card)})
    atomic_write(target, data)
    atomic_write(
        target.with_suffix(".json"),
        json.dumps({**card, "sha256": sha256_bytes(data), "bytes": len(data)}, indent=2) + "\n",
    )


QUERIES = 8
NEIGHBOURS = 5
PATCH = 66  # pixels of the source's image that one cell of a PDN sees
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
    """Return one image a query: the patch, its neighbours by the teacher, its neighbours by the source."""
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
    for image in rng.permutation(len(features))[:QUERIES]:
        cell = int(rng.integers(cells))
        results = [_patch(recipe.held_out, int(image), cell, cells)]
        for bank in (features, targets):
            results += [_patch(recipe.held_out, *cell_index, cells) for cell_index in nearest(bank, int(image), cell)]
        gap = np.full((SHOWN, 12, 3), 255, np.uint8)
        rows.append(jpeg(np.hstack([results[0], gap, *results[1 : NEIGHBOURS + 1], gap, *results[NEIGHBOURS + 1 :]])))
    return rows


def nearest(bank: Tensor, image: int, cell: int) -> list[tuple[int, int]]:
    """Return the (image, cell) nearest to one cell of f32 (N, cells, C), one of each other image."""
    distances = (bank - bank[image, cell]).square().sum(dim=2)
    distances[image] = torch.inf
    best, cells = distances.min(dim=1)
    order = best.argsort()[: min(NEIGHBOURS, len(bank) - 1)]
    return [(int(index), int(cells[index])) for index in order]


def _candidates(maps: Tensor) -> Tensor:
    return maps[:, :, ::EVERY, ::EVERY].flatten(2).transpose(1, 2).cpu()


def _patch(images: NDArray[np.uint8], pixels: int, cell: int, cells: int) -> NDArray[np.uint8]:
    from edge_ad.data.images import resize

    across = round(cells**0.5)
    row, column = divmod(cell, across)
    image = images[pixels]
    # A cell of the target stands every eight pixels; the PDN's first cell is the target's fifth.
    top, left = (min(max(0, 8 * (RIM + EVERY * at) + 4 - PATCH // 2), image.shape[0] - PATCH) for at in (row, column))
    return resize(np.ascontiguousarray(image[top : top + PATCH, left : left + PATCH]), (SHOWN, SHOWN))
