"""A product whose parts several cameras see: every view has a bundle, engines and a judge of its own.

What a station with views needs of its settings stands here too: which camera is which view, and how views are joined.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge_ad.bundle import Bundle
from edge_ad.camera.health import HealthLimits
from edge_ad.camera.uri import parse_uri
from edge_ad.config import Config
from edge_ad.errors import BadInput
from edge_ad.inspection.assembly import make_part_detectors
from edge_ad.inspection.canary import Known, score_of
from edge_ad.inspection.loop import JudgedView
from edge_ad.inspection.part_tracking import Calls, PartDetector
from edge_ad.inspection.part_views import Joining, ViewJoiner
from edge_ad.inspection.products import Product, settings_of_product
from edge_ad.inspection.recorder import safe_name
from edge_ad.inspection.settings import check_settings, presence_of
from edge_ad.inspection.triggers import parse_trigger
from edge_ad.scoring.fused_views import FusedViews
from edge_ad.store.next_run import BundlePointer, bundle_key
from edge_ad.utils.files import open_regular
from edge_ad.utils.text import redact

MAX_VIEWS = 8
MAX_FUSED = 1 << 20  # bytes of a file of fused thresholds
RECORDED = ("path", "synthetic", "faults", "belt")  # cameras that wait for us


class ViewedProduct(Product):
    """The products of all views, in the order of ``[part] views``, opened and proven together; the first stands for all
    where one bundle is told.
    """

    def __init__(self, name: str | None, settings: Config, views: Mapping[str, Product], fused: FusedViews | None) -> None:
        first = next(iter(views.values()))
        self.name, self.settings, self.code = name, settings, first.code
        self.bundle, self.conditions, self.view = first.bundle, first.conditions, first.view
        self.views = dict(views)
        self.fused = fused
        self.fault: str | None = None
        self.memory_mb = self.used_at = 0.0
        self.drift = first.drift
        self._opened = False

    @property
    def loaded(self) -> bool:
        """Whether the engines of all views are open."""
        return self._opened

    @property
    def in_loop(self) -> bool:
        """Whether engines of a view must be opened and closed in the thread of the loop."""
        return any(one.in_loop for one in self.views.values())

    def open(self) -> None:
        """Open and prove the engines of all views; what was opened is closed again where one cannot be."""
        with contextlib.ExitStack() as stack:
            for view, product in self.views.items():
                stack.callback(product.close)
                try:
                    product.open()
                except BadInput as error:
                    raise BadInput(f"view {view}: {error}") from error
            stack.pop_all()
        first = next(iter(self.views.values()))
        self.pipeline, self.judge, self.inferring = first.pipeline, first.judge, first.inferring
        self.reference, self.thresholds, self.tiled = first.reference, first.thresholds, first.tiled
        self.known = [known for view, one in self.views.items() for known in _known_of(view, one)]
        self.memory_mb = sum(one.memory_mb for one in self.views.values())
        self._opened = True

    def self_test(self) -> None:
        """Prove the engines of all views."""
        for product in self.views.values():
            product.self_test()

    def release(self) -> contextlib.ExitStack | None:
        """Let go of the engines and return what closes them; None where none are open."""
        if not self._opened:
            return None
        self._opened = False
        stack = contextlib.ExitStack()
        for product in self.views.values():
            opened = product.release()
            if opened is not None:
                stack.enter_context(opened)
        return stack


def _known_of(view: str, product: Product) -> list[Known]:
    infer = score_of(product.inferring)
    return [replace(known, name=f"{known.name} of view {view}", infer=infer) for known in product.known]


def cameras_of(settings: Config, cameras: Sequence[str]) -> list[str]:
    """Return the cameras of a run, those of views in the order of ``[part] views``; BadInput for views that cannot be joined
    or do not fit the ``cameras`` that were named.
    """
    part = settings.part
    if not part.views:
        _check_unused(settings)
        return list(cameras)
    named = {view: _camera_of(settings, view, cameras) for view in part.views}
    _check_names(settings, named)
    outside = next((camera for camera in cameras if camera not in named.values()), None)
    if outside is not None:
        raise BadInput(
            f"camera {redact(outside)} is in no view, and [part] views has {', '.join(part.views)}: name it as the camera of a "
            "[view.NAME], or start another run for it"
        )
    if settings.run.parts == "many" or any(product.parts == "many" for product in settings.product.values()):
        raise BadInput("[part] views and parts = many exclude each other: views are joined to one part")
    for product in (None, *settings.product):
        for view in named:
            _check_view(settings, product, view)
    joining_of(settings, list(named.values()))
    return list(named.values())


def _camera_of(settings: Config, view: str, cameras: Sequence[str]) -> str:
    table = settings.view.get(view)
    if table is not None and table.camera is not None:
        return table.camera
    if table is None and view in cameras:
        return view
    known = ", ".join([*settings.view, *map(redact, cameras)]) or "none"
    what = "has no camera" if table is not None else "is no table [view.NAME] and no camera"
    raise BadInput(f"[part] views: {view!r:.80} {what}: give [view.{view}] a camera; there are {known}")


def _check_names(settings: Config, named: Mapping[str, str]) -> None:
    views = settings.part.views
    if len(views) != len(named):
        twice = next(view for view in views if views.count(view) > 1)
        raise BadInput(f"[part] views names {twice!r} twice: name each view once")
    if not 2 <= len(views) <= MAX_VIEWS:
        raise BadInput(f"[part] views has {len(views)} of them: a part needs two to {MAX_VIEWS} views; one camera needs no [part]")
    tables = [(f"[view.{name}]", name) for name in settings.view]
    tables += [(f"[product.{product}.view.{name}]", name) for product, table in settings.product.items() for name in table.view]
    files = [file for view in named for file in (safe_name(view), f"{safe_name(view)}_map")]
    same = next((file for file in files if files.count(file) > 1), None)
    if same is not None:
        raise BadInput(f"[part] views: images of two views would be called {same!r}: give one of them another name")
    unused = next((table for table, name in tables if name not in named), None)
    if unused is not None:
        raise BadInput(f"{unused} is a view that [part] views does not name: add it there, or take the table out")
    owner: dict[str, str] = {}
    for view, camera in named.items():
        if camera in owner:
            both = f"{owner[camera]} and {view}"
            raise BadInput(f"camera {redact(camera)} is in the views {both}: give each view a camera of its own")
        owner[camera] = view


def _check_unused(settings: Config) -> None:
    if settings.view or any(product.view for product in settings.product.values()):
        raise BadInput("there are tables of views, and [part] names none: add views = [...] under [part]")
    if settings.part.fused is not None or any(product.fused for product in settings.product.values()):
        raise BadInput("fused thresholds are those of several views: add views = [...] under [part]")


def _check_view(settings: Config, product: str | None, view: str) -> None:
    try:
        check_settings(settings_of_product(settings, product, view))
    except BadInput as error:
        where = f"view {view}" if product is None else f"product {product}, view {view}"
        raise BadInput(f"{where}: {error}") from error


def joining_of(settings: Config, cameras: Sequence[str]) -> Joining:
    """Return how the views of a part find together; BadInput where nothing says which belong together."""
    run = settings.run
    if run.trigger is not None:
        return "arrival" if parse_trigger(run.trigger, run.alarm).kind == "camera" else "call"
    if presence_of(run) != "none":
        return "arrival"
    live = next((camera for camera in cameras if parse_uri(camera).kind not in (*RECORDED, "watch")), None)
    if live is not None:
        raise BadInput(
            f"[part] views cannot be joined: camera {redact(live)} shows every frame, and nothing says which frames of the views "
            "belong together: give --trigger, or --presence settled or learned"
        )
    return "id"


def is_timed(settings: Config, cameras: Sequence[str]) -> bool:
    """Whether views come in their own time: not so recorded images, which wait for us."""
    return settings.run.realtime or any(parse_uri(camera).kind not in RECORDED for camera in cameras)


def make_joiner(settings: Config, cameras: Sequence[str], first: Sequence[int]) -> ViewJoiner | None:
    """Return what joins the views of a part, None where every camera has parts of its own; ``first`` as for part detectors."""
    part = settings.part
    if not part.views:
        return None
    number = sum(first) - len(first) + 1  # a part is counted at the camera that decided
    joining, timed = joining_of(settings, cameras), is_timed(settings, cameras)
    return ViewJoiner(part.views, part.deadline_ms / 1000.0, joining, timed=timed, first=number)


def part_detectors_of(
    product: Product, cameras: int, *, calls: Calls | None, first: Sequence[int]
) -> list[PartDetector] | None:
    """Return what gathers frames to parts of a product, one for each camera; None where every frame is a part."""
    if not product.views:
        return make_part_detectors(product.bundle, product.settings.run, cameras, calls=calls, first=first)
    one_by_one = [
        make_part_detectors(one.bundle, one.settings.run, 1, calls=calls, first=[number])
        for one, number in zip(product.views.values(), first, strict=True)
    ]
    return [detector for row in one_by_one if row is not None for detector in row] or None


def judged_views(product: Product) -> list[JudgedView]:
    """Return what judges each camera, where several see one part."""
    return [
        JudgedView(name, one.judge, one.settings, one.conditions, one.view, one.reference) for name, one in product.views.items()
    ]


def open_viewed(
    named: str,
    settings: Config,
    given: Bundle | Path | str | None,
    pointer: BundlePointer,
    *,
    limits: HealthLimits,
    read_again: Callable[[], Config] | None,
    instead: Mapping[str, Bundle | Path] | None = None,
) -> Product:
    """Return the product of a name, "" for a station without any, of several views where it has them; engines are not open yet.

    The bundle that is ``given``, or that of the product, serves every view that has none of its own; ``pointer`` says what took
    its place, and ``instead`` by view what takes it now. BadInput where one has none, or fused thresholds do not fit.
    """
    name = named or None
    table = None if name is None else settings.product[name]
    bundle = Path(given) if isinstance(given, str) else given
    bundle = bundle if table is None else table.bundle
    if not settings.part.views:
        if bundle is None:
            raise BadInput(f"product {name} has bundles of views alone, and [part] names no views: give it a bundle")
        bundle = _in_use(bundle, named, pointer)
        return Product(name, settings_of_product(settings, name), bundle, limits=limits, read_again=read_again)
    views = {}
    for view in settings.part.views:
        own = (instead or {}).get(view)
        own = own or bundle_in_use(settings, named, view, pointer, given=bundle)
        merged = settings_of_product(settings, name, view)
        views[view] = Product(name, merged, own, limits=limits, read_again=read_again, view=view)
    learned = (None if table is None else table.fused) or settings.part.fused
    if learned is not None and any(one.settings.run.cascade is not None for one in views.values()):
        raise BadInput(
            "--cascade and fused thresholds exclude each other: what a cascade leaves out lowers the score of a view, and faint "
            "deviations in several views would not add up: leave one out"
        )
    fused = None if learned is None else load_fused(learned, {view: product.bundle.sha256 for view, product in views.items()})
    return ViewedProduct(name, settings_of_product(settings, name), views, fused)


def _in_use(bundle: Bundle | Path, key: str, pointer: BundlePointer) -> Bundle | Path:
    """Return a bundle, or the path of what took its place by ``pointer``; ``key`` as ``bundle_key`` makes it."""
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    standing = pointer.resolve(key, path)
    return bundle if standing == path else standing


def bundle_in_use(
    settings: Config, named: str, view: str, pointer: BundlePointer, *, given: Bundle | Path | None = None
) -> Bundle | Path:
    """Return the bundle that a view of a product, "" for a station without any, is judged by: its own or the one ``given``, or
    what took its place by ``pointer``; BadInput where it has none.
    """
    own = bundle_of_view(settings, named or None, view) or given
    if own is None:
        where = f"[product.{named}.view.{view}]" if named else f"[view.{view}]"
        raise BadInput(f"view {view} has no bundle: add bundle = \"FILE.edgead\" to {where}")
    path = own.path if isinstance(own, Bundle) else own
    if not path.is_file():
        raise BadInput(f"view {view}: there is no bundle {path}; train it, or name another in edge-ad.toml")
    return _in_use(own, bundle_key(named, view), pointer)


def bundle_of_view(settings: Config, product: str | None, view: str) -> Path | None:
    """Return the bundle that edge-ad.toml gives a view, that of the product before that of the station."""
    table = settings.view.get(view)
    own = None if table is None else table.bundle
    if product is None:
        return own
    chosen = settings.product[product]
    return (chosen.view[view].bundle if view in chosen.view else None) or chosen.bundle or own


def load_fused(path: Path, bundles: Mapping[str, str]) -> FusedViews:
    """Read fused thresholds for the views whose ``bundles`` have these sha256; BadInput where they were learned with others."""
    try:
        with open_regular(path) as stream:
            value = json.loads(stream.read(MAX_FUSED))
    except FileNotFoundError as error:
        raise BadInput(f"there is no file {path} of fused thresholds: write it with `edge-ad views learn`") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as fused thresholds: {error}; write it again with `edge-ad views learn`") from error
    fused = FusedViews.from_json(value, str(path))
    if list(fused.views) != list(bundles):
        raise BadInput(
            f"{path} has fused thresholds of the views {', '.join(fused.views)}, and the station has {', '.join(bundles)}: learn "
            "them again with `edge-ad views learn`"
        )
    other = next((view for view, one in fused.views.items() if one.bundle != bundles[view]), None)
    if other is not None:
        raise BadInput(f"{path} was learned with another bundle of view {other}: learn it again with `edge-ad views learn`")
    return fused
