"""600 events a second, the broker away for most of it, and two kills: everything committed arrives, in order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.loopback import until
from tests.fixtures.mosquitto import Mosquitto
from tests.outputs.arrivals import Arrivals, account, settled, waiting

ROOT = Path(__file__).parents[2]
RATE = 600


def burst(store: Path, broker: Mosquitto) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.outputs.burst", str(store), f"mqtt://{broker.address}/burst", str(RATE)]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def wait_for_waiting(store: Path, count: int) -> None:
    """Wait until so many events of a store wait for a receiver; rare looks leave the time to the process that records."""
    ends = time.monotonic() + 180.0
    while waiting(store) < count:
        assert time.monotonic() < ends, f"{waiting(store)} events wait after three minutes"
        time.sleep(0.2)


@pytest.mark.slow
def test_nothing_is_lost_while_the_broker_is_away_and_the_process_is_killed(
    mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    store, broker = tmp_path / "line.sqlite", mosquitto()
    arrivals = Arrivals(broker, "burst")
    process = burst(store, broker)
    assert until(lambda: len(arrivals.ids) >= RATE, 180)
    broker.stop()
    for count in (2 * RATE, 4 * RATE):
        wait_for_waiting(store, count)
        process.kill()
        process.communicate()
        process = burst(store, broker)
    wait_for_waiting(store, 6 * RATE)
    before = settled(store)
    broker.start()
    arrivals.come_back()
    # An end amid a pause between tries delivers nothing more.
    assert until(lambda: settled(store) > before, 60)
    process.communicate("\n", timeout=180)
    assert process.returncode == 0
    assert waiting(store) == 0
    result = account(store, arrivals.ids)
    assert until(lambda: account(store, arrivals.ids).lost == 0), result
    result = account(store, arrivals.ids)
    assert result.good, result
    assert result.committed > 5 * RATE
    arrivals.close()
