"""`edge-ad benchmark`: time per stage, end to end, and memory on this device."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config

if TYPE_CHECKING:
    from edge_ad.engines.benchmark import BenchmarkReport
    from edge_ad.inspection.throughput import Minute

LOOP_FRAMES = 200  # the loop runs at half the rate of the engines, so more would only take long


@options_of("benchmark", "engine.precision", "engine.backend")
def command(
    settings: Config,
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; without it, the newest one under runs/.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON to this file.")] = None,
) -> None:
    """Time the whole road of a frame, from a camera image of 640 x 480 to its verdict."""
    from edge_ad.bundle import open_bundle
    from edge_ad.engines.benchmark import benchmark, peak_rss_mb
    from edge_ad.engines.pipeline import Pipeline
    from edge_ad.engines.selection import Streams, open_pipeline, open_pipelines
    from edge_ad.inspection import throughput as line
    from edge_ad.inspection.throughput import measure_overhead
    from edge_ad.system.examine import device_details, device_state
    from edge_ad.utils.files import atomic_write, newest_bundle, require_writable

    table, engine = settings.benchmark, settings.engine
    frames, streams = table.frames, table.streams
    require_writable(out)
    opened = open_bundle(bundle or newest_bundle())
    more: dict[str, Any] = {"bundle": {"name": opened.name, "sha256": opened.sha256}}

    def in_loop(pipeline: Pipeline) -> dict[str, float] | None:
        result = measure_overhead(opened, pipeline, min(frames, LOOP_FRAMES))
        more["throughput"] = line.measure_throughput(opened, pipeline, frames).to_json()
        more["device"] = device_state()
        more["machine"] = device_details()
        if table.soak is not None:
            minutes = line.soak(
                opened, pipeline, table.soak, device=device_state, report=lambda one: typer.echo(report_minute(one))
            )
            more["soak"] = [one.to_json() for one in minutes]
        return result.overhead if result else None

    report = benchmark(
        opened, lambda: open_pipeline(opened, engine.backend, engine.precision), frames, in_loop, warm_up=table.warm_up
    )
    if streams > 1:
        with contextlib.ExitStack() as stack:
            pipelines = open_pipelines(opened, report.backend, report.precision, streams)
            shared = Streams([stack.enter_context(one) for one in pipelines])
            stack.callback(shared.close)
            result = line.measure_streams(opened, shared, frames)
        more["streams"] = {"count": streams, **result.to_json(), "rss_mb": round(peak_rss_mb(), 1)}
    for text in (*describe(report), *describe_more(more)):
        typer.echo(text)
    if out is not None:
        atomic_write(out, json.dumps({**report.to_json(), **more}, indent=2) + "\n")


def report_minute(minute: Minute) -> str:
    """Return the line of one minute of a soak."""
    times, device = minute.end_to_end, minute.device
    return (
        f"{minute.second:>7.0f} s  {minute.fps:>7.2f} a second, p50 {times['p50']:.1f}, p99 {times['p99']:.1f}, "
        f"max {times['max']:.1f} ms; {device['temperature']}; {device['clocks']}"
    )


def describe_more(more: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about throughput and device."""
    result = more["throughput"]
    yield (
        f"the line judges {result['loop_fps']:.2f} frames a second, {result['share']:.1%} of the {result['engines_fps']:.2f} "
        "that the engines alone allow"
    )
    if side := more.get("streams"):
        yield (
            f"{side['count']} cameras on {side['count']} streams: {side['loop_fps']:.2f} frames a second, {side['share']:.1%} "
            f"of the {side['engines_fps']:.2f} that these engines allow; at most {side['rss_mb']:.0f} MB of memory"
        )
    yield "; ".join(f"{name}: {value}" for name, value in more["device"].items())


def describe(report: BenchmarkReport) -> Iterator[str]:
    """Yield the lines of the table of times."""
    threads = f", {report.threads} threads a graph" if report.threads else ""
    counts = f"{report.frames} frames after {report.warm_up}"
    yield f"{report.backend} {report.precision}{threads}, preset {report.preset}, {counts}, milliseconds"
    yield f"{'stage':<16} {'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}"
    rows = {**report.stages, "engine only": report.engine, "end to end": report.end_to_end}
    if report.loop_overhead:
        rows["loop overhead"] = report.loop_overhead
    for name, times in rows.items():
        yield f"{name:<16} " + " ".join(f"{times[key]:>9.3f}" for key in ("p50", "p90", "p99", "max"))
    yield from (f"note: {note}" for note in report.notes)
    yield f"first verdict after {report.first_verdict_s:.2f} s, at most {report.rss_mb:.0f} MB of memory"
