"""Learn from normal frames which measures tell what a tolerance allows from what lies three times beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_ad.camera.layout import LayoutChange
from edge_ad.camera.light_change import GAINS, LightChange, gain_modes, measure_tones
from edge_ad.camera.measure import measure_quality
from edge_ad.camera.quality import CASTS, FAULTS, LIGHTS, Quality, QualityLimits
from edge_ad.data.tolerance import Disturbance, Tolerance, quality_looks
from edge_ad.geometry.cut_out import resize

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

DRAWS = 2  # random states within the tolerance in which each frame is measured, beside the limits
FOLDS = 5  # of the frames: the gains of one are estimated by what was learned from the other four
DISTANCE_MARGIN = 1.25  # times the largest distance of a normal frame in any light


@dataclass(frozen=True, eq=False)
class _Version:
    """A frame in one state: its quality, its tones f64[TONES] and the modes f64[3] of the gains that disturb it."""

    quality: Quality
    tones: Array
    modes: Array


class LimitLearner:
    """Measures normal frames undisturbed, at the limits of a tolerance, in random states within it, and BEYOND times as far.

    Without a ``layout``, as where parts are located, turn and scale are not asked for.
    """

    def __init__(self, tolerance: Tolerance, layout: LayoutChange | None) -> None:
        self._tolerance, self._layout = tolerance, layout
        looks = quality_looks(tolerance)
        self._looks = {fault: pair for fault, pair in looks.items() if layout is not None or not pair[0].moves}
        self._frames: list[list[_Version]] = []  # of each: undisturbed, at the limits, draws, then beyond, fault by fault

    @property
    def frames(self) -> int:
        """How many frames were measured."""
        return len(self._frames)

    def add(self, frame: Image, shown: Image, rng: np.random.Generator, to_input: Array) -> None:
        """Measure a frame u8[H,W,3] as it is ``shown`` u8[h,w,3]; ``to_input`` f64[3,3] takes the frame to its input."""
        blur = pixel_ratio(frame, shown, to_input)

        def version(one: Disturbance) -> _Version:
            view = resize(one.move(frame), (shown.shape[0], shown.shape[1])) if one.moves else shown
            image = replace(one, blur=one.blur * blur).degrade(view, rng)
            return _Version(measure_quality(image, self._layout), measure_tones(image), gain_modes(one.gain))

        near, far = ([pair[side] for pair in self._looks.values()] for side in (0, 1))
        drawn = [self._tolerance.draw(rng) for _ in range(DRAWS)]
        still = [Disturbance(one.gain, one.blur, one.noise) for one in drawn]  # place has its limits; resampling would soften
        self._frames.append([version(one) for one in (Disturbance(), *near, *still, *far)])

    @property
    def limits(self) -> QualityLimits | None:
        """What tells frames within the tolerance from those far beyond it; None before a frame was measured, and where the
        tolerance speaks of nothing that is measured.
        """
        if not self._looks or not self._frames:
            return None
        inside = 1 + len(self._looks) + DRAWS
        light, qualities = self._with_gains(inside)
        within = [one for frame in qualities for one in frame[:inside]]
        beyond = {fault: [frame[inside + place] for frame in qualities] for place, fault in enumerate(self._looks)}
        limits = QualityLimits.of(dict.fromkeys(self._looks, within), beyond)
        return replace(limits, light=light) if any(one.measure in GAINS for one in limits.by_fault.values()) else limits

    def _with_gains(self, inside: int) -> tuple[LightChange | None, list[list[Quality]]]:
        """Return what was learned of the light, and the qualities of every version with its gains; no light where the tolerance
        speaks of none, and of fewer than FOLDS frames.
        """
        qualities = [[one.quality for one in frame] for frame in self._frames]
        lit = [place for place, fault in enumerate(self._looks, inside) if set(FAULTS[fault][0]) & {*LIGHTS, *CASTS}]
        if not lit or len(self._frames) < FOLDS:
            return None, qualities
        tones = np.array([[one.tones for one in frame] for frame in self._frames])
        modes = np.array([[one.modes for one in frame] for frame in self._frames])
        folds = np.arange(len(tones)) % FOLDS
        models = [LightChange.learn(tones[folds != fold], modes[folds != fold]) for fold in range(FOLDS)]
        measured = [*range(inside), *lit]
        largest = max(models[fold].distance(row) for fold, frame in zip(folds, tones, strict=True) for row in frame[measured])
        distance = DISTANCE_MARGIN * largest
        for frame, seen, fold in zip(qualities, tones, folds, strict=True):
            known = replace(models[fold], max_distance=distance)
            frame[:] = [{**one, **known.gains(row)} for one, row in zip(frame, seen, strict=True)]
        return replace(LightChange.learn(tones, modes), max_distance=distance), qualities


def pixel_ratio(frame: Image, shown: Image, to_input: Array) -> float:
    """Return how many pixels of a frame as it is ``shown`` one pixel of its input is, by the transform ``to_input`` f64 [3, 3]."""
    of_shown = math.sqrt(shown.shape[0] * shown.shape[1] / (frame.shape[0] * frame.shape[1]))
    return of_shown / math.sqrt(abs(float(np.linalg.det(to_input[:2, :2]))))
