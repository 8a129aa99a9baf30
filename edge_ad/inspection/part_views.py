"""Several cameras' views of one part: which verdicts belong together, when a view counts as missing, and the one verdict.

Views are joined by the call of a trigger, by the id of the part, or by their arrival. What cannot be joined with
certainty is NONE: an image of one part never counts for another.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from numpy.typing import NDArray

from edge_ad.camera.frames import Source
from edge_ad.events import Verdict
from edge_ad.scoring.fused_views import FusedViews

if TYPE_CHECKING:
    import numpy as np

    from edge_ad.inspection.judge import InspectionResult
    from edge_ad.inspection.view import View

Joining = Literal["call", "id", "arrival"]
RANKS: tuple[Verdict, ...] = ("OK", "WARN", "NG", "NONE")  # a view without a verdict decides over all others
MISSING = "missing: "
DISAGREE = "views: "
MAX_OPEN = 16  # parts of which views are missing; each holds images
MAX_CLOSED = 256
LATE_DEADLINES = 10.0  # for so many deadlines a view of a closed part is known as late


@dataclass(frozen=True, eq=False)
class PartView:
    """One view of a part: its ``name`` and camera, the verdict on it, the ``region`` that was judged.

    ``reference`` f32[h,w] is the heat map of a good part in this view, see HeatScale.
    """

    name: str
    source: Source
    result: InspectionResult
    region: View
    reference: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class JoinedPart:
    """The verdicts on the views of one part by name; ``missing`` says why there is none. ``doubt``: why nothing counts."""

    part: str | None
    results: Mapping[str, InspectionResult]
    missing: Mapping[str, str]
    doubt: str | None = None


@dataclass(eq=False)
class _Open:
    """A part that waits for views; ``seen_at`` is the capture of its first view, ``since`` when that was judged."""

    part: str | None
    seen_at: float
    since: float
    results: dict[str, InspectionResult] = field(default_factory=dict)
    doubt: str | None = None


@dataclass(eq=False)
class _Closed:
    """A part that got its verdict without some views, which may still come: ``owed``."""

    part: str | None
    seen_at: float
    since: float
    until: float
    present: frozenset[str]
    owed: set[str]


class ViewJoiner:
    """Gathers the verdicts on the ``views`` of a part; constant memory.

    ``joining`` "call": by the trigger's call that both answer. "id": by the id of the part. "arrival": by the captures,
    which lie at most ``deadline_s`` apart; parts are then numbered from ``first``. A view that is not there
    ``deadline_s`` after the first one was judged is missing; where nothing is ``timed`` (recorded images) only once its
    camera has ended or more than MAX_OPEN parts wait. What comes later than that is counted in ``late`` and dropped.
    """

    def __init__(
        self, views: Sequence[str], deadline_s: float, joining: Joining, *, timed: bool = True, first: int = 1
    ) -> None:
        self.views = tuple(views)
        self.late = 0
        self._deadline_s, self._joining, self._timed = deadline_s, joining, timed
        self._numbers = itertools.count(first)
        self._open: OrderedDict[object, _Open] = OrderedDict()
        self._closed: OrderedDict[object, _Closed] = OrderedDict()
        self._ended: set[str] = set()
        self._last_seen: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many parts wait for views."""
        return len(self._open)

    def take(self, view: str, result: InspectionResult, now: float) -> list[JoinedPart]:
        """Take in the verdict on one view at monotonic second ``now``; return the parts that are complete or given up."""
        ready = self.expire(now)
        part, seen_at = result.event.part, _seen_at(result, now)
        doubt = self._too_fast(view, seen_at)
        key = self._key(view, result, seen_at)
        closed = self._closed.get(key) if key is not None else None
        late = closed is not None and view in closed.owed
        if late and closed is not None:
            closed.owed.discard(view)
            if key not in self._open:
                self.late += 1
                return ready
        entry = None if key is None else self._open.get(key)
        if entry is None:
            key, entry = self._begin(key, part, seen_at, now)
        if late:
            doubt = f"{DISAGREE}view {view} came late for part {part}, and which of two parts it shows is not known"
        if view in entry.results:
            doubt = f"{DISAGREE}view {view} came twice for one part ({part}) before the other views did"
        entry.results[view] = result
        entry.doubt = entry.doubt or doubt
        if len(entry.results) == len(self.views):
            ready.append(self._close(key, now))
        ready += self._over_limit(now)
        return ready

    def expire(self, now: float) -> list[JoinedPart]:
        """Return the parts whose missing views are not waited for any more."""
        while self._closed and next(iter(self._closed.values())).until < now:
            self._closed.popitem(last=False)
        due = [key for key, entry in self._open.items() if self._is_over(entry, now)]
        return [self._close(key, now) for key in due]

    def spoil(self, reason: str) -> None:
        """Let no part that waits now get a verdict: what judges changes."""
        for entry in self._open.values():
            entry.doubt = entry.doubt or reason

    def end(self, view: str) -> None:
        """A camera gives nothing any more."""
        self._ended.add(view)

    def finish(self, now: float) -> list[JoinedPart]:
        """Return all parts that wait: nothing comes any more."""
        return [self._close(key, now) for key in list(self._open)]

    def _key(self, view: str, result: InspectionResult, seen_at: float) -> object:
        if self._joining == "call":
            return result.called_at, result.event.part
        if self._joining == "id":
            return result.event.part
        for key, entry in self._open.items():  # the oldest first: each view sees parts in their order
            if view not in entry.results and abs(seen_at - entry.seen_at) <= self._deadline_s:
                return key
        late = (key for key, one in self._closed.items() if view in one.owed and abs(seen_at - one.seen_at) <= self._deadline_s)
        return next(late, None)

    def _begin(self, key: object, part: str | None, seen_at: float, now: float) -> tuple[object, _Open]:
        if self._joining == "arrival":
            key = next(self._numbers)
            part = str(key)
        entry = self._open[key] = _Open(part, seen_at, now)
        return key, entry

    def _too_fast(self, view: str, seen_at: float) -> str | None:
        """Return why a part cannot be told from the one before it, where arrival alone joins views."""
        before = self._last_seen.get(view)
        self._last_seen[view] = seen_at
        if self._joining != "arrival" or before is None or seen_at - before >= 2 * self._deadline_s:
            return None
        return (
            f"{DISAGREE}view {view} sees parts {1000 * (seen_at - before):.0f} ms apart, and views that are joined by arrival need "
            f"at least twice deadline_ms, {2000 * self._deadline_s:g} ms: set a smaller deadline_ms, or a trigger"
        )

    def _is_over(self, entry: _Open, now: float) -> bool:
        if self._timed:
            return now - entry.since > self._deadline_s
        return all(view in self._ended for view in self.views if view not in entry.results)

    def _over_limit(self, now: float) -> list[JoinedPart]:
        more = max(len(self._open) - MAX_OPEN, 0)
        return [self._close(key, now) for key in list(self._open)[:more]]

    def _close(self, key: object, now: float) -> JoinedPart:
        entry = self._open.pop(key)
        absent = [view for view in self.views if view not in entry.results]
        missing = {view: self._why(entry, view) for view in absent}
        if absent:
            until = now + LATE_DEADLINES * self._deadline_s
            present = frozenset(entry.results)
            self._closed[key] = _Closed(entry.part, entry.seen_at, entry.since, until, present, set(absent))
            self._closed.move_to_end(key)
            while len(self._closed) > MAX_CLOSED:
                self._closed.popitem(last=False)
        return JoinedPart(entry.part, dict(entry.results), missing, entry.doubt)

    def _why(self, entry: _Open, view: str) -> str:
        """Return why there is nothing of a view: it never came, or it came with another id."""
        other = self._other_id(entry, view)
        if other is not None:
            known = next(iter(entry.results))
            return f"{DISAGREE}view {known} says part {entry.part} and view {view} part {other}: they disagree about the part id"
        within = f" within {1000 * self._deadline_s:g} ms" if self._timed else ""
        return f"{MISSING}view {view} gave no image of this part{within}"

    def _other_id(self, entry: _Open, view: str) -> str | None:
        if self._joining != "id" or not self._timed:  # recorded images come in any order
            return None
        waiting = [(one.part, one.since, one.results.keys()) for one in self._open.values()]
        given_up = [(one.part, one.since, one.present) for one in self._closed.values()]
        for part, since, present in (*waiting, *given_up):
            lacks = any(name not in present for name in entry.results)
            if view in present and lacks and part != entry.part and abs(since - entry.since) <= self._deadline_s:
                return part
        return None


def _seen_at(result: InspectionResult, now: float) -> float:
    if result.called_at is not None:
        return result.called_at
    return now if result.frame is None else result.frame.captured_at




@dataclass(frozen=True, eq=False)
class ViewPlace:
    """What belongs to a view apart from its verdicts: see PartView."""

    name: str
    source: Source
    region: View
    reference: NDArray[np.float32] | None = None


Withhold = Callable[["InspectionResult"], "InspectionResult"]
Missing = Callable[[ViewPlace, str], "InspectionResult"]

def verdict_on(
    part: JoinedPart, places: Sequence[ViewPlace], fused: FusedViews | None, *, withhold: Withhold, missing: Missing
) -> tuple[InspectionResult, Source]:
    """Return the one verdict on a part of several views, and the camera that decided.

    The worst view decides; one that is missing (``missing`` makes its NONE) or NONE decides over all. Where all have a
    score, ``fused`` judges them together. ``withhold`` takes verdicts back that may not be given any more.
    """
    views = [
        PartView(
            place.name,
            place.source,
            withhold(part.results[place.name]) if place.name in part.results else missing(place, part.missing[place.name]),
            place.region,
            place.reference,
        )
        for place in places
    ]
    worst = max(views, key=lambda view: (RANKS.index(view.result.event.verdict), view.result.event.score or 0.0))
    event = worst.result.event
    doubt = part.doubt or _mixed(views)
    if doubt is not None and event.verdict != "NONE":
        event = replace(event, verdict="NONE", score=None, z={}, reason=doubt, pose=None, zone=None, peak=None)
    elif event.verdict != "OK":
        event = replace(event, reason=_reason(views, event.verdict))
    scores = {view.name: view.result.event.score for view in views}
    if fused is not None and event.verdict != "NONE" and all(score is not None for score in scores.values()):
        judgement = fused.judge({name: score for name, score in scores.items() if score is not None})
        zoned = [view.result.event.verdict for view in views if view.result.event.zone is not None]
        if RANKS.index(judgement.verdict) >= max(map(RANKS.index, zoned), default=0):  # a zone gives at least its verdict
            worst = next(view for view in views if view.name == judgement.most)
            reason = None if judgement.verdict == "OK" else f"{judgement.reason} (view {judgement.most} adds most)"
            peak = None if judgement.verdict == "OK" else worst.result.event.peak
            event = replace(worst.result.event, verdict=judgement.verdict, score=judgement.score, reason=reason, peak=peak)
    known = [view.result.event for view in views if view.result.frame is not None]
    latencies = [one.latency_ms for one in known if one.latency_ms is not None]
    event = replace(
        event,
        part=part.part,
        time=min((one.time for one in known), default=event.time),
        latency_ms=max(latencies, default=None),
        views=[view.result.event.as_view(view.name) for view in views],
    )
    return replace(worst.result, event=event, called_at=_called_at(views), views=tuple(views)), worst.source


def _called_at(views: Sequence[PartView]) -> float | None:
    return next((view.result.called_at for view in views if view.result.called_at is not None), None)


def _mixed(views: Sequence[PartView]) -> str | None:
    """Return why verdicts cannot be taken together: the product changed between them."""
    products = {view.result.event.product for view in views if view.result.event.verdict != "NONE"}
    if len(products) < 2:
        return None
    return f"{DISAGREE}they were judged as different products, {' and '.join(sorted(map(str, products)))}"


def _reason(views: Sequence[PartView], verdict: Verdict) -> str | None:
    """Return why a part is not OK: the reasons of all views that have its verdict, each with the view's name."""
    reasons: dict[str, list[str]] = {}
    for view in views:
        event = view.result.event
        if event.verdict == verdict and event.reason is not None:
            reasons.setdefault(event.reason, []).append(view.name)
    everywhere = len(reasons) == 1 and all(view.result.frame is not None for view in views)
    if everywhere and len(next(iter(reasons.values()))) == len(views):  # such as a pause
        return next(iter(reasons))
    return "; ".join(_named(reason, names) for reason, names in reasons.items())


def _named(reason: str, names: Sequence[str]) -> str:
    return reason if reason.startswith((MISSING, DISAGREE)) else f"{reason} (view {', '.join(names)})"
