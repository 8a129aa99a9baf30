"""Measure what the loop costs beyond the engines: `python tools/loop_overhead.py [BUNDLE] [--frames N] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from edge_ad.bundle import open_bundle
from edge_ad.engines.pipeline import Pipeline
from edge_ad.inspection.overhead import measure_overhead


def main() -> None:
    """Print both numbers of one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="default: the miniature bundle of the tests")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.bundle
        if path is None:
            from tests.fixtures.tiny_bundle import make_tiny_bundle

            path = make_tiny_bundle(Path(folder) / "tiny.edgead")
        bundle = open_bundle(path)
        with Pipeline(bundle, precision=arguments.precision) as pipeline:
            found = measure_overhead(bundle, pipeline, arguments.frames)
    if found is None:
        raise SystemExit("no frame was judged: the machine is too busy; try again with less beside it")
    record = {"bundle": bundle.name, "precision": arguments.precision, **found.to_json()}
    print(json.dumps(record, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
