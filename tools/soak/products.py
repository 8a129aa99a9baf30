"""Products that change at random moments under load: is anything judged by the wrong one, does anything pass, is memory flat?

`python tools/soak/products.py [--changes 200] [--seed 0] [--routes name,node] [--json FILE]`. Three products, a camera at 50
frames a second, a PLC that reads and writes over Modbus, an OPC UA client, a broker with the topic of commands, commands by name,
and the page of the dashboard, in a browser where Chromium is installed; who asks, for what and when is drawn. Every verdict must
be of the product that stands and carry the hash of its bundle, between request and acknowledge there must be NONE alone, and the
PLC must not see `pass` from its own request until its acknowledge. The line is a process of its own, so that what it holds, with
its dashboard, is not what its peers hold. Ends with 1 when one of these does not hold, or memory grows by more than ``ALLOWED_MB``
from the first half of what follows the first quarter of changes to its second half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fixtures.mosquitto import Mosquitto
from tests.inspection.product_station import ROUTES, Choosers, run_settings, station_of
from tests.inspection.test_products import NAMES, make_bundles
from tests.web.running import browser, browser_missing

ALLOWED_MB = 8.0
SAMPLES = 20


def soak(folder: Path, changes: int, seed: int, page: Any = None, routes: Sequence[str] = ROUTES) -> dict[str, Any]:
    """Change so often by these routes, by the ``page`` of a browser where there is one, and return what was seen."""
    make_bundles(folder)
    rng, broker = random.Random(seed), Mosquitto(folder / "broker")
    memory, asked = [], dict.fromkeys(routes, 0)
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        station = stack.enter_context(station_of(folder, run_settings(folder / "line.sqlite", routes, broker)))
        choosers = Choosers(station, page)
        stack.callback(choosers.close)
        for number in range(changes):
            route = rng.choice(routes)
            name = rng.choice([name for name in NAMES if name != station.acknowledged()])
            choosers.ask(route, name)
            choosers.wait(route, name)
            asked[route] += 1
            time.sleep(rng.choice((0.0, 0.02, 0.2)))
            if number % max(1, changes // SAMPLES) == 0:
                memory.append(station.look()["memory_mb"])
        seen = station.look()
    settled = memory[len(memory) // 4 :]
    return {**seen, "asked": asked, "passes_before_acknowledge": choosers.passes, "memory_mb": memory, "growth_mb": growth(settled)}


def growth(memory: list[float]) -> float:
    """Return what memory has grown by from the first half of the samples to the second, as medians."""
    half = len(memory) // 2
    first, second = sorted(memory[:half]), sorted(memory[half:])
    return round(second[len(second) // 2] - first[len(first) // 2], 1)


def problems(found: dict[str, Any]) -> list[str]:
    """Return what does not hold."""
    message = list(found["wrong"])
    if found["passes_before_acknowledge"]:
        message.append(f"{found['passes_before_acknowledge']} times the PLC saw pass before its acknowledge")
    if found["growth_mb"] > ALLOWED_MB:
        message.append(f"memory grew by {found['growth_mb']} MB")
    return message


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routes", default=",".join(ROUTES), help="who asks, of " + ", ".join(ROUTES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        routes = options.routes.split(",")
        page = None if browser_missing() or "page" not in routes else stack.enter_context(browser()).new_page()
        result = soak(folder, options.changes, options.seed, page, routes)
    print(json.dumps(result))
    if options.json is not None:
        options.json.write_text(json.dumps(result) + "\n")
    raise SystemExit("; ".join(problems(result)) or 0)


if __name__ == "__main__":
    main()
