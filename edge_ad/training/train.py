"""`train`: a folder of good parts -> one bundle, in resumable stages."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_ad import __version__
from edge_ad.bundle import BundleContents, Golden, write_bundle
from edge_ad.data.images import list_images
from edge_ad.data.layouts import load_dataset
from edge_ad.errors import BadInput
from edge_ad.export.bundle_graphs import Networks, export_all
from edge_ad.export.onnx_export import ExportedGraph
from edge_ad.models.build import build_efficientad, build_lavit, build_tokenizer
from edge_ad.models.masking import bank_of
from edge_ad.models.vector_quantiser import perplexity
from edge_ad.presets import Preset, preset_named
from edge_ad.scoring import Thresholds, choose_thresholds
from edge_ad.training.augment import move
from edge_ad.training.device import Arithmetic, choose_arithmetic
from edge_ad.training.efficientad_recipe import EfficientADRecipe
from edge_ad.training.loop import Trace, fit
from edge_ad.training.pictures import Images, Pictures, load_pictures, read_all
from edge_ad.training.progress import Progress, clock
from edge_ad.training.run_folder import RunFolder, choose_folder, fingerprint
from edge_ad.training.scores import blank_statistics, finish_contents
from edge_ad.training.teacher import describe, load_teacher, measure_channels
from edge_ad.training.token_recipes import LavitRecipe, TokenizerRecipe, encode


@dataclass(frozen=True)
class TrainOptions:
    """What a person may set beside the data: see `edge-ad train --help`."""

    preset: str = "fast"
    teacher: Path | None = None
    defects: Path | None = None
    penalty: Path | None = None
    steps: int | None = None
    seed: int = 0
    target_ng: float = 0.01
    target_warn: float = 0.05


def train(
    data: Path,
    preset: str = "fast",
    out: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    progress: bool = True,
    options: TrainOptions | None = None,
) -> Path:
    """Train on the goods in ``data`` and return the path of the bundle, ``out``/<name>.edgead.

    The same call after a kill or Ctrl-C goes on where it stopped. Raises BadInput for data or options that cannot be used.
    """
    chosen = options or TrainOptions(preset=preset, seed=seed, steps=steps)
    return _Training(Path(data), out, chosen, Progress(shown=progress)).run()


class _Training:
    def __init__(self, data: Path, out: Path | None, options: TrainOptions, progress: Progress) -> None:
        self.began = time.monotonic()
        self.options, self.progress = options, progress
        self.preset = with_steps(preset_named(options.preset), options.steps)
        # Wrong rates and an empty penalty folder are refused now, not after an hour of training.
        choose_thresholds(np.zeros(1), options.target_ng, options.target_warn)
        self.penalty = penalty_paths(options.penalty)
        self.dataset = load_dataset(data, options.seed)
        self.arithmetic: Arithmetic = choose_arithmetic(self.preset.low_precision)
        self.teacher = load_teacher(self.preset, options.teacher, self.arithmetic.device)
        mark = fingerprint(self._facts())
        self.folder: RunFolder = choose_folder(out, mark)
        if self.folder.begin(mark):
            progress.say(f"going on with the unfinished training in {self.folder.path}")
        self.report: dict[str, Any] = {"arithmetic": self.arithmetic.name, "seconds": {}}

    def run(self) -> Path:
        self._tell_data()
        preset, side = self.preset, self.preset.image_side
        pictures = load_pictures(self.dataset, side, preset.anomalies, self.options.seed, self.options.defects)
        teacher = self.teacher
        self.progress.say(f"teacher {preset.teacher.kind}: channel statistics of {len(pictures.fit)} goods")
        measure_channels(teacher, pictures.fit, self.arithmetic.device)
        networks, pooled = self._learn(teacher, pictures)
        target = self.folder.path / f"{self.dataset.name}.edgead"
        write_bundle(target, self._contents(networks, pooled, pictures))
        self.folder.finish()
        self.progress.say(f"trained in {clock(time.monotonic() - self.began)}: {target}")
        return target

    def _learn(self, teacher: Any, pictures: Pictures) -> tuple[Networks, np.ndarray[Any, np.dtype[np.float32]]]:
        preset, arithmetic = self.preset, self.arithmetic
        copies = self._moved(pictures.fit)
        tokens, pooled = describe(teacher, copies, preset, arithmetic.device, self.progress)
        unseen, _ = describe(teacher, pictures.normalise, preset, arithmetic.device)
        channels = teacher.token_channels

        # Every network starts from its own seed: a resumed training skips what drew numbers before it.
        torch.manual_seed(self.options.seed)
        tokenizer = build_tokenizer(preset, channels)
        self._fit(TokenizerRecipe(tokenizer, preset.tokenizer_schedule, tokens, unseen, arithmetic), len(pictures.fit))
        codes, unseen_codes = encode(tokenizer, tokens, arithmetic), encode(tokenizer, unseen, arithmetic)
        levels = codes.shape[1]
        self.report["perplexity"] = [round(perplexity(codes[:, level], preset.hvq.codes), 1) for level in range(levels)]

        torch.manual_seed(self.options.seed)
        lavit = build_lavit(preset, channels)
        goods = len(pictures.fit) if preset.lavit_on_originals else len(tokens)
        recipe = LavitRecipe(lavit, preset, (tokens[:goods], codes[:goods]), (unseen, unseen_codes), arithmetic)
        self._fit(recipe, len(pictures.fit))
        self.report["lavit_constant_loss"] = round(recipe.constant_loss(), 4)

        torch.manual_seed(self.options.seed)
        efficientad = build_efficientad(preset, teacher.channels)
        others = self._penalty_pictures()
        self._fit(
            EfficientADRecipe(efficientad, teacher, preset, pictures.fit, pictures.normalise, others, arithmetic),
            len(pictures.fit),
        )
        modules = (module.cpu().eval() for module in (teacher, efficientad, tokenizer, lavit))
        return Networks(*modules), pooled[: len(pictures.fit)].numpy()  # type: ignore[arg-type]

    def _fit(self, recipe: Any, goods: int) -> None:
        started = time.monotonic()
        trace: Trace = fit(recipe, recipe.schedule.steps_for(goods), self.folder, self.options.seed, self.progress)
        self.report["seconds"][recipe.name] = round(time.monotonic() - started, 1)
        self.report[recipe.name] = {
            "steps": trace.steps,
            "loss": trace.loss,
            "kept_step": trace.best_step or trace.steps,
            "unseen_goods": [list(pair) for pair in trace.validations],
        }

    def _contents(
        self, networks: Networks, pooled: np.ndarray[Any, np.dtype[np.float32]], pictures: Pictures
    ) -> BundleContents:
        preset = self.preset
        masks = bank_of(preset.masks, preset.teacher.token_grid)
        self.progress.say("exporting the graphs and checking each against torch")
        graphs = export_all(networks, preset, torch.from_numpy(masks), torch.from_numpy(pictures.threshold[:1]))
        self._tell_export(graphs)
        blank = BundleContents(
            name=self.dataset.name,
            preset=preset.name,
            settings=preset.settings(),
            image_size=(preset.image_side, preset.image_side),
            parent=None,
            graphs={graph.name: graph.model for graph in graphs},
            masks=masks,
            statistics=blank_statistics(pooled),
            thresholds=Thresholds(warn=0.0, ng=0.0),
            raw_scores={"threshold": np.zeros((1, 5), np.float32)},
            golden=Golden(pictures.threshold[:1], np.zeros((1, 5), np.float32)),
            report=self.report,
        )
        targets = (self.options.target_ng, self.options.target_warn)
        scratch = self.folder.state / "preliminary.edgead"
        contents = finish_contents(blank, pictures, scratch, targets, self.options.seed, self.progress)
        self._tell_scores(contents)
        return replace(contents, report={**contents.report, **self._data_report()})

    def _moved(self, goods: Images) -> Images:
        """Return the goods followed by moved copies of them."""
        settings = self.preset.token_augmentation
        rng = np.random.default_rng([self.options.seed, 3])
        copies = [np.stack([move(image, settings, rng) for image in goods]) for _ in range(settings.copies)]
        return np.concatenate([goods, *copies])

    def _penalty_pictures(self) -> Images | None:
        return read_all(self.penalty[:4096], self.preset.image_side) if self.penalty else None

    def _facts(self) -> dict[str, Any]:
        goods = self.dataset.goods
        return {
            "version": __version__,
            "settings": self.preset.settings(),
            "options": {name: str(value) for name, value in vars(self.options).items()},
            "goods": [[str(path), path.stat().st_size] for path in (*goods.fit, *goods.normalise, *goods.threshold)],
            "arithmetic": self.arithmetic.name,
        }

    def _data_report(self) -> dict[str, Any]:
        goods = self.dataset.goods
        return {
            "layout": self.dataset.layout,
            "goods": {"fit": len(goods.fit), "normalise": len(goods.normalise), "threshold": len(goods.threshold)},
            "sizes": dict(self.dataset.sizes),
            "skipped": [[path.name, reason] for path, reason in self.dataset.skipped],
            "seed": self.options.seed,
        }

    def _tell_data(self) -> None:
        say, goods = self.progress.say, self.dataset.goods
        say(
            f"{self.dataset.name}: {len(goods.fit)} goods to learn, {len(goods.normalise)} to normalise, "
            f"{len(goods.threshold)} for the threshold ({self.dataset.layout} layout), preset {self.preset.name}"
        )
        if len(self.dataset.sizes) > 1:
            mixed = ", ".join(f"{count} of {size}" for size, count in self.dataset.sizes.items())
            say(f"pictures have several sizes and are all resized to {self.preset.image_side} pixels: {mixed}")
        say(f"training in {self.folder.path} ({self.arithmetic.name}); Ctrl-C is safe, the same command goes on")

    def _tell_export(self, graphs: list[ExportedGraph]) -> None:
        self.report["export"] = {
            graph.name: {"relative_error": graph.relative_error, "absolute_error": graph.absolute_error}
            for graph in graphs
        }
        for graph in graphs:
            self.progress.say(
                f"  {graph.name:<15} {len(graph.model) / 2**20:6.1f} MiB, max abs error {graph.absolute_error:.1e}, "
                f"{graph.relative_error:.1e} of its range"
            )

    def _tell_scores(self, contents: BundleContents) -> None:
        self.progress.say("branch        weight  AUROC on unseen goods and synthetic anomalies")
        for branch, row in contents.report["branches"].items():
            self.progress.say(f"  {branch:<12} {row['weight']:5.2f}  {row['auroc_synthetic']:.3f}")
        self.progress.say(contents.thresholds.describe())


def penalty_paths(folder: Path | None) -> list[Path]:
    """Return the pictures of other things in a folder, if one is named; BadInput when it holds none."""
    if folder is None:
        return []
    paths = list_images(folder)
    if not paths:
        raise BadInput(f"--penalty {folder} holds no picture: name a folder of pictures of other things")
    return paths


def with_steps(preset: Preset, steps: int | None) -> Preset:
    """Return the preset with every network trained for ``steps`` batches, if given."""
    if steps is None:
        return preset
    return replace(
        preset,
        tokenizer_schedule=replace(preset.tokenizer_schedule, steps=steps),
        lavit_schedule=replace(preset.lavit_schedule, steps=steps),
        efficientad_schedule=replace(preset.efficientad_schedule, steps=steps),
    )
