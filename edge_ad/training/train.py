"""`train`: a folder of good parts -> one bundle, in resumable stages.

The preset that the settings of a training come to, and the files that they name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from edge_ad import __version__
from edge_ad.bundle import BundleContents, Golden, References, open_bundle, write_bundle
from edge_ad.bundle.graphs import FLOAT_BY_DEFAULT
from edge_ad.camera.measure import camera_report
from edge_ad.config import CalibrateTable, Config, TrainTable, parse_pixels
from edge_ad.data.datasets import load_dataset
from edge_ad.data.folders import list_nested
from edge_ad.data.prepared import PreparedImages
from edge_ad.deployment.calibrate import CalibrateOptions, with_quantisation
from edge_ad.errors import BadInput
from edge_ad.export.graphs import Networks, export_all
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import Pose
from edge_ad.geometry.zone_files import read_zones
from edge_ad.models.build import build_efficientad, build_lavit, build_tokenizer
from edge_ad.models.efficientad import EfficientAD
from edge_ad.models.hvq import HvqTokenizer
from edge_ad.models.lavit import bank_of
from edge_ad.models.memory import CellGaussians, Memory
from edge_ad.models.tiles import JoinedTeacher, TileNetworks
from edge_ad.presets.networks import Size, TeacherKind, TileLayout, parse_tiles
from edge_ad.presets.presets import Preset, preset_named, with_teacher, with_values
from edge_ad.scoring import BRANCHES, OperatingPoint, Thresholds, choose_thresholds
from edge_ad.training.augment import disturbed, with_moved
from edge_ad.training.choices import (
    describe_figures,
    offer_standardise,
    read_trials,
    standardise_readers,
    with_standardised,
)
from edge_ad.training.distributed import group_folder
from edge_ad.training.geometry import (
    defect_scale,
    empty_paths,
    geometry_report,
    log_geometry,
    parts_sheet,
    prepare_normal,
)
from edge_ad.training.images import Images, ScoringImages, labelled, penalty_paths, read_penalty, scoring_images
from edge_ad.training.locating_gain import LocatingTrial
from edge_ad.training.loop import Arithmetic, Trace, choose_arithmetic, fit
from edge_ad.training.memory import MEMORY, learn_memory
from edge_ad.training.recipes import (
    EfficientADRecipe,
    LavitRecipe,
    TokenizerRecipe,
    codebook_report,
    encode,
    encode_all,
    learn_cells,
    learn_surprise,
    soften,
)
from edge_ad.training.report import (
    codebooks_message,
    dataset_report,
    export_report,
    log_dataset,
    log_export,
    log_scores,
)
from edge_ad.training.review import look
from edge_ad.training.run_folder import RunFolder, file_sizes, fingerprint
from edge_ad.training.statistics import (
    Described,
    blank_statistics,
    finish_contents,
    learn_quantization_statistics,
    learn_student_errors,
    learn_tokenizer_errors,
)
from edge_ad.training.symmetry import measure_symmetry, with_symmetry
from edge_ad.training.teacher import describe, load_teacher, measure_channels
from edge_ad.training.tiles import TileImages, layout_of, learn_tiles, shrunk, tiles_message, tiles_report
from edge_ad.training.tolerance import DisturbedImages, chosen_tolerance, with_tolerance
from edge_ad.utils.files import atomic_write
from edge_ad.utils.progress import Progress, clock


def chosen_preset(options: TrainTable) -> Preset:
    """Return the named preset with the single values, the number of masks and of steps that the options give."""
    named = preset_named(options.preset)
    kind = teacher_kind(options.teacher)
    preset = with_steps(with_values(with_teacher(named, kind) if kind else named, options.setting), options.steps)
    return preset if options.masks is None else replace(preset, masks=replace(preset.masks, count=options.masks))


def teacher_kind(teacher: str | None) -> TeacherKind | None:
    """Return the kind that ``--teacher`` names, or None for a file or nothing."""
    return next((kind for kind in get_args(TeacherKind) if kind == teacher), None)


def teacher_file(teacher: str | None) -> Path | None:
    """Return the file of weights that ``--teacher`` names, or None for a kind or nothing."""
    return None if teacher is None or teacher_kind(teacher) else Path(teacher)


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


SHAPING = ("geometry", "pixels", "tiles", "empty", "anchors", "box", "zones", "roi")  # identify a training where they are given
STANDARDISE = ("hvq.standardise", "efficientad.standardise")  # not chosen with tiles
INT8_IMAGES = 64  # normal images that the INT8 ranges are measured on at the end


def train(
    data: Path,
    out: Path | None = None,
    settings: Config | None = None,
    *,
    progress: bool = True,
    keep_finished: bool = False,
) -> Path:
    """Train on the normal images in ``data`` and return the path of the bundle, ``out``/<name>.edgead.

    ``settings`` are those of edge-ad.toml: the tables train, without its ``out``, and thresholds.
    Processes that torchrun started train together; the first one writes the bundle, the others return before it is
    there. The same call after a kill or Ctrl-C goes on where it stopped; with ``keep_finished`` a bundle that it
    already made in ``out`` is returned as it is. Raises BadInput for data or options that cannot be used.
    """
    training = _Training(Path(data), out, settings or Config(), Progress(shown=progress))
    return training.finished() if keep_finished and training.is_finished() else training.run()


class _Training:
    def __init__(self, data: Path, out: Path | None, settings: Config, progress: Progress) -> None:
        self.began = time.monotonic()
        self.data, self.options, self.thresholds, self.progress = data, settings.train, settings.thresholds, progress
        options = settings.train
        self.preset = chosen_preset(options)
        self.preset.check_image_size(self.preset.image_size)
        self.tolerance_if = partial(chosen_tolerance, settings, self.preset)
        self.tolerance = self.tolerance_if(aligned=True)  # until the geometry is known, the widest
        self.tiles = None if options.tiles is None else parse_tiles(options.tiles)
        self.layout: TileLayout | None = None
        if self.tiles is not None:
            layout_of(self.tiles, self.preset.image_size, self.preset)
        # Wrong rates and an empty penalty folder are refused now, not after an hour of training.
        choose_thresholds(np.zeros(1), self.thresholds.target_ng, self.thresholds.target_warn)
        self.point = OperatingPoint.parse(self.thresholds.operating_point or "balanced")
        self.penalty = penalty_paths(options.penalty)
        self.smallest = None if options.smallest_defect is None else parse_pixels("--smallest-defect", options.smallest_defect)
        self.dataset = load_dataset(data, options.seed, options.exclude)
        self.arithmetic: Arithmetic = choose_arithmetic(self.preset.low_precision)
        progress.shown &= self.arithmetic.group.is_main_process
        self.teacher = load_teacher(self.preset, teacher_file(options.teacher), self.arithmetic.device)
        self.mark = fingerprint(self._details())
        self.folder: RunFolder = group_folder(self.arithmetic.group, out, self.mark)
        self.target = self.folder.path / f"{self.dataset.name}.edgead"
        self.report: dict[str, Any] = {"arithmetic": self.arithmetic.name, "fingerprint": self.mark, "seconds": {}}

    @property
    def given(self) -> set[str]:
        """The keys of the settings that the user has given."""
        return {text.partition("=")[0].strip() for text in self.options.setting}

    def is_finished(self) -> bool:
        """Whether the bundle is there already, from the same normal images, settings and version."""
        return self.arithmetic.group.from_lead(lambda: b"yes" if self._bundle_is_there() else None) is not None

    def _bundle_is_there(self) -> bool:
        if not self.target.exists():
            return False
        try:
            return bool(open_bundle(self.target).report.get("fingerprint") == self.mark)
        except BadInput:
            return False  # a damaged bundle is made anew

    def finished(self) -> Path:
        """Say that there is nothing to do, and return the bundle."""
        self.progress.log(f"{self.dataset.name}: already trained, {self.target}")
        return self.target

    def run(self) -> Path:
        """Train, and return the bundle; BadInput while another process trains in the same folder."""
        with self.folder.locked():
            return self._run()

    def _run(self) -> Path:
        if self.folder.begin(self.mark):
            self.progress.log(f"going on with the unfinished training in {self.folder.path}")
        log_dataset(self.dataset, self.preset.name, self.progress.log)
        place = f"{self.folder.path} ({self.arithmetic.name})"
        self.progress.log(f"training in {place}; Ctrl-C is safe, the same command goes on")
        images = self._images()
        teacher = self.teacher
        self.progress.log(f"teacher {self.preset.teacher.kind}: channel statistics of {len(images.fit)} normal images")
        measure_channels(teacher, shrunk(images.fit, self.layout), self.arithmetic.device)
        if self.arithmetic.group.is_main_process:
            self._look(teacher, images)
        networks, described = self._learn(teacher, images)
        if not self.arithmetic.group.is_main_process:
            return self.target
        write_bundle(self.target, self._contents(networks, described, images))
        self.folder.finish()
        self.progress.log(f"trained in {clock(time.monotonic() - self.began)}: {self.target}")
        return self.target

    def _images(self) -> ScoringImages:
        """Choose the geometry, or take that of the resumed training, and return the inputs that it makes."""
        options, preset, main = self.options, self.preset, self.arithmetic.group.is_main_process
        trial = LocatingTrial(self.teacher, preset, self.arithmetic.device, self.dataset.bits, options.seed)
        chosen, normal = prepare_normal(
            self.dataset, options, preset, self.folder.state,
            group=self.arithmetic.group, log=self.progress.log, trial=trial, size_of=self._input_size,
        )  # fmt: skip
        log_geometry(chosen, normal, self.progress.log)
        self.image_size = chosen.geometry.size
        self.layout = None if self.tiles is None else layout_of(self.tiles, self.image_size, preset)
        self.report["geometry"] = geometry_report(chosen, normal)
        self._report_scale(chosen.geometry, normal.fit.poses)
        self.geometry, self.frames = replace(chosen.geometry, size=self._input_size(self.image_size)), normal.frames
        self.dataset = replace(self.dataset, normal=normal.located)
        self._follow_symmetry(replace(normal.fit, images=shrunk(normal.fit.images, self.layout)))
        self.tolerance = self.tolerance_if(aligned=chosen.aligned)
        self.progress.log(f"tolerance of the line: {self.tolerance}{' (parts lie aligned)' * chosen.aligned}")
        self.preset = with_tolerance(self.preset, self.tolerance, located=self.geometry.locates)
        if main and self.geometry.locates:
            atomic_write(sheet := self.folder.path / f"{self.dataset.name}.parts.png", parts_sheet(normal.fit))
            self.progress.log(f"contact sheet of the parts as they are judged, their mean first: {sheet}")
        defects = None if options.defects is None else labelled(options.defects, self.geometry, self.dataset.bits)
        inputs = (normal.fit.images, normal.normalise.images, normal.threshold.images)
        part, inspected = self.geometry.part_mask(), self.geometry.inspected
        return scoring_images(inputs, preset.anomalies, options.seed, defects=defects, part=part, inspected=inspected)

    def _look(self, teacher: Any, images: ScoringImages) -> None:
        """Warn about normal images that look unlike the others; all of them are trained on."""
        normal = self.dataset.normal
        shown = np.concatenate([shrunk(part, self.layout) for part in (images.fit, images.normalise, images.threshold)])
        paths = (*normal.fit, *normal.normalise, *normal.threshold)
        reviewed = look(
            teacher, shown, paths, self.dataset.root, device=self.arithmetic.device, seed=self.options.seed, progress=self.progress
        )
        self.report["unlike"] = reviewed.report()
        if warning := reviewed.warning(self.data, self.options.exclude):
            self.progress.log(warning)

    def _input_size(self, size: Size) -> Size:
        """Return the (height, width) of the input where the networks of the whole image see ``size``."""
        return size if self.tiles is None else layout_of(self.tiles, size, self.preset).whole

    def _report_scale(self, geometry: Geometry, poses: Sequence[Pose]) -> None:
        """Say what tiles are and cost, and whether the smallest defect is seen, where either was asked for."""
        seen = partial(
            defect_scale, geometry=geometry, sizes=self.dataset.sizes, poses=poses, preset=self.preset, tiles=self.tiles
        )
        if self.layout is not None:
            self.report["tiles"] = tiles_report(self.layout, self.preset, seen(1.0).scale)
            self.progress.log(tiles_message(self.report["tiles"]))
        if self.smallest is not None:
            scale = seen(self.smallest)
            self.report["geometry"]["smallest_defect"] = scale.as_dict()
            self.progress.log(scale.message)

    def _follow_symmetry(self, fit: PreparedImages) -> None:
        """Let augmentation turn and mirror images as far as normal images do, where no pose is removed."""
        if not (self.preset.augmentation.rotate or self.preset.token_augmentation.rotate):
            return  # images are never moved, as published
        if self.geometry.locates and not all(pose.symmetric for pose in fit.poses):
            return
        if (symmetry := measure_symmetry(fit.images)) is None:
            return
        self.preset = with_symmetry(self.preset, symmetry, self.options.setting)
        now = self.preset.augmentation
        self.report["symmetry"] = {**asdict(symmetry), "augmentation": asdict(now)}
        self.progress.log(f"{symmetry}; augmentation turns by up to {now.rotate:g} degrees, mirror {now.mirror}")

    def _learn(self, teacher: Any, images: ScoringImages) -> tuple[Networks, Described]:
        preset, arithmetic = self.preset, self.arithmetic
        copies = with_moved(images.fit, preset, self.options.seed, self.tolerance)
        fit, unseen_images, moved = (shrunk(part, self.layout) for part in (images.fit, images.normalise, copies))
        tokens, pooled = describe(teacher, moved, preset, arithmetic.device, progress=self.progress)
        unseen, _ = describe(teacher, unseen_images, preset, arithmetic.device)
        channels = teacher.token_channels

        # Every network starts from its own seed: a resumed training skips what drew numbers before it.
        torch.manual_seed(self.options.seed)
        tokenizer = build_tokenizer(preset, channels, self.image_size)
        self._fit(TokenizerRecipe(tokenizer, preset.tokenizer_schedule, tokens, unseen, arithmetic=arithmetic), len(images.fit))
        originals = slice(len(fit))
        shown = slice(None) if self.tolerance else originals  # what errors are usual: copies are disturbed within the tolerance
        soften(tokenizer, tokens[originals], arithmetic)
        codes, top = encode_all(tokenizer, tokens, arithmetic)
        unseen_codes = encode(tokenizer, unseen, arithmetic)
        self._report_codebooks(codebook_report(tokenizer, codes, top))

        torch.manual_seed(self.options.seed)
        lavit = build_lavit(preset, channels, self.image_size)
        normal = len(fit) if preset.lavit_on_originals else len(tokens)
        recipe = LavitRecipe(lavit, preset, (tokens[:normal], codes[:normal]), (unseen, unseen_codes), arithmetic=arithmetic)
        self._fit(recipe, len(images.fit))
        self._report_baseline(recipe)
        bank = torch.from_numpy(bank_of(preset.masks, lavit.grid))
        surprise = learn_surprise(lavit, bank, tokens, codes, arithmetic=arithmetic, tokenizer=tokenizer)
        learn_cells(lavit, bank, codes[shown], (unseen, unseen_codes), arithmetic=arithmetic)

        torch.manual_seed(self.options.seed)
        efficientad = build_efficientad(preset, teacher.channels, self.image_size)
        others = self._penalty_images(self.image_size)
        self._fit(
            EfficientADRecipe(
                efficientad, teacher, preset, fit,
                unseen=unseen_images, others=others, arithmetic=arithmetic,
            ),
            len(fit),
        )
        tiles, memory = self._learn_tiles(teacher, images), None
        if arithmetic.group.is_main_process:
            learned = replace(images, fit=fit)
            views = self._views(images) if self.tolerance or preset.views.memory else None  # as large as the copies
            memory = self._choose(
                teacher, (tokenizer, efficientad), learned, tokens=tokens[shown], copies=copies, views=views, tiles=tiles
            )
        for module in (teacher, efficientad, tokenizer, lavit, *(() if tiles is None else tiles.modules)):
            module.cpu().eval()
        return Networks(teacher, efficientad, tokenizer, lavit, memory, tiles), Described(pooled.numpy(), surprise)

    def _learn_tiles(self, teacher: Any, images: ScoringImages) -> TileNetworks | None:
        """Return what sees tiles, None without them."""
        if self.layout is None:
            return None
        shown = TileImages(images.fit, images.normalise, self._penalty_images(self.layout.tile))
        return learn_tiles(
            teacher, shown, self.layout, preset=self.preset, seed=self.options.seed, arithmetic=self.arithmetic, fit=self._fit
        )

    def _choose(
        self, teacher: Any, networks: tuple[HvqTokenizer, EfficientAD], images: ScoringImages,
        *, tokens: Tensor, copies: Images, views: Images | None, tiles: TileNetworks | None,
    ) -> Memory | CellGaussians | None:
        """Learn how networks err and what is remembered, and choose what of it is used; only the main process needs it.

        With tiles it is their cells that are remembered, and errors are standardised only where that is set.
        """
        started, preset, seed = time.monotonic(), self.preset, self.options.seed
        (tokenizer, efficientad), device = networks, self.arithmetic.device
        given = self.given if tiles is None else {*self.given, *STANDARDISE}
        source: Any = teacher if tiles is None else JoinedTeacher(tiles.teacher, tiles.layout)
        offer_standardise(preset, given, *networks, channels=teacher.channels, image_size=self.image_size)
        learn_tokenizer_errors(tokenizer, tokens, self.arithmetic)
        learn_student_errors(efficientad, teacher, images.fit, self.arithmetic)
        readers = standardise_readers(preset, given, *networks)
        memory = learn_memory(source, preset, len(images.fit), copies, views=views, seed=seed, device=device)
        if memory is not None and len(memory.names) > 1:
            readers.append(memory.read)
        more = disturbed(images.normalise, preset, seed, self.tolerance) if self.tolerance else None
        trials = read_trials(source, images, readers, seed=seed, device=device, more=more) if readers else {}
        self.preset, report = with_standardised(preset, trials, *networks)
        for name, row in report.items():
            self.progress.log(f"errors of {name}: {row['variant']}; {describe_figures(row)}")
        learned = None if memory is None else memory.chosen(trials.get(MEMORY))
        self.report |= {"standardise": report} if report else {}
        if learned is not None:
            self.report["memory"] = learned.report
            self.progress.log(f"memory: {learned.message}")
        self.report["seconds"]["choices"] = round(time.monotonic() - started, 1)
        self.folder.log({"stage": "choices", "standardise": report, "memory": None if learned is None else learned.report})
        return None if learned is None else learned.memory

    def _fit(self, recipe: Any, normal_count: int) -> None:
        started = time.monotonic()
        steps, group = recipe.schedule.steps_for(normal_count), self.arithmetic.group
        trace: Trace = fit(recipe, steps, self.folder, self.options.seed, progress=self.progress, group=group)
        self.report["seconds"][recipe.name] = round(time.monotonic() - started, 1)
        self.report[recipe.name] = {
            "steps": trace.steps,
            "loss": trace.loss,
            "kept_step": trace.best_step or trace.steps,
            "unseen_goods": [list(pair) for pair in trace.validations],
            "course": trace.course,
            "means": {name: round(value, 6) for name, value in trace.means.items()},
            "fell_back": trace.fell_back or None,
            **({"margin": trace.settled} if trace.settled else {}),
        }

    def _report_codebooks(self, codebooks: dict[str, dict[str, float | int]]) -> None:
        """Report how normal images use the codes of each level; ``perplexity`` holds the four target levels in order."""
        self.report["codebooks"] = codebooks
        self.report["perplexity"] = [use["perplexity"] for level, use in codebooks.items() if level != "top"]
        self.progress.log(codebooks_message(codebooks, self.preset.hvq.codes))
        self.folder.log({"stage": "codebooks", **codebooks})

    def _report_baseline(self, recipe: LavitRecipe) -> None:
        """Report the loss of predictors that see nothing: the mean histogram of normal images, and the one behind each
        mask.
        """
        whole, by_mask = round(recipe.constant_loss(), 4), round(recipe.constant_loss_by_mask(), 4)
        self.report["lavit_constant_loss"], self.report["lavit_constant_loss_by_mask"] = whole, by_mask
        reached = min((loss for _, loss in self.report[recipe.name]["unseen_goods"]), default=None)
        message = "" if reached is None else f"; lavit on unseen normal images {reached:.3f}"
        self.progress.log(f"loss of a constant histogram {whole:.3f}, of a constant one a mask {by_mask:.3f}{message}")
        self.folder.log({"stage": "lavit_baseline", "constant_loss": whole, "constant_loss_by_mask": by_mask})

    def _contents(self, networks: Networks, described: Described, images: ScoringImages) -> BundleContents:
        preset = self.preset
        masks = bank_of(preset.masks, networks.lavit.grid)
        self.progress.log("exporting the graphs and checking each against torch")
        sample, geometry = torch.from_numpy(images.threshold[:1]), self.geometry
        graphs = export_all(networks, preset, torch.from_numpy(masks), sample, zones=geometry.zones)
        self.report["export"] = export_report(graphs)
        log_export(graphs, self.progress.log)
        blank = BundleContents(
            name=self.dataset.name,
            preset=preset.name,
            settings=preset.settings(),
            image_size=geometry.size,
            geometry=None if geometry.method == "square" and geometry.zones is None and geometry.roi is None else geometry,
            parent=None,
            graphs={graph.name: graph.model for graph in graphs},
            references=References.from_arrays(*(graph.references for graph in graphs)),
            masks=masks,
            statistics=blank_statistics(described.pooled),
            thresholds=Thresholds(warn=0.0, ng=0.0),
            raw_scores={"threshold": np.zeros((1, len(BRANCHES)), np.float32)},
            golden=Golden(images.threshold[:1], np.zeros((1, len(BRANCHES)), np.float32)),
            report=self.report,
        )
        targets = (self.thresholds.target_ng, self.thresholds.target_warn)
        scratch = self.folder.state / "preliminary.edgead"
        options = CalibrateOptions(CalibrateTable(images=INT8_IMAGES, seed=self.options.seed), search=False)
        views = self._views(images)
        normal, copies = len(images.fit), len(described.pooled) - len(images.fit)
        self.report["gaussians"] = {"goods": normal, "copies": copies, "views": len(views)}
        blank, options = learn_quantization_statistics(
            blank, described, images, views, scratch=scratch, options=options, progress=self.progress
        )
        disturbed_images = self._disturbed()
        contents = finish_contents(
            blank, images, scratch, targets,
            point=self.point, preset=preset, given=self.given, seed=self.options.seed, progress=self.progress,
            disturbed=disturbed_images,
        )  # fmt: skip
        log_scores(contents, self.progress.log)
        options = replace(options, keep=FLOAT_BY_DEFAULT)
        contents = with_quantisation(contents, scratch, images.fit, images.threshold, options=options, report=self.progress.log)
        limits = None if disturbed_images is None else disturbed_images.limits
        looks = camera_report(self.frames, self.dataset.root, limits)
        camera = {name: value for name, value in looks.items() if value is not None}
        data = dataset_report(self.dataset, self.options.seed, self.options.setting)
        return replace(contents, report={**contents.report, **data, **camera})

    def _views(self, images: ScoringImages) -> Images:
        """Return disturbed views of the normal images to learn, in the size of the whole input."""
        return disturbed(images.fit, self.preset, self.options.seed, self.tolerance)

    def _disturbed(self) -> DisturbedImages | None:
        """Return the unseen normal images disturbed within the tolerance; None without one."""
        normal, tolerance, seed = self.dataset.normal, self.tolerance, self.options.seed
        paths, frames, bits = (*normal.normalise, *normal.threshold), self.frames, self.dataset.bits
        return DisturbedImages(paths, self.geometry, bits, tolerance, seed=seed, frames=frames) if tolerance else None

    def _penalty_images(self, size: Size) -> Images | None:
        return read_penalty(self.penalty, size, cropped=self.preset.efficientad.cropped_penalty)

    def _details(self) -> dict[str, Any]:
        normal, given = self.dataset.normal, self.options
        options = given.model_dump(exclude={"out", "setting", "smallest_defect", "tolerance", "exclude", *SHAPING})
        options |= self.thresholds.model_dump(exclude_none=True)
        options |= {name: value for name in SHAPING if (value := getattr(given, name))}
        return {
            "version": __version__,
            "settings": self.preset.settings(),
            "options": {name: str(value) for name, value in {**options, "values": tuple(given.setting)}.items()},
            **({"tolerance": self.tolerance.as_dict()} if self.tolerance else {}),
            **({"zone_contents": read_zones(given.zones).sha256} if given.zones else {}),
            **({"empty": file_sizes(empty_paths(given.empty))} if given.empty else {}),
            **({"defect_files": file_sizes(list_nested(given.defects))} if given.defects and given.defects.is_dir() else {}),
            **({"penalty_files": file_sizes(penalty_paths(given.penalty))} if given.penalty else {}),
            "goods": file_sizes((*normal.fit, *normal.normalise, *normal.threshold)),
            "arithmetic": self.arithmetic.name,
        }
