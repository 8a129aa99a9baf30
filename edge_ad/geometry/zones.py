"""Zones of the input: what is inspected, what is ignored, and where deviations count more or less.

Polygons are drawn on the aligned part as it is judged, or on the whole image where nothing is located. Pixels of ignored
places are replaced by the mean of the normal images before any network sees them, and the cells there have the factor 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput
from edge_ad.geometry.pose import Image

Kind: TypeAlias = Literal["inspect", "ignore", "sensitivity"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[int, int]

MAX_ZONES, MAX_POINTS, MAX_SIDE = 64, 512, 65_536
MAX_FACTOR = 10.0
MIN_LEFT = 0.01  # of the image that must be left to inspect
COLOURS: dict[Kind, tuple[int, int, int]] = {"inspect": (0, 158, 115), "ignore": (213, 94, 0), "sensitivity": (86, 180, 233)}  # RGB
COVERED = 0.5  # of a cell that must be ignored before the cell is
MAX_ASPECT_ERROR = 0.05  # between the image that zones were drawn on and the input of located parts
_GRID = 1024  # side of the raster on which zones are compared with each other


@dataclass(frozen=True)
class Zone:
    """A polygon (x, y) of a kind, in pixels from the image's upper left corner; ``factor`` is that of a sensitivity zone."""

    kind: Kind
    points: tuple[Point, ...]
    name: str = ""
    factor: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        factor = {"factor": float(self.factor)} if self.kind == "sensitivity" else {}
        name = {"name": self.name} if self.name else {}
        return {"kind": self.kind, **name, **factor, "points": [[float(x), float(y)] for x, y in self.points]}


@dataclass(frozen=True)
class Zones:
    """The zones of a product, drawn on an image of ``size`` (height, width).

    BadInput for a zone that is empty, crosses itself or reaches beyond the image, for zones that contradict each other, and
    where nothing is left to inspect.
    """

    size: Size
    zones: tuple[Zone, ...]

    def __post_init__(self) -> None:
        height, width = self.size
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise BadInput(
                f"zones are drawn on an image of {width} x {height} pixels: 1 to {MAX_SIDE} a side are allowed"
            )
        if not 1 <= len(self.zones) <= MAX_ZONES:
            raise BadInput(f"there are {len(self.zones)} zones: give 1 to {MAX_ZONES}, or leave the file out")
        for number, zone in enumerate(self.zones, 1):
            _check_zone(zone, _label(number, zone), self.size)
        _check_together(self)

    @cached_property
    def sha256(self) -> str:
        """The hash of what they say, whatever the file looks like."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"width": self.size[1], "height": self.size[0], "zones": [zone.as_dict() for zone in self.zones]}

    def of(self, kind: Kind) -> tuple[Zone, ...]:
        """Return the zones of a kind."""
        return tuple(zone for zone in self.zones if zone.kind == kind)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sensitivity zones in their order: as given, or by number, and no two alike."""
        numbered = [(number, zone) for number, zone in enumerate(self.zones, 1) if zone.kind == "sensitivity"]
        given = [zone.name for _, zone in numbered]

        def name_of(number: int, zone: Zone) -> str:
            return zone.name if zone.name and given.count(zone.name) == 1 else f"{zone.name} #{number}".strip()

        return tuple(name_of(number, zone) for number, zone in numbered)

    def places(self, size: Size) -> dict[str, NDArray[np.intp]]:
        """Return the inspected cells of each sensitivity zone in a map of ``size``, flat, by name.

        BadInput for a zone of which none is left: it is smaller than what ignore zones next to it take away.
        """
        ignored, result = self.ignored(size), {}
        for name, zone in zip(self.names, self.of("sensitivity"), strict=True):
            cells = np.flatnonzero(_raster(zone.points, self.size, size) & ~ignored)
            if not len(cells):
                raise BadInput(f"the sensitivity zone {name} is too near to what is ignored: no cell of the map is left in it")
            result[name] = cells
        return result

    def ignored(self, size: Size) -> NDArray[np.bool_]:
        """Return which pixels of an input of ``size`` are ignored, bool[H,W].

        A pixel that an ignored place touches belongs to it, and so do its neighbours, which interpolation mixes with it.
        """
        ignored = self._drawn("ignore", size)
        if self.of("inspect"):
            ignored |= ~self._drawn("inspect", size)
        reach = [max(1, math.ceil(new / old)) for new, old in zip(size, self.size, strict=True)]
        kernel = np.ones([2 * one + 1 for one in reach], np.uint8)
        return np.asarray(cv2.dilate(ignored.astype(np.uint8), kernel) > 0)

    def outlined(self, image: Image) -> Image:
        """Return a copy of an image u8[H,W,3] with the outlines of all zones."""
        drawn = image.copy()
        scale = image.shape[1] / self.size[1], image.shape[0] / self.size[0]
        for zone in self.zones:
            corners = np.rint(np.array(zone.points) * scale - 0.5).astype(np.int32)
            cv2.polylines(drawn, [corners], True, COLOURS[zone.kind], max(1, round(max(image.shape[:2]) / 160)), cv2.LINE_AA)
        return drawn

    def factors(self, size: Size) -> NDArray[np.float32]:
        """Return by how much the pixels of an input of ``size`` count, f32[H,W]: 0 where they are ignored, 1 elsewhere."""
        result = np.ones(size, np.float32)
        for zone in self.of("sensitivity"):
            result[_raster(zone.points, self.size, size)] = zone.factor
        result[self.ignored(size)] = 0.0
        return result

    def _drawn(self, kind: Kind, size: Size) -> NDArray[np.bool_]:
        result = np.zeros(size, bool)
        for zone in self.of(kind):
            result |= _raster(zone.points, self.size, size)
        return result


@dataclass(frozen=True, eq=False)
class AppliedZones:
    """Zones on the input of a bundle, with the ``mean`` u8[H,W,3] of its normal images."""

    zones: Zones
    mean: Image

    @cached_property
    def ignored(self) -> NDArray[np.bool_]:
        """Which pixels of the input are ignored, bool[H,W]."""
        return self.zones.ignored(self._size)

    @property
    def inspected(self) -> NDArray[np.bool_]:
        """Which pixels of the input are not ignored, bool[H,W]."""
        return ~self.ignored

    @property
    def _size(self) -> Size:
        return int(self.mean.shape[0]), int(self.mean.shape[1])

    def report(self) -> dict[str, Any]:
        """Return what report.json says of them."""
        counts = {kind: len(self.zones.of(kind)) for kind in KINDS}
        return {"sha256": self.zones.sha256, "counts": counts, "ignored": round(float(self.ignored.mean()), 4)}

    def message(self) -> str:
        """One line for the log."""
        counts = ", ".join(f"{len(self.zones.of(kind))} {kind}" for kind in KINDS if self.zones.of(kind))
        return f"zones: {counts}; {self.ignored.mean():.1%} of the input is ignored"

    def replaced(self, image: Image) -> Image:
        """Return an input u8[H,W,3], or several u8[N,H,W,3], with the mean of the normal images where it is ignored."""
        return np.where(self.ignored[..., None], self.mean, image)

    def scores(self, heat: NDArray[np.float32]) -> dict[str, float]:
        """Return the highest value of a map f32[h,w] in each sensitivity zone, by name; NaN where one is not a number."""
        if heat.shape not in self._places:
            self._places[heat.shape] = self.zones.places((heat.shape[0], heat.shape[1]))
        values = heat.reshape(-1)
        return {name: float(values[cells].max()) for name, cells in self._places[heat.shape].items()}

    @cached_property
    def _places(self) -> dict[tuple[int, ...], dict[str, NDArray[np.intp]]]:
        return {}

    def cells(self, grid: Size, border: int = 0) -> NDArray[np.float32]:
        """Return by how much the cells (height, width) of a map count, f32[h,w].

        A cell of which half is ignored has 0, any other the mean factor of its inspected pixels. ``border`` is how many
        cells the map lacks on each side.
        """
        high, wide = grid[0] + 2 * border, grid[1] + 2 * border
        inspected, factors = self.inspected.astype(np.float32), self.zones.factors(self._size)
        share, total = (cv2.resize(one, (wide, high), interpolation=cv2.INTER_AREA) for one in (inspected, factors))
        cells = np.where(share > COVERED, total / np.maximum(share, 1e-6), 0.0).astype(np.float32)
        return np.ascontiguousarray(cells[border : high - border, border : wide - border])


def applied(zones: Zones, images: NDArray[np.uint8], *, located: bool) -> AppliedZones:
    """Return zones on inputs u8[N,H,W,3] of normal images; BadInput where they were drawn on an image of another shape."""
    height, width = images.shape[1:3]
    drawn, shown = zones.size[1] / zones.size[0], width / height
    if located and abs(drawn / shown - 1) > MAX_ASPECT_ERROR:
        raise BadInput(
            f"the zones were drawn on an image of {zones.size[1]} x {zones.size[0]} pixels, but parts are cut out as "
            f"{width} x {height}: draw them on the aligned part (`edge-ad zones edit BUNDLE` of a training without zones)"
        )
    total = np.zeros(images.shape[1:], np.float64)
    for image in images:
        total += image
    return AppliedZones(zones, np.asarray(np.rint(total / len(images)), np.uint8))


def parse_zones(value: object, where: str) -> Zones:
    """Return the zones of parsed JSON, as ``Zones.as_dict`` writes it; BadInput, naming ``where``, for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("zones"), list):
        raise BadInput(f"{where} holds no zones: it must be an object with 'width', 'height' and a list 'zones'")
    size = tuple(value.get(name) for name in ("height", "width"))
    if not all(isinstance(side, int) and not isinstance(side, bool) for side in size):
        raise BadInput(
            f"{where}: 'width' and 'height' must be whole numbers of pixels, but are {size[1]!r:.40} and {size[0]!r:.40}"
        )
    if len(value["zones"]) > MAX_ZONES:
        raise BadInput(f"{where} holds {len(value['zones'])} zones: at most {MAX_ZONES} are allowed")
    zones = tuple(_parse_zone(entry, f"{where}: zone {number}") for number, entry in enumerate(value["zones"], 1))
    try:
        return Zones((int(size[0]), int(size[1])), zones)  # type: ignore[arg-type]
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def check_kind(kind: object, where: str) -> Kind:
    """Return a kind of zone; BadInput for any other text."""
    for known in KINDS:
        if kind == known:
            return known
    raise BadInput(f"{where} has the kind {kind!r:.40}, but there are three: {', '.join(KINDS)}")


def _parse_zone(entry: object, where: str) -> Zone:
    if not isinstance(entry, dict) or not set(entry) <= {"kind", "name", "factor", "points"}:
        raise BadInput(f"{where} must be an object with 'kind', 'points' and at most 'name' and 'factor'")
    kind, name, factor = check_kind(entry.get("kind"), where), entry.get("name", ""), entry.get("factor")
    if not isinstance(name, str) or len(name) > 100 or not name.isprintable():
        raise BadInput(f"{where} has the name {name!r:.40}, which must be at most 100 printable characters")
    if (factor is not None) != (kind == "sensitivity"):
        raise BadInput(
            f"{where} is of the kind {kind}: 'factor' belongs to sensitivity zones, and each of them needs one"
        )
    if factor is not None and not _is_number(factor):
        raise BadInput(f"{where} has the factor {factor!r:.40}, which must be a number above 0, at most {MAX_FACTOR:g}")
    points = entry.get("points")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise BadInput(f"{where}: 'points' must be a list of [x, y]")
    if not all(_is_number(number) for point in points for number in point):
        raise BadInput(f"{where}: 'points' holds something that is no number")
    return Zone(kind, tuple((float(x), float(y)) for x, y in points), name, 1.0 if factor is None else float(factor))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _label(number: int, zone: Zone) -> str:
    return f"zone {number} ({zone.kind}{' ' + zone.name if zone.name else ''})"


def _check_zone(zone: Zone, label: str, size: Size) -> None:
    if not 3 <= len(zone.points) <= MAX_POINTS:
        raise BadInput(f"{label} has {len(zone.points)} points: a polygon needs 3, and {MAX_POINTS} are allowed")
    if zone.kind == "sensitivity" and not 0 < zone.factor <= MAX_FACTOR:
        raise BadInput(
            f"{label} has the factor {zone.factor:g}: above 0 and at most {MAX_FACTOR:g} are allowed; use ignore for 0"
        )
    height, width = size
    beyond = next(((x, y) for x, y in zone.points if not (0 <= x <= width and 0 <= y <= height)), None)
    if beyond is not None:
        raise BadInput(
            f"{label} has the point {beyond[0]:g}, {beyond[1]:g} outside the image of {width} x {height} pixels"
        )
    points = np.array(zone.points, np.float64)
    if (crossing := _crossing(points)) is not None:
        raise BadInput(
            f"{label} crosses itself: its sides {crossing[0] + 1} and {crossing[1] + 1} meet; draw it as two zones"
        )
    x, y = points[:, 0], points[:, 1]
    if abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2 < 1:
        raise BadInput(f"{label} is empty: its area is less than one pixel")


def _crossing(points: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return the first two sides of a polygon f64[N,2] that cross, by index from 0; neighbours share a corner."""
    count, ends = len(points), np.roll(points, -1, axis=0)

    def side_of(
        origin: NDArray[np.float64], end: NDArray[np.float64], others: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        along, away = end - origin, others - origin
        return np.asarray(np.sign(along[0] * away[:, 1] - along[1] * away[:, 0]))

    for index in range(count - 2):
        rows = np.arange(index + 2, count - (index == 0))
        if not len(rows):
            continue
        start, end = points[index], ends[index]
        split = side_of(start, end, points[rows]) * side_of(start, end, ends[rows]) < 0
        split &= (
            np.array([np.prod(side_of(points[row], ends[row], np.stack([start, end]))) < 0 for row in rows], bool)
            if split.any()
            else split
        )
        if split.any():
            return index, int(rows[np.argmax(split)])
    return None


def _raster(points: Sequence[Point], drawn_on: Size, size: Size) -> NDArray[np.bool_]:
    """Return which pixels of an image of ``size`` a polygon covers or touches, bool[H,W]."""
    scale = np.array([size[1] / drawn_on[1], size[0] / drawn_on[0]])
    corners = np.rint((np.array(points, np.float64) * scale - 0.5) * 256).astype(np.int32)
    return np.asarray(cv2.fillPoly(np.zeros(size, np.uint8), [corners], 1, cv2.LINE_8, 8) > 0)


def _check_together(zones: Zones) -> None:
    """Raise BadInput for zones that contradict each other, and where nothing is left to inspect."""
    factor = min(1.0, _GRID / max(zones.size))
    size = max(1, round(zones.size[0] * factor)), max(1, round(zones.size[1] * factor))
    drawn = [_raster(zone.points, zones.size, size) for zone in zones.zones]
    ignored, inside, weighted = np.zeros(size, bool), np.zeros(size, bool), np.zeros(size, np.int32)
    for zone, mask in zip(zones.zones, drawn, strict=True):
        ignored |= mask & (zone.kind == "ignore")
        inside |= mask & (zone.kind == "inspect")
    left = ~ignored & (inside if zones.of("inspect") else True)
    for number, (zone, mask) in enumerate(zip(zones.zones, drawn, strict=True), 1):
        label = _label(number, zone)
        if zone.kind == "inspect" and not (mask & ~ignored).any():
            raise BadInput(f"{label} is covered by ignore zones: leave one of them out")
        if zone.kind == "ignore" and zones.of("inspect") and not (mask & inside).any():
            raise BadInput(f"{label} lies outside every inspect zone, where all is ignored already: leave it out")
        if zone.kind == "sensitivity":
            if not (mask & left).any():
                raise BadInput(f"{label} lies where nothing is inspected: leave it out")
            core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # zones may share a side
            if weighted[core].any():
                other = int(weighted[core].max())
                raise BadInput(f"{label} overlaps {_label(other, zones.zones[other - 1])}: one place has one factor")
            weighted[core] = number
    if float(left.mean()) < MIN_LEFT:
        raise BadInput(
            f"the zones leave {float(left.mean()):.1%} of the image to inspect: at least {MIN_LEFT:.0%} is needed"
        )
