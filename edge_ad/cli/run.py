"""`edge-ad run`: judge every part that a camera, a video or a folder shows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.arguments import LogFormat, Quiet, Verbose, set_log_options
from edge_ad.cli.options import options_of
from edge_ad.config import Config, load_config, with_flags

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@options_of("run", "record", "engine.precision", "engine.backend")
def command(
    settings: Config,
    flags: Mapping[str, Mapping[str, object]],
    *,
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle (*.edgead) [edge-ad.toml's products, else the newest under runs/].")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_format: LogFormat = None,
) -> None:
    """Judge parts OK, WARN or NG, or NONE where nothing can be said, until the source ends or Ctrl-C."""
    set_log_options(verbose, quiet, log_format)
    from edge_ad.errors import DeviceFault, require
    from edge_ad.utils.files import newest_bundle

    require("cv2", extra="cpu", needed_by="edge-ad run")
    from edge_ad.inspection.inspector import RunOptions, inspect
    from edge_ad.inspection.settings import trial

    _check_bundle(bundle)
    if not settings.run.outputs:
        settings = trial(settings, flags["run"])
    run, dashboard, agent = settings.run, None, None
    if run.web is not None:
        from edge_ad.web.link import open_web

        dashboard = open_web
    if settings.fleet.trusted_keys:
        from edge_ad.fleet.station import RunAgent

        agent = RunAgent
    options = RunOptions(
        settings,
        read_again=lambda: with_flags(load_config(), flags),
        status=sys.stderr if sys.stderr.isatty() else None,
        signals=True,
        dashboard=dashboard,
        agent=agent,
    )
    own = settings.product or (settings.part.views and all(view.bundle for view in settings.view.values()))
    chosen = bundle if own else bundle or newest_bundle()
    summary = inspect(chosen, run.camera, options)
    typer.echo(summary.table(), err=str(run.events) == "-" or "stdout:" in run.alarm)
    if summary.faults:
        raise DeviceFault(f"{'; '.join(summary.faults)}; the messages above tell more")
    if summary.interrupted:
        raise KeyboardInterrupt


def _check_bundle(bundle: Path | None) -> None:
    """Point at --camera where the argument is what a camera shows, not what judges it."""
    from edge_ad.data.images import SUFFIXES
    from edge_ad.errors import BadInput
    from edge_ad.utils.text import redact

    if bundle is None or bundle.suffix == ".edgead":
        return
    shown = bundle.suffix.lower() in SUFFIXES or bundle.suffix.lower() in VIDEOS
    text = str(bundle).replace(":/", "://", 1)  # a path folds the two slashes of a URI into one
    message = redact(text)
    if bundle.is_dir() or shown or "://" in text or text.isdigit():
        raise BadInput(
            f"{message} is not a bundle but something to judge: write `edge-ad run --camera {message}` (a bundle can be named "
            "before it; without one the newest under runs/ is taken)"
        )
