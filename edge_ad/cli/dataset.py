"""`edge-ad dataset`: data sets from what the line has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.events import SINCE
from edge_ad.cli.options import options_of
from edge_ad.cli.pause import StoreFile
from edge_ad.config import DEFAULT_STORE, Config


@options_of()
def command(
    settings: Config,
    action: Annotated[str, typer.Argument(help="from-record: the lossless images of marked events.")],
    *,
    out: Annotated[Path, typer.Option(help="The folder to write good/ and defects/NAME/ into.")] = Path("data/marked"),
    marked: Annotated[str, typer.Option(help="Marked good, bad or any.")] = "any",
    product: Annotated[str | None, typer.Option(help="Of this product alone.")] = None,
    camera: Annotated[str | None, typer.Option(help="Of this camera alone.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=SINCE)] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time.")] = None,
    store: StoreFile = None,
) -> None:
    """Write the images of events that people marked into good/ and defects/NAME/, with a manifest; again adds what is new."""
    import time

    from edge_ad.deployment.marked_images import write_marked
    from edge_ad.errors import BadInput
    from edge_ad.store.export import moment
    from edge_ad.store.reader import EventFilter, Reader

    if action != "from-record":
        raise BadInput(f"unknown action {action!r}: write `edge-ad dataset from-record`")
    if marked not in ("good", "bad", "any"):
        raise BadInput(f"--marked is {marked!r}: choose one of good, bad, any")
    now = time.time()
    first, last = (None if text is None else moment(text, now) for text in (since, until))
    wanted = EventFilter(camera=camera, since=first, until=last, mark=marked, product=product)  # type: ignore[arg-type]
    with Reader(store or settings.run.store or DEFAULT_STORE) as reader:
        result = write_marked(reader, out, wanted)
    typer.echo(str(result))
    if result.without:
        shown = ", ".join(event[:8] for event in result.without[:10])
        typer.echo(f"without a lossless image: {shown}{', ...' if len(result.without) > 10 else ''}; see lossless_gb of [record]")
    typer.echo(str(out))
