"""What judges a product: its settings, its bundle, its engines and what is made of them. A run without products has one.

Products are opened and proven one by one; what is parked has let go of its engines and keeps the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.health import HealthLimits
from edge_ad.config import Config
from edge_ad.engines.pipeline import Pipeline
from edge_ad.engines.selection import Streams, open_pipelines
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.geometry.geometry import Geometry
from edge_ad.inspection.assembly import (
    make_cascade,
    make_drift,
    reload_thresholds,
    thresholds_of,
    tile_combiner,
    warm_up,
)
from edge_ad.inspection.canary import known_images
from edge_ad.inspection.judge import Inferring, Judge
from edge_ad.inspection.locating import Locating
from edge_ad.inspection.plausibility import Plausibility, floors_of
from edge_ad.inspection.settings import check_settings, conditions_of, with_region
from edge_ad.inspection.triggers import parse_trigger
from edge_ad.inspection.view import view_of
from edge_ad.outputs.mqtt import parse_broker
from edge_ad.scoring import Thresholds
from edge_ad.scoring.fused_views import FusedViews
from edge_ad.utils.board import resident_mb
from edge_ad.utils.files import sha256_bytes

WITH_IDS = ("software", "mqtt", "modbus", "s7", "enip")  # triggers that bring the id of a part


State = Literal["none", "active", "changing", "fault"]


def settings_of_product(settings: Config, name: str | None, view: str | None = None) -> Config:
    """Return the settings of the station with those of a product, and of one of its views, in their place."""
    product = None if name is None else settings.product[name]
    seen = None if view is None else settings.view.get(view)
    run: dict[str, object] = {} if seen is None else seen.changed()
    alarm: dict[str, object] = {}
    camera: dict[str, object] = {"liveness": seen.liveness} if seen is not None and seen.liveness else {}
    if product is not None:
        run |= product.changed() | (product.view[view].changed() if view in product.view else {})
        alarm = {key: getattr(product.alarm, key) for key in product.alarm.model_fields_set}
        tables = [product.camera, *([product.view[view].camera] if view in product.view else [])]
        for table in tables:
            camera |= {"liveness": table.liveness} if "liveness" in table.model_fields_set else {}
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update=run),
            "alarm": settings.alarm.model_copy(update=alarm),
            "camera": settings.camera.model_copy(update=camera),
        }
    )


def check_products(settings: Config) -> None:
    """Raise BadInput for products that cannot be chosen, lack their bundle or have settings that contradict."""
    products, run = settings.product, settings.run
    if run.product is not None and run.product not in products:
        known = ", ".join(products) or "none: edge-ad.toml has no table [product.NAME]"
        raise BadInput(f"there is no product {run.product!r:.80}; there are {known}")
    if run.commands is not None:
        parse_broker(run.commands, "--commands", topic="")
        if not products:
            raise BadInput("--commands chooses products, and edge-ad.toml names none: add tables [product.NAME]")
    for name, product in products.items():
        for bundle in filter(None, (product.bundle, *(view.bundle for view in product.view.values()))):
            if not bundle.is_file():
                raise BadInput(f"product {name}: there is no bundle {bundle}; train it, or name another in edge-ad.toml")
        try:
            check_settings(settings_of_product(settings, name))
        except BadInput as error:
            raise BadInput(f"product {name}: {error}") from error
    patterns = [name for name, product in products.items() if product.match is not None]
    if not patterns:
        return
    if len(patterns) < len(products):
        without = next(name for name in products if name not in patterns)
        raise BadInput(f"product {without} has no match, and {patterns[0]} has one: give it to all products or to none")
    kind = None if run.trigger is None else parse_trigger(run.trigger, run.alarm).kind
    if kind not in WITH_IDS:
        raise BadInput(f"product {patterns[0]} has a match, which needs part ids: set --trigger to one of {', '.join(WITH_IDS)}")


class Product:
    """One product of a run; ``name`` is None where the station has no products.

    ``fault`` says why it cannot be judged. Once it was ``opened``: ``pipeline``, ``judge``, ``view``, ``reference`` (for heat
    maps), ``self_test``, ``known`` (for the canary) and ``memory_mb``, the memory that opening it took. ``view`` names the
    one of several views that it judges; ``views`` are the products of all, where it stands for them.
    """

    pipeline: Pipeline
    judge: Judge

    def __init__(
        self,
        name: str | None,
        settings: Config,
        bundle: Bundle | Path,
        *,
        limits: HealthLimits = HealthLimits(),
        read_again: Callable[[], Config] | None = None,
        view: str | None = None,
    ) -> None:
        self.name, self._view_name = name, view
        self.views: dict[str, Product] = {}
        self.fused: FusedViews | None = None
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.settings = with_region(settings, self.bundle)
        self.code = settings.product[name].code if name is not None else None
        self.conditions = conditions_of(self.bundle, limits)
        self.view = view_of(self.settings.run)
        self.fault: str | None = None
        self.memory_mb = 0.0
        self.used_at = 0.0
        self._read_again = read_again or (lambda: settings)
        self._thresholds: Thresholds | None = None
        self._stack: contextlib.ExitStack | None = None
        self.opened = False
        self.drift = None if len(self.view.grid) > 1 else make_drift(self.bundle, settings.run.cascade is not None)

    @property
    def image_bits(self) -> list[int]:
        """How many bits the images of each camera have; one number where all are alike."""
        return [one.bundle.image_bits for one in self.views.values()] or [self.bundle.image_bits]

    @property
    def judged_by(self) -> dict[str, str]:
        """The ``bundle`` and ``bundle_sha256`` that a challenge proves; of several views their names, and one hash of all."""
        if not self.views:
            return {"bundle": self.bundle.path.name, "bundle_sha256": self.bundle.sha256}
        bundles = [one.bundle for one in self.views.values()]
        every = "\n".join(one.sha256 for one in bundles)
        return {"bundle": ", ".join(one.path.name for one in bundles), "bundle_sha256": sha256_bytes(every.encode())}

    @property
    def loaded(self) -> bool:
        """Whether the engines are open."""
        return self._stack is not None

    @property
    def in_loop(self) -> bool:
        """Whether the engines must be opened and closed in the thread of the loop, as those on a GPU."""
        return self.opened and self.pipeline.backend.name != "onnxruntime"

    def open(self) -> None:
        """Open the engines and prove them on golden images; BadInput or DeviceFault where they cannot be used."""
        before = resident_mb()
        with contextlib.ExitStack() as stack:
            self._open_engines(stack)
            self._make_judge()
            self.opened = True
            self.known = known_images(lambda image: self.inferring.infer(image).score, self.bundle)
            self._stack = stack.pop_all()
        self.memory_mb = max(resident_mb() - before, _graphs_mb(self.bundle, self.pipeline))

    def release(self) -> contextlib.ExitStack | None:
        """Let go of the engines and return what closes them; None where none are open."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._thresholds = self.judge.thresholds
        return stack

    def close(self) -> None:
        """Close the engines; again does nothing."""
        stack = self.release()
        if stack is not None:
            stack.close()

    def see_by(self, geometry: Geometry) -> None:
        """Make inputs by another geometry from now on; engines and thresholds in force stay."""
        in_force = self.judge.thresholds
        self.bundle = self.bundle.with_geometry(geometry)
        self._make_judge()
        self.judge.thresholds = self.thresholds = in_force

    def load_thresholds(self, path: Path) -> Thresholds:
        """Read the thresholds of the bundle, or of its child at ``path``, again."""
        fresh = self._read_again()
        if self.name is not None and self.name not in fresh.product:
            raise BadInput(f"edge-ad.toml has no product {self.name} any more")
        fresh = settings_of_product(fresh, self.name, self._view_name)
        return reload_thresholds(self.bundle, fresh.run, self._tiles, path)

    def _open_engines(self, stack: contextlib.ExitStack) -> None:
        engine, streams = self.settings.engine, self.settings.run.streams
        pipelines = open_pipelines(self.bundle, engine.backend, engine.precision, streams)
        self.pipeline, *more = [stack.enter_context(one) for one in pipelines]
        self.inferring: Inferring = self.pipeline
        if more:
            self.inferring = stack.enter_context(contextlib.closing(Streams([self.pipeline, *more])))
        self.reference, self.self_test = warm_up(self.inferring, self.bundle)

    def _make_judge(self) -> None:
        bundle, run = self.bundle, self.settings.run
        streams = self.inferring if isinstance(self.inferring, Streams) else None
        locating = Locating(bundle.geometry, self.view, many=run.parts == "many")
        self._tiles, combine = tile_combiner(self.pipeline, bundle, self.view, run.tile_goods, streams=streams)
        self.tiled = self._tiles is not None
        self.thresholds = self._thresholds or thresholds_of(bundle, run, self._tiles)
        cascade = make_cascade(
            self.pipeline,
            bundle,
            run.cascade,
            tiled=self.tiled,
            first=self.thresholds,
            now=lambda: self.judge.thresholds,
        )
        plausibility = Plausibility(None if self.tiled else floors_of(bundle), self.pipeline.branches)
        self.judge = Judge(
            streams or cascade,
            self.thresholds,
            bundle.statistics.weight,
            run.max_age_ms,
            view=self.view,
            combine=combine,
            plausibility=plausibility,
            locating=locating,
            unlocated="NG" if run.unlocated == "ng" else "NONE",
            tag=(self.name, bundle.sha256),
        )


def _graphs_mb(bundle: Bundle, pipeline: Pipeline) -> float:
    """Return what the graphs hold at least: memory that was free before counts as well."""
    return sum(len(bundle.graph(name)) for name in pipeline.engines) / 2**20


def open_product(
    settings: Config,
    name: str,
    bundle: Path,
    *,
    image_bits: int | None,
    limits: HealthLimits = HealthLimits(),
    read_again: Callable[[], Config] | None = None,
) -> Product:
    """Return a product, "" for that of a station without names, whose engines are not open yet; BadInput for a bundle that
    cannot be read, or asks for images of other than ``image_bits`` bits: products see the camera alike.
    """
    merged = settings_of_product(settings, name) if name else settings
    product = Product(name or None, merged, bundle, limits=limits, read_again=read_again)
    if image_bits not in (None, product.bundle.image_bits):
        raise BadInput(f"its images have {product.bundle.image_bits} bits and those of the products before it {image_bits}")
    return product


def open_products(names: Sequence[str], make: Callable[[str], Product]) -> tuple[dict[str, Product], dict[str, str]]:
    """Return the products that can be made, their bundles read, and why the others cannot, by name; BadInput where all fail.

    Their engines are not open yet. ``pointer`` says what is judged by in the place of the bundles that are named.
    """
    products: dict[str, Product] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            product = make(name)
            bits, before = product.image_bits, next(iter(products.values()), product).image_bits
            if bits != before:
                raise BadInput(f"its images have {bits} bits and those of the products before it {before}")
            products[name] = product
        except Exception as error:
            faults[name] = why(error)
    if not products:
        raise BadInput("; ".join(f"product {name}: {reason}" for name, reason in faults.items()))
    return products, faults


def why(error: Exception) -> str:
    """Return an error as the reason of a product's fault."""
    text = str(error) if isinstance(error, EdgeAdError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def memory_of(products: Mapping[str, Product]) -> float:
    """Return the memory of all products that are loaded, in MiB."""
    return sum(product.memory_mb for product in products.values() if product.loaded)


@dataclass(eq=False)
class Change:
    """A change that was asked for: to ``product``, or to none because of ``fault``; ``asked_at`` monotonic seconds."""

    product: Product | None
    fault: str | None
    by: str
    asked_at: float
    number: int = 0
    loading_s: float = 0.0
    prepared: bool = False


@dataclass(frozen=True)
class ProductStatus:
    """How products stand: what is judged or why nothing is. ``number``: the last request of the PLC that is answered."""

    state: State
    product: str | None
    code: int
    reason: str | None
    number: int
