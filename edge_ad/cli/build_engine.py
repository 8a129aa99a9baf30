"""`edge-ad build-engine`: engines for this device, proven against the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config

if TYPE_CHECKING:
    from edge_ad.deployment.build import BuildReport
    from edge_ad.deployment.gate import Gate


@options_of("engine", without=["precision", "jobs"])
def command(
    settings: Config,
    *,
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; without it, the newest one under runs/.", show_default=False)
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision; what is delicate stays FP32.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Single precision throughout.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers by the bundle's ranges and plan.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the parity report as JSON to this file.")] = None,
) -> None:
    """Derive engines from BUNDLE for this device and prove them on its images; beyond tolerance they are refused."""
    from edge_ad.errors import GateRefused
    from edge_ad.utils.files import atomic_write, newest_bundle, require_writable

    require_writable(out)
    table = settings.engine
    precision = chosen_precision({"fp16": fp16, "fp32": fp32, "int8": int8}, table.precision)
    from edge_ad.bundle import open_bundle
    from edge_ad.engines.backends import check_backend, check_precision, default_backend

    check_precision(precision)
    chosen = check_backend(table.backend or default_backend())
    opened = open_bundle(bundle or newest_bundle())
    from edge_ad.deployment.build import build
    from edge_ad.deployment.derive import check_compiles

    if table.compile_check:
        for name, size in check_compiles(opened, precision).items():
            typer.echo(f"TensorRT for RTX compiles {name}: {size / 2**20:.1f} MiB")
    report = build(opened, precision, chosen, table, report=_report)
    for line in describe(report):
        typer.echo(line)
    if out is not None:
        atomic_write(out, json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
    if report.refusal is not None:
        raise GateRefused(report.refusal)


def _report(text: str) -> None:
    typer.echo(text, err=True)


def chosen_precision(flags: dict[str, bool], configured: str | None) -> str:
    """Return the one precision that is asked for by a flag, else the configured one; BadInput for none or several."""
    from edge_ad.errors import BadInput

    asked = [name for name, given in flags.items() if given]
    if len(asked) > 1:
        raise BadInput(f"--{' and --'.join(asked)} exclude each other: give one of --fp16, --int8 and --fp32")
    if asked:
        return asked[0]
    if configured is None:
        raise BadInput("no precision was given: add --fp16 (recommended), --int8 or --fp32")
    return configured


def describe(report: BuildReport) -> Iterator[str]:
    """Yield the lines of the table of errors."""
    others = [name for name, precision in report.precisions.items() if precision != report.precision]
    yield f"{report.backend} {report.precision} of {report.bundle}" + (f" (fp32: {', '.join(others)})" if others else "")
    yield from _parity(report) if report.gate is None else _gate(report.gate)
    yield "latency p50: " + ", ".join(f"{name} {value:.2f} ms" for name, value in report.latency_ms.items())
    yield from (f"note: {note}" for note in report.notes)
    if report.folder is not None:
        yield f"accepted: {report.folder} is the current engine of this bundle"


def _parity(report: BuildReport) -> Iterator[str]:
    from edge_ad.engines.parity import TOLERANCE

    yield f"{'branch':<12} {'error in z':>10} {'of tolerance':>13}"
    for row in report.parity.rows:
        mark = "" if row.share <= 1.0 else "  beyond tolerance"
        yield f"{row.branch:<12} {row.error_z:>10.4f} {row.share:>12.0%}{mark}"
    yield f"tolerance: {TOLERANCE}; {report.parity.images} golden images"
    yield f"verdict flips: {report.parity.flips}"


def _gate(gate: Gate) -> Iterator[str]:
    for name, loss in gate.losses.items():
        yield f"{name} images: {loss.images}"
        yield f"{'branch':<12} {'rms z':>8} {'bias z':>8} {'largest':>8} {'AUROC fp32':>11} {'AUROC int8':>11}"
        for row in loss.rows:
            aurocs = (
                f"{value:>11.4f}" if value is not None else f"{'-':>11}" for value in (row.auroc_reference, row.auroc)
            )
            yield f"{row.branch:<12} {row.rms:>8.4f} {row.bias:>8.4f} {row.largest:>8.4f} {' '.join(aurocs)}"
        yield (
            f"verdict flips: {loss.flips}, {loss.far_flips} of them farther than 0.05 z from a threshold "
            f"({loss.rate:.2%}, allowed {gate.max_flip:.2%})"
        )
