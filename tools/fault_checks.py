"""What a trial with random faults must show: every fault told in time, nothing bad let through, nothing lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_ad.bundle import Bundle
from edge_ad.camera.fault_plan import Episode
from edge_ad.camera.synthetic import SyntheticLine
from edge_ad.data.images import resize
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.counters import Counters

ALLOWED_S = 1.0
"""Within so many seconds, or two frame times if they are longer, a fault must be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of an event: little, because memory is measured here."""

    frame: int | None
    part: str | None
    time: float
    verdict: str
    reason: str
    score: float | None


def check_account(counters: Counters) -> list[str]:
    """captured = judged + dropped + faulted."""
    total = counters.judged + counters.dropped + counters.faulted + counters.idle
    return [] if counters.captured == total else [f"captured {counters.captured}, but {total} are accounted for"]


def check_told(
    episodes: Sequence[Episode], seen: Sequence[tuple[float, Seen]], at: Sequence[float] | np.ndarray, fps: float
) -> tuple[dict[str, float], list[str]]:
    """Every fault is NONE with a right reason within 1 s or two frame times; returns the worst delay by kind.

    ``at`` is the wall-clock second at which each frame left the source.
    """
    allowed = max(ALLOWED_S, 2.0 / fps)
    nones = [(told, event) for told, event in seen if event.verdict == "NONE"]
    worst: dict[str, float] = {}
    problems = []
    for one in episodes:
        due = at[one.first]
        delays = [
            told - due
            for told, event in nones
            if event.reason in one.reasons and told >= due and _touches(event, one, told, at)
        ]
        delay = float(min(delays, default=float("inf")))
        worst[one.fault] = max(worst.get(one.fault, 0.0), delay)
        if delay > allowed:
            problems.append(f"{one.fault} at frames {one.first} to {one.last} was told after {delay:.2f} s")
    return worst, problems


def check_faulty_frames(
    episodes: Sequence[Episode], seen: Sequence[tuple[float, Seen]], paced: bool = False
) -> list[str]:
    """No frame that a fault spoilt is judged.

    A frame that came late may be judged where it was not too late; and where frames may be dropped, a frozen picture is
    news to a loop that has not seen it before, so its verdict is that of a picture that was really there.
    """
    excused = ("slow", "freeze") if paced else ("slow",)
    spoilt = {f: one for one in episodes if one.fault not in excused for f in range(one.first, one.last + 1)}
    return [
        f"frame {event.frame} was judged {event.verdict} during {spoilt[event.frame].fault}"
        for _, event in seen
        if event.frame in spoilt and event.verdict != "NONE" and event.part is not None
    ]


def compare_ok(
    bundle: Bundle,
    pipeline: Pipeline,
    line: SyntheticLine,
    seen: Sequence[tuple[float, Seen]],
    episodes: Sequence[Episode],
) -> tuple[int, list[str]]:
    """Every anomalous tray that was called OK is called OK without any fault too, with the same score."""
    frozen = {frame for one in episodes if one.fault == "freeze" for frame in range(one.first, one.last + 1)}
    problems, compared = [], 0
    for _, event in seen:
        if event.verdict != "OK" or event.frame is None or event.frame in frozen or line.defect(event.frame) == "good":
            continue
        compared += 1
        image, _ = line._tray(event.frame)
        score = pipeline.infer(resize(image, bundle.image_size)).score
        if abs(score - (event.score or 0.0)) > 1e-3 * max(1.0, abs(score)) or score > bundle.thresholds.warn:
            problems.append(f"anomalous frame {event.frame} was OK at {event.score}, without faults it has {score:.4f}")
    return compared, problems


def _touches(event: Seen, one: Episode, told: float, at: Sequence[float] | np.ndarray) -> bool:
    """Whether a NONE can be about this fault: its frame lies in it, or it was told before the next frame was judged."""
    if event.frame is not None:
        return one.first <= event.frame <= one.last + 1
    after = at[min(one.last + 2, len(at) - 1)]
    return told <= after + 0.5


def unexplained(event: Seen, episodes: Sequence[Episode]) -> bool:
    """Whether the frame of an event lies outside every fault."""
    return event.frame is not None and not any(one.first <= event.frame <= one.last + 1 for one in episodes)
