"""The dashboard for half an hour: does the memory of run, server or browser grow, and does the loop feel an open page?

`python tools/soak/web.py --json FILE [--resume] [--minutes 30] [--bundle FILE]`. A real line, a real Chromium that goes round the
views. Memory is the median of the last quarter against that of the second one (the first is warming up). Then a page as on
another computer is opened and closed in turn, and the latencies of the record are compared. 1 when memory grew by more than
8 % and 8 MB.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from edge_ad.store.reader import EventFilter, Reader
from edge_ad.utils.board import PAGE_SIZE
from tests.web.running import Line, browser, line
from tools.soak.trial import Record, begin, bundle_for

EVERY_S = 10.0
TURN_S = 20.0
TABS = ("line", "line", "line", "events", "thresholds", "health")
ALLOWED_SHARE, ALLOWED_MB = 0.08, 8.0


def rss_mb(pid: int) -> float:
    """Return the memory that a process holds, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE / 2**20
    except OSError:
        return 0.0


def children(pid: int) -> list[int]:
    """Return all processes under one."""
    results = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            results += [int(stat.parent.name), *children(int(stat.parent.name))]
    return results


def commands(pids: list[int], word: str) -> list[int]:
    """Return those of the processes whose command line holds a word."""
    results = []
    for pid in pids:
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                results.append(pid)
        except OSError:
            continue
    return results


def sample(run: Line, session: Any) -> dict[str, float]:
    """Return the memory of run, server and page; the page's after a collection of its garbage."""
    session.send("HeapProfiler.collectGarbage")
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    under = children(run.process.pid)
    return {
        "run_mb": rss_mb(run.process.pid),
        "server_mb": sum(map(rss_mb, commands(under, "edge_ad.web.serve"))),
        "renderer_mb": sum(map(rss_mb, commands(children(os.getpid()), "--type=renderer"))),
        "heap_mb": metrics["JSHeapUsedSize"] / 2**20,
        "nodes": metrics["Nodes"],
        "listeners": metrics["JSEventListeners"],
    }


def watch(run: Line, started: Any, record: Record) -> float:
    """Keep a page open and go round its views, with a sample every ten seconds; return when it was first painted."""
    page = started.new_page(viewport={"width": 1280, "height": 800})
    page.goto(run.url)
    page.wait_for_selector('body[data-link="live"]')
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    begun = time.monotonic()
    turn = 0
    while time.monotonic() - begun < record.values["minutes"] * 60:
        page.click(f"#tab-{TABS[turn % len(TABS)]}")
        turn += 1
        page.wait_for_timeout(EVERY_S * 1000)
        record.values["samples"].append({"s": round(time.monotonic() - begun, 1), **sample(run, session)})
        record.save()
    paint_ms = float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
    page.close()
    return paint_ms


class FarPage:
    """Asks for what an open page asks for, as one on another computer does: the stream, each image and its heat map."""

    def __init__(self, run: Line) -> None:
        self._run = run
        self._open = True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the page."""
        self._open = False
        self._thread.join(30.0)

    def _look(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._run.port, timeout=30)
        connection.request("GET", "/api/stream")
        answer = connection.getresponse()
        shown = 0
        while self._open:
            text = answer.readline().decode()
            picture = json.loads(text[6:])["pictures"][0] if text.startswith("data: ") else None
            if picture is not None and picture["number"] > shown:
                shown = picture["number"]
                for what in ("picture", "heat"):
                    self._run.ask(f"/api/cameras/0/{what}?number={shown}")
        answer.close()
        connection.close()


def compare(run: Line, turns: int) -> dict[str, Any]:
    """Open and close a page in turn; return the latencies of the parts judged with it and without it."""
    spans: dict[str, list[tuple[float, float]]] = {"unwatched": [], "watched": []}
    for _ in range(turns):
        for name, wanted in spans.items():
            page = FarPage(run) if name == "watched" else None
            time.sleep(2.0)
            since = time.time()
            time.sleep(TURN_S)
            wanted.append((since, time.time()))
            if page is not None:
                page.close()
    result: dict[str, Any] = {}
    with Reader(run.store) as reader:
        for name, times in spans.items():
            events = [event for since, end in times for event in reader.every(EventFilter(since=since, until=end))]
            latencies = sorted(event.latency_ms for event in events if event.score is not None and event.latency_ms)
            p50, p99 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
            result[name] = {"parts": len(latencies), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}
    return result


def growth(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return, by kind, the medians of the second and the last quarter and whether that is a leak."""
    quarter = max(len(samples) // 4, 1)
    result = {}
    for name in ("run_mb", "server_mb", "renderer_mb", "heap_mb", "nodes", "listeners"):
        before = statistics.median(one[name] for one in samples[quarter : 2 * quarter] or samples)
        after = statistics.median(one[name] for one in samples[-quarter:])
        leak = after - before > max(ALLOWED_SHARE * before, ALLOWED_MB if name.endswith("mb") else 200.0)
        result[name] = {"second_quarter": round(before, 1), "last_quarter": round(after, 1), "leak": leak}
    return result


def main() -> int:
    """Run the trial."""
    camera = "synthetic://line?frames=1000000&seed=1&fps=10"
    record = begin(str(__doc__), {"samples": []}, minutes=30.0, bundle="", camera=camera, turns=4)
    values = record.values
    if not record.complete:
        values["samples"].clear()  # of a run that was cut off: another process holds other memory
        with tempfile.TemporaryDirectory() as name:
            bundle = bundle_for(Path(name), values["bundle"])
            with line(Path(name), bundle, camera=values["camera"]) as run, browser() as started:
                paint_ms = watch(run, started, record)
                latency = compare(run, values["turns"])
        record.finish({"paint_ms": paint_ms, "latency": latency, "memory": growth(values["samples"])})
    return int(any(one["leak"] for one in values["summary"]["memory"].values()))


if __name__ == "__main__":
    sys.exit(main())
