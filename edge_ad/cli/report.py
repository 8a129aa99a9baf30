"""`edge-ad report`: what a shift came to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config

if TYPE_CHECKING:
    from edge_ad.store.shift_page import ReferenceImage
    from edge_ad.store.shift_report import Period

TIME = "2026-03-01T06:00 by the clock of [report], or how long ago: 8h, 7d."
LARGEST_SIDE = 640


@options_of()
def command(
    settings: Config,
    *,
    shift: Annotated[bool, typer.Option("--shift", help="The last shift that has ended; this is the default.")] = False,
    now: Annotated[bool, typer.Option("--now", help="The shift that runs now, so far.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=f"The shift that ran then: {TIME}")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"Any time instead of a shift: {TIME}")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before this time [now].")] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write [shift-<begin>.html, without --csv].")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the figures as CSV to this file.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle whose normal image lies under the places [the product's, else the newest].")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="The store of the station [`store` of [run], else runs/line.sqlite].")] = None,
) -> None:
    """Report a shift: parts, yield, where and why NG, false rejects by marks, downtime by cause, alarms, changes, challenges."""
    import time

    from edge_ad.errors import BadInput
    from edge_ad.store.actions import action_log
    from edge_ad.store.reader import Reader
    from edge_ad.store.shift_page import csv_of, page_of
    from edge_ad.store.shift_report import report_of
    from edge_ad.utils.files import atomic_write

    moment = time.time()
    chosen = [name for name, given in (("--shift", shift), ("--now", now), ("--at", at), ("--from", first)) if given]
    if len(chosen) > 1 or (last is not None and first is None):
        raise BadInput(f"{' and '.join(chosen) or '--to without --from'}: give one of --shift, --now, --at, or --from with --to")
    period = _period(settings, moment, now=now, at=at, first=first, last=last)
    path = store or settings.run.store or DEFAULT_STORE
    with Reader(path) as reader:
        report = report_of(reader, action_log(path), period, warn_rejects=settings.alarm.warn_rejects, now=moment)
    if table is not None:
        atomic_write(table, csv_of(report))
        typer.echo(f"the figures of {period} are in {table}")
    if out is not None or table is None:
        page = out or Path(f"shift-{period.local(period.start):%Y-%m-%dT%H%M}.html")
        images = _images(settings, [name for name, tally in report.products.items() if tally.places], bundle)
        atomic_write(page, page_of(report, images))
        typer.echo(f"the report of {period} is in {page}: {report.total.judged()} parts")


def _period(
    settings: Config, moment: float, *, now: bool, at: str | None, first: str | None, last: str | None
) -> Period:
    """Return what is asked for; BadInput for a period that ends before it begins."""
    from edge_ad.errors import BadInput
    from edge_ad.store.export import moment as parsed
    from edge_ad.store.shift_report import Period, last_shift, shift_of, zone_of

    shifts, zone = settings.report.shifts, zone_of(settings.report.zone)
    if now or at is not None:
        return shift_of(shifts, moment if at is None else parsed(at, moment, zone), zone)
    if first is None:
        return last_shift(shifts, moment, zone)
    period = Period(parsed(first, moment, zone), moment if last is None else parsed(last, moment, zone), zone)
    if period.end <= period.start:
        raise BadInput(f"--to {last or 'now'} is not after --from {first}: give a later one")
    return period


def _images(settings: Config, products: list[str], given: Path | None) -> dict[str, ReferenceImage]:
    """Return the most normal golden image of the bundle of each product, as far as one can be read."""
    import contextlib

    from edge_ad.errors import EdgeAdError
    from edge_ad.utils.files import newest_bundle

    images: dict[str, ReferenceImage] = {}
    for name in products:
        with contextlib.suppress(EdgeAdError, ImportError, OSError):  # a report without an image is one all the same
            named = settings.product[name].bundle if name in settings.product else None
            images[name] = _golden(given or named or newest_bundle())
    return images


def _golden(path: Path) -> ReferenceImage:
    """Return the golden image with the lowest score."""
    import cv2

    from edge_ad.bundle import open_bundle
    from edge_ad.scoring import fuse
    from edge_ad.store.shift_page import ReferenceImage

    bundle = open_bundle(path)
    image = bundle.golden.images[int(fuse(bundle.golden.raw, bundle.statistics)[1].argmin())]
    factor = min(1.0, LARGEST_SIDE / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1.0 else image
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return ReferenceImage(data.tobytes(), image.shape[1], image.shape[0])
