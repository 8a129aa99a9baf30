"""Image quality of a new lot: what the camera is compared with after a recalibration, and the limits that a tolerance keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle
from edge_ad.camera.layout import LayoutChange
from edge_ad.camera.light_change import GAINS
from edge_ad.camera.measure import (
    FrameMeasure,
    HealthReference,
    camera_report,
    frame_measurer,
    frame_shown,
    limit_measurer,
)
from edge_ad.camera.quality import Quality, QualityLimits
from edge_ad.camera.tolerance_limits import LimitLearner
from edge_ad.data.images import read_image
from edge_ad.data.tolerance import AXES, Tolerance
from edge_ad.deployment.validation_images import evenly
from edge_ad.errors import BadInput
from edge_ad.geometry.geometry import Prepared

Image = NDArray[np.uint8]
Looks: TypeAlias = tuple[FrameMeasure, Quality | None]  # of a frame; its quality where the bundle has limits of it

MAX_FRAMES = 1000  # normal images whose light, sharpness and place are kept; more would only cost memory
MAX_LEARNED = 60  # normal images that limits are learned from, at about 60 ms each
MIN_LEARNED = 30  # fewer say too little of how normal images differ
MAX_BEYOND = 0.05  # of the new images beyond a limit of the tolerance that still holds for them


class LotQuality:
    """Measures the normal images of a new lot as a run of the bundle sees its frames."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._geometry, self._bits, self._seed = bundle.geometry, bundle.image_bits, seed
        self._old, self._tolerance = _reference_of(bundle), _tolerance_of(bundle)
        self._measure: Callable[[Image, Prepared], FrameMeasure] = frame_measurer(bundle.geometry)
        self._quality = None if self._old is None else limit_measurer(self._old, layout=not bundle.geometry.locates)
        self._paths: list[Path] = []
        self._frames: list[FrameMeasure] = []
        self._qualities: list[Quality] = []

    def measure(self, frame: Image, prepared: Prepared) -> Looks:
        """Measure the frame u8[H,W,3] of an image, whose input was ``prepared``; from any thread."""
        shown = None if self._quality is None else self._quality(frame_shown(self._geometry, frame, prepared))
        return self._measure(frame, prepared), shown

    def add(self, path: Path, looks: Looks) -> None:
        """Take what was measured of an image file."""
        self._paths.append(path)
        frame, quality = looks
        if len(self._frames) < MAX_FRAMES:
            self._frames.append(frame)
        if quality is not None:
            self._qualities.append(quality)

    def report(self, folder: Path, *, moved: bool, forget: bool) -> dict[str, Any]:
        """Return what the loop compares its camera with: the looks of the new images, or of both lots where neither is over.

        ``moved`` says that the old lot looks otherwise, or was taken in another light.
        """
        made = camera_report(self._frames, folder)
        if made["health_reference"] is None or self._old is None:
            return made
        new = HealthReference.from_json(made["health_reference"])
        limits = self._limits(new, moved=moved, forget=forget)
        return {**made, "health_reference": replace(new if forget else new.joined(self._old), limits=limits).to_json()}

    def _limits(self, new: HealthReference, *, moved: bool, forget: bool) -> QualityLimits | None:
        """Return the limits of a tolerance that the new lot keeps, and what it teaches: all where the old lot is forgotten, those
        that are missing where it has not moved, and none where an old lot that looks otherwise must pass as well.
        """
        learned = self._learned(new) if forget or not moved else None
        unbroken = self._unbroken()
        return learned if forget and learned is not None else _completed(unbroken, learned)

    def _learned(self, new: HealthReference) -> QualityLimits | None:
        """Return limits from images of the lot, read again, in the layout of its ``new`` reference; None from too few."""
        if not self._tolerance or len(self._paths) < MIN_LEARNED:
            return None
        learner = LimitLearner(self._tolerance, None if self._geometry.locates else LayoutChange(new.template))
        for row in map(int, evenly(len(self._paths), MAX_LEARNED)):
            frame = self._geometry.region_of(read_image(self._paths[row], self._bits))
            prepared = self._geometry.prepare(frame)
            if isinstance(prepared, Prepared):
                shown = frame_shown(self._geometry, frame, prepared)
                learner.add(frame, shown, np.random.default_rng([self._seed, 19, row]), prepared.transform.matrix)
        return learner.limits

    def _unbroken(self) -> QualityLimits | None:
        """Return the old limits that at most MAX_BEYOND of the new images break."""
        old = None if self._old is None else self._old.limits
        if old is None:
            return None
        most = MAX_BEYOND * len(self._qualities)
        known = {fault: one for fault, one in old.by_fault.items() if sum(map(one.broken_by, self._qualities)) <= most}
        return replace(old, by_fault=known)


def _completed(old: QualityLimits | None, new: QualityLimits | None) -> QualityLimits | None:
    """Return the ``old`` limits with those that only the ``new`` ones have; gains are told by one normal light alone, the old one
    where an old limit asks for it.
    """
    if old is None or new is None:
        known = new if old is None else old
        return known if known is not None and known.by_fault else None
    keeps_light = old.light is not None and any(one.measure in GAINS for one in old.by_fault.values())
    added = {
        fault: one
        for fault, one in new.by_fault.items()
        if fault not in old.by_fault and not (keeps_light and one.measure in GAINS)
    }
    by_fault = {**old.by_fault, **added}
    unseen = tuple(fault for fault in dict.fromkeys((*old.unseen, *new.unseen)) if fault not in by_fault)
    return QualityLimits(by_fault, unseen, old.light if keeps_light else new.light) if by_fault else None


def _tolerance_of(bundle: Bundle) -> Tolerance:
    """Return the tolerance of the training; none where its report has no limits."""
    limits = bundle.report.get("tolerance", {}).get("limits", {})
    return Tolerance(**{axis: float(limits[axis]) for axis in AXES if axis in limits})


def _reference_of(bundle: Bundle) -> HealthReference | None:
    try:
        return HealthReference.from_json(bundle.report.get("health_reference"))
    except BadInput:
        return None
