"""The report of champion and challenger: one HTML page that carries its images in itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import cv2
import numpy as np

from edge_ad.camera.frames import Image
from edge_ad.data.images import read_image, resize
from edge_ad.inspection.improvement import Comparison, JudgedPart, RecordedPart, judge_image
from edge_ad.inspection.products import Product
from edge_ad.inspection.recorder import HeatScale, heat_of, overlay
from edge_ad.utils.files import atomic_write

VERDICTS = ("OK", "WARN", "NG", "NONE")
MAX_SHOWN = 60
SIDE = 320
QUALITY = 85
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #888; padding: .3rem .7rem; text-align: right; }
th { text-align: left; }
thead th { overflow-wrap: normal; }
@media (max-width: 30rem) { th, td { padding: .3rem .35rem; } }
ul.parts { list-style: none; padding: 0; display: grid; gap: 1.5rem; }
ul.parts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
ul.parts img { width: 49%; }
"""


def write_report(
    path: Path, comparison: Comparison, doubtful: Sequence[tuple[RecordedPart, JudgedPart]], *, limit: float,
    champion: Product, challenger: Product | None,
) -> None:  # fmt: skip
    """Write the page: counts, promises, held back parts and changed verdicts, each with its image and the heat map of a bundle."""
    new = "none was made" if challenger is None else challenger.bundle.path.name
    body = [
        "<h1>Champion and challenger</h1>",
        f"<p>Champion: <code>{escape(champion.bundle.path.name)}</code> {champion.bundle.sha256[:12]}; "
        f"challenger: <code>{escape(new)}</code>{'' if challenger is None else ' ' + challenger.bundle.sha256[:12]}</p>",
        *_held_back(doubtful, limit, champion),
    ]
    if challenger is not None:
        body += [*_counts(comparison), *_changed(comparison, challenger)]
    page = "\n".join(body)
    atomic_write(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Champion and challenger</title><style>{_STYLE}</style></head><body><main>\n{page}\n</main></body></html>\n",
    )


def summary(comparison: Comparison) -> Iterator[str]:
    """Yield the figures as text."""
    for what, counted, marked in (
        ("false rejects", comparison.false_rejects(), "good"),
        ("misses", comparison.misses(), "bad"),
    ):
        before, after, of = counted
        yield f"{what}: champion {before}, challenger {after} of {of} parts marked {marked}"
    parts = len(comparison.parts)
    rejected = [sum(not comparison.passes(one) for one in side) for side in (comparison.champion, comparison.challenger)]
    learned = f"{sum(part.event.id in comparison.learned for part in comparison.parts)} of them learned"
    yield f"replayed {parts} parts ({learned}): champion rejects {rejected[0]}, challenger {rejected[1]}"
    yield f"{len(comparison.changed)} verdicts change"
    yield from (f"promise of the {name}: {text}" for name, text in comparison.promises.items())


def _counts(comparison: Comparison) -> Iterator[str]:
    yield "<h2>Verdicts</h2><table><thead><tr><th scope='col'>champion \\ challenger</th>"
    yield "".join(f"<th scope='col'>{name}</th>" for name in VERDICTS) + "</tr></thead><tbody>"
    for before in VERDICTS:
        cells = "".join(f"<td>{comparison.table[before, after]}</td>" for after in VERDICTS)
        yield f"<tr><th scope='row'>{before}</th>{cells}</tr>"
    yield "</tbody></table>"
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in summary(comparison)) + "</ul>"


def _held_back(doubtful: Sequence[tuple[RecordedPart, JudgedPart]], limit: float, champion: Product) -> Iterator[str]:
    if not doubtful:
        return
    yield f"<h2>Marked good, and NG beyond {limit:.2f}</h2>"
    yield "<p>Look at each: a defect learned as good is never found again. Accept good ones by <code>--accept ID</code>.</p>"
    yield "<ul class='parts'>"
    for part, judged in doubtful[:MAX_SHOWN]:
        score = "no score" if judged.score is None else f"score {judged.score:.2f}"
        yield f"<li>{_images(part, champion)}<br>{_about(part)}: {score}; {escape(judged.reason or '')}</li>"
    yield "</ul>"


def _changed(comparison: Comparison, challenger: Product) -> Iterator[str]:
    changed = comparison.changed
    yield f"<h2>{len(changed)} verdicts change</h2>"
    if len(changed) > MAX_SHOWN:
        yield f"<p>The first {MAX_SHOWN} are shown, those that pass now first.</p>"
    yield "<ul class='parts'>"
    for part, before, after in changed[:MAX_SHOWN]:
        learned = ", learned" if part.event.id in comparison.learned else ""
        yield f"<li>{_images(part, challenger)}<br>{_about(part)}{learned}: {_told(before)} before, {_told(after)} now</li>"
    yield "</ul>"


def _about(part: RecordedPart) -> str:
    event = part.event
    moment = datetime.fromtimestamp(event.time).isoformat(" ", "seconds")
    name = f" ({event.mark_name})" if event.mark_name else ""
    mark = f", marked {event.mark}{name}" if event.mark else ""
    return escape(f"{event.id[:8]}, {moment}, {event.camera}{mark}")


def _told(judged: JudgedPart) -> str:
    return judged.verdict if judged.score is None else f"{judged.verdict} {judged.score:.2f}"


def _images(part: RecordedPart, product: Product) -> str:
    """Return the image of a part and the same with the heat map of a bundle, as HTML."""
    result = judge_image(product, part.path)
    image = _small(read_image(part.path, product.bundle.image_bits))
    heat = heat_of([result], HeatScale(product.reference))
    shown = [("part", image)] + ([] if heat is None else [("heat map", overlay(image, heat))])
    return " ".join(f'<img alt="{what} {part.event.id[:8]}" src="data:image/jpeg;base64,{_jpeg(one)}">' for what, one in shown)


def _small(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    return image if factor == 1.0 else resize(image, (max(1, round(height * factor)), max(1, round(width * factor))))


def _jpeg(image: Image) -> str:
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return base64.b64encode(data.tobytes()).decode()
