"""`edge-ad benchmark`: time per stage, end to end, and memory on this device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edge_ad.engines.benchmark import BenchmarkReport

LOOP_FRAMES = 200  # the loop runs at half the rate of the engines, so more would only take long


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; without it, the newest one under runs/.", show_default=False)
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many frames to time after the warm-up.")] = 200,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; without it, the current engine.", show_default=False)
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="onnxruntime or tensorrt; without it, the current engine.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON to this file.")] = None,
) -> None:
    """Time the whole road of a frame, from a camera picture of 640 x 480 to its verdict."""
    from edge_ad.bundle import open_bundle
    from edge_ad.engines.benchmark import benchmark
    from edge_ad.engines.pipeline import Pipeline
    from edge_ad.engines.selection import open_pipeline
    from edge_ad.files import atomic_write, newest_bundle
    from edge_ad.inspection.overhead import measure_overhead

    opened = open_bundle(bundle or newest_bundle())

    def in_loop(pipeline: Pipeline) -> dict[str, float] | None:
        found = measure_overhead(opened, pipeline, min(frames, LOOP_FRAMES))
        return found.overhead if found else None

    report = benchmark(
        opened,
        lambda: open_pipeline(opened, backend, precision),
        frames,
        in_loop,
    )
    for line in describe(report):
        typer.echo(line)
    if out is not None:
        atomic_write(out, json.dumps(report.to_json(), indent=2) + "\n")


def describe(report: BenchmarkReport) -> Iterator[str]:
    """Yield the lines of the table of times."""
    yield f"{report.backend} {report.precision}, preset {report.preset}, {report.frames} frames, milliseconds"
    yield f"{'stage':<16} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}"
    rows = {**report.stages, "engine only": report.engine, "end to end": report.end_to_end}
    if report.loop_overhead:
        rows["loop overhead"] = report.loop_overhead
    for name, times in rows.items():
        yield f"{name:<16} " + " ".join(f"{times[key]:>9.3f}" for key in ("p50", "p90", "p99", "max"))
    yield f"first verdict after {report.first_verdict_s:.2f} s, at most {report.rss_mb:.0f} MB of memory"
