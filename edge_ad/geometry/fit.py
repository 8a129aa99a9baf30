"""Choose how parts are located, by what it does to normal images that took no part in the fit.

Every method that applies is fitted to two thirds of the normal images. On the last third its residual is how far the
cut-outs are from the mean of the others (one minus the correlation of their structure), with the parts located and, for
the same box, without: the second is what ``none`` would leave. A method is taken where what it removes of that is material,
and where it locates the held-out parts at the same place in other light and out of focus: a place that depends on these is not
the part's, and is lost in the next lot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np

from edge_ad.errors import BadInput
from edge_ad.geometry import METHODS, Method
from edge_ad.geometry.anchors import fit_anchors
from edge_ad.geometry.contact_sheet import contact_sheet
from edge_ad.geometry.cut_out import BUDGET, MAX_ASPECT, choose_size, resize, transform_of
from edge_ad.geometry.foreground_fit import fit_foreground
from edge_ad.geometry.geometry import MARGIN, Geometry
from edge_ad.geometry.matching import structure
from edge_ad.geometry.pose import Image, Location, Locator, NotLocated, Pose, PoseRange, mean_angle, wrap
from edge_ad.geometry.template_fit import Region, fit_template

MAX_FIT, MAX_SHEET = 48, 24
SHEET_PIXELS = 16_384
# Below this spread of the corners, as a share of the box's diagonal, parts are aligned already.
ALIGNED = 0.01
WORTH, MATERIAL, HALF = 0.9, 0.02, 0.5
"""A method leaves at most ``WORTH`` of the residual, and removes ``MATERIAL`` of it, in correlation, or more than ``HALF``."""
TIE = 0.1
UNLOCATED = 0.1
# Of the box's diagonal: farther from where it was in the image as it is, a part is located at another place.
STAYS = 0.02
LIGHTS, BLUR = (0.7, 1.3), 2 / 256  # factors of brightness, and the deviation of a Gaussian in shares of the shorter side


def too_many_unlocated(unlocated: int, total: int) -> bool:
    """Whether more than a tenth of ``total`` images, and more than one, have no pose."""
    return unlocated > max(1, UNLOCATED * total)


@dataclass(frozen=True)
class Trial:
    """A method on held-out images: its residual, the residual of the same box left in place, and why it was not taken.

    ``unstable`` counts the images whose part is not at the same place in the worst of the changed looks.
    """

    method: Method
    residual: float = math.nan
    unaligned: float = math.nan
    spread: float = math.nan
    unlocated: int = 0
    held_out: int = 0
    refused: str = ""
    unstable: int = 0

    def __str__(self) -> str:
        if self.refused:
            return f"{self.method}: {self.refused}"
        return (f"{self.method}: residual {self.residual:.3f} against {self.unaligned:.3f} unaligned, spread "
                f"{100 * self.spread:.1f} % of the box, {self.unlocated} of {self.held_out} not located"
                + (f", {self.unstable} not at the same place in other light or focus" if self.unstable else ""))

    @property
    def applies(self) -> bool:
        """Whether it located the part in nearly all held-out images; one failure is forgiven."""
        return not self.refused and not too_many_unlocated(self.unlocated, self.held_out)

    def useful(self, still: float) -> bool:
        """Whether what it removes of the residual, its own box's left in place or the best one's ``still``, is material."""
        before = min(self.unaligned, still)
        removed = before - self.residual
        return self.residual <= WORTH * before and (removed >= MATERIAL or removed > HALF * before)

    @property
    def stable(self) -> bool:
        """Whether nearly all held-out parts are located at the same place in other light and out of focus."""
        return not too_many_unlocated(self.unstable, self.held_out)


@dataclass(frozen=True)
class Fit:
    """A geometry with the reason of its choice, what was tried, the contact sheet and the normal images without a pose.

    ``aligned`` where a method applies, but the parts lie alike without it.
    """

    geometry: Geometry
    reason: str
    trials: tuple[Trial, ...]
    sheet: Image
    unlocated: tuple[tuple[str, str], ...] = ()
    aligned: bool = False


def fit_geometry(images: Sequence[Image], names: Sequence[str] | None = None, *, method: Method = "auto", pixels: int = BUDGET,
                 empty: Sequence[Image] = (), anchors: Sequence[Region] = (), box: Region | None = None, seed: int = 0) -> Fit:
    """Return how parts in images like these normal ones, u8[H,W,3] of one size, are located and cut out.

    ``empty`` are images of the empty station; ``anchors`` and ``box`` regions drawn on the first image. A method other than
    auto is taken as it is. Raises BadInput where it does not apply.
    """
    names = names or [f"image {index + 1}" for index in range(len(images))]
    if method == "square" or (method == "auto" and not anchors and len({image.shape for image in images}) > 1):
        return _squashed(images, "it was asked for" if method == "square" else "the images have several sizes", pixels)
    _check(images, method, anchors, box)
    fits = _fits(empty, anchors, box)
    picked = _picked(len(images), seed, keep_first=bool(anchors))
    if method == "none":
        return _finished(None, "none", "none was asked for", (), images=images, names=names, pixels=pixels)
    if method != "auto":
        asked = fits[method](*_chosen(images, names, picked))
        return _finished(asked, method, f"{method} was asked for", (), images=images, names=names, pixels=pixels)
    order: tuple[Method, ...] = ("anchors",) if anchors else ("foreground", "shift", "rigid", "scaled", "rigid_any")
    trials: tuple[Trial, ...] = ()
    for name in order:
        # Any angle is the most expensive search and the easiest to deceive: for what nothing else locates.
        if name != "rigid_any" or not any(trial.applies for trial in trials):
            trials = (*trials, _tried(name, fits[name], *_chosen(images, names, picked)))
    def finished(trials: tuple[Trial, ...]) -> Fit:
        best, reason = _best(trials)
        try:
            locator = None if best == "none" else fits[best](*_chosen(images, names, picked))
            return _finished(locator, best, reason, trials, images=images, names=names, pixels=pixels)
        except BadInput as error:
            if best == "none":
                raise
            # What two thirds of the images have in common, all of them need not have.
            return finished(tuple(replace(trial, refused=str(error)) if trial.method == best else trial for trial in trials))

    fit = finished(trials)
    if too_many_unlocated(len(fit.unlocated), len(images)):
        missing = f"{len(fit.unlocated)} of {len(images)} normal images without a pose: {fit.unlocated[0][1]}"
        reason = f"{fit.geometry.method} leaves {missing}"
        return _finished(None, "none", reason, fit.trials, images=images, names=names, pixels=pixels)
    return replace(fit, aligned=_are_aligned(fit.trials))


def _squashed(images: Sequence[Image], reason: str, pixels: int) -> Fit:
    """Return the geometry that squashes whole images of any size into a square of ``pixels``."""
    side = math.isqrt(pixels)
    geometry = replace(Geometry.square((side, side)), image_size=(images[0].shape[0], images[0].shape[1]))
    return Fit(geometry, f"square: {reason}", (), contact_sheet([resize(image, (side, side)) for image in images[:MAX_SHEET]]))


Fitter: TypeAlias = Callable[[Sequence[Image], Sequence[str]], Locator]


def _fits(empty: Sequence[Image], anchors: Sequence[Region], box: Region | None) -> dict[Method, Fitter]:
    return {
        "foreground": lambda images, names: fit_foreground(images, names, empty=empty),
        "shift": lambda images, names: fit_template(images, names, "shift"),
        "rigid": lambda images, names: fit_template(images, names, "rigid"),
        "rigid_any": lambda images, names: fit_template(images, names, "rigid", turn=180.0),
        "scaled": lambda images, names: fit_template(images, names, "scaled"),
        "anchors": lambda images, names: fit_anchors(images, names, anchors, box or (0, 0, 0, 0)),
    }


def _check(images: Sequence[Image], method: Method, anchors: Sequence[Region], box: Region | None) -> None:
    if method not in METHODS:
        raise BadInput(f"method {method!r} is not known: use one of {', '.join(METHODS)}")
    if not images:
        raise BadInput("no images were given: a part is learned from at least one normal image")
    sizes = sorted({(image.shape[1], image.shape[0]) for image in images})
    if len(sizes) > 1:
        (wide, high), (widest, highest) = sizes[0], sizes[-1]
        raise BadInput(f"the images have {len(sizes)} sizes ({wide} x {high} to {widest} x {highest}), and one is needed to locate "
                       "parts: take them with one camera setting")
    if (method == "anchors") > bool(anchors) or bool(anchors) > (box is not None):
        raise BadInput("anchors need one or two regions and the part's box, drawn on the first image")


def _picked(count: int, seed: int, keep_first: bool) -> list[int]:
    """Return up to MAX_FIT indices, drawn evenly; the first image first where regions were drawn on it."""
    order = np.random.default_rng(seed).permutation(count)[:MAX_FIT].tolist()
    if keep_first:
        order = [0, *(index for index in order if index)][:MAX_FIT]
    return [int(index) for index in order]


def _chosen(images: Sequence[Image], names: Sequence[str], indices: Sequence[int]) -> tuple[list[Image], list[str]]:
    return [images[index] for index in indices], [names[index] for index in indices]


def _tried(method: Method, fit: Fitter, images: Sequence[Image], names: Sequence[str]) -> Trial:
    """Return what a method does on the last third of the images when it is fitted to the others."""
    cut = len(images) if len(images) < 6 else len(images) * 2 // 3
    try:
        locator = fit(images[:cut], names[:cut])
        size = choose_size(*locator.box, SHEET_PIXELS)
    except BadInput as error:
        return Trial(method, refused=str(error))
    held_out = images[cut:] or images
    learned = [(image, pose) for image in images[:cut] if isinstance(pose := locator.locate(image), Pose)]
    unseen = [(image, pose) for image in held_out if isinstance(pose := locator.locate(image), Pose)]
    if not unseen or not learned:
        return Trial(method, refused="no held-out part was located")
    still = _still([pose for _, pose in learned])
    residual = _residual(learned, unseen, size)
    unaligned = _residual([(image, still) for image, _ in learned], [(image, still) for image, _ in unseen], size)
    spread = _spread([pose for _, pose in learned], still)
    unstable = _unstable(locator, unseen) if spread > ALIGNED else 0
    return Trial(method, residual, unaligned, spread, len(held_out) - len(unseen), len(held_out), unstable=unstable)


def _unstable(locator: Locator, unseen: Sequence[tuple[Image, Pose]]) -> int:
    """Return how many parts are not located, or at another place, in the worst of the changed looks of their images."""
    lost = [[not _stays(pose, locator.locate(look)) for look in _changed(image)] for image, pose in unseen]
    return int(np.sum(lost, axis=0).max())


def _changed(image: Image) -> list[Image]:
    """Return an image in other light and out of focus, as another lot or a touched lens show it."""
    lights = [np.asarray(cv2.convertScaleAbs(image, alpha=factor), np.uint8) for factor in LIGHTS]
    return [*lights, np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR * min(image.shape[:2])), np.uint8)]


def _stays(pose: Pose, other: Location) -> bool:
    if isinstance(other, NotLocated):
        return False
    moved = np.linalg.norm(other.corners() - pose.corners(), axis=1).max()
    if pose.symmetric:  # it looks the same at several angles
        moved = math.hypot(other.x - pose.x, other.y - pose.y)
    return bool(moved <= STAYS * math.hypot(pose.width, pose.height))


def _still(poses: Sequence[Pose]) -> Pose:
    """Return the pose in the middle of many."""
    x, y, scale = (float(np.median([getattr(pose, name) for pose in poses])) for name in ("x", "y", "scale"))
    width, height = (float(np.median([getattr(pose, name) for pose in poses])) for name in ("width", "height"))
    return Pose(x, y, wrap(mean_angle([pose.angle for pose in poses])), width, height, scale)


def _spread(poses: Sequence[Pose], still: Pose) -> float:
    """Return the 90th percentile of how far corners are from those of ``still``, as a share of the box's diagonal."""
    away = [float(np.linalg.norm(pose.corners() - still.corners(), axis=1).max()) for pose in poses]
    return float(np.percentile(away, 90)) / math.hypot(still.width, still.height)


def _residual(learned: Sequence[tuple[Image, Pose]], unseen: Sequence[tuple[Image, Pose]], size: tuple[int, int]) -> float:
    """Return the median over ``unseen`` of one minus the correlation of a cut-out's structure with the mean of ``learned``."""
    mean = np.mean([_seen(image, pose, size) for image, pose in learned], axis=0)
    mean = (mean - mean.mean()) / (float(np.linalg.norm(mean - mean.mean())) + 1e-6)
    return float(np.median([1 - float((_seen(image, pose, size) * mean).sum()) for image, pose in unseen]))


def _seen(image: Image, pose: Pose, size: tuple[int, int]) -> Any:
    """Return the structure of a cut-out, of mean 0 and norm 1."""
    cut = transform_of(pose, (image.shape[0], image.shape[1]), size).cut(image)
    values = structure(np.asarray(cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY), np.uint8))
    values = values - values.mean()
    return values / (float(np.linalg.norm(values)) + 1e-6)


def _best(trials: Sequence[Trial]) -> tuple[Method, str]:
    """Return the method of least residual (the earlier of two that are alike), and the reason in words."""
    measured = [trial for trial in trials if trial.applies]
    if not measured:
        return "none", "no method locates the part in nearly all images; " + "; ".join(map(str, trials))
    nearest = min(measured, key=lambda trial: trial.residual)
    if _are_aligned(trials):
        return "none", f"the parts are aligned already, their corners move by {100 * nearest.spread:.1f} % of the box; {nearest}"
    moving = [trial for trial in measured if trial.spread > ALIGNED]
    # A method must also beat what the best box has when it stays where it is: a turn of a round part removes nothing.
    still = min(trial.unaligned for trial in measured)
    useful = [trial for trial in moving if trial.useful(still)]
    if not useful:
        return "none", "no method brings the parts nearer to each other: " + "; ".join(map(str, measured))
    if not any(trial.stable for trial in useful):
        return "none", "where the parts are located depends on light and focus: " + "; ".join(map(str, useful))
    useful = [trial for trial in useful if trial.stable]
    least = min(trial.residual for trial in useful)
    taken = next(trial for trial in useful if trial.residual <= least * (1 + TIE))
    return taken.method, f"of {len(measured)} methods that apply, the best on held-out images; {taken}"


def _are_aligned(trials: Sequence[Trial]) -> bool:
    """Whether the method that brings the parts nearest to each other hardly moves them."""
    measured = [trial for trial in trials if trial.applies]
    return bool(measured) and min(measured, key=lambda trial: trial.residual).spread <= ALIGNED


def _finished(locator: Locator | None, method: Method, reason: str, trials: tuple[Trial, ...], *, images: Sequence[Image],
              names: Sequence[str], pixels: int) -> Fit:
    """Return the fit with the poses of all images, their range and the contact sheet."""
    size = (images[0].shape[0], images[0].shape[1])
    if locator is None and max(size) > MAX_ASPECT * min(size):
        shape = (f"whole images are {size[1]} x {size[0]} pixels ({max(size) / min(size):.1f}:1), and up to {MAX_ASPECT:.0f}:1 "
                 "an input keeps the shape")
        if not trials:
            raise BadInput(f"{shape}: use method square, or a region of the images")
        squashed = _squashed(images, reason, pixels)
        return replace(squashed, reason=f"square, since {shape}; {reason}", trials=trials)
    if locator is None:
        geometry = Geometry("none", size, choose_size(size[1], size[0], pixels))
        cut = [resize(image, geometry.size) for image in images[:MAX_SHEET]]
        return Fit(geometry, reason, trials, contact_sheet(cut))
    box = Pose(0, 0, 0, *locator.box).grown(MARGIN)
    geometry = Geometry(method, size, choose_size(box.width, box.height, pixels), locator)
    located = [locator.locate(image) for image in images]
    poses = [pose for pose in located if isinstance(pose, Pose)]
    if not poses:
        reason = next(result.reason for result in located if isinstance(result, NotLocated))
        raise BadInput(f"no part was located in any of {len(images)} images with {method} ({names[0]}: {reason}): "
                       "use another method")
    shown = [geometry.transform(pose).cut(image) if isinstance(pose, Pose) else None
             for image, pose in list(zip(images, located, strict=True))[:MAX_SHEET]]
    missing = tuple((name, pose.reason) for name, pose in zip(names, located, strict=True) if isinstance(pose, NotLocated))
    if box.width * box.height < geometry.size[0] * geometry.size[1] / 4:
        reason += (f"; the part's box has {box.width:.0f} x {box.height:.0f} pixels, far fewer than the input's "
                   f"{geometry.size[1]} x {geometry.size[0]}: come nearer, or spend fewer pixels")
    return Fit(replace(geometry, expected=PoseRange.of(poses)), reason, trials, contact_sheet(shown), missing)
