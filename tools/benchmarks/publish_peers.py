"""Put a comparison into the documentation, or `--check` what stands there.

    python tools/benchmarks/publish_peers.py DIR/peers.json

Copies the JSON that compare_peers.py wrote to docs/peers.json, and writes its tables between the marks of its pages: a
short one in README.md, all of them in docs/experiments/peers.md. Without a docs/peers.json the texts
between the marks stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from peers.report import plot, rows, tables

from edge_ad.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path("docs/peers.json")
SHORT_PAGE = "README.md"
FULL_PAGE = "docs/experiments/peers.md"
MARKS = ("<!-- speed: tools/benchmarks/publish_peers.py writes this -->", "<!-- end of speed -->")
SHORT = ("whole", "efficientad", "torch", "onnx")


def short(found: dict[str, Any]) -> str:
    """Return the table of the README: who, AUROC, milliseconds, times anomalib in onnxruntime, memory."""
    measured = [row for row in rows(found) if row["key"][1].startswith(SHORT)]
    reference = next((row["p50"] for row in measured if row["key"] == ("anomalib-efficientad", "onnx")), None)
    lines = [
        f"| {found['data']}, 256 x 256, batch 1, {found['machine']['cores']} cores | AUROC | p50 ms | p99 ms | "
        "times as fast as anomalib's EfficientAD-S in onnxruntime | peak MB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in measured:
        auroc = "" if row["auroc"] is None else f"{row['auroc']:.3f}"
        times = "" if reference is None else f"{reference / row['p50']:.1f}"
        lines.append(
            f"| {row['name']} | {auroc} | {row['p50']:.0f} | {row['p99']:.0f} | {times} | {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def between(text: str, content: str) -> str:
    """Return ``text`` with ``content`` between its marks."""
    before, first, rest = text.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not (first and last):
        raise SystemExit(f"error: the page has no place for the table: {MARKS[0]} ... {MARKS[1]}")
    return f"{before}{first}\n{content.strip()}\n{last}{after}"


def pages(root: Path) -> dict[Path, str]:
    """Return the pages as they should be; nothing where there is no comparison."""
    if not (root / SOURCE).exists():
        return {}
    result = json.loads((root / SOURCE).read_text(encoding="utf-8"))
    texts = {SHORT_PAGE: short(result), FULL_PAGE: tables(result)}
    return {root / page: between((root / page).read_text(encoding="utf-8"), text) for page, text in texts.items()}


def main() -> int:
    """Read the command line and write, or tell which page does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="?", help="what tools/benchmarks/compare_peers.py wrote")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where a page does not agree")
    options = parser.parse_args()
    if options.json is not None and not options.check:
        result = json.loads(options.json.read_text(encoding="utf-8"))
        atomic_write(ROOT / SOURCE, json.dumps(result, indent=1) + "\n")
        plot(result, ROOT / "docs" / "images" / "peers.png")
    changed = {page: text for page, text in pages(ROOT).items() if page.read_text(encoding="utf-8") != text}
    for page, text in changed.items():
        print(page.relative_to(ROOT))
        if not options.check:
            atomic_write(page, text)
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
