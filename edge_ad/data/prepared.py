"""Image files as inputs of the networks: every part located and cut out by a geometry, and which ones were not located."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_ad.data.images import read_image
from edge_ad.geometry.fit import too_many_unlocated
from edge_ad.geometry.geometry import Geometry, Prepared
from edge_ad.geometry.pose import Image, NotLocated, Pose

READERS = 4  # threads, each with one image of full resolution
Unlocated: TypeAlias = tuple[tuple[Path, str], ...]


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Inputs u8[N,H,W,3] with their ``paths`` and poses (none for whole images), and what was not located, with the reason.

    ``seen`` is what was measured on the frame of each input, if anything was.
    """

    images: NDArray[np.uint8]
    paths: tuple[Path, ...]
    poses: tuple[Pose, ...] = ()
    unlocated: Unlocated = ()
    seen: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def total(self) -> int:
        """How many images were read."""
        return len(self.paths) + len(self.unlocated)

    @property
    def too_few(self) -> bool:
        """Whether more than a tenth, and more than one, were not located, or fewer than two are left of several."""
        return too_few(len(self.unlocated), self.total)


def too_few(unlocated: int, total: int) -> bool:
    """Whether so many of ``total`` images without a pose mean that the geometry does not suit them."""
    return too_many_unlocated(unlocated, total) or total - unlocated < min(total, 2)


def prepare_files(
    paths: Sequence[Path], geometry: Geometry, bits: int = 16, *, look: Callable[[Image, Prepared], Any] | None = None
) -> PreparedImages:
    """Read images in order, a few at a time, and cut their parts out; ``bits`` as for ``read_image``.

    ``look`` is asked of every frame whose part was located.
    """

    def prepare(path: Path) -> tuple[NotLocated | Prepared, Any]:
        frame = geometry.region_of(read_image(path, bits))
        result = geometry.prepare(frame)
        return result, None if look is None or isinstance(result, NotLocated) else look(frame, result)

    with ThreadPoolExecutor(READERS) as pool:
        results = list(zip(paths, pool.map(prepare, paths), strict=True))
    located = [(path, result, seen) for path, (result, seen) in results if isinstance(result, Prepared)]
    images = np.stack([result.image for _, result, _ in located]) if located else np.empty((0, *geometry.size, 3), np.uint8)
    return PreparedImages(
        images,
        tuple(path for path, _, _ in located),
        tuple(result.pose for _, result, _ in located if result.pose is not None),
        tuple((path, result.reason) for path, (result, _) in results if isinstance(result, NotLocated)),
        () if look is None else tuple(seen for _, _, seen in located),
    )
