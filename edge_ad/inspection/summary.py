"""What a run came to."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_ad.events import VERDICTS
from edge_ad.inspection.counters import Counters, Latencies
from edge_ad.inspection.loop import Loop
from edge_ad.outputs.states import ChannelState
from edge_ad.utils.text import storable


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counters of all cameras together and by name, latency in milliseconds (None without a verdict), and the engine.

    ``fps`` counts judged frames over the whole run; ``peak_rss_mb`` is the most memory this process ever held;
    ``interrupted`` tells a Ctrl-C; ``warnings`` of drift, in order; ``faults`` of the threads of the run;
    ``none_reasons`` counts verdicts NONE by the word that their reason begins with. ``outputs`` is how each output was
    at the end.
    """

    total: Counters
    cameras: dict[str, Counters]
    latency_ms: dict[str, float | None]
    seconds: float
    fps: float
    backend: str
    precision: str
    peak_rss_mb: float
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    none_reasons: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[ChannelState, ...] = ()

    def table(self) -> str:
        """Return the summary as text, one row a camera and one for all where there are several."""
        rows = [("camera", *VERDICTS, "captured", "dropped", "faults", "lost")]
        rows += [_row(name, counters) for name, counters in self.cameras.items()]
        if len(self.cameras) > 1:
            rows.append(_row("all", self.total))
        reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(self.none_reasons).most_common())
        figures = ", ".join(f"{name} {value:.1f}" for name, value in self.latency_ms.items() if value is not None)
        return "\n".join(
            [
                *_align(rows),
                f"{self.fps:.1f} frames/s over {self.seconds:.1f} s; latency ms: {figures or 'none'}",
                f"{self.backend} {self.precision}; peak memory {self.peak_rss_mb:.0f} MB",
                *([f"NONE because of: {reasons}"] if reasons else []),
                *(_faults(state) for state in self.outputs if state.faults),
                *(f"warning: {warning}" for warning in self.warnings),
            ]
        )


def summarise(
    loop: Loop, backend: str, precision: str, *, interrupted: bool, warnings: Sequence[str] = ()
) -> Summary:
    """Sum up a loop that has ended."""
    cameras = {worker.name: worker.account() for worker in loop.workers}
    total = sum(cameras.values(), Counters())
    seconds = loop.elapsed_s
    return Summary(
        total=total,
        cameras=cameras,
        latency_ms=_latency(loop.latencies),
        seconds=seconds,
        fps=total.judged / seconds if seconds > 0 else 0.0,
        backend=backend,
        precision=precision,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
        interrupted=interrupted,
        warnings=tuple(warnings),
        none_reasons=dict(loop.none_reasons),
    )


def _faults(state: ChannelState) -> str:
    count = f"output {state.name}: {state.faults} fault{'s' * (state.faults > 1)}"
    return storable(
        f"{count}, {'works again' if state.fault is None else f'does not work at the end: {state.fault}'}", 700
    )


def _latency(latencies: Latencies) -> dict[str, float | None]:
    figures: dict[str, float | None] = {f"p{percent}": latencies.percentile(percent) for percent in (50, 90, 99)}
    return {**figures, "max": latencies.max if latencies.count else None}


def _row(name: str, counters: Counters) -> tuple[str, ...]:
    label = name if len(name) <= 48 else f"...{name[-45:]}"
    numbers = [*(counters.verdicts[verdict] for verdict in VERDICTS), counters.captured, counters.dropped]
    return (label, *(str(number) for number in [*numbers, counters.faulted + counters.outages, counters.lost]))


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
