"""Scores of normal parts in all views, for thresholds on their fused score: of folders judged now, or of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_ad.bundle import open_bundle
from edge_ad.config import ChallengeTable, Config, PartTable, ViewTable
from edge_ad.data.images import list_images
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.inspection.inspector import RunOptions, inspect
from edge_ad.inspection.products import settings_of_product
from edge_ad.inspection.viewed_product import bundle_in_use
from edge_ad.store.next_run import BundlePointer, pointer_path
from edge_ad.store.reader import EventFilter, Reader

ABSENT = ("store", "web", "save", "events", "commands", "cascade", "trigger", "max_frames", "product")  # keys of [run]


class NormalScores(NamedTuple):
    """Scores of normal parts, a row a part, in the order of ``bundles`` (sha256 by view); ``skipped`` parts have none."""

    scores: list[list[float]]
    bundles: dict[str, str]
    skipped: list[str]


def scores_of_folders(settings: Config, product: str | None, folder: Path, pointer: BundlePointer) -> NormalScores:
    """Judge the images of normal parts, a folder a view below ``folder`` and one name a part, by the bundles of the views.

    BadInput where a view has no folder, or no bundle.
    """
    views, bundles = {}, bundles_of(settings, product, pointer)
    for view, bundle in bundles.items():
        images = folder / view
        if not images.is_dir() or not list_images(images):
            raise BadInput(f"{images} holds no images: put those of view {view} there, with one name for one part in all views")
        run = settings_of_product(settings, product, view).run
        own = {key: getattr(run, key) for key in ViewTable.model_fields if key in run.model_fields_set and key != "camera"}
        views[view] = ViewTable(**{**own, "camera": str(images), "bundle": bundle})
    part = PartTable(views=list(views))
    alone: dict[str, object] = dict.fromkeys(ABSENT)
    alone |= {"alarm": [], "presence": "none", "realtime": False}
    run = settings.run.model_copy(update={**alone, "camera": [], "max_age_ms": 60_000.0})
    changed = {"run": run, "part": part, "view": views, "product": {}, "challenge": ChallengeTable()}
    events: list[Event] = []
    inspect(None, [], RunOptions(settings.model_copy(update=changed), on_event=events.append))
    return _of_events(events, {view: open_bundle(path).sha256 for view, path in bundles.items()})


def scores_of_record(settings: Config, product: str | None, store: Path, wanted: EventFilter) -> NormalScores:
    """Return the scores of recorded parts that were judged by the bundles of now, but those marked bad."""
    bundles = bundles_of(settings, product, BundlePointer(pointer_path(store)))
    hashes = {view: open_bundle(path).sha256 for view, path in bundles.items()}
    with Reader(store) as reader:
        events = [one for one in reader.every(wanted) if one.views is not None and one.product == product and one.mark != "bad"]
    return _of_events(events[::-1], hashes)


def bundles_of(settings: Config, product: str | None, pointer: BundlePointer) -> dict[str, Path]:
    """Return the bundle that each view is judged by; ``pointer`` says where it was replaced.

    BadInput without views, for an unknown product and for a view without a bundle.
    """
    if not settings.part.views:
        raise BadInput("edge-ad.toml names no views: add views = [...] under [part]")
    if product is None and settings.product:
        raise BadInput(f"edge-ad.toml has products: choose one by --product, of {', '.join(settings.product)}")
    if product is not None and product not in settings.product:
        raise BadInput(f"there is no product {product!r:.80}; there are {', '.join(settings.product) or 'none'}")
    bundles = {}
    for view in settings.part.views:
        bundle = bundle_in_use(settings, product or "", view, pointer)
        bundles[view] = bundle if isinstance(bundle, Path) else bundle.path
    return bundles


def _of_events(events: Sequence[Event], bundles: Mapping[str, str]) -> NormalScores:
    rows, skipped = [], []
    for event in events:
        views = {row["view"]: row for row in event.views or ()}
        same = set(views) == set(bundles) and all(views[view]["bundle"] == sha256 for view, sha256 in bundles.items())
        scores = [views[view]["score"] for view in bundles] if same else []
        known = [float(score) for score in scores if score is not None]
        if len(known) == len(bundles):
            rows.append(known)
        else:
            skipped.append(f"{event.part}: {event.reason if same else 'judged by other bundles'}")
    return NormalScores(rows, dict(bundles), skipped)
