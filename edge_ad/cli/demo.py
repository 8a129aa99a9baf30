"""`edge-ad demo`: the whole road on a synthetic line, for the first look."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_OUT = Path("runs/demo")


def command(
    out: Annotated[
        Path, typer.Option(help="Work folder; an interrupted demo goes on there, a finished one is replaced.")
    ] = DEFAULT_OUT,
    data_only: Annotated[
        Path | None, typer.Option(help="Write the synthetic line (LOCO layout, video, truth) here and stop.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few trays and steps, poor figures.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the line and of the training.")] = 0,
) -> None:
    """Render a synthetic line, train on its normal images, build engines, judge its video and evaluate: minutes on 2
    cores.

    Ctrl-C is safe: the same command goes on. After the end it starts a new demonstration in the place of the old one.
    """
    from edge_ad.errors import require

    require("cv2", extra="cpu", needed_by="edge-ad demo")
    from edge_ad.demo.run import FULL, QUICK

    plan = QUICK if quick else FULL
    if data_only is not None:
        from edge_ad.demo.run import write_data

        typer.echo(f"wrote {write_data(data_only, plan, seed, _progress('trays'))}")
        return
    for module in ("torch", "onnxscript", "onnxruntime", "matplotlib"):
        require(module, extra="train", needed_by="edge-ad demo")
    from edge_ad.cli.build_engine import describe
    from edge_ad.demo.run import Voice, run_demo

    run_demo(out, Voice(_report, describe, _progress), plan, seed)


def _report(line: str) -> None:
    print(line, flush=True)


def _progress(task: str) -> Callable[[int, int], None] | None:
    """Return a counter on a terminal, nothing elsewhere: a log has no use for it."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        typer.echo(f"\r{done} of {total} {task}", err=True, nl=done == total)

    return show
