"""`edge-ad capture`: collect images of good parts from a camera."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import CaptureTable, Config
from edge_ad.utils.logs import CLEAR_LINE, write_to

if TYPE_CHECKING:
    from edge_ad.camera.capture import Progress
    from edge_ad.geometry.geometry import Geometry
    from edge_ad.geometry.region import Roi
    from edge_ad.geometry.zones import Zones


@options_of("capture")
def command(settings: Config) -> None:
    """Collect normal images; blurred, dark, moved and nearly equal images are skipped, and the reason is told."""
    from edge_ad.errors import BadInput, require

    require("cv2", extra="cpu", needed_by="edge-ad capture")
    from edge_ad.camera.capture import Capture
    from edge_ad.camera.sources import open_source

    table = settings.capture
    out, count = table.out, table.count
    uri = table.camera or next(iter(settings.run.camera), None)
    if uri is None:
        raise BadInput("no camera is named: give --camera URI, or `camera` under [run] in edge-ad.toml")
    geometry = _geometry(table)
    roi, zones = _looked_at(settings, geometry)
    source = open_source(uri)
    try:
        stopped = _Stop()
        with stopped:
            capture = Capture(source, out, count, table.every, geometry=geometry, located=table.located, roi=roi, zones=zones)
            progress = capture.run(lambda: stopped.asked, _shown())
    finally:
        source.close()
    typer.echo(progress.line())
    typer.echo(f"{out}  (look at {out / 'contact.html'} before you train)")
    if stopped.interrupted:
        raise KeyboardInterrupt
    if progress.saved < count and not stopped.asked:
        raise BadInput(
            f"{uri} ended when {out} held {progress.saved} of {count} images: run the same command again with more of "
            f"them, or ask for less with --count {max(progress.saved, 1)}"
        )


def _geometry(table: CaptureTable) -> Geometry | None:
    """Return what locates parts, of the bundle that is named; BadInput for one that locates none."""
    from edge_ad.bundle import open_bundle
    from edge_ad.errors import BadInput

    if table.bundle is None:
        if table.located:
            raise BadInput("--located needs --bundle FILE, a bundle that locates parts")
        return None
    geometry = open_bundle(table.bundle).geometry
    if not geometry.locates:
        raise BadInput(
            f"--bundle {table.bundle} looks at the whole image (geometry {geometry.method}) and locates no parts: name one that "
            "was trained with --geometry auto or foreground, or leave it out"
        )
    return geometry


def _looked_at(settings: Config, geometry: Geometry | None) -> tuple[Roi | None, Zones | None]:
    """Return region and zones of what is captured: those of the bundle, else of [capture], else of [train]; BadInput where
    they contradict the bundle or each other.
    """
    from edge_ad.config import parse_rectangle
    from edge_ad.errors import BadInput
    from edge_ad.geometry.region import Roi
    from edge_ad.geometry.zone_files import read_zones

    table = settings.capture
    text, file = table.roi or settings.train.roi, table.zones or settings.train.zones
    roi = None if text is None else Roi(*parse_rectangle("roi", text, "100,40,640,480"))
    if geometry is not None:  # its zones are those of the cut-out
        if table.roi is not None and roi != geometry.roi:
            raise BadInput(f"roi is {roi}, but the bundle was trained with {geometry.roi or 'whole images'}: leave roi out")
        return geometry.roi, None
    zones = None if file is None else read_zones(file)
    if roi is not None and zones is not None and zones.size != roi.size:
        raise BadInput(
            f"the zones {file} were drawn on {zones.size[1]} x {zones.size[0]} pixels, but the region is {roi.width} x "
            f"{roi.height}: draw them on it (`edge-ad zones edit DATA --roi {roi}`)"
        )
    return roi, zones


class _Stop:
    """Turns SIGTERM and the first Ctrl-C into an orderly end."""

    def __init__(self) -> None:
        self.asked = False
        self.interrupted = False

    def __enter__(self) -> _Stop:
        import signal
        import threading

        if threading.current_thread() is threading.main_thread():
            self._progress = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        else:
            self._progress = {}
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._progress.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        import signal

        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = self.interrupted or number == signal.SIGINT
        self.asked = True


def _shown() -> _Line | None:
    return _Line() if sys.stderr.isatty() else None


class _Line:
    """The live count on a terminal, at most ten times a second."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        import time

        now = time.monotonic()
        if now >= self._next or progress.saved == progress.wanted:
            self._next = now + 0.1
            why = f"  [{progress.last}]" if progress.last else ""
            end = "\n" if progress.saved == progress.wanted else ""
            write_to(sys.stderr, f"{CLEAR_LINE}{progress.line()}{why}"[:200] + end)
