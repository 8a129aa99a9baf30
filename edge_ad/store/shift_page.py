"""The report of a shift as a page that holds everything in itself, and as CSV."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_ad.events import VERDICTS
from edge_ad.store.actions import Action
from edge_ad.store.export import is_formula
from edge_ad.store.shift_report import CELLS, MAX_ROWS, ShiftReport, Tally

SHOWN_PLACES = 5


@dataclass(frozen=True)
class ReferenceImage:
    """What a map of places is laid over: a JPEG, its width and height."""

    jpeg: bytes
    width: int
    height: int


_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--text:#15232a;--quiet:#51626b;--line:#c5cfd5;--ng:#b53300;--card:#f4f6f7}
@media(prefers-color-scheme:dark){:root{--ground:#10171b;--text:#e6edf0;--quiet:#a3b4bd;--line:#3b4a54;--ng:#ff8552;--card:#19232a}}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--ground);color:var(--text);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.5rem 0 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:0 0 .5rem}p{margin:.25rem 0}.quiet{color:var(--quiet);font-size:.875rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1rem 0;padding:0;list-style:none}
.figures li{background:var(--card);border-radius:8px;padding:.6rem .8rem}
.figures b{display:block;font-size:1.5rem;line-height:1.2;font-weight:650;white-space:nowrap}
.scroll{overflow-x:auto}table{border-collapse:collapse;min-width:min(100%,20rem)}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}thead th{color:var(--quiet);font-size:.875rem}
.number{text-align:right;white-space:nowrap}th.time{white-space:nowrap;font-weight:400}
.why{min-width:14rem}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,16rem),1fr));gap:1.25rem}
.maps figure{margin:0}
.maps svg{display:block;width:100%;max-width:26rem;height:auto;border:1px solid var(--line);background:#808a90}
figcaption{margin-top:.4rem}.bad{color:var(--ng);font-weight:600}
@media print{body{max-width:none}h2{break-after:avoid}tr,figure{break-inside:avoid}}
"""

Row = tuple[str, ...]


def page_of(report: ShiftReport, images: Mapping[str, ReferenceImage]) -> str:
    """Return the report as HTML; ``images`` by product, "" where the station has none."""
    period = html.escape(str(report.period))
    sections = "".join(
        (
            _figures(report),
            _section("Products", _products(report)) if set(report.products) - {""} else "",
            _section("Where NG", _maps(report, images)),
            _section("Why NG", _table("NG by branch", ("Branch", "NG", "Share"), _branches(report.total), numbers=(1, 2))),
            _section("Downtime", _downtime(report)),
            _section("Alarms", _alarms(report)),
            _section("Changes of thresholds, products and settings", _actions(report, "changes", report.changes)),
            _section("Challenges", _actions(report, "challenges", report.challenges)),
            _section("Everything else that was done", _actions(report, "others", report.others)),
        )
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Shift {period}</title><style>{_STYLE}</style></head>\n<body><main>\n<h1>Shift report</h1>\n<p>{period}</p>\n"
        f"{sections}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>\n"


def _figures(report: ShiftReport) -> str:
    total = report.total
    figures = (
        (f"{total.judged():,}", "parts with a verdict"),
        (_percent(total.share(report.warn_rejects)), "yield"),
        (f"{total.verdicts['NG']:,}", "NG"),
        (f"{total.verdicts['WARN']:,}", "WARN, rejected" if report.warn_rejects else "WARN, passed"),
        (f"{total.verdicts['NONE']:,}", "without a verdict, rejected"),
        (f"{total.false_rejects:,}", f"false rejects, of {total.marked:,} marked"),
        (f"{total.misses:,}", "passed and marked bad"),
        (_span(sum(one.seconds for one in report.downtime.values())), "downtime"),
        (f"{len(report.alarms) + report.more['alarms']:,}", "alarms"),
    )
    items = "".join(f"<li><b>{html.escape(value)}</b>{html.escape(name)}</li>" for value, name in figures)
    return f'<ul class="figures">{items}</ul>\n'


def _products(report: ShiftReport) -> str:
    heads = ("Product", "Parts", "Yield", *VERDICTS, "False rejects", "Marked")
    rows = [(_name(name), *_counts(report, tally)) for name, tally in sorted(report.products.items())]
    return _table("By product", heads, rows, numbers=range(1, len(heads)))


def _counts(report: ShiftReport, tally: Tally) -> Row:
    verdicts = (f"{tally.verdicts[name]:,}" for name in VERDICTS)
    share = _percent(tally.share(report.warn_rejects))
    return (f"{tally.judged():,}", share, *verdicts, f"{tally.false_rejects:,}", f"{tally.marked:,}")


def _branches(tally: Tally) -> list[Row]:
    count = sum(tally.branches.values())
    return [(name, f"{number:,}", _percent(number / count)) for name, number in tally.branches.most_common()]


def _downtime(report: ShiftReport) -> str:
    ordered = sorted(report.downtime.items(), key=lambda item: -item[1].seconds)
    rows = [(cause, _span(one.seconds), f"{one.stops:,}") for cause, one in ordered]
    note = "A fault lasts from its first NONE to the next verdict of that camera; several cameras add up."
    hint = f'<p class="quiet">{note}</p>' if rows else ""
    return _table("Downtime by cause", ("Cause", "Time", "Stops"), rows, numbers=(1, 2)) + hint


def _alarms(report: ShiftReport) -> str:
    rows = [(_time(report, one.time), str(one.number), one.camera) for one in report.alarms]
    return _table("Alarms", ("Raised", "Number", "Camera"), rows, numbers=(1,), times=True) + _left_out(report, "alarms")


def _actions(report: ShiftReport, name: str, actions: Sequence[Action]) -> str:
    rows = [(_time(report, one.time), one.kind, one.by, one.reason) for one in actions]
    return _table(name.capitalize(), ("When", "What", "By", "Why"), rows, times=True) + _left_out(report, name)


def _left_out(report: ShiftReport, name: str) -> str:
    more = report.more[name]
    return f'<p class="quiet">{more:,} more are left out here; `edge-ad events` has them.</p>' if more else ""


def _table(caption: str, heads: Row, rows: Sequence[Row], *, numbers: Iterable[int] = (), times: bool = False) -> str:
    """Return a table whose first column names the row; "None." for one without rows."""
    if not rows:
        return '<p class="quiet">None.</p>'
    right = set(numbers)

    def kind(column: int) -> str:
        names = ["number"] * (column in right) + ["time"] * (times and column == 0) + ["why"] * (heads[column] == "Why")
        return f' class="{names[0]}"' if names else ""

    head = "".join(f'<th scope="col"{kind(column)}>{html.escape(name)}</th>' for column, name in enumerate(heads))
    body = "".join(f"<tr>{''.join(_cells(row, kind))}</tr>" for row in rows)
    label = html.escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _cells(row: Row, kind: Callable[[int], str]) -> Iterator[str]:
    yield f'<th scope="row"{kind(0)}>{html.escape(row[0])}</th>'
    for column, text in enumerate(row[1:], 1):
        yield f"<td{kind(column)}>{html.escape(text)}</td>"


def _maps(report: ShiftReport, images: Mapping[str, ReferenceImage]) -> str:
    """Return a map of places for each product with any."""
    located = [(name, tally) for name, tally in sorted(report.products.items()) if tally.places]
    if not located:
        return '<p class="quiet">None, or of events from before places were recorded.</p>'
    figures = "".join(_map(name, tally, images.get(name)) for name, tally in located)
    return f'<div class="maps">{figures}</div>\n'


def _map(name: str, tally: Tally, image: ReferenceImage | None) -> str:
    width, height = (image.width, image.height) if image is not None else (CELLS * 10, CELLS * 10)
    count, highest = sum(tally.places.values()), max(tally.places.values())
    data = "" if image is None else base64.b64encode(image.jpeg).decode()
    shown = f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>' if data else ""
    wide, tall = width / CELLS, height / CELLS
    cells = "".join(
        f'<rect x="{x * wide:.1f}" y="{y * tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="#ff3d00" '
        f'stroke="#fff" stroke-width="{min(width, height) / 400:.2f}" fill-opacity="{0.25 + 0.6 * number / highest:.2f}"/>'
        for (x, y), number in sorted(tally.places.items())
    )
    named = f" of {name}" if name else ""
    places = "; ".join(
        f"{number} at {100 * (x + 0.5) / CELLS:.0f} % across, {100 * (y + 0.5) / CELLS:.0f} % down"
        for (x, y), number in tally.places.most_common(SHOWN_PLACES)
    )
    over = "over a normal image of the bundle" if data else "of the image as judged, no image of it is at hand"
    return (
        f'<figure><h3>{html.escape(_name(name))}</h3><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(f"Places of {count} NG{named}: {places}", quote=True)}">{shown}{cells}</svg>'
        f"<figcaption>{count:,} NG, {over}. Most: {html.escape(places)}.</figcaption></figure>"
    )


def csv_of(report: ShiftReport) -> str:
    """Return the report as CSV: one figure a row, with its section, its product (all of them: empty) and its name."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("section", "product", "name", "value", "by", "time"))
    for row in _rows(report):
        writer.writerow([f"'{text}" if isinstance(text, str) and is_formula(text) else text for text in row])
    return stream.getvalue()


def _rows(report: ShiftReport) -> Iterator[tuple[object, ...]]:
    period = report.period
    for name, moment in (("from", period.start), ("to", period.end)):
        yield ("period", "", name, period.local(moment).isoformat(timespec="seconds"), "", "")
    for product, tally in (("", report.total), *sorted(item for item in report.products.items() if item[0])):
        share = tally.share(report.warn_rejects)
        yield ("parts", product, "judged", tally.judged(), "", "")
        yield ("parts", product, "yield", "" if share is None else round(share, 6), "", "")
        for verdict in VERDICTS:
            yield ("parts", product, verdict, tally.verdicts[verdict], "", "")
        for name in ("marked", "false_rejects", "misses"):
            yield ("marks", product, name, getattr(tally, name), "", "")
        for branch, count in tally.branches.most_common():
            yield ("ng_by_branch", product, branch, count, "", "")
        for (x, y), count in tally.places.most_common(MAX_ROWS):
            yield ("ng_by_place", product, f"{(x + 0.5) / CELLS:.3f} {(y + 0.5) / CELLS:.3f}", count, "", "")
    for cause, one in report.downtime.items():
        yield ("downtime_s", "", cause, round(one.seconds, 1), "", "")
        yield ("stops", "", cause, one.stops, "", "")
    yield ("alarms", "", "count", len(report.alarms) + report.more["alarms"], "", "")
    for section, actions in (("changes", report.changes), ("challenges", report.challenges), ("others", report.others)):
        for action in actions:
            yield (section, "", action.kind, action.reason, action.by, period.local(action.time).isoformat(timespec="seconds"))


def _name(product: str) -> str:
    return product or "All parts"


def _time(report: ShiftReport, moment: float) -> str:
    return f"{report.period.local(moment):%m-%d %H:%M:%S}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
