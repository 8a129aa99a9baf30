"""`edge-ad views`: the views of a part, and thresholds on the score of all of them together."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.events import SINCE
from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config

ACTIONS = ("list", "learn")
ACTION = "list: views, cameras and bundles; learn: thresholds on the fused score, from normal parts that all views saw."
GOODS = "learn: a folder with one folder of images a view, named like it; one name is one part. Without it the record counts."
FILE = Path("views.json")
SHOWN = 5


@options_of("thresholds", without=("operating_point",))
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)] = "list",
    goods: Annotated[Path | None, typer.Argument(metavar="[GOODS]", help=GOODS)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"learn: the file to write [`fused` of edge-ad.toml, else {FILE}].")
    ] = None,
    product: Annotated[str | None, typer.Option(metavar="NAME", help="The product whose views these are.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"learn, of the record. {SINCE}")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="learn, of the record. Before this time.")] = None,
    store: Annotated[Path | None, typer.Option(help="The SQLite file of the record; default: `store` of [run].")] = None,
) -> None:
    """List the views of a part, or learn thresholds on the score of all views together."""
    from edge_ad.errors import BadInput, require

    require("cv2", extra="cpu", needed_by="edge-ad views")
    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if action == "list":
        _list(settings, product)
        return
    if (goods is None) == (since is None):
        raise BadInput("`edge-ad views learn` needs a folder of normal parts, or --since TIME from which on there were no others")
    table = settings.product.get(product) if product is not None else None
    path = out or (None if table is None else table.fused) or settings.part.fused or FILE
    _learn(settings, product, path, goods=goods, since=since, until=until, store=store or settings.run.store or DEFAULT_STORE)


def _list(settings: Config, product: str | None) -> None:
    from edge_ad.inspection.viewed_product import bundle_of_view, cameras_of
    from edge_ad.utils.text import redact

    if not settings.part.views:
        typer.echo("edge-ad.toml names no views: add views = [...] under [part]")
        return
    names: list[str | None] = [product] if product is not None else [*settings.product] or [None]
    for view, camera in zip(settings.part.views, cameras_of(settings, settings.run.camera), strict=True):
        bundles = [f"{'' if name is None else f'{name}: '}{bundle_of_view(settings, name, view)}" for name in names]
        typer.echo(f"{view}  camera {redact(camera)}  {', '.join(bundles)}")
    typer.echo(f"a view that is missing {settings.part.deadline_ms:g} ms after the first one is NONE")


def _learn(
    settings: Config, product: str | None, path: Path, *, goods: Path | None, since: str | None, until: str | None, store: Path
) -> None:
    from edge_ad.inspection.view_scores import scores_of_folders, scores_of_record
    from edge_ad.scoring.fused_views import learn_fused
    from edge_ad.store.export import moment
    from edge_ad.store.next_run import BundlePointer, pointer_path
    from edge_ad.store.reader import EventFilter
    from edge_ad.utils.files import atomic_write, require_writable

    require_writable(path)
    if goods is not None:
        scored = scores_of_folders(settings, product, goods, BundlePointer(pointer_path(store)))
    else:
        now = time.time()
        wanted = EventFilter(since=moment(str(since), now), until=None if until is None else moment(until, now))
        scored = scores_of_record(settings, product, store, wanted)
    targets = settings.thresholds
    fused = learn_fused(scored.scores, scored.bundles, targets.target_ng, targets.target_warn)
    atomic_write(path, json.dumps(fused.to_json(), indent=2) + "\n")
    for name, view in fused.views.items():
        typer.echo(f"view {name}: normal parts score {view.mean:.2f} +- {view.std:.2f}")
    if scored.skipped:
        shown = "; ".join(scored.skipped[:SHOWN])
        typer.echo(f"{len(scored.skipped)} parts without a score in all views were left out: {shown}")
    typer.echo(fused.thresholds.describe().replace("normal images", "normal parts"))
    typer.echo(f"{path}  (fused = \"{path}\" under {'[part]' if product is None else f'[product.{product}]'})")
