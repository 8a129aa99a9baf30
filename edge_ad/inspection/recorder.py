"""Annotated images (coloured border, score, reason, heat map), and their files: a JPEG an image, a video a camera."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.files import quiet
from edge_ad.camera.frames import Image, Source
from edge_ad.data.images import resize
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event, Verdict
from edge_ad.geometry.pose import Points
from edge_ad.inspection.judge import InspectionResult, worst_result
from edge_ad.inspection.locating import draw_outlines
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.view import View
from edge_ad.utils.files import atomic_write
from edge_ad.utils.text import is_utf8

if TYPE_CHECKING:
    from edge_ad.inspection.products import Product

COLOURS: dict[Verdict, tuple[int, int, int]] = {  # RGB, told apart by colour-blind people too
    "OK": (0, 158, 115),
    "WARN": (240, 180, 0),
    "NG": (213, 50, 0),
    "NONE": (120, 120, 140),
}
MIN_SIDE = 360
MAX_SIDE = 8192  # JPEG ends at 65,535
MAX_PIXELS = 2**24
BLOCK = 256
GREY = 60
HEAT_OPACITY = 0.55


class HeatScale:
    """The scale of heat maps, learned from what was judged OK: heat begins where the usual peak of normal images ends.

    ``reference`` f32[h,w] is the map of a good part to start from; without one the first map serves.
    """

    def __init__(self, reference: NDArray[np.float32] | None = None, memory: float = 0.9) -> None:
        self._memory = memory
        self._base: float | None = None
        self._span = 0.0
        if reference is not None:
            self.strength(reference, "OK")

    def strength(self, heat: NDArray[np.float32], verdict: Verdict) -> NDArray[np.float32]:
        """Return f32 of the same shape, 0 (as on normal images) to 1 (a peak twice as high as on normal images)."""
        base, peak = float(np.median(heat)), float(heat.max())
        if self._base is None:
            self._base, self._span = base, peak - base
        elif verdict == "OK":
            keep = self._memory
            self._base = keep * self._base + (1 - keep) * base
            self._span = keep * self._span + (1 - keep) * (peak - base)
        span = max(self._span, 1e-6)
        strength: NDArray[np.float32] = np.clip((heat - self._base - span) / span, 0.0, 1.0).astype(np.float32)
        return strength


def heat_of(results: Sequence[InspectionResult], scale: HeatScale) -> NDArray[np.float32] | None:
    """Return how the parts of one frame deviate, f32[h,w] of 0 to 1 over the region of interest; None where none was inferred."""
    whole: NDArray[np.float32] | None = None
    for result in results:
        if result.inference is None:
            continue
        heat = scale.strength(result.inference.map, result.event.verdict)
        if result.place is not None:
            heat = result.place.spread(heat)
        whole = heat if whole is None else np.maximum(whole, heat)
    return whole


def outlines_of(results: Sequence[InspectionResult]) -> list[Points]:
    """Return the outlines of the parts that were located in one frame, in pixels of the region of interest."""
    return [points for result in results if result.place is not None for points in result.place.outlines]


def annotate(
    image: Image | None, event: Event, heat: NDArray[np.float32] | None, outlines: Sequence[Points] = ()
) -> Image:
    """Return u8[H,W,3] RGB: ``image`` (grey where there is none), enlarged where small, shrunk where it is larger than
    ``bounded`` allows, framed in the verdict's colour; a strip that stays thin gets grey beside it.

    ``heat`` f32[h,w] holds 0 to 1 (see HeatScale), of any size, and is laid over the whole image; ``outlines`` are in
    pixels of the image. The text stands above the image, so nothing of it is hidden; images of one size give results of
    one size.
    """
    canvas = np.full((MIN_SIDE, MIN_SIDE, 3), GREY, np.uint8) if image is None else bounded(image)
    factor = max(1, min(-(-MIN_SIDE // min(canvas.shape[:2])), MAX_SIDE // max(canvas.shape[:2])))
    canvas = resize(canvas, (canvas.shape[0] * factor, canvas.shape[1] * factor)).copy()
    if heat is not None:
        canvas = overlay(canvas, heat)
    if image is not None and outlines:
        canvas = draw_outlines(canvas, outlines, (image.shape[0], image.shape[1]))
    canvas = _padded(canvas)
    border = max(4, min(canvas.shape[:2]) // 60)
    size = max(canvas.shape[1] / 900.0, 0.45)
    framed: Image = cv2.copyMakeBorder(
        canvas, int(80 * size), border, border, border, cv2.BORDER_CONSTANT, value=COLOURS[event.verdict]
    ).astype(np.uint8, copy=False)
    _write(framed, event, size)
    return framed


def overlay(canvas: Image, heat: NDArray[np.float32]) -> Image:
    """Return the image u8[H,W,3] RGB with ``heat`` f32[h,w], 0 to 1 (see HeatScale), of any size, laid over it."""
    strength = cv2.resize(heat, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)
    blended = np.empty_like(canvas)
    for top in range(0, len(canvas), BLOCK):  # in blocks: the arithmetic takes 30 times the memory of the image
        rows = slice(top, top + BLOCK)
        levels = (strength[rows] * 255).astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        opacity = (np.minimum(strength[rows] * 4.0, 1.0) * HEAT_OPACITY)[:, :, None]
        blended[rows] = (canvas[rows] * (1.0 - opacity) + colours * opacity).astype(np.uint8)
    return blended


def bounded(image: Image) -> Image:
    """Return the image, shrunk to at most MAX_SIDE pixels a side and MAX_PIXELS in all where it is larger."""
    height, width = image.shape[:2]
    factor = min(1.0, MAX_SIDE / max(height, width), math.sqrt(MAX_PIXELS / (height * width)))
    if factor == 1.0:
        return image
    return resize(image, (max(1, int(height * factor)), max(1, int(width * factor))))


def _padded(canvas: Image) -> Image:
    """Return the image with grey beside it where a side is shorter than MIN_SIDE."""
    short = [max(0, MIN_SIDE - side) for side in canvas.shape[:2]]
    if not any(short):
        return canvas
    half = [side // 2 for side in short]
    edges = (half[0], short[0] - half[0], half[1], short[1] - half[1])
    return cv2.copyMakeBorder(canvas, *edges, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY)).astype(np.uint8, copy=False)


def _write(canvas: Image, event: Event, size: float) -> None:
    """Write verdict and score, and below them the reason, into the bar at the top."""
    line = int(34 * size)
    score = "" if event.score is None else f"  {event.score:.2f}"
    frame = "" if event.frame is None else f"  #{event.frame}"
    texts = [f"{event.verdict}{score}{frame}", *([event.reason] if event.reason else [])]
    for row, text in enumerate(texts):
        plain = text.encode("ascii", "replace").decode()
        limit = int(canvas.shape[1] / (18 * size))
        origin = (line // 2, line * (row + 1))
        cv2.putText(canvas, plain[:limit], origin, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA)


_log = logging.getLogger(__name__)

CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))  # the first one this OpenCV can write
DEFAULT_FPS = 10.0
FREE_FLOOR = 500 * 2**20
CHECK_EVERY = 50


class Recorder(Observer):
    """Writes every judged or faulted frame, annotated, under ``folder``; outages have no image.

    Names are made of the camera's name with everything but letters, digits, ``.``, ``_`` and ``-`` replaced; a video
    gets its name when it is complete. With ``several`` cameras the images of each go into a folder of its own. With
    less than 500 MiB free on the disk no more images are written, logged once: events matter more. Memory does
    not grow with the number of frames. ``reference`` is the heat map of a good part (see HeatScale), ``view`` the piece
    of the image that is judged.
    """

    def __init__(
        self,
        folder: Path,
        reference: NDArray[np.float32] | None = None,
        view: View | None = None,
        several: bool = False,
    ) -> None:
        if not is_utf8(str(folder.resolve())):  # OpenCV would end the process at the first video
            raise BadInput(f"--save {folder}: its name is no UTF-8, which OpenCV cannot write to; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--save {folder}: {error.strerror or error}; name a folder that can be written") from error
        if not os.access(folder, os.W_OK):
            raise BadInput(f"--save {folder} cannot be written; name another folder")
        self._folder = folder
        self._reference = reference
        self._view = view or View()
        self._videos: dict[str, _Video] = {}
        self._scales: dict[str, HeatScale] = {}
        self._several = several
        self._stems: dict[str, str] = {}  # by camera: names that differ in what a file name cannot hold stay apart
        self._count = 0
        self._full = False

    def on_product(self, product: Product) -> None:
        """Draw what is judged of another product."""
        self._view, self._reference = product.view, product.reference
        self._scales.clear()

    def on_results(self, results: Sequence[InspectionResult], source: Source) -> None:
        """Write one annotated frame, with the worst verdict on its parts; one of each camera that saw the part."""
        worst = worst_result(results)
        for view in worst.views:
            self._record([view.result], view.source, view.region, view.reference)
        if not worst.views:
            self._record(results, source, self._view, self._reference)

    def _record(
        self, results: Sequence[InspectionResult], source: Source, view: View, reference: NDArray[np.float32] | None
    ) -> None:
        result = worst_result(results)
        if result.frame is None or not self._room():
            return
        heat = heat_of(results, self._scales.setdefault(source.name, HeatScale(reference)))
        outlines = outlines_of(results)
        if result.image is not None:
            heat = None if heat is None else view.spread(heat, result.image)
            corner = np.array((view.region or (0, 0))[:2])
            outlines = [points + corner for points in outlines]
        image = annotate(result.image, result.event, heat, outlines)
        if source.kind in ("images", "watch"):
            folder = self._folder / self._stem(source) if self._several else self._folder
            self._write_image(folder, image, result.frame.index, result.frame.part)
        else:
            self._video(source).write(image)

    def close(self) -> None:
        """Complete the videos."""
        for video in self._videos.values():
            video.close()

    def _write_image(self, folder: Path, image: Image, index: int, part: str) -> None:
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not done:
            raise DeviceFault(f"the annotated image of {part} cannot be encoded as JPEG by this OpenCV")
        atomic_write(folder / f"{index:06d}_{safe_name(Path(part).stem)}.jpg", data.tobytes())

    def _video(self, source: Source) -> _Video:
        if source.name not in self._videos:
            self._videos[source.name] = _Video(self._folder, self._stem(source), source.fps or DEFAULT_FPS)
        return self._videos[source.name]

    def _stem(self, source: Source) -> str:
        """Return the name of a camera's files, which no other camera of the run has; nor has an earlier run of a live one."""
        if source.name not in self._stems:
            stem = safe_name(Path(source.name).stem if source.kind == "video" else source.name.partition("?")[0])
            taken = set(self._stems.values())
            if source.kind == "live":
                taken |= {path.stem for path in self._folder.iterdir()}
            names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
            self._stems[source.name] = next(name for name in names if name not in taken)
        return self._stems[source.name]

    def _room(self) -> bool:
        if not self._full and self._count % CHECK_EVERY == 0 and shutil.disk_usage(self._folder).free < FREE_FLOOR:
            self._full = True
            _log.warning("less than 500 MiB free for %s: no more images are saved", self._folder)
        self._count += 1
        return not self._full


class _Video:
    """One video file; frames of another size are brought to that of the first."""

    def __init__(self, folder: Path, stem: str, fps: float) -> None:
        self.stem = stem
        self._folder = folder
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._partial = self._final = folder / stem
        self._size = (0, 0)

    def write(self, image: Image) -> None:
        if self._writer is None:
            # Encoders want even sides.
            self._size = (image.shape[0] // 2 * 2, image.shape[1] // 2 * 2)
            self._writer = self._open()
        self._writer.write(np.ascontiguousarray(cv2.cvtColor(resize(image, self._size), cv2.COLOR_RGB2BGR)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            try:
                os.replace(self._partial, self._final)
            except OSError as error:
                raise DeviceFault(
                    f"the video {self._final} cannot be completed: {error.strerror or error}; give --save a folder that stays"
                ) from error

    def _open(self) -> cv2.VideoWriter:
        for codec, suffix in CODECS:
            self._final = self._folder / f"{self.stem}{suffix}"
            self._partial = self._folder / f".{self.stem}.part{suffix}"
            code = cv2.VideoWriter.fourcc(*codec)
            with quiet():
                writer = cv2.VideoWriter(str(self._partial), code, self._fps, self._size[::-1])
            if writer.isOpened():
                return writer
        raise DeviceFault(
            f"no video can be written to {self._folder}: OpenCV {cv2.__version__} has neither MPEG-4 nor Motion JPEG"
        )


def safe_name(text: str) -> str:
    """Return a file name without separators, spaces or leading dots, at most 80 characters, never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:80] or "camera"
