"""The bundle of a running station is replaced between two parts, rolled back, and known again after a restart and a kill."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ad.bundle import open_bundle, write_bundle
from edge_ad.config import Config, EngineTable, ProductTable, RunTable
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.events import Event
from edge_ad.inspection.bundle_swap import REPLACE, ROLL_BACK, STATE, BundleSwap, replace_bundle, wanted
from edge_ad.inspection.improvement import thresholds_in_force
from edge_ad.inspection.inspector import Inspector, RunOptions
from edge_ad.inspection.products import Change
from edge_ad.inspection.requests import Request, ask_run
from edge_ad.store.actions import ActionLog, actions_path
from edge_ad.store.audit import HEADS
from edge_ad.store.next_run import BundlePointer, pointer_path
from tests.fixtures.loopback import until
from tests.fixtures.tiny_bundle import make_tiny_bundle, tiny_contents

pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]
CAMERA = "synthetic://line?frames=100000&seed=1&fps=50"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles a, b and c, one that is damaged, and one whose engines do not give what it promises."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate("abc"):
        make_tiny_bundle(folder / f"{name}.edgead", seed)
    (folder / "damaged.edgead").write_bytes((folder / "a.edgead").read_bytes()[:-300])
    contents = tiny_contents(3)
    unproven = replace(contents, golden=replace(contents.golden, raw=contents.golden.raw + np.float32(50.0)))
    write_bundle(folder / "unproven.edgead", unproven)
    return folder


def settings(store: Path, products: dict[str, Path] | None = None, **run: Any) -> Config:
    tables = {name: ProductTable(bundle=path) for name, path in (products or {}).items()}
    engine = EngineTable(precision="fp32", backend="onnxruntime")
    return Config(run=RunTable(**{"max_age_ms": 60_000, "store": store, **run}), engine=engine, product=tables)


@contextlib.contextmanager
def running(config: Config, bundle: Path | None) -> Iterator[tuple[Inspector, list[Event]]]:
    events: list[Event] = []
    inspector = Inspector(bundle, CAMERA, RunOptions(config, on_event=events.append))
    thread = threading.Thread(target=inspector.run)
    thread.start()
    try:
        yield inspector, events
    finally:
        inspector.loop.stop()
        thread.join(60)
        inspector.close()


def ask(config: Config, kind: str, bundle: Path | str = "", product: str = "", named: Path | None = None) -> str:
    assert config.run.store is not None
    request = Request(kind, "anna", "command", {"product": product, "bundle": str(bundle), "reason": "lot 7"})
    return replace_bundle(config, config.run.store, request, named)


def judged(events: list[Event], sha256: str) -> bool:
    """Wait until a part was judged by a bundle, from now on."""
    seen = len(events)
    return until(lambda: any(event.bundle == sha256 for event in events[seen:]), 60)


def actions(config: Config) -> list[tuple[str, str]]:
    assert config.run.store is not None
    done = ActionLog(actions_path(config.run.store)).actions()
    return [(one.kind, one.details["bundle"].rsplit("/")[-1]) for one in done if one.kind.startswith((REPLACE, ROLL_BACK))]


def test_each_verdict_is_of_the_bundle_in_use_through_replacements_rollback_and_restart(bundles: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "line.sqlite")
    a, b, c = (bundles / f"{name}.edgead" for name in "abc")
    first, second, third = (open_bundle(path).sha256 for path in (a, b, c))
    with running(config, a) as (inspector, events):
        assert judged(events, first)
        assert "is judged by now; the exchange took" in ask(config, REPLACE, b)
        assert judged(events, second)
        ask(config, REPLACE, c)
        assert judged(events, third)
        ask(config, ROLL_BACK)
        assert judged(events, second)
        assert inspector.bundle.sha256 == second
    order = [key for key, _ in groupby(event.bundle for event in events if event.verdict != "NONE")]
    assert order == [first, second, third, second]
    assert {event.reason for event in events if event.bundle is None} <= {"product: the bundle is being replaced"}
    with running(config, a) as (_, events):
        assert judged(events, second)
    assert {event.bundle for event in events} == {second}
    assert actions(config) == [("replace", "b.edgead"), ("replace", "c.edgead"), ("rollback", "b.edgead")]
    records = [json.loads(line)["details"]["chain"] for line in (tmp_path / "line.actions.jsonl").read_text().splitlines()]
    heads = [f"{one['number']}:{one['hash']}" for one in records]
    assert (tmp_path / "line.evidence" / HEADS).read_text().split() == heads, "each is noted where a cut end is seen by"


@pytest.mark.parametrize(("name", "why"), [("damaged", "damaged.edgead"), ("unproven", "a golden image scores")])
def test_a_bundle_that_cannot_be_judged_by_changes_nothing_and_gives_the_reason(
    bundles: Path, tmp_path: Path, name: str, why: str
) -> None:
    config = settings(tmp_path / "line.sqlite")
    first = open_bundle(bundles / "a.edgead").sha256
    with running(config, bundles / "a.edgead") as (_, events):
        assert judged(events, first)
        with pytest.raises(DeviceFault, match=f"{why}.*the one before goes on"):
            ask(config, REPLACE, bundles / f"{name}.edgead")
        assert judged(events, first)
    assert {event.bundle for event in events} == {first}, "the line was not disturbed"
    assert actions(config) == [("replace-failed", f"{name}.edgead")]
    assert not (tmp_path / "line.bundles.json").exists()
    with pytest.raises((BadInput, DeviceFault), match=why):  # nor is it where no run keeps the store
        ask(config, REPLACE, bundles / f"{name}.edgead", named=bundles / "a.edgead")
    assert not (tmp_path / "line.bundles.json").exists()


def test_a_disk_that_refuses_the_acknowledge_keeps_the_bundle_before(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path / "line.sqlite")
    first = open_bundle(bundles / "a.edgead").sha256

    def refuse(*arguments: object) -> None:
        raise BadInput("no space left")

    monkeypatch.setattr(BundlePointer, "write", refuse)
    with running(config, bundles / "a.edgead") as (_, events):
        with pytest.raises(DeviceFault, match="no space left; the one before goes on"):
            ask(config, REPLACE, bundles / "b.edgead")
        assert judged(events, first)
    assert {event.bundle for event in events} <= {first, None}


@pytest.mark.parametrize(
    ("kind", "bundle", "product", "message"),
    [
        (REPLACE, "gone.edgead", "", "there is no bundle"),
        (REPLACE, "a.edgead", "", "is the bundle that is in use already"),
        (REPLACE, "b.edgead", "cap-red", "there is no product 'cap-red'"),
        (ROLL_BACK, "", "", "was not replaced here"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    bundles: Path, tmp_path: Path, kind: str, bundle: str, product: str, message: str
) -> None:
    config, path = settings(tmp_path / "line.sqlite"), bundles / bundle
    with running(config, bundles / "a.edgead"), pytest.raises(BadInput, match=message):
        ask(config, kind, path, product)
    with pytest.raises(BadInput, match=message):
        ask(config, kind, path, product, bundles / "a.edgead")


@pytest.mark.parametrize(
    ("name", "message"), [("compared", "compared with another bundle"), ("sha256", "other bytes than were asked for")]
)
def test_a_bundle_that_was_not_proven_or_compared_is_refused(bundles: Path, tmp_path: Path, name: str, message: str) -> None:
    request = Request(REPLACE, "anna", "command", {"bundle": str(bundles / "b.edgead"), name: "0" * 64})
    with pytest.raises(BadInput, match=message):
        wanted(BundlePointer(tmp_path / "line.bundles.json"), request, bundles / "a.edgead")


def test_a_product_gets_another_bundle_whether_it_is_judged_now_or_not(bundles: Path, tmp_path: Path) -> None:
    products = {"cap-red": bundles / "a.edgead", "cap-blue": bundles / "b.edgead"}
    config = settings(tmp_path / "line.sqlite", products, product="cap-red")
    first, third = (open_bundle(bundles / f"{name}.edgead").sha256 for name in "ac")
    with running(config, None) as (inspector, events):
        assert judged(events, first)
        assert inspector.changeover is not None
        before = inspector.changeover.products["cap-blue"]
        ask(config, REPLACE, bundles / "c.edgead", "cap-blue")
        assert {event.bundle for event in events} == {first}, "a product that is not judged is replaced unnoticed"
        inspector.changeover._ask(Change(before, None, "one who looked it up before", time.monotonic()))
        assert judged(events, third)
        ask(config, ROLL_BACK, product="cap-blue")
        assert judged(events, open_bundle(bundles / "b.edgead").sha256)
    ask(config, REPLACE, bundles / "c.edgead", "cap-red")  # no run keeps the store now
    with running(config, None) as (inspector, _):
        assert inspector.changeover is not None
        assert inspector.changeover.products["cap-red"].bundle.sha256 == third


@pytest.mark.parametrize("first", ["acknowledge", "end"])
def test_a_swap_is_the_next_runs_where_it_is_acknowledged_before_the_run_ends_and_else_is_none(first: str) -> None:
    written: list[str] = []
    swap = BundleSwap("", None, object(), lambda: None, lambda: written.append("b"), lambda: None)  # type: ignore[arg-type]
    changed, closed = threading.Condition(), threading.Event()
    closed.set()
    steps = [lambda: swap.acknowledge(changed, closed), swap.give_up]
    for step in steps if first == "acknowledge" else steps[::-1]:
        step()
    in_time = first == "acknowledge"
    assert written == (["b"] if in_time else [])
    assert (swap.acknowledged, swap.error is None) == (in_time, in_time)


@pytest.mark.parametrize("written", [True, False])
def test_a_run_that_ends_during_a_replacement_is_reported_by_what_is_on_the_disk(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    config, pointer = settings(tmp_path / "line.sqlite"), BundlePointer(tmp_path / "line.bundles.json")
    answers = iter(["b.edgead is being proven for this station: 1", None])

    def ask_run(store: Path, request: Request) -> str | None:
        answer = next(answers)
        if answer is None and written:
            who = {"by": "anna", "origin": "command", "reason": ""}
            pointer.write("", pointer.replaced("", bundles / "a.edgead", bundles / "b.edgead", **who))
        return answer

    monkeypatch.setattr("edge_ad.inspection.bundle_swap.ask_run", ask_run)
    if written:
        assert "is judged by from the next run on" in ask(config, REPLACE, bundles / "b.edgead")
        return
    with pytest.raises(DeviceFault, match="ended meanwhile"):
        ask(config, REPLACE, bundles / "b.edgead")


def test_a_rollback_without_a_run_needs_no_file_of_the_bundle_that_it_leaves(bundles: Path, tmp_path: Path) -> None:
    config, a, b = settings(tmp_path / "line.sqlite"), tmp_path / "a.edgead", tmp_path / "b.edgead"
    for path in (a, b):
        shutil.copy(bundles / path.name, path)
    ask(config, REPLACE, b, named=a)
    b.unlink()
    assert "a.edgead is judged by from the next run on" in ask(config, ROLL_BACK, named=a)
    assert BundlePointer(tmp_path / "line.bundles.json").resolve("", a) == a


def test_thresholds_that_were_set_on_the_page_are_known_to_who_asks(bundles: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "line.sqlite")
    assert config.run.store is not None
    with running(config, bundles / "a.edgead") as (inspector, events):
        assert judged(events, inspector.bundle.sha256)
        own = inspector.bundle.thresholds
        question = Request(STATE, "", "command", {})
        assert thresholds_in_force(ask_run(config.run.store, question), "", inspector.bundle) is None
        inspector.judge.thresholds = replace(own, ng=own.ng + 1.0)
        result = thresholds_in_force(ask_run(config.run.store, question), "", inspector.bundle)
        assert result is not None
        assert (result.warn, result.ng, result.goods) == (own.warn, own.ng + 1.0, 0)
        assert thresholds_in_force(ask_run(config.run.store, question), "", open_bundle(bundles / "b.edgead")) is None
    assert thresholds_in_force(None, "", inspector.bundle) is None


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from edge_ad.inspection.improvement import thresholds_in_force
from edge_ad.inspection.inspector import Inspector, RunOptions
from edge_ad.store import next_run
from edge_ad.utils import files
from tests.inspection.test_bundle_swap import CAMERA, REPLACE, ask, settings
bundles, store, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
config, told = settings(store), lambda event: print("judged", event.bundle, flush=True)
inspector = Inspector(bundles / "a.edgead", CAMERA, RunOptions(config, on_event=told))
threading.Thread(target=inspector.run, daemon=True).start()
ask(config, REPLACE, bundles / "b.edgead")
kill, rename = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL), os.replace
if moment == "while it is written":
    files.os.replace = lambda source, target: kill() if target.name == "line.bundles.json" else rename(source, target)
else:
    next_run.sync_folder = kill
ask(config, REPLACE, bundles / "c.edgead")
"""


@pytest.mark.parametrize(("moment", "name"), [("while it is written", "b"), ("when it is written", "c")])
def test_a_kill_leaves_the_bundle_that_was_acknowledged_last(bundles: Path, tmp_path: Path, moment: str, name: str) -> None:
    store = tmp_path / "line.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(bundles), str(store), moment]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    sha256 = open_bundle(bundles / f"{name}.edgead").sha256
    config = settings(store)
    with running(config, bundles / "a.edgead") as (_, events):
        assert judged(events, sha256)
    assert {event.bundle for event in events} == {sha256}
    assert actions(config)[-1] == ("replace", f"{name}.edgead"), "the audit trail has what the kill kept out"
    assert f"judged {open_bundle(bundles / 'c.edgead').sha256}" not in done.stdout, "no verdict before the acknowledge"


KILLED_AT_ANY_MOMENT = """
import itertools, sys, threading
from pathlib import Path
from edge_ad.inspection.inspector import Inspector, RunOptions
from tests.inspection.test_bundle_swap import CAMERA, REPLACE, ask, settings, used
bundles, store = Path(sys.argv[1]), Path(sys.argv[2])
config, told = settings(store), lambda event: print(f"judged {event.bundle}\\n", end="", flush=True)  # whole, beside other threads
inspector = Inspector(bundles / "a.edgead", CAMERA, RunOptions(config, on_event=told))
threading.Thread(target=inspector.run, daemon=True).start()
names = "abc"
while True:
    name = names[(names.index(used(bundles, store)) + 1) % 3]
    ask(config, REPLACE, bundles / f"{name}.edgead")
    print(f"acknowledged {name}\\n", end="", flush=True)
"""


def used(bundles: Path, store: Path) -> str:
    """Return the name of the bundle that a run over ``store`` begins with."""
    return BundlePointer(pointer_path(store)).resolve("", bundles / "a.edgead").stem


@pytest.mark.slow
def test_a_kill_at_any_moment_of_replacements_comes_up_with_what_judged_last_or_was_acknowledged_since(
    bundles: Path, tmp_path: Path
) -> None:
    store, rng = tmp_path / "line.sqlite", random.Random(8)
    hashes = {name: open_bundle(bundles / f"{name}.edgead").sha256 for name in "abc"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_AT_ANY_MOMENT, str(bundles), str(store)]
    for _ in range(3):
        began = used(bundles, store)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines: list[str] = []
            while sum(line.startswith("acknowledged") for line in lines) < 2:
                lines.append(process.stdout.readline())
                assert lines[-1], "it ended by itself"
            time.sleep(rng.uniform(0.0, 0.2))
            process.kill()
            lines += process.stdout.read().splitlines(keepends=True)
        whole = [line.split()[1] for line in lines if line.endswith("\n")]
        judged_last = next((one for one in reversed(whole) if one in (*hashes.values(), "None")), "None")
        acknowledged = next(one for one in reversed(whole) if one in hashes)
        after = {name: "abc"[("abc".index(name) + 1) % 3] for name in "abc"}
        assert used(bundles, store) in (acknowledged, after[acknowledged])
        known = [hashes[name] for name in (began, *(one for one in whole if one in hashes), used(bundles, store))]
        assert {one for one in whole if one in hashes.values()} <= set(known)
        assert judged_last in ("None", *known[-3:]), "nothing is judged by what was not acknowledged"
    config, name = settings(store), used(bundles, store)
    with running(config, bundles / "a.edgead") as (_, events):
        assert judged(events, hashes[name])
    assert {event.bundle for event in events} == {hashes[name]}
