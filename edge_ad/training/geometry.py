"""How the images of a training become inputs: the geometry is chosen, kept for a resumed training, and reported.

It is learned from images of the ``fit`` split alone. At most SAMPLE of them are in memory at full resolution; all others
are read one by one, cut out and forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_ad.bundle.safe_zip import dump_state, load_state
from edge_ad.camera.capture import encode_png
from edge_ad.camera.measure import FrameMeasure, frame_measurer
from edge_ad.config import MAX_PIXELS, TrainTable, parse_rectangle
from edge_ad.data.datasets import DataSet, NormalSplit
from edge_ad.data.folders import list_nested
from edge_ad.data.images import read_image
from edge_ad.data.prepared import READERS, PreparedImages, prepare_files
from edge_ad.errors import BadInput
from edge_ad.geometry import WHOLE, Method
from edge_ad.geometry.contact_sheet import contact_sheet
from edge_ad.geometry.cut_out import MAX_ASPECT, STEP, choose_size
from edge_ad.geometry.fit import MAX_FIT, MAX_SHEET, fit_geometry
from edge_ad.geometry.geometry import Geometry
from edge_ad.geometry.pose import Image, Pose, PoseRange
from edge_ad.geometry.region import Roi
from edge_ad.geometry.zone_files import read_zones
from edge_ad.geometry.zones import Zones, applied
from edge_ad.presets.networks import MAX_TILES, Size, TileLayout
from edge_ad.presets.presets import Preset
from edge_ad.training.distributed import ProcessGroup
from edge_ad.training.locating_gain import MIN_UNSEEN, LocatingGain, LocatingTrial
from edge_ad.utils.files import atomic_write

SAMPLE = MAX_FIT  # images that the choice is made on
EMPTY = 8  # images of the empty station that are used
NAMED = 50  # images without a pose that the report names
STORED = "geometry.npz"
MAX_TILE_ASPECT = 2.0  # of tiles that are recommended: long ones see little around a cell
SPLITS = ("fit", "normalise", "threshold")

Region = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ChosenGeometry:
    """A geometry, the method that was asked for, why this one was chosen, what was tried, and what locating brings.

    ``aligned`` where whole images are judged since a method that was tried found their parts to lie alike.
    """

    geometry: Geometry
    asked: Method
    reason: str
    trials: tuple[str, ...] = ()
    gain: LocatingGain | None = None
    aligned: bool = False

    def dump(self) -> bytes:
        """Return it as the bytes of one file."""
        values, arrays = self.geometry.state()
        gain = None if self.gain is None else asdict(self.gain)
        own = {
            "geometry": values, "asked": self.asked, "reason": self.reason, "trials": list(self.trials), "gain": gain,
            "aligned": self.aligned,
        }  # fmt: skip
        return dump_state(own, arrays, STORED)

    @classmethod
    def load(cls, data: bytes) -> ChosenGeometry:
        """Return what ``dump`` wrote."""
        own, arrays = load_state(data, STORED)
        geometry = Geometry.from_state(own["geometry"], arrays)
        gain = own.get("gain")
        gain = None if gain is None else LocatingGain(**gain)
        return cls(geometry, own["asked"], own["reason"], tuple(own["trials"]), gain, own["aligned"])


@dataclass(frozen=True)
class NormalImages:
    """The inputs of each split, without the images whose part was not located."""

    fit: PreparedImages
    normalise: PreparedImages
    threshold: PreparedImages

    @property
    def splits(self) -> dict[str, PreparedImages]:
        """The splits by name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def located(self) -> NormalSplit:
        """The files behind the inputs."""
        return NormalSplit(self.fit.paths, self.normalise.paths, self.threshold.paths)

    @property
    def frames(self) -> tuple[FrameMeasure, ...]:
        """How the frames of the normal images look that a camera is compared with later."""
        return (*self.fit.seen, *self.normalise.seen)


def prepare_normal(
    dataset: DataSet,
    options: TrainTable,
    preset: Preset,
    state: Path,
    *,
    group: ProcessGroup,
    log: Callable[[str], None],
    trial: LocatingTrial | None = None,
    size_of: Callable[[Size], Size] = lambda size: size,
) -> tuple[ChosenGeometry, NormalImages]:
    """Return the geometry of a training, chosen now or when it began, and its normal images cut out by it.

    ``state`` is the folder of what a resumed training needs; ``trial`` measures what locating brings where the choice is
    free; ``size_of`` gives the (height, width) of the images for that of the geometry, a larger one for tiles. BadInput
    where what was asked for does not fit the images.
    """
    check_region(roi_of(options), dataset)
    stored = group.from_lead(lambda: (state / STORED).read_bytes() if (state / STORED).exists() else None)
    if stored is None:
        stored = group.from_lead(lambda: choose(dataset, options, preset, log, trial=trial).dump())
    assert stored is not None
    chosen, images = _settled(ChosenGeometry.load(stored), dataset, options, preset=preset, size_of=size_of)
    if group.is_main_process:
        atomic_write(state / STORED, chosen.dump())
    if options.zones is None:
        return chosen, images
    return _with_zones(chosen, images, read_zones(options.zones))


def _with_zones(chosen: ChosenGeometry, images: NormalImages, zones: Zones) -> tuple[ChosenGeometry, NormalImages]:
    """Return both with ``zones``: what they ignore is the mean of the images to learn from in every input."""
    roi = chosen.geometry.roi
    if roi is not None and not chosen.geometry.locates and zones.size != roi.size:
        raise BadInput(
            f"the zones were drawn on an image of {zones.size[1]} x {zones.size[0]} pixels, but the region is {roi.width} x "
            f"{roi.height}: draw them on it (`edge-ad zones edit DATA --roi {roi}`)"
        )
    known = applied(zones, images.fit.images, located=chosen.geometry.locates)
    splits = {name: replace(split, images=known.replaced(split.images)) for name, split in images.splits.items()}
    return replace(chosen, geometry=replace(chosen.geometry, zones=known)), NormalImages(**splits)


def choose(
    dataset: DataSet, options: TrainTable, preset: Preset, log: Callable[[str], None], *, trial: LocatingTrial | None = None
) -> ChosenGeometry:
    """Return the geometry that options, preset and normal images ask for, with the expected poses of a sample.

    A locator that ``auto`` chose by its residual must also not hide synthetic anomalies, as ``trial`` measures it.
    """
    chosen = _chosen(dataset, options, preset, log)
    chosen = replace(chosen, geometry=replace(chosen.geometry, roi=roi_of(options)))
    if trial is not None and chosen.asked == "auto" and chosen.geometry.locates:
        chosen = _confirmed(chosen, dataset, options, preset, trial=trial)
    preset.check_image_size(chosen.geometry.size)
    return chosen


def _chosen(dataset: DataSet, options: TrainTable, preset: Preset, log: Callable[[str], None]) -> ChosenGeometry:
    anchors = [_region("--anchor", text) for text in options.anchors]
    box = None if options.box is None else _region("--box", options.box)
    method: Method = options.geometry or ("anchors" if anchors else preset.geometry)
    _check(method, options, dataset)
    if method == "square":
        return ChosenGeometry(Geometry.square(_square(options, preset)), method, "whole images, squashed, as asked for")
    if method == "auto" and len(dataset.sizes) > 1:
        return ChosenGeometry(Geometry.square(_square(options, preset)), method, "the images have several sizes")
    paths = _sample(dataset.normal, options.seed, first=bool(anchors))
    log(f"locating parts: {method}, on {len(paths)} normal images" + (f", regions drawn on {paths[0]}" if anchors else ""))
    bits = dataset.bits
    fit = fit_geometry(
        _read(paths, bits, roi_of(options)), [path.name for path in paths],
        method="anchors" if anchors else method, pixels=_budget(options, preset),
        empty=_read(empty_paths(options.empty), bits, roi_of(options)), anchors=anchors, box=box, seed=options.seed,
    )
    return ChosenGeometry(fit.geometry, method, fit.reason, tuple(map(str, fit.trials)), aligned=fit.aligned)


def _confirmed(
    chosen: ChosenGeometry, dataset: DataSet, options: TrainTable, preset: Preset, *, trial: LocatingTrial
) -> ChosenGeometry:
    """Return the choice with what it brings on synthetic anomalies; whole images where these are better beyond doubt."""
    learn = _sample(dataset.normal, options.seed, first=False)
    unseen = [path for path in dataset.normal.fit if path not in set(learn)]
    if len(unseen) < MIN_UNSEEN:
        cut = len(learn) * 2 // 3
        learn, unseen = learn[:cut], learn[cut:]
    whole = _whole(chosen.geometry, options, preset)
    gain = trial.measure(chosen.geometry, whole, learn, unseen)
    if gain is None:
        return chosen
    if gain.harms:
        return replace(chosen, geometry=whole, reason=f"whole images tell more than {chosen.geometry.method}; {gain}", gain=gain)
    return replace(chosen, reason=f"{chosen.reason}; {gain}", gain=gain)


def _check(method: Method, options: TrainTable, dataset: DataSet) -> None:
    """Raise BadInput for options that contradict each other, and a locator for images of several sizes."""
    if options.anchors and method not in ("anchors", "auto"):
        raise BadInput(f"--anchor needs --geometry anchors, but it is {method}: leave one of them out")
    if len(options.anchors) > 2:
        raise BadInput(f"{len(options.anchors)} anchors were given: one or two tell where a part is")
    if bool(options.anchors) != (options.box is not None) or (method == "anchors" and not options.anchors):
        raise BadInput("--anchor, once or twice, and --box, the part's box, go together: draw both on the first normal image")
    if options.empty is not None and method not in ("auto", "foreground"):
        raise BadInput(f"--empty serves to locate parts by their foreground, but --geometry is {method}: use auto or foreground")
    if method not in ("auto", "square") and len(dataset.sizes) > 1:
        mixed = ", ".join(f"{count} of {size}" for size, count in dataset.sizes.items())
        raise BadInput(
            f"--geometry {method} needs normal images of one size, but there are {mixed} pixels: take them with one camera "
            "setting, or use --geometry square"
        )


def check_region(roi: Roi | None, dataset: DataSet) -> None:
    """Raise BadInput where the region does not fit images of the data set."""
    for size in dataset.sizes if roi is not None else ():
        wide, high = map(int, size.split("x"))
        if roi is not None and (high, wide) != roi.size and (roi.x + roi.width > wide or roi.y + roi.height > high):
            raise BadInput(
                f"the region {roi} reaches beyond images of {size} pixels: give one inside them, or images that were cut to it"
            )


def _region(name: str, text: str) -> Region:
    return parse_rectangle(name, text, "100,40,64,48")


def _budget(options: TrainTable, preset: Preset) -> int:
    return options.pixels or preset.pixels


def _square(options: TrainTable, preset: Preset) -> tuple[int, int]:
    side = preset.image_side if options.pixels is None else math.isqrt(options.pixels) // STEP * STEP
    return side, side


def _sample(normal: NormalSplit, seed: int, first: bool) -> list[Path]:
    """Return images of ``fit`` to choose on; the first normal image by name before them where regions are drawn on it."""
    order = np.random.default_rng([seed, 13]).permutation(len(normal.fit))[:SAMPLE]
    chosen = [normal.fit[index] for index in sorted(order)]
    if not first:
        return chosen
    # A person draws on the first image of the folder, and it is needed in whichever split it is.
    drawn = min((*normal.fit, *normal.normalise, *normal.threshold))
    return [drawn, *(path for path in chosen if path != drawn)][:SAMPLE]


def empty_paths(folder: Path | None) -> list[Path]:
    """Return the images of the empty station that are used, if a folder is named; BadInput where it holds none."""
    if folder is None:
        return []
    paths = list_nested(folder)
    if not paths:
        raise BadInput(f"--empty {folder} holds no image: name a folder of images of the empty station")
    return paths[:EMPTY]


def _read(paths: list[Path], bits: int, roi: Roi | None) -> list[Image]:
    def region(path: Path) -> Image:
        image = read_image(path, bits)
        return image if roi is None else roi.cut(image)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(region, paths))


def roi_of(options: TrainTable) -> Roi | None:
    """Return the region that ``roi`` sets; BadInput for a text that is none."""
    return None if options.roi is None else Roi(*parse_rectangle("roi", options.roi, "100,40,640,480"))


def _settled(
    chosen: ChosenGeometry, dataset: DataSet, options: TrainTable, *, preset: Preset, size_of: Callable[[Size], Size]
) -> tuple[ChosenGeometry, NormalImages]:
    """Return the geometry with the poses that all of ``fit`` shows, and the inputs; ``none`` where it locates too few."""
    images = _prepared(dataset, chosen.geometry, size_of)
    misses = [(name, split) for name, split in images.splits.items() if split.too_few]
    if misses:
        name, split = misses[0]
        path, why = split.unlocated[0]
        message = (
            f"{chosen.geometry.method} leaves {len(split.unlocated)} of {split.total} normal images ({name}) without a pose "
            f"({path.name}: {why})"
        )
        if chosen.asked != "auto":
            raise BadInput(f"{message}; take these images out, or use --geometry auto or none")
        chosen = replace(chosen, geometry=_whole(chosen.geometry, options, preset), reason=message)
        images = _prepared(dataset, chosen.geometry, size_of)
    if images.fit.poses:
        chosen = replace(chosen, geometry=replace(chosen.geometry, expected=PoseRange.of(images.fit.poses)))
    return chosen, images


def _whole(located: Geometry, options: TrainTable, preset: Preset) -> Geometry:
    high, wide = located.image_size
    if max(high, wide) > MAX_ASPECT * min(high, wide):
        return replace(Geometry.square(_square(options, preset)), roi=located.roi)
    return Geometry("none", located.image_size, choose_size(wide, high, _budget(options, preset)), roi=located.roi)


def _prepared(dataset: DataSet, geometry: Geometry, size_of: Callable[[Size], Size]) -> NormalImages:
    normal, bits, geometry = dataset.normal, dataset.bits, replace(geometry, size=size_of(geometry.size))
    look = frame_measurer(geometry)
    return NormalImages(
        prepare_files(normal.fit, geometry, bits, look=look),
        prepare_files(normal.normalise, geometry, bits, look=look),
        prepare_files(normal.threshold, geometry, bits),
    )


def parts_sheet(images: PreparedImages) -> bytes:
    """Return the contact sheet of inputs as PNG: their mean first."""
    return encode_png(contact_sheet(list(images.images[:MAX_SHEET])), {})


def geometry_report(chosen: ChosenGeometry, images: NormalImages) -> dict[str, Any]:
    """Return what report.json says of the geometry."""
    geometry, expected = chosen.geometry, chosen.geometry.expected
    return {
        "method": geometry.method,
        "asked": chosen.asked,
        "reason": chosen.reason,
        "trials": list(chosen.trials),
        "aligned": chosen.aligned,
        "size": list(geometry.size),
        "gain": None if chosen.gain is None else chosen.gain.as_dict(),
        "expected": None if expected is None else expected.as_dict(),
        "unlocated": {name: len(split.unlocated) for name, split in images.splits.items()},
        **({} if geometry.zones is None else {"zones": geometry.zones.report()}),
        **({} if geometry.roi is None else {"roi": str(geometry.roi)}),
        "unlocated_images": [[path.name, why] for split in images.splits.values() for path, why in split.unlocated][:NAMED],
    }


def log_geometry(chosen: ChosenGeometry, images: NormalImages, log: Callable[[str], None]) -> None:
    """Say what was chosen and why, what was not located, and what a larger image would give."""
    geometry = chosen.geometry
    log(f"geometry {geometry.method}, input {geometry.size[1]} x {geometry.size[0]} pixels: {chosen.reason}")
    for trial in chosen.trials:
        log(f"  tried {trial}")
    if geometry.roi is not None:
        log(f"region {geometry.roi}: all that is judged; a run takes it from the bundle")
    if geometry.zones is not None:
        log(geometry.zones.message())
    for name, split in images.splits.items():
        for path, why in split.unlocated:
            log(f"  left out of {name}, {path.name}: {why}")
    if geometry.method in WHOLE and geometry.method != "square" and math.prod(geometry.image_size) < math.prod(geometry.size):
        high, wide = geometry.image_size
        log(f"warning: images of {wide} x {high} pixels are smaller than the input: they are enlarged, which shows nothing more")


@dataclass(frozen=True)
class DefectScale:
    """How long the shortest side of the smallest defect that matters is in the input, that of tiles where there are any.

    ``defect`` is in pixels of the image, ``shown`` and ``needed`` in those of the input: one cell of the features is needed.
    ``scale`` is that of the input. Where it does not suffice, ``pixels`` is the least budget that does and ``cost`` how many
    times the present one that is, and ``tiles`` are the fewest that do at the present one; or ``obstacle`` says why not.
    """

    defect: float
    scale: float
    shown: float
    needed: int
    pixels: int | None = None
    cost: float = 1.0
    tiles: str | None = None
    obstacle: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for report.json."""
        return {**asdict(self), "scale": round(self.scale, 4), "shown": round(self.shown, 2), "cost": round(self.cost, 2)}

    @property
    def message(self) -> str:
        """One line for the log, a warning where the defect would vanish."""
        seen = f"a defect of {self.defect:g} px is {self.shown:.1f} pixels in the input (scale {self.scale:.3g})"
        if self.shown >= self.needed:
            return f"{seen}; {self.needed} are needed, one cell of the features"
        lost = f"warning: {seen} and may vanish: {self.needed} are needed, one cell of the features"
        ways = [f"--tiles {self.tiles}"] if self.tiles else []
        if self.pixels:
            ways.append(f"--pixels {self.pixels}, about {self.cost:.1f} times the work of a frame")
        return f"{lost}; train with {', or '.join(ways)}" if ways else f"{lost}; {self.obstacle}"


def defect_scale(
    defect: float,
    geometry: Geometry,
    sizes: Mapping[str, int],
    *,
    poses: Sequence[Pose],
    preset: Preset,
    tiles: Size | None = None,
) -> DefectScale:
    """Return how a defect of ``defect`` pixels is seen in the input that ``geometry`` makes, or in ``tiles`` beside it.

    ``sizes`` are those of the normal images, "WIDTHxHEIGHT", and ``poses`` the located parts. The least scale counts, of
    the largest image or part and, where an image is squashed, of the axis that is squashed more.
    """
    needed = math.ceil(preset.image_side / preset.teacher.grid)
    if geometry.locates:
        grown = [pose.grown(geometry.margin) for pose in poses]
        boxes = [(pose.width, pose.height) for pose in grown]
    else:
        boxes = [(float(wide), float(high)) for wide, high in (size.split("x") for size in sizes)]
        boxes = boxes if geometry.roi is None else [(float(geometry.roi.width), float(geometry.roi.height))]
    box = max(wide for wide, _ in boxes), max(high for _, high in boxes)
    scale = min(_scale(one, _whole_input(geometry.size, tiles)) for one in boxes)
    result = DefectScale(defect, scale, defect * scale, needed)
    if result.shown >= needed:
        return result
    if defect < needed:
        return replace(result, obstacle=f"the images show it in {defect:g}, so only a camera or lens that shows it larger helps")
    if preset.teacher.token_side:
        return replace(result, obstacle=f"preset {preset.name} has this input alone: train with preset fast and more --pixels")
    size = _sufficient(geometry, box, needed / defect, tiles)
    finer = None if tiles is not None else _sufficient_tiles(geometry.size, box, needed / defect)
    lost = f"no input of up to {MAX_PIXELS} pixels suffices: judge pieces of the part by cameras of their own"
    if size is None:
        return replace(result, tiles=finer, obstacle="" if finer else lost)
    return replace(result, pixels=math.prod(size), cost=math.prod(size) / math.prod(geometry.size), tiles=finer)


def _scale(box: tuple[float, float], size: Size) -> float:
    """Return how many pixels of an input (height, width) one of a box (width, height) of the image has at least."""
    return min(size[0] / box[1], size[1] / box[0])


def _whole_input(size: Size, tiles: Size | None) -> Size:
    return size if tiles is None else TileLayout(tiles, size).whole


def _sufficient(geometry: Geometry, box: tuple[float, float], scale: float, tiles: Size | None) -> Size | None:
    """Return the least input (height, width) that shows a box (width, height) of the image at ``scale`` or larger."""
    pixels = math.prod(geometry.size)
    while pixels <= MAX_PIXELS:
        side = math.isqrt(pixels) // STEP * STEP
        size = (side, side) if geometry.method == "square" else choose_size(*box, pixels)
        if _scale(box, _whole_input(size, tiles)) >= scale and math.prod(size) <= MAX_PIXELS:
            return size
        pixels = math.ceil(pixels * 1.01)
    return None


def _sufficient_tiles(size: Size, box: tuple[float, float], scale: float) -> str | None:
    """Return the compact tiles, ROWSxCOLUMNS, with the fewest pixels that show a box at ``scale`` or larger beside an input of
    ``size``.
    """
    counts = [(rows, columns) for rows in range(1, MAX_TILES + 1) for columns in range(1, MAX_TILES // rows + 1)]
    layouts = [TileLayout(one, size) for one in counts[1:]]
    suited = [
        one for one in layouts if _scale(box, one.whole) >= scale and one.fits and max(one.tile) <= MAX_TILE_ASPECT * min(one.tile)
    ]
    least = min(suited, key=lambda one: (one.count * math.prod(one.tile), max(one.counts)), default=None)
    return None if least is None else f"{least.counts[0]}x{least.counts[1]}"
