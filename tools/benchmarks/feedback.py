"""Do 30 marks bring the false rejects of a new lot back under the promise? `python tools/benchmarks/feedback.py BUNDLE`

A station judges trays of the synthetic line; in the middle the lot changes (tint and brightness). A person marks 30 of the good
parts that were rejected since; `edge-ad improve --apply` learns them and replaces the bundle. Other trays of the new lot, and
defects in it, are judged before and after, and the same trays in the old light by the old bundle: what it finds there is what the
new one has to find, since in the new light it rejects good parts too. Then each defect is marked good by mistake, one at a time:
it must be held back. All of it goes through the commands of docs/howto/feedback.md; BUNDLE is one that was trained on the line,
for example

    edge-ad demo --data-only line
    edge-ad train line/kit_tray --preset demo --out runs/line
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.bundle import open_bundle
from edge_ad.cli.app import main as edge_ad
from edge_ad.config import Config
from edge_ad.errors import BadInput, EdgeAdError
from edge_ad.inspection.improvement import judge_image, judged_by
from edge_ad.store.next_run import BundlePointer, pointer_path
from edge_ad.store.reader import EventFilter, Reader
from edge_ad.store.schema import StoredEvent
from edge_ad.synthetic.line import DEFECTS, render_tray

SETTINGS = '[run]\nstore = "line.sqlite"\nmax_age_ms = 60000\n[record]\nlossless_ok_every = 1\nfree_gb = 0\n'
STORE = Path("line.sqlite")
FIRST = 40_000_000  # seed of the first tray: none of a training or a test set
Image = NDArray[np.uint8]


def main() -> int:
    """Read the command line and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--parts", type=int, default=80, help="good parts of each lot that the station judges")
    parser.add_argument("--marks", type=int, default=30, help="false rejects that are marked good")
    parser.add_argument("--test", type=int, default=100, help="other good parts of the new lot, and as many defects")
    parser.add_argument("--tint", type=float, default=0.06, help="by how much the new lot is redder and less blue")
    parser.add_argument("--light", type=float, default=1.04, help="how bright the new lot is")
    parser.add_argument("--seed", type=int, default=0, help="of the trays")
    parser.add_argument("--poisoned", type=int, default=10, help="defects that are marked good by mistake, a minute each")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    out = options.json.resolve() if options.json else None
    try:
        figures = measure(options)
    except EdgeAdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if out:
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one line."""
    bundle = options.bundle.resolve()
    size = max(open_bundle(bundle).image_size)
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        shutil.copy(bundle, "part.edgead")
        Path("edge-ad.toml").write_text(SETTINGS)
        _draw(options, size)
        _command("run", "part.edgead", "--camera", "parts")
        events = _events()
        goods = sorted(name for name in events if name.startswith("new-good"))
        rejected = [name for name in goods if events[name].verdict not in ("OK", "WARN")]
        if len(rejected) < options.marks:
            raise BadInput(f"{len(rejected)} good parts of the new lot are rejected: raise --tint, --light or --parts")
        for name in rejected[: options.marks]:
            _command("events", "mark", events[name].id, "good")
        usual, before = _judged(Path("part.edgead"), "usual"), _judged(Path("part.edgead"))
        message = _command("improve", "part.edgead", "--apply", "--margin", "1000")
        used = BundlePointer(pointer_path(STORE)).resolve("", Path("part.edgead"))
        after, promised = _judged(used), open_bundle(used).thresholds.supported_ng
        _command("improve", "--rollback", "part.edgead")
        figures = {
            "parts": options.parts, "marks": options.marks, "tint": options.tint, "light": options.light, "promised": promised,
            "rejected_on_the_line": len(rejected), "usual": usual, "before": before, "after": after,
            "improve": message.splitlines(),
        }  # fmt: skip
        print("\n".join(lines(figures)), flush=True)
        poisoned = _poisoned(events, options.poisoned)
        print(f"marked good by mistake: {poisoned['defects']} defects, {poisoned['held_back']} of them held back")
        print(f"good parts that are asked for at the usual margin: {poisoned['asked_for']} of {options.marks}")
        return figures | {"poisoned": poisoned}


def lot(image: Image, tint: float, light: float) -> Image:
    """Return an image as the new lot looks."""
    gains = light * np.array([1.0 + tint, 1.0, 1.0 - tint], np.float32)
    return np.rint(image * gains).clip(0, 255).astype(np.uint8)


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the figures as text."""
    parts, promised = figures["parts"], figures["promised"]
    rejected = figures["rejected_on_the_line"]
    yield f"on the line {rejected} of {parts} good parts of the new lot are rejected; {figures['marks']} are marked"
    for name in ("usual", "before", "after"):
        one = figures[name]
        rejected, missed = f"{one['rejected']} of {one['good']}", f"{one['found']} of {one['defects']}"
        yield f"{name:>6}: {rejected} other good parts rejected ({one['rejected'] / one['good']:.1%}), {missed} defects found"
    yield f"promised by the new bundle: {promised:.1%}"


def _draw(options: argparse.Namespace, size: int) -> None:
    """Write the parts that the station sees, and those that it is tried on."""
    number = FIRST + 1_000_000 * options.seed
    for folder, kind, count in (
        ("parts", "old-good", options.parts), ("parts", "new-good", options.parts), ("parts", "new-bad", len(DEFECTS)),
        ("test", "good", options.test), ("test", "bad", options.test),
    ):  # fmt: skip
        for made in (folder, "usual"):
            Path(made).mkdir(exist_ok=True)
        for index in range(count):
            number += 1
            image = render_tray(number, DEFECTS[index % len(DEFECTS)] if kind.endswith("bad") else None, size).image
            shown = image if kind.startswith("old") else lot(image, options.tint, options.light)
            name = f"{'0' if kind.startswith('old') else '1'}{kind}" if folder == "parts" else kind
            assert cv2.imwrite(f"{folder}/{name}-{index:04}.png", shown[:, :, ::-1])
            assert folder == "parts" or cv2.imwrite(f"usual/{name}-{index:04}.png", image[:, :, ::-1])


def _judged(bundle: Path, folder: str = "test") -> dict[str, int]:
    """Return how many of the good parts and the defects in a folder a bundle rejects."""
    result: dict[str, int] = {}
    with judged_by(Config(), "", bundle) as product:
        for kind, count, rejected in (("good", "good", "rejected"), ("bad", "defects", "found")):
            paths = sorted(Path(folder).glob(f"{kind}-*.png"))
            events = [judge_image(product, path).event for path in paths]
            result[count] = len(paths)
            result[rejected] = sum(one.verdict not in ("OK", "WARN") for one in events)
    return result


def _poisoned(events: dict[str, StoredEvent], most: int) -> dict[str, int]:
    """Mark defects that were seen good by mistake, one after the other, and count what is held back at the usual margin."""
    defects = [one for name, one in events.items() if name.startswith("new-bad") and one.verdict == "NG"][:most]
    held, asked = 0, _command("improve", "part.edgead", "--last", "0", "--goods", "parts", allowed=(0, 4)).count("held back: ")
    for event in defects:
        _command("events", "mark", event.id, "good")
        message = _command("improve", "part.edgead", "--last", "0", "--yes", "--goods", "parts", allowed=(0, 4))
        held += bool(re.search(f"held back: {event.id[:8]}", message))
        _command("events", "mark", event.id, "bad", "--name", "defect")
    return {"defects": len(defects), "held_back": held, "asked_for": asked}


def _events() -> dict[str, StoredEvent]:
    """Return the events of the record by the names of their parts, without the digit that sorts them."""
    with Reader(STORE) as reader:
        return {Path(str(event.part)).stem[1:]: event for event in reader.every(EventFilter())}


def _command(*words: str, allowed: tuple[int, ...] = (0,)) -> str:
    """Run a command of edge-ad and return what it prints; BadInput where it ends with another code than those."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = edge_ad(list(words))
    if (code or 0) not in allowed:
        raise BadInput(f"edge-ad {' '.join(words)} ended with {code}: {out.getvalue()}")
    return out.getvalue()


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    raise SystemExit(main())
