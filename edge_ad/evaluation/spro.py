"""AU-sPRO: the area under the saturated per-region overlap, as MVTec LOCO AD defines it, exact over all distinct
scores.

With pred(t) = pixels whose score is above t, sPRO of a defect channel = min(|pred and channel| / saturation, 1), and
the false positive rate counted over the pixels outside all channels of their image, the curve of mean sPRO over false
positive rate is made of steps. Walking t down over all distinct scores, every defect-free pixel of score v adds 1/N to
the rate, and the trapezoid over that step has the height (S(> v) + S(>= v)) / 2, where S is the mean sPRO. So the area
is a plain sum over defect-free pixels, and images can be taken one at a time at their full size: only the scores inside
defects are held together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_ad.geometry.cut_out import Transform

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)

Map = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Channel:
    """One defect of an image: its pixels (bool [H,W], at least one) and how many of them must be found (1 or more)."""

    pixels: npt.NDArray[np.bool_]
    saturation: int


@dataclass(frozen=True, eq=False)
class MapOfImage:
    """An anomaly map f32[h,w], the size (H, W) of its image, to which it is enlarged, and what reads the image's
    channels.

    ``transform`` is the way of a part that was cut out, where the map covers that part; ``outside`` is the value of the
    pixels around it.
    """

    map: Map
    size: tuple[int, int]
    channels: Callable[[], Sequence[Channel]] = tuple
    transform: Transform | None = None
    outside: float = 0.0

    def full(self) -> Map:
        """Return the map at the size of the image; ValueError for values that are not finite."""
        if self.transform is None:
            return enlarge(self.map, self.size)
        return drawn_back(self.map, self.transform, self.outside)


def au_spro(images: Sequence[MapOfImage], limits: Sequence[float] = LIMITS) -> dict[float, float] | None:
    """Return AU-sPRO for each limit of the false positive rate (0 < limit <= 1), each divided by its limit, so 0 to 1.

    Maps are enlarged to the size of their image by linear interpolation. None when no image has a channel or no pixel
    is defect-free. Three passes over the images are made; a map with a value that is not finite raises ValueError.
    """
    overlap = _Overlap.of(images)
    if overlap is None:
        return None
    keys = np.zeros(1 << 16, np.int64)
    for scores in _defect_free(images):
        keys += np.bincount(_key(scores) >> np.uint32(16), minlength=1 << 16)
    total = int(keys.sum())
    if total == 0:
        return None
    cuts = _cuts(images, keys, [limit * total for limit in limits])
    areas = np.zeros(len(limits))
    for scores in _defect_free(images):
        ordered = np.sort(scores)
        heights = np.concatenate([[0.0], np.cumsum(overlap.height(ordered[::-1]))])
        areas += [heights[ordered.size - np.searchsorted(ordered, cut.score, "right")] for cut in cuts]
    return {
        limit: float(area / total + overlap.rest(cut, limit * total) / total) / limit
        for limit, area, cut in zip(limits, areas, cuts, strict=True)
    }


@dataclass(frozen=True)
class _Cut:
    """The defect-free score at which the curve passes a limit: ``above`` pixels lie above it and ``equal`` have it."""

    score: np.float32
    above: int
    equal: int


@dataclass(frozen=True, eq=False)
class _Overlap:
    """Mean sPRO as a step function: ``scores`` ascending, and ``gain`` [n+1], the mean sPRO of all but the first i
    of them.
    """

    scores: Map
    gain: npt.NDArray[np.float64]

    @classmethod
    def of(cls, images: Sequence[MapOfImage]) -> _Overlap | None:
        scores: list[Map] = []
        weights: list[npt.NDArray[np.float64]] = []
        for image in images:
            channels = image.channels()
            full = image.full() if channels else None
            for channel in channels:
                assert full is not None
                # Beyond the saturation no further pixel of a channel counts.
                result = np.sort(full[channel.pixels])[::-1][: channel.saturation]
                scores.append(result)
                weights.append(np.full(result.size, 1.0 / channel.saturation))
        if not scores:
            return None
        together = np.concatenate(scores)
        order = np.argsort(together, kind="stable")
        weight = np.concatenate(weights)[order] / len(scores)
        gain = np.concatenate([np.cumsum(weight[::-1])[::-1], [0.0]])
        return cls(together[order], gain)

    def height(self, scores: Map) -> npt.NDArray[np.float64]:
        """Return (S(> v) + S(>= v)) / 2 for each v."""
        return np.asarray((self.above(scores) + self.gain[np.searchsorted(self.scores, scores, "left")]) / 2)

    def above(self, scores: Map) -> npt.NDArray[np.float64]:
        """Return S(> v) for each v."""
        return np.asarray(self.gain[np.searchsorted(self.scores, scores, "right")])

    def rest(self, cut: _Cut, wanted: float) -> float:
        """Return the area, in pixels, of the last step up to ``wanted`` defect-free pixels, cut by linear
        interpolation.
        """
        at = np.array([cut.score], np.float32)
        start = float(self.above(at)[0])
        end = float(self.gain[np.searchsorted(self.scores, at, "left")][0])
        width = wanted - cut.above
        return width * (start + (end - start) * width / cut.equal / 2)


def enlarge(scores: Map, size: tuple[int, int]) -> Map:
    """Return a map f32[h,w] at ``size`` = (H, W), by linear interpolation; ValueError for values that are not
    finite.
    """
    import cv2

    if not np.isfinite(scores).all():
        raise ValueError("an anomaly map holds a value that is not finite")
    # Adding zero turns -0 into +0, which compare as equal but have different keys.
    same = scores.shape == size
    wide = scores if same else cv2.resize(scores, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide + np.float32(0), dtype=np.float32)


def drawn_back(scores: Map, transform: Transform, outside: float) -> Map:
    """Return the map f32[h,w] of a part that was cut out in its original image, ``outside`` around the part."""
    if not np.isfinite(scores).all():
        raise ValueError("an anomaly map holds a value that is not finite")
    return np.asarray(transform.map_to_image(scores, outside) + np.float32(0), dtype=np.float32)


def _defect_free(images: Sequence[MapOfImage]) -> Iterator[Map]:
    """Yield the scores f32[n] of the pixels outside all channels, image by image."""
    for image in images:
        full = image.full()
        free = np.ones(image.size, bool)
        for channel in image.channels():
            free &= ~channel.pixels
        yield full[free]


def _key(scores: Map) -> npt.NDArray[np.uint32]:
    """Return integers in the order of the scores."""
    bits = scores.view(np.uint32)
    return np.asarray(np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000)), dtype=np.uint32)


def _score(key: int) -> np.float32:
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return np.float32(np.array([bits], np.uint32).view(np.float32)[0])


def _cuts(images: Sequence[MapOfImage], keys: npt.NDArray[np.int64], wanted: Sequence[float]) -> list[_Cut]:
    """Return, for each count of pixels, the score that many defect-free pixels reach; ``keys`` counts upper key halves.

    The upper half of the key is found from ``keys``, the lower one from a second pass that counts it inside that
    bucket.
    """
    uppers = [_reach(keys, count) for count in wanted]
    lower = {upper: np.zeros(1 << 16, np.int64) for upper, _ in uppers}
    for scores in _defect_free(images):
        key = _key(scores)
        high = key >> np.uint32(16)
        for upper, counts in lower.items():
            counts += np.bincount(key[high == upper] & np.uint32(0xFFFF), minlength=1 << 16)
    cuts = []
    for count, (upper, above) in zip(wanted, uppers, strict=True):
        low, more = _reach(lower[upper], count - above)
        cuts.append(_Cut(_score(upper << 16 | low), above + more, int(lower[upper][low])))
    return cuts


def _reach(counts: npt.NDArray[np.int64], wanted: float) -> tuple[int, int]:
    """Return the highest bin at which the count from above reaches ``wanted``, and the count above that bin."""
    from_above = np.cumsum(counts[::-1])
    # A rounding error in limit * total must not move the cut past the last pixel.
    position = int(np.searchsorted(from_above, min(wanted, float(from_above[-1])), "left"))
    above = int(from_above[position - 1]) if position else 0
    return len(counts) - 1 - position, above
