"""Annotated images on disk: one JPEG for an image, one video for a video or camera."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.camera.files import quiet
from edge_ad.camera.frames import Image, Source
from edge_ad.data.images import resize
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.annotate import HeatScale, annotate
from edge_ad.inspection.judge import InspectionResult
from edge_ad.inspection.observers import Observer
from edge_ad.inspection.view import View
from edge_ad.utils.files import atomic_write
from edge_ad.utils.text import is_utf8

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

    def on_result(self, result: InspectionResult, source: Source) -> None:
        """Write one annotated frame."""
        if result.frame is None or not self._room():
            return
        heat = None
        if result.inference is not None:
            scale = self._scales.setdefault(source.name, HeatScale(self._reference))
            heat = scale.strength(result.inference.map, result.event.verdict)
            if result.image is not None:
                heat = self._view.spread(heat, result.image)
        image = annotate(result.image, result.event, heat)
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
