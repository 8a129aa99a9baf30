"""Products that change at random moments under load, by everybody who may choose one, and a station that is killed meanwhile."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.store.next_run import Choice
from tests.fixtures.mosquitto import Mosquitto
from tests.inspection.product_station import ROUTES, Choosers, run_settings, station_of
from tests.inspection.test_products import NAMES, make_bundles
from tests.web.running import browser, browser_missing
from tools.soak.products import ALLOWED_MB, growth, problems, soak

pytestmark = pytest.mark.slow
PREFIX = dict(zip(NAMES, ("AR", "AB", "AG"), strict=True))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    make_bundles(folder)
    return folder


def test_100_changes_by_all_routes_give_no_verdict_of_another_product_and_memory_stays(tmp_path: Path) -> None:
    if reason := browser_missing():
        pytest.skip(reason)
    with browser() as chromium:
        found = soak(tmp_path, 100, 1, chromium.new_page())
    assert problems(found) == [], found["memory_mb"]
    assert set(found["asked"]) == set(ROUTES)
    assert found["changes"] == sum(found["asked"].values()) == 100
    assert found["judged"] > 100


@pytest.mark.parametrize(
    ("memory", "grown"), [([100.0] * 8, 0.0), ([100, 101, 102, 103, 104, 105, 106, 107], 4), ([100, 100, 130, 100, 100, 100], 0)]
)
def test_growth_is_that_of_the_middle_and_not_of_a_peak(memory: list[float], grown: float) -> None:
    assert growth(memory) == grown
    seen = {"wrong": [], "passes_before_acknowledge": 0, "growth_mb": grown + ALLOWED_MB}
    assert len(problems(seen)) == (grown > 0)


def test_a_kill_in_a_change_by_any_route_comes_up_with_the_last_acknowledged_product_or_none(
    bundles: Path, tmp_path: Path, mosquitto: Callable[..., Mosquitto]
) -> None:
    broker, rng, store = mosquitto(), random.Random(5), tmp_path / "line.sqlite"
    acknowledged: str | None = NAMES[0]
    for route in (*ROUTES, *ROUTES):
        with station_of(bundles, run_settings(store, [route], broker)) as station:
            assert station.acknowledged() in (None, acknowledged), route
            choosers = Choosers(station)
            first, second = rng.sample([name for name in NAMES if name != station.acknowledged()], 2)
            choosers.ask("name", first)
            choosers.wait("name", first)
            choosers.ask(route, second)
            time.sleep(rng.uniform(0.0, 0.15))
            station.kill()
            choosers.close()
            acknowledged = station.acknowledged()
        assert acknowledged in (first, second)
        assert Choice(tmp_path / "line.product.json").read() in (None, acknowledged), route
    with station_of(bundles, run_settings(store, [], broker)) as station:
        assert station.acknowledged() in (None, acknowledged)


def test_a_kill_between_parts_of_several_products_judges_none_as_another(bundles: Path, tmp_path: Path) -> None:
    rng, path = random.Random(6), tmp_path / "calls"
    run = {"store": str(tmp_path / "line.sqlite"), "trigger": f"software:{path}", "trigger_deadline_ms": 60_000, "part_frames": 1}
    products: dict[str, str] = {}
    judged: list[list[str]] = []

    def call(calls: socket.socket) -> str:
        name = rng.choice(NAMES)
        part = f"{PREFIX[name]}{len(products)}"
        products[part] = name
        calls.send(part.encode())
        return part

    for _ in range(3):
        with station_of(bundles, {**run, "match": {name: f"^{PREFIX[name]}" for name in NAMES}}) as station:
            assert station.acknowledged() is None, "the next part names its product"
            station.wait(path.is_socket)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as calls:
                calls.connect(str(path))
                for _ in range(100):
                    station.wait(lambda part=call(calls): any(line.startswith(f"judged {part} ") for line in station.lines))
                    if any(line.startswith("judged ") and line.endswith(" OK") for line in station.lines):
                        break
                call(calls)
                time.sleep(rng.uniform(0.0, 0.1))
            station.kill()
            judged += [line.split()[1:] for line in station.lines if line.startswith("judged ")]
    assert {part for part, *_ in judged} <= set(products)
    assert len([verdict for _, _, verdict in judged if verdict != "NONE"]) >= 3
    assert [one for one in judged if one[2] != "NONE" and one[1] != products[one[0]]] == []
