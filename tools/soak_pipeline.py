"""Does the pipeline keep its memory, and what does it cost beyond its graphs? `python tools/soak_pipeline.py --json FILE`.

Memory, handles and threads must be flat over `--frames` frames (50000) of the miniature bundle once 5,000 have passed.
The pipeline's own time (everything but the runs of its graphs) is told as a share of theirs, over `--timed` frames (300):
`--bundle FILE` names the bundle, by default the miniature one, whose graphs are so short that the share means little.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from edge_ad.bundle import Bundle, open_bundle
from edge_ad.engines.pipeline import Pipeline
from tools.trial import Health, begin

ALLOWED_SHARE = 0.03
SHOWN = 16  # pictures shown in turn
WARM_UPS = 10


def soak(bundle: Bundle, frames: int) -> Health:
    """Run so many frames and watch this process."""
    from tests.fixtures.tiny_bundle import tiny_image

    health = Health()
    pictures = [tiny_image(number, blob=number % 3 == 0) for number in range(SHOWN)]
    with Pipeline(bundle, threads=1) as pipeline:
        for number in range(frames):
            pipeline.infer(pictures[number % SHOWN])
            health.sample()
    return health


def own_time(bundle: Bundle, frames: int, threads: int | None = None) -> dict[str, float]:
    """Return the medians, over frames, of a frame and of its graphs in milliseconds, and of the share between them."""
    images = bundle.golden.images
    whole, graphs = [], []
    with Pipeline(bundle, threads=threads) as pipeline:
        for turn in range(frames + WARM_UPS):
            start = perf_counter()
            stages = pipeline.infer(images[turn % len(images)]).stages_ms
            whole.append(1000.0 * (perf_counter() - start))
            graphs.append(sum(stages[name] for name in pipeline.engines))
    frame, graph = (np.array(times[WARM_UPS:]) for times in (whole, graphs))
    share = float(np.median(frame / graph - 1.0))
    return {
        "frame_ms": round(float(np.median(frame)), 3),
        "graphs_ms": round(float(np.median(graph)), 3),
        "share": round(share, 4),
    }


def main() -> int:
    """Run the trial; 1 when memory grew, or the pipeline of a named bundle takes more than 3 % of its graphs."""
    record = begin(str(__doc__), {}, frames=50_000, bundle="", timed=300)
    values = record.values
    if not record.complete:
        from tests.fixtures.tiny_bundle import make_tiny_bundle

        with tempfile.TemporaryDirectory() as folder:
            tiny = open_bundle(make_tiny_bundle(Path(folder) / "tiny.edgead"))
            health = soak(tiny, values["frames"])
            named = open_bundle(values["bundle"]) if values["bundle"] else tiny
            own = own_time(named, values["timed"])
        record.finish({**health.figures(), "problems": health.problems(), "own_time": own})
    summary = values["summary"]
    slow = bool(values["bundle"]) and summary["own_time"]["share"] > ALLOWED_SHARE
    return int(bool(summary["problems"]) or slow)


if __name__ == "__main__":
    sys.exit(main())
