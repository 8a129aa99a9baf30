"""`edge-ad run`: judge every part that a camera, a video or a folder shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

CAMERA = (
    "A camera number (0), a device (/dev/video0), a video, an image, a folder of images, file://PATH or "
    "synthetic://line?frames=300&seed=1&fps=10; repeat it for several."
)
EVENTS = "Append one JSON object a verdict to this file; - prints them."
REALTIME = "Play files at their own speed and drop frames that come too fast."


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle (*.edgead); without it the newest one under runs/.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help=CAMERA)] = None,
    events: Annotated[str | None, typer.Option(help=EVENTS)] = None,
    save: Annotated[Path | None, typer.Option(help="Write annotated pictures or videos into this folder.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames of each camera.")] = None,
    realtime: Annotated[bool | None, typer.Option("--realtime/--no-realtime", help=REALTIME)] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8; default: what was built here.")] = None,
    backend: Annotated[str | None, typer.Option(help="onnxruntime or tensorrt; default: what was built here.")] = None,
) -> None:
    """Judge frames OK, WARN or NG, or NONE where nothing can be said, until the source ends or Ctrl-C."""
    from edge_ad.config import load_config
    from edge_ad.errors import require
    from edge_ad.files import newest_bundle

    require("cv2", extra="cpu", needed_by="edge-ad run")
    from edge_ad.inspection.api import inspect
    from edge_ad.inspection.settings import LoopSettings

    config = load_config()
    target = events or (str(config.run.events) if config.run.events else None)
    real = config.run.realtime if realtime is None else realtime
    summary = inspect(
        bundle or newest_bundle(),
        camera or config.run.camera,
        settings=LoopSettings(realtime=real, max_frames=max_frames or config.run.max_frames),
        backend=backend or config.engine.backend,
        precision=precision or config.engine.precision,
        events=target,
        save=save or config.run.save,
        status=sys.stderr if sys.stderr.isatty() else None,
        signals=True,
    )
    typer.echo(summary.table(), err=target == "-")
    if summary.interrupted:
        raise KeyboardInterrupt
