"""`distill-teacher`: photographs and a source network -> the weights of a PDN and their model card, resumable."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from edge_ad import __version__
from edge_ad.errors import BadInput
from edge_ad.files import atomic_write, sha256_bytes
from edge_ad.models.learning_pdn import LearningPdn
from edge_ad.models.pdn import PatchDescriptionNetwork, PdnSize
from edge_ad.presets import Schedule
from edge_ad.training.device import Arithmetic, choose_arithmetic
from edge_ad.training.distillation_recipe import DistillationRecipe
from edge_ad.training.loop import Trace, fit
from edge_ad.training.photographs import Photographs, find_photographs, split_photographs
from edge_ad.training.progress import Progress, clock
from edge_ad.training.run_folder import RunFolder, choose_folder, fingerprint
from edge_ad.training.sources import load_source

HELD_OUT = 64
MEASURE_CROPS = 512


@dataclass(frozen=True)
class DistillOptions:
    """What a person may set; ``steps``, ``batch``, ``side`` and ``rate`` are the device's own when None."""

    size: PdnSize = "small"
    source: str = "lite0"
    steps: int | None = None
    batch: int | None = None
    side: int | None = None
    rate: float | None = None
    seed: int = 0
    terms: str = ""


# The published schedule for a GPU; a CPU takes smaller crops, fewer steps and a higher rate.
GPU = {"steps": 60_000, "batch": 16, "side": 256, "rate": 1e-3}
CPU = {"steps": 4_800, "batch": 8, "side": 128, "rate": 2e-3}


def distill(roots: list[Path], out: Path | None, options: DistillOptions, progress: Progress) -> Path:
    """Train a teacher on the photographs under ``roots`` and return the weights' path, ``out``/teacher_<size>.safetensors.

    Beside it stand the model card (JSON) and a report (HTML). The same call after a kill goes on where it stopped. Raises
    BadInput for photographs, a source or options that cannot be used.
    """
    return _Distillation(roots, out, options, progress).run()


class _Distillation:
    def __init__(self, roots: list[Path], out: Path | None, options: DistillOptions, progress: Progress) -> None:
        self.began, self.options, self.progress = time.monotonic(), options, progress
        self.arithmetic: Arithmetic = choose_arithmetic(True)
        if self.arithmetic.team.size > 1:
            # Its batch normalisation sees one process' crops only.
            raise BadInput("a teacher is distilled by one process: start edge-ad distill-teacher without torchrun")
        defaults = GPU if self.arithmetic.device.type == "cuda" else CPU
        given = {key: getattr(options, key) for key in defaults}
        self.plan: dict[str, Any] = {**defaults, **{key: value for key, value in given.items() if value is not None}}
        self.roots, paths = roots, find_photographs(roots)
        self.learned, self.held_out = split_photographs(paths, options.seed, HELD_OUT)
        self.source = load_source(options.source)
        facts = {
            "version": __version__,
            "options": asdict(options),
            "plan": self.plan,
            "photographs": [[str(path), path.stat().st_size] for path in paths],
            "arithmetic": self.arithmetic.name,
        }
        self.mark = fingerprint(facts)
        self.folder: RunFolder = choose_folder(out, self.mark)

    def run(self) -> Path:
        """Distil, and return the weights; BadInput while another process distils into the same folder."""
        with self.folder.held():
            return self._run()

    def _run(self) -> Path:
        plan, say = self.plan, self.progress.say
        if self.folder.begin(self.mark):
            say(f"going on with the unfinished distillation in {self.folder.path}")
        say(
            f"{len(self.learned)} photographs to learn from, {len(self.held_out)} held out; source {self.options.source}, "
            f"{plan['steps']} steps of {plan['batch']} crops of {plan['side']} pixels ({self.arithmetic.name})"
        )
        recipe = self._recipe()
        recipe.measure(MEASURE_CROPS, self.options.seed)
        trace = fit(recipe, plan["steps"], self.folder, self.options.seed, self.progress)
        pdn = recipe.pdn.cpu().eval().folded()
        target = self.folder.path / f"teacher_{self.options.size}.safetensors"
        card = self._card(trace)
        write_weights(target, pdn, card)
        self._report(recipe, trace, card)
        self.folder.finish()
        say(
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
        return DistillationRecipe(pdn, self.source, photographs, held_out, side, schedule, self.arithmetic)

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
        from edge_ad.training.distillation_report import write_report

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
