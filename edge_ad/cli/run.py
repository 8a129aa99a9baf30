"""`edge-ad run`: judge every part that a camera, a video or a folder shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

CAMERA = (
    "A camera number (0), a device (/dev/video0), rtsp://, http://, csi://0, a video, an image, a folder of images, "
    "watch:FOLDER, file://PATH "
    "or synthetic://line?frames=300&seed=1&fps=10; repeat it for several."
)
EVIDENCE = "Folder of the pictures and the journal that belong to the store [beside it]."
EVENTS = "Append one JSON object a verdict to this file; - prints them."
REALTIME = "Play files at their own speed and drop frames that come too fast."
ALARM = "An output (repeats): modbus://PLC, gpio:///dev/gpiochip0?pass=17, mqtt://HOST, opcua://0.0.0.0, https://..."
OUTPUTS = (
    "--no-outputs: a trial beside a run: nothing of edge-ad.toml drives an output, writes a record or serves a page."
)
REQUIRE = "Refuse to start (exit 3) before every output has taken something."
PRESENCE = "What is a part: none (every frame), settled, learned (needs --empty) or trigger."
WEB = "Serve the dashboard here, such as 127.0.0.1:8080; an address of the network needs a token."
CASCADE = "Leave LAViT out where the other branches leave no doubt; at most this share of anomalies may come out OK so."
STREAMS = "Infer so many pictures side by side, of cameras or tiles: more a second, each a little later (CPU) [1]."
TRIGGER = "Calls for parts: software (ids on stdin), software:SOCKET, mqtt://BROKER/TOPIC, modbus, gpio or camera."

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm")


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle (*.edgead); without it the newest one under runs/.")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help=CAMERA)] = None,
    alarm: Annotated[list[str] | None, typer.Option(metavar="URI", help=ALARM)] = None,
    outputs: Annotated[bool | None, typer.Option("--outputs/--no-outputs", help=OUTPUTS)] = None,
    require_alarms: Annotated[bool | None, typer.Option("--require-alarms/--no-require-alarms", help=REQUIRE)] = None,
    hold_ms: Annotated[float | None, typer.Option(help="Outputs reject so long after the last verdict [500].")] = None,
    presence: Annotated[str | None, typer.Option(help=PRESENCE)] = None,
    empty: Annotated[Path | None, typer.Option(help="Folder with a few pictures of the empty station.")] = None,
    trigger: Annotated[str | None, typer.Option(help=TRIGGER)] = None,
    warn_above: Annotated[float | None, typer.Option(help="WARN above this score [the bundle's].")] = None,
    ng_above: Annotated[float | None, typer.Option(help="NG above this score [the bundle's].")] = None,
    roi: Annotated[str | None, typer.Option(metavar="X,Y,W,H", help="Look at this rectangle (pixels) alone.")] = None,
    tiles: Annotated[str | None, typer.Option(metavar="RxC", help="Cut it into tiles, the worst one counts.")] = None,
    tile_goods: Annotated[Path | None, typer.Option(help="Folder of goods for the statistics of each tile.")] = None,
    store: Annotated[Path | None, typer.Option(help="Keep events, counters and alarms in this SQLite file.")] = None,
    evidence: Annotated[Path | None, typer.Option(help=EVIDENCE)] = None,
    events: Annotated[str | None, typer.Option(help=EVENTS)] = None,
    web: Annotated[str | None, typer.Option(metavar="HOST:PORT", help=WEB)] = None,
    save: Annotated[Path | None, typer.Option(help="Write annotated pictures or videos into this folder.")] = None,
    cascade: Annotated[float | None, typer.Option(metavar="RATE", help=CASCADE)] = None,
    streams: Annotated[int | None, typer.Option(min=1, help=STREAMS)] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames of each camera.")] = None,
    realtime: Annotated[bool | None, typer.Option("--realtime/--no-realtime", help=REALTIME)] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8; default: what was built here.")] = None,
    backend: Annotated[str | None, typer.Option(help="onnxruntime or tensorrt; default: what was built here.")] = None,
) -> None:
    """Judge parts OK, WARN or NG, or NONE where nothing can be said, until the source ends or Ctrl-C."""
    from edge_ad.config import load_config, with_flags
    from edge_ad.errors import DeviceFault, require
    from edge_ad.utils.files import newest_bundle

    require("cv2", extra="cpu", needed_by="edge-ad run")
    from edge_ad.inspection.from_config import line_settings, loop_settings, trial
    from edge_ad.inspection.inspector import RunOptions, inspect

    _check_bundle(bundle)
    config = load_config()
    flags = {
        "camera": camera,
        "alarm": alarm,
        "outputs": outputs,
        "require_alarms": require_alarms,
        "hold_ms": hold_ms,
        "presence": presence,
        "empty": empty,
        "trigger": trigger,
        "warn_above": warn_above,
        "ng_above": ng_above,
        "roi": roi,
        "tiles": tiles,
        "tile_goods": tile_goods,
        "store": store,
        "web": web,
        "save": save,
        "cascade": cascade,
        "streams": streams,
        "max_frames": max_frames,
        "realtime": realtime,
    }
    run = with_flags(config.run, flags)
    if not run.outputs:
        run, events = trial(run, config.run), None if events == str(config.run.events) else events
    target = events or (str(run.events) if run.events else None)
    dashboard = None
    if run.web is not None:
        from edge_ad.web.link import open_web

        dashboard = open_web
    options = RunOptions(
        settings=loop_settings(run, config.alarm, config.camera),
        line=line_settings(run, with_flags(config.record, {"evidence": evidence})),
        backend=backend or config.engine.backend,
        precision=precision or config.engine.precision,
        events=target,
        save=run.save,
        status=sys.stderr if sys.stderr.isatty() else None,
        signals=True,
        dashboard=dashboard,
    )
    summary = inspect(bundle or newest_bundle(), run.camera, options)
    typer.echo(summary.table(), err=target == "-" or "stdout:" in run.alarm)
    if summary.faults:
        raise DeviceFault(f"{'; '.join(summary.faults)}; the messages above tell more")
    if summary.interrupted:
        raise KeyboardInterrupt


def _check_bundle(bundle: Path | None) -> None:
    """Point at --camera where the argument is what a camera shows, not what judges it."""
    from edge_ad.data.images import SUFFIXES
    from edge_ad.errors import BadInput
    from edge_ad.utils.redaction import redact

    if bundle is None or bundle.suffix == ".edgead":
        return
    shown = bundle.suffix.lower() in SUFFIXES or bundle.suffix.lower() in VIDEOS
    text = str(bundle).replace(":/", "://", 1)  # a path folds the two slashes of a URI into one
    told = redact(text)
    if bundle.is_dir() or shown or "://" in text or text.isdigit():
        raise BadInput(
            f"{told} is not a bundle but something to judge: write `edge-ad run --camera {told}` (a bundle can be named "
            "before it; without one the newest under runs/ is taken)"
        )
