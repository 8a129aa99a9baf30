"""Champion and challenger: the bundle in use and one that learned from marks, side by side on recorded parts.

Parts are judged as the run judges them, from their lossless images. What a person marked good and the champion calls NG beyond a
margin is held back until a person has looked at it and accepted it: a defect that is learned as good is never found again.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.camera.frames import Frame
from edge_ad.config import Config
from edge_ad.data.images import read_image
from edge_ad.data.prepared import READERS
from edge_ad.deployment.colour_match import matched_geometry
from edge_ad.deployment.marked_images import lossless_path, shows_several
from edge_ad.engines.offline import default_jobs, in_order
from edge_ad.engines.onnxruntime import physical_cores
from edge_ad.engines.selection import choose
from edge_ad.errors import BadInput, GateRefused
from edge_ad.events import Verdict
from edge_ad.inspection.judge import InspectionResult, worst_result
from edge_ad.inspection.part_tracking import Judgeable
from edge_ad.inspection.products import Product, open_product
from edge_ad.inspection.view import View
from edge_ad.scoring import Thresholds, fuse
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.store.schema import StoredEvent

_log = logging.getLogger(__name__)

SOURCE = "record"
MARGIN = 1.0
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RecordedPart:
    """An event and the lossless image of its part."""

    event: StoredEvent
    path: Path


@dataclass(frozen=True)
class JudgedPart:
    """What a bundle says of a recorded part; ``score`` is None where it says nothing."""

    verdict: Verdict
    score: float | None
    reason: str | None


@dataclass
class Comparison:
    """Recorded parts, and what champion and challenger say of each; ``learned`` are the ids of those that the challenger knows.

    ``warn_rejects`` as in the alarm rule of the line.
    """

    parts: list[RecordedPart]
    champion: list[JudgedPart]
    challenger: list[JudgedPart]
    learned: frozenset[str] = frozenset()
    promises: dict[str, str] = field(default_factory=dict)
    warn_rejects: bool = False

    def passes(self, judged: JudgedPart) -> bool:
        """Whether the line lets a part through."""
        return judged.verdict == "OK" or (judged.verdict == "WARN" and not self.warn_rejects)

    def rows(self) -> Iterator[tuple[RecordedPart, JudgedPart, JudgedPart]]:
        """Yield each part with both judgements."""
        yield from zip(self.parts, self.champion, self.challenger, strict=True)

    @property
    def table(self) -> Counter[tuple[str, str]]:
        """How many parts have which verdict of the champion and which of the challenger."""
        return Counter((before.verdict, after.verdict) for _, before, after in self.rows())

    @property
    def changed(self) -> list[tuple[RecordedPart, JudgedPart, JudgedPart]]:
        """The parts on which they differ, those that pass now and did not before first."""
        rows = [row for row in self.rows() if row[1].verdict != row[2].verdict]
        return sorted(rows, key=lambda row: (self.passes(row[1]) or not self.passes(row[2]), -row[0].event.sequence))

    def false_rejects(self) -> tuple[int, int, int]:
        """Return how many parts that were marked good champion and challenger reject, and how many there are."""
        return self._count("good", lambda one: not self.passes(one))

    def misses(self) -> tuple[int, int, int]:
        """Return how many parts that were marked bad champion and challenger let pass, and how many there are."""
        return self._count("bad", self.passes)

    def check(self) -> None:
        """Raise GateRefused where the challenger lets a part pass that was marked bad and that the champion rejects."""
        bad = [row for row in self.rows() if row[0].event.mark == "bad"]
        lost = [part.event.id for part, before, after in bad if self.passes(after) > self.passes(before)]
        if lost:
            shown = ", ".join(event[:8] for event in lost[:5])
            raise GateRefused(
                f"the new bundle lets {len(lost)} parts pass that are marked bad and that the one in use rejects ({shown}): look "
                "at what was marked good, and leave out what is not"
            )

    def _count(self, mark: str, counts: Callable[[JudgedPart], bool]) -> tuple[int, int, int]:
        rows = [row for row in self.rows() if row[0].event.mark == mark]
        return sum(counts(row[1]) for row in rows), sum(counts(row[2]) for row in rows), len(rows)


def recorded_parts(reader: Reader, product: str | None, *, last: int, since: float | None = None) -> list[RecordedPart]:
    """Return the marked parts of a product, and the last ``last`` others, the newest first, of those with a lossless image.

    One that shows several parts is left out: its mark is that of one of them.
    """
    parts: dict[str, RecordedPart] = {}
    marked = EventFilter(mark="any", since=since, product=product)
    others = EventFilter(verdicts=("OK", "WARN", "NG"), since=since, product=product)
    for wanted, left in ((marked, None), (others, last)):
        for event in reader.every(wanted):
            if left == 0:
                break
            path = lossless_path(reader, event)
            if path is None or event.id in parts or event.product != product or shows_several(reader, event):
                continue
            parts[event.id] = RecordedPart(event, path)
            left = None if left is None else left - 1
    return sorted(parts.values(), key=lambda part: -part.event.sequence)


def opened(settings: Config, name: str, path: Path) -> Product:
    """Return a product that judges recorded images, engines proven; these are cut to the region already."""
    run = settings.run.model_copy(update={"roi": None, "cascade": None, "streams": 1})
    if run.tiles is not None:
        raise BadInput("with --tiles the statistics are those of --tile-goods: recalibrate these by hand")
    tables = {key: table.model_copy(update={"roi": None}) for key, table in settings.product.items()}
    product = open_product(settings.model_copy(update={"run": run, "product": tables}), name, path, image_bits=None)
    product.view = View()  # also of a bundle that carries its region
    product.settings = _with_streams(product)
    product.open()
    if product.thresholds != product.bundle.thresholds:
        product.close()
        raise BadInput("warn_above or ng_above of edge-ad.toml count before the thresholds of bundles: remove them, then improve")
    return product


def _with_streams(product: Product) -> Config:
    """Return the settings of a product with its engine named, and as many streams as images are at work side by side."""
    settings, engine = product.settings, product.settings.engine
    chosen = choose(product.bundle, engine.backend, engine.precision)
    on_cpu = chosen.backend == "onnxruntime"
    streams = min(engine.jobs or default_jobs(), physical_cores()) if on_cpu else 1
    named = engine.model_copy(update={"backend": chosen.backend, "precision": chosen.precision})
    return settings.model_copy(update={"engine": named, "run": settings.run.model_copy(update={"streams": streams})})


def judge_parts(product: Product, parts: Sequence[RecordedPart], progress: Progress | None = None) -> list[JudgedPart]:
    """Judge recorded parts as the run does, in their order; images are read ahead, and inferred on the streams of the product."""
    judge, waiting, judged = product.judge, deque[Judgeable](), list[JudgedPart]()

    def look(number: int) -> Judgeable:
        candidate = _judgeable(product, parts[number].path, number + 1)
        judge.prepare(candidate.frame)
        return candidate

    def finish(candidate: Judgeable) -> None:
        event = worst_result(judge.judge(SOURCE, candidate, checks_age=False)).event
        judged.append(JudgedPart(event.verdict, event.score, event.reason))
        if progress:
            progress(len(judged), len(parts))

    for candidate in in_order(look, range(len(parts)), READERS):
        judge.begin(candidate, checks_age=False)
        waiting.append(candidate)
        if len(waiting) > judge.at_once:
            finish(waiting.popleft())
    for candidate in waiting:
        finish(candidate)
    return judged


def judge_image(product: Product, path: Path, number: int = 0) -> InspectionResult:
    """Return the worst verdict on what an image file shows."""
    return worst_result(product.judge.judge(SOURCE, _judgeable(product, path, number), checks_age=False))


def _judgeable(product: Product, path: Path, number: int) -> Judgeable:
    image, now = read_image(path, product.bundle.image_bits), time.monotonic()
    return Judgeable(Frame(image, number, now, time.time(), SOURCE, str(number)), now)


def limit_of(bundle: Bundle, thresholds: Thresholds, margin: float) -> float:
    """Return the score beyond which a part that was marked good is held back: the NG threshold, and ``margin`` times as much
    beyond it as it lies above the median of normal images.
    """
    if margin < 0:
        raise BadInput(f"--margin is {margin:g}: it must be 0 or more")
    raw: NDArray[np.float32] | None = bundle.raw_scores.get("threshold")
    usual = 0.0 if raw is None or not len(raw) else float(np.median(fuse(raw, bundle.statistics)[1]))
    return thresholds.ng + margin * max(thresholds.ng - usual, 0.0)


def judge_in_light(
    champion: Product, parts: Sequence[RecordedPart], judged: Sequence[JudgedPart], progress: Progress | None = None
) -> list[JudgedPart]:
    """Return what decides whether a part that was marked good is held back: what the champion says of it, brought back to the
    light of the training where the marked parts show a lot in another one, unless ``keep_colour`` is set.

    All of such a lot scores high: a person would be asked for every part, and a defect would not stand out.
    """
    marked_good = [index for index, part in enumerate(parts) if part.event.mark == "good"]
    own = champion.bundle.geometry
    keep = champion.settings.recalibrate.keep_colour
    geometry = None if keep else matched_geometry(
        champion.bundle, [parts[index].path for index in marked_good], champion.settings.engine.jobs
    )
    if geometry is None:
        return list(judged)
    champion.see_by(geometry)
    try:
        seen = dict(zip(marked_good, judge_parts(champion, [parts[index] for index in marked_good], progress), strict=True))
    finally:
        champion.see_by(own)
    return [seen.get(index, one) for index, one in enumerate(judged)]


def held_back(parts: Sequence[RecordedPart], judged: Sequence[JudgedPart], limit: float) -> list[int]:
    """Return the indices of the parts that were marked good and that a person must accept: NG beyond a score, or not located."""
    return [
        index
        for index, (part, one) in enumerate(zip(parts, judged, strict=True))
        if part.event.mark == "good" and (one.score is None or not one.score <= limit)
    ]


def accepted_ids(parts: Sequence[RecordedPart], names: Sequence[str]) -> set[str]:
    """Return the ids of the events that are named by the beginning of their id, or by the file of their image; BadInput for a
    name that fits none or several.
    """
    ids = set()
    for name in names:
        beginning = Path(name).stem.rpartition("_")[2] if name.endswith(".png") else name
        fitting = [part.event.id for part in parts if part.event.id.startswith(beginning)]
        if len(fitting) != 1 or len(beginning) < 4:
            raise BadInput(f"--accept {name}: {len(fitting)} marked parts fit; name one by the first 8 letters of its id")
        ids.add(fitting[0])
    return ids


def collect_normal_images(parts: Sequence[RecordedPart], folder: Path, more: Path | None = None) -> int:
    """Copy the images of parts, and those of another folder of normal images, into a new folder; return how many there are."""
    from edge_ad.data.images import list_images

    folder.mkdir(parents=True)
    for part in parts:
        shutil.copy(part.path, folder / f"{part.event.id}.png")
    others = [] if more is None else list_images(more)
    for number, path in enumerate(others):
        shutil.copy(path, folder / f"more-{number:05}{path.suffix}")
    return len(parts) + len(others)


def learned_before(store: Path, used: Path) -> frozenset[str]:
    """Return the ids of the parts that a bundle, or one that it descends from, has learned from the marks of a store.

    Learned once more they would count twice in its promise, and as images that it has not seen.
    """
    folder, ids = store.with_suffix(".improve"), set()
    made = {open_bundle(path).sha256: path for path in folder.glob("*/**/*.edgead")}
    bundle: Bundle | None = open_bundle(used)
    while bundle is not None:
        path = made.pop(bundle.sha256, None)
        if path is not None:
            ids |= {image.stem for image in (folder / path.relative_to(folder).parts[0] / "good").glob("*.png")}
        parent = None if bundle.parent is None else made.get(bundle.parent)
        bundle = None if parent is None else open_bundle(parent)
    return frozenset(ids)


def work_folder(store: Path) -> Path:
    """Return a new folder for one improvement, beside the store: ``line.improve/003``."""
    folder = store.with_suffix(".improve")
    for number in range(1, 100_000):
        path = folder / f"{number:03}"
        if not path.exists():
            path.mkdir(parents=True)
            return path
    raise BadInput(f"{folder} is full: remove old improvements")


def judged_by(settings: Config, name: str, path: Path, in_force: Thresholds | None = None) -> closing[Product]:
    """Open a product that is closed at the end of a with statement; ``in_force``: thresholds that count before the bundle's."""
    product = opened(settings, name, path)
    if in_force is not None:
        product.judge.thresholds = product.thresholds = in_force
    return closing(product)


def thresholds_in_force(state: str | None, name: str, bundle: Bundle) -> Thresholds | None:
    """Return the thresholds by which a run judges, from its answer on ``bundles``, where they are not those of the bundle: they
    were set on the page. None where no run judges by this bundle.
    """
    used = {} if state is None else json.loads(state)["in_use"].get(name, {})
    limits = used.get("thresholds") if used.get("sha256") == bundle.sha256 else None
    own = bundle.thresholds
    if limits is None or (limits["warn"], limits["ng"]) == (own.warn, own.ng):
        return None
    return Thresholds(
        limits["warn"], limits["ng"], target_warn=own.target_warn, target_ng=own.target_ng, operating_point=own.operating_point,
        zones=own.zones,
    )  # fmt: skip
