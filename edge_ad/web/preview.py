"""What other thresholds would have made of recent events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.scoring import Thresholds

BINS = 48
NOTHING = "No part with a score in this time."


@dataclass(frozen=True, slots=True)
class Scored:
    """What a preview needs of an event; one without a score is NONE and stays NONE whatever the thresholds."""

    time: float
    score: float | None
    verdict: str
    mark: str | None


@dataclass(frozen=True)
class Recent:
    """Recent events, newest first, over ``hours``; ``limited`` when there were more than these."""

    events: tuple[Scored, ...]
    hours: float
    limited: bool


def preview(recent: Recent, warn: float, ng: float, warn_rejects: bool) -> dict[str, Any]:
    """Return the counts that ``warn`` and ``ng`` give; see schemas.Preview. BadInput for thresholds that contradict."""
    thresholds = Thresholds(warn, ng)
    judged = [event for event in recent.events if event.verdict != "NONE" and event.score is not None]
    made = [(event, thresholds.verdict(event.score or 0.0)) for event in judged]
    rejecting = ("WARN", "NG") if warn_rejects else ("NG",)
    rejects = [event for event, verdict in made if verdict in rejecting]
    rejected_good = sum(event.mark == "good" for event in rejects)
    passed_bad = sum(event.mark == "bad" for event, verdict in made if verdict not in rejecting)
    rate = len(rejects) / recent.hours if recent.hours > 0 else 0.0
    scores = [event.score for event in judged if event.score is not None]
    low, high, histogram = _histogram(scores, warn, ng)
    return {
        "judged": len(judged),
        "faults": len(recent.events) - len(judged),
        "hours": round(recent.hours, 3),
        "counts": _counts(verdict for _, verdict in made),
        "rejects": len(rejects),
        "rejects_an_hour": round(rate, 2),
        "rejected_marked_good": rejected_good,
        "passed_marked_bad": passed_bad,
        "before": _counts(event.verdict for event in judged),
        "limited": recent.limited,
        "told": tell(len(rejects), recent.hours, rejected_good, passed_bad) if judged else NOTHING,
        "low": low,
        "high": high,
        "histogram": histogram,
    }


def tell(rejects: int, hours: float, rejected_good: int, passed_bad: int) -> str:
    """Return the preview as a sentence: a rate where an hour or more was seen, else the bare count."""
    if hours >= 1.0:
        number, span = _short(rejects / hours), "an hour"
    else:
        minutes = max(1, round(hours * 60))
        number, span = str(rejects), "in a minute" if minutes == 1 else f"in {minutes} minutes"
    told = f"At this threshold: {number} {'reject' if number == '1' else 'rejects'} {span}"
    if rejected_good:
        told += f", {rejected_good} {'was' if rejected_good == 1 else 'were'} marked good"
    if passed_bad:
        told += f"; {passed_bad} marked bad would pass"
    return f"{told}."


def recent_of(events: Iterable[Scored], limit: int, now: float, hours: float) -> Recent:
    """Return the newest ``limit`` events and the time they cover: from the oldest of them to ``now``."""
    kept: list[Scored] = []
    limited = False
    for event in events:
        if len(kept) == limit:
            limited = True
            break
        kept.append(event)
    covered = (now - min(event.time for event in kept)) / 3600.0 if kept else 0.0
    return Recent(tuple(kept), min(max(covered, 1.0 / 3600.0), hours) if kept else 0.0, limited)


def check_order(warn: float, ng: float) -> None:
    """Raise BadInput when WARN lies above NG."""
    if warn > ng:
        raise BadInput(f"WARN is {warn:g} and NG {ng:g}: WARN must not lie above NG")


def _counts(verdicts: Iterable[str]) -> dict[str, int]:
    counts = {"OK": 0, "WARN": 0, "NG": 0}
    for verdict in verdicts:
        if verdict in counts:
            counts[verdict] += 1
    return counts


def _histogram(scores: list[float], warn: float, ng: float) -> tuple[float, float, list[int]]:
    """Count scores in BINS equal steps that cover them and both thresholds; the far tail falls into the last one."""
    ordered = sorted(scores)
    ends = [warn, ng]
    if ordered:
        ends += [ordered[0], ordered[min(int(0.995 * len(ordered)), len(ordered) - 1)]]
    low, high = min(ends), max(ends)
    pad = max((high - low) * 0.06, 1e-6)
    low, high = low - pad, high + pad
    counts = [0] * BINS
    for score in ordered:
        counts[min(max(int((score - low) / (high - low) * BINS), 0), BINS - 1)] += 1
    return low, high, counts


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or abs(rate - round(rate)) < 0.05 else f"{rate:.1f}"
